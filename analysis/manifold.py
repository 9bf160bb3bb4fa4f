"""Draw a finished run's latent space: pictures, tables and a page.

    make manifold RUN=quickstart
    python -m cvae manifold --run quickstart --digit 3 --formats png,svg

z is in units of the prior throughout: z itself, or (z − mu_y) / σ_y of a learned one.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.drawing.latent_plates import draw_latent
from analysis.drawing.plates import Plate
from analysis.reading import arguments, latent
from analysis.reading.attach import attach_to_run
from analysis.reading.latent import Posterior
from analysis.templates import render
from cvae.evaluation.metrics import markdown
from cvae.loading.loaded import LoadedRun, load_run
from cvae.run.files import write_atomic
from cvae.run.find import display_name


def manifold(
    run: LoadedRun,
    out: Path,
    *,
    digit: int | None = None,
    formats: Sequence[str] = ("png",),
) -> list[Path]:
    """Draw the latent space of `run` into the folder `out`.

    Args:
        digit: large sheets of this digit only; all ten by default.
        formats: of `arguments.FORMATS`; the page shows the PNGs.

    Returns:
        The files written, the page `manifold.md` first.

    Raises:
        ValueError: a digit asked of a plain model.
        DataError, OSError: the data cannot be read, the folder cannot be written.
    """
    if digit is not None and not run.model.classes:
        raise ValueError(
            f"{run.folder.name} is unconditional: it has one manifold for all digits; "
            "leave the digit out, or name another run"
        )
    posterior = latent.encode(run)
    shown = draw_latent(run, posterior, digit=digit)
    written = [file for each in shown for file in each.save(out, formats)]
    page = write_latent(run, posterior, shown, out)
    return [page, *write_tables(posterior, out), *written]


def write_tables(posterior: Posterior, out: Path) -> list[Path]:
    """posterior.csv: a line a test image; dimensions.csv: a line a dimension."""
    size = range(1, posterior.mu.shape[1] + 1)
    columns = [*(f"mu_{i}" for i in size), *(f"sigma_{i}" for i in size)]
    images = pd.DataFrame(np.hstack([posterior.mu, posterior.sigma]), columns=columns)
    images.insert(0, "label", posterior.labels)
    written = [out / "posterior.csv", out / "dimensions.csv"]
    images.to_csv(written[0], index=False, float_format="%.5g")
    dimensions(posterior).to_csv(written[1], index=False, float_format="%.4f")
    return written


def dimensions(posterior: Posterior) -> pd.DataFrame:
    """Each dimension's kl in nats, variance of the means, mean σ; most nats first."""
    table = {
        "dimension": [f"z{dim + 1}" for dim in range(posterior.mu.shape[1])],
        "kl": posterior.kl.mean(0),
        "var_mu": posterior.mu.var(0),
        "mean_sigma": posterior.sigma.mean(0),
    }
    return pd.DataFrame(table).iloc[posterior.order]


def write_latent(
    run: LoadedRun, posterior: Posterior, shown: Sequence[Plate], out: Path
) -> Path:
    """manifold.md: the figures with their captions, and the dimensions as a table."""
    rows = [["dimension", "kl, nats", "Var(mu)", "mean σ"]]
    for name, *values in dimensions(posterior).itertuples(index=False):
        rows.append([name, *(f"{value:.4f}" for value in values)])
    content = {"name": display_name(run.folder), "model": run.model, "shown": shown}
    content |= {"posterior": posterior, "table": markdown(rows)}
    page = out / "manifold.md"
    write_atomic(page, render("manifold.md.j2", content).encode())
    return page


def main(
    run: str | None,
    digit: int | None,
    formats: str,
    out: Path | None,
    attach: bool,
    runs: Path,
) -> None:
    """`make manifold`."""
    kinds, loaded = arguments.formats(formats), load_run(run, runs=runs)
    out = out or Path("reports") / loaded.folder.name / "manifold"
    page, *files = manifold(loaded, out, digit=digit, formats=kinds)
    print(f"{page}: the latent space of {loaded.folder.name}, with {len(files)} files")
    if attach:
        print(attach_to_run(loaded, runs, [page, *files], "manifold"))
