/* The LUT2 kernels: where their vectors of pixels lie. The counting itself is in runtime/kernels, lowered by TVM to one
 * object per instruction set; docs/kernels.md describes both.
 *
 * Activations are packed into planes, one per 4 channels: a byte holds the signs of 4 channels of one pixel, and PADDING
 * where the image has ended. With stride s there is one plane for each remainder of the padded coordinates modulo s that
 * a tap falls on. So all taps of a tile of pixels are runs of consecutive bytes, each at its own distance from the tile's
 * first pixel, and the kernels read them where they are.
 *
 * A row of a plane ends with so few padding bytes that the last taps of a row read the padding before the next one. What
 * a vector computes between two rows of the output is dropped. Where that is much, the bytes are gathered first, and a
 * tile then holds pixels of any number of rows and images without a gap. */
#include "kernel.h"

#include <string.h>

/* runtime/kernels/lut2.py and elementwise.py say what these do. */
typedef int32_t Pack(int32_t channels, int32_t count, const float* x0, const float* x1, const float* x2,
                     const float* x3, const float* threshold, uint8_t* nibbles);
typedef int32_t Count(int32_t vectors, int32_t pairs, int32_t steps, const uint8_t* planes, const int32_t* offsets,
                      const uint8_t* weights, const uint8_t* tables, uint16_t* counts);
typedef int32_t Finish(int32_t channels, int32_t count, int32_t activation, int32_t uses_k, int32_t offset_stride,
                       int32_t y_stride, const uint16_t* counts, const int32_t* totals, const float* offset,
                       const float* scale, const float* bias, const float* slope, const float* k, float* y);
typedef int32_t Add(int32_t channels, int32_t count, int32_t y_stride, const float* added, float* y);

typedef int32_t Halve(int32_t rows, int32_t count, int32_t bytes_step, int32_t halved_step, const uint8_t* bytes,
                      uint8_t* halved);

typedef struct Lut2 {
    int64_t vector_bytes;
    Pack* pack;
    Count* count;
    Finish* finish;
    Add* add;
    Halve* halve;
} Lut2;

enum {
    PADDING = 0x80,
    NIBBLE = 4,              /* channels in a byte */
    LOOKUPS = 3,             /* the number of steps is a multiple of it */
    VECTORS = 4,             /* of pixels in a tile, at most */
    WIDEST = 64,             /* bytes in a vector, at most */
    BLOCK_PAIRS = 8,         /* of output channels: their counts of a tile, 8 KB, stay in the first-level cache */
    MOST_COUNTED = 65535,    /* counts are 16 bits wide */
    PACK_PIXELS = 4096,      /* packed at a time, before they are spread over the planes */
    GATHERED_BYTES = 24576,  /* of a tile, at most where that leaves a vector: they stay in the first-level cache */
    LONG_ROW = 48,           /* from so many pixels on, outputs are finished row by row */
};

/* tables[16 * weights + x], see runtime/kernels/lut2.py. */
#define ONES(x) ((int)(0x4332322132212110u >> (4 * (x)) & 15))
#define ENTRY(w, x) (uint8_t)(ONES(((w) & 15) ^ (x)) + 16 * ONES(((w) >> 4) ^ (x)))
#define ENTRIES_4(w, x) ENTRY(w, x), ENTRY(w, (x) + 1), ENTRY(w, (x) + 2), ENTRY(w, (x) + 3)
#define TABLE(w) ENTRIES_4(w, 0), ENTRIES_4(w, 4), ENTRIES_4(w, 8), ENTRIES_4(w, 12)
#define TABLES_4(w) TABLE(w), TABLE((w) + 1), TABLE((w) + 2), TABLE((w) + 3)
#define TABLES_16(w) TABLES_4(w), TABLES_4((w) + 4), TABLES_4((w) + 8), TABLES_4((w) + 12)
#define TABLES_64(w) TABLES_16(w), TABLES_16((w) + 16), TABLES_16((w) + 32), TABLES_16((w) + 48)
_Alignas(64) static const uint8_t tables[256 * 16] = {TABLES_64(0), TABLES_64(64), TABLES_64(128), TABLES_64(192)};

static int64_t smaller(int64_t a, int64_t b) {
    return a < b ? a : b;
}

static int64_t larger(int64_t a, int64_t b) {
    return a > b ? a : b;
}

