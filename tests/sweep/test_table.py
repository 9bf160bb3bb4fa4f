"""What a sweep's table says before and after its runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from cvae.run.folder import RunFolder
from cvae.spec.variants import Plan, read_plan
from cvae.sweep import table
from tests.conftest import data_set, write

HIDDEN, LATENT, CLASSES = 8, 2, 10


def made(folder: Path, root: Path, finals: Sequence[dict[str, float] | None]) -> Plan:
    """A plan over two β of two seeds whose runs ended with these figures; None: it is
    unfinished, with records as good as any."""
    path = folder / "small.yaml"
    path.write_text(
        f"name: small\ndata: {{root: {root}}}\nmodel: {{hidden: [{HIDDEN}]}}\n"
        "evaluation: {importance_samples: 7}\n"
        "sweep: {objective.beta: [1, 4], seeds: 2}\n"
    )
    plan = read_plan(path)
    for variant, metrics in zip(plan.variants, finals, strict=True):
        run = RunFolder(folder / f"small-{variant.spec.id}")
        run.create(variant.spec)
        run.append({"epoch": 1, "metrics": metrics or figures(1.0, 1.0)})
        run.update(status="FINISHED" if metrics else "KILLED")
    return plan


def figures(val: float, test: float) -> dict[str, float]:
    split = {"val": val, "test": test}
    return {f"{key}/neg_elbo": value for key, value in split.items()} | {
        "test/recon": test - 1,
        "test/kl": 1.0,
        "test/nll_is7": test - 2,
    }


def test_the_summary_is_mean_and_sd_of_n_finished_runs(tmp_path: Path) -> None:
    root = write(tmp_path / "data", data_set())
    finals = [figures(100, 90), figures(100, 92), figures(100, 80), None]
    plan = made(tmp_path, root, finals)
    head, first, second = table.summary(plan, table.rows(plan, tmp_path))
    assert head[:3] == ["objective.beta", "n", "test/neg_elbo"]
    assert first[:3] == ["1", "2", "91.00 ± 1.41"]
    assert second[:3] == ["4", "1", "80.00"]
    assert (head[-1], first[-1]) == ("test/nll_is7", "89.00 ± 1.41")


def test_the_best_setting_is_chosen_on_validation_and_shown_on_test(
    tmp_path: Path,
) -> None:
    root = write(tmp_path / "data", data_set())
    finals = [figures(100, 95), figures(102, 97), figures(103, 80), figures(104, 82)]
    best, means = table.figures(made(tmp_path, root, finals), tmp_path)
    assert best == {"objective.beta": 1}  # on test, 4 looks better
    assert means["best/neg_elbo"] == pytest.approx(96)
    assert means["mean/neg_elbo"] == pytest.approx(88.5)
