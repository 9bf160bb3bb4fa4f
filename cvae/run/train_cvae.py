"""A CVAE as a run's task: its epochs, figures and pictures."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace

import torch

from cvae import grids, mnist, training
from cvae.fast.steps import fastest
from cvae.grids import Picture
from cvae.run import evaluation, exact, state
from cvae.run.classifiers import warn_without_classifier
from cvae.run.folder import RunFolder
from cvae.spec.fields import Spec
from cvae.training import Epoch

Figures = dict[str, float]  # by their key, such as val/neg_elbo
WHILE_TRAINING = ("label_fidelity", "transfer_fidelity", "label_in_z")


class CVAETask:
    """Trains the model of a spec on its data and measures what became of it."""

    def __init__(
        self, spec: Spec, data: mnist.MNIST, device: torch.device, folder: RunFolder
    ) -> None:
        known = folder.info.get("data", {"classes": data.classes})
        data = replace(data, classes=known.get("classes", 10))  # 10: an older run
        self.spec, self.data, self.folder = spec, data, folder
        self.runs = folder.path.parent  # where a judge of these data may be
        self.last, ema = spec.training.epochs, spec.training.ema
        self.weights = f"ema {ema:g}" if ema else "last"
        self.state = state.assemble(spec, data, device)

    def train(self, done: int) -> Iterator[Epoch]:
        now, train = self.state, self.data.train.to(self.state.device)
        wanted = state.hyperparameters(self.spec)
        known = now.trained, now.optimizer, train, wanted, now.streams
        steps = exact.by_grid if wanted.grid else fastest
        for epoch in training.train_epochs(*known, start=done, steps=steps):
            began = time.perf_counter()
            if now.model.is_mixture and epoch.epoch == self.last:
                state.fit_prior(now, train, self.spec)
            yield replace(epoch, seconds=epoch.seconds + time.perf_counter() - began)

    def validation(self, epoch: Epoch, *, drawn: bool) -> Figures:
        """The bound, and so that one sees control come and go, some of its figures."""
        model, validation = self.state.model, self.data.validation
        if not len(validation):
            return {}
        beta = epoch.metrics["beta"]
        figures = evaluation.bound(model, validation, self.spec, beta=beta)
        if drawn:
            control = self._control(validation)
            figures |= {key: control[key] for key in WHILE_TRAINING if key in control}
        return {f"val/{key}": value for key, value in figures.items()}

    def test(self) -> Figures:
        model, test = self.state.model, self.data.test
        figures = evaluation.test_figures(model, test, self.spec)
        if model.classes:
            warn_without_classifier(self.data.digest, self.runs, self.spec.data)
        control = self._control(test)
        evaluation.measure_all(self.folder, self.spec, model, self.data)
        return figures | {f"test/{key}": value for key, value in control.items()}

    def _control(self, images: mnist.Images) -> Figures:
        digest = self.data.digest
        return evaluation.control_figures(self.state.model, images, digest, self.runs)

    def pictures(self) -> dict[str, Picture]:
        """Samples and reconstructions, from the same images and z in every run."""
        model, data, corrupt = self.state.model, self.data, self.spec.data.corrupt
        figures = state.stream(0, "figures")  # not the run's seed: runs are
        count = grids.SHOWN if model.classes else grids.SHOWN**2  # compared by eye
        noise = torch.randn(count, model.latent_dim, generator=figures)
        shown = grids.shown_images(data.test)
        return {
            "digits": grids.digit_grid(model, noise, data.shape),
            "reconstructions": grids.reconstructions(
                model, shown, data.shape, corrupt=corrupt, generator=figures
            ),
        }
