"""What the build makes from the classes: a page each, with parameters in full and paths, the overview, the gallery.

`python docs/made.py` makes the pages and pictures in docs/made/, as the build does before it reads the pages.
"""

from __future__ import annotations

import inspect
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import formulas
import numpy as np

import fastopt
from fastopt.engine import kernels
from fastopt.optimizer import Optimizer

HERE = Path(__file__).parent
MADE = HERE / "made"
CLASSES: dict[str, type[Optimizer]] = {
    name: getattr(fastopt, name) for name in fastopt.optimizers.__all__ if name != "OPTIMIZERS"
}

# ---- docstrings, with every parameter told ----

Entry = tuple[str, str, list[str]]  # a parameter's name, its type, and what is said of it


def entries(doc: str) -> tuple[list[str], list[tuple[list[str], str, list[str]]], list[str]]:
    """A docstring before its parameters, these as they are written (several may share a text), and what follows."""
    lines = doc.splitlines()
    start = lines.index("Parameters") + 2
    end = next(i for i in range(start, len(lines)) if i + 1 == len(lines) or re.fullmatch("-+", lines[i + 1]))
    found: list[tuple[list[str], str, list[str]]] = []
    header = ""
    for line in filter(None, lines[start:end]):
        if line.startswith(" "):
            if header:
                names, _, kind = header.partition(" : ")
                found.append((names.split(", "), kind, []))
                header = ""
            found[-1][2].append(line)
        else:
            header = f"{header} {line}".strip()
    return lines[:start], found, lines[end:]


def parameters(cls: type[Optimizer]) -> list[Entry]:
    """Each parameter of a class with a text of its own: of those of all optimizers, and of its base, theirs."""
    told: list[Entry] = []
    general = {} if cls is Optimizer else {name: (kind, text) for name, kind, text in parameters(Optimizer)}
    for names, kind, text in entries(inspect.getdoc(cls) or "")[1]:
        words = " ".join(text)
        base = re.search(r"As for `(\w+)`", words)
        others = {n: (k, t) for n, k, t in parameters(CLASSES[base[1]])} if base else general
        for name in names:
            if base or "Options of all optimizers" in words:
                told.append((name, *others[name]))
            elif "Parameters or groups, see `Optimizer`." in words:
                rest = words.partition("see `Optimizer`.")[2].strip()
                told.append((name, kind, [*general[name][1], *[f"    {rest}"] * bool(rest)]))
            else:
                told.append((name, kind, text))
    return told


def in_full(cls: type[Optimizer]) -> list[str]:
    """The docstring of a class in which nothing is told elsewhere, with defaults, and with formulas as LaTeX."""
    before, _, after = entries(inspect.getdoc(cls) or "")
    defaults = {name: one.default for name, one in inspect.signature(cls).parameters.items()}
    lines = formulas.rendered(before)
    for name, kind, text in parameters(cls):
        default = defaults.get(name, inspect.Parameter.empty)
        shown = "" if default is inspect.Parameter.empty else f", default {default!r}"
        lines += [f"{name} : {kind}{shown}", *text]
    return [*lines, "", *after]


# ---- paths on classic surfaces ----

STEPS = 300
RATES = tuple(float(f"{x:.1g}") for x in np.geomspace(1e-4, 10, 16))


@dataclass(frozen=True)
class Surface:
    """A function of two numbers, its gradient, where to start, its least point, and the part that is drawn."""

    name: str
    value: Callable[[Any, Any], Any]
    gradient: Callable[[float, float], tuple[float, float]]
    start: tuple[float, float]
    least: tuple[float, float]
    view: tuple[float, float, float, float]


def _beale(x: Any, y: Any) -> Any:
    return (1.5 - x + x * y) ** 2 + (2.25 - x + x * y**2) ** 2 + (2.625 - x + x * y**3) ** 2


def _beale_gradient(x: float, y: float) -> tuple[float, float]:
    a, b, c = 1.5 - x + x * y, 2.25 - x + x * y**2, 2.625 - x + x * y**3
    return (
        2 * (a * (y - 1) + b * (y**2 - 1) + c * (y**3 - 1)),
        2 * x * (a + 2 * b * y + 3 * c * y**2),
    )


