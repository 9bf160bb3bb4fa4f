"""Make's door: what is typed reaches the command as it is, or is refused at once."""

from __future__ import annotations

import re
import shutil
import sys
import tomllib
from pathlib import Path

import pytest

from cvae.cli import front
from cvae.cli.table import ALIASES, ARGUMENTS, COMMANDS, SWITCHES
from tests import children
from tests.children import Done

SPEC = "CONFIG=experiments/quickstart.yaml"
EVERY = sorted({name for goal in COMMANDS for name in front.takes(goal)})
HOSTILE = (
    *(
        "$(touch {0})",
        "`touch {0}`",
        "x; touch {0}",
        "$(shell touch {0})",
        "a b|touch c",
    ),
    *("$$HOME $(HOME) ${{HOME}}", 'it\'s "so" \\', "-rf", "*", "../../up\n#x", "β"),
)


@pytest.fixture(scope="session")
def printer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A `python` that prints its arguments, each with a NUL behind it."""
    path = tmp_path_factory.mktemp("printer") / "python"
    path.write_text(
        '#!/bin/sh\n[ "$1" = -c ] && exit\nfor w; do printf "%s\\0" "$w"; done\n'
    )
    path.chmod(0o755)
    return path


def make(*arguments: str, **environment: str) -> Done:
    """`make` with `echo` in the place of Python: it prints what Python gets."""
    env = children.environment(**environment)
    return children.run(["make", "PY=echo", *arguments], limit=60, env=env)


def test_make_lists_every_command_and_each_example_is_taken() -> None:
    listed = make().stdout
    for goal, command in COMMANDS.items():
        if goal in ("page", "schema"):
            continue
        assert f"make {goal} {command.example}".strip() in listed
        names = re.findall(r"(?:^| )([A-Z_]+)=", command.example)
        front.check([goal], dict.fromkeys(names, "1"))
        assert set(names) <= {*front.takes(goal)}


@pytest.mark.parametrize("goal", [goal for goal in COMMANDS if COMMANDS[goal].act])
def test_no_value_is_expanded_or_run(goal: str, printer: Path, tmp_path: Path) -> None:
    names = [name for name in front.takes(goal) if name not in SWITCHES]
    trap = tmp_path / "trap"
    for text in HOSTILE if names else ():
        value = text.format(trap)
        done = children.run(
            ["make", goal, f"PY={printer}", *(f"{name}={value}" for name in names)]
        )
        assert done.returncode == 0, done.stderr
        words = [re.sub("^--[a-z-]+=", "", word) for word in done.stdout.split("\0")]
        split = len({"PYTEST", "RUNS"} & {*names})  # of which each word is one
        assert words.count(value) >= len(names) - split
        assert {*value.split()} <= {*words} or not split
        assert not trap.exists()
    if goal == "list":
        for text in HOSTILE:
            assert children.run(["make", goal, f"PY={text.format(trap)}"]).returncode
            assert not trap.exists()


def test_nothing_of_the_environment_reaches_a_command() -> None:
    shell = dict.fromkeys([*EVERY, "GIVEN", "GOALS", "VALUE_N"], "/trap")
    for goal in ("experiment", "sweep", "samples", "evaluate", "report", "ui"):
        done = make(goal, *[SPEC] * (goal in ("experiment", "sweep")), **shell)
        assert done.returncode == 0, done.stderr
        assert "trap" not in done.stdout, goal
        assert "--offline" not in done.stdout
    assert "-m cvae ui --host=here\n" in make("ui", "HOST=here", HOST="trap").stdout
    assert make("-e", "samples", N="7", SEED="8").stdout.split()[-1] == "samples"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["experiment", SPEC, "set=model.latent_dim=8"], "set=.*did you mean SET="),
        (["sweep", SPEC, "THREDS=1"], "THREDS=.*did you mean THREADS="),
        (["samples", "DIGITS=4"], "DIGITS=.*did you mean DIGIT="),
        (["samples", "whatever=x"], "it takes PY RUN DIGIT N SEED TEMPERATURE OUT"),
        (["samples", "don't=4"], "don't=: no such variable"),
        (["samples", "GIVEN=x", "SHELL=x"], "no such variable"),
        (["experiment", SPEC, "SEED=3"], 'SEED=.*SET="training.seed=1"'),
        (["RUN=x"], "RUN=: no such variable for make help"),
        (["experiment"], "CONFIG=: say which, such as make experiment CONFIG="),
        (["experimnt"], "no such target; did you mean experiment"),
        (["compress", "RUN=x"], "removed in version 2.0.0.*examples/bits_back"),
        (["experiment", SPEC, "OFFLINE=maybe"], "say 1 or 0"),
        (["data", "samples", "K=3"], "K=: no such variable for make data samples"),
    ],
)
def test_what_the_target_does_not_take_is_refused(
    arguments: list[str], words: str
) -> None:
    done = make(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert re.search(words, done.stderr)


def test_two_targets_take_what_either_takes() -> None:
    done = make("samples", "evaluate", "RUN=x", "N=3", "K=9")
    assert "samples --run=x --n=3\n" in done.stdout
    assert "evaluate --run=x --importance-samples=9\n" in done.stdout


def test_a_switch_is_on_or_off() -> None:
    for value in ("0", "no", "No", "false", "FALSE", "off", ""):
        done = make("sweep", SPEC, f"OFFLINE={value}", f"DRY={value}")
        assert "--offline" not in done.stdout
        assert "-m cvae compare --last-sweep" in done.stdout
    for value in ("1", "yes", "true", "True", "on"):
        done = make("sweep", SPEC, f"OFFLINE={value}", f"DRY={value}")
        assert "--offline --dry" in done.stdout
        assert "compare" not in done.stdout


def test_make_takes_every_command_that_the_documents_offer() -> None:
    pages = (
        "*.md",
        "docs/*.md",
        ".ci/run",
        ".github/**/*.yml",
        "experiments/**/*.yaml",
    )
    files = [file for page in pages for file in children.ROOT.glob(page)]
    text = "\n".join(f.read_text() for f in files if f.name != "CHANGELOG.md")
    value = r"(?:\"[^\"]*\"|'[^']*'|[^\s`]*)"
    offers = re.findall(rf"\bmake ([a-z-]+)((?: [A-Z_]+={value})+)", text)
    assert len(offers) > 10
    for goal, rest in offers:
        names = re.findall(r"([A-Z_]+)=", re.sub(r"\"[^\"]*\"|'[^']*'", "", rest))
        assert set(names) <= {*front.takes(goal), "PY"}, (goal, rest)


def test_the_table_is_whole() -> None:
    for name, command in COMMANDS.items():
        assert command.help
        if command.act.startswith("cvae."):
            assert {*command.variables} <= {*ARGUMENTS}, name
    assert {*ALIASES} <= {*COMMANDS}


# -- which Python ----------------------------------------------------------------------

OLD = "import sys; sys.version_info = (3, 10, 13)"
BARE = "import sys; sys.modules['ensurepip'] = None"  # as Debian's without python3-venv


@pytest.mark.parametrize(
    ("before", "words"),
    [
        (OLD, "python3 is Python 3.10: 3.11 or newer is needed; install it"),
        (BARE, "python3 has no venv: install it, on Debian and Ubuntu with apt"),
        (None, "there is no python3: install Python 3.11 or newer, with venv"),
    ],
)
def test_a_python_that_cannot_set_up_is_named_before_anything_is_made(
    before: str | None, words: str, tmp_path: Path
) -> None:
    folder, bin = tmp_path / "a clone", tmp_path / "bin"
    shutil.copytree(children.ROOT / "cvae" / "cli", folder / "cvae" / "cli")
    for name in ("Makefile", "requirements.txt", "cvae/__init__.py"):
        shutil.copy(children.ROOT / name, folder / name)
    bin.mkdir()
    if before:
        rest = "import runpy; sys.argv.pop(0); runpy.run_path(sys.argv[0], None, m)"
        (bin / "python3").write_text(
            f'#!/bin/sh\n[ "$1" = -c ] && exec {sys.executable} "$@"\n'
            f'exec {sys.executable} -c "{before}; m = \'__main__\'; {rest}" "$@"\n'
        )
        (bin / "python3").chmod(0o755)
    program = shutil.which("make") or "make"
    env = children.environment(PATH=str(bin))
    done = children.run([program, "list"], cwd=folder, limit=60, env=env)
    assert done.returncode == 2
    assert words in done.stderr.splitlines()[0]
    assert "Traceback" not in done.stderr
    assert not (folder / ".venv").exists()


@pytest.mark.parametrize(
    ("goal", "words"),
    [
        ("schema", "is not installed: .* install -r req"),
        ("lint", "has no ruff mypy: .*dev"),
    ],
)
def test_a_package_that_the_users_python_lacks_is_named(
    goal: str, words: str, tmp_path: Path
) -> None:
    bare = tmp_path / "bare"  # a Python without its packages
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')
    bare.chmod(0o755)
    done = children.run(["make", goal, f"PY={bare}"])
    assert done.returncode == 2
    assert re.search(words, done.stderr.splitlines()[0])


def test_every_file_that_says_which_python_says_the_same() -> None:
    project = tomllib.loads((children.ROOT / "pyproject.toml").read_text())
    assert project["project"]["requires-python"] == ">=3.11"
    assert project["tool"]["ruff"]["target-version"] == "py311"
    assert project["tool"]["mypy"]["python_version"] == "3.11"
    for file in ("cvae/__main__.py", "cvae/cli/front.py"):
        assert "sys.version_info < (3, 11)" in (children.ROOT / file).read_text()
    assert "Python 3.11 or newer" in (children.ROOT / "README.md").read_text()
