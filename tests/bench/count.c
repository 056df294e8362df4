/* LUT4X2 and LUT6X2 in C intrinsics: the yardstick for what TVM makes of runtime/kernels/look_up.py, which says how
 * they count.
 *
 * Compiled once for each x86 row of runtime/kernels/specs.py, with -march for its processor, and
 *     ISA                      the row's name
 *     PAIRS_1 .. PAIRS_4       pairs of output channels that are counted at once, for 1 to 4 vectors of pixels
 * so that both sides have the same tiles. The function has the parameters of `count` there. */
#include <immintrin.h>
#include <stdint.h>

enum { VECTORS = 4 };

#if defined(__AVX512BW__)

typedef __m512i Bytes;
#define ZERO _mm512_setzero_si512()
#define LOAD(p) _mm512_loadu_si512(p)
#define STORE(p, x) _mm512_storeu_si512(p, x)
#define EVERYWHERE(x) _mm512_broadcast_i32x4(x)
#if defined(__AVX512VBMI__)
#define LOOK_UP(row, x) _mm512_permutexvar_epi8(x, row)
#else
#define LOOK_UP _mm512_shuffle_epi8
#endif
#define ADD_8 _mm512_add_epi8
#define SUB_8 _mm512_sub_epi8
#define ADD_16 _mm512_add_epi16
#define RIGHT_4(x) _mm512_srli_epi16(x, 4)
#define LEFT_4(x) _mm512_slli_epi16(x, 4)
#define MASK(x, value) _mm512_and_si512(x, _mm512_set1_epi16((int16_t)(value)))
#define WIDEN_LOW(x) _mm512_cvtepu8_epi16(_mm512_castsi512_si256(x))
#define WIDEN_HIGH(x) _mm512_cvtepu8_epi16(_mm512_extracti64x4_epi64(x, 1))

#elif defined(__AVX2__)

typedef __m256i Bytes;
#define ZERO _mm256_setzero_si256()
#define LOAD(p) _mm256_loadu_si256((const __m256i*)(const void*)(p))
#define STORE(p, x) _mm256_storeu_si256((__m256i*)(void*)(p), x)
#define EVERYWHERE(x) _mm256_broadcastsi128_si256(x)
#define LOOK_UP _mm256_shuffle_epi8
#define ADD_8 _mm256_add_epi8
#define SUB_8 _mm256_sub_epi8
#define ADD_16 _mm256_add_epi16
#define RIGHT_4(x) _mm256_srli_epi16(x, 4)
#define LEFT_4(x) _mm256_slli_epi16(x, 4)
#define MASK(x, value) _mm256_and_si256(x, _mm256_set1_epi16((int16_t)(value)))
#define WIDEN_LOW(x) _mm256_cvtepu8_epi16(_mm256_castsi256_si128(x))
#define WIDEN_HIGH(x) _mm256_cvtepu8_epi16(_mm256_extracti128_si256(x, 1))

#else /* SSSE3, and the rest of x86-64-v2 */

typedef __m128i Bytes;
#define ZERO _mm_setzero_si128()
#define LOAD(p) _mm_loadu_si128((const __m128i*)(const void*)(p))
#define STORE(p, x) _mm_storeu_si128((__m128i*)(void*)(p), x)
#define EVERYWHERE(x) (x)
#define LOOK_UP _mm_shuffle_epi8
#define ADD_8 _mm_add_epi8
#define SUB_8 _mm_sub_epi8
#define ADD_16 _mm_add_epi16
#define RIGHT_4(x) _mm_srli_epi16(x, 4)
#define LEFT_4(x) _mm_slli_epi16(x, 4)
#define MASK(x, value) _mm_and_si128(x, _mm_set1_epi16((int16_t)(value)))
#define WIDEN_LOW(x) _mm_cvtepu8_epi16(x)
#define WIDEN_HIGH(x) _mm_unpackhi_epi8(x, _mm_setzero_si128())

#endif

enum { WIDTH = sizeof(Bytes) };

#if defined(__AVX512VBMI__) /* LUT6X2 */

enum { LOOKUPS = 2, CHUNK = 42, STEP_BYTES = 2, SECOND = 65 * 64 };

static inline Bytes row_of(const uint8_t* tables, const uint8_t* weights) {
    return ADD_8(LOAD(tables + 64 * weights[0]), LOAD(tables + SECOND + 64 * weights[1]));
}

#else /* LUT4X2 */

enum { LOOKUPS = 3, CHUNK = 63, STEP_BYTES = 1 };

