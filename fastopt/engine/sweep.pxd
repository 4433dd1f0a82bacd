"""Who carries out a plan's sweeps."""

from .chunks cimport OPERATIONS, Layout, Queue, Sweep

cdef enum:
    BREAK_EVEN = 1 << 18     # bytes of traffic from which on a second thread is a gain, if it is awake

cdef struct Record:
    # How sweeps of one operation went.
    double alone             # ns a byte at best in one thread; it forgets
    int trials               # of one thread, before all are called
    double pardon            # when all are called again after a stall, ns
    double penalty           # how long the next stall counts, ns

cdef class Sweeper:
    cdef double *partial     # [chunks] of the last sweep that summed
    cdef Py_ssize_t room_partial
    cdef Queue *queues
    cdef int room_queues
    cdef Record records[OPERATIONS]
    cdef Py_ssize_t turns    # sweeps that went to and fro
    cdef double ended        # when the last sweep ended that all threads were worth, ns
    cdef bint back_to_back   # whether steps follow each other with no other work between them
    cdef int against         # steps in a row that say otherwise

    cdef int reserve(self, const Layout *all, Py_ssize_t sums) except -1
    cdef bint rested(self) noexcept
    cdef void keep_pace(self, bint rested) noexcept
    cdef void sweep(self, Sweep *w) noexcept
    cdef void run_parallel(self, Sweep *w, Py_ssize_t traffic) noexcept
    cdef bint in_parallel(self, const Sweep *w, Py_ssize_t traffic, double now) noexcept
    cdef void share_out(self, Sweep *w) noexcept
