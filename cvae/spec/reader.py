"""YAML text to a tree of plain values, by YAML 1.2, with the line of every key.

Anchors, tags, duplicate keys and second documents are refused where they stand.
"""

from __future__ import annotations

import re
from typing import Any

import yaml
from yaml.composer import Composer
from yaml.constructor import SafeConstructor
from yaml.cyaml import CParser  # type: ignore[attr-defined] # with PyYAML's wheels
from yaml.resolver import Resolver

from cvae.errors import SpecError

DEEPEST = 8  # levels of nesting; a spec has three
TAG = "tag:yaml.org,2002:"
CORE_SCHEMA = {  # what a plain scalar is by YAML 1.2; all else is text
    "null": r"~|null|Null|NULL|",
    "bool": r"true|True|TRUE|false|False|FALSE",
    "int": r"[-+]?[0-9]{1,30}|0o[0-7]{1,30}|0x[0-9a-fA-F]{1,30}",
    "float": r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?"
    r"|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
}
RESOLVERS = [(TAG + k, re.compile(rf"(?:{v})\Z")) for k, v in CORE_SCHEMA.items()]

Path_ = tuple[str | int, ...]


class _Composer(Composer):
    """PyYAML's nodes by YAML 1.2; refuses on the way what a spec may not use."""

    depth = 0

    def compose_node(
        self: Any, parent: yaml.Node | None, index: Any
    ) -> yaml.Node | None:
        event: Any = self.peek_event()
        if isinstance(event, yaml.AliasEvent) or event.anchor:
            raise refusal(event, "anchors and aliases are not allowed; write it out")
        if event.tag:
            problem = f"the tag {event.tag!r} is not allowed; write a plain value"
            raise refusal(event, problem)
        if self.depth > DEEPEST:
            raise refusal(event, f"nested more than {DEEPEST} levels deep")
        if re.search("[\ud800-\udfff]", getattr(event, "value", "")):
            raise refusal(event, "half of a surrogate pair is no character")
        self.depth += 1  # lowered again only where composing goes on
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def read(self: Any, node: yaml.Node, path: Path_, lines: dict[Path_, str]) -> Any:
        """The value of a node; where each path in it stands goes into `lines`."""
        lines.setdefault(path, _line_of(node))
        if isinstance(node, yaml.SequenceNode):
            items = enumerate(node.value)
            return [self.read(item, (*path, n), lines) for n, item in items]
        if not isinstance(node, yaml.MappingNode):
            return self.construct_object(node)
        tree: dict[str, Any] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise refusal(key, "a key must be a plain word")
            inside = (*path, key.value)
            if key.value in tree:
                before = lines[inside].rpartition(":")[2]
                problem = f"{key.value}: stands twice, first on line {before}"
                raise refusal(key, problem)
            lines[inside] = _line_of(key)
            tree[key.value] = self.read(value, inside, lines)
        return tree


class Reader(_Composer, yaml.SafeLoader):
    """Names the file in every mark, and says in good words what is not YAML."""

    yaml_implicit_resolvers = {None: RESOLVERS}  # noqa: RUF012

    def __init__(self, text: str, source: str) -> None:
        super().__init__(text)
        self.name = source


class QuickReader(_Composer, CParser, SafeConstructor, Resolver):
    """Five times as quick; for files of run folders, of which there are thousands."""

    yaml_implicit_resolvers = {None: RESOLVERS}  # noqa: RUF012

    def __init__(self, text: str) -> None:
        CParser.__init__(self, text)
        for base in (_Composer, SafeConstructor, Resolver):
            base.__init__(self)


def _integer(_: Any, node: yaml.ScalarNode) -> int:
    """`010` is ten, `0o10` eight."""
    return int(node.value, 0 if node.value[:2] in ("0o", "0x") else 10)


for reader in (Reader, QuickReader):
    reader.add_constructor(f"{TAG}int", _integer)


def _line_of(at: yaml.Event | yaml.Node) -> str:
    mark: Any = at.start_mark
    return f"{mark.name}:{mark.line + 1}"


def refusal(at: yaml.Event | yaml.Node, problem: str) -> SpecError:
    return SpecError(f"{_line_of(at)}: {problem}")
