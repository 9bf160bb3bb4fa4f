"""How far a sweep is: one bar over its epochs on a terminal, a line a run elsewhere."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator, Sequence

from tqdm import tqdm

from cvae.run.find import finished_run
from cvae.run.progress import time_left
from cvae.spec.fields import Spec
from cvae.sweep.table import parameters
from cvae.sweep.worker import Ended, Event, Job, LogMessage, Progressed


def sweep_progress(
    events: Iterator[Event], jobs: Sequence[Job], name: str, total: int
) -> Iterator[Ended]:
    """One bar over all epochs on a terminal, one line a run everywhere.

    Args:
        total: runs of the sweep, those finished before included.
    """
    by_number = {job.number: job for job in jobs}
    work = {job.number: _multiply_adds(job.spec) for job in jobs}
    done = dict.fromkeys(work, 0.0)
    before: dict[int, float] = {}  # done by an earlier call
    began, ended = time.monotonic(), total - len(jobs)
    if ended:
        print(f"{ended} of {total} runs are finished already", flush=True)
    form = "{desc} {percentage:3.0f}% |{bar}| {postfix}"
    with tqdm(
        total=sum(work.values()),
        desc=name,
        bar_format=form,
        disable=not sys.stderr.isatty(),
    ) as bar:
        for event in events:
            job = by_number[event.number]
            if isinstance(event, LogMessage):
                bar.write(f"{job.label}: {event.text}", file=sys.stderr)
                continue
            if isinstance(event, Progressed):
                share = work[job.number] * event.epoch / job.spec.training.epochs
                before.setdefault(job.number, share)
            else:
                share = work[job.number]
                ended += 1
            bar.update(share - done[job.number])
            done[job.number] = share
            reached = sum(done.values())
            fresh, ahead = reached - sum(before.values()), sum(work.values()) - reached
            left = (
                time_left((time.monotonic() - began) * ahead / fresh) if fresh else ""
            )
            bar.set_postfix_str(f"{ended}/{total} runs{left}")
            if isinstance(event, Ended):
                bar.write(f"[{ended}/{total}] {_outcome(job, event)}{left}")
                sys.stdout.flush()
                yield event


def _outcome(job: Job, ended: Ended) -> str:
    text = f"{job.label}  {ended.status.lower()}  {ended.seconds:.0f} s"
    if ended.status != "FINISHED":
        return f"{text}  {ended.reason}"
    folder = finished_run(job.spec, job.runs)
    metrics = folder.metrics if folder else {}
    return f"{text}  test neg_elbo {metrics.get('test/neg_elbo', math.nan):.2f}"


def _multiply_adds(spec: Spec) -> float:
    """Multiply-adds of a run, up to a factor: what the time left is reckoned by."""
    images = spec.data.train_images or 60_000
    return float(spec.training.epochs * images * parameters(spec))
