"""Published runs: what goes in, what comes out again, and what is refused."""

from __future__ import annotations

import gzip
import json
import math
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from analysis.reading.load import load_runs
from cvae import __main__
from cvae.errors import Altered, RunUnfinished, UsageError
from cvae.loading.loaded import generate_conditional_samples, load_run
from cvae.publishing import likelihoods, results, rounding
from cvae.publishing import verify as check
from cvae.publishing.verify import verify
from cvae.run import find, published, runner
from cvae.run.files import digest
from cvae.run.find import sweeps
from cvae.run.folder import Origin, RunFolder, SweepFolder
from cvae.spec.document import load_spec, split_overrides
from cvae.spec.fields import Spec
from cvae.spec.variants import read_plan
from tests import children
from tests.conftest import data_set, spec, write
from tests.made import GIT, made_run

CLEAN = GIT | {"dirty": "false"}
Bytes = dict[str, bytes]


def trained(wanted: Spec, runs: Path, **swept: object) -> RunFolder:
    origin = Origin("Question: ?", "make …")
    if swept:
        origin = Origin("", "", sweep={"sweep": wanted.name, "swept": swept})
    folder = runner.run(wanted, runs=runs, offline=True, origin=origin)
    folder.update(git=CLEAN, host="here", pid=1)
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run `alone` with a learned prior, and a sweep `pair` of two seeds."""
    root = tmp_path_factory.mktemp("publish")
    data = write(root / "data", data_set(100, 50))
    small = {
        "data__root": str(data),
        "data__validation_images": 0,
        "model__hidden": [12],
        "model__latent_dim": 3,
        "training__epochs": 2,
        "evaluation__importance_samples": 3,
    }
    place = root / "runs"
    trained(spec(name="alone", model__prior="learned", **small), place)
    seeds = [spec(name="pair", training__seed=seed, **small) for seed in (0, 1)]
    members = [trained(s, place, **{"training.seed": s.training.seed}) for s in seeds]
    sweep = SweepFolder(place / "sweeps" / "pair")
    sweep.path.mkdir(parents=True)
    (sweep.path / "sweep.yaml").write_text("name: pair\nsweep: {seeds: 2}\n")
    sweep.update(
        **{"name": "pair", "keys": ["training.seed"], "status": "FINISHED"},
        runs=[
            {"folder": f.name, "id": f.info["id"], "swept": f.info["swept"]}
            for f in members
        ],
    )
    return place


@pytest.fixture(scope="module")
def once(runs: Path) -> Path:
    """All of it published; not to be changed."""
    place = runs.parent / "results"
    results.publish(["alone", "pair"], runs=runs, results=place, weights=True)
    return place


@pytest.fixture
def there(once: Path, tmp_path: Path) -> Path:
    """A copy, to be changed."""
    return Path(shutil.copytree(once, tmp_path / "results"))


@pytest.fixture
def fresh(there: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A clone without runs: an empty working folder, and these are its results."""
    (there.parent / "clone").mkdir()
    monkeypatch.chdir(there.parent / "clone")
    monkeypatch.setattr(published, "RESULTS", there)
    return there


def files(place: Path) -> Bytes:
    found = (file for file in sorted(place.rglob("*")) if file.is_file())
    return {str(file.relative_to(place)): file.read_bytes() for file in found}


def weights_of(place: Path, name: str) -> Path:
    (path,) = place.glob(f"{name}-*/{published.WEIGHTS}")
    return path


# -- what goes in ----------------------------------------------------------------------


def test_published_twice_not_one_byte_differs(runs: Path, once: Path) -> None:
    before = files(once)
    again = ["pair", "alone", "alone"]
    results.publish(again, runs=runs, results=once, weights=True)
    assert files(once) == before
    results.publish(["pair"], runs=runs, results=once)  # keeps the weights it has
    assert files(once) == before


