"""Conditional VAEs on raw MNIST: specs in, tracked runs and digits out.

run = cvae.train("experiments/quickstart.yaml", ["model.latent_dim=8"])
cvae.evaluate(run, importance_samples=50)       # test/nll_is50, nats per image
cvae.generate_conditional_samples(digit=5, num_samples=16, run=run)   # (16, 784)

images = cvae.load_mnist_images("mnist_data/raw/t10k-images-idx3-ubyte")[:10]
labels = cvae.load_mnist_labels("mnist_data/raw/t10k-labels-idx1-ubyte")[:10]
mu, logvar = run.encode(images, labels)         # (10, Z) each
run.decode(mu, labels)                          # (10, 784) pixels in [0, 1]
run.reconstruct(images, labels)                 # the same
run.sample(5, 16, seed=0)                       # (16, 784)
run.log_likelihood(images, labels)              # (10,) nats: log p(x given y)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cvae.loading.loaded import generate_conditional_samples, load_run
    from cvae.mnist import load_mnist_images, load_mnist_labels
    from cvae.run.api import evaluate, train

__all__ = [
    "evaluate",
    "generate_conditional_samples",
    "load_mnist_images",
    "load_mnist_labels",
    "load_run",
    "train",
]
_HOMES = {"evaluate": "run.api", "train": "run.api"}
_HOMES |= dict.fromkeys(("load_mnist_images", "load_mnist_labels"), "mnist")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> Any:
    if name in __all__:  # only now: `--help` and spec errors do not wait for torch
        home = _HOMES.get(name, "loading.loaded")
        return getattr(importlib.import_module(f"cvae.{home}"), name)
    raise AttributeError(f"module 'cvae' has no attribute {name!r}")
