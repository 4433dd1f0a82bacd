"""Who computes which chunk, and how many threads? The only place that knows threads.

a. All leaves of all groups lie end to end in one sequence of chunks of CHUNK elements. A sweep carries one operation
   over all of them in one parallel region.
b. Each worker has one contiguous stretch of the sequence, the same one in every step, so memory stays near the core
   that first wrote it, and in its caches; who is done helps one that wakes late or has lost its core, but takes no last
   few chunks from it. Where caches hold a part of the whole, each sweep goes the other way than the one before it, and
   begins with that part. Small sweeps run serially in the calling thread, and between small and large the plan learns
   from its own timings what is faster: see `Choice`.
c. A sum over gradients is kept for each chunk and added up in the order of chunks, so that it does not depend on who
   computed which. Inside a chunk it is taken a TILE at a time, the unit in which gradients that lie in memory in
   another order than their parameter are brought into order.
"""

cimport cython
from cython.parallel cimport prange
from libc.stdint cimport uintptr_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy, memset

from .arrays cimport ALIGN_FROM, LINE, raw_data, raw_ndim, raw_shape, raw_strides
from .kernels cimport enter_mode, flush, fo_span, leave_mode

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
    """
    const int FO_OPENMP
    const int FO_PROCESSORS
    double fo_now() noexcept nogil
    Py_ssize_t fo_take(Py_ssize_t *next, Py_ssize_t few) noexcept nogil
    Py_ssize_t fo_read(const Py_ssize_t *x) noexcept nogil
    void fo_write(Py_ssize_t *x, Py_ssize_t value) noexcept nogil

cdef enum:
    TILE = 1024
    WORTH_HELP = 16             # chunks: no more than these are left to the worker whose caches hold them
    TRIED = 16                  # workers at most that compare asking for memory ahead with not asking, by turns
    TURNS = 16                  # that each of them takes, if it has chunks enough for turns of
    LEAST_TURN = 4              # chunks
    MOST_AT_ONCE = 64           # chunks that a worker takes, who may lose its core to another process
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

CHUNK = CHUNK_ELEMENTS
OPENMP = FO_OPENMP != 0
OPENMP_VERSION = FO_OPENMP

cdef int threads = 1
cdef bint learning = True
cdef bint forked = False


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


# ---- leaves end to end ----

cdef Py_ssize_t chunks_of(const Leaf *f) noexcept nogil:
    return (f.n + CHUNK_ELEMENTS - 1) // CHUNK_ELEMENTS


cdef void lay_out(Layout *all) noexcept nogil:
    """Number the chunks of the active leaves."""
    cdef Py_ssize_t i
    cdef Leaf *f
    all.chunks = all.elements = all.nbytes = 0
    for i in range(all.n_leaves):
        f = &all.leaves[i]
        f.first = all.chunks
        if f.active:
            all.chunks += chunks_of(f)
            all.elements += f.n
            all.nbytes += f.n * f.itemsize
    all.leaves[all.n_leaves].first = all.chunks


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


cdef Py_ssize_t leaf_of(const Sweep *w, Py_ssize_t chunk) noexcept nogil:
    """The leaf that a chunk is of: the last one whose first chunk is not past it."""
    cdef Py_ssize_t low = 0, high = w.all.n_leaves, middle
    while high - low > 1:
        middle = (low + high) // 2
        if w.all.leaves[middle].first <= chunk:
            low = middle
        else:
            high = middle
    return low


cdef void run_chunks(const Sweep *w, Py_ssize_t begin, Py_ssize_t end) noexcept nogil:
    """Chunks begin to end of the sequence; neighbours in one call of the kernel, where it is all there is to do."""
    cdef Py_ssize_t upto, leaf = leaf_of(w, begin)
    cdef const Leaf *f
    while begin < end:
        while w.all.leaves[leaf + 1].first <= begin:
            leaf += 1
        f = &w.all.leaves[leaf]
        if w.what == UPDATE and f.order == NULL:
            upto = min(end, w.all.leaves[leaf + 1].first)
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
        while w.all.leaves[leaf].first >= end:
            leaf -= 1
        f = &w.all.leaves[leaf]
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
    cdef unsigned long long mode = enter_mode(w.flush)
    cdef Queue *q
    cdef Py_ssize_t begin, end, left, few
    cdef int k
    cdef bint own
    cdef bint extra = worker >= w.workers
    if w.queues == NULL:
        if not extra:
            run_stretch(w, worker, w.all.chunks * worker // w.workers, w.all.chunks * (worker + 1) // w.workers)
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
    leave_mode(mode)


cdef void run_alone(const Sweep *w) noexcept nogil:
    """All chunks, in the calling thread."""
    cdef unsigned long long mode = enter_mode(w.flush)
    run_stretch(w, 0, 0, w.all.chunks)
    leave_mode(mode)


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
cdef class Sweeper:
    """Carries out the sweeps of one plan, and learns from them."""

    def __cinit__(self):
        self.choices = [(Choice(False), Choice(True)) for _ in range(OPERATIONS)]
        self.fetchings = [(Comparison(), Comparison()) for _ in range(2)]

    def __dealloc__(self):
        free(self.partial)
        free(self.queues)

    cdef void keep_pace(self) noexcept:
        """Note whether this step comes right after the last sweep."""
        self.pause = fo_now() - self.swept
        if self.pause < AT_ONCE:
            self.streak = min(self.streak + 1, 4 * WAKING)
        else:  # a disturbance, or work of another kind
            self.streak = self.streak // 2 if self.pause < 20 * AT_ONCE else 0
        self.settled = min(self.settled + 1, WAKING) if self.streak >= WAKING else 0

    cdef int sweep(self, Sweep *w, bint learns) except -1:
        """Carry an operation over all chunks, in one parallel region.

        The caller says what, over which leaves, with which bindings and coefficients; the rest is filled in here.
        """
        cdef int worker, way, workers, team, k
        cdef double *grown
        cdef double begin, spun
        cdef bint awake, crowded
        cdef bint undecided  # whether asking for memory ahead is a gain
        cdef Trial trials[TRIED]
        cdef double cost[2]
        cdef Choice choice
        cdef Comparison fetching
        cdef const Layout *all = w.all
        w.partial = NULL
        w.flush = flush
        w.fetch = False
        w.trials = NULL
        w.backward = False
        if BEYOND_OWN_CACHES <= all.nbytes < BEYOND_ALL_CACHES or not learning:
            w.backward = self.backward
            self.backward = not self.backward
        if w.what == SUM_SQUARES or w.what == FIND_NONFINITE:
            if self.room_partial < all.chunks:
                grown = <double *>realloc(self.partial, all.chunks * sizeof(double))
                if grown == NULL:
                    raise MemoryError
                self.partial = grown
                self.room_partial = all.chunks
            w.partial = self.partial
        workers = 1 if forked else <int>min(threads, all.chunks)
        if learning:
            workers = <int>min(workers, all.elements // ELEMENTS_PER_WORKER)
        if all.elements <= CHUNK_ELEMENTS:
            run_alone(w)  # shorter than giving up the GIL and taking it again is worth
            return 0
        undecided = w.what <= UPDATE_AND_ZERO and (all.nbytes >= BEYOND_OWN_CACHES or not learning)
        if workers < 2 and not undecided:
            with nogil:
                run_alone(w)
            return 0

        begin = fo_now()
        awake = not learning or self.streak >= WAKING
        # Where there is other work between steps, workers are to sleep at once: see `processors`.
        crowded = not awake and workers <= processors < 2 * workers
        choice = self.choices[<int>w.what][awake]
        if workers < 2:
            way = 0
        elif not learning or all.elements >= PARALLEL_FROM:
            way = 1
        else:
            way = choice.way(awake or all.elements >= WAKE_FROM)
        if undecided:
            fetching = self.fetchings[way][awake]
            if learns and fetching.due():
                memset(trials, 0, sizeof(trials))
                w.trials = trials
                w.turn = max(<Py_ssize_t>LEAST_TURN, min(all.chunks // (TURNS * workers), <Py_ssize_t>MOST_AT_ONCE))
            w.fetch = fetching.way(w.trials != NULL)
        if way == 0:
            with nogil:
                run_alone(w)
        else:
            self.share_out(w, workers)
            team = processors + 1 if crowded else workers
            with nogil:
                for worker in prange(team, num_threads=team, schedule="static", chunksize=1):
                    run_worker(w, worker)
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
            choice.learn(way, (self.swept - begin + spun) / all.elements, self.swept - begin > STALL_NS)
        return 0

    cdef int share_out(self, Sweep *w, int workers) except -1:
        """Give each worker its stretch of the chunks."""
        cdef int k
        cdef Queue *grown
        w.workers = workers
        w.queues = NULL
        if w.all.chunks <= 2 * WORTH_HELP * workers:
            return 0  # shared out once and for all
        if self.room_queues < workers:
            grown = <Queue *>realloc(self.queues, workers * sizeof(Queue))
            if grown == NULL:
                raise MemoryError
            self.queues = grown
            self.room_queues = workers
        for k in range(workers):
            self.queues[k].next = w.all.chunks * k // workers
            self.queues[k].stop = w.all.chunks * (k + 1) // workers
            self.queues[k].begun = 0
            self.queues[k].mirror = self.queues[k].next + self.queues[k].stop
        w.queues = self.queues
        return 0
