"""Is `results/` what was published, and is what it says true?

Every file is compared with its SHA-256. Every run with weights is evaluated again on
the test images with its own noise, and log p of the first images (with `full`, of all)
is compared with the proof file, image by image. Another processor or torch rounds
differently, and published weights are rounded: hence the differences that are allowed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from cvae import classifier, mnist
from cvae.errors import Altered
from cvae.loading.loaded import LoadedRun, load_data, load_run
from cvae.publishing import likelihoods
from cvae.run import classifiers, evaluation, published

BOUND = 0.01  # nats
PARTS = 0.02  # nats of recon and kl, between which rounded weights move some
SAMPLED = 0.05  # nats of importance-sampled figures: the rarest samples weigh the most
SHARE = 0.01  # of samples classified as asked: some lie on the classifier's border
ACCURACY = 0.0005  # of the classifier on real images
DRAWS = 1_000_000  # decoded for one importance-sampled figure; `full` knows no limit
UNLISTED = ("README.md", published.MANIFEST)

Row = tuple[str, str, float, float, float]  # run, figure, published, anew, allowed


def verify(path: Path, *, full: bool = False) -> Iterator[Row]:
    """Every figure of the weights published in `path`, evaluated anew.

    Importance-sampled figures that take long are left out unless `full` is true.

    Raises:
        Altered: at the end, naming all that is not as published.
    """
    results = published.at(path)
    if results is None:
        raise Altered(f"{path / published.MANIFEST}: missing; nothing is published")
    faults = list(_file_faults(results))
    for row in _rows(results, {fault.partition(":")[0] for fault in faults}, full=full):
        yield row
        name, figure, known, anew, allowed = row
        if not abs(anew - known) <= allowed:
            faults.append(
                f"{path / name}: {figure} is {anew:.4f} anew, published {known:.4f}: "
                f"more than {allowed} apart"
            )
    if faults:
        raise Altered("\n".join(faults))


def _rows(results: published.Results, broken: set[str], *, full: bool) -> Iterator[Row]:
    """Of every run and the classifier whose files are not `broken`, which are named."""
    path = results.path
    for name in sorted(results.figures):
        files = [file for file in results.files if file.startswith(f"{name}/")]
        if not any(str(path / file) in broken for file in files):
            yield from _check_run(
                load_run(name, runs=path), results.figures[name], full=full
            )
    whole = not any(str(path / "judge") in name for name in broken)
    if whole and (judged := classifiers.load_classifier(path / "judge")):
        network, record = judged
        test = mnist.load_mnist(mnist.SHIPPED_ROOT).test
        anew = classifier.accuracy(network, test)
        yield "judge", "test/accuracy", record["test_accuracy"], anew, ACCURACY


def _file_faults(results: published.Results) -> Iterator[str]:
    """What is wrong with the files themselves."""
    for name in results.files:
        try:
            results.read(name)
        except Altered as error:
            yield str(error)
    for file in sorted(results.path.rglob("*")):
        name = file.relative_to(results.path).as_posix()
        if file.is_file() and name not in (*results.files, *UNLISTED):
            yield f"{file}: not published: {published.MANIFEST} does not list it"


def _check_run(run: LoadedRun, known: dict[str, float], *, full: bool) -> Iterator[Row]:
    """The figures of one run anew, those that are published and can be checked."""
    name, spec, data = run.folder.name, run.spec, load_data(run.spec, run.folder)
    for key, value in known.items():
        if (recorded := run.folder.metrics.get(key)) != value:
            raise Altered(f"{run.folder.path}: {key} is {recorded}, published {value}")
    bound = evaluation.bound(run.model, data.test, spec, beta=spec.objective.beta)
    allowed_for = {"neg_elbo": BOUND, "recon": PARTS, "kl": PARTS}
    anew = {key: (bound[key], allowed) for key, allowed in allowed_for.items()}
    figures = evaluation.control_figures(
        run.model, data.test, data.digest, run.folder.path.parent
    )
    shares = "label_fidelity", "transfer_fidelity"
    anew |= {key: (figures[key], SHARE) for key in shares if key in figures}
    for key in known:
        # `label_accuracy_isK` comes with `marginal_nll_isK`
        if sampled := re.fullmatch(r"test/(nll|marginal_nll)_is(\d+)", key):
            samples, by_label = int(sampled[2]), sampled[1] == "marginal_nll"
            draws = len(data.test) * samples * (run.model.classes if by_label else 1)
            if full or draws <= DRAWS:
                counts = (0, samples) if by_label else (samples, 0)
                estimates = evaluation.importance_figures(
                    run.model, data.test, spec, *counts
                )
                for figure, estimate in estimates.items():
                    share = figure.startswith("label_accuracy")
                    anew[figure] = estimate, SHARE if share else SAMPLED
    assert isinstance(run.folder, published.Published)
    if proof := run.folder.proof:
        for which, (count, apart) in likelihoods.differences(
            run, proof, full=full
        ).items():
            said = f"{which}, largest difference of {count} images"
            yield name, said, 0.0, apart, likelihoods.ALLOWED
    for figure, (value, allowed) in anew.items():
        if f"test/{figure}" in known:
            yield name, f"test/{figure}", known[f"test/{figure}"], value, allowed
