"""The benchmark code runs and computes what it says: quick, and without a look at the clock."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent
if not (ROOT / "bench" / "__main__.py").exists():
    pytest.skip("the benchmarks are in the repository only", allow_module_level=True)
for needed in ("click", "rich", "matplotlib"):
    pytest.importorskip(needed, reason="the benchmarks need the extra [bench]")


@pytest.fixture(autouse=True, scope="module")
def _bench_is_importable() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT))
        yield


def test_resnet50_has_its_161_shapes_and_25557032_parameters() -> None:
    from bench.workloads import WORKLOADS, elements

    assert len(WORKLOADS["resnet50"]) == 161
    assert elements("resnet50") == 25_557_032


def test_gpt2_small_has_its_148_shapes_and_124439808_parameters() -> None:
    from bench.workloads import WORKLOADS, elements

    assert len(WORKLOADS["gpt2-small"]) == 148
    assert elements("gpt2-small") == 124_439_808


def test_every_rule_of_the_engine_is_measured() -> None:
    from bench.steps import prepared
    from bench.workloads import Data, all_cases
    from fastopt.engine import kernels

    # the same loop with an option more, and the two that go to the looked-ahead point and back
    unmeasured = {"rmsprop_centered_momentum", "lookahead", "restore"}
    measured = set()
    for case in all_cases().values():
        optimizer = prepared(Data([(3,)], "float32", case.state), case).optimizer
        measured |= {type(optimizer).rule(group) for group in optimizer.param_groups}
    assert measured | unmeasured == set(kernels.rules())


@pytest.mark.parametrize("form", ["Fastopt", "Twin", "Naive", "Out"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_numpy_forms_compute_the_papers_formula(form: str, dtype: str) -> None:
    from bench import peers
    from bench.runner import Unavailable
    from bench.workloads import CASES

    found = {}
    for case in CASES.values():
        try:
            found[case.name] = peers.check(getattr(peers, form), case, dtype)
        except Unavailable as reason:
            assert "written in this form" in str(reason)  # noqa: PT017
    assert {"sgd", "momentum", "nesterov", "rmsprop", "adam", "adamw", "amsgrad"} <= set(found)
    assert set(found.values()) == {"paper"}


def test_a_peer_that_computes_something_else_is_told() -> None:
    from bench import peers
    from bench.runner import Unavailable
    from bench.workloads import CASES

    class Wrong(peers.Naive):
        def step(self) -> None:
            super().step()
            self.data.params[1] += 1e-3

    class Hat(peers.Naive):
        def step(self) -> None:
            self.t += 1
            for p, g, s in zip(self.data.params, self.data.grads, self.slots, strict=True):
                s[0] = 0.9 * s[0] + 0.1 * g
                s[1] = 0.999 * s[1] + 0.001 * g * g
                p -= 1e-3 * (1 - 0.999**self.t) ** 0.5 / (1 - 0.9**self.t) * s[0] / (np.sqrt(s[1]) + 1e-8)

    assert peers.check(Hat, CASES["adam"], "float64") == "eps-hat"
    with pytest.raises(Unavailable, match="computes something else: off by"):
        peers.check(Wrong, CASES["adam"], "float64")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_roof_sweeps_every_array_and_changes_nothing(dtype: str) -> None:
    from bench.roofline import GradientRead, roofs
    from bench.runner import Unavailable
    from bench.workloads import Data

    for state in ((), ("m",), ("m", "v"), ("m", "v", "x")):
        data = Data([(1,), (7, 9), (5000,), (0,), (130,)], dtype, state)
        before = [p.copy() for p in data.params]
        try:
            sweeps = [*roofs(data, 3), GradientRead(data, 1), GradientRead(data, 2)]
        except Unavailable as reason:
            pytest.skip(str(reason))
        for sweep in sweeps:
            assert sweep.run(2) > 0
        # with a factor of one instead of nothing, each element of p and of state moves by its gradient, once
        for sweep in sweeps[:-2]:
            fresh = Data([(1,), (7, 9), (5000,), (0,), (130,)], dtype, state)
            pointers = [
                a.ctypes.data
                for arrays in zip(fresh.params, fresh.grads, *fresh.state.values(), strict=True)
                for a in arrays
            ]
            tensors, sizes, table, factor, *how = sweep.arguments
            sweep.call(tensors, sizes, type(table)(*pointers), type(factor)(1), *how, type(tensors)(1))
            for p, start, g in zip(fresh.params, before, fresh.grads, strict=True):
                np.testing.assert_array_almost_equal_nulp(p, start + g, 1)  # a fused multiply-add rounds once, as this
            for slot in fresh.state.values():
                for s, g in zip(slot, fresh.grads, strict=True):
                    np.testing.assert_array_equal(s, g)
        for p, start in zip(data.params, before, strict=True):
            np.testing.assert_array_equal(p, start)


def test_rounds_rotate_and_slow_contenders_join_fewer() -> None:
    from bench.runner import Contender, interleave

    order = []

    class Fake(Contender):
        def __init__(self, name: str, seconds: float) -> None:
            self.name, self.seconds = name, seconds

        def run(self, n: int) -> float:
            order.append(self.name)
            return self.seconds

    contenders = [Fake("a", 0.05), Fake("b", 0.05), Fake("slow", 0.3), Fake("too slow", 0.5)]
    timings = interleave(contenders, 0.0, rounds=(5, 5), pause=0.0)
    calibration = 2 * len(contenders)
    assert order[calibration:] == ["a", "b", "slow", "b", "a", "a", "b", "a", "b", "b", "slow", "a"]
    assert [list(timing.rounds) for timing in timings.values()] == [[0, 1, 2, 3, 4], [0, 1, 2, 3, 4], [0, 4], [-1]]
    assert timings["a"].quartiles() == (0.05, 0.05, 0.05)
    assert timings["too slow"].quartiles() == (0.5, 0.5, 0.5)


def test_ratios_are_taken_within_the_rounds() -> None:
    from bench.runner import Timing
    from bench.targets import _paired

    # The machine is half as fast in the last three rounds, which b missed two of: by their medians it would be ahead.
    a = Timing(rounds={0: 1.0, 1: 1.0, 2: 2.0, 3: 2.0, 4: 2.0})
    b = Timing(rounds={0: 1.1, 1: 1.1, 2: 2.2})
    assert b.quartiles()[1] < a.quartiles()[1]
    assert b.over(a) == pytest.approx(1.1)
    alone = Timing(rounds={-1: 3.0})  # never in the same round
    assert alone.over(a) == 1.5
    rows = [timing.row() for timing in (a, b, alone)]
    assert _paired(lambda x, y: y - x, rows[0], rows[1]) == pytest.approx(0.1e6)
    assert _paired(lambda x, y: y - x, rows[0], rows[2]) == pytest.approx(1.0e6)


def test_beside_busy_cores_means_are_compared() -> None:
    from bench.runner import Timing
    from bench.targets import verdicts

    # a typical block of "fastopt" is the faster one, and one of four stalls
    timings = {
        "fastopt": Timing(rounds=dict(enumerate([0.5, 0.5, 0.5, 10.5]))),
        "fastopt, 1 thread": Timing(rounds=dict(enumerate([1.0] * 4))),
    }
    rows = [{"condition": "busy", "workload": "1e5", "contender": n, **t.row()} for n, t in timings.items()]
    verdict = next(v for v in verdicts({"conditions": rows}) if v.what.startswith("all cores busy"))
    assert (verdict.measured, verdict.met) == ("3.00 × (1e5)", False)  # noqa: RUF001


@pytest.fixture(scope="module")
def results(_bench_is_importable: None, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A short run of everything that needs no peers."""
    from bench import conditions, loop, machine, peers, scaling
    from bench.__main__ import merge
    from bench.steps import cell
    from bench.workloads import CASES

    forms = [peers.Twin, peers.Naive, peers.Out]
    parts: list[dict[str, Any]] = [{"machine": machine.describe("a test")}]
    for workload in ("1", "1e3", "1e4", "mlp", "thousand-small"):
        rows, skipped = cell(CASES["adam"], "float32", workload, 2, 0.0, forms)
        parts += [{"steps": rows, "skipped": {peer: {reason: ["here"]} for peer, reason in skipped.items()}}]
    parts += [scaling.measure(["100", "1e3"], 2, 0.0), loop.measure(["8-16-1"], 0.0)]
    parts += [{"memory": conditions.memory("1e4"), "conditions": conditions.denormals(["1e3"], 0.0)}]
    return merge(parts)


