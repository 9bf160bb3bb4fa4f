"""Make takes variables from its command line only, and none that it does not use."""

from __future__ import annotations

import re
import shutil
import sys
import tomllib
from pathlib import Path

import pytest

from tests import children
from tests.children import Done

TEXT = (children.ROOT / "Makefile").read_text().replace("\\\n", " ")
DEFINED = dict(re.findall(r"^(\w[\w.-]*) :?= *(.*)$", TEXT, re.MULTILINE))
ARGUMENTS = DEFINED["ARGUMENTS"].split()
SPEC = "CONFIG=experiments/quickstart.yaml"


def make(*arguments: str, **environment: str) -> Done:
    """`make` with `echo` in the place of Python: it prints what Python gets."""
    return children.run(
        ["make", "PY=echo", *arguments],
        limit=60,
        env=children.environment(**environment),
    )


def takes(target: str) -> set[str]:
    text = DEFINED.get(f"takes.{target}", "")
    return set(text.replace("$(takes.compare)", DEFINED["takes.compare"]).split())


def used(target: str) -> set[str]:
    """The variables in the recipe of a target."""
    recipe = re.search(rf"^{target}:.*\n((\t.*\n)+)", TEXT, re.MULTILINE)
    text = recipe[1].replace("$(SELECTED)", DEFINED["SELECTED"]) if recipe else ""
    return {*re.findall(r"\$\$\{?([A-Z_]+)", text)} - {"PY"}


TARGETS = sorted(re.findall(r"^([a-z-]+):.*  ## ", TEXT, re.MULTILINE))


@pytest.mark.parametrize("target", TARGETS)
def test_a_target_takes_what_its_recipe_uses(target: str) -> None:
    assert takes(target) == used(target)
    assert takes(target) <= set(ARGUMENTS)


def test_nothing_of_the_environment_reaches_a_command() -> None:
    shell = dict.fromkeys(ARGUMENTS, "/trap")
    for target in ("experiment", "sweep", "samples", "evaluate", "report", "ui"):
        done = make(target, *[SPEC] * ("CONFIG" in takes(target)), **shell)
        assert done.returncode == 0, done.stderr
        assert "trap" not in done.stdout, target
        assert "--offline" not in done.stdout
        assert "--dry" not in done.stdout
    assert "-m cvae ui --host=here\n" in make("ui", "HOST=here", HOST="trap").stdout


