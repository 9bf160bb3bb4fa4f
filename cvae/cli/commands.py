"""What each command does, with arguments that are parsed already."""

from __future__ import annotations

import json
import logging
import math
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cvae.errors import UNREADABLE, RunNotFound, TrackingError, UsageError
from cvae.evaluation.metrics import ERROR, FIDELITY, headline, metric, number

# Imports inside the functions: torch and MLflow take seconds, `--help` must not wait.
if TYPE_CHECKING:
    from cvae.run.folder import RunFolder

log = logging.getLogger("cvae")
OF_JUDGE = (  # the fields that `judge` takes
    *("data.root", "data.train_images", "data.validation_images"),
    *("training.epochs", "training.seed"),
)
LOOPBACK = ("127.0.0.1", "localhost", "::1")


def run(config: str, *, runs: Path, changes: str, offline: bool, began: float) -> None:
    from cvae.spec.document import one_spec, read_document, split_overrides

    document, overrides = read_document(spec_file(config)), split_overrides(changes)
    spec = one_spec(document, overrides)
    from cvae.run.folder import Origin, make_command
    from cvae.tracking.beside import publishing

    with publishing(runs, offline=offline) as publisher:  # MLflow loads beside torch
        from cvae.run import runner  # only now: a wrong spec is said at once
        from cvae.run.recorder import Clock

        clock = Clock(began=began)
        clock.add("imports", time.perf_counter() - began)
        command = make_command("experiment", config, changes)
        origin = Origin(document.header, command, tuple(overrides))
        given: dict[str, Any] = {"runs": runs, "offline": offline, "origin": origin}
        folder = runner.run(spec, **given, clock=clock, publisher=publisher)
        _report(folder, offline)


def judge(*, runs: Path, changes: str) -> None:
    from cvae.spec.document import one_spec, parse, split_overrides

    overrides = split_overrides(changes)
    for change in overrides:
        if change.partition("=")[0] not in OF_JUDGE:
            takes = ", ".join(OF_JUDGE)
            raise UsageError(f"SET={change!r}: make judge takes {takes}")
    spec = one_spec(parse("name: judge", "SET"), overrides)
    from cvae.run.classifiers import train_classifier

    folder, record = train_classifier(
        spec.data.root,
        runs,
        train_images=spec.data.train_images,
        validation_images=spec.data.validation_images,
        epochs=spec.training.epochs if "training.epochs=" in changes else None,
        seed=spec.training.seed,
    )
    accuracy = 100 * record["test_accuracy"]
    print(f"{folder}: reads {accuracy:.2f} % of the test images right")
    print("  next:  make evaluate   (adds label_fidelity and more to a run)")


def spec_file(config: str) -> str:
    """The path of a spec; a bare name is looked for in experiments/ and below it.

    Raises:
        UsageError: it trained a classifier in version 1.
    """
    if Path(config).stem == "judge" and not Path(config).exists():
        raise UsageError(
            f'{config}: removed in version 2.0.0; type make judge SET="data.root=…"'
        )
    if os.sep in config or Path(config).exists():
        return config
    name = config if config.endswith((".yaml", ".yml")) else f"{config}.yaml"
    found = [file for file in Path("experiments").rglob("*.y*ml") if file.name == name]
    return str(min(found, key=lambda file: (len(file.parts), file), default=config))


def sweep(
    config: str,
    *,
    runs: Path,
    changes: str,
    offline: bool,
    dry: bool,
    jobs: int | None,
    **use: Any,
) -> None:
    from cvae.spec.document import split_overrides
    from cvae.spec.variants import read_plan

    plan = read_plan(spec_file(config), split_overrides(changes))
    from cvae.run.folder import make_command
    from cvae.tracking.beside import publishing

    with publishing(runs, offline=offline or dry) as publisher:
        from cvae.sweep import sweep, table  # only now: a wrong spec is said at once

        if dry:
            print_table(table.dry_run(plan, runs))
            return
        command, resources = make_command("sweep", config, changes), sweep.resources
        wanted = resources(workers=jobs, **use)
        given: dict[str, Any] = {"use": wanted, "publisher": publisher}
        folder = sweep.sweep(plan, runs=runs, command=command, **given)
        seeds = f"{len(plan.variants)} runs finished; mean ± sd over seeds"
        print(f"\n{plan.name}: {seeds}\n")
        print_table(table.summary(plan, table.rows(plan, runs)))
        print(f"\n  table: {folder.path / 'table.csv'}")
        print(f"  next:  make report SWEEP={plan.name}   make ui")