def test_a_run_has_the_files_of_its_folder_and_a_sweep_one_file(once: Path) -> None:
    names = {name.split("/")[-1] for name in files(once) if name.startswith("alone")}
    assert names == {
        *("spec.yaml", "run.json", "records.jsonl"),
        *(published.WEIGHTS, published.LIKELIHOOD),
    }
    sweep = {name for name in files(once) if name.startswith("sweeps/")}
    assert sweep == {
        f"sweeps/pair/{n}" for n in ("sweep.json", "sweep.yaml", published.ARCHIVE)
    }
    archive = files(once)[f"sweeps/pair/{published.ARCHIVE}"]
    assert len(gzip.decompress(archive).splitlines()) == 2
    assert archive[4:8] == bytes(4), "no time of packing"
    assert not [name for name in files(once) if name.startswith("pair")][5:]


def test_facts_stay_but_those_of_the_machine_alone(runs: Path, once: Path) -> None:
    (own,), (shown,) = (
        [f for f in find.folders(p) if f.name[0] == "a"] for p in (runs, once)
    )
    assert shown.info["git"] == CLEAN
    assert shown.info["facts"] == own.info["facts"]
    assert set(own.info) - set(shown.info) == {"host", "pid", "reason"}
    assert shown.spec() == own.spec()
    assert shown.records() == own.records()


def test_rounding_goes_to_the_nearest_and_twice_is_once() -> None:
    weight = torch.randn(10_000, generator=torch.Generator().manual_seed(0))
    bits = rounding.BITS[0]
    rounded = rounding.rounded(weight, bits)
    assert torch.equal(rounding.rounded(rounded.float(), bits), rounded)
    error = (rounded.float() - weight) / weight.abs()
    assert error.abs().max() <= 2.0 ** -(bits + 1)
    assert abs(float(error.mean())) < 1e-4  # up as often as down


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"status": "KILLED"}, "killed, not finished"),
        ({"git": GIT | {"dirty": "true"}}, "changed after the commit 0123456789"),
        ({"git": {"commit": "unknown"}}, "unknown commit"),
    ],
)
def test_what_may_not_be_published_is_named_and_nothing_written(
    changes: dict[str, object], words: str, tmp_path: Path
) -> None:
    folder = made_run(tmp_path / "runs", 100.0, name="two", info={"git": CLEAN})
    folder.update(**changes)
    with pytest.raises((UsageError, RunUnfinished), match=words):
        results.publish(["two"], runs=tmp_path / "runs", results=tmp_path / "results")
    assert not (tmp_path / "results").exists()


def test_weights_of_another_run_are_not_published(runs: Path, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(runs, tmp_path / "runs"))
    folder = find.find_run("alone", runs=copied)
    weights = safetensors.torch.load(folder.read_weights())
    foreign = {key: 3 * weight for key, weight in weights.items()}
    folder.weights.write_bytes(safetensors.torch.save(foreign))
    with pytest.raises(UsageError, match=r"give .* nats per image .* recorded"):
        results.publish([folder.name], runs=copied, results=tmp_path / "results")
    assert not (tmp_path / "results").exists()


# -- what comes out --------------------------------------------------------------------


def test_everything_that_reads_runs_reads_published_ones(
    runs: Path, once: Path
) -> None:
    own = load_runs(runs=runs, folders_only=True)
    shown = load_runs(runs=once, folders_only=True)
    assert shown.table().equals(own.table())
    assert [run.facts for run in shown.rows] == [run.facts for run in own.rows]
    for one, other in zip(own.rows, shown.rows, strict=True):
        assert own.history(one, "train/kl") == shown.history(other, "train/kl")
    pair = load_runs(runs=once, sweep="pair", folders_only=True)
    assert len(pair.rows) == 2
    assert [sweep.name for sweep in find.sweeps(once)] == ["pair"]
    wanted = own.rows[0].folder
    assert wanted is not None
    again = find.finished_run(wanted.spec(), once)
    assert again is not None
    assert again.name == wanted.name


def test_samples_come_without_a_run_of_ones_own_and_say_from_which(
    fresh: Path, runs: Path, caplog: pytest.LogCaptureFixture
) -> None:
    samples = generate_conditional_samples(digit=5, num_samples=4, seed=1)
    assert samples.shape == (4, 784)
    assert "no such run in runs/: using the published" in caplog.text
    name = weights_of(fresh, "alone").parent.name
    for wanted in ("alone", name, name.rpartition("-")[2], fresh / name):
        assert load_run(wanted).folder.path == fresh / name
    assert load_run("pair").folder.path == weights_of(fresh, "pair").parent
    rounded = load_run("alone").model.state_dict()
    for key, weight in load_run("alone", runs=runs).model.state_dict().items():
        torch.testing.assert_close(rounded[key], weight, rtol=2**-8, atol=1e-7)