SURFACES = (
    Surface(
        "narrow valley, (x² + 25 y²) / 2",
        lambda x, y: (x**2 + 25 * y**2) / 2,
        lambda x, y: (x, 25 * y),
        (-3.0, 1.0),
        (0.0, 0.0),
        (-3.5, 1.5, -1.3, 1.3),
    ),
    Surface(
        "Rosenbrock, (1 − x)² + 100 (y − x²)²",
        lambda x, y: (1 - x) ** 2 + 100 * (y - x**2) ** 2,
        lambda x, y: (-2 * (1 - x) - 400 * x * (y - x**2), 200 * (y - x**2)),
        (-1.2, 1.0),
        (1.0, 1.0),
        (-1.7, 1.7, -0.7, 2.2),
    ),
    Surface("Beale", _beale, _beale_gradient, (1.0, 1.5), (3.0, 0.5), (-0.5, 4.2, -1.2, 2.2)),
)


def path(cls: type[Optimizer], surface: Surface, lr: float) -> Any:
    """The points of a run of STEPS steps, (STEPS + 1, 2); fewer where it leaves all bounds."""
    w = np.array([surface.start])  # a matrix, since Muon takes nothing else
    points = [surface.start]
    optimizer = cls(w, lr)
    for _ in range(STEPS):
        with optimizer.lookahead():
            gradient = np.array([surface.gradient(*w[0].tolist())])
        optimizer.step(gradient)
        points.append(tuple(w[0].tolist()))
        if not np.abs(w).max() < 10:
            break
    return np.array(points)


def best_path(cls: type[Optimizer], surface: Surface) -> tuple[float, Any]:
    """The rate of RATES by which a run ends lowest, over its last ten points, and that run."""
    best: tuple[float, float, Any] = (np.inf, 0.0, None)
    for lr in RATES:
        points = path(cls, surface, lr)
        with np.errstate(all="ignore"):
            end = np.mean(surface.value(*points[-10:].T)) if len(points) > STEPS else np.inf
        if end < best[0]:
            best = (float(end), lr, points)
    return best[1:]


