"""Rows of a table, for the rooms that take gradients in, count updates and make coefficients."""

from libc.stdint cimport int64_t

cimport numpy as cnp

from .chunks cimport Named

cdef struct Entry:
    int64_t row
    Py_ssize_t at            # in the batch

cdef class Table:
    cdef readonly cnp.ndarray counts  # [rows] of updates; negative: none of them has used the state that is there now
    cdef Named named         # rows that have a gradient in this step
    cdef bint one_count      # they go by the number of updates of the table as a whole
    cdef cnp.ndarray values  # their gradients, C-contiguous
    cdef Entry *entries      # [2][room]: of the batch; what it is sorted with;
    cdef Entry *sorted       # which of them has it by row
    cdef int64_t *row
    cdef const char **g
    cdef Py_ssize_t room
    cdef char *sums          # of rows that are named more than once
    cdef Py_ssize_t room_sums
    cdef int *coef
    cdef Py_ssize_t room_coef
    # Steps that these rows are in, each once: `found[coef - first]`, negative where their state is new.
    cdef int64_t *found
    cdef Py_ssize_t n_found
    cdef int *slots          # [2 ** bits]: places in `found` by hash, -1 where there is none
    cdef int bits

    cdef cnp.ndarray name_all(self, cnp.ndarray values)
    cdef cnp.ndarray name(self, object x, cnp.ndarray p, bint writable, str shown_p, str shown_x)
    cdef int sort(self, cnp.ndarray indices, str shown_p, str shown_x) except -1
    cdef int gather(self, Py_ssize_t n, int itemsize) except -1
    cdef int number(self, int64_t count, bint fresh, bint wants_fresh, int first) except -1
    cdef void counted(self, int64_t count, bint fresh, bint stateful) noexcept
    cdef int grow_slots(self) except -1

cdef int64_t updates_of(int64_t count) noexcept nogil
cdef Table new_table(cnp.ndarray p, int64_t count, str shown_p, str shown_x)
