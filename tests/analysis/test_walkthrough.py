"""The walk-through runs, shows what its words say, and its notebook is its cells."""

from __future__ import annotations

import json
import re
import runpy
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import pytest
import torch

from cvae import classifier
from tests import children
from tests.children import ROOT
from tests.sizes import CORE
from tests.test_architecture import ours

SCRIPT = ROOT / "analysis" / "examples" / "walkthrough.py"
NOTEBOOK = SCRIPT.with_suffix(".ipynb")
CELLS = json.loads(NOTEBOOK.read_text())["cells"]


def cells_of_the_script() -> list[tuple[str, str]]:
    """Kind and text of each cell: `# %%` begins code, `# %% [markdown]` comments."""
    parts = re.split(r"(?m)^# %%( \[markdown\])?\n", SCRIPT.read_text())
    assert parts[0] == ""
    cells = []
    for mark, text in zip(parts[1::2], parts[2::2], strict=True):
        if mark:
            text = re.sub(r"(?m)^# ?", "", text)
        cells.append(("markdown" if mark else "code", text.strip()))
    return cells


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the script has made of its names, once it was run where no runs are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("elsewhere"))
        matplotlib.use("Agg")
        state = torch.get_rng_state()
        names = runpy.run_path(str(SCRIPT))
        torch.set_rng_state(state)
        names["figures"] = [plt.figure(number) for number in plt.get_fignums()]
        plt.close("all")
    return names


def test_it_is_short_and_knows_the_core_alone() -> None:
    assert len(SCRIPT.read_text().splitlines()) <= 110
    core = {f"cvae.{file.stem}" for file in CORE}
    assert ours(SCRIPT) <= core
    assert not re.search(r"import cvae\b|cvae\.load", SCRIPT.read_text())


def test_its_training_learns(ran: dict[str, Any]) -> None:
    assert 100 < float(ran["bound"].detach()) < 180  # 547 untrained
    assert float(ran["kl"].detach().mean()) > 1


def test_its_samples_are_read_as_the_digit_asked_for(
    ran: dict[str, Any], read_by: classifier.Classifier
) -> None:
    labels = torch.arange(10).repeat_interleave(10)
    read, _ = classifier.read(read_by, ran["drawn"].detach())
    assert (read == labels).float().mean() >= 0.9


def test_the_notebook_is_the_cells_of_the_script() -> None:
    found = [(cell["cell_type"], "".join(cell["source"])) for cell in CELLS]
    assert found == cells_of_the_script()


def test_the_notebook_shows_what_was_computed(ran: dict[str, Any]) -> None:
    outputs = [out for cell in CELLS for out in cell.get("outputs", [])]
    assert {out["output_type"] for out in outputs} == {"stream", "display_data"}
    assert sum("image/png" in out.get("data", {}) for out in outputs) == 4
    printed = "".join("".join(out.get("text", [])) for out in outputs)
    shown = re.findall(r"K = +(\d+): .* ≤ ([\d.]+) nats", printed)
    assert {int(k): pytest.approx(ran["nll"][int(k)], abs=0.3) for k, _ in shown} == {
        int(k): float(value) for k, value in shown
    }
    assert len(shown) == 3


def test_images_come_back_at_the_rate_of_the_bound() -> None:
    done = children.python("-m", "analysis.examples.bits_back")
    assert done.returncode == 0, done.stderr  # it checks every pixel itself
    rate, bound = map(float, re.findall(r"(\d+\.\d)(?: bits| *$)", done.stdout))
    assert rate == pytest.approx(bound, rel=0.03)
    assert 100 < bound < 250
