"""`evaluate(what=…)` and the parts at a run's end: what is kept, shown and refused."""

from __future__ import annotations

import csv
import json
import math
import re
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

import cvae
from analysis import evaluation as page
from analysis.reading.load import load_runs
from cvae import __main__, mnist
from cvae.cli.exits import guarded
from cvae.errors import DataError, UsageError
from cvae.evaluation import estimator, metrics
from cvae.evaluation.estimator import Measured, Request
from cvae.loading.loaded import LoadedRun, load_run
from cvae.model import CVAE
from cvae.run import evaluation, runner
from tests.conftest import data_set, idx, spec, write
from tests.made import made_run

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


def test_the_old_figure_and_the_part_are_the_same_number(once: LoadedRun) -> None:
    of_part = cvae.evaluate(once, what="nll", **K)
    plain = cvae.evaluate(once, **K)
    assert plain["test/nll_is6"] == pytest.approx(of_part["test/nll_is6"], rel=1e-6)


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


def test_the_page_shows_every_figure_with_its_error(
    once: LoadedRun, tmp_path: Path
) -> None:
    figures = cvae.evaluate(once, what="nll", **K)
    text = page.write(once, tmp_path).read_text()
    for key in ("nll_is6", "marginal_nll_is6_20"):
        value, error = figures[f"test/{key}"], figures[f"test/{key}_se"]
        assert f"<td>{value:.2f} ± {error:.2f}</td><td>nats per image</td>" in text
    assert text.count("data:image/png") == 1
    assert "K = 6 draws of z per image; LABEL_K = 2 at most per image" in text
    again = f"make evaluate RUN={once.folder.name} K=6 LABEL_K=2 WHAT=&#34;nll&#34;"
    assert again in text


@pytest.mark.parametrize(
    ("what", "samples", "words"),
    [
        ("nlls", 5, "no such part; allowed: nll"),
        ("gaps", 0, "K=0: gaps needs at least one draw"),
        ("", 0, "K=0: nll needs at least one draw"),
    ],
)
def test_what_cannot_be_answered_is_said_and_nothing_is_written(
    what: str, samples: int, words: str, tmp_path: Path
) -> None:
    run = trained(tmp_path)
    before = len(run.folder.records())
    with pytest.raises(UsageError, match=words):
        cvae.evaluate(run, importance_samples=samples, what=what or "nll")
    assert len(run.folder.records()) == before
    assert not (run.folder.path / "evaluation").exists()


