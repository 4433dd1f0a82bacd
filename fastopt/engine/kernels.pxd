"""What other rooms may use of the compiled kernels: their types, the variant in use, the floating-point mode."""

cdef extern from "fastopt.h" nogil:
    enum: FO_MAX_STATE, FO_MAX_SCALARS, FO_MAX_SUMS, FO_NO_DECAY, FO_DECAYS, FO_F32, FO_F64, FO_REALS, FO_LANES

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

    ctypedef void fo_summer(const fo_span *x, const fo_coef *c, double *sums) noexcept nogil
    ctypedef void fo_finisher(const double *sums, double n, double *scalars) noexcept nogil

    ctypedef struct fo_block:
        Py_ssize_t lines
        Py_ssize_t length
        Py_ssize_t apart
        Py_ssize_t g_apart
        void *p
        const void *g
        void *line
        void *place
        double mean

    ctypedef void fo_block_step(const fo_block *x, const fo_coef *c) noexcept nogil

    ctypedef struct fo_factored:
        const char *const *state
        void (*squares)(const fo_block *x, const fo_coef *c, double *place_sums, double *line_sums,
                        Py_ssize_t sums_apart) noexcept nogil
        void (*follow)(const fo_coef *c, void *moments, Py_ssize_t n, const double *sums, double count) noexcept nogil
        double (*mean)(const void *moments, Py_ssize_t n) noexcept nogil
        void (*sums)(const fo_block *x, const fo_coef *c, double *lanes) noexcept nogil
        fo_block_step *step[FO_DECAYS]

    ctypedef struct fo_rule:
        const char *name
        const char *const *state
        const char *const *scalars
        fo_kernel *step[FO_DECAYS]
        const char *const *sums
        fo_summer *sum[FO_DECAYS]
        const char *const *made
        fo_finisher *finish
        const fo_factored *factored

    ctypedef struct fo_table:
        const fo_rule *rules
        double (*sum_squares)(const void *g, Py_ssize_t n, double scale) noexcept nogil
        int (*nonfinite)(const void *g, Py_ssize_t n) noexcept nogil

    ctypedef struct fo_variant:
        const char *isa
        int (*supported)() noexcept nogil
        const fo_table *tables[FO_REALS]

cdef const fo_variant *variant  # in use by plans made from now on
cdef bint flush                 # whether kernels flush denormals to zero

cdef tuple names_of(const char *const *names)
cdef unsigned long long enter_mode(bint flush) noexcept nogil
cdef void leave_mode(unsigned long long found) noexcept nogil
