"""Training steps on a GPU, recorded once as a CUDA graph and replayed.

A step of this network is about a hundred small kernels; launching each from Python
takes longer than running it. A graph launches them all at once.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from cvae.training import Step, StepFor, Streams

EAGER_STEPS = 3  # first steps on a GPU, before the graph is captured
capturing = threading.Lock()  # one graph at a time, where runs share a process


class Replay:
    """Runs an epoch's steps: whole batches as one replayed graph, the rest eagerly.

    A graph can only repeat what it recorded, on the same memory. So the recorded step
    reads which batch is next from a counter on the device, and adds one to it:

        at (1,) → order[at] (batch,) image numbers, controls[at] (2,) rate and β
                → step → history[at] (row of sums);  at += 1
    """

    def __init__(self, batch: int, streams: Streams) -> None:
        self.batch, self.streams = batch, streams
        self.graph: torch.cuda.CUDAGraph | None = None  # recorded in the first epoch

    def __call__(
        self, step_for: StepFor, batches: Sequence[Tensor], controls: Tensor
    ) -> Tensor:
        """Batches of image numbers (n,) and controls (steps, 2) → rows (steps, …)."""
        whole = [rows for rows in batches if len(rows) == self.batch]
        rest = list(batches)[len(whole) :]
        done: list[Tensor] = []
        if whole and self.graph is None:
            step = step_for(self.batch)  # capture demands that it has run before
            # Runs side by side have a stream each. One made anew here could be another
            # run's: torch hands out the same 32 in turn.
            side = torch.cuda.current_stream()
            if side == torch.cuda.default_stream():
                side = torch.cuda.Stream()
            with on_stream(side):
                done = [
                    step(*pair)
                    for pair in zip(whole[:EAGER_STEPS], controls, strict=False)
                ]
            with capturing:
                self._capture(step, side, whole[0], controls, done[0])
        if self.graph is not None:
            self.order[: len(whole)] = torch.stack(whole)
            self.controls.copy_(controls)
            self.at.fill_(len(done))
            for _ in range(len(whole) - len(done)):  # none waits for the one before
                self.graph.replay()
            done += list(self.history[len(done) : len(whole)].clone())
        done += [step_for(len(rows))(rows, controls[-1]) for rows in rest]
        return torch.stack(done)

    def _capture(
        self,
        step: Step,
        side: torch.cuda.Stream,
        rows: Tensor,
        controls: Tensor,
        row: Tensor,
    ) -> None:
        self.order = torch.zeros_like(rows).repeat(len(controls), 1)
        self.controls = torch.zeros_like(controls)
        self.history = torch.zeros_like(row).repeat(len(controls), 1)
        self.at = torch.zeros(1, dtype=torch.long, device=rows.device)
        self.graph = torch.cuda.CUDAGraph()
        for generator in self.streams.values():  # a replay must draw new noise
            if generator.device.type == "cuda":
                self.graph.register_generator_state(generator)
        # Nothing runs here: it is recorded. A run has a stream of its own, and with it
        # cuBLAS's scratch memory, so that graphs of several runs may run at once.
        with torch.cuda.graph(
            self.graph, stream=side, capture_error_mode="thread_local"
        ):
            rows = self.order.index_select(0, self.at)[0]
            control = self.controls.index_select(0, self.at)[0]
            self.history.index_copy_(0, self.at, step(rows, control)[None])
            self.at += 1


@contextmanager
def on_stream(side: torch.cuda.Stream) -> Iterator[None]:
    """Capture demands that what it records has run before, on another stream."""
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        yield
    torch.cuda.current_stream().wait_stream(side)
