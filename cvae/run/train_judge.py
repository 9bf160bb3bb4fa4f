"""A judge as a run's task: its epochs, its accuracy, the images that it misreads."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from cvae import grids, mnist
from cvae import judge as judging
from cvae.engine import Epoch
from cvae.grids import Picture
from cvae.run.task import Figures
from cvae.spec.judge import JudgeSpec


class JudgeState:
    """Weights, AdamW, its cycle of learning rates and the random stream."""

    def __init__(self, spec: JudgeSpec, data: mnist.MNIST) -> None:
        self.model, self.adam, self.cycle, self.generator = judging.begin(
            spec.judge, len(data.train), data.shape
        )
        self.device = torch.device("cpu")

    def tensors(self) -> dict[str, Tensor]:
        tensors = {f"model.{k}": v for k, v in self.model.state_dict().items()}
        for at, moments in self.adam.state_dict()["state"].items():
            tensors |= {f"adam.{at}.{key}": value for key, value in moments.items()}
        return tensors | {"stream": self.generator.get_state()}

    def facts(self) -> dict[str, Any]:
        groups = self.adam.state_dict()["param_groups"]
        return {"groups": groups, "cycle": self.cycle.state_dict()}

    def restore(self, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
        weights: dict[str, Tensor] = {}
        moments: dict[int, dict[str, Tensor]] = {}
        parameters = list(self.model.parameters())
        for name, value in tensors.items():
            part, _, key = name.partition(".")
            if part == "model":
                weights[key] = value
            elif part == "adam":
                at, _, moment = key.partition(".")
                if value.dim():  # laid out as its parameter is: fused AdamW minds
                    value = torch.empty_like(parameters[int(at)]).copy_(value)
                moments.setdefault(int(at), {})[moment] = value
        self.model.load_state_dict(weights)
        self.adam.load_state_dict({"state": moments, "param_groups": facts["groups"]})
        self.cycle.load_state_dict(facts["cycle"])
        self.generator.set_state(tensors["stream"])


class JudgeTask:
    """Trains a CNN that reads the digits of a data set, on the CPU."""

    def __init__(self, spec: JudgeSpec, data: mnist.MNIST) -> None:
        self.spec, self.data, self.last = spec, data, spec.judge.epochs
        self.weights = "last"
        self.state = JudgeState(spec, data)

    def train(self, done: int) -> Iterator[Epoch]:
        now, spec, train = self.state, self.spec.judge, self.data.train
        return judging.train_epochs(
            now.model, now.adam, now.cycle, train, spec, now.generator, start=done
        )

    def validation(self, epoch: Epoch, *, drawn: bool) -> Figures:
        if not len(self.data.validation):
            return {}
        right = judging.accuracy(self.state.model, self.data.validation)
        return {"val/accuracy": right}

    def test(self) -> Figures:
        return {"test/accuracy": judging.accuracy(self.state.model, self.data.test)}

    def pictures(self) -> dict[str, Picture]:
        """The first test images that are read as another digit."""
        images = mnist.pixels(self.data.test.images)
        read, _ = judging.read(self.state.model, images)
        wrong = images[read != self.data.test.labels][: grids.SHOWN**2]
        if not len(wrong):
            wrong = torch.zeros(1, images.shape[1])
        return {"misread": grids.sheet([wrong], grids.SHOWN, self.data.shape)}
