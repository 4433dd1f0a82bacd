"""Who computes which chunk, and how many threads? The only place that knows threads.

a. The leaves of all groups lie end to end in one sequence of chunks of CHUNK elements. A sweep carries one operation
   over all of them, in one parallel region.
b. Each worker has one contiguous stretch of the sequence, the same one in every step, so that memory stays near the
   core that first wrote it, and in its caches. Who is done helps one that wakes late or has lost its core, but leaves
   it the last few chunks, which lie in its caches.
c. Where caches hold a part of parameters and state, each sweep goes the other way than the one before, and begins with
   that part.
d. How many threads is a rule of the sweep's traffic in bytes: one thread for small sweeps, all for large ones. The
   limit depends on whether steps come back to back, when workers wait awake, or other work lies between, when they must
   sleep at once and be woken. A plan whose parallel sweeps stall, since other processes want the cores, works alone for
   a while.
e. Nothing here fails once `reserve` has succeeded.
"""

cimport cython
from cpython.mem cimport PyMem_Free, PyMem_Realloc
from cython.parallel cimport prange

from .chunks cimport (
    CHUNK_ELEMENTS, DESCEND, FACTOR, FIND_NONFINITE, RATIOS, SUM_SQUARES, SUM_UP, UPDATE, UPDATE_AND_ZERO,
    ZERO_GRADIENTS, START_STATE, run_alone, run_stretch, zero_ordered)
from .kernels cimport enter_mode, flush, leave_mode

from .kernels import is_intel

cdef extern from *:
    """
    #ifdef _OPENMP
    #include <omp.h>
    #define FO_OPENMP _OPENMP
    #else
    #define FO_OPENMP 0
    #endif
    /* Places are of OpenMP 4.5. */
    #if FO_OPENMP >= 201511
    #define FO_BINDS (omp_get_proc_bind() != omp_proc_bind_false)
    #define FO_PLACES omp_get_num_places()
    /* 2 is "master", which later became "primary": all threads are where the first one is. */
    #define FO_ONE_PLACE ((int)omp_get_proc_bind() == 2 ? omp_get_place_num() : -1)
    #define fo_place_size(place) omp_get_place_num_procs(place)
    #define fo_place(place, ids) omp_get_place_proc_ids(place, ids)
    #else
    #define FO_BINDS 0
    #define FO_PLACES 0
    #define FO_ONE_PLACE (-1)
    #define fo_place_size(place) ((void)(place), 0)
    #define fo_place(place, ids) ((void)(place), (void)(ids))
    #endif
    /* Idle workers of GNU OpenMP spin for some 6 ms before they sleep, and take cores from what comes next; but for
       some 20 us only if its threads are more than the processors that it counts. 0 where that does not help. */
    #if defined _OPENMP && !defined __clang__
    #define FO_PROCESSORS omp_get_num_procs()
    #else
    #define FO_PROCESSORS 0
    #endif
    #include <pthread.h>
    #include <time.h>
    #include <unistd.h>
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
    /* Bytes of a cache, as the system tells; otherwise as many as are usual. */
    static inline Py_ssize_t fo_cache(int level)
    {
        long told = 0;
    #ifdef _SC_LEVEL3_CACHE_SIZE
        told = sysconf(level == 2 ? _SC_LEVEL2_CACHE_SIZE : _SC_LEVEL3_CACHE_SIZE);
    #endif
        return told > 0 ? (Py_ssize_t)told : level == 2 ? 2 << 20 : 64 << 20;
    }
    static void *fo_wait_at(void *gate)
    {
        pthread_mutex_lock(gate);
        pthread_mutex_unlock(gate);
        return NULL;
    }
    /* Whether this thread can have a team of so many: GNU OpenMP ends the process where a thread cannot be started, so
       threads are started before it is asked for more than it has. It ends those that a smaller team leaves over. */
    static __thread int fo_team = 1;
    static int fo_can_have(int team)
    {
        pthread_mutex_t gate = PTHREAD_MUTEX_INITIALIZER;
        pthread_t started[team];
        int n = 0;
        if (team > fo_team) {
            pthread_mutex_lock(&gate);
            while (n < team - 1 && pthread_create(&started[n], NULL, fo_wait_at, &gate) == 0)
                n++;
            pthread_mutex_unlock(&gate);
            for (int i = 0; i < n; i++)
                pthread_join(started[i], NULL);
            if (n < team - 1)
                return 0;
        }
        fo_team = team;
        return 1;
    }
    """
    const int FO_OPENMP
    const int FO_PROCESSORS
    const int FO_BINDS
    const int FO_PLACES
    const int FO_ONE_PLACE
    int fo_place_size(int place)
    void fo_place(int place, int *ids)
    double fo_now() noexcept nogil
    Py_ssize_t fo_take(Py_ssize_t *next, Py_ssize_t few) noexcept nogil
    Py_ssize_t fo_read(const Py_ssize_t *x) noexcept nogil
    void fo_write(Py_ssize_t *x, Py_ssize_t value) noexcept nogil
    Py_ssize_t fo_cache(int level) noexcept nogil
    bint fo_can_have(int team) noexcept nogil

