"""`make judge` trains the classifier of a data set; runs on these data find it."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch

import cvae
from cvae import classifier, mnist
from cvae.evaluation import samples
from cvae.run import classifiers, evaluation, runner
from tests import children
from tests.conftest import data_set, idx, spec, write


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """300 and 100 images of 12 × 12: digit d is a bar in column d, on noise."""
    files = data_set(300, 100)
    for name, count in (("train", 300), ("t10k", 100)):
        noise = torch.randint(0, 60, (count, 12, 12), generator=torch.Generator())
        noise[torch.arange(count), :, torch.arange(count) % 10 + 1] = 255
        images = noise.to(torch.uint8).numpy()
        files[f"{name}-images-idx3-ubyte"] = idx(images)
    return write(tmp_path / "bars", files)


def train(root: Path, runs: Path, **options: Any) -> tuple[Path, dict[str, Any]]:
    options = {"epochs": 3, "validation_images": 100} | options
    return classifiers.train_classifier(str(root), runs, **options)


def test_the_command_trains_and_prints_the_test_accuracy(root: Path) -> None:
    changes = f"data.root={root} data.validation_images=100 training.epochs=4"
    done = children.python("-m", "cvae", "judge", f"--set={changes}", cwd=root.parent)
    assert done.returncode == 0, done.stderr
    data = mnist.load_mnist(root, validation_images=100)
    known = classifiers.load_classifier(root.parent / "runs/judges" / data.digest)
    assert known is not None
    network, record = known
    assert record["epochs"] == 4
    assert record["test_accuracy"] == classifier.accuracy(network, data.test) > 0.3
    assert f"{100 * record['test_accuracy']:.2f} % of the test images" in done.stdout


def test_a_run_on_other_data_says_which_command_trains_their_classifier(
    root: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    runs, fields = tmp_path / "runs", dict[str, Any](data__root=str(root))
    fields |= {"data__validation_images": 100, "training__epochs": 2}
    fields |= {"model__hidden": [8]}
    with caplog.at_level(logging.INFO, "cvae"):
        folder = runner.run(spec(**fields), runs=runs, offline=True)
    changes = f"data.root={root} data.validation_images=100"
    assert caplog.text.count("no classifier was trained") == 1
    assert f"make judge SET='{changes}' and then make evaluate" in caplog.text
    assert not any("fidelity" in key for key in folder.metrics)

    _, record = train(root, runs)
    caplog.clear()
    figures = cvae.evaluate(runs=runs, importance_samples=0)
    assert figures["test/judge_accuracy"] == record["test_accuracy"]
    assert folder.metrics["test/label_fidelity"] == figures["test/label_fidelity"]
    assert "no classifier" not in caplog.text
    monkeypatch.setattr(samples, "EPOCHS", 1)
    cited = cvae.evaluate(runs=runs, what="samples")
    assert {f"test/{name}" for name in samples.CITED} <= cited.keys()
    (found, _) = evaluation.load_parts(folder.path / "evaluation")["samples"]
    assert {"digit_frechet_real", "nearest_train"} <= found.figures.keys()
    again = runner.run(spec(**fields), runs=runs, offline=True)
    assert "test/label_fidelity" in again.metrics
