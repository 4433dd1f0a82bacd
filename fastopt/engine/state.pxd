"""What a leaf has besides its parameter, for the rooms that build on it."""

from .leaves cimport Leaves
from .sweep cimport Sweeper

cdef class State(Leaves):
    cdef readonly tuple slots
    cdef readonly list states       # of each leaf, its arrays by slot
    cdef Sweeper sweeper
