"""Former names of `cvae.loading.loaded`."""

from cvae.loading.loaded import LoadedRun as Run
from cvae.loading.loaded import generate_conditional_samples, load_run, open_run
from cvae.run.api import evaluate, train

__all__ = [
    "Run",
    "evaluate",
    "generate_conditional_samples",
    "load_run",
    "open_run",
    "train",
]
