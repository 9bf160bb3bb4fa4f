"""Folders that version 1.0.0 made still load, resume, compare, sync and sample.

`fixtures/version1.tar.xz` was made by commit 11e212f on 250 images of 8 × 8 pixels: a
finished run, one killed after some of its 60 epochs, a judge, a sweep, a database.
"""

from __future__ import annotations

import json
import sqlite3
import tarfile
from pathlib import Path

import pytest

from tests import children

FIXTURE = Path(__file__).parent / "fixtures" / "version1.tar.xz"


@pytest.fixture
def old(tmp_path: Path) -> Path:
    with tarfile.open(FIXTURE) as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path


def command(old: Path, *arguments: str) -> str:
    done = children.python("-m", "cvae", *arguments, cwd=old)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def records(folder: Path) -> list[dict[str, object]]:
    lines = (folder / "records.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_an_unfinished_run_resumes_where_it_was_killed(old: Path) -> None:
    (folder,) = old.glob("runs/halfway-*")
    before = records(folder)
    assert 0 < len(before) < 60
    change = "name=halfway training.epochs=60"
    command(old, "run", "small.yaml", "--set", change, "--offline")
    assert list(old.glob("runs/halfway-*")) == [folder]
    after = records(folder)
    assert after[: len(before)] == before
    assert [line["epoch"] for line in after] == [*range(1, 61), 60]


def test_its_runs_are_listed_compared_sampled_and_evaluated(old: Path) -> None:
    shown = command(old, "list")
    assert shown.count("finished") == 5  # small, four of a sweep
    compared = command(old, "compare", "--sweep", "swept")
    assert "latent_dim = 2: 44.78 ± 0.01" in compared
    command(old, "samples", "--run", "small", "--digit", "3", "--out", "3.png")
    assert (old / "3.png").read_bytes()[:4] == b"\x89PNG"
    known = next(old.glob("runs/small-*"))
    again = command(old, "evaluate", "--run", "small", "--what", "nll")
    assert "nll" in again
    assert "label_fidelity" in json.dumps(records(known))  # by the judge of its data


def test_a_finished_sweep_is_not_trained_again(old: Path) -> None:
    said = command(old, "sweep", "swept.yaml", "--jobs", "1", "--offline")
    assert "4 runs finished" in said
    assert len(list(old.glob("runs/swept-*"))) == 4


def test_sync_adds_what_its_database_lacks(old: Path) -> None:
    def count() -> int:
        with sqlite3.connect(old / "runs" / "mlflow.db") as database:
            query = "SELECT count(*) FROM runs WHERE status = 'RUNNING'"
            return int(database.execute(query).fetchone()[0])

    command(old, "sync")
    assert count() == 0  # the killed one is KILLED there, too
    command(old, "sync")
