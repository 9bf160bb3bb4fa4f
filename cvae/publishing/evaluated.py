"""A published run that was evaluated since: its records with the new figures."""

from __future__ import annotations

from cvae.errors import RunNotFound
from cvae.run import evaluation, find
from cvae.run.evaluation import record
from cvae.run.folder import Record
from cvae.run.published import Published, Results

Evaluated = tuple[Published, list[Record]]


def evaluated_since(name: str, known: Results | None) -> Evaluated:
    """The published run of this name, and its records as they are to be.

    A figure that was measured before gets its new value; one of the training stays.

    Raises:
        RunNotFound: there is none, or its weights were not evaluated.
        Damaged: a file of the evaluation is not what was written.
    """
    if known is None:
        raise RunNotFound("nothing is published, either")
    folder = find.find_published(name.replace("_", "-"), known)
    assert isinstance(folder, Published)
    home, new = evaluation.directory(folder), dict[str, float]()
    parts = [
        part
        for part in evaluation.load_parts(home).values()
        if part[1].get("weights") == folder.digest
    ]
    for measured, _ in parts:
        new |= evaluation.cited_metrics(measured)
    if not new:
        raise RunNotFound(
            f"{folder.path} is published, and in {home}/ is no evaluation of its "
            f"weights: make evaluate RUN={folder.name} WHAT=all makes one"
        )
    lines: list[Record] = []
    for line in folder.records():
        if "commit" not in line:  # of the training
            lines.append(line)
            new = {key: new[key] for key in new.keys() - line["metrics"].keys()}
        elif kept := {k: v for k, v in line["metrics"].items() if k not in new}:
            lines.append(line | {"metrics": kept})
    last = max((facts for _, facts in parts), key=lambda facts: facts["written"])
    added = record(lines[-1]["epoch"], lines[-1]["step"], new)
    added |= {"time": int(1000 * last["written"]), "commit": last["commit"]}
    return folder, [*lines, added]
