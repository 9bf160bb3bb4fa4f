"""p(z given y) as a flow: an invertible map between z and standard normal noise u."""

# RealNVP (Dinh et al. 2017, https://arxiv.org/abs/1605.08803), every part of it given
# the label. First z is standardised with a mean and a variance of each label; then
# affine couplings take turns: one half of z, a, stays as it is and tells how the other
# half, b, is scaled and shifted,
#
#     b ← b·exp(s) + t   with   s, t = MLP(a, y),   log |det ∂b/∂b| = Σ s,
#
# which is undone as easily. log p(z given y) = log N(u; 0, I) + Σ log |det|. The last
# layers begin at 0, and with them the flow as N(0, I). One latent has no halves: a
# Gaussian for each label is all there is. Letters: B batch, Z latent, C classes, H
# hidden units; `…` any leading dimensions.

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cvae.priors import Gaussian, gaussian_log_density

# Chosen by the kl that a fit to the posteriors of results/latent-20 leaves on held-back
# images: 17.28 nats; four couplings or 64 units 17.45, tanh 17.74, and N(0, I) 18.82.
COUPLINGS = 6  # each half of z is changed three times
HIDDEN = 128  # rectified units of the one hidden layer of a coupling
LARGEST = 2.0  # |s| of one coupling: it scales by 0.14 to 7.4


class Flow(nn.Module):
    """p(z given y), or p(z) where there are no classes; it is trained.

    `generator` draws the first layers; without one they are to be loaded.
    """

    def __init__(
        self, latent_dim: int, classes: int, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        self.classes = classes
        rows, self.cut = max(1, classes), latent_dim // 2
        couplings = COUPLINGS if self.cut else 0
        sizes = self.cut, latent_dim - self.cut
        given = [sizes[at % 2] for at in range(couplings)]
        # mu and log σ² of each label, and what it adds to every hidden layer
        self.base = nn.Parameter(torch.zeros(rows, 2 * latent_dim))
        self.label = nn.Parameter(torch.empty(rows, couplings * HIDDEN))
        self.first = nn.ParameterList(torch.empty(HIDDEN, size) for size in given)
        self.last = nn.ParameterList(
            torch.zeros(2 * (latent_dim - size), HIDDEN) for size in given
        )
        self.bias = nn.ParameterList(
            torch.zeros(2 * (latent_dim - size)) for size in given
        )
        if generator is not None:
            for part in (self.label, *self.first):
                most = max(1, self.cut) ** -0.5
                nn.init.uniform_(part, -most, most, generator=generator)

    def _of_label(self, table: Tensor, y: Tensor, parts: int) -> tuple[Tensor, ...]:
        # The label's row of a table (C, n) in so many parts, each (B, n / parts).
        if not self.classes:
            y = torch.zeros_like(y)
        return F.embedding(y, table).chunk(parts, -1)

    def _scale_shift(self, at: int, a: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        # s and t of a coupling, each (…, B, size of b).
        h = torch.relu(F.linear(a, self.first[at]) + label)  # (…, B, H)
        s, t = F.linear(h, self.last[at], self.bias[at]).chunk(2, -1)
        return LARGEST * torch.tanh(s), t

    def to_noise(self, z: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """u (…, B, Z) of z, and log |det ∂u/∂z| (…, B)."""
        mu, logvar = self._of_label(self.base, y, 2)
        # u = (z − mu) / σ, log |det| = −Σ log σ
        u, log_det = (z - mu) * torch.exp(-0.5 * logvar), -0.5 * logvar.sum(-1)
        if not self.cut:
            return u, log_det.expand(u.shape[:-1])
        halves = list(u.tensor_split([self.cut], -1))
        for at, label in enumerate(self._of_label(self.label, y, len(self.first))):
            a, b = at % 2, 1 - at % 2
            s, t = self._scale_shift(at, halves[a], label)
            halves[b] = torch.addcmul(t, halves[b], torch.exp(s))  # b·exp(s) + t
            log_det = log_det + s.sum(-1)  # (…, B)
        return torch.cat(halves, -1), log_det

    def sample(self, y: Tensor, noise: Tensor) -> Tensor:
        z = noise
        if self.cut:
            halves = list(noise.tensor_split([self.cut], -1))
            labels = self._of_label(self.label, y, len(self.first))
            for at in reversed(range(len(labels))):
                a, b = at % 2, 1 - at % 2
                s, t = self._scale_shift(at, halves[a], labels[at])
                halves[b] = (halves[b] - t) * torch.exp(-s)  # a is as it was: undone
            z = torch.cat(halves, -1)
        mu, logvar = self._of_label(self.base, y, 2)
        return torch.addcmul(mu, z, torch.exp(0.5 * logvar))

    def whiten(self, z: Tensor, y: Tensor) -> Tensor:
        return self.to_noise(z, y)[0]

    def unwhiten(self, u: Tensor, y: Tensor) -> Tensor:
        return self.sample(y, u)

    def whitened(self, q: Gaussian, y: Tensor) -> Gaussian:
        """u of q's mean, and the variance of u if it were linear around it."""
        # Slopes are taken over one σ of q to both sides: what q sees of the curve. (u
        # of a Gaussian z is not Gaussian; the kl of these moments is close to q's own
        # as long as the flow is close to linear within q.)
        mu, logvar = q
        variance = torch.zeros_like(mu)
        for step in torch.diag_embed(torch.exp(0.5 * logvar)).unbind(-2):  # (B, Z)
            slope = (self.whiten(mu + step, y) - self.whiten(mu - step, y)) / 2
            variance = variance + slope.square()
        return self.whiten(mu, y), variance.log()

    def log_density(self, z: Tensor, y: Tensor) -> Tensor:
        u, log_det = self.to_noise(z, y)
        return gaussian_log_density(u) + log_det

    def kl(self, q: Gaussian, y: Tensor) -> None:
        """It has no closed form."""
