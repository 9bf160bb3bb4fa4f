from __future__ import annotations

from pathlib import Path

import pytest

from cvae.run.folder import RunFolder
from cvae.tracking.note import description
from tests.conftest import spec

HEADER = """Question: is it so?
Expected: test/neg_elbo ≤ 131 nats per image,
ten clean digits
Time: 30 s"""


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    folder = RunFolder(tmp_path / "test-12345678")
    folder.create(spec())
    return folder


@pytest.mark.parametrize("field", ["header", "reason"])
def test_text_of_the_user_stays_text(folder: RunFolder, field: str) -> None:
    folder.update(**{field: "<script>x()</script> [a](javascript:b) ![c](d) `e` *f* &"})
    note = description(folder)
    assert "&lt;script&gt;x()&lt;/script&gt; \\[a\\](javascript:b)" in note
    assert "!\\[c\\](d) \\`e\\` \\*f\\* &amp;" in note
    assert "<" not in note


@pytest.mark.parametrize(
    ("changes", "expects"),
    [(["model.latent_dim=8"], False), ([], True), (["tracking.experiment=x"], True)],
)
def test_a_changed_run_lists_its_changes_and_expects_nothing(
    folder: RunFolder, changes: list[str], expects: bool
) -> None:
    folder.update(header=HEADER, changes=changes)
    note = description(folder)
    assert ("≤ 131" in note) == ("ten clean digits" in note) == expects
    assert ("Changed from the file: `model.latent_dim=8`" in note) == (not expects)
