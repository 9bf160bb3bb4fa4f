"""What the commands on what the repository ships do: data, published results."""

from __future__ import annotations

from pathlib import Path

from cvae.cli.commands import print_table


def data(*, runs: Path) -> None:
    from cvae import mnist

    shipped = mnist.load_mnist(mnist.SHIPPED_ROOT)
    count = f"{len(shipped.train)} + {len(shipped.test)}"
    print(f"{mnist.SHIPPED_ROOT}: {count} images, verified")


def publish(*, runs: Path, names: list[str], weights: bool, results: Path) -> None:
    from cvae.publishing.results import publish

    every = [name for text in names for name in text.split()]
    for name in publish(every, runs=runs, results=results, weights=weights):
        print(f"{results / name}: published")
    sizes = [file.stat().st_size for file in results.rglob("*") if file.is_file()]
    print(f"{results}: {sum(sizes) / 1e6:.1f} MB in all; make verify checks it")


def verify(*, runs: Path, results: Path, full: bool) -> None:
    from cvae.publishing.verify import verify

    lines = [["run", "figure", "published", "anew", "difference", "allowed"]]
    try:
        for run, figure, known, anew, allowed in verify(results, full=full):
            numbers = (
                f"{known:.4f}",
                f"{anew:.4f}",
                f"{anew - known:+.4f}",
                f"{allowed}",
            )
            lines.append([run, figure, *numbers])
    finally:
        print_table(lines)
    print(f"{results}: every file and figure is as published")
