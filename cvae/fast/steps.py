"""The fastest way to this model's steps that gives what autograd gives.

Each way is compared with `training.autograd` before it is used, in each run: sums and
gradients of a few images with all labels, at two values of β, on a perturbed copy of
the model. Where it differs, because `encode`, `decode` or the objective was edited, the
next one is tried, and that is said.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from cvae import mnist, proof
from cvae.fast import cpu_kernel
from cvae.fast.cuda_graph import EAGER_STEPS, Replay
from cvae.fast.gradient import AnalyticGradient
from cvae.model import CVAE
from cvae.optimizer import Adam, Hyperparameters
from cvae.training import (
    Job,
    RunSteps,
    Step,
    Steps,
    autograd,
    build_step,
    one_by_one,
)

BETAS = 0.7, 2.0
log = logging.getLogger("cvae")


def fastest(job: Job) -> RunSteps:
    """Runs an epoch's steps, see `training.autograd`."""
    return choose(job.model, job.data, job.wanted)(job)


def choose(model: CVAE, data: mnist.Images, wanted: Hyperparameters) -> Steps:
    """The fastest steps that agree with autograd; those that do not are named."""
    for name, steps in _ways(model, data, wanted).items():
        if agrees(steps, model, data, wanted):
            return steps
        log.warning(
            "%s does not give what this model and objective give by autograd, and is "
            "not used: training takes longer",
            name,
        )
    return autograd


def _ways(model: CVAE, data: mnist.Images, wanted: Hyperparameters) -> dict[str, Steps]:
    """Those written for the device, the layers and the objective, fastest first."""
    cuda = data.images.is_cuda
    covered = AnalyticGradient.covers(
        model, samples=wanted.importance_samples, doubly=wanted.doubly
    )
    ways: dict[str, Steps] = {}
    if covered and not cuda and cpu_kernel.covers(model) and cpu_kernel.library():
        ways["the compiled kernel"] = compiled
    if covered:
        ways["the gradient written out"] = analytic
    if cuda:
        ways["the CUDA graph"] = replayed
    return ways


def compiled(job: Job) -> RunSteps:
    """Steps compiled for this processor."""
    library = cpu_kernel.library()
    assert library
    return cpu_kernel.Fused(library, job)


def analytic(job: Job) -> RunSteps:
    """Steps with the gradient written out; on a GPU replayed as a CUDA graph."""

    @functools.cache
    def step_for(n: int) -> Step:
        return build_step(AnalyticGradient(job.model, n), job, n)

    device = job.data.images.device
    cpu = device.type == "cpu"
    run = one_by_one if cpu else Replay(job.wanted.batch_size, job.streams)

    def run_steps(batches: Sequence[Tensor], controls: Tensor) -> Tensor:
        with torch.inference_mode(cpu):  # less work around each call
            rows = run(step_for, batches, controls.to(device))
        return AnalyticGradient.sums(rows.cpu().double(), controls[:, 1])

    return run_steps


def replayed(job: Job) -> RunSteps:
    """Steps differentiated by autograd, replayed as a CUDA graph."""
    return autograd(job, run=Replay(job.wanted.batch_size, job.streams))


def agrees(
    steps: Steps, model: CVAE, data: mnist.Images, wanted: Hyperparameters
) -> bool:
    """Whether `steps` and autograd give the same sums and gradients."""
    return proof.agrees(
        model,
        lambda twin, probe: _outcome(steps, twin, probe, data, wanted),
        lambda twin, probe: _outcome(autograd, twin, probe, data, wanted),
    )


def _outcome(
    steps: Steps,
    twin: CVAE,
    probe: proof.Probe,
    data: mnist.Images,
    wanted: Hyperparameters,
) -> list[Tensor]:
    """Sums of some steps of the probe's labels, and the gradient of each weight.

    The images are the run's own: the kernel has a way of its own for mostly black ones.
    With the learning rate 0 the weights stay, and Adam's first moment is a mean of the
    gradients.
    """
    device, n = data.images.device, len(probe.y)
    images = data.images[torch.arange(n, device=device) % len(data)]
    ours = mnist.Images(images, probe.y)
    fixed = replace(wanted, batch_size=n, adam_betas=(0.5, 0.5), ema=0.0)
    adam = Adam(twin.train(), fixed)
    streams = {
        name: torch.Generator(device).manual_seed(at)
        for at, name in enumerate(("noise", "binarize", "corrupt"))
    }
    run = steps(Job(twin, adam, ours, fixed, streams))
    count = EAGER_STEPS + 2 if device.type == "cuda" else 2  # graphs begin later
    controls = torch.tensor([[0.0, BETAS[at % 2]] for at in range(count)])
    sums = run([torch.arange(n, device=device)] * count, controls)
    parts = list(twin.parameters())
    slopes = adam.state["mean"].split([part.numel() for part in parts])
    return [*sums[:, :3].unbind(1), sums[:, 3:], *slopes]
