"""Each recipe of README and CONTRIBUTING, applied to a copy of the checkout, works."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import children
from tests.conftest import data_set, idx, write

ROOT = Path(__file__).parent.parent
SMALL = {
    "data.validation_images": 20,
    "model.hidden": [12],
    "training.epochs": 2,
    "training.batch_size": 40,
    "training.device": "cpu",
}


def recipes() -> dict[str, str]:
    """The patches of the documents, by the first word of what they change."""
    text = (ROOT / "README.md").read_text() + (ROOT / "CONTRIBUTING.md").read_text()
    named = re.findall(
        r"\*\*An? ([a-z ]+)\.\*\*(?:(?!\*\*An? ).)*?```diff\n(.*?)```", text, re.DOTALL
    )
    return dict(named)


def apply(patch: str, copy: Path) -> list[str]:
    """Make a patch's changes in a copy of the checkout; the files touched.

    A part of it, up to the next `@@`, must occur once in its file.
    """
    touched = re.split(r"^--- (.*)\n", patch, flags=re.MULTILINE)[1:]
    for name, parts in zip(touched[::2], touched[1::2], strict=True):
        path = copy / name
        text = path.read_text() if path.exists() else ""
        for part in parts.split("@@\n"):
            lines = part.splitlines(keepends=True)
            old = "".join(line[1:] for line in lines if line[0] in " -")
            new = "".join(line[1:] or "\n" for line in lines if line[0] in " +")
            assert not old or text.count(old) == 1, f"{name}: not once:\n{old}"
            text = text.replace(old, new) if old else new
        path.write_text(text)
    return touched[::2]


def used(
    recipe: str, tmp_path: Path, files: dict[str, bytes], *specs: dict[str, Any]
) -> tuple[list[str], list[dict[str, Any]], str]:
    """Files touched by a recipe, what the changed copy does, and what it says."""
    copy = tmp_path / "copy"
    for room in ("cvae", "analysis"):
        shutil.copytree(ROOT / room, copy / room)
    touched = apply(recipes()[recipe], copy) if recipe else []
    root = write(tmp_path / "data", files)
    fields = [SMALL | {"data.root": str(root)} | spec for spec in specs]
    request = {"place": str(tmp_path / "runs"), "specs": fields}
    shutil.copy(ROOT / "tests" / "recipe.py", copy)
    done = children.python("-m", "recipe", json.dumps(request), cwd=copy)
    assert done.returncode == 0, done.stderr
    answers = json.loads(done.stdout.splitlines()[-1])
    for answer in answers:
        assert answer["resumed"]
        assert answer["sampled"]
        assert answer["evaluated"][0] == pytest.approx(answer["evaluated"][1], rel=1e-5)
    return touched, answers, done.stderr


def refused(answer: dict[str, Any]) -> bool:
    """Whether the explorer refuses the run, in one sentence."""
    code, said = answer["explorer"]
    return code == 2 and len(said.strip().splitlines()) == 1


def test_a_field_that_acts_in_decode(tmp_path: Path) -> None:
    standard = {"model.prior": "standard"}
    touched, (plain, gained), said = used(
        "field", tmp_path, data_set(), standard, standard | {"model.gain": 2.0}
    )
    assert len(touched) == 2
    for key in ("train/neg_elbo", "test/neg_elbo"):
        assert abs(plain["metrics"][key] - gained["metrics"][key]) > 0.1
    assert "is not used" in said
    assert "likelihoods call decode" in said
    assert plain["explorer"][0] == 0
    assert refused(gained)


def test_a_network_of_torchs_own_layers(tmp_path: Path) -> None:
    network = {"model.architecture": "torch"}
    touched, (first, again), _ = used("network", tmp_path, data_set(), network, network)
    assert len(touched) == 2
    assert first["metrics"]["test/neg_elbo"] == again["metrics"]["test/neg_elbo"]
    assert refused(first)


def test_a_prior(tmp_path: Path) -> None:
    touched, (learned, moved), _ = used(
        "prior",
        tmp_path,
        data_set(),
        {"model.prior": "learned"},
        {"model.prior": "moved"},
    )
    assert len(touched) == 2
    assert learned["metrics"]["test/kl"] != moved["metrics"]["test/kl"]
    assert moved["explorer"][0] == 0


def test_an_estimator(tmp_path: Path) -> None:
    asked = {"evaluation.what": ["ink"]}
    touched, (answer,), _ = used("estimator", tmp_path, data_set(), asked)
    assert len(touched) == 2
    assert 0 < answer["metrics"]["test/ink"] < 1


def test_a_data_set_of_another_size_and_number_of_classes(tmp_path: Path) -> None:
    random, files = np.random.default_rng(0), {}
    for split, count in (("train", 140), ("t10k", 70)):
        images = random.integers(0, 256, (count, 9, 12)).astype(np.uint8)
        files[f"{split}-images-idx3-ubyte"] = idx(images)
        files[f"{split}-labels-idx1-ubyte"] = idx((np.arange(count) % 7).astype("u1"))
    _, (answer,), _ = used("", tmp_path, files, {})
    assert answer["shape"] == [3, 108]
    assert answer["classes"] == 7
    assert refused(answer)
