from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MODULES = sorted(path.stem for path in (ROOT / "cvae").glob("*.py"))
LARGEST = 420  # lines

# What a stage may know of its neighbours.
MAY_IMPORT: dict[str, set[str]] = {
    "spec": set(),
    "specfile": {"spec"},
    "plan": {"spec", "specfile"},
    "job": {"spec"},
    "mnist": set(),
    "model": set(),
    "objective": {"model"},
    "checkpoint": set(),
    "provenance": set(),
    "interrupt": set(),
    "note": {"folder"},
}
RIM = {"tracking", "runner", "recording", "samples", "__main__"}
RIM |= {"store", "sweep", "worker", "local", "cluster"}
BELOW_THE_RIM = {"engine", "evaluate", "grids", "gradient", "folder", "state"}
BELOW_THE_RIM |= {"plan", "job", "table", "progress"}


def imports(module: str, *, everywhere: bool = True) -> set[str]:
    """The dotted names that a file of cvae imports; at its top only, if asked so."""
    return imported(ROOT / "cvae" / f"{module}.py", everywhere=everywhere)


def imported(file: Path, *, everywhere: bool = True) -> set[str]:
    tree = ast.parse(file.read_text())
    found: set[str] = set()
    for node in ast.walk(tree) if everywhere else tree.body:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def neighbours(module: str, *, everywhere: bool = True) -> set[str]:
    """The modules of cvae that a module of cvae imports."""
    names = imports(module, everywhere=everywhere)
    parts = [name.split(".") for name in names if name.startswith("cvae.")]
    return {part[1] for part in parts if part[1] in MODULES}


def packages(module: str) -> set[str]:
    return {name.partition(".")[0] for name in imports(module)}


def test_the_tables_here_name_modules_that_exist() -> None:
    assert set(MAY_IMPORT) | BELOW_THE_RIM | RIM <= set(MODULES)


@pytest.mark.parametrize("module", MAY_IMPORT)
def test_stages_know_only_what_they_build_on(module: str) -> None:
    assert neighbours(module) <= MAY_IMPORT[module]


@pytest.mark.parametrize("module", sorted(BELOW_THE_RIM))
def test_the_engine_and_its_tools_know_nothing_of_the_rim(module: str) -> None:
    assert not neighbours(module) & RIM


def test_the_tracker_reads_folders_and_knows_no_training() -> None:
    for module in ("store", "tracking"):
        assert not neighbours(module) & {"engine", "runner", "samples", "model"}


def test_imports_at_the_top_of_files_run_one_way() -> None:
    graph = {module: neighbours(module, everywhere=False) for module in MODULES}
    while leaves := {module for module, found in graph.items() if not found}:
        graph = {m: found - leaves for m, found in graph.items() if m not in leaves}
    assert not graph, f"these import each other in a circle: {graph}"


def test_only_the_store_and_its_writer_import_mlflow() -> None:
    assert {m for m in MODULES if "mlflow" in packages(m)} == {"store", "tracking"}


@pytest.mark.parametrize("module", MODULES)
def test_cvae_imports_neither_analysis_nor_benchmarks_nor_matplotlib(
    module: str,
) -> None:
    assert not packages(module) & {"analysis", "benchmarks", "tests", "matplotlib"}


ANALYSIS = sorted((ROOT / "analysis").rglob("*.py"))


@pytest.mark.parametrize("file", ANALYSIS, ids=lambda path: path.stem)
def test_analysis_reads_runs_and_never_trains_nor_talks_to_mlflow(file: Path) -> None:
    names = imported(file)
    training = {"engine", "gradient", "runner", "sweep", "worker", "local", "cluster"}
    assert not {name.split(".")[1] for name in names if "cvae." in name} & training
    assert "mlflow" not in {name.partition(".")[0] for name in names}


def interpreted(code: str) -> subprocess.CompletedProcess[str]:
    """A fresh interpreter that runs `code`; warnings are errors."""
    command = [sys.executable, "-W", "error", "-c", code]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_a_comparison_that_finds_nothing_loads_nothing_heavy(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom analysis import compare\n"
        f"compare.main(['--runs', {str(tmp_path)!r}])\n"
        "heavy = {'torch', 'mlflow', 'matplotlib', 'scipy.stats', 'torchvision'}\n"
        "print(*sorted(heavy & set(sys.modules)), end='')"
    )
    done = interpreted(code)
    assert (done.returncode, done.stdout) == (0, "")
    assert "no runs in" in done.stderr


def test_a_spec_is_read_without_torch_or_mlflow() -> None:
    code = (
        "import sys, cvae, cvae.spec, cvae.specfile, cvae.__main__\n"
        "heavy = {'torch', 'mlflow', 'numpy', 'torchvision', 'matplotlib'}\n"
        "print(*sorted(heavy & set(sys.modules)), end='')"
    )
    done = interpreted(code)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("module", MODULES)
def test_no_file_is_too_long_to_be_read_at_once(module: str) -> None:
    lines = (ROOT / "cvae" / f"{module}.py").read_text().count("\n")
    assert lines <= LARGEST
