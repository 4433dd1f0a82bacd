"""Loads the engine, and with it GNU OpenMP, so that idle workers spin briefly; to be imported first.

After a parallel region the workers of GNU OpenMP spin for some 6 ms and so take cores from the matrix products that
follow a step. Measured on 2 cores, 1024-1024-1024-10 network, an iteration of training with a step on both cores, in
units of one with a serial step (``python -m bench --part loop``): 1.24 with the default of 300,000 rounds, 1.05 with
10,000, 0.96 with 1,000; while steps back to back gain from two threads with 3,000 rounds as much as with the default,
and with 1,000 not at all. GNU OpenMP reads its environment once, when it is loaded: what the user has set stays, and
what is set here is taken back.
"""

import os

_SPIN = "GOMP_SPINCOUNT"

if _SPIN in os.environ or "OMP_WAIT_POLICY" in os.environ:
    from . import _engine
else:
    os.environ[_SPIN] = "3000"
    try:
        from . import _engine
    finally:
        del os.environ[_SPIN]

__all__ = ["_engine"]
