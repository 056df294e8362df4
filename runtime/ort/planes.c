/* The generated kernels: where their vectors of pixels lie. The counting itself is in runtime/kernels, lowered by TVM to
 * one object per instruction set; docs/kernels.md describes both.
 *
 * Activations are packed into planes: a byte holds the signs of 4, 6 or 8 channels of one pixel, and tells, with some
 * ways of counting, where the image has ended. With stride s there is one plane for each remainder of the padded
 * coordinates modulo s that a tap falls on. So all taps of a tile of pixels are runs of consecutive bytes, each at its own
 * distance from the tile's first pixel, and the kernels read them where they are.
 *
 * Where an image has too few pixels to fill vectors, lanes are output channels instead, and pairs of pixels take the
 * part that pairs of channels have otherwise. A plane is then of codes, one for each pair of pixels that are neighbours.
 *
 * A row of a plane ends with so few padding bytes that the last taps of a row read the padding before the next one. What
 * a vector computes between two rows of the output is dropped. Where that is much, the bytes are gathered first, and a
 * tile then holds pixels of any number of rows and images without a gap. */
#include "kernel.h"
#include "look_up_tables.h"

#include <string.h>

/* runtime/kernels/look_up.py, popcount.py and elementwise.py say what these do. */
typedef int32_t Pack(int32_t channels, int32_t count, const float* x0, const float* x1, const float* x2,
                     const float* x3, const float* x4, const float* x5, const float* x6, const float* x7,
                     const float* threshold, uint8_t* bits);
typedef int32_t Count(int32_t vectors, int32_t rows, int32_t steps, const uint8_t* planes, const int32_t* offsets,
                      const uint8_t* weights, const uint8_t* tables, uint16_t* counts);
typedef int32_t Finish(int32_t channels, int32_t count, int32_t activation, int32_t uses_k, int32_t offset_stride,
                       int32_t added, int32_t y_stride, const uint16_t* counts, const int32_t* totals,
                       const float* offset, const float* scale, const float* bias, const float* slope, const float* k,
                       const float* added1, const float* added2, float* y);
typedef int32_t Halve(int32_t rows, int32_t count, int32_t bytes_step, int32_t halved_step, const uint8_t* bytes,
                      uint8_t* halved);

typedef int32_t Encode(int32_t count, int32_t distance, const uint8_t* pixels, uint16_t* codes);
typedef int32_t CountChannels(int32_t vectors, int32_t pairs, int32_t steps, const uint8_t* weights,
                              const uint16_t* codes, const int32_t* offsets, const int32_t* positions,
                              const uint8_t* tables, uint16_t* counts);
typedef int32_t Transpose(int32_t rows, int32_t columns, int32_t stride, const uint16_t* counts, uint16_t* transposed);
typedef int32_t Subtract(int32_t channels, int32_t vectors, const uint16_t* classes, const uint16_t* tables,
                         uint16_t* counts);

/* A row of runtime/kernels/variants.py, which says what the numbers mean. */
typedef struct Variant {
    int64_t vector_bytes;
    int64_t vectors; /* in a tile, at most */
    int64_t channels, outputs, multiple, padding;
    Pack* pack;
    Count* count;
    Finish* finish;
    Halve* halve;
    const uint8_t* tables;
    const uint8_t* pair_tables; /* of two pixels; this and the next three are NULL where lanes are always pixels */
    Encode* encode;
    CountChannels* count_channels;
    Transpose* transpose;
    Subtract* subtract; /* may be NULL: where padding counts nothing, or C has to subtract that */
} Variant;

enum {
    MOST_CHANNELS = 8,       /* in a byte */
    CLASSES = 32,            /* of pixels whose padding is subtracted by look-up */
    WIDEST = 64,             /* bytes in a vector, at most */
    WIDEST_TILE = 256,       /* bytes in a tile, at most */
    BLOCK_CHANNELS = 16,     /* of output: their counts of a tile, at most 8 KB, stay in the first-level cache */
    BLOCK_PIXELS = 16,       /* the same where lanes are channels */
    SQUARE = 8,              /* counts are transposed in squares */
    MOST_COUNTED = 65535,    /* counts are 16 bits wide */
    PACK_PIXELS = 4096,      /* packed at a time, before they are spread over the planes */
    GATHERED_BYTES = 24576,  /* of a tile, at most where that leaves a vector: they stay in the first-level cache */
    LONG_ROW = 48,           /* from so many pixels on, outputs are finished row by row */
};

static int64_t smaller(int64_t a, int64_t b) {
    return a < b ? a : b;
}

static int64_t larger(int64_t a, int64_t b) {
    return a > b ? a : b;
}

