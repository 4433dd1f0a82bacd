"""The plots: each answers one question. Colours are Okabe and Ito's, which colour-blind readers tell apart."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from bench.report import Results, adam, label, number

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
STEPPERS = dict(zip(["fastopt", "fastopt, 1 thread", "NumPy out=", "NumPy twin", "NumPy naive"],
                    [BLUE, SKY, ORANGE, PINK, GREY], strict=True))  # fmt: skip
STYLE: Any = {
    "savefig.dpi": 160,
    "font.size": 11,
    "axes.titlesize": 13,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "axes.axisbelow": True,
    "legend.frameon": False,
}


def throughput(results: Results) -> Figure | None:
    """How close is a step to what the memory allows?"""
    rows = [by_contender for workload, by_contender in adam(results).items() if workload[0].isdigit()]
    if len(rows) < 2:
        return None
    figure, ax = plt.subplots(figsize=(9, 5.6))

    def line(who: str, label: str, **look: Any) -> None:
        found = [row[who] for row in rows if who in row]
        if found:
            ax.plot([row["elements"] for row in found], [row["gb_per_s"] for row in found], label=label, **look)

    line("roof", "roof: the machine's best", color="black", linestyle=(0, (4, 2)), linewidth=1.8)
    for who, (colour, marker) in LINES.items():
        wide = {"linewidth": 3, "markersize": 8, "zorder": 5} if who == "fastopt" else {"markersize": 5.5}
        line(who, who, color=colour, marker=marker, **wide)
    ax.set(xscale="log", yscale="log", xlabel="parameters in one tensor")
    ax.set_ylabel("GB/s moved by a step; higher is better")
    ax.set_title("How fast an Adam step moves its bytes, and how fast it could")
    ax.legend(loc="lower right")
    return figure


def speedup(results: Results) -> Figure | None:
    """How many times faster than what I use now?"""
    rows = adam(results)
    peers = [
        peer for peer in dict.fromkeys(p for found in rows.values() for p in found) if peer not in ("fastopt", "roof")
    ]
    if not peers:
        return None
    nothing = {"x_fastopt": np.nan}
    ratio = np.array([[found.get(p, nothing)["x_fastopt"] for found in rows.values()] for p in peers])
    order = np.argsort(np.nanmedian(np.log(ratio), axis=1))
    ratio, peers = ratio[order], [peers[i] for i in order]
    figure, ax = plt.subplots(figsize=(1.8 + 0.86 * len(rows), 1.4 + 0.4 * len(peers)))
    # white where equal, blue where fastopt is faster, orange where it is slower; the logarithm, -0.5 to 2
    stops = [(0.0, ORANGE), (0.2, "#f7f7f7"), (0.4, SKY), (0.7, BLUE), (1.0, "#003a5d")]
    shade = (np.clip(np.log10(ratio), -0.5, 2) + 0.5) / 2.5
    ax.pcolormesh(
        shade, cmap=LinearSegmentedColormap.from_list("ahead", stops), vmin=0, vmax=1, edgecolor="white", linewidth=2
    )
    for (i, j), value in np.ndenumerate(ratio):
        text = f"{value:.2f}" if value < 1.995 else number(value)
        colour = "white" if shade[i, j] > 0.5 else "black"
        ax.text(j + 0.5, i + 0.5, text, ha="center", va="center", fontsize=10, color=colour)
    names = [label(w).replace(" ", "\n") for w in rows]
    ax.set_xticks(np.arange(len(names)) + 0.5, names)
    ax.set_yticks(np.arange(len(peers)) + 0.5, peers)
    ax.invert_yaxis()
    ax.tick_params(length=0)
    ax.grid(False)
    ax.spines[:].set_visible(False)
    ax.set_title("How many times faster fastopt's step is", pad=12)
    ax.set_xlabel(
        "parameters of a single tensor, or the tensors of a model\nblue: fastopt is faster; orange: the other is"
    )
    return figure


def down(ax: Axes) -> None:
    """For horizontal bars: the first on top, and no grid between them."""
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)
    ax.tick_params(axis="y", length=0)


def small_tensors(results: Results) -> Figure | None:
    """What does a model of many small tensors cost?"""
    titles = {"mlp": "a small perceptron: 6 tensors", "thousand-small": "1000 tensors of 64"}
    chosen = [workload for workload in titles if workload in adam(results)]
    if not chosen:
        return None
    figure, axes = plt.subplots(1, len(chosen), figsize=(5.2 * len(chosen), 5.2), squeeze=False)
    for ax, workload in zip(axes[0], chosen, strict=True):
        rows = adam(results)[workload]
        names = sorted(rows.keys() - {"roof"}, key=lambda who: rows[who]["us"])
        us = [rows[who]["us"] for who in names]
        for who, x in zip(names, us, strict=True):  # dots, since the axis has no 0; lines between the quartiles
            colour = BLUE if who == "fastopt" else GREY
            ax.plot([rows[who]["q1"], rows[who]["q3"]], [who, who], color=colour, linewidth=3, alpha=0.5)
            ax.plot([x], [who], color=colour, marker="o", markersize=8)
            ax.annotate(number(x), (x, who), xytext=(9, 0), textcoords="offset points", va="center", fontsize=9.5)
        down(ax)
        ax.set(
            xscale="log", xlim=(min(us) / 3, max(us) * 4), title=titles[workload], xlabel="µs a step, lower is better"
        )
    return figure


def scaling(results: Results) -> Figure | None:
    """What do more threads bring?"""
    rows = results.get("scaling", [])
    if len({row["workload"] for row in rows}) < 2:
        return None
    figure, ax = plt.subplots(figsize=(9, 5))
    counts = sorted({row["threads"] for row in rows})
    colours = [ORANGE, BLUE] if len(counts) == 2 else mpl.colormaps["viridis"](np.linspace(0, 0.85, len(counts)))
    looks = {
        "roof": {"linestyle": "--", "linewidth": 1.4},
        "fastopt": {"linewidth": 2.6, "marker": "o", "markersize": 7},
    }
    for (count, colour), (who, look) in product(zip(counts, colours, strict=True), looks.items()):
        found = [row for row in rows if row["threads"] == count and row["contender"] == who]
        x, y = [row["elements"] for row in found], [row["gb_per_s"] for row in found]
        ax.plot(x, y, color=colour, label=f"{who}, {count} thread{'s' * (count > 1)}", **look)
    ax.set(xscale="log", xlabel="parameters in one tensor", ylabel="GB/s moved by a step, higher is better")
    ax.set_ylim(bottom=0)
    ax.set_title("What more threads bring, and what they could bring")
    ax.legend(loc="upper right")
    return figure


def iteration(results: Results) -> Figure | None:
    """What does a faster step mean for a whole training iteration?"""
    times = {(row["model"], row["contender"]): row["us"] for row in results.get("loop", [])}
    models = list(dict.fromkeys(model for model, _ in times))
    if not models:
        return None
    figure, ax = plt.subplots(figsize=(9, 1.4 + 0.95 * len(models)))
    height = 0.8 / len(STEPPERS)
    for k, (who, colour) in enumerate(STEPPERS.items()):
        ratio = np.array([times[m, who] / times[m, "no step"] for m in models])
        y = np.arange(len(models)) + (k - (len(STEPPERS) - 1) / 2) * height
        bars = ax.barh(y, 100 * (ratio - 1), height=0.92 * height, color=colour, label=who)
        ax.bar_label(bars, [f"{100 * (x - 1):.0f} %" for x in ratio], padding=4, fontsize=8.5)
    ax.axvline(0, color="black", linewidth=1.2)
    ax.set_yticks(range(len(models)), [f"{m}\n100 % = {number(times[m, 'no step'])} µs" for m in models])
    down(ax)
    ax.set_xlabel("what the step adds, in % of the forward and backward pass alone; lower is better")
    ax.set_title("What the step adds to a training iteration", pad=32)
    tight: Any = {"fontsize": 10, "columnspacing": 1.0, "handlelength": 1.0, "handletextpad": 0.4}
    ax.legend(loc="lower left", bbox_to_anchor=(-0.02, 0.99), ncols=len(STEPPERS), **tight)
    return figure


PLOTS: dict[str, Callable[[Results], Figure | None]] = {
    "throughput": throughput,
    "speedup": speedup,
    "small-tensors": small_tensors,
    "scaling": scaling,
    "iteration": iteration,
}


def draw(results: Results, folder: Path, prefix: str = "") -> list[Path]:
    """All plots that the results have the data for, with the machine in a line below."""
    m = results["machine"]
    about = f"Adam, float32, {m['cores']} cores of {m['processor']}, fastopt {m['fastopt']}, {m['date'][:10]}"
    made = []
    with plt.rc_context(STYLE):
        for name, plot in PLOTS.items():
            figure = plot(results)
            if figure is None:
                continue
            figure.tight_layout(rect=(0, 0.035, 1, 1))
            figure.text(0.012, 0.012, about, fontsize=8.5, color=GREY)
            made.append(folder / f"{prefix}{name}.png")
            figure.savefig(made[-1])
            plt.close(figure)
    return made
