"""YAML text to plain values by YAML 1.2, with the line of every key.

PyYAML composes nodes, which know their lines. Numbers and words are those of YAML 1.2's
core schema: `1e-3` is a number, `no` is a string.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import yaml

from cvae.errors import SpecError

Path_ = tuple[str | int, ...]
TAG = "tag:yaml.org,2002:"
CORE_SCHEMA = {  # what a plain scalar is by YAML 1.2; all else is text
    "null": r"~|null|Null|NULL|",
    "bool": r"true|True|TRUE|false|False|FALSE",
    "int": r"[-+]?[0-9]{1,30}|0o[0-7]{1,30}|0x[0-9a-fA-F]{1,30}",
    "float": r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?"
    r"|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
}
RESOLVERS = [(TAG + k, re.compile(rf"(?:{v})\Z")) for k, v in CORE_SCHEMA.items()]
READ: dict[str, Callable[[str], Any]] = {
    "null": lambda text: None,
    "bool": lambda text: text.lower() == "true",
    "int": lambda text: int(text, 0 if text[:2] in ("0o", "0x") else 10),
    "float": lambda text: float(text.lower().replace(".inf", "inf").replace(".n", "n")),
    "str": str,
}


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    yaml_implicit_resolvers = {None: RESOLVERS}  # noqa: RUF012


class Dumper(yaml.SafeDumper):
    """Quotes text that YAML 1.1 or 1.2 takes for something else."""

    yaml_implicit_resolvers = yaml.SafeDumper.yaml_implicit_resolvers | {
        None: RESOLVERS
    }


def read(text: str, source: str) -> tuple[Any, dict[Path_, str]]:
    """The values in a text, and of each path in them the place: `file:line`.

    Raises:
        SpecError: not YAML; an alias, a tag, a key that stands twice.
    """
    lines: dict[Path_, str] = {}
    try:
        node = yaml.compose(text, Loader=_Loader)
        return (None if node is None else _value(node, (), source, lines, [])), lines
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        fault: Any = error  # a mark, the position of a character, or neither
        mark = getattr(fault, "problem_mark", None)
        line = mark.line if mark else text.count("\n", 0, getattr(fault, "position", 0))
        problem = getattr(fault, "problem", None) or getattr(fault, "reason", error)
        raise SpecError(f"{source}:{line + 1}: not valid YAML: {problem}") from error


def _value(
    node: Any, path: Path_, source: str, lines: dict[Path_, str], seen: list[Any]
) -> Any:
    """The value of a node; where it and all in it stand goes into `lines`."""
    place = f"{source}:{node.start_mark.line + 1}"
    lines.setdefault(path, place)
    if isinstance(node, yaml.ScalarNode):
        kind = node.tag.removeprefix(TAG)
        if kind not in READ:
            raise SpecError(f"{place}: the tag {node.tag!r} is not allowed")
        return READ[kind](node.value)
    if any(node is other for other in seen):
        raise SpecError(f"{place}: an alias is not allowed; write the value out")
    seen.append(node)
    if isinstance(node, yaml.SequenceNode):
        return [
            _value(item, (*path, n), source, lines, seen)
            for n, item in enumerate(node.value)
        ]
    tree: dict[str, Any] = {}
    for key, value in node.value:
        place = f"{source}:{key.start_mark.line + 1}"
        if not isinstance(key, yaml.ScalarNode):
            raise SpecError(f"{place}: a key must be a plain word")
        inside = (*path, key.value)
        if key.value in tree:
            first = lines[inside].rpartition(":")[2]
            raise SpecError(
                f"{place}: {key.value}: stands twice, first on line {first}"
            )
        lines[inside] = place
        tree[key.value] = _value(value, inside, source, lines, seen)
    return tree
