# %% [markdown]
# # A conditional VAE: from raw bytes to samples, likelihood and manifold
# Fifteen minutes to read, ten seconds to compute. After `pip install -e .` in the
# repository, run cell by cell, here or in the notebook of the same name.
# %%
import gzip
import lzma
import struct

import matplotlib.pyplot as plt
import safetensors.torch
import torch
from torch import Tensor

from cvae import likelihood, mnist
from cvae.model import CVAE
from cvae.objective import bernoulli_nll


def show(images: Tensor, columns: int, title: str) -> None:
    tiles = images.detach().reshape(-1, columns, 28, 28).permute(0, 2, 1, 3)
    plt.figure(figsize=(0.45 * columns, 0.45 * len(tiles) + 0.3), layout="constrained")
    plt.imshow(tiles.reshape(28 * len(tiles), -1).numpy(), cmap="gray")
    plt.title(title, fontsize=9)
    plt.axis("off")


# %% [markdown]
# ## 1. Bytes
# A file of MNIST is four numbers (what it is, how many images, height, width; 32 bits
# each, highest byte first), then one byte a pixel: 0 is paper, 255 is ink.
# %%
with gzip.open(mnist.SHIPPED_ROOT / "train-images-idx3-ubyte.gz") as file:
    data = bytearray(file.read())
magic, count, height, width = struct.unpack(">4I", data[:16])
print(f"{magic=} {count=} {height=} {width=}; {len(data)} bytes in all")
images = torch.frombuffer(data, dtype=torch.uint8, offset=16).view(count, -1)
labels = mnist.load_mnist_labels(mnist.SHIPPED_ROOT / "train-labels-idx1-ubyte").long()
show(images[:20], 10, f"labels: {labels[:20].tolist()}")

# %% [markdown]
# ## 2. Learning
# Draw z, two numbers that stand for the handwriting, from N(0, I). A *decoder* turns z
# and the label y into the probability of ink at each pixel, p(x given y, z). To make
# the images x of the data likely, we need log p(x given y), an integral over all z. So
# an *encoder* guesses from which z an image came, q(z given x, y), and gives a bound:
# −log p(x given y) ≤ recon + kl (nats per image), where recon is the mean of
# −log p(x given y, z) over q, and kl = KL(q ‖ N(0, I)). We minimise the bound.
# %%
small = CVAE(latent_dim=2, hidden=(128,), generator=torch.manual_seed(0))
adam, x, y = torch.optim.Adam(small.parameters(), 3e-3), images[:5000] / 255, labels
for epoch in range(4):  # four times through 5,000 images
    for batch in torch.randperm(len(x)).split(100):
        mu, logvar = small.encode(x[batch], y[batch])  # of q, each (100, 2)
        z = mu + (logvar / 2).exp() * torch.randn_like(mu)  # a draw with a gradient
        recon = bernoulli_nll(small.decode(z, y[batch]), x[batch])  # (100,)
        kl = (mu**2 + logvar.exp() - logvar - 1).sum(1) / 2  # of two Gaussians, (100,)
        bound = (recon + kl).mean()
        adam.zero_grad()
        bound.backward()
        adam.step()
    print(f"epoch {epoch + 1}: {bound:.0f} nats per image, of them kl {kl.mean():.1f}")

# %% [markdown]
# ## 3. Samples
# More images and steps and a wider network: `experiments/seed_notebook.yaml`, whose
# weights lie in `results/`. Draw z, name a digit, decode: rows are labels, columns z.
# %%
results = mnist.SHIPPED_ROOT.parents[1] / "results"
weights = results / "seed-notebook-67d5e32f" / "model.safetensors.xz"
model = CVAE(latent_dim=2, hidden=(512, 256))
model.load(safetensors.torch.load(lzma.decompress(weights.read_bytes())))
z = torch.randn(10, 2, generator=torch.manual_seed(0))  # the same ten for every digit
drawn = torch.sigmoid(model.decode(z.repeat(10, 1), torch.arange(100) // 10))
show(drawn, 10, "the label chooses the digit, z the handwriting")

# %% [markdown]
# ## 4. Likelihood
# Of images it never saw. The bound is loose by KL(q ‖ the true posterior). From K draws
# of z, each weighted by p(x, z given y) / q(z given x, y), it tightens as K grows.
# %%
test = mnist.load_mnist(mnist.SHIPPED_ROOT).test
few, nll = mnist.Images(test.images[:100], test.labels[:100]), {}
for k in (1, 10, 100):
    nll[k] = likelihood.importance_nll(model, few, torch.manual_seed(0), samples=k)
    print(f"K = {k:3}: −log p(x given y) ≤ {nll[k]:.2f} nats per image")

# %% [markdown]
# ## 5. Manifold
# z has two dimensions: all eights that the network can draw fit on one page, each tile
# with the same share of N(0, I). Below, test images by the z that the encoder finds:
# the digits lie upon each other, for the label says already which it is.
# %%
steps = torch.special.ndtri(torch.linspace(0.04, 0.96, 12))  # quantiles of N(0, 1)
plane = torch.cartesian_prod(steps, steps)  # (144, 2)
eights = model.decode(plane, torch.full((144,), 8))
show(torch.sigmoid(eights), 12, "every 8")
means, _ = model.encode(test.images[:2000] / 255, test.labels[:2000])
plt.figure(figsize=(4.5, 4), layout="constrained")
tens = {"cmap": "tab10", "vmin": -0.5, "vmax": 9.5}
plt.scatter(*means.detach().numpy().T, c=test.labels[:2000].numpy(), s=4, **tens)
plt.colorbar(label="digit", ticks=range(10)).outline.set_visible(False)
