"""Training steps on a CPU, compiled: `fused.c`, built at first use, called by ctypes.

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
import hashlib
import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cvae import mnist
from cvae.model import CVAE
from cvae.optimizer import Adam
from cvae.spec.fields import Spec

SOURCE = Path(__file__).with_name("fused.c")
COMPILERS = ("cc", "gcc", "clang")
# No flag that changes a result but for the joining of a product with a sum.
FLAGS = (
    *("-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math"),
    *("-fno-signed-zeros", "-ffp-contract=fast", "-shared", "-fPIC", "-pthread"),
)
LAYERS, THREADS, ALIGNED = 16, 64, 16  # as in fused.c
AT_ONCE = 8192  # images a call: it cannot be interrupted
SPARSE = 0.3  # share of pixels that are not 0, up to which the zeros are left out
Streams = dict[str, torch.Generator]
_BUILDING = threading.Lock()

_int, _long = ctypes.c_int, ctypes.c_int64
_float, _pointer = ctypes.c_float, ctypes.c_void_p


class _Half(ctypes.Structure):
    _fields_ = (("layers", _int), ("widths", _int * (LAYERS + 1)))


class _Job(ctypes.Structure):
    _fields_ = (
        *((name, _Half) for name in ("encoder", "decoder")),
        *((n, _int) for n in ("pixels", "classes", "latent", "is_tanh")),
        *((n, _int) for n in ("threads", "batch", "sparse")),
        *((n, _float) for n in ("label_scale", "beta1", "beta2", "eps")),
        *((n, _float) for n in ("decay", "clip")),
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


@functools.cache
def library() -> Library | None:
    """The compiled steps; None where they cannot be had."""
    compiler = next(filter(None, map(shutil.which, COMPILERS)), None)
    try:
        # by its path: it is loaded already, and its names are not global
        blas = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))
        functions = blas.SGEMM, blas.MKL_Set_Num_Threads_Local
        addresses = [ctypes.cast(one, _pointer).value or 0 for one in functions]
        with _BUILDING:
            built = _built(compiler) if compiler else None
        return Library(ctypes.CDLL(str(built)).run_steps, *addresses) if built else None
    except (OSError, AttributeError):
        return None


def _built(compiler: str) -> Path | None:
    """The shared library of this source, compiler and processor, built if need be."""
    source = SOURCE.read_bytes()
    key = hashlib.sha256(source + repr((compiler, FLAGS)).encode() + _processor())
    name = f"fused-{key.hexdigest()[:16]}.so"
    for home in _homes():
        if (home / name).exists():
            return home / name
    for home in _homes():
        try:
            home.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=home) as folder:
                made = Path(folder) / name
                command = [compiler, *FLAGS, str(SOURCE), "-o", str(made), "-lm"]
                subprocess.run(command, check=True, capture_output=True, timeout=120)
                made.replace(home / name)
        except OSError:
            continue  # a folder that cannot be written
        except subprocess.SubprocessError:
            return None
        return home / name
    return None


def _homes() -> Iterator[Path]:
    """Where the library may be kept: beside Python's own compiled files, or the user's.

    Never a folder that other users can write to: code is loaded from it.
    """
    yield SOURCE.parent / "__pycache__"
    yield Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cvae"


def _processor() -> bytes:
    """What the compiler may use of this processor: another one has another library."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    keys = "model name", "flags"
    fields = (next((row for row in lines if row.startswith(key)), "") for key in keys)
    return "".join(fields).encode()