@pytest.mark.parametrize("override", ["-e", "--environment-overrides"])
def test_not_even_if_make_prefers_the_environment(override: str) -> None:
    assert make(override, "samples", N="7", SEED="8").stdout.split()[-1] == "samples"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["experiment", SPEC, "set=model.latent_dim=8"], "set=.*did you mean SET="),
        (["experiment", "config=x.yaml"], "config=.*did you mean CONFIG="),
        (["experiment", SPEC, "OFLINE=1"], "OFLINE=.*did you mean OFFLINE="),
        (["sweep", SPEC, "THREDS=1"], "THREDS=.*did you mean THREADS="),
        (["samples", "n=4"], "n=.*did you mean N="),
        (["samples", "DIGITS=4"], "DIGITS=.*did you mean DIGIT="),
        (["samples", "PYTHON=x"], "PYTHON=: no such variable"),
        (["samples", "READY=x"], "READY=: no such variable"),
        (["samples", "whatever=x"], "it takes PY DIGIT N OUT RUN SEED TEMPERATURE"),
        (["samples", "don't=4"], "don't=: no such variable"),
        (["experiment", SPEC, "SEED=3"], 'SEED=.*SET="training.seed=1"'),
        (["list", "RUN=x"], "RUN=: no such variable for make list"),
        (["RUN=x"], "RUN=: no such variable for make help"),
    ],
)
def test_a_variable_that_the_target_does_not_take_is_refused(
    arguments: list[str], words: str
) -> None:
    done = make(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert re.search(words, done.stderr)
    assert len(done.stderr.splitlines()) == 1


def test_two_targets_take_what_either_takes() -> None:
    done = make("-n", "samples", "evaluate", "RUN=x", "N=3", "K=9")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("value", ["0", "no", "No", "false", "FALSE", "off", ""])
def test_a_switch_is_off(value: str) -> None:
    done = make("sweep", SPEC, f"OFFLINE={value}", f"DRY={value}")
    assert done.returncode == 0, done.stderr
    assert "--offline" not in done.stdout
    assert "--dry" not in done.stdout
    assert "analysis.compare --last-sweep" in done.stdout
    assert "--ellipses" not in make("manifold", f"ELLIPSES={value}").stdout


@pytest.mark.parametrize("value", ["1", "yes", "true", "True", "on"])
def test_a_switch_is_on(value: str) -> None:
    done = make("sweep", SPEC, f"OFFLINE={value}", f"DRY={value}")
    assert "--offline" in done.stdout
    assert "--dry" in done.stdout
    assert "analysis.compare" not in done.stdout
    assert "--ellipses" in make("manifold", f"ELLIPSES={value}").stdout


@pytest.mark.parametrize("value", ["maybe", "2", "x)$(shell touch {0})", "`touch {0}`"])
def test_a_switch_that_is_neither_is_refused(value: str, tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    done = make("experiment", SPEC, f"OFFLINE={value.format(trap)}")
    assert done.returncode == 2
    assert "say 1 or 0" in done.stderr
    assert not trap.exists()


PAGES = (
    "README.md",
    "CONTRIBUTING.md",
    "Makefile",
    ".ci/run",
    "docs/*.md",
    "experiments/**/*.yaml",
)


def offers() -> set[tuple[str, ...]]:
    """Each `make target NAME=…` of the documents, without the values."""
    texts = [file.read_text() for page in PAGES for file in children.ROOT.glob(page)]
    commands = re.findall(
        r"\bmake ([a-z][a-z-]*)((?: [A-Za-z_]+=(?:\"[^\"]*\"|'[^']*'|[^\s`]*))+)",
        "\n".join(texts),
    )
    return {
        (
            target,
            *re.findall(r" ([A-Za-z_]+)=", re.sub(r"\"[^\"]*\"|'[^']*'", "", rest)),
        )
        for target, rest in commands
    }


def test_make_takes_every_command_that_the_documents_offer() -> None:
    assert len(offers()) > 10
    for target, *names in offers():
        assert set(names) <= takes(target) | {"PY"}, target


# -- which Python ----------------------------------------------------------------------

OLD = "import sys; sys.version_info = (3, 10, 13)"
BARE = "import sys; sys.modules['ensurepip'] = None"  # as Debian's without python3-venv


def stand_in(path: Path, before: str) -> None:
    """A Python that runs `before` ahead of each -c, and nothing else."""
    path.write_text(
        f'#!/bin/sh\n[ "$1" = -c ] && exec {sys.executable} -c "{before}\n$2"\n'
        "touch trap\n"
    )
    path.chmod(0o755)


def setup(folder: Path) -> Done:
    """`make list` in a new clone with only `folder`'s python3 on the PATH."""
    for name in ("Makefile", "requirements.txt"):
        shutil.copy(children.ROOT / name, folder)
    (folder / "bin").mkdir(exist_ok=True)
    program = shutil.which("make")
    assert program is not None
    touch = shutil.which("touch")
    assert touch is not None
    (folder / "bin" / "touch").symlink_to(touch)
    return children.run(
        [program, "list"],
        cwd=folder,
        limit=60,
        env=children.environment(PATH=str(folder / "bin")),
    )


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
    if before:
        (tmp_path / "bin").mkdir()
        stand_in(tmp_path / "bin" / "python3", before)
    done = setup(tmp_path)
    assert done.returncode == 2
    assert words in done.stderr.splitlines()[0]
    assert "Traceback" not in done.stderr
    assert not (tmp_path / ".venv").exists()
    assert not (tmp_path / "trap").exists()


def test_an_old_python_of_the_user_is_named(tmp_path: Path) -> None:
    stand_in(tmp_path / "python", OLD)
    done = make("list", f"PY={tmp_path / 'python'}")
    assert done.returncode == 2
    assert done.stderr.startswith("PY is Python 3.10: 3.11 or newer is needed\n")
    assert done.stdout == ""


def test_every_file_that_says_which_python_says_the_same() -> None:
    project = tomllib.loads((children.ROOT / "pyproject.toml").read_text())
    lowest = project["project"]["requires-python"]
    assert lowest == ">=3.11"
    assert project["tool"]["ruff"]["target-version"] == "py311"
    assert project["tool"]["mypy"]["python_version"] == "3.11"
    assert TEXT.count("sys.version_info >= (3, 11)") == 2
    assert "Python 3.11 or newer" in (children.ROOT / "README.md").read_text()
