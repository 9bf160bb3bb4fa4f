from __future__ import annotations

import hashlib
import re
import resource
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
    read_document,
    validate,
)
from cvae.spec.fields import Spec
from cvae.spec.identity import BEFORE, NAME, differences, flatten
from tests import children
from tests.conftest import spec

VALID = """\
# Question: does it parse?
# Command: make experiment
name: valid   # a comment
model: {latent_dim: 8, hidden: [512, 256]}
objective:
  beta: 4.0
training: {learning_rate: 1e-3, adam_betas: [0.9, 0.999]}
tracking: {experiment: "quoted \\u03b2"}
"""


def read(text: str, *overrides: str) -> Spec:
    document = parse(text, "f.yaml")
    apply_overrides(document, overrides)
    return validate(document)


def refusal(text: str, *overrides: str) -> str:
    with pytest.raises(SpecError) as refused:
        read(text, *overrides)
    return str(refused.value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("1E3", 1000.0),
        (".5", 0.5),
        ("5.", 5.0),
        ("-0.5", -0.5),
        ("010", 10),
        ("+3", 3),
        ("0o10", 8),
        ("0xff", 255),
        ("0b11", "0b11"),
        ("1_000", "1_000"),
        ("1:30", "1:30"),
        ("2026-01-31", "2026-01-31"),
        ("no", "no"),
        ("off", "off"),
        ("y", "y"),
        ("True", True),
        ("false", False),
        ("tRue", "tRue"),
        ("null", None),
        ("~", None),
        ("", None),
        (".inf", float("inf")),
        ("-.INF", float("-inf")),
        ("inf", "inf"),
        ("'1'", "1"),
        ('"true"', "true"),
        ("<<", "<<"),
        ("=", "="),
    ],
)
def test_scalars_follow_yaml_1_2(text: str, value: Any) -> None:
    found = parse(f"key: {text}", "f.yaml").tree["key"]
    assert found == value
    assert type(found) is type(value)


def test_a_valid_file_gives_its_spec_and_its_header(tmp_path: Path) -> None:
    path = tmp_path / "valid.yaml"
    path.write_text(VALID)
    assert differences(load_spec(path)) == {
        "name": "valid",
        "model.latent_dim": 8,
        "objective.beta": 4.0,
        "training.learning_rate": 1e-3,
        "training.adam_betas": [0.9, 0.999],
        "tracking.experiment": "quoted β",
    }
    header = read_document(path).header
    assert header == "Question: does it parse?\nCommand: make experiment"


def test_every_mistake_is_reported_at_once_with_its_line() -> None:
    message = refusal(
        "data:\n"  # 1
        "  binarise: dynamic\n"  # 2
        "  corrupt: .inf\n"  # 3
        "model: {latent_dim: 0,\n"  # 4
        "  hidden: [512, a]}\n"  # 5
        "latent_dim: 3\n"  # 6
        "objective:\n"  # 7
        "  beta: no\n"  # 8
        "training:\n"  # 9
        "  schedule: one-cycle\n"  # 10
        "  adam_betas: [0.9]\n"  # 11
        "  epochs: 1.5\n"  # 12
        "evaluation: 3\n"  # 13
        "tracking:\n"  # 14
        "  experiment: 1e-3\n"  # 15
    )
    wanted = {
        "f.yaml:2: data.binarise: unknown key": "did you mean binarize?",
        "f.yaml:3: data.corrupt: must be a number ≥ 0 and ≤ 1": "found inf",
        "f.yaml:4: model.latent_dim: must be an integer ≥ 1 and ≤ 4096": "found 0",
        "f.yaml:5: model.hidden.1: must be an integer": "found 'a'",
        "f.yaml:6: latent_dim: unknown key": "did you mean model.latent_dim?",
        "f.yaml:8: objective.beta: must be a number ≥ 0": "found 'no'",
        "f.yaml:10: training.schedule: must be one of": "did you mean one_cycle?",
        "f.yaml:11: training.adam_betas.1: missing": "a number ≥ 0 and < 1",
        "f.yaml:12: training.epochs: must be an integer": "found 1.5",
        "f.yaml:13: evaluation: must be a block of key: value lines": "found 3",
        "f.yaml:15: tracking.experiment: must be text": "0.001; in quotes it is text",
        "f.yaml:1: name: missing": "name: my-run",
    }
    lines = message.splitlines()
    for start, rest in wanted.items():
        fitting = [line for line in lines if line.startswith(start)]
        assert len(fitting) == 1, f"{start!r} not once in\n{message}"
        assert rest in fitting[0]
    assert len(lines) == len(wanted), message


