"""Many runs as one: what is finished is skipped, what is broken goes on.

sweep = plan → checked data → [variants not finished, by some engine]* → table
"""

from __future__ import annotations

import contextlib
import csv
import io
import logging
import math
import os
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from cvae import mnist
from cvae.errors import SweepIncomplete
from cvae.loading import loaded as loaded_run
from cvae.run.files import write_atomic
from cvae.run.find import finished_run
from cvae.run.folder import Origin, SweepFolder
from cvae.spec.variants import Plan
from cvae.sweep import processes, ray_cluster, table, threads
from cvae.sweep.worker import Ended, Event, Job, LogMessage, Progressed
from cvae.tracking.beside import Publisher

log = logging.getLogger("cvae")
MOST_WORKERS = 8  # unless asked for more: each holds about a gigabyte


class Resources(NamedTuple):
    """What a sweep may use: an engine, its workers, threads and GPU share a run."""

    engine: str = "local"
    workers: int = 1
    threads: int = 1
    gpus: float = 0.0


def resources(
    engine: str, workers: int | None, threads: int | None, gpus: float
) -> Resources:
    """One worker a core with one thread each, unless asked otherwise."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0
    cores = cores or os.cpu_count() or 1
    workers = workers or min(cores, MOST_WORKERS)
    elsewhere = engine == "ray" and "RAY_ADDRESS" in os.environ
    threads = threads or (1 if elsewhere else max(1, cores // workers))
    return Resources(engine, workers, threads, gpus)


def sweep(
    plan: Plan,
    *,
    runs: Path,
    use: Resources,
    publisher: Publisher | None = None,
    command: str = "",
) -> SweepFolder:
    """Run every variant that is not finished; calling it again does the rest.

    Args:
        publisher: follows the sweep and its runs; the caller waits for it.

    Raises:
        DataError, SpecError, OSError: before anything is trained.
        SweepIncomplete: at the end, naming the runs that did not finish and why.
    """
    runs = runs.resolve()
    folder = SweepFolder(runs / "sweeps" / plan.name)
    jobs = list(_jobs(plan, runs, use, command=command))
    try:
        with _events(jobs, use) as events:
            check_data(plan, runs)
            _write_description(folder, plan, command)
            write_table(folder, plan)
            if publisher:
                publisher.follow(folder.path)
            total = len(plan.variants)
            ends = _show(events, jobs, plan.name, total)
            broken = [ended for ended in ends if ended.status != "FINISHED"]
    except KeyboardInterrupt:
        if folder.info.get("status") == "RUNNING":
            write_table(folder, plan, status="KILLED", ended=time.time())
        raise
    status = "FAILED" if broken else "FINISHED"
    write_table(folder, plan, status=status, ended=time.time())
    if broken:
        raise SweepIncomplete(_failures(plan, broken))
    return folder


def _show(
    events: Iterator[Event], jobs: Sequence[Job], name: str, total: int
) -> Iterator[Ended]:
    """A bar over epochs in a terminal, a line a finished run; yields the ends."""
    by_number = {job.number: job for job in jobs}
    done = dict.fromkeys(by_number, 0)  # epochs
    ended, epochs = total - len(jobs), sum(job.spec.training.epochs for job in jobs)
    if ended:
        print(f"{ended} of {total} runs are finished already", flush=True)
    with tqdm(
        total=epochs, desc=name, unit="epoch", disable=not sys.stderr.isatty()
    ) as bar:
        for event in events:
            job = by_number[event.number]
            if isinstance(event, LogMessage):
                bar.write(f"{job.label}: {event.text}", file=sys.stderr)
                continue
            whole = job.spec.training.epochs
            reached = event.epoch if isinstance(event, Progressed) else whole
            bar.update(reached - done[job.number])
            done[job.number] = reached
            if isinstance(event, Ended):
                ended += 1
                bar.write(f"[{ended}/{total}] {_outcome(job, event)}")
                sys.stdout.flush()
                yield event


def _outcome(job: Job, ended: Ended) -> str:
    text = f"{job.label}  {ended.status.lower()}  {ended.seconds:.0f} s"
    if ended.status != "FINISHED":
        return f"{text}  {ended.reason}"
    folder = finished_run(job.spec, job.runs)
    metrics = folder.metrics if folder else {}
    return f"{text}  test neg_elbo {metrics.get('test/neg_elbo', math.nan):.2f}"


def check_data(plan: Plan, runs: Path) -> None:
    """Load each split that the variants ask for once.

    Raises:
        DataError: the data is wrong, too small for a variant, or not what a finished
            run was made with.
        SpecError: the spec.yaml of a finished run was edited or damaged.
    """
    loaded: dict[tuple[object, ...], mnist.MNIST] = {}
    elsewhere = 0
    for variant in plan.variants:
        options = loaded_run.split_options(variant.spec)
        key = (variant.spec.data.root, *options.values())
        if key not in loaded:
            loaded[key] = mnist.load_mnist(variant.spec.data.root, **options)
        if done := finished_run(variant.spec, runs):
            loaded_run.check_data(done, loaded[key])
            elsewhere += done.check_spec(variant.spec)
    if elsewhere:
        log.warning(
            "%d of the runs were finished in another experiment than %r and stay "
            "there; move their folders in %s away to make them anew",
            *(elsewhere, plan.experiment, runs),
        )


def write_table(folder: SweepFolder, plan: Plan, **facts: Any) -> None:
    """Write the sweep's table, and what follows from it, with `facts` about its end."""
    runs = folder.path.parent.parent
    rows = table.rows(plan, runs)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomic(folder.path / "table.csv", text.getvalue().encode())
    best, figures = table.figures(plan, runs)
    summary = table.summary(plan, rows)
    folder.update(summary=summary, best=best, figures=figures, **facts)


