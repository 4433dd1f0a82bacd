"""What do a group's hyper-parameters come to in step t?

The scalars of a rule, asked of its class for many steps at once, and this step's learning rate, folded into the
coefficients of kernels. All C state about dicts lives here: the watcher that tells whether a live group has changed.
"""

cimport cython
from cpython.dict cimport PyDict_Next
from cpython.mem cimport PyMem_Free, PyMem_Realloc
from cpython.ref cimport PyObject
from libc.float cimport DBL_MAX
from libc.string cimport memcpy

cimport numpy as cnp

from .arrays cimport shown
from .kernels cimport flush

import numpy as np

from ..hyper import nonnegative
from .kernels import rules

cnp.import_array()

cdef extern from *:
    """
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
    """
    int fo_watch(dict d) except -1
    uint64_t fo_version(dict d)


cdef enum:
    MOST_ROWS = 4096 * BLOCK  # kept of leaves that differ in their number of updates


cdef int64_t place_of(int64_t t, bint fresh) noexcept:
    """Where the scalars of step t, at least 1, are found among `Terms.places`."""
    return -t if fresh else (t - 1) // BLOCK


cdef int grow(double **memory, Py_ssize_t *room, Py_ssize_t n) except -1:
    """Have room for n numbers; what was there stays."""
    cdef double *grown
    if room[0] < n:
        grown = <double *>PyMem_Realloc(memory[0], n * sizeof(double))
        if grown == NULL:
            raise MemoryError
        memory[0], room[0] = grown, n
    return 0


