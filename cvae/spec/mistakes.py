"""Each mistake in a spec as one line: what was found, what is allowed, what is near."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from typing import Any

from cvae.spec.fields import Spec
from cvae.spec.identity import REMOVED, REMOVED_IN, Named
from cvae.spec.reference import words


def sections(kind: type[Named]) -> dict[Any, Any]:
    """The sections of a kind of document by their key."""
    return {
        name: info.annotation
        for name, info in kind.model_fields.items()
        if hasattr(info.annotation, "model_fields")
    }


FIELDS = [f"{s}.{f}" for s, part in sections(Spec).items() for f in part.model_fields]


def explain(where: str, fault: Any, spec: type[Named]) -> str:
    """One pydantic error as `file:line: key: what is wrong; allowed; did you mean`."""
    path, kind, value = tuple(fault["loc"]), fault["type"], fault["input"]
    key = ".".join(map(str, path))
    if kind == "extra_forbidden" and key in REMOVED:
        return f"{where}: {key}: removed in version {REMOVED_IN}; delete it"
    if kind == "extra_forbidden":
        siblings = list(sections(spec).get(path[0], spec).model_fields)
        hint = len(path) == 1 and spec is Spec and nearest_field(key, 0.8)
        hint = hint or nearest(str(path[-1]), siblings)
        return f"{where}: {key}: unknown key; allowed: {', '.join(siblings)}{hint}"
    if kind == "missing" and key == "name":
        return f"{where}: name: missing; add a line such as 'name: my-run'"
    if kind == "missing":  # an item of a list of fixed length
        return f"{where}: {key}: missing; must be {_allowed(path, spec)}"
    shown = describe(value)
    if kind == "value_error":
        problem = str(fault["ctx"]["error"])
        return f"{where}: {key}{': ' if key else ''}{problem}; found {shown}"
    if kind == "literal_error":
        shown += nearest(str(value), re.findall(r"'(\w+)'", fault["ctx"]["expected"]))
    if kind == "string_type" and not isinstance(value, dict | list):
        shown += "; in quotes it is text"
    return f"{where}: {key}: must be {_allowed(path, spec)}; found {shown}"


def nearest(name: str, allowed: Sequence[str], cutoff: float = 0.5) -> str:
    """`; did you mean …?` for a name that is close to one of those allowed."""
    near = difflib.get_close_matches(name, allowed, 1, cutoff)
    return f"; did you mean {near[0]}?" if near else ""


def nearest_field(name: str, cutoff: float = 0.5) -> str:
    """The same for a field that may be written without its section."""
    bare = {key.partition(".")[2]: key for key in reversed(FIELDS)}
    near = difflib.get_close_matches(name, bare, 1, 0.8)
    return nearest(bare[near[0]] if near else name, FIELDS, cutoff)


def _allowed(path: tuple[str | int, ...], spec: type[Named]) -> str:
    """A field's type and bounds in words, from the JSON schema."""
    schema = node = spec.model_json_schema()
    for part in path:
        if "$ref" in node:
            node = schema["$defs"][node["$ref"].rpartition("/")[2]]
        if isinstance(part, int):
            node = node.get("items") or node["prefixItems"][part]
        else:
            node = node["properties"][part]
    return words(node)


def describe(value: Any) -> str:
    if isinstance(value, dict):
        return "a block of keys"
    if value is None:
        return "nothing"
    text = repr(value) if isinstance(value, (str, list, tuple)) else str(value).lower()
    return text if len(text) <= 60 else f"{text[:57]}…"
