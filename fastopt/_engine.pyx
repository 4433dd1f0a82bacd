# cython: language_level=3, wraparound=False, cdivision=True, initializedcheck=False
"""The engine: checks arrays, lays them out as spans, and runs kernels over their chunks.

a. This is the only compiled module, and the only place that knows threads. It knows no optimizer: what a rule computes
   is in src_c/, which rule to run with which coefficients is the caller's business.
b. `Plan` holds the memory of one optimizer: a `Leaf` for each parameter with the addresses of its parameter, gradient
   and state. All leaves of all groups lie end to end in one sequence of chunks of CHUNK elements.
c. A `sweep` carries one operation over all chunks in one parallel region. Each worker has one contiguous stretch of
   the sequence, the same one in every step, so memory stays near the core that first wrote it, and in its caches; who
   is done helps one that wakes late or has lost its core, but takes no last few chunks from it. Where caches hold a
   part of the whole, each sweep goes the other way than the one before it, and begins with that part. Small sweeps run
   serially in the calling thread, and between small and large the plan learns from its own timings what is faster: see
   `Choice`.
d. A sum over gradients is kept for each chunk and added up in the order of chunks, so that it does not depend on who
   computed which. Inside a chunk it is taken a TILE at a time, the unit in which gradients that lie in memory in
   another order than their parameter are brought into order.
e. Every check comes before the first write.
"""

cimport cython
from cpython.dict cimport PyDict_Next
from cpython.pythread cimport (
    PyThread_acquire_lock, PyThread_allocate_lock, PyThread_free_lock, PyThread_get_thread_ident,
    PyThread_release_lock, PyThread_type_lock)
from cpython.ref cimport Py_INCREF, Py_XDECREF, PyObject
from cython.parallel cimport prange
from libc.float cimport DBL_MAX
from libc.math cimport cos, pow
from libc.stdint cimport int64_t, uint64_t, uintptr_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memcpy, memset

cimport numpy as cnp

from sys import intern

import numpy as np

from .hyper import nonnegative
from .tree import described as described_tree

cnp.import_array()

cdef extern from "fastopt.h" nogil:
    enum: FO_MAX_STATE, FO_MAX_SCALARS, FO_NO_DECAY, FO_DECAYS, FO_F32, FO_F64, FO_REALS

    ctypedef struct fo_span:
        Py_ssize_t n
        Py_ssize_t reach
        int backward
        void *p
        const void *g
        void *s[FO_MAX_STATE]

    ctypedef struct fo_coef:
        double scale
        double decay
        double c[FO_MAX_SCALARS]

    ctypedef void fo_kernel(const fo_span *x, const fo_coef *c) noexcept nogil

    ctypedef struct fo_rule:
        const char *name
        const char *const *state
        const char *const *scalars
        fo_kernel *step[FO_DECAYS]

    ctypedef struct fo_table:
        const fo_rule *rules
        double (*sum_squares)(const void *g, Py_ssize_t n, double scale) noexcept nogil
        int (*nonfinite)(const void *g, Py_ssize_t n) noexcept nogil

    ctypedef struct fo_variant:
        const char *isa
        int (*supported)() noexcept nogil
        const fo_table *tables[FO_REALS]

    const fo_variant fo_variants[]
    unsigned long long fo_kernel_mode(int flush_denormals) noexcept
    void fo_restore_mode(unsigned long long mode) noexcept

cdef extern from "numpy/arrayobject.h" nogil:
    # An array seen without the GIL and without a reference.
    ctypedef struct RawArray "PyArrayObject":
        pass
    int raw_ndim "PyArray_NDIM"(const RawArray *a)
    const char *raw_data "PyArray_BYTES"(const RawArray *a)
    const Py_ssize_t *raw_shape "PyArray_DIMS"(const RawArray *a)
    const Py_ssize_t *raw_strides "PyArray_STRIDES"(const RawArray *a)
    const void *raw_type "PyArray_DESCR"(const RawArray *a)
    int raw_flags "PyArray_FLAGS"(const RawArray *a)
    Py_ssize_t raw_size "PyArray_SIZE"(const RawArray *a)

cdef extern from *:
    """
    #ifdef _OPENMP
    #include <omp.h>
    #define FO_OPENMP _OPENMP
    #else
    #define FO_OPENMP 0
    #endif
    #if defined _OPENMP && !defined __clang__
    #define FO_PROCESSORS omp_get_num_procs()
    #else
    #define FO_PROCESSORS 0
    #endif
    #ifdef _WIN32
    #error fastopt needs a POSIX system
    #endif
    #include <time.h>
    /* Monotonic time in ns. */
    static inline double fo_now(void)
    {
        struct timespec t;
        clock_gettime(CLOCK_MONOTONIC, &t);
        return 1e9 * (double)t.tv_sec + (double)t.tv_nsec;
    }
    #define fo_read(x) __atomic_load_n(x, __ATOMIC_RELAXED)
    #define fo_write(x, value) __atomic_store_n(x, value, __ATOMIC_RELAXED)
    /* The next few of a queue that several threads take from. */
    static inline Py_ssize_t fo_take(Py_ssize_t *next, Py_ssize_t few)
    {
        return __atomic_fetch_add(next, few, __ATOMIC_RELAXED);
    }
    /* A number that is another one once the dict has changed, 0 where there is none. From Python 3.12 on it is one for
       all dicts that are watched. */
    #if PY_VERSION_HEX < 0x030C0000
    #define fo_watch(dict) 0
    #define fo_version(dict) ((PyDictObject *)(dict))->ma_version_tag
    #else
    static uint64_t fo_changes = 1;
    static int fo_watcher = -1;
    static int fo_note_change(PyDict_WatchEvent event, PyObject *dict, PyObject *key, PyObject *value)
    {
        fo_changes++;
        return 0;
    }
    static int fo_watch(PyObject *dict)
    {
        if (fo_watcher < 0)
            fo_watcher = PyDict_AddWatcher(fo_note_change);
        if (fo_watcher < 0)
            PyErr_Clear(); /* all of the few there may be are taken */
        return fo_watcher < 0 ? 0 : PyDict_Watch(fo_watcher, dict);
    }
    #define fo_version(dict) (fo_watcher < 0 ? 0 : fo_changes)
    #endif
    #if defined __clang__
    #define FO_COMPILER "clang " __clang_version__
    #else
    #define FO_COMPILER "gcc " __VERSION__
    #endif
    """
    const int FO_OPENMP
    const int FO_PROCESSORS
    int fo_watch(dict d) except -1
    uint64_t fo_version(dict d)
    const char *FO_COMPILER
    double fo_now() noexcept nogil
    Py_ssize_t fo_take(Py_ssize_t *next, Py_ssize_t few) noexcept nogil
    Py_ssize_t fo_read(const Py_ssize_t *x) noexcept nogil
    void fo_write(Py_ssize_t *x, Py_ssize_t value) noexcept nogil

cdef enum:
    CHUNK_ELEMENTS = 4096
    TILE = 1024
    LINE = 64                   # bytes of a cache line
    ALIGN_FROM = 1024           # elements: from there on an array's place in cache lines matters
    WORTH_HELP = 16             # chunks: no more than these are left to the worker whose caches hold them
    TRIED = 16                  # workers at most that compare asking for memory ahead with not asking, by turns
    TURNS = 16                  # that each of them takes, if it has chunks enough for turns of
    LEAST_TURN = 4              # chunks
    MOST_AT_ONCE = 64           # chunks that a worker takes, who may lose its core to another process
    ELEMENTS_PER_WORKER = 8192  # at least: two threads gain nothing on less even if they are awake
    WAKE_FROM = 1 << 22         # elements: a first guess of what is worth waking workers for
    PARALLEL_FROM = 1 << 24     # elements: two threads lose little even if they must be woken or others want the cores
    BEYOND_OWN_CACHES = 1 << 19    # bytes of parameters: with their state more than caches of single cores hold
    BEYOND_ALL_CACHES = 1 << 24    # bytes of parameters: of so much, no cache holds a part worth turning round for
    AT_ONCE = 50000             # ns between two steps that count as back to back
    WAKING = 4                  # so many in a row make workers wait awake; after as many more, costs are learned
    TABLE = 512                 # steps for which a class's scalars are computed at once

CHUNK = CHUNK_ELEMENTS
OPENMP = FO_OPENMP != 0
OPENMP_VERSION = FO_OPENMP
COMPILER = FO_COMPILER.decode()
DECAY_KINDS = {"none": 0, "coupled": 1, "decoupled": 2}

# ---- process-wide settings: variant, threads, floating-point mode ----

cdef const fo_variant *variant = NULL
cdef int threads = 1
cdef bint learning = True
cdef bint forked = False
cdef bint flush = True


