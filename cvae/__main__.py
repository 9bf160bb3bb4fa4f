"""The command line: `python -m cvae experiment|sweep|samples|compare|…`.

Results go to stdout, progress and warnings to stderr. Exit codes: 0 done, 2 spec or
arguments, 3 data, 4 diverged, 5 tracking store, 130/143 interrupted, 1 anything else.
"""

from __future__ import annotations

import time

_BEGAN = time.perf_counter()

import argparse  # noqa: E402
import gc  # noqa: E402
import importlib  # noqa: E402
import sys  # noqa: E402
from collections.abc import Sequence  # noqa: E402
from typing import Any  # noqa: E402

if sys.version_info < (3, 11):  # noqa: UP036
    found = ".".join(map(str, sys.version_info[:2]))
    said = f"{sys.executable} is Python {found}: 3.11 or newer is needed"
    print(said, file=sys.stderr)
    sys.exit(2)

from cvae.cli import table  # noqa: E402
from cvae.cli.exits import guarded, raise_on_signals  # noqa: E402

gc.set_threshold(100_000)  # what torch and MLflow load is no garbage: a second less


def main(arguments: Sequence[str] | None = None) -> int:
    """Act on a command line, by default this process's; the exit code."""
    words = sys.argv[1:] if arguments is None else arguments
    name, options = _parsed([table.at_home(word) for word in words])
    command, code = table.COMMANDS[name], 0

    def act() -> None:
        nonlocal code
        module, _, function = command.act.partition(":")
        code = getattr(importlib.import_module(module), function)(**options) or 0

    raise_on_signals()
    return guarded(act, interrupted=command.stop) or code


def _parsed(words: Sequence[str]) -> tuple[str, dict[str, Any]]:
    """The name of the command, and what its function is given."""
    parser = argparse.ArgumentParser(prog="python -m cvae", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    added = parser.add_subparsers(required=True, metavar="command", dest="command")
    for name, command in table.COMMANDS.items():
        if ":" not in command.act:
            continue  # of make alone
        aliases = table.ALIASES.get(name, [])
        one = added.add_parser(
            name, aliases=aliases, help=command.help, description=command.help
        )
        one.set_defaults(command=name)
        for flag, details in command.arguments.items():
            one.add_argument(flag, **details)
    options = vars(parser.parse_args(words))
    if (name := options.pop("command")) == "experiment":
        options["began"] = _BEGAN
    return name, options


if __name__ == "__main__":
    code = main()
    gc.freeze()  # without a last collection torch and MLflow leave half a second sooner
    sys.exit(code)