static int64_t parts(int64_t whole, int64_t part) {
    return (whole + part - 1) / part;
}

/* ------------------------------------------------------------------------------------------------------------------
 * Weights: uint8 (groups, pairs, steps). Step k is tap k % taps of the 4 channels 4 * (k / taps). */

static int64_t taps_of(const BnasConv* conv) {
    return conv->kernel[0] * conv->kernel[1];
}

static int64_t nibbles_of(const BnasConv* conv) {
    return parts(conv->channels_in, NIBBLE);
}

static int64_t steps_of(const BnasConv* conv) {
    return parts(nibbles_of(conv) * taps_of(conv), LOOKUPS) * LOOKUPS;
}

static int64_t group_channels(const BnasConv* conv) {
    return conv->channels_out / conv->groups;
}

static int64_t pairs_of(const BnasConv* conv) {
    return parts(group_channels(conv), 2);
}

static bool covers(const BnasConv* conv) {
    return taps_of(conv) * nibbles_of(conv) * NIBBLE <= MOST_COUNTED;
}

static size_t weights_size(const BnasConv* conv) {
    const size_t pairs = bnas_product((size_t)conv->groups, (size_t)pairs_of(conv));
    return bnas_product(pairs, (size_t)steps_of(conv));
}

static unsigned weight_nibble(const BnasConv* conv, const uint8_t* tap, int64_t nibble) {
    const int64_t left = conv->channels_in - nibble * NIBBLE;
    const unsigned bits = tap[nibble / 2] >> (nibble % 2 * NIBBLE) & 15u;
    return left < NIBBLE ? bits & ((1u << left) - 1u) : bits; /* the function body cuts the rest off as well */
}

static void prepack(const BnasConv* conv, const uint8_t* weights, void* prepacked) {
    const int64_t taps = taps_of(conv), bytes = (conv->channels_in + 7) / 8, steps = steps_of(conv);
    memset(prepacked, 0, weights_size(conv));
    for (int64_t channel = 0; channel < conv->channels_out; ++channel) {
        const int64_t group = channel / group_channels(conv), member = channel % group_channels(conv);
        uint8_t* row = (uint8_t*)prepacked + (group * pairs_of(conv) + member / 2) * steps;
        for (int64_t nibble = 0; nibble < nibbles_of(conv); ++nibble) {
            for (int64_t tap = 0; tap < taps; ++tap) {
                const unsigned bits = weight_nibble(conv, weights + (channel * taps + tap) * bytes, nibble);
                row[nibble * taps + tap] |= (uint8_t)(bits << (member % 2 * NIBBLE));
            }
        }
    }
}

/* ------------------------------------------------------------------------------------------------------------------
 * The plan of a run */

typedef struct Axis {
    int64_t phases; /* remainders of padded coordinates that taps fall on; tap t falls on that of tap t % phases */
    int64_t length; /* elements of each phase that are read */
} Axis;

typedef struct Plan {
    Axis axes[2];
    int64_t row;          /* bytes from one row of a plane to the next */
    int64_t plane;        /* bytes of a plane */
    int64_t group_planes; /* planes of one group of one image; the last is all padding where steps had to be added */
    int64_t steps;
    bool gathers;
    int64_t vectors; /* of a full tile */
    int64_t tile;    /* lanes of it */
    int64_t lanes;   /* of one image, with the gaps; of all images together where the bytes are gathered */
    int64_t tiles;
    int64_t blocks; /* of channels, in a group */
    /* Where in `packed` each part begins, in bytes. */
    size_t offsets, totals, magnitudes, k, planes, end;
} Plan;

static int64_t divisor(int64_t a, int64_t b) {
    return b == 0 ? a : divisor(b, a % b);
}

static Axis axis_of(const BnasRun* run, int axis) {
    const BnasConv* conv = run->conv;
    const int64_t taps = conv->kernel[axis], stride = conv->strides[axis], dilation = conv->dilations[axis];
    return (Axis){smaller(taps, stride / divisor(stride, dilation)), run->out_size[axis] + (taps - 1) * dilation / stride};
}

/* Elements of a phase before padded coordinate `end`. */
static int64_t elements_before(const BnasConv* conv, int axis, int64_t phase, int64_t end) {
    const int64_t stride = conv->strides[axis], remainder = phase * conv->dilations[axis] % stride;
    return end <= remainder ? 0 : parts(end - remainder, stride);
}

