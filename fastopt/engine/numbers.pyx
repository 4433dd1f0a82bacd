"""Host numbers with equal bits: 1 - beta^t, powers, cosines."""

from libc.math cimport cos, pow
from libc.stdint cimport int64_t
from libc.string cimport memset

cimport numpy as cnp

import numpy as np

cnp.import_array()


def one_minus_power(double beta, t):
    """1 - beta**t for beta in [0, 1] and each whole number t >= 0 of an array, to a few last bits.

    By squaring: with e = 1 - beta**k, that of 2k is e (2 - e), and that of k + 1 is e beta + (1 - beta). Nothing
    cancels where beta**t is close to 1, and there is no library function in it whose last bits could differ from
    machine to machine. Neighbours share all but a few of their squarings, which are done once.
    """
    cdef cnp.ndarray powers = np.asarray(t, np.int64, "C")
    cdef cnp.ndarray found = np.empty_like(powers, np.float64)
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
