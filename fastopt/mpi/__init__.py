"""Training on many processes or machines by MPI: each rank has its own gradients, and its own part of the state.

The leaves, laid end to end, are a sequence of the engine's chunks. Each rank owns a run of them: it sums the gradients
of its run over all ranks, updates it, and sends what it has become to all others. An optimizer of the wanted class over
those parts of the leaves does the update. As rules go element by element and sums chunk by chunk, the bits are those of
one process that is given the summed gradients.

Needs mpi4py: ``pip install fastopt[mpi]``, and an MPI such as ``pip install mpich``.
"""

from .ranks import Disagreement
from .sharded import Sharded
from .sums import sum_gradients

__all__ = ["Disagreement", "Sharded", "sum_gradients"]
