"""Three loops that one would write in an afternoon, over torchvision's MNIST.

`Tutorial` is what tutorials do: a DataLoader that makes tensors of pictures, an
nn.Module, torch's Adam, `.item()` in every step. `InMemory` has all pixels in one
tensor, fused Adam, and adds the loss without waiting for it. `Compiled` is `InMemory`
with the loss by torch.compile.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Subset
from torchvision import datasets, transforms

from cvae.spec.fields import Spec


class UsualVAE(nn.Module):
    """A tutorial's VAE; the label is concatenated where there is one."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.classes = 10 if spec.model.conditional else 0
        latent, hidden = spec.model.latent_dim, spec.model.hidden
        self.down = _layers([784 + self.classes, *hidden])
        self.mu = nn.Linear(hidden[-1], latent)
        self.logvar = nn.Linear(hidden[-1], latent)
        self.up = _layers([latent + self.classes, *reversed(hidden)])
        self.out = nn.Linear(hidden[0], 784)

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        label = F.one_hot(y, self.classes).float() if self.classes else x[:, :0]
        hidden = self.down(torch.cat([x, label], dim=1))
        mu, logvar = self.mu(hidden), self.logvar(hidden)
        z = mu + torch.randn_like(mu) * torch.exp(0.5 * logvar)
        hidden = self.up(torch.cat([z, label], dim=1))
        return torch.sigmoid(self.out(hidden)), mu, logvar

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        """neg_elbo in nats, the sum over the batch."""
        p, mu, logvar = self(x, y)
        recon = F.binary_cross_entropy(p, x, reduction="sum")
        kl = -0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp())
        return recon + kl


class Tutorial:
    """The loop over a torchvision data set."""

    def __init__(self, spec: Spec, root: Path, device: torch.device) -> None:
        to_tensor = transforms.ToTensor()
        self.device, self.batch = device, spec.training.batch_size
        self.train = datasets.MNIST(str(root), train=True, transform=to_tensor)
        self.model = UsualVAE(spec).to(device)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-3)

    def epoch(self, images: int) -> float:
        """Train on the first so many images; neg_elbo, nats per image."""
        part = Subset(self.train, range(images))
        loader = DataLoader(part, batch_size=self.batch, shuffle=True)
        total = 0.0
        for x, y in loader:
            x, y = x.view(-1, 784).to(self.device), y.to(self.device)
            self.optimizer.zero_grad()
            loss = self.model.loss(x, y)
            loss.backward()
            total += loss.item()
            self.optimizer.step()
        return total / len(part)


class InMemory:
    """The same network over tensors that lie on the device."""

    def __init__(self, spec: Spec, root: Path, device: torch.device) -> None:
        train = datasets.MNIST(str(root), train=True)
        self.x = (train.data.to(device).float() / 255).view(-1, 784)
        self.y = train.targets.to(device)
        self.batch, model = spec.training.batch_size, UsualVAE(spec).to(device)
        self.loss, weights = model.loss, model.parameters()
        self.optimizer = torch.optim.Adam(weights, lr=1e-3, fused=True)

    def epoch(self, images: int) -> float:
        """Train on the first so many images; neg_elbo, nats per image."""
        total = torch.zeros((), device=self.x.device)
        for rows in torch.randperm(images, device=self.x.device).split(self.batch):
            self.optimizer.zero_grad()
            loss = self.loss(self.x[rows], self.y[rows])
            loss.backward()
            total += loss.detach()
            self.optimizer.step()
        return float(total) / images


class Compiled(InMemory):
    """`InMemory` with forward and backward by torch.compile; needs a C++ compiler."""

    def __init__(self, spec: Spec, root: Path, device: torch.device) -> None:
        super().__init__(spec, root, device)
        self.loss = torch.compile(self.loss)


LOOPS: dict[str, type[Tutorial | InMemory]] = {
    "tutorial": Tutorial,
    "in memory": InMemory,
    "torch.compile": Compiled,
}


def _layers(widths: list[int]) -> nn.Sequential:
    pairs = itertools.pairwise(widths)
    return nn.Sequential(*(part for p in pairs for part in (nn.Linear(*p), nn.ReLU())))
