"""The metrics of a run's model, and what `make evaluate WHAT=…` keeps of them on disk.

`evaluation/` in the run's folder (of a published run in reports/<name>/) holds
<part>.json         metrics, errors, settings, commit: written last
<part>.csv          a line a test image: its index, its label, each value
<part>.safetensors  what the page draws
<part>.*.unfinished finished batches of an interrupted part, from which it is resumed
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from cvae import control, likelihood, mnist
from cvae.errors import Damaged, DataError, Diverged
from cvae.evaluation.estimator import Measured, Request
from cvae.evaluation.metrics import ERROR, ESTIMATORS
from cvae.loading.loaded import load_data
from cvae.model import CVAE
from cvae.networks import stream
from cvae.run import progress, provenance
from cvae.run.classifiers import classifier_of, warn_without_classifier
from cvae.run.files import write_atomic
from cvae.run.folder import Record, RunFolder
from cvae.run.progress import decoding_progress
from cvae.run.published import Published
from cvae.spec.fields import Spec

PART_SAMPLES = (5000, 100)  # draws of z an image, and for each of its labels
TOLERANCE = 1e-5  # relative; threads and processors change the last digits
PROBE_IMAGES = 100  # whose bound tells one model and its code from another
REPORTS = Path("reports")
Facts = dict[str, Any]  # how a part was measured: settings, commit, seconds
Stored = dict[str, tuple[Measured, Facts]]  # by part
log = logging.getLogger("cvae")


def bound(
    model: CVAE, images: mnist.Images, spec: Spec, *, beta: float
) -> dict[str, float]:
    """recon, kl, neg_elbo, loss and active units, with the noise of the run's seed."""
    return likelihood.bound(
        model,
        images,
        stream(spec.training.seed, "evaluate"),
        beta=beta,
        samples=spec.objective.importance_samples,
        corrupt=spec.data.corrupt,
    )


def importance_figures(
    model: CVAE,
    images: mnist.Images,
    spec: Spec,
    *,
    importance_samples: int,
    label_samples: int,
) -> dict[str, float]:
    """`nll_isK`, and by Bayes' rule `label_accuracy_isK` and `marginal_nll_isK`.

    A number of samples of 0 leaves its figures out.
    """
    seed, corrupt = spec.training.seed, spec.data.corrupt
    figures: dict[str, float] = {}
    if importance_samples:
        figures[f"nll_is{importance_samples}"] = likelihood.importance_nll(
            model,
            images,
            stream(seed, "evaluate"),
            samples=importance_samples,
            corrupt=corrupt,
        )
    if label_samples:
        posterior, nll = likelihood.label_posterior(
            model,
            images,
            stream(seed, "evaluate"),
            samples=label_samples,
            corrupt=corrupt,
        )
        right = posterior.argmax(1) == images.labels.cpu()
        figures[f"label_accuracy_is{label_samples}"] = float(right.double().mean())
        figures[f"marginal_nll_is{label_samples}"] = nll
    return figures


def test_figures(model: CVAE, test: mnist.Images, spec: Spec) -> dict[str, float]:
    """All figures of the test images that the spec asks for, as `test/…`."""
    figures = bound(model, test, spec, beta=spec.objective.beta) | importance_figures(
        model,
        test,
        spec,
        importance_samples=spec.evaluation.importance_samples,
        label_samples=spec.evaluation.label_samples,
    )
    return {f"test/{key}": value for key, value in figures.items()}


def control_figures(
    model: CVAE, images: mnist.Images, digest: str, runs: Path
) -> dict[str, float]:
    """`control` of a split of the data with `digest`, and the judge's own accuracy.

    Empty if no judge in results/ or `runs` knows these data, or there is nothing to
    judge. The noise is the same for every run: runs are compared on the same z.
    """
    known = classifier_of(digest, runs)
    if known is None or not control.can_be_judged(model, images):
        return {}
    judge, accuracy = known
    figures = control.control(model, images, judge, stream(0, "control"))
    return figures | {"judge_accuracy": accuracy}


def evaluate_run(
    folder: RunFolder,
    spec: Spec,
    model: CVAE,
    *,
    importance_samples: int,
    label_samples: int,
) -> dict[str, float]:
    """`importance_figures` of a finished run; new ones are added to its records.

    Raises:
        Busy: another process holds the run.
        DataError: other data than the run was made with, or weights are not finite.
    """
    check_weights(folder, model)
    data = load_data(spec, folder)
    decoded = importance_samples + model.classes * label_samples  # of each image
    with folder.lock(), decoding_progress(model, folder.name, decoded * len(data.test)):
        log.info("%s: %d draws of z per test image", folder.name, decoded)
        figures = importance_figures(
            model,
            data.test,
            spec,
            importance_samples=importance_samples,
            label_samples=label_samples,
        )
        runs = folder.path.parent
        if model.classes:
            warn_without_classifier(data.digest, runs, spec.data)
        figures |= control_figures(model, data.test, data.digest, runs)
        metrics = {f"test/{key}": value for key, value in figures.items()}
        _append_new(folder, metrics)
    return metrics


