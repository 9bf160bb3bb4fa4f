"""A judge's run as a frozen, typed value: the document with a `judge` section.

It is checked, trained, recorded and published as a CVAE's is, and has its own fields.
"""

from __future__ import annotations

from pydantic import Field

from cvae.spec.fields import Spec
from cvae.spec.identity import Logging, Named, Section


class JudgeData(Section):
    """Which grey images the judge learns to read."""

    root: str = Field("mnist_data/raw", min_length=1, max_length=4096)
    """Folder of the four IDX files (images, labels; training, test), raw or .gz."""
    train_images: int | None = Field(None, ge=1, le=10**9)
    """Images to train on, of those not held back; null: all of them."""
    validation_images: int = Field(5000, ge=0, le=10**9)
    """Training images held back for `val/…`."""


class JudgeTraining(Section):
    """How the CNN that reads samples is trained: AdamW, one cycle, small warps."""

    epochs: int = Field(10, ge=1, le=10**6)
    """Passes over the training images."""
    batch_size: int = Field(128, ge=2, le=10**6)
    """Images a step; the last batch of an epoch may be smaller."""
    learning_rate: float = Field(4e-3, gt=0, le=10)
    """The highest step size of the cycle."""
    weight_decay: float = Field(0.02, ge=0, le=10)
    """Decoupled from the gradient, as AdamW has it."""
    label_smoothing: float = Field(0.05, ge=0, lt=1)
    """Share of each label that is spread over all ten digits."""
    seed: int = Field(0, ge=0, le=2**63 - 1)
    """Of initial weights, order of images and warps."""


class JudgeSpec(Named):
    """One run of a judge, resolved."""

    data: JudgeData = JudgeData()
    judge: JudgeTraining = JudgeTraining()
    tracking: Logging = Logging(experiment="judge")


AnySpec = Spec | JudgeSpec
