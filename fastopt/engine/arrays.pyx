"""Which arrays may be parameters and gradients? Checks of single arrays, views without copies, extents."""

from cpython.mem cimport PyMem_Calloc

from .kernels cimport FO_F32, FO_F64

import numpy as np

cnp.import_array()

MOST_WORK = 100_000  # candidates that a search for a shared byte may look at: some ms


cdef object shown(cnp.ndarray a):
    """a's shape as a tuple of Python integers."""
    return (<object>a).shape


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
        number = ", for one number np.array(0.0)" if isinstance(x, (float, int, np.generic)) else ""
        raise TypeError(f"{name} is {described(x)}: a parameter must be a NumPy array{number}")
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


cdef object viewed(object x, str name, str wanted="a gradient must be an array"):
    """x as a base ndarray without a copy, for gradients that are no exact ndarray."""
    if isinstance(x, np.ndarray):
        if isinstance(x, np.ma.MaskedArray):
            raise TypeError(f"{name} is a masked array: its mask would be ignored; pass its data")
        return x.view(np.ndarray)
    if isinstance(x, np.generic):
        return np.asarray(x)  # what NumPy makes of arithmetic on an array without dimensions
    if isinstance(x, (str, bytes)):
        raise TypeError(f"{name} is {described(x)}: {wanted}")
    for view in (_from_interface, _from_dlpack, _from_buffer):
        try:
            array = view(x)
        except (TypeError, ValueError, BufferError, RuntimeError) as error:
            raise TypeError(f"{name} is {described(x)}, which NumPy cannot view without a copy: {error}") from None
        if array is not None:
            return array
    raise TypeError(f"{name} is {described(x)}: {wanted}, or what NumPy can view as one")


def _from_interface(x):
    return np.asarray(x) if hasattr(x, "__array_interface__") else None


def _from_dlpack(x):
    return np.from_dlpack(x) if hasattr(x, "__dlpack__") else None


def _from_buffer(x):
    try:
        return np.asarray(memoryview(x))
    except TypeError:
        return None


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


cdef bint overlap(object a, object b) except -1:
    """Whether two arrays share memory, or may: where that takes too long to find out, they count as sharing it."""
    try:
        return np.shares_memory(a, b, MOST_WORK)
    except np.exceptions.TooHardError:
        return True


cdef Extent *sorted_extents(list memory, Py_ssize_t *n) except? NULL:
    """[n] of the arrays that are not empty, by address; `memory` has (array, leaf, slot) of each. To be freed."""
    cdef uintptr_t begin, end
    cdef Py_ssize_t k
    cdef Extent *found
    places = []
    for array, leaf, slot in memory:
        extent(array, &begin, &end)
        if begin < end:
            places.append((begin, end, leaf, slot))
    places.sort()
    found = <Extent *>PyMem_Calloc(len(places) + 1, sizeof(Extent))
    if found == NULL:
        raise MemoryError
    for k in range(len(places)):
        found[k].begin, found[k].end, found[k].leaf, found[k].slot = places[k]
    n[0] = len(places)
    return found
