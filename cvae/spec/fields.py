"""One run as a frozen, typed value: its fields, their bounds and its content id.

`document.py` builds it from YAML. Nothing here touches a folder, a device or torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from cvae.evaluation.metrics import ESTIMATORS
from cvae.spec.identity import Named, Section

CONV_HIDDEN = (32, 64, 256)  # the default of model.hidden with convolutions
Width = Annotated[int, Field(ge=1, le=65536, strict=True)]
Decay = Annotated[float, Field(ge=0, lt=1, strict=True)]
if TYPE_CHECKING:
    Part = str
else:  # what `make evaluate WHAT=…` knows
    Part = Literal[tuple(ESTIMATORS)]


class Data(Section):
    """Which images, how many, and what is done to them."""

    root: str = Field("mnist_data/raw", min_length=1, max_length=4096)
    """Folder of the four IDX files (images, labels; training, test), raw or .gz."""
    binarize: Literal["none", "threshold", "dynamic"] = "none"
    """`none`: grey pixels; `threshold`: ink where x > 0.5; `dynamic`: drawn from
    Bernoulli(x), anew in each epoch for training, once for validation and test."""
    corrupt: float = Field(0.0, ge=0, le=1)
    """Probability that a pixel of the encoder's input is replaced by 0 or 1; what is
    reconstructed stays clean."""
    augment: float = Field(0.0, ge=0, le=1)
    """Share of the training images that the first epoch shifts by up to a pixel and
    rotates by up to 5°, drawn anew in each epoch; it falls to 0 by the last epoch."""
    train_images: int | None = Field(None, ge=1, le=10**9)
    """Images to train on, of those not held back; null: all of them."""
    validation_images: int = Field(5000, ge=0, le=10**9)
    """Training images held back for `val/…`."""


class Model(Section):
    """The network; the decoder mirrors the encoder's hidden widths."""

    architecture: Literal["mlp", "conv"] = "mlp"
    """`mlp`: linear layers; `conv`: two convolutions of stride 2 and linear layers
    behind them, in the decoder transposed ones at the end."""
    conditional: bool = True
    """Whether encoder and decoder are given the label; false: the plain VAE."""
    latent_dim: int = Field(2, ge=1, le=4096)
    """Size of the latent z."""
    hidden: tuple[Width, ...] = Field((512, 256), strict=False, max_length=16)
    """Units of each hidden layer of the encoder; the decoder has them in reverse. Of
    `conv` the first two are the channels of the convolutions, by default [32, 64, 256].
    """
    activation: Literal["relu", "tanh", "gelu", "silu"] = "relu"
    """What follows each hidden layer."""
    residual: bool = False
    """Whether a layer between two equal hidden widths adds to its input, h + f(h), and
    does not replace it; for networks of more than two hidden layers."""
    normalisation: Literal["none", "layer"] = "none"
    """`layer`: the input of each activation, or of each residual layer, is normalised
    over its units to mean 0 and variance 1, then scaled and shifted by trained numbers.
    """
    prior: Literal["standard", "learned", "flow", "mixture"] = "mixture"
    """p(z given y). `standard`: N(0, I) for all labels; `learned`: a Gaussian with a
    trained mean and diagonal variance for each label; `flow`: N(0, I) bent by trained
    affine couplings that are given the label; `mixture`: N(0, I) while training, then
    a mixture of Gaussians for each label, fitted to the training images. A plain VAE
    has `standard` or `flow`."""
    label_scale: float = Field(4.0, gt=0, le=1e3)
    """Size of the 1 in the one-hot label; a larger one gives the label more weight
    early in training."""

    @model_validator(mode="before")
    @classmethod
    def _defaults_that_depend(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        defaults: dict[str, Any] = {}
        if given.get("conditional") is False:  # a plain model has no labels
            defaults |= {"prior": "standard", "label_scale": 1.0}
        if given.get("architecture") == "conv":
            defaults |= {"hidden": CONV_HIDDEN}
        return defaults | given

    @field_validator("hidden", mode="before")
    @classmethod
    def _a_list(cls, value: Any) -> Any:
        if not isinstance(value, (list, tuple)):
            raise ValueError("must be a list of widths such as [512, 256]")
        return value

    @model_validator(mode="after")
    def _fields_fit_together(self) -> Model:
        conv = self.architecture == "conv"
        linear = self.hidden[2:] if conv else self.hidden
        if conv and len(self.hidden) < 2:
            raise ValueError(
                "hidden: with architecture: conv, must be the channels of two "
                "convolutions, then units of linear layers, such as "
                f"{list(CONV_HIDDEN)}"
            )
        if self.residual and not any(map(int.__eq__, linear, linear[1:])):
            raise ValueError(
                "residual: true needs two equal widths side by side in hidden, such as "
                "[512, 512, 512]"
            )
        if self.prior in ("learned", "mixture") and not self.conditional:
            raise ValueError(
                f"prior: {self.prior} is p(z given y) and needs conditional: true"
            )
        return self


class Objective(Section):
    """What is minimised: recon + β·kl, or the K-sample bound."""

    beta: float = Field(1.0, ge=0, le=1e6)
    """Weight of kl in the loss; reported figures are never weighted by it."""
    warmup_epochs: int = Field(0, ge=0, le=10**6)
    """Epochs over which the weight of kl rises from 0 to beta, linearly."""
    importance_samples: int = Field(1, ge=1, le=10**4)
    """K, draws of z for each image; above 1 the loss is the K-sample bound."""
    gradient: Literal["standard", "doubly_reparameterised"] = "standard"
    """Of the encoder. `doubly_reparameterised`: the same mean with less noise, more so
    the larger K is (Tucker et al. 2019); with K = 1, kl is sampled for it even where it
    has a closed form (Roeder et al. 2017)."""
    grid: int = Field(0, ge=0, le=512)
    """Points a side of a grid over one or two latents, such as 88: decoder and prior
    are trained by the exact −log p(x given y), a sum over the grid, which train/loss
    is then; the encoder by the bound. A step is of images of one label: a batch_size
    of 1000 is fast. 0: the bound trains all."""


class Training(Section):
    """How it is minimised."""

    epochs: int = Field(30, ge=1, le=10**6)
    """Passes over the training images."""
    batch_size: int = Field(256, ge=1, le=10**6)
    """Images a step; the last batch of an epoch may be smaller."""
    optimizer: Literal["adam", "adamw"] = "adam"
    """`adamw` is Adam with a decoupled weight decay."""
    weight_decay: float = Field(0.01, ge=0, le=10)
    """Of `adamw`, each step: weights · (1 − learning rate · this)."""
    adam_betas: tuple[Decay, Decay] = Field((0.9, 0.99), strict=False)
    """Decay per step of the running means of the gradient and of its square."""
    learning_rate: float = Field(4e-3, gt=0, le=10)
    """Step size; the highest one where the schedule changes it."""
    schedule: Literal["constant", "one_cycle", "linear", "cosine"] = "one_cycle"
    """`constant`; `one_cycle`: by cosine from 1/25 up to the peak in 30 % of the
    steps, then down to almost 0; `linear`: straight up in 15 %, straight down to 0;
    `cosine`: straight up in 5 %, then down to 0."""
    ema: Decay = 0.0
    """Decay per step of a running mean of the weights, such as 0.999; the mean is what
    is evaluated, saved and sampled from. 0: the last weights are."""
    input_noise: Literal["none", "bernoulli"] = "none"
    """`bernoulli`: while training, the encoder is given black and white pixels drawn
    from Bernoulli(x), so that it cannot learn images by heart; what is reconstructed,
    and all that is evaluated, stays grey."""
    output_bias: Literal["mean_image", "random"] = "mean_image"
    """How the decoder's last bias starts. `mean_image`: at the log-odds of the mean
    training image, so that no step is spent on finding where ink can be; `random`: as
    all weights."""
    seed: int = Field(0, ge=0, le=2**63 - 1)
    """Of all random streams: initial weights, order of images, noise."""
    start_from: str | None = Field(None, pattern=r"^[^@]{1,99}@[0-9a-f]{8,64}$")
    """A run in results/ whose weights training starts from: its name, `@`, and at
    least 8 digits of the SHA-256 of its weights in results/manifest.json; null: random
    weights."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto`: a CUDA device where there is one, else the CPU."""

    @field_validator("weight_decay")
    @classmethod
    def _decay_needs_adamw(cls, value: float, info: ValidationInfo) -> float:
        default = cls.model_fields["weight_decay"].default
        if value != default and info.data.get("optimizer") != "adamw":
            raise ValueError("needs optimizer: adamw")
        return value


class Evaluation(Section):
    """What is computed once, at the end; `make evaluate` adds it later."""

    importance_samples: int = Field(0, ge=0, le=10**6)
    """Draws of z for each test image for `test/nll_isK`; 0: leave it out."""
    label_samples: int = Field(0, ge=0, le=10**6)
    """Draws of z for each test image and label for `test/label_accuracy`; 0: leave it
    out."""
    what: tuple[Part, ...] = Field((), strict=False, max_length=16)
    """Parts of `make evaluate WHAT=…` that a run does at its end, such as `[nll]`; with
    the numbers of samples above, or with 5000 and 100 where they are 0."""


class Tracking(Section):
    """Where and how often the run is logged; no part of the run's identity."""

    experiment: str = Field("cvae", min_length=1, max_length=200)
    """Experiment of MLflow that the run is logged to."""
    images_every: int = Field(5, ge=1, le=10**6)
    """Epochs between two pictures of samples and reconstructions."""
    log_model: bool = True
    """Whether the final weights are logged as a model that MLflow loads and serves,
    2.7 MB a run of the default network, 2.2 of them weights."""

    @field_validator("experiment")
    @classmethod
    def _printable(cls, value: str) -> str:
        if not value.isprintable() or value != value.strip():
            raise ValueError("must be printable text without blanks at its ends")
        return value


class Spec(Named):
    """One run of a CVAE, resolved."""

    data: Data = Data()
    model: Model = Model()
    objective: Objective = Objective()
    training: Training = Training()
    evaluation: Evaluation = Evaluation()
    tracking: Tracking = Tracking()

    @model_validator(mode="after")
    def _sections_fit_together(self) -> Spec:
        if self.objective.grid and self.model.latent_dim > 2:
            raise ValueError(
                "objective.grid is over one or two latents: it needs model.latent_dim "
                f"≤ 2, not {self.model.latent_dim}"
            )
        if self.training.input_noise != "none" and self.data.binarize != "none":
            raise ValueError(
                "training.input_noise draws from grey pixels: it needs "
                f"data.binarize: none, not {self.data.binarize}"
            )
        asked = [w for w in self.evaluation.what if ESTIMATORS[w].of_labels]
        if (asked or self.evaluation.label_samples) and not self.model.conditional:
            field = f"what: {asked[0]}" if asked else "label_samples"
            raise ValueError(f"evaluation.{field} needs model.conditional: true")
        return self
