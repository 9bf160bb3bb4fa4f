"""`evaluate(what=…)` and the parts at a run's end: what is kept, shown and refused."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

import pytest
import torch

import cvae
from cvae.loading.loaded import LoadedRun, load_run
from cvae.run import evaluation, runner
from tests.conftest import data_set, spec, write

K: dict[str, Any] = {"importance_samples": 6, "label_samples": 2}


def trained(root: Path, **dotted: Any) -> LoadedRun:
    if not (root / "data").exists():
        write(root / "data", data_set(100, 50))
    dotted = {"data__root": str(root / "data")} | dotted
    wanted = spec(
        data__validation_images=0,
        training__epochs=1,
        model__hidden=[4],
        model__latent_dim=3,  # one or two are integrated, too, which takes seconds
        **dotted,
    )
    folder = runner.run(wanted, runs=root / "runs", offline=True)
    return load_run(folder.path)


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> LoadedRun:
    return trained(tmp_path_factory.mktemp("measured"))


def test_a_part_is_kept_with_its_errors_and_the_values_of_every_image(
    once: LoadedRun, tmp_path: Path
) -> None:
    figures = cvae.evaluate(once, what="nll", **K)
    assert figures.items() <= once.folder.metrics.items()
    line = once.folder.records()[-1]
    assert line["metrics"].keys() == figures.keys()
    home = once.folder.path / "evaluation"
    with (home / "nll.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["label"] for row in rows] == [str(i % 10) for i in range(50)]
    values = torch.tensor([float(row["nll_is6"]) for row in rows])
    assert figures["test/nll_is6"] == pytest.approx(float(values.mean()), rel=1e-5)
    error = float(values.std()) / math.sqrt(50)
    assert figures["test/nll_is6_se"] == pytest.approx(error, rel=1e-3)
    (found, facts) = evaluation.load_parts(home)["nll"]
    assert found.figures["nll_is6"] == figures["test/nll_is6"]
    curve = {"nll_is1", "nll_is5"}  # for the page alone
    assert found.figures.keys() - {k.removeprefix("test/") for k in figures} == curve
    assert (facts["samples"], facts["label_samples"], facts["images"]) == (6, 2, 50)
    count = len(once.folder.records())
    assert cvae.evaluate(once, what=["nll"], **K) == figures
    assert len(once.folder.records()) == count


def test_a_spec_names_parts_that_its_run_does_at_the_end(tmp_path: Path) -> None:
    run = trained(
        tmp_path,
        evaluation__what=["nll"],
        evaluation__importance_samples=3,
        evaluation__label_samples=2,
    )
    metrics = run.folder.metrics
    assert {"test/nll_is3", "test/nll_is3_se", "test/neg_elbo"} <= metrics.keys()
    assert evaluation.load_parts(run.folder.path / "evaluation").keys() == {"nll"}
    assert run.folder.status == "FINISHED"