def _write_description(folder: SweepFolder, plan: Plan, command: str) -> None:
    """Write what the sweep is; one of the same name with other runs is replaced."""
    folder.path.mkdir(parents=True, exist_ok=True)
    write_atomic(folder.path / "sweep.yaml", plan.text.encode())
    runs = folder.path.parent.parent
    known = folder.info
    folder.update(
        uid=known.get("uid", uuid.uuid4().hex),
        started=known.get("started", time.time()),
        name=plan.name,
        header=plan.header,
        experiment=plan.experiment,
        command=command,
        keys=list(plan.keys),
        runs=[
            {"folder": table.run_folder(spec, runs).name, "id": spec.id, "swept": swept}
            for spec, swept in ((one.spec, dict(one.swept)) for one in plan.variants)
        ],
        status="RUNNING",
    )


def _jobs(plan: Plan, runs: Path, use: Resources, *, command: str) -> Iterator[Job]:
    for number, variant in enumerate(plan.variants):
        spec, label = variant.spec, variant.label
        if not finished_run(spec, runs):
            place = {"sweep": plan.name, "swept": dict(variant.swept), "label": label}
            origin = Origin(plan.header, command, sweep=place)
            yield Job(number, label, spec, origin, runs, use.threads)


@contextlib.contextmanager
def _events(jobs: Sequence[Job], use: Resources) -> Iterator[Iterator[Event]]:
    """What the engine asked for will say of the jobs, which start when it is read."""
    if not jobs:
        yield iter(())
        return
    workers = min(use.workers, len(jobs))
    if use.engine == "local":
        with processes.Pool(workers, use.threads) as pool:
            yield pool.run(jobs)
        return
    if use.engine == "ray":
        events = ray_cluster.run_jobs(jobs, use.workers, use.gpus)
    else:
        events = threads.run_jobs(jobs, workers)
    with contextlib.closing(events):
        yield events


def _failures(plan: Plan, broken: Sequence[Ended]) -> str:
    lines = [f"{len(broken)} of {len(plan.variants)} runs did not finish:"]
    for ended in broken:
        label = plan.variants[ended.number].label
        lines.append(f"  {label}: {ended.status.lower()}: {ended.reason}")
    return "\n".join([*lines, "the same command goes on with them"])
