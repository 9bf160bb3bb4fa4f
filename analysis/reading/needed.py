"""The runs that the README is made from: which there are, and making the others.

A run that is finished is taken as it is, found by its spec's id. Of runs of one's own
the others are trained by the commands that a user would type; published ones are all
that there are.
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cvae.errors import RunNotFound, SpecError
from cvae.loading.loaded import LoadedRun, load_run
from cvae.run import published
from cvae.run.find import finished_run, folders
from cvae.run.folder import RunFolder
from cvae.spec.document import load_spec
from cvae.spec.fields import Spec
from cvae.spec.variants import SEEDS, Plan, read_plan

EXPERIMENTS = Path("experiments")
SINGLE = (
    *("quickstart", "seed_notebook", "plain_vae"),
    *("best_two", "pytorch_example", "latent_20", "denoising"),
)
BEST = ("best_mlp", "best_conv")
SEEDED = (*SINGLE, *BEST)  # one run each, and its seeds
SWEEPS = (
    *("latent_size", "plain_latent", "width", "training_size"),
    *("beta", "latent_beta", "control"),
    *("aevb_figure2", "aevb_figure3", "aevb_figure4", "iwae_table1"),
    *("iwae_conditional", "hwalsuklee", "lyeoni", "exact"),
)


@dataclass(frozen=True)
class Needed:
    """Specs and sweeps of `experiments/` by name, and their finished runs in `runs`.

    `overrides` reach every one of them; of a single spec `seeds` seeds are trained.
    """

    runs: Path
    overrides: tuple[str, ...] = ()
    seeds: int = 1

    def path(self, name: str) -> Path:
        return next(EXPERIMENTS.rglob(f"{name}.yaml"))

    def spec(self, name: str) -> Spec:
        """A single spec as its file has it."""
        return load_spec(self.path(name), self.overrides)

    def plan(self, name: str) -> Plan:
        """A sweep, or a single spec with its seeds."""
        return read_plan(self.path(name), self._settings(name))

    def over_seeds(self, name: str) -> list[RunFolder]:
        """The finished runs that differ from a single spec in the seed alone, by seed.

        Found by their ids; a repeated run counts once, a damaged folder not at all.
        """
        done: dict[int, RunFolder] = {}
        stem = f"{self.spec(name).name}-"
        for folder in folders(self.runs):
            if not folder.name.startswith(stem):
                continue
            try:
                seed = folder.spec().training.seed
            except SpecError:
                continue
            wanted = load_spec(self.path(name), (*self.overrides, f"{SEEDS}={seed}"))
            if run := finished_run(wanted, self.runs):
                done[seed] = run
        return [done[seed] for seed in sorted(done)]

    def run(self, name: str) -> LoadedRun:
        """The run of a single spec, as a model."""
        return load_run(self._finished(self.spec(name)).name, runs=self.runs)

    def children(self, name: str) -> list[tuple[dict[str, Any], RunFolder]]:
        """The runs of `plan` with what was swept, in the file's order."""
        variants = self.plan(name).variants
        return [(dict(v.swept), self._finished(v.spec)) for v in variants]

    def make(self, name: str, *, once: bool, jobs: int | None, offline: bool) -> None:
        """Train what is not finished of `plan`; with `once` of the single spec alone.

        Raises:
            RunNotFound: `runs` is what is published, which does not have it.
            SystemExit: with the exit code of the command that failed.
        """
        once = once and name in SEEDED
        specs = (
            [self.spec(name)] if once else [v.spec for v in self.plan(name).variants]
        )
        if all(finished_run(spec, self.runs) for spec in specs):
            return
        if published.at(self.runs):
            raise RunNotFound(
                f"{name}: not all of its runs are published in {self.runs}/; make "
                "figures FROM=runs trains them"
            )
        settings = self.overrides if once else self._settings(name)
        words = ["experiment" if once else "sweep", str(self.path(name))]
        words += ["--runs", str(self.runs), "--set", " ".join(settings)]
        words += ["--jobs", str(jobs)] if jobs and not once else []
        _command(*words, *(["--offline"] if offline else []))

    def _settings(self, name: str) -> tuple[str, ...]:
        seeds = (f"seeds={self.seeds}",) if name in SEEDED else ()
        return (*self.overrides, *seeds)

    def _finished(self, spec: Spec) -> RunFolder:
        run = finished_run(spec, self.runs)
        if run is None:
            raise RunNotFound(f"no finished run {spec.name}-{spec.id} in {self.runs}/")
        return run


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
