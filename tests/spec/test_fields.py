from __future__ import annotations

import hashlib
from typing import Any

import pytest
from pydantic import ValidationError

from cvae.spec.fields import Spec
from cvae.spec.identity import differences, flatten, nested
from tests.conftest import spec

OTHERWISE: dict[str, Any] = {
    "data.root": "elsewhere",
    "data.binarize": "threshold",
    "data.corrupt": 0.25,
    "data.train_images": 1000,
    "data.validation_images": 0,
    "model.architecture": "conv",
    "model.conditional": False,
    "model.latent_dim": 20,
    "model.hidden": [400, 300, 300, 300],
    "model.activation": "tanh",
    "model.residual": True,
    "model.normalisation": "layer",
    "model.prior": "learned",
    "model.label_scale": 2.0,
    "objective.beta": 4.0,
    "objective.warmup_epochs": 10,
    "objective.importance_samples": 5,
    "objective.gradient": "doubly_reparameterised",
    "training.epochs": 31,
    "training.batch_size": 128,
    "training.optimizer": "adamw",
    "training.weight_decay": 0.1,
    "training.adam_betas": [0.9, 0.999],
    "training.learning_rate": 1e-3,
    "training.schedule": "constant",
    "training.ema": 0.99,
    "training.input_noise": "bernoulli",
    "training.output_bias": "random",
    "training.seed": 1,
    "training.device": "cpu",
    "evaluation.importance_samples": 500,
    "evaluation.label_samples": 100,
    "evaluation.what": ["nll"],
}
NEEDED: dict[str, dict[str, Any]] = {  # a field that only counts with another
    "model.residual": {"model.hidden": [9, 9]},
    "training.weight_decay": {"training.optimizer": "adamw"},
}
OUTSIDE_IDENTITY = {
    "name": "other",
    "tracking.experiment": "other",
    "tracking.images_every": 7,
    "tracking.log_model": False,
}
OUT_OF_BOUNDS: list[tuple[str, Any]] = [
    ("name", ""),
    ("name", "a/b"),
    ("name", "../up"),
    ("name", ".hidden"),
    ("name", "a" * 81),
    ("name", "new\nline"),
    ("data.root", ""),
    ("data.binarize", "no"),
    ("data.corrupt", -0.01),
    ("data.corrupt", 1.01),
    ("data.train_images", 0),
    ("data.validation_images", -1),
    ("model.architecture", "cnn"),
    ("model.conditional", 1),
    ("model.latent_dim", 0),
    ("model.latent_dim", 4097),
    ("model.latent_dim", 2.0),
    ("model.latent_dim", "2"),
    ("model.latent_dim", True),
    ("model.hidden", 512),
    ("model.hidden", "512"),
    ("model.hidden", [0]),
    ("model.hidden", [512.0]),
    ("model.hidden", [65537]),
    ("model.hidden", [1] * 17),
    ("model.activation", "ReLU"),
    ("model.prior", None),
    ("model.residual", "yes"),
    ("model.normalisation", "batch"),
    ("objective.beta", -1e-9),
    ("objective.beta", float("nan")),
    ("objective.beta", float("inf")),
    ("objective.warmup_epochs", -1),
    ("objective.importance_samples", 0),
    ("objective.gradient", "dreg"),
    ("training.epochs", 0),
    ("training.batch_size", 0),
    ("training.adam_betas", [0.9]),
    ("training.adam_betas", [0.9, 1.0]),
    ("training.adam_betas", [-0.1, 0.9]),
    ("training.weight_decay", -0.1),
    ("training.weight_decay", 0.1),  # without adamw
    ("training.ema", 1.0),
    ("training.ema", -0.1),
    ("training.learning_rate", 0.0),
    ("training.learning_rate", "1e-3"),
    ("training.input_noise", True),
    ("training.seed", -1),
    ("training.seed", 2**63),
    ("training.device", "cuda:0"),
    ("evaluation.importance_samples", -1),
    ("evaluation.what", ["nlls"]),
    ("evaluation.what", "nll"),
    ("tracking.experiment", ""),
    ("tracking.experiment", " blank "),
    ("tracking.experiment", "two\nlines"),
    ("tracking.images_every", 0),
    ("tracking.log_model", 1),
    ("unknown", 1),
    ("model.latent", 2),
]


def test_the_tables_here_cover_every_field() -> None:
    assert set(OTHERWISE) | set(OUTSIDE_IDENTITY) == set(flatten(spec()))


