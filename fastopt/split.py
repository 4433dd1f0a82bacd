"""`Split`: one optimizer whose parameters have several classes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal

from . import hyper
from .hyper import Option
from .optimizer import Array, Optimizer, Params
from .tree import Tree, dotted

__all__ = ["Split"]

Rule = tuple[Callable[[str, Array], bool] | Literal[True], type[Optimizer], Mapping[str, Any]]


class Split(Optimizer):
    """One optimizer over parameters of several classes: Muon for matrices and AdamW for the rest, say.

    It steps, skips, clips, counts and saves as one. Its groups are the rules: ``param_groups[k]`` has the
    hyper-parameters of the k-th class, and may have schedules of its own.

    Parameters
    ----------
    params : array, list, tuple or dict
        Parameters, as for `Optimizer`; not a list of groups.
    rules : list of (predicate, class, dict)
        Which parameters go to which class, with which hyper-parameters. A predicate is a function of a parameter's
        path, the keys and indices that lead to it with dots between (``"l1.bias"``), and the parameter; or True, for
        all that are left. The first that gives True counts.
    **options
        nonfinite, zero_grads, clip_norm, clip_tensor_norm, clip_value, ema_decay, decay_mask and state_memory, as for
        `Optimizer`: they are for all parameters together.

    Raises
    ------
    TypeError, ValueError
        If no rule is for a parameter, a parameter or a hyper-parameter is not for its class, or a class cannot be part
        of a split: `NAG`, which looks ahead, and those that keep numbers of their own.

    Examples
    --------
    >>> import fastopt, numpy as np
    >>> params = {"w": np.ones((2, 2)), "b": np.zeros(2)}
    >>> opt = fastopt.Split(
    ...     params,
    ...     [
    ...         (lambda path, array: array.ndim == 2, fastopt.Muon, {"lr": 0.02}),
    ...         (True, fastopt.AdamW, {"lr": 1e-3}),
    ...     ],
    ... )
    >>> opt.step({"w": np.eye(2), "b": np.ones(2)})
    True
    >>> {name: sorted(state) for name, state in opt.state.items()}
    {"params['w']": ['momentum_buffer'], "params['b']": ['exp_avg', 'exp_avg_sq']}
    """

    __signature__: ClassVar[Any] = None  # that of __init__

    _classes: list[type[Optimizer]]  # by group
    _chosen: dict[str, int]  # the group of each parameter, by its dotted path

    def __init__(self, params: Params, rules: Sequence[Rule], **options: Any) -> None:
        declared = {name: one for name, one in self._declared.items() if isinstance(one, Option)}
        for name in options:
            if name not in declared:
                raise TypeError(
                    f"Split has no option {name!r}: there are {', '.join(declared)}; "
                    "a hyper-parameter belongs to its rule"
                )
        values = {name: one.check(name, options.get(name, one.default)) for name, one in declared.items()}
        rules = [_checked(index, rule) for index, rule in enumerate(rules)]
        tree = Tree(params)
        if tree.grouped:
            raise ValueError("params is a list of groups: wanted a tree, since the rules of a Split are its groups")
        places = zip(tree.names, tree.paths, tree.leaves, strict=True)
        chosen = [_choice(rules, name, dotted(path[1:]), leaf) for name, path, leaf in places]
        self._classes = [cls for _, cls, _ in rules]
        self._chosen = dict(zip(map(dotted, tree.paths), chosen, strict=True))
        tree.arrange(chosen, len(rules))
        groups = []
        for part, (_, cls, given) in zip(tree.parts, rules, strict=True):
            for name in given:
                if name not in cls._arguments or name not in cls.hyper_parameters:
                    raise TypeError(cls._unknown("hyper-parameter", name))
            defaults = {name: one.default for name, one in cls.hyper_parameters.items()}
            groups.append({**defaults, **given, "params": part})
        self._begin(tree, groups, values)

    def _class_of(self, group: int) -> type[Optimizer]:
        return self._classes[group]

    def _tree_of(self, params: Any) -> Tree:
        tree = Tree(params)
        tree.arrange([self._chosen[dotted(path)] for path in tree.paths], len(self._classes))
        return tree

    def _header(self) -> dict[str, Any]:
        tree = self._bound().tree
        classes = {name: self._classes[group].__name__ for name, group in zip(tree.names, tree.groups, strict=True)}
        return {**super()._header(), "classes": classes}

    def _check_header(self, header: Mapping[str, Any]) -> None:
        tree = self._bound().tree
        saved = header.get("classes")
        for name, group in zip(tree.names, tree.groups, strict=True):
            was = saved.get(name) if isinstance(saved, Mapping) else None
            now = self._classes[group].__name__
            if was != now:
                raise ValueError(f"{name} was saved with {was}: here its class is {now}")


def _checked(index: int, rule: Any) -> Rule:
    """A rule of a split."""
    shown = f"rules[{index}]"
    if not isinstance(rule, (tuple, list)) or len(rule) != 3:
        raise TypeError(f"{shown} is {rule!r}: wanted (predicate, class, hyper-parameters)")
    predicate, cls, given = rule
    if predicate is not True and not callable(predicate):
        raise TypeError(f"{shown} begins with {predicate!r}: wanted a function of path and array, or True")
    if not (isinstance(cls, type) and issubclass(cls, Optimizer)) or cls in (Optimizer, Split):
        raise TypeError(f"{shown} has {cls!r}: wanted a class of optimizers")
    if not isinstance(given, Mapping):
        raise TypeError(f"{shown} has {given!r}: wanted a dict of hyper-parameters")
    if cls.looks_ahead or cls.numbers or cls.group_numbers or cls._has_average():
        raise ValueError(f"{shown} has {cls.__name__}, which keeps more than arrays: it cannot be part of a split")
    return predicate, cls, given


def _choice(rules: Sequence[Rule], name: str, path: str, leaf: Any) -> int:
    """The rule that is for a parameter."""
    for index, (predicate, _, _) in enumerate(rules):
        if predicate is True or hyper.flag(f"rules[{index}] of {name}", predicate(path, leaf)):
            return index
    raise ValueError(f"no rule is for {name}: wanted (True, class, hyper-parameters) as the last")