def built_isas():
    """Names of the instruction sets that were compiled, best first."""
    cdef const fo_variant *v = fo_variants
    names = []
    while v.isa != NULL:
        names.append(v.isa.decode())
        v += 1
    return names


def isas():
    """Names of the compiled instruction sets that this machine can run, best first."""
    cdef const fo_variant *v = fo_variants
    names = []
    while v.isa != NULL:
        if v.supported():
            names.append(v.isa.decode())
        v += 1
    return names


def isa():
    """Name of the instruction set in use."""
    return variant.isa.decode()


def select(name):
    """Use the kernels of one instruction set in every plan made from now on."""
    global variant
    cdef const fo_variant *v = fo_variants
    while v.isa != NULL:
        if v.isa.decode() == name and v.supported():
            variant = v
            return
        v += 1
    raise ValueError(f"instruction set {name!r} is not available; there are {', '.join(isas())}")


def rules():
    """Every rule: its name, the names of its state arrays, the names of its scalars."""
    cdef const fo_rule *rule = variant.tables[FO_F32].rules
    found = {}
    while rule.name != NULL:
        found[rule.name.decode()] = (names_of(rule.state), names_of(rule.scalars))
        rule += 1
    return found


cdef tuple names_of(const char *const *names):
    found = []
    while names[0] != NULL:
        found.append(intern(names[0].decode()))  # the objects that the classes have: found at a glance
        names += 1
    return tuple(found)


def set_threads(int n):
    """Let sweeps use up to n threads; no check against what the machine has."""
    global threads
    threads = n if OPENMP else 1


def get_threads():
    """Threads a large sweep uses: 1 in a forked child, where GNU OpenMP would hang."""
    return 1 if forked else threads


def set_learning(bint on):
    """Whether plans do only what is a gain; if not, all threads are called for whatever has the chunks, and sweeps of
    all sizes go to and fro, with and without asking for memory ahead."""
    global learning
    learning = on


def after_fork_in_child():
    """Run serially from now on."""
    global forked
    forked = True


def is_forked():
    """Whether this process is a forked child of one that had imported fastopt."""
    return forked


def set_flush(bint on):
    """Whether kernels flush denormals to zero."""
    global flush
    flush = on


def get_flush():
    """Whether kernels flush denormals to zero."""
    return flush


cdef class kernel_mode:
    """Context in which this thread's arithmetic has the kernels' floating-point mode."""

    cdef unsigned long long found

    def __enter__(self):
        self.found = fo_kernel_mode(flush)

    def __exit__(self, *_):
        fo_restore_mode(self.found)


cdef class Lock:
    """A lock to hold in a ``with`` statement; in a forked child it can be renewed.

    Who holds it is kept under the GIL, so that taking it when it is free costs next to nothing; the lock of the
    operating system is what others sleep on.
    """

    cdef PyThread_type_lock bed
    cdef unsigned long holder
    cdef int sleepers

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


# ---- numbers ----

def one_minus_power(double beta, t):
    """1 - beta**t for beta in [0, 1] and each whole number t >= 0 of an array, to a few last bits.

    By squaring: with e = 1 - beta**k, that of 2k is e (2 - e), and that of k + 1 is e beta + (1 - beta). Nothing
    cancels where beta**t is close to 1, and there is no library function in it whose last bits could differ from
    machine to machine. Neighbours share all but a few of their squarings, which are done once.
    """
    cdef cnp.ndarray powers = np.asarray(t, np.int64, order="C")
    cdef cnp.ndarray found = np.empty(shown(powers))
    cdef const int64_t *k = <const int64_t *>cnp.PyArray_DATA(powers)
    cdef double e, rest = 1.0 - beta
    cdef double of[65]  # 1 - beta**(k >> level), by level
    cdef int64_t last = 0
    cdef int level
    cdef Py_ssize_t i
    memset(of, 0, sizeof(of))
    for i in range(cnp.PyArray_SIZE(powers)):
        if k[i] < 0:
            raise ValueError(f"t is {k[i]}: wanted at least 0")
        level = 0
        while (k[i] ^ last) >> level:
            level += 1
        last = k[i]
        while level:
            e = of[level]
            level -= 1
            if e < 1.0:
                e = e * (2.0 - e)
                if last >> level & 1:
                    e = e * beta + rest
            of[level] = e
        (<double *>cnp.PyArray_DATA(found))[i] = of[0]
    return found


def cosines(x):
    """The cosine of each number of an array: math.cos's, to the last bit, which NumPy's need not be."""
    cdef cnp.ndarray values = np.array(x, np.float64, order="C")
    cdef double *value = <double *>cnp.PyArray_DATA(values)
    cdef Py_ssize_t i
    for i in range(cnp.PyArray_SIZE(values)):
        value[i] = cos(value[i])
    return values


def powers(double base, x):
    """The base to the power of each number of an array: Python's, to the last bit, and infinity where it has none."""
    cdef cnp.ndarray values = np.array(x, np.float64, order="C")
    cdef double *value = <double *>cnp.PyArray_DATA(values)
    cdef Py_ssize_t i
    for i in range(cnp.PyArray_SIZE(values)):
        value[i] = pow(base, value[i])
    return values


# ---- arrays ----

cdef object shown(cnp.ndarray a):
    """a's shape as a tuple of Python integers."""
    return (<object>a).shape


def empty_like(cnp.ndarray a):
    """Return an array of a's shape, type and memory order, contents unset, that lies in cache lines as a does.

    A small one starts at a cache line. See `update_part`.
    """
    cdef Py_ssize_t nbytes = cnp.PyArray_NBYTES(a)
    memory = np.empty(nbytes + LINE, np.uint8)
    cdef uintptr_t place = <uintptr_t>cnp.PyArray_DATA(a) if cnp.PyArray_SIZE(a) >= ALIGN_FROM else 0
    cdef Py_ssize_t skip = (place - <uintptr_t>cnp.PyArray_DATA(memory)) % LINE
    return memory[skip:skip + nbytes].view(a.dtype).reshape(
        shown(a), order="C" if cnp.PyArray_IS_C_CONTIGUOUS(a) else "F")


cdef str described(object x):
    """What came, for an error message."""
    if isinstance(x, np.ndarray):
        return f"{type(x).__name__} of dtype {x.dtype}"
    return type(x).__name__


cdef int real_of(cnp.ndarray a) noexcept:
    """The place of a's type in tables of element types; -1 where there is none."""
    if cnp.PyArray_TYPE(a) == cnp.NPY_FLOAT and cnp.PyArray_ISNOTSWAPPED(a):
        return FO_F32
    if cnp.PyArray_TYPE(a) == cnp.NPY_DOUBLE and cnp.PyArray_ISNOTSWAPPED(a):
        return FO_F64
    return -1


cdef int check_parameter(object x, str name) except -1:
    """Raise unless x can be updated in place; return its type's place in tables."""
    if not isinstance(x, np.ndarray):
        raise TypeError(f"{name} is {described(x)}: a parameter must be a NumPy array")
    if isinstance(x, np.ma.MaskedArray):
        raise TypeError(f"{name} is a masked array: its mask would be ignored; pass its data")
    cdef cnp.ndarray a = x
    cdef int real = real_of(a)
    if real < 0:
        if not cnp.PyArray_ISNOTSWAPPED(a):
            raise TypeError(f"{name} has the byte-swapped dtype {a.dtype.str!r}: "
                            f"convert it with .astype({a.dtype.newbyteorder('=').str!r})")
        raise TypeError(f"{name} has dtype {a.dtype}: a parameter must be float32 or float64")
    if not cnp.PyArray_ISWRITEABLE(a):
        raise ValueError(f"{name} is read-only: it cannot be updated in place")
    if not (cnp.PyArray_IS_C_CONTIGUOUS(a) or cnp.PyArray_IS_F_CONTIGUOUS(a)):
        raise ValueError(f"{name} of shape {shown(a)} and strides {(<object>a).strides} is not contiguous: "
                         "a parameter must be C- or Fortran-contiguous, and is never copied")
    if not cnp.PyArray_ISALIGNED(a):
        raise ValueError(f"{name} is not aligned: its address {<uintptr_t>cnp.PyArray_DATA(a):#x} "
                         f"is no multiple of {a.dtype.alignment}")
    return real


cdef object viewed(object x, str name):
    """x as a base ndarray without a copy, for gradients that are no exact ndarray."""
    if isinstance(x, np.ndarray):
        if isinstance(x, np.ma.MaskedArray):
            raise TypeError(f"{name} is a masked array: its mask would be ignored; pass its data")
        return x.view(np.ndarray)
    if isinstance(x, np.generic):
        return np.asarray(x)  # what NumPy makes of arithmetic on an array without dimensions
    if isinstance(x, (str, bytes)):
        raise TypeError(f"{name} is {described(x)}: a gradient must be an array")
    for view in (_from_interface, _from_dlpack, _from_buffer):
        try:
            array = view(x)
        except (TypeError, ValueError, BufferError, RuntimeError) as error:
            raise TypeError(f"{name} is {described(x)}, which NumPy cannot view without a copy: {error}") from None
        if array is not None:
            return array
    raise TypeError(f"{name} is {described(x)}: a gradient must be an array, or what NumPy can view as one")


