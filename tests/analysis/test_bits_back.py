"""A published run as a lossless compressor, whose rate is its bound."""

from __future__ import annotations

import re

import pytest

from tests import children


def test_images_come_back_at_the_rate_of_the_bound() -> None:
    done = children.python("-m", "analysis.examples.bits_back")
    assert done.returncode == 0, done.stderr  # it checks every pixel itself
    rate, bound = map(float, re.findall(r"(\d+\.\d)(?: bits| *$)", done.stdout))
    assert rate == pytest.approx(bound, rel=0.03)
    assert 100 < bound < 250
