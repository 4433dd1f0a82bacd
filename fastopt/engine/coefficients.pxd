"""What other rooms may use of a group's terms: this step's learning rate, and the coefficients made of it."""

from libc.stdint cimport int64_t, uint64_t

from .kernels cimport FO_MAX_SCALARS, fo_coef

cdef enum:
    TABLE = 512  # steps for which a class's scalars are computed at once

cdef class Terms:
    cdef dict live             # the group as the user sees it,
    cdef tuple source          # its keys and values as they were checked, alternating,
    cdef uint64_t version      # and its version when it was last compared with them
    cdef readonly dict values
    cdef readonly str rule, kind
    cdef object scalars
    cdef tuple names           # of the rule's scalars, in order
    cdef bint times_lr[FO_MAX_SCALARS]  # which of them are to be multiplied by the learning rate
    cdef double *table         # [steps][scalars] of `scalars`, for steps `begin` to `end` - 1
    cdef Py_ssize_t room
    cdef int64_t begin, end
    cdef object schedule
    cdef bint ahead            # whether the schedule can be asked for many steps at once:
    cdef double rates[TABLE]   # what it gives for these, if any, from `first_rate` on
    cdef int64_t first_rate
    cdef double lr, sign, decay
    cdef bint decoupled

    cdef int fill(self, object steps) except -1
    cdef double rate(self, int64_t steps) except -1
    cdef int have(self, int64_t t) except -1
    cdef void inherit(self, Terms old)
    cdef void fold(self, fo_coef *c, Py_ssize_t row, double lr, double scale) noexcept
    cdef bint hold(self, dict live) noexcept
