"""The lock of an optimizer, and the gate that forks wait at."""

from cpython.pythread cimport PyThread_type_lock
from cpython.ref cimport PyObject

cdef class Lock:
    cdef PyThread_type_lock bed
    cdef unsigned long holder
    cdef int sleepers
    cdef bint writing               # the holder writes, with Python in between: what it writes is not to be read
    cdef bint abandoned             # this process was forked by the holder, in the middle of a step
    cdef bint torn                  # this process was forked while what the lock is of was being written to
    cdef PyObject *older            # in the list of all locks
    cdef PyObject *newer

    cdef int renew(self) except -1
    cdef bint mine(self) noexcept
    cdef int acquire(self) except -1
    cdef void release(self) noexcept

cdef int generation                 # forks between the process that imported fastopt and this one
cdef void enter_gate() noexcept
cdef void leave_gate() noexcept
