"""YAML text to a `Spec`, every mistake named with its line.

YAML 1.2's core schema (`1e-3` is a number, `no` is a string), no anchors, no tags, no
duplicate keys. Values that come from the shell (`SET="model.latent_dim=8"`) pass the
same checks.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence
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
INTEGER = re.compile(r"[-+]?[0-9]{1,30}|0o[0-7]{1,30}|0x[0-9a-fA-F]{1,30}")
FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
SPECIAL = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")

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


def load_spec(path: str | Path, overrides: Sequence[str] = ()) -> Spec:
    """The spec of a YAML file with `key=value` overrides laid over it.

    Raises:
        SpecError: every mistake of file and overrides, a line each.
    """
    document = read_document(path)
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
    """PyYAML quotes what YAML 1.1 takes for a number; files are read by YAML 1.2."""


def _text_node(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    style = None if isinstance(scalar(text), str) else "'"
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text_node)


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
    reader = _Reader(yaml.parse(text, Loader=yaml.SafeLoader), document)
    try:
        document.tree = reader.read()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        problem = error.problem or error.context
        raise SpecError(f"{source}:{line}: not valid YAML: {problem}") from error
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        # the latter two: numbers and escapes that PyYAML takes on trust
        position = getattr(error, "position", None)
        line = text[:position].count("\n") + 1 if position else reader.line
        reason = getattr(error, "reason", None) or error
        raise SpecError(f"{source}:{line}: not valid YAML: {reason}") from error
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
        if not isinstance(document.tree, dict):
            document.tree = {}
        path = tuple(key.split("."))
        node = document.tree
        for part in path[:-1]:
            if not isinstance(node.get(part), dict):
                node[part] = {}
            node = node[part]
        node[path[-1]] = parse(text, source).tree
        document.lines[path] = source


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


class _Reader:
    """Builds plain values from parser events; checks depth and form on the way."""

    def __init__(self, events: Iterator[yaml.Event], document: Document) -> None:
        self.events, self.document = events, document
        self.started, self.line = False, 1

    def read(self) -> Any:
        tree: Any = None
        for event in self.events:
            if isinstance(event, yaml.DocumentStartEvent):
                if self.started:
                    raise self.refusal(event, "a second document; a spec is one")
                self.started = True
                tree = self.value(next(self.events), ())
        return tree

    def value(self, event: yaml.Event, path: Path_) -> Any:
        self.document.lines.setdefault(path, self.place(event))
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise self.refusal(
                event, "anchors and aliases are not allowed; write it out"
            )
        if tag := getattr(event, "tag", None):
            raise self.refusal(
                event, f"the tag {tag!r} is not allowed; write a plain value"
            )
        if len(path) > DEEPEST:
            raise self.refusal(event, f"nested more than {DEEPEST} levels deep")
        if isinstance(event, yaml.MappingStartEvent):
            return self.mapping(path)
        if isinstance(event, yaml.SequenceStartEvent):
            items: list[Any] = []
            while not isinstance(inner := next(self.events), yaml.SequenceEndEvent):
                items.append(self.value(inner, (*path, len(items))))
            return items
        assert isinstance(event, yaml.ScalarEvent)
        text = self.text(event)
        return scalar(text) if event.style is None else text

    def mapping(self, path: Path_) -> dict[str, Any]:
        found: dict[str, Any] = {}
        while not isinstance(event := next(self.events), yaml.MappingEndEvent):
            if not isinstance(event, yaml.ScalarEvent):
                raise self.refusal(event, "a key must be a plain word")
            key = self.text(event)
            inside = (*path, key)
            if key in found:
                before = self.document.lines[inside].rpartition(":")[2]
                raise self.refusal(
                    event, f"{key}: stands twice, first on line {before}"
                )
            self.document.lines[inside] = self.place(event)
            found[key] = self.value(next(self.events), inside)
        return found

    def text(self, event: yaml.ScalarEvent) -> str:
        text = str(event.value)
        if not text.isascii() and any(
            "\ud800" <= letter <= "\udfff" for letter in text
        ):
            raise self.refusal(event, "half of a surrogate pair is no character")
        return text

    def place(self, event: yaml.Event) -> str:
        self.line = event.start_mark.line + 1 if event.start_mark else 1
        return f"{self.document.source}:{self.line}"

    def refusal(self, event: yaml.Event, problem: str) -> SpecError:
        return SpecError(f"{self.place(event)}: {problem}")


def scalar(text: str) -> Any:
    """A plain scalar by YAML 1.2's core schema."""
    if text in ("", "~", "null", "Null", "NULL"):
        return None
    if text in ("true", "True", "TRUE"):
        return True
    if text in ("false", "False", "FALSE"):
        return False
    if INTEGER.fullmatch(text):
        return int(text, 0) if text[:2] in ("0o", "0x") else int(text)
    if FLOAT.fullmatch(text):
        return float(text)
    if SPECIAL.fullmatch(text):
        return float(text.replace(".", "", 1))
    return text


def _header(text: str) -> str:
    lines = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.lstrip("#").strip())
    return "\n".join(lines).strip()


def _nearest_file(source: str) -> str:
    try:
        specs = [str(path) for path in Path("experiments").rglob("*.yaml")]
    except OSError:
        return ""
    near = difflib.get_close_matches(source[:300], specs, 1, 0.6)
    return f"; did you mean {near[0]}?" if near else ""