static int64_t parts(int64_t whole, int64_t part) {
    return (whole + part - 1) / part;
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

/* Lanes that fill a tile. */
static int64_t tile_lanes(const Variant* variant) {
    return variant->vectors * variant->vector_bytes;
}

/* LUT2 ignores an index of 0x80. 0 is compared like any other byte: there every 1 of a padded tap's weights counts. */
static bool counts_padding(const Variant* variant) {
    return variant->padding == 0;
}

/* ------------------------------------------------------------------------------------------------------------------
 * Weights: uint8 (groups, rows, steps, step_bytes), a row for each output channel, or for two, which share a byte where
 * they fit in one. Before them, where lanes can be channels, uint8 (groups, steps, lanes), a channel in a byte, where each
 * full tile of lanes is an array of its own. Behind them, where padding counts, sums of the weights' ones.
 * Step k is tap k % taps of the channels in byte k / taps. */

static int64_t taps_of(const BnasConv* conv) {
    return conv->kernel[0] * conv->kernel[1];
}

/* Bytes of a pixel, and of a tap. */
static int64_t bytes_of(const BnasConv* conv, const Variant* variant) {
    return parts(conv->channels_in, variant->channels);
}

static int64_t steps_of(const BnasConv* conv, const Variant* variant) {
    return parts(bytes_of(conv, variant) * taps_of(conv), variant->multiple) * variant->multiple;
}

static bool adds_steps(const BnasConv* conv, const Variant* variant) {
    return steps_of(conv, variant) > bytes_of(conv, variant) * taps_of(conv);
}

static int64_t group_channels(const BnasConv* conv) {
    return conv->channels_out / conv->groups;
}

static int64_t rows_of(const BnasConv* conv, const Variant* variant) {
    return parts(group_channels(conv), variant->outputs);
}

/* Of a row's weights. */
static int64_t step_bytes(const Variant* variant) {
    return variant->channels * variant->outputs > 8 ? variant->outputs : 1;
}

static bool covers_conv(const BnasConv* conv, const Variant* variant) {
    return taps_of(conv) * bytes_of(conv, variant) * variant->channels <= MOST_COUNTED;
}

/* Of one group. */
static int64_t channel_lanes(const BnasConv* conv, const Variant* variant) {
    return variant->count_channels ? parts(group_channels(conv), variant->vector_bytes) * variant->vector_bytes : 0;
}

static size_t channel_weights_size(const BnasConv* conv, const Variant* variant) {
    const size_t lanes = bnas_product((size_t)conv->groups, (size_t)channel_lanes(conv, variant));
    return bnas_aligned(bnas_product(lanes, (size_t)steps_of(conv, variant)));
}

/* Where the sums of ones begin. */
static size_t ones_start(const BnasConv* conv, const Variant* variant) {
    const size_t rows = bnas_product((size_t)conv->groups, (size_t)rows_of(conv, variant));
    const size_t bits = bnas_product(rows, (size_t)(steps_of(conv, variant) * step_bytes(variant)));
    return bnas_aligned(bnas_sum(channel_weights_size(conv, variant), bits));
}

static size_t weights_bytes(const BnasConv* conv, const Variant* variant) {
    const size_t corners = (size_t)((conv->kernel[0] + 1) * (conv->kernel[1] + 1));
    const size_t ones = bnas_product(bnas_product(corners, (size_t)conv->channels_out), sizeof(uint16_t));
    return bnas_sum(ones_start(conv, variant), counts_padding(variant) ? ones : 0);
}

static const uint8_t* row_weights(const BnasRun* run, const Variant* variant) {
    return (const uint8_t*)run->weights + channel_weights_size(run->conv, variant);
}

/* Of the channels of a group from `first` on, which full tiles divide. */
static const uint8_t* channel_weights(const BnasRun* run, const Variant* variant, int64_t group, int64_t first) {
    const int64_t lane = group * channel_lanes(run->conv, variant) + first;
    return (const uint8_t*)run->weights + lane * steps_of(run->conv, variant);
}

/* The byte's bits of one tap's weights, which are packed as the node has them. */
static unsigned weight_bits(const BnasConv* conv, const Variant* variant, const uint8_t* tap, int64_t byte) {
    const int64_t first = byte * variant->channels, present = smaller(variant->channels, conv->channels_in - first);
    unsigned bits = tap[first / 8];
    if (first % 8 + present > 8) {
        bits |= (unsigned)tap[first / 8 + 1] << 8;
    }
    return bits >> first % 8 & ((1u << present) - 1u); /* the function body cuts the rest off as well */
}

static unsigned ones_of_byte(unsigned byte) {
    return (unsigned)(BNAS_NIBBLE_ONES(byte & 15) + BNAS_NIBBLE_ONES(byte >> 4));
}

/* ones: uint16 (kernel height + 1, kernel width + 1, channels_out). An element counts the ones in the weights of the taps
 * above and to the left of a corner between taps. */
static void sum_ones(const BnasConv* conv, const Variant* variant, const uint8_t* weights, uint16_t* ones) {
    const int64_t bytes = (conv->channels_in + 7) / 8, outputs = conv->channels_out;
    const int64_t line = (conv->kernel[1] + 1) * outputs;
    memset(ones, 0, (size_t)((conv->kernel[0] + 1) * line) * sizeof *ones);
    for (int64_t y = 0; y < conv->kernel[0]; ++y) {
        for (int64_t x = 0; x < conv->kernel[1]; ++x) {
            for (int64_t channel = 0; channel < outputs; ++channel) {
                const uint8_t* tap = weights + ((channel * conv->kernel[0] + y) * conv->kernel[1] + x) * bytes;
                uint16_t* corner = ones + y * line + x * outputs + channel;
                unsigned sum = (unsigned)corner[line] + corner[outputs] - corner[0];
                for (int64_t byte = 0; byte < bytes_of(conv, variant); ++byte) {
                    sum += ones_of_byte(weight_bits(conv, variant, tap, byte));
                }
                corner[line + outputs] = (uint16_t)sum;
            }
        }
    }
}

static void prepack_weights(const BnasConv* conv, const Variant* variant, const uint8_t* weights, uint8_t* prepacked) {
    const int64_t taps = taps_of(conv), bytes = (conv->channels_in + 7) / 8, steps = steps_of(conv, variant);
    const int64_t lanes = channel_lanes(conv, variant), block = tile_lanes(variant);
    uint8_t* rows = prepacked + channel_weights_size(conv, variant);
    memset(prepacked, 0, ones_start(conv, variant));
    for (int64_t channel = 0; channel < conv->channels_out; ++channel) {
        const int64_t group = channel / group_channels(conv), member = channel % group_channels(conv);
        const int64_t first = member / block * block, width = smaller(block, lanes - first);
        const int64_t place = member % variant->outputs, row_step = step_bytes(variant);
        uint8_t* row = rows + (group * rows_of(conv, variant) + member / variant->outputs) * steps * row_step;
        uint8_t* column = prepacked + (group * lanes + first) * steps + member - first;
        for (int64_t byte = 0; byte < bytes_of(conv, variant); ++byte) {
            for (int64_t tap = 0; tap < taps; ++tap) {
                const unsigned bits = weight_bits(conv, variant, weights + (channel * taps + tap) * bytes, byte);
                const int64_t step = byte * taps + tap;
                if (row_step > 1) {
                    row[step * row_step + place] = (uint8_t)bits;
                } else {
                    row[step] |= (uint8_t)(bits << (place * variant->channels));
                }
                if (variant->count_channels) {
                    column[step * width] = (uint8_t)bits;
                }
            }
        }
    }
    if (counts_padding(variant)) {
        sum_ones(conv, variant, weights, (uint16_t*)(prepacked + ones_start(conv, variant)));
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
    enum { PLANES, GATHERED, CODES } layout;
    enum { NOTHING, CLASSED, RUNS } padding;    /* how what padding has counted is subtracted */
    int64_t vectors; /* of a full tile */
    int64_t tile;    /* lanes of it; pixels where lanes are channels */
    int64_t lanes;   /* of one image, with the gaps; of all images together where the bytes are gathered */
    int64_t tiles;
    int64_t blocks; /* of channels, in a group */
    /* Codes: each of `sets` has a distance between the two pixels, and `set` codes, more than the planes have. */
    int64_t sets, set, distances[2];
    /* Where in `packed` each part begins, in bytes. */
    size_t offsets, positions, taps, totals, classes, class_tables, magnitudes, k, planes, end;
} Plan;

static int64_t divisor(int64_t a, int64_t b) {
    return b == 0 ? a : divisor(b, a % b);
}

static Axis axis_of(const BnasRun* run, int axis) {
    const BnasConv* conv = run->conv;
    const int64_t taps = conv->kernel[axis], stride = conv->strides[axis], dilation = conv->dilations[axis];
    return (Axis){.phases = smaller(taps, stride / divisor(stride, dilation)),
                  .length = run->out_size[axis] + (taps - 1) * dilation / stride};
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

/* Gathering costs a copy for each step and each 16 pixels of a row, about as much as counting 2 rows of weights. */
static bool gathering_pays(const BnasRun* run, const Variant* variant, int64_t lanes) {
    const int64_t vector_bytes = variant->vector_bytes, pixels = run->out_size[0] * run->out_size[1];
    const int64_t saved = run->batch * parts(lanes, vector_bytes) - parts(run->batch * pixels, vector_bytes);
    const int64_t copies = run->batch * run->out_size[0] * parts(run->out_size[1], 16);
    return saved * rows_of(run->conv, variant) > 2 * copies;
}

/* What look-ups cost for each pair: 4 for a vector, and where a tile has no other 1 or 2 more, so that each has to load a
 * table of its own, or to add two. */
static int64_t cost_of(const Variant* variant, int64_t lanes) {
    const int64_t vectors = parts(lanes, variant->vector_bytes);
    return 4 * vectors + (vectors % variant->vectors == 1 ? step_bytes(variant) : 0);
}

/* Counts have to be transposed after lanes that were channels, and are finished a few pixels at a time. For one output that
 * takes as long, on a Zen 4, as a cost of 1 for one step. */
static bool channels_pay(const BnasRun* run, const Variant* variant, int64_t lanes, bool gathers) {
    if (!variant->count_channels) {
        return false;
    }
    const BnasConv* conv = run->conv;
    const int64_t pixels = run->out_size[0] * run->out_size[1], channels = group_channels(conv);
    const int64_t by_pixels = gathers ? cost_of(variant, run->batch * pixels) : run->batch * cost_of(variant, lanes);
    const int64_t by_channels = run->batch * cost_of(variant, channels);
    const int64_t saved = by_pixels * rows_of(conv, variant) - by_channels * parts(pixels, 2);
    return saved * steps_of(conv, variant) > run->batch * pixels * channels;
}

/* The taps along an axis that fall on the image. */
static Range taps_inside(const BnasRun* run, int axis, int64_t position) {
    const BnasConv* conv = run->conv;
    Range taps = {0, 0};
    for (int64_t tap = 0; tap < conv->kernel[axis]; ++tap) {
        const int64_t at = position * conv->strides[axis] + tap * conv->dilations[axis] - conv->pads[axis];
        if (at >= 0 && at < run->size[axis]) {
            taps = (Range){taps.end == 0 ? tap : taps.first, tap + 1};
        }
    }
    return taps;
}

/* Positions of the output whose taps inside are the same ones, one after the other. */
static int64_t classes_along(const BnasRun* run, int axis) {
    int64_t classes = 0;
    Range last = {-1, -1};
    for (int64_t position = 0; position < run->out_size[axis]; ++position) {
        const Range taps = taps_inside(run, axis, position);
        classes += taps.first != last.first || taps.end != last.end;
        last = taps;
    }
    return classes;
}

static bool classed(const BnasRun* run, const Variant* variant) {
    return variant->subtract && classes_along(run, 0) * classes_along(run, 1) <= CLASSES;
}

static size_t place(size_t* end, int64_t count, size_t size) {
    const size_t start = *end;
    *end = bnas_aligned(bnas_sum(start, bnas_product((size_t)count, size)));
    return start;
}

/* Tiles of lanes that are pixels. */
static void plan_pixels(const BnasRun* run, const Variant* variant, Plan* plan) {
    if (plan->layout == GATHERED) {
        plan->lanes = run->batch * run->out_size[0] * run->out_size[1];
        while (plan->vectors > 1 && plan->steps * plan->vectors * variant->vector_bytes > GATHERED_BYTES) {
            plan->vectors /= 2;
        }
    }
    plan->tile = plan->vectors * variant->vector_bytes;
    plan->tiles = parts(plan->lanes, plan->tile);
    plan->blocks = parts(group_channels(run->conv), BLOCK_CHANNELS);
}

/* Tiles of pixels whose lanes are channels. The two pixels of a pair are neighbours in a row, or the last of a row and the
 * first of the next one. */
static void plan_channels(const BnasRun* run, const Variant* variant, Plan* plan) {
    plan->tile = BLOCK_PIXELS;
    plan->tiles = parts(run->out_size[0] * run->out_size[1], BLOCK_PIXELS);
    plan->blocks = parts(group_channels(run->conv), tile_lanes(variant));
    plan->distances[0] = 1;
    plan->distances[1] = plan->row - run->out_size[1] + 1;
    plan->sets = run->out_size[1] % 2 == 1 && run->out_size[0] > 1 ? 2 : 1;
    /* The last row's taps end past it. */
    plan->set = plan->group_planes * plan->plane + plan->axes[1].length;
}

static Plan plan_of(const BnasRun* run, const Variant* variant) {
    const BnasConv* conv = run->conv;
    const int64_t pixels = run->out_size[0] * run->out_size[1];
    Plan plan = {
        .axes = {axis_of(run, 0), axis_of(run, 1)}, .steps = steps_of(conv, variant), .vectors = variant->vectors};
    plan.row = row_of(run, plan.axes);
    plan.plane = plan.axes[0].length * plan.row;
    const int64_t planes = bytes_of(conv, variant) * plan.axes[0].phases * plan.axes[1].phases;
    plan.group_planes = planes + (adds_steps(conv, variant) ? 1 : 0);
    plan.lanes = (run->out_size[0] - 1) * plan.row + run->out_size[1];
    const bool gathers = gathering_pays(run, variant, plan.lanes);
    plan.layout = channels_pay(run, variant, plan.lanes, gathers) ? CODES : gathers ? GATHERED : PLANES;
    (plan.layout == CODES ? plan_channels : plan_pixels)(run, variant, &plan);
    size_t end = 0;
    plan.offsets = place(&end, 2 * plan.steps, sizeof(int32_t));
    plan.positions = place(&end, plan.layout == CODES ? parts(pixels, 2) : 0, sizeof(int32_t));
    plan.taps = place(&end, run->out_size[0] + run->out_size[1], sizeof(Range));
    plan.totals = place(&end, pixels, sizeof(int32_t));
    plan.padding = !counts_padding(variant) || plan.layout == CODES ? NOTHING : classed(run, variant) ? CLASSED : RUNS;
    plan.classes = place(&end, plan.padding == CLASSED ? plan.lanes + WIDEST_TILE : 0, sizeof(uint16_t));
    plan.class_tables = place(&end, plan.padding == CLASSED ? conv->channels_out * CLASSES : 0, sizeof(uint16_t));
    plan.magnitudes = place(&end, conv->uses_k ? run->batch * run->size[0] * run->size[1] : 0, sizeof(double));
    plan.k = place(&end, conv->uses_k ? run->batch * pixels : 0, sizeof(float));
    if (plan.layout == CODES) {
        plan.planes = place(&end, run->batch * conv->groups * plan.sets * plan.set, sizeof(uint16_t));
        plan.end = end;
    } else {
        plan.planes = place(&end, run->batch * conv->groups * plan.group_planes, (size_t)plan.plane);
        /* Vectors end past the last pixel, and the last row's taps past the last row. */
        plan.end = bnas_sum(end, (size_t)(plan.axes[1].length + WIDEST_TILE));
    }
    const size_t group = bnas_product((size_t)plan.group_planes, (size_t)plan.plane);
    const size_t most = INT32_MAX / BLOCK_CHANNELS; /* the kernels' indices are 32 bits wide */
    if (group > INT32_MAX / 4 || (size_t)pixels > most || (size_t)(run->size[0] * run->size[1]) > most) {
        plan.end = SIZE_MAX;
    }
    return plan;
}

_Static_assert(sizeof(Plan) <= BNAS_PLAN_SIZE, "a plan has to fit in a run");

static void plan_run(BnasRun* run, const Variant* variant) {
    const Plan plan = plan_of(run, variant);
    memcpy(run->plan, &plan, sizeof plan);
}

static const Plan* the_plan(const BnasRun* run) {
    return (const Plan*)(const void*)run->plan;
}

static void* part(const BnasRun* run, size_t start) {
    return (char*)run->packed + start;
}

static uint8_t* group_of(const BnasRun* run, int64_t image, int64_t group) {
    const Plan* plan = the_plan(run);
    uint8_t* planes = part(run, plan->planes);
    return planes + (image * run->conv->groups + group) * plan->group_planes * plan->plane;
}

static uint16_t* codes_of(const BnasRun* run, int64_t image, int64_t group, int64_t set) {
    const Plan* plan = the_plan(run);
    uint16_t* codes = part(run, plan->planes);
    return codes + ((image * run->conv->groups + group) * plan->sets + set) * plan->set;
}

/* Padding, where a code is made of it: the look-ups' rows of it are zeros. */
static int padded_pixel(const Variant* variant) {
    return 1 << variant->channels;
}

/* Of two padded pixels. */
static void fill_codes(const Variant* variant, uint16_t* codes, int64_t count) {
    if (count > 0) {
        const uint8_t pair[2] = {(uint8_t)padded_pixel(variant), (uint8_t)padded_pixel(variant)};
        variant->encode(1, 1, pair, codes);
    }
    for (int64_t i = 1; i < count; ++i) {
        codes[i] = codes[0];
    }
}

/* Bytes, or codes, from a tile's first pixel to what each step reads; behind them the same where the bytes were gathered. */
static void write_offsets(const BnasRun* run, const Variant* variant, const Plan* plan) {
    const BnasConv* conv = run->conv;
    const Axis *rows = &plan->axes[0], *columns = &plan->axes[1];
    const int64_t taps = taps_of(conv), real = bytes_of(conv, variant) * taps;
    const int64_t byte = rows->phases * columns->phases * plan->plane;
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
        offsets[step] = offsets[step - taps] + (int32_t)byte;
    }
    for (; step < plan->steps; ++step) {
        offsets[step] = (int32_t)((plan->group_planes - 1) * plan->plane);
    }
    for (step = 0; plan->layout == GATHERED && step < plan->steps; ++step) {
        gathered[step] = (int32_t)(step * (plan->tile + WIDEST));
    }
}

/* taps: those inside for each row of the output, then for each column. */
static void write_taps(const BnasRun* run, const Plan* plan) {
    Range* taps = part(run, plan->taps);
    for (int axis = 0; axis < 2; ++axis) {
        for (int64_t position = 0; position < run->out_size[axis]; ++position) {
            *taps++ = taps_inside(run, axis, position);
        }
    }
}

/* totals: the number of signs under the kernel, for each output pixel. */
static void write_totals(const BnasRun* run, const Plan* plan) {
    const int64_t height = run->out_size[0], width = run->out_size[1];
    const Range *rows = part(run, plan->taps), *columns = rows + height;
    int32_t* totals = part(run, plan->totals);
    int64_t before = 0; /* taps inside, in the row above */
    for (int64_t y = 0; y < height; ++y, totals += width) {
        const int64_t inside = rows[y].end - rows[y].first;
        if (y > 0 && inside == before) {
            memcpy(totals, totals - width, (size_t)width * sizeof *totals);
            continue;
        }
        const int32_t signs = (int32_t)(inside * run->conv->channels_in);
        for (int64_t x = 0; x < width; ++x) {
            totals[x] = signs * (int32_t)(columns[x].end - columns[x].first);
        }
        before = inside;
    }
}

/* Where the code of the first pixel of each pair lies, of those before which a tap is 0 elements away. */
static void write_positions(const BnasRun* run, const Plan* plan) {
    const int64_t width = run->out_size[1], pixels = run->out_size[0] * width;
    int32_t* positions = part(run, plan->positions);
    for (int64_t pixel = 0; pixel < pixels; pixel += 2) {
        const int64_t y = pixel / width, x = pixel % width;
        const int64_t set = x + 1 == width && plan->sets == 2 ? 1 : 0;
        *positions++ = (int32_t)(set * plan->set + y * plan->row + x);
    }
}

static void prepare_codes(const BnasRun* run, const Variant* variant, const Plan* plan) {
    write_positions(run, plan);
    const int64_t used = plan->group_planes * plan->plane;
    for (int64_t set = 0; set < run->batch * run->conv->groups * plan->sets; ++set) {
        fill_codes(variant, codes_of(run, 0, 0, set) + used, plan->set - used);
    }
}

/* The sums of ones for `channel` and those after it. */
static const uint16_t* ones_of(const BnasRun* run, const Variant* variant, int64_t channel) {
    return (const uint16_t*)((const uint8_t*)run->weights + ones_start(run->conv, variant)) + channel;
}

/* Writes what the padded taps of a pixel count, for some channels, to every `step`th element of `padded`: the ones of all
 * taps less those of the taps inside, which are a rectangle. */
static void write_padded_ones(const BnasConv* conv, const uint16_t* ones, Range rows, Range columns, int64_t channels,
                              uint16_t* padded, int64_t step) {
    const int64_t outputs = conv->channels_out, line = (conv->kernel[1] + 1) * outputs;
    const uint16_t *top = ones + rows.first * line, *bottom = ones + rows.end * line;
    const uint16_t *top_left = top + columns.first * outputs, *top_right = top + columns.end * outputs;
    const uint16_t *bottom_left = bottom + columns.first * outputs, *bottom_right = bottom + columns.end * outputs;
    const uint16_t* all = ones + conv->kernel[0] * line + conv->kernel[1] * outputs;
    for (int64_t i = 0; i < channels; ++i) {
        padded[i * step] = (uint16_t)(all[i] - bottom_right[i] + bottom_left[i] + top_right[i] - top_left[i]);
    }
}

static bool same_range(Range a, Range b) {
    return a.first == b.first && a.end == b.end;
}

/* classes: for each lane, which class its pixel belongs to. class_tables: what that has counted, for each channel. */
static void write_classes(const BnasRun* run, const Variant* variant, const Plan* plan) {
    const BnasConv* conv = run->conv;
    const int64_t height = run->out_size[0], width = run->out_size[1];
    const int64_t step = plan->layout == GATHERED ? width : plan->row;
    const Range *rows = part(run, plan->taps), *columns = rows + height;
    const uint16_t* ones = ones_of(run, variant, 0);
    uint16_t *classes = part(run, plan->classes), *tables = part(run, plan->class_tables);
    memset(classes, 0, (size_t)(plan->lanes + WIDEST_TILE) * sizeof *classes);
    int64_t class = -1;
    for (int64_t y = 0; y < height; ++y) {
        uint16_t* lane = classes + y * step;
        if (y > 0 && same_range(rows[y], rows[y - 1])) {
            copy(lane, lane - step, width * (int64_t)sizeof *lane);
            continue;
        }
        for (int64_t x = 0; x < width; ++x) {
            if (x == 0 || !same_range(columns[x], columns[x - 1])) {
                ++class;
                write_padded_ones(conv, ones, rows[y], columns[x], conv->channels_out, tables + class, CLASSES);
            }
            lane[x] = (uint16_t)class;
        }
    }
    if (plan->layout == GATHERED) {
        for (int64_t image = 1; image < run->batch; ++image) {
            memcpy(classes + image * height * width, classes, (size_t)(height * width) * sizeof *classes);
        }
    }
}

static void prepare_run(const BnasRun* run, const Variant* variant) {
    const Plan* plan = the_plan(run);
    write_offsets(run, variant, plan);
    write_taps(run, plan);
    write_totals(run, plan);
    if (plan->layout == CODES) {
        prepare_codes(run, variant, plan);
        return;
    }
    if (plan->padding == CLASSED) {
        write_classes(run, variant, plan);
    }
    const size_t behind = plan->planes + (size_t)(run->batch * run->conv->groups * plan->group_planes * plan->plane);
    memset(part(run, behind), (int)variant->padding, plan->end - behind);
}

/* ------------------------------------------------------------------------------------------------------------------
 * Packing: one unit per plane, with all its phases, and where steps were added one that is all padding. */

static int64_t pack_units_of(const BnasRun* run, const Variant* variant) {
    const int64_t padding = adds_steps(run->conv, variant) ? 1 : 0;
    return run->batch * run->conv->groups * (bytes_of(run->conv, variant) + padding);
}

/* Some rows of the image, and the rows of a plane that take every `stride`th of their bytes. */
typedef struct Rows {
    int64_t count, length, stride;
    const uint8_t* from;
    int64_t from_step;
    uint8_t* to;
    int64_t to_step;
} Rows;

static void copy_rows(const Variant* variant, Rows rows) {
    if (rows.stride == 2) {
        variant->halve((int32_t)rows.count, (int32_t)rows.length, (int32_t)rows.from_step, (int32_t)rows.to_step,
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
static void spread_rows(const BnasRun* run, const Variant* variant, const uint8_t* pixels, Range image,
                        uint8_t* planes) {
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
            copy_rows(variant, (Rows){
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

static void pack_pixels(const Variant* variant, int64_t channels, Range pixels, const float* const* x,
                        const float* threshold, uint8_t* bits) {
    const int64_t at = pixels.first;
    variant->pack((int32_t)channels, (int32_t)(pixels.end - at), x[0] + at, x[1] + at, x[2] + at, x[3] + at, x[4] + at,
               x[5] + at, x[6] + at, x[7] + at, threshold, bits);
}

/* Packs the channels of a byte of one image into their planes, all phases one after the other. */
static void pack_planes(const BnasRun* run, const Variant* variant, int64_t image, int64_t first_channel,
                        int64_t channels, int padding, uint8_t* planes, uint8_t* scratch) {
    const BnasConv* conv = run->conv;
    const Plan* plan = the_plan(run);
    const int64_t height = run->size[0], width = run->size[1], phases = plan->axes[0].phases * plan->axes[1].phases;
    const float *x[MOST_CHANNELS], *threshold = conv->threshold + first_channel;
    for (int64_t i = 0; i < MOST_CHANNELS; ++i) {
        x[i] = bnas_channel(run, image, first_channel + smaller(i, channels - 1));
    }
    const int64_t pixels = height * width;
    if (phases == 1 && conv->strides[0] * conv->strides[1] == 1 && plan->plane == pixels && plan->row == width &&
        conv->pads[0] == 0 && conv->pads[1] == 0) {
        pack_pixels(variant, channels, (Range){0, pixels}, x, threshold, planes);
        return;
    }
    memset(planes, padding, (size_t)(phases * plan->plane));
    const int64_t rows = larger(1, PACK_PIXELS / width);
    for (int64_t y = 0; y < height; y += rows) {
        const int64_t taken = smaller(rows, height - y);
        pack_pixels(variant, channels, (Range){y * width, (y + taken) * width}, x, threshold, scratch);
        spread_rows(run, variant, scratch, (Range){y, y + taken}, planes);
    }
}

static void pack_unit(const BnasRun* run, const Variant* variant, int64_t unit, void* scratch) {
    const BnasConv* conv = run->conv;
    const Plan* plan = the_plan(run);
    const int64_t phases = plan->axes[0].phases * plan->axes[1].phases;
    const int64_t units = pack_units_of(run, variant) / (run->batch * conv->groups), byte = unit % units;
    const int64_t image = unit / units / conv->groups, group = unit / units % conv->groups;
    const int64_t start = byte * phases * plan->plane, channel = group * conv->channels_in + byte * variant->channels;
    /* 0 where all is padding. */
    const int64_t channels = smaller(variant->channels, conv->channels_in - byte * variant->channels);
    if (plan->layout != CODES) {
        uint8_t* planes = group_of(run, image, group) + start;
        if (channels > 0) {
            pack_planes(run, variant, image, channel, channels, (int)variant->padding, planes, scratch);
        } else {
            memset(planes, (int)variant->padding, (size_t)plan->plane);
        }
        return;
    }
    uint8_t *planes = scratch, *packed = planes + bnas_aligned((size_t)(phases * plan->plane + plan->distances[1]));
    if (channels > 0) {
        memset(planes + phases * plan->plane, padded_pixel(variant), (size_t)plan->distances[1]);
        pack_planes(run, variant, image, channel, channels, padded_pixel(variant), planes, packed);
    }
    for (int64_t set = 0; set < plan->sets; ++set) {
        uint16_t* codes = codes_of(run, image, group, set) + start;
        if (channels > 0) {
            variant->encode((int32_t)(phases * plan->plane), (int32_t)plan->distances[set], planes, codes);
        } else {
            fill_codes(variant, codes, plan->plane);
        }
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
    const int64_t first = block * BLOCK_CHANNELS, left = group_channels(conv) - first;
    return (Channels){group, first, smaller(BLOCK_CHANNELS, left)};
}

/* Counts what differs in `lanes`, the first of which lies at `pixels`. */
static void count_lanes(const BnasRun* run, const Variant* variant, Channels channels, Range lanes,
                        const uint8_t* pixels, uint16_t* counts) {
    const Plan* plan = the_plan(run);
    const int32_t* offsets = (const int32_t*)part(run, plan->offsets) + (plan->layout == GATHERED ? plan->steps : 0);
    const int64_t row = channels.group * rows_of(run->conv, variant) + channels.first / variant->outputs;
    const int64_t channel = channels.group * group_channels(run->conv) + channels.first;
    const int32_t vectors = (int32_t)parts(lanes.end - lanes.first, variant->vector_bytes);
    variant->count(vectors, (int32_t)parts(channels.count, variant->outputs), (int32_t)plan->steps, pixels, offsets,
                row_weights(run, variant) + row * plan->steps * step_bytes(variant), variant->tables, counts);
    if (plan->padding == CLASSED) {
        variant->subtract((int32_t)channels.count, vectors, (const uint16_t*)part(run, plan->classes) + lanes.first,
                       (const uint16_t*)part(run, plan->class_tables) + channel * CLASSES, counts);
    }
}

/* Subtracts what the padded taps of `count` pixels have counted, in runs of pixels with the same taps inside. */
static void subtract_runs(const BnasRun* run, const Variant* variant, Channels channels, int64_t pixel, int64_t count,
                          uint16_t* counts) {
    const BnasConv* conv = run->conv;
    const int64_t width = run->out_size[1];
    const Range *all_rows = part(run, the_plan(run)->taps), *all_columns = all_rows + run->out_size[0];
    const uint16_t* ones = ones_of(run, variant, channels.group * group_channels(conv) + channels.first);
    for (int64_t done = 0, length; done < count; done += length, pixel += length) {
        const int64_t y = pixel / width, x = pixel % width, end = smaller(width, x + count - done);
        const Range rows = all_rows[y], columns = all_columns[x];
        for (length = 1; x + length < end && same_range(all_columns[x + length], columns);) {
            ++length;
        }
        if ((rows.end - rows.first) * (columns.end - columns.first) == taps_of(conv)) {
            continue;
        }
        uint16_t padded[BLOCK_CHANNELS];
        write_padded_ones(conv, ones, rows, columns, channels.count, padded, 1);
        for (int64_t channel = 0; channel < channels.count; ++channel) {
            uint16_t* lane = counts + channel * tile_lanes(variant) + done;
            for (int64_t i = 0; i < length; ++i) {
                lane[i] = (uint16_t)(lane[i] - padded[channel]);
            }
        }
    }
}

/* Writes `count` pixels of one image, from `pixel` on. */
static void finish_pixels(const BnasRun* run, const Variant* variant, Channels channels, int64_t image, int64_t pixel,
                          int64_t count, uint16_t* counts) {
    const BnasConv* conv = run->conv;
    const Plan* plan = the_plan(run);
    const int64_t pixels = run->out_size[0] * run->out_size[1];
    const int64_t channel = channels.group * group_channels(conv) + channels.first;
    const int64_t map = conv->has_offset ? conv->offset_shape[0] * conv->offset_shape[1] : 0;
    const float* k = (const float*)part(run, plan->k) + image * pixels + pixel;
    const int64_t at = (image * conv->channels_out + channel) * pixels + pixel;
    if (plan->padding == RUNS) {
        subtract_runs(run, variant, channels, pixel, count, counts);
    }
    variant->finish((int32_t)channels.count, (int32_t)count, conv->activation, conv->uses_k, (int32_t)map,
                 (int32_t)conv->added, (int32_t)pixels, counts, (const int32_t*)part(run, plan->totals) + pixel,
                 conv->offset + channel * map + (map > 1 ? pixel : 0), conv->scale + channel, conv->bias + channel,
                 conv->slope ? conv->slope + channel : NULL, k, conv->added > 0 ? run->added[0] + at : NULL,
                 conv->added > 1 ? run->added[1] + at : NULL, run->y + at);
}

/* A tile's lanes are pixels with the gaps between rows. Rows that are long enough are finished where they are, short ones
 * are moved together first. */
static void finish_rows(const BnasRun* run, const Variant* variant, Channels channels, int64_t image, Range lanes,
                        uint16_t* counts, uint16_t* joined) {
    const Plan* plan = the_plan(run);
    const int64_t width = run->out_size[1], stride = tile_lanes(variant);
    int64_t start = 0, count = 0;
    for (int64_t y = lanes.first / plan->row; y * plan->row < lanes.end; ++y) {
        const int64_t from = larger(lanes.first, y * plan->row), to = smaller(lanes.end, y * plan->row + width);
        const int64_t pixel = y * width + from - y * plan->row, length = to - from;
        if (length <= 0) {
            continue;
        }
        if (width >= LONG_ROW) {
            finish_pixels(run, variant, channels, image, pixel, length, counts + from - lanes.first);
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
        finish_pixels(run, variant, channels, image, start, count, joined);
    }
}

static void convolve_planes(const BnasRun* run, const Variant* variant, int64_t unit, void* scratch) {
    const Plan* plan = the_plan(run);
    const int64_t block = unit % plan->blocks, tile = unit / plan->blocks % plan->tiles;
    const int64_t group = unit / plan->blocks / plan->tiles % run->conv->groups;
    const int64_t image = unit / plan->blocks / plan->tiles / run->conv->groups;
    const Channels channels = channels_of(run->conv, group, block);
    const Range lanes = {tile * plan->tile, smaller(plan->lanes, (tile + 1) * plan->tile)};
    uint16_t *counts = scratch, *joined = counts + BLOCK_CHANNELS * tile_lanes(variant);
    const uint8_t* pixels = group_of(run, image, group) + lanes.first;
    count_lanes(run, variant, channels, lanes, pixels, counts);
    if (plan->row == run->out_size[1]) {
        finish_pixels(run, variant, channels, image, lanes.first, lanes.end - lanes.first, counts);
    } else {
        finish_rows(run, variant, channels, image, lanes, counts, joined);
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

static void convolve_gathered(const BnasRun* run, const Variant* variant, int64_t unit, void* scratch) {
    const Plan* plan = the_plan(run);
    const int64_t group = unit % run->conv->groups, tile = unit / run->conv->groups;
    const int64_t pixels = run->out_size[0] * run->out_size[1];
    const Range lanes = {tile * plan->tile, smaller(plan->lanes, (tile + 1) * plan->tile)};
    uint16_t* counts = scratch;
    uint8_t* gathered = (uint8_t*)(counts + BLOCK_CHANNELS * tile_lanes(variant));
    gather(run, group, lanes, gathered);
    for (int64_t block = 0; block < plan->blocks; ++block) {
        const Channels channels = channels_of(run->conv, group, block);
        count_lanes(run, variant, channels, lanes, gathered, counts);
        for (int64_t lane = lanes.first, length; lane < lanes.end; lane += length) {
            length = smaller(pixels - lane % pixels, lanes.end - lane);
            finish_pixels(run, variant, channels, lane / pixels, lane % pixels, length, counts + lane - lanes.first);
        }
    }
}

/* Lanes are channels: their counts are transposed before they are finished, as many channels at a time as elsewhere. */
static void convolve_codes(const BnasRun* run, const Variant* variant, int64_t unit, void* scratch) {
    const BnasConv* conv = run->conv;
    const Plan* plan = the_plan(run);
    const int64_t tile = unit % plan->tiles, block = unit / plan->tiles % plan->blocks;
    const int64_t group = unit / plan->tiles / plan->blocks % conv->groups;
    const int64_t image = unit / plan->tiles / plan->blocks / conv->groups;
    const int64_t pixel = tile * plan->tile, lanes = tile_lanes(variant), first = block * lanes;
    const int64_t pixels = smaller(plan->tile, run->out_size[0] * run->out_size[1] - pixel);
    const int64_t channels = smaller(lanes, group_channels(conv) - first);
    uint16_t *counts = scratch, *transposed = counts + BLOCK_PIXELS * lanes;
    variant->count_channels((int32_t)parts(channels, variant->vector_bytes), (int32_t)parts(pixels, 2),
                            (int32_t)plan->steps, channel_weights(run, variant, group, first),
                            codes_of(run, image, group, 0), part(run, plan->offsets),
                            (const int32_t*)part(run, plan->positions) + pixel / 2, variant->pair_tables, counts);
    for (int64_t done = 0; done < channels; done += BLOCK_CHANNELS) {
        const Channels some = {group, first + done, smaller(BLOCK_CHANNELS, channels - done)};
        variant->transpose((int32_t)(parts(pixels, SQUARE) * SQUARE), (int32_t)(parts(some.count, SQUARE) * SQUARE),
                        (int32_t)lanes, counts + done, transposed);
        finish_pixels(run, variant, some, image, pixel, pixels, transposed);
    }
}

/* ------------------------------------------------------------------------------------------------------------------
 * The kernels: one per row of runtime/kernels/variants.py. */

static size_t packed_bytes(const BnasRun* run) {
    return the_plan(run)->end;
}

static size_t scratch_bytes(const BnasRun* run, const Variant* variant) {
    const Plan* plan = the_plan(run);
    const size_t counts = (size_t)(BLOCK_CHANNELS * tile_lanes(variant)) * sizeof(uint16_t);
    const size_t gathered = bnas_product((size_t)plan->steps, (size_t)(plan->tile + WIDEST));
    const int64_t phases = plan->axes[0].phases * plan->axes[1].phases;
    const size_t planes = plan->layout == CODES ? bnas_aligned((size_t)(phases * plan->plane + plan->distances[1])) : 0;
    const size_t packing = bnas_sum(planes, (size_t)(larger(PACK_PIXELS, run->size[1]) + WIDEST));
    const size_t convolving = bnas_sum(counts, plan->layout == GATHERED ? gathered : counts);
    return (size_t)larger((int64_t)convolving, (int64_t)packing);
}

static int64_t first_units(const BnasRun* run, const Variant* variant) {
    return pack_units_of(run, variant) + run->batch * magnitude_tiles(run);
}

static void first_stage(const BnasRun* run, const Variant* variant, int64_t unit, void* scratch) {
    const int64_t planes = pack_units_of(run, variant);
    if (unit < planes) {
        pack_unit(run, variant, unit, scratch);
    } else {
        sum_magnitudes(run, unit - planes);
    }
}

/* On the processor of docs/kernels.md, about: enough to tell whether a second thread helps. */
static int64_t nanoseconds(const BnasRun* run, const Variant* variant) {
    const BnasConv* conv = run->conv;
    const int64_t floats = run->batch * conv->groups * conv->channels_in * run->size[0] * run->size[1];
    const int64_t outputs = run->batch * conv->channels_out * run->out_size[0] * run->out_size[1];
    const int64_t multiply_adds = outputs * taps_of(conv) * conv->channels_in;
    const int64_t k = k_units(run) * run->out_size[1] * taps_of(conv) + (conv->uses_k ? floats / 5 : 0);
    return floats / 16 + k + multiply_adds / (14 * variant->vector_bytes) + outputs / 10;
}

static int64_t last_units(const BnasRun* run) {
    const Plan* plan = the_plan(run);
    return run->conv->groups * plan->tiles * (plan->layout == GATHERED ? 1 : run->batch * plan->blocks);
}

static void last_stage(const BnasRun* run, const Variant* variant, int64_t unit, void* scratch) {
    switch (the_plan(run)->layout) {
        case PLANES: convolve_planes(run, variant, unit, scratch); break;
        case GATHERED: convolve_gathered(run, variant, unit, scratch); break;
        case CODES: convolve_codes(run, variant, unit, scratch); break;
    }
}

/* What depends on the way of counting. Only look-ups have lanes that are channels. */
#define LOOK_UPS(name, tables, pair_tables) \
    tables, pair_tables, bnas_##name##_encode, bnas_##name##_count_channels, bnas_##name##_transpose
#define BNAS_COUNTING_lut2(name) LOOK_UPS(name, bnas_nibble_tables, bnas_nibble_pair_tables), NULL
#define BNAS_COUNTING_lut6(name) LOOK_UPS(name, bnas_six_tables[0][0], bnas_six_tables[0][0]), bnas_##name##_subtract
#define BNAS_COUNTING_popcount(name) NULL, NULL, NULL, NULL, NULL, NULL

#define BNAS_PLANES(name, level, counting, ...)                                                                        \
    Pack bnas_##name##_pack;                                                                                           \
    Count bnas_##name##_count;                                                                                         \
    Finish bnas_##name##_finish;                                                                                       \
    Halve bnas_##name##_halve;                                                                                         \
    CountChannels bnas_##name##_count_channels;                                                                        \
    Encode bnas_##name##_encode;                                                                                       \
    Transpose bnas_##name##_transpose;                                                                                 \
    Subtract bnas_##name##_subtract;                                                                                   \
    static const Variant name = {__VA_ARGS__, bnas_##name##_pack, bnas_##name##_count, bnas_##name##_finish,           \
                                 bnas_##name##_halve, BNAS_COUNTING_##counting(name)};                                 \
    static bool covers_##name(const BnasConv* conv) { return covers_conv(conv, &name); }                               \
    static size_t weights_size_##name(const BnasConv* conv) { return weights_bytes(conv, &name); }                     \
    static void prepack_##name(const BnasConv* conv, const uint8_t* weights, void* prepacked) {                        \
        prepack_weights(conv, &name, weights, prepacked);                                                              \
    }                                                                                                                  \
    static void plan_##name(BnasRun* run) { plan_run(run, &name); }                                                    \
    static size_t scratch_size_##name(const BnasRun* run) { return scratch_bytes(run, &name); }                        \
    static void prepare_##name(const BnasRun* run) { prepare_run(run, &name); }                                        \
    static int64_t first_units_##name(const BnasRun* run) { return first_units(run, &name); }                          \
    static void first_##name(const BnasRun* run, int64_t unit, void* scratch) { first_stage(run, &name, unit, scratch); }\
    static int64_t nanoseconds_##name(const BnasRun* run) { return nanoseconds(run, &name); }                          \
    static void last_##name(const BnasRun* run, int64_t unit, void* scratch) { last_stage(run, &name, unit, scratch); }\
    const BnasKernel bnas_##name##_kernel = {                                                                          \
        .isa = #name,                                                                                                  \
        .runs_here = bnas_cpu_##level,                                                                                 \
        .covers = covers_##name,                                                                                       \
        .weights_size = weights_size_##name,                                                                           \
        .prepack = prepack_##name,                                                                                     \
        .plan = plan_##name,                                                                                           \
        .packed_size = packed_bytes,                                                                                   \
        .scratch_size = scratch_size_##name,                                                                           \
        .prepare = prepare_##name,                                                                                     \
        .nanoseconds = nanoseconds_##name,                                                                             \
        .stages = {{first_units_##name, first_##name}, {k_units, compute_k}, {last_units, last_##name}},               \
    };
#include "kernel_rows.h"
