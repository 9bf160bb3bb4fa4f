"""Which compiled code is loaded, and what happens where there is none.

Only where there is a C compiler: conftest leaves this file out elsewhere, and says so.
"""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from cvae.fast import compiler, cpu_kernel
from cvae.run import provenance


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """C that is compiled in no time."""
    (tmp_path / "answer.c").write_text("int answer(void) { return 42; }\n")
    return tmp_path / "answer.c"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder that the steps may be compiled in."""
    monkeypatch.setattr(compiler, "_homes", lambda _: [tmp_path / "cache"])
    monkeypatch.setattr(
        cpu_kernel, "_library", functools.cache(cpu_kernel._library.__wrapped__)
    )
    return tmp_path / "cache"


def a_compiler(folder: Path, *lines: str) -> str:
    """A shell script that stands for a compiler."""
    script = folder / "compiler"
    script.write_text("\n".join(["#!/bin/sh", *lines]) + "\n")
    script.chmod(0o755)
    return str(script)


NONE = ["true"], "CC=no-such-compiler: no such command"
FAILS = ["echo wrong >&2; exit 3"], "failed (exit code 3): wrong"
HANGS = ["exec sleep 1000"], "took longer than 1 s"


@pytest.mark.parametrize(("lines", "reason"), [NONE, FAILS, HANGS])
def test_torch_trains_where_nothing_compiles_and_one_line_says_why(
    lines: list[str],
    reason: str,
    cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    named = "no-such-compiler" if "no such" in reason else a_compiler(tmp_path, *lines)
    monkeypatch.setenv("CC", named)
    monkeypatch.setattr(compiler, "PATIENCE", 1.0)
    assert cpu_kernel.library() is None
    (message,) = caplog.messages
    assert reason in message
    assert not cache.exists() or not list(cache.iterdir())
    assert provenance.hardware(torch.device("cpu"))["steps"] == "torch"


def test_the_compiler_is_that_of_cc_and_called_once(
    cache: Path, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    called = tmp_path / "called"
    counting = a_compiler(tmp_path, f'echo >> {called}; exec cc "$@"')
    monkeypatch.setenv("CC", f"{counting} -g0")
    assert compiler.load(source)
    assert compiler.load(source)
    assert called.read_text() == "\n"
    monkeypatch.setattr(compiler, "_processor", lambda: b"another")
    assert compiler.load(source)
    assert called.read_text() == "\n\n"


@pytest.mark.parametrize("what", ["file", "folder"])
@pytest.mark.parametrize("whose", ["of another owner", "open to others"])
def test_code_that_others_can_write_is_not_loaded(
    what: str,
    whose: str,
    cache: Path,
    source: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    homes = [cache, tmp_path / "next"]
    monkeypatch.setattr(compiler, "_homes", lambda _: homes)
    assert compiler.load(source)
    (built,) = cache.iterdir()
    planted = built if what == "file" else cache
    if whose == "open to others":
        planted.chmod(0o775)
    else:  # only root could give it away
        real = Path.stat

        def stat(path: Path, **options: Any) -> os.stat_result:
            found = list(real(path, **options))
            found[4] = 12345 if path == planted else found[4]
            return os.stat_result(found)

        monkeypatch.setattr(Path, "stat", stat)
    before = built.stat().st_ino
    assert compiler.load(source)
    if what == "file":
        assert built.stat().st_ino != before  # compiled anew
    else:
        assert len(list(homes[1].iterdir())) == 1


def test_a_torn_library_is_compiled_anew(cache: Path, source: Path) -> None:
    assert compiler.load(source)
    (built,) = cache.iterdir()
    whole = built.read_bytes()
    built.unlink()  # the loaded one stays as it is
    built.write_bytes(whole[: len(whole) // 2])
    built.chmod(0o644)
    assert compiler.load(source)
    assert built.read_bytes() == whole
