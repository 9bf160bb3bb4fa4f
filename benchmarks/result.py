"""A result as a file, for whoever compares it with another day's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def keep(measured: dict[str, Any], path: Path) -> None:
    """Write a result as JSON and say where."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(measured, indent=2) + "\n")
    print(f"\n{path}")
