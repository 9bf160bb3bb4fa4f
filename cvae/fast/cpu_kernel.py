"""Training steps on a CPU, compiled: `cpu_kernel.c`, built at first use, by ctypes.

Each of torch's operators wakes all threads and waits for them, some thirty times a
step, and walks the pixels once more; these steps wake them once. What they compute is
what `gradient` and `optimizer` do, to rounding. Where there is no C compiler, or torch
comes without the BLAS that is called here (it has MKL's on x86-64), torch's own
operators train.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import logging
import os
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cvae import mnist
from cvae.fast import compiler
from cvae.model import CVAE
from cvae.optimizer import Adam, Hyperparameters
from cvae.training import Inputs, Job

log = logging.getLogger("cvae")
SOURCE = Path(__file__).with_name("cpu_kernel.c")
LAYERS, THREADS, ALIGNED = 16, 64, 16  # as in cpu_kernel.c
AT_ONCE = 8192  # images a call: it cannot be interrupted
SPARSE = 0.3  # share of pixels that are not 0, up to which the zeros are left out
_LOADING = threading.Lock()

_int, _long = ctypes.c_int, ctypes.c_int64
_float, _pointer = ctypes.c_float, ctypes.c_void_p


class _Half(ctypes.Structure):
    _fields_ = (("layers", _int), ("widths", _int * (LAYERS + 1)))


class _Job(ctypes.Structure):
    _fields_ = (
        *((name, _Half) for name in ("encoder", "decoder")),
        *((n, _int) for n in ("pixels", "classes", "latent", "is_tanh")),
        *((n, _int) for n in ("threads", "batch", "sparse")),
        *((n, _float) for n in ("label_scale", "beta1", "beta2", "eps", "decay")),
        ("ema", ctypes.c_double),
        ("numbers", _long),
        *((n, _pointer) for n in ("weights", "mean", "square", "averaged")),
        *((n, _pointer) for n in ("grads", "scratch")),
        ("stride", _long),
        *((n, _pointer) for n in ("images", "labels", "sgemm", "product_threads")),
    )


class _Steps(ctypes.Structure):
    _fields_ = (
        ("count", _long),
        *((n, _pointer) for n in ("rows", "sizes", "noise", "control")),
        *((n, _pointer) for n in ("x", "target")),
        ("done", ctypes.c_double),
        ("sums", _pointer),
    )


@dataclass(frozen=True)
class Library:
    """The compiled steps, and where torch's BLAS lies in memory."""

    run_steps: Any
    sgemm: int
    product_threads: int


def library() -> Library | None:
    """The compiled steps; None where they cannot be had, and one line says why."""
    with _LOADING:
        return _library()


@functools.cache
def _library() -> Library | None:
    try:
        # by its path: it is loaded already, and its names are not global
        blas = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))
        functions = blas.SGEMM, blas.MKL_Set_Num_Threads_Local
        addresses = [ctypes.cast(one, _pointer).value or 0 for one in functions]
        return Library(compiler.load(SOURCE).run_steps, *addresses)
    except (OSError, AttributeError) as error:
        log.warning("training takes torch's own steps, which are slower: %s", error)
        return None


