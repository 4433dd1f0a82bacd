"""Step times under pytest-benchmark: ``pytest bench``. The groups put fastopt beside its NumPy forms, slowest last.

``pytest bench --benchmark-disable`` takes every step once, as a smoke test. The verdicts, with rooflines and peers,
interleaved round by round, are those of `python -m bench`; both share their workloads and peers.
"""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("pytest_benchmark")

from bench.peers import Naive, Out, Twin, check
from bench.runner import Contender, Unavailable
from bench.steps import prepared
from bench.workloads import CASES, WORKLOADS, Data, all_cases

# fastopt last: it has the ratios
FORMS = {"NumPy twin": Twin, "NumPy naive": Naive, "NumPy out=": Out, "fastopt": None}
MEDIANS: dict[str, dict[str, float]] = {}


def contender(form: str, case: str, dtype: str, workload: str) -> Contender:
    known = all_cases()[case]
    data = Data(WORKLOADS[workload], dtype, known.state)
    fast = prepared(data, known)
    peer = FORMS[form]
    if peer is None:
        return fast
    if case in CASES:
        check(peer, known, dtype)
    return peer(known, data)


@pytest.mark.benchmark(min_rounds=5, max_time=0.1, min_time=0.0002, disable_gc=True)
@pytest.mark.parametrize("workload", ["1", "1e3", "1e5", "1e6", "mlp", "thousand-small"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("case", list(all_cases()))
@pytest.mark.parametrize("form", list(FORMS))
def test_step(benchmark: Any, form: str, case: str, dtype: str, workload: str) -> None:
    try:
        step = contender(form, case, dtype, workload).step
    except Unavailable as reason:
        pytest.skip(str(reason))
    benchmark.group = f"{case} {dtype} {workload}"
    benchmark.name = form
    benchmark(step)
    if benchmark.stats is None:  # --benchmark-disable
        return
    medians = MEDIANS.setdefault(benchmark.group, {})
    medians[form] = benchmark.stats.stats.median
    if form == "fastopt":
        benchmark.extra_info |= {f"times faster than {other}": s / medians[form] for other, s in medians.items()}
