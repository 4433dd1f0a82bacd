"""Random worlds: trees, layouts, groups, live changes and threads by the dice, step against reference step to the bit.

What test_properties.py does with small arrays, over arrays as large as tiles, chunks and a few of them, with guard
bytes around each, and in parallel. A failure names its seed: the same world comes again.
"""

from __future__ import annotations

from contextlib import suppress

import numpy as np
import pytest
from optimizers_table import DECAY_INSIDE, KINDS, REFUSE_RATE_0
from support import bits, is_for, leaves, looked_ahead, mapped, whole

import fastopt
from fastopt import hyper
from fastopt.engine import kernels, sweep
from fastopt.engine.chunks import CHUNK
from fastopt.optimizers import OPTIMIZERS
from fastopt.schedules import CosineDecay, ExponentialDecay, LinearDecay, StepDecay, Warmup

pytestmark = pytest.mark.no_cover  # what these tests run often is run by others too

SIZES = [
    0,
    1,
    2,
    7,
    15,
    16,
    17,
    31,
    33,
    255,
    1023,
    1024,
    1025,
    4095,
    4096,
    4097,
    8191,
    8192,
    8193,
    2 * CHUNK + 5,
]
SEEDS = 20
LAYOUTS = ["plain", "other order", "strided", "reversed", "rotated", "unaligned", "read-only", "constant"]