/* The elements of a phase that hold pixels: from `first` up to `end`. */
typedef struct Range {
    int64_t first, end;
} Range;

static Range pixels_of(const BnasRun* run, const Axis* axes, int axis, int64_t phase) {
    const int64_t before = run->conv->pads[axis];
    Range range = {elements_before(run->conv, axis, phase, before),
                   elements_before(run->conv, axis, phase, before + run->size[axis])};
    range.first = smaller(range.first, axes[axis].length);
    range.end = smaller(range.end, axes[axis].length);
    return range;
}

/* All pixels of a row must fit in, and where a tap reads past its end, the next row must still begin with padding. */
static int64_t row_of(const BnasRun* run, const Axis* axes) {
    int64_t row = run->out_size[1];
    for (int64_t phase = 0; phase < axes[1].phases; ++phase) {
        const Range pixels = pixels_of(run, axes, 1, phase);
        row = larger(row, larger(pixels.end, axes[1].length - pixels.first));
    }
    return row;
}

/* Gathering costs a copy for each step and each 16 pixels of a row, about as much as the look-ups of 2 pairs. */
static bool gathering_pays(const BnasRun* run, int64_t lanes, int64_t vector_bytes) {
    const int64_t pixels = run->out_size[0] * run->out_size[1];
    const int64_t saved = run->batch * parts(lanes, vector_bytes) - parts(run->batch * pixels, vector_bytes);
    const int64_t copies = run->batch * run->out_size[0] * parts(run->out_size[1], 16);
    return saved * pairs_of(run->conv) > 2 * copies;
}

static size_t place(size_t* end, int64_t count, size_t size) {
    const size_t start = *end;
    *end = bnas_aligned(bnas_sum(start, bnas_product((size_t)count, size)));
    return start;
}

static Plan plan_of(const BnasRun* run, const Lut2* lut2) {
    const BnasConv* conv = run->conv;
    const int64_t pixels = run->out_size[0] * run->out_size[1];
    Plan plan = {.axes = {axis_of(run, 0), axis_of(run, 1)}, .steps = steps_of(conv), .vectors = VECTORS};
    plan.row = row_of(run, plan.axes);
    plan.plane = plan.axes[0].length * plan.row;
    const int64_t planes = nibbles_of(conv) * plan.axes[0].phases * plan.axes[1].phases;
    plan.group_planes = planes + (plan.steps > nibbles_of(conv) * taps_of(conv) ? 1 : 0);
    plan.lanes = (run->out_size[0] - 1) * plan.row + run->out_size[1];
    plan.gathers = gathering_pays(run, plan.lanes, lut2->vector_bytes);
    if (plan.gathers) {
        plan.lanes = run->batch * pixels;
        while (plan.vectors > 1 && plan.steps * plan.vectors * lut2->vector_bytes > GATHERED_BYTES) {
            plan.vectors /= 2;
        }
    }
    plan.tile = plan.vectors * lut2->vector_bytes;
    plan.tiles = parts(plan.lanes, plan.tile);
    plan.blocks = parts(pairs_of(conv), BLOCK_PAIRS);
    plan.offsets = bnas_aligned(sizeof plan);
    size_t end = plan.offsets;
    plan.offsets = place(&end, 2 * plan.steps, sizeof(int32_t));
    plan.totals = place(&end, pixels, sizeof(int32_t));
    plan.magnitudes = place(&end, conv->uses_k ? run->batch * run->size[0] * run->size[1] : 0, sizeof(double));
    plan.k = place(&end, conv->uses_k ? run->batch * pixels : 0, sizeof(float));
    plan.planes = place(&end, run->batch * conv->groups * plan.group_planes, (size_t)plan.plane);
    /* Vectors end past the last pixel, and the last row's taps past the last row. */
    plan.end = bnas_sum(end, (size_t)(plan.axes[1].length + VECTORS * WIDEST));
    const size_t group = bnas_product((size_t)plan.group_planes, (size_t)plan.plane);
    const size_t most = INT32_MAX / (2 * BLOCK_PAIRS); /* the kernels' indices are 32 bits wide */
    if (group > INT32_MAX || (size_t)pixels > most || (size_t)(run->size[0] * run->size[1]) > most) {
        plan.end = SIZE_MAX;
    }
    return plan;
}

