"""What a group's hyper-parameters come to: this step's learning rate, and the coefficients made of it."""

from libc.stdint cimport int64_t, uint64_t

from .kernels cimport FO_MAX_SCALARS, fo_coef

cdef enum:
    TABLE = 512  # steps for which scalars are computed at once
    BLOCK = 32   # where leaves differ in their number of updates: steps for each block of numbers

cdef class Terms:
    cdef dict live             # the group as the user sees it,
    cdef list source           # its keys and values as they were checked, alternating,
    cdef uint64_t version      # and its version when it was last compared with them
    cdef bint flush            # whether kernels flushed denormals then
    cdef readonly dict values
    cdef readonly dict now     # these in this step: what is a schedule has its value
    cdef dict moving           # functions that give those, of the number of steps
    cdef bint moves            # whether there are any
    cdef object check
    cdef readonly str rule, kind
    cdef readonly bint in_numpy  # whether the class does the rule's arithmetic
    cdef object scalars
    cdef dict more             # what these take by name in any step
    cdef tuple names           # of the rule's scalars, in order
    cdef Py_ssize_t columns    # so many
    cdef set given             # those of them that the class gives: a first pass makes the others
    cdef readonly tuple sums   # names of what that adds up
    cdef readonly bint wants_fresh      # whether they depend on the state being new,
    cdef bint wants_lr                  # on the learning rate otherwise than as a factor,
    cdef bint wants_numbers             # on numbers that the class keeps,
    cdef bint wants_sums                # on the sums of a first pass over each leaf,
    cdef bint wants_totals              # or on those over all leaves
    cdef double asked_rate              # the learning rate that those in the table are for
    cdef bint one                       # ask for one step only, next time
    cdef bint times_lr[FO_MAX_SCALARS]  # which of them are to be multiplied by the learning rate
    cdef double *table         # [steps][scalars] for steps `begin` to `end` - 1, state not new
    cdef Py_ssize_t room_table
    cdef int64_t begin, end
    cdef dict places           # of other steps: first row in `rows`, by block, or by -step where the state is new
    cdef double *rows
    cdef Py_ssize_t n_rows, room_rows
    cdef object schedule
    cdef bint plain            # a rate that changed needs no other check than that it is finite and at least 0
    cdef bint ahead            # whether the schedule can be asked for many steps at once:
    cdef double rates[TABLE]   # what it gives for these, if any, from `first_rate` on
    cdef int64_t first_rate
    cdef double lr, sign, decay
    cdef bint decoupled

    cdef double rate(self, int64_t steps) except -1
    cdef int have(self, int64_t t) except -1
    cdef int have_all(self, list places) except -1
    cdef int move(self, int64_t steps) except -1
    cdef int at_rate(self, double lr) except -1
    cdef int forget(self) except -1
    cdef int ask(self, object steps, bint fresh, double *to) except -1
    cdef dict ask_each(self, object steps, object fresh, double lr, dict numbers, object sums)
    cdef int put(self, dict rates, dict others, Py_ssize_t n, double *to) except -1
    cdef void inherit(self, Terms old)
    cdef const double *row(self, int64_t t, bint fresh) except NULL
    cdef void fold(self, fo_coef *c, const double *row, double lr, double scale) noexcept
    cdef bint hold(self, dict live) except -1

cdef int64_t place_of(int64_t t, bint fresh) noexcept
