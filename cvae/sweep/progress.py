"""How far a sweep is: a bar over its epochs on a terminal, a line a finished run."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence

from tqdm import tqdm

from cvae.run.find import finished_run
from cvae.sweep.worker import Ended, Event, Job, LogMessage, Progressed


def sweep_progress(
    events: Iterator[Event], jobs: Sequence[Job], name: str, total: int
) -> Iterator[Ended]:
    """Show the events, and pass on those that end a run.

    Args:
        total: runs of the sweep, those finished before included.
    """
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
