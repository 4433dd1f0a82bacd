"""One optimizer's memory and the acts of its step."""

from libc.stdint cimport int64_t

from .chunks cimport Binding, Operation, Sweep
from .groups cimport Change, First, Groups
from .kernels cimport fo_coef
from .lock cimport Lock

# What adapters may use, as `dlpack` does; nothing else is promised to them:
# - step(owner, source, None, False): a step by a `Source`, whose `give` has gradients taken in where they lie. It sets
#   g, order and active of each of `leaves`, and held and cleared of each of `watches`, and `complete` to False where a
#   leaf has no gradient any more; or it calls take_leaf(leaf, array). `source` is to be None again afterwards.
# - arrays, names, n_leaves, and of `leaves` p, n and itemsize: where parameters lie.
# - extent_after(address), extents, n_extents: the memory of parameters and state, which gradients must be apart from.
# - count and fresh of `watches`, states, slots, numbers, group_numbers, steps, skipped, unlooked, sweeper and
#   own_memory(): what a plan that takes the place of another one goes on with.
# - terms: another list once groups have changed.

cdef class Plan(Groups):
    cdef readonly object away       # why the optimizer must be refused, None if it need not
    cdef readonly str remedy        # what ends that: "load", "bind" (or load), or "" for leaving a block
    cdef readonly int64_t skipped
    cdef Lock lock
    cdef bint screened
    cdef double clip_value
    cdef fo_coef average[2]
    cdef double *factors            # [leaves] of gradients,
    cdef bint own_factors           # if leaves have factors of their own in this step
    cdef bint in_parts              # a step in parts is under way, see `Parts`
    cdef bint looks_ahead           # each step needs a look ahead before it,
    cdef bint unlooked              # and the next one has had none
    cdef bint shared                # leaves are parts of larger ones, of which other processes step the other parts:
    cdef Py_ssize_t *sizes          # [leaves] elements that these have, else NULL;
    cdef list folded_by             # and these are the terms that this step's coefficients were made of
    cdef int generation             # forks when the plan was last used

    cdef list begin(self, object owner, object loss_scale)
    cdef bint look(self, object owner) except -1
    cdef Change fold(self, object owner, list changes)
    cdef bint update(self, Change change) noexcept
    cdef bint counted(self) noexcept
    cdef void end_parts(self) noexcept
    cdef bint update_by_reference(self, object owner, Change change, bint everything) except -1
    cdef int zero_bad_gradients(self) except -1
    cdef int go_on_shared(self, object owner, Change change) except -1
    cdef int fold_in(self, list terms, const Binding *bindings, First sums) except -1
    cdef void sum_up(self, const Binding *bindings, bint for_class) noexcept
    cdef void prepare_sweep(self, Sweep *w, Operation what) noexcept
    cdef void sweep(self, Operation what, double scale=*) noexcept
    cdef int notice_fork(self) except -1
    cpdef void tear(self) noexcept
    cdef int check_within(self) except -1