static const Plan* the_plan(const BnasRun* run) {
    return run->packed;
}

static void* part(const BnasRun* run, size_t start) {
    return (char*)run->packed + start;
}

static uint8_t* group_of(const BnasRun* run, int64_t image, int64_t group) {
    const Plan* plan = the_plan(run);
    uint8_t* planes = part(run, plan->planes);
    return planes + (image * run->conv->groups + group) * plan->group_planes * plan->plane;
}

/* Bytes from a tile's first pixel to what each step reads; behind them the same where the bytes were gathered. */
static void write_offsets(const BnasRun* run, const Plan* plan) {
    const BnasConv* conv = run->conv;
    const Axis *rows = &plan->axes[0], *columns = &plan->axes[1];
    const int64_t taps = taps_of(conv), real = nibbles_of(conv) * taps;
    const int64_t nibble = rows->phases * columns->phases * plan->plane;
    int32_t *offsets = part(run, plan->offsets), *gathered = offsets + plan->steps;
    int64_t step = 0;
    for (int64_t y = 0; y < conv->kernel[0]; ++y) {
        const int64_t down = y * conv->dilations[0] / conv->strides[0] * plan->row;
        for (int64_t x = 0; x < conv->kernel[1]; ++x, ++step) {
            const int64_t plane = y % rows->phases * columns->phases + x % columns->phases;
            const int64_t right = x * conv->dilations[1] / conv->strides[1];
            offsets[step] = (int32_t)(plane * plan->plane + down + right);
        }
    }
    for (; step < real; ++step) {
        offsets[step] = offsets[step - taps] + (int32_t)nibble;
    }
    for (; step < plan->steps; ++step) {
        offsets[step] = (int32_t)((plan->group_planes - 1) * plan->plane);
    }
    for (step = 0; step < plan->steps; ++step) {
        gathered[step] = (int32_t)(step * (plan->tile + WIDEST));
    }
}

/* How many taps along an axis fall on the image. */
static int32_t inside(const BnasRun* run, int axis, int64_t position) {
    const BnasConv* conv = run->conv;
    int32_t count = 0;
    for (int64_t tap = 0; tap < conv->kernel[axis]; ++tap) {
        const int64_t at = position * conv->strides[axis] + tap * conv->dilations[axis] - conv->pads[axis];
        count += at >= 0 && at < run->size[axis];
    }
    return count;
}

/* totals: the number of signs under the kernel, for each output pixel. */
static void write_totals(const BnasRun* run, const Plan* plan) {
    const int64_t height = run->out_size[0], width = run->out_size[1];
    int32_t *totals = part(run, plan->totals), before = -1;
    for (int64_t y = 0; y < height; ++y) {
        const int32_t rows = inside(run, 0, y);
        int32_t* row = totals + y * width;
        if (rows == before) {
            memcpy(row, row - width, (size_t)width * sizeof *row);
            continue;
        }
        for (int64_t x = 0; x < width; ++x) {
            row[x] = rows * inside(run, 1, x) * (int32_t)run->conv->channels_in;
        }
        before = rows;
    }
}

static void prepare_run(const BnasRun* run, const Lut2* lut2) {
    const Plan plan = plan_of(run, lut2);
    memcpy(run->packed, &plan, sizeof plan);
    write_offsets(run, &plan);
    write_totals(run, &plan);
    const size_t behind = plan.planes + (size_t)(run->batch * run->conv->groups * plan.group_planes * plan.plane);
    memset(part(run, behind), PADDING, plan.end - behind);
}

/* ------------------------------------------------------------------------------------------------------------------
 * Packing: one unit per plane of 4 channels, with all its phases, and where steps were added one that is all padding. */

static int64_t pack_units_of(const BnasRun* run, const Plan* plan) {
    const int64_t padding = plan->steps > nibbles_of(run->conv) * taps_of(run->conv) ? 1 : 0;
    return run->batch * run->conv->groups * (nibbles_of(run->conv) + padding);
}

/* memcpy of few bytes, in line. */
static inline void copy(void* to, const void* from, int64_t bytes) {
    char* out = to;
    const char* in = from;
    if (bytes >= 16) {
        for (int64_t i = 0; i < bytes - 16; i += 16) {
            memcpy(out + i, in + i, 16);
        }
        memcpy(out + bytes - 16, in + bytes - 16, 16);
    } else if (bytes >= 8) {
        memcpy(out, in, 8);
        memcpy(out + bytes - 8, in + bytes - 8, 8);
    } else if (bytes >= 4) {
        memcpy(out, in, 4);
        memcpy(out + bytes - 4, in + bytes - 4, 4);
    } else {
        for (int64_t i = 0; i < bytes; ++i) {
            out[i] = in[i];
        }
    }
}

