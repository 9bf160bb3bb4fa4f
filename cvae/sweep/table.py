"""What a sweep is and what came of it, as rows."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch

from cvae import mnist
from cvae.evaluation.metrics import BOUND, HEADLINE, SCORES, mean_sd
from cvae.model import CVAE
from cvae.run.find import finished_run, folder_for
from cvae.run.folder import RunFolder
from cvae.spec.fields import Spec
from cvae.spec.variants import SEEDS, Plan


def rows(plan: Plan, runs: Path) -> list[dict[str, Any]]:
    """A row a variant: run, status, parameters, swept fields, final figures."""
    lines = []
    for variant in plan.variants:
        folder = run_folder(variant.spec, runs)
        metrics = folder.metrics
        row: dict[str, Any] = {"run": folder.name, "status": folder.status}
        row |= {"parameters": parameters(variant.spec)}
        row |= {key: variant.swept.get(key) for key in plan.keys}
        row |= {key: metrics.get(key) for key in (*SCORES, *_nll(variant.spec))}
        row["seconds"] = metrics.get("time/total")
        lines.append(row)
    return lines


def _nll(spec: Spec) -> list[str]:
    """The likelihood that the spec asks for."""
    samples = spec.evaluation.importance_samples
    return [f"test/nll_is{samples}"] if samples else []


def parameters(spec: Spec) -> int:
    """Trainable numbers of the spec's network on images of its data's size.

    Raises:
        DataError: the data's header cannot be read.
    """
    shape, classes = _sizes(spec.data.root)
    with torch.device("meta"):
        model = CVAE(**spec.model.model_dump(), shape=shape, classes=classes)
    return sum(weight.numel() for weight in model.parameters())


@cache  # a sweep asks for every variant, and again when the data may be gone
def _sizes(root: str) -> tuple[tuple[int, int], int]:
    data = mnist.load_mnist(root)
    return data.shape, data.classes


def summary(plan: Plan, rows: Sequence[dict[str, Any]]) -> list[list[str]]:
    """Head and lines of `rows` over seeds: mean ± sd of n finished runs."""
    keys = [key for key in plan.keys if key != SEEDS]
    known = {key for row in rows for key in SCORES if row[key] is not None}
    scores = [key for key in SCORES if key in {*SCORES[: len(BOUND)], *known}]
    scores += dict.fromkeys(key for one in plan.variants for key in _nll(one.spec))
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for variant, row in zip(plan.variants, rows, strict=True):
        point = tuple(str(variant.swept.get(key, "")) for key in keys)
        group = groups.setdefault(point, [])
        if row["status"] == "FINISHED":
            group.append(row)
    lines = []
    for point, group in groups.items():
        cells = [
            mean_sd([row[key] for row in group if row.get(key) is not None], key)
            for key in scores
        ]
        lines.append([*point, str(len(group)), *cells])
    return [[*keys, "n", *scores], *lines]


def figures(plan: Plan, runs: Path) -> tuple[dict[str, Any], dict[str, float]]:
    """The best setting and the sweep's test figures: what its run in MLflow shows.

    The best has the lowest mean bound on the validation images, or on the test images
    where no images were held back; `best/…` is its mean over seeds, `mean/…` that of
    all runs.
    """
    settings: dict[str, tuple[dict[str, Any], list[dict[str, float]]]] = {}
    for variant in plan.variants:
        if folder := finished_run(variant.spec, runs):
            swept = {key: v for key, v in variant.swept.items() if key != SEEDS}
            settings.setdefault(str(swept), (swept, []))[1].append(folder.metrics)
    if not settings:
        return {}, {}
    every = [metrics for _, members in settings.values() for metrics in members]
    key = f"val/{HEADLINE}"
    if not all(key in metrics for metrics in every):
        key = f"test/{HEADLINE}"
    best, members = min(settings.values(), key=lambda setting: _mean(setting[1], key))
    means = {
        key.replace("test", part): _mean(some, key)
        for part, some in (("best", members), ("mean", every))
        for key in SCORES
    }
    return best, {key: mean for key, mean in means.items() if math.isfinite(mean)}


def _mean(some: Sequence[dict[str, float]], key: str) -> float:
    """nan unless every run has the figure."""
    return statistics.fmean(metrics.get(key, math.nan) for metrics in some)


def dry_run(plan: Plan, runs: Path) -> list[list[str]]:
    """Head and lines of what a call would do."""
    head = ["run", *plan.keys, "parameters", "status"]
    lines = []
    for variant in plan.variants:
        folder = run_folder(variant.spec, runs)
        status = folder.status.lower()
        if status not in ("new", "finished"):
            records = folder.records()
            status += f", {records[-1]['epoch'] if records else 0} epochs done"
        values = [str(variant.swept.get(key, "–")) for key in plan.keys]
        count = f"{parameters(variant.spec):,}"
        lines.append([folder.name, *values, count, status])
    return [head, *lines]


def run_folder(spec: Spec, runs: Path) -> RunFolder:
    """The finished run of a variant, or the one that would be begun or gone on with."""
    return finished_run(spec, runs) or folder_for(spec, runs)
