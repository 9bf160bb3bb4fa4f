"""A spec file with a `sweep:` block as the list of plain specs it stands for.

    sweep:
      model.latent_dim: [2, 10]                  every value with every other
      zip: {model.hidden: [[64], [512, 256]], training.epochs: [30, 10]}   in step
      variants: [{objective.beta: 4, training.epochs: 20}, {}]     written out
      seeds: 3                                   training.seed: [0, 1, 2]

Axes multiply in the order they are written. Every variant is validated before anything
starts; nothing here touches a folder or torch.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cvae.errors import SpecError
from cvae.spec.document import (
    FIELDS,
    Document,
    Path_,
    apply_overrides,
    describe,
    nearest,
    read_document,
    validate,
)
from cvae.spec.fields import Spec

MAX_VARIANTS = 10_000  # variants; more is a slip of the pen
SEEDS = "training.seed"

# A point of an axis: the fields it sets, each with its value and where that stands.
Point = dict[str, tuple[Any, str]]


@dataclass(frozen=True)
class Variant:
    """One run of a sweep and the swept fields that make it, by dotted key."""

    spec: Spec
    swept: Mapping[str, Any]

    @property
    def label(self) -> str:
        """`beta=0.5 seed=1`: field names, with their section where two share one."""
        names = [key.partition(".")[2] for key in self.swept]
        shown = [
            key if names.count(name) > 1 else name
            for key, name in zip(self.swept, names, strict=True)
        ]
        values = (str(value).replace(" ", "") for value in self.swept.values())
        parts = [f"{k}={v}" for k, v in zip(shown, values, strict=True)]
        return " ".join(parts) or "base"


@dataclass(frozen=True)
class Plan:
    """A sweep: its name, question, swept keys and variants, in the file's order."""

    name: str
    header: str
    text: str  # the file as written
    keys: tuple[str, ...]
    variants: tuple[Variant, ...]

    @property
    def experiment(self) -> str:
        return self.variants[0].spec.tracking.experiment


def read_plan(path: str | Path, overrides: Sequence[str] = ()) -> Plan:
    """The sweep of a YAML file; `section.field=value` overrides reach every variant.

    An override of a swept key replaces its list of values; `seeds=5` makes a sweep of
    any spec.

    Raises:
        SpecError: every mistake of the file, its block and its variants, a line each.
    """
    document = read_document(path)
    tree = document.tree
    if not isinstance(tree, dict):
        validate(document)  # which says what a spec is
    again = any(override.startswith("seeds=") for override in overrides)
    if "sweep" not in tree and not again:
        raise SpecError(
            f"{document.source}: sweep: missing; this file describes one run: make "
            f"experiment CONFIG={document.source}; repeat it with SET=seeds=5, or add "
            "a block such as\nsweep: {model.latent_dim: [2, 10], seeds: 3}"
        )
    block = tree.pop("sweep", {})
    _apply_to_sweep(document, block if isinstance(block, dict) else {}, overrides)
    axes = list(_axes(document, block))
    keys = [key for axis in axes for key in dict.fromkeys(itertools.chain(*axis))]
    for key in keys:
        if keys.count(key) > 1:
            where = document.where(("sweep", key))
            raise SpecError(f"{where}: sweep: {key}: swept twice")
    count = math.prod(len(axis) for axis in axes)
    if count > MAX_VARIANTS:
        where = document.where(("sweep",))
        raise SpecError(f"{where}: sweep: {count} variants; at most {MAX_VARIANTS}")
    variants = tuple(_variants(document, axes))
    seen: dict[str, Variant] = {}
    for variant in variants:
        if (twin := seen.setdefault(variant.spec.id, variant)) is not variant:
            raise SpecError(
                f"{document.where(('sweep',))}: sweep: two variants are the same run: "
                f"{twin.label!r} and {variant.label!r}"
            )
    name, text = variants[0].spec.name, document.text
    return Plan(name, document.header, text, tuple(keys), variants)


