"""A finished or published run back as a model, and what a notebook asks of it."""

from __future__ import annotations

import contextlib
import logging
import numbers
import operator
import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from cvae import mnist
from cvae.errors import DataError, RunNotFound, RunUnfinished, UsageError
from cvae.idx import open_raw
from cvae.model import CVAE
from cvae.run.files import write_atomic
from cvae.run.find import find_published, find_run
from cvae.run.folder import RUNS, RunFolder
from cvae.run.published import fallback
from cvae.run.torch_settings import plain_torch
from cvae.spec.fields import Spec

REPOSITORY = Path(__file__).resolve().parents[2]
log = logging.getLogger("cvae")
Labels: TypeAlias = Tensor | Sequence[int] | int


@dataclass(frozen=True)
class LoadedRun:
    """A run's spec and its model with the final weights, on the CPU.

    Images are uint8, as `load_mnist_images` returns them, or pixels in [0, 1], of shape
    (N, rows, columns) or (N, D); labels (N,) are integers of any type, or one for all.
    A model of binarised pixels is to be given black and white ones. A plain VAE needs
    no labels.
    """

    model: CVAE
    spec: Spec
    folder: RunFolder
    shape: tuple[int, int]  # rows, columns of one image

    @plain_torch()
    @torch.no_grad()
    def encode(
        self, images: Tensor, labels: Labels | None = None
    ) -> tuple[Tensor, Tensor]:
        """mu and logvar of q(z given x, y), (N, Z) each."""
        data = self._images(images, labels)
        return self.model.encode(mnist.pixels(data.images), data.labels)

    @plain_torch()
    @torch.no_grad()
    def decode(self, z: Tensor, labels: Labels | None = None) -> Tensor:
        """Means of p(x given y, z) of latents (N, Z), (N, D) pixels in [0, 1]."""
        z = torch.as_tensor(z, dtype=torch.float32)
        return torch.sigmoid(self.model.decode(z, self._labels(labels, len(z))))

    def reconstruct(self, images: Tensor, labels: Labels | None = None) -> Tensor:
        """The images decoded from the mean of q(z given x, y), (N, D) in [0, 1]."""
        return self.decode(self.encode(images, labels)[0], labels)

    def sample(self, digit: int, num_samples: int = 1, **options: Any) -> Tensor:
        """As `generate_conditional_samples`, (num_samples, D) in [0, 1]."""
        return generate_conditional_samples(digit, num_samples, self, **options)

    @plain_torch()
    def log_likelihood(
        self,
        images: Tensor,
        labels: Labels | None = None,
        *,
        samples: int = 100,
        seed: int = 0,
    ) -> Tensor:
        """log p(x given y) of each image in nats, (N,), by importance sampling.

        A lower bound in expectation that tightens with `samples`, the draws of z an
        image (Burda et al. 2016, eq. 8).
        """
        from cvae import likelihood
        from cvae.objective import log_mean_exp

        samples = integer("samples", samples, 1, 10**6)
        generator = torch.Generator().manual_seed(integer("seed", seed, *SEEDS))
        parts = likelihood.log_weights(
            self.model,
            self._images(images, labels),
            generator,
            samples=samples,
            corrupt=self.spec.data.corrupt,
        )
        return torch.cat([log_mean_exp(weights) for weights in parts])

    def data(self) -> mnist.MNIST:
        """The data that it was trained on.

        Raises:
            DataError: a file is missing or wrong, or is not what it was then.
        """
        return load_data(self.spec, self.folder)

    def _images(self, images: Tensor, labels: Labels | None) -> mnist.Images:
        """Images (N, D) of values 0…255 with labels (N,) int64."""
        values = torch.as_tensor(images)
        rows, columns = self.shape
        if values.shape[1:] not in ((rows, columns), (rows * columns,)):
            raise ValueError(
                f"images must be (N, {rows}, {columns}) or (N, {rows * columns}), "
                f"found {tuple(values.shape)}"
            )
        if values.dtype != torch.uint8:
            values = values.to(torch.float32)
            if not bool(((values >= 0) & (values <= 1)).all()):
                raise ValueError("images must be uint8, or pixels in [0, 1]")
            values = 255 * values
        return mnist.Images(values.flatten(1), self._labels(labels, len(values)))

    def _labels(self, labels: Labels | None, count: int) -> Tensor:
        if not self.model.classes:
            return torch.zeros(count, dtype=torch.int64)
        if labels is None:
            raise ValueError(f"{self.folder.name} is conditional: it needs labels")
        y = torch.as_tensor(labels)
        if y.dtype.is_floating_point or not bool(
            ((y >= 0) & (y < self.model.classes)).all()
        ):
            raise ValueError(
                f"labels must be integers of 0 to {self.model.classes - 1}"
            )
        if y.numel() not in (1, count):
            raise ValueError(f"{count} images cannot have {y.numel()} labels")
        return y.long().flatten().expand(count)


AnyRun: TypeAlias = str | os.PathLike[str] | RunFolder | LoadedRun | None


@plain_torch()
def load_run(run: AnyRun = None, *, runs: str | os.PathLike[str] = RUNS) -> LoadedRun:
    """Model and spec of a finished run: its name, id, folder or MLflow run id.

    The newest finished run by default; a loaded one is returned as it is. Where `runs/`
    has none that fits, a published one stands in, and that is said.

    Raises:
        RunNotFound: no such run, or its weights are missing or unreadable.
        Altered: a published file is not what was published.
    """
    if isinstance(run, LoadedRun):
        return run
    if isinstance(run, RunFolder):
        return open_run(run)
    if not (run is None or isinstance(run, (str, os.PathLike))):
        raise UsageError(
            "run must be a name, an id, a folder or what load_run returned, found "
            f"{type(run).__name__}"
        )
    try:
        return open_run(find_run(run, runs=runs))
    except RunUnfinished:
        raise
    except RunNotFound as none_of_ones_own:
        results = fallback(Path(runs))
        if results is None:
            raise
        try:
            folder = find_published(run, results)
        except RunNotFound as error:
            raise RunNotFound(f"{none_of_ones_own}\n{error}") from error
    log.warning("no such run in %s/: using the published %s", runs, folder.path)
    return open_run(folder)


