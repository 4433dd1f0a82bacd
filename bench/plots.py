"""The plots: each answers one question. Colours are Okabe and Ito's, which colour-blind readers tell apart."""

# ruff: noqa: RUF001 - the dash is meant

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from bench.targets import Results, number, select

BLUE, ORANGE, GREEN, PINK, SKY, RED, GREY = "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#777777"
# Who is drawn in the line plots, and how; everybody is in the table and the speed-up plot.
LINES = {
    "fastopt": (BLUE, "o"),
    "numba parallel": (GREEN, "s"),
    "torch fused": (ORANGE, "^"),
    "DeepSpeedCPUAdam": (RED, "v"),
    "JAX + optax": (PINK, "D"),
    "NumPy naive": (GREY, "X"),
}
STYLE: Any = {
    "figure.dpi": 100,
    "savefig.dpi": 160,
    "font.size": 11,
    "axes.titlesize": 13,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.8,
    "axes.axisbelow": True,
    "legend.frameon": False,
}


def pretty(workload: str) -> str:
    return f"$10^{{{workload[2:]}}}$" if workload.startswith("1e") else workload


def singles(results: Results) -> list[str]:
    names = dict.fromkeys(row["workload"] for row in results["steps"])
    return [name for name in names if name[0].isdigit() and "fastopt" in adam(results, name)]


def adam(results: Results, workload: str) -> dict[str, dict[str, Any]]:
    threads = max(row["threads"] for row in results["steps"])
    return select(results, case="adam", dtype="float32", workload=workload, threads=threads)


def about(results: Results) -> str:
    """The line under every plot."""
    m = results["machine"]
    return f"Adam, float32, {m['cores']} cores of {m['processor']}, fastopt {m['fastopt']}, {m['date'][:10]}"


def throughput(results: Results) -> Figure | None:
    """How close is a step to what the memory allows?"""
    names = singles(results)
    if len(names) < 2:
        return None
    rows = [adam(results, name) for name in names]
    figure, ax = plt.subplots(figsize=(9, 5.6))

    def line(who: str, label: str, **how: Any) -> tuple[list[float], list[float]]:
        found = [row[who] for row in rows if who in row]
        x, y = [row["elements"] for row in found], [row["gb_per_s"] for row in found]
        if found:
            ax.plot(x, y, label=label, **how)
        return x, y

    x, y = line("roof", "roof: the machine's best", color="black", linestyle=(0, (4, 2)), linewidth=1.8)
    for who, (colour, marker) in LINES.items():
        mine = who == "fastopt"
        how = {"linewidth": 3, "markersize": 8, "zorder": 5} if mine else {"linewidth": 1.5, "markersize": 5.5}
        line(who, who, color=colour, marker=marker, **how)
    ax.set(
        xscale="log", yscale="log", xlabel="parameters in one tensor", ylabel="GB/s moved by a step; higher is better"
    )
    ax.set_title("How fast an Adam step moves its bytes, and how fast it could")
    top = ax.get_ylim()[1]
    if x:
        ax.fill_between(x, y, top, color="black", alpha=0.05, linewidth=0)
    ax.set_ylim(top=top)
    ax.legend(loc="lower right")
    return figure


def speedup(results: Results) -> Figure | None:
    """How many times faster than what I use now?"""
    workloads = [w for w in dict.fromkeys(row["workload"] for row in results["steps"]) if "fastopt" in adam(results, w)]
    rows = {w: adam(results, w) for w in workloads}
    peers = [p for p in dict.fromkeys(p for w in workloads for p in rows[w]) if p not in ("fastopt", "roof")]
    if not peers:
        return None
    nothing = {"x_fastopt": np.nan}
    ratio = np.array([[rows[w].get(p, nothing)["x_fastopt"] for w in workloads] for p in peers])
    order = np.argsort(np.nanmedian(np.log(ratio), axis=1))
    ratio, peers = ratio[order], [peers[i] for i in order]
    figure, ax = plt.subplots(figsize=(1.8 + 0.86 * len(workloads), 1.4 + 0.4 * len(peers)))
    # white where equal, blue where fastopt is faster, orange where it is slower; the logarithm, -0.5 to 2
    stops = [(0.0, ORANGE), (0.2, "#f7f7f7"), (0.4, SKY), (0.7, BLUE), (1.0, "#003a5d")]
    shade = (np.clip(np.log10(ratio), -0.5, 2) + 0.5) / 2.5
    ax.imshow(shade, aspect="auto", cmap=LinearSegmentedColormap.from_list("ahead", stops), vmin=0, vmax=1)
    for (i, j), value in np.ndenumerate(ratio):
        text = "–" if np.isnan(value) else f"{value:.2f}" if value < 1.995 else number(value)
        ax.text(j, i, text, ha="center", va="center", fontsize=10, color="white" if shade[i, j] > 0.5 else "black")
    ax.set_xticks(range(len(workloads)), [pretty(w).replace("-", "-\n") for w in workloads])
    ax.set_yticks(range(len(peers)), peers)
    ax.tick_params(length=0)
    ax.grid(False)
    ax.spines[:].set_visible(False)
    ax.set_xticks(np.arange(len(workloads)) + 0.5, minor=True)
    ax.set_yticks(np.arange(len(peers)) + 0.5, minor=True)
    ax.grid(which="minor", color="white", linewidth=2)
    ax.tick_params(which="minor", length=0)
    ax.set_title("How many times faster fastopt's step is", pad=12)
    ax.set_xlabel(
        "parameters of a single tensor, or the tensors of a model\nblue: fastopt is faster; orange: the other is"
    )
    return figure