def test_results_become_tables_plots_and_pages(results: dict[str, Any], tmp_path: Path) -> None:
    from rich.console import Console

    from bench import plots, report

    console = Console(width=140, record=True, file=io.StringIO())
    report.show(results, console)
    text = console.export_text()
    assert "Adam, float32, 2 threads: µs a step" in text
    assert "thousand-small" in text
    made = [picture.name for picture in plots.draw(results, tmp_path)]
    assert made == ["throughput.png", "speedup.png", "small-tensors.png", "scaling.png", "iteration.png"]
    page = tmp_path / "page.md"
    page.write_text(
        "Before\n<!-- bench:headline -->\nold\n<!-- /bench -->\n<!-- bench:loop -->\n<!-- /bench -->\nAfter\n"
    )
    for _ in range(2):  # the marks stay
        assert report.fill(page, results, tmp_path) == 2
    assert "| thousand-small |" in page.read_text()
    assert "old" not in page.read_text()
    page.write_text("<!-- bench:nonsense -->\n<!-- /bench -->\n")
    with pytest.raises(ValueError, match="nothing is called 'nonsense'"):
        report.fill(page, results, tmp_path)


def test_compare_gives_ratios(results: dict[str, Any], tmp_path: Path) -> None:
    from bench.compare import compare

    slower = json.loads(json.dumps(results))
    for row in slower["steps"]:
        for key in ("us", "q1", "q3"):
            row[key] *= 2
    a, b = tmp_path / "a.json", tmp_path / "b.json"
    a.write_text(json.dumps(results))
    b.write_text(json.dumps(slower))
    sheet = compare(a, b, "fastopt", against_roof=False)
    assert [row[3] for row in sheet.rows] == ["2.00"] * 5
    assert {row[3] for row in compare(a, b, "all", against_roof=True).rows} <= {"1.00"}


