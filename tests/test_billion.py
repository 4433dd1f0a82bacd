"""10^9 parameters in memory: what Adam takes, and not one byte more."""

from __future__ import annotations

import numpy as np
import pytest

import fastopt

N = 10**9


def available():
    """Bytes of memory that are free; None where the system does not tell."""
    try:
        with open("/proc/meminfo") as lines:
            return next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
    except OSError:
        return None


def resident():
    with open("/proc/self/status") as lines:
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


@pytest.mark.slow
def test_a_billion_parameters_take_16_bytes_each():
    free = available()
    if free is None or free < 17.5 * N:
        pytest.skip(f"needs 17.5 GB of free memory, and there are {0 if free is None else free / 1e9:.1f}")
    before = resident()
    p, g = np.empty(N, np.float32), np.empty(N, np.float32)
    p[...], g[...] = 1.0, 0.5
    g[-1] = -2.0
    opt = fastopt.Adam(p, lr=0.25)
    assert opt.nbytes == 8 * N
    for _ in range(2):
        assert opt.step(g)
    assert resident() - before < 16 * N + 2**24
    small = np.ones(2, np.float32)
    other = fastopt.Adam(small, lr=0.25)
    for _ in range(2):
        other.step(np.array([0.5, -2.0], np.float32))
    assert p[0] == p[N // 2] == p[-2] == small[0]
    assert p[-1] == small[1]
    assert p[:-1].min() == p[:-1].max()