def _from_interface(x):
    return np.asarray(x) if hasattr(x, "__array_interface__") else None


def _from_dlpack(x):
    return np.from_dlpack(x) if hasattr(x, "__dlpack__") else None


def _from_buffer(x):
    try:
        return np.asarray(memoryview(x))
    except TypeError:
        return None


cdef inline bint same_shape(const RawArray *a, const RawArray *b) noexcept:
    cdef int i, ndim = raw_ndim(a)
    if ndim != raw_ndim(b):
        return False
    for i in range(ndim):
        if raw_shape(a)[i] != raw_shape(b)[i]:
            return False
    return True


cdef void extent(cnp.ndarray a, uintptr_t *low, uintptr_t *high) noexcept:
    """The bytes [low, high) that a's elements lie in."""
    cdef int i
    cdef Py_ssize_t reach
    low[0] = <uintptr_t>cnp.PyArray_DATA(a)
    high[0] = low[0]
    if cnp.PyArray_SIZE(a) == 0:
        return
    for i in range(cnp.PyArray_NDIM(a)):
        reach = (cnp.PyArray_DIM(a, i) - 1) * cnp.PyArray_STRIDE(a, i)
        if reach < 0:
            low[0] += reach
        else:
            high[0] += reach
    high[0] += cnp.PyArray_ITEMSIZE(a)


# ---- the plan ----

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

cdef struct Watch:
    # What else the plan keeps of it, for the thread that calls step().
    const RawArray *array    # the parameter
    const char *cleared      # the gradient last seen to overlap no parameter
    PyObject *held           # the gradient's array, during a step
    int wanted               # flags of a gradient that can be read as it lies
    int64_t count            # updates this parameter has had

cdef struct Binding:
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
    Leaf *leaves
    Py_ssize_t n_leaves
    Py_ssize_t chunks
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


cdef void in_order(char *to, const Leaf *f, Py_ssize_t start, Py_ssize_t count) noexcept nogil:
    """Copy elements start, start + 1, ... of a gradient, counted in its parameter's memory order."""
    cdef const RawArray *a = f.order
    cdef const Py_ssize_t *shape = raw_shape(a)
    cdef const Py_ssize_t *strides = raw_strides(a)
    cdef int ndim = raw_ndim(a), axis, k
    cdef int fastest = 0 if f.reversed else ndim - 1
    cdef Py_ssize_t index[64]  # of the axes, fastest first
    cdef Py_ssize_t rest = start, run, j
    cdef const char *at = raw_data(a)
    if ndim == 0:
        memcpy(to, at, f.itemsize)
        return
    for k in range(ndim):
        axis = k if f.reversed else ndim - 1 - k
        index[k] = rest % shape[axis]
        rest //= shape[axis]
        at += index[k] * strides[axis]
    while True:
        run = min(count, shape[fastest] - index[0])
        if f.itemsize == 4:
            for j in range(run):
                memcpy(to + 4 * j, at + j * strides[fastest], 4)
        else:
            for j in range(run):
                memcpy(to + 8 * j, at + j * strides[fastest], 8)
        count -= run
        if count == 0:
            return
        to += run * f.itemsize
        at -= index[0] * strides[fastest]
        index[0] = 0
        for k in range(1, ndim):  # carry into the slower axes
            axis = k if f.reversed else ndim - 1 - k
            index[k] += 1
            at += strides[axis]
            if index[k] < shape[axis]:
                break
            at -= index[k] * strides[axis]
            index[k] = 0


cdef bint take_apart(object x, object structure, list found) except -1:
    """`Tree.take_apart` without its messages: append the leaves of x, or return False if its structure is another."""
    cdef object value
    cdef PyObject *part
    cdef PyObject *key
    cdef Py_ssize_t at = 0
    if structure is None:
        if isinstance(x, (dict, list, tuple)):
            return False
        found.append(x)
        return True
    if isinstance(structure, dict):
        if not isinstance(x, dict) or len(x) != len(structure):
            return False
        while PyDict_Next(structure, &at, &key, &part):
            value = (<dict>x).get(<object>key, structure)  # which is no array either
            if not take_apart(value, <object>part, found):
                return False
        return True
    if not isinstance(x, (list, tuple)) or len(x) != len(structure):
        return False
    for at in range(len(<tuple>structure)):
        if not take_apart(x[at], (<tuple>structure)[at], found):
            return False
    return True


cdef inline bint familiar(const Leaf *f, const Watch *h, PyObject *x) noexcept:
    """Whether x is an array that passes every check of `Plan.load_leaf`, seen at a glance."""
    cdef const RawArray *a = <const RawArray *>x
    return (
        cnp.PyArray_CheckExact(<object>x)
        and raw_data(a) == h.cleared
        and raw_type(a) == raw_type(h.array)
        and (raw_flags(a) & h.wanted) == h.wanted
        and same_shape(a, h.array)
        and raw_data(h.array) == f.p
        and raw_size(h.array) == f.n
        and (raw_flags(h.array) & cnp.NPY_ARRAY_WRITEABLE)
    )


cdef void run_span(const Sweep *w, const Leaf *f, Py_ssize_t start, Py_ssize_t count, Py_ssize_t reach,
                   const void *g) noexcept nogil:
    """One kernel call: elements start to start + count of a leaf, with their gradients at g."""
    cdef fo_span x
    cdef const Binding *b = &w.bindings[f.group]
    cdef int k
    x.n = count
    x.reach = reach
    x.backward = w.backward
    x.p = f.p + start * f.itemsize
    x.g = g
    for k in range(b.n_state):
        x.s[k] = f.s[b.slot[k]] + start * f.itemsize
    b.kernel[f.real](&x, &w.coefs[f.coef])


cdef void update_part(const Sweep *w, const Leaf *f, Py_ssize_t start, Py_ssize_t end) noexcept nogil:
    """Update a part of a leaf whose gradient lies in its order.

    What lies before a cache line of its parameter is a call of its own, unless there is little to gain: a register's
    worth of elements that lies in two cache lines takes twice as long.
    """
    cdef Py_ssize_t before, reach = 0
    if end - start >= ALIGN_FROM:
        before = -<uintptr_t>(f.p + start * f.itemsize) % LINE // f.itemsize
        run_span(w, f, start, before, 0, f.g + start * f.itemsize)
        start += before
    if w.fetch:
        reach = end if w.backward else f.n - start
    run_span(w, f, start, end - start, reach, f.g + start * f.itemsize)


cdef void run_chunk(const Sweep *w, const Leaf *f, Py_ssize_t chunk) noexcept nogil:
    """The sweep's operation on one chunk of a leaf."""
    cdef Py_ssize_t start = chunk * CHUNK_ELEMENTS
    cdef Py_ssize_t end = min(f.n, start + CHUNK_ELEMENTS)
    cdef double tile[TILE]
    cdef const char *g
    cdef Py_ssize_t count
    cdef double sum = 0
    if w.what == ZERO_STATE:
        memset(f.s[w.slot] + start * f.itemsize, 0, (end - start) * f.itemsize)
        return
    if w.what == UPDATE_AND_ZERO and f.order == NULL:
        update_part(w, f, start, end)
        memset(<void *>(f.g + start * f.itemsize), 0, (end - start) * f.itemsize)
        return
    while start < end:
        count = min(<Py_ssize_t>TILE, end - start)
        if f.order == NULL:
            g = f.g + start * f.itemsize
            if w.what == FIND_NONFINITE:  # no sum, whose bits would change with the length of its parts
                count = end - start
        else:
            g = <char *>tile
            in_order(<char *>tile, f, start, count)
        if w.what == SUM_SQUARES:
            sum += w.variant.tables[f.real].sum_squares(g, count, w.scale)
        elif w.what == FIND_NONFINITE:
            sum += w.variant.tables[f.real].nonfinite(g, count)
        else:
            run_span(w, f, start, count, 0, g)
        start += count
    if w.partial != NULL:
        w.partial[f.first + chunk] = sum


cdef Py_ssize_t chunks_of(const Leaf *f) noexcept nogil:
    return (f.n + CHUNK_ELEMENTS - 1) // CHUNK_ELEMENTS