def test_an_evaluated_published_run_gets_its_figures_from_there(
    fresh: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = published.at(fresh)
    assert before is not None
    (name,) = (name for name in before.figures if name.startswith("alone-"))
    words = ["publish", "alone", "--results", str(fresh)]
    assert __main__.main(words) == 2
    assert f"no evaluation of its weights: make evaluate RUN={name}" in caplog.text
    assert __main__.main(["evaluate", "--run", "alone", "--what", "latents"]) == 0
    assert __main__.main(words) == 0
    after = published.at(fresh)
    assert after is not None
    figures = after.figures[name]
    assert before.figures[name].items() <= figures.items()
    assert {"test/information", "test/information_se"} <= figures.keys()
    assert figures["test/kl"] == before.figures[name]["test/kl"]  # of the training
    assert published.Published(after, name).metrics.items() >= figures.items()
    changed = [n for n, known in after.figures.items() if known != before.figures[n]]
    assert changed == [name]
    list(verify(fresh))


# -- verify ----------------------------------------------------------------------------


def test_every_metric_and_every_proof_is_found_again(once: Path) -> None:
    rows = list(verify(once, full=True))
    proofs = {
        f"{name}, largest difference of 50 images"
        for name in ("log_p_x_given_y", "log_p_x")
    }
    metrics = {f"test/{name}" for name in ("neg_elbo", "recon", "kl", "nll_is3")}
    for name in ("alone", "pair"):
        found = {row[1] for row in rows if row[0].startswith(f"{name}-")}
        assert found == metrics | proofs
    assert all(abs(row[2] - row[3]) <= row[4] for row in rows)


def republish(place: Path, name: str, data: bytes) -> None:
    """Write a file, and the manifest so that the file is as published."""
    manifest = json.loads((place / "manifest.json").read_text())
    (place / name).write_bytes(data)
    manifest["files"][name] = digest(data)
    (place / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize("image", [0, 249])
@pytest.mark.parametrize("wrong", [math.nan, 2e-3])
def test_each_image_s_log_p_is_held_to_its_proof(
    there: Path, image: int, wrong: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A NaN and 0.002 nats are found: in the first pass, with `full` in each."""
    monkeypatch.setattr(likelihoods, "PASS_IMAGES", {"mlp": 20})
    path = next(there.glob("alone-*"))
    name = f"{path.name}/{published.LIKELIHOOD}"
    proof = likelihoods.make(load_run(path.name, runs=there))
    republish(there, name, proof)
    list(verify(there))
    tensors, facts = safetensors.torch.load(proof), published.facts_of(proof)
    tensors["log_p_x"][min(image, 49)] += wrong
    republish(there, name, safetensors.torch.save(tensors, facts))
    if image:
        list(verify(there))  # it is in the third pass
    with pytest.raises(Altered, match="log_p_x, largest difference"):
        list(verify(there, full=image > 0))


def test_sampled_likelihoods_that_take_long_are_for_full_alone(
    once: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check, "DRAWS", 10)
    assert "test/nll_is3" not in {row[1] for row in verify(once)}
    assert "test/nll_is3" in {row[1] for row in verify(once, full=True)}


def test_a_metric_of_the_manifest_that_no_record_has_is_named(there: Path) -> None:
    manifest = json.loads((there / "manifest.json").read_text())
    name = next(name for name in manifest["runs"] if name.startswith("alone-"))
    manifest["runs"][name]["test/nll_is3"] -= 1
    (there / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(Altered, match=r"test/nll_is3 is .*, published"):
        list(verify(there))


def damage(path: Path, how: str) -> None:
    data = path.read_bytes()
    if how == "missing":
        path.unlink()
    elif how == "cut":
        path.write_bytes(data[: len(data) // 2])
    elif how == "changed":
        middle = len(data) // 2
        path.write_bytes(data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :])
    elif how == "foreign":
        path.with_name("foreign.safetensors").write_bytes(data)


@pytest.mark.parametrize("how", ["missing", "cut", "changed"])
@pytest.mark.parametrize(
    "pattern",
    [
        *("alone-*/model.safetensors.xz", "alone-*/spec.yaml", "sweeps/pair/*.gz"),
    ],
)
def test_a_damaged_file_is_named(
    there: Path, pattern: str, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    (path,) = there.glob(pattern)
    damage(path, how)
    words = ["verify", "--results", str(there)]
    assert __main__.main(words) == 3
    assert f"{path}: {'missing' if how == 'missing' else 'altered'}" in caplog.text
    if how != "missing":
        expected = json.loads((there / "manifest.json").read_text())["files"]
        assert f"published was {expected[str(path.relative_to(there))]}" in caplog.text


def test_a_file_that_was_never_published_is_named(there: Path) -> None:
    damage(weights_of(there, "alone"), "foreign")
    with pytest.raises(Altered, match=r"foreign.safetensors: not published"):
        list(verify(there))


def test_a_published_figure_that_is_not_found_again_is_named(there: Path) -> None:
    records = next(there.glob("alone-*/records.jsonl"))
    manifest = json.loads((there / "manifest.json").read_text())
    figures = manifest["runs"][records.parent.name]
    changed = records.read_text().replace(str(figures["test/neg_elbo"]), "99.0")
    records.write_text(changed)
    figures["test/neg_elbo"] = 99.0
    name = str(records.relative_to(there))
    manifest["files"][name] = digest(records.read_bytes())
    (there / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(Altered, match=r"neg_elbo is .* anew, published 99.0000: more"):
        list(verify(there))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"format": 2, "read_by": "cvae 3.1"}', "format 2, which cvae 3.1 reads"),
        ("{", "manifest.json: damaged"),
        ('{"format": 1, "read_by": "", "files": [], "runs": {}}', "damaged"),
        (None, "manifest.json: missing"),
    ],
)
def test_a_manifest_that_cannot_be_used_is_said(
    there: Path, text: str | None, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = there / "manifest.json"
    path.unlink() if text is None else path.write_text(text)
    assert __main__.main(["verify", "--results", str(there)]) == 3
    assert words in caplog.text
    if text is not None:
        assert __main__.main(["list", "--runs", str(there)]) == 3


RESULTS = published.at(published.RESULTS)
assert RESULTS is not None
RUNS = RESULTS.folders()
SWEEPS = sweeps(published.RESULTS)
SPECS = sorted((children.ROOT / "experiments").rglob("*.yaml"))


def specs_of(info: dict[str, Any]) -> list[Any]:
    """The specs that the command of a run or sweep trains now."""
    words = shlex.split(info.get("command_now", info["command"]))
    given = dict(word.split("=", 1) for word in words[2:])
    path = children.ROOT / given["CONFIG"]
    assert path.is_file(), f"{given['CONFIG']}: no such spec"
    changes = split_overrides(given.get("SET", ""))
    if words[1] == "experiment":
        return [load_spec(path, changes)]
    return [variant.spec for variant in read_plan(path, changes).variants]


@pytest.mark.parametrize("folder", RUNS, ids=lambda folder: folder.name)
def test_the_command_of_a_published_run_trains_that_run(folder: Any) -> None:
    assert folder.info["id"] in {spec.id for spec in specs_of(folder.info)}


@pytest.mark.parametrize("sweep", SWEEPS, ids=lambda sweep: sweep.name)
def test_the_command_of_a_published_sweep_trains_its_runs(sweep: Any) -> None:
    known = {run["id"] for run in sweep.info["runs"]}
    assert known <= {spec.id for spec in specs_of(sweep.info)}


@pytest.mark.parametrize("path", SPECS, ids=lambda path: path.stem)
def test_every_spec_is_published_or_says_that_it_is_not(path: Path) -> None:
    dashed = path.stem.replace("_", "-")
    shown = {sweep.name for sweep in SWEEPS} | {
        run.name.rpartition("-")[0] for run in RUNS
    }
    assert dashed in shown or "not in results/" in path.read_text()
