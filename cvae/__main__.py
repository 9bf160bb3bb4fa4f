"""The command line: `python -m cvae run|sweep|samples|evaluate|sync|…`.

Results go to stdout, progress and warnings to stderr. Exit codes: 0 done, 2 spec or
arguments, 3 data, 4 diverged, 5 tracking store, 130/143 interrupted, 1 anything else.
"""

from __future__ import annotations

import time

_BEGAN = time.perf_counter()

import argparse  # noqa: E402
import gc  # noqa: E402
import re  # noqa: E402
import sys  # noqa: E402
from collections.abc import Callable, Sequence  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

from cvae.cli import commands, shipped  # noqa: E402
from cvae.errors import guarded, raise_on_signals  # noqa: E402

gc.set_threshold(100_000)  # what torch and MLflow load is no garbage: a second less
Command = Callable[..., Any]  # adds a command; its result adds an argument to it
ONE_RUN = "name, id, folder or MLflow run id; newest if none"
GOES_ON = "interrupted; the same command goes on from the last checkpoint"
KEPT_NOTHING = "interrupted; figures are kept once all are computed: none were now"


def main(arguments: Sequence[str] | None = None) -> int:
    options = vars(_parser().parse_args(arguments))
    act, interrupted = options.pop("act"), options.pop("interrupted")
    raise_on_signals()
    return guarded(lambda: act(**options), interrupted=interrupted)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m cvae", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    added = parser.add_subparsers(required=True, metavar="command")

    def command(
        name: str, act: Callable[..., None], text: str, stop: str = "interrupted"
    ) -> Any:
        """The new command's `add_argument`."""
        one = added.add_parser(name, help=text, description=text)
        one.add_argument("--runs", type=Path, default="runs", help="folder of runs")
        one.set_defaults(act=act, interrupted=stop)
        return one.add_argument

    for add in (
        *(_add_training, _add_samples, _add_evaluate, _add_tracking, _add_shipped),
    ):
        add(command)
    schema = command("schema", commands.schema, "the spec's JSON schema, for editors")
    schema("--markdown", action="store_true", help="as the tables of docs/fields.md")
    ui = command("ui", commands.ui, "the MLflow UI over the runs")
    ui("--port", type=whole(0, 65535), default=5000)
    ui("--host", default=commands.LOOPBACK[0], help="address to listen on")
    return parser


def _add_training(command: Command) -> None:
    act = lambda **options: commands.run(**options, began=_BEGAN)  # noqa: E731
    run = command("run", act, "train what a YAML spec describes", GOES_ON)
    sweep = command(
        "sweep", commands.sweep, "run what a spec's sweep block stands for", GOES_ON
    )
    for add in (run, sweep):
        add("config", help="path of the spec, or its name in experiments/")
        add("--set", dest="changes", default="", metavar="'a.b=1 c.d=2'")
        add("--offline", action="store_true", help="publish later, with sync")
    judge = command(
        "judge",
        commands.judge,
        "train the classifier that reads the samples of runs on a data set",
        "interrupted; no classifier was saved",
    )
    judge("--set", dest="changes", default="", metavar="data.root=…")
    sweep("--dry", action="store_true", help="only show the runs")
    jobs = {"type": whole(1, 4096), "metavar": "N"}
    sweep("--jobs", **jobs, help="runs at once; one a core if none")
    sweep("--threads", **jobs, help="threads a run; cores / jobs")
    sweep("--engine", choices=["local", "threads", "ray"], default="local")
    sweep("--gpus", type=float, default=0.0, help="share of a GPU, for ray")


def _add_samples(command: Command) -> None:
    samples = command(
        "samples", commands.samples, "draw a digit from a finished run as PNG"
    )
    samples("--run", help=ONE_RUN)
    samples("--digit", type=whole(0, 9), help="0 to 9; all ten if left out")
    samples("--n", type=whole(1, 10**5), default=16, help="how many (of each digit)")
    seeds = whole(-(2**63), 2**64 - 1)
    samples("--seed", type=seeds, help="the same seed, the same images")
    samples("--temperature", type=float, default=1.0, help="spread of z")
    samples("--out", type=Path, help="PNG to write, or a folder for it")


def _add_evaluate(command: Command) -> None:
    evaluate = command(
        "evaluate",
        commands.evaluate,
        "importance-sampled figures of a run",
        KEPT_NOTHING,
    )
    evaluate("--run", help=ONE_RUN)
    k = {"type": whole(0, 10**6), "metavar": "K"}
    evaluate(
        *("--importance-samples",),
        **k,
        help="samples of z an image, 100 if left out: a minute or more on two cores",
    )
    evaluate("--label-samples", **k, help="the same for each of ten labels")
    parts = "parts with their errors, such as 'nll gaps', or all (5000, 100 samples)"
    evaluate("--what", default="", help=parts)


def _add_tracking(command: Command) -> None:
    """What needs MLflow, and the list of the runs."""
    serve = command("serve", commands.serve, "a run's model over HTTP, by MLflow")
    serve("--run", help=ONE_RUN)
    serve("--port", type=whole(0, 65535), default=5001, help="of 127.0.0.1; 0: any")
    sync = command("sync", commands.sync, "publish what the tracking store lacks")
    sync("--run", help="one run's name, id or folder; all if left out")
    command("list", commands.list_runs, "the runs in a folder, oldest first")


def _add_shipped(command: Command) -> None:
    command("data", shipped.data, "decompress and verify the shipped MNIST files")
    publish = command(
        "publish", shipped.publish, "put finished runs and sweeps into results/"
    )
    publish("names", nargs="+", metavar="RUN", help="a run's or a sweep's name")
    publish("--weights", action="store_true", help="of each sweep's first seed, too")
    verify = command(
        "verify", shipped.verify, "evaluate the published weights anew (results/)"
    )
    verify("--full", action="store_true", help="slow importance-sampled figures, too")
    for add in (publish, verify):
        add("--results", type=Path, default=Path("results"), help="what is published")


def whole(lowest: int, highest: int) -> Callable[[str], int]:
    """The type of an argument that is an integer in this range, both ends included."""

    def parsed(text: str) -> int:
        if re.fullmatch("-?[0-9]{1,20}", text) and lowest <= int(text) <= highest:
            return int(text)
        raise argparse.ArgumentTypeError(
            f"must be an integer of {lowest} to {highest}; {text[:200]!r} found"
        )

    return parsed


if __name__ == "__main__":
    sys.exit(main())
