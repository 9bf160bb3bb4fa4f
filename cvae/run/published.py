"""Published runs: `results/`, read only, every byte held to its manifest.

manifest.json         format, SHA-256 of every file, the figures of runs with weights
<name>-<id>/          a run with weights: spec.yaml, run.json, records.jsonl and
                      model.safetensors.xz, as in its folder in runs/, and
                      likelihood.safetensors, log p of each test image
sweeps/<name>/        sweep.yaml, sweep.json, and runs.jsonl.gz: a line a run
"""

from __future__ import annotations

import contextlib
import functools
import gzip
import json
import logging
import lzma
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cvae.errors import Altered, UsageError
from cvae.run.files import digest
from cvae.run.folder import RUNS, Record, RunFolder
from cvae.spec.document import parse, resolve
from cvae.spec.fields import Spec

RESULTS = Path(__file__).resolve().parents[2] / "results"
INSTALLED = Path(__file__).resolve().parents[1] / "published"  # without a checkout
MANIFEST = "manifest.json"
FORMAT = 1
READ_BY = "cvae 1.0.0"  # the first version that reads this format
ARCHIVE = "runs.jsonl.gz"
WEIGHTS = "model.safetensors.xz"
LIKELIHOOD = "likelihood.safetensors"  # log p of each test image: its proof
log = logging.getLogger("cvae")


class Results:
    """A folder of published runs, as its manifest has it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.manifest = _manifest(path / MANIFEST)
        self.files: dict[str, str] = self.manifest["files"]
        if path == INSTALLED:  # one model of them
            here = {name: (path / name).exists() for name in self.files}
            self.files = {name: sha for name, sha in self.files.items() if here[name]}
        self.figures: dict[str, dict[str, float]] = self.manifest["runs"]

    def read(self, name: str) -> bytes:
        """A file's bytes, which are those that were published.

        Raises:
            Altered: the file is missing, was changed, or was never published.
        """
        path, expected = self.path / name, self.files.get(name)
        if expected is None:
            raise Altered(f"{path}: not published: {MANIFEST} does not list it")
        try:
            data = path.read_bytes()
        except OSError as error:
            raise Altered(f"{path}: missing; {_how_to_restore(self.path)}") from error
        if (actual := digest(data)) != expected:
            raise Altered(
                f"{path}: altered: its SHA-256 is {actual}, published was {expected} "
                f"({len(data)} bytes found); {_how_to_restore(self.path)}"
            )
        return data

    @functools.cached_property
    def archived(self) -> dict[str, dict[str, Any]]:
        """The runs in the sweeps' archives, by name."""
        names = [n.split("/")[1] for n in self.files if n.endswith(f"/{ARCHIVE}")]
        return {
            run["name"]: run for name in sorted(names) for run in self.archive(name)
        }

    def archive(self, sweep: str) -> list[dict[str, Any]]:
        """The runs in the archive of one sweep: name, info, spec, records."""
        lines = gzip.decompress(self.read(f"sweeps/{sweep}/{ARCHIVE}")).splitlines()
        return [json.loads(line) for line in lines]

    def folders(self) -> list[RunFolder]:
        """Every published run, those with weights and those of sweeps."""
        names = {n.partition("/")[0] for n in self.files if n.endswith("/run.json")}
        return [Published(self, name) for name in sorted(names | set(self.archived))]


class Published(RunFolder):
    """A published run: read as a run folder, and never written."""

    def __init__(self, results: Results, name: str) -> None:
        super().__init__(results.path / name)
        self.results = results
        self.has_weights = f"{name}/run.json" in results.files

    def _read(self, file: str) -> bytes:
        return self.results.read(f"{self.name}/{file}")

    @property
    def _entry(self) -> dict[str, Any]:
        """The run's line in its sweep's archive."""
        if self.name not in self.results.archived:
            self._read("run.json")  # which says that nothing of it is published
        return self.results.archived[self.name]

    @functools.cached_property
    def _facts(self) -> dict[str, Any]:
        if self.has_weights:
            return dict(json.loads(self._read("run.json")))
        return dict(self._entry["info"])

    @property
    def info(self) -> dict[str, Any]:
        return self._facts

    def spec(self) -> Spec:
        whole = self.has_weights
        text = self._read("spec.yaml").decode() if whole else self._entry["spec"]
        return resolve(parse(text, str(self.path / "spec.yaml")))

    @functools.cached_property
    def _lines(self) -> list[Record]:
        if self.has_weights:
            lines = self._read("records.jsonl").splitlines()
            return [json.loads(line) for line in lines]
        return list(self._entry["records"])

    def records(self) -> list[Record]:
        return list(self._lines)

    def read_weights(self) -> bytes:
        """The final weights as safetensors.

        Raises:
            Altered: they are not what was published. FileNotFoundError: of this run
                only the records were.
        """
        if not self.has_weights:
            raise FileNotFoundError(f"only the records of {self.name} are published")
        return lzma.decompress(self._read(WEIGHTS))

    @property
    def proof(self) -> bytes | None:
        """The published log p of each test image; None where there is none.

        Raises:
            Altered: it is not what was published.
        """
        name = f"{self.name}/{LIKELIHOOD}"
        return self.results.read(name) if name in self.results.files else None

    @property
    def digest(self) -> str | None:
        """The SHA-256 of the published weights; None where only records are."""
        return self.results.files.get(f"{self.name}/{WEIGHTS}")

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Nothing is written here, so that there is nothing to hold."""
        yield

    def append(self, record: Record) -> None:
        log.info(
            "%s is published: new figures are not in its records; make publish RUNS=%s "
            "adds those of WHAT=…",
            *(self.path, self.name),
        )

    def update(self, **changes: Any) -> None:
        raise UsageError(f"{self.path}: published, changed by make publish alone")


def at(path: Path) -> Results | None:
    """What is published in a folder; None where nothing is.

    Raises:
        Altered: its manifest is damaged or of another format.
    """
    try:
        stat = (path / MANIFEST).stat()
    except OSError:
        return None
    return _cached(path, (stat.st_size, stat.st_mtime_ns))


@functools.lru_cache(maxsize=4)
def _cached(path: Path, stamp: tuple[int, int]) -> Results:
    return Results(path)


def fallback(runs: Path) -> Results | None:
    """What stands in where there is no run of one's own: for `runs/` alone."""
    return (at(RESULTS) or at(INSTALLED)) if runs == RUNS else None


def _manifest(path: Path) -> dict[str, Any]:
    try:
        manifest = json.loads(path.read_bytes())
        version, reader = manifest["format"], manifest["read_by"]
        if version == FORMAT and not isinstance(
            manifest["files"] | manifest["runs"], dict
        ):
            raise ValueError("no list of files")
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise Altered(f"{path}: damaged: {error}; {_how_to_restore(path)}") from error
    if version != FORMAT:
        raise Altered(
            f"{path}: format {version}, which {reader} reads; this version reads "
            f"format {FORMAT}"
        )
    return dict(manifest)


def _how_to_restore(path: Path) -> str:
    return f"git checkout -- {path} brings it back"


def facts_of(data: bytes) -> dict[str, str]:
    """The metadata of a proof file, safetensors: 8 bytes of length, then JSON."""
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return dict(header["__metadata__"])
