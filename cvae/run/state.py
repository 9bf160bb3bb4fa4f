"""All that training changes: weights, optimiser and streams; made, saved, restored."""

from __future__ import annotations

import dataclasses
import logging
from dataclasses import dataclass

import safetensors.torch
import torch
from torch import Tensor

from cvae import likelihood, mixture, mnist
from cvae.errors import CheckpointError, UsageError
from cvae.model import CVAE
from cvae.networks import stream as stream  # its former home, for `state.stream`
from cvae.optimizer import Adam, Hyperparameters
from cvae.run import checkpoint
from cvae.run.find import find_published
from cvae.run.folder import RunFolder
from cvae.run.published import RESULTS, Published, Results
from cvae.spec.fields import Spec
from cvae.training import Streams

STREAMS = ("init", "shuffle", "noise", "binarize", "corrupt", "layers")
log = logging.getLogger("cvae")


@dataclass
class State:
    """All that training a CVAE changes.

    `trained` is what steps change; `model`, what is evaluated and saved, is the same or
    the mean of its weights over the steps (training.ema).
    """

    trained: CVAE
    optimizer: Adam
    streams: Streams
    model: CVAE

    @property
    def device(self) -> torch.device:
        return self.optimizer.flat.device

    def tensors(self) -> dict[str, Tensor]:
        tensors = {f"model.{k}": v for k, v in self.trained.state_dict().items()}
        tensors |= {f"adam.{k}": v for k, v in self.optimizer.state.items()}
        streams = self.streams.items()
        return tensors | {f"stream.{k}": g.get_state() for k, g in streams}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        parts: dict[str, dict[str, Tensor]] = {"model": {}, "adam": {}, "stream": {}}
        for name, tensor in tensors.items():
            part, _, key = name.partition(".")
            parts[part][key] = tensor
        self.trained.load(parts["model"])  # in place: Adam's views stay views
        if self.model.is_mixture and self.trained.prior_table is not None:
            self.model.set_mixture(self.trained.prior_table)
        for name, tensor in self.optimizer.state.items():
            tensor.copy_(parts["adam"][name])
        for name, generator in self.streams.items():
            if name in parts["stream"]:  # "layers" is newer than others
                generator.set_state(parts["stream"][name])


def hyperparameters(spec: Spec) -> Hyperparameters:
    """The spec's fields that tell how a model is trained, as plain values."""
    names = {field.name for field in dataclasses.fields(Hyperparameters)}
    sections = spec.data, spec.objective, spec.training
    values = {key: value for section in sections for key, value in section}
    return Hyperparameters(**{name: values[name] for name in names})


def assemble(spec: Spec, data: mnist.MNIST, device: torch.device) -> State:
    """Model, optimiser and streams at step 0; the same weights on every device."""
    seed = spec.training.seed
    model = CVAE(
        **spec.model.model_dump(),
        shape=data.shape,
        classes=data.classes,
        generator=stream(seed, "init"),
    )
    if spec.training.output_bias == "mean_image":
        model.start_from(data.train.images.float().mean(0) / 255)
    if spec.training.start_from:
        _start_from(spec.training.start_from, model)
    model.to(device)
    streams = {name: stream(seed, name, device) for name in STREAMS}
    optimizer = Adam(model, hyperparameters(spec))
    return State(model, optimizer, streams, optimizer.averaged(model))


def _start_from(published: str, model: CVAE) -> None:
    """Load the weights of a published run; a fitted mixture is left out.

    Raises:
        RunNotFound: there is no such run. Altered: a published file is not what was
            published. UsageError: other weights than meant, or of another network.
    """
    name, _, digest = published.partition("@")
    folder = find_published(name, Results(RESULTS))
    assert isinstance(folder, Published)
    found = folder.digest or ""
    if not found.startswith(digest):
        raise UsageError(
            f"training.start_from: the weights of {folder.name} are {found[:8]}…, not "
            f"{digest}; write {folder.name}@{found[:8]} to start from those"
        )
    weights = safetensors.torch.load(folder.read_weights())
    if model.is_mixture:
        weights.pop("prior_table", None)
    try:
        model.load(weights)
    except RuntimeError as error:
        raise UsageError(
            f"training.start_from: the weights of {folder.name} do not fit; give model "
            f"the values of {folder.path}/spec.yaml"
        ) from error


def fit_prior(state: State, data: mnist.Images, spec: Spec) -> None:
    """p(z given y) becomes a mixture fitted to a z of each training image."""
    generator = stream(spec.training.seed, "prior")
    if spec.data.binarize == "dynamic":
        data = mnist.draw_pixels(data.to(torch.device("cpu")), generator)
    corrupt = spec.data.corrupt
    z = likelihood.posterior_draws(state.model, data, generator, corrupt=corrupt)
    classes = state.model.classes
    table = mixture.fit(z, data.labels.cpu(), generator, classes=classes)
    for model in (state.trained, state.model):
        model.set_mixture(table.to(state.device))


def save(folder: RunFolder, state: State, *, epoch: int) -> None:
    """Checkpoint weights, optimiser and streams after `epoch` epochs."""
    facts = {"epoch": epoch, "device": state.device.type}
    checkpoint.save(folder.checkpoint, state.tensors(), facts)


def resume(folder: RunFolder, state: State) -> int:
    """Put the newest sound checkpoint into `state`; returns the epochs it has done."""
    newest, previous = folder.checkpoint, checkpoint.previous_of(folder.checkpoint)
    for path in (newest, previous):
        if not path.exists():
            continue
        try:
            tensors, facts = checkpoint.load(path)
        except CheckpointError as error:
            kept = checkpoint.set_aside(path)
            instead = "the one before it" if path == newest else "the start"
            log.warning("%s (now %s); going on from %s", error, kept.name, instead)
            continue
        here = state.device.type
        if facts["device"] != here:
            raise UsageError(
                f"{folder.path}: was begun on {facts['device']} and cannot go on on "
                f"{here}; go on there, or remove the folder to start again"
            )
        state.restore(tensors)
        log.info("going on with %s after epoch %d", folder.path, facts["epoch"])
        return int(facts["epoch"])
    return 0