class Dice:
    def __init__(self, seed, name):
        self.rng = np.random.default_rng([seed, *name.encode()])

    def one_of(self, *choices):
        return choices[self.rng.integers(len(choices))]

    def chance(self, p):
        return bool(self.rng.random() < p)

    def number(self, low, high):
        return float(self.rng.uniform(low, high))

    # -- arrays --

    def shape(self):
        size = SIZES[self.rng.integers(len(SIZES))]
        if size == 1 and self.chance(0.5):
            return ()
        if size == 0:
            return self.one_of((0,), (3, 0), (0, 5, 2))
        shape = [size]
        for _ in range(self.rng.integers(3)):  # split an axis, if it has a small factor
            factor = self.one_of(2, 3, 5, 7)
            if shape[0] % factor == 0:
                shape = [shape[0] // factor, factor, *shape[1:]]
        if self.chance(0.15):
            shape.insert(int(self.rng.integers(len(shape) + 1)), 1)
        return tuple(int(x) for x in self.rng.permutation(shape))

    def values(self, shape, dtype):
        scale = 10.0 ** self.rng.integers(-3, 3)
        return (scale * self.rng.normal(size=shape)).astype(dtype)

    def param(self):
        values = self.values(self.shape(), self.one_of("float32", "float64"))
        return np.array(values, order=self.one_of("C", "F"))

    def tree(self, depth=0):
        kind = self.one_of("leaf", "list", "tuple", "dict") if depth < 3 else "leaf"
        if kind == "leaf":
            return self.param()
        parts = [self.tree(depth + 1) for _ in range(self.rng.integers(0 if depth else 1, 4))]
        if kind == "dict":
            return {self.one_of(str(i), i, (i, "x")): part for i, part in enumerate(parts)}
        return parts if kind == "list" else tuple(parts)

    def trees(self):
        """One tree, or groups of them."""
        grouped = self.chance(0.5)
        while True:
            drawn = [{"params": self.tree()} for _ in range(self.rng.integers(1, 4))] if grouped else self.tree()
            if leaves(drawn):
                return drawn

    def laid_out(self, values, guarded, writable):
        """The same values in some layout, and a check that nothing beside them was written."""
        kind = self.one_of(
            "plain", "other order", "strided", "reversed", "rotated", "unaligned", "read-only", "constant"
        )
        if writable and kind in ("read-only", "constant"):
            kind = "strided"
        if values.ndim == 0 or kind == "plain":
            return guarded(values)
        if kind == "other order":
            return guarded(np.array(values, order="C" if values.flags.f_contiguous else "F"))
        if kind == "strided":
            wide = np.full((*values.shape[:-1], 3 * values.shape[-1]), np.nan, values.dtype)
            wide = guarded(wide)
            wide[..., 1::3] = values
            return wide[..., 1::3]
        if kind == "reversed":
            turn = tuple(slice(None, None, self.one_of(1, -1)) for _ in values.shape)
            return guarded(values[turn].copy())[turn]
        if kind == "rotated":
            axes = self.rng.permutation(values.ndim)
            return guarded(values.transpose(axes).copy()).transpose(np.argsort(axes))
        if kind == "unaligned":
            raw = guarded(np.zeros(values.nbytes + 3, np.uint8))
            out = raw[3:].view(values.dtype).reshape(values.shape)
            out[...] = values
            return out
        if kind == "constant":
            return np.broadcast_to(values.dtype.type(self.number(-1, 1)), values.shape)
        values = guarded(values)
        values.flags.writeable = False
        return values

    # -- hyper-parameters --

    def rate(self):
        first = self.number(0, 1)
        return self.one_of(
            self.number(0, 0.5),
            StepDecay(self.number(0, 1), every=2, factor=0.5),
            LinearDecay(self.number(0, 1), total=3, final=0.01),
            CosineDecay(self.number(0, 1), total=4),
            Warmup(2, ExponentialDecay(self.number(0, 1), 0.7)),
            lambda t: first / (t + 1),
        )

    def hyper(self, cls):
        """A value for each hyper-parameter, by its check; until they go together."""
        own = [(name, one) for name, one in cls.hyper_parameters.items() if one.init]
        while True:
            found = {
                name: DRAWN["eps" if name == "eps" and one._check is not hyper.floors else one._check](self)
                for name, one in own
            }
            if cls.__name__ in REFUSE_RATE_0:
                found["lr"] = self.number(0.01, 1)
            with suppress(ValueError):
                cls.check_together({name: one.default for name, one in cls.hyper_parameters.items()} | found)
                return found


# By check, or by name where more than the check is wanted: a value, often the one that switches something off.
DRAWN = {
    hyper.learning_rate: Dice.rate,
    hyper.nonnegative: lambda dice: dice.one_of(0.0, dice.number(0, 0.5)),
    hyper.constant: lambda dice: dice.one_of(0.0, dice.number(0, 0.5)),
    hyper.positive: lambda dice: dice.number(0.1, 2),
    hyper.optional(hyper.positive): lambda dice: dice.one_of(None, dice.number(0.1, 9)),
    hyper.optional(hyper.fraction): lambda dice: dice.one_of(None, dice.number(0, 0.99)),
    hyper.at_most_0: lambda dice: -dice.number(0, 1),
    hyper.floors: lambda dice: (dice.one_of(None, dice.number(0, 0.1)), dice.number(0, 0.1)),
    hyper.growth: lambda dice: dice.one_of(np.inf, dice.number(1, 2)),
    hyper.fraction: lambda dice: dice.one_of(0.0, dice.number(0, 0.99), dice.number(0, 0.99)),
    hyper.proportion: lambda dice: dice.one_of(0.0, dice.number(0, 1), dice.number(0, 1)),
    hyper.above_0: lambda dice: dice.number(0.1, 1),
    hyper.whole: lambda dice: dice.one_of(0, 3),
    hyper.betas: lambda dice: (dice.number(0, 0.99), dice.number(0, 0.999)),
    hyper.interpolation_betas: lambda dice: (dice.number(0.1, 1), dice.number(0, 0.999)),
    hyper.three_betas: lambda dice: (dice.number(0, 0.99), dice.number(0, 0.999), dice.number(0, 0.999)),
    hyper.proportions: lambda dice: (dice.number(0, 1), dice.one_of(1.0, dice.number(0, 1))),
    hyper.etas: lambda dice: (dice.number(0.1, 0.9), dice.number(1.1, 2)),
    hyper.limits: lambda dice: (dice.number(0, 0.1), dice.number(0.2, 2)),
    hyper.flag: lambda dice: dice.chance(0.4),
    "eps": lambda dice: 10 ** dice.number(-8, 0),
}


def a_world(seed, name, guarded, steps=4):
    """Play it through; everything that is random comes from the seed."""
    dice, cls = Dice(seed, name), OPTIMIZERS[name]
    kernels.select(dice.one_of(*kernels.isas()))
    fastopt.set_flush_denormals(dice.chance(0.5))
    options = {
        "nonfinite": dice.one_of("propagate", "skip", "raise"),
        "clip_norm": dice.one_of(None, None, dice.number(0.1, 10)),
        "zero_grads": dice.chance(0.4),
        "clip_value": None,
        "clip_tensor_norm": None,
        "ema_decay": dice.one_of(None, None, dice.number(0, 0.99)) if not cls._has_average() else None,
        "decay_mask": dice.one_of(None, lambda path, array: array.ndim > 1, lambda path, array: "0" in path)
        if name not in DECAY_INSIDE
        else None,
    }
    if options["clip_norm"] is None:
        options[dice.one_of("clip_value", "clip_tensor_norm")] = dice.one_of(None, dice.number(0.1, 2))
    drawn = dice.trees()
    while not is_for(cls, drawn):
        drawn = dice.trees()
    places = iter(guarded.each(leaves(drawn)))
    params = mapped(lambda _: next(places), drawn)
    places = iter(guarded.each(leaves(drawn)))
    twins = mapped(lambda _: next(places), drawn)
    opt, twin = cls(params, **options), cls(twins, **options)
    grouped = len(opt.param_groups) > 1 or opt.param_groups[0]["params"] is not params

    def gradient(p):
        if dice.chance(0.15):
            return None
        values = np.array(dice.values(p.shape, p.dtype), order="F" if p.flags.f_contiguous else "C")
        return dice.laid_out(values, guarded, options["zero_grads"])

    for _ in range(steps):
        for group, other in zip(opt.param_groups, twin.param_groups, strict=True):
            if dice.chance(0.6):
                changes = dice.hyper(cls)
                group.update(changes)
                other.update(changes)
                for one in [*opt.param_groups, *twin.param_groups]:
                    one.update((name, changes[name]) for name in cls.same_in_groups if name in changes)
        parts = [group["params"] for group in opt.param_groups]
        grads = [mapped(gradient, part) for part in parts]
        bad = [g for g in leaves(grads) if g is not None and g.size and g.flags.writeable]
        poisoned = options["nonfinite"] != "propagate" and bool(bad) and dice.chance(0.2)
        if poisoned:
            victim = bad[dice.rng.integers(len(bad))]
            place = np.unravel_index(dice.rng.integers(victim.size), victim.shape)
            victim[place] = dice.one_of(np.nan, np.inf, -np.inf)
        same = mapped(lambda g: None if g is None else np.array(g), grads)
        kept = [None if g is None else bits(g) for g in leaves(grads)]
        scale = dice.one_of(1.0, 1024.0, dice.number(0.1, 10))
        sweep.set_threads(dice.one_of(1, 2, 5))
        sweep.set_forced(dice.chance(0.6))
        done = attempt(looked_ahead(opt).step, grads if grouped else grads[0], scale)
        sweep.set_threads(dice.one_of(1, 1, 3))
        sweep.set_forced(dice.chance(0.3))
        assert done == attempt(looked_ahead(twin).reference_step, same if grouped else same[0], scale)
        assert poisoned == (done is not True)
        assert whole(opt, params) == whole(twin, twins)
        if not options["zero_grads"]:
            assert [None if g is None else bits(g) for g in leaves(grads)] == kept
        elif not poisoned:
            assert all(g is None or (g == 0).all() for g in leaves(grads))
        guarded.check()
        if dice.chance(0.2) and not poisoned:
            opt.load_state_dict(opt.state_dict())
            assert whole(opt, params) == whole(twin, twins)


def attempt(step, grads, scale):
    """What a step returns, or the first words of what it says."""
    try:
        return step(grads, loss_scale=scale)
    except FloatingPointError as error:
        return str(error)


@pytest.mark.parametrize(
    ("name", "seed"), [(name, seed) for name in OPTIMIZERS for seed in range(SEEDS if name in KINDS else 4)]
)
def test_in_a_random_world_step_equals_reference_step_to_the_bit(name, seed, guarded):
    a_world(seed, name, guarded)


@pytest.mark.slow
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_in_hundreds_of_random_worlds_step_equals_reference_step_to_the_bit(name, guarded):
    for seed in range(100, 700):
        fresh = type(guarded)()
        try:
            a_world(seed, name, fresh, steps=6)
        except Exception as error:
            raise AssertionError(f"seed {seed}: {error}"[:3000]) from error


def test_the_dice_come_by_all_that_there_is():
    """Each layout, kind of tree and size in the worlds above, or they would prove less than they say."""
    seen = {"empty": 0, "no axes": 0, "Fortran": 0, "large": 0, "groups": 0, "float32": 0, "float64": 0, "nested": 0}
    for name in KINDS:
        for seed in range(SEEDS):
            dice = Dice(seed, name)
            for _ in range(6):
                dice.one_of(1, 2)
            drawn = dice.trees()
            arrays = leaves(drawn)
            seen["groups"] += isinstance(drawn, list) and bool(drawn) and isinstance(drawn[0], dict)
            seen["nested"] += not isinstance(drawn, np.ndarray)
            seen["empty"] += any(a.size == 0 for a in arrays)
            seen["no axes"] += any(a.ndim == 0 for a in arrays)
            seen["Fortran"] += any(not a.flags.c_contiguous for a in arrays)
            seen["large"] += any(a.size > 8000 for a in arrays)
            for real in ("float32", "float64"):
                seen[real] += any(a.dtype == real for a in arrays)
    assert all(count >= 10 for count in seen.values()), seen
