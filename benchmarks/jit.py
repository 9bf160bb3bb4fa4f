"""The higher anchor: the same VAE in JAX, one compiled program for a whole epoch.

What a fast user writes in a page: images in memory, `jit` over a `lax.scan` of the
steps, Adam by hand. It needs `pip install -r requirements-extra.txt`, and nothing of
this project.

    python -m benchmarks.jit '{"hidden": [400], "latent": 20, "batch": 128}'

trains a round of so many images for each number on stdin and prints the seconds; with
`{"quality": true, …}` it trains as experiments/speedrun.yaml does and prints the test
neg_elbo.
"""

from __future__ import annotations

import gzip
import itertools
import json
import math
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

RAW = Path(__file__).parent.parent / "mnist_data" / "raw"
PIXELS, CLASSES = 784, 10


def pixels_and_labels(split: str, classes: int) -> tuple[Any, Any]:
    """Pixels (N, D) in [0, 1] and one-hot labels (N, C)."""
    files = (f"{split}-images-idx3-ubyte.gz", 16), (f"{split}-labels-idx1-ubyte.gz", 8)
    images, labels = (
        np.frombuffer(gzip.decompress((RAW / name).read_bytes()), np.uint8, offset=head)
        for name, head in files
    )
    x = jnp.asarray(images.reshape(-1, PIXELS) / 255.0).astype(jnp.float32)
    return x, jax.nn.one_hot(labels, classes)


def init(key: Any, widths: list[int]) -> Any:
    """(W, b) of each layer, U(±1/√fan_in) as torch draws them."""
    layers = []
    for fan_in, fan_out in itertools.pairwise(widths):
        key, one, two = jax.random.split(key, 3)
        most = 1 / math.sqrt(fan_in)
        draw = partial(jax.random.uniform, minval=-most, maxval=most)
        layers.append((draw(one, (fan_in, fan_out)), draw(two, (fan_out,))))
    return layers


def mlp(layers: Any, h: Any) -> Any:
    for weight, bias in layers[:-1]:
        h = jax.nn.relu(h @ weight + bias)
    return h @ layers[-1][0] + layers[-1][1]


def neg_elbo(params: Any, x: Any, y: Any, noise: Any) -> Any:
    """recon + kl in nats, mean over the images."""
    mu, logvar = jnp.split(mlp(params[0], jnp.concatenate([x, y], 1)), 2, 1)
    z = mu + jnp.exp(0.5 * logvar) * noise
    logits = mlp(params[1], jnp.concatenate([z, y], 1))
    recon = jnp.sum(jax.nn.softplus(logits) - x * logits)
    kl = 0.5 * jnp.sum(mu**2 + jnp.exp(logvar) - 1 - logvar)
    return (recon + kl) / len(x)


def step(state: Any, given: Any, images: Any, labels: Any, latent: int) -> Any:
    """Adam: one batch of image numbers (B,) and its learning rate."""
    params, mean, square, count, key = state
    rows, rate = given
    key, draw = jax.random.split(key)
    noise = jax.random.normal(draw, (len(rows), latent))
    loss, grad = jax.value_and_grad(neg_elbo)(params, images[rows], labels[rows], noise)
    count += 1
    mean = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, mean, grad)
    square = jax.tree.map(lambda v, g: 0.99 * v + 0.01 * g * g, square, grad)
    size, root = rate / (1 - 0.9**count), jnp.sqrt(1 - 0.99**count)
    params = jax.tree.map(
        lambda w, m, v: w - size * m / (jnp.sqrt(v) / root + 1e-8), params, mean, square
    )
    return (params, mean, square, count, key), loss


@partial(jax.jit, static_argnums=4, donate_argnums=0)
def epoch(state: Any, given: Any, images: Any, labels: Any, latent: int) -> Any:
    """All steps of `given`: rows (S, B), rates (S,)."""
    one = partial(step, images=images, labels=labels, latent=latent)
    return jax.lax.scan(one, state, given)


def begin(hidden: list[int], latent: int, classes: int, bias: Any) -> Any:
    one, two, key = jax.random.split(jax.random.key(0), 3)
    params = [
        init(one, [PIXELS + classes, *hidden, 2 * latent]),
        init(two, [latent + classes, *reversed(hidden), PIXELS]),
    ]
    params[1][-1] = (params[1][-1][0], bias)
    zeros = jax.tree.map(jnp.zeros_like, params)
    return params, zeros, jax.tree.map(jnp.copy, zeros), 0, key


def rates(steps: int, peak: float) -> Any:
    """Straight up to the peak over 15 % of the steps, then straight down to 0."""
    place, turn = np.arange(steps), 0.15 * steps
    up, down = 0.1 + 0.9 * place / turn, (steps - place) / (steps - turn)
    return peak * np.where(place < turn, up, down)


def main() -> None:
    case = {"classes": 0, "quality": False} | json.loads(sys.argv[1])
    latent, batch = case["latent"], case["batch"]
    images, labels = pixels_and_labels("train", case["classes"])
    mean = jnp.clip(images.mean(0), 0.005, 0.995)
    state = begin(case["hidden"], latent, case["classes"], jnp.log(mean / (1 - mean)))
    order = np.random.default_rng(0)

    def train(count: int, rate: Any) -> None:
        nonlocal state
        rows = order.permutation(len(images))[: count // batch * batch]
        given = rows.reshape(-1, batch), rate
        state, losses = epoch(state, given, images, labels, latent)
        losses.block_until_ready()

    if not case["quality"]:
        for line in sys.stdin:
            began, count = time.perf_counter(), int(line)
            train(count, np.full(count // batch, 1e-3, np.float32))
            print(time.perf_counter() - began, flush=True)
        return
    steps = len(images) // batch
    for rate in rates(3 * steps, 0.015).astype(np.float32).reshape(3, -1):
        train(len(images), rate)
    x, y = pixels_and_labels("t10k", case["classes"])
    noise = jax.random.normal(jax.random.key(1), (len(x), latent))
    print(float(jax.jit(neg_elbo)(state[0], x, y, noise)))


if __name__ == "__main__":
    main()
