"""Types that help: what type checkers refuse raises, and what they accept runs. `make lint` checks the types."""

from __future__ import annotations

import pytest
import typed_program


def test_what_is_right_runs():
    typed_program.right()


@pytest.mark.parametrize("wrong", typed_program.WRONG, ids=range(len(typed_program.WRONG)))
def test_what_type_checkers_refuse_raises(wrong):
    with pytest.raises((TypeError, ValueError, AttributeError)):
        wrong()
