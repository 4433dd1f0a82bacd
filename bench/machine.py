"""What a result must be read with: the machine, the versions, the command."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import datetime, timezone
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import fastopt
from bench.roofline import compiler
from bench.runner import Unavailable

PACKAGES = ["numpy", "numba", "torch", "jax", "optax", "thinc", "scikit-learn", "deepspeed", "keras"]


def _line(path: str | Path, start: str = "") -> str:
    """What follows `start` on the first line of a file that begins so."""
    lines = Path(path).read_text().splitlines() if Path(path).exists() else []
    return next((line[len(start) :].strip(" \t:") for line in lines if line.startswith(start)), "unknown")


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def describe(command: str) -> dict[str, Any]:
    caches = sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*"))
    installed = {distribution.metadata["name"]: distribution.version for distribution in distributions()}
    runtime = fastopt.show_runtime("dicts")
    try:
        cc = subprocess.run([compiler(), "--version"], capture_output=True, text=True).stdout.splitlines()[0]
    except Unavailable:
        cc = "none"
    return {
        "command": command,
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "processor": _line("/proc/cpuinfo", "model name"),
        "cores": cores(),
        "caches": {f"L{_line(c / 'level')}": _line(c / "size") for c in caches if _line(c / "type") != "Instruction"},
        "memory": _line("/proc/meminfo", "MemTotal"),
        "huge pages": _line("/sys/kernel/mm/transparent_hugepage/enabled"),
        "system": f"{platform.system()} {platform.release().split('-')[0]}, {' '.join(platform.libc_ver())}",
        "compiler of the roof": cc,
        "fastopt": fastopt.__version__,
        **{key: runtime[key] for key in ("instruction set", "threads")},
        "python": platform.python_version(),
        "packages": {name: installed[name] for name in PACKAGES if name in installed},
    }
