"""likelihood.safetensors: log p of each test image, the proof of a likelihood cell.

Float32 `log_p_x_given_y` (N,) and, of a conditional model, `log_p_x` (N,), in test-set
order. One or two latents are integrated; with more, the image's own label has K draws
of z and each other one `others` (see evaluation/nll.py). Every pass of `size` images
has its own noise, named after its first image, so that any pass can be made again
alone. The metadata says all this, with the seed and the digest of the pixels.

    python -c "import safetensors.numpy as s; print(-s.load_file(
    'results/best-mlp-5d59be4e/likelihood.safetensors')['log_p_x'].mean())"
"""

from __future__ import annotations

import hashlib
from dataclasses import replace

import safetensors.torch
import torch
from torch import Tensor

from cvae import likelihood, mnist
from cvae.errors import Altered
from cvae.evaluation import nll, quadrature
from cvae.loading.loaded import LoadedRun, load_data
from cvae.networks import stream
from cvae.run import evaluation
from cvae.run.published import LIKELIHOOD, facts_of

SAMPLES = 1000  # K
PASS_IMAGES = {"mlp": 200, "conv": 20}  # a convolution decodes five times as long
INTEGRATED_IMAGES = 2000  # a pass: its grid is decoded anew
VERIFIED_IMAGES = 200  # of integrals, which are the same in any pass
NAMES = ("log_p_x_given_y", "log_p_x")
ALLOWED = 1e-3  # nats of an image: another processor sums in another order
Facts = dict[str, str]


def make(run: LoadedRun) -> bytes:
    """The file of a run with the weights that are published; resumed if interrupted."""
    data = load_data(run.spec, run.folder)
    facts = {"seed": str(run.spec.training.seed), "pixels": _digest(data.test)}
    if run.model.latent_dim in quadrature.GRIDS:
        facts |= {"method": "integral", "size": str(INTEGRATED_IMAGES)}
    else:
        size = PASS_IMAGES[run.spec.model.architecture]
        facts |= {"method": "importance sampling", "size": str(size)}
        facts |= {"K": str(SAMPLES), "others": str(nll.OTHERS)}
    counts = {"samples": SAMPLES, "label_samples": nll.OTHERS}
    request = evaluation.request_of(run.folder, run.spec, run.model, data, **counts)
    home = evaluation.directory(run.folder)
    request = replace(request, kept=home / "likelihood")
    starts = range(0, len(data.test), int(facts["size"]))
    parts = request.batches(
        "proof", starts, lambda start: log_p(run, data.test, facts, start)
    )
    columns = zip(NAMES, torch.cat(parts).float().T, strict=False)
    tensors = {name: column.contiguous() for name, column in columns}
    return bytes(safetensors.torch.save(tensors, facts))


def log_p(run: LoadedRun, test: mnist.Images, facts: Facts, start: int) -> Tensor:
    """log p(x|y) and, conditional, log p(x) of one pass, (B, 2) or (B, 1), in nats."""
    some, model = test[start : start + int(facts["size"])], run.model
    if facts["method"] == "integral":
        logs = quadrature.label_integrals(model, some)  # (B, C), the own label first
        own, others = logs[:, 0], logs[:, 1:]
    else:
        generator = stream(int(facts["seed"]), f"proof {start}")
        corrupt = run.spec.data.corrupt
        ((x, target, y),) = likelihood.chunks(
            model, some, generator, corrupt=corrupt, size=len(some)
        )
        k, few = int(facts["K"]), int(facts["others"])
        inputs = model, x, target, y, generator
        own = likelihood.log_likelihood(*inputs, samples=k).double()
        others = nll.of_others(*inputs, samples=few) if model.classes else own
    if not model.classes:
        return own[:, None].cpu()
    return torch.stack([own, nll.log_evidence(own, others)], 1).cpu()


def differences(
    run: LoadedRun, data: bytes, *, full: bool
) -> dict[str, tuple[int, float]]:
    """By name: how many images were made again, the largest difference in nats.

    The first pass is, of integrals a part of it; with `full` all.

    Raises:
        Altered: the file is of other pixels, of another seed or of fewer images.
    """
    facts = facts_of(data)
    test = load_data(run.spec, run.folder).test
    wanted = {"pixels": _digest(test), "seed": str(run.spec.training.seed)}
    known = safetensors.torch.load(data)
    names = NAMES if run.model.classes else NAMES[:1]
    if wanted.items() - facts.items() or set(known) != set(names):
        raise Altered(
            f"{run.folder.path / LIKELIHOOD}: of other pixels or another seed"
        )
    if facts["method"] == "integral" and not full:
        facts |= {"size": str(VERIFIED_IMAGES)}
    size = int(facts["size"])
    starts = range(0, len(test), size) if full else range(0, 1)
    anew = torch.cat([log_p(run, test, facts, start) for start in starts])
    found = {}
    for name, column in zip(names, anew.T, strict=True):
        if len(known[name]) != len(test):
            raise Altered(f"{run.folder.path / LIKELIHOOD}: {len(known[name])} images")
        apart = (known[name][: len(column)].double() - column).abs()
        found[name] = len(column), float(apart.max())
    return found


def _digest(test: mnist.Images) -> str:
    """Of the pixels as they are evaluated: binarised, where the run's spec says so."""
    return hashlib.sha256(test.images.cpu().numpy().tobytes()).hexdigest()
