/* Whether something else runs on this processor's core: instructions per cycle, in five lines.
 *
 *     cc -O2 -mavx2 -mfma tests/bench/shared_core.c -o shared_core && taskset -c 0 ./shared_core
 *
 * A chain of multiplications tells the clock, whoever shares the core. (Additions of a constant would not: an Intel
 * processor since 2021 makes a chain of them while it renames registers.) A core of its own does two multiply-adds in a
 * cycle, and three (Intel) or four (AMD) additions of bytes. A core that is shared by two threads may give each of them
 * half of its instructions: additions then fall to about half, and multiply-adds of float code only where the other
 * thread multiplies, too. docs/benchmarks.md says what follows.
 */
#include <immintrin.h>
#include <stdint.h>
#include <stdio.h>
#include <time.h>

enum { CHAINS = 8, LINES = 5, MULTIPLY_CYCLES = 3 /* of 32 bits, on all x86 since 2008 */ };

static const double SECONDS = 0.1; /* of the processor: what preempts this does not count */

static void chain(uint64_t turns) {
    uint32_t product = 1;
    for (uint64_t i = 0; i < turns; ++i) {
        __asm__ volatile("imul %0, %0\n imul %0, %0\n imul %0, %0\n imul %0, %0\n imul %0, %0\n imul %0, %0\n"
                         "imul %0, %0\n imul %0, %0"
                         : "+r"(product));
    }
}

#define EIGHT(instruction, type, one)                                                             \
    type a = one, b = one, c = one, d = one, e = one, f = one, g = one, h = one;                  \
    for (uint64_t i = 0; i < turns; ++i) {                                                        \
        __asm__ volatile(instruction " %8, %8, %0\n" instruction " %8, %8, %1\n" instruction      \
                                     " %8, %8, %2\n" instruction " %8, %8, %3\n" instruction      \
                                     " %8, %8, %4\n" instruction " %8, %8, %5\n" instruction      \
                                     " %8, %8, %6\n" instruction " %8, %8, %7"                    \
                         : "+x"(a), "+x"(b), "+x"(c), "+x"(d), "+x"(e), "+x"(f), "+x"(g), "+x"(h) \
                         : "x"(one));                                                             \
    }

static void add_bytes(uint64_t turns) {
    const __m256i one = _mm256_set1_epi8(1);
    EIGHT("vpaddb", __m256i, one)
}

static void multiply_add(uint64_t turns) {
    const __m256 one = _mm256_set1_ps(1);
    EIGHT("vfmadd231ps", __m256, one)
}

/* Instructions of a loop of eight in a second, 1e9. */
static double rate(void (*loop)(uint64_t turns)) {
    const uint64_t turns = 1000000;
    const clock_t start = clock();
    double seconds = 0;
    uint64_t done = 0;
    for (; seconds < SECONDS; seconds = (double)(clock() - start) / CLOCKS_PER_SEC) {
        loop(turns);
        done += turns;
    }
    return (double)(CHAINS * done) / seconds * 1e-9;
}

int main(void) {
    for (int line = 0; line < LINES; ++line) {
        const double clock = MULTIPLY_CYCLES * rate(chain), bytes = rate(add_bytes), floats = rate(multiply_add);
        printf("%.2f GHz; in a cycle: %.2f additions of 32 bytes, %.2f multiply-adds of 8 floats\n", clock,
               bytes / clock, floats / clock);
    }
    return 0;
}
