"""Step times under pytest-benchmark: ``pytest bench``; with ``--benchmark-disable`` every step is taken once.

It keeps and compares runs of its own. Peers, roofs and turns are those of `python -m bench`.
"""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("pytest_benchmark")

from bench.handwritten import Naive, Out
from bench.peers import Fastopt, Peer, Twin
from bench.steps import gather
from bench.workloads import WORKLOADS, Data, all_cases


@pytest.mark.benchmark(min_rounds=5, max_time=0.1, min_time=0.0002, disable_gc=True)
@pytest.mark.parametrize("workload", ["1", "1e3", "1e5", "1e6", "mlp", "thousand-small"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("case", list(all_cases()))
@pytest.mark.parametrize("form", [Twin, Naive, Out, Fastopt])
def test_step(benchmark: Any, form: type[Peer], case: str, dtype: str, workload: str) -> None:
    known = all_cases()[case]
    (_fast, *others), skipped = gather(known, Data(WORKLOADS[workload], dtype, known.state), [form])
    if not others:
        pytest.skip(skipped[form.name])
    benchmark.group = f"{case} {dtype} {workload}"
    contender = others[0]
    benchmark(contender.take if contender.between else contender.step)