@pytest.mark.parametrize(
    ("text", "line", "problem"),
    [
        ("name: a\nmodel: {}\nname: b\n", 3, "name: stands twice, first on line 1"),
        ("model:\n  prior: standard\n  prior: learned\n", 3, "stands twice"),
        ("name: &here a\n", 1, "anchors"),
        ("name: a\nmodel: &m {}\n", 2, "anchors"),
        ("name: a\ndata: *gone\n", 2, "anchors"),
        ("name: !!python/object/apply:os.system [ls]\n", 1, "tag"),
        ("name: !!str a\n", 1, "tag"),
        ("--- !!map\nname: a\n", 1, "tag"),
        ("name: a\n&here model: {}\n", 2, "anchors"),
        ("name: a\n!!str model: {}\n", 2, "tag"),
        ("name: a\n---\nname: b\n", 2, "a second document"),
        ("---\n---\nname: a\n", 2, "a second document"),
        ("? [a, b]\n: c\n", 1, "a key must be a plain word"),
        ("[" * 100_000, 1, "levels deep"),
        ("{a: " * 10_000, 1, "levels deep"),
        ("- " * 10_000, 1, "levels deep"),
        ("name: a\n  bad indent: b\n", 2, "not valid YAML"),
        ("name: [1, 2\n", 2, "not valid YAML"),
        ("name: 'open\n", 2, "not valid YAML"),
        ("\tname: a\n", 1, "not valid YAML"),
        ("name: a\n\x00\n", 2, "not valid YAML"),
        ("name: a\nname2: \x07\n", 2, "not valid YAML"),
        ('name: a\ndata: {root: "\\UFFFFFFFF"}\n', 2, "not valid YAML"),
        ('name: a\n"\\ud800": 1\n', 2, ""),
        (f"%YAML 1.{'9' * 5000}\n---\nname: a\n", 1, "not valid YAML"),
    ],
)
def test_yaml_that_a_spec_may_not_use_is_refused_with_its_line(
    text: str, line: int, problem: str
) -> None:
    message = refusal(text)
    assert message.startswith(f"f.yaml:{line}: "), message
    assert problem in message
    assert len(message) < 1000


@pytest.mark.parametrize("text", ["", "\n\n", "# nothing\n", "- a\n", "a\n", "3", "~"])
def test_a_spec_is_a_mapping(text: str) -> None:
    assert "a spec is a mapping" in refusal(text)


@pytest.mark.parametrize("value", [".inf", "-.inf", ".nan", "1e999"])
def test_fields_are_finite(value: str) -> None:
    message = refusal(f"name: a\nobjective:\n  beta: {value}\n")
    assert message.startswith("f.yaml:3: objective.beta: must be a number")


def test_an_empty_section_means_its_defaults() -> None:
    assert differences(read("name: a\nmodel:\ntraining: {}\n")) == {"name": "a"}


def test_values_that_do_not_go_together_are_refused_with_their_line() -> None:
    message = refusal("name: a\nmodel:\n  conditional: false\n  prior: learned\n")
    assert message.startswith("f.yaml:2: model: ")
    assert "needs conditional: true" in message


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"name: a\n" + b"# " + b"x" * 10_000_000, "larger than"),
        (b"name: a\n# gr\xfc\xdfe\n", ":2: not UTF-8"),
        (b"\xff\xfen\x00a\x00", ":1: not UTF-8"),
        (b"", "a spec is a mapping"),
        (b"name: a\x00b\n", ":1: not valid YAML"),
        (b"name: a\nsweep: {model.latent_dim: [2, 3]}\n", ":2: sweep: "),
    ],
)
def test_files_that_are_no_spec_are_refused(
    tmp_path: Path, content: bytes, problem: str
) -> None:
    path = tmp_path / "spec.yaml"
    path.write_bytes(content)
    with pytest.raises(SpecError) as refused:
        load_spec(path)
    assert str(refused.value).startswith(str(path))
    assert problem in str(refused.value)


