"""What was compiled, and what is in use? Variants, rules, and the floating-point mode of kernels.

The only room that is linked with the C objects. Others reach kernels by the pointers of a variant's tables.
"""

from sys import intern

cdef extern from "fastopt.h" nogil:
    const fo_variant fo_variants[]
    unsigned long long fo_kernel_mode(int flush_denormals) noexcept
    void fo_restore_mode(unsigned long long mode) noexcept
    int fo_is_intel() noexcept

cdef extern from *:
    """
    #ifdef _WIN32
    #error fastopt needs a POSIX system
    #endif
    #if defined __clang__
    #define FO_COMPILER "clang " __clang_version__
    #else
    #define FO_COMPILER "gcc " __VERSION__
    #endif
    """
    const char *FO_COMPILER

COMPILER = FO_COMPILER.decode()
DECAY_KINDS = {"none": 0, "coupled": 1, "decoupled": 2}

variant = NULL
flush = True


def built_isas():
    """Names of the instruction sets that were compiled, best first."""
    cdef const fo_variant *v = fo_variants
    names = []
    while v.isa != NULL:
        names.append(v.isa.decode())
        v += 1
    return names


def isas():
    """Names of the compiled instruction sets that this machine can run, best first."""
    cdef const fo_variant *v = fo_variants
    names = []
    while v.isa != NULL:
        if v.supported():
            names.append(v.isa.decode())
        v += 1
    return names


def isa():
    """Name of the instruction set in use."""
    return variant.isa.decode()


def select(name):
    """Use the kernels of one instruction set in every plan made from now on."""
    global variant
    cdef const fo_variant *v = fo_variants
    while v.isa != NULL:
        if v.isa.decode() == name and v.supported():
            variant = v
            return
        v += 1
    raise ValueError(f"instruction set {name!r} is not available; there are {', '.join(isas())}")


def rules():
    """Every rule: its name, and the names of its state arrays, scalars, sums, and of the scalars that these make."""
    cdef const fo_rule *rule = variant.tables[FO_F32].rules
    found = {}
    while rule.name != NULL:
        state = names_of(rule.state)
        if rule.factored != NULL:
            state += names_of(rule.factored.state)
        found[rule.name.decode()] = (state, names_of(rule.scalars), names_of(rule.sums), names_of(rule.made))
        rule += 1
    return found


cdef tuple names_of(const char *const *names):
    found = []
    while names != NULL and names[0] != NULL:
        found.append(intern(names[0].decode()))  # the objects that the classes have: found at a glance
        names += 1
    return tuple(found)


def is_intel():
    """Whether Intel made this processor."""
    return fo_is_intel() != 0


def set_flush(bint on):
    """Whether kernels flush denormals to zero."""
    global flush
    flush = on


def get_flush():
    """Whether kernels flush denormals to zero."""
    return flush


cdef unsigned long long enter_mode(bint flush) noexcept nogil:
    """Give this thread's arithmetic the kernels' floating-point mode, and return the mode it had."""
    return fo_kernel_mode(flush)


cdef void leave_mode(unsigned long long found) noexcept nogil:
    """Give it that mode back."""
    fo_restore_mode(found)


cdef class kernel_mode:
    """Context in which this thread's arithmetic has the kernels' floating-point mode."""

    cdef unsigned long long found

    def __enter__(self):
        self.found = fo_kernel_mode(flush)

    def __exit__(self, *_):
        fo_restore_mode(self.found)


select(isas()[0])
