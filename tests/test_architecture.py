"""The house: imports run one way, and each outside thing is known in one place."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests import children

ROOT = Path(__file__).parent.parent

# A module imports from ranks below its own, and from its own rank without circles.
RANKS = (
    "errors run.files evaluation.metrics",
    "idx",
    "mnist priors flow mixture networks model spec",
    "proof objective optimizer training fast likelihood judge evaluation.features "
    "control grids",
    "evaluation",
    "run.facts run.folder run.lock run.published run.find run.torch_settings",
    "loading.loaded",
    "run.checkpoint run.state run.provenance",
    "tracking",
    "run loading",
    "publishing sweep tracking.served",
    "cli __main__",
)
PLAIN = {
    "idx",
    "mnist",
    "model",
    "networks",
    "priors",
    "flow",
    "mixture",
    "objective",
}  # plain values, no spec


def module_name(file: Path) -> str:
    """`cvae/run/folder.py` is run.folder."""
    return ".".join(file.relative_to(ROOT / "cvae").with_suffix("").parts)


CVAE = {
    module_name(file): file
    for file in sorted((ROOT / "cvae").rglob("*.py"))
    if file.name != "__init__.py"
}
ANALYSIS = sorted((ROOT / "analysis").rglob("*.py"))


def rank(module: str) -> int:
    """That of the module itself, or else of its room."""
    for name in (module, module.partition(".")[0]):
        for at, rank in enumerate(RANKS):
            if name in rank.split():
                return at
    raise AssertionError(f"{module}: has no rank")


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


def modules_of_cvae(file: Path, *, everywhere: bool = True) -> set[str]:
    """The modules of cvae that a file imports, or takes a name from."""
    names = {
        name.removeprefix("cvae.")
        for name in imported(file, everywhere=everywhere)
        if name.startswith("cvae.")
    }
    return {
        module
        for name in names
        for module in (name, name.rpartition(".")[0])
        if module in CVAE
    }


def packages(file: Path) -> set[str]:
    return {name.partition(".")[0] for name in imported(file)}


@pytest.mark.parametrize("module", CVAE)
def test_imports_go_down_the_ranks(module: str) -> None:
    above = {
        name for name in modules_of_cvae(CVAE[module]) if rank(name) > rank(module)
    }
    assert not above, f"{module} (rank {rank(module)}) imports {above}"


def test_every_name_in_the_ranks_exists() -> None:
    rooms = {name.partition(".")[0] for name in CVAE}
    listed = {name for rank in RANKS for name in rank.split()}
    assert listed <= set(CVAE) | rooms


def test_imports_at_the_top_of_files_make_no_circle() -> None:
    graph = {
        name: modules_of_cvae(file, everywhere=False) for name, file in CVAE.items()
    }
    while leaves := {module for module, names in graph.items() if not names}:
        graph = {m: names - leaves for m, names in graph.items() if m not in leaves}
    assert not graph, f"these import each other in a circle: {graph}"


@pytest.mark.parametrize("module", sorted(PLAIN & set(CVAE)))
def test_the_science_takes_plain_values_and_knows_no_spec(module: str) -> None:
    assert not {n for n in modules_of_cvae(CVAE[module]) if n.startswith("spec")}


@pytest.mark.parametrize("module", CVAE)
def test_only_the_tracking_room_knows_mlflow(module: str) -> None:
    assert module.startswith("tracking.") or "mlflow" not in packages(CVAE[module])


@pytest.mark.parametrize("module", CVAE)
def test_only_the_door_reads_the_command_line(module: str) -> None:
    names = imported(CVAE[module])
    door = module in ("__main__", "cli.front", "cli.table")
    assert door or not {"argparse", "sys.argv"} & names
    assert door or "sys.argv" not in CVAE[module].read_text()


@pytest.mark.parametrize("module", CVAE)
def test_cvae_imports_neither_analysis_nor_benchmarks_nor_matplotlib(
    module: str,
) -> None:
    assert not packages(CVAE[module]) & {"analysis", "benchmarks", "tests"}
    assert "matplotlib" not in packages(CVAE[module])


@pytest.mark.parametrize("file", ANALYSIS, ids=lambda path: path.stem)
def test_analysis_reads_runs_and_never_trains_nor_talks_to_mlflow(file: Path) -> None:
    training = {"training", "optimizer", "run.runner"}
    known = modules_of_cvae(file)
    assert not known & training
    assert {name for name in known if name.startswith("sweep.")} <= {"sweep.table"}
    assert "mlflow" not in packages(file)


@pytest.mark.parametrize(
    "room", ["spec", "run", "tracking", "sweep"], ids=lambda room: room
)
def test_a_room_has_no_names_of_its_own(room: str) -> None:
    tree = ast.parse((ROOT / "cvae" / room / "__init__.py").read_text())
    assert ast.get_docstring(tree)
    assert len(tree.body) == 1


def interpreted(code: str) -> children.Done:
    """A fresh interpreter that runs `code`; warnings are errors."""
    return children.python("-W", "error", "-c", code)


def test_a_comparison_without_runs_loads_nothing_heavy(tmp_path: Path) -> None:
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
        "import sys, cvae, cvae.spec.document, cvae.__main__\n"
        "heavy = {'torch', 'mlflow', 'numpy', 'torchvision', 'matplotlib'}\n"
        "print(*sorted(heavy & set(sys.modules)), end='')"
    )
    done = interpreted(code)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
