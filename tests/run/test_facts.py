"""What a run recorded is compared with what is there when it is used again."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import cvae
from cvae import __main__
from cvae.errors import DataError
from cvae.run import provenance, runner
from cvae.run.evaluation import evaluate_run
from cvae.run.folder import RunFolder
from cvae.samples import generate_conditional_samples, load_run
from cvae.spec.fields import Spec
from tests import children
from tests.conftest import data_set, spec, write
from tests.made import made_run


def small(tmp_path: Path) -> Spec:
    root = write(tmp_path / "data", data_set(40, 10))
    return spec(data__root=str(root), data__validation_images=0, training__epochs=1)


def replace_data(tmp_path: Path) -> None:
    files = data_set(40, 10)
    other = bytearray(files["t10k-images-idx3-ubyte"])
    other[-1] ^= 1
    write(tmp_path / "data", files | {"t10k-images-idx3-ubyte": bytes(other)})


def digests(folder: RunFolder) -> str:
    return rf"digest {folder.info['data']['digest']}.* digest [0-9a-f]{{32}}"


def test_a_run_does_not_go_on_with_other_data(tmp_path: Path) -> None:
    wanted, runs = small(tmp_path), tmp_path / "runs"
    folder = runner.run(wanted, runs=runs, offline=True)
    folder.update(status="KILLED")
    before = (folder.path / "records.jsonl").read_bytes()
    replace_data(tmp_path)
    with pytest.raises(DataError, match=digests(folder)):
        runner.run(wanted, runs=runs, offline=True)
    assert (folder.path / "records.jsonl").read_bytes() == before


def test_a_run_is_not_evaluated_on_other_data(tmp_path: Path) -> None:
    folder = runner.run(small(tmp_path), runs=tmp_path / "runs", offline=True)
    replace_data(tmp_path)
    run = load_run(runs=tmp_path / "runs")
    with pytest.raises(DataError, match=digests(folder)):
        evaluate_run(folder, run.spec, run.model, importance_samples=2, label_samples=0)


def test_one_damaged_folder_stops_neither_list_nor_the_next_run(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    wanted, runs = small(tmp_path), tmp_path / "runs"
    bad = made_run(runs, 100.0, name="bad", status="RUNNING")
    (bad.path / "spec.yaml").write_text("{")
    (bad.path / "records.jsonl").write_text("{]\n")
    (bad.path / "tracking.json").write_text("{}")
    folder = runner.run(wanted, runs=runs)
    bad.update(status="FAILED")  # an end that the store has not heard of
    from cvae.tracking.publish import Tracker

    uri = Tracker(runs).uri
    (bad.path / "tracking.json").write_text(
        f'{{"uri": "{uri}", "run_id": "x", "status": "RUNNING"}}'
    )
    again = runner.run(wanted, runs=runs)
    assert folder.status == again.status == "FINISHED"
    assert "bad-" in caplog.text
    assert __main__.main(["list", "--runs", str(runs)]) == 0
    shown = capsys.readouterr().out
    assert bad.name in shown
    assert again.name in shown
    assert __main__.main(["sync", "--runs", str(runs)]) == 5
    assert f"{again.name}: finished, published" in capsys.readouterr().out


def test_list_says_when_there_are_no_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert __main__.main(["list", "--runs", str(tmp_path)]) == 0
    assert "no runs in" in capsys.readouterr().out


def test_another_repository_gives_no_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-C", str(tmp_path)]
    assert children.run([*git, "init", "-q"]).returncode == 0
    commit = [*git, "commit", "-q", "--allow-empty", "-m", "other"]
    assert children.run(commit).returncode == 0
    here = provenance.git_state()[0]
    monkeypatch.setenv("GIT_DIR", str(tmp_path / ".git"))
    assert provenance.git_state()[0] == here
    monkeypatch.setattr(provenance, "HERE", tmp_path)  # unpacked in a checkout
    shutil.copy(provenance.__file__, tmp_path)
    assert provenance.git_state() == ({"commit": "unknown"}, "")


@pytest.mark.parametrize(
    "wrong", [{"seed": 2**64}, {"seed": 1.5}, {"seed": True}, {"num_samples": 2.5}]
)
def test_a_wrong_seed_or_count_is_a_value_error(
    tmp_path: Path, wrong: dict[str, float]
) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} must be an integer"):
        generate_conditional_samples(5, runs=tmp_path, **wrong)  # type: ignore[arg-type]


def test_the_public_names_are_listed() -> None:
    assert {*cvae.__all__} <= {*dir(cvae)}
