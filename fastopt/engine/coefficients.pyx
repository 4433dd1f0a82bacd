"""What do a group's hyper-parameters come to in step t?

The scalars of a rule, asked of its class for many steps at once, and this step's learning rate, folded into the
coefficients of kernels. All C state about dicts lives here: the watcher that tells whether a live group has changed.
"""

cimport cython
from cpython.dict cimport PyDict_Next
from cpython.ref cimport PyObject
from libc.float cimport DBL_MAX
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy

cimport numpy as cnp

from .arrays cimport shown

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
