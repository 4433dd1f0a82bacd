"""Pictures for print: losses against updates, and for the line the way over the contours of the loss."""

from __future__ import annotations

import io
import textwrap
import warnings
from collections.abc import Callable, Sequence
from itertools import cycle
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

from fastopt.optimizers import OPTIMIZERS

from .data import Split
from .report import MANY, families, to_compare_by
from .training import Result

# Okabe and Ito (2008): told apart by colour-blind readers; the dashes by those who print in grey.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1.2, 1.2)), (0, (6, 1.5, 1.2, 1.5)), (0, (9, 2)))
MOST_POINTS = 20_000  # of a schedule's curve
STYLE: Any = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "0.9",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.5,
    "legend.frameon": False,
    "legend.handlelength": 2.6,
    "svg.hashsalt": "fastopt",
    "pdf.fonttype": 42,  # TrueType: journals refuse matplotlib's Type 3
    "ps.fonttype": 42,
}


def draw(results: Sequence[Result], title: str, split: Split, loss: str, kind: str) -> bytes:
    """Draw all results into one picture, `kind` is png, pdf or svg."""
    picture = io.BytesIO()
    with mpl.rc_context(STYLE), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # letters that the font lacks, losses of 0 on a logarithmic axis
        figure_of(results, title, split, loss).savefig(picture, format=kind, dpi=200)
    return picture.getvalue()


def figure_of(results: Sequence[Result], title: str, split: Split, loss: str) -> Figure:
    """The figure that suits so many results."""
    if len(results) >= MANY:
        return _families(results, title, split, loss)
    return _line(results, title, split) if results[0].path else _losses(results, title, loss)


def draw_rates(schedule: Callable[[Any], Any], steps: int, title: str, kind: str) -> bytes:
    """Draw the rates of a schedule, which may rise past all numbers."""
    shown = np.unique(np.linspace(0, steps, min(steps, MOST_POINTS) + 1).round().astype(np.int64))
    rates = schedule(shown)
    picture = io.BytesIO()
    with mpl.rc_context(STYLE), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        figure = Figure(figsize=(4.0, 2.8), layout="constrained")
        axes = figure.subplots()
        axes.plot(shown, np.where(np.isfinite(rates), rates, np.nan), color=COLOURS[0])
        axes.set_title("\n".join(textwrap.wrap(title.replace(",", ", "), 46)), parse_math=False)
        axes.set_xlabel("steps")
        axes.set_ylabel("learning rate")
        axes.set_ylim(bottom=0.0)
        axes.margins(x=0.02)
        figure.savefig(picture, format=kind, dpi=200)
    return picture.getvalue()


def _styled(results: Sequence[Result]) -> list[tuple[Result, dict[str, Any]]]:
    """Each with its look, the same in all pictures where each optimizer has one curve; broad under one it equals."""
    looks = {name: look for name, *look in zip(OPTIMIZERS, cycle(COLOURS), cycle(DASHES), strict=False)}
    order = list(zip(COLOURS, DASHES, strict=False))
    several = len({result.optimizer for result in results}) < len(results)
    below = {id(one) for one in _covering(results).values()}
    styled = []
    for i, result in enumerate(results):
        colour, dash = order[i % len(order)] if several else looks[result.optimizer]
        look = {"linestyle": "-", "linewidth": 5.0, "alpha": 0.4} if id(result) in below else {"linestyle": dash}
        styled.append((result, {"color": colour, **look}))
    return styled


def _covering(results: Sequence[Result]) -> dict[int, Result]:
    """Whose curve lies on that of an earlier result, nowhere 1 % apart: by position, that other one."""
    found: dict[int, Result] = {}
    for i, result in enumerate(results):
        for j in range(i):
            one, other = (np.array(r.curve["train_loss"]) for r in (results[j], result))
            if j not in found and one.shape == other.shape and np.allclose(one, other, rtol=0.01, atol=0.0):
                found[i] = results[j]
                break
    return found


def _labels(results: Sequence[Result]) -> list[str]:
    """Optimizer and rate, and on whose curve it lies."""
    covering = _covering(results)
    labels = [f"{result.optimizer}, lr {result.lr:g}" for result in results]
    return [
        f"{label} (on {covering[i].optimizer}, lr {covering[i].lr:g})" if i in covering else label
        for i, label in enumerate(labels)
    ]


def _finish(axes: Axes, ylabel: str, xlabel: str = "updates") -> None:
    """Logarithmic loss; less than three decades are labelled at 1, 2 and 5."""
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    axes.set_yscale("log")
    axes.margins(x=0.02)
    low, high = axes.get_ylim()
    if high < 1000 * low:
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.yaxis.set_minor_locator(NullLocator())


