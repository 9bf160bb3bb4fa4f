"""What only shows or labels ends no command: streams, terminals, names of users."""

from __future__ import annotations

import os
import pty
import signal
import sys
from pathlib import Path

import pytest

from cvae import likelihood
from cvae.run.progress import decoding_progress
from tests import children
from tests.conftest import data_set, generator, untrained_run, write
from tests.test_commands import Done, start, the_run

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


@pytest.mark.parametrize("redirection", ["2>&-", "2>/dev/full", "2> >(exit)", "<&-"])
def test_a_stderr_that_takes_nothing_ends_no_run(
    redirection: str, command: list[str], tmp_path: Path
) -> None:
    # PYTHONUNBUFFERED, which some machines set, would leave nothing for the exit
    done = shell(redirection, command, PYTHONUNBUFFERED="")
    assert (done.returncode, the_run(tmp_path / "runs").status) == (0, "FINISHED")
    assert "test/neg_elbo" in done.stdout
    assert "epoch 1/2" not in done.stdout


@pytest.mark.parametrize(
    "extra",
    [
        {"PYTHONIOENCODING": "ascii"},
        {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C"},
    ],
)
def test_an_ascii_terminal_shows_what_it_can(
    command: list[str], tmp_path: Path, extra: dict[str, str]
) -> None:
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


def test_an_evaluation_shows_how_far_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = untrained_run(tmp_path)
    from cvae.loading.loaded import load_data

    images = load_data(run.spec).test
    with decoding_progress(run.model, "test", 50 * len(images), every=0):
        likelihood.importance_nll(run.model, images, generator(), samples=50)
    shown = capsys.readouterr().err.splitlines()
    assert shown[-1].split() == ["test", "100", "%"]
    with decoding_progress(run.model, "test", 1000 * len(images), every=0):
        likelihood.importance_nll(run.model, images, generator(), samples=50)
    assert capsys.readouterr().err.splitlines()[-1].startswith("test  5 %")


def test_an_interrupted_evaluation_says_that_it_kept_nothing(
    finished: tuple[Path, Done],
) -> None:
    words = ["--runs", str(finished[0]), "--importance-samples", "100000"]
    process = start("evaluate", *words)
    assert process.stderr is not None
    assert "100000 samples of each test image" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate()
    assert process.returncode == 130
    assert "none were now" in errors
    assert "checkpoint" not in errors
