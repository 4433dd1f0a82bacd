"""A step whose gradients come one by one."""

from .plan cimport Plan

cdef class Parts:
    cdef Plan plan
    cdef object owner, norm, loss_scale
    cdef dict places                # leaf by name, -1 where several are meant
    cdef list terms                 # which the step began with
    cdef bint entered, skipped
    cdef bint *given                # [leaves] in this step
    cdef bint *asked                # [groups]: see `State.asked`

    cdef Py_ssize_t place_of(self, object name) except -1
    cdef int check(self) except -1
    cdef void end(self) noexcept
