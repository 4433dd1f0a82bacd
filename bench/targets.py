"""What fastopt must reach, as data, and the verdict on each line: target beside measured."""

# ruff: noqa: RUF001 - the multiplication sign is meant
from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from operator import itemgetter, truediv
from statistics import fmean, median
from typing import Any

Results = dict[str, Any]
NUMPY = ("NumPy naive", "NumPy out=", "NumPy twin")
HAND_WRITTEN = ("numba", "numba parallel")


@dataclass(frozen=True)
class Verdict:
    what: str
    target: str
    measured: str
    met: bool | None  # None: not measured in this run
    by_ratio: bool = False  # a limit in us is kept in units of numba's time


# Adam, float32, all threads: for each workload what the time is compared with, and the ratio or the us allowed.
HEADLINE: dict[str, tuple[str, float]] = {
    "1": ("us", 1.0),
    "1e3": ("us", 1.4),
    "1e4": ("numba", 0.95),
    "1e5": ("numba", 1.0),
    "1e6": ("roof", 1.03),
    "1e7": ("roof", 1.15),
    "1e8": ("roof", 1.05),
    "mlp": ("us", 60.0),
    "thousand-small": ("us", 45.0),
    "resnet50": ("roof", 1.10),
    "gpt2-small": ("roof", 1.06),
}


# Where us are allowed: numba's on the machine that these targets were set on. On another one they are another target,
# so the verdict tells what fastopt takes in units of numba as well.
NUMBA_THERE = {"1": 3.1, "1e3": 3.4, "mlp": 74.0, "thousand-small": 802.0}


def number(x: float | None) -> str:
    """Three digits, thousands apart."""
    if x is None or x != x:
        return "–"
    if x == 0:
        return "0"
    digits = max(0, 2 - int(f"{abs(x):e}".split("e")[1]))
    return f"{x:,.{digits}f}"


def select(results: Results, part: str = "steps", **labels: Any) -> dict[str, dict[str, Any]]:
    """Contender -> row, of the rows with these labels."""
    return {
        row["contender"]: row
        for row in results.get(part, [])
        if all(row.get(key) == value for key, value in labels.items())
    }


def best(rows: dict[str, dict[str, Any]], names: Callable[[str, dict[str, Any]], bool]) -> dict[str, Any] | None:
    """The row of the fastest of the chosen contenders."""
    chosen = [row for name, row in rows.items() if names(name, row)]
    return min(chosen, key=itemgetter("x_fastopt"), default=None)


def headline(results: Results) -> Iterator[tuple[str, dict[str, Any]]]:
    """The table of targets, a line a workload: best packaged peer, best hand-written one, roof, fastopt, verdict."""
    threads = max((row["threads"] for row in results.get("steps", [])), default=1)
    for workload in dict.fromkeys(row["workload"] for row in results.get("steps", [])):
        rows = select(results, case="adam", dtype="float32", workload=workload, threads=threads)
        if "fastopt" not in rows:
            continue
        line = {
            "packaged": best(rows, lambda name, row: row["packaged"]),
            "numba": best(rows, lambda name, row: name in HAND_WRITTEN),
            "numpy": best(rows, lambda name, row: name in NUMPY),
            "roof": rows["roof"]["us"] if "roof" in rows else None,
            "fastopt": rows["fastopt"]["us"],
            "x_roof": rows["fastopt"]["x_roof"],
        }
        yield workload, {**line, "verdict": _headline_verdict(workload, line)}


def _headline_verdict(workload: str, line: dict[str, Any]) -> Verdict | None:
    if workload not in HEADLINE:
        return None
    what, limit = HEADLINE[workload]
    if what == "us":
        target, measured = f"≤ {limit:g} µs", f"{number(line['fastopt'])} µs"
        met = line["fastopt"] <= limit
        if line["numba"]:
            share, wanted = 1 / line["numba"]["x_fastopt"], limit / NUMBA_THERE[workload]
            target += f" (≤ {number(wanted)} × numba)"
            measured += f" ({number(share)} × numba)"
            return Verdict(workload, target, measured, met, by_ratio=share <= wanted)
        return Verdict(workload, target, measured, met)
    numba = line["numba"] and 1 / line["numba"]["x_fastopt"]
    ratio = numba if what == "numba" else line["x_roof"]
    if ratio is None:
        return Verdict(workload, f"≤ {limit:.2f} × {what}", "–", None)
    return Verdict(workload, f"≤ {limit:.2f} × {what}", f"{ratio:.2f} × {what}", ratio <= limit)


def _worst(what: str, target: str, limit: float, ratios: dict[str, float], least: bool = False) -> Verdict:
    """The verdict on many ratios: the one that comes off worst, and where."""
    if not ratios:
        return Verdict(what, target, "not measured", None)
    where, ratio = (min if least else max)(ratios.items(), key=lambda item: item[1])
    met = ratio >= limit if least else ratio <= limit
    return Verdict(what, target, f"{ratio:.2f} × ({where})", met)


