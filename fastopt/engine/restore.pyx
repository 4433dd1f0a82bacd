"""How does a plan take over a snapshot in one piece?"""

from cpython.mem cimport PyMem_Calloc, PyMem_Free
from libc.stdint cimport int64_t
from libc.string cimport memcpy, memset

cimport numpy as cnp

from .lock cimport enter_gate, leave_gate
from .plan cimport Plan
from .rows cimport Table
from .state cimport Stock

import numpy as np

cnp.import_array()

cdef struct Move:
    # A block of memory to be filled.
    char *to
    const char *source       # NULL: with zeros
    Py_ssize_t nbytes


def restore(Plan plan, list slots, list params, list states, list counts, list row_counts, list fresh, int64_t steps,
            int64_t skipped, tuple numbers, list items, bint torn):
    """Take over a snapshot, in one piece: whatever can fail fails before anything has changed.

    Parameters
    ----------
    plan : Plan
    slots : list
        Of each group, the slots that its leaves are to have.
    params : list of array, or None
        What the parameters become; None leaves them.
    states : list of dict
        Of each leaf, what its state becomes, by slot; what is not there becomes 0. These and `params` have the
        types and shapes that are wanted, and share no memory with what they replace.
    counts, fresh, steps, skipped
        What these become.
    row_counts : list of array or None
        What the counts of each leaf's rows become, arrays of its own; None where rows have none.
    numbers : (array, array)
        What numbers of leaves and of groups become.
    items : list of (dict, key, value)
        What live groups are to hold under keys that they have.
    torn : bool
        Whether more is to come, and the optimizer to be refused until it has.
    """
    cdef Py_ssize_t i, n = 0
    cdef Stock stock
    cdef Move *moves = NULL
    cdef int64_t *counted = NULL
    cdef cnp.ndarray to
    wanted = []
    for i in range(plan.n_groups):
        wanted.append((plan.first_leaf[i], plan.first_leaf[i + 1], slots[i]))
    stock = plan.stock(wanted)
    pairs, sources = [], []
    tables = []
    for i, rows in enumerate(row_counts):
        tables.append(None if rows is None else Table(rows, plan.leaves[i].n // max(len(rows), 1)))
    for i, arrays in enumerate(plan.states if stock is None else stock.states):
        for slot, array in arrays.items():
            pairs.append((array, states[i].get(slot)))
    if params is not None:
        plan.check_parameters()
        pairs += zip(plan.arrays, params)
    pairs += zip((plan.numbers, plan.group_numbers), numbers)
    for array, source in pairs:
        if source is not None:
            if source.dtype != array.dtype or source.shape != array.shape:
                raise ValueError(f"the snapshot has an array {source.dtype} {source.shape}: wanted {array.dtype} "
                                 f"{array.shape}")
            source = np.asarray(source, None, "C" if array.flags.c_contiguous else "F")
        sources.append(source)
    try:
        moves = <Move *>PyMem_Calloc(len(pairs) + 1, sizeof(Move))
        counted = <int64_t *>PyMem_Calloc(2 * plan.n_leaves + 1, sizeof(int64_t))
        if not (moves and counted):
            raise MemoryError
        for i in range(plan.n_leaves):
            counted[2 * i], counted[2 * i + 1] = counts[i], fresh[i]
        for (array, _), source in zip(pairs, sources):
            to = array
            moves[n].to, moves[n].nbytes = <char *>cnp.PyArray_DATA(to), cnp.PyArray_NBYTES(to)
            moves[n].source = NULL if source is None else <char *>cnp.PyArray_DATA(<cnp.ndarray>source)
            n += 1
        enter_gate()
        if stock is not None:
            plan.install(stock)
        with nogil:
            for i in range(n):
                if moves[i].source == NULL:
                    memset(moves[i].to, 0, moves[i].nbytes)
                else:
                    memcpy(moves[i].to, moves[i].source, moves[i].nbytes)
        for i in range(plan.n_leaves):
            plan.watches[i].count, plan.watches[i].fresh = counted[2 * i], counted[2 * i + 1]
            plan.leaves[i].updated = counted[2 * i] > 0
        plan.tables, tables = tables, plan.tables
        plan.steps, plan.skipped = steps, skipped
        plan.away, plan.remedy, plan.unlooked = None, "", plan.looks_ahead
        if torn:
            plan.tear()
        plan.complete = False
        leave_gate()
        for group, key, value in items:  # takes no memory, as the key is there
            group[key] = value
    finally:
        PyMem_Free(moves)
        PyMem_Free(counted)