def test_weights_that_are_not_finite_and_data_that_is_gone_are_said(
    tmp_path: Path,
) -> None:
    run = trained(tmp_path)
    (tmp_path / "data").rename(tmp_path / "elsewhere")
    with pytest.raises(DataError, match="no such folder"):
        cvae.evaluate(run, what="nll", **K)
    (tmp_path / "elsewhere").rename(tmp_path / "data")
    with torch.no_grad():
        next(run.model.decoder.parameters())[0, 0] = math.nan
    with pytest.raises(DataError, match="not finite; train the run again"):
        cvae.evaluate(run, what="nll", **K)
    assert not (run.folder.path / "evaluation").exists()


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ("plain --what labels", 2, "is unconditional: it has no labels to evaluate"),
        (
            "plain --what nll --label-samples 5",
            2,
            "unconditional: it has no label",
        ),
        ("plain --label-samples 5", 2, "unconditional: it has no label posterior"),
        ("run --what nll --importance-samples 0", 2, "K=0: nll needs at least one"),
        ("run --what labels --label-samples 0", 2, "LABEL_K=0: labels needs at least"),
        ("run --what all --importance-samples 0", 2, "K=0: nll needs at least one"),
        ("run --what nll,gapes", 2, "no such part; .*did you mean gaps"),
        ("broken --what latents", 3, "holds values that are not finite"),
        ("broken", 3, "holds values that are not finite"),
        ("moved --what latents", 3, "moved: no such folder"),
        ("moved", 3, "moved: no such folder"),
        ("changed --what latents", 3, "now holds data of digest"),
        ("eleven --what labels", 3, "label 10 .*0 to 9"),
        ("none --what nll", 2, "no run 'none'"),
    ],
)
def test_the_command_says_what_is_wrong_in_a_line_and_writes_nothing(
    words: str,
    code: int,
    said: str,
    wrong: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    before = {path: path.stat().st_mtime_ns for path in wrong.rglob("*")}
    name, *rest = words.split()
    where = ["--runs", str(wrong / "runs"), "--run", name]
    assert __main__.main(["evaluate", *where, *rest]) == code
    (line,) = [record.getMessage() for record in caplog.records if record.levelno >= 40]
    assert re.search(said, line)
    assert "\n" not in line
    after = {path: path.stat().st_mtime_ns for path in wrong.rglob("*")}
    assert after == before


@pytest.fixture(scope="module")
def wrong(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of one network, each with something that cannot be evaluated."""
    root = tmp_path_factory.mktemp("wrong")
    for name in ("moved", "changed", "eleven"):
        write(root / name, data_set(100, 50))
    for name in ("run", "broken"):
        trained(root, name=name)
    trained(root, name="plain", model__conditional=False)
    for name in ("moved", "changed", "eleven"):
        trained(root, name=name, data__root=str(root / name))
    (root / "moved").rename(root / "elsewhere")
    write(root / "changed", data_set(100, 40))
    labels = np.arange(50, dtype=np.uint8) % 11
    write(root / "eleven", {"t10k-labels-idx1-ubyte": idx(labels)})
    (folder,) = (root / "runs").glob("broken-*")
    weights = safetensors.torch.load_file(folder / "model.safetensors")
    next(iter(weights.values()))[0] = math.nan
    safetensors.torch.save_file(weights, folder / "model.safetensors")
    return root


def test_more_draws_than_there_may_be_are_refused(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for k in ("1000001", "-1", "many"):
        with pytest.raises(SystemExit) as stop:
            __main__.main(["evaluate", "--what", "nll", "--importance-samples", k])
        assert stop.value.code == 2
        assert "must be an integer of 0 to 1000000" in capsys.readouterr().err


def test_an_interrupt_says_which_parts_are_kept(
    once: LoadedRun, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def slow(model: CVAE, images: mnist.Images, request: Request) -> Measured:
        raise KeyboardInterrupt

    def quick(model: CVAE, images: mnist.Images, request: Request) -> Measured:
        return Measured({"quick": 1.0})

    for name, function in (("quick", quick), ("slow", slow)):
        module = types.ModuleType(f"cvae.evaluation.{name}")
        setattr(module, name, function)
        monkeypatch.setitem(sys.modules, module.__name__, module)
    table = {name: metrics.Estimator(name, name) for name in ("quick", "slow")}
    monkeypatch.setattr(metrics, "ESTIMATORS", table)
    monkeypatch.setattr(estimator, "ESTIMATORS", table)
    monkeypatch.setattr(evaluation, "ESTIMATORS", table)
    code = guarded(lambda: print(cvae.evaluate(once, what="all", **K)))
    assert code == 130
    assert "interrupted in slow; kept: quick" in caplog.text
    assert once.folder.metrics["test/quick"] == 1.0
    assert json.loads((once.folder.path / "evaluation" / "quick.json").read_text())


def test_points_of_other_betas_are_those_of_the_same_network(
    once: LoadedRun, tmp_path: Path
) -> None:
    root, runs = once.spec.data.root, tmp_path / "runs"
    same: dict[str, Any] = {
        "data__root": root,
        "data__validation_images": 0,
        "model__hidden": [4],
        "model__latent_dim": 3,
    }
    made_run(runs, 100.0, kl=20.0, objective__beta=0.5, **same)
    made_run(runs, 102.0, kl=22.0, objective__beta=0.5, training__seed=1, **same)
    made_run(runs, 90.0, objective__beta=1.0, **same)
    made_run(runs, 90.0, objective__beta=2.0, **same | {"model__hidden": [5]})
    found = page.other_betas(once, load_runs(runs=runs, folders_only=True).rows)
    ((beta, kl, recon),) = found
    assert beta == 0.5
    assert (kl, recon) == pytest.approx((21.0, 80.0))
