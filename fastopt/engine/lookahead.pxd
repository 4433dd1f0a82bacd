"""Parameters that are elsewhere for a while."""

from .chunks cimport Binding
from .plan cimport Plan

cdef class LookAhead:
    cdef Plan plan
    cdef object owner
    cdef object scalars
    cdef Binding *bindings          # [2][groups]: there and back

    cdef void go(self, Binding *bindings, object away, bint unlooked) noexcept
