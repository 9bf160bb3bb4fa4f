"""The gradient of the objective written out for the common case.

recon + β·kl with one sample, p(z) = N(0, I) and linear layers: a step is its matrix
products and little else. In a network this small the rest would count: autograd's
bookkeeping, fresh memory, another pass over the pixels, even making a view.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cvae.model import CVAE
from cvae.priors import Standard

aten = torch.ops.aten


def _relu_back(d: Tensor, h: Tensor) -> Tensor:
    return aten.threshold_backward.grad_input(d, h, 0, grad_input=d)  # type: ignore[no-any-return]


def _tanh_back(d: Tensor, h: Tensor) -> Tensor:
    return aten.tanh_backward.grad_input(d, h, grad_input=d)  # type: ignore[no-any-return]


# activation in place; d ← d · activation'(input), which its output h is enough for
ACTIVATIONS = {
    nn.ReLU: (torch.relu_, _relu_back),
    nn.Tanh: (torch.tanh_, _tanh_back),
}


class MLP:
    """Linear layers with activations between, forward and backward, for n images.

    h_i = activation(h_{i−1} W_iᵀ + b_i), the last without activation. All memory is
    allocated once: h_i and d_i = ∂loss/∂h_i are (n, fan_out of layer i).
    """

    def __init__(self, layers: nn.Sequential, n: int) -> None:
        linear = [layer for layer in layers if isinstance(layer, nn.Linear)]
        kind = type(layers[1]) if len(layers) > 1 else nn.ReLU
        self.activate, self.back = ACTIVATIONS[kind]
        self.weights = [layer.weight.detach() for layer in linear]
        self.transposed = [weight.t() for weight in self.weights]  # views
        self.biases = [layer.bias.detach() for layer in linear]
        self.grads = [(layer.weight.grad, layer.bias.grad) for layer in linear]
        self.h = [weight.new_empty(n, len(weight)) for weight in self.weights]
        self.d = [torch.empty_like(h) for h in self.h[:-1]]

    def forward(self, x: Tensor) -> Tensor:
        """x (n, in) → (n, out); x and the hidden layers are remembered."""
        self.inputs = [x, *self.h[:-1]]
        out = self.h[-1]
        for x, weight, bias, h in zip(
            self.inputs, self.transposed, self.biases, self.h, strict=True
        ):
            torch.addmm(bias, x, weight, out=h)
            if h is not out:
                self.activate(h)
        return out

    def backward(self, d: Tensor, dx: Tensor | None = None) -> None:
        """Backpropagate d = ∂loss/∂output (n, out) into every `.grad`, and into `dx`.

        dW_i = d_iᵀ h_{i−1}, db_i = Σ_n d_i, d_{i−1} = (d_i W_i) · activation'(h_{i−1})
        """
        for index in reversed(range(len(self.h))):
            h, (dweight, dbias) = self.inputs[index], self.grads[index]
            torch.mm(d.t(), h, out=dweight)  # (out, n) (n, in)
            torch.sum(d, 0, out=dbias)  # (out,)
            if index:
                d = torch.mm(d, self.weights[index], out=self.d[index - 1])
                self.back(d, h)
            elif dx is not None:
                torch.mm(d, self.weights[0], out=dx)


class AnalyticGradient:
    """A call returns Σ logits·target, Σ max(logits, 0), Σ log max(p, 1 − p), then the
    sums of mu, logvar, mu² and var − 1 of each latent, (3 + 4Z,)."""

    @staticmethod
    def covers(model: CVAE, *, samples: int, doubly: bool = False) -> bool:
        """Whether it is written for the model's layers and the objective's options."""
        if not all(
            isinstance(h, nn.Sequential) for h in (model.encoder, model.decoder)
        ):
            return False
        layers, written = (*model.encoder, *model.decoder), (nn.Linear, *ACTIVATIONS)
        known = all(isinstance(layer, written) for layer in layers)
        plain = samples == 1 and not doubly
        return known and plain and isinstance(model.prior, Standard)

    def __init__(self, model: CVAE, n: int) -> None:
        self.n, self.classes = n, model.classes
        latent, pixels = model.latent_dim, model.pixels
        self.encoder, self.decoder = MLP(model.encoder, n), MLP(model.decoder, n)
        new = next(model.parameters()).detach().new_empty
        self.one_hot = torch.eye(model.classes, out=new(0))
        self.one_hot.mul_(model.label_scale)
        self.x = new(n, pixels + model.classes)  # the encoder's input: image, one-hot
        # statistics of the posterior, whose sums over the images are returned:
        # mu, logvar, mu², var − 1, each (n, Z); the encoder writes into the first two
        self.stats = new(n, 4 * latent)
        self.encoder.h[-1] = self.stats[:, : 2 * latent]
        self.mu, self.logvar, self.mu2, self.var1 = self.stats.chunk(4, 1)
        self.q = self.mu, self.logvar
        self.std, self.shift = new(n, latent), new(n, latent)
        self.z = new(n, latent + model.classes)  # the decoder's input: z, one-hot
        self.z_latent, self.z_label = self.z[:, :latent], self.z[:, latent:]
        self.p, self.log = new(n, pixels), new(n, pixels)  # sigmoid(logits); scratch
        # ∂loss/∂z and ∂loss/∂(mu, logvar)
        self.dz, self.dq = torch.empty_like(self.z), new(n, 2 * latent)
        self.dz_latent = self.dz[:, :latent]
        self.dmu, self.dlogvar = self.dq.chunk(2, 1)
        self.row = new(3 + 4 * latent)
        self.dot, self.relu, self.logs = self.row[:3]
        self.stat_sums = self.row[3:]

    @torch.no_grad()
    def __call__(
        self, x: Tensor, y: Tensor, noise: Tensor, beta: Tensor, target: Tensor
    ) -> Tensor:
        """Arguments as `objective.terms` with noise (1, n, Z)."""
        mu, std, shift, dz = self.mu, self.std, self.shift, self.dz_latent
        if self.classes:
            label = self.one_hot.index_select(0, y)
            x = torch.cat([x, label], 1, out=self.x)
            self.z_label.copy_(label)
        self.encoder.forward(x)  # (n, 2Z), into mu and logvar

        # z = mu + σ·noise with σ = exp(logvar / 2), the reparameterised draw
        torch.mul(self.logvar, 0.5, out=std).exp_()
        torch.mul(std, noise[0], out=shift)
        torch.add(mu, shift, out=self.z_latent)
        logits = self.decoder.forward(self.z)  # (n, D)

        # recon = Σ softplus(l) − l·target, and its gradient is sigmoid(l) − target.
        # softplus(l) = max(l, 0) − log max(p, 1 − p), as in objective.bernoulli_nll
        p = torch.sigmoid(logits, out=self.p)
        torch.dot(logits.view(-1), target.view(-1), out=self.dot)
        torch.sum(logits.relu_(), (0, 1), out=self.relu)
        log = torch.sub(p, 0.5, out=self.log).abs_().add_(0.5).log_()
        torch.sum(log, (0, 1), out=self.logs)
        dlogits = p.sub_(target).mul_(1 / self.n)  # of recon's mean over the batch
        self.decoder.backward(dlogits, dx=self.dz)

        # kl = ½ Σ mu² + var − 1 − logvar; ∂kl/∂mu = mu, ∂kl/∂logvar = ½ (var − 1).
        # Through z: ∂z/∂mu = 1 and ∂z/∂logvar = ½ σ·noise = ½ shift
        weight = beta / self.n
        torch.mul(std, std, out=self.var1).sub_(1)
        torch.mul(mu, mu, out=self.mu2)
        torch.sum(self.stats, 0, out=self.stat_sums)
        torch.addcmul(dz, mu, weight, out=self.dmu)
        torch.mul(dz, shift, out=self.dlogvar)
        self.dlogvar.addcmul_(self.var1, weight).mul_(0.5)
        self.encoder.backward(self.dq)
        return self.row.clone()

    @staticmethod
    def sums(rows: Tensor, beta: Tensor) -> Tensor:
        """What calls returned, (S, 3 + 4Z), and their β (S,) → (S, 3 + 2Z)."""
        dot, relu, log = rows[:, :3].unbind(1)
        mu, logvar, mu2, var1 = rows[:, 3:].chunk(4, 1)
        recon = relu - log - dot
        kl = 0.5 * (mu2 + var1 - logvar).sum(1)
        scalars = torch.stack([recon, kl, recon + beta * kl], 1)
        return torch.cat([scalars, mu, mu2], 1)
