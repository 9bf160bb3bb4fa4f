"""The metrics of a run's model, and what `make evaluate WHAT=…` keeps of them on disk.

`evaluation/` in the run's folder (of a published run in reports/<name>/) holds
<part>.json         metrics, errors, settings, commit: written last
<part>.csv          a line a test image: its index, its label, each value
<part>.safetensors  what the page draws
<part>.*.unfinished finished batches of an interrupted part, from which it is resumed
"""

from __future__ import annotations

import itertools
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
from cvae.errors import Damaged, Diverged
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
    model: CVAE, images: mnist.Images, spec: Spec, samples: int, label_samples: int
) -> dict[str, float]:
    """`nll_isK`, and by Bayes' rule `label_accuracy_isK` and `marginal_nll_isK`.

    A number of samples of 0 leaves its metrics out.
    """
    figures: dict[str, float] = {}
    if samples:
        noise, corrupt = stream(spec.training.seed, "evaluate"), spec.data.corrupt
        figures[f"nll_is{samples}"] = likelihood.importance_nll(
            model, images, noise, samples=samples, corrupt=corrupt
        )
    if label_samples:
        noise, corrupt = stream(spec.training.seed, "evaluate"), spec.data.corrupt
        logs = likelihood.label_likelihoods(
            model, images, noise, samples=label_samples, corrupt=corrupt
        )
        right = logs.argmax(1) == images.labels.cpu()
        log_p = likelihood.log_evidence(logs)
        figures[f"label_accuracy_is{label_samples}"] = float(right.double().mean())
        figures[f"marginal_nll_is{label_samples}"] = -float(log_p.mean())
    return figures


def test_figures(model: CVAE, test: mnist.Images, spec: Spec) -> dict[str, float]:
    """All metrics of the test images that the spec asks for, as `test/…`."""
    asked = spec.evaluation.importance_samples, spec.evaluation.label_samples
    figures = bound(model, test, spec, beta=spec.objective.beta)
    figures |= importance_figures(model, test, spec, *asked)
    return {f"test/{key}": value for key, value in figures.items()}


def control_figures(
    model: CVAE, images: mnist.Images, digest: str, runs: Path
) -> dict[str, float]:
    """`control` of a split of the data with `digest`, and the classifier's accuracy.

    Empty if no classifier in results/ or `runs` knows these data, or there is nothing
    to classify. The noise is the same for every run: runs are compared on the same z.
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
    parts: Sequence[str] = (),
    *,
    samples: int,
    label_samples: int,
) -> dict[str, float]:
    """Metrics of a finished run; new ones are added to its records.

    Args:
        parts: estimators, each kept once it is whole; `importance_figures` if none.

    Returns:
        Metrics by key; the standard error of `test/…` is `test/…_se`.

    Raises:
        Busy: another process holds the run.
        DataError: other data than the run was made with.
    """
    data, counts = load_data(spec, folder), (samples, label_samples)
    with folder.lock():
        if parts:
            return measure_all(folder, spec, model, data, parts, counts)
        decoded = samples + model.classes * label_samples  # of each image
        log.info("%s: %d draws of z per test image", folder.name, decoded)
        with decoding_progress(model, folder.name, decoded * len(data.test)):
            figures = importance_figures(model, data.test, spec, *counts)
        runs = folder.path.parent
        if model.classes:
            warn_without_classifier(data.digest, runs, spec.data)
        figures |= control_figures(model, data.test, data.digest, runs)
        metrics = {f"test/{key}": value for key, value in figures.items()}
        _append_new(folder, metrics)
    return metrics


def measure_all(
    folder: RunFolder,
    spec: Spec,
    model: CVAE,
    data: mnist.MNIST,
    parts: Sequence[str] = (),
    counts: tuple[int, int] | None = None,
) -> dict[str, float]:
    """The estimators `parts` with draws of z an image and of each label.

    By default those that the spec names, as at the end of a run.
    """
    asked, (k, label_k) = spec.evaluation, PART_SAMPLES
    if counts is None:
        counts = asked.importance_samples or k, asked.label_samples or label_k
    request, parts = request_of(folder, spec, model, data, *counts), parts or asked.what
    metrics: dict[str, float] = {}
    for at, part in enumerate(parts):
        try:
            metrics |= measure(folder, model, data, request, part)
        except KeyboardInterrupt as stop:
            kept = ", ".join(parts[:at]) or "nothing yet"
            stop.add_note(f"interrupted in {part}; kept: {kept}")
            raise
    return metrics


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
    probe = bound(model, data.test[:PROBE_IMAGES], spec, beta=1.0)
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


def _append_new(folder: RunFolder, metrics: dict[str, float]) -> None:
    """Add what is new to the run's records; a known metric stays as it was."""
    known = folder.metrics
    for key in sorted(metrics.keys() & known.keys()):
        if not math.isclose(known[key], metrics[key], rel_tol=TOLERANCE):
            log.warning(
                "%s: %s is %.6g now, but %.6g is recorded and stays, in MLflow, too",
                *(folder.name, key, metrics[key], known[key]),
            )
    if new := {key: value for key, value in metrics.items() if key not in known}:
        last = folder.records()[-1]
        commit = provenance.git_state()[0]["commit"]
        folder.append(record(last["epoch"], last["step"], new) | {"commit": commit})


