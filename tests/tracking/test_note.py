from __future__ import annotations

from pathlib import Path

import pytest

from cvae.run.folder import RunFolder, SweepFolder
from cvae.tracking.note import description, sweep_description
from tests.conftest import spec

MLFLOW_REFUSES = 5000  # characters of a tag, the oldest that is promised
LONG = "\n".join(f"line {n}: a long *abstract* of the question." for n in range(300))
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


def test_a_long_head_comment_leaves_room_for_figures_and_command(
    folder: RunFolder,
) -> None:
    folder.append(
        {"epoch": 1, "metrics": {"test/neg_elbo": 3.0, "test/recon": 2.0, "test/kl": 1}}
    )
    folder.update(header=LONG, command="make experiment CONFIG=x.yaml")
    note = description(folder)
    assert len(note) < MLFLOW_REFUSES
    assert "| test/neg_elbo | 3.00 nats per image |" in note
    assert note.endswith("Again: `make experiment CONFIG=x.yaml`")


def test_a_long_table_of_a_sweep_leaves_room_for_the_command(tmp_path: Path) -> None:
    folder = SweepFolder(tmp_path)
    rows = [["objective.beta", "n", "test/neg_elbo"]]
    rows += [[f"{beta / 7}", "3", "97.13 ± 0.12"] for beta in range(300)]
    folder.update(header=LONG, command="make sweep", summary=rows)
    note = sweep_description(folder)
    assert len(note) < MLFLOW_REFUSES
    assert note.endswith("Again: `make sweep`")