def small_tensors(results: Results) -> Figure | None:
    """What does a model of many small tensors cost?"""
    chosen = [
        (w, text)
        for w, text in (("mlp", "a small perceptron: 6 tensors"), ("thousand-small", "1000 tensors of 64"))
        if adam(results, w)
    ]
    if not chosen:
        return None
    figure, axes = plt.subplots(1, len(chosen), figsize=(5.2 * len(chosen), 5.2), squeeze=False)
    for ax, (workload, text) in zip(axes[0], chosen, strict=True):
        bars(ax, sorted((row["us"], who) for who, row in adam(results, workload).items() if who != "roof"))
        ax.set_title(text)
        ax.set_xlabel("µs a step, lower is better")
    return figure


def bars(ax: Axes, rows: list[tuple[float, str]]) -> None:
    """Horizontal bars on a logarithmic axis, fastest on top, fastopt's in its colour, each with its number."""
    us, names = [list(column) for column in zip(*rows, strict=True)]
    ax.barh(names, us, color=[BLUE if name.startswith("fastopt") else "#b9c4cc" for name in names], height=0.7)
    for y, x in enumerate(us):
        ax.annotate(number(x), (x, y), xytext=(4, 0), textcoords="offset points", va="center", fontsize=9.5)
    ax.invert_yaxis()
    ax.set_xscale("log")
    ax.set_xlim(min(us) / 3, max(us) * 4)
    ax.grid(axis="y", visible=False)
    ax.tick_params(axis="y", length=0)
    for tick in ax.get_yticklabels():
        tick.set_fontweight("bold" if tick.get_text().startswith("fastopt") else "normal")


def scaling(results: Results) -> Figure | None:
    """What do more threads bring?"""
    rows = results.get("scaling", [])
    counts = sorted({row["threads"] for row in rows})
    if len({row["workload"] for row in rows}) < 2:
        return None
    figure, ax = plt.subplots(figsize=(9, 5))
    colours = (
        [ORANGE, BLUE] if len(counts) == 2 else [mpl.colormaps["viridis"](x) for x in np.linspace(0, 0.85, len(counts))]
    )
    for (count, colour), (who, style) in itertools.product(
        zip(counts, colours, strict=True), (("roof", "--"), ("fastopt", "-"))
    ):
        points = [(r["elements"], r["gb_per_s"]) for r in rows if r["threads"] == count and r["contender"] == who]
        threads = f"{count} thread{'s' * (count > 1)}"
        wide = who == "fastopt"
        ax.plot(
            *zip(*points, strict=True),
            style,
            color=colour,
            linewidth=2.6 if wide else 1.4,
            marker="o" if wide else None,
            markersize=7,
            label=f"fastopt, {threads}" if wide else f"roof of {threads}",
        )
    ax.set(xscale="log", xlabel="parameters in one tensor", ylabel="GB/s moved by a step, higher is better")
    ax.set_ylim(bottom=0)
    ax.set_title("What more threads bring, and what they could bring")
    ax.legend(loc="upper right")
    return figure


def iteration(results: Results) -> Figure | None:
    """What does a faster step mean for a whole training iteration?"""
    rows = results.get("loop", [])
    if not rows:
        return None
    models = list(dict.fromkeys(row["model"] for row in rows))
    times = {(row["model"], row["contender"]): row["us"] for row in rows}
    looks = {
        "fastopt": BLUE,
        "fastopt, 1 thread": SKY,
        "NumPy out=": ORANGE,
        "NumPy twin": PINK,
        "NumPy naive": GREY,
    }
    figure, ax = plt.subplots(figsize=(9, 1.4 + 0.95 * len(models)))
    height = 0.8 / len(looks)
    for k, (who, colour) in enumerate(looks.items()):
        ratio = [times[m, who] / times[m, "no step"] for m in models]
        y = np.arange(len(models)) + (k - (len(looks) - 1) / 2) * height
        ax.barh(y, np.array(ratio) - 1, left=1, height=0.92 * height, color=colour, label=who)
        for yy, x in zip(y, ratio, strict=True):
            ax.annotate(
                f"{x:.2f}", (max(x, 1), yy), xytext=(4, 0), textcoords="offset points", va="center", fontsize=8.5
            )
    ax.axvline(1, color="black", linewidth=1.2)
    ax.set_yticks(range(len(models)), [f"{m}\n1 = {number(times[m, 'no step'])} µs" for m in models])
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)
    ax.tick_params(axis="y", length=0)
    ax.set_xlabel("time of a training iteration, forward and backward pass alone = 1; lower is better")
    ax.set_title("What the step adds to a training iteration", pad=32)
    tight: Any = {"fontsize": 10, "columnspacing": 1.0, "handlelength": 1.0, "handletextpad": 0.4}
    ax.legend(loc="lower left", bbox_to_anchor=(-0.02, 0.99), ncols=len(looks), **tight)
    return figure


PLOTS: dict[str, Callable[[Results], Figure | None]] = {
    "throughput": throughput,
    "speedup": speedup,
    "small-tensors": small_tensors,
    "scaling": scaling,
    "iteration": iteration,
}


def draw(results: Results, folder: Path) -> list[Path]:
    """All plots that the results have the data for."""
    results = {"steps": [], **results}
    made = []
    with plt.rc_context(STYLE):
        for name, plot in PLOTS.items():
            figure = plot(results) if results["steps"] or name in ("scaling", "iteration") else None
            if figure is None:
                continue
            figure.tight_layout(rect=(0, 0.035, 1, 1))
            figure.text(0.012, 0.012, about(results), fontsize=8.5, color=GREY)
            target = folder / f"{name}.png"
            figure.savefig(target)
            plt.close(figure)
            made.append(target)
    return made
