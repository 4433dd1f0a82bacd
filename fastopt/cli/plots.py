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
        axes.set_title("\n".join(textwrap.wrap(title, 50)), parse_math=False)
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


def _line(results: Sequence[Result], title: str, split: Split) -> Figure:
    """The loss, then a panel an optimizer with its way from the start to the least loss."""
    cells = 1 + len(results)
    columns = 2 if cells in (2, 4) else 3
    rows = -(-cells // columns)
    figure = Figure(figsize=(2.9 * columns + 0.2, 2.7 * rows), layout="constrained")
    first, *panels = figure.subplots(rows, columns, squeeze=False).flat
    least = _least(split)
    for result, style in _styled(results):
        first.plot(result.curve["updates"], result.curve["train_loss"], label=result.optimizer, linewidth=1.2, **style)
    bottom = _surface(split, *least)
    first.axhline(bottom, color="black", linewidth=0.8, linestyle=":", label="least squares")
    first.set_title(title, parse_math=False)
    _finish(first, "training MSE")
    first.legend()
    ways = np.concatenate([result.path for result in results] + [[least]])
    low, high = ways.min(axis=0), ways.max(axis=0)
    pad = 0.12 * (high - low)
    m, b = (np.linspace(*ends, 201) for ends in zip(low - pad, high + pad, strict=True))
    surface = _surface(split, m[None, :], b[:, None])
    levels = bottom + np.geomspace(0.002, 1, 10) * (surface.max() - bottom)
    for axes, (result, style) in zip(panels, _styled(results), strict=False):
        axes.contour(m, b, surface, levels=levels, colors="0.75", linewidths=0.6)
        way = np.array(result.path)
        axes.plot(*way.T, color=style["color"], linewidth=0.9, marker=".", markersize=2.5)
        axes.plot(*way[0], "o", color="black", markersize=5, markerfacecolor="white", linestyle="", label="start")
        axes.plot(
            *least,
            "*",
            color="black",
            markersize=8,
            markeredgewidth=0.5,
            markeredgecolor="white",
            linestyle="",
            label="least squares",
        )
        axes.set_title(_label(result))
        axes.set_xlabel("slope m")
        axes.set_ylabel("intercept b")
        axes.grid(False)
    panels[0].legend(loc="lower left")
    for axes in panels[len(results) :]:
        axes.remove()
    return figure


def _least(split: Split) -> tuple[float, float]:
    """Least squares on the rows of the training."""
    m, b = np.polyfit(split.x[:, 0].astype(np.float64), split.y.astype(np.float64), 1)
    return float(m), float(b)


def _surface(split: Split, m: Any, b: Any) -> Any:
    """The mean squared error at (m, b), from the moments of the rows: no loop over them for each point."""
    x, y = split.x[:, 0].astype(np.float64), split.y.astype(np.float64)
    linear = 2 * (m * b * x.mean() - m * (x * y).mean() - b * y.mean())
    return m * m * (x * x).mean() + b * b + (y * y).mean() + linear
