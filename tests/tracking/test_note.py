from __future__ import annotations

from pathlib import Path

import pytest

from cvae.run.folder import RunFolder, SweepFolder
from cvae.tracking.note import description, sweep_description
from tests.conftest import spec


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


HEADER = """Question: is it so?
Expected: test/neg_elbo ≤ 131 nats per image,
ten clean digits
Time: 30 s"""


def test_a_changed_run_lists_its_changes_and_expects_nothing(folder: RunFolder) -> None:
    folder.update(header=HEADER, changes=["model.latent_dim=8", "objective.beta=`2`"])
    note = description(folder)
    assert (
        "Changed from the file: `model.latent_dim=8`, `` objective.beta=`2` ``" in note
    )
    assert "Question: is it so?  \nTime: 30 s" in note
    assert "131" not in note
    assert "ten clean digits" not in note


@pytest.mark.parametrize("changes", [[], ["name=other"], ["tracking.experiment=mine"]])
def test_a_run_of_the_file_as_it_is_keeps_what_is_expected(
    folder: RunFolder, changes: list[str]
) -> None:
    folder.update(header=HEADER, changes=changes)
    note = description(folder)
    assert "≤ 131" in note
    assert "ten clean digits" in note
    assert "Changed" not in note


@pytest.mark.parametrize("command", ["make x", "make SET='a=`b`'", "`", "``` <b>"])
def test_the_command_stays_one_piece_of_code(folder: RunFolder, command: str) -> None:
    folder.update(command=command)
    code = description(folder).rpartition("Again: ")[2]
    fence = code[: len(code) - len(code.lstrip("`"))]
    inside = code.removeprefix(fence).removesuffix(fence)
    assert inside.strip(" ") == command
    assert fence not in inside


def test_the_note_of_a_sweep_escapes_its_question_and_its_values(
    tmp_path: Path,
) -> None:
    folder = SweepFolder(tmp_path)
    table = [["data.root", "n"], ["<b>|x", "3"]]
    folder.update(header="Question: <script>x()</script>", command="m", summary=table)
    note = sweep_description(folder)
    assert "Question: &lt;script&gt;x()&lt;/script&gt;" in note
    assert "| data.root | n |\n|---|---|\n| &lt;b&gt;\\|x | 3 |" in note
    assert "<" not in note


LONG = "\n".join(f"line {n}: a long *abstract* of the question." for n in range(300))
MLFLOW_CUTS_AT = 8000  # characters of a tag


def test_a_long_head_comment_leaves_room_for_figures_and_command(
    folder: RunFolder,
) -> None:
    folder.append(
        {"epoch": 1, "metrics": {"test/neg_elbo": 3.0, "test/recon": 2.0, "test/kl": 1}}
    )
    folder.update(header=LONG, command="make experiment CONFIG=x.yaml")
    note = description(folder)
    assert len(note) < MLFLOW_CUTS_AT
    assert "line 0: a long \\*abstract\\*" in note
    assert "… (the rest: run.json)" in note
    assert "| test/neg_elbo | 3.00 nats per image |" in note
    assert note.endswith("Again: `make experiment CONFIG=x.yaml`")
    folder.update(header="x" * 10_000)
    assert len(description(folder)) < MLFLOW_CUTS_AT


def test_a_long_table_of_a_sweep_leaves_room_for_the_command(tmp_path: Path) -> None:
    folder = SweepFolder(tmp_path)
    rows = [["objective.beta", "n", "test/neg_elbo"]]
    rows += [[f"{beta / 7}", "3", "97.13 ± 0.12"] for beta in range(300)]
    folder.update(header=LONG, command="make sweep CONFIG=x.yaml", summary=rows)
    note = sweep_description(folder)
    assert len(note) < MLFLOW_CUTS_AT
    assert "260 more rows: table.csv" in note
    assert note.endswith("Again: `make sweep CONFIG=x.yaml`")
