"""The objective in nats per image: pure functions, one reduction rule."""

# Every function sums over pixels and latents and leaves the images apart; the mean over
# images is taken by whoever asks for one.

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from cvae.model import CVAE
from cvae.priors import gaussian_log_density, sample


class Terms(NamedTuple):
    """Per image (B,), nats: recon and kl are both ≥ 0, loss is what is minimised.

    mu (B, Z) is the posterior mean, from which active units are counted.
    """

    recon: Tensor
    kl: Tensor
    loss: Tensor
    mu: Tensor


def terms(
    model: CVAE,
    x: Tensor,
    y: Tensor,
    noise: Tensor,
    beta: float | Tensor,
    target: Tensor,
    *,
    doubly: bool = False,
) -> Terms:
    """One pass through the model.

    Args:
        x: encoder input (B, D) in [0, 1]; `target`: what the decoder is to explain.
        y: labels (B,).
        noise: standard normal (K, B, Z). K = 1 minimises recon + β·kl (Kingma & Welling
            2014, eq. 10, β as in Higgins et al. 2017); K > 1 the importance-weighted
            bound of Burda et al. 2016, eq. 8, its log ratio log q − log p scaled by β.
        doubly: the loss has the gradient of `doubly_reparameterise`; with K = 1 it is
            of one draw then, also where the kl has a closed form.
    """
    posterior = mu, _ = model.encode(x, y)
    z = sample(posterior, noise)  # (K, B, Z)
    recon = bernoulli_nll(model.decode(z, y), target)  # (K, B)
    kl = model.prior.kl(posterior, y)  # (B,)
    if len(noise) == 1 and kl is not None and not doubly:
        return Terms(recon[0], kl, recon[0] + beta * kl, mu)
    of_q = (mu.detach(), posterior[1].detach()) if doubly else posterior
    # log q(z|x,y) − log p(z|y), (K, B); its mean over q is the KL
    log_ratio = gaussian_log_density(z, of_q) - model.prior.log_density(z, y)
    if kl is None:
        kl = log_ratio.mean(0)
    log_weight = -recon - beta * log_ratio  # (K, B)
    if doubly and z.requires_grad:
        doubly_reparameterise(z, log_weight, beta)
    return Terms(recon.mean(0), kl, -log_mean_exp(log_weight), mu)


def doubly_reparameterise(z: Tensor, log_weight: Tensor, beta: float | Tensor) -> None:
    """Gives the encoder the gradient of Tucker et al. 2019, eq. 8, for any β.

    Args:
        z: (K, B, Z), what the encoder gets its gradient through.
        log_weight: (K, B), where q's density was given mu and logvar without gradient.
    """
    # With log w_k = −recon_k − β (log q(z_k) − log p(z_k)) and w̃_k = w_k / Σ w the
    # encoder's gradient of E[log 1/K Σ w_k] is, z = z(φ, noise),
    #
    #     E Σ_k w̃_k (∂log w_k/∂z_k ∂z_k/∂φ − β ∂log q_φ(z_k)/∂φ).
    #
    # The second part, the score, is for any f(z): E[f ∂log q/∂φ] = E[∂f/∂z ∂z/∂φ]. With
    # f = w̃_k, whose slope is w̃_k (1 − w̃_k) ∂log w_k/∂z_k, all of it becomes
    #
    #     E Σ_k (1 − β (1 − w̃_k)) w̃_k ∂log w_k/∂z_k ∂z_k/∂φ,
    #
    # With β = 1 the weights are w̃_k², and where q is the true posterior it is 0 for
    # every draw, not in the mean alone; K = 1 is "sticking the landing" (Roeder et al.
    # 2017). The gradient of decoder and prior stays Σ w̃_k ∂log w_k/∂θ.
    share = log_weight.detach().softmax(0)  # w̃, (K, B)
    factor = (1 - beta * (1 - share)).unsqueeze(-1)  # (K, B, 1)
    # ∂loss/∂z_k is −w̃_k ∂log w_k/∂z_k already: the loss is −log 1/K Σ w_k
    z.register_hook(lambda slope: slope * factor)


def bernoulli_nll(logits: Tensor, x: Tensor) -> Tensor:
    """−log p(x|z), logits (…, B, D) against pixels (B, D) in [0, 1] → (…, B)."""
    result: Tensor = _BernoulliNLL.apply(logits, x)
    return result


class _BernoulliNLL(torch.autograd.Function):
    # softplus(l) − x·l summed over pixels; its gradient sigmoid(l) − x in one buffer.
    #
    # torch's own binary_cross_entropy_with_logits walks the pixels about three times as
    # often and keeps more of them for the way back.

    @staticmethod
    def forward(ctx: Any, logits: Tensor, x: Tensor) -> Tensor:
        p = torch.sigmoid(logits)
        # softplus(l) = max(l, 0) − log max(p, 1 − p): no second exponential, and the
        # logarithm's argument never leaves [½, 1]
        nll = F.relu(logits).addcmul_(x, logits, value=-1)
        nll = nll.sub_(torch.sub(p, 0.5).abs_().add_(0.5).log_()).sum(-1)
        if logits.requires_grad:
            ctx.save_for_backward(p.sub_(x))
        return nll

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (slope,) = ctx.saved_tensors
        return slope * grads[0].unsqueeze(-1), None


def log_mean_exp(values: Tensor) -> Tensor:
    """log of the mean of exp over the first dimension."""
    return torch.logsumexp(values, 0) - math.log(len(values))
