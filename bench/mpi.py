"""``python -m bench.mpi``: `fastopt.mpi.Sharded` against the number of ranks, beside the collectives of MPI itself.

It starts the ranks itself, with mpiexec, prints a table, and leaves mpi.json and bench-mpi.png in OUT. Both steps sum
the gradients, update by AdamW and bring the parameters to all ranks. They are timed in turns; a time is the best of
those of the slowest rank, since others may use the processors. Memory is what a rank's peak grows by beside its
parameters and gradients, in a run of its own.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

import click
import numpy as np

import fastopt

RANKS = (1, 2, 4)
SIZES = (10**6, 10**7, 10**8)
SMOKE = (10**4,)
OURS, OWN = "fastopt.mpi", "Reduce_scatter, AdamW, Allgather"


def sizes_of_leaves(n: int) -> list[int]:
    """Half of the elements, half of the rest, and so on: matrices and biases of all sizes."""
    found = []
    while n > 1000:
        found.append(n // 2 + n // 2 % 2)
        n -= found[-1]
    return [*found, n]


def leaves_of(flat: Any) -> list[Any]:
    return np.split(flat, np.cumsum(sizes_of_leaves(flat.size))[:-1])


def sharded(comm: Any, p: Any, g: Any) -> Callable[[], Any]:
    """Step as `fastopt.mpi` does it."""
    import fastopt.mpi

    opt = fastopt.mpi.Sharded(fastopt.AdamW, leaves_of(p), comm=comm)
    grads = leaves_of(g)
    return lambda: opt.step(grads)


def collectives(comm: Any, p: Any, g: Any) -> Callable[[], Any]:
    """Step by MPI's own collectives, over one flat array."""
    from mpi4py import MPI

    ends = [p.size * rank // comm.size for rank in range(comm.size + 1)]
    counts = np.diff(ends)
    part = p[ends[comm.rank] : ends[comm.rank + 1]]
    opt, summed = fastopt.AdamW(part), np.empty_like(part)

    def step() -> None:
        comm.Reduce_scatter(g, summed, counts)
        opt.step(summed, loss_scale=comm.size)
        comm.Allgatherv(MPI.IN_PLACE, [p, counts])

    return step


STEPS = {OURS: sharded, OWN: collectives}


def work(n: int, who: str) -> None:
    """One rank's part of a measurement: times of both in turns, or the memory of one."""
    from mpi4py import MPI

    comm = MPI.COMM_WORLD
    p, g = np.ones(n, np.float32), np.random.default_rng(comm.rank).standard_normal(n, np.float32)
    fastopt.set_num_threads(max(1, fastopt.get_num_threads() // comm.size))
    if who:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        step = STEPS[who](comm, p, g)
        step()
        step()
        grown = comm.gather(1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before))
        found: dict[str, Any] = {who: max(grown) if grown else 0}
    else:
        steps = {name: make(comm, p, g) for name, make in STEPS.items()}
        times: dict[str, list[float]] = {name: [] for name in steps}
        for turn in range(2 + max(7, min(60, 2 * 10**8 // n))):
            for name, step in steps.items():
                comm.Barrier()
                begin = perf_counter()
                step()
                slowest = comm.allreduce(perf_counter() - begin, MPI.MAX)
                if turn >= 2:
                    times[name].append(slowest)
        found = {name: min(measured) for name, measured in times.items()}
    if comm.rank == 0:
        print(json.dumps(found))


def measured(ranks: int, n: int, who: str = "") -> dict[str, Any]:
    mpiexec = Path(sys.executable).parent / "mpiexec"
    command = [str(mpiexec) if mpiexec.exists() else "mpiexec", "-n", str(ranks), sys.executable, "-m", "mpi4py"]
    # MPICH is to let another rank have the processor at once where there are more ranks than processors.
    environment = {"MPIR_CVAR_POLLS_BEFORE_YIELD": "1", **os.environ}
    done = subprocess.run(
        [*command, __file__, str(n), who], env=environment, capture_output=True, text=True, check=True, timeout=900
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@click.command()
@click.option("--smoke", is_flag=True, help="See that it runs: the timings mean nothing.")
@click.option("--out", default="out", show_default=True, type=click.Path(file_okay=False, path_type=Path))
def main(smoke: bool, out: Path) -> None:
    """Measure the step of fastopt.mpi against the number of ranks, beside MPI's own collectives."""
    rows = []
    print(f"{'parameters':>12}{'ranks':>7}{'fastopt.mpi':>14}{'MPI own':>12}{'ratio':>8}{'memory':>12}{'MPI own':>12}")
    for n in SMOKE if smoke else SIZES:
        for ranks in RANKS:
            times = measured(ranks, n)
            memory = {who: measured(ranks, n, who)[who] for who in STEPS}
            rows.append({"n": n, "ranks": ranks, "times": times, "memory": memory})
            ours, own = times[OURS], times[OWN]
            print(
                f"{n:12,}{ranks:7}{1e3 * ours:11.1f} ms{1e3 * own:9.1f} ms{ours / own:8.2f}"
                f"{memory[OURS] / 2**20:8.0f} MiB{memory[OWN] / 2**20:8.0f} MiB",
                flush=True,
            )
    out.mkdir(parents=True, exist_ok=True)
    (out / "mpi.json").write_text(json.dumps(rows, indent=1) + "\n")
    draw(rows, out / "bench-mpi.png")


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw time against parameters, and memory against ranks."""
    from bench.plots import BLUE, GREY, ORANGE, STYLE, plt

    with plt.rc_context(STYLE):
        figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.8))
        for ranks, marker in zip(RANKS[1:], "os", strict=True):
            of = [row for row in rows if row["ranks"] == ranks]
            for who, colour in ((OURS, BLUE), (OWN, ORANGE)):
                times = [row["times"][who] for row in of]
                label = f"{who}, {ranks} ranks"
                left.plot([row["n"] for row in of], times, color=colour, marker=marker, label=label)
        left.set(xscale="log", yscale="log", xlabel="parameters, float32", ylabel="time of a step, s, on two cores")
        left.set_title("Time")
        left.set_ylim(top=1e3)
        left.legend(fontsize=9, loc="upper left")
        largest = max(row["n"] for row in rows)
        of = [row for row in rows if row["n"] == largest]
        ranks_of = [row["ranks"] for row in of]
        for who, colour, marker in ((OURS, BLUE, "o"), (OWN, ORANGE, "s")):
            memory = [row["memory"][who] / 2**20 for row in of]
            right.plot(ranks_of, memory, color=colour, marker=marker, label=who)
        formula = [(12 * largest / ranks + (32 << 20)) / 2**20 for ranks in ranks_of]
        right.plot(ranks_of, formula, color=GREY, linestyle=":", label="12 N / R + 32 MiB")
        right.set(xlabel="ranks", ylabel="MiB on each rank, beside parameters and gradients", xticks=RANKS)
        right.set_ylim(bottom=0)
        right.set_title(f"Memory, for $10^{{{len(str(largest)) - 1}}}$ parameters")
        right.legend(fontsize=9)
        figure.tight_layout()
        figure.savefig(path)


if __name__ == "__main__":
    if len(sys.argv) == 3 and sys.argv[1].isdigit():
        work(int(sys.argv[1]), sys.argv[2])
    else:
        main()
