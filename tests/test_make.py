"""Make's door: what is typed reaches the command as it is, or is refused at once."""

from __future__ import annotations

import ast
import itertools
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cvae import mnist
from cvae.cli import front
from cvae.cli.table import COMMANDS, SWITCHES
from cvae.errors import DataError
from tests import children
from tests.children import Done
from tests.conftest import data_set, write

SPEC = "CONFIG=experiments/quickstart.yaml"
EVERY = sorted({name for goal in COMMANDS for name in front.takes(goal)})
HOSTILE: tuple[str, ...] = (
    "$(touch {0})",
    "x; touch {0} `touch {0}`",
    "$(shell touch {0}) $$HOME",
)
HOSTILE += ("-rf", 'it\'s "so" \\', "../../up\n#x* β")


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


def test_no_value_is_expanded_or_run(printer: Path, tmp_path: Path) -> None:
    trap, turn = tmp_path / "trap", itertools.cycle(HOSTILE)
    for goal, command in COMMANDS.items():
        names = [name for name in front.takes(goal) if name not in SWITCHES]
        values = {name: next(turn).format(trap) for name in names if command.act}
        typed = [f"{name}={value}" for name, value in values.items()]
        if not typed:
            continue
        done = children.run(["make", goal, f"PY={printer}", *typed])
        assert done.returncode == 0, done.stderr
        words = {re.sub("^--[a-z-]+=", "", word) for word in done.stdout.split("\0")}
        for name, value in values.items():
            split = name in ("PYTEST", "RUNS")  # of which each word is one
            assert {*(value.split() if split else [value])} <= words
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
        (["samples", "whatever=x"], "it takes PY RUN DIGIT N SEED TEMPERATURE OUT"),
        (["experiment", SPEC, "SEED=3"], 'SEED=.*SET="training.seed=1"'),
        (["experiment"], "CONFIG=: say which, such as make experiment CONFIG="),
        (["experimnt"], "no such target; did you mean experiment"),
        (["compress", "RUN=x"], "removed in version 2.0.0.*examples/bits_back"),
        (["experiment", SPEC, "OFFLINE=maybe"], "say 1 or 0"),
    ],
)
def test_what_the_target_does_not_take_is_refused(
    arguments: list[str], words: str
) -> None:
    done = make(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert re.search(words, done.stderr)


def test_a_switch_is_on_or_off() -> None:
    off = make("sweep", SPEC, "OFFLINE=0", "DRY=no").stdout
    assert "--offline" not in off
    assert "-m cvae compare --last-sweep" in off
    on = make("sweep", SPEC, "OFFLINE=1", "DRY=True").stdout
    assert "--offline --dry" in on
    assert "compare" not in on


def test_make_takes_every_command_that_the_documents_offer() -> None:
    pages = ("*.md", "docs/*.md", ".ci/run", "experiments/**/*.yaml")
    files = [file for page in pages for file in children.ROOT.glob(page)]
    text = "\n".join(f.read_text() for f in files if f.name != "CHANGELOG.md")
    value = r"(?:\"[^\"]*\"|'[^']*'|[^\s`]*)"
    offers = re.findall(rf"\bmake ([a-z-]+)((?: [A-Z_]+={value})+)", text)
    assert len(offers) > 10
    for goal, rest in offers:
        names = re.findall(r"([A-Z_]+)=", re.sub(r"\"[^\"]*\"|'[^']*'", "", rest))
        assert set(names) <= {*front.takes(goal), "PY"}, (goal, rest)


# -- which Python ----------------------------------------------------------------------


def test_a_package_that_the_users_python_lacks_is_named(tmp_path: Path) -> None:
    bare = tmp_path / "bare"  # a Python without its packages
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')
    bare.chmod(0o755)
    wanted = {
        "schema": "is not installed: .* install -r requirements.txt",
        "lint": "has no ruff mypy: .*requirements-dev.txt",
    }
    for goal, words in wanted.items():
        done = children.run(["make", goal, f"PY={bare}"])
        assert done.returncode == 2
        assert re.search(words, done.stderr.splitlines()[0])


ROOT = children.ROOT
PROSE = {"and", "calls", "is", "it", "its", "one", "prints", "room", "the", "them"}


def words(node: ast.AST) -> Iterator[str]:
    """The texts in a file; what is filled in is an X."""
    for each in ast.walk(node):
        if isinstance(each, ast.JoinedStr):
            parts = (
                p.value if isinstance(p, ast.Constant) else "X" for p in each.values
            )
            yield "".join(map(str, parts))
        elif isinstance(each, ast.Constant) and isinstance(each.value, str):
            yield each.value


def offers() -> dict[str, set[str]]:
    """The targets of make that any text names, with the variables beside them."""
    found: dict[str, set[str]] = {}
    for file in [*ROOT.glob("cvae/**/*.py"), *ROOT.glob("analysis/**/*.py")]:
        for text in words(ast.parse(file.read_text())):
            form = r"\bmake\s+([a-z][a-z-]*)((?:\s+[A-Z_]+=(?:\"[^\"]*\"|\S+))*)"
            for target, rest in re.findall(form, text):
                variables = re.findall(r"([A-Z_]+)=", rest)
                found.setdefault(target, set()).update(variables)
    return {target: names for target, names in found.items() if target not in PROSE}


@pytest.mark.parametrize(("target", "variables"), sorted(offers().items()))
def test_every_target_that_a_text_names_takes_what_stands_beside_it(
    target: str, variables: set[str]
) -> None:
    values = {name: "1" if name in SWITCHES else "x" for name in variables}
    front.check([target], dict.fromkeys(front.takes(target), "1") | values)


def repository(place: Path, files: dict[str, bytes]) -> None:
    """A git repository that has these files."""
    write(place, files)
    for command in ("init -q", "add .", "-c user.name=a -c user.email=b commit -qm a"):
        done = children.run(["git", "-C", str(place), *command.split()])
        assert done.returncode == 0, done.stderr


def test_a_shipped_file_that_was_changed_comes_back_as_it_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "the data"
    repository(root, data_set(20, 20))
    sums = mnist.load_mnist(root).sha256
    monkeypatch.setattr(mnist, "SHIPPED_ROOT", root)
    monkeypatch.setattr(mnist, "SHA256", sums)
    changed = root / "t10k-labels-idx1-ubyte"
    changed.write_bytes(changed.read_bytes()[:-1] + b"\1")
    advice = r"SHA-256.*delete the file and take it from the repository.*git checkout"
    with pytest.raises(DataError, match=f"(?s){advice}"):
        mnist.load_mnist(root)
    changed.unlink()
    restored = children.run(["git", "checkout", "--", changed.name], cwd=root)
    assert restored.returncode == 0
    assert mnist.load_mnist(root).sha256 == sums
