"""How many threads a step may use, and what was built and is running.

The limit is the least of the affinity mask, the cgroup's CPU quota and ``OMP_NUM_THREADS``, read once at import;
`set_num_threads` asks for fewer. Where OpenMP binds its threads to places (``OMP_PROC_BIND``, ``OMP_PLACES``), the
processors in those stand for the mask. Results do not depend on it.
"""

from __future__ import annotations

import math
import os
import platform
import re
from typing import Any

import numpy as np

from . import hyper
from .engine import kernels, lock, sweep

__all__ = [
    "get_flush_denormals",
    "get_num_threads",
    "set_flush_denormals",
    "set_num_threads",
    "show_config",
    "show_runtime",
]


def _read(*path: str) -> str:
    with open(os.path.join(*path)) as text:
        return text.read()


def _cgroup_quota(root: str, membership: str) -> float:
    """CPUs that the control group ``membership`` (text of /proc/self/cgroup) grants, inf where there is no limit."""
    limit = math.inf
    for line in membership.splitlines():
        _, controllers, path = line.split(":", 2)
        names = controllers.split(",")
        if controllers and "cpu" not in names:
            continue
        # A limit on any group above this one holds as well; inside a container the path may not exist at all.
        parts = path.strip("/").split("/")
        for depth in range(len(parts), -1, -1):
            here = os.path.join(root, controllers, *parts[:depth])
            try:
                if controllers:  # version 1
                    quota = _read(here, "cpu.cfs_quota_us").strip()
                    period = _read(here, "cpu.cfs_period_us").strip()
                else:
                    quota, period = _read(here, "cpu.max").split()
                if quota not in ("max", "-1"):
                    limit = min(limit, float(quota) / float(period))
            except (OSError, ValueError):
                continue
    return limit


def _omp_num_threads(text: str) -> int | None:
    """Read the first number of ``OMP_NUM_THREADS`` as OpenMP does; None where it asks for nothing."""
    number = re.fullmatch(r"\s*\+?0*([1-9][0-9]*)\s*", text.split(",")[0], re.ASCII)
    if number is None or len(number[1]) > 18:  # more than C's integers hold: not valid, and no limit
        return None
    return int(number[1])


def _limits() -> dict[str, int]:
    """Threads by each thing that bounds them."""
    # OpenMP that binds its threads has bound this one as well, to one place: its mask says nothing of the others'.
    places = sweep.places()
    if places > 0:
        limits = {"OpenMP places": places}
    elif hasattr(os, "sched_getaffinity"):
        limits = {"affinity mask": len(os.sched_getaffinity(0))}
    else:
        limits = {"processors": os.cpu_count() or 1}
    try:
        quota = _cgroup_quota("/sys/fs/cgroup", _read("/proc/self/cgroup"))
    except OSError:
        quota = math.inf
    if quota < math.inf:
        # A thread with less than most of a processor to itself is stopped when the quota is used up, in every period,
        # and all others wait for it.
        limits["cgroup quota"] = max(1, math.floor(quota + 0.25))
    asked = _omp_num_threads(os.environ.get("OMP_NUM_THREADS", ""))
    if asked is not None:
        limits["OMP_NUM_THREADS"] = asked
    if not sweep.OPENMP:
        limits["built without OpenMP"] = 1
    return limits


LIMITS = _limits()
_asked: int | None = None


def set_num_threads(n: int) -> None:
    """Let a step use at most `n` threads.

    The bits of the result do not depend on it.

    Parameters
    ----------
    n : int
        At least 1. More than the machine grants this process (affinity mask or OpenMP's places, cgroup quota,
        ``OMP_NUM_THREADS``) is taken as what it grants.

    Raises
    ------
    TypeError, ValueError
        If `n` is no whole number, or below 1.
    """
    global _asked
    if isinstance(n, (bool, np.bool_)) or not isinstance(n, (int, np.integer)):
        raise TypeError(f"n is {n!r}, a {type(n).__name__}: wanted a whole number of at least 1")
    if n < 1:
        raise ValueError(f"n is {n!r}: wanted a whole number of at least 1")
    _asked = int(n)
    sweep.set_threads(min(_asked, *LIMITS.values()))


def get_num_threads() -> int:
    """Return how many threads a step over many parameters may use; small steps use one."""
    return sweep.get_threads()