def _apply_to_sweep(
    document: Document, swept: dict[str, Any], overrides: Sequence[str]
) -> None:
    """Overrides of swept keys replace their lists; all others change the base."""
    for override in overrides:
        key = override.partition("=")[0]
        name = "seeds" if key == SEEDS and "seeds" in swept else key
        if name not in swept and name != "seeds":
            apply_overrides(document, [override])
            continue
        change = Document(f"SET {override!r}", {})
        apply_overrides(change, [override])
        section, dot, field = key.partition(".")
        swept[name] = change.tree[section][field] if dot else change.tree[key]
        document.lines = {
            line: change.source if line[:2] == ("sweep", name) else place
            for line, place in document.lines.items()
        } | {("sweep", name): change.source}


def _axes(document: Document, block: Any) -> Iterator[list[Point]]:
    """Each entry of the block as an axis.

    Raises:
        SpecError: an entry of the wrong form.
    """
    if not isinstance(block, dict) or not block:
        raise _refused(document, (), "must be keys with lists of values", block)
    for name, value in block.items():
        if name == "seeds":
            if type(value) is int and 1 <= value <= MAX_VARIANTS:
                value = list(range(value))
            yield _points(document, SEEDS, value, (name,))
        elif name == "zip":
            yield _in_step(document, value)
        elif name == "variants":
            blocks = value if isinstance(value, list) else []
            if not blocks or not all(isinstance(each, dict) for each in blocks):
                raise _refused(document, (name,), "must be a list of blocks", value)
            yield [
                {key: _value(document, key, v, (name, n)) for key, v in written.items()}
                for n, written in enumerate(blocks)
            ]
        else:
            yield _points(document, name, value, (name,))


def _points(document: Document, key: str, values: Any, at: Path_) -> list[Point]:
    if not isinstance(values, list) or not values:
        raise _refused(document, at, "must be a list of at least one value", values)
    return [{key: _value(document, key, v, (*at, n))} for n, v in enumerate(values)]


def _in_step(document: Document, group: Any) -> list[Point]:
    """Keys whose values go together: the first of each, the second of each, …"""
    if not isinstance(group, dict) or not group:
        raise _refused(document, ("zip",), "must be keys with lists of values", group)
    columns = [
        _points(document, key, values, ("zip",)) for key, values in group.items()
    ]
    if len({len(column) for column in columns}) > 1:
        raise _refused(document, ("zip",), "the lists differ in length", group)
    rows = zip(*columns, strict=True)
    return [{k: v for point in row for k, v in point.items()} for row in rows]


def _value(document: Document, key: str, value: Any, at: Path_) -> tuple[Any, str]:
    """A swept field's value and where it stands.

    Raises:
        SpecError: there is no such field, or it does not change a run.
    """
    where = document.where(("sweep", *at))
    if key.startswith("tracking."):
        problem = "does not change a run; it cannot be swept"
    elif key in FIELDS:
        return value, where
    else:
        near = nearest(key, FIELDS) or " such as model.latent_dim"
        problem = f"unknown key; allowed: seeds, zip, variants or a dotted field{near}"
    raise SpecError(f"{where}: sweep: {key}: {problem}")


def _variants(document: Document, axes: list[list[Point]]) -> Iterator[Variant]:
    """Every combination, validated; a mistake is placed at the value that makes it.

    Raises:
        SpecError: every mistake of every variant, each once.
    """
    faults: dict[str, None] = {}
    for points in itertools.product(*axes):
        swept = {key: entry for point in points for key, entry in point.items()}
        one = Document(document.source, copy.deepcopy(document.tree))
        one.lines = dict(document.lines)
        for key, (value, where) in swept.items():
            one.put(key, value, where)
        try:
            spec = validate(one)
        except SpecError as error:
            faults |= dict.fromkeys(str(error).split("\n"))
        else:
            yield Variant(spec, {key: value for key, (value, _) in swept.items()})
    if faults:
        raise SpecError("\n".join(list(faults)[:20]))


def _refused(document: Document, at: Path_, problem: str, value: Any) -> SpecError:
    place, key = document.where(("sweep", *at)), ".".join(map(str, ("sweep", *at)))
    return SpecError(f"{place}: {key}: {problem}; found {describe(value)}")