/* Some rows of the image, and the rows of a plane that take every `stride`th of their bytes. */
typedef struct Rows {
    int64_t count, length, stride;
    const uint8_t* from;
    int64_t from_step;
    uint8_t* to;
    int64_t to_step;
} Rows;

static void copy_rows(const Lut2* lut2, Rows rows) {
    if (rows.stride == 2) {
        lut2->halve((int32_t)rows.count, (int32_t)rows.length, (int32_t)rows.from_step, (int32_t)rows.to_step,
                    rows.from, rows.to);
        return;
    }
    for (int64_t row = 0; row < rows.count; ++row, rows.from += rows.from_step, rows.to += rows.to_step) {
        if (rows.stride == 1) {
            copy(rows.to, rows.from, rows.length);
            continue;
        }
        for (int64_t i = 0; i < rows.length; ++i) {
            rows.to[i] = rows.from[i * rows.stride];
        }
    }
}

/* Spreads packed rows, from `first` up to `end` of the image, over the planes that have them. */
static void spread_rows(const BnasRun* run, const Lut2* lut2, const uint8_t* pixels, Range image, uint8_t* planes) {
    const BnasConv* conv = run->conv;
    const Plan* plan = the_plan(run);
    const int64_t stride_y = conv->strides[0], stride_x = conv->strides[1], width = run->size[1];
    for (int64_t down = 0; down < plan->axes[0].phases; ++down) {
        Range rows = {elements_before(conv, 0, down, image.first + conv->pads[0]),
                      elements_before(conv, 0, down, image.end + conv->pads[0])};
        rows.end = smaller(rows.end, plan->axes[0].length);
        const int64_t row_zero = down * conv->dilations[0] % stride_y - conv->pads[0] - image.first;
        for (int64_t right = 0; right < plan->axes[1].phases; ++right, planes += plan->plane) {
            const Range columns = pixels_of(run, plan->axes, 1, right);
            const int64_t column_zero = right * conv->dilations[1] % stride_x - conv->pads[1];
            copy_rows(lut2, (Rows){
                                .count = rows.end - rows.first,
                                .length = columns.end - columns.first,
                                .stride = stride_x,
                                .from = pixels + (rows.first * stride_y + row_zero) * width +
                                        columns.first * stride_x + column_zero,
                                .from_step = stride_y * width,
                                .to = planes + rows.first * plan->row + columns.first,
                                .to_step = plan->row,
                            });
        }
    }
}

static void pack_plane(const BnasRun* run, const Lut2* lut2, int64_t unit, void* scratch) {
    const BnasConv* conv = run->conv;
    const Plan* plan = the_plan(run);
    const int64_t height = run->size[0], width = run->size[1], phases = plan->axes[0].phases * plan->axes[1].phases;
    const int64_t units = pack_units_of(run, plan) / (run->batch * conv->groups), nibble = unit % units;
    const int64_t image = unit / units / conv->groups, group = unit / units % conv->groups;
    uint8_t* planes = group_of(run, image, group) + nibble * phases * plan->plane;
    if (nibble == nibbles_of(conv)) {
        memset(planes, PADDING, (size_t)plan->plane);
        return;
    }
    const int64_t channel = group * conv->channels_in + nibble * NIBBLE;
    const int32_t channels = (int32_t)smaller(NIBBLE, conv->channels_in - nibble * NIBBLE);
    const float* x[NIBBLE];
    for (int32_t i = 0; i < NIBBLE; ++i) {
        x[i] = bnas_channel(run, image, channel + smaller(i, channels - 1));
    }
    const int64_t pixels = height * width;
    if (phases == 1 && conv->strides[0] * conv->strides[1] == 1 && plan->plane == pixels && plan->row == width &&
        conv->pads[0] == 0 && conv->pads[1] == 0) {
        lut2->pack(channels, (int32_t)pixels, x[0], x[1], x[2], x[3], conv->threshold + channel, planes);
        return;
    }
    memset(planes, PADDING, (size_t)(phases * plan->plane));
    const int64_t rows = larger(1, PACK_PIXELS / width);
    for (int64_t y = 0; y < height; y += rows) {
        const int64_t taken = smaller(rows, height - y);
        const int64_t at = y * width;
        lut2->pack(channels, (int32_t)(taken * width), x[0] + at, x[1] + at, x[2] + at, x[3] + at,
                   conv->threshold + channel, scratch);
        spread_rows(run, lut2, scratch, (Range){y, y + taken}, planes);
    }
}