def test_a_byte_order_mark_and_crlf_are_read(tmp_path: Path) -> None:
    path = tmp_path / "spec.yaml"
    path.write_bytes(b"\xef\xbb\xbfname: a\r\nmodel:\r\n  latent_dim: 3\r\n")
    assert differences(load_spec(path)) == {"name": "a", "model.latent_dim": 3}


@pytest.mark.parametrize("path", ["missing.yaml", ".", "a\0b", "x" * 5000])
def test_files_that_cannot_be_read_are_spec_errors(path: str) -> None:
    with pytest.raises(SpecError, match="cannot be read"):
        load_spec(path)


def test_a_missing_file_is_answered_with_the_nearest_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "quickstart.yaml").write_text("name: a")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SpecError, match=r"did you mean experiments/quickstart\.yaml"):
        load_spec("experiments/quikstart.yaml")


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


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("model.latent_dim", "expected section.field=value"),
        ("=3", "expected section.field=value"),
        ("a.b.c=3", "expected section.field=value"),
        ("model.latent_dim=x", "model.latent_dim: must be an integer"),
        ("model.latentdim=3", "did you mean latent_dim?"),
        ("model.hidden=[1", "not valid YAML"),
        ("name=&a b", "anchors"),
        ("name=a\n---\nb", "a second document"),
    ],
)
def test_a_wrong_override_is_named(override: str, problem: str) -> None:
    message = refusal("name: a\n", override)
    assert message.startswith(f"SET {override!r}")
    assert problem in message


def outcome(content: bytes | str, *overrides: str) -> Spec | SpecError:
    """Whatever else than these two comes out fails the test."""
    try:
        if isinstance(content, bytes):
            content = content.decode("utf-8-sig", errors="surrogateescape")
        return read(content, *overrides)
    except SpecError as error:
        str(error).encode()  # must be printable
        lines = str(error).split("\n")
        assert all(re.match(r"f\.yaml:\d+: |SET ", line) for line in lines), lines
        return error


@settings(max_examples=1000, deadline=None, derandomize=True)
@given(
    st.lists(
        st.tuples(st.integers(0, len(VALID)), st.integers(0, 3), st.binary(max_size=4)),
        min_size=1,
        max_size=4,
    )
)
def test_a_valid_spec_with_bytes_changed_is_a_spec_or_a_spec_error(
    edits: list[tuple[int, int, bytes]],
) -> None:
    data = VALID.encode()
    for at, removed, inserted in edits:
        data = data[:at] + inserted + data[at + removed :]
    assert isinstance(outcome(data), (Spec, SpecError))


PIECES = [
    *("name", "model", "latent_dim", "hidden", "beta", "objective", "data", "root"),
    *(": ", ":", "\n", "\n  ", "- ", "[", "]", "{", "}", ", ", "'", '"', "#", "|", ">"),
    *("&a", "*a", "!!", "!<", "%YAML 1.2\n", "---", "...", "? ", "\t", "\\x", "\\U"),
    *("1e3", "null", ".inf", "0o7", "true", "99999999999999999999999", "\ud800", "\0"),
]


@settings(max_examples=1000, deadline=None, derandomize=True)
@given(
    st.one_of(
        st.text(max_size=60),
        st.lists(st.sampled_from(PIECES), max_size=30).map("".join),
    )
)
@example('"\\ud800": 1')
@example('name: "\\ud800"')
@example('name: "\\U7fffffff"')
@example("model: {? a}")
@example(f"%YAML {'1' * 5000}.1\n---\n")
@example(f"name: {'1' * 5000}")
@example("training: {seed: 999999999999999999999999999999}")
def test_any_text_is_a_spec_or_a_spec_error(text: str) -> None:
    assert isinstance(outcome(text), (Spec, SpecError))


