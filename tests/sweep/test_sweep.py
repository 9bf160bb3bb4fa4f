"""Whole sweeps in real subprocesses, interrupted and gone on with."""

from __future__ import annotations

import csv
import json
import os
import signal
import statistics
from collections.abc import Sequence
from pathlib import Path

import pytest
from mlflow import MlflowClient

from cvae.run import runner
from cvae.run.find import folders
from cvae.run.folder import RunFolder, SweepFolder
from cvae.spec.variants import Plan, read_plan
from cvae.sweep import table
from cvae.tracking import charts
from tests import children
from tests.children import Child, Done, until
from tests.conftest import data_set, write
from tests.test_commands import cvae, start

TEXT = """# Question: does it work?
name: many
data: {{root: {root}, validation_images: 50}}
model: {{hidden: [8]}}
training: {{epochs: {epochs}, batch_size: 10}}
tracking: {{images_every: 1000, experiment: many}}
sweep:
  objective.beta: {betas}
  seeds: 2
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("tiny") / "data", data_set())


def spec_file(folder: Path, root: Path, *, epochs: int = 2, betas: str) -> Path:
    path = folder / "many.yaml"
    path.write_text(TEXT.format(root=root, epochs=epochs, betas=betas))
    return path


def sweep(path: Path, runs: Path, *more: str, **extra: str) -> Done:
    arguments = ["sweep", str(path), "--runs", str(runs), "--jobs", "2", *more]
    return cvae(*arguments, **extra)


def begin(path: Path, runs: Path, *more: str, **extra: str) -> Child:
    """A sweep in a process group of its own, as a terminal starts it."""
    arguments = ["sweep", str(path), "--jobs", "2", "--offline", "--runs", str(runs)]
    return start(*arguments, *more, **extra)


def workers(parent: Child) -> list[int]:
    """The worker processes of a sweep; another keeps count of its semaphores."""
    listed = Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text()
    found = [int(pid) for pid in listed.split()]
    lines = {pid: Path(f"/proc/{pid}/cmdline").read_bytes() for pid in found}
    return [pid for pid in found if b"resource_tracker" not in lines[pid]]


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2][1] == "Z"
    except OSError:
        return True


def assert_each_variant_has_one_finished_run(plan: Plan, runs: Path) -> None:
    found = folders(runs)
    expected = sorted(f"many-{variant.spec.id}" for variant in plan.variants)
    assert sorted(folder.name for folder in found) == expected
    for folder in found:
        assert folder.status == "FINISHED"
        epochs = [record["epoch"] for record in folder.records()]
        last = folder.spec().training.epochs
        assert epochs == [*range(1, last + 1), last]


@pytest.fixture(scope="module")
def made(
    tmp_path_factory: pytest.TempPathFactory, root: Path, finished: tuple[Path, Done]
) -> tuple[Path, Path, Done]:
    """A sweep of four, its runs and what it printed; with a real store."""
    folder = tmp_path_factory.mktemp("sweep")
    children.copy([finished[0] / "mlflow.db"], folder / "runs")
    path = spec_file(folder, root, betas="[1, 4]")
    return path, folder / "runs", sweep(path, folder / "runs")


def test_a_sweep_runs_every_variant(made: tuple[Path, Path, Done]) -> None:
    path, runs, done = made
    assert done.returncode == 0, done.stderr
    assert_each_variant_has_one_finished_run(read_plan(path), runs)
    ended = [line for line in done.stdout.splitlines() if line.startswith("[")]
    assert [line[:5] for line in ended] == ["[1/4]", "[2/4]", "[3/4]", "[4/4]"]
    assert all("finished" in line and "neg_elbo" in line for line in ended)
    assert "Traceback" not in done.stderr
    with (runs / "sweeps" / "many" / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    for row, variant in zip(rows, read_plan(path).variants, strict=True):
        metrics = RunFolder(runs / row["run"]).metrics
        assert float(row["test/neg_elbo"]) == metrics["test/neg_elbo"]
        assert float(row["objective.beta"]) == variant.spec.objective.beta
    assert (runs / "sweeps" / "many" / "sweep.yaml").read_text() == path.read_text()


def test_in_mlflow_the_runs_are_nested_under_the_sweeps(
    made: tuple[Path, Path, Done],
) -> None:
    _, runs, _ = made
    client = MlflowClient(f"sqlite:///{runs / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("many")
    assert experiment is not None
    stored = client.search_runs([experiment.experiment_id])
    (parent,) = [run for run in stored if run.data.tags.get("cvae.kind") == "sweep"]
    members = [run for run in stored if run is not parent]
    assert parent.info.run_name == "many"
    assert parent.info.status == "FINISHED"
    assert parent.data.tags["sweep.objective.beta"] == "1, 4"
    note = parent.data.tags["mlflow.note.content"]
    assert "| objective.beta | n |" in note
    artifacts = {file.path for file in client.list_artifacts(parent.info.run_id)}
    assert artifacts >= {"sweep.yaml", "table.csv"}
    assert len(members) == 4
    for run in members:
        assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
        beta, seed = (
            run.data.tags[f"sweep.{k}"] for k in ("objective.beta", "training.seed")
        )
        assert run.data.params["training.seed"] == seed
        assert run.info.status == "FINISHED"
        assert run.info.run_name == f"many beta={beta} seed={seed}"
    scores = {
        beta: statistics.fmean(
            run.data.metrics["val/neg_elbo"]
            for run in members
            if run.data.params["objective.beta"] == f"{beta}.0"
        )
        for beta in (1, 4)
    }
    best = min(scores, key=lambda beta: scores[beta])
    assert json.loads(parent.data.tags["cvae.best"]) == {"objective.beta": best}
    assert f"Best setting: `objective.beta = {best}`" in note
    mean = statistics.fmean(run.data.metrics["test/neg_elbo"] for run in members)
    assert parent.data.metrics["mean/neg_elbo"] == pytest.approx(mean)
    listed = client.search_runs([experiment.experiment_id], charts.RUNS_ONLY)
    assert {run.info.run_id for run in listed} == {run.info.run_id for run in members}


def test_again_it_trains_only_what_is_new_and_a_broken_variant_stops_no_other(
    made: tuple[Path, Path, Done], tmp_path: Path
) -> None:
    """Offline; `sync` publishes the new runs under the same parent."""
    path, runs = made[0], tmp_path / "runs"
    children.copy(made[1].iterdir(), runs)
    before = {f.name: f.records() for f in folders(runs)}
    more = ["--set", "objective.beta=[1, 4, 2]", "training.device=[cpu]"]
    dry = sweep(path, runs, "--dry", *more[:2])
    lines = [line.split() for line in dry.stdout.splitlines()[1:]]
    assert [line[-1] for line in lines] == [*["finished"] * 4, *["new"] * 2]
    broken = path.read_text().replace("seeds: 2", "training.device: [auto, cuda]")
    (tmp_path / "many.yaml").write_text(broken)
    done = sweep(
        tmp_path / "many.yaml", runs, "--offline", *more[:2], CUDA_VISIBLE_DEVICES=""
    )
    assert done.returncode == 1
    assert "2 of 6 runs are finished already" in done.stdout
    assert "beta=2 device=auto  finished" in done.stdout
    assert "device=cuda: failed: training.device: cuda asked" in done.stderr
    after = {f.name: f.records() for f in folders(runs)}
    assert len(after) == 5
    assert {name: after[name] for name in before} == before
    assert SweepFolder(runs / "sweeps" / "many").info["status"] == "FAILED"

    (new,) = after.keys() - before.keys()
    assert cvae("sync", "--run", new, "--runs", str(runs)).returncode == 0
    assert cvae("sync", "--runs", str(runs)).returncode == 0
    client = MlflowClient(f"sqlite:///{runs / 'mlflow.db'}")
    run = client.get_run(RunFolder(runs / new).published["run_id"])
    parent = json.loads((runs / "sweeps" / "many" / "tracking.json").read_text())
    assert run.data.tags["mlflow.parentRunId"] == parent["run_id"]


def test_what_is_wrong_is_said_before_anything_starts(
    tmp_path: Path, root: Path
) -> None:
    path = tmp_path / "many.yaml"
    data = f"data: {{root: {root}, validation_images: 0}}"
    path.write_text(
        f"name: many\n{data}\nsweep: {{data.train_images: [10, 300, 301]}}\n"
    )
    done = sweep(path, tmp_path / "runs")
    assert (done.returncode, done.stdout) == (3, "")
    assert "301" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "runs").exists()


def test_killed_interrupted_and_crippled_it_ends_with_the_same_runs(
    tmp_path: Path, root: Path
) -> None:
    runs = tmp_path / "runs"
    path = spec_file(tmp_path, root, epochs=40, betas="[1, 4]")

    first = begin(path, runs)
    until(lambda: any(len(one.records()) >= 3 for one in folders(runs)))
    lost = workers(first)
    assert len(lost) == 2
    os.kill(first.pid, signal.SIGKILL)
    first.communicate()
    until(lambda: all(map(gone, lost)))  # workers do not outlive their parent

    second = begin(path, runs)
    running = [f for f in folders(runs) if f.status != "FINISHED"]
    until(lambda: any(folder.held() for folder in running))
    lost = workers(second)
    os.kill(lost[0], signal.SIGKILL)
    lines = iter(second.stdout or ())
    until(lambda: "its worker process died (SIGKILL)" in next(lines))
    lost = workers(second)
    os.killpg(second.pid, signal.SIGINT)  # Ctrl-C reaches the whole group
    _, errors = second.communicate()
    assert second.returncode == 130
    assert "Traceback" not in errors, errors
    assert all(map(gone, lost))
    assert SweepFolder(runs / "sweeps" / "many").info["status"] == "KILLED"

    done = sweep(path, runs, "--offline")
    assert done.returncode == 0, done.stderr
    plan = read_plan(path)
    assert_each_variant_has_one_finished_run(plan, runs)
    spec = plan.variants[0].spec
    alone = runner.run(spec, runs=tmp_path / "alone", offline=True)
    swept = RunFolder(runs / alone.name)
    assert swept.weights.read_bytes() == alone.weights.read_bytes()


def test_streams_of_one_process_make_the_same_runs(
    made: tuple[Path, Path, Done], tmp_path: Path
) -> None:
    path, runs, _ = made
    done = sweep(path, tmp_path, "--offline", "--engine", "threads")
    assert done.returncode == 0, done.stderr
    assert_each_variant_has_one_finished_run(read_plan(path), tmp_path)
    for folder in folders(runs):
        same = RunFolder(tmp_path / folder.name)
        assert same.weights.read_bytes() == folder.weights.read_bytes()


def ended(folder: Path, root: Path, finals: Sequence[dict[str, float] | None]) -> Plan:
    """A plan over two β of two seeds whose runs ended with these figures; None: it is
    unfinished, with records as good as any."""
    path = folder / "small.yaml"
    path.write_text(
        f"name: small\ndata: {{root: {root}}}\nmodel: {{hidden: [8]}}\n"
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
    of_test = {"neg_elbo": test, "recon": test - 1, "kl": 1.0, "nll_is7": test - 2}
    return {"val/neg_elbo": val} | {f"test/{key}": of_test[key] for key in of_test}


def test_the_summary_is_mean_and_sd_of_n_finished_runs(
    tmp_path: Path, root: Path
) -> None:
    finals = [figures(100, 90), figures(100, 92), figures(100, 80), None]
    plan = ended(tmp_path, root, finals)
    head, first, second = table.summary(plan, table.rows(plan, tmp_path))
    assert head[:3] == ["objective.beta", "n", "test/neg_elbo"]
    assert first[:3] == ["1", "2", "91.00 ± 1.41"]
    assert second[:3] == ["4", "1", "80.00"]
    assert (head[-1], first[-1]) == ("test/nll_is7", "89.00 ± 1.41")


def test_the_best_setting_is_chosen_on_validation_and_shown_on_test(
    tmp_path: Path, root: Path
) -> None:
    finals = [figures(100, 95), figures(102, 97), figures(103, 80), figures(104, 82)]
    best, means = table.figures(ended(tmp_path, root, finals), tmp_path)
    assert best == {"objective.beta": 1}  # on test, 4 looks better
    assert means["best/neg_elbo"] == pytest.approx(96)
    assert means["mean/neg_elbo"] == pytest.approx(88.5)
