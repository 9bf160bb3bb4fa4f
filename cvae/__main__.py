"""The command line: `python -m cvae run|sweep|samples|evaluate|sync|…`.

Results go to stdout, progress and warnings to stderr. Exit codes: 0 done, 2 spec or
arguments, 3 data, 4 diverged, 5 tracking store, 130/143 interrupted, 1 anything else.
"""

from __future__ import annotations

import time

_BEGAN = time.perf_counter()

import argparse  # noqa: E402
import gc  # noqa: E402
import json  # noqa: E402
import logging  # noqa: E402
import math  # noqa: E402
import os  # noqa: E402
import shlex  # noqa: E402
import sys  # noqa: E402
from collections.abc import Sequence  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import TYPE_CHECKING, Any, NoReturn  # noqa: E402

from cvae.errors import (  # noqa: E402
    Busy,
    RunNotFound,
    TrackingError,
    UsageError,
    guarded,
    raise_on_signals,
)
from cvae.metrics import headline, metric, number  # noqa: E402

if TYPE_CHECKING:
    from cvae.run.folder import RunFolder

gc.set_threshold(100_000)  # what torch and MLflow load is no garbage: a second less
log = logging.getLogger("cvae")
LOOPBACK = ("127.0.0.1", "localhost", "::1")


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    raise_on_signals()
    return guarded(
        lambda: options.act(options),
        interrupted="interrupted; the same command goes on from the last checkpoint",
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m cvae", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    commands = parser.add_subparsers(required=True, metavar="command")

    def command(name: str, act: Any, text: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=text)
        added.add_argument(
            "--runs", type=Path, default=Path("runs"), help="folder of runs"
        )
        added.set_defaults(act=act)
        return added

    run = command("run", _run, "train the run that a YAML spec describes")
    run.add_argument("config", help="path of the spec")
    run.add_argument("--set", default="", metavar="'a.b=1 c.d=2'", help="overrides")
    run.add_argument("--offline", action="store_true", help="publish later, with sync")

    sweep = command("sweep", _sweep, "run what a spec's sweep block stands for")
    sweep.add_argument("config", help="path of the spec")
    sweep.add_argument("--set", default="", metavar="'a.b=1 c.d=[2,3]'")
    sweep.add_argument(
        "--offline", action="store_true", help="publish later, with sync"
    )
    sweep.add_argument("--dry", action="store_true", help="only show the runs")
    sweep.add_argument("--jobs", type=_count, help="runs at once; one a core if none")
    sweep.add_argument("--threads", type=_count, help="threads a run; cores / jobs")
    sweep.add_argument("--engine", choices=["local", "ray"], default="local")
    sweep.add_argument(
        "--gpus", type=float, default=0.0, help="share of a GPU, for ray"
    )

    samples = command("samples", _samples, "draw a digit from a finished run as PNG")
    samples.add_argument(
        "--run", help="name, id, folder or MLflow run id; newest if none"
    )
    samples.add_argument("--digit", type=int, help="0 to 9; all ten if left out")
    samples.add_argument("--n", type=int, default=16, help="how many (of each digit)")
    samples.add_argument("--seed", type=int, help="the same seed, the same images")
    samples.add_argument("--temperature", type=float, default=1.0, help="spread of z")
    samples.add_argument("--out", type=Path, help="PNG to write")

    evaluate = command("evaluate", _evaluate, "importance-sampled figures of a run")
    evaluate.add_argument(
        "--run", help="name, id, folder or MLflow run id; newest if none"
    )
    evaluate.add_argument("--importance-samples", type=int, default=500, metavar="K")
    evaluate.add_argument("--label-samples", type=int, default=0, metavar="K")

    sync = command("sync", _sync, "publish what the tracking store lacks")
    sync.add_argument("--run", help="one run's name, id or folder; all if left out")

    command("list", _list, "the runs in a folder, oldest first")
    command("data", _data, "decompress and verify the shipped MNIST files")
    command("schema", _schema, "the spec's JSON schema, for editors")
    ui = command("ui", _ui, "the MLflow UI over the runs")
    ui.add_argument("--port", type=int, default=5000)
    ui.add_argument("--host", default=LOOPBACK[0], help="address to listen on")
    return parser


def _run(options: argparse.Namespace) -> None:
    from cvae.spec.document import load_spec, read_document, split_overrides

    changes = split_overrides(options.set)
    spec = load_spec(options.config, changes)
    header = read_document(options.config).header
    # only now: torch takes seconds to import
    from cvae.run import recorder, runner
    from cvae.run.folder import Origin

    clock = recorder.Clock(began=_BEGAN)
    clock.add("imports", time.perf_counter() - _BEGAN)
    origin = Origin(header, _again("experiment", options), tuple(changes))
    folder = runner.run(
        spec, runs=options.runs, offline=options.offline, origin=origin, clock=clock
    )
    _report(folder, options.offline)


def _again(target: str, options: argparse.Namespace) -> str:
    """What to type to get the same again."""
    command = f"make {target} CONFIG={shlex.quote(options.config)}"
    return f"{command} SET={shlex.quote(options.set)}" if options.set else command


def _sweep(options: argparse.Namespace) -> None:
    from cvae.spec.document import split_overrides
    from cvae.spec.variants import read_plan

    plan = read_plan(options.config, split_overrides(options.set))
    # only now: torch takes seconds to import
    from cvae.sweep import sweep, table

    if options.dry:
        _print_table(table.dry(plan, options.runs))
        return
    folder = sweep.sweep(
        plan,
        runs=options.runs,
        use=sweep.resources(
            options.engine, options.jobs, options.threads, options.gpus
        ),
        offline=options.offline,
        command=_again("sweep", options),
    )
    print(f"\n{plan.name}: {len(plan.variants)} runs finished; mean ± sd over seeds\n")
    _print_table(table.summary(plan, table.rows(plan, options.runs)))
    print(f"\n  table: {folder.path / 'table.csv'}")
    print(f"  next:  make report SWEEP={plan.name}   make ui")


def _count(text: str) -> int:
    if not text.isdigit() or not 1 <= int(text) <= 4096:
        raise argparse.ArgumentTypeError(f"must be 1 to 4096; {text!r} found")
    return int(text)


def _print_table(lines: list[list[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        print("  ".join(cells).rstrip())


def _report(folder: RunFolder, offline: bool) -> None:
    """What a finished run came to, on stdout."""
    metrics = folder.metrics
    print(f"{folder.name}: finished, {metrics['time/total']:.0f} s in all")
    for key, value in metrics.items():
        if key.startswith("test/"):
            print(f"  {key:24} {number(value, key):>10} {metric(key).unit}")
    print(f"  grids: {folder.figures / 'digits.png'}")
    print(f"         {folder.figures / 'reconstructions.png'}")
    print(f"  next:  make samples RUN={folder.name} DIGIT=5   make ui")
    if folder.published.get("status") != "FINISHED":
        why = "--offline" if offline else "the tracking store was away"
        print(f"  not in MLflow yet ({why}): make sync RUN={folder.name}")


def _samples(options: argparse.Namespace) -> None:
    from cvae import grids
    from cvae.samples import generate_conditional_samples, load_run

    run = load_run(options.run, runs=options.runs)
    every = options.digit is None
    images = [
        generate_conditional_samples(
            digit, options.n, run, options.seed, options.temperature
        )
        for digit in (range(10) if every else [options.digit])
    ]
    name = "digits" if every else f"digit_{options.digit}"
    out = options.out or Path("samples") / f"{name}.png"
    out.parent.mkdir(parents=True, exist_ok=True)
    columns = options.n if every else math.ceil(options.n**0.5)
    grids.save_png(grids.sheet(images, columns, run.shape), out)
    print(f"{out}: {options.n} × {name.replace('_', ' ')} from {run.folder.name}")


def _evaluate(options: argparse.Namespace) -> None:
    from cvae.run import recorder
    from cvae.samples import load_run

    for name in ("importance_samples", "label_samples"):
        if not 0 <= getattr(options, name) <= 10**6:
            flag = f"--{name.replace('_', '-')}"
            raise UsageError(
                f"{flag}: must be 0 to 1000000; {getattr(options, name)} found"
            )
    run = load_run(options.run, runs=options.runs)
    if options.label_samples and not run.model.classes:
        raise UsageError(
            f"{run.folder.name} is unconditional: it has no label posterior"
        )
    found = recorder.evaluate_run(
        run.folder,
        run.spec,
        run.model,
        importance_samples=options.importance_samples,
        label_samples=options.label_samples,
    )
    if run.folder.published:
        from cvae.tracking.publish import Tracker

        Tracker(options.runs).try_publish(run.folder)
    print(f"{run.folder.name}, all test images")
    for key, value in found.items():
        print(f"  {key:32} {value:.4f}")


def _sync(options: argparse.Namespace) -> None:
    from cvae.run.find import find_run, folders, sweeps
    from cvae.tracking.publish import Tracker

    chosen = (
        [find_run(options.run, runs=options.runs)]
        if options.run
        else [folder for folder in folders(options.runs) if not folder.held()]
    )
    if not chosen:
        raise RunNotFound(f"no runs in {options.runs}/")
    tracker = Tracker(options.runs)
    for sweep in [] if options.run else sweeps(options.runs):
        tracker.publish_sweep(sweep)
    missing = []
    for folder in chosen:
        try:
            with folder.lock():
                tracker.publish(folder)
            print(f"{folder.name}: {folder.status.lower()}, published to {tracker.uri}")
        except Busy:
            continue  # begun in the meantime: it publishes itself
        except TrackingError as error:
            missing.append(folder.name)
            log.error("%s: %s", folder.name, error)
            tracker.greet()  # one run's fault, or the store's?
    if missing:
        raise TrackingError(f"not published: {', '.join(missing)}")


def _list(options: argparse.Namespace) -> None:
    from cvae.run.find import folders

    for folder in folders(options.runs):
        records = folder.records()
        score = headline(folder.metrics)
        epochs = records[-1]["epoch"] if records else 0
        print(f"{folder.name:40} {folder.status:9} {epochs:5} epochs  {score:8.2f}")


def _data(options: argparse.Namespace) -> None:
    from cvae import mnist

    data = mnist.load_mnist(mnist.SHIPPED_ROOT)
    print(
        f"{mnist.SHIPPED_ROOT}: {len(data.train)} + {len(data.test)} images, verified"
    )


def _schema(options: argparse.Namespace) -> None:
    from cvae.spec.fields import Spec

    print(json.dumps(Spec.model_json_schema(), indent=2))


def _ui(options: argparse.Namespace) -> NoReturn:
    from cvae.tracking.publish import Tracker

    tracker = Tracker(options.runs)
    address = f"http://{options.host}:{options.port}"
    if options.host not in LOOPBACK:
        log.warning(
            "warning: %s is open to the network, and MLflow asks for no password: "
            "whoever reaches this port can read, change and delete the runs",
            options.host,
        )
    if tracker.uri.startswith("http"):
        raise SystemExit(f"the runs are on the tracking server: open {tracker.uri}")
    pages = tracker.pages(address) or {"no runs yet": address}
    print("MLflow (Ctrl-C ends it)")
    for name, page in pages.items():
        print(f"  {name}: {page}", flush=True)
    os.environ["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"
    os.environ["MLFLOW_BACKEND_STORE_URI"] = tracker.address  # may hold a password
    os.environ["PATH"] = (
        f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    )
    os.execv(
        sys.executable,
        [
            *(sys.executable, "-m", "mlflow", "ui", "--host", options.host),
            *("--port", str(options.port), "--workers", "1"),
        ],
    )


if __name__ == "__main__":
    sys.exit(main())
