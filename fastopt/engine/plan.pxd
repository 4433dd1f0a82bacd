"""One optimizer's memory and the acts of its step."""

from libc.stdint cimport int64_t

from .kernels cimport fo_coef, fo_variant
from .lock cimport Lock
from .state cimport State
from .sweep cimport Binding, Operation, Sweep

cdef class Plan(State):
    cdef readonly list terms        # Terms of each group, None before the first check
    cdef public object away         # why a step must be refused, if it must
    cdef public int64_t steps, skipped
    cdef Lock lock
    cdef bint screened
    cdef Binding *bindings          # [groups]
    cdef fo_coef *coefs
    cdef int n_coefs, room_coefs
    cdef const fo_variant *variant

    cdef int resolve(self, Binding *b, str name, int kind) except -1
    cdef list changed(self, object owner)
    cdef int adopt(self, object owner, list changes) except -1
    cdef int set_coefficients(self, double scale) except -1
    cdef fo_coef *new_coef(self) except NULL
    cdef int update(self) except -1
    cdef int sweep(self, Operation what, bint learns=*, double scale=*) except -1
