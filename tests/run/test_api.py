"""`train` and `evaluate` from Python; the process they run in stays as it was."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import cvae
from cvae.loading.loaded import load_run
from cvae.run import evaluation, runner
from tests.conftest import data_set, spec, write


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write(tmp_path / "data", data_set(100, 50))


def test_a_run_is_trained_and_evaluated_from_python(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    fields: dict[str, Any] = {
        "name": "mine",
        "data": {"root": root, "validation_images": np.int64(0)},
        "training": {"epochs": 9, "learning_rate": torch.tensor(0.5)},
        "model": {"hidden": np.array([4]), "conditional": np.bool_(True)},
    }
    run = cvae.train(fields, "training.epochs=1 objective.beta=2", offline=True)
    assert run.spec == spec(
        name="mine",
        data__root=str(root),
        data__validation_images=0,
        training__epochs=1,
        training__learning_rate=0.5,
        model__hidden=[4],
        objective__beta=2.0,
    )
    assert fields["training"]["epochs"] == 9
    assert run.folder.path.parent.resolve() == tmp_path / "runs"
    assert run.folder.info["changes"] == ["training.epochs=1", "objective.beta=2"]
    figures = cvae.evaluate(run, importance_samples=3, label_samples=2)
    assert {*figures} >= {"test/nll_is3", "test/label_accuracy_is2"}
    assert figures.items() <= run.folder.metrics.items()
    again = cvae.evaluate("mine", importance_samples=3)
    assert again["test/nll_is3"] == figures["test/nll_is3"]


def settings() -> list[Any]:
    """torch's process-wide settings, and its random state."""
    tiny = torch.tensor(1.2e-38, dtype=torch.float32, device="cpu")
    return [
        torch.get_default_dtype(),
        torch.get_default_device(),
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.is_autocast_enabled("cpu"),
        torch.are_deterministic_algorithms_enabled(),
        torch.get_float32_matmul_precision(),
        torch.backends.cudnn.deterministic,
        torch.backends.cudnn.benchmark,
        torch.get_num_threads(),
        bool(tiny / 2),
        torch.get_rng_state().tolist(),
    ]


def test_what_the_process_has_set_changes_no_number_and_stays(
    root: Path, tmp_path: Path
) -> None:
    fields = {
        "name": "mine",
        "data": {"root": root, "validation_images": 20},
        "training": {"epochs": 1},
        "model": {"hidden": [8], "prior": "mixture"},
    }

    def numbers(name: str) -> list[Any]:
        run = cvae.train(fields, runs=tmp_path / name, offline=True)
        data = run.data().test
        return [
            run.folder.weights.read_bytes(),
            {k: v for k, v in run.folder.metrics.items() if "time/" not in k},
            cvae.evaluate(run, importance_samples=3),
            run.sample(3, 2, seed=1).tolist(),
            run.log_likelihood(data.images[:5], data.labels[:5]).tolist(),
        ]

    before, plain = settings(), numbers("plain")
    assert settings() == before
    torch.set_default_dtype(torch.float64)
    torch.set_float32_matmul_precision("medium")
    torch.use_deterministic_algorithms(True)
    torch.set_flush_denormal(True)
    torch.backends.cudnn.benchmark = True
    try:
        with torch.device("meta"), torch.inference_mode(), torch.autocast("cpu"):
            odd = settings()
            assert numbers("odd") == plain
            assert settings() == odd
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_float32_matmul_precision("highest")
        torch.use_deterministic_algorithms(False)
        torch.set_flush_denormal(False)
        torch.backends.cudnn.benchmark = False
    assert settings() == before


def test_a_part_is_kept_with_its_errors_and_the_values_of_every_image(
    root: Path, tmp_path: Path
) -> None:
    # one or two latents are integrated, too, which takes seconds
    fields = {"data__root": str(root), "data__validation_images": 0}
    small = {"training__epochs": 1, "model__hidden": [4], "model__latent_dim": 3}
    made = runner.run(spec(**fields, **small), runs=tmp_path / "runs", offline=True)
    once = load_run(made.path)
    counts: dict[str, Any] = {"importance_samples": 6, "label_samples": 2}
    figures = cvae.evaluate(once, what="nll", **counts)
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
    assert cvae.evaluate(once, what=["nll"], **counts) == figures
    assert len(once.folder.records()) == count
