"""A lock that is free under the GIL, and renewed after a fork."""

from cpython.pythread cimport (
    PyThread_acquire_lock, PyThread_allocate_lock, PyThread_free_lock, PyThread_get_thread_ident,
    PyThread_release_lock)


cdef class Lock:
    """A lock to hold in a ``with`` statement; in a forked child it can be renewed.

    Who holds it is kept under the GIL, so that taking it when it is free costs next to nothing; the lock of the
    operating system is what others sleep on.
    """

    def __cinit__(self):
        self.renew()

    def __dealloc__(self):
        PyThread_free_lock(self.bed)

    def renew(self):
        """Be free, whoever held the lock: its holder may be a thread that a fork left behind."""
        self.holder = self.sleepers = 0
        self.bed = PyThread_allocate_lock()
        if self.bed == NULL:
            raise MemoryError
        PyThread_acquire_lock(self.bed, 0)

    def __enter__(self):
        self.acquire()

    def __exit__(self, *_):
        self.release()

    cdef int acquire(self) except -1:
        cdef unsigned long me = PyThread_get_thread_ident()
        if self.holder == me:
            raise RuntimeError("the optimizer is in the middle of a step: a schedule must not use it")
        if self.holder != 0:
            self.sleepers += 1
            with nogil:
                PyThread_acquire_lock(self.bed, 1)
            self.sleepers -= 1
        self.holder = me
        return 0

    cdef void release(self) noexcept:
        self.holder = 0
        if self.sleepers > 0:
            self.holder = <unsigned long>-1  # nobody's but the one's who wakes up
            PyThread_release_lock(self.bed)
