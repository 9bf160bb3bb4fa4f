"""Compiled steps compute what autograd does, whatever the threads; Adam's part of them
is held to torch's by test_training.

Only where there is a C compiler: conftest leaves this file out elsewhere, and says so.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from cvae import mnist
from cvae.fast import cpu_kernel, steps
from cvae.model import CVAE
from cvae.optimizer import Adam, Hyperparameters
from cvae.run.state import STREAMS, stream
from cvae.training import Job
from tests.conftest import generator, linear

PIXELS = 70  # not a multiple of the lanes
DRAWN: dict[str, Any] = {"binarize": "dynamic"}


def images(pixels: int = PIXELS, inked: float = 1.0) -> mnist.Images:
    random = generator(1)
    grey = torch.randint(256, (40, pixels), generator=random, dtype=torch.uint8)
    grey[torch.rand(grey.shape, generator=random) > inked] = 0
    return mnist.Images(grey, torch.randint(10, (40,), generator=random))


def network(pixels: int = PIXELS, **options: Any) -> CVAE:
    sizes: dict[str, Any] = {"latent_dim": 3, "hidden": (19, 7), "shape": (1, pixels)}
    return CVAE(**sizes | options, generator=generator())


def fused(
    model: CVAE, data: mnist.Images, wanted: Hyperparameters
) -> tuple[cpu_kernel.Fused, Adam]:
    """Compiled steps, and whose weights they change."""
    library, adam = cpu_kernel.library(), Adam(model, wanted)
    assert library
    streams = {name: stream(0, name) for name in STREAMS}
    job = Job(model, adam, data, wanted, streams)
    return cpu_kernel.Fused(library, job), adam


@contextlib.contextmanager
def on_threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    yield
    torch.set_num_threads(before)


KINDS: dict[str, dict[str, Any]] = {
    "default": {},
    "plain": {"conditional": False},
    "tanh": {"activation": "tanh"},
    "no hidden layer": {"hidden": ()},
    "four hidden layers": {"hidden": (9, 33, 17, 5)},
    "label of size 4": {"label_scale": 4.0},
    "one latent": {"latent_dim": 1},
    "drawn pixels": {"wanted": DRAWN},
    "corrupted": {"wanted": {"corrupt": 0.3}},
    "noisy input": {"wanted": {"input_noise": "bernoulli"}},
    "drawn and corrupted": {"wanted": DRAWN | {"corrupt": 0.3}},
    "many pixels": {"pixels": 2500},  # more than one product of factors a lane
    "mostly 0": {"inked": 0.2},
    "mostly 0, plain": {"inked": 0.1, "conditional": False},
    "mostly 0, corrupted": {"inked": 0.1, "wanted": {"corrupt": 0.1}},
    "mostly 0, drawn": {"inked": 0.2, "wanted": DRAWN},
    "mostly 0, wide": {"inked": 0.2, "hidden": (147, 9)},  # 128 + 16 + 3
    "all 0": {"inked": 0.0},
}


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_gradient_and_sums_are_autograds(kind: str, threads: int) -> None:
    options = dict(KINDS[kind])
    wanted = Hyperparameters(epochs=1, batch_size=16, **options.pop("wanted", {}))
    pixels = options.pop("pixels", PIXELS)
    data = images(pixels, options.pop("inked", 1.0))
    model = network(pixels, **options)
    with on_threads(threads):
        assert steps.agrees(steps.compiled, model, data, wanted)
    assert fused(model, data, wanted)[0].sparse == ("0" in kind)


def test_large_logits_lose_nothing() -> None:
    model = network(hidden=())
    with torch.no_grad():
        linear(model.decoder, 0).bias.copy_(torch.linspace(-120, 120, PIXELS))
    assert steps.agrees(steps.compiled, model, images(), Hyperparameters(epochs=1))


@pytest.mark.parametrize("inked", [1.0, 0.2])
def test_threads_wait_for_each_other_in_every_step(inked: float) -> None:
    """100 steps of one call are 100 calls of one thread, a smaller last batch too."""
    data, wanted = images(inked=inked), Hyperparameters(epochs=1, batch_size=12)
    batches, done = 25 * torch.arange(40).split(12), []
    control = torch.tensor([[1e-3, 1.0]]).repeat(len(batches), 1)
    for threads in (3, 1):
        with on_threads(threads):
            run, adam = fused(network(hidden=(600,)), data, wanted)
        if threads == 1:
            for rows in batches:
                run([rows], control[:1])
        else:
            run(batches, control)
        done.append(adam.flat)
    torch.testing.assert_close(*done, rtol=1e-3, atol=1e-4)
