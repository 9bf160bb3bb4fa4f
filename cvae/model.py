"""The conditional VAE: an encoder and a decoder with the label in both halves.

Kingma & Welling 2014 (https://arxiv.org/abs/1312.6114) with the label concatenated as
in Sohn et al. 2015. The model holds parameters and nothing else: noise comes in as a
tensor. Letters: B batch, K importance samples, Z latent, C classes, D pixels.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cvae import networks
from cvae.flow import Flow
from cvae.mixture import Mixture
from cvae.priors import TRAINED, Prior, Standard

EDGE = 0.005


class CVAE(nn.Module):
    """q(z|x,y) and p(x|z,y), both diagonal; `conditional=False` drops y everywhere.

    `generator` draws the initial weights (U(±1/√fan_in), torch's own rule) and seeds
    those of torch's own layers; without one they are to be loaded. `label_scale` is the
    size of the one-hot label: at size 1 it loses against the image and z early in
    training.
    """

    def __init__(
        self,
        *,
        latent_dim: int,
        hidden: tuple[int, ...],
        architecture: str = "mlp",
        conditional: bool = True,
        activation: str = "relu",
        residual: bool = False,
        normalisation: str = "none",
        prior: str = "standard",
        label_scale: float = 1.0,
        shape: tuple[int, int] = (28, 28),
        classes: int = 10,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.latent_dim = latent_dim
        self.shape, self.pixels = shape, math.prod(shape)
        self.label_scale = label_scale
        self.classes = classes if conditional else 0
        layers = networks.Layers(activation, residual, normalisation)
        seed = 0 if generator is None else generator.initial_seed()
        with networks.seeded(torch.Generator().manual_seed(seed)):
            self.encoder, self.decoder = networks.PAIRS[architecture](
                shape, self.classes, latent_dim, hidden, layers
            )
        # of p(z|y): trained, or fitted after training, or None: N(0, I)
        self.prior_table: Tensor | None = None
        self.prior_kind, self.is_mixture = prior, prior == "mixture"
        if prior in TRAINED:
            self.prior_table = nn.Parameter(torch.zeros(classes, 2 * latent_dim))
        if generator is not None:
            networks.draw_weights(self, generator)
        self.flow: Flow | None = None
        if prior == "flow":
            self.flow = Flow(latent_dim, self.classes, generator)

    @torch.no_grad()
    def start_from(self, mean: Tensor) -> None:
        """Set the decoder's last bias to the log-odds of the mean image (D,) in [0, 1].

        Means are kept `EDGE` away from 0 and 1, whose log-odds are infinite.

        Raises:
            ValueError: the decoder's last layer has no bias for each pixel.
        """
        bias = getattr(self.decoder[-1], "bias", None)
        if bias is None or bias.shape != mean.shape:
            raise ValueError(
                "the decoder's last layer has no bias for each pixel to start from the "
                "mean image: set training.output_bias=random"
            )
        bias.copy_(torch.logit(mean, eps=EDGE))

    def encode(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Pixels (B, D) in [0, 1] and labels (B,) → mu, logvar of q(z|x,y), (B, Z)."""
        mu, logvar = self.encoder(self.with_label(x, y)).chunk(2, dim=-1)
        return mu, logvar

    def decode(self, z: Tensor, y: Tensor) -> Tensor:
        """Latents (…, B, Z), labels (B,) → Bernoulli logits of p(x|z,y), (…, B, D)."""
        logits: Tensor = self.decoder(self.with_label(z, y))
        return logits

    @property
    def prior(self) -> Prior:
        """p(z given y)."""
        if self.flow is not None:
            return self.flow
        if self.prior_table is None:
            return Standard()
        kind = Mixture if self.is_mixture else TRAINED[self.prior_kind]
        return kind(self.prior_table)

    def set_mixture(self, table: Tensor) -> None:
        """p(z given y) from now on (see `mixture.fit`); part of the state dict."""
        assert self.is_mixture
        del self.prior_table
        self.register_buffer("prior_table", table)

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Take the values of a state dict, with the mixture if it has been fitted.

        Raises:
            RuntimeError: names or shapes are not this model's.
        """
        if self.is_mixture and "prior_table" in tensors:
            here = next(self.parameters()).device
            shape = tensors["prior_table"].shape
            self.set_mixture(torch.empty(shape, device=here))
        self.load_state_dict(tensors)

    def with_label(self, values: Tensor, y: Tensor) -> Tensor:
        """What the network is given: values (…, B, V) and one-hot labels of y (B,)."""
        if not self.classes:
            return values
        one_hot = self.label_scale * F.one_hot(y.long(), self.classes).to(values.dtype)
        return torch.cat([values, one_hot.expand(*values.shape[:-1], -1)], dim=-1)
