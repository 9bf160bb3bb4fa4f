"""Conditional VAEs on raw MNIST: specs in, tracked runs and digits out.

run = cvae.train("experiments/quickstart.yaml", ["model.latent_dim=8"])
cvae.evaluate(run, importance_samples=50)       # test/nll_is50, nats per image
cvae.generate_conditional_samples(digit=5, num_samples=16, run=run)   # (16, 784)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cvae.loading.samples import (
        evaluate,
        generate_conditional_samples,
        load_run,
        train,
    )
    from cvae.mnist import load_mnist_images, load_mnist_labels

__all__ = [
    "evaluate",
    "generate_conditional_samples",
    "load_mnist_images",
    "load_mnist_labels",
    "load_run",
    "train",
]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> Any:
    # torch takes seconds to import; `--help` and spec errors must not wait for it
    if name in ("load_mnist_images", "load_mnist_labels"):
        from cvae import mnist

        return getattr(mnist, name)
    if name in __all__:
        from cvae.loading import samples

        return getattr(samples, name)
    raise AttributeError(f"module 'cvae' has no attribute {name!r}")
