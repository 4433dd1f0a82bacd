"""One optimizer's memory and the acts of its step."""

from libc.stdint cimport int64_t

from .coefficients cimport Terms
from .kernels cimport fo_coef, fo_variant
from .lock cimport Lock
from .chunks cimport Binding, Operation
from .state cimport State, Stock

cdef class Plan(State):
    cdef readonly list terms        # Terms of each group, None before the first check
    cdef readonly object away       # why the optimizer must be refused, None if it need not
    cdef readonly str remedy        # what ends that: "load", "bind" (or load), or "" for leaving a block
    cdef readonly int64_t steps, skipped
    cdef Lock lock
    cdef bint screened
    cdef bint looks_ahead           # each step needs a look ahead before it,
    cdef bint unlooked              # and the next one has had none
    cdef int generation             # forks when the plan was last used
    cdef Binding *bindings          # [groups]
    cdef fo_coef *coefs
    cdef int n_coefs, room_coefs
    cdef double *rates              # [groups]: learning rates of this step
    cdef double scale               # gradient factor of this step
    cdef const fo_variant *variant

    cdef list changed(self, object owner)
    cdef list begin(self, object owner, object loss_scale)
    cdef int ask_rates(self, list terms) except -1
    cdef bint look(self, object owner) except -1
    cdef Change fold(self, object owner, list changes)
    cdef void adopt(self, Change change) noexcept
    cdef bint update(self, Change change) noexcept
    cdef bint counted(self) noexcept
    cdef bint update_by_reference(self, object owner, Change change) except -1
    cdef int zero_bad_gradients(self) except -1
    cdef list terms_after(self, list changes)
    cdef Change prepared(self, object owner, list changes)
    cdef int resolve(self, Binding *b, str name, int kind) except -1
    cdef int set_coefficients(self, list terms) except -1
    cdef int set_mixed(self, int group, Terms own) except -1
    cdef fo_coef *new_coef(self) except NULL
    cdef void sweep(self, Operation what, double scale=*) noexcept
    cdef int notice_fork(self) except -1
    cdef void tear(self) noexcept
    cdef int check_within(self) except -1

cdef class Change:
    # Groups on new terms, ready to be adopted.
    cdef list terms                 # of all groups
    cdef Stock stock
    cdef Binding *bindings          # [groups]

    cdef void withdraw(self, Plan plan) noexcept
