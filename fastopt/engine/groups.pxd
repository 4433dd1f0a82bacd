"""Which rule and which coefficients each leaf has, for the rooms that build on it."""

from libc.stdint cimport int64_t

from .chunks cimport Binding
from .coefficients cimport Terms
from .factored cimport Factored
from .kernels cimport fo_coef, fo_rule, fo_variant
from .state cimport State, Stock

cdef enum First:
    # What rules have first passes over leaves.
    NO_SUMS
    FOR_RULE                        # which makes scalars of them itself,
    FOR_CLASS                       # and some whose class does

cdef class Groups(State):
    cdef readonly list terms        # Terms of each group, None before the first check
    cdef readonly int64_t steps
    cdef Binding *bindings          # [groups]
    cdef fo_coef *coefs
    cdef int n_coefs, room_coefs
    cdef double *rates              # [groups]: learning rates of this step
    cdef double *totals             # [leaves][FO_MAX_SUMS]: of first passes over leaves
    cdef First sums
    cdef Factored matrices          # whose second moments are of rows and columns, None if there are none
    cdef bint in_numpy              # whether a class does its rule's arithmetic
    cdef bint averages              # whether parameters have averages
    cdef readonly double scale      # gradient factor of this step
    cdef const fo_variant *variant

    cdef list changed(self, object owner)
    cdef list terms_after(self, list changes)
    cdef Change prepared(self, object owner, list changes)
    cdef void adopt(self, Change change) noexcept
    cdef const fo_rule *rule(self, int real, str name) except NULL
    cdef int resolve(self, Binding *b, str name, int kind, bint averaged) except -1
    cdef int ask_rates(self, list terms) except -1
    cdef int set_coefficients(self, list terms) except -1
    cdef int set_mixed(self, int group, Terms own) except -1
    cdef int set_each(self, int group, Terms own, bint summed) except -1
    cdef int check_rows(self, list changes) except -1
    cdef int set_rows(self, list terms) except -1
    cdef int set_unsummed(self, list terms) except -1
    cdef dict sums_of(self, Terms own, list leaves)
    cdef dict totals_of(self, Terms own)
    cdef Factored factored(self, const Binding *bindings)
    cdef First first_passes(self, const Binding *bindings) noexcept
    cdef void add_up(self, const Binding *bindings, bint for_class) noexcept
    cdef fo_coef *new_coef(self) except NULL

cdef class Change:
    # Groups on new terms, ready to be adopted.
    cdef list terms                 # of all groups
    cdef Stock stock
    cdef Binding *bindings          # [groups]
    cdef First sums
    cdef Factored matrices

    cdef void withdraw(self, Groups plan) noexcept
    cdef bint in_numpy(self) noexcept
