"""What a result must be read with: the machine, the versions, the command."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from bench.roofline import compiler
from bench.runner import Unavailable

PACKAGES = ["numpy", "numba", "torch", "jax", "optax", "thinc", "scikit-learn", "deepspeed", "keras"]


def _first(path: str, start: str = "") -> str:
    """What follows `start` on the first line of a file that begins so."""
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:
        return ""
    return next((line[len(start) :].strip(" \t:") for line in lines if line.startswith(start)), "")


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def describe(command: str) -> dict[str, Any]:
    import fastopt
    from fastopt.engine import kernels

    caches = {}
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        if _first(f"{index}/type") != "Instruction":
            caches[f"L{_first(f'{index}/level')}"] = _first(f"{index}/size")
    try:
        cc = subprocess.run([*compiler(), "--version"], capture_output=True, text=True).stdout.splitlines()[0]
    except Unavailable:
        cc = "none"
    memory = _first("/proc/meminfo", "MemTotal").split()
    return {
        "command": command,
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "processor": _first("/proc/cpuinfo", "model name") or platform.processor() or platform.machine(),
        "cores": cores(),
        "caches": caches,
        "memory": f"{int(memory[0]) / 2**20:.0f} GiB" if memory else "unknown",
        "huge pages": _first("/sys/kernel/mm/transparent_hugepage/enabled") or "unknown",
        "system": " ".join([platform.system(), platform.release().split("-")[0] + ",", *platform.libc_ver()]),
        "compiler of the roofline": cc,
        "fastopt": fastopt.__version__,
        "variant": kernels.isa(),
        "python": sys.version.split()[0],
        "packages": {name: found for name in PACKAGES if (found := _installed(name))},
    }