def _ahead(results: Results, one_thread: bool) -> Verdict:
    ratios = {}
    for row in results.get("steps", []):
        if row["contender"] != "fastopt" or (row["threads"] == 1) != one_thread:
            continue
        rows = select(results, **{key: row[key] for key in ("case", "dtype", "workload", "threads")})
        rival = best(rows, lambda name, _: name not in ("fastopt", "roof"))
        if rival:
            label = f"{row['case']} {row['dtype']} {row['workload']} against {rival['contender']}"
            ratios[label] = rival["x_fastopt"]
    behind, clearly = (sum(ratio < limit for ratio in ratios.values()) for limit in (1, 0.95))
    verdict = _worst("", "> 1 × everywhere", 1.0, ratios, least=True)
    what = "every rule and type" + ", one thread" * one_thread + ": the best peer's time"
    shares = f"; behind in {behind} of {len(ratios)}, by more than 5 % in {clearly}"
    found = verdict.measured + shares if ratios else verdict.measured
    return Verdict(what, verdict.target, found, verdict.met)


def _paired(combine: Callable[..., float], *rows: dict[str, Any]) -> float:
    """The median over the rounds that all took part in, as `Timing.over`."""
    shared = set.intersection(*(set(row["rounds"]) for row in rows))
    if not shared:
        return combine(*(row["us"] for row in rows))
    return median(combine(*(row["rounds"][r] for row in rows)) for r in shared)


def _condition(results: Results, condition: str, one: str, other: str) -> dict[str, float]:
    rows = [row for row in results.get("conditions", []) if row["condition"] == condition]
    found = {(row["workload"], row["contender"]): row for row in rows}
    return {
        w: _paired(truediv, row, found[w, other])
        for (w, name), row in found.items()
        if name == one and (w, other) in found
    }


def _busy(results: Results, one: str, other: str) -> dict[str, float]:
    """Ratios of means: whether a block gets a whole processor or half of one is a lottery, and means count the blanks.

    (A median would not tell of the one block in ten in which each step waits for a worker through turns of others.)
    """
    rows = [row for row in results.get("conditions", []) if row["condition"] == "busy"]
    means = {(row["workload"], row["contender"]): fmean(row["rounds"].values()) for row in rows}
    return {w: means[w, one] / means[w, other] for w, name in means if name == one}


def _reads(results: Results, option: str) -> dict[str, float]:
    """What an option adds, over one read of the gradients; where these are too large for any cache to keep.

    (10^7 of them, 40 MB, lie in the last-level caches of some servers.)
    """
    rows = [row for row in results.get("conditions", []) if row["condition"] == "options"]
    rows = [row for row in rows if float(row["workload"]) >= 1e8]
    found = {}
    for workload in dict.fromkeys(row["workload"] for row in rows):
        by = {row["contender"]: row for row in rows if row["workload"] == workload}
        reads = [row for name, row in by.items() if name.startswith("one read")]
        read = min(reads, key=itemgetter("us"))
        found[workload] = _paired(lambda a, b, unit: (a - b) / unit, by[option], by["plain"], read)
    return found


def verdicts(results: Results) -> Iterator[Verdict]:
    """The promises beside the table."""
    yield _ahead(results, one_thread=False)
    yield _ahead(results, one_thread=True)
    small = [r for r in results.get("conditions", []) if r["condition"] == "options" and r["workload"] == "1"]
    us = {row["contender"]: row["us"] for row in small}.get("schedule and groups")
    found = f"{us:.2f} µs" if us else "not measured"
    yield Verdict("1 element with schedule and groups", "≤ 1.0 µs", found, us <= 1.0 if us else None)
    serial = "fastopt, 1 thread"
    yield _worst("all cores busy: two threads over one", "≤ 1.5 ×", 1.5, _busy(results, "fastopt", serial))
    gap = _condition(results, "gap", "fastopt", serial)
    yield _worst("1 ms of other work between: over serial", "≤ 1.1 ×", 1.1, gap)
    denormal = _condition(results, "denormal", "denormal", "normal")
    yield _worst("denormal moments over normal ones", "≤ 1.05 ×", 1.05, denormal)
    for option in ('nonfinite="skip"', "clip_norm"):
        what = f"{option} adds, over one read of the gradients"
        yield _worst(what, "≤ 1 × (a tenth for noise)", 1.1, _reads(results, option))
    loop = {(row["model"], row["contender"]): row for row in results.get("loop", [])}
    models = dict.fromkeys(model for model, _ in loop)
    ratios = {m: min(_paired(truediv, loop[m, name], loop[m, "fastopt"]) for name in NUMPY) for m in models}
    yield _worst("training loop: best NumPy form over fastopt", "> 1 ×", 1.0, ratios, least=True)
    ratios = {m: _paired(truediv, loop[m, "fastopt"], loop[m, serial]) for m in models}
    yield _worst("training loop: over the loop with a serial step", "≤ 1 × (2 % for noise)", 1.02, ratios)
    grown = next((row for row in results.get("memory", []) if row["contender"] == "fastopt"), None)
    what = "memory a step allocates at its peak"
    if grown:
        peak = max(x for x in (grown["traced"], grown["resident"]) if x == x)
        share = f"{peak / 1024:.0f} KiB for {grown['parameters'] / 2**20:.0f} MiB of parameters"
        yield Verdict(what, "nothing that grows", share, peak < 2**20)
    else:
        yield Verdict(what, "nothing that grows", "not measured", None)
    ms = 1e3 * results["import"]["fastopt"] if "import" in results else None
    found = f"{ms:.0f} ms (NumPy {1e3 * results['import']['numpy']:.0f} ms)" if ms is not None else "not measured"
    yield Verdict("import fastopt adds to NumPy's import", "≤ 50 ms", found, ms <= 50 if ms is not None else None)