static inline Bytes row_of(const uint8_t* tables, const uint8_t* weights) {
    return EVERYWHERE(_mm_load_si128((const __m128i*)(const void*)(tables + 16 * weights[0])));
}

#endif

/* Loops over a block are unrolled, so that its sums become registers. */
#define UNROLLED _Pragma("GCC unroll 16")

static inline __attribute__((always_inline)) void store_mismatches(Bytes x, uint16_t* mismatches, int adding) {
    Bytes low = WIDEN_LOW(x), high = WIDEN_HIGH(x);
    uint16_t* second = mismatches + WIDTH / 2;
    if (adding) {
        low = ADD_16(low, LOAD(mismatches));
        high = ADD_16(high, LOAD(second));
    }
    STORE(mismatches, low);
    STORE(second, high);
}

/* `pairs` and `vectors` are constants at every call. */
static inline __attribute__((always_inline)) void count_block(const int pairs, const int vectors, int32_t steps,
                                                              const uint8_t* blocked, const int32_t* offsets,
                                                              const uint8_t* weights, const uint8_t* tables,
                                                              uint16_t* mismatches) {
    for (int32_t first = 0; first < steps; first += CHUNK) {
        const int32_t end = steps - first < CHUNK ? steps : first + CHUNK;
        Bytes s[4][VECTORS], h[4][VECTORS];
        UNROLLED for (int pair = 0; pair < pairs; ++pair) {
            UNROLLED for (int vector = 0; vector < vectors; ++vector) {
                s[pair][vector] = h[pair][vector] = ZERO;
            }
        }
        for (int32_t step = first; step < end; step += LOOKUPS) {
            UNROLLED for (int pair = 0; pair < pairs; ++pair) {
                Bytes rows[LOOKUPS];
                UNROLLED for (int j = 0; j < LOOKUPS; ++j) {
                    rows[j] = row_of(tables, weights + (pair * steps + step + j) * STEP_BYTES);
                }
                UNROLLED for (int vector = 0; vector < vectors; ++vector) {
                    Bytes t = ZERO;
                    UNROLLED for (int j = 0; j < LOOKUPS; ++j) {
                        const Bytes found = LOOK_UP(rows[j], LOAD(blocked + offsets[step + j] + vector * WIDTH));
                        t = j == 0 ? found : ADD_8(t, found);
                    }
                    s[pair][vector] = ADD_8(s[pair][vector], t);
                    h[pair][vector] = ADD_8(h[pair][vector], RIGHT_4(t));
                }
            }
        }
        UNROLLED for (int pair = 0; pair < pairs; ++pair) {
            UNROLLED for (int vector = 0; vector < vectors; ++vector) {
                const Bytes odd_low = SUB_8(s[pair][vector], LEFT_4(MASK(h[pair][vector], 0xFF00)));
                const Bytes high = SUB_8(h[pair][vector], MASK(RIGHT_4(odd_low), 0x00F0));
                const Bytes low = SUB_8(odd_low, MASK(LEFT_4(high), 0x00F0));
                uint16_t* to = mismatches + (2 * pair * VECTORS + vector) * WIDTH;
                store_mismatches(low, to, first > 0);
                store_mismatches(high, to + VECTORS * WIDTH, first > 0);
            }
        }
    }
}

#define TILE(wide, together)                                                                                  \
    if (vectors == (wide)) {                                                                                  \
        int32_t pair = 0;                                                                                     \
        for (; pair + (together) <= pairs; pair += (together)) {                                              \
            count_block(together, wide, steps, blocked, offsets, weights + pair * steps * STEP_BYTES, tables, \
                        mismatches + 2 * pair * VECTORS * WIDTH);                                             \
        }                                                                                                     \
        for (; pair < pairs; ++pair) {                                                                        \
            count_block(1, wide, steps, blocked, offsets, weights + pair * steps * STEP_BYTES, tables,        \
                        mismatches + 2 * pair * VECTORS * WIDTH);                                             \
        }                                                                                                     \
    }

#define PASTED(isa) c_##isa##_count
#define NAME(isa) PASTED(isa)

int32_t NAME(ISA)(int32_t vectors, int32_t pairs, int32_t steps, const uint8_t* restrict blocked,
                  const int32_t* restrict offsets, const uint8_t* restrict weights, const uint8_t* restrict tables,
                  uint16_t* restrict mismatches) {
    TILE(1, PAIRS_1)
    TILE(2, PAIRS_2)
    TILE(3, PAIRS_3)
    TILE(4, PAIRS_4)
    return 0;
}
