"""Leaves laid end to end, an operation over them, and one stretch of it."""

from libc.stdint cimport int64_t

from .arrays cimport RawArray
from .kernels cimport (
    FO_MAX_STATE, FO_REALS, fo_block_step, fo_coef, fo_factored, fo_finisher, fo_kernel, fo_summer, fo_variant)

cdef enum:
    CHUNK_ELEMENTS = 4096
    TILE = 1024              # elements
    MAX_SLOTS = 8            # of a leaf: those of rules, several with `Split`, and last the average of every optimizer
    WHOLE = 16               # chunks: a leaf that has no more is summed and updated at once, while it is in caches

cdef struct Named:
    # Rows of a leaf that have a gradient in a step: the others are left out.
    Py_ssize_t n             # so many
    Py_ssize_t size          # elements of one
    Py_ssize_t parts         # chunks of one
    const int64_t *row       # [n] their numbers, ascending; NULL where they are all
    const char **g           # [n] their gradients; NULL where these lie one after the other, from the leaf's g on
    int *coef                # [n] their coefficients
    const int64_t *counts    # [rows]: 0 for a row that has had no update

cdef struct Leaf:
    # What a sweep must know of a parameter. All threads read it, so a step writes only what has changed: each line
    # written must be fetched by one core from the other.
    char *p
    const char *g
    char *s[MAX_SLOTS]       # in the order of the plan's slots
    const RawArray *order    # the gradient's array, where its elements lie in another order than p's; else NULL
    const Named *rows        # of a table: those that have a gradient; `order` is then the array that they come from
    Py_ssize_t n
    Py_ssize_t first         # chunks of active leaves before this one
    int itemsize
    int real
    int kernel               # which of its group's: by type, and whether it decays
    int group
    int coef
    int arrays               # that its update reads or writes: 2 and its state
    bint active              # takes part in the sweep
    bint updated             # has had an update
    bint reversed            # Fortran order: memory order is that of the reversed axes
    bint factored            # a matrix whose update is `Factored`'s

cdef struct Layout:
    # Leaves end to end, as one sequence of chunks.
    Leaf *leaves             # [n_leaves + 1]
    Py_ssize_t n_leaves
    Py_ssize_t chunks        # of the active leaves
    Py_ssize_t elements
    Py_ssize_t nbytes        # of their parameters
    Py_ssize_t traffic       # bytes: of their parameters, gradients and state

cdef struct Binding:
    # A group's rule.
    fo_kernel *kernel[2 * FO_REALS]  # by type; then those without decay, of leaves that are left out of it
    int n_state
    int slot[FO_MAX_STATE]   # which of the plan's slots each state array of the rule is
    # Of a rule with a first pass over each leaf:
    fo_summer *sums[2 * FO_REALS]
    int n_sums
    fo_finisher *finish      # NULL where the class makes scalars of the sums
    # What the rule does to matrices instead, NULL if nothing; the slots of their second moments of rows and columns:
    const fo_factored *factored[FO_REALS]
    fo_block_step *block_step[2 * FO_REALS]
    int rows, columns
    # The update of the parameters' average, by type, NULL without one; it is in the last slot.
    fo_kernel *average[FO_REALS]

cdef enum Operation:
    UPDATE
    UPDATE_AND_ZERO          # and then set the gradients to zero
    ZERO_GRADIENTS
    SUM_SQUARES
    SUM_UP                   # first passes of rules, over leaves that are not done whole in their update
    FIND_NONFINITE
    START_STATE              # p stands for the state then, and g for what it is to be a copy of, NULL for zeros
    FACTOR                   # of `Factored`: squares of gradients,
    RATIOS                   # sums,
    DESCEND                  # and the update
    OPERATIONS

cdef struct Queue:
    Py_ssize_t next
    Py_ssize_t stop
    Py_ssize_t begun         # whether its worker has come
    Py_ssize_t mirror        # of a sweep that goes backward: chunk k of the queue is mirror - 1 - k of the sequence
    char apart[96]           # no two in one cache line

cdef struct Sweep:
    Operation what
    const Layout *all
    const Binding *bindings  # [groups]
    const fo_coef *coefs
    double scale
    double clip_value        # what gradients are clamped to; 0 if they are not
    const double *factors    # [leaves] of gradients, besides that of their coefficients; NULL if there are none
    const fo_coef *average   # [2]: of leaves that have had an update, and of others
    bint plain               # an update that is the kernels' alone: without first passes, factors and averages
    bint sums                # whether rules have first passes:
    bint for_class           # SUM_UP goes over leaves whose sums their class asks for, or over the large ones of others
    const double *totals     # [leaves][FO_MAX_SUMS] of what SUM_UP went over before
    int whole                # chunks: see WHOLE; 0 where leaves are parts of larger ones,
    const Py_ssize_t *sizes  # [leaves] whose elements these are; else NULL
    const fo_variant *variant
    const void *matrices     # of `Factored`
    void (*run)(const Sweep *w, Py_ssize_t begin, Py_ssize_t end) noexcept nogil  # an operation of `Factored`
    # Filled in by the sweeper:
    double *partial          # [chunks] sums or flags; [chunks][FO_MAX_SUMS] of SUM_UP
    Queue *queues            # [workers], NULL where nobody is to help another
    int workers
    bint backward            # whether each worker begins at its last chunk
    bint fetch               # whether kernels ask for memory ahead
    bint flush

cdef void lay_out(Layout *all) noexcept nogil
cdef Py_ssize_t leaf_of(const Sweep *w, Py_ssize_t chunk) noexcept nogil
cdef void clamp(const Sweep *w, const Leaf *f, Py_ssize_t count, const void *g, double scale, void *to) noexcept nogil
cdef double added_up(const Leaf *f, const double *partial, int sums, int k) noexcept
cdef Py_ssize_t chunks_of(const Leaf *f) noexcept nogil
cdef void in_order(char *to, const Leaf *f, Py_ssize_t start, Py_ssize_t count) noexcept nogil
cdef void run_stretch(const Sweep *w, Py_ssize_t begin, Py_ssize_t end) noexcept nogil
cdef void run_alone(const Sweep *w) noexcept nogil
cdef void zero_ordered(const Sweep *w) noexcept nogil
