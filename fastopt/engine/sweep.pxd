"""What other rooms may use of sweeps: leaves laid end to end, an operation over them, and who carries it out."""

from .arrays cimport RawArray
from .kernels cimport FO_MAX_STATE, FO_REALS, fo_coef, fo_kernel, fo_variant

cdef enum:
    CHUNK_ELEMENTS = 4096
    ELEMENTS_PER_WORKER = 8192  # at least: two threads gain nothing on less even if they are awake

cdef struct Leaf:
    # What a sweep must know of a parameter. All threads read it, so a step writes only what has changed: each line
    # written must be fetched by one core from the other.
    char *p
    const char *g
    char *s[FO_MAX_STATE]    # in the order of the plan's slots
    const RawArray *order    # the gradient's array, where its elements lie in another order than p's; else NULL
    Py_ssize_t n
    Py_ssize_t first         # chunks of active leaves before this one
    int itemsize
    int real
    int group
    int coef
    bint active              # takes part in the sweep
    bint reversed            # Fortran order: memory order is that of the reversed axes

cdef struct Layout:
    # Leaves end to end, as one sequence of chunks.
    Leaf *leaves             # [n_leaves + 1]
    Py_ssize_t n_leaves
    Py_ssize_t chunks        # of the active leaves
    Py_ssize_t elements
    Py_ssize_t nbytes        # of their parameters

cdef struct Binding:
    # A group's rule.
    fo_kernel *kernel[FO_REALS]
    int n_state
    int slot[FO_MAX_STATE]   # which of the plan's slots each state array of the rule is

cdef enum Operation:
    UPDATE
    UPDATE_AND_ZERO
    SUM_SQUARES
    FIND_NONFINITE
    ZERO_STATE
    OPERATIONS

cdef void lay_out(Layout *all) noexcept nogil
cdef Py_ssize_t chunks_of(const Leaf *f) noexcept nogil
cdef void in_order(char *to, const Leaf *f, Py_ssize_t start, Py_ssize_t count) noexcept nogil


cdef struct Queue:
    Py_ssize_t next
    Py_ssize_t stop
    Py_ssize_t begun         # whether its worker has come
    Py_ssize_t mirror        # of a sweep that goes backward: chunk k of the queue is mirror - 1 - k of the sequence
    char apart[32]           # a cache line each

cdef struct Trial:
    # What a worker's chunks cost it without and with asking for memory ahead.
    double spent[2]          # ns
    Py_ssize_t done[2]       # chunks
    Py_ssize_t turns
    char apart[24]           # a cache line each

cdef struct Sweep:
    Operation what
    Queue *queues            # [workers], NULL where nobody is to help another
    const Layout *all
    int workers
    bint backward            # whether each worker begins at its last chunk
    bint fetch               # whether kernels ask for memory ahead
    Trial *trials            # [TRIED] of a sweep that compares both by turns, else NULL
    Py_ssize_t turn          # chunks
    const Binding *bindings  # [groups]
    const fo_coef *coefs
    double *partial          # [chunks], sums or flags
    double scale
    int slot
    const fo_variant *variant
    bint flush

cdef class Sweeper:
    cdef double *partial     # [chunks] of the last sweep that summed
    cdef Py_ssize_t room_partial
    cdef Queue *queues
    cdef int room_queues
    cdef list choices        # of each operation, with workers asleep and awake
    cdef list fetchings      # whether to ask for memory ahead, alone and by all, with workers asleep and awake
    cdef bint backward       # whether the next sweep that may goes backward
    cdef double swept        # when the last sweep ended that could have been parallel, ns
    cdef double pause        # from there to this step
    cdef readonly int streak  # steps back to back of late
    cdef int settled         # steps since workers wait awake

    cdef void keep_pace(self) noexcept
    cdef int sweep(self, Sweep *w, bint learns) except -1
    cdef int share_out(self, Sweep *w, int workers) except -1
