"""The page on which MLflow's UI compares our runs: metrics, final grids, curves.

MLflow keeps shared views of an experiment as JSON in a tag. Its generated page hides
the image grids under a list of all parameters and counts the parents of sweeps as runs;
this one shows the grids, and the runs only. The form is the UI's own and not
documented: a version that does not know it shows its generated page. The link names the
training view, too, for MLflow opens on its GenAI pages whatever the experiment says.
"""

from __future__ import annotations

import json
from typing import Any

from cvae.evaluation.metrics import CONTROL, HEADLINE

KEY = "cvae"
TAG = f"mlflow.sharedViewState.{KEY}"
RUNS_ONLY = "tags.`cvae.id` != ''"  # MLflow's filter: no parents of sweeps, no pages
# Ordered by time, the UI fetches the parents of runs in spite of the filter, and hides
# the runs of a sweep under them.
BEST_FIRST = {"orderByKey": f"metrics.`test/{HEADLINE}`", "orderByAsc": True}
LINE = {"xAxisKey": "step", "yAxisKey": "metric", "useGlobalXaxisKey": True}
PICTURES = ("digits", "reconstructions")  # that a run ends with
FINAL = "final_"  # their key in MLflow, at the same step in every run
SECTIONS = {
    "results": (f"test/{HEADLINE}", f"test/{CONTROL[0]}"),
    "grids": tuple(f"{FINAL}{name}" for name in PICTURES),
    "test": ("test/recon", "test/kl"),
    "val": tuple(f"val/{name}" for name in (HEADLINE, CONTROL[0], "recon", "kl")),
    "train": (f"train/{HEADLINE}", "train/loss", "train/learning_rate"),
    "time": ("time/training", "time/total"),
}
SIZES = {  # cards of a section: side by side, and pixels; by itself three that are cut
    "results": {"columns": 2, "cardHeight": 220},
    "grids": {"columns": 1, "cardHeight": 560},
}
COLUMNS = [
    *(f"metrics.`test/{name}`" for name in (HEADLINE, "recon", "kl", CONTROL[0])),
    *("metrics.`time/training`", "params.`model.latent_dim`"),
    *("params.`objective.beta`", "params.`training.epochs`", "params.`training.seed`"),
]


def view() -> str:
    """The shared view as the tag's JSON."""
    charts = [
        _chart(section, key) for section, keys in SECTIONS.items() for key in keys
    ]
    sections = [
        {"uuid": name, "name": name, "display": name != "time", "isReordered": True}
        | {"deleted": False, "isGenerated": False}
        | SIZES.get(name, {})
        for name in SECTIONS
    ]
    found = {"searchFilter": RUNS_ONLY, **BEST_FIRST, "selectedColumns": COLUMNS}
    found |= {"compareRunCharts": charts, "compareRunSections": sections}
    found |= {"isAccordionReordered": True, "autoRefreshEnabled": True}
    return json.dumps(found)


def link(address: str, experiment_id: str, *, view: bool) -> str:
    """Where the runs of an experiment are in the UI at `address`, or their view."""
    page = f"{address}/#/experiments/{experiment_id}/runs?workflowType=machine_learning"
    shared = f"&viewStateShareKey={KEY}&compareRunsMode=CHART"
    return f"{page}{shared if view else ''}"


def _chart(section: str, key: str) -> dict[str, Any]:
    chart: dict[str, Any] = {"uuid": key, "metricSectionId": section}
    chart |= {"runsCountToCompare": 10, "deleted": False, "isGenerated": False}
    if section == "grids":
        images = {"imageKeys": [key], "step": 0, "showRunParams": False}
        return chart | {"type": "IMAGE", "displayName": key} | images
    if section in ("results", "test", "time"):
        return chart | {"type": "BAR", "metricKey": key}
    return chart | {"type": "LINE", "metricKey": key} | LINE
