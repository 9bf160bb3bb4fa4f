"""What a changed copy of the checkout does with a spec; run there by test_recipes."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch

import cvae
from cvae import __main__, likelihood
from cvae.run import runner
from cvae.spec.fields import Spec
from cvae.spec.identity import nested
from cvae.training import Epoch


def interrupt(epochs: Iterator[Epoch], *rest: object) -> Iterator[Epoch]:
    yield next(epochs)
    raise KeyboardInterrupt


def used(fields: dict[str, Any], place: Path) -> dict[str, Any]:
    """What training, resuming, evaluation, samples and explorer make of a spec."""
    spec = Spec.model_validate(nested({"name": "recipe"} | fields))
    run = cvae.train(spec, runs=place / "whole", offline=True)
    with contextlib.suppress(KeyboardInterrupt):
        runner.run(spec, runs=place / "cut", offline=True, show=interrupt)
    resumed = cvae.train(spec, runs=place / "cut", offline=True)
    images = run.data().test

    def nll() -> float:
        generator = torch.Generator().manual_seed(0)
        return likelihood.importance_nll(run.model, images, generator, samples=5)

    evaluated = nll()
    with mock.patch.object(likelihood, "_is_its_layers", return_value=False):
        plain = nll()
    samples = cvae.generate_conditional_samples(1, 3, run, seed=0)
    noise = torch.randn(3, run.model.latent_dim, generator=torch.manual_seed(0))
    labels = torch.ones(3, dtype=torch.long)
    wanted = torch.sigmoid(
        run.model.decode(run.model.prior.sample(labels, noise), labels)
    )
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        where = ["--runs", str(place / "whole"), "--out", str(place / "page.html")]
        code = __main__.main(["explorer", *where])
    return {
        "metrics": run.folder.metrics,
        "shape": list(samples.shape),
        "classes": run.model.classes,
        "resumed": run.folder.weights.read_bytes()
        == resumed.folder.weights.read_bytes(),
        "evaluated": [evaluated, plain],
        "sampled": bool(torch.allclose(samples, wanted, atol=1e-6)),
        "explorer": [code, said.getvalue()],
    }


if __name__ == "__main__":
    assert logging.lastResort  # writes to sys.stderr as it is at the time
    logging.getLogger().addHandler(logging.lastResort)
    request = json.loads(sys.argv[1])
    answers = [
        used(fields, Path(request["place"], str(at)))
        for at, fields in enumerate(request["specs"])
    ]
    print(json.dumps(answers))
