"""What make calls, with the system's python3: `python3 cvae/cli/front.py TARGET`.

Checks the variables before anything is installed, sets up .venv (or takes PY), and
starts `python -m cvae TARGET`. A value goes from make's command line to that command
as it is: nothing in it is expanded or run. Standard library only.
"""

from __future__ import annotations

import difflib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # it begins with the folder of this script

from cvae.cli.table import (  # noqa: E402
    ARGUMENTS,
    COMMANDS,
    REMOVED,
    SWITCHES,
    Command,
    at_home,
)

ON, OFF = {"1", "yes", "true", "on"}, {"0", "no", "false", "off", ""}
NOWHERE = ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES")  # of a make in a make
OTHER_FLAGS = {"figures FROM": "--runs", "soak N": "--kills"}  # else --name
FILES = ("requirements.txt", "requirements-dev.txt", "requirements-extra.txt")
NEEDS = {  # modules beyond those of requirements.txt
    "test": "pytest xdist hypothesis",
    "test-services": "pytest hypothesis playwright psycopg ray",
    "lint": "ruff mypy",
    "walkthrough": "jupytext nbclient ipykernel",
}
MISSING = """import importlib.util, sys
print(*(n for n in sys.argv[1:] if not importlib.util.find_spec(n)), end="")"""


def main(goal: str) -> None:
    given = os.environ.get("GIVEN", "").split()
    values = {name: os.environ.get(f"VALUE_{name}", "") for name in given}
    goals = os.environ.get("GOALS", "").split() or ["help"]
    check(goals, values)
    if goal == "help":
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `make | head`
        return print(listed())
    if goal == "clean":
        return clean()
    every = list(lines(goal, values))
    prepared(goal, values)
    python = at_home(values.get("PY", "")) or str(ROOT / ".venv/bin/python")
    for name in [*NOWHERE, *(n for n in os.environ if n.startswith("VALUE_"))]:
        os.environ.pop(name, None)
    os.environ["PYTHONPATH"] = str(ROOT)
    if goal == "soak":
        os.environ["OMP_NUM_THREADS"] = "1"
    for line in every[:-1]:
        if code := called([python, "-m", *line]):
            sys.exit(code)
    try:
        os.execvp(python, [python, "-m", *every[-1]])
    except OSError as error:
        refuse(f"PY={python}: {error.strerror}")


def check(goals: Sequence[str], values: dict[str, str]) -> None:
    """Refuse a target that is not there, and a variable that none of them takes."""
    for goal in goals:
        if goal in REMOVED:
            refuse(f"make {goal} was removed in version 2.0.0: {REMOVED[goal]}")
        if goal not in COMMANDS:
            near = difflib.get_close_matches(goal, COMMANDS, 1, 0.5)
            hint = f"; did you mean {near[0]}?" if near else ""
            refuse(f"make {goal}: no such target{hint}; make prints all")
    taken = ["PY", *dict.fromkeys(name for goal in goals for name in takes(goal))]
    for name, value in values.items():
        if name not in taken:
            near = difflib.get_close_matches(name.upper(), taken, 1, 0.5)
            asked = near and name not in ARGUMENTS
            hint = f"; did you mean {near[0]}=?" if asked else ""
            if "SET" in taken:
                hint += '; a field of the spec goes into SET: SET="training.seed=1"'
            said = f"{name}=: no such variable for make {' '.join(goals)}"
            refuse(f"{said}{hint}; it takes {' '.join(taken)}")
        if name in SWITCHES and value.lower() not in ON | OFF:
            refuse(f"{name}={value}: say 1 or 0 (yes or no, true or false, on or off)")
    for goal in goals:
        for name in COMMANDS[goal].takes.split():
            if name.endswith("!") and not values.get(name[:-1]):
                example = f"make {goal} {COMMANDS[goal].example}"
                refuse(f"{name[:-1]}=: say which, such as {example}")


def takes(goal: str) -> list[str]:
    more = ["ATTACH"] if goal == "evaluate" else []  # of its page
    return COMMANDS[goal].variables + more


