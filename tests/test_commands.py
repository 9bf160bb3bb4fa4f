"""Whole commands in real subprocesses, as a user types them."""

from __future__ import annotations

import os
import pty
import signal
import sys
from pathlib import Path

import pytest

from cvae import __main__
from cvae.cli import commands
from cvae.errors import RunNotFound, SpecError
from cvae.loading.loaded import load_run
from cvae.run.folder import RunFolder
from cvae.spec.document import load_spec
from cvae.tracking import ui
from tests import children
from tests.children import ROOT as ROOT
from tests.children import Child, until
from tests.children import Done as Done
from tests.children import environment as environment
from tests.conftest import data_set, write

SMALL = "data.train_images=600 data.validation_images=100"
QUICKSTART = "experiments/quickstart.yaml"


def cvae(*arguments: str, **extra: str) -> Done:
    return children.python("-m", "cvae", *arguments, env=environment(**extra))


def start(*arguments: str, **extra: str) -> Child:
    command = [sys.executable, "-m", "cvae", *arguments]
    return children.start(command, env=environment(**extra))


def wait_for_epoch(folder: Path, epoch: int, process: Child) -> None:
    def reached() -> bool:
        done = len(RunFolder(folder).records()) >= epoch
        assert done or process.poll() is None, process.communicate()
        return done

    until(reached)


def wait_for_run(runs: Path, process: Child) -> RunFolder:
    """The only run in a folder, once its process has begun it."""

    def begun() -> bool:
        done = bool(list(runs.glob("*/run.json")))
        assert done or process.poll() is None, process.communicate()
        return done

    until(begun)
    return the_run(runs)


def the_run(runs: Path) -> RunFolder:
    (found,) = runs.glob("*/run.json")
    return RunFolder(found.parent)


def test_a_run_prints_its_figures_on_stdout_and_progress_on_stderr(
    finished: tuple[Path, Done],
) -> None:
    runs, done = finished
    assert done.returncode == 0
    assert "test/neg_elbo" in done.stdout
    assert "epoch" not in done.stdout
    val = the_run(runs).records()[1]["metrics"]["val/neg_elbo"]
    assert f"epoch 2/2  val neg_elbo {val:.2f}  train neg_elbo" in done.stderr
    pictures = {path.name for path in the_run(runs).figures.iterdir()}
    assert pictures >= {"digits.png", "reconstructions.png"}


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["run", "no/such.yaml"], 2, "cannot be read"),
        (["run", QUICKSTART, "--set", "model.latent=3"], 2, "did you mean latent_dim"),
        (["run", QUICKSTART, "--set", "data.root=/nowhere"], 3, "no such folder"),
        (["run", QUICKSTART, "--set", "training.device=cuda"], 2, "no CUDA device"),
        (["samples", "--run", "nothing"], 2, "no run 'nothing'"),
        (["samples", "--digit", "12"], 2, "--digit: must be an integer of 0 to 9"),
        (["samples", "--out", "x.jpg"], 2, "end the name in .png"),
    ],
)
def test_a_mistake_gets_one_clear_message_and_its_exit_code(
    arguments: list[str], code: int, words: str, tmp_path: Path
) -> None:
    done = cvae(*arguments, "--runs", str(tmp_path), CUDA_VISIBLE_DEVICES="")
    assert (done.returncode, done.stdout) == (code, "")
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_an_interrupted_run_goes_on_to_the_same_weights(
    tmp_path: Path, tiny_root: Path
) -> None:
    """SIGTERM; SIGKILL and Ctrl-C are those of tests/run/test_nothing_lost.py."""
    changes = f"data.root={tiny_root} data.validation_images=50 training.epochs=200"
    command = ["run", QUICKSTART, "--offline", "--set", f"{changes} model.hidden=[16]"]
    process = start(*command, "--runs", str(tmp_path / "cut"))
    folder = wait_for_run(tmp_path / "cut", process)
    wait_for_epoch(folder.path, 3, process)
    process.send_signal(signal.SIGTERM)
    process.communicate()
    assert process.returncode == 143
    assert folder.status == "KILLED"
    assert len(folder.records()) < 200

    resumed = cvae(*command, "--runs", str(tmp_path / "cut"))
    assert resumed.returncode == 0, resumed.stderr
    assert "going on with" in resumed.stderr
    assert cvae(*command, "--runs", str(tmp_path / "whole")).returncode == 0
    expected = the_run(tmp_path / "whole")
    assert folder.status == expected.status == "FINISHED"
    assert folder.weights.read_bytes() == expected.weights.read_bytes()
    assert untimed(folder) == untimed(expected)


def untimed(folder: RunFolder) -> list[dict[str, float]]:
    """A run's metrics without the wall clock's."""
    return [
        {k: v for k, v in record["metrics"].items() if not k.startswith("time/")}
        for record in folder.records()
    ]


def test_the_second_process_on_a_spec_is_told_who_holds_it(
    tmp_path: Path, tiny_root: Path
) -> None:
    arguments = ["run", QUICKSTART, "--offline", "--runs", str(tmp_path)]
    arguments += ["--set", f"data.root={tiny_root} data.validation_images=50"]
    arguments[-1] += " training.epochs=5000 model.hidden=[16]"
    first = start(*arguments)
    wait_for_epoch(wait_for_run(tmp_path, first).path, 1, first)
    second = cvae(*arguments)
    assert second.returncode == 1
    assert f"pid {first.pid} on" in second.stderr
    assert "Traceback" not in second.stderr


