"""The one table of optimizers under test: class, options, formula by the paper, counterpart in torch.

RECORDS has each class with each set of its own options. A class that has no record here gets one with its defaults, so
that it is tested as far as that goes, and `test_bits.py` fails until it has one with a formula.

How cases are chosen, so that `make test` takes minutes, by what could be wrong:
- in a class or in its rule: each class with all its own options (RECORDS): bits, the paper's formula, special values,
  scalars, checks, schedules, a resumed run;
- in a kernel, which a rule has for each kind of decay: the first case that reaches it (FIRST_OF_KERNELS), on every
  instruction set, and at every size on the widest; all other cases on the widest, at a few sizes;
- in what all classes share, such as options of all classes, threads, forks, interrupts, failing memory or overlaps: a
  class of each kind (KINDS), and where its own options do not matter, its first record (MAIN).
With FASTOPT_EVERY_CLASS=1, as `make test-slow` sets it, every class is of a kind of its own, every record a main one
and every case the first of a kernel: that is the full product. A test that goes through less than it could says so by
`chosen`.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from typing import Any

import numpy as np
import oracles

from fastopt import Optimizer
from fastopt.engine import kernels
from fastopt.optimizers import OPTIMIZERS

EVERY_CLASS = os.environ.get("FASTOPT_EVERY_CLASS") == "1"


def chosen(few: Any, everything: Any) -> Any:
    """What `make test` goes through, or what `make test-slow` does."""
    return everything if EVERY_CLASS else few


# No state, state that looks ahead, one or more arrays of it by the options, two; numbers that persist for each array;
# a parameter that is assigned, numbers that persist for a group, decay that is decoupled and asks nobody; a first pass.
# A new kind of rule gets its first class here.
KINDS = {name: OPTIMIZERS[name] for name in ("SGD", "NAG", "RMSprop", "Adam", "NAdam", "ScheduleFreeAdamW", "LAMB")}
KINDS = chosen(KINDS, OPTIMIZERS)

# What the rule of a class does that tests of all classes must know of.
# An Inf in p reaches the update.
READ_P = {
    "ASGD",
    "Ftrl",
    "MADGRAD",
    "ScheduleFreeSGD",
    "ScheduleFreeAdamW",
    "LARS",
    "LAMB",
    "NovoGrad",
    "Prodigy",
    "Adafactor",
}
MOVE_WITHOUT_GRADIENT = {"ASGD", "Ftrl"}  # by a decay of their own
# Another lr, other state.
RATE_IN_STATE = {"NAG", "Rprop", "ASGD", "MADGRAD", "ScheduleFreeSGD", "ScheduleFreeAdamW", "LARS", "Prodigy"}
REFUSE_RATE_0 = {"Ftrl", "AdaBound"}  # which they divide by
DECAY_INSIDE = {"Adan", "ScheduleFreeAdamW", "NovoGrad"}  # the rule, so that no decay_mask can leave it out

REALS = ["float32", "float64"]
ISAS = kernels.isas()
THREADS = [1, 2, 5]


def stepped(opt: Optimizer, grads: Any, reference: bool = False, **more: Any) -> bool:
    """One step of any optimizer: gradients that go by no parameters may as well be of the looked-ahead ones."""
    with opt.lookahead():
        pass
    return (opt.reference_step if reference else opt.step)(grads, **more)


@dataclass(frozen=True)
class Record:
    """One optimizer with one set of options."""

    name: str  # of the class, in OPTIMIZERS
    words: str  # what is special about the options
    options: dict[str, Any]  # as the class takes them
    oracle: Callable[..., Any] | None  # in oracles.py
    torch: bool  # torch.optim has it, under the same name with the same options
    loss_scale: float = 1.0

    def __str__(self) -> str:
        return f"{self.name} {self.words}".strip()

    @property
    def cls(self) -> type[Optimizer]:
        return OPTIMIZERS[self.name]

    def make(self, params: Any, **more: Any) -> Optimizer:
        """The optimizer; `more` goes before the record's options, but for what the class does not take."""
        taken = self.cls.hyper_parameters
        more = {name: value for name, value in more.items() if name not in taken or taken[name].init}
        return self.cls(params, **{**self.options, **more})

    def step(self, opt: Optimizer, grads: Any, reference: bool = False) -> bool:
        """One step, by the kernels or by the NumPy twin."""
        return stepped(opt, grads, reference, loss_scale=self.loss_scale)

    def hyper(self) -> dict[str, Any]:
        """All hyper-parameters, the defaults among them."""
        return {key: x for key, x in self.make([np.zeros(1)]).param_groups[0].items() if key != "params"}

    @cached_property
    def kernel(self) -> tuple[str, Any]:
        """The rule and the kind of decay that the options come to."""
        h = self.hyper()
        return self.cls.rule(h), self.cls.kind(h)


