"""What a sweep's table says before and after its runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cvae.errors import DataError
from cvae.mnist import load_mnist
from cvae.run.folder import RunFolder, SweepFolder
from cvae.spec.variants import Plan, read_plan
from cvae.sweep import sweep, table
from tests.conftest import data_set, idx, write

HIDDEN, LATENT, CLASSES = 8, 2, 10


def plan_on(folder: Path, root: Path) -> Plan:
    path = folder / "small.yaml"
    path.write_text(
        f"name: small\ndata: {{root: {root}}}\nmodel: {{hidden: [{HIDDEN}]}}\n"
        "sweep: {seeds: 2}\n"
    )
    return read_plan(path)


def weights(pixels: int) -> int:
    """Those of one hidden layer in encoder and decoder, counted by hand."""
    encoder = (pixels + CLASSES + 1) * HIDDEN + 2 * (HIDDEN + 1) * LATENT
    return encoder + (LATENT + CLASSES + 1) * HIDDEN + (HIDDEN + 1) * pixels


@pytest.mark.parametrize(("height", "width"), [(28, 28), (4, 5)])
def test_parameters_are_counted_for_the_size_of_the_images(
    tmp_path: Path, height: int, width: int
) -> None:
    images = {
        f"{split}-images-idx3-ubyte": idx(np.zeros((count, height, width), np.uint8))
        for split, count in (("train", 300), ("t10k", 100))
    }
    plan = plan_on(tmp_path, write(tmp_path / "data", data_set() | images))
    expected = weights(height * width)
    assert [row["parameters"] for row in table.rows(plan, tmp_path)] == [expected] * 2
    head, *lines = table.dry_run(plan, tmp_path)
    column = head.index("parameters")
    assert [line[column] for line in lines] == [f"{expected:,}"] * 2


def test_without_data_nothing_is_counted_and_the_missing_file_is_named(
    tmp_path: Path,
) -> None:
    with pytest.raises(DataError, match="train-images-idx3-ubyte"):
        table.dry_run(plan_on(tmp_path, write(tmp_path / "data", {})), tmp_path)


def test_a_likelihood_that_is_asked_for_has_a_column(tmp_path: Path) -> None:
    plan = plan_on(tmp_path, write(tmp_path / "data", data_set()))
    path = tmp_path / "small.yaml"
    path.write_text(f"{path.read_text()}evaluation: {{importance_samples: 7}}\n")
    asking = read_plan(path)
    first, second = (
        RunFolder(tmp_path / f"small-{v.spec.id}") for v in asking.variants
    )
    for folder, nll in ((first, 80.0), (second, 82.0)):
        folder.path.mkdir()
        folder.update(status="FINISHED")
        folder.append({"epoch": 1, "metrics": {"test/nll_is7": nll}})
    (*_, last), line = table.summary(asking, table.rows(asking, tmp_path))
    assert (last, line[-1]) == ("test/nll_is7", "81.00 ± 1.41")
    head, _ = table.summary(plan, table.rows(plan, tmp_path))
    assert "test/nll_is7" not in head


def test_a_run_on_other_data_is_not_simply_finished(tmp_path: Path) -> None:
    plan = plan_on(tmp_path, root := write(tmp_path / "data", data_set()))
    same, other = (RunFolder(tmp_path / f"small-{v.spec.id}") for v in plan.variants)
    for folder, spec, digest in (
        (same, plan.variants[0].spec, load_mnist(root).digest),
        (other, plan.variants[1].spec, "0" * 32),
    ):
        folder.create(spec)
        folder.update(status="FINISHED", data={"digest": digest})
    head, *lines = table.dry_run(plan, tmp_path)
    said = [line[head.index("status")] for line in lines]
    assert said == ["finished", "finished, with other data"]


def test_a_second_sweep_of_one_name_says_what_leaves_the_table(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plan = plan_on(tmp_path, write(tmp_path / "data", data_set()))
    folder = SweepFolder(tmp_path / "sweeps" / plan.name)
    sweep._write_description(folder, plan, "make sweep")
    more = tmp_path / "small.yaml"
    more.write_text(more.read_text().replace("seeds: 2", "seeds: 3"))
    sweep._write_description(folder, read_plan(more), "make sweep")
    assert not caplog.messages  # a wider sweep keeps the runs of the first
    more.write_text(more.read_text() + "training: {epochs: 7}\n")
    sweep._write_description(folder, read_plan(more), "make sweep")
    (message,) = caplog.messages
    assert "3 of them are not in this sweep" in message
    assert str(folder.path) in message
    assert f"small-{plan.variants[0].spec.id}" in message
