"""`train` and `evaluate` from Python: as `make experiment` and `make evaluate` do."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cvae.errors import TrackingError, UsageError
from cvae.evaluation.estimator import chosen
from cvae.loading.loaded import AnyRun, LoadedRun, integer, load_run
from cvae.run import runner
from cvae.run.evaluation import PART_SAMPLES, evaluate_run
from cvae.run.folder import RUNS, Origin, make_command
from cvae.run.torch_settings import plain_torch
from cvae.spec.document import (
    Document,
    apply_overrides,
    one_spec,
    plain,
    read_document,
    split_overrides,
    validate,
)
from cvae.spec.fields import Spec
from cvae.spec.identity import flatten, nested

# draws of z an image, and for each of its labels, without `what`
FIGURE_SAMPLES = (100, 0)
log = logging.getLogger("cvae")


@plain_torch()
def train(
    spec: str | os.PathLike[str] | Mapping[str, Any] | Spec,
    changes: str | Sequence[str] = (),
    *,
    runs: str | os.PathLike[str] = RUNS,
    offline: bool = False,
) -> LoadedRun:
    """Train what a spec describes, or go on with it, as `make experiment` does.

    Args:
        spec: a YAML file, or fields: `{"name": "mine", "model": {"latent_dim": 8}}`,
            whose values may be those of NumPy, tensors and paths.
        changes: laid over it, such as `["training.epochs=5"]`; in one text as SET= has.
        runs: the folder of runs; it gets the run's folder and MLflow's database.
        offline: leave MLflow alone; `make sync` publishes later.

    Returns:
        The finished run; `run.folder.metrics` holds every figure by its key, such as
        `test/neg_elbo` (nats per image).

    Raises:
        SpecError, DataError, TrackingError, UsageError: before anything is trained.
        Diverged: loss, gradient or weights stopped being finite.
        Busy: another process is at this run.
    """
    changes = split_overrides(changes) if isinstance(changes, str) else changes
    if isinstance(spec, (str, os.PathLike)):
        path = os.fspath(spec)
        document = read_document(path)
        wanted = one_spec(document, changes)
        command = make_command("experiment", path, " ".join(changes))
    else:
        fields = nested(flatten(spec)) if isinstance(spec, Spec) else spec
        document = Document("spec", plain(fields))
        apply_overrides(document, changes)
        wanted, command = validate(document), "cvae.train"
    origin = Origin(document.header, command, tuple(changes))
    folder = runner.run(wanted, runs=Path(runs), offline=offline, origin=origin)
    return load_run(folder.path)


@plain_torch()
def evaluate(
    run: AnyRun = None,
    *,
    importance_samples: int | None = None,
    label_samples: int | None = None,
    what: str | Sequence[str] = (),
    runs: str | os.PathLike[str] = RUNS,
) -> dict[str, float]:
    """Figures of a finished run over all test images, with `what` with their errors.

    New figures are added to the run's records, and to MLflow if the run is there.

    Args:
        run: a finished run (see `load_run`); the newest by default.
        importance_samples: K of `test/nll_isK`; 0 leaves it out. By default 100, which
            take a minute or more, and with `what` 5000.
        label_samples: the same for `test/label_accuracy_isK` and
            `test/marginal_nll_isK`, of each of the ten labels; by default 0, and with
            `what` 100.
        what: names of `cvae.evaluation.metrics.ESTIMATORS`, or "all". Values by image
            are written to `evaluation/` in the run's folder.
        runs: the folder of runs in which `run` is looked for.

    Returns:
        Figures by key; nll in nats per image, accuracies and fidelities as shares. The
        standard error of `test/…` is `test/…_se`.

    Raises:
        ValueError: a number of samples is not an integer of 0 to 10⁶.
        RunNotFound: no such run.
        UsageError: a part that there is not, labels of an unconditional run.
        DataError: other data than the run was made with.
        Busy: another process is at this run.
    """
    counts = [
        default if count is None else integer("samples", count, 0, 10**6)
        for count, default in zip(
            (importance_samples, label_samples),
            PART_SAMPLES if what else FIGURE_SAMPLES,
            strict=True,
        )
    ]
    loaded = load_run(run, runs=runs)
    if label_samples and not loaded.model.classes:
        raise UsageError(
            f"{loaded.folder.name} is unconditional: it has no label posterior"
        )
    folder, (samples, of_labels) = loaded.folder, counts
    parts = list[str]()
    if what:
        classes = bool(loaded.model.classes)
        parts = chosen(what, folder.name, classes, samples, of_labels)
    known = folder, loaded.spec, loaded.model
    figures = evaluate_run(*known, parts, samples=samples, label_samples=of_labels)
    if folder.published:
        from cvae.tracking.publish import Tracker  # takes seconds

        try:
            Tracker(folder.path.parent).publish(folder)
        except TrackingError as error:
            log.warning(
                "%s; all is kept in %s, publish later: make sync", error, folder.path
            )
    return figures
