"""docs/fields.md is made from the fields."""

from __future__ import annotations

import re

from cvae.spec import reference
from cvae.spec.document import FIELDS
from cvae.spec.identity import flatten
from tests import children
from tests.conftest import spec

PAGE = children.ROOT / "docs" / "fields.md"


def test_the_page_of_fields_is_what_the_command_prints() -> None:
    done = children.python("-m", "cvae", "schema", "--markdown")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == PAGE.read_text(), f"run the command in the head of {PAGE}"


def test_the_page_has_a_row_for_each_field_with_its_bounds_and_default() -> None:
    rows, section = {}, ""
    for line in reference.page().splitlines():
        if heading := re.fullmatch(r"## (\w+)", line):
            section = f"{heading[1]}."
        if row := re.fullmatch(r"\| `(\w+)` \| (.+) \| (.+) \| (.+) \|", line):
            rows[section + row[1]] = row[2], row[3]
    assert list(rows) == ["name", *FIELDS]
    assert rows["model.hidden"][1] == "[512, 256]"
    assert float(rows["objective.beta"][1]) == flatten(spec())["objective.beta"]
    assert rows["data.train_images"] == (
        "an integer ≥ 1 and ≤ 1000000000 or null",
        "null",
    )
    assert rows["training.adam_betas"][0] == (
        "a list of 2 values, each a number ≥ 0 and < 1"
    )
    assert rows["training.device"][0] == "one of auto, cpu, cuda"
