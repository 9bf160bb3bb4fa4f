"""The house: the core stands alone, and each outside thing is known in one room."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

import pytest

from tests import children
from tests.sizes import CORE, ROOT, core_size

FILES = sorted((ROOT / "cvae").rglob("*.py"))
ANALYSIS = sorted((ROOT / "analysis").rglob("*.py"))
PUBLISHER = "cvae.tracking.publisher"  # a process of its own


def module_name(file: Path) -> str:
    """`cvae/run/folder.py` is cvae.run.folder."""
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


MODULES = {module_name(file): file for file in FILES}


def imported(file: Path, *, everywhere: bool = True) -> set[str]:
    """The dotted names that a file imports; only those at its top, if asked so."""
    tree = ast.parse(file.read_text())
    names: set[str] = set()
    for node in ast.walk(tree) if everywhere else tree.body:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def ours(file: Path, *, everywhere: bool = True) -> set[str]:
    """The modules of cvae that a file imports, or takes a name from."""
    names = imported(file, everywhere=everywhere)
    wider = {name.rpartition(".")[0] for name in names}
    return {name for name in names | wider if name in MODULES} - {"cvae"}


def packages(file: Path) -> set[str]:
    return {name.partition(".")[0] for name in imported(file)}


def test_the_core_can_be_read_in_an_afternoon() -> None:
    size = core_size()
    assert size.files <= 16
    assert size.lines <= 2500
    assert size.commented >= 0.08


def test_readme_quotes_the_size_of_the_core() -> None:
    text, size = (ROOT / "README.md").read_text(), core_size()
    quoted = re.search(r"(\d+) files and ([\d,]+)\s+lines", text)
    assert quoted
    assert int(quoted[1]) == size.files
    assert int(quoted[2].replace(",", "")) == pytest.approx(size.lines, rel=0.02)


@pytest.mark.parametrize("file", CORE, ids=lambda file: file.stem)
def test_a_core_file_imports_the_core_torch_numpy_and_python(file: Path) -> None:
    assert ours(file) <= {module_name(path) for path in CORE}
    assert packages(file) <= {"cvae", "torch", "numpy", *sys.stdlib_module_names}


def test_imports_at_the_top_of_files_make_no_circle() -> None:
    graph = {name: ours(file, everywhere=False) for name, file in MODULES.items()}
    while leaves := {module for module, names in graph.items() if not names}:
        graph = {m: names - leaves for m, names in graph.items() if m not in leaves}
    assert not graph, f"these import each other in a circle: {graph}"


def test_each_outside_thing_is_known_in_one_place() -> None:
    for file in FILES:
        name, known = module_name(file), packages(file)
        assert not known & {"analysis", "benchmarks", "tests", "matplotlib"}, name
        assert name.startswith("cvae.tracking") or "mlflow" not in known, name
        door = name in ("cvae.__main__", "cvae.cli.front", "cvae.cli.table", PUBLISHER)
        assert door or "argparse" not in known, name
        own = door or name == "cvae.tracking.publisher"  # a process of its own
        assert own or "sys.argv" not in file.read_text(), name


def test_analysis_reads_runs_and_never_trains_nor_talks_to_mlflow() -> None:
    for file in ANALYSIS:
        if file.parent.name == "examples":
            continue
        known = ours(file)
        assert not known & {"cvae.training", "cvae.optimizer", "cvae.run.runner"}, file
        sweeps = {name for name in known if name.startswith("cvae.sweep.")}
        assert sweeps <= {"cvae.sweep.table"}, file
        assert "mlflow" not in packages(file), file


def interpreted(code: str) -> children.Done:
    """A fresh interpreter that runs `code`; warnings are errors."""
    return children.python("-W", "error", "-c", code)


def test_a_comparison_without_runs_loads_nothing_heavy(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom cvae import __main__\n"
        f"__main__.main(['compare', '--runs', {str(tmp_path)!r}])\n"
        "heavy = {'torch', 'mlflow', 'matplotlib', 'scipy.stats', 'torchvision'}\n"
        "print(*sorted(heavy & set(sys.modules)), end='')"
    )
    done = interpreted(code)
    assert (done.returncode, done.stdout) == (0, "")
    assert "no runs in" in done.stderr


def test_a_spec_is_read_without_torch_or_mlflow() -> None:
    code = (
        "import sys, cvae, cvae.spec.document, cvae.__main__\n"
        "heavy = {'torch', 'mlflow', 'numpy', 'torchvision', 'matplotlib'}\n"
        "print(*sorted(heavy & set(sys.modules)), end='')"
    )
    done = interpreted(code)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
