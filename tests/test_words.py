"""The words of src_c/rule.h: their NumPy twins where NumPy's own functions differ, and how good the cube root is.

That kernels have the same bits as these is shown by the rules that use them, in test_bits.py.
"""

from __future__ import annotations

import numpy as np
import pytest
from oracles import CUBE_ROOT_ERROR, exact

from fastopt import words

SPECIAL = [0.0, -0.0, 1.5, -1.5, np.inf, -np.inf, np.nan]


@pytest.mark.parametrize("real", ["float32", "float64"])
def test_sign_absolute_maximum_and_clamp_keep_a_nan_and_0(real):
    x = np.array(SPECIAL, real)
    with np.errstate(all="ignore"):
        assert words.cube_root(x).dtype == real
    assert words.sign(x).tobytes() == np.array([0.0, -0.0, 1, -1, 1, -1, np.nan], real).tobytes()
    assert words.absolute(x).tobytes() == np.array([0.0, -0.0, 1.5, 1.5, np.inf, np.inf, np.nan], real).tobytes()
    assert np.isnan(words.maximum(x, np.ones_like(x))[-1])
    assert words.maximum(x, np.ones_like(x))[:-1].tolist() == [1, 1, 1.5, 1, np.inf, 1]
    assert words.clamp(x, -1.0, 1.0).tobytes() == np.array([0.0, -0.0, 1, -1, 1, -1, np.nan], real).tobytes()
    assert all(word(x).dtype == real for word in (words.sign, words.absolute))


@pytest.mark.filterwarnings("ignore:.*encountered")
@pytest.mark.parametrize("real", ["float32", "float64"])
def test_the_cube_root_is_that_but_for_a_few_roundings(real):
    info = np.finfo(real)
    rng = np.random.default_rng(0)
    low, high = np.log2(float(info.tiny)), np.log2(float(info.max) / 4)
    x = np.concatenate([2.0 ** rng.uniform(low, high, 200_000), rng.uniform(0.5, 8, 200_000)]).astype(real)
    wanted = np.cbrt(x.astype(exact))
    found = words.cube_root(x)
    off = abs(found.astype(exact) - wanted) / (wanted * exact(info.eps / 2))
    assert off.max() < CUBE_ROOT_ERROR
    assert words.cube_root(np.zeros(3, real)).tobytes() == np.zeros(3, real).tobytes()
    assert np.isnan(words.cube_root(np.full(1, np.nan, real))).all()
