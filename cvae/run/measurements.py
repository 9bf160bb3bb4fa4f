"""An evaluation's parts on the disk: `evaluation/` in the run's folder.

<part>.json         figures, errors, settings, commit: written last
<part>.csv          a line a test image: its index, its label, each value
<part>.safetensors  what the page draws
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from cvae.errors import Damaged
from cvae.evaluation.measured import Measured
from cvae.evaluation.metrics import ERROR
from cvae.run.files import write_atomic
from cvae.run.folder import RunFolder
from cvae.run.published import Published

REPORTS = Path("reports")
Facts = dict[str, Any]  # how it was measured: settings, commit, seconds
Stored = dict[str, tuple[Measured, Facts]]  # by part


def directory(folder: RunFolder) -> Path:
    """Where a run's measurements lie; beside the reports for a published run."""
    if isinstance(folder, Published):
        return REPORTS / folder.name / "evaluation"
    return folder.path / "evaluation"


def save(
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


def load(home: Path) -> Stored:
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


def metrics(measured: Measured) -> dict[str, float]:
    """What a run's records get of a part: the figures that are cited, and `…_se`."""
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
