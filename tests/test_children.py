"""The tests' own child processes: started alike from anywhere, and ended."""

from __future__ import annotations

import ast
import os
import signal
import sys
from pathlib import Path
from subprocess import Popen

import pytest

from tests import children
from tests.children import ROOT, Child
from tests.prepared import Forked

IGNORING = """
import signal, sys
for number in (signal.SIGINT, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)  # as nohup and & leave it
from tests import children
children.default_signals()
signal.raise_signal(signal.SIGINT)
signal.raise_signal(signal.SIGHUP)
asks = "from signal import *; print(getsignal(SIGHUP) is SIG_DFL, getsignal(SIGINT))"
print(children.python("-c", asks).stdout, end="")
"""
LEAVING = """
import os, sys
from tests import children
child = children.start(["sh", "-c", "sleep 1000 & echo $! $$; wait"])
print(child.stdout.readline(), end="", flush=True)
os.kill(os.getpid(), 9)
"""


def gone(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return True
    return state == "Z"


def test_a_child_has_default_signals_where_pytest_ignores_them() -> None:
    done = children.python("-c", IGNORING)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"True {signal.default_int_handler}\n"


def test_a_child_has_no_terminal_and_leads_its_group() -> None:
    code = "import os, sys; print(os.getpgrp() == os.getsid(0) == os.getpid())\n"
    done = children.python("-c", f"{code}print(sys.stdin.isatty(), sys.stdin.read())")
    assert done.stdout == "True\nFalse \n"


def test_children_end_with_their_children_when_pytest_is_killed() -> None:
    done = children.python("-c", LEAVING)
    assert done.returncode == -signal.SIGKILL
    left = [int(pid) for pid in done.stdout.split()]
    assert len(left) == 2
    children.until(lambda: all(map(gone, left)))


def test_children_end_with_their_children_when_the_test_ends() -> None:
    with children.ended():
        child = children.start(["sh", "-c", "sleep 1000 & echo $! $$; wait"])
        assert child.stdout is not None
        left = [int(pid) for pid in child.stdout.readline().split()]
    assert len(left) == 2
    children.until(lambda: all(map(gone, left)))


def test_a_child_that_nobody_waits_for_has_a_time_limit() -> None:
    child = children.start([sys.executable, "-c", "input()"], stdin=-1, limit=0.5)
    assert child.wait(children.LIMIT) == -signal.SIGKILL


OTHERS = [
    file
    for file in sorted((ROOT / "tests").rglob("*.py"))
    if file.name not in ("children.py", "guard.py", "prepared.py")
]


@pytest.mark.parametrize("file", OTHERS, ids=lambda file: file.stem)
def test_no_other_file_starts_a_process_by_itself(file: Path) -> None:
    names = {
        f"{node.value.id}.{node.attr}"
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
    }
    starts = {"run", "Popen", "call", "check_call", "check_output"}
    assert not names & {f"subprocess.{start}" for start in starts}
    assert not names & {"os.system", "os.popen", "os.fork", "os.posix_spawn"}


@pytest.mark.parametrize("words", ["--help", "list", "run absent.yaml", "no-command"])
def test_a_prepared_process_is_like_a_new_interpreter(
    words: str, tmp_path: Path
) -> None:
    def told(**extra: str) -> tuple[type[Child], int, str, str]:
        env = children.environment(**extra)
        command = [sys.executable, "-m", "cvae", *words.split()]
        child = children.start(command, cwd=tmp_path, env=env)
        assert os.getsid(child.pid) == child.pid
        output, errors = child.communicate()
        return type(child), child.returncode, output, errors

    prepared, *forked = told()
    new, *started = told(PYTHONNODEBUGRANGES="1")
    assert forked == started
    if sys.platform == "linux":
        assert (prepared, new) == (Forked, Popen)
