"""The code file of a logged model, asked without a server."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from mlflow.exceptions import MlflowException
from PIL import Image

from cvae.loading.loaded import generate_conditional_samples, load_run
from cvae.tracking.served import MAX_IMAGES, Answer, Digits
from tests.children import Done
from tests.test_commands import the_run


@pytest.fixture(scope="module")
def model(finished: tuple[Path, Done]) -> Digits:
    folder, made = the_run(finished[0]), Digits()
    made.load_context(SimpleNamespace(artifacts={"run": str(folder.path)}))
    return made


def ask(model: Digits, *requests: Any) -> list[Answer]:
    """As MLflow asks: with what JSON holds, which it makes `Request`s of."""
    return model.predict(list(requests))


def test_the_pictures_are_the_samples_of_the_run(
    model: Digits, finished: tuple[Path, Done]
) -> None:
    asked = {"digit": 5, "num_samples": 4, "seed": 7}
    pictures, numbers = ask(model, asked, asked | {"pixels": True})
    run = load_run(runs=finished[0])
    expected = generate_conditional_samples(5, 4, run, 7)
    assert numbers.pixels == expected.tolist()
    assert (len(pictures.png), pictures.pixels, numbers.png) == (4, [], [])
    for text, image in zip(pictures.png, expected, strict=True):
        with Image.open(io.BytesIO(base64.b64decode(text))) as picture:
            found = np.asarray(picture, np.float32)
        assert np.abs(found - 255 * image.view(28, 28).numpy()).max() <= 0.5


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        ({"digit": 12}, "digit must be an integer of 0 to 9, found 12"),
        ({"digit": "5"}, "valid integer"),
        ({"digit": 5, "num_samples": MAX_IMAGES + 1}, "less than or equal to 1000"),
        ({"digit": 5, "temperature": float("nan")}, "temperature must be 0 to 1000"),
    ],
)
def test_what_cannot_be_answered_is_a_wrong_parameter_which_http_calls_400(
    model: Digits, request_: dict[str, Any], words: str
) -> None:
    with pytest.raises(MlflowException, match=words) as refused:
        ask(model, request_)
    assert refused.value.get_http_status_code() == 400
