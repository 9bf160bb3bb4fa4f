"""What a run recorded is compared with what is there when it is used again."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from cvae import __main__
from cvae.errors import DataError, SpecError
from cvae.loading.loaded import load_run
from cvae.run import provenance, runner
from cvae.run.evaluation import evaluate_run
from cvae.run.folder import RunFolder
from cvae.spec.document import dump
from cvae.spec.fields import Spec
from cvae.tracking.publish import Tracker
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
    wanted, runs, folder = stopped(tmp_path)
    before = (folder.path / "records.jsonl").read_bytes()
    replace_data(tmp_path)
    with pytest.raises(DataError, match=digests(folder)):
        runner.run(wanted, runs=runs, offline=True)
    assert (folder.path / "records.jsonl").read_bytes() == before


def stopped(place: Path) -> tuple[Spec, Path, RunFolder]:
    """A small run marked as killed at its end: its spec, the runs, its folder."""
    wanted, runs = small(place), place / "runs"
    folder = runner.run(wanted, runs=runs, offline=True)
    folder.update(status="KILLED")
    return wanted, runs, folder


def test_an_edited_spec_is_not_used_with_the_run(tmp_path: Path) -> None:
    wanted, runs = small(tmp_path), tmp_path / "runs"
    folder = runner.run(wanted, runs=runs, offline=True)
    path = folder.path / "spec.yaml"
    path.write_text(path.read_text().replace("corrupt: 0.0", "corrupt: 0.5"))
    words = rf"was edited: .* id [0-9a-f]{{8}}, .* those of {wanted.id}"
    with pytest.raises(SpecError, match=words):
        load_run(runs=runs)
    folder.update(status="KILLED")
    before = (folder.path / "records.jsonl").read_bytes()
    with pytest.raises(SpecError, match=words):
        runner.run(wanted, runs=runs, offline=True)
    assert (folder.path / "records.jsonl").read_bytes() == before


def test_other_versions_are_said_when_a_run_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    wanted, runs, folder = stopped(tmp_path)
    facts = folder.info["facts"] | {"version.torch": "1.0", "threads": 77}
    folder.update(facts=facts, git={"commit": "c0ffee"})
    runner.run(wanted, runs=runs, offline=True)
    for words in ("begun with commit c0ffee, now ", "torch 1.0, now ", "threads 77, "):
        assert words in caplog.text
    assert folder.info["facts"] == facts  # those of the beginning stay


def test_a_figure_asked_for_again_is_compared_with_the_recorded_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = runner.run(small(tmp_path), runs=tmp_path / "runs", offline=True)
    run, of_code = load_run(folder.path), provenance.git_state()[0]["commit"]

    def evaluated() -> dict[str, float]:
        return evaluate_run(folder, run.spec, run.model, samples=3, label_samples=0)

    first = evaluated()
    assert folder.records()[-1]["commit"] == of_code
    assert evaluated() == first
    assert caplog.text == ""
    folder.append(
        {**folder.records()[-1], "commit": "c0ffee", "metrics": {"test/nll_is3": 7.0}}
    )
    count = len(folder.records())
    assert evaluated() == first
    assert f"test/nll_is3 is {first['test/nll_is3']:.6g} now" in caplog.text
    assert "but 7 is recorded" in caplog.text
    assert len(folder.records()) == count


def test_one_damaged_folder_stops_neither_list_nor_the_next_run(
    tmp_path: Path,
    finished: tuple[Path, children.Done],
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    wanted, runs = small(tmp_path), tmp_path / "runs"
    bad = made_run(runs, 100.0, name="bad", status="RUNNING")
    children.copy([finished[0] / "mlflow.db"], runs)
    (bad.path / "spec.yaml").write_text("{")
    (bad.path / "records.jsonl").write_text("{]\n")
    (bad.path / "tracking.json").write_text("{}")
    (runs / "never").mkdir()
    RunFolder(runs / "never").create(spec(name="never"))  # no data, no store
    for name in ("started", "sweeps/many"):
        (runs / name).mkdir(parents=True)
        kind = "sweep" if "sweeps" in name else "run"
        (runs / name / f"{kind}.json").write_text('{"started": "yesterday"}')
    (tmp_path / "t.yaml").write_text(dump(wanted))
    words = ["run", str(tmp_path / "t.yaml"), "--runs", str(runs)]
    assert children.python("-m", "cvae", *words).returncode == 0
    bad.update(status="FAILED")  # an end that the store has not heard of
    uri = Tracker(runs).uri
    (bad.path / "tracking.json").write_text(
        f'{{"uri": "{uri}", "run_id": "x", "status": "RUNNING"}}'
    )
    done = children.python("-m", "cvae", *words)
    assert done.returncode == 0
    assert "bad-" in done.stderr
    again = RunFolder(runs / f"{wanted.name}-{wanted.id}-2")
    assert again.status == "FINISHED"
    assert __main__.main(["list", "--runs", str(runs)]) == 0
    shown = capfd.readouterr().out
    assert bad.name in shown
    assert again.name in shown
    assert "started/run.json: damaged" in caplog.text
    assert __main__.main(["sync", "--runs", str(runs)]) == 5
    assert "many/sweep.json: damaged" in caplog.text
    assert "never: " not in caplog.text
    assert f"{again.name}: finished, published" in capfd.readouterr().out


def committed(place: Path) -> str:
    """A repository that tracks a copy of provenance.py; returns its commit."""
    place.mkdir()
    shutil.copy(provenance.__file__, place)
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-C", str(place)]
    for words in ("init -q -b trunk", "add .", "commit -q -m one"):
        assert children.run([*git, *words.split()]).returncode == 0
    return children.run([*git, "rev-parse", "HEAD"]).stdout.strip()


def test_the_commit_is_the_codes_own_and_changes_since_then_come_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "code"
    state = {"commit": committed(place), "branch": "trunk", "dirty": "false"}
    assert len(state["commit"]) == 40
    monkeypatch.setattr(provenance, "HERE", place)
    assert provenance.git_state() == (state, "")
    with (place / "provenance.py").open("a") as file:
        file.write("# a change\n")
    found, diff = provenance.git_state()
    assert found == state | {"dirty": "true"}
    assert diff.endswith("\n+# a change\n")


def test_a_folder_that_git_refuses_is_said_with_gits_own_cure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A checkout of another user; git itself is asked to think so."""
    committed(tmp_path / "code")
    monkeypatch.setattr(provenance, "HERE", tmp_path / "code")
    program = tmp_path / "git"
    program.write_text(
        "#!/bin/sh\nGIT_TEST_ASSUME_DIFFERENT_OWNER=1 exec /usr/bin/env -u PATH "
        f'PATH={os.environ["PATH"]} git "$@"\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert provenance.git_state() == ({"commit": "unknown"}, "")
    cure = f"git config --global --add safe.directory {tmp_path / 'code'}"
    assert cure in caplog.text
