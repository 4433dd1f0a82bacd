"""The machine's best time for the bytes of a step: builds roofline.c and runs it over a workload's arrays."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import re
import shlex
import shutil
import subprocess
import sysconfig
from functools import cache
from pathlib import Path
from time import perf_counter

from bench.runner import Contender, Unavailable
from bench.workloads import Data

SOURCE = Path(__file__).with_name("roofline.c")
RULES = Path(__file__).parent.parent / "src_c" / "rules.c"
BUILD = Path(__file__).parent.parent / "build" / "bench"
FLAGS = ["-O3", "-march=native", "-fopenmp", "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror"]
if platform.machine() in ("x86_64", "AMD64"):
    FLAGS.append("-mprefer-vector-width=512")  # compilers prefer 256: 15 % slower from the L1 cache (measured)
REALS = {"float32": ("float", ctypes.c_float), "float64": ("double", ctypes.c_double)}


def compiler() -> str:
    first = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")[0]
    for candidate in (first, "cc", "gcc", "clang"):
        if shutil.which(candidate):
            return candidate
    raise Unavailable("no C compiler")


@cache
def library(dtype: str, slots: int) -> ctypes.CDLL:
    """roofline.c for one type and number of slots; built when the source, the compiler or the flags have changed."""
    command = [compiler(), *FLAGS, f"-DREAL={REALS[dtype][0]}", f"-DSLOTS={slots}"]
    version = subprocess.run([command[0], "--version"], capture_output=True, check=True).stdout
    tag = hashlib.sha256(SOURCE.read_bytes() + version + " ".join(command).encode()).hexdigest()[:12]
    built = BUILD / f"roofline-{dtype}-{slots}-{tag}.so"
    if not built.exists():
        BUILD.mkdir(parents=True, exist_ok=True)
        partial = built.with_suffix(f".{os.getpid()}")
        made = subprocess.run([*command, str(SOURCE), "-o", str(partial)], capture_output=True, text=True)
        if made.returncode:
            raise Unavailable(f"roofline.c was not built: {made.stderr.strip().splitlines()[0]}")
        partial.replace(built)
    return ctypes.CDLL(str(built))


def first_pass(rule: str) -> set[str]:
    """The letters of what a rule's first pass reads, as its source says: none, if it has only one pass."""
    found = re.search(rf"^SUMS\({rule}, \(([\w, ]*)\).*?^}}", RULES.read_text(), re.MULTILINE | re.DOTALL)
    return {"g", *"p" * ("p = LOAD(p)" in found[0]), *filter(None, found[1].split(", "))} if found else set()


def plural(threads: int) -> str:
    return f"{threads} thread{'s' * (threads > 1)}"


class Roof(Contender):
    """Sweeps over the arrays of `data`; repetitions loop in C, so that small sizes are real."""

    def __init__(self, data: Data, threads: int, prefetch: bool = False, factor: float = 0.0) -> None:
        real = REALS[data.dtype.name][1]
        every_tensor = zip(data.params, data.grads, *data.state.values(), strict=True)
        pointers = [array.ctypes.data for arrays in every_tensor for array in arrays]
        self.name = f"roof ({plural(threads)}{', prefetch' * prefetch})"
        self.data = data  # keeps the arrays alive
        self.sweep = library(data.dtype.name, len(data.state)).sweep
        self.arguments = [
            ctypes.c_size_t(len(data.params)),
            (ctypes.c_size_t * len(data.params))(*[p.size for p in data.params]),
            (ctypes.c_void_p * len(pointers))(*pointers),
            real(factor),
            ctypes.c_int(prefetch),
            *(ctypes.c_uint(sum(1 << array for array in arrays)) for arrays in (data.first, data.second)),
            ctypes.c_int(threads),
        ]

    def run(self, n: int) -> float:
        begin = perf_counter()
        self.sweep(*self.arguments, ctypes.c_size_t(n))
        return (perf_counter() - begin) / n


def roofs(data: Data, threads: int) -> list[Roof]:
    """All candidates for the roof of `data`; the fastest is it. Threads are tried where there is work to share."""
    counts = [1] if threads == 1 or data.elements < 5000 else [1, threads] if data.elements < 5e6 else [threads]
    return [Roof(data, n, prefetch) for n in counts for prefetch in (False, True)]
