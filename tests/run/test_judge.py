"""A judge is trained, recorded, resumed and found as any run is."""

from __future__ import annotations

import io
import logging
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from cvae import judge, mnist
from cvae.cli import commands
from cvae.errors import DataError, SpecError
from cvae.evaluation import quality
from cvae.loading import samples
from cvae.run import measurements, runner
from cvae.run.find import folders
from cvae.run.folder import Origin, RunFolder
from cvae.run.recorder import Recorder
from cvae.spec.document import load_spec, one_spec, parse, read_document
from cvae.spec.identity import flatten
from cvae.spec.judge import JudgeSpec
from cvae.spec.variants import read_plan
from tests.conftest import data_set, idx, spec, write

SPEC = "experiments/judge.yaml"


def wanted(root: Path, **fields: int) -> JudgeSpec:
    """The judge of 200 images in `root`, 100 held back; two epochs of four steps."""
    given = {"epochs": 2, "batch_size": 64} | fields
    data = {"root": str(root), "validation_images": 100}
    return JudgeSpec.model_validate({"name": "judge", "data": data, "judge": given})


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


def train(made: JudgeSpec, runs: Path) -> RunFolder:
    return runner.run(made, runs=runs, offline=True, origin=Origin(command="test"))


def weights(folder: RunFolder) -> dict[str, torch.Tensor]:
    return dict(safetensors.torch.load(folder.read_weights()))


def test_the_spec_is_that_of_the_published_judge() -> None:
    made = one_spec(read_document(SPEC))
    assert isinstance(made, JudgeSpec)
    found = judge.published()
    assert found is not None
    record = found[1]
    images = mnist.load_mnist(mnist.SHIPPED_ROOT, validation_images=5000)
    assert images.digest == record["digest"]
    assert made.judge.epochs == record["epochs"]
    assert made.judge.seed == record["seed"]
    assert made.data.validation_images == record["images"]["validation"]


def test_a_run_leaves_a_folder_with_what_it_learned(root: Path, tmp_path: Path) -> None:
    made = wanted(root, epochs=3)
    folder = train(made, tmp_path / "runs")
    assert folder.path == tmp_path / "runs" / "judges" / f"judge-{made.id}"
    assert (folder.status, folder.resolved()) == ("FINISHED", made)
    *epochs, last = folder.records()
    assert [line["epoch"] for line in epochs] == [1, 2, 3]
    for line in epochs:
        keys = {"train/loss", "train/accuracy", "val/accuracy"}
        assert line["metrics"].keys() == keys
    network = judge.Judge((12, 12))
    network.load_state_dict(weights(folder))
    data = mnist.load_mnist(root, validation_images=100)
    read, _ = judge.read(network.eval(), mnist.pixels(data.test.images))
    right = float((read == data.test.labels).double().mean())
    assert last["metrics"]["test/accuracy"] == pytest.approx(right)
    assert right > 0.3  # a bar is easily read
    assert folder.info["facts"]["parameters"] == 240_306
    assert (folder.figures / "misread.png").exists()


def test_the_same_seed_gives_the_same_weights_and_another_gives_others(
    root: Path, tmp_path: Path
) -> None:
    one, two = (train(wanted(root), tmp_path / name) for name in ("a", "b"))
    assert one.read_weights() == two.read_weights()
    other = train(wanted(root, seed=1), tmp_path / "a")
    assert other.path != one.path
    assert not torch.equal(weights(one)["head.weight"], weights(other)["head.weight"])