def test_no_argument_reaches_out_of_the_folder_of_runs(
    tmp_path: Path, finished: tuple[Path, Done]
) -> None:
    before = sorted(path for path in finished[0].rglob("*"))
    for text in ("../../up", "$(touch {0})", "x {0}", "-x {0} 🦊", "../" * 5000):
        with pytest.raises(RunNotFound):
            load_run(text.format(tmp_path / "trap"), runs=finished[0])
        with pytest.raises(SpecError):
            load_spec(ROOT / QUICKSTART, [f"name={text}"])
    assert sorted(path for path in finished[0].rglob("*")) == before
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_the_ui_listens_on_this_machine_only_unless_asked_with_a_warning(
    host: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    served: list[str] = []
    monkeypatch.setattr(ui, "serve", lambda runs, host, port: served.append(host))
    with caplog.at_level("WARNING", "cvae"):
        __main__.main(["ui", *[f"--host={host}"] * (host != "127.0.0.1")])
    assert served == [host]
    assert ("open to the network" in caplog.text) == (host == "0.0.0.0")


def test_a_bare_name_is_looked_for_in_experiments(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(ROOT)
    assert commands.spec_file("quickstart") == "experiments/quickstart.yaml"
    assert commands.spec_file("beta.yaml") == "experiments/sweeps/beta.yaml"
    assert commands.spec_file("../quickstart") == "../quickstart"


def test_a_leading_tilde_is_the_home_folder_and_out_may_be_a_folder(
    finished: tuple[Path, Done],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "runs").symlink_to(finished[0])
    words = ["samples", "--runs=~/runs", "--digit", "5", "--out=~/pictures"]
    assert __main__.main(words) == 0
    picture = f"{tmp_path}/pictures/digit_5.png"
    assert capsys.readouterr().out.split(":")[0] == picture
    assert __main__.main(["run", QUICKSTART, "--set", "data.root=~/none"]) == 3
    assert f"{tmp_path}/none: no such" in caplog.text
    (tmp_path / "python").symlink_to(sys.executable)
    words = ["make", "experiment", "PY=~/python", "CONFIG=~/x.yaml"]
    done = children.run(words, env=environment(HOME=str(tmp_path)))
    assert f"{tmp_path}/x.yaml" in done.stderr


def test_a_reader_that_is_gone_ends_the_command_with_1() -> None:
    code = 'set -o pipefail; "$0" -m cvae schema | true'
    for _ in range(2):  # whatever of the two is first
        assert children.run(["bash", "-c", code, sys.executable]).returncode == 1


RUN = [sys.executable, "-m", "cvae", "run"]
TINY = "data.validation_images=0 training.epochs=2 model.hidden=[8]"


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    """A run of seconds; its name and its header are not ASCII."""
    root = write(tmp_path / "data", data_set(50, 20))
    spec = tmp_path / "tiny.yaml"
    spec.write_text("# Question: β?\nname: tiny\n", encoding="utf-8")
    changes = f"{TINY} data.root={root}"
    return [*RUN, str(spec), "--runs", str(tmp_path / "runs"), "--set", changes]


def shell(redirection: str, command: list[str], **extra: str) -> Done:
    words = ["bash", "-c", f'"$@" {redirection}', "bash", *command]
    return children.run(words, env=children.environment(**extra))


@pytest.mark.parametrize(
    ("redirection", "offline"),
    [("2>&- <&-", []), ("2>/dev/full", ["--offline"])],
)
def test_a_stderr_that_takes_nothing_ends_no_run(
    redirection: str,
    offline: list[str],
    command: list[str],
    tmp_path: Path,
    finished: tuple[Path, Done],
) -> None:
    children.copy([finished[0] / "mlflow.db"], tmp_path / "runs")
    # PYTHONUNBUFFERED, which some machines set, would leave nothing for the exit
    done = shell(redirection, [*command, *offline], PYTHONUNBUFFERED="")
    assert (done.returncode, the_run(tmp_path / "runs").status) == (0, "FINISHED")
    assert "test/neg_elbo" in done.stdout
    assert "epoch 1/2" not in done.stdout


def test_an_ascii_terminal_shows_what_it_can(
    command: list[str], tmp_path: Path
) -> None:
    extra = {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C"}
    done = shell("", [*command, "--offline"], **extra)
    assert done.returncode == 0, done.stderr
    listed = shell("", [*RUN[:-1], "list", "--runs", str(tmp_path / "runs")], **extra)
    assert listed.returncode == 0, listed.stderr
    assert " ? " in listed.stdout  # a dash, where no judge knows the data


def test_a_terminal_without_a_size_gets_its_bar(
    command: list[str], tmp_path: Path
) -> None:
    ours, theirs = pty.openpty()  # a new one has 0 rows and 0 columns
    with os.fdopen(ours, "rb"), os.fdopen(theirs, "wb") as errors:
        done = children.run([*command, "--offline"], errors=errors)
    assert done.returncode == 0
    assert the_run(tmp_path / "runs").status == "FINISHED"
