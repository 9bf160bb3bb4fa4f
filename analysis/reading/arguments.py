"""Options of the commands here: which runs and formats, and where the files go."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

from cvae.errors import RunNotFound
from cvae.run.find import sweeps
from cvae.run.folder import make_command

if TYPE_CHECKING:
    from analysis.reading.runs import Runs

FORMATS = ("png", "svg", "pdf")


def selected_runs(options: SimpleNamespace) -> Runs:
    """The runs that the options mean.

    Raises:
        RunNotFound: nothing fits, or nothing was asked for.
    """
    from analysis.reading.load import load_runs

    if options.store:
        from cvae.tracking.address import VARIABLE

        os.environ[VARIABLE] = options.store
    ids = (options.run or "").split()
    if options.last_sweep:
        file = make_command("sweep", options.last_sweep, "")
        by_end = sorted(sweeps(options.runs), key=lambda s: s.info.get("ended", 0))
        by_end = [s for s in by_end if file in s.info.get("command", "")]
        options.sweep = by_end[-1].name if by_end else None
    if not (options.experiment or options.sweep or ids):
        everything = load_runs(runs=options.runs)
        known = ", ".join(sorted({run.experiment for run in everything.rows}))
        raise RunNotFound(f"say which: EXPERIMENT=…, SWEEP=…, RUN=…; here is {known}")
    return load_runs(
        experiment=options.experiment, sweep=options.sweep, ids=ids, runs=options.runs
    )


def chosen_names(text: str, known: Sequence[str]) -> list[str]:
    """The names in an option, with blanks or commas between.

    Raises:
        ValueError: one that is not known.
    """
    names = re.findall(r"[^\s,]+", text)
    if wrong := [name for name in names if name not in known]:
        raise ValueError(f"{wrong[0]!r}: there is {', '.join(known)}")
    return names


def formats(text: str) -> list[str]:
    """The image formats asked for; PNG is always among them.

    Raises:
        ValueError: one that is not known.
    """
    asked = chosen_names(text.lower(), FORMATS)
    return list(dict.fromkeys(["png", *asked]))


def output_folder(options: SimpleNamespace, runs: Runs, kind: str) -> Path:
    """`--out`, or `reports/<name>/<kind>/`; a name is never more than one folder."""
    safe = re.sub(r"[^\w-]+", "-", runs.name).strip("-")[:80] or "runs"
    return options.out or Path("reports") / safe / kind
