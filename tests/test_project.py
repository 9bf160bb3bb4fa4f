"""What stands around the code: installation, MLproject, citation, hooks."""

from __future__ import annotations

import re
import shutil
import sys
import sysconfig
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import yaml

from tests import children
from tests.children import ROOT, Done

CONFIG = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = CONFIG["project"]
SMALL = "data.train_images=600 data.validation_images=100 training.epochs=1"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of what an installation is made of, with links to data and results."""
    copy = tmp_path / "checkout"
    for folder in ("cvae", "analysis", "experiments"):
        shutil.copytree(ROOT / folder, copy / folder)
    for name in (
        "pyproject.toml",
        "README.md",
        "LICENSE",
        "MLproject",
        "python_env.yaml",
    ):
        shutil.copy(ROOT / name, copy)
    for name in ("mnist_data", "results"):
        (copy / name).symlink_to(ROOT / name)
    return copy


def succeeded(done: Done) -> str:
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def clean() -> dict[str, str]:
    """The environment without PYTHONPATH: only what is installed is found."""
    return {k: v for k, v in children.environment().items() if k != "PYTHONPATH"}


def setuptools_version() -> int:
    try:
        return int(metadata.version("setuptools").partition(".")[0])
    except metadata.PackageNotFoundError:
        return 0


@pytest.mark.skipif(
    setuptools_version() < 77,
    reason="pip fetches setuptools 77 or newer, this environment has an older one",
)
def test_an_installation_gives_the_command_and_a_published_model(
    checkout: Path, tmp_path: Path
) -> None:
    venv, elsewhere = tmp_path / "venv", tmp_path / "elsewhere"
    elsewhere.mkdir()
    succeeded(children.python("-m", "venv", "--without-pip", str(venv)))
    own = Path(sysconfig.get_path("purelib", vars={"base": str(venv)}))
    (own / "packages_of_the_tests.pth").write_text(sysconfig.get_path("purelib"))
    pip = ["-m", "pip", "--python", str(venv / "bin" / "python"), "install"]
    pip += ["--no-deps", "--no-build-isolation", "--no-index"]

    def typed(*words: str) -> str:
        command = [str(venv / "bin" / words[0]), *words[1:]]
        return succeeded(children.run(command, cwd=elsewhere, env=clean()))

    succeeded(children.python(*pip, str(checkout), env=clean()))
    assert "seed-notebook" in typed("cvae", "samples", "--digit=5", "--out=five.png")
    assert (elsewhere / "five.png").exists()
    for file in (own / "cvae" / "published").rglob("*.*"):
        published = ROOT / "results" / file.relative_to(own / "cvae" / "published")
        assert file.is_dir() or file.read_bytes() == published.read_bytes()
    succeeded(children.python(*pip, "-e", str(checkout), env=clean()))
    code = "from cvae import mnist; from cvae.run import classifiers; "
    code += "print(mnist.SHIPPED_ROOT, classifiers.PUBLISHED)"
    found = typed("python", "-c", code).split()
    assert found[0] == str(checkout / "mnist_data" / "raw")
    assert found[1].startswith(str(checkout / "results" / "judge"))


def test_every_room_is_installed() -> None:
    listed = set(CONFIG["tool"]["setuptools"]["packages"]) - {"cvae.published"}
    rooms = [*ROOT.glob("cvae/**/*.py"), *ROOT.glob("analysis/**/*.py")]
    assert listed >= {".".join(f.parent.relative_to(ROOT).parts) for f in rooms}


def test_the_installation_asks_for_what_requirements_pin() -> None:
    pinned = (ROOT / "requirements.txt").read_text()
    names = set(re.findall(r"(?m)^([\w-]+)==", pinned))
    asked = {re.split(r"[>=<]", each)[0] for each in PROJECT["dependencies"]}
    assert asked == names


@pytest.mark.services
def test_mlflow_runs_the_project(checkout: Path) -> None:
    command = [sys.executable, "-m", "mlflow", "run", ".", "--env-manager", "local"]
    command += ["-P", "config=experiments/quickstart.yaml"]
    command += ["-P", f"set={SMALL} name=asked training.device=cpu"]
    path = f"{Path(sys.executable).parent}:{children.environment()['PATH']}"
    environment = children.environment(PATH=path, PYTHONPATH=str(checkout))
    said = succeeded(children.run(command, cwd=checkout, env=environment))
    assert "finished" in said
    (run,) = (checkout / "runs").glob("asked-*/run.json")
    assert '"FINISHED"' in run.read_text()


def test_a_checkout_of_windows_changes_no_byte(tmp_path: Path) -> None:
    shutil.copy(ROOT / ".gitattributes", tmp_path)
    (tmp_path / "manifest.json").write_bytes(b"{\n}\n")
    git = ["git", "-c", "core.autocrlf=true", "-C", str(tmp_path)]
    for words in ("init -q", "add .", "checkout-index --prefix=out/ -a"):
        succeeded(children.run([*git, *words.split()]))
    assert (tmp_path / "out" / "manifest.json").read_bytes() == b"{\n}\n"


def test_the_citation_names_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    required = {"cff-version", "message", "title", "authors"}
    assert required <= citation.keys()
    assert citation["version"] == PROJECT["version"]
    assert citation["license"] == PROJECT["license"]
    assert f"## {PROJECT['version']}" in (ROOT / "CHANGELOG.md").read_text()
