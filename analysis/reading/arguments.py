"""The options that every command here has: which runs, and where the files go."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cvae.cli.exits import guarded
from cvae.errors import RunNotFound
from cvae.run.find import sweeps
from cvae.run.folder import RUNS, make_command

if TYPE_CHECKING:
    from analysis.reading.runs import Runs

FORMATS = ("png", "svg", "pdf")
Options = dict[str, dict[str, Any]]
OPTIONS: Options = {
    "--experiment": {"help": "an MLflow experiment"},
    "--sweep": {"help": "a sweep's name"},
    "--last-sweep": {"metavar": "CONFIG", "help": "the last sweep of this file"},
    "--run": {"help": "names, ids or folders of runs, with blanks between"},
    "--filter": {"default": "", "help": "MLflow's filter string"},
    "--by": {"default": "", "help": "fields that set the settings apart"},
    "--against": {"default": "", "help": "the reference, such as 'beta=1'"},
    "--metric": {"default": "test/neg_elbo", "help": "what to compare"},
    "--from": {
        "dest": "store",
        "metavar": "URI",
        "help": "an MLflow store whose runs are read, too; or MLFLOW_TRACKING_URI",
    },
    "--formats": {"default": "png", "help": "png, svg, pdf"},
    "--out": {"type": Path, "help": "folder to write to"},
    "--runs": {"type": Path, "default": RUNS, "help": "folder of runs"},
    "--attach": {"action": "store_true", "help": "put the files into MLflow, too"},
}
COMMON = {name: OPTIONS[name] for name in ("--out", "--runs", "--attach")}
ONE_RUN: Options = {
    "--run": {"help": "name, id, folder or MLflow run id; newest if none"}
}
TRAINING: Options = {  # of the commands that train what is missing
    "--set": {"default": "", "metavar": "'a.b=1 c.d=2'", "help": "for a try-out"},
    "--offline": {"action": "store_true", "help": "publish later, with sync"},
}
GOES_ON = "interrupted; the same command resumes"


def command(
    name: str,
    text: str | None,
    options: Options,
    act: Callable[[argparse.Namespace], None],
    words: Sequence[str] | None,
    *,
    interrupted: str = "interrupted",
) -> int:
    """Read the command line and act on it; the exit code."""
    parser = argparse.ArgumentParser(
        prog=f"python -m cvae {name}",
        description=text,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for option, details in options.items():
        parser.add_argument(option, **details)
    asked = parser.parse_args(words)
    return guarded(lambda: act(asked), interrupted=interrupted)


def selected_runs(options: argparse.Namespace) -> Runs:
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
    if not (options.experiment or options.sweep or ids or options.filter):
        everything = load_runs(runs=options.runs)
        known = ", ".join(sorted({run.experiment for run in everything.rows}))
        raise RunNotFound(f"say which: EXPERIMENT=…, SWEEP=…, RUN=…; here is {known}")
    return load_runs(
        experiment=options.experiment,
        sweep=options.sweep,
        ids=ids,
        filter=options.filter,
        runs=options.runs,
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


def formats(options: argparse.Namespace) -> list[str]:
    """The image formats asked for; PNG is always among them.

    Raises:
        ValueError: one that is not known.
    """
    asked = chosen_names(options.formats.lower(), FORMATS)
    return list(dict.fromkeys(["png", *asked]))


def output_folder(options: argparse.Namespace, runs: Runs, kind: str) -> Path:
    """`--out`, or `reports/<name>/<kind>/`; a name is never more than one folder."""
    safe = re.sub(r"[^\w-]+", "-", runs.name).strip("-")[:80] or "runs"
    return options.out or Path("reports") / safe / kind
