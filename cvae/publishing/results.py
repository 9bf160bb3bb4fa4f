"""Runs into `results/`, the published ones: the only way in.

Weights are rounded (`rounding`) and packed. A published run that was evaluated since is
published again with its new figures. The same runs give the same bytes.
"""

from __future__ import annotations

import gzip
import json
import logging
import lzma
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import safetensors.torch

from cvae.errors import RunNotFound, UsageError
from cvae.loading.loaded import LoadedRun, load_run
from cvae.publishing import likelihoods
from cvae.publishing.rounding import rounded_weights
from cvae.run import evaluation, find, published
from cvae.run.files import digest, write_atomic
from cvae.run.folder import JUDGES, Record, RunFolder, SweepFolder, latest
from cvae.spec.document import dump
from cvae.spec.variants import SEEDS

JUDGE = "judge"  # its name, and its folder in `results`
XZ: list[dict[str, Any]] = [
    {"id": lzma.FILTER_LZMA2, "preset": 6, "lc": 3, "lp": 1, "pb": 1}  # 16-bit words
]
FACTS = (
    *("id", "uid", "status", "started", "ended", "header", "changes"),
    *("command", "command_now"),
    *("sweep", "swept", "label", "git", "facts", "data"),
)
SWEEP = (
    *("uid", "name", "header", "experiment", "command", "command_now"),
    *("keys", "summary", "status", "started", "ended"),
)
log = logging.getLogger("cvae")
Files = dict[str, bytes]  # by their path in results/
Evaluated = tuple[published.Published, list[Record]]


def publish(
    names: Sequence[str], *, runs: Path, results: Path, weights: bool = False
) -> list[str]:
    """Put finished runs and sweeps into `results`; returns what was put there.

    A run is published with its weights, of a sweep only the records; with `weights`
    also the weights of the runs with its first seed. What stood there of the same run
    or sweep is replaced; of a run that is in `results` alone, the figures of `make
    evaluate WHAT=…` are added, and with `weights` its proof file. `judge` is the newest
    classifier in `runs`.

    Raises:
        UsageError: a run is not finished, of an unknown or changed commit, or rounding
            its weights costs too much; nothing is published then.
    """
    if not names:
        raise UsageError("say which runs or sweeps, such as RUNS='seed-notebook beta'")
    if published.at(runs):
        raise UsageError(f"{runs} is what is published; runs come from runs/")
    known, wanted = published.at(results), [name for name in names if name != JUDGE]
    sweeps, singles, evaluated = _chosen(wanted, runs, known, weights=weights)
    _check_publishable(
        [*singles, *(run for sweep in sweeps for run in _members(sweep, runs))]
    )
    contents = _Contents(known)
    for sweep in sweeps:
        singles += contents.put_sweep(sweep, runs)
        if weights:
            seeds = [run["swept"].get(SEEDS) for run in sweep.info["runs"]]
            members = zip(_members(sweep, runs), seeds, strict=True)
            singles += [folder for folder, seed in members if seed == seeds[0]]
    by_name = {_published_name(folder): folder for folder in singles}
    for name, folder in by_name.items():
        contents.put_run(name, folder, runs)
    for shown, lines in evaluated:
        contents.put_records(shown.name, lines)
        if weights and shown.proof is None:
            contents.put_proof(shown.name, load_run(shown.path.resolve()))
    if JUDGE in names:
        contents.files |= _judge_files(runs)
    contents.write(results)
    done = [*(f"sweeps/{sweep.name}" for sweep in sweeps), *by_name]
    done += [folder.name for folder, _ in evaluated]
    return [*done, JUDGE] if JUDGE in names else done


