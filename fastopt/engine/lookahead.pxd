"""Parameters that are elsewhere for a while."""

from .chunks cimport Binding
from .plan cimport Plan

cdef int prepare(Plan plan, object owner, str asked) except -1

cdef class LookAhead:
    cdef Plan plan
    cdef object owner
    cdef object scalars
    cdef bint rested                # whether other work lay before or inside the block
    cdef Binding *bindings          # [2][groups]: there and back

    cdef void go(self, Binding *bindings, object away, bint unlooked) noexcept

cdef class Averaged:
    cdef Plan plan
    cdef object owner
    cdef object averages
    cdef list arrays                # of each parameter, what it is exchanged with

    cdef void exchange(self, object away) noexcept