def measure_run(
    folder: RunFolder,
    spec: Spec,
    model: CVAE,
    parts: Sequence[str],
    *,
    samples: int,
    label_samples: int,
) -> dict[str, float]:
    """The parts of an evaluation of a finished run; each is kept once it is whole.

    Returns:
        Figures by key; the standard error of `test/…` is `test/…_se`.

    Raises:
        Busy: another process holds the run.
        DataError: other data than the run was made with, or weights are not finite.
    """
    check_weights(folder, model)
    data = load_data(spec, folder)
    metrics: dict[str, float] = {}
    with folder.lock():
        request = request_of(folder, spec, model, data, samples, label_samples)
        for at, part in enumerate(parts):
            try:
                metrics |= measure(folder, model, data, request, part)
            except KeyboardInterrupt as stop:
                kept = ", ".join(parts[:at]) or "nothing yet"
                stop.add_note(f"interrupted in {part}; kept: {kept}")
                raise
    return metrics


def measure_all(folder: RunFolder, spec: Spec, model: CVAE, data: mnist.MNIST) -> None:
    """The parts that the spec names, at the end of the run."""
    asked = spec.evaluation
    request = request_of(
        folder,
        spec,
        model,
        data,
        asked.importance_samples or PART_SAMPLES[0],
        asked.label_samples or PART_SAMPLES[1],
    )
    for part in asked.what:
        measure(folder, model, data, request, part)


def measure(
    folder: RunFolder, model: CVAE, data: mnist.MNIST, request: Request, part: str
) -> dict[str, float]:
    """One part, written into the run's folder; what is cited of it into the records.

    Raises:
        Diverged: a metric is not finite; nothing is written.
    """
    home = directory(folder)
    request = replace(request, kept=home / part)
    log.info("%s: %s of %d test images", folder.name, part, len(data.test))
    began, cpu = time.monotonic(), time.process_time()
    measured: Measured = ESTIMATORS[part].load()(model, data.test, request)
    for key, value in (*measured.figures.items(), *measured.errors.items()):
        if not math.isfinite(value):
            raise Diverged(f"{key} is not finite; nothing of {part} was kept")
    metrics = cited_metrics(measured)
    facts = {
        "run": folder.name,
        "weights": folder.digest if isinstance(folder, Published) else None,
        "commit": provenance.git_state()[0]["commit"],
        "seconds": time.monotonic() - began,
        "cpu_seconds": time.process_time() - cpu,
        "peak_memory": progress.peak_memory(),
        "threads": torch.get_num_threads(),
        "images": len(data.test),
        "pixels": request.pixels,
        "samples": request.samples,
        "label_samples": request.label_samples,
    }
    save_part(home, part, measured, data.test.labels.cpu(), facts)
    request.remove_batches()
    _append_new(folder, metrics)
    return metrics


def request_of(
    folder: RunFolder,
    spec: Spec,
    model: CVAE,
    data: mnist.MNIST,
    samples: int,
    label_samples: int,
) -> Request:
    """What the parts of an evaluation of this run are asked with.

    Its fingerprint holds a bound of the first images: finished batches of other weights
    or of another `encode` or `decode` are not used.
    """
    known = classifier_of(data.digest, folder.path.parent)
    some = mnist.Images(
        data.test.images[:PROBE_IMAGES], data.test.labels[:PROBE_IMAGES]
    )
    probe = bound(model, some, spec, beta=1.0)
    settings = (samples, label_samples, probe)
    return Request(
        samples=samples,
        label_samples=label_samples,
        stream=lambda name: stream(spec.training.seed, name),
        track=progress.item_progress(folder.name),
        data=data,
        root=Path(spec.data.root),
        corrupt=spec.data.corrupt,
        pixels=spec.data.binarize,
        judge=known[0] if known else None,
        fingerprint=repr(settings),
    )


def check_weights(folder: RunFolder, model: CVAE) -> None:
    """Raises DataError if a weight is NaN or infinite: nothing can be measured."""
    for name, weights in model.state_dict().items():
        if not bool(weights.isfinite().all()):
            raise DataError(
                f"{folder.weights}: {name} holds values that are not finite; train the "
                "run again, or name another"
            )


