"""What a leaf has besides its parameter, for the rooms that build on it."""

cimport numpy as cnp

from .arrays cimport Extent
from .chunks cimport Layout, Sweep
from .leaves cimport Leaves
from .sweep cimport Sweeper

cdef class Stock:
    # State for slots that leaves lack, ready to be installed.
    cdef list states             # of each leaf as it will be, its arrays by slot
    cdef Layout new              # the new arrays, as leaves of their own
    cdef list places             # (leaf, slot) of each
    cdef list renewed            # leaves that had no new state before
    cdef list zero               # of each new array, whether it holds zeros already
    cdef bint lent               # first passes have been given it already
    cdef Extent *extents         # of all memory as it will be
    cdef Py_ssize_t n_extents

cdef class State(Leaves):
    cdef readonly tuple slots
    cdef list classes            # of optimizers, of each group: they know the shapes of state
    cdef readonly list states    # of each leaf, its arrays by slot
    cdef readonly tuple number_names, group_number_names
    # Numbers that a class keeps, and what they will be when the step is over: float64 [names, leaves], [names, groups].
    cdef readonly cnp.ndarray numbers, group_numbers
    cdef cnp.ndarray next_numbers, next_group_numbers
    cdef bint keeps_numbers      # whether there are any
    cdef bint *asked             # [groups]: whether this step has asked the class what they will be
    cdef Sweeper sweeper
    cdef object memory           # where state is to lie, see `Plan.configure`; None: wherever there is room

    cdef void keep_numbers(self) noexcept
    cdef void keep_group_numbers(self) noexcept
    cdef object new_state(self, Py_ssize_t i, str name)
    cdef Stock stock(self, list wanted)
    cdef int check_memory(self, Stock stock, list memory) except -1
    cdef void lend(self, Stock stock) noexcept
    cdef void take_back(self, Stock stock) noexcept
    cdef void install(self, Stock stock) noexcept
