from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from cvae.errors import SpecError
from cvae.run import runner
from cvae.spec.document import (
    apply_overrides,
    dump,
    load_resolved,
    load_spec,
    parse,
    validate,
)
from cvae.spec.fields import Spec
from cvae.spec.identity import BEFORE, NAME, differences, flatten
from tests.conftest import spec


def read(text: str, *overrides: str) -> Spec:
    document = parse(text, "f.yaml")
    apply_overrides(document, overrides)
    return validate(document)


def refusal(text: str, *overrides: str) -> str:
    with pytest.raises(SpecError) as refused:
        read(text, *overrides)
    return str(refused.value)


# texts by the type that YAML 1.2's core schema gives them; YAML 1.1 has others
SCALARS: dict[Any, str] = {
    int: "010 +3 0o10 0xff",
    float: "1e-3 1E3 .5 5. -0.5 .inf -.INF",
    str: "0b11 1_000 1:30 2026-01-31 no off y tRue inf '1' \"true\" << =",
    bool: "True false",
    type(None): "null ~",
}


def test_scalars_follow_yaml_1_2() -> None:
    for kind, texts in SCALARS.items():
        for text in texts.split():
            found = parse(f"key: {text}", "f.yaml").tree["key"]
            assert type(found) is kind, text
            assert kind is not str or found == text.strip("'\"")
    numbers = parse("[010, 0o10, 0xff, 1e-3, -.INF]", "f.yaml").tree
    assert numbers == [10, 8, 255, 0.001, float("-inf")]


# -- the usual mistakes, each with its line, what was found and what is near -----------

MISTAKES = {
    # YAML itself
    "name: a\n  bad indent: b\n": "f.yaml:2: not valid YAML: mapping values are not al",
    "name: a\n\0\n": "f.yaml:2: not valid YAML: ",
    "name: a\nmodel: {}\nname: b\n": "f.yaml:3: name: stands twice, first on line 1",
    "name: !!binary aGk=\n": "f.yaml:1: the tag 'tag:yaml.org,2002:binary' is not",
    "name: a\n---\nname: b\n": "f.yaml:2: not valid YAML: but found another document",
    "? [a, b]\n: c\n": "f.yaml:1: a key must be a plain word",
    # what a spec is
    "": "f.yaml:1: a spec is a mapping such as 'name: my-run'; found nothing",
    "model: {}\n": "f.yaml:1: name: missing; add a line such as 'name: my-run'",
    "name: ../up\n": "f.yaml:1: name: must be 1 to 80 letters",
    # keys
    "name: a\ndata:\n  binarise: x\n": "3: data.binarise: unknown key; .*an binarize?",
    "name: a\nlatent_dim: 3\n": "2: latent_dim: unknown key; .*mean model.latent_dim?",
    "name: a\nmodle: {}\n": "2: modle: unknown key; .*did you mean model?",
    "name: a\nmodel: 3\n": "2: model: must be a block of key: value lines; found 3 (i",
    # values
    "name: a\nmodel:\n  latent_dim: 0\n": "3: model.latent_dim: must be greater",
    "name: a\nmodel: {latent_dim: 3.0}\n": "must be a valid integer; found 3.0 (float)",
    "name: a\nmodel: {latent_dim: '2'}\n": "valid integer; found '2' (str)",
    "name: a\nmodel: {hidden: [8, x]}\n": "model.hidden.1: must be a valid integer",
    "name: a\nmodel: {hidden: 8}\n": "model.hidden: must be a list of widths such as",
    "name: a\nobjective: {beta: no}\n": "beta: must be a valid number; found 'no'",
    "name: a\nobjective: {beta: .inf}\n": "must be a finite number; found inf (float)",
    "name: a\ntraining: {schedule: one-cycle}\n": "must be .*mean one_cycle?",
    "name: a\ntraining: {adam_betas: [0.9]}\n": "training.adam_betas.1: missing",
    "name: a\ntracking: {experiment: 1e-3}\n": "a valid string; found 0.001 (float)",
}


@pytest.mark.parametrize("text", MISTAKES)
def test_a_usual_mistake_gets_one_clear_line(text: str) -> None:
    lines = refusal(text).splitlines()
    wanted = re.escape(MISTAKES[text]).replace(r"\.\*", ".*")
    (fitting,) = (line for line in lines if re.search(wanted, line))
    assert len(lines) == 1
    assert fitting.startswith("f.yaml:")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"name: a\n# gr\xfc\xdfe\n", ":2: not UTF-8"),
        (b"name: a\nsweep: {seeds: 3}\n", ":2: sweep: .*make sweep CONFIG="),
        (None, "cannot be read: No such file.*did you mean experiments/quickstart"),
    ],
)
def test_files_that_are_no_spec_are_refused(
    content: bytes | None, problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "quickstart.yaml").write_text("name: a")
    path = Path("experiments/quikstart.yaml")
    if content:
        path.write_bytes(content)
    with pytest.raises(SpecError, match=problem):
        load_spec(path)


