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
from .report import MANY, families, last_loss
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
}


def draw(results: Sequence[Result], title: str, split: Split, loss: str, kind: str) -> bytes:
    """Draw all results into one picture, `kind` is png, pdf or svg."""
    picture = io.BytesIO()
    with mpl.rc_context(STYLE), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # letters that the font lacks, losses of 0 on a logarithmic axis
        if len(results) >= MANY:
            figure = _families(results, title, split, loss)
        else:
            figure = _line(results, title, split) if results[0].path else _losses(results, title, loss)
        figure.savefig(picture, format=kind, dpi=200)
    return picture.getvalue()


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
    """Each with its look, the same in all pictures."""
    looks = {name: look for name, *look in zip(OPTIMIZERS, cycle(COLOURS), cycle(DASHES), strict=False)}
    return [(result, dict(zip(("color", "linestyle"), looks[result.optimizer], strict=True))) for result in results]


def _label(result: Result) -> str:
    return f"{result.optimizer}, lr {result.lr:g}"


def _finish(axes: Axes, ylabel: str) -> None:
    """Logarithmic loss; less than three decades are labelled at 1, 2 and 5."""
    axes.set_xlabel("updates")
    axes.set_ylabel(ylabel)
    axes.set_yscale("log")
    axes.margins(x=0.02)
    low, high = axes.get_ylim()
    if high < 1000 * low:
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.yaxis.set_minor_locator(NullLocator())


def _losses(results: Sequence[Result], title: str, loss: str) -> Figure:
    """Training and held-out loss side by side on one scale."""
    curves = {"training rows": "train_loss"} | ({"held-out rows": "test_loss"} if results[0].curve["test_loss"] else {})
    figure = Figure(figsize=(3.6 * len(curves) + 0.4, 3.2), layout="constrained")
    panels = figure.subplots(1, len(curves), sharey=True, squeeze=False)[0]
    for axes, (name, key) in zip(panels, curves.items(), strict=True):
        for result, style in _styled(results):
            axes.plot(result.curve["updates"], result.curve[key], label=_label(result), **style)
        axes.set_title(name)
    for axes in panels:
        _finish(axes, loss if axes is panels[0] else "")
    figure.suptitle(title, fontsize=10, parse_math=False)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=min(len(results), 3))
    return figure


def _families(results: Sequence[Result], title: str, split: Split, loss: str) -> Figure:
    """A panel a family, with the best of all in grey; for the line another one beside it with the ways."""
    several = families(results)
    best = min(results, key=last_loss)
    each, columns = (2, 4) if best.path else (1, 3)
    rows = -(-each * len(several) // columns)
    figure = Figure(figsize=(8.0, 0.6 + 1.9 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).flatten().tolist()
    for i, (family, members) in enumerate(several.items()):
        axes = panels[each * i]
        axes.plot(best.curve["updates"], best.curve["train_loss"], color="0.85", linewidth=4)
        for result, colour in zip(members, cycle(COLOURS), strict=False):
            axes.plot(result.curve["updates"], result.curve["train_loss"], color=colour, linewidth=1.0)
        axes.set_title(family)
        axes.set_ylim(*_range(results))
        _finish(axes, f"training {loss}" if each * i % columns == 0 else "")
        _name_at_the_end(axes, members)
        if best.path:
            ways = panels[each * i + 1]
            _valley(ways, results, split)
            for result, colour in zip(members, cycle(COLOURS), strict=False):
                ways.plot(*np.array(result.path).T, color=colour, linewidth=0.7)
    for axes in panels[each * len(several) :]:
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
    for i, place in zip(order, places, strict=True):
        look: dict[str, Any] = {"fontsize": 7, "color": COLOURS[i % len(COLOURS)], "va": "center"}
        axes.annotate(members[i].optimizer, ends[i], (1.08, place), "data", "axes fraction", arrow, **look)


def _line(results: Sequence[Result], title: str, split: Split) -> Figure:
    """The loss, then a panel an optimizer with its way from the start to the least loss."""
    cells = 1 + len(results)
    columns = 2 if cells in (2, 4) else 3
    rows = -(-cells // columns)
    figure = Figure(figsize=(2.9 * columns + 0.2, 2.7 * rows), layout="constrained")
    first, *panels = figure.subplots(rows, columns, squeeze=False).flat
    for result, style in _styled(results):
        first.plot(result.curve["updates"], result.curve["train_loss"], label=result.optimizer, linewidth=1.2, **style)
    bottom = _surface(split, *_least(split))
    first.axhline(bottom, color="black", linewidth=0.8, linestyle=":", label="least squares")
    first.set_title(title, parse_math=False)
    _finish(first, "training MSE")
    first.legend()
    for axes, (result, style) in zip(panels, _styled(results), strict=False):
        _valley(axes, results, split)
        axes.plot(*np.array(result.path).T, color=style["color"], linewidth=0.9, marker=".", markersize=2.5)
        axes.set_title(_label(result))
    panels[0].legend(loc="lower left")
    for axes in panels[len(results) :]:
        axes.remove()
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