def _append_new(folder: RunFolder, metrics: dict[str, float]) -> None:
    """Add what is new to the run's records; a known figure stays as it was."""
    commit = provenance.git_state()[0]["commit"]
    _warn_of_changed(folder, metrics, commit)
    known = folder.metrics
    if new := {key: value for key, value in metrics.items() if key not in known}:
        last = folder.records()[-1]
        line = record(last["epoch"], last["step"], new)
        folder.append(line | {"commit": commit})


def _warn_of_changed(folder: RunFolder, metrics: dict[str, float], commit: str) -> None:
    """Name each figure that the run has already, with another value."""
    of_run = folder.info.get("git", {}).get("commit", "unknown")
    recorded = {
        key: (value, line.get("commit", of_run))
        for line in folder.records()
        for key, value in line["metrics"].items()
    }
    for key in sorted(metrics.keys() & recorded.keys()):
        value, before = recorded[key]
        if not math.isclose(value, metrics[key], rel_tol=TOLERANCE):
            log.warning(
                "%s: %s is %.6g now (commit %.8s), but %.6g is recorded (commit %.8s); "
                "the recorded one stays, in MLflow, too",
                *(folder.name, key, metrics[key], commit, value, before),
            )


def record(epoch: int, step: int, metrics: dict[str, float]) -> Record:
    """A line of `records.jsonl`; the seconds are added by who measured them.

    Raises:
        Diverged: a metric is not finite.
    """
    for key, value in metrics.items():
        if not math.isfinite(value):
            raise Diverged(f"{key} is not finite after step {step}")
    now = int(time.time() * 1000)
    return {
        "epoch": epoch,
        "step": step,
        "time": now,
        "metrics": metrics,
        "seconds": {},
    }


def directory(folder: RunFolder) -> Path:
    """The folder of a run's evaluation; beside the reports for a published run."""
    if isinstance(folder, Published):
        return REPORTS / folder.name / "evaluation"
    return folder.path / "evaluation"


def save_part(
    home: Path, part: str, measured: Measured, labels: Tensor, facts: Mapping[str, Any]
) -> list[Path]:
    """Write one part whole; the files. `labels` (N,) are those of all test images."""
    home.mkdir(parents=True, exist_ok=True)
    values, arrays, summary = (
        home / f"{part}.{kind}" for kind in ("csv", "safetensors", "json")
    )
    written = []
    if measured.per_image:
        write_atomic(values, _csv(measured.per_image, labels).encode())
        written.append(values)
    tensors = {f"image.{name}": each for name, each in measured.per_image.items()}
    tensors |= {f"array.{name}": each for name, each in measured.arrays.items()}
    plain = {name: each.detach().cpu().contiguous() for name, each in tensors.items()}
    write_atomic(arrays, safetensors.torch.save(plain))
    content = {
        "figures": dict(measured.figures),
        "errors": dict(measured.errors),
        "cited": sorted(measured.cited),
        "facts": {"written": time.time(), **facts},
    }
    text = json.dumps(content, indent=2, allow_nan=False)
    write_atomic(summary, f"{text}\n".encode())
    return [summary, *written]


def load_parts(home: Path) -> Stored:
    """Every part that is whole.

    Raises:
        Damaged: a file is not what was written.
    """
    stored: Stored = {}
    for path in sorted(home.glob("*.json")):
        try:
            content = json.loads(path.read_text())
            tensors = safetensors.torch.load_file(path.with_suffix(".safetensors"))
            measured = Measured(
                content["figures"],
                content["errors"],
                _with_prefix(tensors, "image."),
                _with_prefix(tensors, "array."),
                frozenset(content.get("cited", ())),
            )
            stored[path.stem] = measured, content["facts"]
        except (OSError, ValueError, LookupError, safetensors.SafetensorError) as error:
            raise Damaged(f"{path}: {error}; make evaluate writes it anew") from error
    return stored


def cited_metrics(measured: Measured) -> dict[str, float]:
    """The metrics of a part that a run's records get, and their errors as `…_se`."""
    cited = measured.cited or measured.figures.keys()
    figures = {f"test/{k}": v for k, v in measured.figures.items() if k in cited}
    errors = {f"test/{k}{ERROR}": v for k, v in measured.errors.items() if k in cited}
    return figures | errors


def _with_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): each
        for name, each in tensors.items()
        if name.startswith(prefix)
    }


def _csv(per_image: Mapping[str, Tensor], labels: Tensor) -> str:
    """CSV; values of fewer images than there are labels are those of the first ones."""
    columns = {name: each.tolist() for name, each in per_image.items()}
    count = max(map(len, columns.values()))
    index: list[Any] = torch.arange(count).tolist()
    rows = [["image", "label", *columns]]
    for at in index:
        cells = [
            f"{each[at]:.6g}" if at < len(each) else "" for each in columns.values()
        ]
        rows.append([str(at), str(int(labels[at])), *cells])
    return "\n".join(",".join(row) for row in rows) + "\n"
