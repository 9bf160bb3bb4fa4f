"""Which run is meant: by spec, by name or id, by what it changes."""

from __future__ import annotations

import difflib
import functools
import logging
import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from cvae.errors import RunNotFound, RunUnfinished
from cvae.evaluation.metrics import FIDELITY
from cvae.run import published
from cvae.run.folder import FIRST, RUNS, RunFolder, SweepFolder
from cvae.run.published import Published, Results
from cvae.spec.fields import Spec
from cvae.spec.identity import flatten

log = logging.getLogger("cvae")


def folders(runs: Path) -> list[RunFolder]:
    """Every run under `runs`, or published in it; the most recently started last."""
    if results := published.at(runs):
        every = results.folders()
    else:
        every = [RunFolder(path.parent) for path in runs.glob("*/run.json")]
    return sorted(every, key=lambda f: (f.info.get("started", 0), f.name))


def sweeps(runs: Path) -> list[SweepFolder]:
    """Every sweep under `runs`, by name."""
    return [
        SweepFolder(path.parent) for path in sorted(runs.glob("sweeps/*/sweep.json"))
    ]


def folder_for(spec: Spec, runs: Path) -> RunFolder:
    """The unfinished run of this spec, or the first free folder for a new one."""
    made = _folders_of(spec, runs)
    if made and made[-1].info.get("status") != "FINISHED":
        return made[-1]
    stem = f"{spec.name}-{spec.id}"
    return RunFolder(runs / (f"{stem}-{_repetition(made[-1]) + 1}" if made else stem))


def finished_run(spec: Spec, runs: Path) -> RunFolder | None:
    """The newest finished run of this spec."""
    done = [f for f in _folders_of(spec, runs) if f.info.get("status") == "FINISHED"]
    return done[-1] if done else None


def _folders_of(spec: Spec, runs: Path) -> list[RunFolder]:
    """The folders of this spec, `<name>-<id>` and its repetitions `-2`, `-3`, …"""
    stem = re.compile(re.escape(f"{spec.name}-{spec.id}") + r"(-\d+)?")
    if results := published.at(runs):
        every = results.folders()
    else:
        every = [RunFolder(path) for path in runs.glob(f"{spec.name}-{spec.id}*")]
    made = [folder for folder in every if stem.fullmatch(folder.name)]
    return sorted(made, key=_repetition)


def _repetition(folder: RunFolder) -> int:
    number = re.search(r"-[0-9a-f]{8}-(\d+)$", folder.name)
    return int(number[1]) if number else 1


def display_name(folder: RunFolder) -> str:
    """The run by what it changes: `quickstart latent_dim=8 seed=1`, `… #2` if repeated.

    From the `--set` overrides and the sweep's variant in `run.json`.
    """
    info = folder.info
    changes: dict[str, str] = dict(
        change.partition("=")[::2] for change in info.get("changes", ())
    )
    changes |= {key: _value_text(value) for key, value in info.get("swept", {}).items()}
    shown, order = _spec_keys(), list(_spec_keys())
    words = [_stem(folder)]
    words += [
        f"{shown.get(key, key)}={changes[key]}"
        for key in sorted(changes, key=lambda k: order.index(k) if k in shown else 999)
        if key != "name" and not key.startswith(("tracking.", "sweep."))
    ]
    number = _repetition(folder)
    return " ".join([*words, f"#{number}"] if number > 1 else words)


def _value_text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    return str(value).replace(" ", "").lower() if value is not None else "null"


@functools.cache
def _spec_keys() -> dict[str, str]:
    """Dotted keys in the spec's order, each with its last part if no other has it."""
    last = {key: key.rpartition(".")[2] for key in flatten(Spec(name="any"))}
    many = Counter(last.values())
    return {key: word if many[word] == 1 else key for key, word in last.items()}