def test_the_docs_page_has_no_unknown_marks(results: dict[str, Any]) -> None:
    from bench.report import BLOCK, CAPTIONS, SHEETS

    page = (ROOT / "docs" / "benchmarks.md").read_text()
    known = {make.__name__ for make in SHEETS} | {*CAPTIONS, "machine"}
    names = {match[2] for match in BLOCK.finditer(page)}
    assert names
    assert names <= known


def test_workloads_asked_for_are_measured_whatever_the_amount() -> None:
    from bench.__main__ import LISTS, SINGLE, Run

    short, full = ({"only": (), "amount": amount, "threads": 1, "until": 0.0} for amount in ("short", "full"))
    assert Run(**short).workloads(["1"], ["1e3", "1e5"]) == ["1e3", "1e5"]
    assert Run(**full).workloads(["1"], ["1e3", "1e5"]) == SINGLE + LISTS
    for how in short, full:
        assert Run(**{**how, "only": ("resnet50", "1e3")}).workloads(["1"], ["1e3", "1e5"]) == ["resnet50", "1e3"]


def test_what_was_measured_is_kept_when_a_later_part_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from click import ClickException
    from click.testing import CliRunner

    from bench import __main__ as command

    def measured(name: str, run: Any) -> dict[str, Any]:
        if name == "serial":
            raise ClickException("no more")
        return {"steps": [name], "skipped": {}}

    monkeypatch.setattr(command, "measured", measured)
    arguments = ["--part", "sizes", "--part", "serial", "--out", str(tmp_path)]
    assert CliRunner().invoke(command.main, arguments).exit_code == 1
    found = json.loads((tmp_path / "bench.json").read_text())
    assert found["steps"] == ["sizes"]
    assert found["load"].keys() == {"sizes"}
    assert found["machine"]["command"] == "python -m bench --minutes 5 --part sizes --part serial"
