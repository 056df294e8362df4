/* What the processor has, and the operating system saves: registers that it does not know of must not be used. */
#include "kernel.h"

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

#if defined(__aarch64__)
bool bnas_cpu_neon(void) {
    return true; /* part of every 64-bit ARM */
}
#endif