class Fused:
    """Runs an epoch's steps with the compiled library, on all of torch's threads.

    For what `ByHand` covers, in float32 on the CPU. The random streams are drawn from
    as torch's own steps do, in the same order.
    """

    def __init__(
        self,
        library: Library,
        model: CVAE,
        optimizer: Adam,
        data: mnist.Images,
        spec: Spec,
        streams: Streams,
    ) -> None:
        self.library, self.data, self.streams = library, data, streams
        self.latent, self.corrupt = model.latent_dim, spec.data.corrupt
        self.dynamic = spec.data.binarize == "dynamic"
        self.done = optimizer.state["step"]
        encoder, decoder = _widths(model.encoder), _widths(model.decoder)
        self.threads = min(torch.get_num_threads(), THREADS)
        batch, flat = spec.training.batch_size, optimizer.flat
        most = -(-batch // self.threads)  # images of one thread
        widest, inputs = max(*encoder, *decoder), decoder[0]
        pixels, latent = model.pixels, model.latent_dim
        buffers = [*encoder, *decoder, widest, widest, pixels, latent, inputs]
        stride = sum(-(-most * width // ALIGNED) * ALIGNED for width in buffers)
        stride += -(-most * 2 * latent // ALIGNED) * ALIGNED
        stride += 4 * (most + 1) * (encoder[0] + ALIGNED)  # what is not 0, in lists
        self.kept = [data.images.contiguous(), data.labels.contiguous()]
        self.grads = flat.new_zeros(self.threads, len(flat))
        self.scratch = flat.new_empty(self.threads, stride)
        options, averaged = optimizer.options, optimizer.state.get("ema")
        inked = float(data.images.count_nonzero()) / max(1, data.images.numel())
        self.sparse = inked + self.corrupt / 2 < SPARSE
        self.first = []  # its weights and what Adam knows of them, each (out, in)
        for one in [flat, *optimizer.state.values()] if self.sparse else []:
            if one.dim():  # not the count of steps
                first = one[: encoder[0] * encoder[1]]
                self.first.append(first.view(encoder[1], encoder[0]))
        self.job = _Job(
            encoder=_half(encoder),
            decoder=_half(decoder),
            pixels=pixels,
            classes=model.classes,
            latent=latent,
            is_tanh=any(isinstance(layer, nn.Tanh) for layer in model.encoder),
            threads=self.threads,
            batch=batch,
            sparse=self.sparse,
            label_scale=model.label_scale,
            **{name: options[name] for name in ("beta1", "beta2", "eps")},
            decay=options["weight_decay"],
            clip=spec.training.grad_clip or 0.0,
            ema=optimizer.ema,
            numbers=len(flat),
            weights=flat.data_ptr(),
            mean=optimizer.state["mean"].data_ptr(),
            square=optimizer.state["square"].data_ptr(),
            averaged=averaged.data_ptr() if averaged is not None else None,
            grads=self.grads.data_ptr(),
            scratch=self.scratch.data_ptr(),
            stride=stride,
            images=self.kept[0].data_ptr(),
            labels=self.kept[1].data_ptr(),
            sgemm=library.sgemm,
            product_threads=library.product_threads,
        )

    def __call__(self, batches: Sequence[Tensor], controls: Tensor) -> Tensor:
        """Batches of image numbers (n,), rate and β (steps, 2) → the sums of each step
        as of `ByAutograd`, (steps, 3 + 2Z)."""
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
        noise = torch.cat([self._noise(len(rows)) for rows in batches])
        x, target = self._pixels(batches)
        rows, controls = torch.cat(list(batches)), controls.contiguous()
        sizes = torch.tensor([len(rows) for rows in batches], dtype=torch.int32)
        shape = self.threads, len(batches), 3 + 2 * self.latent
        sums = torch.zeros(shape, dtype=torch.float64)
        steps = _Steps(
            count=len(batches),
            rows=rows.data_ptr(),
            sizes=sizes.data_ptr(),
            noise=noise.data_ptr(),
            control=controls.data_ptr(),
            x=None if x is None else x.data_ptr(),
            target=None if target is None else target.data_ptr(),
            done=float(self.done),
            sums=sums.data_ptr(),
        )
        fault = self.library.run_steps(ctypes.byref(self.job), ctypes.byref(steps))
        if fault:
            raise OSError(fault, f"no {self.threads} threads: {os.strerror(fault)}")
        self.done.add_(len(batches))
        return sums.sum(0)

    def _noise(self, n: int) -> Tensor:
        """Standard normal, (n, Z)."""
        empty = torch.empty((1, n, self.latent))
        return empty.normal_(generator=self.streams["noise"])[0]

    def _pixels(self, batches: Sequence[Tensor]) -> tuple[Tensor | None, Tensor | None]:
        """What the encoder sees and what is explained, each (images, D); None where
        that is the image itself."""
        if not self.dynamic and not self.corrupt:
            return None, None
        seen, explained = [], []
        for rows in batches:
            target = mnist.pixels(self.data.images[rows])
            if self.dynamic:
                target = torch.bernoulli(target, generator=self.streams["binarize"])
            x = target
            if self.corrupt:
                x = mnist.salt_and_pepper(x, self.corrupt, self.streams["corrupt"])
            seen.append(x)
            explained.append(target)
        target = torch.cat(explained)
        return torch.cat(seen) if self.corrupt else None, target


def covers(model: CVAE) -> bool:
    """Whether the steps are written for so many layers, of what `ByHand` covers."""
    halves = _widths(model.encoder), _widths(model.decoder)
    return all(len(widths) <= LAYERS + 1 for widths in halves)


def _widths(layers: nn.Sequential) -> list[int]:
    linear = [layer for layer in layers if isinstance(layer, nn.Linear)]
    return [linear[0].in_features, *(layer.out_features for layer in linear)]


def _half(widths: Sequence[int]) -> _Half:
    return _Half(len(widths) - 1, (_int * (LAYERS + 1))(*widths))
