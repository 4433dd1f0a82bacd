"""What every test stands on: process-wide settings put back after each, and buffers with guard bytes around them."""

from __future__ import annotations

import gc
import os
import signal

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before NumPy: for 64 rows its threads spin more than they compute

import numpy as np
import pytest

from fastopt.engine import kernels, sweep

MARGIN = 256  # bytes on either side of a guarded array: four AVX-512 registers
PATTERN = 0xA5


def pytest_sessionstart():
    """A shell that starts the tests in the background has them ignore Ctrl-C, which some of them send."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish():
    """Thousands of tests stay in memory: what collects garbage in one, or at a fork, need not go through them."""
    gc.freeze()


class Guarded:
    """Makes arrays that lie inside larger buffers, and knows whether anything was written beside them."""

    def __init__(self):
        self._beside = []

    def __call__(self, values):
        """A writable copy of an array, in its memory order, with guard bytes around it."""
        return self.each([values])[0]

    def each(self, arrays):
        """Copies of arrays with guard bytes between them, each at another distance from the start of a cache line."""
        arrays = [np.asarray(values) for values in arrays]
        block = np.full(sum(values.nbytes + MARGIN + 128 for values in arrays) + MARGIN + 64, PATTERN, np.uint8)
        end = -block.ctypes.data % 64
        self._beside.append(block[:end])
        copies = []
        for i, values in enumerate(arrays):
            start = end + MARGIN + -end % 64 + i % 16 * values.itemsize
            self._beside.append(block[end:start])
            order = "C" if values.flags.c_contiguous else "F"
            copies.append(np.ndarray(values.shape, values.dtype, block.data, start, order=order))
            copies[-1][...] = values
            end = start + values.nbytes
        self._beside.append(block[end:])
        return copies

    def check(self):
        """Fail if a byte beside one of the arrays has changed."""
        beside = np.concatenate(self._beside) if self._beside else np.array([], np.uint8)
        assert (beside == PATTERN).all(), "a write outside of an array"


@pytest.fixture
def guarded():
    """Make guarded arrays; their guard bytes are checked when the test is over, and by `guarded.check()`."""
    guarded = Guarded()
    yield guarded
    guarded.check()


@pytest.fixture(autouse=True)
def _settings_as_they_were():
    isa, threads, flush = kernels.isa(), sweep.get_threads(), kernels.get_flush()
    yield
    kernels.select(isa)
    sweep.set_threads(threads)
    kernels.set_flush(flush)
    sweep.set_forced(False)
