"""A tracking store that is only read: nothing is made, migrated or moved in it."""

from __future__ import annotations

from pathlib import Path

from cvae.errors import TrackingError
from cvae.tracking.address import database, is_sqlite, redacted, tracking_uri
from cvae.tracking.store import Store


class Reader(Store):
    """The store at MLFLOW_TRACKING_URI, or the database beside the runs, as it is.

    Raises:
        TrackingError: from the constructor, when there is none or it does not answer.
    """

    def __init__(self, runs: Path) -> None:
        self.runs = runs
        self.address = tracking_uri(runs)
        self.uri = redacted(self.address)
        self.local = is_sqlite(self.address)
        if self.local and not database(self.address).exists():
            raise TrackingError(f"tracking store {self.uri}: there is no such file")
        self.client = self.connect()
