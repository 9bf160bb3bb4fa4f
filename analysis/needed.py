"""The runs that the README is made from: which there are, and making the others.

A run that is finished is taken as it is, found by its spec's id; all others are trained
by the commands that a user would type.
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cvae.folder import RunFolder, finished_run
from cvae.plan import SEEDS, Plan, read_plan
from cvae.samples import Run, RunNotFound, load_run
from cvae.spec import Spec
from cvae.specfile import load_spec

EXPERIMENTS = Path("experiments")
SINGLE = (
    *("quickstart", "seed_notebook", "plain_vae"),
    *("pytorch_example", "latent_20", "denoising"),
)
SWEEPS = (
    *("latent_size", "plain_latent", "width", "training_size"),
    *("beta", "latent_beta", "aevb_figure2"),
)


@dataclass(frozen=True)
class Needed:
    """Specs and sweeps of `experiments/` by name, and their finished runs in `runs`.

    `overrides` reach every one of them; `seeds` is how many of a single spec count.
    """

    runs: Path
    overrides: tuple[str, ...] = ()
    seeds: int = 3

    def path(self, name: str) -> Path:
        folder = EXPERIMENTS / "sweeps" if name in SWEEPS else EXPERIMENTS
        return folder / f"{name}.yaml"

    def spec(self, name: str, seed: int = 0) -> Spec:
        return load_spec(self.path(name), [*self.overrides, *_seeded(seed)])

    def plan(self, name: str) -> Plan:
        return read_plan(self.path(name), self.overrides)

    def run(self, name: str) -> Run:
        """The run of a single spec with seed 0, as a model."""
        return load_run(self._finished(self.spec(name)).path, runs=self.runs)

    def repeated(self, name: str) -> list[RunFolder]:
        """The runs of a single spec, one a seed."""
        return [self._finished(self.spec(name, seed)) for seed in range(self.seeds)]

    def children(self, name: str) -> list[tuple[dict[str, Any], RunFolder]]:
        """The runs of a sweep with what was swept, in the file's order."""
        variants = self.plan(name).variants
        return [(dict(v.swept), self._finished(v.spec)) for v in variants]

    def firsts(self, name: str) -> list[Run]:
        """The runs of a sweep with the first of its seeds, as models."""
        children = self.children(name)
        seed = children[0][0].get(SEEDS)
        return [
            load_run(folder.path, runs=self.runs)
            for swept, folder in children
            if swept.get(SEEDS) == seed
        ]

    def make(self, name: str, seeds: int, *, jobs: int | None, offline: bool) -> None:
        """Train what is not finished of a spec, with so many seeds, or of a sweep.

        Raises:
            SystemExit: with the exit code of the command that failed.
        """
        every = ["--runs", str(self.runs), *(["--offline"] if offline else [])]
        if name in SWEEPS:
            if all(finished_run(v.spec, self.runs) for v in self.plan(name).variants):
                return
            every += ["--jobs", str(jobs)] if jobs else []
            overrides = ["--set", " ".join(self.overrides)]
            _command("sweep", str(self.path(name)), *every, *overrides)
            return
        for seed in range(seeds):
            if not finished_run(self.spec(name, seed), self.runs):
                overrides = ["--set", " ".join([*self.overrides, *_seeded(seed)])]
                _command("run", str(self.path(name)), *every, *overrides)

    def _finished(self, spec: Spec) -> RunFolder:
        found = finished_run(spec, self.runs)
        if found is None:
            raise RunNotFound(f"no finished run {spec.name}-{spec.id} in {self.runs}/")
        return found


def _seeded(seed: int) -> list[str]:
    return [f"training.seed={seed}"] if seed else []


def _command(*words: str) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "cvae", *words], stdout=sys.stderr
    )
    try:
        code = process.wait()
    except KeyboardInterrupt:
        process.wait()  # it has had the same signal, and says where it stopped
        raise
    if code:
        raise SystemExit(code if code > 0 else 128 - code)