def draw_paths(cls: type[Optimizer], to: Path) -> None:
    """One picture of a class's paths on all surfaces."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.0, 3.0), layout="constrained")
    for axes, surface in zip(figure.subplots(1, 3), SURFACES, strict=True):
        lr, points = best_path(cls, surface)
        left, right, low, high = surface.view
        x, y = np.meshgrid(np.linspace(left, right, 161), np.linspace(low, high, 161))
        z = surface.value(x, y)
        axes.contour(x, y, z, levels=np.geomspace(max(z.min(), 0.01), z.max(), 14), colors="0.8", linewidths=0.6)
        axes.plot(*points.T, color="#0072B2", linewidth=1.0, marker=".", markersize=2.5)
        axes.plot(*surface.start, "o", color="black", markersize=5, markerfacecolor="white")
        axes.plot(*surface.least, "*", color="#D55E00", markersize=9)
        axes.set(xlim=(left, right), ylim=(low, high), xlabel="x", ylabel="y")
        axes.set_title(f"{surface.name}\nlr {lr:g}, at the end {surface.value(*points[-1]):.1e}", fontsize=8)
    figure.suptitle(f"{cls.__name__}: {STEPS} steps", fontsize=10)
    figure.savefig(to, dpi=130)


def draw_oscillation(to: Path) -> None:
    """Gradient descent jumps across a narrow valley; RMSprop divides each coordinate by its own scale."""
    from matplotlib.figure import Figure

    valley = SURFACES[0]
    figure = Figure(figsize=(9.0, 3.0), layout="constrained")
    ways, across = figure.subplots(1, 2, width_ratios=(1.4, 1))
    x, y = np.meshgrid(np.linspace(-3.5, 0.8, 161), np.linspace(-1.3, 1.3, 161))
    ways.contour(x, y, valley.value(x, y), levels=np.geomspace(0.02, 25, 14), colors="0.8", linewidths=0.6)
    for name, lr, colour in (("SGD", 0.075, "#D55E00"), ("RMSprop", 0.02, "#0072B2")):
        points = path(CLASSES[name], valley, lr)[:60]
        label = f"gradient descent (SGD), lr {lr}" if name == "SGD" else f"{name}, lr {lr}"
        ways.plot(*points.T, color=colour, linewidth=1.0, marker=".", markersize=3, label=label)
        across.plot(points[:, 1], color=colour, linewidth=1.0, marker=".", markersize=3)
    ways.plot(0, 0, "*", color="black", markersize=9)
    ways.set(xlabel="x, along the valley", ylabel="y, across it", title=valley.name)
    ways.legend(frameon=False, fontsize=8)
    across.set(xlabel="step", ylabel="y, across the valley", title="a damped oscillation, and none")
    figure.savefig(to, dpi=130)


# ---- pages ----

CHOOSE = {
    "SGD": "a network with normalization is trained with a tuned rate and schedule, or memory is short",
    "NAG": "SGD with momentum overshoots; the gradient is taken where it looks ahead",
    "SignSGD": "only the signs of gradients can be trusted or sent",
    "Signum": "as SignSGD, with noise averaged out",
    "Lion": "a large model has large batches, and Adam's second moment costs too much memory",
    "QHM": "SGD with momentum and plain SGD are each half right",
    "Adagrad": "features are sparse, and the problem is convex or nearly",
    "Adadelta": "units of parameters differ, and no rate is to be tuned",
    "RMSprop": "the problem is not stationary: recurrent networks, reinforcement learning",
    "Adam": "you want what works without tuning, most of the time",
    "AdamW": "as Adam, with weight decay: transformers, and most of today's models",
    "Adamax": "gradients have rare large values, as in embeddings",
    "RAdam": "Adam needs a warm-up that you do not want to tune",
    "QHAdam": "Adam's momentum is to be weighted against the plain gradient",
    "AdaBelief": "Adam is to take longer steps where gradients agree",
    "LaProp": "Adam is unstable with a large beta1",
    "Yogi": "gradients are sparse, and Adam's second moment falls too fast",
    "Grams": "Adam's momentum points the wrong way too often",
    "AdEMAMix": "training is long, and old gradients still help",
    "NAdam": "Adam, with Nesterov's momentum",
    "AdaBound": "you want Adam's start and SGD's end",
    "ADOPT": "Adam does not converge with your beta2",
    "Adan": "a vision or language model is trained with large batches",
    "Rprop": "every step sees all the data, without noise",
    "ASGD": "the average of the path is the result: convex problems with noise",
    "Ftrl": "models are linear, features sparse, and most weights should be 0",
    "MADGRAD": "Adagrad's convergence is wanted in deep networks",
    "ScheduleFreeSGD": "the length of the training is not known, so that no schedule fits",
    "ScheduleFreeAdamW": "the length of the training is not known, so that no schedule fits",
    "LARS": "batches are very large, in vision",
    "LAMB": "batches are very large, in language",
    "StableAdamW": "AdamW's loss has spikes in large models",
    "NovoGrad": "memory is short: one number of second moment per array",
    "Prodigy": "no learning rate is to be tuned",
    "Adafactor": "memory is very short: second moments of a matrix as a row and a column",
    "Muon": "the parameters are matrices of hidden layers (in Split, with AdamW for the rest)",
}
TEXTS = ("SGD", "NAG", "RMSprop", "Adam", "AdamW")  # whose errors in widely read texts are told in classics.md


def page(name: str) -> str:
    """The page of a class."""
    lines = [f"# {name}", "", f"Choose it when {CHOOSE[name]}." if name in CHOOSE else ""]
    if name in TEXTS:
        lines += ["", "Where widely read texts are wrong about it, and where frameworks differ: [](../classics.md)."]
    return "\n".join(
        [
            *lines,
            "",
            "```{eval-rst}",
            ".. currentmodule:: fastopt",
            "",
            f".. autoclass:: {name}",
            "   :no-members:",
            "```",
            "",
            "## Its path",
            "",
            f"![Paths of {name} on three surfaces]({name}.png)",
            "",
            f"{STEPS} steps from the circle; the star is the least value. The rate of each is the one of {len(RATES)} "
            f"from {RATES[0]:g} to {RATES[-1]:g} by which the run ends lowest.",
            "",
        ]
    )


def nanoseconds(cls: type[Optimizer], size: int = 1_000_000) -> float:
    """The least time of a step, per parameter."""
    side = int(size**0.5)
    w, gradient = np.zeros((side, side), np.float32), np.full((side, side), 0.5, np.float32)
    optimizer, times = cls(w), []
    deadline = time.perf_counter() + 1.0
    while len(times) < 30 and (len(times) < 3 or time.perf_counter() < deadline):
        with optimizer.lookahead():
            start = time.perf_counter_ns()
        optimizer.step(gradient)
        times.append(time.perf_counter_ns() - start)
    return float(min(times)) / w.size


def passes(cls: type[Optimizer]) -> str:
    """How often a step with default hyper-parameters goes over the parameters; NumPy's arithmetic, many times."""
    if cls.in_numpy:
        return "NumPy"
    (group,) = cls(np.ones((2, 2)), 0.1).param_groups
    return "3" if cls.keeps_axes else "2" if kernels.rules()[cls.rule(group)][2] else "1"