cdef Py_ssize_t leaf_of(const Sweep *w, Py_ssize_t chunk) noexcept nogil:
    """The leaf that a chunk is of: the last one whose first chunk is not past it."""
    cdef Py_ssize_t low = 0, high = w.n_leaves, middle
    while high - low > 1:
        middle = (low + high) // 2
        if w.leaves[middle].first <= chunk:
            low = middle
        else:
            high = middle
    return low


cdef void run_chunks(const Sweep *w, Py_ssize_t begin, Py_ssize_t end) noexcept nogil:
    """Chunks begin to end of the sequence; neighbours in one call of the kernel, where it is all there is to do."""
    cdef Py_ssize_t upto, leaf = leaf_of(w, begin)
    cdef const Leaf *f
    while begin < end:
        while w.leaves[leaf + 1].first <= begin:
            leaf += 1
        f = &w.leaves[leaf]
        if w.what == UPDATE and f.order == NULL:
            upto = min(end, w.leaves[leaf + 1].first)
            update_part(w, f, (begin - f.first) * CHUNK_ELEMENTS, min(f.n, (upto - f.first) * CHUNK_ELEMENTS))
        else:
            upto = begin + 1
            run_chunk(w, f, begin - f.first)
        begin = upto


cdef void run_chunks_backward(const Sweep *w, Py_ssize_t begin, Py_ssize_t end) noexcept nogil:
    """The same, the last first. (One loop for both directions: 3 % more instructions a small tensor.)"""
    cdef Py_ssize_t first, leaf = leaf_of(w, end - 1)
    cdef const Leaf *f
    while end > begin:
        while w.leaves[leaf].first >= end:
            leaf -= 1
        f = &w.leaves[leaf]
        if w.what == UPDATE and f.order == NULL:
            first = max(begin, f.first)
            update_part(w, f, (first - f.first) * CHUNK_ELEMENTS, min(f.n, (end - f.first) * CHUNK_ELEMENTS))
        else:
            first = end - 1
            run_chunk(w, f, first - f.first)
        end = first


cdef void try_stretch(const Sweep *w, int worker, Py_ssize_t begin, Py_ssize_t end) noexcept nogil:
    """The same, by turns with and without asking for memory ahead; and note what each cost."""
    cdef Sweep own = w[0]
    cdef Trial *trial = &w.trials[worker]
    cdef double now, last = fo_now()
    cdef Py_ssize_t few
    while begin < end:
        few = min(end - begin, w.turn)
        own.fetch = (w.fetch + worker + trial.turns) & 1
        if w.backward:
            run_chunks_backward(&own, end - few, end)
            end -= few
        else:
            run_chunks(&own, begin, begin + few)
            begin += few
        now = fo_now()
        trial.spent[own.fetch] += now - last
        trial.done[own.fetch] += few
        trial.turns += 1
        last = now


cdef inline void run_stretch(const Sweep *w, int worker, Py_ssize_t begin, Py_ssize_t end) noexcept nogil:
    """The same, in the direction of the sweep."""
    if w.trials != NULL and worker < TRIED:
        try_stretch(w, worker, begin, end)
    elif w.backward:
        run_chunks_backward(w, begin, end)
    else:
        run_chunks(w, begin, end)


