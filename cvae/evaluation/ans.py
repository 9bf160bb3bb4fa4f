"""A stack of symbols in as many bits as their probabilities take: rANS, vectorised.

Asymmetric numeral systems (Duda 2009, https://arxiv.org/abs/1311.2540) with L lanes
that share one stack of words, as in craystack (Townsend et al. 2020). What is pushed
last is popped first; popping what was never pushed turns random words into symbols of
a wanted distribution, which is what bits-back needs. Of the libraries, constriction has
no lanes over one stack, and craystack is no longer kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Whole = NDArray[Any]  # of integers
WORD, LOW = 32, 2**31  # bits of a word; each head lies in [2³¹, 2⁶³)


class Coder:
    """Heads of L lanes over a stack of 32-bit words."""

    def __init__(self, heads: Whole, words: Sequence[int] | Whole = ()) -> None:
        self.heads = np.array(heads, np.uint64)
        self.words = np.array(words, np.uint32)
        self.count = len(self.words)  # of the words that are in use
        self.lowest = self.count  # how many were never taken off

    def push(self, start: Whole, size: Whole, bits: int) -> None:
        """Add a symbol to each of the first lanes: (n,) intervals of [0, 2^bits)."""
        heads = self.heads[: len(start)]
        start, size = start.astype(np.uint64), size.astype(np.uint64)
        full = heads >= size << np.uint64(63 - bits)
        if full.any():
            out = heads[full]
            end = self.count + len(out)
            if end > len(self.words):
                self.words = np.resize(self.words, 2 * end)
            self.words[self.count : end] = out & np.uint64(2**WORD - 1)
            self.count = end
            heads[full] = out >> np.uint64(WORD)
        whole, rest = np.divmod(heads, size)
        heads[:] = (whole << np.uint64(bits)) + rest + start

    def peek(self, lanes: int, bits: int) -> Whole:
        """A number of [0, 2^bits) for each lane: in the interval of its last symbol."""
        return (self.heads[:lanes] & np.uint64(2**bits - 1)).astype(np.int64)

    def mix(self, noise: Whole) -> None:
        """Flip bits of the first lanes: numbers (n,) below 2³¹; twice is not at all."""
        self.heads[: len(noise)] ^= noise.astype(np.uint64)

    def drop(self, start: Whole, size: Whole, bits: int) -> None:
        """Take the last symbol off each lane: the inverse of `push`.

        Raises:
            IndexError: there are no words left.
        """
        heads = self.heads[: len(start)]
        here = heads & np.uint64(2**bits - 1)
        above = heads >> np.uint64(bits)
        heads[:] = size.astype(np.uint64) * above + here - start.astype(np.uint64)
        short = heads < LOW
        if wanted := int(short.sum()):
            if wanted > self.count:
                raise IndexError("no words left")
            self.count -= wanted
            self.lowest = min(self.lowest, self.count)
            taken = self.words[self.count : self.count + wanted].astype(np.uint64)
            heads[short] = (heads[short] << np.uint64(WORD)) | taken

    def tobytes(self) -> bytes:
        """Heads and words, but for the words that were there and never taken off."""
        words = self.words[self.lowest : self.count]
        return self.heads.astype("<u8").tobytes() + words.astype("<u4").tobytes()

    @classmethod
    def of(cls, data: bytes, lanes: int) -> Coder:
        """The coder whose `tobytes` these are."""
        heads = np.frombuffer(data, "<u8", count=lanes)
        return cls(heads, np.frombuffer(data, "<u4", offset=8 * lanes))