def overview() -> str:
    """All classes in a table."""
    rows = ["| class | state, bytes | passes | ns | choose it when |", "| --- | --: | --: | --: | --- |"]
    for name, cls in CLASSES.items():
        state = cls(np.ones((1000, 1000), np.float32), 0.1).nbytes / 1e6
        cells = (f"[{name}](made/{name}.md)", f"{state:.2g}", passes(cls), f"{nanoseconds(cls):.2g}")
        rows.append(f"| {' | '.join((*cells, CHOOSE.get(name, '')))} |")
    cores = fastopt.get_num_threads()
    where = f"{platform.machine()} processor, {cores} thread{'s' * (cores > 1)}"
    note = (
        "For each parameter in float32, in a square matrix of 10^6 elements: bytes of state, passes over memory, "
        f"nanoseconds of a step. These were measured when this page was built, as the best of 30 steps ({where})."
    )
    return "\n".join([note, "", *rows, ""])


def gallery() -> str:
    """All pictures of paths."""
    return "\n".join(f"### [{name}](made/{name}.md)\n\n![Paths of {name}](made/{name}.png)\n" for name in CLASSES)


COMMANDS = {
    "digits.png": ["train", "digits", "--optimizer", "all", "--no-compare"],
    "line.png": ["train", "line", "--optimizer", "all", "--no-compare"],
}


def make() -> None:
    """Write what is missing or older than the classes."""
    MADE.mkdir(exist_ok=True)
    sources = [Path(__file__), *Path(fastopt.optimizers.__file__).parent.glob("*.py")]
    newest = max(source.stat().st_mtime for source in sources)

    def wanted(name: str) -> Path | None:
        """Where to write it, if that must be done."""
        to = MADE / name
        return None if to.exists() and to.stat().st_mtime > newest else to

    for name, cls in CLASSES.items():
        if to := wanted(f"{name}.png"):
            draw_paths(cls, to)
        if to := wanted(f"{name}.md"):
            to.write_text(page(name))
    if to := wanted("oscillation.png"):
        draw_oscillation(to)
    for name, command in COMMANDS.items():
        if to := wanted(name):
            command = [sys.executable, "-m", "fastopt", *command, "--plot", str(to)]
            environment = os.environ | {"OPENBLAS_NUM_THREADS": "1"}  # its threads would spin more than they compute
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)
    for name, text in (("overview.txt", overview), ("gallery.txt", gallery)):
        if to := wanted(name):
            to.write_text(text())


if __name__ == "__main__":
    make()