def set_flush_denormals(on: bool) -> None:
    """Choose whether steps flush denormal numbers to zero.

    They do by default, as TensorFlow and XLA do: over moments that have decayed into denormals, arithmetic that keeps
    them is some 20 times slower. The mode holds inside steps only; the caller's is restored on every thread.

    Parameters
    ----------
    on : bool
        False keeps denormals.
    """
    kernels.set_flush(hyper.flag("on", on))


def get_flush_denormals() -> bool:
    """Return whether steps flush denormal numbers to zero."""
    return kernels.get_flush()


def _show(report: dict[str, Any], mode: str) -> dict[str, Any] | None:
    if mode == "dicts":
        return report
    if mode != "stdout":
        raise ValueError(f"mode is {mode!r}: wanted 'stdout' or 'dicts'")
    width = max(map(len, report))
    for key, value in report.items():
        print(f"{key + ':':{width + 1}} {value}")
    return None


def show_config(mode: str = "stdout") -> dict[str, Any] | None:
    """Print what was compiled, or return it.

    Parameters
    ----------
    mode : {"stdout", "dicts"}
        Whether to print or to return a dict.
    """
    from . import __version__

    openmp = f"version {sweep.OPENMP_VERSION}" if sweep.OPENMP else "none: every step runs serially"
    report = {
        "fastopt": __version__,
        "compiler": kernels.COMPILER,
        "OpenMP": openmp,
        "instruction sets": ", ".join(kernels.built_isas()),
        "element types": "float32, float64",
        "rules": ", ".join(kernels.rules()),
    }
    return _show(report, mode)


def _serial_steps() -> str:
    """Say which steps run in one thread, and why."""
    if get_num_threads() == 1:
        return "all steps"
    if sweep.lacks_threads():
        return "all steps: the system did not let another thread start"
    awake, resting = (f"{limit / 2**20:.3g} MiB" for limit in sweep.limits())
    return (
        f"steps over less than {awake} of parameters, gradients and state, or {resting} where other work lies between "
        "steps; for a while, larger ones that waited for a processor that others use"
    )


def show_runtime(mode: str = "stdout") -> dict[str, Any] | None:
    """Print what is in use on this machine and why, or return it.

    Parameters
    ----------
    mode : {"stdout", "dicts"}
        Whether to print or to return a dict.
    """
    forced = os.environ.get("FASTOPT_ISA")
    reasons = [f"{name} {limit}" for name, limit in LIMITS.items()]
    if _asked is not None:
        reasons.append(f"set_num_threads({_asked})")
    if sweep.is_forked():
        reasons = ["forked child, where GNU OpenMP would hang"]
    report = {
        "instruction set": f"{kernels.isa()} ({'FASTOPT_ISA' if forced else 'best of ' + ', '.join(kernels.isas())})",
        "threads": f"{get_num_threads()} (least of: {', '.join(reasons)})",
        "one thread": _serial_steps(),
        "denormals": "flushed to zero" if get_flush_denormals() else "kept",
        "Python": platform.python_version(),
        "NumPy": np.__version__,
        "machine": f"{platform.machine()}, {os.cpu_count()} processors",
    }
    return _show(report, mode)


def _start() -> None:
    """Apply the environment and the limits; called once, at import."""
    forced = os.environ.get("FASTOPT_ISA")
    if forced:
        try:
            kernels.select(forced)
        except ValueError as error:
            raise ImportError(f"FASTOPT_ISA: {error}", name="fastopt") from None
    sweep.set_threads(min(LIMITS.values()))
    sweep.set_scarce(2 * LIMITS.get("cgroup quota", math.inf) < next(iter(LIMITS.values())))
    prefetch = os.environ.get("FASTOPT_PREFETCH")
    if prefetch:
        if prefetch not in ("0", "1"):
            raise ImportError(f"FASTOPT_PREFETCH is {prefetch!r}: wanted 0 or 1", name="fastopt")
        sweep.set_prefetch(prefetch == "1")
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(before=lock.before_fork, after_in_parent=lock.after_fork_in_parent)
        os.register_at_fork(after_in_child=sweep.after_fork_in_child)
        os.register_at_fork(after_in_child=lock.after_fork_in_child)


_start()
