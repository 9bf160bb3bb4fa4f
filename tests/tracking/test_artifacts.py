"""What of a run's folder lies in the tracking store, byte for byte."""

from __future__ import annotations

from pathlib import Path

from mlflow import MlflowClient

from tests.children import Done
from tests.test_commands import the_run


def test_the_store_holds_every_file_that_a_reader_needs(
    finished: tuple[Path, Done], tmp_path: Path
) -> None:
    folder = the_run(finished[0])
    client = MlflowClient(f"sqlite:///{finished[0] / 'mlflow.db'}")
    (experiment,) = [e for e in client.search_experiments() if e.name == "cvae"]
    (run,) = client.search_runs([experiment.experiment_id])
    names = ["spec.yaml", "records.jsonl", "run.json", "model.safetensors"]
    names += ["figures/digits.png", "figures/reconstructions.png"]
    names += ["git.diff"] if (folder.path / "git.diff").exists() else []
    stored = {
        file.path
        for place in (None, "figures")
        for file in client.list_artifacts(run.info.run_id, place)
        if not file.is_dir
    }
    assert stored == set(names)
    for name in names:
        copy = client.download_artifacts(run.info.run_id, name, str(tmp_path))
        if name != "run.json":  # which goes on to say that it was published
            assert Path(copy).read_bytes() == (folder.path / name).read_bytes()
