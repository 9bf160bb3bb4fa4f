"""Each mistake in a spec as one line: what was found, what is allowed, what is near."""

from __future__ import annotations

import difflib
import re
from typing import Any

from cvae.spec.fields import Spec

SECTIONS = {
    name: info.annotation
    for name, info in Spec.model_fields.items()
    if hasattr(info.annotation, "model_fields")
}


def field_names() -> dict[str, list[str]]:
    """The fields of each section, for messages that name what is allowed."""
    return {section: _fields((section,)) for section in SECTIONS}


def explain(where: str, fault: Any) -> str:
    """One pydantic error as `file:line: key: what is wrong; allowed; did you mean`."""
    path = tuple(fault["loc"])
    key = ".".join(map(str, path))
    if fault["type"] == "extra_forbidden":
        siblings = _fields(path[:-1])
        near = _elsewhere(str(path[0])) if len(path) == 1 else []
        near = near or difflib.get_close_matches(str(path[-1]), siblings, 1, 0.5)
        hint = f"; did you mean {near[0]}?" if near else ""
        return f"{where}: {key}: unknown key; allowed: {', '.join(siblings)}{hint}"
    if fault["type"] == "missing" and path == ("name",):
        return f"{where}: name: missing; add a line such as 'name: my-run'"
    if fault["type"] == "missing":  # an item of a list of fixed length
        return f"{where}: {key}: missing; must be {_allowed(path)}"
    if fault["type"] == "value_error":
        problem = str(fault["ctx"]["error"])
        prefix = f"{key}: " if key else ""
        return f"{where}: {prefix}{problem}; found {describe(fault['input'])}"
    allowed = _allowed(path)
    message = fault["msg"][0].lower() + fault["msg"][1:]
    problem = f"must be {allowed}" if allowed else message
    found = describe(fault["input"])
    if isinstance(fault["input"], str) and fault["type"] == "literal_error":
        choices = re.findall(r"'(\w+)'", fault["ctx"]["expected"])
        near = difflib.get_close_matches(fault["input"], choices, 1, 0.5)
        found += f"; did you mean {near[0]}?" if near else ""
    return f"{where}: {key}: {problem}; found {found}"


def _fields(path: tuple[str | int, ...]) -> list[str]:
    model: Any = Spec
    for part in path:
        model = model.model_fields[part].annotation
    return list(model.model_fields)


def _elsewhere(name: str) -> list[str]:
    """A key written at the top that belongs in a section."""
    homes = {f: f"{s}.{f}" for s, fields in field_names().items() for f in fields}
    near = difflib.get_close_matches(name, homes, 1, 0.8)
    return [homes[near[0]]] if near else []


def _allowed(path: tuple[str | int, ...]) -> str:
    """A field's type and bounds in words, from the JSON schema."""
    schema = Spec.model_json_schema()
    node: Any = schema
    for part in path:
        if "$ref" in node:
            node = schema["$defs"][node["$ref"].rpartition("/")[2]]
        if isinstance(part, int):
            items = node.get("prefixItems") or [node.get("items", {})]
            node = items[min(part, len(items) - 1)]
        else:
            node = node.get("properties", {}).get(part, {})
    return _words(node)


def _words(node: dict[str, Any]) -> str:
    if "anyOf" in node:
        return " or ".join(_words(choice) for choice in node["anyOf"])
    if "enum" in node:
        return f"one of {', '.join(map(str, node['enum']))}"
    if "$ref" in node:
        return "a block of key: value lines"
    kind = node.get("type", "")
    if kind == "array":
        if "prefixItems" in node:
            return f"a list of {len(node['prefixItems'])} numbers"
        return f"a list of at most {node.get('maxItems')} values"
    if kind in ("integer", "number"):
        return f"{'an integer' if kind == 'integer' else 'a number'}{_bounds(node)}"
    return {"null": "null", "boolean": "true or false", "string": "text"}.get(kind, "")


def _bounds(node: dict[str, Any]) -> str:
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤"}
    signs["exclusiveMaximum"] = "<"
    parts = [f"{sign} {node[key]:g}" for key, sign in signs.items() if key in node]
    return f" {' and '.join(parts)}" if parts else ""


def describe(value: Any) -> str:
    if isinstance(value, dict):
        return "a block of keys"
    if value is None:
        return "nothing"
    text = repr(value) if isinstance(value, (str, list, tuple)) else str(value).lower()
    return text if len(text) <= 60 else f"{text[:57]}…"
