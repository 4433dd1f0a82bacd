"""Slots, counts, allocator: what does a leaf have besides its parameter?"""

cimport numpy as cnp
from libc.stdint cimport int64_t, uintptr_t

from .arrays cimport ALIGN_FROM, LINE, shown
from .sweep cimport ZERO_STATE, Sweep

import numpy as np

cnp.import_array()


def empty_like(cnp.ndarray a):
    """Return an array of a's shape, type and memory order, contents unset, that lies in cache lines as a does.

    A small one starts at a cache line. See `update_part`.
    """
    cdef Py_ssize_t nbytes = cnp.PyArray_NBYTES(a)
    memory = np.empty(nbytes + LINE, np.uint8)
    cdef uintptr_t place = <uintptr_t>cnp.PyArray_DATA(a) if cnp.PyArray_SIZE(a) >= ALIGN_FROM else 0
    cdef Py_ssize_t skip = (place - <uintptr_t>cnp.PyArray_DATA(memory)) % LINE
    return memory[skip:skip + nbytes].view(a.dtype).reshape(
        shown(a), order="C" if cnp.PyArray_IS_C_CONTIGUOUS(a) else "F")


cdef class State(Leaves):
    """The parameters of one optimizer with their state.

    Parameters
    ----------
    tree : Tree
    zero_gradients : bool
        As for `Leaves`.
    slots : tuple of str
        Names of the state arrays a parameter may have, as rules call them.
    """

    def __cinit__(self, object tree, bint zero_gradients, tuple slots, *_):
        self.slots = slots
        self.states = [{} for _ in self.arrays]
        self.sweeper = Sweeper()

    def allocate(self, int group, tuple slots):
        """Give every leaf of a group the state arrays it lacks, filled with zeros where they will be updated."""
        cdef Py_ssize_t i
        cdef Py_ssize_t begin = self.first_leaf[group], end = self.first_leaf[group + 1]
        cdef int slot
        cdef Sweep w
        made = {(name, i): empty_like(self.arrays[i]) for name in slots for i in range(begin, end)
                if name not in self.states[i]}
        # All memory is there: from here on nothing fails.
        for name in slots:
            slot = self.slots.index(name)
            for i in range(self.n_leaves):
                self.leaves[i].active = False
            for i in range(begin, end):
                if (name, i) in made:
                    self.states[i][name] = made[name, i]
                    self.leaves[i].s[slot] = <char *>cnp.PyArray_DATA(made[name, i])
                    self.leaves[i].active = True
            self.renumber()
            w.what, w.all, w.slot = ZERO_STATE, &self.all, slot
            self.sweeper.sweep(&w, True)
        for i in range(self.n_leaves):  # as the step has them, if we are in one
            self.leaves[i].active = self.watches[i].held != NULL
        self.renumber()

    @property
    def counts(self):
        """Updates that each parameter has had."""
        return [self.watches[i].count for i in range(self.n_leaves)]

    @counts.setter
    def counts(self, list values):
        cdef Py_ssize_t i
        cdef int64_t count
        for i in range(self.n_leaves):
            count = values[i]
            self.watches[i].count = count
        self.complete = False
