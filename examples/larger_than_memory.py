"""Adam over parameters that are larger than memory: all in files, beside what the disk takes for the same bytes.

    python examples/larger_than_memory.py --elements 2e9 --folder /some/disk

Needs 16 bytes of disk for each parameter: the parameters and gradients, in files that are removed at the end, and two
arrays of state, in files without a name.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path

import numpy as np

import fastopt

BLOCK = 1 << 22  # elements
ROUNDS = 2


def made(path, n):
    """A file of n numbers that are not zero, as an array."""
    block = np.random.default_rng(0).standard_normal(BLOCK, dtype=np.float32)
    with open(path, "wb") as file:
        for begin in range(0, n, BLOCK):
            file.write(memoryview(block[: n - begin]))
    return np.memmap(path, np.float32, "r+")


def throughput(paths):
    """Bytes a second that are read from files, and written into them, in blocks and one after the other."""
    block, read, written = bytearray(4 * BLOCK), 0, 0
    begin = time.perf_counter()
    for path in paths:
        with open(path, "rb", buffering=0) as file:
            while n := file.readinto(block):
                read += n
    middle = time.perf_counter()
    for path in paths:
        with open(path, "r+b", buffering=0) as file:
            for _ in range(0, path.stat().st_size, len(block)):
                written += file.write(block[: path.stat().st_size - file.tell()])
            os.fsync(file.fileno())
    return read / (middle - begin), written / (time.perf_counter() - middle)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--elements", type=float, default=1e6)
    parser.add_argument("--folder", help="a folder on the disk to use; default: the one for temporary files")
    given = parser.parse_args()
    n = int(given.elements)
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        paths = [Path(folder, name) for name in ("parameters", "gradients")]
        p, g = (made(path, n) for path in paths)
        opt = fastopt.Adam(p, lr=1e-3, state_memory=fastopt.memory.files(folder))
        opt.step(g)  # which writes the state for the first time
        for _ in range(ROUNDS):
            reads, writes = throughput(paths)
            begin = time.perf_counter()
            opt.step(g)
            p.flush()
            took = time.perf_counter() - begin
            alone = 16 * n / reads + 12 * n / writes
            print(f"{n:,} parameters: a step {took:.1f} s, the disk alone {alone:.1f} s: {took / alone:.2f} x")
            print(f"the disk: {reads / 1e9:.2f} GB/s read, {writes / 1e9:.2f} GB/s written")
        kept = opt.state["params"]["exp_avg"]
        assert fastopt.memory.is_mapped(kept)
        assert np.isfinite(p[:: max(1, n // 1000)]).all()
