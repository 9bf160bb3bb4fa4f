"""YAML text to a `Spec`, every mistake named with its line.

PyYAML composes nodes, which know their lines. Numbers and words are those of YAML 1.2's
core schema (`1e-3` is a number, `no` is a string); no tags, no duplicate keys.
Values from the shell (`SET="model.latent_dim=8"`) pass the same checks.
"""

from __future__ import annotations

import difflib
import itertools
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from cvae.errors import SpecError
from cvae.spec.fields import Spec
from cvae.spec.identity import BEFORE, REMOVED, REMOVED_IN, flatten, nested

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
SECTIONS: dict[Any, type[BaseModel]] = {
    name: info.annotation
    for name, info in Spec.model_fields.items()
    if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel)
}
FIELDS = [f"{s}.{f}" for s, part in SECTIONS.items() for f in part.model_fields]


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    yaml_implicit_resolvers = {None: RESOLVERS}  # noqa: RUF012


class _Dumper(yaml.SafeDumper):
    """Quotes text that YAML 1.1 or 1.2 takes for something else."""

    yaml_implicit_resolvers = yaml.SafeDumper.yaml_implicit_resolvers | {
        None: RESOLVERS
    }


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
    """A run's document as its spec.

    A field younger than it has its value `BEFORE`; one that was `REMOVED` since then is
    kept beside the others where it was not at its default.
    """
    removed: dict[str, Any] = {}
    if isinstance(document.tree, dict):
        for key, value in [*BEFORE.items(), *REMOVED.items()]:
            section, _, name = key.partition(".")
            fields = document.tree.setdefault(section, {})
            if not isinstance(fields, dict):
                continue  # which `validate` says
            if key in BEFORE:
                fields.setdefault(name, value)
            elif (found := fields.pop(name, value)) != value:
                removed[key] = found
    spec = validate(document)
    spec.removed.update(removed)
    return spec


def dump(spec: Spec) -> str:
    """Every field as YAML that this module reads back equal."""
    tree = nested(flatten(spec) | spec.removed)
    return yaml.dump(tree, Dumper=_Dumper, sort_keys=False)


def read_document(path: str | Path) -> Document:
    """Read and parse; says what is wrong with the file itself."""
    source = str(path)
    try:
        data = Path(path).read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        files = [str(file) for file in Path("experiments").rglob("*.yaml")]
        near = nearest(source[:300], files)
        raise SpecError(f"{source!r}: cannot be read: {reason}{near}") from error
    try:
        return parse(data.decode("utf-8-sig"), source)
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise SpecError(f"{source}:{line}: not UTF-8 text") from error


def parse(text: str, source: str) -> Document:
    """YAML text as a `Document`; the comment that it opens with is the header.

    Raises:
        SpecError: not YAML; a tag, a key that stands twice.
    """
    lines: dict[Path_, str] = {}
    try:
        node = yaml.compose(text, Loader=_Loader)
        tree = None if node is None else _value(node, (), source, lines)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        fault: Any = error  # a mark, the position of a character, or neither
        mark = getattr(fault, "problem_mark", None)
        line = mark.line if mark else text.count("\n", 0, getattr(fault, "position", 0))
        problem = getattr(fault, "problem", None) or getattr(fault, "reason", error)
        raise SpecError(f"{source}:{line + 1}: not valid YAML: {problem}") from error
    comment = itertools.takewhile(lambda line: line[:1] == "#", text.splitlines())
    header = "\n".join(line.lstrip("#").strip() for line in comment).strip()
    return Document(source, tree, lines, header, text)


def _value(node: Any, path: Path_, source: str, lines: dict[Path_, str]) -> Any:
    """The value of a node; where it and all in it stand goes into `lines`."""
    place = f"{source}:{node.start_mark.line + 1}"
    lines.setdefault(path, place)
    if isinstance(node, yaml.ScalarNode):
        kind = node.tag.removeprefix(TAG)
        if kind not in READ:
            raise SpecError(f"{place}: the tag {node.tag!r} is not allowed")
        return READ[kind](node.value)
    if isinstance(node, yaml.SequenceNode):
        items = enumerate(node.value)
        return [_value(item, (*path, n), source, lines) for n, item in items]
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
        tree[key.value] = _value(value, inside, source, lines)
    return tree


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
    if "judge" in document.tree:
        raise SpecError(
            f"{document.where(('judge',))}: judge: a spec trains no classifier since "
            'version 2.0.0; type make judge SET="data.root=…"'
        )
    # an empty section ("model:") means its defaults
    tree = {
        key: {} if value is None and key in SECTIONS else plain(value)
        for key, value in document.tree.items()
    }
    try:
        return Spec.model_validate(tree)
    except ValidationError as error:
        faults = [explain(document.where(at["loc"]), at) for at in error.errors()]
        raise SpecError("\n".join(dict.fromkeys(faults))) from error


def plain(value: Any) -> Any:
    """A value from Python as YAML has it: NumPy's and tensors' numbers, paths."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, Mapping):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(inner) for inner in value]
    return value.tolist() if hasattr(value, "tolist") else value


def explain(where: str, fault: Any) -> str:
    """A fault that pydantic found as one line: place, key, what is wrong, what is near.

    The message is pydantic's, but for keys, whose allowed names it does not know.
    """
    path, kind, value = tuple(fault["loc"]), fault["type"], fault["input"]
    key = ".".join(map(str, path))
    if kind == "extra_forbidden" and key in REMOVED:
        return f"{where}: {key}: removed in version {REMOVED_IN}; delete it"
    if kind == "extra_forbidden":
        siblings = [*SECTIONS.get(path[0], Spec).model_fields]
        names = siblings if len(path) > 1 else [*siblings, *FIELDS]
        near = nearest(str(path[-1]), names)
        return f"{where}: {key}: unknown key; allowed: {', '.join(siblings)}{near}"
    if kind == "missing":
        hint = "; add a line such as 'name: my-run'" if key == "name" else ""
        return f"{where}: {key}: missing{hint}"
    problem = fault["msg"].removeprefix("Value error, ")
    problem = problem.replace("Input should be", "must be")
    if kind == "model_type":
        problem = "must be a block of key: value lines"
    near = ""
    if kind == "literal_error":
        near = nearest(str(value), re.findall(r"'(\w+)'", fault["ctx"]["expected"]))
    return f"{where}: {key}{': ' * bool(key)}{problem}; found {describe(value)}{near}"


def nearest(name: str, allowed: Sequence[str]) -> str:
    """`; did you mean …?` for a name close to one of those allowed, or to its field."""
    fields = {key.rpartition(".")[2]: key for key in reversed(allowed)}
    near = difflib.get_close_matches(name, [*allowed, *fields], 1, 0.5)
    return f"; did you mean {fields.get(near[0], near[0])}?" if near else ""


def describe(value: Any) -> str:
    """A value and its type in a message."""
    if isinstance(value, dict):
        return "a block of keys"
    if value is None:
        return "nothing"
    text = repr(value)
    return f"{text if len(text) <= 60 else text[:57] + '…'} ({type(value).__name__})"