def record(name: str, words: str, oracle: Callable[..., Any] | None, torch: bool = False, **options: Any) -> Record:
    return Record(name, words, {"lr": 0.1, **options}, oracle, torch)


RECORDS = [
    record("SGD", "", oracles.sgd, torch=True),
    record("SGD", "momentum", oracles.sgd, torch=True, momentum=0.9),
    record("SGD", "dampened momentum", oracles.sgd, torch=True, momentum=0.9, dampening=0.3),
    record("SGD", "nesterov", oracles.sgd, torch=True, momentum=0.9, nesterov=True),
    record("SGD", "classical momentum", oracles.sgd, momentum=0.9, dampening=0.3, lr_in_momentum=True),
    record("SGD", "classical nesterov", oracles.sgd, momentum=0.9, nesterov=True, lr_in_momentum=True),
    record("NAG", "", oracles.nag, momentum=0.8),
    record("NAG", "without momentum", oracles.nag, momentum=0.0),
    record("SignSGD", "", oracles.signsgd),
    record("Signum", "", oracles.signum),
    record("Signum", "short memory", oracles.signum, momentum=0.5),
    record("Signum", "without momentum", oracles.signum, momentum=0.0),
    record("Lion", "", oracles.lion),
    record("Lion", "short memory", oracles.lion, betas=(0.8, 0.3), weight_decay=0.1),
    record("Lion", "coupled decay", oracles.lion, decoupled=False, weight_decay=0.1),
    record("QHM", "", oracles.qhm),
    record("QHM", "short memory", oracles.qhm, momentum=0.75, nu=0.5),
    record("QHM", "momentum alone", oracles.qhm, momentum=0.9, nu=1.0),
    record("QHM", "without momentum", oracles.qhm, momentum=0.9, nu=0.0),
    record("Adagrad", "", oracles.adagrad, torch=True),
    record(
        "Adagrad",
        "decaying, from a first value",
        oracles.adagrad,
        torch=True,
        lr_decay=0.25,
        initial_accumulator_value=0.1,
        eps=1e-3,
    ),
    record("Adadelta", "", oracles.adadelta, torch=True),
    record("Adadelta", "short memory, large eps", oracles.adadelta, torch=True, rho=0.5, eps=0.1),
    record("Adadelta", "no memory", oracles.adadelta, torch=True, rho=0.0),
    *(
        record(
            "RMSprop",
            " ".join(["centered"] * centered + ["momentum"] * (momentum > 0) + ["eps inside"] * inside),
            oracles.rmsprop,
            torch=not inside,
            alpha=0.9,
            eps=1e-3,  # large enough to see
            centered=centered,
            momentum=momentum,
            **({"eps_inside_sqrt": True} if inside else {}),
        )
        for centered, momentum, inside in product([False, True], [0.0, 0.7], [False, True])
    ),
    record("Adamax", "", oracles.adamax, torch=True),
    record("Adamax", "short memory, large eps", oracles.adamax, torch=True, betas=(0.5, 0.6), eps=0.1),
    record("Adam", "", oracles.adam, torch=True),
    record("Adam", "short memory, large eps", oracles.adam, torch=True, betas=(0.5, 0.8), eps=0.1),
    record("Adam", "amsgrad", oracles.adam, torch=True, betas=(0.9, 0.5), amsgrad=True, eps=1e-3),
    record("Adam", "eps beside the root", oracles.adam, betas=(0.5, 0.8), eps=0.1, eps_hat=True),
    record("AdamW", "", oracles.adam, torch=True),
    record("AdamW", "amsgrad", oracles.adam, torch=True, betas=(0.9, 0.5), amsgrad=True),
    record("AdamW", "without decay", oracles.adam, torch=True, weight_decay=0.0),
    record("NAdam", "", oracles.nadam, torch=True),
    record("NAdam", "fast schedule", oracles.nadam, torch=True, betas=(0.7, 0.9), eps=1e-3, momentum_decay=0.5),
    record("NAdam", "eps beside the root", oracles.nadam, eps=0.1, eps_hat=True),
    record("AdaBound", "", oracles.adabound),
    record("AdaBound", "bounds that close soon", oracles.adabound, betas=(0.8, 0.9), final_lr=0.3, gamma=0.5, eps=1e-3),
    record("AdaBound", "amsbound", oracles.adabound, betas=(0.9, 0.5), amsbound=True, final_lr=0.01, gamma=0.1),
    record("ASGD", "", oracles.asgd, torch=True),
    record("ASGD", "averaging soon", oracles.asgd, torch=True, lambd=0.1, alpha=0.5, t0=2.0),
    record("Adan", "", oracles.adan),
    record("Adan", "short memory", oracles.adan, betas=(0.7, 0.5, 0.8), eps=1e-3),
    record("Adan", "without the proximal form", oracles.adan, no_prox=True, weight_decay=0.1),
    record("Ftrl", "", oracles.ftrl),
    record(
        "Ftrl",
        "all terms",
        oracles.ftrl,
        initial_accumulator_value=0.5,
        l1=0.3,
        l2=0.1,
        l2_shrinkage=0.05,
        beta=1.0,
    ),
    record("MADGRAD", "", oracles.madgrad),
    record("MADGRAD", "without momentum, large eps", oracles.madgrad, momentum=0.0, eps=1e-2),
    record("ScheduleFreeSGD", "", oracles.schedule_free_sgd),
    record(
        "ScheduleFreeSGD",
        "warmed up",
        oracles.schedule_free_sgd,
        momentum=0.8,
        warmup_steps=4,
        r=1.0,
        weight_lr_power=1.0,
    ),
    record("ScheduleFreeAdamW", "", oracles.schedule_free_adamw),
    record(
        "ScheduleFreeAdamW",
        "warmed up",
        oracles.schedule_free_adamw,
        betas=(0.95, 0.8),
        eps=1e-3,
        warmup_steps=4,
        r=1.0,
        weight_lr_power=1.0,
    ),
    record("AdaBelief", "", oracles.adabelief),
    record("AdaBelief", "short memory, large eps", oracles.adabelief, betas=(0.5, 0.8), eps=1e-3),
    record("LaProp", "", oracles.laprop),
    record("LaProp", "short memory, large eps", oracles.laprop, betas=(0.5, 0.8), eps=0.1),
    record("Yogi", "", oracles.yogi),
    record("Yogi", "short memory, small eps", oracles.yogi, betas=(0.5, 0.8), eps=1e-6, initial_accumulator=0.25),
    record("AdEMAMix", "", oracles.ademamix),
    record("AdEMAMix", "warming up", oracles.ademamix, betas=(0.5, 0.8, 0.99), alpha=8.0, t_alpha_beta3=5.5, eps=0.1),
    record("Grams", "", oracles.grams),
    record("Grams", "short memory, large eps", oracles.grams, betas=(0.5, 0.8), eps=0.1),
    record("ADOPT", "", oracles.adopt),
    record("ADOPT", "unclipped, large eps", oracles.adopt, betas=(0.5, 0.8), eps=0.1, clip=False),
    record("Rprop", "", oracles.rprop, torch=True),
    record("Rprop", "other factors and limits", oracles.rprop, torch=True, etas=(0.25, 1.5), step_sizes=(0.05, 0.2)),
    record("RAdam", "", oracles.radam, torch=True),
    record("RAdam", "soon rectified, large eps", oracles.radam, torch=True, betas=(0.5, 0.8), eps=0.1),
    record("RAdam", "never rectified", oracles.radam, torch=True, betas=(0.9, 0.6)),
    record("QHAdam", "", oracles.qhadam),
    record("QHAdam", "quasi-hyperbolic", oracles.qhadam, nus=(0.7, 0.9), betas=(0.5, 0.8), eps=1e-3),
    record("QHAdam", "gradients alone", oracles.qhadam, nus=(0.0, 0.0)),
    record("LARS", "", oracles.lars),
    record("LARS", "nesterov, large eps", oracles.lars, momentum=0.5, trust_coefficient=0.1, eps=0.1, nesterov=True),
    record("LARS", "without norms", oracles.lars, trust=False, nesterov=True),
    record("LAMB", "", oracles.lamb),
    record("LAMB", "short memory, large eps", oracles.lamb, betas=(0.5, 0.8), eps=0.1),
    record("LAMB", "without norms", oracles.lamb, trust=False),
    record("StableAdamW", "", oracles.stable_adamw),
    record("StableAdamW", "without decay", oracles.stable_adamw, betas=(0.5, 0.8), eps=0.1, weight_decay=0.0),
    record("NovoGrad", "", oracles.novograd),
    record("NovoGrad", "averaging, large eps", oracles.novograd, betas=(0.8, 0.5), eps=0.1, grad_averaging=True),
    record("Adafactor", "", oracles.adafactor, torch=True),
    record("Adafactor", "other terms", oracles.adafactor, torch=True, beta2_decay=-0.5, eps=(1e-3, 0.1), d=2.0),
    # Its sums are over all parameters: test_first_passes.py has its formula.
    record("Prodigy", "", None, d0=0.1),
    record(
        "Prodigy",
        "all terms",
        None,
        betas=(0.8, 0.9),
        beta3=0.5,
        eps=1e-3,
        use_bias_correction=True,
        safeguard_warmup=True,
        d0=0.01,
        d_coef=2.0,
        growth_rate=1.5,
    ),
    record("Lion", "cautious", oracles.lion, betas=(0.8, 0.3), cautious=True),
    record("Adam", "cautious", oracles.adam, betas=(0.5, 0.8), cautious=True),
    record("NAdam", "cautious", oracles.nadam, betas=(0.5, 0.8), cautious=True),
]
WITHOUT_RECORD = [name for name in OPTIMIZERS if name not in {r.name for r in RECORDS}]
RECORDS += [record(name, "defaults", None) for name in WITHOUT_RECORD]
OF_KINDS = [r for r in RECORDS if r.name in KINDS]
MAIN = chosen([next(r for r in RECORDS if r.name == name) for name in KINDS], RECORDS)