class Fused:
    """Runs an epoch's steps with the compiled library, on all of torch's threads.

    For what `AnalyticGradient` covers, in float32 on the CPU. The random streams are
    drawn from as torch's own steps do, in the same order.
    """

    def __init__(self, library: Library, job: Job) -> None:
        model, optimizer, data, wanted, streams = job
        self.library, self.data, self.streams = library, data, streams
        self.latent, self.inputs = model.latent_dim, Inputs(wanted, streams)
        self.done, flat = optimizer.state["step"], optimizer.flat
        self.threads = min(torch.get_num_threads(), THREADS)
        inked = float(data.images.count_nonzero()) / max(1, data.images.numel())
        self.sparse = inked + self.inputs.corrupt / 2 < SPARSE
        self.first = _first_layer(model, optimizer) if self.sparse else []
        most = -(-wanted.batch_size // self.threads)  # images of one thread
        self.kept = [data.images.contiguous(), data.labels.contiguous()]
        self.grads = flat.new_zeros(self.threads, len(flat))
        self.scratch = flat.new_empty(self.threads, _scratch_size(model, most))
        self.job = self._job(model, optimizer, wanted)

    def _job(self, model: CVAE, optimizer: Adam, wanted: Hyperparameters) -> _Job:
        """What all steps have in common; it holds addresses, `self` the arrays."""
        state, options = optimizer.state, optimizer.options
        return _Job(
            encoder=_half(model.encoder),
            decoder=_half(model.decoder),
            pixels=model.pixels,
            classes=model.classes,
            latent=model.latent_dim,
            is_tanh=any(isinstance(layer, nn.Tanh) for layer in model.encoder),
            threads=self.threads,
            batch=wanted.batch_size,
            sparse=self.sparse,
            label_scale=model.label_scale,
            **{name: options[name] for name in ("beta1", "beta2", "eps")},
            decay=options["weight_decay"],
            ema=optimizer.ema,
            numbers=len(optimizer.flat),
            weights=_address(optimizer.flat),
            **{name: _address(state[name]) for name in ("mean", "square")},
            averaged=_address(state.get("ema")),
            grads=_address(self.grads),
            scratch=_address(self.scratch),
            stride=self.scratch.shape[1],
            images=_address(self.kept[0]),
            labels=_address(self.kept[1]),
            sgemm=self.library.sgemm,
            product_threads=self.library.product_threads,
        )

    def __call__(self, batches: Sequence[Tensor], controls: Tensor) -> Tensor:
        """Batches of image numbers (n,), rate and β (steps, 2) → the sums of each step
        as of `AutogradGradient`, (steps, 3 + 2Z)."""
        at_once = max(1, AT_ONCE // len(batches[0]))
        with self._by_input():
            parts = [
                self._run(batches[at : at + at_once], controls[at : at + at_once])
                for at in range(0, len(batches), at_once)
            ]
        return torch.cat(parts)

    @contextlib.contextmanager
    def _by_input(self) -> Iterator[None]:
        """The first layer as (in, out), where its products are sparse."""
        for weights in self.first:
            weights.view(weights.shape[::-1]).copy_(weights.t().clone())
        try:
            yield
        finally:
            for weights in self.first:
                weights.copy_(weights.view(weights.shape[::-1]).t().clone())

    def _run(self, batches: Sequence[Tensor], controls: Tensor) -> Tensor:
        empty = [torch.empty((1, len(rows), self.latent)) for rows in batches]
        noise = torch.cat(
            [e.normal_(generator=self.streams["noise"])[0] for e in empty]
        )
        x, target = self._pixels(batches)
        rows, controls = torch.cat(list(batches)), controls.contiguous()
        sizes = torch.tensor([len(rows) for rows in batches], dtype=torch.int32)
        shape = self.threads, len(batches), 3 + 2 * self.latent
        sums = torch.zeros(shape, dtype=torch.float64)
        arrays = map(_address, (rows, sizes, noise, controls, x, target))
        steps = _Steps(len(batches), *arrays, float(self.done), _address(sums))
        fault = self.library.run_steps(ctypes.byref(self.job), ctypes.byref(steps))
        if fault:
            raise OSError(fault, f"no {self.threads} threads: {os.strerror(fault)}")
        self.done.add_(len(batches))
        return sums.sum(0)

    def _pixels(self, batches: Sequence[Tensor]) -> tuple[Tensor | None, Tensor | None]:
        """What the encoder sees and what is explained, each (images, D); None where
        that is the image itself."""
        if self.inputs.plain:
            return None, None
        pairs = [self.inputs(mnist.pixels(self.data.images[rows])) for rows in batches]
        seen, explained = zip(*pairs, strict=True)
        noisy = seen[0] is not explained[0]
        return torch.cat(seen) if noisy else None, torch.cat(explained)


def covers(model: CVAE) -> bool:
    """Whether it has room for the layers, of what `AnalyticGradient` covers."""
    halves = model.encoder, model.decoder
    return all(len(_widths(half)) <= LAYERS + 1 for half in halves)


def _widths(layers: nn.Sequential) -> list[int]:
    linear = [layer for layer in layers if isinstance(layer, nn.Linear)]
    return [linear[0].in_features, *(layer.out_features for layer in linear)]


def _half(layers: nn.Sequential) -> _Half:
    widths = _widths(layers)
    return _Half(len(widths) - 1, (_int * (LAYERS + 1))(*widths))


def _address(array: Tensor | None) -> int | None:
    return None if array is None else array.data_ptr()


def _first_layer(model: CVAE, optimizer: Adam) -> list[Tensor]:
    """The encoder's first weights and what Adam knows of them, each (out, in)."""
    inputs, outputs, *_ = _widths(model.encoder)
    numbers = [optimizer.flat, *optimizer.state.values()]
    of_weights = [each for each in numbers if each.dim()]  # not the count of steps
    return [each[: inputs * outputs].view(outputs, inputs) for each in of_weights]


def _scratch_size(model: CVAE, images: int) -> int:
    """Floats that one thread works on for so many images, each buffer ALIGNED."""
    encoder, decoder = _widths(model.encoder), _widths(model.decoder)
    widest, z = max(*encoder, *decoder), model.latent_dim
    buffers = [*encoder, *decoder, widest, widest, model.pixels, z, 2 * z, decoder[0]]
    size = sum(-(-images * width // ALIGNED) * ALIGNED for width in buffers)
    return size + 4 * (images + 1) * (encoder[0] + ALIGNED)  # what is not 0, in lists
