"""Learning-rate schedules: pure functions of the number of steps taken so far.

Any callable of an integer that returns a finite number of at least 0 will do as ``lr``. These are the usual ones, as
frozen dataclasses: they compare, print and pickle as what they are. A schedule does not know the optimizer, and an
optimizer that resumes at step t resumes its schedule there. The first step is taken with ``schedule(0)``: the rate
after t steps is the one that torch's optimizer holds in its step t + 1.

These take an array of step numbers as well, and give the same bits then: an optimizer asks for many steps at once. Of
any other callable, classes made of these included, it asks step by step. So it asks of `ReduceOnPlateau`, and of what
is made of it: this one is told how the run goes.

Examples
--------
>>> from fastopt.schedules import CosineDecay, Warmup
>>> lr = Warmup(100, CosineDecay(1e-3, total=900))
>>> lr(0), lr(50), lr(100), lr(1000)
(0.0, 0.0005, 0.001, 0.0)
"""

# formula, courses, compound, saved: from the simple to the compound
from .compound import Join, Product, ReduceOnPlateau, Warmup
from .courses import (
    Constant,
    CosineDecay,
    CosineRestarts,
    Cyclic,
    ExponentialDecay,
    Hold,
    InverseSqrtWarmup,
    InverseTime,
    LinearDecay,
    MultiStepDecay,
    Noam,
    OneCycle,
    OneCycleMomentum,
    Piecewise,
    PolynomialDecay,
    StepDecay,
    WarmupStableDecay,
)
from .formula import Schedule
from .saved import Restored as Restored
from .saved import described as described
from .saved import restored as restored
from .saved import takes_arrays as takes_arrays

__all__ = [
    "Constant",
    "CosineDecay",
    "CosineRestarts",
    "Cyclic",
    "ExponentialDecay",
    "Hold",
    "InverseSqrtWarmup",
    "InverseTime",
    "Join",
    "LinearDecay",
    "MultiStepDecay",
    "Noam",
    "OneCycle",
    "OneCycleMomentum",
    "Piecewise",
    "PolynomialDecay",
    "Product",
    "ReduceOnPlateau",
    "Schedule",
    "StepDecay",
    "Warmup",
    "WarmupStableDecay",
]