# What every optimizer takes besides: words, options, loss scale. What reaches a kernel by most of these comes first.
SHARED: list[tuple[str, dict[str, Any], float]] = [
    ("", {}, 1.0),
    ("loss scale", {"weight_decay": 0.1, "maximize": True}, 768.0),
    ("decoupled decay", {"weight_decay": 0.1, "decoupled": True}, 1.0),
    ("coupled decay", {"weight_decay": 0.1, "decoupled": False}, 1.0),
    ("decay", {"weight_decay": 0.1}, 1.0),
    ("maximize", {"maximize": True}, 1.0),
    ("clipped and zeroed", {"clip_norm": 0.1, "zero_grads": True}, 3.0),
    ("clamped", {"clip_value": 0.3, "weight_decay": 0.1, "maximize": True}, 3.0),
]


def takes(record: Record, options: dict[str, Any]) -> bool:
    """Whether the class has such options: AdamW is decoupled and asks nobody. Its kind of decay comes by itself."""
    own = inspect.signature(record.cls).parameters
    return options.keys() - {"clip_norm", "clip_value", "zero_grads"} <= own.keys() and (
        "decoupled" not in options or options["decoupled"] != own["decoupled"].default
    )


def sums_up(record: Record) -> bool:
    """Whether an update goes by sums over the whole parameter."""
    return record.cls.in_numpy or bool(kernels.rules()[record.cls.rule(record.hyper())][2])


# Each record; a main one with all that is shared, any other with what leads to a kernel that none before it has, or for
# the first time to one with scaled gradients.
CASES: list[Record] = []
FIRST_OF_KERNELS: set[str] = set()
_seen: set[tuple[str, Any]] = set()
for r in RECORDS:
    for words, options, loss_scale in SHARED:
        if takes(r, options):
            words = ", ".join(filter(None, [r.words, words]))
            case = replace(r, words=words, options={**r.options, **options}, loss_scale=loss_scale)
            reached = {case.kernel, (case.kernel[0], f"scaled: {loss_scale != 1}")}
            if r in MAIN or words == r.words or reached - _seen:
                CASES.append(case)
            if chosen(case.kernel not in _seen, True):
                FIRST_OF_KERNELS.add(str(case))
            _seen |= reached