cdef enum:
    WORTH_HELP = 16             # chunks: no more than these are left to the worker whose caches hold them
    MOST_AT_ONCE = 64           # chunks that a worker takes, who may lose its core to another process
    FETCH_FROM = 1 << 19        # bytes of parameters from which on asking for memory ahead is a gain, where it is one
    WORTH_WAKING = 8 << 20      # bytes of traffic from which on workers are woken
    NEVER_STALLS = 64 << 20     # bytes of traffic: workers that help each other make up for a lost core
    AT_ONCE = 50000             # ns between two steps that count as back to back
    CHANGE = 8                  # steps of the other kind before it is believed: changing the team costs two of them
    TRIALS = 2                  # sweeps that a plan does alone to know what that takes

cdef double STALL = 1e6         # ns: a sweep that took so long,
cdef double STALL_RATIO = 2.0   # and so many times what one thread takes, has waited for a worker that lost its core
cdef double LEAST_PENALTY = 1e7, MOST_PENALTY = 1e9  # ns to work alone after it
cdef double FORGET = 1.01       # what one thread took at best grows by so much a sweep
cdef double JOINING = 1000.0    # ns that joining a team of two costs: where it costs more, limits are higher,
cdef double MOST_JOINING = 8.0  # up to so many times, since others may want the processors while it is measured

OPENMP = FO_OPENMP != 0
OPENMP_VERSION = FO_OPENMP

cdef int threads = 1
cdef int processors = FO_PROCESSORS
cdef bint forced = False
cdef bint forked = False
cdef bint scarce = False        # the CPU quota is below half of the processors
cdef bint prefetch = is_intel()
cdef double joining = 0.0       # times JOINING that a team of all threads costs; 0: not measured yet
cdef double no_thread_until = 0.0  # when to try again to start threads, ns
cdef Py_ssize_t own_cache = fo_cache(2)
# Of a last level that many cores share, more is not ours (of 480 MiB, told by a virtual machine with two processors:
# turning round cost 10 % at 10^7 parameters).
cdef Py_ssize_t last_cache = min(fo_cache(3), <Py_ssize_t>(64 << 20))


def set_threads(int n):
    """Let sweeps use up to n threads; no check against what the machine has."""
    global threads, joining
    threads = n if OPENMP else 1
    joining = 0.0


def get_threads():
    """Threads a large sweep uses: 1 in a forked child, where GNU OpenMP would hang."""
    return 1 if forked else threads


def set_forced(bint on):
    """Whether all threads are called for whatever has the chunks, and sweeps of all sizes go to and fro, every other
    one asking for memory ahead: so that tests see every way there is."""
    global forced
    forced = on


def set_prefetch(bint on):
    """Whether large sweeps ask for memory ahead."""
    global prefetch
    prefetch = on


def set_scarce(bint on):
    """Whether the process may use less than half of the processors' time that its threads could take."""
    global scarce
    scarce = on


def after_fork_in_child():
    """Run serially from now on."""
    global forked
    forked = True


def is_forked():
    """Whether this process is a forked child of one that had imported fastopt."""
    return forked


def limits():
    """Bytes of traffic from which on all threads are called: with steps back to back, and with other work between."""
    return BREAK_EVEN * max(joining, 1.0), WORTH_WAKING * max(joining, 1.0)


def lacks_threads():
    """Whether threads could not be started of late, and large sweeps run serially."""
    return no_thread_until > 0.0