@cython.final
cdef class Terms:
    """What one group's hyper-parameters come to, from one check to the next change.

    Parameters
    ----------
    live : dict
        The group as the user sees it.
    source : list
        Its keys and values as they were when `values` were checked, alternating.
    values : dict
        Its hyper-parameters, checked.
    rule, kind : str
        Its rule and its kind of weight decay: none, coupled or decoupled.
    scalars : callable
        The class's ``scalars(values, t)``.
    wants : set of str
        What it takes besides: "rule", "fresh", "lr", "numbers", "sums", "totals".
    moving : dict of str to callable
        Hyper-parameters besides the learning rate that are schedules, and functions of the number of steps that give
        their values, checked.
    check : callable
        The check of all of `values` together.
    ahead : bool
        Whether the learning rate is a schedule that can be called with an array of steps.
    plain : bool
        Whether any finite number of at least 0 is a learning rate.
    in_numpy : bool
        Whether the class does the rule's arithmetic itself.
    """

    def __init__(self, dict live, list source, dict values, str rule, str kind, object scalars, object wants,
                 dict moving, object check, bint ahead, bint plain, bint in_numpy):
        fo_watch(live)
        self.live, self.source, self.flush = live, source, flush
        self.values, self.rule, self.kind, self.scalars = values, rule, kind, scalars
        self.wants_fresh, self.wants_lr, self.wants_numbers = "fresh" in wants, "lr" in wants, "numbers" in wants
        self.wants_sums, self.wants_totals, self.in_numpy = "sums" in wants, "totals" in wants, in_numpy
        self.more = {"rule": rule} if "rule" in wants else {}
        self.now, self.moving, self.check, self.asked_rate = values, moving, check, -1.0
        self.moves = bool(moving)
        _, self.names, self.sums, made = rules()[rule]
        self.columns = len(self.names)
        self.given = set(self.names) - set(made)
        self.places = {}
        self.schedule = values["lr"] if callable(values["lr"]) else None
        self.lr = 0.0 if self.schedule is not None else values["lr"]
        self.ahead, self.plain, self.first_rate = ahead, plain, -TABLE
        self.sign = -1.0 if values["maximize"] else 1.0
        self.decay = 0.0 if "weight_decay" in moving else values["weight_decay"]
        self.decoupled = kind == "decoupled"

    def __dealloc__(self):
        PyMem_Free(self.table)
        PyMem_Free(self.rows)

    cdef int move(self, int64_t steps) except -1:
        """Evaluate what is a schedule, besides the learning rate."""
        cdef dict now = dict(self.values)
        for name, value in self.moving.items():
            now[name] = value(steps)
        self.check(now)
        self.decay = now["weight_decay"]
        # What `fold` puts in is in no scalar: the rate, and the decay unless it is inside the rule.
        aside = {"lr": None} if self.kind == "none" else {"lr": None, "weight_decay": None}
        if {**now, **aside} != {**self.now, **aside}:
            self.forget()
        self.now = now
        return 0

    cdef int at_rate(self, double lr) except -1:
        """Have the scalars for this learning rate, if they go by it."""
        if lr != self.asked_rate:
            self.forget()
            self.asked_rate = lr
        return 0

    cdef int forget(self) except -1:
        """Let all scalars be asked for anew: a step at a time, as they may change in each."""
        self.begin = self.end = self.n_rows = 0
        self.places = {}
        self.one = True
        return 0

    cdef int ask(self, object steps, bint fresh, double *to) except -1:
        """Put the scalars of these steps into [steps][scalars]."""
        more = dict(self.more)
        if self.wants_fresh:
            more["fresh"] = fresh
        if self.wants_lr:
            more["lr"] = self.asked_rate
        with np.errstate(all="ignore"):  # what overflows is seen in the parameters
            rates, others = self.scalars(self.now, steps, **more)
        return self.put(rates, others, len(steps), to)

    cdef dict ask_each(self, object steps, object fresh, double lr, dict numbers, object sums):
        """Put the scalars of leaves that are in these steps, with these numbers, into `rows`; what these become."""
        cdef dict more = dict(self.more, numbers=numbers)
        if self.wants_sums or self.wants_totals:
            more["sums" if self.wants_sums else "totals"] = sums
        if self.wants_fresh:
            more["fresh"] = fresh
        if self.wants_lr:
            more["lr"] = lr
        with np.errstate(all="ignore"):
            rates, others, new = self.scalars(self.now, steps, **more)
        grow(&self.rows, &self.room_rows, len(steps) * self.columns)
        self.put(rates, others, len(steps), self.rows)
        return new

    cdef int put(self, dict rates, dict others, Py_ssize_t n, double *to) except -1:
        """Put the scalars that a class gave for n steps into [steps][scalars]."""
        cdef Py_ssize_t i, columns = self.columns
        cdef int k
        cdef double same
        cdef const double *value
        cdef bint one_each
        cdef cnp.ndarray values
        if rates.keys() | others.keys() != self.given:
            raise KeyError(f"scalars() gave {sorted([*rates, *others])}: the rule {self.rule!r} "
                           f"wants {sorted(self.given)}")
        for k in range(columns):
            if self.names[k] not in self.given:
                self.times_lr[k] = False
                for i in range(n):
                    to[i * columns + k] = 0.0
                continue
            self.times_lr[k] = self.names[k] in rates
            given = rates[self.names[k]] if self.times_lr[k] else others[self.names[k]]
            one_each = isinstance(given, np.ndarray)
            if one_each:
                values = np.asarray(given, np.float64, "C")
                if shown(values) != (n,):
                    raise ValueError(f"scalars() gave {self.names[k]!r} in shape {shown(values)}: "
                                     f"wanted one number, or one for each of {n} steps")
                value = <double *>cnp.PyArray_DATA(values)
            else:
                same = given
                value = &same
            for i in range(n):
                to[i * columns + k] = value[i * one_each]
        return 0

    cdef int have(self, int64_t t) except -1:
        """See to it that step t is in the table, and the next ones with it: asking for one costs almost as much."""
        cdef Py_ssize_t n = 1 if self.one else TABLE
        if not self.begin <= t < self.end:
            self.begin = self.end = 0  # of no use, until all is in
            grow(&self.table, &self.room_table, n * self.columns)
            self.ask(np.arange(t, t + n), False, self.table)
            self.begin, self.end, self.one = t, t + n, False
        return 0

    cdef int have_all(self, list places) except -1:
        """See to it that these places are among the rows, each once: asking for many costs almost the same."""
        cdef Py_ssize_t columns = self.columns
        places = list(dict.fromkeys(places))
        if self.n_rows > MOST_ROWS and self.n_rows > 4 * BLOCK * len(places):  # most of them are of the past
            self.places, self.n_rows = {}, 0
        for fresh in (False, True):
            missing = []
            for place in places:
                if place not in self.places and (place < 0) == fresh:
                    missing.append(place)
            if missing:
                steps = -np.array(missing) if fresh else np.add.outer(np.array(missing) * BLOCK,
                                                                      np.arange(1, BLOCK + 1)).reshape(-1)
                grow(&self.rows, &self.room_rows, (self.n_rows + len(steps)) * columns)
                self.ask(steps, fresh, self.rows + self.n_rows * columns)
                each = 1 if fresh else BLOCK
                self.places.update(zip(missing, range(self.n_rows, self.n_rows + len(steps), each)))
                self.n_rows += len(steps)
        return 0

    cdef const double *row(self, int64_t t, bint fresh) except NULL:
        """The scalars of step t, which `have_all` has seen to."""
        cdef Py_ssize_t first = self.places[place_of(t, fresh)]
        return self.rows + (first if fresh else first + (t - 1) % BLOCK) * self.columns

    cdef double rate(self, int64_t steps) except -1:
        """The learning rate after so many steps, checked."""
        cdef double rate
        cdef cnp.ndarray rates
        if self.schedule is None:
            return self.lr
        if self.ahead:
            if not 0 <= steps - self.first_rate < TABLE:
                with np.errstate(all="ignore"):  # of steps that may never come
                    rates = np.asarray(self.schedule(np.arange(steps, steps + TABLE)), np.float64, "C")
                if shown(rates) != (TABLE,):
                    raise ValueError(f"lr schedule {self.schedule!r} gave shape {shown(rates)} for {TABLE} steps")
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

    cdef void inherit(self, Terms old):
        """Take over the table of terms that differ in the learning rate alone, if in anything."""
        # Not while the old ones are being asked for scalars, which runs Python: their table is being filled then.
        if (old.begin < old.end and not old.moving and self.rule == old.rule
                and {**self.values, "lr": None} == {**old.values, "lr": None}):
            self.table, old.table = old.table, self.table
            self.room_table, old.room_table = old.room_table, self.room_table
            self.begin, self.end, self.one, self.asked_rate = old.begin, old.end, old.one, old.asked_rate
            memcpy(self.times_lr, old.times_lr, sizeof(self.times_lr))
            old.begin = old.end = 0

    cdef void fold(self, fo_coef *c, const double *row, double lr, double scale) noexcept:
        """Make coefficients of a row of scalars, this step's learning rate and gradient factor."""
        cdef Py_ssize_t k
        c.scale = scale * self.sign
        c.decay = self.decay * lr if self.decoupled else self.decay
        for k in range(self.columns):
            c.c[k] = row[k] * lr if self.times_lr[k] else row[k]

    cdef bint hold(self, dict live) except -1:
        """Whether these are still the terms of the live group.

        Another learning rate that is a plain float changes nothing else, so it is taken over here.
        """
        cdef PyObject *key
        cdef PyObject *value
        cdef PyObject *rate = NULL
        cdef Py_ssize_t at = 0, i = 0, rate_at = 0
        cdef uint64_t version = fo_version(live)
        if live is self.live and version != 0 and version == self.version and flush == self.flush:
            return True
        if 2 * len(live) != len(self.source) or flush != self.flush:
            return False
        while PyDict_Next(live, &at, &key, &value):
            if key != <PyObject *>self.source[i]:
                return False
            if value != <PyObject *>self.source[i + 1]:
                if (type(<object>key) is not str or <object>key != "lr" or type(<object>value) is not float
                        or self.schedule is not None or not self.plain):
                    return False
                rate, rate_at = value, i + 1
            i += 2
        if rate != NULL:
            if not 0.0 <= <double><object>rate < DBL_MAX:
                return False
            self.lr = <object>rate
            self.source[rate_at] = self.values["lr"] = <object>rate
        self.version = version if live is self.live else 0
        return True
