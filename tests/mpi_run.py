"""A training that saves each step, and goes on from what was saved: `mpi_run.py file steps [step how]`.

In that step, the last rank dies: by an exception, or killed.
"""

import os
import signal
import sys

from mpi4py import MPI
from mpi_world import exact, params

import fastopt
import fastopt.mpi

path, steps, *dying = sys.argv[1:]
comm = MPI.COMM_WORLD
opt = fastopt.mpi.Sharded(fastopt.AdamW, params(), lr=0.5, comm=comm, reduce="sum")
if comm.bcast(os.path.exists(path)):
    opt.load(path)
while opt.steps < int(steps):
    if dying and opt.steps == int(dying[0]) and comm.rank == comm.size - 1:
        if dying[1] == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        raise MemoryError("of the last rank")
    opt.step(exact(opt.steps, comm.rank, comm.size))
    opt.save(path)
