"""YAML text to a `Spec`, every mistake named with its line.

YAML 1.2's core schema (`1e-3` is a number, `no` is a string), no anchors, no tags, no
duplicate keys. Values that come from the shell (`SET="model.latent_dim=8"`) pass the
same checks.
"""

from __future__ import annotations

import difflib
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from cvae.errors import SpecError
from cvae.spec.fields import BEFORE, Spec, flatten, nested
from cvae.spec.mistakes import SECTIONS, describe, explain

LARGEST = 256 * 1024  # bytes; a spec is a page, and PyYAML reads 100 kB a second
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


@dataclass
class Document:
    """The tree of a YAML text, where each path stands, and the opening comment."""

    source: str
    tree: Any
    lines: dict[Path_, str] = field(default_factory=dict)  # path → "file:line"
    header: str = ""
    text: str = ""

    def where(self, path: Path_) -> str:
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, f"{self.source}:1")

    def put(self, key: str, value: Any, where: str) -> None:
        """Set a field by its dotted key; `where` is what messages about it name."""
        *sections, name = path = key.split(".")
        if not isinstance(self.tree, dict):
            self.tree = {}
        node = self.tree
        for section in sections:
            if not isinstance(node.get(section), dict):
                node[section] = {}
            node = node[section]
        node[name] = value
        self.lines[tuple(path)] = where


def load_spec(path: str | Path, overrides: Sequence[str] = ()) -> Spec:
    """The spec of a YAML file with `key=value` overrides laid over it.

    Raises:
        SpecError: every mistake of file and overrides, a line each.
    """
    return one_spec(read_document(path), overrides)


def one_spec(document: Document, overrides: Sequence[str] = ()) -> Spec:
    """The spec of a file that was read, with `key=value` overrides laid over it.

    Raises:
        SpecError: as `load_spec`.
    """
    if isinstance(document.tree, dict) and "sweep" in document.tree:
        raise SpecError(
            f"{document.where(('sweep',))}: sweep: this file describes many runs, not "
            f"one: make sweep CONFIG={document.source}"
        )
    apply_overrides(document, overrides)
    return validate(document)


def load_resolved(path: str | Path) -> Spec:
    """The spec of a run folder.

    Raises:
        SpecError: the file is damaged, or was edited into something else.
    """
    return resolve(read_document(path))


def resolve(document: Document) -> Spec:
    """A run's document as its spec; a field younger than it has its value `BEFORE`."""
    if isinstance(document.tree, dict):
        for key, value in BEFORE.items():
            section, _, name = key.partition(".")
            fields = document.tree.setdefault(section, {})
            if isinstance(fields, dict):
                fields.setdefault(name, value)
    return validate(document)


def dump(spec: Spec) -> str:
    """Every field as YAML that this module reads back equal."""
    return yaml.dump(nested(flatten(spec)), Dumper=_Dumper, sort_keys=False)


class _Dumper(yaml.SafeDumper):
    """Quotes text that YAML 1.1 or 1.2 takes for something else."""

    yaml_implicit_resolvers = yaml.SafeDumper.yaml_implicit_resolvers | {
        None: RESOLVERS
    }