cdef void run_worker(const Sweep *w, int worker) noexcept nogil:
    """One worker's chunks: its own, then what is left of the others', where that is much.

    A thread beyond the workers (see `processors`) has no chunks, but helps all the same: the system may have put two
    workers on one processor, and leave them there for milliseconds.
    """
    cdef unsigned long long mode = fo_kernel_mode(w.flush)
    cdef Queue *q
    cdef Py_ssize_t begin, end, left, few
    cdef int k
    cdef bint own
    cdef bint extra = worker >= w.workers
    if w.queues == NULL:
        if not extra:
            run_stretch(w, worker, w.chunks * worker // w.workers, w.chunks * (worker + 1) // w.workers)
    else:
        if not extra:
            fo_write(&w.queues[worker].begun, 1)
        for k in range(w.workers):
            q = &w.queues[(worker + k) % w.workers]
            own = k == 0 and not extra
            while True:
                left = q.stop - fo_read(&q.next)
                if left <= 0 or left <= WORTH_HELP and not own and fo_read(&q.begun):
                    break
                few = left if left <= WORTH_HELP else min(left // 2, <Py_ssize_t>MOST_AT_ONCE)
                begin = fo_take(&q.next, few)
                if begin >= q.stop:
                    break
                end = min(begin + few, q.stop)
                if w.backward:
                    begin, end = q.mirror - end, q.mirror - begin
                run_stretch(w, worker, begin, end)
    fo_restore_mode(mode)


cdef void run_alone(const Sweep *w) noexcept nogil:
    """All chunks, in the calling thread."""
    cdef unsigned long long mode = fo_kernel_mode(w.flush)
    run_stretch(w, 0, 0, w.chunks)
    fo_restore_mode(mode)


# ---- how many threads ----

cdef double TRYING = 0.01  # of the time may be lost by trying the dearer way,
cdef double TRYING_AWAKE = 0.004  # or so much where steps come back to back, and a change is soon noticed all the same
cdef double STALL = 4.0    # times what one thread takes, and
cdef double STALL_NS = 1e6  # at least so long: a worker has lost its processor. (One that slept wakes within 250 us.)


@cython.final
cdef class Choice:
    """Whether sweeps are to be done alone, way 0, or by all workers, way 1: learned from what each has cost.

    The cheaper way is taken, and the other tried again now and then, so seldom that trying costs no more than TRYING of
    the time.

    Parameters
    ----------
    awake : bool
        Whether sweeps come back to back. A try goes on for longer then, and is believed more slowly: workers are awake
        unless we worked alone, so a bad one may be but the waking. With other work between there is less to gain.
    """

    cdef bint awake
    cdef double cost[2]
    cdef bint tried[2]
    cdef int left            # uses before the dearer way is tried again
    cdef int interval        # the last value it began from
    cdef int uses            # of the try that is going on,
    cdef double best, total  # the least and all that they cost
    cdef double caution      # so many times what a stall lost is to pass before workers are called again
    cdef double lost         # by the last stall
    cdef double owed         # of that, what has not been gained since

    def __init__(self, bint awake):
        self.awake = awake
        self.caution = 1.0

    cpdef int way(self, int first) noexcept:
        """Return what to do now; `first` is what to begin with, while nothing is known."""
        if not self.tried[first]:
            return first
        if not self.tried[1 - first]:
            return 1 - first
        cdef int better = self.cost[1] < self.cost[0]
        return better if self.left > 0 else 1 - better

    cpdef void learn(self, int way, double cost, bint long=False) noexcept:
        """Take in what a sweep cost, per element, and whether it took STALL_NS or more."""
        cdef int better = self.cost[1] < self.cost[0]
        cdef double lost
        if way == 1 and self.tried[0]:
            if long and cost > STALL * self.cost[0]:
                self.stalled(cost - self.cost[0])
                return
            self.owed -= self.cost[0] - cost
            if self.owed <= 0.0 and self.caution > 1.0:  # earned back
                self.caution /= 4
                self.owed = self.lost
        self.left -= self.left > 0
        if self.tried[way] and way == better:
            self.cost[way] += 0.25 * (min(cost, 2 * self.cost[way]) - self.cost[way])  # of an outlier no more than that
            lost = cost - self.cost[1 - way]
        else:
            # A try. Workers that have slept take a use or two to wake up: it ends with the first good use or the last.
            self.uses += 1
            self.best = cost if self.uses == 1 else min(self.best, cost)
            self.total += cost
            if way == 1 and cost >= self.cost[0] and self.uses < (4 if self.awake else 2):
                return
            self.cost[way] = self.best
            self.tried[way] = True
            lost = self.total - self.uses * self.cost[1 - way]
            self.uses, self.total = 0, 0.0
        if not self.tried[1 - way]:
            return
        if way != (self.cost[1] < self.cost[0]):
            # What was lost is to be no more than TRYING of the time. It may have been chance: believed bit by bit.
            lost /= self.cost[1 - way]
            lost = min(lost / TRYING_AWAKE, 4.0 * self.interval) if self.awake else lost / TRYING
            self.left = self.interval = max(16, <int>min(lost, 1e6))
        elif way != better:
            self.interval //= 4
            self.left = 16

    cdef void stalled(self, double lost) noexcept:
        """Work alone for a while: once for as long as was lost, for longer each time that it was not earned back.

        Where others want the processors, a step may wait for its last worker through whole turns of theirs, hundreds of
        times what it takes alone; a mean tells, not what is typical.
        """
        self.cost[1] = 2 * self.cost[0]
        self.tried[1] = True
        self.uses, self.total = 0, 0.0
        self.left = self.interval = max(16, <int>min(lost * self.caution / self.cost[0], 1e6))
        self.lost = self.owed = lost
        self.caution = min(4 * self.caution, 1 / TRYING)


@cython.final
cdef class Comparison:
    """Which of two ways is the cheaper one where they differ by little: learned from sweeps that go both ways by turns.

    What disturbs a sweep disturbs both ways, and cancels out. The mean of the last trials decides.
    """

    cdef double gain          # by way 1, as a share of what both cost: its mean
    cdef Py_ssize_t trials    # so far
    cdef int left             # uses up to the next one

    cpdef bint due(self) noexcept:
        """Return, once for each use, whether it is to be a trial."""
        self.left -= self.left > 0
        return self.left == 0

    cpdef int way(self, bint trial) noexcept:
        """Return the way to go; in a trial the one to begin with, which is not always the same."""
        return self.trials & 1 if trial else self.gain >= 0.0

    cpdef void learn(self, double cost0, double cost1) noexcept:
        """Take in what a piece of work has cost, each way, in a trial; NaN where there was none."""
        cdef double gain = (cost0 - cost1) / (cost0 + cost1)
        self.trials += 1
        gain = max(-0.1, min(gain, 0.1)) if gain == gain else 0.0  # of a disturbance no more than that
        self.gain += (gain - self.gain) / min(self.trials, <Py_ssize_t>32)
        self.left = <int>min(2 * self.trials, <Py_ssize_t>30) + 1


# Idle workers of GNU OpenMP spin for some 6 ms before they sleep, and take cores from what comes next; but for some 20
# us only, if threads are more than the processors that it counts. 0 where that does not help.
cdef int processors = FO_PROCESSORS


@cython.final
cdef class Terms:
    """What one group's hyper-parameters come to, from one check to the next change.

    Parameters
    ----------
    live : dict
        The group as the user sees it.
    values : dict
        Its hyper-parameters, checked.
    rule, kind : str
        Its rule and its kind of weight decay: none, coupled or decoupled.
    scalars : callable
        The class's ``scalars(values, t)``.
    ahead : bool
        Whether the learning rate is a schedule that can be called with an array of steps.
    """

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

    def __init__(self, dict live, dict values, str rule, str kind, object scalars, bint ahead):
        fo_watch(live)
        self.live = live
        self.source = tuple([part for item in live.items() for part in item])
        self.values, self.rule, self.kind, self.scalars = values, rule, kind, scalars
        self.names = rules()[rule][1]
        self.schedule = values["lr"] if callable(values["lr"]) else None
        self.lr = 0.0 if self.schedule is not None else values["lr"]
        self.ahead, self.first_rate = ahead, -TABLE
        self.sign = -1.0 if values["maximize"] else 1.0
        self.decay = values["weight_decay"]
        self.decoupled = kind == "decoupled"

    def __dealloc__(self):
        free(self.table)

    cdef int fill(self, object steps) except -1:
        """Ask the class for the scalars of these steps, and put them into the table, a row a step."""
        cdef Py_ssize_t i, n = len(steps), columns = len(self.names)
        cdef int k
        cdef double same
        cdef double *grown
        cdef double *to
        cdef const double *value
        cdef bint one_each
        cdef cnp.ndarray values
        rates, others = self.scalars(self.values, steps)
        if rates.keys() | others.keys() != set(self.names):
            raise KeyError(f"scalars() gave {sorted([*rates, *others])}: the rule {self.rule!r} "
                           f"wants {sorted(self.names)}")
        self.begin = self.end = 0  # of no use, until all is in
        if self.room < n * columns:
            grown = <double *>realloc(self.table, n * columns * sizeof(double))
            if grown == NULL:
                raise MemoryError
            self.table, self.room = grown, n * columns
        for k in range(columns):
            self.times_lr[k] = self.names[k] in rates
            given = rates[self.names[k]] if self.times_lr[k] else others[self.names[k]]
            one_each = isinstance(given, np.ndarray)
            if one_each:
                values = np.asarray(given, np.float64, order="C")
                if shown(values) != (n,):
                    raise ValueError(f"scalars() gave {self.names[k]!r} in shape {shown(values)}: "
                                     f"wanted one number, or one for each of {n} steps")
                value = <double *>cnp.PyArray_DATA(values)
            else:
                same = given
                value = &same
            to = self.table + k
            for i in range(n):
                to[i * columns] = value[i * one_each]
        return 0

    cdef double rate(self, int64_t steps) except -1:
        """The learning rate after so many steps, checked."""
        cdef double rate
        cdef cnp.ndarray rates
        if self.schedule is None:
            return self.lr
        if self.ahead:
            if not 0 <= steps - self.first_rate < TABLE:
                with np.errstate(all="ignore"):  # of steps that may never come
                    rates = np.asarray(self.schedule(np.arange(steps, steps + TABLE)), np.float64, order="C")
                memcpy(self.rates, cnp.PyArray_DATA(rates), sizeof(self.rates))
                self.first_rate = steps
            rate = self.rates[steps - self.first_rate]
            if 0.0 <= rate < DBL_MAX:
                return rate
            found = rate
        else:
            found = self.schedule(steps)
            if type(found) is float and 0.0 <= <double>found < DBL_MAX:
                return found
        return nonnegative(f"lr schedule {self.schedule!r} after {steps} steps", found)

    cdef int have(self, int64_t t) except -1:
        """See to it that step t is in the table, and the next ones with it: asking for one costs almost as much."""
        if not self.begin <= t < self.end:
            self.fill(np.arange(t, t + TABLE))
            self.begin, self.end = t, t + TABLE
        return 0

    cdef void inherit(self, Terms old):
        """Take over the table of terms that differ in the learning rate alone, if in anything."""
        if self.rule == old.rule and {**self.values, "lr": None} == {**old.values, "lr": None}:
            self.table, old.table = old.table, self.table
            self.room, old.room = old.room, self.room
            self.begin, self.end = old.begin, old.end
            memcpy(self.times_lr, old.times_lr, sizeof(self.times_lr))
            old.begin = old.end = 0

    cdef void fold(self, fo_coef *c, Py_ssize_t row, double lr, double scale) noexcept:
        """Make coefficients of a row of the table, this step's learning rate and gradient factor."""
        cdef Py_ssize_t k, columns = len(self.names)
        cdef const double *value = self.table + row * columns
        c.scale = scale * self.sign
        c.decay = self.decay * lr if self.decoupled else self.decay
        for k in range(columns):
            c.c[k] = value[k] * lr if self.times_lr[k] else value[k]

    cdef bint hold(self, dict live) noexcept:
        """Whether the live group still has the very values that were checked."""
        cdef PyObject *key
        cdef PyObject *value
        cdef Py_ssize_t at = 0, i = 0
        cdef uint64_t version = fo_version(live)
        if live is self.live and version != 0 and version == self.version:
            return True
        if 2 * len(live) != len(self.source):
            return False
        while PyDict_Next(live, &at, &key, &value):
            if key != <PyObject *>self.source[i] or value != <PyObject *>self.source[i + 1]:
                return False
            i += 2
        self.version = version if live is self.live else 0
        return True


@cython.final
cdef class Plan:
    """The memory of one optimizer, laid out for sweeps.

    Parameters
    ----------
    tree : Tree
        The parameters, their names and groups; the arrays are checked here.
    slots : tuple of str
        Names of the state arrays a parameter may have, as rules call them.
    lock : Lock
        Held during each step.
    zero_gradients, screened : bool
        Whether a step zeroes the gradients, and whether it must ask its owner about them before it writes.
    """

    cdef readonly list arrays, names, gradient_names, states
    cdef readonly tuple slots
    cdef readonly double largest, smallest  # normal numbers of the narrowest type among the parameters
    cdef readonly list terms        # Terms of each group, None before the first check
    cdef public object away         # why a step must be refused, if it must
    cdef public int64_t steps, skipped
    cdef object tree
    cdef object structure           # the tree's
    cdef Lock lock
    cdef bint single, flat          # the tree is one array, or a flat list
    cdef bint zero_gradients, screened
    cdef Leaf *leaves               # [leaves + 1]
    cdef Watch *watches             # [leaves]
    cdef Py_ssize_t n_leaves
    cdef Py_ssize_t *by_address     # non-empty leaves in order of address
    cdef Py_ssize_t n_by_address
    cdef int n_groups
    cdef Py_ssize_t *first_leaf     # [groups + 1]
    cdef Binding *bindings          # [groups]
    cdef fo_coef *coefs
    cdef int n_coefs, room_coefs
    cdef double *partial
    cdef Py_ssize_t room_partial
    cdef Py_ssize_t elements, nbytes  # of the active leaves
    cdef Py_ssize_t chunks
    cdef bint complete              # all leaves are active and laid out
    cdef Queue *queues
    cdef int room_queues
    cdef list choices               # of each operation, with workers asleep and awake
    cdef list fetchings             # whether to ask for memory ahead, alone and by all, with workers asleep and awake
    cdef bint backward              # whether the next sweep that may goes backward
    cdef double swept               # when the last sweep ended that could have been parallel, ns
    cdef double pause               # from there to this step
    cdef readonly int streak        # steps back to back of late
    cdef int settled                # steps since workers wait awake
    cdef const fo_variant *variant

    def __cinit__(self, object tree, tuple slots, Lock lock, bint zero_gradients, bint screened):
        cdef Py_ssize_t i
        cdef Leaf *f
        cdef Watch *h
        cdef cnp.ndarray a
        self.variant = variant
        self.tree, self.slots, self.lock = tree, slots, lock
        self.zero_gradients, self.screened = zero_gradients, screened
        self.single, self.flat = tree.single, tree.flat
        self.structure = tree.structure[1]
        self.arrays, self.names, self.gradient_names = tree.leaves, tree.names, tree.gradient_names
        self.n_leaves = len(self.arrays)
        self.n_groups = tree.n_groups
        self.states = [{} for _ in self.arrays]
        self.choices = [(Choice(False), Choice(True)) for _ in range(OPERATIONS)]
        self.fetchings = [(Comparison(), Comparison()) for _ in range(2)]
        self.terms = [None] * self.n_groups
        self.leaves = <Leaf *>calloc(self.n_leaves + 1, sizeof(Leaf))
        self.watches = <Watch *>calloc(self.n_leaves + 1, sizeof(Watch))
        self.by_address = <Py_ssize_t *>calloc(self.n_leaves + 1, sizeof(Py_ssize_t))
        self.first_leaf = <Py_ssize_t *>calloc(self.n_groups + 1, sizeof(Py_ssize_t))
        self.bindings = <Binding *>calloc(self.n_groups, sizeof(Binding))
        if not (self.leaves and self.watches and self.by_address and self.first_leaf
                and (self.bindings or not self.n_groups)):
            raise MemoryError
        for i in range(self.n_leaves):
            f = &self.leaves[i]
            h = &self.watches[i]
            f.real = check_parameter(self.arrays[i], self.names[i])
            a = self.arrays[i]
            h.array = <RawArray *>a
            f.p = <char *>cnp.PyArray_DATA(a)
            f.n = cnp.PyArray_SIZE(a)
            f.itemsize = cnp.PyArray_ITEMSIZE(a)
            f.reversed = not cnp.PyArray_IS_C_CONTIGUOUS(a)
            h.wanted = cnp.NPY_ARRAY_ALIGNED | (
                cnp.NPY_ARRAY_F_CONTIGUOUS if f.reversed else cnp.NPY_ARRAY_C_CONTIGUOUS)
            if zero_gradients:
                h.wanted |= cnp.NPY_ARRAY_WRITEABLE
            f.group = tree.groups[i]
            self.first_leaf[f.group + 1] += 1
        for i in range(self.n_groups):
            self.first_leaf[i + 1] += self.first_leaf[i]
        self.largest = min([float(np.finfo(array.dtype).max) for array in self.arrays], default=np.inf)
        self.smallest = max([float(np.finfo(array.dtype).tiny) for array in self.arrays], default=0.0)
        self.check_overlaps()

    def __dealloc__(self):
        free(self.leaves)
        free(self.watches)
        free(self.by_address)
        free(self.first_leaf)
        free(self.bindings)
        free(self.coefs)
        free(self.partial)
        free(self.queues)

    cdef int check_overlaps(self) except -1:
        """Raise if two parameters share memory; sort them by address for later look-ups."""
        cdef Py_ssize_t i, j, k
        order = sorted((<uintptr_t>self.leaves[i].p, i) for i in range(self.n_leaves) if self.leaves[i].n > 0)
        for k in range(len(order)):
            self.by_address[k] = order[k][1]
        self.n_by_address = len(order)
        for k in range(1, self.n_by_address):
            i, j = self.by_address[k - 1], self.by_address[k]
            if self.leaves[i].p + self.leaves[i].n * self.leaves[i].itemsize > self.leaves[j].p:
                i, j = min(i, j), max(i, j)
                if self.arrays[i] is self.arrays[j]:
                    raise ValueError(f"{self.names[j]} is the same array as {self.names[i]}: "
                                     "each parameter must appear once")
                raise ValueError(f"{self.names[j]} overlaps the memory of {self.names[i]}: "
                                 "each parameter must have memory of its own")
        return 0

    # -- state --

    def allocate(self, int group, tuple slots):
        """Give every leaf of a group the state arrays it lacks, filled with zeros where they will be updated."""
        cdef Py_ssize_t i
        cdef Py_ssize_t begin = self.first_leaf[group], end = self.first_leaf[group + 1]
        cdef int slot
        made = {(name, i): empty_like(self.arrays[i]) for name in slots for i in range(begin, end)
                if name not in self.states[i]}
        # All memory is there: from here on nothing fails.
        for name in slots:
            slot = self.slots.index(name)
            for i in range(self.n_leaves):
                self.leaves[i].active = False
            for i in range(begin, end):
                if (name, i) in made:
                    self.states[i][name] = made[name, i]
                    self.leaves[i].s[slot] = <char *>cnp.PyArray_DATA(made[name, i])
                    self.leaves[i].active = True
            self.lay_out()
            self.sweep(ZERO_STATE, True, slot)
        for i in range(self.n_leaves):  # as the step has them, if we are in one
            self.leaves[i].active = self.watches[i].held != NULL
        self.lay_out()

    @property
    def counts(self):
        """Updates that each parameter has had."""
        return [self.watches[i].count for i in range(self.n_leaves)]

    @counts.setter
    def counts(self, list values):
        cdef Py_ssize_t i
        cdef int64_t count
        for i in range(self.n_leaves):
            count = values[i]
            self.watches[i].count = count
        self.complete = False

    # -- the gradients of a step --

    cdef int load(self, object grads) except -1:
        """Take in one gradient a leaf, None to leave it out."""
        cdef Py_ssize_t i, n_active = 0
        cdef PyObject *x
        cdef Leaf *f
        cdef Watch *h
        cdef object leaves = grads
        cdef bint one = self.single and not isinstance(grads, (list, tuple, dict))
        if not one and not (self.flat and type(grads) in (list, tuple) and len(grads) == self.n_leaves):
            leaves = []
            if not take_apart(grads, self.structure, leaves):
                leaves = self.tree.take_apart(grads)  # which raises, and says where
        for i in range(self.n_leaves):
            if one:
                x = <PyObject *>grads
            elif type(leaves) is list:
                if len(<list>leaves) != self.n_leaves:
                    raise RuntimeError("grads changed while it was read")
                x = <PyObject *>(<list>leaves)[i]
            else:
                x = <PyObject *>(<tuple>leaves)[i]
            f = &self.leaves[i]
            h = &self.watches[i]
            if familiar(f, h, x):
                h.held = x
                Py_INCREF(<object>x)
                if f.g != h.cleared or f.order != NULL or not f.active:
                    f.g, f.order, f.active = h.cleared, NULL, True
            else:
                self.load_leaf(i, <object>x)
                if not f.active:
                    self.complete = False
            n_active += f.active
        if self.zero_gradients:
            self.check_gradient_overlaps()
        if not self.complete:
            self.lay_out()
            self.complete = n_active == self.n_leaves
        return 0

    cdef int load_leaf(self, Py_ssize_t i, object x) except -1:
        """Check one gradient, and take it in."""
        cdef Leaf *f = &self.leaves[i]
        cdef Watch *h = &self.watches[i]
        cdef cnp.ndarray a, p
        f.active = False
        f.order = NULL
        if x is None:
            return 0
        if type(x) is not np.ndarray:
            if isinstance(x, (list, tuple, dict)):
                raise ValueError(f"{self.gradient_names[i]} is {described_tree(x)}: wanted one array")
            x = viewed(x, self.gradient_names[i])
        a, p = x, self.arrays[i]
        if real_of(a) != f.real:
            swapped = "" if cnp.PyArray_ISNOTSWAPPED(a) else "byte-swapped "
            raise TypeError(f"{self.gradient_names[i]} has {swapped}dtype {a.dtype.str if swapped else a.dtype}: "
                            f"wanted {p.dtype}, as {self.names[i]} has")
        if not same_shape(<RawArray *>a, <RawArray *>p):
            raise ValueError(f"{self.gradient_names[i]} has shape {shown(a)}: "
                             f"wanted {shown(p)}, as {self.names[i]} has")
        self.check_unmoved(i)
        if self.zero_gradients and not cnp.PyArray_ISWRITEABLE(a):
            raise ValueError(f"{self.gradient_names[i]} is read-only: zero_grads=True cannot zero it")
        f.g = <const char *>cnp.PyArray_DATA(a)
        if (cnp.PyArray_FLAGS(a) & h.wanted) != h.wanted:
            f.order = <RawArray *>a
            self.check_apart(i, a)
        elif f.g != h.cleared:
            self.check_apart(i, a)
            h.cleared = f.g
        h.held = <PyObject *>a
        Py_INCREF(a)
        f.active = True
        return 0

    def check_parameters(self):
        """Raise if a parameter cannot be updated any more where it was when the plan was made."""
        cdef Py_ssize_t i
        for i in range(self.n_leaves):
            self.check_unmoved(i)

    cdef int check_unmoved(self, Py_ssize_t i) except -1:
        cdef Leaf *f = &self.leaves[i]
        cdef cnp.ndarray p = self.arrays[i]
        if raw_data(self.watches[i].array) != f.p or cnp.PyArray_SIZE(p) != f.n or not cnp.PyArray_ISWRITEABLE(p):
            check_parameter(p, self.names[i])
            raise ValueError(f"{self.names[i]} is not the memory it was: call bind(params)")
        return 0

    cdef int check_apart(self, Py_ssize_t i, cnp.ndarray a) except -1:
        """Raise if a gradient overlaps a parameter."""
        cdef uintptr_t begin, end
        cdef Py_ssize_t low = 0, high = self.n_by_address, middle
        cdef Leaf *f
        extent(a, &begin, &end)
        if begin == end:
            return 0
        while low < high:  # the first parameter that ends after the gradient begins
            middle = (low + high) // 2
            f = &self.leaves[self.by_address[middle]]
            if <uintptr_t>f.p + f.n * f.itemsize > begin:
                high = middle
            else:
                low = middle + 1
        while low < self.n_by_address:
            f = &self.leaves[self.by_address[low]]
            if <uintptr_t>f.p >= end:
                break
            if np.shares_memory(a, self.arrays[self.by_address[low]]):
                raise ValueError(f"{self.gradient_names[i]} overlaps the memory of "
                                 f"{self.names[self.by_address[low]]}: it would change while it is read")
            low += 1
        return 0

    cdef int check_gradient_overlaps(self) except -1:
        """Raise if two gradients share memory: the first update would zero the other's."""
        cdef uintptr_t begin, end
        cdef Py_ssize_t i
        extents = []
        for i in range(self.n_leaves):
            if self.leaves[i].active and self.leaves[i].n > 0:
                extent(<cnp.ndarray>self.watches[i].held, &begin, &end)
                extents.append((begin, end, i))
        extents.sort()
        reaching = []  # earlier ones that end after this one begins; apart all the same if they interleave
        for begin, end, i in extents:
            reaching = [(reach, j) for reach, j in reaching if reach > begin]
            for _, j in reaching:
                if np.shares_memory(<object>self.watches[i].held, <object>self.watches[<Py_ssize_t>j].held):
                    first, second = sorted((i, j))
                    raise ValueError(f"{self.gradient_names[second]} overlaps the memory of "
                                     f"{self.gradient_names[first]}: zero_grads=True needs gradients apart")
            reaching.append((end, i))
        return 0

    cdef void release(self, bint counted) noexcept:
        """Let go of the step's gradients, and count the updates if they took place."""
        cdef Py_ssize_t i
        cdef PyObject *held
        for i in range(self.n_leaves):
            held = self.watches[i].held
            if held != NULL:
                self.watches[i].count += counted
                self.watches[i].held = NULL
                Py_XDECREF(held)

    def gradient(self, Py_ssize_t leaf):
        """Return the array that is a leaf's gradient in this step, or None."""
        return <object>self.watches[leaf].held if self.watches[leaf].held != NULL else None

    cdef void lay_out(self) noexcept:
        """Number the chunks of the active leaves."""
        cdef Py_ssize_t i
        cdef Leaf *f
        self.complete = False
        self.chunks = self.elements = self.nbytes = 0
        for i in range(self.n_leaves):
            f = &self.leaves[i]
            f.first = self.chunks
            if f.active:
                self.chunks += chunks_of(f)
                self.elements += f.n
                self.nbytes += f.n * f.itemsize
        self.leaves[self.n_leaves].first = self.chunks

    # -- rules and coefficients --

    cdef int resolve(self, Binding *b, str name, int kind) except -1:
        """Find a rule's kernels and the slots of its state."""
        cdef const fo_rule *rule
        cdef int real
        for real in range(FO_REALS):
            rule = self.variant.tables[real].rules
            while rule.name != NULL and rule.name.decode() != name:
                rule += 1
            if rule.name == NULL:
                raise KeyError(f"there is no rule {name!r}")
            b.kernel[real] = rule.step[kind]
            state = names_of(rule.state)
            b.n_state = len(state)
            for i, letter in enumerate(state):
                b.slot[i] = self.slots.index(letter)
        return 0

    cdef list changed(self, object owner):
        """Check the live groups that are not as they were: (group, new terms) of each; None if there are none."""
        cdef int group
        cdef list found = None
        groups = owner.param_groups
        if len(groups) != self.n_groups:
            raise ValueError(f"param_groups has {len(groups)} groups: wanted the {self.n_groups} it was made with")
        for group in range(self.n_groups):
            live = groups[group]
            terms = self.terms[group]
            if terms is None or not isinstance(live, dict) or not (<Terms>terms).hold(live):
                if found is None:
                    found = []
                found.append((group, owner._check_group(group)))
        return found

    cdef int adopt(self, object owner, list changes) except -1:
        """Go on with changed groups on their new terms, and give them the state they need."""
        for group, terms in changes:
            self.allocate(group, owner._slots_of(terms.rule))
            self.resolve(&self.bindings[<int>group], terms.rule, DECAY_KINDS[terms.kind])
            if self.terms[group] is not None:
                (<Terms>terms).inherit(self.terms[group])
            self.terms[group] = terms
        self.lay_out()
        return 0

    def settle(self, object owner):
        """Take over what changed in the live groups."""
        self.adopt(owner, self.changed(owner) or [])

    cdef int set_coefficients(self, double scale) except -1:
        """Give every active leaf the coefficients of its group for its number of updates."""
        cdef int group, first, at
        cdef int64_t count = -1
        cdef Py_ssize_t i
        cdef Terms terms
        cdef double lr
        cdef dict found  # different counts among the group's leaves, a coefficient set each: its place
        self.n_coefs = 0
        for group in range(self.n_groups):
            terms = self.terms[group]
            lr = terms.rate(self.steps)
            first = at = self.n_coefs
            found = None
            for i in range(self.first_leaf[group], self.first_leaf[group + 1]):
                if not self.leaves[i].active:
                    continue
                if self.n_coefs == first:
                    self.new_coef()
                    count = self.watches[i].count
                elif self.watches[i].count != count:
                    if found is None:
                        found = {count: first}
                    count = self.watches[i].count
                    if count not in found:
                        found[count] = self.n_coefs
                        self.new_coef()
                    at = found[count]
                if self.leaves[i].coef != at:
                    self.leaves[i].coef = at
            if found is not None:
                terms.fill(np.array(list(found)) + 1)
                for at in range(first, self.n_coefs):
                    terms.fold(&self.coefs[at], at - first, lr, scale)
            elif self.n_coefs > first:
                terms.have(count + 1)
                terms.fold(&self.coefs[first], count + 1 - terms.begin, lr, scale)
        return 0

    cdef fo_coef *new_coef(self) except NULL:
        cdef fo_coef *grown
        if self.n_coefs == self.room_coefs:
            grown = <fo_coef *>realloc(self.coefs, (2 * self.room_coefs + 4) * sizeof(fo_coef))
            if grown == NULL:
                raise MemoryError
            self.coefs = grown
            self.room_coefs = 2 * self.room_coefs + 4
        self.n_coefs += 1
        return &self.coefs[self.n_coefs - 1]

    def coefficients(self, Py_ssize_t leaf):
        """Return a leaf's gradient factor, decay and scalars by name in this step."""
        cdef fo_coef *c = &self.coefs[self.leaves[leaf].coef]
        cdef Terms terms = self.terms[self.leaves[leaf].group]
        return c.scale, c.decay, {name: c.c[i] for i, name in enumerate(terms.names)}

    # -- the step --

    def step(self, object owner, object grads, object loss_scale, bint by_reference):
        """Update all parameters by their gradients; False if the owner had the step skipped.

        The owner, an `Optimizer`, is asked: ``_check_group`` where a live group changed, and ``_slots_of`` what state
        it needs then; ``_unscaling`` and ``_screened`` what the gradients are to be multiplied by; and
        ``_update_by_reference`` to do the arithmetic in its own way.
        """
        cdef double scale
        cdef bint done = False
        self.lock.acquire()
        try:
            if self.away is not None:
                raise RuntimeError(self.away)
            if self.elements >= 2 * ELEMENTS_PER_WORKER:
                self.keep_pace()
            changes = self.changed(owner)
            scale = 1.0 if loss_scale is None else owner._unscaling(loss_scale)
            try:
                self.load(grads)
                if self.screened:
                    screened = owner._screened(scale)
                    if screened is None:
                        self.skipped += 1
                        return False
                    scale = screened
                if changes:
                    self.adopt(owner, changes)
                self.set_coefficients(scale)
                if by_reference:
                    owner._update_by_reference()
                else:
                    self.update()
                done = True
            finally:
                self.release(done)
                self.steps += done
        finally:
            self.lock.release()
        return True

    cdef void keep_pace(self) noexcept:
        """Note whether this step comes right after the last sweep."""
        self.pause = fo_now() - self.swept
        if self.pause < AT_ONCE:
            self.streak = min(self.streak + 1, 4 * WAKING)
        else:  # a disturbance, or work of another kind
            self.streak = self.streak // 2 if self.pause < 20 * AT_ONCE else 0
        self.settled = min(self.settled + 1, WAKING) if self.streak >= WAKING else 0

    # -- sweeps --

    cdef int update(self) except -1:
        """Update all active leaves."""
        cdef Py_ssize_t i
        self.sweep(UPDATE_AND_ZERO if self.zero_gradients else UPDATE)
        if self.zero_gradients:
            for i in range(self.n_leaves):
                if self.leaves[i].active and self.leaves[i].order != NULL:
                    (<object>self.watches[i].held)[...] = 0
        return 0

    def apply(self, str rule, list scalars):
        """Run a rule that reads no gradient on every leaf; scalars holds a tuple a group."""
        cdef Py_ssize_t i
        cdef int group
        cdef fo_coef *c
        cdef Leaf *f
        cdef Binding *kept = self.bindings
        self.check_parameters()
        cdef Binding *b = <Binding *>calloc(self.n_groups + 1, sizeof(Binding))
        if b == NULL:
            raise MemoryError
        try:
            self.n_coefs = 0
            for group in range(self.n_groups):
                self.resolve(&b[group], rule, FO_NO_DECAY)
                c = self.new_coef()
                c.scale, c.decay = 1.0, 0.0
                for i, value in enumerate(scalars[group]):
                    c.c[i] = value
            for i in range(self.n_leaves):
                f = &self.leaves[i]
                f.active, f.order, f.g, f.coef = True, NULL, f.p, f.group
            self.lay_out()
            self.bindings = b
            self.keep_pace()  # the next step comes right after this, whatever else there is between steps
            self.sweep(UPDATE, False)
        finally:
            self.bindings = kept
            free(b)

    def sum_squares(self, double scale):
        """Return the sum of the squares of all active gradients, each first multiplied by scale."""
        cdef Py_ssize_t i
        cdef double sum = 0
        self.sweep(SUM_SQUARES, True, 0, scale)
        for i in range(self.chunks):
            sum += self.partial[i]
        return sum

    def find_nonfinite(self):
        """Return the first Inf or NaN among the active gradients: its leaf and its index there, or None."""
        cdef Py_ssize_t i, chunk, start
        cdef cnp.ndarray values
        cdef Leaf *f
        self.sweep(FIND_NONFINITE)
        for i in range(self.n_leaves):
            f = &self.leaves[i]
            if not f.active:
                continue
            for chunk in range(chunks_of(f)):
                if self.partial[f.first + chunk] == 0:
                    continue
                start = chunk * CHUNK_ELEMENTS
                values = np.empty(min(f.n - start, <Py_ssize_t>CHUNK_ELEMENTS), self.arrays[i].dtype)
                if f.order == NULL:
                    memcpy(cnp.PyArray_DATA(values), f.g + start * f.itemsize, cnp.PyArray_NBYTES(values))
                else:
                    in_order(<char *>cnp.PyArray_DATA(values), f, start, cnp.PyArray_SIZE(values))
                at = start + int(np.isfinite(values).argmin())
                index = np.unravel_index(at, self.arrays[i].shape, order="F" if f.reversed else "C")
                return i, tuple(int(k) for k in index)
        return None

    cdef int sweep(self, Operation what, bint learns=True, int slot=0, double scale=1.0) except -1:
        """Carry one operation over all chunks, in one parallel region."""
        cdef Sweep w
        cdef int worker, way, workers, team, k
        cdef double *grown
        cdef double begin, spun
        cdef bint awake, crowded
        cdef bint undecided  # whether asking for memory ahead is a gain
        cdef Trial trials[TRIED]
        cdef double cost[2]
        cdef Choice choice
        cdef Comparison fetching
        w.what = what
        w.leaves = self.leaves
        w.n_leaves = self.n_leaves
        w.chunks = self.chunks
        w.bindings = self.bindings
        w.coefs = self.coefs
        w.partial = NULL
        w.scale = scale
        w.slot = slot
        w.variant = self.variant
        w.flush = flush
        w.fetch = False
        w.trials = NULL
        w.backward = False
        if BEYOND_OWN_CACHES <= self.nbytes < BEYOND_ALL_CACHES or not learning:
            w.backward = self.backward
            self.backward = not self.backward
        if what == SUM_SQUARES or what == FIND_NONFINITE:
            if self.room_partial < self.chunks:
                grown = <double *>realloc(self.partial, self.chunks * sizeof(double))
                if grown == NULL:
                    raise MemoryError
                self.partial = grown
                self.room_partial = self.chunks
            w.partial = self.partial
        workers = 1 if forked else <int>min(threads, self.chunks)
        if learning:
            workers = <int>min(workers, self.elements // ELEMENTS_PER_WORKER)
        if self.elements <= CHUNK_ELEMENTS:
            run_alone(&w)  # shorter than giving up the GIL and taking it again is worth
            return 0
        undecided = what <= UPDATE_AND_ZERO and (self.nbytes >= BEYOND_OWN_CACHES or not learning)
        if workers < 2 and not undecided:
            with nogil:
                run_alone(&w)
            return 0

        begin = fo_now()
        awake = not learning or self.streak >= WAKING
        # Where there is other work between steps, workers are to sleep at once: see `processors`.
        crowded = not awake and workers <= processors < 2 * workers
        choice = self.choices[<int>what][awake]
        if workers < 2:
            way = 0
        elif not learning or self.elements >= PARALLEL_FROM:
            way = 1
        else:
            way = choice.way(awake or self.elements >= WAKE_FROM)
        if undecided:
            fetching = self.fetchings[way][awake]
            if learns and fetching.due():
                memset(trials, 0, sizeof(trials))
                w.trials = trials
                w.turn = max(<Py_ssize_t>LEAST_TURN, min(self.chunks // (TURNS * workers), <Py_ssize_t>MOST_AT_ONCE))
            w.fetch = fetching.way(w.trials != NULL)
        if way == 0:
            with nogil:
                run_alone(&w)
        else:
            self.share_out(&w, workers)
            team = processors + 1 if crowded else workers
            with nogil:
                for worker in prange(team, num_threads=team, schedule="static", chunksize=1):
                    run_worker(&w, worker)
        self.swept = fo_now()
        if w.trials != NULL:
            for k in range(2):
                for worker in range(1, TRIED):
                    trials[0].spent[k] += trials[worker].spent[k]
                    trials[0].done[k] += trials[worker].done[k]
                cost[k] = trials[0].spent[k] / trials[0].done[k]
            fetching.learn(cost[0], cost[1])
        # Where workers spin afterwards, they take cores from the work between sweeps.
        spun = 0.0 if way == 0 or awake or crowded else 0.6 * min(self.pause, 6e6)
        if learns and workers > 1 and (self.settled == WAKING or not awake):
            choice.learn(way, (self.swept - begin + spun) / self.elements, self.swept - begin > STALL_NS)
        return 0

    cdef int share_out(self, Sweep *w, int workers) except -1:
        """Give each worker its stretch of the chunks."""
        cdef int k
        cdef Queue *grown
        w.workers = workers
        w.queues = NULL
        if self.chunks <= 2 * WORTH_HELP * workers:
            return 0  # shared out once and for all
        if self.room_queues < workers:
            grown = <Queue *>realloc(self.queues, workers * sizeof(Queue))
            if grown == NULL:
                raise MemoryError
            self.queues = grown
            self.room_queues = workers
        for k in range(workers):
            self.queues[k].next = self.chunks * k // workers
            self.queues[k].stop = self.chunks * (k + 1) // workers
            self.queues[k].begun = 0
            self.queues[k].mirror = self.queues[k].next + self.queues[k].stop
        w.queues = self.queues
        return 0


select(isas()[0])