def test_a_byte_order_mark_and_crlf_are_read(tmp_path: Path) -> None:
    path = tmp_path / "spec.yaml"
    path.write_bytes(b"\xef\xbb\xbfname: a\r\nmodel:\r\n  latent_dim: 3\r\n")
    assert differences(load_spec(path)) == {"name": "a", "model.latent_dim": 3}


def test_overrides_are_laid_over_the_file_and_read_as_yaml() -> None:
    found = read(
        "name: a\nmodel: {latent_dim: 3, prior: learned}\n",
        "model.latent_dim=8",
        "model.hidden=[64, 32]",
        "training.learning_rate=1e-3",
        "data.root=a=b",
        "name=b",
    )
    assert differences(found) == {
        "name": "b",
        "data.root": "a=b",
        "model.latent_dim": 8,
        "model.hidden": [64, 32],
        "model.prior": "learned",
        "training.learning_rate": 1e-3,
    }
    for override, problem in {
        "model.latent_dim": "expected section.field=value",
        "model.latent_dim=x": "model.latent_dim: must be a valid integer",
        "model.hidden=[1": "not valid YAML",
    }.items():
        message = refusal("name: a\n", override)
        assert message.startswith(f"SET {override!r}")
        assert problem in message


PRINTABLE = st.characters(categories=("L", "N", "P", "S"))


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    name=st.from_regex(NAME, fullmatch=True),
    root=st.text(min_size=1, max_size=60),
    experiment=st.text(PRINTABLE, min_size=1, max_size=60),
)
@example(name="1e-3", root="0o17", experiment="2e05")
@example(name="0x1f", root="null", experiment="true")
@example(name="1.", root="~", experiment=".inf")
@example(name="007", root="\x85\u2028 a  b ", experiment="no: β #1")
def test_whatever_is_accepted_reads_back_equal(
    name: str, root: str, experiment: str
) -> None:
    tree = {
        "name": name,
        "data": {"root": root},
        "tracking": {"experiment": experiment},
    }
    try:
        made = Spec.model_validate(tree)
    except ValidationError:
        assume(False)
    assert validate(parse(dump(made), "spec.yaml")) == made


def test_a_field_younger_than_a_run_has_the_value_from_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "spec.yaml"
    # of before model.activation; what else has changed since is stated
    old = "name: old\nmodel: {latent_dim: 3, prior: standard, label_scale: 1}\n"
    path.write_text(old)
    old_id, today = load_spec(path).id, Spec(name="new")
    monkeypatch.setitem(BEFORE, "model.activation", "tanh")
    assert flatten(load_resolved(path))["model.activation"] == "tanh"
    assert load_resolved(path).id == old_id  # the old run keeps its name
    assert load_spec(path).model.activation == "relu"  # a user's file: the default
    assert load_spec(path).id != old_id
    assert today.id != "44136fa3"
    path.write_text(dump(today))
    assert load_resolved(path) == today


def test_a_removed_field_at_its_default_is_ignored_in_a_recorded_spec_alone(
    tmp_path: Path,
) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text("name: a\n" + dump(spec()).partition("\n")[2])
    id = load_resolved(path).id
    recorded = path.read_text()
    recorded = recorded.replace("objective:\n", "objective:\n  free_bits: 0.0\n")
    path.write_text(recorded.replace("training:\n", "training:\n  grad_clip: null\n"))
    assert load_resolved(path).id == id == spec().id
    with pytest.raises(SpecError, match=r"free_bits: removed in version 2\.0\.0"):
        load_spec(path)


def test_a_run_made_with_a_removed_field_keeps_its_id_and_cannot_be_trained(
    tmp_path: Path,
) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text(
        "name: a\nmodel: {prior: standard, label_scale: 1}\n"
        "objective: {free_bits: 0.5}\n"
    )
    found = load_resolved(path)
    content = b'{"objective.free_bits":0.5}'
    assert found.id == hashlib.sha256(content).hexdigest()[:8]  # as version 1 had it
    path.write_text(dump(found))
    assert load_resolved(path) == found
    with pytest.raises(SpecError, match=r"free_bits=0\.5.*sampled.*not resumed"):
        runner.run(found, runs=tmp_path / "runs", offline=True)
    assert not (tmp_path / "runs").exists()
