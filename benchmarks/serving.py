"""How fast a served model answers: python -m benchmarks.serving [--run RUN]

Starts the server of `make serve`, asks it one request at a time and then several at
once, and prints requests a second, latency (median and 95th percentile) and images.
"""

from __future__ import annotations

import argparse
import http.client
import json
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from cvae.run.provenance import hardware

HEADER = {"Content-Type": "application/json"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", help="as of make serve; the newest if left out")
    parser.add_argument("--runs", default="runs")
    parser.add_argument("--requests", type=int, default=200, help="of each row")
    options = parser.parse_args()
    arguments = ["--runs", options.runs, *(["--run", options.run] * bool(options.run))]
    with served(arguments) as (port, started):
        print(f"first answer possible after {started:.1f} s; {hardware_line()}")
        print("images  format  at once  requests/s  median ms  95 % ms")
        for count, pixels, together in (
            *((1, False, 1), (16, False, 1), (16, True, 1)),
            *((256, False, 1), (16, False, 4), (16, False, 16)),
        ):
            asked = {"digit": 5, "num_samples": count, "seed": 7, "pixels": pixels}
            rate, middle, slow = measured(port, asked, options.requests, together)
            shown = "numbers" if pixels else "PNG"
            print(
                f"{count:6}  {shown:7} {together:6}  {rate:10.0f}  {middle:9.1f}  "
                f"{slow:7.1f}"
            )


def hardware_line() -> str:
    import torch

    facts = hardware(torch.device("cpu"))
    return f"{facts.get('processor', '')}, {facts.get('threads', '')} threads"


@contextmanager
def served(arguments: list[str]) -> Iterator[tuple[int, float]]:
    """The port of a server that ends with the block, and the seconds that it took."""
    command = [sys.executable, "-m", "cvae", "serve", "--port", "0", *arguments]
    began = time.perf_counter()
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        match = None
        while not match and (line := server.stdout.readline()):
            match = re.search(r":(\d+)/invocations", line)
        if not match:
            raise SystemExit("the server did not start; what it said is above")
        yield int(match[1]), time.perf_counter() - began
    finally:
        server.terminate()
        server.wait()


def measured(
    port: int, asked: dict[str, Any], requests: int, together: int
) -> tuple[float, float, float]:
    """Requests a second, median and 95th percentile of the latency in ms."""
    body = json.dumps({"inputs": [asked]})

    def one_client(count: int) -> list[float]:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        seconds = []
        for _ in range(count):
            began = time.perf_counter()
            connection.request("POST", "/invocations", body, HEADER)
            answer = connection.getresponse()
            content = answer.read()
            seconds.append(time.perf_counter() - began)
            if answer.status != http.HTTPStatus.OK:
                raise SystemExit(f"status {answer.status}: {content[:500]!r}")
        connection.close()
        return seconds

    one_client(5)  # the first are slower
    began = time.perf_counter()
    with ThreadPoolExecutor(together) as pool:
        parts = pool.map(one_client, [requests // together] * together)
        seconds = [each for part in parts for each in part]
    rate = len(seconds) / (time.perf_counter() - began)
    slow = statistics.quantiles(seconds, n=20)[-1]
    return rate, 1000 * statistics.median(seconds), 1000 * slow


if __name__ == "__main__":
    main()
