"""Who may step an optimizer now? A lock that is free under the GIL, and a gate that forks wait at.

A section of C code that writes parameters without the GIL, and counts what it wrote, passes the gate. A fork waits
until no section is inside, and so a child finds every optimizer between two steps. There is no Python in such a
section: it never waits for the thread that forks.
"""

from cpython.pythread cimport (
    PyThread_acquire_lock, PyThread_allocate_lock, PyThread_free_lock, PyThread_get_thread_ident,
    PyThread_release_lock)
from posix.unistd cimport usleep

cdef enum:
    NAP = 50  # us

generation = 0
cdef int inside = 0  # sections past the gate
cdef int closed = 0  # forks that keep it closed
cdef unsigned long forking = 0  # the thread that forks, which must not wait for itself
cdef PyObject *newest = NULL  # of all locks


cdef class Lock:
    """A lock that a thread holds while it steps, loads or binds an optimizer, or reads it.

    Who holds it is kept under the GIL, so that taking it when it is free costs next to nothing; the lock of the
    operating system is what others sleep on.
    """

    def __cinit__(self):
        global newest
        self.renew()
        self.older = newest
        if newest != NULL:
            (<Lock>newest).newer = <PyObject *>self
        newest = <PyObject *>self

    def __dealloc__(self):
        global newest
        if self.older != NULL:
            (<Lock>self.older).newer = self.newer
        if self.newer != NULL:
            (<Lock>self.newer).older = self.older
        if newest == <PyObject *>self:
            newest = self.older
        PyThread_free_lock(self.bed)

    cdef int renew(self) except -1:
        """Be free, whoever held the lock: its holder may be a thread that a fork left behind, with the old bed."""
        self.holder = self.sleepers = self.writing = 0
        self.bed = PyThread_allocate_lock()
        if self.bed == NULL:
            raise MemoryError
        PyThread_acquire_lock(self.bed, 0)
        return 0

    def __enter__(self):
        self.acquire()

    def __exit__(self, *_):
        self.release()

    def reading(self):
        """Return a context for what only reads: a thread may do so in the middle of its own step."""
        return Reading(self)

    @property
    def free(self):
        """Whether no thread holds it; so it stays as long as no Python code runs."""
        return self.holder == 0

    cdef bint mine(self) noexcept:
        """Whether this thread holds it."""
        return self.holder == PyThread_get_thread_ident()

    cdef int acquire(self) except -1:
        """Hold the lock; 1 if another thread had it meanwhile."""
        cdef bint waited = self.holder != 0
        cdef unsigned long me = PyThread_get_thread_ident()
        if self.holder == me:
            raise RuntimeError("the optimizer is in the middle of a step: what runs inside it, a schedule or a signal "
                               "handler, may read it (save, state_dict), but not step, load, bind or look ahead")
        if self.holder != 0:
            self.sleepers += 1
            with nogil:
                PyThread_acquire_lock(self.bed, 1)
            self.sleepers -= 1
        self.holder = me
        return waited

    cdef void release(self) noexcept:
        self.holder = 0
        if self.sleepers > 0:
            self.holder = <unsigned long>-1  # nobody's but the one's who wakes up
            PyThread_release_lock(self.bed)


cdef class Reading:
    """A lock held for reading. Inside a step of the same thread nothing has been written yet, so there it is shared."""

    cdef Lock lock
    cdef bint shared

    def __cinit__(self, Lock lock):
        self.lock = lock

    def __enter__(self):
        self.shared = self.lock.mine()
        if not self.shared:
            self.lock.acquire()
        elif self.lock.writing:
            raise RuntimeError("the optimizer is being written to: what runs in the middle of that, a signal handler "
                               "or a finalizer, must not read it")

    def __exit__(self, *_):
        if not self.shared:
            self.lock.release()


# ---- forks ----

cdef void enter_gate() noexcept:
    """Begin to write without the GIL; wait while a fork is under way."""
    global inside
    while closed > 0 and forking != PyThread_get_thread_ident():
        with nogil:
            usleep(NAP)
    inside += 1


cdef void leave_gate() noexcept:
    """What was written has been counted too."""
    global inside
    inside -= 1


def before_fork():
    """Close the gate, and wait until nobody is inside."""
    global closed, forking
    closed += 1
    while inside > 0:
        with nogil:
            usleep(NAP)
    forking = PyThread_get_thread_ident()


def after_fork_in_parent():
    """Open the gate."""
    global closed, forking
    closed -= 1
    forking = 0


def after_fork_in_child():
    """Open the gate, and free all locks: who held one was left behind, or forked in the middle of its step."""
    global closed, forking, generation
    cdef unsigned long me = PyThread_get_thread_ident()
    cdef PyObject *lock = newest
    closed = forking = 0
    generation += 1
    while lock != NULL:
        (<Lock>lock).torn |= (<Lock>lock).writing
        (<Lock>lock).abandoned |= (<Lock>lock).holder == me
        (<Lock>lock).renew()
        lock = (<Lock>lock).older
