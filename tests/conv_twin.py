"""The conv pair in plain torch: its layers in torch's usual order of memory, autograd,
binary_cross_entropy_with_logits."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cvae.model import CVAE


class ConvTwin(nn.Module):
    """`model.architecture: conv` with one linear hidden layer and relu."""

    def __init__(self, model: CVAE, hidden: tuple[int, int, int]) -> None:
        super().__init__()
        first, second, dense = hidden
        latent, self.classes = model.latent_dim, model.classes
        self.shape: tuple[int, int] = model.shape
        rows, columns = (-(-side // 4) for side in self.shape)
        features = second * rows * columns
        self.down = nn.Sequential(
            *(nn.Conv2d(1, first, 3, 2, 1), nn.ReLU()),
            *(nn.Conv2d(first, second, 3, 2, 1), nn.ReLU()),
        )
        self.dense = nn.Sequential(
            *(nn.Linear(features + self.classes, dense), nn.ReLU()),
            nn.Linear(dense, 2 * latent),
        )
        self.decoder = nn.Sequential(
            *(nn.Linear(latent + self.classes, dense), nn.ReLU()),
            *(nn.Linear(dense, features), nn.ReLU()),
            nn.Unflatten(1, (rows, columns, second)),
        )
        self.up = nn.Sequential(
            *(nn.ConvTranspose2d(second, first, 4, 2, 1), nn.ReLU()),
            nn.ConvTranspose2d(first, 1, 4, 2, 1, bias=False),
        )
        self.bias = nn.Parameter(torch.empty(model.pixels))
        # in the model's order: its last layer begins with the bias for each pixel
        layers = [*self.down, *self.dense, *self.decoder, *self.up]
        self.weights = [part for layer in layers for part in layer.parameters()]
        self.weights.insert(len(self.weights) - 3, self.bias)
        with torch.no_grad():
            for own, part in zip(self.weights, model.parameters(), strict=True):
                own.copy_(part)

    def forward(self, x: Tensor, y: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """−log p(x|z,y) and KL of each image (B,)."""
        label = F.one_hot(y, 10)[:, : self.classes].to(x)
        features = self.down(x.view(-1, 1, *self.shape)).permute(0, 2, 3, 1).flatten(1)
        mu, logvar = self.dense(torch.cat([features, label], 1)).chunk(2, 1)
        z = mu + (logvar / 2).exp() * noise
        grid = self.decoder(torch.cat([z, label], 1)).permute(0, 3, 1, 2)
        image = self.up(grid)[:, 0, : self.shape[0], : self.shape[1]]
        logits = image.flatten(1) + self.bias
        recon = F.binary_cross_entropy_with_logits(logits, x, reduction="none").sum(1)
        kl = 0.5 * (mu.square() + logvar.exp() - 1 - logvar).sum(1)
        return recon, kl