def print_table(lines: list[list[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        print("  ".join(cells).rstrip())


def _report(folder: RunFolder, offline: bool) -> None:
    """The figures of a finished run and what to do next, on stdout."""
    metrics = folder.metrics
    print(f"{folder.name}: finished, {metrics['time/total']:.0f} s in all")
    for key, value in metrics.items():
        if key.startswith("test/"):
            shown = f"{number(value, key):>10} {metric(key).unit}"
            print(f"  {key:24} {shown}".rstrip())
    grids = [path for path in folder.figures.glob("*.png") if "-" not in path.stem]
    print("  grids: " + "\n         ".join(map(str, sorted(grids))))
    print(f"  next:  make samples RUN={folder.name} DIGIT=5   make ui")
    if offline:
        print(f"  not in MLflow yet (--offline): make sync RUN={folder.name}")


def samples(
    *,
    runs: Path,
    run: str | None,
    digit: int | None,
    n: int,
    seed: int | None,
    temperature: float,
    out: Path | None,
) -> None:
    from cvae import grids
    from cvae.loading.loaded import generate_conditional_samples, load_run
    from cvae.run.files import save_png

    name = "digits" if digit is None else f"digit_{digit}"
    path = _picture(out or Path("samples"), f"{name}.png")
    model = load_run(run, runs=runs)
    images = [
        generate_conditional_samples(one, n, model, seed, temperature)
        for one in (range(model.model.classes) if digit is None else [digit])
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = n if digit is None else math.ceil(n**0.5)
    sheet = grids.sheet(images, columns, model.shape)
    scale = max(2, math.ceil(640 / max(sheet.shape)))  # a digit of 28 pixels is a stamp
    save_png(sheet, path, scale=scale)
    print(f"{path}: {n} × {name.replace('_', ' ')} from {model.folder.name}")


def _picture(out: Path, name: str) -> Path:
    """The PNG to write: `out` itself, or `name` in it if it has no suffix.

    Raises:
        UsageError: the suffix is that of another format.
    """
    if out.is_dir() or not out.suffix:
        return out / name
    if out.suffix.lower() != ".png":
        raise UsageError(
            f"OUT={out}: pictures are written as PNG; end the name in .png, or name a "
            "folder"
        )
    return out


def evaluate(*, runs: Path, run: str | None, **wanted: Any) -> None:
    from cvae.loading.loaded import load_run
    from cvae.run.api import evaluate
    from cvae.run.evaluation import directory

    known = load_run(run, runs=runs)
    figures = evaluate(known, **wanted)
    print(f"{known.folder.name}, test images; ± is the standard error")
    for key, value in figures.items():
        if not key.endswith(ERROR):
            shown = number(value, key, error=figures.get(f"{key}{ERROR}"))
            print(f"  {key:32} {shown} {metric(key).unit}".rstrip())
    if wanted["what"]:
        print(f"  values by image: {directory(known.folder)}")


def serve(*, runs: Path, run: str | None, port: int) -> None:
    from cvae.loading.loaded import load_run

    known = load_run(run, runs=runs)
    if not known.model.classes:
        raise UsageError(
            f"{known.folder.name} is unconditional: it cannot be asked for a digit; "
            "name another run"
        )
    from cvae.tracking.ui import serve_model

    serve_model(runs, known.folder, LOOPBACK[0], port)


def sync(*, runs: Path, run: str | None) -> None:
    from cvae.run.find import find_run, folders, sweeps
    from cvae.run.folder import RunFolder, SweepFolder
    from cvae.tracking.publish import Tracker

    chosen = [find_run(run, runs=runs)] if run else folders(runs)
    if not run:  # one that was never begun (no data, no store) has nothing to publish
        chosen = [c for c in chosen if not c.held() and c.info.get("status") != "NEW"]
    if not chosen:
        raise RunNotFound(f"no runs in {runs}/")
    tracker, missing = Tracker(runs), []
    each: list[SweepFolder | RunFolder] = [*([] if run else sweeps(runs)), *chosen]
    for one in each:
        if fault := tracker.try_publish(one):
            missing.append(one.name)
            log.error("%s", fault)
        elif isinstance(one, RunFolder):
            print(f"{one.name}: {one.status.lower()}, published to {tracker.uri}")
    if missing:
        raise TrackingError(f"not published: {', '.join(missing)}")


def list_runs(*, runs: Path) -> None:
    from cvae.run.find import folders
    from cvae.run.folder import FIRST

    if not (every := folders(runs)):
        print(f"no runs in {runs}/; make one with\n  {FIRST}")
        return
    head = ["run", "status", "epochs", "neg_elbo", "fidelity", "what it changes"]
    print_table([head, *(_run_line(folder) for folder in every)])


def _run_line(folder: RunFolder) -> list[str]:
    """A run in the list."""
    from cvae.run.find import display_name

    status, epochs, score, control = folder.status.lower(), "–", "–", "–"
    try:
        folder.check_files()
        records, metrics = folder.records(), folder.metrics
        if not math.isnan(value := headline(metrics)):
            score = number(value, "test/neg_elbo")
        if FIDELITY in metrics:
            control = number(metrics[FIDELITY], FIDELITY)
        epochs = str(records[-1]["epoch"] if records else 0)
    except UNREADABLE as error:
        status = "damaged"
        log.warning("%s: %s", folder.name, error)
    return [folder.name, status, epochs, score, control, display_name(folder)]


def schema(*, runs: Path, markdown: bool) -> None:
    from cvae.spec import reference
    from cvae.spec.fields import Spec

    as_json = json.dumps(Spec.model_json_schema(), indent=2)
    print(reference.page() if markdown else as_json)


def ui(*, runs: Path, host: str, port: int) -> None:
    from cvae.tracking.ui import serve

    if host not in LOOPBACK:
        log.warning(
            "warning: %s is open to the network, and MLflow asks for no password: "
            "whoever reaches this port can read, change and delete the runs",
            host,
        )
    serve(runs, host, port)


def data(*, runs: Path) -> None:
    from cvae import mnist
    from cvae.loading.loaded import unpack

    unpack(mnist.SHIPPED_ROOT)
    shipped = mnist.load_mnist(mnist.SHIPPED_ROOT)
    count = f"{len(shipped.train)} + {len(shipped.test)}"
    print(f"{mnist.SHIPPED_ROOT}: {count} images, verified")


def publish(*, runs: Path, names: list[str], weights: bool, results: Path) -> None:
    from cvae.publishing.results import publish

    every = [name for text in names for name in text.split()]
    for name in publish(every, runs=runs, results=results, weights=weights):
        print(f"{results / name}: published")
    sizes = [file.stat().st_size for file in results.rglob("*") if file.is_file()]
    print(f"{results}: {sum(sizes) / 1e6:.1f} MB in all; make verify checks it")


def verify(*, runs: Path, results: Path, full: bool) -> None:
    from cvae.publishing.verify import verify

    lines = [["run", "figure", "published", "anew", "difference", "allowed"]]
    try:
        for run, figure, known, anew, allowed in verify(results, full=full):
            cells = [f"{known:.4f}", f"{anew:.4f}", f"{anew - known:+.4f}"]
            lines.append([run, figure, *cells, f"{allowed}"])
    finally:
        print_table(lines)
    print(f"{results}: every file and figure is as published")