/* ------------------------------------------------------------------------------------------------------------------
 * K: the sums over the channels are units of the first stage, the map is the second. */

static int64_t magnitude_tiles(const BnasRun* run) {
    return run->conv->uses_k ? parts(run->size[0] * run->size[1], BNAS_MAGNITUDES_TILE) : 0;
}

static void sum_magnitudes(const BnasRun* run, int64_t unit) {
    const int64_t image = unit / magnitude_tiles(run), plane = run->size[0] * run->size[1];
    const int64_t first = unit % magnitude_tiles(run) * BNAS_MAGNITUDES_TILE;
    double* magnitudes = (double*)part(run, the_plan(run)->magnitudes) + image * plane + first;
    bnas_sum_magnitudes(run, image, first, smaller(BNAS_MAGNITUDES_TILE, plane - first), magnitudes);
}

static int64_t k_units(const BnasRun* run) {
    return run->conv->uses_k ? run->batch * run->out_size[0] : 0;
}

static void compute_k(const BnasRun* run, int64_t unit, void* scratch) {
    const int64_t image = unit / run->out_size[0], y = unit % run->out_size[0];
    const double* magnitudes = (const double*)part(run, the_plan(run)->magnitudes);
    float* k = (float*)part(run, the_plan(run)->k) + unit * run->out_size[1];
    (void)scratch;
    for (int64_t x = 0; x < run->out_size[1]; ++x) {
        k[x] = bnas_k_of(run, magnitudes + image * run->size[0] * run->size[1], y, x);
    }
}

/* ------------------------------------------------------------------------------------------------------------------
 * Convolution */

/* Some consecutive output channels of one group. */
typedef struct Channels {
    int64_t group, first, count;
} Channels;

static Channels channels_of(const BnasConv* conv, int64_t group, int64_t block) {
    const int64_t first = block * 2 * BLOCK_PAIRS, left = group_channels(conv) - first;
    return (Channels){group, first, smaller(2 * BLOCK_PAIRS, left)};
}

static void count_channels(const BnasRun* run, const Lut2* lut2, Channels channels, int64_t lanes,
                           const uint8_t* pixels, uint16_t* counts) {
    const Plan* plan = the_plan(run);
    const int32_t* offsets = (const int32_t*)part(run, plan->offsets) + (plan->gathers ? plan->steps : 0);
    const int64_t pair = channels.group * pairs_of(run->conv) + channels.first / 2;
    lut2->count((int32_t)parts(lanes, lut2->vector_bytes), (int32_t)parts(channels.count, 2), (int32_t)plan->steps,
                pixels, offsets, (const uint8_t*)run->weights + pair * plan->steps, tables, counts);
}

/* Writes `count` pixels of one image, from `pixel` on. */
static void finish_pixels(const BnasRun* run, const Lut2* lut2, Channels channels, int64_t image, int64_t pixel,
                          int64_t count, const uint16_t* counts) {
    const BnasConv* conv = run->conv;
    const Plan* plan = the_plan(run);
    const int64_t pixels = run->out_size[0] * run->out_size[1];
    const int64_t channel = channels.group * group_channels(conv) + channels.first;
    const int64_t map = conv->offset_shape[0] * conv->offset_shape[1];
    const float* k = (const float*)part(run, plan->k) + image * pixels + pixel;
    const int64_t at = (image * conv->channels_out + channel) * pixels + pixel;
    lut2->finish((int32_t)channels.count, (int32_t)count, conv->activation, conv->uses_k, (int32_t)map,
                 (int32_t)pixels, counts, (const int32_t*)part(run, plan->totals) + pixel,
                 conv->offset + channel * map + (map > 1 ? pixel : 0), conv->scale + channel, conv->bias + channel,
                 conv->slope ? conv->slope + channel : NULL, k, run->y + at);
    for (int64_t i = 0; i < conv->added; ++i) {
        lut2->add((int32_t)channels.count, (int32_t)count, (int32_t)pixels, run->added[i] + at, run->y + at);
    }
}