def _curves(result: Result, loss: str) -> list[tuple[str, str, str, str]]:
    """What there is to draw: title, what lies below, what at the left, and its name among the curves."""
    panels = [("training rows", "updates", loss, "train_loss")]
    held_out = bool(result.curve["test_loss"])
    if held_out:
        panels.append(("held-out rows", "updates", loss, "test_loss"))
    panels.append(("against time", SECONDS, loss, "test_loss" if held_out else "train_loss"))
    if result.curve["train_accuracy"]:
        where = "held-out rows" if held_out else "training rows"
        panels.append((f"accuracy, {where}", "updates", "%", "test_accuracy" if held_out else "train_accuracy"))
    return panels


SECONDS = "seconds (forward, backward, step)"


def _draw_panel(axes: Axes, result: Result, x: str, key: str, **look: Any) -> None:
    values = np.array(result.curve[key]) * (100 if key.endswith("accuracy") else 1)
    axes.plot(result.curve["seconds" if x == SECONDS else x], values, **look)


def _finish_panel(axes: Axes, title: str, x: str, y: str) -> None:
    axes.set_title(title)
    if y != "%":
        _finish(axes, y, x)
        return
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.margins(x=0.02)


def _losses(results: Sequence[Result], title: str, loss: str) -> Figure:
    """Training and held-out loss, loss against seconds, and accuracy where there are classes."""
    curves = _curves(results[0], loss)
    rows = -(-len(curves) // 2)
    figure = Figure(figsize=(7.6, 2.6 * rows + 0.5), layout="constrained")
    panels = figure.subplots(rows, 2, squeeze=False).flatten().tolist()
    for axes, (name, x, y, key) in zip(panels, curves, strict=False):
        for (result, style), label in zip(_styled(results), _labels(results), strict=True):
            _draw_panel(axes, result, x, key, label=label, **style)
        _finish_panel(axes, name, x, y)
    for axes in panels[len(curves) :]:
        axes.remove()
    figure.suptitle(title, fontsize=10, parse_math=False)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=min(len(results), 2))
    return figure


