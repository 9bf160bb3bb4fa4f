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
    Document,
    apply_overrides,
    read_document,
    validate,
)
from cvae.spec.fields import Spec
from cvae.spec.mistakes import FIELDS, nearest_field
from cvae.spec.reader import Path_

MAX_VARIANTS = 10_000  # variants; more is a slip of the pen
SEEDS = "training.seed"

# One axis: its points in order, each with the fields it sets and where they stand.
Point = dict[str, tuple[Any, Path_]]


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
    keys = _distinct(document, axes)
    count = math.prod(len(axis) for axis in axes)
    if count > MAX_VARIANTS:
        where = document.where(("sweep",))
        raise SpecError(f"{where}: sweep: {count} variants; at most {MAX_VARIANTS}")
    variants = tuple(_variants(document, axes))
    _check_distinct_runs(document, variants)
    name, text = variants[0].spec.name, document.text
    return Plan(name, document.header, text, keys, variants)


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
            if isinstance(value, int) and not isinstance(value, bool):
                if not 1 <= value <= MAX_VARIANTS:
                    raise _refused(
                        document, (name,), f"must be 1 to {MAX_VARIANTS}", value
                    )
                value = list(range(value))
            yield _points(document, SEEDS, value, (name,))
        elif name == "zip":
            for at, group in _groups(value, (name,)):
                yield _in_step(document, group, at)
        elif name == "variants":
            if not isinstance(value, list) or not value:
                raise _refused(document, (name,), "must be a list of blocks", value)
            yield [
                _variant(document, written, (name, number))
                for number, written in enumerate(value)
            ]
        else:
            yield _points(document, name, value, (name,))


def _groups(value: Any, at: Path_) -> Iterator[tuple[Path_, Any]]:
    """`zip` holds one block, or a list of blocks that multiply."""
    if isinstance(value, list):
        yield from (((*at, number), group) for number, group in enumerate(value))
    else:
        yield at, value


def _points(document: Document, key: str, value: Any, at: Path_) -> list[Point]:
    _check_key(document, key, at)
    if not isinstance(value, list) or not value:
        raise _refused(document, at, "must be a list of at least one value", value)
    return [{key: (item, (*at, i))} for i, item in enumerate(value)]


def _in_step(document: Document, group: Any, at: Path_) -> list[Point]:
    if not isinstance(group, dict) or not group:
        raise _refused(document, at, "must be keys with lists of one length", group)
    columns = [_points(document, k, v, (*at, k)) for k, v in group.items()]
    if len({len(column) for column in columns}) > 1:
        lengths = ", ".join(
            f"{k}: {len(column)}" for k, column in zip(group, columns, strict=True)
        )
        raise _refused(document, at, f"the lists differ in length ({lengths})", None)
    return [
        {key: value for point in row for key, value in point.items()}
        for row in zip(*columns, strict=True)
    ]


def _variant(document: Document, written: Any, at: Path_) -> Point:
    if not isinstance(written, dict):
        raise _refused(document, at, "must be a block of dotted keys", written)
    for key in written:
        _check_key(document, key, (*at, key))
    return {key: (value, (*at, key)) for key, value in written.items()}


def _check_key(document: Document, key: str, at: Path_) -> None:
    if key in FIELDS and not key.startswith("tracking."):
        return
    if key.startswith("tracking."):
        problem = "does not change a run; it cannot be swept"
    else:
        problem = "unknown key; allowed: seeds, zip, variants or a dotted field"
        problem += nearest_field(key) or " such as model.latent_dim"
    raise SpecError(f"{document.where(('sweep', *at))}: sweep: {key}: {problem}")


def _distinct(document: Document, axes: list[list[Point]]) -> tuple[str, ...]:
    """The swept keys in order.

    Raises:
        SpecError: two axes set the same key.
    """
    seen: dict[str, Path_] = {}
    for axis in axes:
        keys = {key: at for point in axis for key, (_, at) in point.items()}
        for key, at in keys.items():
            if key in seen:
                before = document.where(("sweep", *seen[key]))
                where = document.where(("sweep", *at))
                raise SpecError(f"{where}: sweep: {key}: swept already at {before}")
            seen[key] = at
    return tuple(seen)


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
        for key, (value, at) in swept.items():
            one.put(key, value, document.where(("sweep", *at)))
        try:
            spec = validate(one)
        except SpecError as error:
            faults |= dict.fromkeys(str(error).split("\n"))
        else:
            yield Variant(spec, {key: value for key, (value, _) in swept.items()})
    if faults:
        shown = list(faults)[:20]
        more = len(faults) - len(shown)
        raise SpecError("\n".join([*shown, *([f"and {more} more"] if more else [])]))


def _check_distinct_runs(document: Document, variants: Sequence[Variant]) -> None:
    seen: dict[str, Variant] = {}
    for variant in variants:
        twin = seen.setdefault(variant.spec.id, variant)
        if twin is not variant:
            where = document.where(("sweep",))
            raise SpecError(
                f"{where}: sweep: two variants are the same run: {twin.label!r} and "
                f"{variant.label!r}"
            )


def _refused(document: Document, at: Path_, problem: str, value: Any) -> SpecError:
    key = ".".join(map(str, ("sweep", *at)))
    text = "" if value is None else f"; found {str(value)[:60]}"
    return SpecError(f"{document.where(('sweep', *at))}: {key}: {problem}{text}")