/* A tile's lanes are pixels with the gaps between rows. Rows that are long enough are finished where they are, short ones
 * are moved together first. */
static void finish_rows(const BnasRun* run, const Lut2* lut2, Channels channels, int64_t image, Range lanes,
                        uint16_t* counts, uint16_t* joined) {
    const Plan* plan = the_plan(run);
    const int64_t width = run->out_size[1], stride = VECTORS * lut2->vector_bytes;
    int64_t start = 0, count = 0;
    for (int64_t y = lanes.first / plan->row; y * plan->row < lanes.end; ++y) {
        const int64_t from = larger(lanes.first, y * plan->row), to = smaller(lanes.end, y * plan->row + width);
        const int64_t pixel = y * width + from - y * plan->row, length = to - from;
        if (length <= 0) {
            continue;
        }
        if (width >= LONG_ROW) {
            finish_pixels(run, lut2, channels, image, pixel, length, counts + from - lanes.first);
            continue;
        }
        start = count == 0 ? pixel : start;
        for (int64_t channel = 0; channel < channels.count; ++channel) {
            copy(joined + channel * stride + count, counts + channel * stride + from - lanes.first,
                 length * (int64_t)sizeof *counts);
        }
        count += length;
    }
    if (count > 0) {
        finish_pixels(run, lut2, channels, image, start, count, joined);
    }
}

static void convolve_planes(const BnasRun* run, const Lut2* lut2, int64_t unit, void* scratch) {
    const Plan* plan = the_plan(run);
    const int64_t block = unit % plan->blocks, tile = unit / plan->blocks % plan->tiles;
    const int64_t group = unit / plan->blocks / plan->tiles % run->conv->groups;
    const int64_t image = unit / plan->blocks / plan->tiles / run->conv->groups;
    const Channels channels = channels_of(run->conv, group, block);
    const Range lanes = {tile * plan->tile, smaller(plan->lanes, (tile + 1) * plan->tile)};
    uint16_t *counts = scratch, *joined = counts + 2 * BLOCK_PAIRS * VECTORS * lut2->vector_bytes;
    const uint8_t* pixels = group_of(run, image, group) + lanes.first;
    count_channels(run, lut2, channels, lanes.end - lanes.first, pixels, counts);
    if (plan->row == run->out_size[1]) {
        finish_pixels(run, lut2, channels, image, lanes.first, lanes.end - lanes.first, counts);
    } else {
        finish_rows(run, lut2, channels, image, lanes, counts, joined);
    }
}

/* gathered: (steps, tile + WIDEST), the bytes of pixels `lanes` of all images together. Copies are whole vectors: what they
 * write too much, the next row overwrites, or lies in the room behind the tile. */
static void gather(const BnasRun* run, int64_t group, Range lanes, uint8_t* gathered) {
    const Plan* plan = the_plan(run);
    const int64_t width = run->out_size[1], pixels = run->out_size[0] * width;
    const int32_t* offsets = part(run, plan->offsets);
    for (int64_t lane = lanes.first, length; lane < lanes.end; lane += length) {
        const int64_t image = lane / pixels, y = lane % pixels / width, x = lane % width;
        length = smaller(width - x, lanes.end - lane);
        const uint8_t* from = group_of(run, image, group) + y * plan->row + x;
        uint8_t* to = gathered + lane - lanes.first;
        for (int64_t step = 0; step < plan->steps; ++step) {
            for (int64_t i = 0; i < length; i += 16) {
                memcpy(to + step * (plan->tile + WIDEST) + i, from + offsets[step] + i, 16);
            }
        }
    }
}

