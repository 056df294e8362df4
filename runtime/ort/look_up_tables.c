/* Written by the preprocessor: every entry is a constant. */
#include "look_up_tables.h"

#define ONES BNAS_NIBBLE_ONES

#define ENTRY(w, x) (uint8_t)(ONES(((w) & 15) ^ (x)) + 16 * ONES(((w) >> 4) ^ (x)))
#define ENTRIES_4(w, x) ENTRY(w, x), ENTRY(w, (x) + 1), ENTRY(w, (x) + 2), ENTRY(w, (x) + 3)
#define TABLE(w) ENTRIES_4(w, 0), ENTRIES_4(w, 4), ENTRIES_4(w, 8), ENTRIES_4(w, 12)
#define TABLES_4(w) TABLE(w), TABLE((w) + 1), TABLE((w) + 2), TABLE((w) + 3)
#define TABLES_16(w) TABLES_4(w), TABLES_4((w) + 4), TABLES_4((w) + 8), TABLES_4((w) + 12)
#define TABLES_64(w) TABLES_16(w), TABLES_16((w) + 16), TABLES_16((w) + 32), TABLES_16((w) + 48)
_Alignas(64) const uint8_t bnas_lut4x2_tables[256 * 16] = {TABLES_64(0), TABLES_64(64), TABLES_64(128), TABLES_64(192)};

/* Padding is 16. */
#define PADDED_ONES(x, w) ((x) == 16 ? 0 : ONES(((x) & 15) ^ (w)))
#define PAIR_ENTRY(x, y, w) (uint8_t)(PADDED_ONES(x, w) + 16 * PADDED_ONES(y, w))
#define PAIR_ENTRIES_4(x, y, w) \
    PAIR_ENTRY(x, y, w), PAIR_ENTRY(x, y, (w) + 1), PAIR_ENTRY(x, y, (w) + 2), PAIR_ENTRY(x, y, (w) + 3)
#define PAIR_TABLE(x, y) \
    PAIR_ENTRIES_4(x, y, 0), PAIR_ENTRIES_4(x, y, 4), PAIR_ENTRIES_4(x, y, 8), PAIR_ENTRIES_4(x, y, 12)
#define PAIR_TABLES_4(x, y) PAIR_TABLE(x, y), PAIR_TABLE((x) + 1, y), PAIR_TABLE((x) + 2, y), PAIR_TABLE((x) + 3, y)
#define PAIR_TABLES_17(y) \
    PAIR_TABLES_4(0, y), PAIR_TABLES_4(4, y), PAIR_TABLES_4(8, y), PAIR_TABLES_4(12, y), PAIR_TABLE(16, y)
_Alignas(64) const uint8_t bnas_lut4x2_pair_tables[17 * 17 * 16] = {
    PAIR_TABLES_17(0),  PAIR_TABLES_17(1),  PAIR_TABLES_17(2),  PAIR_TABLES_17(3),  PAIR_TABLES_17(4),
    PAIR_TABLES_17(5),  PAIR_TABLES_17(6),  PAIR_TABLES_17(7),  PAIR_TABLES_17(8),  PAIR_TABLES_17(9),
    PAIR_TABLES_17(10), PAIR_TABLES_17(11), PAIR_TABLES_17(12), PAIR_TABLES_17(13), PAIR_TABLES_17(14),
    PAIR_TABLES_17(15), PAIR_TABLES_17(16),
};

#define SIX_ENTRY(w, x, times) (uint8_t)((times) * (ONES(((w) ^ (x)) & 15) + ONES(((w) ^ (x)) >> 4)))
#define SIX_ENTRIES_4(w, x, times) \
    SIX_ENTRY(w, x, times), SIX_ENTRY(w, (x) + 1, times), SIX_ENTRY(w, (x) + 2, times), SIX_ENTRY(w, (x) + 3, times)
#define SIX_ENTRIES_16(w, x, times)                                                                 \
    SIX_ENTRIES_4(w, x, times), SIX_ENTRIES_4(w, (x) + 4, times), SIX_ENTRIES_4(w, (x) + 8, times), \
        SIX_ENTRIES_4(w, (x) + 12, times)
#define SIX_TABLE(w, times)                                                                   \
    {SIX_ENTRIES_16(w, 0, times), SIX_ENTRIES_16(w, 16, times), SIX_ENTRIES_16(w, 32, times), \
     SIX_ENTRIES_16(w, 48, times)}
#define SIX_TABLES_4(w, times) \
    SIX_TABLE(w, times), SIX_TABLE((w) + 1, times), SIX_TABLE((w) + 2, times), SIX_TABLE((w) + 3, times)
#define SIX_TABLES_16(w, times) \
    SIX_TABLES_4(w, times), SIX_TABLES_4((w) + 4, times), SIX_TABLES_4((w) + 8, times), SIX_TABLES_4((w) + 12, times)
#define SIX_TABLES(times) \
    {SIX_TABLES_16(0, times), SIX_TABLES_16(16, times), SIX_TABLES_16(32, times), SIX_TABLES_16(48, times), {0}}
_Alignas(64) const uint8_t bnas_lut6x2_tables[2][65][64] = {SIX_TABLES(1), SIX_TABLES(16)};
