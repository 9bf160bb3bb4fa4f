"""How large the core is, and how much of the project each command loads.

python -m tests.sizes prints it; tests/test_architecture.py holds the limits.
"""

from __future__ import annotations

import io
import tokenize
from dataclasses import dataclass
from pathlib import Path

from tests import children

ROOT = Path(__file__).resolve().parent.parent
CORE = sorted(
    file for file in (ROOT / "cvae").glob("*.py") if not file.name.startswith("__")
)
# What is run in a fresh interpreter, whose modules are counted then.
LOADED = {
    "import cvae": "import cvae",
    "cvae.load_run": "import cvae; cvae.load_run('seed-notebook')",
    "make samples": "from cvae.__main__ import main; main(['samples', '--run', "
    "'seed-notebook', '--out', place])",
    "make explorer": "from cvae.__main__ import main; main(['explorer', '--run', "
    "'seed-notebook', '--out', place])",
    "make experiment": "from cvae.__main__ import main; main(['run', "
    "'experiments/quickstart.yaml', '--offline', '--runs', place, '--set', "
    "'training.epochs=1 data.train_images=100'])",
}
COUNT = """
import contextlib, io, sys, tempfile
with tempfile.TemporaryDirectory() as place, contextlib.redirect_stdout(io.StringIO()):
    {code}
print(sum((getattr(one, '__file__', '') or '').startswith({root!r})
          for one in list(sys.modules.values())))
"""


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


def loaded(code: str) -> int:
    """How many files of the project a fresh interpreter has loaded after `code`."""
    done = children.python("-c", COUNT.format(code=code, root=f"{ROOT}/"))
    return int(done.stdout)


if __name__ == "__main__":
    size = core_size()
    print(f"core: {size.files} files, {size.lines:,} lines without comment lines")
    print(f"lines of the core with a comment: {100 * size.commented:.1f} %")
    for name, code in LOADED.items():
        print(f"{name}: {loaded(code)} of our files")
