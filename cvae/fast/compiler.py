"""C compiled at first use and loaded: by whose compiler, kept where, trusted when.

Code is loaded only from files and folders that nobody but the user and root can write,
and only if it is whole; what is not is compiled anew, elsewhere if need be.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

COMPILERS = ("cc", "gcc", "clang")
# No flag that changes a result but for the joining of a product with a sum.
FLAGS = (
    *("-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math"),
    *("-fno-signed-zeros", "-ffp-contract=fast", "-shared", "-fPIC", "-pthread"),
)
PATIENCE = 20.0  # seconds for a compiler, which needs one


def load(source: Path) -> ctypes.CDLL:
    """The library of a C source, from the first folder that will do.

    Raises:
        OSError: it cannot be had, and why.
    """
    command, faults = _compiler(), []
    for home in _homes(source):
        try:
            return ctypes.CDLL(str(_built(source, home, command)))
        except TimeoutError:  # would be one everywhere
            raise
        except OSError as error:  # not ours alone, read-only, full, without execution
            faults.append(str(error))
    raise OSError(faults[-1])


def _compiler() -> list[str]:
    """The words that call a C compiler: those of CC, or the first that is there."""
    if words := shlex.split(os.environ.get("CC", "")):
        if not shutil.which(words[0]):
            raise OSError(f"CC={words[0]}: no such command")
        return words
    if found := next(filter(None, map(shutil.which, COMPILERS)), None):
        return [found]
    raise OSError(f"there is no C compiler ({', '.join(COMPILERS)}); install one")


def _built(source: Path, home: Path, compiler: list[str]) -> Path:
    """The shared library of a source, compiler and processor in a folder, compiled
    anew unless it is there, whole, and nobody else's.

    Raises:
        OSError: others can write to the folder, or it cannot be compiled there.
    """
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not _is_ours(home):
        raise OSError(f"{home}: others can write to it")
    key = hashlib.sha256(
        source.read_bytes() + repr((compiler, FLAGS)).encode() + _processor()
    )
    path = home / f"{source.stem}-{key.hexdigest()[:16]}.so"
    if path.exists() and _is_ours(path) and _is_whole(path.read_bytes()):
        return path
    with tempfile.TemporaryDirectory(dir=home) as folder:
        made = Path(folder) / path.name
        _compile([*compiler, *FLAGS, str(source), "-o", str(made), "-lm"])
        with made.open("r+b") as file:  # the loader reads nothing behind the library
            code = file.read()
            file.write(hashlib.sha256(code).digest())
            os.fsync(file.fileno())
        made.chmod(0o644)
        made.replace(path)
    return path


def _compile(command: list[str]) -> None:
    """Run a compiler, for at most PATIENCE.

    Raises:
        OSError: it failed.
        TimeoutError: it took too long.
    """
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=PATIENCE,
        )
    except subprocess.TimeoutExpired:
        message = f"{command[0]} took longer than {PATIENCE:.0f} s"
        raise TimeoutError(message) from None
    if done.returncode:
        said = done.stderr.decode(errors="replace").partition("\n")[0]
        raise OSError(f"{command[0]} failed (exit code {done.returncode}): {said}")


def _is_ours(path: Path) -> bool:
    """Whether nobody but this user and root can have written a file or folder."""
    found = path.stat()
    return found.st_uid in (0, os.geteuid()) and not found.st_mode & 0o022


def _is_whole(data: bytes) -> bool:
    """Whether a library ends with its own digest: torn code ends the process."""
    return hashlib.sha256(data[:-32]).digest() == data[-32:]


def _homes(source: Path) -> Iterator[Path]:
    """Where the library may be kept: beside Python's own compiled files, in the user's
    cache, or for this process alone."""
    yield source.parent / "__pycache__"
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")  # noqa: PTH111
    if Path(cache).is_absolute():  # not so without HOME
        yield Path(cache) / "cvae"
    with tempfile.TemporaryDirectory(prefix="cvae-") as folder:
        yield Path(folder)


def _processor() -> bytes:
    """What the compiler may use of this processor: another one has another library."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    keys = "model name", "flags"
    fields = (next((row for row in lines if row.startswith(key)), "") for key in keys)
    return "".join(fields).encode()
