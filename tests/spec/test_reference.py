"""Every field has its words, and docs/fields.md is made from them."""

from __future__ import annotations

import re

import pytest

from cvae.spec import reference
from cvae.spec.fields import Spec
from cvae.spec.identity import flatten
from cvae.spec.mistakes import FIELDS
from tests import children
from tests.conftest import spec

PAGE = children.ROOT / "docs" / "fields.md"


def test_every_field_is_described_in_the_schema() -> None:
    schema = Spec.model_json_schema()
    bare = [
        f"{section}.{key}"
        for section, part in [*schema["$defs"].items(), ("Spec", schema)]
        for key, node in part["properties"].items()
        if "$ref" not in node and len(node.get("description", "")) < 10
    ]
    assert not bare, "give these a line of text below the field in cvae/spec/fields.py"


def test_the_page_of_fields_is_what_the_command_prints() -> None:
    done = children.python("-m", "cvae", "schema", "--markdown")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == PAGE.read_text(), f"run the command in the head of {PAGE}"


def test_the_page_has_a_row_for_each_field_with_its_default() -> None:
    rows, section = {}, ""
    for line in reference.page().splitlines():
        if heading := re.fullmatch(r"## (\w+)", line):
            section = f"{heading[1]}."
        if row := re.fullmatch(r"\| `(\w+)` \| (.+) \| (.+) \| (.+) \|", line):
            rows[section + row[1]] = row[3]
    assert list(rows) == ["name", *FIELDS]
    defaults = flatten(spec())
    assert rows["data.root"] == defaults["data.root"]
    assert rows["model.hidden"] == "[512, 256]"
    assert rows["data.train_images"] == "null"
    assert float(rows["objective.beta"]) == defaults["objective.beta"]


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("seed", "an integer ≥ 0 and ≤ 9223372036854775807"),
        ("learning_rate", "a number > 0 and ≤ 10"),
        ("adam_betas", "a list of 2 values, each a number ≥ 0 and < 1"),
        ("device", "one of auto, cpu, cuda"),
    ],
)
def test_types_and_bounds_are_said_in_words(key: str, words: str) -> None:
    node = Spec.model_json_schema()["$defs"]["Training"]["properties"][key]
    assert reference.words(node) == words