static void convolve_gathered(const BnasRun* run, const Lut2* lut2, int64_t unit, void* scratch) {
    const Plan* plan = the_plan(run);
    const int64_t group = unit % run->conv->groups, tile = unit / run->conv->groups;
    const int64_t pixels = run->out_size[0] * run->out_size[1];
    const Range lanes = {tile * plan->tile, smaller(plan->lanes, (tile + 1) * plan->tile)};
    uint16_t* counts = scratch;
    uint8_t* gathered = (uint8_t*)(counts + 2 * BLOCK_PAIRS * VECTORS * lut2->vector_bytes);
    gather(run, group, lanes, gathered);
    for (int64_t block = 0; block < plan->blocks; ++block) {
        const Channels channels = channels_of(run->conv, group, block);
        count_channels(run, lut2, channels, lanes.end - lanes.first, gathered, counts);
        for (int64_t lane = lanes.first, length; lane < lanes.end; lane += length) {
            length = smaller(pixels - lane % pixels, lanes.end - lane);
            finish_pixels(run, lut2, channels, lane / pixels, lane % pixels, length, counts + lane - lanes.first);
        }
    }
}

/* ------------------------------------------------------------------------------------------------------------------
 * The kernels: one per row of runtime/kernels/variants.py. */

static size_t packed_bytes(const BnasRun* run, const Lut2* lut2) {
    return plan_of(run, lut2).end;
}

static size_t scratch_bytes(const BnasRun* run, const Lut2* lut2) {
    const Plan plan = plan_of(run, lut2);
    const size_t counts = (size_t)(2 * BLOCK_PAIRS * VECTORS * lut2->vector_bytes) * sizeof(uint16_t);
    const size_t gathered = plan.gathers ? bnas_product((size_t)plan.steps, (size_t)(plan.tile + WIDEST)) : counts;
    return (size_t)larger((int64_t)bnas_sum(counts, gathered), larger(PACK_PIXELS, run->size[1]) + WIDEST);
}

static int64_t first_units(const BnasRun* run, const Lut2* lut2) {
    const Plan plan = plan_of(run, lut2);
    return pack_units_of(run, &plan) + run->batch * magnitude_tiles(run);
}

static void first_stage(const BnasRun* run, const Lut2* lut2, int64_t unit, void* scratch) {
    const int64_t planes = pack_units_of(run, the_plan(run));
    if (unit < planes) {
        pack_plane(run, lut2, unit, scratch);
    } else {
        sum_magnitudes(run, unit - planes);
    }
}

static int64_t last_units(const BnasRun* run, const Lut2* lut2) {
    const Plan plan = plan_of(run, lut2);
    return run->conv->groups * plan.tiles * (plan.gathers ? 1 : run->batch * plan.blocks);
}

static void last_stage(const BnasRun* run, const Lut2* lut2, int64_t unit, void* scratch) {
    (the_plan(run)->gathers ? convolve_gathered : convolve_planes)(run, lut2, unit, scratch);
}

#define BNAS_LUT2(name, level, width)                                                                                  \
    Pack bnas_##name##_pack;                                                                                           \
    Count bnas_##name##_count;                                                                                         \
    Finish bnas_##name##_finish;                                                                                       \
    Add bnas_##name##_add;                                                                                             \
    Halve bnas_##name##_halve;                                                                                         \
    static const Lut2 name = {width, bnas_##name##_pack, bnas_##name##_count, bnas_##name##_finish,                    \
                              bnas_##name##_add, bnas_##name##_halve};                                                 \
    static size_t packed_size_##name(const BnasRun* run) { return packed_bytes(run, &name); }                          \
    static size_t scratch_size_##name(const BnasRun* run) { return scratch_bytes(run, &name); }                        \
    static void prepare_##name(const BnasRun* run) { prepare_run(run, &name); }                                        \
    static int64_t first_units_##name(const BnasRun* run) { return first_units(run, &name); }                          \
    static void first_##name(const BnasRun* run, int64_t unit, void* scratch) { first_stage(run, &name, unit, scratch); } \
    static int64_t last_units_##name(const BnasRun* run) { return last_units(run, &name); }                            \
    static void last_##name(const BnasRun* run, int64_t unit, void* scratch) { last_stage(run, &name, unit, scratch); } \
    const BnasKernel bnas_##name##_kernel = {                                                                          \
        .isa = #name,                                                                                                  \
        .runs_here = bnas_cpu_##level,                                                                                 \
        .covers = covers,                                                                                              \
        .weights_size = weights_size,                                                                                  \
        .prepack = prepack,                                                                                            \
        .packed_size = packed_size_##name,                                                                             \
        .scratch_size = scratch_size_##name,                                                                           \
        .prepare = prepare_##name,                                                                                     \
        .stages = {{first_units_##name, first_##name}, {k_units, compute_k}, {last_units_##name, last_##name}},        \
    };
#include "lut2_rows.h"
