"""The digits model of `fastopt train digits` on many ranks, each with a part of every batch, beside one process.

pip install 'fastopt[mpi,cli]' mpich
mpiexec -n 4 python -m mpi4py examples/mpi_mlp.py
"""

import numpy as np
from mpi4py import MPI

import fastopt
import fastopt.mpi
from fastopt.cli.data import digits, split
from fastopt.cli.models import SOFTMAX, Network

EPOCHS, BATCH, LR = 5, 32, 0.003
COMM = MPI.COMM_WORLD


def new_model():
    """Made by the same random numbers on each rank: parameters must be the same on all."""
    return Network((64, 64, 10), SOFTMAX, np.float32, np.random.default_rng(0))


def batches(rows):
    """Which rows each step takes: the same on each rank."""
    for epoch in range(EPOCHS):
        order = np.random.default_rng([epoch, rows]).permutation(rows)
        yield from (order[start : start + BATCH] for start in range(0, rows, BATCH))


def main():
    table = split(digits(0), 0.2, 0, np.float32)
    model, single = new_model(), new_model()
    before, _ = model.evaluate(table.x, table.y)

    opt = fastopt.mpi.Sharded(fastopt.Adam, model.params, lr=LR, comm=COMM, reduce="sum")
    for rows in batches(len(table.y)):
        mine = np.array_split(rows, COMM.size)[COMM.rank]
        model.gradients(table.x[mine], table.y[mine])  # of the mean over these rows
        weight = np.float32(len(mine) / len(rows))
        opt.step([{name: weight * g for name, g in layer.items()} for layer in model.grads])
    after, accuracy = model.evaluate(table.x_test, table.y_test)

    one = fastopt.Adam(single.params, lr=LR)
    for rows in batches(len(table.y)):
        single.gradients(table.x[rows], table.y[rows])
        one.step(single.grads)
    of_one, _ = single.evaluate(table.x_test, table.y_test)

    if COMM.rank == 0:
        print(f"{COMM.size} ranks, {opt.nbytes:,} bytes of state on rank 0, {one.nbytes:,} in one process")
        print(f"loss {before:.4f} -> {after:.4f}")
        print(f"held-out loss {after:.6f}, of one process {of_one:.6f}; accuracy {accuracy:.3f}")
    if not np.isclose(after, of_one, rtol=1e-3):  # gradients are added in another order, which rounds differently
        raise SystemExit(1)


if __name__ == "__main__":
    main()
