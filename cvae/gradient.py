"""The gradient of recon + β·kl written out by hand, for the common case.

Autograd spends much of a small network's step on bookkeeping, on fresh memory for every
intermediate and on extra passes over the pixels. Written out, the step is its matrix
products and little else. `objective.terms` with autograd remains the definition, and
the way for everything else (K > 1, a learned prior, other activations); a test holds
the two together.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cvae import mnist
from cvae.model import CVAE

aten = torch.ops.aten


def _relu_back(d: Tensor, h: Tensor) -> Tensor:
    return aten.threshold_backward.grad_input(d, h, 0, grad_input=d)  # type: ignore[no-any-return]


def _tanh_back(d: Tensor, h: Tensor) -> Tensor:
    return aten.tanh_backward.grad_input(d, h, grad_input=d)  # type: ignore[no-any-return]


# activation in place, and d times its slope in place, from its own output h
ACTIVATIONS = {
    "relu": (torch.relu_, _relu_back),
    "tanh": (torch.tanh_, _tanh_back),
}


class MLP:
    """Forward and backward of a chain of linear layers over buffers that are kept."""

    def __init__(self, layers: nn.Sequential, activation: str, batch: int) -> None:
        self.linear = [layer for layer in layers if isinstance(layer, nn.Linear)]
        self.activate, self.back = ACTIVATIONS[activation]
        weight = self.linear[0].weight
        self.h = [weight.new_empty(batch, part.out_features) for part in self.linear]
        self.d = [torch.empty_like(h) for h in self.h]

    def forward(self, x: Tensor) -> Tensor:
        """x (B, in) → (B, out); x and the hidden layers are remembered."""
        self.inputs = [x]
        for layer, buffer in zip(self.linear, self.h, strict=True):
            h = buffer[: len(x)]
            torch.addmm(layer.bias, self.inputs[-1], layer.weight.t(), out=h)
            if layer is not self.linear[-1]:
                self.activate(h)
            self.inputs.append(h)
        return self.inputs.pop()

    def backward(self, d: Tensor, dx: Tensor | None = None) -> None:
        """From the output's slope d (B, out): weight slopes, and `dx` if asked for."""
        for index in reversed(range(len(self.linear))):
            layer, h = self.linear[index], self.inputs[index]
            torch.mm(d.t(), h, out=layer.weight.grad)
            torch.sum(d, 0, out=layer.bias.grad)
            if index:
                inner = self.d[index - 1][: len(d)]
                d = self.back(torch.mm(d, layer.weight, out=inner), h)
            elif dx is not None:
                torch.mm(d, layer.weight, out=dx)


class ByHand:
    """A call gives the sums that the engine records and fills every `.grad`."""

    def __init__(self, model: CVAE, activation: str, batch: int) -> None:
        self.latent, pixels = model.latent_dim, model.pixels
        self.encoder = MLP(model.encoder, activation, batch)
        self.decoder = MLP(model.decoder, activation, batch)
        new = next(model.parameters()).new_empty
        self.one_hot = torch.eye(mnist.CLASSES, model.classes, out=new(0))
        self.x = new(batch, pixels + model.classes)
        self.z = new(batch, self.latent + model.classes)
        self.dz, self.dq = torch.empty_like(self.z), new(batch, 2 * self.latent)
        self.p, self.log = new(batch, pixels), new(batch, pixels)

    @torch.no_grad()
    def __call__(
        self, x: Tensor, y: Tensor, noise: Tensor, beta: Tensor, target: Tensor
    ) -> Tensor:
        """Arguments as `objective.terms` with noise (1, B, Z) → sums of recon, kl and
        loss, then of mu and mu² for each latent, (3 + 2Z,)."""
        n = len(x)
        label = self.one_hot.index_select(0, y)
        if label.shape[1]:
            x = torch.cat([x, label], 1, out=self.x[:n])
        q = self.encoder.forward(x)
        mu, logvar = q.chunk(2, 1)
        std = torch.exp(0.5 * logvar)
        shift = std * noise[0]
        z = torch.cat([mu + shift, label], 1, out=self.z[:n])
        logits = self.decoder.forward(z)

        # softplus(l) = max(l, 0) − log max(p, 1 − p), as in objective.bernoulli_nll
        p = torch.sigmoid(logits, out=self.p[:n])
        recon = -torch.dot(logits.view(-1), target.view(-1)) + logits.relu_().sum()
        recon -= torch.sub(p, 0.5, out=self.log[:n]).abs_().add_(0.5).log_().sum()
        slope = p.sub_(target).mul_(1 / n)  # of recon's mean over the batch
        self.decoder.backward(slope, dx=self.dz[:n])

        # kl = ½ Σ mu² + var − 1 − logvar; its slopes are mu and ½ (var − 1)
        var, mu2, weight = std.square(), mu.square(), beta / n
        dz, dmu, dlogvar = self.dz[:n, : self.latent], *self.dq[:n].chunk(2, 1)
        torch.addcmul(dz, mu, weight, out=dmu)
        torch.mul(dz, shift, out=dlogvar).addcmul_(var.sub(1), weight).mul_(0.5)
        self.encoder.backward(self.dq[:n])

        mu, mu2, var, logvar = torch.cat([mu, mu2, var, logvar], 1).sum(0).chunk(4)
        kl = 0.5 * (mu2 + var - n - logvar).sum()
        return torch.cat([torch.stack([recon, kl, recon + beta * kl]), mu, mu2])
