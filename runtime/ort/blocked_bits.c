/* Bits instead of floats: what operators that read or write them do in the place of packing and of the epilogue. */
#include "blocked.h"

/* Some bits of a byte, those from `from` on, become those from `to` on. */
typedef struct Bits {
    int from, to, count;
} Bits;

/* Shifted as words, the bits of each byte stay within it, and the mask takes what came from the next one. */
typedef uint64_t Words __attribute__((vector_size(16)));

static inline __attribute__((always_inline)) Words moved(Words bytes, Bits bits) {
    const uint64_t mask = 0x0101010101010101u * (((1u << bits.count) - 1u) << bits.to);
    return ((bytes >> bits.from) << bits.to) & mask;
}

/* Moves the bits of `length` bytes, as many as words have at most. With `clears`, which is a constant at every call,
 * the other bits become 0, else they stay. */
static inline __attribute__((always_inline)) void move_some(const uint8_t* from, Bits bits, size_t length, uint8_t* to,
                                                            bool clears) {
    Words bytes = {0, 0}, others = {0, 0};
    memcpy(&bytes, from, length);
    if (!clears) {
        memcpy(&others, to, length);
    }
    bytes = moved(bytes, bits) | others;
    memcpy(to, &bytes, length);
}

/* The last words of a row overlap those before them. */
static inline __attribute__((always_inline)) void move_rows(Rows rows, Bits bits, bool clears) {
    const int64_t whole = sizeof(Words), half = whole / 2, length = rows.length;
    for (int64_t row = 0; row < rows.count; ++row, rows.from += rows.from_step, rows.to += rows.to_step) {
        for (int64_t i = 0; i < length && length >= whole; i += whole) {
            const int64_t at = smaller(i, length - whole);
            move_some(rows.from + at, bits, sizeof(Words), rows.to + at, clears);
        }
        for (int64_t i = 0; i < length && length >= half && length < whole; i += half) {
            const int64_t at = smaller(i, length - half);
            move_some(rows.from + at, bits, sizeof(Words) / 2, rows.to + at, clears);
        }
        for (int64_t i = 0; i < length && length < half; ++i) {
            move_some(rows.from + i, bits, 1, rows.to + i, clears);
        }
    }
}

void bnas_unpack_bits(const BnasRun* run, int64_t image, int64_t first_channel, int64_t channels, int64_t pixel,
                      Rows rows) {
    const int32_t* places = run->conv->places + first_channel;
    for (int64_t done = 0, count; done < channels; done += count) {
        const int64_t place = places[done], from = place % BNAS_BYTE;
        for (count = 1; done + count < channels && from + count < BNAS_BYTE && places[done + count] == place + count;) {
            ++count;
        }
        const Bits bits = {(int)from, (int)done, (int)count};
        rows.from = bnas_byte(run, image, place) + pixel;
        rows.from_step = rows.length;
        if (done == 0) {
            move_rows(rows, bits, true);
        } else {
            move_rows(rows, bits, false);
        }
    }
}

/* A difference of 1 more still fits. */
bool bnas_sums_are_short(const BnasConv* conv) {
    return bnas_taps(conv) * conv->channels_in < INT16_MAX;
}

static int16_t short_of(int64_t number) {
    return (int16_t)smaller(larger(number, INT16_MIN), INT16_MAX);
}

/* So many mismatches are one too many for a sum of `total` signs, of which `constant` is known before, to be at least
 * `least`. */
static int16_t limit_of(int64_t total, int64_t constant, int64_t least) {
    return short_of(((total + constant - least) >> 1) + 1);
}

static int16_t* limits_of_kind(const BnasRun* run, int64_t row_kind, int64_t column_kind) {
    const Plan* plan = the_plan(run);
    int16_t* limits = region(run, plan->limits);
    return limits + (row_kind * plan->column_kinds + column_kind) * run->conv->bytes_out * BNAS_BYTE;
}

/* The limits of sums: (bytes_out, BNAS_BYTE). */
static void write_limits_of_sums(const BnasRun* run, int16_t* limits) {
    for (int64_t i = 0; i < run->conv->bytes_out * BNAS_BYTE; ++i) {
        limits[i] = short_of((int64_t)run->conv->least[i] - 1);
    }
}

/* The limits of mismatches, for pixels where these taps are inside: (bytes_out, BNAS_BYTE). */
static void write_limits_of_taps(const BnasRun* run, Range rows, Range columns, int64_t total, int16_t* limits) {
    const BnasConv* conv = run->conv;
    for (int64_t byte = 0; byte < conv->bytes_out; ++byte) {
        const int64_t first = conv->constants ? bnas_first_of_byte(conv, byte) : 0; /* which takes a division */
        for (int64_t bit = 0; bit < BNAS_BYTE; ++bit) {
            /* Past the last channel a limit is out of the reach of sums, whatever is known before. */
            const int64_t channel = smaller(first + bit, conv->channels_out - 1);
            const int64_t constant = bnas_constant_of(conv, channel, rows, columns);
            *limits++ = limit_of(total, constant, conv->least[byte * BNAS_BYTE + bit]);
        }
    }
}

