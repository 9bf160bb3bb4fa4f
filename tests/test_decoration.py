"""What only shows or labels ends no command: streams, terminals, names of users."""

from __future__ import annotations

import os
import pty
import sys
from pathlib import Path

import pytest

from tests import children
from tests.conftest import data_set, write
from tests.test_commands import Done, the_run

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


def test_a_reader_of_stderr_that_is_gone_ends_no_run(
    command: list[str], tmp_path: Path
) -> None:
    ours, theirs = os.pipe()
    os.close(ours)
    with os.fdopen(theirs, "wb") as errors:
        done = children.run([*command, "--offline"], errors=errors)
    assert (done.returncode, the_run(tmp_path / "runs").status) == (0, "FINISHED")


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
