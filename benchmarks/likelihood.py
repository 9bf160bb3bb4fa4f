"""How fast are likelihoods? Against the floor, nothing but the matrix products.

bound        neg_elbo of every test image, as after each epoch
likelihood   importance sampling with K = 5,000 draws of z, for some of the images

python -m benchmarks.likelihood        (1 min; part of make bench)
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.speed import keep, parser_of, products, quartiles
from cvae import likelihood, mnist
from cvae.model import CVAE
from cvae.run import provenance, runner, state
from cvae.spec.fields import Spec

DRAWS, IMAGES = 5000, 40
SPEC = Spec(name="bench")


def ways() -> dict[str, tuple[int, Callable[[], Any], Callable[[], Any]]]:
    """Name → how many images, ours, the floor."""
    torch.manual_seed(0)
    test = mnist.load_mnist(mnist.SHIPPED_ROOT).test
    model = CVAE(**SPEC.model.model_dump(), generator=state.stream(0, "init"))
    some, noise = mnist.Images(test.images[:IMAGES], test.labels[:IMAGES]), state.stream
    hidden, latent = SPEC.model.hidden, SPEC.model.latent_dim
    encoder = [784 + 10, *hidden, 2 * latent]
    decoder = [latent + 10, *reversed(hidden), 784]
    pass_ = products((encoder, decoder), likelihood.CHUNK, backward=False)
    decode = products([[latent, *decoder[1:]]], likelihood.DECODED, backward=False)

    def passes() -> None:
        for _ in range(len(test) // likelihood.CHUNK):
            pass_()

    def decodes() -> None:
        for _ in range(DRAWS * IMAGES // likelihood.DECODED):
            decode()

    def bound() -> Any:
        return likelihood.bound(model, test, noise(0, "evaluate"))

    def nll() -> Any:
        stream = noise(0, "evaluate")
        return likelihood.importance_nll(model, some, stream, samples=DRAWS)

    return {
        "bound": (len(test), bound, passes),
        f"likelihood, K = {DRAWS:,}": (IMAGES, nll, decodes),
    }


def main() -> None:
    options = parser_of(__doc__, "likelihood").parse_args()
    device = runner.pick_device("cpu")
    measured: dict[str, Any] = provenance.hardware(device) | provenance.versions()
    print("| figure | images a second | floor | ours/floor |\n|---|---|---|---|")
    with torch.inference_mode():
        for name, (images, *both) in ways().items():
            rates: list[list[float]] = [[], []]
            for _ in range(options.rounds + 1):
                for act, rate in zip(both, rates, strict=True):
                    began = time.perf_counter()
                    act()
                    rate.append(images / (time.perf_counter() - began))
            ours, floor = (rate[1:] for rate in rates)  # the first warms up
            measured[name] = {"ours": ours, "floor": floor} | quartiles(ours, floor)
            cells = [f"{statistics.median(each):,.0f}" for each in (ours, floor)]
            cells.append("{median:.2f} ({low:.2f}–{high:.2f})".format(**measured[name]))
            print(f"| {name} | {' | '.join(cells)} |")
    keep(measured, options.out)


if __name__ == "__main__":
    main()
