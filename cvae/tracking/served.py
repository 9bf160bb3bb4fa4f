"""A run's model as MLflow serves it: the code file of every logged model.

MLflow runs this file (models from code: nothing is pickled) with the run's folder as
its artifact. It imports the package: the copy that lies with the model, or the one that
the process has imported already. torch is imported when the model is loaded, not when
it is logged.
"""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import TYPE_CHECKING

import mlflow
from mlflow.exceptions import MlflowException
from mlflow.pyfunc import PythonModel, PythonModelContext
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    from torch import Tensor

MAX_IMAGES = 1000  # images a request: a second of work, not a machine's memory


class Request(BaseModel):
    """What is asked for; the same seed gives the same images."""

    model_config = ConfigDict(extra="forbid")

    digit: int
    num_samples: int = Field(1, le=MAX_IMAGES)
    seed: int | None = None
    temperature: float = 1.0
    pixels: bool = False  # numbers in [0, 1] instead of pictures


class Answer(BaseModel):
    """`num_samples` images, as pictures or as numbers; the other list is empty."""

    png: list[str] = []  # base64
    pixels: list[list[float]] = []  # (num_samples, D)


class Digits(PythonModel):  # type: ignore[misc]
    """p(x given y): a digit in, images out."""

    def load_context(self, context: PythonModelContext) -> None:
        from cvae.loading import loaded
        from cvae.run.folder import RunFolder

        self.sample = loaded.generate_conditional_samples
        self.run = loaded.open_run(RunFolder(Path(context.artifacts["run"])))

    def predict(self, model_input: list[Request]) -> list[Answer]:
        """An answer for each request.

        Raises:
            MlflowException: one that the run cannot answer; over HTTP a status of 400.
        """
        return [self._answer(request) for request in model_input]

    def _answer(self, request: Request) -> Answer:
        asked = request.model_dump(exclude={"pixels"})
        try:
            images = self.sample(run=self.run, **asked)
        except ValueError as error:
            raise MlflowException.invalid_parameter_value(str(error)) from error
        if request.pixels:
            return Answer(pixels=images.tolist())
        return Answer(png=[_png(image, self.run.shape) for image in images])


def _png(image: Tensor, shape: tuple[int, int]) -> str:
    """One image (D,) in [0, 1] as base64 of a PNG."""
    file = io.BytesIO()
    grey = (255 * image).round().byte().view(shape).numpy()
    with Image.fromarray(grey) as picture:
        picture.save(file, format="PNG")
    return base64.b64encode(file.getvalue()).decode()


mlflow.models.set_model(Digits())
