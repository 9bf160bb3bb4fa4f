"""The oldest MLflow that requirements and pyproject promise."""

from __future__ import annotations

import re
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import pytest

from tests import children
from tests.children import ROOT
from tests.test_commands import cvae, the_run

pytestmark = pytest.mark.services


def test_a_run_is_published_whole_by_the_oldest_mlflow(
    tmp_path: Path, tiny_root: Path
) -> None:
    text = (ROOT / "pyproject.toml").read_text()
    promised = re.search(r'"mlflow>=([\d.]+)', text)
    assert promised
    names = ("mlflow", "mlflow-skinny", "mlflow-tracing")
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target"]
    install += [str(tmp_path / "old"), *(f"{n}=={promised[1]}.*" for n in names)]
    assert children.run(install).returncode == 0
    runs, changes = tmp_path / "runs", "data.validation_images=50 training.epochs=2"
    done = cvae(
        *("run", "experiments/quickstart.yaml", "--runs", str(runs)),
        *("--set", f"data.root={tiny_root} {changes}"),
        PYTHONPATH=f"{tmp_path / 'old'}:{ROOT}",
    )
    assert done.returncode == 0, done.stderr
    assert "refuses" not in done.stderr
    assert the_run(runs).published["status"] == "FINISHED"
    with closing(sqlite3.connect(runs / "mlflow.db")) as connection:
        tag = "SELECT value FROM tags WHERE key = 'cvae.id'"
        assert connection.execute(tag).fetchone()
