"""How large the core is; tests/test_architecture.py holds the limits."""

from __future__ import annotations

import io
import tokenize
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CORE = sorted(
    file for file in (ROOT / "cvae").glob("*.py") if not file.name.startswith("__")
)


# What is run in a fresh interpreter, whose modules are counted then.
@dataclass(frozen=True)
class Size:
    """Files; lines without comment-only lines; the share of lines with a comment."""

    files: int
    lines: int
    commented: float


def core_size() -> Size:
    lines = only = commented = 0
    for file in CORE:
        text = file.read_text()
        lines += text.count("\n")
        only += sum(line.lstrip().startswith("#") for line in text.splitlines())
        tokens = tokenize.generate_tokens(io.StringIO(text).readline)
        commented += sum(token.type == tokenize.COMMENT for token in tokens)
    return Size(len(CORE), lines - only, commented / lines)
