/* What the processor has, and the operating system saves: registers that it does not know of must not be used. */
#include "kernel.h"
#include "system.h"

#include <stdatomic.h>

#if defined(__x86_64__)
/* cpuid.h, because __builtin_cpu_supports needs a run-time library that zig cannot link into a shared object. */
#include <cpuid.h>

enum {
    SAVES_AVX = 0x06,    /* XCR0: the halves of ymm registers */
    SAVES_AVX512 = 0xE6, /* and masks, the halves of zmm registers, and zmm16 to zmm31 */
};

typedef struct Features {
    unsigned leaf1_c, leaf7_b, leaf7_c, extended_c;
    uint64_t saved; /* XCR0; 0 where the system does not use it */
} Features;

static Features read_features(void) {
    Features features = {0};
    unsigned a, b, c, d;
    if (__get_cpuid(1, &a, &b, &c, &d)) {
        features.leaf1_c = c;
    }
    if (__get_cpuid_count(7, 0, &a, &b, &c, &d)) {
        features.leaf7_b = b;
        features.leaf7_c = c;
    }
    if (__get_cpuid(0x80000001, &a, &b, &c, &d)) {
        features.extended_c = c;
    }
    if (features.leaf1_c & bit_OSXSAVE) {
        uint32_t low, high;
        __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
        features.saved = (uint64_t)high << 32 | low;
    }
    return features;
}

static bool has_all(uint64_t got, uint64_t wanted) {
    return (got & wanted) == wanted;
}

bool bnas_cpu_popcnt(void) {
    return has_all(read_features().leaf1_c, bit_POPCNT);
}

bool bnas_cpu_x86_64_v2(void) {
    return has_all(read_features().leaf1_c,
                   bit_POPCNT | bit_SSE3 | bit_SSSE3 | bit_SSE4_1 | bit_SSE4_2 | bit_CMPXCHG16B);
}

bool bnas_cpu_x86_64_v3(void) {
    const Features features = read_features();
    return bnas_cpu_x86_64_v2() && has_all(features.leaf1_c, bit_AVX | bit_F16C | bit_FMA | bit_MOVBE) &&
           has_all(features.leaf7_b, bit_AVX2 | bit_BMI | bit_BMI2) && has_all(features.extended_c, bit_LZCNT) &&
           has_all(features.saved, SAVES_AVX);
}

bool bnas_cpu_x86_64_v4(void) {
    const Features features = read_features();
    return bnas_cpu_x86_64_v3() &&
           has_all(features.leaf7_b,
                   (uint64_t)bit_AVX512F | bit_AVX512BW | bit_AVX512CD | bit_AVX512DQ | bit_AVX512VL) &&
           has_all(features.saved, SAVES_AVX512);
}

bool bnas_cpu_avx512vbmi(void) {
    return bnas_cpu_x86_64_v4() && has_all(read_features().leaf7_c, bit_AVX512VBMI);
}
#endif

bool bnas_suits_any_cpu(void) {
    return true;
}

#if defined(__aarch64__)
bool bnas_cpu_neon(void) {
    return true; /* part of every 64-bit ARM */
}

/* Kinds of cores: all have the same instructions, and are fastest with different rows. The A53, A55, N1 and N2 were
 * predicted (docs/kernels.md); the others in the list are built like them. The rest is OTHER_CORE: those that nobody
 * knows, and those that popcounts suit, such as the Cortex-A72, the X1 and the Neoverse V1. */
enum { FAST_SHUFFLES = 1, IN_ORDER = 2, OTHER_CORE = 4 };

enum { MAKER_ARM = 0x41, MAKER_QUALCOMM = 0x51 };

typedef struct Core {
    unsigned maker, part; /* as MIDR_EL1 has them */
    int kind;
} Core;

static const Core cores[] = {
    {MAKER_ARM, 0xD02, IN_ORDER},           /* Cortex-A34 */
    {MAKER_ARM, 0xD03, IN_ORDER},           /* A53 */
    {MAKER_ARM, 0xD04, IN_ORDER},           /* A35 */
    {MAKER_ARM, 0xD05, IN_ORDER},           /* A55 */
    {MAKER_ARM, 0xD46, IN_ORDER},           /* A510 */
    {MAKER_ARM, 0xD80, IN_ORDER},           /* A520 */
    {MAKER_ARM, 0xD0B, FAST_SHUFFLES},      /* A76 */
    {MAKER_ARM, 0xD0C, FAST_SHUFFLES},      /* Neoverse N1 */
    {MAKER_ARM, 0xD0D, FAST_SHUFFLES},      /* A77 */
    {MAKER_ARM, 0xD0E, FAST_SHUFFLES},      /* A76AE */
    {MAKER_ARM, 0xD41, FAST_SHUFFLES},      /* A78 */
    {MAKER_ARM, 0xD42, FAST_SHUFFLES},      /* A78AE */
    {MAKER_ARM, 0xD4B, FAST_SHUFFLES},      /* A78C */
    {MAKER_ARM, 0xD47, FAST_SHUFFLES},      /* A710 */
    {MAKER_ARM, 0xD49, FAST_SHUFFLES},      /* Neoverse N2 */
    {MAKER_QUALCOMM, 0x801, IN_ORDER},      /* Kryo 2xx Silver, an A53 */
    {MAKER_QUALCOMM, 0x803, IN_ORDER},      /* Kryo 3xx Silver, an A55 */
    {MAKER_QUALCOMM, 0x804, FAST_SHUFFLES}, /* Kryo 4xx Gold, an A76 */
    {MAKER_QUALCOMM, 0x805, IN_ORDER},      /* Kryo 4xx Silver, an A55 */
};

static int kind_of(uint64_t id) {
    const unsigned maker = id >> 24 & 0xFF, part = id >> 4 & 0xFFF;
    for (size_t i = 0; i < sizeof cores / sizeof cores[0]; ++i) {
        if (cores[i].maker == maker && cores[i].part == part) {
            return cores[i].kind;
        }
    }
    return OTHER_CORE;
}

/* The kinds that this machine has, as bits. */
static int kinds_here(void) {
    static atomic_int known; /* every node asks; 0 is not known yet */
    int kinds = atomic_load_explicit(&known, memory_order_relaxed);
    if (kinds == 0) {
        uint64_t ids[BNAS_MOST_CORES];
        const size_t count = bnas_core_ids(ids);
        for (size_t i = 0; i < count; ++i) {
            kinds |= kind_of(ids[i]);
        }
        kinds = kinds ? kinds : OTHER_CORE;
        atomic_store_explicit(&known, kinds, memory_order_relaxed);
    }
    return kinds;
}

/* A thread may move between big and little cores, and has one row on all of them: docs/kernels.md has the reasons. */
bool bnas_suits_fast_shuffles(void) {
    return (kinds_here() & (FAST_SHUFFLES | OTHER_CORE)) == FAST_SHUFFLES;
}

bool bnas_suits_in_order(void) {
    return (kinds_here() & (FAST_SHUFFLES | IN_ORDER)) == IN_ORDER;
}
#endif
