"""The benchmark code runs and computes what it says: quick, and without a look at the clock."""

from __future__ import annotations

import ctypes
import io
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastopt

pytest.importorskip("bench", reason="the benchmarks are in the repository only")
pytest.importorskip("click", reason="the benchmarks need the extra [bench]")
pytest.importorskip("rich", reason="the benchmarks need the extra [bench]")
pytest.importorskip("matplotlib", reason="the benchmarks need the extra [bench]")

from bench import conditions, handwritten, loop, machine, paper, peers, report, roofline, steps
from bench.paper import check
from bench.parts import add
from bench.runner import Contender, Timing, Unavailable, interleave, own_process
from bench.workloads import CASES, LISTS, SINGLE, WORKLOADS, Data, all_cases, elements

ROOT = Path(__file__).parent.parent


def test_resnet50_has_its_161_shapes_and_25557032_parameters() -> None:
    assert len(WORKLOADS["resnet50"]) == 161
    assert elements("resnet50") == 25_557_032


def test_gpt2_small_has_its_148_shapes_and_124439808_parameters() -> None:
    assert len(WORKLOADS["gpt2-small"]) == 148
    assert elements("gpt2-small") == 124_439_808


def test_every_rule_of_the_engine_is_measured() -> None:
    # the same loops with an option more, what follows NumPy's part of Muon or comes with ema_decay, and the two to the
    # looked-ahead point and back
    unmeasured = {"rmsprop_centered_momentum", "amsbound", "muon", "ema", "lookahead", "restore"}
    measured = set()
    for case in all_cases().values():
        optimizer = steps.prepared(Data([(3,)], "float32", case.state), case).optimizer
        measured |= {type(optimizer).rule(group) for group in optimizer.param_groups}
    assert measured | unmeasured == set(fastopt.show_config("dicts")["rules"].split(", "))


# ----------------------------------------------------------------------------------------------------------- contenders


@pytest.mark.parametrize("form", [peers.Fastopt, peers.Twin, handwritten.Naive, handwritten.Out])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_numpy_forms_compute_the_papers_formula(form: type[peers.Peer], dtype: str) -> None:
    found = {}
    for case in CASES.values():
        try:
            found[case.name] = check(form, case, dtype)
        except Unavailable as reason:
            assert "written in this form" in str(reason)  # noqa: PT017
    assert {"sgd", "momentum", "nesterov", "nag", "rmsprop", "adam", "adamw", "amsgrad"} <= set(found)
    assert set(found.values()) == {"paper"}


def test_a_peer_that_computes_something_else_is_told() -> None:
    class Wrong(handwritten.Naive):
        def step(self) -> None:
            super().step()
            self.data.params[1] += 1e-3

    class Hat(handwritten.Naive):
        def step(self) -> None:
            self.t += 1
            for p, g, s in self.work:
                s[0] = 0.9 * s[0] + 0.1 * g
                s[1] = 0.999 * s[1] + 0.001 * g * g
                p -= 1e-3 * (1 - 0.999**self.t) ** 0.5 / (1 - 0.9**self.t) * s[0] / (np.sqrt(s[1]) + 1e-8)

    assert check(Hat, CASES["adam"], "float64") == "eps-hat"
    with pytest.raises(Unavailable, match="computes something else: off by"):
        check(Wrong, CASES["adam"], "float64")


def test_where_there_is_no_formula_the_class_is_the_formula() -> None:
    class Slower(peers.Twin):
        """Another formula from the third step on."""

        def prepare(self) -> None:
            super().prepare()
            inner, steps = self.step, iter(range(100))
            self.step = lambda: inner() and next(steps) == 2 and self.optimizer.param_groups[0].update(lr=9e-4)

    for name in ("lion", "nadam", "adopt"):
        case = all_cases()[name]
        assert case.name not in CASES
        assert check(peers.Fastopt, case, "float32") == "paper"
        assert check(Slower, case, "float32") == paper.OTHER