def test_an_interrupted_one_goes_on_to_the_same_weights(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, whole = wanted(root, epochs=3), Recorder.epoch

    def stopped(self: Recorder, epoch: object) -> None:
        whole(self, epoch)  # type: ignore[arg-type]
        if len(self.folder.records()) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(Recorder, "epoch", stopped)
    with pytest.raises(KeyboardInterrupt):
        train(made, tmp_path / "stopped")
    monkeypatch.undo()
    again = train(made, tmp_path / "stopped")
    assert len(again.records()) == 4
    assert again.read_weights() == train(made, tmp_path / "whole").read_weights()


def test_a_run_on_other_data_says_which_command_makes_their_judge(
    root: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    runs, fields = tmp_path / "runs", dict[str, Any](data__root=str(root))
    fields |= {
        "data__validation_images": 100,
        "training__epochs": 2,
        "model__hidden": [8],
    }
    with caplog.at_level(logging.INFO, "cvae"):
        folder = runner.run(spec(**fields), runs=runs, offline=True)
    said = [each.getMessage() for each in caplog.records]
    changes = f"data.root={root} data.validation_images=100"
    assert len([each for each in said if "no judge" in each]) == 1
    command = f"make experiment CONFIG={SPEC} SET='{changes}'"
    assert any(
        f"to get them: {command} and then make evaluate" in each for each in said
    )
    assert not any("fidelity" in key for key in folder.metrics)

    changes += " judge.epochs=1"
    commands.run(SPEC, runs=runs, changes=changes, offline=True, began=0.0)
    (reader,) = (runs / "judges").glob("judge-*/run.json")
    accuracy = RunFolder(reader.parent).metrics["test/accuracy"]
    caplog.clear()
    figures = samples.evaluate(runs=runs, importance_samples=0)
    assert figures["test/judge_accuracy"] == accuracy
    assert 0 <= figures["test/label_fidelity"] <= 1
    assert folder.metrics["test/label_fidelity"] == figures["test/label_fidelity"]
    assert "no judge" not in caplog.text
    monkeypatch.setattr(quality, "EPOCHS", 1)
    cited = samples.evaluate(runs=runs, what="samples")
    assert {f"test/{name}" for name in quality.CITED} <= cited.keys()
    real = {key for key in folder.metrics if "_real" in key}  # the rest: on the page
    assert real == {"test/coverage_real", "test/coverage_real_se"}
    (found, _) = measurements.load(folder.path / "evaluation")["samples"]
    assert {"digit_frechet_real", "nearest_train"} <= found.figures.keys()
    again = runner.run(spec(**fields), runs=runs, offline=True)
    assert "test/label_fidelity" in again.metrics


def test_a_judge_is_listed_and_published_and_stands_in_nobodys_way(
    root: Path, tmp_path: Path
) -> None:
    from cvae.tracking.store import Store

    runs = tmp_path / "runs"
    folder = train(wanted(root), runs)
    assert not folders(runs)  # so that no command takes it for a CVAE
    out = io.StringIO()
    with redirect_stdout(out):
        commands.list_runs(runs=runs)
        commands.sync(runs=runs, run=folder.name)
    assert f"{folder.name}  finished  2" in out.getvalue()
    assert "published to" in out.getvalue()
    store = Store(runs)
    (stored,) = store.search([store.experiments()["judge"]])
    assert stored.tags["cvae.kind"] == "judge"
    assert stored.metrics["test/accuracy"] == folder.metrics["test/accuracy"]
    assert stored.params["judge.batch_size"] == "64"
    with pytest.raises(SpecError, match="draws none"):
        samples.load_run(folder.path)


def test_data_that_changed_meanwhile_are_refused(root: Path, tmp_path: Path) -> None:
    folder = train(wanted(root), tmp_path / "runs")
    folder.update(status="KILLED")
    write(root, data_set(300, 100))
    with pytest.raises(DataError, match="digest"):
        train(wanted(root), tmp_path / "runs")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "name: a\njudge: {epoch: 3}",
            "a.yaml:2: judge.epoch: unknown key; allowed:",
        ),
        ("name: a\njudge: {epochs: 0}", "judge.epochs: must be an integer ≥ 1"),
        (
            "name: a\njudge:\nmodel: {}",
            "a.yaml:3: model: unknown key; allowed:",
        ),
        ("name: a\njudge:\ndata: {corrupt: 0.5}", "data.corrupt: unknown key"),
    ],
)
def test_a_mistake_in_its_spec_is_named_with_its_line(text: str, words: str) -> None:
    with pytest.raises(SpecError) as error:
        one_spec(parse(text, "a.yaml"))
    assert words in str(error.value)


def test_where_a_cvae_is_asked_for_a_judge_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "judge.yaml"
    path.write_text("name: a\njudge: {}\nsweep: {seeds: 3}\n")
    with pytest.raises(SpecError, match="2: judge: this file trains a judge"):
        read_plan(path)
    for act in (load_spec, samples.train):
        with pytest.raises(SpecError, match="draws none"):
            act(SPEC)


def test_its_spec_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    made = wanted(tmp_path, epochs=7, seed=3)
    folder = RunFolder(tmp_path / "judge")
    folder.create(made)
    assert folder.resolved() == made
    assert flatten(made)["judge.seed"] == 3
    assert made.id != wanted(tmp_path, epochs=7).id