@pytest.mark.parametrize("key", OTHERWISE)
def test_every_field_of_the_content_changes_the_id(key: str) -> None:
    needed = NEEDED.get(key, {})
    changed = spec(**needed, **{key: OTHERWISE[key]})
    found = differences(changed)
    assert needed.items() <= found.items()
    found = {key: value for key, value in found.items() if key not in needed}
    if key == "model.conditional":  # without labels, nothing is left of these two
        assert found.pop("model.prior") == "standard"
        assert found.pop("model.label_scale") == 1.0
    if key == "model.architecture":  # which brings its own
        assert found.pop("model.hidden") == [32, 64, 256]
    assert found == {"name": "test", key: OTHERWISE[key]}
    assert changed.id != spec(**needed).id


def test_no_two_single_changes_share_an_id() -> None:
    ids = {
        spec(**NEEDED.get(key, {}), **{key: value}).id
        for key, value in OTHERWISE.items()
    }
    assert len(ids) == len(OTHERWISE)


@pytest.mark.parametrize("key", OUTSIDE_IDENTITY)
def test_name_and_tracking_do_not_change_the_id(key: str) -> None:
    assert spec(**{key: OUTSIDE_IDENTITY[key]}).id == spec().id


def test_ids_are_pinned() -> None:
    # an id names a folder for good: these must never change
    original: Any = {"model.prior": "standard", "model.label_scale": 1.0}
    none = hashlib.sha256(b"{}").hexdigest()[:8]
    assert spec(**original).id == "44136fa3" == none
    assert spec(**original, training__epochs=15).id == "90b3b197"
    assert spec(**original, model__hidden=[], objective__beta=0.5).id == "8def7170"
    assert spec(model__conditional=False).id == "6fd91de0"
    assert spec().id == "b4cf5fb7"


def test_the_id_is_of_the_value_not_of_how_it_is_written() -> None:
    default = flatten(spec())
    assert spec(**default).id == spec().id
    assert spec(objective__beta=2).id == spec(objective__beta=2.0).id
    assert spec(model__hidden=(64, 32)).id == spec(model__hidden=[64, 32]).id


def test_nested_undoes_flatten() -> None:
    together = OTHERWISE | {"model.conditional": True}
    together |= {"training.input_noise": "none"}
    flat = flatten(spec(**together | OUTSIDE_IDENTITY))
    assert flatten(Spec.model_validate(nested(flat))) == flat


def test_a_spec_is_frozen() -> None:
    made = spec()
    with pytest.raises(ValidationError, match="frozen"):
        made.model.latent_dim = 3  # type: ignore[misc]
    with pytest.raises(ValidationError, match="frozen"):
        made.name = "other"  # type: ignore[misc]


@pytest.mark.parametrize(("key", "value"), OUT_OF_BOUNDS)
def test_values_out_of_bounds_are_refused(key: str, value: Any) -> None:
    with pytest.raises(ValidationError) as refused:
        spec(**{key: value})
    at = ".".join(map(str, refused.value.errors()[0]["loc"]))
    assert at.startswith(key)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("name", "a" * 80),
        ("data.corrupt", 1.0),
        ("model.latent_dim", 4096),
        ("model.hidden", []),
        ("objective.beta", 0),
        ("training.adam_betas", [0, 0.999]),
        ("training.learning_rate", 10),
        ("training.seed", 2**63 - 1),
        ("tracking.experiment", "β-VAE, größe"),
    ],
)
def test_the_bounds_themselves_are_allowed(key: str, value: Any) -> None:
    assert flatten(spec(**{key: value}))[key] == value


def test_what_needs_labels_is_refused_without_them() -> None:
    with pytest.raises(ValidationError, match="learned"):
        spec(model__conditional=False, model__prior="learned")
    with pytest.raises(ValidationError, match="label_samples"):
        spec(model__conditional=False, evaluation__label_samples=10)


@pytest.mark.parametrize("pixels", ["threshold", "dynamic"])
def test_noise_of_grey_pixels_is_refused_where_there_are_none(pixels: str) -> None:
    with pytest.raises(
        ValidationError, match=f"needs data.binarize: none, not {pixels}"
    ):
        spec(training__input_noise="bernoulli", data__binarize=pixels)


@pytest.mark.parametrize("hidden", [[], [32]])
def test_convolutions_without_channels_are_refused(hidden: list[int]) -> None:
    with pytest.raises(ValidationError, match="channels of two convolutions"):
        spec(model__architecture="conv", model__hidden=hidden)
    spec(model__architecture="conv", model__hidden=[1, 1])


def test_residual_layers_are_refused_where_no_widths_are_equal() -> None:
    for hidden in ([], [512], [512, 256, 512]):
        with pytest.raises(ValidationError, match="two equal widths side by side"):
            spec(model__residual=True, model__hidden=hidden)
    conv = {"model.residual": True, "model.architecture": "conv"}
    with pytest.raises(ValidationError, match="two equal widths side by side"):
        spec(**conv, model__hidden=[32, 32, 256])
    spec(**conv, model__hidden=[32, 64, 256, 256])
