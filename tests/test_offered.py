"""Every command that a text offers can be typed; those that restore files do."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from cvae import mnist
from cvae.cli import front
from cvae.cli.table import SWITCHES
from cvae.errors import DataError
from tests import children
from tests.conftest import data_set, write

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
