"""What several tests ask of an optimizer in the same words: one place to change where the words change."""

from __future__ import annotations

import numpy as np
from test_structures import leaves

from fastopt.engine import sweep

# Call all threads for whatever has the chunks, or do again what is a gain.
set_forced = getattr(sweep, "set_forced", None) or (lambda on: sweep.set_learning(not on))

SCRATCH = "lookahead_saved"  # holds what parameters were, where NAG looks ahead: no part of what an optimizer knows


def looked_ahead(opt):
    """Look ahead and come back, as is to be done before each step of NAG; the optimizer."""
    if hasattr(opt, "lookahead"):
        with opt.lookahead():
            pass
    return opt


def bits(array):
    """An array's type, shape and elements in order; not where they lie."""
    return array.dtype.str, array.shape, array.tobytes()


def known(opt):
    """All that an optimizer knows, parameters not included: what is allowed to differ differs in this."""
    state = {name: {slot: bits(x) for slot, x in slots.items() if slot != SCRATCH} for name, slots in opt.state.items()}
    groups = [{key: value for key, value in group.items() if key != "params"} for group in opt.param_groups]
    return state, opt.step_counts, opt.steps, opt.skipped, groups


def whole(opt, params):
    """All that steps depend on, to compare by ==."""
    return [bits(p) for p in leaves(params)], *known(opt)


def copied(tree):
    """The same tree of copies, in the same memory order."""
    if isinstance(tree, dict):
        return {key: copied(value) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return type(tree)(copied(value) for value in tree)
    return None if tree is None else np.array(tree, order="K")