@plain_torch()
def open_run(folder: RunFolder) -> LoadedRun:
    """Model and spec of the finished run in this folder; raises as `load_run`."""
    spec = folder.spec()
    data = folder.info["data"]
    rows, columns = data["shape"]
    classes = data.get("classes", 10)  # as all runs had before it was recorded
    model = CVAE(**spec.model.model_dump(), shape=(rows, columns), classes=classes)
    try:
        model.load(safetensors.torch.load(folder.read_weights()))
    except (OSError, RuntimeError, safetensors.SafetensorError) as error:
        raise RunNotFound(f"{folder.weights}: cannot be read: {error}") from error
    return LoadedRun(model.eval(), spec, folder, (rows, columns))


SEEDS = -(2**63), 2**64 - 1  # what torch.Generator takes


@plain_torch()
def generate_conditional_samples(
    digit: int,
    num_samples: int = 1,
    run: AnyRun = None,
    seed: int | None = None,
    temperature: float = 1.0,
    *,
    runs: str | os.PathLike[str] = RUNS,
) -> Tensor:
    """Draw z from the prior and decode it as `digit`.

    Args:
        run: a finished run (see `load_run`); the newest by default.
        seed: the same seed gives the same images; None gives new ones every time.
        temperature: factor on the noise that z is made of; 0 gives the prior's middle.
        runs: the folder of runs in which `run` is looked for.

    Returns:
        (num_samples, D) decoder means in [0, 1]; D is 784 for MNIST.

    Raises:
        ValueError: no such digit, bad count, seed or temperature, unconditional
            model.
        RunNotFound: no such run.
    """
    count = integer("num_samples", num_samples, 1)
    if hasattr(temperature, "item"):  # of NumPy or a tensor
        temperature = temperature.item()
    if not isinstance(temperature, numbers.Real) or not 0 <= temperature <= 1e3:
        raise ValueError(f"temperature must be 0 to 1000, found {temperature!r}")
    generator = torch.Generator()
    if seed is None:
        generator.seed()
    else:
        generator.manual_seed(integer("seed", seed, *SEEDS))
    loaded = load_run(run, runs=runs)
    if not loaded.model.classes:
        raise ValueError(
            f"{loaded.folder.name} is unconditional: it cannot be asked for a digit; "
            "name another run"
        )
    digit = integer("digit", digit, 0, loaded.model.classes - 1)
    noise = torch.randn(count, loaded.model.latent_dim, generator=generator)
    labels = torch.full((count,), digit)
    with torch.no_grad():
        z = loaded.model.prior.sample(labels, temperature * noise)
    return loaded.decode(z, labels)


def integer(name: str, value: Any, least: int, most: int | None = None) -> int:
    """An integer of Python, NumPy or a tensor, within these bounds.

    Raises:
        ValueError: it is none, or out of them.
    """
    with contextlib.suppress(TypeError, ValueError):
        found = operator.index(value)
        inside = found >= least and (most is None or found <= most)
        if inside and not isinstance(value, bool):
            return found
    bounds = f"≥ {least}" if most is None else f"of {least} to {most}"
    kind = type(value).__name__
    raise ValueError(f"{name} must be an integer {bounds}, found {value!r} ({kind})")


def load_data(spec: Spec, folder: RunFolder | None = None) -> mnist.MNIST:
    """The spec's data; with `folder`, only if that run was made with the same.

    A relative `data.root` of a run is looked for in the working directory, then beside
    the code: a run can be evaluated from anywhere.

    Raises:
        DataError: a file is missing or wrong, or the digest is not the recorded one.
    """
    root = Path(spec.data.root)
    if folder is not None and not root.exists():
        root = REPOSITORY / root
    unpack(root)
    data = mnist.load_mnist(root, **split_options(spec))
    if folder is not None:
        check_data(folder, data)
    return data


def split_options(spec: Spec) -> dict[str, Any]:
    return spec.data.model_dump(
        include={"train_images", "validation_images", "binarize"}
    )


def check_data(folder: RunFolder, data: mnist.MNIST) -> None:
    """Compare the data with the digest that the run recorded at its start.

    Raises:
        DataError: they differ; the message names both digests.
    """
    recorded = folder.info.get("data", {})
    if recorded.get("digest", data.digest) != data.digest:
        raise DataError(
            f"{folder.path}: made with data of digest {recorded['digest']}, but "
            f"{recorded['root']} now holds data of digest {data.digest}; put the "
            "former files back, or move this folder away to begin again"
        )


def unpack(root: Path) -> None:
    """Write the raw twin of each shipped .gz file once: a run starts sooner.

    A folder that cannot be written keeps the .gz in use.
    """
    if root.resolve() == mnist.SHIPPED_ROOT:
        for name in mnist.SHA256:
            path = mnist.locate(root, name)
            if path.suffix == ".gz":
                # the reader says what is wrong with it
                with (
                    contextlib.suppress(OSError, EOFError, zlib.error),
                    open_raw(path) as source,
                ):
                    write_atomic(path.with_suffix(""), source.read())
