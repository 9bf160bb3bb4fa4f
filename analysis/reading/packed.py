"""A model as text for a page: blocks of base64, each a raw deflate stream.

Matrices are rounded to half precision with `BITS` bits behind the leading one, as most
published weights are (publishing/rounding.py): a thousandth of a nat for a third of the
size. Biases and priors stay float32. Letters: Z latent, C classes, M components.
"""

from __future__ import annotations

import base64
import zlib
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cvae import proof
from cvae.mixture import Mixture
from cvae.model import CVAE
from cvae.priors import Diagonal
from cvae.publishing import rounding

BITS = rounding.BITS[0]  # of the 10 bits of a float16's mantissa


def pack(data: bytes) -> str:
    """Bytes as a block; numbers, whose bytes seldom repeat, are packed by frequency."""
    stream = zlib.compressobj(9, zlib.DEFLATED, -15, 9, zlib.Z_FILTERED)
    return base64.b64encode(stream.compress(data) + stream.flush()).decode()


def rounded(weight: Tensor, bits: int = BITS) -> NDArray[np.float16]:
    """The nearest float16 with `bits` bits behind the leading one."""
    half: NDArray[np.float16] = rounding.rounded(weight.detach().cpu(), bits).numpy()
    return half


def layers(part: nn.Sequential, bits: int = BITS) -> bytes:
    """Matrices by inputs, all low bytes before all high ones; then biases, float32."""
    linear = [layer for layer in part if isinstance(layer, nn.Linear)]
    numbers = np.concatenate([rounded(each.weight.T, bits).ravel() for each in linear])
    halves = numbers.astype("<f2").view(np.uint8).reshape(-1, 2)
    biases = np.concatenate([each.bias.detach().cpu().numpy() for each in linear])
    return halves.T.tobytes() + biases.astype("<f4").tobytes()


def widths(part: nn.Sequential) -> list[int]:
    """Numbers in, of each hidden layer, and out."""
    linear = [layer for layer in part if isinstance(layer, nn.Linear)]
    return [linear[0].in_features, *(layer.out_features for layer in linear)]


@torch.no_grad()
def prior(model: CVAE) -> tuple[bytes, dict[str, int]]:
    """p(z given y) as a mixture, whatever it is, and the map from u to z, float32.

    Returns:
        table (rows, M, 1 + Z + Z²) as `Mixture` has it, then shift and factor of
        z = shift + factor u, (rows, Z + Z²); and how many rows and components. A
        prior that is the same for all labels has one row.
    """
    p_z, size = model.prior, model.latent_dim
    same = not isinstance(p_z, Diagonal | Mixture)
    labels = torch.arange(1 if same else model.classes)
    rows = len(labels)
    if isinstance(p_z, Mixture):
        parts = [p_z.log_weight[..., None], p_z.mu, p_z.w.flatten(-2)]
        table = torch.cat(parts, -1)
    else:
        mu = p_z.unwhiten(torch.zeros(rows, size), labels)
        scale = p_z.unwhiten(torch.ones(rows, size), labels) - mu
        w = torch.diag_embed(1 / scale)
        table = torch.cat([torch.zeros(rows, 1), mu, w.flatten(-2)], -1)[:, None]
    shift = p_z.unwhiten(torch.zeros(rows, size), labels)
    units = torch.eye(size)
    factor = [p_z.unwhiten(unit.expand(rows, -1), labels) - shift for unit in units]
    affine = torch.cat([shift, torch.stack(factor, -1).flatten(-2)], -1)
    numbers = torch.cat([table.flatten(), affine.flatten()])
    shape = {"rows": rows, "components": table.shape[1]}
    return numbers.cpu().numpy().astype("<f4").tobytes(), shape


def model_facts(model: CVAE, activation: str) -> dict[str, Any]:
    """What the page's `Model` and `Prior` have to know besides their numbers."""
    return {
        "latent": model.latent_dim,
        "classes": model.classes,
        "labelScale": model.label_scale,
        "activation": activation,
        "decoder": widths(model.decoder),
        "encoder": widths(model.encoder),
        **prior(model)[1],
    }


def reproduces(model: CVAE, activation: str) -> bool:
    """Whether the layers, run as on the page, give the model's encode and decode.

    They do not where `CVAE.encode` or `CVAE.decode` was changed.
    """
    with torch.no_grad():
        return proof.agrees(
            model,
            lambda twin, p: [
                _forward(twin, twin.encoder, p.x, p.y, activation),
                _forward(twin, twin.decoder, p.z, p.y, activation),
            ],
            lambda twin, p: [
                torch.cat(twin.encode(p.x, p.y), -1),
                twin.decode(p.z, p.y),
            ],
        )


def _forward(
    model: CVAE, part: nn.Sequential, values: Tensor, y: Tensor, activation: str
) -> Tensor:
    """What network.js does: one-hot label behind the values, layers, activations."""
    if model.classes:
        label = model.label_scale * nn.functional.one_hot(y, model.classes)
        values = torch.cat([values, label.to(values.dtype)], -1)
    linear = [layer for layer in part if isinstance(layer, nn.Linear)]
    for layer in linear[:-1]:
        values = getattr(nn.functional, activation)(layer(values))
    last: Tensor = linear[-1](values)
    return last