def test_numbers_that_a_class_keeps_are_no_arrays_that_a_step_moves() -> None:
    case = all_cases()["nadam"]
    fast = steps.prepared(Data([(5,), (7,)], "float32"), case)
    assert set(fast.optimizer.state["params[0]"]) > {"exp_avg", "exp_avg_sq"}
    assert list(fast.data.state) == ["exp_avg", "exp_avg_sq"]
    assert fast.data.bytes_moved == 12 * 28


def test_what_a_first_pass_reads_is_counted_and_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from bench import roofline

    (tmp_path / "rules.c").write_text(
        "SUMS(adam, (v), (beta2), (uu))\n{\n    const real g = GRAD(LOAD(p));\n    ADD(uu, g);\n}\n"
        "SUMS(other, (m, v), (), (pp))\n{\n    const real p = LOAD(p), g = GRAD(p);\n}\n"
    )
    monkeypatch.setattr(roofline, "RULES", tmp_path / "rules.c")
    assert [roofline.first_pass(rule) for rule in ("adam", "other", "lion")] == [
        {"g", "v"},
        {"p", "g", "m", "v"},
        set(),
    ]
    data = steps.prepared(Data([(4099,), (3, 5)], "float32")).data
    assert (list(data.state), data.first) == (["exp_avg", "exp_avg_sq"], [1, 3])
    assert data.bytes_moved == (4099 + 15) * 4 * (7 + 2)
    before = [array.copy() for array in [*data.params, *data.state["exp_avg"], *data.state["exp_avg_sq"]]]
    try:
        sweeps = roofline.roofs(data, 3)
    except Unavailable as reason:
        pytest.skip(str(reason))
    assert all(sweep.run(2) > 0 for sweep in sweeps)
    assert [sweep.arguments[5].value for sweep in sweeps] == [0b1010] * len(sweeps)
    arrays = [data.params[0], data.grads[0], *(slot[0] for slot in data.state.values())]
    look = roofline.library("float32", 2).look
    look.restype = ctypes.c_float
    pointers = (ctypes.c_void_p * 4)(*[array.ctypes.data for array in arrays])
    found = look(pointers, ctypes.c_size_t(7), ctypes.c_size_t(4000), ctypes.c_uint(0b1010))
    # 8000 sums in float32, in another order than NumPy's.
    assert found == pytest.approx(sum(x[7:4007].sum(dtype="float64") for x in arrays[1::2]), rel=1e-4, abs=1e-4)
    for old, new in zip(before, [*data.params, *data.state["exp_avg"], *data.state["exp_avg_sq"]], strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize("form", [peers.Fastopt, peers.Twin])
def test_nag_looks_ahead_before_each_step_and_is_timed_without_that(
    form: type[peers.Peer], monkeypatch: pytest.MonkeyPatch
) -> None:
    events = []
    contender = form(CASES["nag"], Data([(3,)], "float32", ("momentum_buffer",)))
    look = contender.optimizer.lookahead

    @contextmanager
    def lookahead() -> Iterator[None]:
        events.append("look")
        with look():
            yield

    monkeypatch.setattr(contender.optimizer, "lookahead", lookahead)
    contender.step = lambda: events.append("step")
    monkeypatch.setattr("bench.runner.perf_counter", lambda: events.append("clock") or 0.0)
    contender.run(2)
    assert events == ["look", "clock", "step", "clock"] * 2
    contender.take()
    assert events[-2:] == ["look", "step"]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_roof_sweeps_every_array_and_changes_nothing(dtype: str) -> None:
    from bench.roofline import Roof, roofs

    shapes = [(1,), (7, 9), (5000,), (0,), (130,)]
    for state in ((), ("m",), ("m", "v"), ("m", "v", "x")):
        data = Data(shapes, dtype, state)
        before = [p.copy() for p in data.params]
        try:
            sweeps = roofs(data, 3)
        except Unavailable as reason:
            pytest.skip(str(reason))
        for sweep in sweeps:
            assert sweep.run(2) > 0
        for p, start in zip(data.params, before, strict=True):
            np.testing.assert_array_equal(p, start)
        # with a factor of one instead of nothing, each element of p and of state moves by its gradient, once
        for threads, prefetch in ((1, False), (1, True), (3, False), (3, True)):
            fresh = Data(shapes, dtype, state)
            Roof(fresh, threads, prefetch, factor=1.0).run(1)
            for p, start, g in zip(fresh.params, before, fresh.grads, strict=True):
                np.testing.assert_array_almost_equal_nulp(p, start + g, 1)  # a fused multiply-add rounds once, as this
            for slot in fresh.state.values():
                for s, g in zip(slot, fresh.grads, strict=True):
                    np.testing.assert_array_equal(s, g)


# --------------------------------------------------------------------------------------------------------------- timing


def test_rounds_rotate_and_slow_contenders_join_fewer() -> None:
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
    # The machine is half as fast in the last three rounds, which b missed two of: by their medians it would be ahead.
    a = Timing(rounds={0: 1.0, 1: 1.0, 2: 2.0, 3: 2.0, 4: 2.0})
    b = Timing(rounds={0: 1.1, 1: 1.1, 2: 2.2})
    assert b.quartiles()[1] < a.quartiles()[1]
    assert b.over(a) == pytest.approx(1.1)
    assert Timing(rounds={-1: 3.0}).over(a) == 1.5  # never in the same round


def test_beside_busy_cores_means_are_given(monkeypatch: pytest.MonkeyPatch) -> None:
    # a typical block is fast, and one of four stalls
    timing = Timing(rounds=dict(enumerate([0.5, 0.5, 0.5, 10.5])))
    monkeypatch.setattr(conditions, "interleave", lambda contenders, seconds: {"fastopt": timing})
    (typical,) = conditions.timed("gap", "1e5", [], 0.0)
    (mean,) = conditions.timed("busy", "1e5", [], 0.0, means=True)
    assert (typical["us"], mean["us"]) == (0.5e6, 3.0e6)


@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("new", [False, True])
def test_after_rest_only_the_last_step_is_timed_and_nothing_warms_up(
    new: bool, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = []

    class Optimizer:
        data = Data([(1,)], "float32")

        def __init__(self, case: Any, data: Data) -> None:
            events.append("new")

        def step(self) -> None:
            events.append("step")

    monkeypatch.setattr(conditions, "Fastopt", Optimizer)
    monkeypatch.setattr(conditions, "sleep", lambda seconds: events.append("rest"))
    monkeypatch.setattr("bench.runner.perf_counter", lambda: events.append("clock") or 0.0)
    contender = conditions.AfterRest(Optimizer(None, Optimizer.data), new, steps, lambda: events.append("work"))
    events.clear()
    contender.run(2)
    assert events == [*["new"] * new, "rest", *["step", "work"] * (steps - 1), "clock", "step", "clock"] * 2
    assert contender.warm_up == peers.Limited(contender, 1).warm_up == 0
    assert peers.Limited(contender, 1).most == contender.most


def test_no_warm_up_means_no_step_before_a_measurement() -> None:
    counts = []

    class Cold(Contender):
        warm_up, most = 0, 3

        def run(self, n: int) -> float:
            counts.append(n)
            return 1e-6

    interleave([Cold("cold", lambda: None)], 0.0, rounds=(2, 2), pause=0.0)
    assert counts == [1, 1, 3, 3]  # twice to calibrate, then the two rounds


def test_one_thread_is_what_a_limited_contender_gets() -> None:
    seen = []
    before = fastopt.get_num_threads()
    peers.Limited(Contender("x", lambda: seen.append(fastopt.get_num_threads())), 1).run(1)
    assert (seen, fastopt.get_num_threads()) == ([1], before)


# ----------------------------------------------------------------------------------------------- processes of their own


class Elsewhere(handwritten.Naive):
    """A peer that disturbs others, slower than all by what is easily seen."""

    name = "elsewhere"
    library = "a library"

    def step(self) -> None:
        for _ in range(20):
            super().step()


class Confessing(Elsewhere):
    name = "confessing"

    def prepare(self) -> None:
        raise Unavailable(f"in process {os.getpid()}")


class Dying(Elsewhere):
    name = "dying"
    library = "another library"

    def prepare(self) -> None:
        os._exit(3)


@pytest.fixture
def _processes_end() -> Iterator[None]:
    yield
    steps.end_processes()


@pytest.mark.usefixtures("_processes_end")
def test_who_disturbs_others_is_measured_in_a_process_of_its_own_beside_fastopt() -> None:
    case = all_cases()["adam"]
    rows, skipped = steps.cell(case, "float32", "1e3", 1, 0.0, [handwritten.Naive, Confessing])
    assert [row["contender"] for row in rows][:2] == ["fastopt", "NumPy naive"]
    assert re.fullmatch(r"in process \d+", skipped["confessing"])
    first = skipped["confessing"]
    assert first != f"in process {os.getpid()}"
    assert steps.cell(case, "float32", "1e3", 1, 0.0, [Confessing])[1]["confessing"] == first  # which stays
    _, skipped = steps.cell(case, "float32", "1e3", 1, 0.0, [handwritten.Naive, Dying, Confessing])
    assert skipped == {"another library": "its process ended while it was measured", "confessing": first}
    assert list(steps.PROCESSES) == ["a library"]


def test_the_ratio_of_who_is_measured_elsewhere_is_to_the_fastopt_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def together(*how: Any) -> tuple[list[dict[str, Any]], dict[str, str]]:
        *_, peers_of_it, with_roof = how
        us = 10.0 if with_roof else 16.0  # fastopt is disturbed as well
        rows = [{"contender": "fastopt", "us": us, "x_roof": 1.5 if with_roof else None, "x_fastopt": 1.0}]
        return rows + [{"contender": p.name, "us": 40.0, "x_roof": None, "x_fastopt": 40 / us} for p in peers_of_it], {}

    monkeypatch.setattr(steps, "together", together)
    monkeypatch.setattr(steps, "apart", lambda library, *how: together(*how))
    rows, _ = steps.cell(CASES["adam"], "float32", "1e3", 1, 0.0, [Elsewhere])
    assert [(row["contender"], row["us"], row["x_fastopt"], row["x_roof"]) for row in rows] == [
        ("fastopt", 10.0, 1.0, 1.5),
        ("elsewhere", 40.0, 2.5, 3.75),
    ]


def test_slow_peers_are_left_out_where_there_are_many_more_elements(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def cell(case: Any, dtype: str, workload: str, threads: int, seconds: float, these: Any) -> Any:
        asked.append((workload, [peer.name for peer in these]))
        return [{"contender": "NumPy naive", "x_fastopt": 21.0}, {"contender": "numba", "x_fastopt": 19.0}], {}

    monkeypatch.setattr(steps, "cell", cell)
    peers = [handwritten.Naive, handwritten.Numba]
    workloads = ["1e6", "1e7", "resnet50", "1e8"]
    found = steps.measure(["adam"], ["float32"], workloads, 1, 0.0, float("inf"), patience=20, peers=peers)
    both = ["NumPy naive", "numba"]
    assert asked == [("1e6", both), ("1e7", both), ("resnet50", both), ("1e8", ["numba"])]
    (reason,) = found["skipped"]["NumPy naive"]
    assert reason.startswith("20 times as slow as fastopt")
    none = steps.measure(["adam"], ["float32"], ["1e6"], 1, 0.0, until=0.0)
    assert (none["steps"], list(none["skipped"])) == ([], ["everything"])


def surroundings() -> tuple[int, str | None]:
    return machine.cores(), os.environ.get("OMP_NUM_THREADS")


def test_a_part_with_one_thread_has_one_core_and_its_chatter_goes_to_the_log(tmp_path: Path) -> None:
    from bench.runner import one_core

    before = surroundings()
    log = tmp_path / "log"
    with one_core(), own_process(log) as process:
        assert process.submit(surroundings).result() == (1, "1")
        process.submit(os.write, 2, b"chatter").result()
    assert surroundings() == before
    assert log.read_text() == "chatter"


# -------------------------------------------------------------------------------------------------------------- results


@pytest.fixture(scope="module")
def results() -> dict[str, Any]:
    """A short run of everything that needs no peers."""
    found: dict[str, Any] = {"machine": machine.describe("a test")}
    forms = [peers.Twin, handwritten.Naive, handwritten.Out]
    with pytest.MonkeyPatch.context() as patch:
        # Where others want the cores, two threads wait for each other at every one of thousands of repetitions.
        patch.setattr(steps, "roofs", lambda data, threads: roofline.roofs(data, 1))
        for workload in ("1", "1e3", "1e4", "mlp", "thousand-small"):
            rows, skipped = steps.cell(CASES["adam"], "float32", workload, 2, 0.0, forms)
            add(found, {"steps": rows, "skipped": {peer: {reason: ["here"]} for peer, reason in skipped.items()}})
    add(found, steps.scaling(["100", "1e3"], 2, 0.0))
    add(found, loop.measure(["8-16-1"], 0.0))
    add(found, {"conditions": conditions.denormals(["1e3"], 0.0)})
    add(found, {"first-steps": conditions.first_steps(["100"], ["65536"], 0.0)})
    for name, workload in (("lion", "1e3"), ("lion", "thousand-small"), ("sgd", "1e3")):
        rows, _ = steps.cell(all_cases()[name], "float32", workload, 2, 0.0, [peers.Twin])
        add(found, {"classes": rows})
    return found


def test_first_steps_are_those_of_new_and_rested_optimizers_with_all_threads_and_one(results: dict[str, Any]) -> None:
    rows = results["first-steps"]
    named = dict.fromkeys((row["condition"], row["workload"]) for row in rows)
    assert list(named) == [
        ("new optimizer, first step", "100"),
        ("new optimizer, second step", "100"),
        ("after 8 ms of rest, first step", "100"),
        ("after 8 ms of rest, second step", "100"),
        ("rest, step, 1 ms of NumPy, step", "65536"),
    ]
    assert [row["contender"] for row in rows] == ["fastopt", "fastopt, 1 thread"] * 5


def test_results_become_tables_that_fit_into_80_columns_and_plots(results: dict[str, Any], tmp_path: Path) -> None:
    from rich.console import Console

    from bench import plots

    console = Console(width=80, record=True, file=io.StringIO())
    report.show(results, console)
    text = console.export_text()
    assert "Adam, float32, 2 threads" in text
    cells = set(text.split())
    for make in report.SHEETS:
        sheet = make(results)
        for line in sheet.rows:
            assert {word for cell in line for word in cell.split()} <= cells  # nothing is cut off
        if sheet.rows:
            assert sum(sheet.widths(80)) <= 80
    made = [picture.name for picture in plots.draw(results, tmp_path)]
    assert made == ["throughput.png", "speedup.png", "small-tensors.png", "scaling.png", "iteration.png"]


def test_a_class_has_one_line_with_all_its_workloads(results: dict[str, Any]) -> None:
    rows = json.loads(json.dumps(results["classes"]))
    torch = {**rows[1], "contender": "torch fused", "x_fastopt": 2.0, "formula": paper.OTHER}
    rows += [torch, {**torch, "contender": "torch", "x_fastopt": 3.0, "formula": "paper"}]
    rows[0]["passes"] = 2
    serial = [{**row, "threads": 1, "x_roof": 0.0, "x_fastopt": 0.0} for row in rows]
    sheet = report.classes({"classes": rows + serial})
    assert sheet.title == "Every optimizer, float32, 2 threads: time of a step over others"
    ones = {(r["optimizer"], r["workload"], r["contender"]): r for r in rows}
    lion, sgd = sheet.rows
    assert lion[:2] == ["Lion²", "4.00"]
    for column, workload in ((2, "1e3"), (6, "thousand-small")):
        assert lion[column] == report.number(ones["Lion", workload, "fastopt"]["x_roof"])
        assert lion[column + 1] == report.number(ones["Lion", workload, "NumPy twin"]["x_fastopt"])
    none = report.number(None)
    assert (lion[4:6], lion[8:]) == (["2.00¹", none], [none, none])
    assert sgd[:2] == ["SGD", "0"]
    assert sgd[6:] == [none] * 4


def test_columns_that_do_not_fit_go_to_another_table() -> None:
    sheet = report.Sheet("t", ["name", *"abcdef"], [["a long name", *["1,234,567"] * 6]])
    assert [len(table.columns) for table in sheet.rich(35)] == [3, 3, 3]  # the first column is in all
    assert [len(table.columns) for table in sheet.rich(200)] == [7]
    assert [len(table.columns) for table in report.Sheet("empty", ["a", "b"]).rich(80)] == [2]


def test_a_page_gets_new_tables_and_keeps_those_without_results(results: dict[str, Any]) -> None:
    page = "A\n<!-- bench:speed -->\nold\n<!-- /bench -->\nB\n<!-- bench:skipped -->\nolder\n<!-- /bench -->\nC\n"
    new = report.fill(page, {**results, "skipped": {}})
    assert f"| {report.label('thousand-small')} |" in new
    assert "old\n" not in new
    assert "\nolder\n" in new
    assert report.fill(new, {**results, "skipped": {}}) == new  # the marks stay


def test_the_pages_have_no_unknown_marks() -> None:
    known = {make.__name__ for make in report.SHEETS} | {"machine"}
    for page in (ROOT / "docs" / "benchmarks.md", ROOT / "README.md"):
        names = {match[2] for match in report.BLOCK.finditer(page.read_text())}
        assert names
        assert names <= known


def test_compare_gives_ratios(results: dict[str, Any], tmp_path: Path) -> None:
    from bench.compare import compare

    slower = json.loads(json.dumps(results))
    for part in ("steps", "loop", "first-steps"):
        for row in slower[part]:
            for key in ("us", "q1", "q3"):
                row[key] *= 2
    a, b = tmp_path / "a.json", tmp_path / "b.json"
    a.write_text(json.dumps(results))
    b.write_text(json.dumps(slower))
    sheet = compare(a, b, "fastopt", against_roof=False)
    ratios = {row[0]: row[3] for row in sheet.rows}
    assert ratios["steps adam float32 1,000 fastopt 2"] == "2.00"
    assert ratios["loop 8-16-1 fastopt"] == "2.00"
    assert ratios["first-steps new optimizer, second step 100 fastopt"] == "2.00"
    assert ratios["scaling adam float32 1,000 fastopt 2"] == "1.00"
    assert {row[3] for row in compare(a, b, "all", against_roof=True).rows} <= {"1.00"}


# -------------------------------------------------------------------------------------------------------------- the run


def test_workloads_asked_for_are_measured_whatever_the_amount() -> None:
    from bench.parts import Run

    short, full = ({"only": (), "amount": amount, "until": 0.0} for amount in ("short", "full"))
    assert Run(**short).workloads(["1"], ["1e3", "1e5"]) == ["1e3", "1e5"]
    assert Run(**full).workloads(["1"], ["1e3", "1e5"]) == SINGLE + LISTS
    for how in short, full:
        assert Run(**{**how, "only": ("resnet50", "1e3")}).workloads(["1"], ["1e3", "1e5"]) == ["resnet50", "1e3"]


def test_what_was_measured_is_kept_when_a_later_part_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from click import ClickException
    from click.testing import CliRunner

    from bench import __main__ as command

    def measured(name: str, run: Any, log: Path) -> dict[str, Any]:
        if name == "serial":
            raise ClickException("no more")
        return {"steps": [name], "skipped": {}}

    monkeypatch.setattr(command, "measured", measured)
    arguments = ["--part", "sizes", "--part", "serial", "--out", str(tmp_path)]
    assert CliRunner().invoke(command.main, arguments).exit_code == 1
    found = json.loads((tmp_path / "bench.json").read_text())
    assert found["steps"] == ["sizes"]
    assert found["load"].keys() == {"sizes"}
    assert found["machine"]["command"] == "python -m bench --minutes 15 --part sizes --part serial"


def test_results_of_parts_are_joined() -> None:
    found: dict[str, Any] = {"steps": [1], "skipped": {"torch": {"why": ["a"]}}}
    add(found, {"steps": [2], "skipped": {"torch": {"why": ["b"], "else": ["c"]}}})
    assert found == {"steps": [1, 2], "skipped": {"torch": {"why": ["a", "b"], "else": ["c"]}}}
