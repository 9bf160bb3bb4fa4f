"""Runs of a sweep on Ray: each is a task, tried again where its node dies.

Every node sees the same `runs/` (shared storage) and the same code. A task that is
tried again goes on from the checkpoint that the dead one left.
"""

from __future__ import annotations

import logging
import os
import re
import socket
import time
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

from cvae.errors import UsageError
from cvae.sweep.worker import Ended, Event, Job, LogMessage, perform

RETRIES = 3  # of a task whose process or node died
PATIENCE = 60.0  # seconds until the lock of a dead node's run is free
ROOT = Path(__file__).resolve().parents[2]


def run_jobs(
    jobs: Sequence[Job], workers: int, gpus: float = 0.0
) -> Generator[Event, None, None]:
    """Every job as a Ray task with its threads as CPUs and `gpus` of a GPU.

    `RAY_ADDRESS` joins a cluster; without it one is started here, with room for
    `workers` runs at once, and ends with the sweep.

    Raises:
        UsageError: Ray is not installed, or no cluster answers at RAY_ADDRESS.
    """
    ray = _connect(workers * jobs[0].threads)
    task = ray.remote(
        num_cpus=jobs[0].threads,
        num_gpus=gpus,
        max_retries=RETRIES,
        runtime_env={"env_vars": {"PYTHONPATH": str(ROOT)}},
    )(_run_task)
    pending = {task.remote(job): job for job in jobs}
    try:
        while pending:
            done, _ = ray.wait(list(pending), num_returns=1)
            for reference in done:
                job = pending.pop(reference)
                try:
                    yield from ray.get(reference)
                except ray.exceptions.RayError as error:
                    reason = f"{type(error).__name__}, {RETRIES} retries in vain"
                    yield Ended(job.number, "KILLED", reason, 0.0)
    finally:
        for reference in pending:
            ray.cancel(reference)
        if pending:  # time to write where they stopped
            ray.wait(list(pending), num_returns=len(pending), timeout=10)
        ray.shutdown()


def _connect(cpus: int) -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ImportError as error:
        raise UsageError(
            "ENGINE=ray: Ray is not installed; pip install -r requirements-extra.txt"
        ) from error
    address = os.environ.get("RAY_ADDRESS", "")
    if match := re.fullmatch(r"(?:ray://)?([\w.-]+):(\d+)", address):
        try:  # Ray itself tries for minutes
            socket.create_connection((match[1], int(match[2])), timeout=5).close()
        except (OSError, OverflowError) as error:
            raise UsageError(f"RAY_ADDRESS={address}: no cluster: {error}") from error
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if not address:
        options |= {"address": "local", "num_cpus": cpus, "include_dashboard": False}
    try:
        ray.init(**options)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise UsageError(f"RAY_ADDRESS={address}: no cluster: {error}") from error
    return ray


def _run_task(job: Job) -> list[Event]:
    """The task: a run, and what it said."""
    said: list[Event] = []
    began = time.monotonic()
    while True:
        ended = perform(job, said.append)
        if ended.status != "BUSY" or time.monotonic() - began > PATIENCE:
            return [*(event for event in said if isinstance(event, LogMessage)), ended]
        time.sleep(1)
