"""A finished run back as a model; digits on demand."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from cvae import engine, grids, mnist
from cvae.errors import RunNotFound, RunUnfinished
from cvae.model import CVAE
from cvae.run.find import find_published, find_run
from cvae.run.folder import RUNS, RunFolder
from cvae.run.published import fallback
from cvae.spec.fields import Spec

log = logging.getLogger("cvae")


@dataclass(frozen=True)
class Run:
    """A run's spec and its model with the final weights, on the CPU."""

    model: CVAE
    spec: Spec
    folder: RunFolder
    shape: tuple[int, int]  # rows, columns of one image


def load_run(
    run: str | os.PathLike[str] | None = None, *, runs: str | os.PathLike[str] = RUNS
) -> Run:
    """Model and spec of a finished run: its name, id, folder or MLflow run id.

    The newest finished run by default. Where `runs/` has none that fits, a published
    one stands in, and that is said.

    Raises:
        RunNotFound: no such run, or its weights are missing or unreadable.
        Altered: a published file is not what was published.
    """
    folder = _find(run, Path(runs))
    spec = folder.spec()
    rows, columns = folder.info["data"]["shape"]
    model = engine.build_model(spec, pixels=rows * columns)
    try:
        model.load(safetensors.torch.load(folder.read_weights()))
    except (OSError, RuntimeError, safetensors.SafetensorError) as error:
        raise RunNotFound(f"{folder.weights}: cannot be read: {error}") from error
    return Run(model.eval(), spec, folder, (rows, columns))


def _find(run: str | os.PathLike[str] | None, runs: Path) -> RunFolder:
    try:
        return find_run(run, runs=runs)
    except RunUnfinished:
        raise
    except RunNotFound as none_of_ones_own:
        results = fallback(runs)
        if results is None:
            raise
        try:
            folder = find_published(run, results)
        except RunNotFound as error:
            raise RunNotFound(f"{none_of_ones_own}\n{error}") from error
    log.warning("no such run in %s/: using the published %s", runs, folder.path)
    return folder


def generate_conditional_samples(
    digit: int,
    num_samples: int = 1,
    run: str | os.PathLike[str] | Run | None = None,
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
        ValueError: digit not in 0…9, bad count, seed or temperature, unconditional
            model.
        RunNotFound: no such run.
    """
    if isinstance(digit, bool) or digit not in range(mnist.CLASSES):
        raise ValueError(f"digit must be 0 to 9, found {digit!r}")
    if not _whole(num_samples) or num_samples < 1:
        raise ValueError(
            f"num_samples must be an integer of at least 1, found {num_samples!r}"
        )
    if seed is not None and not (_whole(seed) and -(2**63) <= seed < 2**64):
        raise ValueError(
            f"seed must be an integer of −2**63 to 2**64 − 1, found {seed!r}"
        )
    if not 0 <= temperature <= 1e3:
        raise ValueError(f"temperature must be 0 to 1000, found {temperature}")
    found = run if isinstance(run, Run) else load_run(run, runs=runs)
    if not found.model.classes:
        raise ValueError(
            f"{found.folder.name} is unconditional: it cannot be asked for a digit; "
            "name another run"
        )
    generator = torch.Generator()
    if seed is None:
        generator.seed()
    else:
        generator.manual_seed(seed)
    noise = torch.randn(num_samples, found.model.latent_dim, generator=generator)
    labels = torch.full((num_samples,), int(digit))
    with torch.no_grad():
        z = found.model.prior.sample(labels, temperature * noise)
    return grids.digits(found.model, z, labels)


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
