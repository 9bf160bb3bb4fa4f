"""Every field of a spec in words: what its values may be, and `docs/fields.md`."""

from __future__ import annotations

import json
from typing import Any

from cvae.spec.fields import Spec

HEAD = """\
# The fields of a spec

Only `name` must be given; the other fields stand in their section, as in `model:
{latent_dim: 8}`. Made from `cvae/spec/fields.py`, to be changed there, by

    python -m cvae schema --markdown > docs/fields.md
"""


def page() -> str:
    """All fields as Markdown: a table for each section, a row for each field."""
    schema = Spec.model_json_schema()
    lines = [HEAD, *_table({"name": schema["properties"]["name"]}), ""]
    for section, info in Spec.model_fields.items():
        model: Any = info.annotation
        if section != "name":
            lines += [f"## {section}", "", model.__doc__, ""]
            lines += [*_table(schema["$defs"][model.__name__]["properties"]), ""]
    return "\n".join(lines).rstrip()


def _table(fields: dict[str, Any]) -> list[str]:
    lines = ["| key | what it may be | default | meaning |", "|---|---|---|---|"]
    for key, node in fields.items():
        default = json.dumps(node["default"]) if "default" in node else "–"
        meaning = " ".join(node["description"].split())
        default = default.strip('"')
        lines.append(f"| `{key}` | {words(node)} | {default} | {meaning} |")
    return lines


def words(node: dict[str, Any]) -> str:
    """What a node of the JSON schema allows."""
    kind = node.get("type")
    if "anyOf" in node:
        return " or ".join(words(choice) for choice in node["anyOf"])
    if "enum" in node:
        return f"one of {', '.join(node['enum'])}"
    if "$ref" in node:
        return "a block of key: value lines"
    if kind == "array":
        items = node.get("prefixItems") or [node["items"]]
        count = len(items) if "prefixItems" in node else f"at most {node['maxItems']}"
        return f"a list of {count} values, each {words(items[0])}"
    if kind == "string" and "maxLength" in node:
        return f"text of {node['minLength']} to {node['maxLength']} characters"
    signs = {"minimum": "≥", "exclusiveMinimum": ">"}
    signs |= {"maximum": "≤", "exclusiveMaximum": "<"}
    bounds = [f"{sign} {node[key]}" for key, sign in signs.items() if key in node]
    bounds = [bound.removesuffix(".0") for bound in bounds]
    names = {"integer": "an integer", "number": "a number", "string": "text"}
    names |= {"boolean": "true or false", "null": "null"}
    return f"{names[str(kind)]} {' and '.join(bounds)}".strip()
