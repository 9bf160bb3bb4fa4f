"""Weights rounded for publishing: a third of the size for a thousandth of a nat.

Matrices become float16 with 7 bits behind the leading one, more where 7 cost too much,
which is measured before anything is written.
"""

from __future__ import annotations

import logging
from copy import deepcopy

import torch
from torch import Tensor

from cvae.errors import Damaged, UsageError
from cvae.loading.loaded import LoadedRun, load_data
from cvae.run.folder import RunFolder

BITS = (7, 8, 10)  # of the 10 of a float16's mantissa; the fewest that do are taken
ROUNDING = 0.005  # nats of test/neg_elbo that rounding may cost; verify allows 0.01
log = logging.getLogger("cvae")


def rounded_weights(folder: RunFolder, run: LoadedRun) -> dict[str, Tensor]:
    """The state dict with as few of `BITS` as cost no more than `ROUNDING`."""
    from cvae.run import evaluation  # the explorer, which only rounds, loads it not

    spec, own = run.spec, folder.metrics.get("test/neg_elbo")
    if own is None:
        raise Damaged(f"{folder.path}: finished, but test/neg_elbo is not recorded")
    test, weights = load_data(spec, folder).test, deepcopy(run.model.state_dict())
    for bits in BITS:
        fewer = {
            key: rounded(w, bits) if key.endswith(".weight") else w.detach().clone()
            for key, w in weights.items()
        }
        run.model.load_state_dict(fewer)
        anew = evaluation.bound(run.model, test, spec, beta=spec.objective.beta)
        if abs(cost := anew["neg_elbo"] - own) <= ROUNDING:
            log.info("%s: rounding the weights costs %+.4f nats", folder.name, cost)
            return fewer
    raise UsageError(  # nan, too
        f"{folder.path}: its weights, rounded to float16, give {own + cost:.4f} nats "
        f"per image of the test set; recorded are {own:.4f}, allowed {ROUNDING} more"
    )


def rounded(weight: Tensor, kept: int) -> Tensor:
    """A matrix as the nearest float16 with so many bits; once more changes nothing.

    From float32 at once: what is halfway between two would be rounded twice, and up.
    """
    bits, drop = weight.detach().contiguous().view(torch.int32), 23 - kept
    nearest = (bits + (1 << (drop - 1))) >> drop << drop
    return nearest.view(torch.float32).half()
