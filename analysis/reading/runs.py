"""A run as a row, and runs as a table: what differs, their metrics, their files."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from cvae.run.folder import RUNS, RunFolder
from cvae.spec.fields import Spec
from cvae.spec.identity import flatten

if TYPE_CHECKING:
    from cvae.tracking.store import Reader

DEFAULTS = flatten(Spec(name="default"))


@dataclass(frozen=True)
class RunRow:
    """One run as a row: every dotted spec field, the last value of every metric.

    `folder` is None where the run's folder is not on this machine, `run_id` where the
    run was never published.
    """

    name: str
    title: str  # by what the run changes; its name where that is not unique
    id: str
    uid: str
    status: str
    experiment: str
    started: float  # seconds since 1970
    fields: dict[str, Any]
    metrics: dict[str, float]
    facts: dict[str, Any]  # parameters, device, versions
    digest: str  # of the data set
    command: str = ""
    commit: str = ""
    sweep: str = ""
    run_id: str | None = None
    folder: RunFolder | None = None

    @property
    def seconds(self) -> float:
        """Wall-clock time in all; nan for a run that did not come so far."""
        return self.metrics.get("time/total", math.nan)

    @property
    def spec_name(self) -> str:
        return str(self.fields["name"])

    @property
    def seed(self) -> int:
        return int(self.fields["training.seed"])


@dataclass(frozen=True)
class Runs:
    """The runs that were asked for, oldest first, and where the rest of them is."""

    name: str
    rows: tuple[RunRow, ...]
    unreadable: dict[str, str] = field(default_factory=dict)  # name → why
    sweep: str = ""
    experiment: str = ""
    place: Path = RUNS
    store: Reader | None = None  # MLflow, where it was named

    @cached_property
    def fields(self) -> pd.DataFrame:
        """A row a run, a column a spec field, each value as JSON text."""
        keys = dict.fromkeys(
            [*DEFAULTS, *(key for run in self.rows for key in run.fields)]
        )
        return pd.DataFrame(
            {
                key: [json.dumps(r.fields.get(key), sort_keys=True) for r in self.rows]
                for key in keys
            }
        )

    @property
    def differing(self) -> list[str]:
        """The spec fields that are not the same in all runs, in the spec's order."""
        counts = self.fields.nunique()
        return [str(key) for key in counts.index[counts > 1]]

    @property
    def finished(self) -> tuple[RunRow, ...]:
        return tuple(run for run in self.rows if run.status == "FINISHED")

    def table(self) -> pd.DataFrame:
        """One row a run: what differs, `test/…`, seconds, status."""
        scores = {key for run in self.rows for key in run.metrics}
        chosen = sorted(key for key in scores if key.startswith("test/"))
        differing = self.differing
        rows = [
            {"run": run.name}
            | {key: run.fields.get(key) for key in differing}
            | {key: run.metrics.get(key) for key in chosen}
            | {"seconds": run.seconds, "status": run.status}
            for run in self.rows
        ]
        return pd.DataFrame(rows, dtype=object)  # an integer stays one beside a gap

    def history(self, run: RunRow, key: str) -> list[tuple[int, float]]:
        """(epoch, value) of a metric, from the run's folder if it is here.

        Raises:
            TrackingError: it is not, and the store does not answer.
        """
        if run.folder is not None:
            return [
                (record["epoch"], record["metrics"][key])
                for record in run.folder.records()
                if key in record["metrics"]
            ]
        if self.store is None or run.run_id is None:
            return []
        return self.store.history(run.run_id, key)

    def file(self, run: RunRow, path: str) -> bytes | None:
        """A file of the run's folder, or that artifact of it; None if it is missing."""
        if run.folder is not None:
            try:
                return (run.folder.path / path).read_bytes()
            except OSError:
                return None
        if self.store is None or run.run_id is None:
            return None
        return self.store.artifact(run.run_id, path)