def find_run(
    run: str | os.PathLike[str] | None = None, *, runs: str | os.PathLike[str] = RUNS
) -> RunFolder:
    """The finished run meant by a folder, id, MLflow run id or name.

    A name is a spec's or a run's by what it changes (`display_name`); `_` and `-` count
    as one only where no name fits exactly. Of several runs the newest is taken, and
    that is said. Without a name, the newest of all. A path may lead outside `runs`.

    Raises:
        RunNotFound: none fits, or only one that is not finished (RunUnfinished).
        Damaged: only one whose facts cannot be read.
    """
    everything = folders(Path(runs))
    if run is None:
        if done := _finished(everything):
            return done[-1]
        raise RunNotFound(f"no finished run in {runs}/; make one with\n  {FIRST}")
    wanted = os.fspath(run)
    fitting = _fitting(everything, wanted) or _run_at_path(wanted)
    if done := _finished(fitting):
        return _newest(done, wanted)
    if fitting:
        last = fitting[-1]
        last.check_files()
        command = last.info.get("command", "the command that began it")
        raise RunUnfinished(
            f"{last.path} is {last.status.lower()}, not finished; to go on with it:\n"
            f"  {command}"
        )
    raise RunNotFound(
        f"no run {wanted[:200]!r} in {runs}/; {_suggestion(wanted, everything)}"
    )


def find_published(run: str | os.PathLike[str] | None, results: Results) -> RunFolder:
    """The published run with weights meant by a name, id or folder.

    The one whose samples are best read as the digit asked for by default.

    Raises:
        RunNotFound: none fits.
    """
    models = [
        f for f in results.folders() if isinstance(f, Published) and f.has_weights
    ]
    if run is None and models:
        return max(models, key=lambda f: f.metrics.get(FIDELITY, 0.0))
    wanted = os.fspath(run or "")
    if fitting := _finished(_fitting(models, wanted)):
        return _newest(fitting, wanted)
    names = ", ".join(folder.name for folder in models) or "none"
    raise RunNotFound(f"no published run {wanted[:200]!r}; with weights: {names}")


def find_sweep(name: str, runs: Path) -> str:
    """The sweep meant, with `_` and `-` as one where none has the very name."""
    known = [sweep.name for sweep in sweeps(runs)]
    near = [one for one in known if _alike(one) == _alike(name)]
    return name if name in known or not near else near[-1]


def _finished(some: Iterable[RunFolder]) -> list[RunFolder]:
    """Those that are finished, the last to end at the end."""
    done = [folder for folder in some if folder.status == "FINISHED"]
    return sorted(done, key=lambda folder: folder.info.get("ended", 0))


def _newest(done: Sequence[RunFolder], wanted: str) -> RunFolder:
    *others, newest = done
    if others:
        log.warning(
            "%s: taking the newest, %s; there are also %s",
            *(wanted[:200], newest.name, ", ".join(f.name for f in others[-4:])),
        )
    return newest


def _suggestion(wanted: str, everything: list[RunFolder]) -> str:
    names = [name for folder in everything for name in (folder.name, *_names(folder))]
    if near := difflib.get_close_matches(wanted[:200], names, 1):
        return f"did you mean {near[0]!r}?"
    latest = [folder.name for folder in _finished(everything)[-5:]]
    return f"the latest finished: {', '.join(latest) or 'none'}"


def _run_at_path(wanted: str) -> list[RunFolder]:
    """The run in the folder at this path, which need not lie under `runs`."""
    path = Path(wanted)
    if os.sep not in wanted or not (_resolved(wanted) / "run.json").is_file():
        return []
    if results := published.at(path.parent):
        return [Published(results, path.name)]
    return [RunFolder(path)]


def _fitting(every: Sequence[RunFolder], wanted: str) -> list[RunFolder]:
    """The runs of this folder or id; else of this name; else of one spelled alike."""
    path, stored = _resolved(wanted), len(wanted) == 32  # MLflow's ids
    exact = [
        folder
        for folder in every
        if wanted in (folder.name, folder.info.get("id"))
        or folder.path.resolve() == path
        or (stored and folder.published.get("run_id") == wanted)
    ]
    named = [(folder, (folder.name, *_names(folder))) for folder in every]
    alike = [f for f, names in named if _alike(wanted) in map(_alike, names)]
    return exact or [f for f, names in named if wanted in names] or alike


def _resolved(wanted: str) -> Path:
    """The path, or that of nothing where it cannot be one."""
    try:
        return Path(wanted).resolve()
    except (OSError, ValueError):
        return Path(os.devnull)


def _stem(folder: RunFolder) -> str:
    """The name of its spec."""
    return re.sub(r"-[0-9a-f]{8}(-\d+)?$", "", folder.name)


def _names(folder: RunFolder) -> list[str]:
    """The spec's name, and the run's by what it changes, with its number or without."""
    shown = display_name(folder)
    return [_stem(folder), shown, re.sub(r" #\d+$", "", shown)]


def _alike(name: str) -> str:
    return name.replace("_", "-")