def lines(goal: str, values: dict[str, str]) -> Iterator[list[str]]:
    """What follows `python -m`, one process after the other."""
    command = COMMANDS["data" if goal == "setup" else goal]
    words = list(arguments(goal, command, values))
    if ":" in command.act:
        yield ["cvae", "data" if goal == "setup" else goal, *words]
    else:
        for line in command.act.split(";"):
            yield [*line.split(), *words]
    if goal == "sweep" and values.get("DRY", "").lower() not in ON:
        yield ["cvae", "compare", f"--last-sweep={values['CONFIG']}"]
    if goal == "evaluate" and values.get("WHAT"):
        yield ["cvae", "page", *arguments("page", COMMANDS["page"], values)]


def arguments(goal: str, command: Command, values: dict[str, str]) -> Iterator[str]:
    for name in command.variables:
        value = values.get(name, "")
        flag = ARGUMENTS[name][0] if name in ARGUMENTS else f"--{name.lower()}"
        flag = OTHER_FLAGS.get(f"{goal} {name}", flag)
        if name in SWITCHES:
            yield from [flag] * (value.lower() in ON)
        elif name in ("PYTEST", "RUNS"):
            yield from value.split()
        elif value:
            yield f"{flag}={value}" if flag.startswith("--") else value


def prepared(goal: str, values: dict[str, str]) -> None:
    """The packages that the target needs: installed into .venv, or there in PY."""
    needs = NEEDS.get(goal, "").split()
    files = FILES[: 1 + bool(needs) + (goal == "test-services")]
    if given := at_home(values.get("PY", "")):
        asked = [given, "-c", MISSING, *needs]
        try:
            missing = subprocess.check_output(asked).decode() if needs else ""
        except (OSError, subprocess.CalledProcessError) as error:
            refuse(f"PY={given}: {error}")
        if missing:
            cure = f"{given} -m pip install -r {files[-1]}"
            refuse(f"PY={given} has no {missing.strip()}: {cure}")
        return  # of other packages `cvae` says the same
    python, venv = ROOT / ".venv/bin/python", ROOT / ".venv"
    for file in files:
        wanted, stamp = (ROOT / file).read_text(), venv / f".{file}"
        if stamp.exists() and stamp.read_text() == wanted:
            continue
        if not python.exists():
            created(venv)
        pip = [str(python), "-m", "pip", "install", "--quiet"]
        pip += ["--disable-pip-version-check", "-r", str(ROOT / file)]
        print(f"installing {file} into .venv", file=sys.stderr)
        if code := called(pip):
            sys.exit(code)
        stamp.write_text(wanted)


def created(venv: Path) -> None:
    if sys.version_info < (3, 11):  # noqa: UP036
        found = ".".join(map(str, sys.version_info[:2]))
        refuse(
            f"python3 is Python {found}: 3.11 or newer is needed; install it, or name "
            "the python of an environment that has the packages: PY=path/to/python"
        )
    try:
        import ensurepip  # noqa: F401
        import venv as _  # noqa: F401
    except ImportError:
        refuse(
            "python3 has no venv: install it, on Debian and Ubuntu with apt install "
            "python3-venv"
        )
    if code := called([sys.executable, "-m", "venv", str(venv)]):
        sys.exit(code)


def called(command: list[str]) -> int:
    """The exit code of a command; signals that end this process end the command."""
    child = subprocess.Popen(command)

    def passed_on(number: int, _: object) -> None:
        if number != signal.SIGINT:  # Ctrl-C has reached both
            child.send_signal(number)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, passed_on)
    code = child.wait()
    return code if code >= 0 else 128 - code


def listed() -> str:
    """Every command with an example."""
    names = [name for name in COMMANDS if name not in ("page", "schema")]
    rows = [
        f"  {name:14} {COMMANDS[name].help:40} make {name} {COMMANDS[name].example}"
        for name in names
    ]
    head = "Conditional VAEs on raw MNIST\n"
    first = "\nBegin with: make experiment CONFIG=experiments/quickstart.yaml"
    return "\n".join([head, *map(str.rstrip, rows), first])


def clean() -> None:
    caches = (".pytest_cache", ".ruff_cache", ".mypy_cache", ".hypothesis", "samples")
    for folder in [*map(ROOT.joinpath, caches), *ROOT.rglob("__pycache__")]:
        if ".venv" not in folder.parts:
            shutil.rmtree(folder, ignore_errors=True)


def refuse(message: str) -> NoReturn:
    print(message, file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main(sys.argv[1])