class _Contents:
    """What `results/` is to hold: its manifest, and the files that are new."""

    def __init__(self, known: published.Results | None) -> None:
        self.known = known
        self.listed = dict(known.files) if known else {}  # SHA-256 by path
        self.figures = dict(known.figures) if known else {}  # of runs with weights
        self.files = Files()

    def put_sweep(self, sweep: SweepFolder, runs: Path) -> list[RunFolder]:
        """Put a sweep's records; returns its runs that were published with weights."""
        members = {_published_name(folder): folder for folder in _members(sweep, runs)}
        home, before = f"sweeps/{sweep.name}", set[str]()
        if self.known and f"{home}/{published.ARCHIVE}" in self.known.files:
            before = {run["name"] for run in self.known.archive(sweep.name)}
        for old in before - set(members):
            self.figures.pop(old, None)
            self._drop(old)
        self._drop(home)
        self.files |= _sweep_files(sweep, runs)
        return [run for name, run in members.items() if name in self.figures]

    def put_run(self, name: str, folder: RunFolder, runs: Path) -> None:
        run = load_run(folder.path.resolve(), runs=runs)
        files, before = _run_files(folder, run), self.listed
        self._drop(name)
        self.files |= files
        weights, proof = (
            f"{name}/{f}" for f in (published.WEIGHTS, published.LIKELIHOOD)
        )
        if proof in before and before.get(weights) == digest(files[weights]):
            self.listed[proof] = before[proof]
        else:
            self.put_proof(name, run)
        self.figures[name] = _test_figures(folder.records())

    def put_records(self, name: str, records: Sequence[Record]) -> None:
        """Replace the records of a published run."""
        self.files[f"{name}/records.jsonl"] = _json_lines(records)
        self.figures[name] = _test_figures(records)

    def put_proof(self, name: str, run: LoadedRun) -> None:
        """Put log p of each test image by a run with its rounded weights."""
        log.info("%s: log p of each test image, its proof", name)
        self.files[f"{name}/{published.LIKELIHOOD}"] = likelihoods.make(run)

    def write(self, results: Path) -> None:
        """Files first, the manifest last: until then the old one names what differs."""
        self.listed |= {name: digest(data) for name, data in self.files.items()}
        for name, data in self.files.items():
            (results / name).parent.mkdir(parents=True, exist_ok=True)
            write_atomic(results / name, data)
        before = set(self.known.files) if self.known else set()
        for name in sorted(before - set(self.listed)):
            (results / name).unlink(missing_ok=True)
            if not any((results / name).parent.iterdir()):
                shutil.rmtree((results / name).parent)
        facts = {"format": published.FORMAT, "read_by": published.READ_BY}
        manifest = facts | {"files": self.listed, "runs": self.figures}
        write_atomic(results / published.MANIFEST, _json(manifest))

    def _drop(self, folder: str) -> None:
        kept = {k: v for k, v in self.listed.items() if not k.startswith(f"{folder}/")}
        self.listed = kept


def _chosen(
    names: Sequence[str],
    runs: Path,
    known: published.Results | None,
    *,
    weights: bool,
) -> tuple[list[SweepFolder], list[RunFolder], list[Evaluated]]:
    """The sweeps and runs meant; where a sweep has the name of a run, the sweep.

    The last are published already, were evaluated since, and are not in `runs`.
    """
    by_name = {sweep.name: sweep for sweep in find.sweeps(runs)}
    sweeps, singles, evaluated = [], [], []
    for name in dict.fromkeys(names):
        if sweep := by_name.get(find.find_sweep(name, runs)):
            sweeps.append(sweep)
            continue
        try:
            singles.append(find.find_run(name, runs=runs))
        except RunNotFound as fault:
            try:
                evaluated.append(_evaluated_since(name, known, weights=weights))
            except RunNotFound as error:
                raise type(fault)(f"{fault}\n{error}") from error
    return sweeps, singles, evaluated


def _evaluated_since(
    name: str, known: published.Results | None, *, weights: bool
) -> Evaluated:
    """The published run of this name, and its records as they are to be.

    A metric that was measured before gets its new value; one of the training stays.

    Raises:
        RunNotFound: there is none, or its weights were not evaluated; with `weights`
            it may be its proof file alone that is asked for.
        Damaged: a file of the evaluation is not what was written.
    """
    if known is None:
        raise RunNotFound("nothing is published, either")
    folder = find.find_published(name.replace("_", "-"), known)
    assert isinstance(folder, published.Published)
    home, new, last = evaluation.directory(folder), dict[str, float](), dict[str, Any]()
    for measured, facts in evaluation.load_parts(home).values():
        if facts.get("weights") == folder.digest:
            new |= evaluation.cited_metrics(measured)
            last = max(last, facts, key=lambda of: of.get("written", 0.0))
    if not new:
        if weights and folder.has_weights:
            return folder, folder.records()
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
    added = evaluation.record(lines[-1]["epoch"], lines[-1]["step"], new)
    added |= {"time": int(1000 * last["written"]), "commit": last["commit"]}
    return folder, [*lines, added]


