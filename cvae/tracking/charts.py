"""The page on which MLflow's UI compares our runs: grids, then test, val, train, time.

MLflow keeps shared views of an experiment as JSON in a tag. Its generated page hides
the image grids under a list of all parameters and counts the parents of sweeps as runs;
this one shows the grids, and the runs only. The form is the UI's own and not
documented: a version that does not know it shows its generated page. The link names the
training view, too, for MLflow opens on its GenAI pages whatever the experiment says.
"""

from __future__ import annotations

import json
from typing import Any

from cvae.evaluation.metrics import BOUND, CONTROL, HEADLINE

KEY = "cvae"
TAG = f"mlflow.sharedViewState.{KEY}"
RUNS_ONLY = "tags.`cvae.id` != ''"  # MLflow's filter: no parents of sweeps, no pages
# Ordered by `attributes.start_time`, its own word, the UI fetches the parents of runs
# in spite of the filter, and hides the runs of a sweep under them.
NEWEST_FIRST = {"orderByKey": "attributes.Created", "orderByAsc": False}
LINE = {
    "lineSmoothness": 0,
    "xAxisScaleType": "linear",
    "scaleType": "linear",
    "range": {},
    "xAxisKey": "step",
    "selectedXAxisMetricKey": "",
    "yAxisKey": "metric",
    "yAxisExpressions": [],
    "ignoreOutliers": False,
    "useGlobalXaxisKey": True,
    "useGlobalLineSmoothing": True,
}
SHOWN = (*BOUND, CONTROL[0])
PICTURES = ("digits", "reconstructions")  # that a run ends with
FINAL = "final_"  # their key in MLflow, at the same step in every run
SECTIONS = {
    "grids": tuple(f"{FINAL}{name}" for name in PICTURES),
    "test": tuple(f"test/{name}" for name in SHOWN),
    "val": tuple(f"val/{name}" for name in SHOWN),
    "train": (f"train/{HEADLINE}", "train/loss", "train/learning_rate"),
    "time": ("time/training", "time/total"),
}
WIDE = {"columns": 1, "cardHeight": 560}  # pixels; else three narrow cards, cut off
COLUMNS = (HEADLINE, "recon", "kl", CONTROL[0])  # of a list that scrolls sideways
PARAMS = ("model.latent_dim", "objective.beta", "training.epochs", "training.seed")


def view() -> str:
    """The shared view as the tag's JSON."""
    charts = [
        _chart(section, key) for section, keys in SECTIONS.items() for key in keys
    ]
    columns = [f"metrics.`test/{key}`" for key in COLUMNS]
    columns += ["metrics.`time/training`"]
    columns += [f"params.`{key}`" for key in PARAMS]
    sections = [
        {"uuid": name, "name": name, "display": name != "time", "isReordered": True}
        | {"deleted": False, "isGenerated": False}
        | (WIDE if name == "grids" else {})
        for name in SECTIONS
    ]
    return json.dumps(
        {
            "searchFilter": RUNS_ONLY,
            **NEWEST_FIRST,
            "selectedColumns": columns,
            "compareRunCharts": charts,
            "compareRunSections": sections,
            "isAccordionReordered": True,
            "autoRefreshEnabled": True,
        }
    )


def link(address: str, experiment_id: str, *, view: bool) -> str:
    """Where the runs of an experiment are in the UI at `address`, or their view."""
    page = f"{address}/#/experiments/{experiment_id}/runs?workflowType=machine_learning"
    shared = f"&viewStateShareKey={KEY}&compareRunsMode=CHART"
    return f"{page}{shared if view else ''}"


def _chart(section: str, key: str) -> dict[str, Any]:
    chart: dict[str, Any] = {
        "uuid": f"{section}-{key}",
        "runsCountToCompare": 10,
        "metricSectionId": section,
        "deleted": False,
        "isGenerated": False,
        "displayName": key,
    }
    if section == "grids":
        images = {"imageKeys": [key], "step": 0, "showRunParams": False}
        return chart | {"type": "IMAGE"} | images
    kind = "BAR" if section in ("test", "time") else "LINE"
    return chart | {"type": kind, "metricKey": key} | LINE
