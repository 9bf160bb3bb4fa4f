"""The floor: nothing but the matrix products of a step, forward and backward.

    python -m benchmarks.floor '{"widths": [[784, 400, 40], [20, 400, 784]],
                                 "batch": 128, "parts": 2}'

does the products of so many steps for each number on stdin and prints the seconds: with
one part all threads work at each product, with two each at those of half the batch,
side by side.
"""

from __future__ import annotations

import itertools
import json
import sys
import threading
import time
from collections.abc import Callable

import torch


def products(widths: list[list[int]], batch: int) -> Callable[[], None]:
    """Every layer's product with its input, its weight's and its input's gradient."""
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
        for index, (x, weight, grad, _, dx, dw) in enumerate(layers):
            torch.mm(grad.t(), x, out=dw)
            if index:  # the images need no gradient
                torch.mm(grad, weight, out=dx)

    return step


def run(step: Callable[[], None], steps: int, threads: int) -> None:
    torch.set_num_threads(threads)
    for _ in range(steps):
        step()


def main() -> None:
    case = json.loads(sys.argv[1])
    torch.set_flush_denormal(True)
    parts, all_threads = case["parts"], torch.get_num_threads()
    each = [products(case["widths"], case["batch"] // parts) for _ in range(parts)]
    for line in sys.stdin:
        began, steps = time.perf_counter(), int(line)
        many = [
            threading.Thread(target=run, args=(step, steps, all_threads // parts))
            for step in each
        ]
        for thread in many:
            thread.start()
        for thread in many:
            thread.join()
        print(time.perf_counter() - began, flush=True)


if __name__ == "__main__":
    main()
