/* dispatch.c: which variants were built, and which of them this machine can run.
 *
 * Compiled with no instruction-set flags, so that it runs anywhere. The build says what
 * it built by -DFO_BUILT_<isa>. A level is supported only if every feature its flags
 * allow the compiler to use is reported, by the processor and by the operating system.
 */
#include "fastopt.h"

#if defined __x86_64__
#include <cpuid.h>     /* __get_cpuid_count */
#include <xmmintrin.h> /* _mm_getcsr */
#endif

static int always(void)
{
    return 1;
}

#if defined FO_BUILT_avx2 || defined FO_BUILT_avx512

/* Register state the operating system saves: bits 1-2 SSE and AVX, 5-7 AVX-512. */
static int os_saves(unsigned mask)
{
    unsigned a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_OSXSAVE))
        return 0;
    unsigned low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (low & mask) == mask;
}

static int has(unsigned have, unsigned want)
{
    return (have & want) == want;
}

/* x86-64-v3 is v2 (SSSE3 to SSE4.2, POPCNT, CMPXCHG16B, LAHF) and what is named below. */
static int level_v3(void)
{
    unsigned a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d) ||
        !has(c, bit_SSE3 | bit_SSSE3 | bit_SSE4_1 | bit_SSE4_2 | bit_POPCNT | bit_CMPXCHG16B |
                    bit_AVX | bit_F16C | bit_FMA | bit_MOVBE))
        return 0;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !has(b, bit_AVX2 | bit_BMI | bit_BMI2))
        return 0;
    if (!__get_cpuid(0x80000001, &a, &b, &c, &d) || !has(c, bit_LAHF_LM | bit_LZCNT))
        return 0;
    return os_saves(0x06);
}

static int level_v4(void)
{
    unsigned a, b, c, d;
    return level_v3() && __get_cpuid_count(7, 0, &a, &b, &c, &d) &&
           has(b, bit_AVX512F | bit_AVX512BW | bit_AVX512CD | bit_AVX512DQ | bit_AVX512VL) &&
           os_saves(0xe6);
}

#endif

#define DECLARE(isa) extern const fo_table fo_table_f32_##isa, fo_table_f64_##isa;
#define VARIANT(isa, supported) {#isa, supported, {&fo_table_f32_##isa, &fo_table_f64_##isa}},

#pragma GCC visibility push(hidden)
DECLARE(avx512)
DECLARE(avx2)
DECLARE(baseline)
#pragma GCC visibility pop

const fo_variant fo_variants[] = {
#if defined FO_BUILT_avx512
    VARIANT(avx512, level_v4)
#endif
#if defined FO_BUILT_avx2
    VARIANT(avx2, level_v3)
#endif
    VARIANT(baseline, always)
    {0},
};

int fo_is_intel(void)
{
#if defined __x86_64__
    unsigned a, b, c, d;
    return __get_cpuid(0, &a, &b, &c, &d) && b == signature_INTEL_ebx && c == signature_INTEL_ecx;
#else
    return 0;
#endif
}

#if defined __x86_64__
/* MXCSR: all exceptions masked, round to nearest; 0x8000 flushes results, 0x0040 operands. */
unsigned long long fo_kernel_mode(int flush_denormals)
{
    const unsigned mode = _mm_getcsr();
    _mm_setcsr(0x1f80u | (flush_denormals ? 0x8040u : 0u));
    return mode;
}

void fo_restore_mode(unsigned long long mode)
{
    _mm_setcsr((unsigned)mode);
}
#elif defined __aarch64__
/* FPCR: round to nearest, no traps; bit 24 flushes operands and results. */
unsigned long long fo_kernel_mode(int flush_denormals)
{
    unsigned long long mode;
    __asm__ volatile("mrs %0, fpcr" : "=r"(mode));
    __asm__ volatile("msr fpcr, %0" : : "r"(flush_denormals ? 1ull << 24 : 0ull));
    return mode;
}

void fo_restore_mode(unsigned long long mode)
{
    __asm__ volatile("msr fpcr, %0" : : "r"(mode));
}
#else
unsigned long long fo_kernel_mode(int flush_denormals)
{
    return (unsigned long long)(flush_denormals * 0);
}

void fo_restore_mode(unsigned long long mode)
{
    (void)mode;
}
#endif
