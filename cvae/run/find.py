"""Which run is meant: by spec, by name or id, by what it changes."""

from __future__ import annotations

import difflib
import functools
import logging
import os
import re
import shlex
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
    """The unfinished run of this spec, or the first free folder for a new one.

    A finished run whose process died before it let go of the lock may not be in the
    tracking store yet: it counts as unfinished.
    """
    made = _folders_of(spec, runs)
    if made and (made[-1].info.get("status") != "FINISHED" or made[-1].abandoned):
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

    From the `--set` overrides and the sweep's variant in `run.json`; runs of earlier
    versions have the overrides in their recorded command only.
    """
    info, changes = folder.info, dict[str, str]()
    for change in info.get("changes", _overrides_in(info.get("command", ""))):
        key, _, value = change.partition("=")
        changes[key] = value
    changes |= {key: _value_text(value) for key, value in info.get("swept", {}).items()}
    words = [re.sub(r"-[0-9a-f]{8}(-\d+)?$", "", folder.name)]
    words += [
        f"{_short_key(key)}={value}"
        for key, value in sorted(
            changes.items(), key=lambda change: _spec_position(change[0])
        )
        if key != "name" and not key.startswith(("tracking.", "sweep."))
    ]
    number = _repetition(folder)
    return " ".join([*words, f"#{number}"] if number > 1 else words)


def _overrides_in(command: str) -> list[str]:
    """The overrides in `make experiment CONFIG=… SET='a.b=1 c.d=2'`."""
    from cvae.spec.document import split_overrides

    try:
        words = shlex.split(command)
        return [
            change
            for word in words
            if word.startswith("SET=")
            for change in split_overrides(word.removeprefix("SET="))
        ]
    except ValueError:  # no command of ours
        return []


def _value_text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    return str(value).replace(" ", "").lower() if value is not None else "null"


@functools.cache
def _spec_keys() -> list[str]:
    return list(flatten(Spec(name="any")))


def _spec_position(key: str) -> int:
    """The place of a dotted key in the spec; `run.json` keeps no order."""
    return _spec_keys().index(key) if key in _spec_keys() else len(_spec_keys())


def _short_key(key: str) -> str:
    """The last part of a dotted key, where no other section has one of that name."""
    last = key.rpartition(".")[2]
    return last if [k.rpartition(".")[2] for k in _spec_keys()].count(last) < 2 else key


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
    known = [path.parent.name for path in sorted(runs.glob("sweeps/*/sweep.json"))]
    near = [one for one in known if _alike(one) == _alike(name)]
    return name if name in known or not near else near[-1]


def _finished(some: Iterable[RunFolder]) -> list[RunFolder]:
    """Those that are finished, the last to end at the end."""
    done = [folder for folder in some if folder.status == "FINISHED"]
    return sorted(done, key=lambda folder: folder.info.get("ended", 0))


def _newest(done: Sequence[RunFolder], wanted: str) -> RunFolder:
    *others, newest = done
    if others:
        names = [folder.name for folder in others[-4:]]
        names += [f"{len(others) - 4} more"] if len(others) > 4 else []
        log.warning(
            "%s: taking the newest, %s; there are also %s",
            *(wanted[:200], newest.name, ", ".join(names)),
        )
    return newest


def _suggestion(wanted: str, everything: list[RunFolder]) -> str:
    names: dict[str, None] = {}
    for folder in everything:
        shown = display_name(folder)
        names |= dict.fromkeys((shown.split(" ")[0], shown, folder.name))
    if near := difflib.get_close_matches(wanted[:200], names, 1):
        return f"did you mean {near[0]!r}?"
    latest = [folder.name for folder in _finished(everything)[-5:]]
    return f"the latest finished: {', '.join(latest) or 'none'}"


def _run_at_path(wanted: str) -> list[RunFolder]:
    """The run in the folder at this path, which need not lie under `runs`."""
    try:
        path = Path(wanted)
        if os.sep in wanted and (path / "run.json").is_file():
            if results := published.at(path.parent):
                return [Published(results, path.name)]
            return [RunFolder(path)]
    except (OSError, ValueError):
        pass
    return []


def _fitting(every: Sequence[RunFolder], wanted: str) -> list[RunFolder]:
    """The runs of this folder or id; else of this name; else of one spelled alike."""
    for fits in (_is_it, _is_named, _is_alike):
        if fitting := [folder for folder in every if fits(folder, wanted)]:
            return fitting
    return []


def _is_it(folder: RunFolder, wanted: str) -> bool:
    """Whether `wanted` is this run's folder, id or MLflow run id."""
    if wanted in (folder.name, folder.info.get("id")):
        return True
    if re.fullmatch(r"[0-9a-f]{32}", wanted):
        return bool(folder.published.get("run_id") == wanted)
    try:
        return Path(wanted).resolve() == folder.path.resolve()
    except (OSError, ValueError):
        return False


def _is_named(folder: RunFolder, wanted: str) -> bool:
    return wanted in _names(folder)


def _is_alike(folder: RunFolder, wanted: str) -> bool:
    names = {folder.name, *_names(folder)}
    return _alike(wanted) in map(_alike, names)


def _names(folder: RunFolder) -> set[str]:
    """The spec's name, and the run's by what it changes, with its number or without."""
    shown, stem = display_name(folder), re.sub(r"-[0-9a-f]{8}(-\d+)?$", "", folder.name)
    return {stem, shown, re.sub(r" #\d+$", "", shown)}


def _alike(name: str) -> str:
    return name.replace("_", "-")
