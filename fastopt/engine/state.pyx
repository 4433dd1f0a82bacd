"""Slots, counts, numbers, allocator: what does a leaf have besides its parameter?"""

from cpython.mem cimport PyMem_Calloc, PyMem_Free
from libc.stdint cimport uintptr_t

cimport numpy as cnp

from .arrays cimport ALIGN_FROM, LINE, shown, sorted_extents
from .chunks cimport MAX_SLOTS, START_STATE, Leaf, lay_out
from .rows cimport Table

import numpy as np

from ..memory import is_mapped, overlapping_maps

cnp.import_array()

AVERAGE = "ema"  # the slot of the parameters' average, which an option asks for


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


cdef class Stock:
    """State for slots that leaves lack: all memory that takes, so that installing it cannot fail."""

    def __dealloc__(self):
        PyMem_Free(self.new.leaves)
        PyMem_Free(self.extents)


cdef class State(Leaves):
    """The parameters of one optimizer with their state.

    Parameters
    ----------
    tree : Tree
    slots : tuple of str
        Names of the state arrays a parameter may have, as rules call them; the last may be AVERAGE.
    numbers, group_numbers : dict of str to float
        Numbers that each leaf has, and each group, and what they start at.
    classes : list of type
        The class of each group; its ``state_shape(slot, shape)`` is that of a state array, None where there is none.
    """

    def __cinit__(self, object tree, tuple slots, dict numbers, dict group_numbers, list classes, *_):
        if len(slots) >= MAX_SLOTS:
            raise ValueError(f"slots has {len(slots)} names: wanted at most {MAX_SLOTS - 1}")
        self.slots = slots + ("",) * (MAX_SLOTS - 1 - len(slots)) + (AVERAGE,)
        self.states = list(map(dict, [()] * self.n_leaves))
        self.classes = classes
        self.sweeper = Sweeper()
        self.number_names, self.group_number_names = tuple(numbers), tuple(group_numbers)
        self.keeps_numbers = bool(numbers or group_numbers)
        self.numbers = np.empty((len(numbers), self.n_leaves))
        self.group_numbers = np.empty((len(group_numbers), self.n_groups))
        for kept, start in ((self.numbers, numbers), (self.group_numbers, group_numbers)):
            for k, value in enumerate(start.values()):
                kept[k] = value
        self.next_numbers, self.next_group_numbers = self.numbers.copy(), self.group_numbers.copy()
        self.asked = <bint *>PyMem_Calloc(self.n_groups + 1, sizeof(bint))
        if self.asked == NULL:
            raise MemoryError

    def __dealloc__(self):
        PyMem_Free(self.asked)

    cdef void keep_numbers(self) noexcept:
        """Leaves have been updated: their numbers are what the step has made of them."""
        cdef Py_ssize_t i, k
        cdef double *kept = <double *>cnp.PyArray_DATA(self.numbers)
        cdef double *made = <double *>cnp.PyArray_DATA(self.next_numbers)
        for k in range(cnp.PyArray_DIM(self.numbers, 0)):
            for i in range(self.n_leaves):
                if self.asked[self.leaves[i].group] and self.leaves[i].active:
                    kept[k * self.n_leaves + i] = made[k * self.n_leaves + i]

    cdef void keep_group_numbers(self) noexcept:
        """The same for groups."""
        cdef Py_ssize_t i, k
        cdef double *kept = <double *>cnp.PyArray_DATA(self.group_numbers)
        cdef double *made = <double *>cnp.PyArray_DATA(self.next_group_numbers)
        for k in range(cnp.PyArray_DIM(self.group_numbers, 0)):
            for i in range(self.n_groups):
                if self.asked[i]:
                    kept[k * self.n_groups + i] = made[k * self.n_groups + i]

    def memory_of(self, Py_ssize_t leaf, int slot):
        """The array that an extent is of."""
        return self.arrays[leaf] if slot < 0 else self.states[leaf][self.slots[slot]]

    cdef object new_state(self, Py_ssize_t i, str name):
        """An array for a slot of a leaf, contents unset; None if it has none."""
        cdef cnp.ndarray a = self.arrays[i]
        shape = shown(a)
        if name != AVERAGE:
            shape = self.classes[self.leaves[i].group].state_shape(name, shape)
        if shape is None:
            return None
        if shape != shown(a):
            return np.empty(shape, a.dtype)
        if self.memory is None:
            return empty_like(a)
        return self.memory(self.names[i], self.classes[self.leaves[i].group]._slots[name], a)

    cdef Stock stock(self, list wanted):
        """Take the memory for state that leaves lack; `wanted` has (first leaf, leaf after the last, slots)."""
        cdef Stock stock = Stock()
        cdef Py_ssize_t i
        cdef Leaf *f
        cdef cnp.ndarray a
        stock.states, stock.places, stock.renewed, stock.zero = self.states[:], [], [], []
        memory = []
        for begin, end, slots in wanted:
            for name in slots:  # all leaves of a slot, then the next, as updates go through them
                slot = self.slots.index(name)
                for i in range(begin, end):
                    if name not in self.states[i]:
                        made = self.new_state(i, name)
                        if made is None:
                            continue
                        stock.zero.append(name != AVERAGE and getattr(made, "is_zero", False) is True)
                        made = np.asarray(made)
                        stock.states[i] = {**stock.states[i], name: made}
                        stock.places.append((i, slot))
                        memory.append((made, i, slot))
        if not memory:
            return None
        stock.new.n_leaves = len(memory)
        stock.new.leaves = <Leaf *>PyMem_Calloc(len(memory) + 1, sizeof(Leaf))
        if stock.new.leaves == NULL:
            raise MemoryError
        for i in range(stock.new.n_leaves):
            f = &stock.new.leaves[i]
            a = memory[i][0]
            f.p, f.n, f.itemsize = <char *>cnp.PyArray_DATA(a), cnp.PyArray_SIZE(a), cnp.PyArray_ITEMSIZE(a)
            f.active, f.arrays = not stock.zero[i], 1
            if memory[i][2] == MAX_SLOTS - 1:
                f.g = self.leaves[<Py_ssize_t>memory[i][1]].p
        lay_out(&stock.new)
        memory += self.own_memory()
        for i, arrays in enumerate(self.states):
            for name, array in arrays.items():
                memory.append((array, i, self.slots.index(name)))
        stock.extents = sorted_extents(memory, &stock.n_extents)
        if self.memory is not None:
            self.check_memory(stock, memory)
        self.sweeper.reserve(&stock.new, 0)
        return stock

    cdef int check_memory(self, Stock stock, list memory) except -1:
        """Raise if state overlaps other memory of the optimizer."""
        cdef Py_ssize_t k
        arrays = [row[0] for row in memory if is_mapped(row[0])]
        pair = overlapping_maps(arrays) if arrays else None
        for k in range(1, stock.n_extents):
            if stock.extents[k - 1].end > stock.extents[k].begin:
                pair = k - 1, k
                break
        if pair is not None:
            raise ValueError("state_memory gave an array that overlaps a parameter or other state: each must have "
                             "memory of its own")
        return 0

    cdef void lend(self, Stock stock) noexcept:
        """Let leaves have the state that was taken for them: zeros, averages as copies of their parameters."""
        cdef Py_ssize_t i, leaf
        cdef Sweep w
        w.what, w.all, w.plain, w.sums = START_STATE, &stock.new, False, False
        self.sweeper.sweep(&w)
        for i in range(stock.new.n_leaves):
            leaf = stock.places[i][0]
            self.leaves[leaf].s[<int>stock.places[i][1]] = stock.new.leaves[i].p
        stock.lent = True

    cdef void take_back(self, Stock stock) noexcept:
        """The state will not be there."""
        cdef Py_ssize_t i, leaf
        for i in range(stock.new.n_leaves):
            leaf = stock.places[i][0]
            self.leaves[leaf].s[<int>stock.places[i][1]] = NULL

    cdef void install(self, Stock stock) noexcept:
        """Give leaves that state for good."""
        cdef Py_ssize_t i
        if not stock.lent:
            self.lend(stock)
        for i in range(self.n_leaves):
            self.watches[i].cleared = NULL  # a gradient may have lain where there is state now
        self.states, stock.states = stock.states, self.states
        self.extents, stock.extents = stock.extents, self.extents
        self.n_extents = stock.n_extents

    @property
    def counts(self):
        """Updates that each parameter has had."""
        found = []
        for i in range(self.n_leaves):
            found.append(self.watches[i].count)
        return found

    @property
    def row_counts(self):
        """Updates that each row of a parameter has had, where rows have counts of their own, else None.

        An array, which later steps write to; negative: none of the updates has used the state that is there now.
        """
        found = []
        for table in self.tables:
            found.append(None if table is None else (<Table>table).counts)
        return found

    @property
    def fresh(self):
        """Whether the state of each parameter is new: no update has used it."""
        found = []
        for i in range(self.n_leaves):
            found.append(self.watches[i].fresh != 0)
        return found
