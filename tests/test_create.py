"""Optimizers by name: `create` and `available`."""

from __future__ import annotations

import numpy as np
import pytest
from test_errors import says

import fastopt
from fastopt.optimizers import OPTIMIZERS


@pytest.mark.parametrize("cls", OPTIMIZERS.values(), ids=list(OPTIMIZERS))
def test_every_class_is_made_by_its_name(cls):
    name = cls.__name__.lower()
    assert name in fastopt.available()
    for spelled in (name, cls.__name__, name.upper()):
        assert type(fastopt.create(spelled, np.zeros(3))) is cls


def test_nothing_else_is_available():
    assert set(fastopt.available()) == {name.lower() for name in [*OPTIMIZERS, "Muon"]}  # which is for matrices
    assert type(fastopt.create("muon", np.zeros((2, 3)))) is fastopt.Muon


def test_arguments_are_those_of_the_class():
    w = np.zeros(3)
    opt = fastopt.create("adamw", {"w": w}, 0.5, betas=(0.5, 0.75), clip_norm=1.0)
    assert opt.params["w"] is w
    assert (opt.lr, opt.betas, opt.clip_norm) == (0.5, (0.5, 0.75), 1.0)
    assert fastopt.create("sgd", params=w, lr=0.25).lr == 0.25


WRONG = [
    ("adamv", ValueError, "there is no optimizer 'adamv': did you mean 'adam'?"),
    ("Adam_W", ValueError, "there is no optimizer 'Adam_W': did you mean 'adamw'?"),
    ("schedulefree", ValueError, "there is no optimizer 'schedulefree': did you mean 'schedulefreesgd'?"),
    ("zzz", ValueError, "there is no optimizer 'zzz': there are sgd, nag, …"),
    ("", ValueError, "there is no optimizer '': there are sgd, nag, …"),
    ("OPTIMIZERS", ValueError, "there is no optimizer 'OPTIMIZERS': there are sgd, nag, …"),
    (None, TypeError, "the optimizer's name is None, a NoneType: wanted a string"),
    (
        fastopt.Adam,
        TypeError,
        "the optimizer's name is <class 'fastopt.optimizers.adam.Adam'>, a type: wanted a string",
    ),
]


@pytest.mark.parametrize(("name", "kind", "message"), WRONG, ids=[row[2] for row in WRONG])
def test_an_unknown_name_is_an_error_with_the_nearest_one(name, kind, message):
    with pytest.raises(kind, match=says(message)):
        fastopt.create(name, np.zeros(3))


def test_what_the_class_refuses_is_refused():
    with pytest.raises(TypeError, match=says("Adam has no option 'learning_rate': did you mean 'lr'?")):
        fastopt.create("adam", np.zeros(3), learning_rate=0.1)
