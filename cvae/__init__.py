"""Conditional VAEs on raw MNIST: specs in, tracked runs and digits out."""

from __future__ import annotations

from typing import Any

__all__ = [
    "generate_conditional_samples",
    "load_mnist_images",
    "load_mnist_labels",
    "load_run",
]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> Any:
    # torch takes seconds to import; `--help` and spec errors must not wait for it
    if name in ("load_mnist_images", "load_mnist_labels"):
        from cvae import mnist

        return getattr(mnist, name)
    if name in ("generate_conditional_samples", "load_run"):
        from cvae import samples

        return getattr(samples, name)
    raise AttributeError(f"module 'cvae' has no attribute {name!r}")