def record(epoch: int, step: int, metrics: dict[str, float]) -> Record:
    """A line of `records.jsonl`; the seconds are added by who measured them.

    Raises:
        Diverged: a metric is not finite.
    """
    for key, value in metrics.items():
        if not math.isfinite(value):
            raise Diverged(f"{key} is not finite after step {step}")
    row: Record = {"epoch": epoch, "step": step, "time": int(time.time() * 1000)}
    return row | {"metrics": metrics, "seconds": {}}


def directory(folder: RunFolder) -> Path:
    """The folder of a run's evaluation; beside the reports for a published run."""
    if isinstance(folder, Published):
        return REPORTS / folder.name / "evaluation"
    return folder.path / "evaluation"


def save_part(
    home: Path, part: str, measured: Measured, labels: Tensor, facts: Mapping[str, Any]
) -> None:
    """Write one part whole. `labels` (N,) are those of all test images."""
    home.mkdir(parents=True, exist_ok=True)
    if measured.per_image:
        table = _csv(measured.per_image, labels)
        write_atomic(home / f"{part}.csv", table.encode())
    tensors = {f"image.{name}": each for name, each in measured.per_image.items()}
    tensors |= {f"array.{name}": each for name, each in measured.arrays.items()}
    plain = {name: each.detach().cpu().contiguous() for name, each in tensors.items()}
    write_atomic(home / f"{part}.safetensors", safetensors.torch.save(plain))
    content = {
        "figures": dict(measured.figures),
        "errors": dict(measured.errors),
        "cited": sorted(measured.cited),
        "facts": {"written": time.time(), **facts},
    }
    text = json.dumps(content, indent=2, allow_nan=False)
    write_atomic(home / f"{part}.json", f"{text}\n".encode())


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
            values: dict[str, dict[str, Tensor]] = {"image": {}, "array": {}}
            for name, each in tensors.items():
                kind, _, name = name.partition(".")
                values[kind][name] = each
            cited = frozenset(content.get("cited", ()))
            figures, errors = content["figures"], content["errors"]
            measured = Measured(
                figures, errors, values["image"], values["array"], cited
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


def _csv(per_image: Mapping[str, Tensor], labels: Tensor) -> str:
    """CSV; values of fewer images than there are labels are those of the first ones."""
    columns = [each.tolist() for each in per_image.values()]
    count = max(map(len, columns))
    rows = itertools.zip_longest(range(count), labels[:count].tolist(), *columns)
    lines = [",".join(["image", "label", *per_image])]
    lines += [",".join("" if v is None else f"{v:.6g}" for v in row) for row in rows]
    return "\n".join(lines) + "\n"