void bnas_write_limits(const BnasRun* run) {
    const Plan* plan = the_plan(run);
    const int64_t height = run->out_size[0], width = run->out_size[1];
    const Range *rows = region(run, plan->taps), *columns = rows + height;
    const int32_t *totals = region(run, plan->totals), *row_kinds = region(run, plan->kinds);
    const int32_t* column_kinds = row_kinds + height;
    if (!bnas_limits_mismatches(run->conv)) {
        write_limits_of_sums(run, limits_of_kind(run, 0, 0));
        return;
    }
    if (!run->conv->constants) {
        write_limits_of_taps(run, *rows, *columns, *totals, limits_of_kind(run, 0, 0));
        return;
    }
    for (int64_t y = 0; y < height; ++y) {
        for (int64_t x = 0; x < width && (y == 0 || row_kinds[y] != row_kinds[y - 1]); ++x) {
            if (x == 0 || column_kinds[x] != column_kinds[x - 1]) {
                write_limits_of_taps(run, rows[y], columns[x], totals[y * width + x],
                                     limits_of_kind(run, row_kinds[y], column_kinds[x]));
            }
        }
    }
}

/* Sums of any size: counting so many signs takes much longer. */
static void write_long(const BnasRun* run, const KernelSpec* spec, int64_t channel, int64_t channels, Range pixels,
                       const uint16_t* mismatches, const int32_t* least, uint8_t* bits) {
    const int32_t* totals = region(run, the_plan(run)->totals);
    const int64_t width = run->out_size[1];
    const Range *rows = region(run, the_plan(run)->taps), *columns = rows + run->out_size[0];
    for (int64_t pixel = pixels.first; pixel < pixels.end; ++pixel) {
        const int64_t i = pixel - pixels.first;
        unsigned byte = 0;
        for (int64_t j = 0; j < channels; ++j) {
            const int32_t constant =
                bnas_constant_of(run->conv, channel + j, rows[pixel / width], columns[pixel % width]);
            const int32_t sum = totals[pixel] - 2 * mismatches[j * tile_lanes(spec) + i] + constant;
            byte |= (unsigned)(sum >= least[j]) << j;
        }
        bits[i] = (uint8_t)byte;
    }
}

/* Some pixels of an image, which share their limits. */
typedef struct Stretch {
    int64_t image;
    Range pixels;
    const int16_t* limits;
} Stretch;

/* Writes one byte of each pixel. */
static void write_byte(const BnasRun* run, const KernelSpec* spec, int64_t byte, int64_t channel, int64_t channels,
                       Stretch stretch, const uint16_t* mismatches) {
    const BnasConv* conv = run->conv;
    const Range pixels = stretch.pixels;
    const int64_t image_pixels = run->out_size[0] * run->out_size[1];
    uint8_t* bits = run->bits + (stretch.image * conv->bytes_out + byte) * image_pixels + pixels.first;
    if (!bnas_sums_are_short(conv)) {
        write_long(run, spec, channel, channels, pixels, mismatches, conv->least + byte * BNAS_BYTE, bits);
        return;
    }
    const bool alone = bnas_limits_mismatches(conv);
    const int16_t* totals = (const int16_t*)region(run, the_plan(run)->short_totals) + (alone ? 0 : pixels.first);
    spec->to_bits((int32_t)channels, (int32_t)(pixels.end - pixels.first), alone, mismatches, totals,
                  stretch.limits + byte * BNAS_BYTE, bits);
}

static void write_stretch(const BnasRun* run, const KernelSpec* spec, int64_t channel, int64_t channels,
                          Stretch stretch, const uint16_t* mismatches) {
    const int64_t all = ceil_div(run->conv->channels_out, BNAS_BYTE);
    for (int64_t done = 0; done < channels; done += BNAS_BYTE) {
        const int64_t count = smaller(BNAS_BYTE, channels - done);
        for (int64_t byte = (channel + done) / BNAS_BYTE; byte < run->conv->bytes_out; byte += all) {
            write_byte(run, spec, byte, channel + done, count, stretch, mismatches + done * tile_lanes(spec));
        }
    }
}

void bnas_write_bits(const BnasRun* run, const KernelSpec* spec, int64_t channel, int64_t channels, int64_t image,
                     Range pixels, const uint16_t* mismatches) {
    if (!run->conv->constants) {
        const Stretch all = {image, pixels, limits_of_kind(run, 0, 0)};
        write_stretch(run, spec, channel, channels, all, mismatches);
        return;
    }
    const int64_t width = run->out_size[1];
    const int32_t *row_kinds = region(run, the_plan(run)->kinds), *column_kinds = row_kinds + run->out_size[0];
    for (int64_t pixel = pixels.first, end; pixel < pixels.end; pixel = end) {
        const int64_t y = pixel / width, x = pixel % width;
        for (end = pixel + 1;
             end < smaller(pixels.end, (y + 1) * width) && column_kinds[end % width] == column_kinds[x];) {
            ++end;
        }
        const Stretch stretch = {image, {pixel, end}, limits_of_kind(run, row_kinds[y], column_kinds[x])};
        write_stretch(run, spec, channel, channels, stretch, mismatches + pixel - pixels.first);
    }
}
