"""What fastopt is measured against: the base of all peers, and fastopt itself as one of them.

A peer takes a case and the arrays, works on these very arrays where it can, and raises `Unavailable` with the reason
where it cannot run. `values()` is where its parameters are now, for `paper.check()`, which each must pass before it is
timed. The peers themselves are in handwritten.py and packages.py.
"""

from __future__ import annotations

import functools
import importlib
import warnings
from typing import Any, ClassVar

import numpy as np

from bench.roofline import first_pass, plural
from bench.runner import Contender, Unavailable
from bench.workloads import Case, Data

Array = np.ndarray[Any, np.dtype[Any]]


def need(module: str) -> Any:
    """The module, or the reason why not."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise Unavailable(f"{error.name} is not installed") from error
    except Exception as error:  # an installed package may fail to load in any way
        raise Unavailable(f"{module} cannot be imported: {type(error).__name__}") from error


# Where nothing is written for a case itself, one that differs in its options only will do. (With a constant lr, a step
# of NAG at the looked-ahead point is momentum's.)
LIKE = {"nesterov": "momentum", "nag": "momentum", "adamw": "adam", "amsgrad": "adam"}


def written(form: dict[str, Any], case: Case) -> Any:
    """What is written for this case, or for one like it."""
    for name in (case.name, LIKE.get(case.name)):
        if name in form:
            return form[name]
    raise Unavailable(f"no {case.name} written in this form")


def threads() -> int:
    """As many as fastopt uses, for everybody who can be told."""
    import fastopt

    return fastopt.get_num_threads()


class Peer(Contender):
    name: ClassVar[str]
    formula = "paper"  # the dialect it was found to compute, see paper.check()
    packaged = True  # something to install, not code to write
    # A library whose threads get in the way of others' is measured in a process of its own, beside fastopt alone:
    # torch's default form took 4 ms beside twelve others, and 0.03 to 0.5 ms so.
    library: ClassVar[str | None] = None

    def __init__(self, case: Case, data: Data) -> None:
        self.case, self.data, self.t = case, data, 0
        self.prepare()

    def prepare(self) -> None:
        """Make `step`; raise Unavailable if there is no way."""
        raise NotImplementedError

    def values(self) -> list[Array]:
        return self.data.params


class Fastopt(Peer):
    """fastopt. Its state becomes everybody's, see share()."""

    name = "fastopt"
    packaged = False
    method = "step"

    def prepare(self) -> None:
        from fastopt.optimizers import OPTIMIZERS

        data = self.data
        self.optimizer = OPTIMIZERS[self.case.optimizer](data.tree(data.params), **self.case.options)
        self.step = functools.partial(getattr(self.optimizer, self.method), data.tree(data.grads))
        if self.case.optimizer == "NAG":
            self.between = self.look_ahead

    def look_ahead(self) -> None:
        """NAG takes a step only after this. It is not timed, for the others have only the step."""
        with self.optimizer.lookahead():
            pass

    def share(self) -> None:
        """Hand fastopt's state to all who come after: arrays of the parameters' shapes, and not single numbers."""
        leaves, data = list(self.optimizer.state.values()), self.data
        names = [name for name, array in leaves[0].items() if array.shape == data.params[0].shape]
        data.state = {name: [leaf[name] for leaf in leaves] for name in self.case.state or names}
        data.state_bytes = self.optimizer.nbytes / data.elements
        cls = type(self.optimizer)
        letters = {public: letter for letter, public in cls.slots.items()}
        read = first_pass(cls.rule(self.optimizer.param_groups[0]))
        data.first = [i for i, x in enumerate(["p", "g", *(letters[name] for name in data.state)]) if x in read]
        data.second = [1] if cls.keeps_axes and data.params[0].ndim > 1 else []


class Twin(Fastopt):
    """The class's own NumPy twin, on a second optimizer over the same parameters."""

    name = "NumPy twin"
    method = "reference_step"


class Limited(Contender):
    """Another contender, with fastopt held to so many threads."""

    def __init__(self, contender: Contender, threads: int) -> None:
        self.contender, self.threads = contender, threads
        self.most, self.warm_up = contender.most, contender.warm_up
        self.name = f"{contender.name}, {plural(threads)}"

    def refresh(self) -> None:
        self.contender.refresh()

    def run(self, n: int) -> float:
        import fastopt

        before = fastopt.get_num_threads()
        fastopt.set_num_threads(self.threads)
        try:
            return self.contender.run(n)
        finally:
            fastopt.set_num_threads(before)
