"""What results/ and experiments/ say of each other holds at this commit."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest

from cvae.run import published
from cvae.run.find import sweeps
from cvae.spec.document import load_spec, split_overrides
from cvae.spec.variants import read_plan
from tests import children

RESULTS = published.at(published.RESULTS)
assert RESULTS is not None
RUNS = RESULTS.folders()
SWEEPS = sweeps(published.RESULTS)
SPECS = sorted((children.ROOT / "experiments").rglob("*.yaml"))


def specs_of(info: dict[str, Any]) -> list[Any]:
    """The specs that the command of a run or sweep trains now."""
    words = shlex.split(info.get("command_now", info["command"]))
    given = dict(word.split("=", 1) for word in words[2:])
    path = children.ROOT / given["CONFIG"]
    assert path.is_file(), f"{given['CONFIG']}: no such spec"
    changes = split_overrides(given.get("SET", ""))
    if words[1] == "experiment":
        return [load_spec(path, changes)]
    return [variant.spec for variant in read_plan(path, changes).variants]


@pytest.mark.parametrize("folder", RUNS, ids=lambda folder: folder.name)
def test_the_command_of_a_published_run_trains_that_run(folder: Any) -> None:
    assert folder.info["id"] in {spec.id for spec in specs_of(folder.info)}


@pytest.mark.parametrize("sweep", SWEEPS, ids=lambda sweep: sweep.name)
def test_the_command_of_a_published_sweep_trains_its_runs(sweep: Any) -> None:
    known = {run["id"] for run in sweep.info["runs"]}
    assert known <= {spec.id for spec in specs_of(sweep.info)}


@pytest.mark.parametrize("path", SPECS, ids=lambda path: path.stem)
def test_every_spec_is_published_or_says_that_it_is_not(path: Path) -> None:
    dashed = path.stem.replace("_", "-")
    shown = {sweep.name for sweep in SWEEPS} | {
        run.name.rpartition("-")[0] for run in RUNS
    }
    assert dashed in shown or "not in results/" in path.read_text()