def read_document(path: str | Path) -> Document:
    """Read and parse; says what is wrong with the file itself."""
    source = str(path)
    try:
        with open(path, "rb") as file:
            data = file.read(LARGEST + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        near = _nearest_file(source)
        raise SpecError(f"{source!r}: cannot be read: {reason}{near}") from error
    if len(data) > LARGEST:
        raise SpecError(f"{source}: larger than {LARGEST // 1024} KiB; not a spec")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise SpecError(f"{source}:{line}: not UTF-8 text") from error
    return parse(text, source)


def parse(text: str, source: str) -> Document:
    """YAML text as a `Document`.

    Raises:
        SpecError: not YAML, or YAML that a spec may not use.
    """
    document = Document(source, None, header=_header(text), text=text)
    reader: Any = None
    try:
        reader = _Reader(text, source)
        if reader.check_node():
            document.tree = reader.read(reader.get_node(), (), document.lines)
        if reader.check_node():
            second = reader.peek_event()
            raise _refusal(second, "a second document; a spec is one")
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        # the latter two: numbers and escapes that PyYAML takes on trust
        found: Any = error
        if isinstance(error, yaml.reader.ReaderError):  # a character, before any line
            line, problem = text[: found.position].count("\n"), found.reason
        elif isinstance(error, yaml.MarkedYAMLError):
            line, problem = found.problem_mark.line, found.problem
        else:
            line, problem = reader.line, error
        raise SpecError(f"{source}:{line + 1}: not valid YAML: {problem}") from error
    return document


def split_overrides(text: str) -> list[str]:
    """`a.b=1 c.d=[2, 3]` as its parts; a blank before the next key parts them."""
    return [part for part in re.split(r"\s+(?=[\w.]+=)", text.strip()) if part]


def apply_overrides(document: Document, overrides: Sequence[str]) -> None:
    """Lay `section.field=value` over the tree; the value is read as YAML."""
    for override in overrides:
        key, equals, text = override.partition("=")
        source = f"SET {override!r}"
        if not equals or not re.fullmatch(r"\w+(\.\w+)?", key):
            raise SpecError(
                f"{source}: expected section.field=value, such as model.latent_dim=8"
            )
        document.put(key, parse(text, source).tree, source)


def validate(document: Document) -> Spec:
    """The document as a `Spec`.

    Raises:
        SpecError: every unknown, missing, mistyped or out-of-range key with its line.
    """
    if not isinstance(document.tree, dict):
        raise SpecError(
            f"{document.where(())}: a spec is a mapping such as 'name: my-run'; "
            f"found {describe(document.tree)}"
        )
    # an empty section ("model:") means its defaults
    tree = {
        key: {} if value is None and key in SECTIONS else value
        for key, value in document.tree.items()
    }
    try:
        return Spec.model_validate(tree)
    except ValidationError as error:
        faults = [explain(document.where(at["loc"]), at) for at in error.errors()]
        raise SpecError("\n".join(dict.fromkeys(faults))) from error


class _Reader(yaml.SafeLoader):
    """PyYAML's nodes by YAML 1.2; refuses on the way what a spec may not use."""

    yaml_implicit_resolvers = {None: RESOLVERS}  # noqa: RUF012
    depth = 0

    def __init__(self, text: str, source: str) -> None:
        super().__init__(text)
        self.name = source  # stands in every mark

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent) or event.anchor:
            raise _refusal(event, "anchors and aliases are not allowed; write it out")
        if event.tag:
            problem = f"the tag {event.tag!r} is not allowed; write a plain value"
            raise _refusal(event, problem)
        if self.depth > DEEPEST:
            raise _refusal(event, f"nested more than {DEEPEST} levels deep")
        if re.search("[\ud800-\udfff]", getattr(event, "value", "")):
            raise _refusal(event, "half of a surrogate pair is no character")
        self.depth += 1  # lowered again only where composing goes on
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def read(self, node: yaml.Node, path: Path_, lines: dict[Path_, str]) -> Any:
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
                raise _refusal(key, "a key must be a plain word")
            inside = (*path, key.value)
            if key.value in tree:
                before = lines[inside].rpartition(":")[2]
                problem = f"{key.value}: stands twice, first on line {before}"
                raise _refusal(key, problem)
            lines[inside] = _line_of(key)
            tree[key.value] = self.read(value, inside, lines)
        return tree


def _integer(_: _Reader, node: yaml.ScalarNode) -> int:
    """`010` is ten, `0o10` eight."""
    return int(node.value, 0 if node.value[:2] in ("0o", "0x") else 10)


_Reader.add_constructor(f"{TAG}int", _integer)


def _line_of(at: yaml.Event | yaml.Node) -> str:
    mark: Any = at.start_mark
    return f"{mark.name}:{mark.line + 1}"


def _refusal(at: yaml.Event | yaml.Node, problem: str) -> SpecError:
    return SpecError(f"{_line_of(at)}: {problem}")


def _header(text: str) -> str:
    comment = itertools.takewhile(lambda line: line[:1] == "#", text.splitlines())
    return "\n".join(line.lstrip("#").strip() for line in comment).strip()


def _nearest_file(source: str) -> str:
    specs = [str(path) for path in Path("experiments").rglob("*.yaml")]
    near = difflib.get_close_matches(source[:300], specs, 1, 0.6)
    return f"; did you mean {near[0]}?" if near else ""
