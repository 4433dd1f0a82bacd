"""Parameters that are elsewhere for a while."""

from .chunks cimport Binding
from .plan cimport Plan

cdef class LookAhead:
    cdef Plan plan
    cdef object owner
    cdef object scalars
    cdef bint rested                # whether other work lay before or inside the block
    cdef Binding *bindings          # [2][groups]: there and back

    cdef void go(self, Binding *bindings, object away, bint unlooked) noexcept
