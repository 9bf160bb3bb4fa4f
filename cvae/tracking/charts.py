"""The page on which MLflow's UI compares our runs: grids first, then the curves.

MLflow keeps shared views of an experiment as JSON in a tag. Its generated page hides
the image grids under a list of all parameters; this one shows them. The form is the
UI's own and not documented: a version that does not know it shows its generated page.
The link names the training view, too, for MLflow opens on its GenAI pages whatever the
experiment says.
"""

from __future__ import annotations

import json
from typing import Any

KEY = "cvae"
TAG = f"mlflow.sharedViewState.{KEY}"
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
SECTIONS = {
    "grids": ("digits", "reconstructions"),
    "val": (
        "val/neg_elbo",
        "val/recon",
        "val/kl",
        "val/active_units",
        "val/label_fidelity",
    ),
    "test": ("test/neg_elbo", "test/recon", "test/kl", "test/label_fidelity"),
    "train": ("train/neg_elbo", "train/loss", "train/learning_rate"),
}
COLUMNS = (
    *("test/neg_elbo", "test/recon", "test/kl", "test/label_fidelity"),
    "time/training",
)
PARAMS = ("model.latent_dim", "objective.beta", "training.epochs", "training.seed")


def view(step: int) -> str:
    """The shared view as the tag's JSON; `step` is where the image sliders stand."""
    charts = [
        _chart(section, key, step) for section, keys in SECTIONS.items() for key in keys
    ]
    columns = [f"metrics.`{key}`" for key in COLUMNS]
    columns += [f"params.`{key}`" for key in PARAMS]
    sections = [
        {"uuid": name, "name": name, "display": True, "isReordered": True}
        | {"deleted": False, "isGenerated": False}
        for name in SECTIONS
    ]
    return json.dumps(
        {
            "selectedColumns": columns,
            "compareRunCharts": charts,
            "compareRunSections": sections,
            "isAccordionReordered": True,
            "autoRefreshEnabled": True,
        }
    )


def link(address: str, experiment_id: str) -> str:
    """Where the view is in the UI at `address`."""
    query = f"workflowType=machine_learning&viewStateShareKey={KEY}"
    page = f"{address}/#/experiments/{experiment_id}/runs"
    return f"{page}?{query}&compareRunsMode=CHART"


def _chart(section: str, key: str, step: int) -> dict[str, Any]:
    chart: dict[str, Any] = {
        "uuid": f"{section}-{key}",
        "runsCountToCompare": 10,
        "metricSectionId": section,
        "deleted": False,
        "isGenerated": False,
        "displayName": key,
    }
    if section == "grids":
        images = {"imageKeys": [key], "step": step, "showRunParams": False}
        return chart | {"type": "IMAGE"} | images
    kind = "BAR" if section == "test" else "LINE"
    return chart | {"type": kind, "metricKey": key} | LINE
