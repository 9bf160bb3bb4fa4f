"""Claims that hold for every field, made from the fields themselves, and the ids."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from cvae.errors import SpecError
from cvae.spec.document import FIELDS, SECTIONS, Document, validate
from cvae.spec.fields import Spec
from cvae.spec.identity import differences, flatten, nested
from tests import children
from tests.conftest import spec

SCHEMA = Spec.model_json_schema()
NODES: dict[str, dict[str, Any]] = {
    f"{section}.{name}": node
    for section, part in SECTIONS.items()
    for name, node in SCHEMA["$defs"][part.__name__]["properties"].items()
}
NEEDED: dict[str, dict[str, Any]] = {  # a field that only counts with another
    "model.residual": {"model.hidden": [9, 9]},
    "training.weight_decay": {"training.optimizer": "adamw"},
}


def plain_node(key: str) -> dict[str, Any]:
    """A field's schema; of `int | None` that of the integer."""
    node = NODES[key]
    first: dict[str, Any] = node["anyOf"][0] if "anyOf" in node else node
    return first


def otherwise(key: str) -> Any:
    """A value of a field that is not its default."""
    node, default = plain_node(key), flatten(spec())[key]
    if "enum" in node:
        return next(value for value in node["enum"] if value != default)
    if node["type"] == "array":
        items = node.get("prefixItems") or [node["items"]]
        first = items[0]["enum"][0] if "enum" in items[0] else items[0].get("minimum")
        return [first] * max(1, len(node.get("prefixItems", [])))
    text = "other@0a1b2c3d" if "pattern" in node else "other"
    kinds = {"boolean": not default, "string": text}
    low, high = (
        node.get("minimum", 0),
        node.get("maximum", node.get("exclusiveMaximum")),
    )
    middle = 0.75 if high is not None and high <= 1 else (low or 0) + 7
    return kinds.get(node["type"], middle)


def changed(key: str) -> Spec:
    return spec(**NEEDED.get(key, {}), **{key: otherwise(key)})


@pytest.mark.parametrize("key", FIELDS)
def test_every_field_changes_the_id_unless_it_is_of_tracking(key: str) -> None:
    needed = NEEDED.get(key, {})
    if key in ("model.architecture", "model.conditional"):  # which bring defaults
        assert changed(key).id != spec().id
        return
    assert differences(changed(key)) == {"name": "test", key: otherwise(key)} | needed
    same = key.startswith("tracking.")
    assert (changed(key).id == spec(**needed).id) is same


def test_ids_are_pinned() -> None:
    # an id names a folder for good: these must never change
    original: Any = {"model.prior": "standard", "model.label_scale": 1.0}
    none = hashlib.sha256(b"{}").hexdigest()[:8]
    assert spec(**original).id == "44136fa3" == none
    assert spec(**original, training__epochs=15).id == "90b3b197"
    assert spec(**original, model__hidden=[], objective__beta=0.5).id == "8def7170"
    assert spec(model__conditional=False).id == "6fd91de0"
    assert spec().id == "b4cf5fb7"
    content = (  # sorted differences from what runs had before the defaults changed
        b'{"data.corrupt":0.5,"model.label_scale":4.0,"model.prior":"mixture",'
        b'"training.batch_size":7,"training.epochs":2}'
    )
    made = spec(training__epochs=2, training__batch_size=7, data__corrupt=0.5)
    assert made.id == hashlib.sha256(content).hexdigest()[:8]


def test_the_id_is_of_the_value_not_of_how_it_is_written() -> None:
    assert spec(**flatten(spec())).id == spec().id
    assert spec(objective__beta=2).id == spec(objective__beta=2.0).id
    assert spec(model__hidden=(64, 32)).id == spec(model__hidden=[64, 32]).id


MISFITS: dict[str, dict[str, Any]] = {
    "conditional: true": {"model.conditional": False, "model.prior": "learned"},
    "what: labels": {"model.conditional": False, "evaluation.what": ["labels"]},
    "needs optimizer: adamw": {"training.weight_decay": 0.1},
    "needs data.binarize: none, not dynamic": {
        "training.input_noise": "bernoulli",
        "data.binarize": "dynamic",
    },
    "two convolutions": {"model.architecture": "conv", "model.hidden": [32]},
    "side by side": {"model.residual": True, "model.hidden": [512, 256]},
    "it needs model.latent_dim": {"objective.grid": 9, "model.latent_dim": 3},
}


@pytest.mark.parametrize("words", MISFITS)
def test_fields_that_do_not_fit_together_are_refused(words: str) -> None:
    with pytest.raises(SpecError, match=words):
        validate(Document("f.yaml", {"name": "a", **nested(MISFITS[words])}))


def test_the_page_of_fields_is_what_the_command_prints() -> None:
    done = children.python("-m", "cvae", "schema", "--markdown")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (children.ROOT / "docs" / "fields.md").read_text()
    for key in FIELDS:
        assert f"| `{key.partition('.')[2]}` | " in done.stdout
    row = "| `train_images` | an integer ≥ 1 and ≤ 1000000000 or null | null |"
    assert row in done.stdout
