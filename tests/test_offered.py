"""Every command that a message offers, typed as it is printed.

`make` is the real one; what it would start is run in this process, on small data.
"""

from __future__ import annotations

import ast
import importlib
import io
import json
import re
import shlex
import signal
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from cvae import mnist
from cvae.cli import front
from cvae.cli.table import SWITCHES
from cvae.errors import Altered, DataError, Terminated
from cvae.run import published
from cvae.run.files import digest
from cvae.run.recorder import Recorder
from tests import children
from tests.conftest import data_set, write

ROOT = children.ROOT
PROSE = {"and", "calls", "is", "it", "its", "one", "prints", "room", "the", "them"}
FIELDS = "data.root=data data.validation_images=100 training.epochs=1 model.hidden=[8]"


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


class Desk:
    """A folder with the Makefile and the experiments, where commands are typed."""

    def __init__(self, place: Path) -> None:
        self.place, self.log = place, place / "typed"
        for name in ("Makefile", "experiments", "cvae"):
            (place / name).symlink_to(ROOT / name)
        write(place / "data", data_set(300, 100))
        self.python = place / "python"  # notes what make would start
        self.python.write_text(
            f'#!/bin/sh\nfor word; do printf "%s\\0" "$word"; done >> {self.log}\n'
            f'printf "\\n" >> {self.log}\n'
        )
        self.python.chmod(0o755)

    def __call__(self, command: str, *, small: bool = False) -> str:
        """Type a command; `small`: with few images and epochs. Returns its output."""
        self.log.write_text("")
        if small:
            command += f" SET={shlex.quote(FIELDS)}"
        typed = f"{command} PY={shlex.quote(str(self.python))}"
        made = children.run(["/bin/sh", "-c", typed], cwd=self.place)
        assert made.returncode == 0, made.stderr
        out = io.StringIO()
        for line in self.log.read_text().split("\0\n"):
            first, *rest = line.split("\0")
            if first != "-m":
                continue
            name = "cvae.__main__" if rest[0] == "cvae" else rest[0]
            module: Any = importlib.import_module(name)
            with redirect_stdout(out):
                code = module.main(rest[1:])
            assert code == 0, (rest, out.getvalue())
        return str(out.getvalue())


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    numbers = (signal.SIGTERM, signal.SIGHUP)
    handlers = [signal.getsignal(number) for number in numbers]
    yield Desk(tmp_path)
    for number, handler in zip(numbers, handlers, strict=True):
        signal.signal(number, handler)


def refused(act: Callable[[], object], log: pytest.LogCaptureFixture) -> str:
    """What a command that fails says."""
    log.clear()
    with pytest.raises(AssertionError):
        act()
    return log.messages[-1]


def spec_file(name: str, more: str = "") -> None:
    fields = "data: {root: data, validation_images: 100}\n"
    fields += "training: {epochs: 1}\nmodel: {hidden: [8]}\n"
    Path(f"{name}.yaml").write_text(f"# Question: none\nname: {name}\n{fields}{more}")


def command_in(text: str) -> str:
    """The last command of make in a text."""
    form = r"make [a-z]+(?: [A-Z]+=(?:'[^']*'|[^\s;,)]+))*"
    return str(re.findall(form, text)[-1])


def test_where_there_is_no_run_the_first_one_is_offered(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    first = command_in(desk("make list"))
    done = desk(f"{first} OFFLINE=1", small=True)
    said = next(each for each in caplog.messages if "no classifier" in each)
    judge = command_in(said.partition(" and then ")[0])
    desk(f"{judge[:-1]} training.epochs=1'")  # in its SET='…'
    desk("make evaluate K=1")
    desk(re.findall(r"make samples RUN=\S+ DIGIT=5", done)[0])
    assert Path("samples/digit_5.png").exists()
    said = desk(re.findall(r"make sync RUN=\S+", done)[0])
    assert "published to" in said
    desk("make sync")


# the process that publishes outlives the run that was interrupted, as it ought to
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_unfinished_run_is_gone_on_with_by_the_command_it_names(
    desk: Desk, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec_file("one")

    def killed(self: Recorder) -> None:
        raise Terminated

    monkeypatch.setattr(Recorder, "finish", killed)
    refused(
        lambda: desk("make experiment CONFIG=one.yaml SET=training.epochs=2"), caplog
    )
    monkeypatch.undo()
    monkeypatch.chdir(desk.place)
    said = refused(lambda: desk("make samples RUN=one"), caplog)
    assert "not finished" in said
    desk(command_in(said))
    desk("make samples RUN=one")


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
    with pytest.raises(DataError, match="SHA-256") as caught:
        mnist.load_mnist(root)
    command = str(caught.value).splitlines()[-1]
    assert children.run(["/bin/sh", "-c", command], cwd=root).returncode == 0
    assert mnist.load_mnist(root).sha256 == sums


def test_a_published_file_that_was_changed_comes_back_as_it_is_said(
    tmp_path: Path,
) -> None:
    facts = {"format": 1, "read_by": "", "runs": {}}
    facts |= {"files": {"a": digest(b"whole")}}
    manifest = json.dumps(facts).encode()
    repository(tmp_path / "results", {"a": b"whole", "manifest.json": manifest})
    (tmp_path / "results" / "a").write_bytes(b"damaged")
    results = published.Results(tmp_path / "results")
    with pytest.raises(Altered, match="git checkout") as caught:
        results.read("a")
    (command,) = re.findall(r"git checkout -- \S+", str(caught.value))
    done = children.run(["/bin/sh", "-c", command], cwd=tmp_path / "results")
    assert done.returncode == 0, done.stderr
    assert results.read("a") == b"whole"