@settings(max_examples=500, deadline=None, derandomize=True)
@given(
    st.one_of(
        st.text(max_size=30),
        st.tuples(
            st.sampled_from(["name", "model", "model.hidden", "data.root", "x.y"]),
            st.lists(st.sampled_from(PIECES), max_size=6).map("".join),
        ).map("=".join),
    )
)
@example('name="\\udfff"')
@example('data.root="\\Uffffffff"')
def test_any_override_is_a_spec_or_a_spec_error(override: str) -> None:
    assert isinstance(outcome(VALID, override), (Spec, SpecError))


BOMBS: dict[str, bytes] = {
    "anchors": b"a: &a [x]\n"
    + b"".join(
        b"%c: &%c [%s]\n" % (n + 1, n + 1, b"*%c," % n * 9) for n in range(97, 106)
    ),
    "merges": b"a: &a {b: 1}\nname: {<<: *a}\n",
    "deep lists": b"[" * 50_000,
    "deep maps": b"".join(b"%sa:\n" % (b" " * n) for n in range(500)),
    "deep braces": b"{a: " * 50_000,
    "ten megabytes": b"name: " + b"x" * 10_000_000,
    "ten million lines": b"\n" * 10_000_000,
    "many keys": b"".join(b"k%d: 1\n" % n for n in range(20_000)),
    "NUL": b"name: a\0b\n",
    "UTF-16": "name: a\n".encode("utf-16"),
    "UTF-32": "name: a\n".encode("utf-32"),
    "Latin-1": "name: ü\n".encode("latin-1"),
    "a program": bytes(range(256)) * 100,
    "a huge integer": b"name: a\ntraining: {seed: %s}\n" % (b"9" * 100_000),
    "a huge exponent": b"name: a\nobjective: {beta: 1e999999999}\n",
    "base sixty": b"name: a\ntraining: {epochs: 1:30}\n",
    "python tag": b"name: !!python/object/apply:os.system ['touch hacked']\n",
    "python tag of a key": b"!!python/name:os.system : x\n",
    "binary tag": b"name: !!binary aGVsbG8=\n",
    "control characters": b"name: \x1b[2J\n",
    "a name of 10,000 letters": b"name: " + b"a" * 10_000,
    "a name with an emoji": "name: 🦊\n".encode(),
    "a name that goes up": b"name: ../../etc/passwd\n",
    "an absolute name": b"name: /etc/passwd\n",
    "a hidden name": b"name: .hidden\n",
    "a name with a line in it": b'name: "a\\nb"\n',
    "an experiment with a line in it": b'name: a\ntracking: {experiment: "a\\nb"}\n',
    "an experiment of 10,000": b"name: a\ntracking: {experiment: %s}\n"
    % (b"e" * 10_000),
}
READ_ALL = """
import contextlib, io, pathlib, sys
from cvae.__main__ import main
for path in sorted(pathlib.Path(sys.argv[1]).glob("*.yaml")):
    for overrides in ([], ["--set", "model.latent_dim=3"]):
        code = main(["run", str(path), "--runs", sys.argv[1] + "/runs", *overrides])
        print(path.stem, code)
assert "torch" not in sys.modules
"""


def test_bombs_are_refused_in_little_memory_and_nothing_is_written(
    tmp_path: Path,
) -> None:
    for number, content in enumerate(BOMBS.values()):
        (tmp_path / f"{number}.yaml").write_bytes(content)
    limit = 500 * 1024**2
    done = children.python(
        *("-c", READ_ALL, str(tmp_path)),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
    )
    assert done.returncode == 0, done.stderr[-3000:]
    ends = dict(line.split() for line in done.stdout.splitlines())
    assert ends == {str(number): "2" for number in range(len(BOMBS))}
    assert "Traceback" not in done.stderr
    refusals = [line for line in done.stderr.splitlines() if ".yaml" in line]
    assert len(refusals) >= 2 * len(BOMBS)
    assert all(len(line) < 1000 for line in done.stderr.splitlines())
    assert {path.suffix for path in tmp_path.iterdir()} == {".yaml"}


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
