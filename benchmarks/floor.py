"""The floor: nothing but the matrix products of a step, forward and backward."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Sequence

import torch


def products(
    widths: Sequence[Sequence[int]], batch: int, *, backward: bool = True
) -> Callable[[], None]:
    """Every layer's product with its input; its weight's and its input's gradient."""
    layers = []
    for half in widths:
        for fan_in, fan_out in itertools.pairwise(half):
            x, weight = torch.randn(batch, fan_in), torch.randn(fan_out, fan_in)
            grad = torch.randn(batch, fan_out)
            y, dx, dw = (torch.empty_like(part) for part in (grad, x, weight))
            layers.append((x, weight, grad, y, dx, dw))

    def step() -> None:
        for x, weight, _, y, _, _ in layers:
            torch.mm(x, weight.t(), out=y)
        for index, (x, weight, grad, _, dx, dw) in enumerate(layers * backward):
            torch.mm(grad.t(), x, out=dw)
            if index:  # the images need no gradient
                torch.mm(grad, weight, out=dx)

    return step


def floor(
    widths: Sequence[Sequence[int]], batch: int, parts: int
) -> Callable[[int], None]:
    """What does so many steps: with one part all threads work at each product, with
    more each at those of its part of the batch, side by side."""
    each = [products(widths, batch // parts) for _ in range(parts)]
    threads = torch.get_num_threads()

    def work(step: Callable[[], None], steps: int) -> None:
        torch.set_num_threads(threads // parts)  # of this thread
        for _ in range(steps):
            step()

    def act(steps: int) -> None:
        many = [threading.Thread(target=work, args=(step, steps)) for step in each]
        for thread in many:
            thread.start()
        for thread in many:
            thread.join()
        torch.set_num_threads(threads)  # and of those to come

    return act
