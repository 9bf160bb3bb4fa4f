"""torch's process-wide settings: set for one call, and put back after it.

A notebook may have set another default dtype or device, switched gradients off, or
asked for other matrix products: none of it changes a number here. The number of threads
is the host's own business, and stays.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def plain_torch(*, flush_denormal: bool = False) -> Iterator[None]:
    """torch as a fresh process has it, and deterministic on a GPU; also a decorator.

    Args:
        flush_denormal: numbers below 1e-38 count as 0. The gradients of pixels that
            never hold ink shrink until Adam's averages of them are that small, and
            arithmetic on those is up to a hundred times slower.
    """
    cudnn = torch.backends.cudnn
    dtype, products = torch.get_default_dtype(), torch.get_float32_matmul_precision()
    flags = cudnn.deterministic, cudnn.benchmark
    strict = torch.are_deterministic_algorithms_enabled()
    warns = torch.is_deterministic_algorithms_warn_only_enabled()
    flushed = _flushes_denormal()
    with contextlib.ExitStack() as modes:
        modes.enter_context(torch.inference_mode(False))
        modes.enter_context(torch.enable_grad())
        if torch.get_default_device() != torch.device("cpu"):
            modes.enter_context(torch.device("cpu"))
        for kind in ("cpu", "cuda"):
            if torch.is_autocast_enabled(kind):
                modes.enter_context(torch.autocast(kind, enabled=False))
        try:
            torch.set_default_dtype(torch.float32)
            torch.set_float32_matmul_precision("highest")
            cudnn.deterministic, cudnn.benchmark = True, False
            if strict:  # the call imports torch's compiler: half a second
                torch.use_deterministic_algorithms(False)
            torch.set_flush_denormal(flush_denormal)
            yield
        finally:
            torch.set_default_dtype(dtype)
            torch.set_float32_matmul_precision(products)
            cudnn.deterministic, cudnn.benchmark = flags
            if strict:
                torch.use_deterministic_algorithms(True, warn_only=warns)
            torch.set_flush_denormal(flushed)


def _flushes_denormal() -> bool:
    """Whether this thread's arithmetic takes numbers below 1e-38 for 0."""
    tiny = torch.tensor(1.2e-38, dtype=torch.float32, device="cpu")
    return not bool(tiny / 2)
