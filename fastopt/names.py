"""Optimizers by name: for configuration files, command lines and sweeps over many of them."""

from __future__ import annotations

from typing import Any

from . import hyper, optimizers
from .optimizer import Optimizer

__all__ = ["available", "create", "find"]

_BY_NAME = {name.lower(): name for name in optimizers._MODULES}


def available() -> list[str]:
    """Return the names that `create` knows: those of the classes in lower case.

    Returns
    -------
    list of str
        The names, the simplest optimizer first.

    Examples
    --------
    >>> import fastopt
    >>> fastopt.available()[:3]
    ['sgd', 'nag', 'signsgd']
    """
    return list(_BY_NAME)


def create(name: str, params: Any, *args: Any, **options: Any) -> Optimizer:
    """Make an optimizer by its name.

    Parameters
    ----------
    name : str
        A class's name, in upper or lower case.
    params : array, list, tuple or dict
        Parameters or groups, see `Optimizer`.
    *args, **options
        What the class takes besides: ``lr``, by position or by name, and all others by name.

    Returns
    -------
    Optimizer
        An optimizer of that class.

    Raises
    ------
    TypeError, ValueError
        If there is no optimizer of this name, or if the class refuses what it is given.

    Examples
    --------
    >>> import fastopt, numpy as np
    >>> opt = fastopt.create("adamw", np.zeros(3), lr=0.01)
    >>> type(opt).__name__, opt.lr
    ('AdamW', 0.01)
    >>> fastopt.create("adamv", np.zeros(3))
    Traceback (most recent call last):
    ValueError: there is no optimizer 'adamv': did you mean 'adam'?
    """
    return find(name)(params, *args, **options)


def find(name: Any) -> type[Optimizer]:
    """Return the class of this name, or raise with the name that is nearest.

    Parameters
    ----------
    name : str
        A class's name, in upper or lower case.

    Returns
    -------
    type
        The class.

    Raises
    ------
    TypeError, ValueError
        If it is no name, or there is no optimizer of this name.
    """
    if not isinstance(name, str):
        raise TypeError(f"the optimizer's name is {name!r}, a {type(name).__name__}: wanted a string")
    if name.lower() not in _BY_NAME:
        like = hyper.nearest(name.lower(), _BY_NAME)
        raise ValueError(f"there is no optimizer {name!r}: {like or 'there are ' + ', '.join(_BY_NAME)}")
    return getattr(optimizers, _BY_NAME[name.lower()])  # type: ignore[no-any-return]