def _members(sweep: SweepFolder, runs: Path) -> list[RunFolder]:
    """The runs of a sweep, finished or not, in its order."""
    return [RunFolder(runs / run["folder"]) for run in sweep.info.get("runs", [])]


def _check_publishable(folders: Sequence[RunFolder]) -> None:
    """Raise a UsageError that names every run which may not be published, and why."""
    faults = []
    for folder in folders:
        if folder.status != "FINISHED":
            faults.append(f"{folder.path}: {folder.status.lower()}, not finished")
        elif fault := _commit_fault(folder.info.get("git", {})):
            faults.append(f"{folder.path}: {fault}")
    if faults:
        raise UsageError("\n".join(["nothing was published:", *dict.fromkeys(faults)]))


def _commit_fault(git: dict[str, str]) -> str:
    """Why the commit that something was made by cannot be named; empty if it can."""
    if git.get("commit", "unknown") == "unknown":
        return "made by code of an unknown commit"
    if git.get("dirty") != "false":
        return (
            f"made by code that was changed after the commit {git['commit'][:10]}; "
            "commit, and train it again"
        )
    return ""


def _published_name(folder: RunFolder) -> str:
    """The run's name in `results/`, whatever repetition it was."""
    return f"{folder.spec().name}-{folder.spec().id}"


def _published_facts(folder: RunFolder) -> dict[str, Any]:
    """What is known of a run but for what only its machine can use."""
    return {key: folder.info[key] for key in FACTS if key in folder.info}


def _test_figures(records: Sequence[Record]) -> dict[str, float]:
    return {k: v for k, v in latest(records).items() if k.startswith("test/")}


def _json_lines(values: Sequence[Any]) -> bytes:
    return b"".join(_json(value, indent=None) for value in values)


def _json(value: Any, indent: int | None = 2) -> bytes:
    text = json.dumps(value, indent=indent, sort_keys=True, allow_nan=False)
    return (text + "\n").encode()


def _sweep_files(sweep: SweepFolder, runs: Path) -> Files:
    """sweep.json, sweep.yaml and the archive of its runs."""
    facts = {key: sweep.info[key] for key in SWEEP if key in sweep.info}
    if facts.get("status") != "FINISHED":
        raise UsageError(
            f"{sweep.path}: {str(facts.get('status', 'new')).lower()}, not finished; "
            "the same make sweep command goes on with it"
        )
    members = _members(sweep, runs)
    facts["runs"] = [
        {"folder": _published_name(folder), "id": run["id"], "swept": run["swept"]}
        for folder, run in zip(members, sweep.info["runs"], strict=True)
    ]
    lines = [
        {
            "name": _published_name(folder),
            "info": _published_facts(folder),
            "spec": dump(folder.spec()),
            "records": folder.records(),
        }
        for folder in members
    ]
    home = f"sweeps/{sweep.name}"
    return {
        f"{home}/sweep.json": _json(facts),
        f"{home}/sweep.yaml": (sweep.path / "sweep.yaml").read_bytes(),
        f"{home}/{published.ARCHIVE}": gzip.compress(_json_lines(lines), 9, mtime=0),
    }


def _run_files(folder: RunFolder, run: LoadedRun) -> Files:
    """The files of a run, whose model gets the rounded weights if they are as good."""
    name = _published_name(folder)
    data = safetensors.torch.save(rounded_weights(folder, run))
    return {
        f"{name}/run.json": _json(_published_facts(folder)),
        f"{name}/spec.yaml": dump(folder.spec()).encode(),
        f"{name}/records.jsonl": _json_lines(folder.records()),
        f"{name}/{published.WEIGHTS}": lzma.compress(data, filters=XZ),
    }


def _judge_files(runs: Path) -> Files:
    """The newest classifier in `runs`, as it is."""
    made = sorted((runs / JUDGES).glob("*/judge.json"), key=lambda f: f.stat().st_mtime)
    if not made:
        raise RunNotFound(f"no classifier in {runs / JUDGES}; make judge trains one")
    if fault := _commit_fault(json.loads(made[-1].read_text())["git"]):
        raise UsageError(f"nothing was published:\n{made[-1].parent}: {fault}")
    names = ("judge.json", "judge.safetensors")
    return {f"{JUDGE}/{name}": (made[-1].parent / name).read_bytes() for name in names}
