"""Loads the engine, and with it GNU OpenMP, so that idle workers spin briefly; to be imported first.

After a parallel region the workers of GNU OpenMP spin for some 6 ms and so take cores from the matrix products that
follow a step. With 10,000 rounds they spin some 60 us: enough for steps back to back. Measured on 2 cores, an iteration
of training a 1024-1024-1024-10 network with steps on both cores, in units of one with serial steps
(``python -m bench --part loop``): 1.24 with the default of 300,000 rounds; 1.05, 1.02 and 1.00 with 10,000; 0.98, 1.00,
1.08 and 0.98 with 3,000.

GNU OpenMP reads its environment once, when it is loaded: what the user has set stays, and what is set here is taken
back.
"""

import os

_SPIN = "GOMP_SPINCOUNT"

if _SPIN in os.environ or "OMP_WAIT_POLICY" in os.environ:
    from . import _engine
else:
    os.environ[_SPIN] = "10000"
    try:
        from . import _engine
    finally:
        del os.environ[_SPIN]

__all__ = ["_engine"]
