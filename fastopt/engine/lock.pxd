"""The lock of an optimizer."""

from cpython.pythread cimport PyThread_type_lock

cdef class Lock:
    cdef PyThread_type_lock bed
    cdef unsigned long holder
    cdef int sleepers

    cdef int acquire(self) except -1
    cdef void release(self) noexcept
