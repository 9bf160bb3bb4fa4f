"""What several test files share: specs in one line, and a small data set on disk."""

from __future__ import annotations

import logging
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from cvae import classifier, mnist
from cvae.fast import cpu_kernel
from cvae.flow import Flow
from cvae.loading.loaded import LoadedRun
from cvae.model import CVAE
from cvae.run import classifiers
from cvae.run.folder import RunFolder
from cvae.spec.fields import Spec
from cvae.spec.identity import nested
from tests import children

if TYPE_CHECKING:  # only `make test-services` installs it
    from playwright.sync_api import Browser

Bytes = NDArray[np.uint8]
collect_ignore = (
    [] if cpu_kernel.library() else ["fast/test_cpu_kernel.py", "fast/test_compiler.py"]
)


children.default_signals()


def pytest_sessionfinish() -> None:
    children.end_all()


def pytest_report_header() -> str:
    if cpu_kernel.library():
        return "training steps: compiled"
    return f"training steps: torch's; without a C compiler {collect_ignore} is left out"


torch.set_num_threads(1)  # tensors here are small: more threads only wait for a turn


def spec(**dotted: Any) -> Spec:
    """A spec from its dotted fields, `__` for the dot: `spec(model__latent_dim=3)`."""
    flat = {"name": "test"}
    flat |= {key.replace("__", "."): value for key, value in dotted.items()}
    return Spec.model_validate(nested(flat))


def idx(array: Bytes) -> bytes:
    """An array as the bytes of an IDX file."""
    sizes = struct.pack(f">{array.ndim}I", *array.shape)
    return bytes([0, 0, 8, array.ndim]) + sizes + array.tobytes()


def data_set(train: int = 300, test: int = 100) -> dict[str, bytes]:
    """Four IDX files: noise in a frame, brighter by digit; labels go round 0 to 9."""
    random = np.random.default_rng(0)
    files = {}
    for split, count in (("train", train), ("t10k", test)):
        labels = (np.arange(count) % 10).astype(np.uint8)
        images = np.zeros((count, 28, 28), np.uint8)
        noise = random.integers(0, 100, (count, 20, 20))
        images[:, 4:24, 4:24] = noise + 15 * labels[:, None, None]
        files[f"{split}-images-idx3-ubyte"] = idx(images)
        files[f"{split}-labels-idx1-ubyte"] = idx(labels)
    return files


def write(root: Path, files: dict[str, bytes]) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (root / name).write_bytes(content)
    return root


@pytest.fixture(autouse=True)
def no_child_outlives_its_test() -> Iterator[None]:
    """Those of wider fixtures, begun before, end with their fixture."""
    with children.ended():
        yield


@pytest.fixture(autouse=True)
def ordinary_logging() -> Iterator[None]:
    """A command in this process says more than the package alone."""
    yield
    logging.getLogger("cvae").setLevel(logging.NOTSET)


@pytest.fixture
def tiny_root(tmp_path: Path) -> Path:
    """300 training and 100 test images of 28 × 28 as raw IDX files."""
    return write(tmp_path / "data", data_set())


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> mnist.MNIST:
    """The same, loaded: 300 training images, none held back, 100 test images."""
    return mnist.load_mnist(write(tmp_path_factory.mktemp("tiny"), data_set()))


@pytest.fixture(scope="session")
def shipped() -> mnist.MNIST:
    """The data set in the repository, loaded as every run loads it."""
    return mnist.load_mnist(mnist.SHIPPED_ROOT, validation_images=5000)


@pytest.fixture(scope="session")
def read_by() -> classifier.Classifier:
    """The published classifier of MNIST."""
    found = classifiers.published()
    assert found is not None
    return found[0]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium; the test fails where it or playwright is missing."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.fail("no Chromium on PATH: sudo apt-get install chromium")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        pytest.fail("no playwright: `make test-services` installs it")
    off = ("--no-sandbox", "--disable-gpu", "--disable-background-networking")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=off)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def finished(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, children.Done]:
    """The folder of runs that one real `run` command filled, and what it printed."""
    from tests.test_commands import QUICKSTART, SMALL, cvae

    runs = tmp_path_factory.mktemp("user") / "runs"
    done = cvae(
        "run", QUICKSTART, "--runs", str(runs), "--set", f"{SMALL} training.epochs=2"
    )
    return runs, done


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four runs of a sweep and one beside it in an experiment, in folders and store."""
    from cvae.run.folder import SweepFolder
    from cvae.tracking.publish import Tracker
    from tests.made import made_run

    runs = tmp_path_factory.mktemp("published")
    sweep = SweepFolder(runs / "sweeps" / "beta")
    sweep.path.mkdir(parents=True)
    members = [
        made_run(
            runs,
            100.0 + 10 * beta + seed,
            name="beta",
            started=10 * beta + seed,
            objective__beta=beta,
            training__seed=seed,
            tracking__experiment="tests",
            info={
                "sweep": "beta",
                "label": f"beta={beta} seed={seed}",
                "swept": {"objective.beta": beta, "training.seed": seed},
            },
        )
        for beta in (0.5, 2.0)
        for seed in (0, 1)
    ]
    sweep.update(
        **{"name": "beta", "uid": "beta", "header": "Question: β?", "command": "make"},
        **{"experiment": "tests", "keys": ["objective.beta", "training.seed"]},
        **{"status": "FINISHED", "started": 0.0, "ended": 9.0},
        runs=[
            {"folder": f.name, "id": f.info["id"], "swept": f.info["swept"]}
            for f in members
        ],
    )
    tracker = Tracker(runs)
    for folder in members:
        tracker.publish(folder)
    other = made_run(runs, 90.0, name="123", started=99.0, tracking__experiment="tests")
    tracker.publish(other)
    return runs


def bend(flow: Flow) -> Flow:
    """The flow with drawn numbers: far from the N(0, I) that it begins as."""
    random = generator(1)
    with torch.no_grad():
        for part in flow.parameters():
            part.normal_(0, 0.08, generator=random)
    return flow


def linear(layers: nn.Sequential, at: int) -> nn.Linear:
    """The layer at a place, for tests that set weights by hand."""
    layer = layers[at]
    assert isinstance(layer, nn.Linear)
    return layer


def untrained_run(root: Path, *, scale: float = 1.0, **dotted: Any) -> LoadedRun:
    """A run that nobody trained: drawn weights, the data set written under `root`."""
    if not (root / "data").exists():
        write(root / "data", data_set(100, 100))
    wanted = spec(data__root=str(root / "data"), data__validation_images=0, **dotted)
    model = CVAE(**wanted.model.model_dump(), generator=generator())
    with torch.no_grad():
        for part in model.parameters():
            part.mul_(scale)
    return LoadedRun(model, wanted, RunFolder(root / f"test-{wanted.id}"), (28, 28))