def places():
    """Processors in OpenMP's places if it binds its threads to them, else 0."""
    cdef int place, i, size, only = FO_ONE_PLACE
    cdef int *ids
    found = set()  # places may overlap
    for place in range(FO_PLACES if FO_BINDS else 0):
        if only >= 0 and place != only:
            continue
        size = fo_place_size(place)
        ids = <int *>PyMem_Realloc(NULL, (size + 1) * sizeof(int))
        if ids == NULL:
            raise MemoryError
        fo_place(place, ids)
        for i in range(size):
            found.add(ids[i])
        PyMem_Free(ids)
    return len(found)


cdef void run_worker(const Sweep *w, int worker) noexcept nogil:
    """One worker's chunks: its own, then what is left of the others', where that is much.

    Of a team that is larger than the workers (see `FO_PROCESSORS`), one more thread than there are processors helps all
    the same: the system may have put two workers on one processor, and leave them there for milliseconds. Others return
    at once, since they were not asked for.
    """
    cdef unsigned long long mode
    cdef Queue *q
    cdef Py_ssize_t begin, end, left, few
    cdef int k
    cdef bint own
    cdef bint extra = worker >= w.workers
    if extra and (worker > w.workers or w.workers != processors):
        return
    mode = enter_mode(w.flush)
    if w.queues == NULL:
        if not extra:
            w.run(w, w.all.chunks * worker // w.workers, w.all.chunks * (worker + 1) // w.workers)
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
                w.run(w, begin, end)
    leave_mode(mode)


# ---- how many threads ----

cdef double cost_of_joining(int team) noexcept:
    """How many times more than one of two a team costs, at best: measured once, with regions that do nothing."""
    cdef int _worker, _k
    cdef double begin, best = 1e9
    for _k in range(5):
        begin = fo_now()
        with nogil:
            for _worker in prange(team, num_threads=team, schedule="static", chunksize=1):
                pass
        best = min(best, fo_now() - begin)
    return max(1.0, min(best / JOINING, MOST_JOINING))


@cython.final
cdef class Sweeper:
    """Carries out the sweeps of one plan, and remembers how they went."""

    def __cinit__(self):
        cdef int what
        for what in range(<int>OPERATIONS):
            self.records[what].penalty = LEAST_PENALTY

    def __dealloc__(self):
        PyMem_Free(self.partial)
        PyMem_Free(self.queues)

    cdef int reserve(self, const Layout *all, Py_ssize_t sums) except -1:
        """Take the memory that sweeps over these leaves need, with so many sums of each chunk."""
        cdef double *partial
        cdef Queue *queues
        if self.room_queues < threads:
            queues = <Queue *>PyMem_Realloc(self.queues, threads * sizeof(Queue))
            if queues == NULL:
                raise MemoryError
            self.queues, self.room_queues = queues, threads
        if self.room_partial < sums * all.chunks:
            partial = <double *>PyMem_Realloc(self.partial, sums * all.chunks * sizeof(double))
            if partial == NULL:
                raise MemoryError
            self.partial, self.room_partial = partial, sums * all.chunks
        return 0

    cdef bint rested(self) noexcept:
        """Whether other work lies between the last sweep and now."""
        return fo_now() - self.ended >= AT_ONCE

    cdef void keep_pace(self, bint rested) noexcept:
        """Note whether other work lies between the last step and this one."""
        if rested != self.back_to_back:
            self.against = 0
            return
        self.against += 1
        if self.against == CHANGE:
            self.back_to_back, self.against = not self.back_to_back, 0

    cdef void sweep(self, Sweep *w) noexcept:
        """Carry an operation over all chunks.

        The caller says what, over which leaves, with which bindings and coefficients; the rest is filled in here.
        """
        cdef const Layout *all = w.all
        cdef Py_ssize_t traffic
        w.flush = flush
        if w.what < FACTOR:
            w.run = run_stretch
        w.partial = self.partial if w.what in (SUM_SQUARES, SUM_UP, FIND_NONFINITE, RATIOS) else NULL
        w.fetch = w.backward = False
        w.workers = threads  # asked once: another thread may change it
        if all.elements <= CHUNK_ELEMENTS:
            run_alone(w)  # shorter than giving up the GIL and taking it again is worth
            if w.what == UPDATE_AND_ZERO or w.what == ZERO_GRADIENTS:
                zero_ordered(w)
            return
        if forced or own_cache * w.workers <= all.traffic and all.traffic - all.nbytes < last_cache:
            self.turns += 1
            w.backward = self.turns & 1
        w.fetch = self.turns >> 1 & 1 if forced else prefetch and all.nbytes >= FETCH_FROM
        traffic = all.traffic if w.what in (UPDATE, UPDATE_AND_ZERO, SUM_UP, FACTOR, RATIOS, DESCEND) else all.nbytes
        if (traffic < BREAK_EVEN or w.workers < 2 or forked) and not forced:
            with nogil:
                run_alone(w)
        else:
            self.run_parallel(w, traffic)
        if w.what == UPDATE_AND_ZERO or w.what == ZERO_GRADIENTS:
            with nogil:
                zero_ordered(w)

    cdef void run_parallel(self, Sweep *w, Py_ssize_t traffic) noexcept:
        """Carry out a sweep that may be worth all threads, and note how it went."""
        global no_thread_until
        cdef double begin = fo_now(), took
        # The first of many after a rest has to wake workers and to get its memory back: that is no sign of others.
        cdef bint judged = not (self.back_to_back and begin - self.ended >= AT_ONCE)
        cdef Record *r = &self.records[<int>w.what]
        cdef bint all_threads = self.in_parallel(w, traffic, begin)
        # Where there is other work between steps, workers are to sleep at once: see `FO_PROCESSORS`.
        cdef bint crowded = not (self.back_to_back or forced) and w.workers <= processors < 2 * w.workers
        cdef int worker, team = processors + 1 if crowded else w.workers
        if all_threads and not fo_can_have(team):
            no_thread_until = begin + MOST_PENALTY
            all_threads = False
        if all_threads:
            no_thread_until = 0.0
            self.share_out(w)
            # The block is here, and not a function that needs no GIL: there, Cython asks whether it is held, and is
            # told wrongly once the process has had a sub-interpreter.
            with nogil:
                for worker in prange(team, num_threads=team, schedule="static", chunksize=1):
                    run_worker(w, worker)
        else:
            with nogil:
                run_alone(w)
        self.ended = fo_now()
        took = self.ended - begin
        if not all_threads:
            r.alone = took / traffic if r.trials == 0 else min(FORGET * r.alone, took / traffic)
            r.trials = min(r.trials + 1, TRIALS)
        elif not judged:
            pass
        elif took > STALL and took > STALL_RATIO * r.alone * traffic and r.trials == TRIALS:
            r.pardon, r.trials = self.ended + r.penalty, 0
            r.penalty = min(4.0 * r.penalty, MOST_PENALTY)
        else:
            r.alone = min(FORGET * r.alone, w.workers * took / traffic)
            r.penalty = max(LEAST_PENALTY, 0.97 * r.penalty)

    cdef bint in_parallel(self, const Sweep *w, Py_ssize_t traffic, double now) noexcept:
        """Whether to call all threads for a sweep."""
        global joining
        cdef Record *r = &self.records[<int>w.what]
        if w.workers < 2 or forked or self.room_queues < w.workers or now < no_thread_until:
            return False
        if forced:
            return True
        if joining == 0.0:
            joining = 1.0
            if w.workers > 2 and fo_can_have(w.workers):
                joining = cost_of_joining(w.workers)
        if traffic < (BREAK_EVEN if self.back_to_back else WORTH_WAKING) * joining:
            return False
        if traffic >= NEVER_STALLS or w.what == START_STATE:
            return True
        if scarce and not self.back_to_back and not w.workers <= processors < 2 * w.workers:
            return False  # workers would spin away what others need
        return r.trials == TRIALS and now >= r.pardon

    cdef void share_out(self, Sweep *w) noexcept:
        """Give each worker its stretch of the chunks."""
        cdef int k
        cdef Py_ssize_t chunks = w.all.chunks
        w.queues = NULL
        if chunks < 2 * w.workers:
            return  # shared out once and for all
        for k in range(w.workers):
            self.queues[k].next = chunks * k // w.workers
            self.queues[k].stop = chunks * (k + 1) // w.workers
            self.queues[k].begun = 0
            self.queues[k].mirror = self.queues[k].next + self.queues[k].stop
        w.queues = self.queues
