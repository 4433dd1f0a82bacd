"""Instruction counts of a few fixed steps under callgrind: a regression check that noise cannot touch.

One process takes n steps and then 2 n steps between two calls of getppid(), at which callgrind writes a dump; the
difference is n steps, without start-up and without the marks. One thread, garbage collection off, hash seed fixed.
Valgrind knows no AVX-512, so the variant is AVX2. A count holds for one compiler and one minor version of Python
(`key()`): elsewhere there is nothing to compare with, and the check says so. Counts repeat to within 1 % on one machine
(dicts and allocators go by addresses); patch releases of Python and NumPy change a few per cent of a small step, hence
TOLERANCE. What the check must catch is far above: a loop that is no longer vectorised takes 4 times more, another pass
over the data 30 %.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from bench.runner import Unavailable
from bench.workloads import CASES, WORKLOADS, Case, Data

ISA = "avx2"
STEPS = 20
TOLERANCE = 0.10
STORED = Path(__file__).with_name("instructions.json")
SWEEPING = Case("clip_norm and nonfinite", "SGD", {"clip_norm": 1e9, "nonfinite": "skip"})
FIXED = [
    (CASES["sgd"], "1"),
    (CASES["adam"], "1"),
    (CASES["adam"], "1e3"),
    (CASES["adam"], "1e5"),
    (CASES["adam"], "thousand-small"),
    (CASES["rmsprop"], "1e5"),
    (SWEEPING, "1e5"),
]


def key() -> str:
    """What a count depends on."""
    from fastopt.engine import kernels

    compiler = re.sub(r"[^a-z0-9]+", "-", getattr(kernels, "COMPILER", "unknown").lower()).strip("-")
    return f"{platform.machine()}-{ISA}-{sys.implementation.cache_tag}-{compiler}"


def take_steps() -> None:
    """What runs under callgrind."""
    import gc

    import fastopt
    from bench.peers import Fastopt

    fastopt.set_num_threads(1)
    gc.disable()
    for case, workload in FIXED:
        step = Fastopt(case, Data(WORKLOADS[workload], "float32")).step
        for n in (3, STEPS, 2 * STEPS):
            os.getppid()
            for _ in range(n):
                step()
            os.getppid()


def count() -> dict[str, int]:
    """Instructions a step."""
    if not shutil.which("valgrind"):
        raise Unavailable("valgrind is not installed")
    from fastopt.engine import kernels

    if ISA not in kernels.isas():
        raise Unavailable(f"no {ISA} here")
    program = "from bench.instructions import take_steps; take_steps()"
    with tempfile.TemporaryDirectory() as folder:
        command = ["valgrind", "--tool=callgrind", "--dump-before=getppid", f"--callgrind-out-file={folder}/out"]
        environment = {**os.environ, "FASTOPT_ISA": ISA, "PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1"}
        command += [sys.executable, "-c", program]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise Unavailable(f"valgrind failed: {done.stderr.strip().splitlines()[-1]}")
        dumps = sorted(Path(folder).glob("out.*"), key=lambda path: int(path.suffix[1:]))
        totals = [int(re.search(r"^(?:totals|summary): (\d+)", dump.read_text(), re.M)[1]) for dump in dumps]  # type: ignore[index]
    # dumps: before the first mark, then for each case, in turn: 3 steps, nothing, n steps, nothing, 2 n steps, set-up
    between = totals[1:]
    return {
        f"{case.name} {workload}": (between[6 * i + 4] - between[6 * i + 2]) // STEPS
        for i, (case, workload) in enumerate(FIXED)
    }


def compare(update: bool = False) -> list[dict[str, object]]:
    """Rows of step, count, stored count and their ratio; with `update`, what was counted is stored."""
    counted, stored = count(), json.loads(STORED.read_text()) if STORED.exists() else {}
    if update:
        stored[key()] = counted
        STORED.write_text(json.dumps(stored, indent=2, sort_keys=True) + "\n")
    known = stored.get(key(), {})
    rows: list[dict[str, object]] = []
    for step, n in counted.items():
        before = known.get(step)
        rows.append({"step": step, "instructions": n, "stored": before, "ratio": n / before if before else None})
    return rows
