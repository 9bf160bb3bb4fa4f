"""Every command in one table, for `python -m cvae`, for make and for its list.

Standard library only, and words that an old Python reads, too: the system's python3
checks with it what make is given, before anything is installed.
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple


class Command(NamedTuple):
    """What a command does, how it is typed, and the function that does it."""

    help: str
    example: str  # what may follow `make name`
    act: str  # module:function, imported when it is called; or lines of `python -m`
    takes: str = ""  # variables of make (`ARGUMENTS`); one with a ! must be given
    stop: str = "interrupted"  # the message when it is
    more: dict[str, dict[str, Any]] = {}  # noqa: RUF012  # by flag, what differs

    @property
    def variables(self) -> list[str]:
        return self.takes.replace("!", "").split()

    @property
    def arguments(self) -> dict[str, dict[str, Any]]:
        """Each argument of `python -m cvae` as argparse takes it."""
        known = dict(ARGUMENTS[name] for name in self.variables if name in ARGUMENTS)
        known = {"--runs": FOLDER} | known
        return {
            flag: {**known.get(flag, {}), **self.more.get(flag, {})}
            for flag in [*known, *self.more]
        }


def whole(lowest: int, highest: int) -> Callable[[str], int]:
    """The type of an argument that is an integer in this range, both ends included."""

    def parsed(text: str) -> int:
        if re.fullmatch("-?[0-9]{1,20}", text) and lowest <= int(text) <= highest:
            return int(text)
        raise argparse.ArgumentTypeError(
            f"must be an integer of {lowest} to {highest}; {text[:200]!r} found"
        )

    return parsed


def at_home(word: str) -> str:
    """A word whose leading `~/` is the home folder, where the shell has left it."""
    home = os.path.expanduser("~/")  # noqa: PTH111  # without a home, `~/` itself
    return re.sub(r"\A(--[\w-]+=)?~/", lambda start: (start[1] or "") + home, word)


N = {"type": whole(1, 4096), "metavar": "N"}
K = {"type": whole(0, 10**6), "metavar": "K"}
ON = {"action": "store_true"}
ENGINES = ("local", "threads", "ray")
MINUTES = "samples of z an image, 100 if left out: a minute or more on two cores"
FOLDER = {"type": Path, "default": "runs", "help": "their folder"}
ARGUMENTS: dict[str, tuple[str, dict[str, Any]]] = {
    "CONFIG": ("config", {"help": "path of the spec, or its name in experiments/"}),
    "SET": ("--set", {"dest": "changes", "default": "", "metavar": "'a.b=1 c.d=2'"}),
    "OFFLINE": ("--offline", {**ON, "help": "publish later, with sync"}),
    "DRY": ("--dry", {**ON, "help": "only show the runs"}),
    "JOBS": ("--jobs", {**N, "help": "runs at once; one a core if none"}),
    "THREADS": ("--threads", {**N, "help": "threads a run; cores / jobs"}),
    "ENGINE": ("--engine", {"choices": ENGINES, "default": "local"}),
    "GPUS": ("--gpus", {"type": float, "default": 0.0, "help": "of a GPU, for ray"}),
    "RUN": ("--run", {"help": "name, id, folder or MLflow run id; newest if none"}),
    "DIGIT": ("--digit", {"type": whole(0, 9), "help": "0 to 9; all ten if left out"}),
    "N": ("--n", {"type": whole(1, 10**5), "default": 16, "help": "of each digit"}),
    "SEED": ("--seed", {"type": whole(-(2**63), 2**64 - 1), "help": "of the noise"}),
    "TEMPERATURE": ("--temperature", {"type": float, "default": 1.0, "help": "of z"}),
    "OUT": ("--out", {"type": Path, "help": "file to write, or a folder for it"}),
    "K": ("--importance-samples", {**K, "help": MINUTES}),
    "LABEL_K": ("--label-samples", {**K, "help": "the same for each of ten labels"}),
    "WHAT": ("--what", {"default": "", "help": "parts, such as 'nll gaps', or all"}),
    "PORT": ("--port", {"type": whole(1, 65535), "help": "that it listens on"}),
    "HOST": ("--host", {"default": "127.0.0.1", "help": "address to listen on"}),
    "EXPERIMENT": ("--experiment", {"help": "an MLflow experiment"}),
    "SWEEP": ("--sweep", {"help": "a sweep's name"}),
    "BY": ("--by", {"default": "", "help": "fields that set the settings apart"}),
    "AGAINST": ("--against", {"default": "", "help": "such as 'beta=1', or a run"}),
    "METRIC": ("--metric", {"default": "test/neg_elbo", "help": "what to compare"}),
    "FORMATS": ("--formats", {"default": "png", "help": "png, svg, pdf"}),
    "ATTACH": ("--attach", {**ON, "help": "put the files into MLflow, too"}),
    "ONLY": ("--only", {"default": "", "help": "such as 'digits beta'"}),
    "RUNS": ("names", {"nargs": "+", "help": "names of runs or sweeps"}),
    "WEIGHTS": ("--weights", {**ON, "help": "of each sweep's first seed, too"}),
    "FULL": ("--full", {**ON, "help": "slow importance-sampled numbers, too"}),
}
SWITCHES = {"OFFLINE", "DRY", "WEIGHTS", "FULL", "ATTACH"}
RESULTS = {"--results": {"type": Path, "default": Path("results")}}
ANY = {  # of compare and report
    "--run": {"help": "names, ids or folders of runs, with blanks between"},
    "--from": {"dest": "store", "metavar": "URI", "help": "an MLflow store"},
    "--last-sweep": {"metavar": "CONFIG", "help": "the last sweep of this file"},
}
MADE = {  # of figures
    "--runs": {"type": Path, "default": Path("results"), "help": "or `runs`"},
    "--seeds": {"type": int, "default": 1, "help": "of each single experiment"},
    "--out": {"type": Path, "default": Path("docs"), "help": "folder to write to"},
    "--readme": {"type": Path, "default": Path("README.md"), "help": "to fill"},
}
ALL = {"--run": {"help": "one run's name, id or folder; all if left out"}}
MARKDOWN = {"--markdown": {**ON, "help": "as the tables of docs/fields.md"}}
AT = ({"--port": {"default": 5000}}, {"--port": {"default": 5001}})
STOP = "interrupted"
RESUMES = f"{STOP}; the same command resumes from the last checkpoint"
GOES_ON = f"{STOP}; the same command resumes"
NONE_NOW = f"{STOP}; results are kept once all are computed: none were now"
BENCHMARKS = """benchmarks.speed;
benchmarks.speed --threads 1 --out runs/bench/one.json;
benchmarks.likelihood; benchmarks.start"""
CHOSEN = "EXPERIMENT SWEEP RUN BY AGAINST METRIC OUT FROM ATTACH"
ONE_SPEC = 'CONFIG=experiments/quickstart.yaml SET="model.latent_dim=8"'
TRAINS = "CONFIG! SET OFFLINE DRY JOBS THREADS ENGINE GPUS"
HERE = "cvae.cli.commands"

# fmt: off
COMMANDS = {
    "help": Command("this list", "", ""),
    "setup": Command("venv, packages, data", "", ""),
    "data": Command("unpack and verify MNIST", "", f"{HERE}:data"),
    "judge": Command("train the classifier that reads samples",
        'SET="data.root=mnist_data/raw"', f"{HERE}:judge", "SET",
        f"{STOP}; no classifier was saved"),
    "experiment": Command("train one spec",
        ONE_SPEC, f"{HERE}:run", "CONFIG! SET OFFLINE", RESUMES),
    "sweep": Command("train all variants of a spec",
        "CONFIG=experiments/sweeps/beta.yaml JOBS=2", f"{HERE}:sweep", TRAINS, RESUMES),
    "samples": Command("draw digits from a finished run",
        "RUN=quickstart DIGIT=5 N=16", f"{HERE}:samples",
        "RUN DIGIT N SEED TEMPERATURE OUT"),
    "evaluate": Command("likelihoods and more, with errors",
        'RUN=quickstart WHAT="nll gaps"', f"{HERE}:evaluate", "RUN K LABEL_K WHAT",
        NONE_NOW),
    "compare": Command("tables, curves, what the seeds say",
        "SWEEP=latent-beta BY=model.latent_dim", "analysis.compare:main",
        f"{CHOSEN} FORMATS", more=ANY),
    "report": Command("one HTML page of an experiment",
        "EXPERIMENT=cvae", "analysis.report:main", CHOSEN, more=ANY),
    "manifold": Command("draw a finished run's latent space",
        "RUN=quickstart DIGIT=3 FORMATS=svg", "analysis.manifold:main",
        "RUN DIGIT FORMATS OUT ATTACH"),
    "explorer": Command("a page to play with a run's z",
        "RUN=quickstart AGAINST=plain-vae ATTACH=1", "analysis.explorer:main",
        "RUN AGAINST OUT ATTACH"),
    "figures": Command("every figure and number of README",
        'ONLY="digits results" FROM=runs JOBS=2', "analysis.figures:main",
        "ONLY FROM JOBS SET OFFLINE", GOES_ON, MADE),
    "reproduce": Command("train again, compare with results/",
        'ONLY="seed_notebook beta" JOBS=2', "analysis.reproduce:main",
        "ONLY! JOBS SET OFFLINE", GOES_ON,
        {"--only": {"required": True}, **RESULTS}),
    "page": Command("an HTML page of what evaluate WHAT=… measured",
        "RUN=quickstart", "analysis.evaluation:main", "RUN OUT ATTACH"),
    "publish": Command("finished runs and sweeps to results/",
        'RUNS="seed-notebook beta" WEIGHTS=1', f"{HERE}:publish", "RUNS! WEIGHTS",
        STOP, RESULTS),
    "verify": Command("check what is published in results/",
        "", f"{HERE}:verify", "FULL", STOP, RESULTS),
    "list": Command("the runs of this folder", "", f"{HERE}:list_runs"),
    "sync": Command("publish what MLflow does not have",
        "RUN=quickstart", f"{HERE}:sync", "RUN", STOP, ALL),
    "ui": Command("MLflow on 127.0.0.1",
        "PORT=5000", f"{HERE}:ui", "HOST PORT", STOP, AT[0]),
    "serve": Command("digits over HTTP, by MLflow",
        "RUN=seed-notebook PORT=5001", f"{HERE}:serve", "RUN PORT", STOP, AT[1]),
    "schema": Command("the spec's JSON schema, for editors",
        "", f"{HERE}:schema", more=MARKDOWN),
    "walkthrough": Command("run the notebook of the walk-through",
        "", "analysis.examples.notebook"),
    "bench": Command("training speed against the usual way", "", BENCHMARKS),
    "soak": Command("kill runs N times, compare what is left",
        "N=500", "benchmarks.soak --together 16", "N"),
    "test": Command("all tests that need only Python",
        "PYTEST='-k kl'", "pytest -n 3", "PYTEST"),
    "test-services": Command("needs Chromium, PostgreSQL and Ray",
        "", "pytest -m services", "PYTEST"),
    "lint": Command("ruff and mypy", "", "ruff check .; ruff format --check .; mypy"),
    "clean": Command("remove caches; runs and venv stay", "", ""),
}
# fmt: on
ALIASES = {"experiment": ["run"]}
REMOVED = {  # command: what to type instead
    "compress": "version 1.0.0 reads old .bits files; "
    "see analysis/examples/bits_back.py",
}
