"""Every experiment file says what it is and runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from cvae.run import runner
from cvae.spec.document import load_spec, one_spec, read_document
from cvae.spec.variants import read_plan
from tests.conftest import data_set, write

EVERY = sorted(Path("experiments").rglob("*.yaml"))
FILES = sorted(Path("experiments").glob("*.yaml"))
SMALLER = {
    "best_mlp": ["model.hidden=[32, 32, 32]", "evaluation.importance_samples=9"],
    "plain_mlp": ["model.hidden=[32, 32, 32]", "evaluation.importance_samples=9"],
    "best_conv": ["model.hidden=[8, 8, 32]", "evaluation.importance_samples=9"],
    "exact_two": ["objective.grid=20"],
}
PAPERS = sorted(Path("experiments/papers").glob("*.yaml"))


@pytest.mark.parametrize("path", EVERY, ids=lambda path: path.stem)
def test_its_header_has_question_expectation_time_and_command(path: Path) -> None:
    document = read_document(path)
    header = document.header
    for word in ("Question: ", "Expected: ", "Time: about "):
        assert f"\n{word}" in f"\n{header}"
    if "sweep" in document.tree:
        found = read_plan(path)
        assert f"Command: make sweep CONFIG={path} JOBS=2" in header
        assert found.name == path.stem.replace("_", "-")
        seeds = {variant.spec.training.seed for variant in found.variants}
        assert len(seeds) >= 3 or "one seed here" in header
    else:
        assert f"make experiment CONFIG={path}" in header
        one_spec(document)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_it_runs(path: Path, tmp_path: Path) -> None:
    root = write(tmp_path / "data", data_set(256, 50))
    overrides = [f"data.root={root}", "data.validation_images=0", "training.epochs=1"]
    overrides += ["evaluation.what=[]"]
    overrides += SMALLER.get(path.stem, [])
    folder = runner.run(
        load_spec(path, overrides), runs=tmp_path / "runs", offline=True
    )
    figures = folder.records()[-1]["metrics"]
    assert folder.status == "FINISHED"
    assert 0 < figures["test/kl"] < figures["test/neg_elbo"] < 700


@pytest.mark.parametrize("path", PAPERS, ids=lambda path: path.stem)
def test_every_setting_takes_a_step(path: Path, tmp_path: Path) -> None:
    """One step on a batch of 100 images, with as few draws as the figures need."""
    plan = read_plan(path, [f"data.root={write(tmp_path / 'data', data_set(100, 20))}"])
    first = [v.spec for v in plan.variants if v.spec.training.seed == 0]
    assert len(first) > 1
    for spec in first:
        changes = {
            "data": {"train_images": None, "validation_images": 0},
            "training": {"epochs": 1, "batch_size": 100},
            "evaluation": {"importance_samples": 2},
        }
        small = spec.model_copy(
            update={
                section: getattr(spec, section).model_copy(update=fields)
                for section, fields in changes.items()
            }
        )
        folder = runner.run(small, runs=tmp_path / "runs", offline=True)
        figures = folder.records()[-1]["metrics"]
        assert folder.records()[-1]["step"] == 1
        assert 0 < figures["test/nll_is2"] < figures["test/neg_elbo"] + 1 < 700
