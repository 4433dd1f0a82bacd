"""What it costs that torch and a wheel of fastopt each bring a library of OpenMP: Adam in turns with `torch.exp`.

The argument says which of the two is imported first. Times are the medians of 400 turns.

    pip install fastopt torch
    python examples/torch_openmp.py torch
    python examples/torch_openmp.py fastopt
"""

import importlib
import os
import sys
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np

TURNS = 400
first = sys.argv[1] if len(sys.argv) > 1 else "torch"
modules = {name: importlib.import_module(name) for name in (first, "torch", "fastopt")}
torch, fastopt = modules["torch"], modules["fastopt"]

params, grads = np.ones(10**6, np.float32), np.ones(10**6, np.float32)
opt, numbers = fastopt.Adam(params), torch.randn(10**6)
steps, others = [], []
for _ in range(TURNS):
    begin = perf_counter()
    opt.step(grads)
    middle = perf_counter()
    torch.exp(numbers)
    steps.append(1e6 * (middle - begin))
    others.append(1e6 * (perf_counter() - middle))

libraries = {line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if "gomp" in line}
print(f"imported first: {first}")
print(f"OpenMP libraries: {len(libraries)}, threads: {len(os.listdir('/proc/self/task'))}")
print(f"step: {median(steps):.0f} us, torch.exp: {median(others):.0f} us")