def _families(results: Sequence[Result], title: str, split: Split, loss: str) -> Figure:
    """A panel a family, with the best of all in grey; for the line another one beside it with the ways.

    Below, the best of each family: held-out loss, loss against seconds, accuracy.
    """
    several = families(results)
    best = min(results, key=to_compare_by)
    each, columns = (2, 4) if best.path else (1, 3)
    curves = [panel for panel in _curves(best, loss) if panel[3] != "train_loss" or panel[1] == SECONDS]
    above = each * len(several)
    rows = -(-(above + len(curves)) // columns)
    figure = Figure(figsize=(8.0, 0.6 + 1.9 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).flatten().tolist()
    for i, (family, members) in enumerate(several.items()):
        axes = panels[each * i]
        axes.plot(best.curve["updates"], best.curve["train_loss"], color="0.85", linewidth=4)
        below = {id(one) for one in _covering(members).values()}
        for result, colour in zip(members, cycle(COLOURS), strict=False):
            width = 2.5 if id(result) in below else 1.0
            axes.plot(result.curve["updates"], result.curve["train_loss"], color=colour, linewidth=width)
        axes.set_title(family)
        axes.set_ylim(*_range(results))
        _finish(axes, f"training {loss}" if each * i % columns == 0 else "")
        _name_at_the_end(axes, members)
        if best.path:
            ways = panels[each * i + 1]
            _valley(ways, results, split)
            for result, colour in zip(members, cycle(COLOURS), strict=False):
                ways.plot(*np.array(result.path).T, color=colour, linewidth=0.7)
    for axes, (name, x, y, key) in zip(panels[above:], curves, strict=False):
        for (family, members), colour, dash in zip(several.items(), cycle(COLOURS), cycle(DASHES), strict=False):
            look: dict[str, Any] = {"color": colour, "linestyle": dash, "linewidth": 1.0}
            _draw_panel(axes, members[0], x, key, label=f"{members[0].optimizer} ({family})", **look)
        _finish_panel(axes, f"best of families\n{name}", x, y)
    figure.legend(*panels[above].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=8)
    for axes in panels[above + len(curves) :]:
        axes.remove()
    what = "training" if best.fastopt.test_loss is None else "held-out"
    figure.suptitle(f"{title}; grey: {best.optimizer}, the best by {what} loss", fontsize=9, parse_math=False)
    return figure


def _range(results: Sequence[Result]) -> tuple[float, float]:
    """From where all start down to where most end: one that goes on to nothing leaves no room for the others."""
    start = max(result.curve["train_loss"][0] for result in results) or 1.0
    ends = [result.curve["train_loss"][-1] for result in results]
    return max(0.8 * min(ends), float(np.median(ends)) / 30, start / 1e9), 1.5 * start


def _name_at_the_end(axes: Axes, members: Sequence[Result]) -> None:
    """Names beside the ends of the curves, apart from one another."""
    to_part = axes.transData + axes.transAxes.inverted()
    ends = [
        (result.curve["updates"][-1], max(result.curve["train_loss"][-1], axes.get_ylim()[0])) for result in members
    ]
    heights = to_part.transform(ends)[:, 1]
    order, gap = np.argsort(heights, kind="stable"), 0.12
    places = heights[order]
    for i in range(1, len(places)):
        places[i] = max(places[i], places[i - 1] + gap)
    places -= max(0.0, places[-1] - 1.0)
    arrow: dict[str, Any] = {
        "arrowstyle": "-",
        "linewidth": 0.5,
        "color": "0.7",
        "shrinkA": 0,
        "shrinkB": 0,
        "relpos": (0, 0.5),
    }
    covering = _covering(members)
    for i, place in zip(order, places, strict=True):
        look: dict[str, Any] = {"fontsize": 7, "color": COLOURS[i % len(COLOURS)], "va": "center"}
        name = members[i].optimizer + (f" (on {covering[i].optimizer})" if i in covering else "")
        axes.annotate(name, ends[i], (1.08, place), "data", "axes fraction", arrow, **look)


def _line(results: Sequence[Result], title: str, split: Split) -> Figure:
    """The losses, then a panel an optimizer with its way from the start to the least loss."""
    curves = _curves(results[0], "MSE")
    columns = 3
    rows = -(-(len(curves) + len(results)) // columns)
    figure = Figure(figsize=(2.9 * columns + 0.2, 2.7 * rows + 0.3), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).flatten().tolist()
    styled, labels = _styled(results), _labels(results)
    bottom = _surface(split, *_least(split))
    for axes, (name, x, y, key) in zip(panels, curves, strict=False):
        for (result, style), label in zip(styled, labels, strict=True):
            _draw_panel(axes, result, x, key, label=label, **style)
        if key == "train_loss":
            axes.axhline(bottom, color="black", linewidth=0.8, linestyle=":", label="least squares")
        _finish_panel(axes, name, x, y)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=8)
    for axes, (result, style) in zip(panels[len(curves) :], styled, strict=False):
        _valley(axes, results, split)
        axes.plot(*np.array(result.path).T, color=style["color"], linewidth=0.9, marker=".", markersize=2.5)
        axes.set_title(f"{result.optimizer}, lr {result.lr:g}")
    panels[len(curves)].legend(loc="lower left")
    for axes in panels[len(curves) + len(results) :]:
        axes.remove()
    figure.suptitle(title, fontsize=10, parse_math=False)
    return figure


def _valley(axes: Axes, results: Sequence[Result], split: Split) -> None:
    """The contours of the loss where the ways go, their start and the least loss."""
    least = _least(split)
    ways = np.concatenate([result.path for result in results] + [[least]])
    low, high = ways.min(axis=0), ways.max(axis=0)
    pad = 0.12 * (high - low)
    m, b = (np.linspace(*ends, 201) for ends in zip(low - pad, high + pad, strict=True))
    surface = _surface(split, m[None, :], b[:, None])
    bottom = _surface(split, *least)
    levels = bottom + np.geomspace(0.002, 1, 10) * (surface.max() - bottom)
    axes.contour(m, b, surface, levels=levels, colors="0.75", linewidths=0.6)
    point: dict[str, Any] = {"color": "black", "linestyle": "", "zorder": 3}
    axes.plot(*results[0].path[0], marker="o", markersize=5, markerfacecolor="white", label="start", **point)
    star: dict[str, Any] = {"marker": "*", "markersize": 8, "markeredgewidth": 0.5, "markeredgecolor": "white"}
    axes.plot(*least, label="least squares", **star, **point)
    axes.set_xlabel("slope m")
    axes.set_ylabel("intercept b")
    axes.grid(False)


def _least(split: Split) -> tuple[float, float]:
    """Least squares on the rows of the training."""
    m, b = np.polyfit(split.x[:, 0].astype(np.float64), split.y.astype(np.float64), 1)
    return float(m), float(b)


def _surface(split: Split, m: Any, b: Any) -> Any:
    """The mean squared error at (m, b), from the moments of the rows: no loop over them for each point."""
    x, y = split.x[:, 0].astype(np.float64), split.y.astype(np.float64)
    linear = 2 * (m * b * x.mean() - m * (x * y).mean() - b * y.mean())
    return m * m * (x * x).mean() + b * b + (y * y).mean() + linear
