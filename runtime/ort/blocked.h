/* The generated kernels: where their vectors of pixels lie. The counting itself is in runtime/kernels, lowered by TVM
 * to one object per instruction set; docs/kernels.md describes both.
 *
 * Activations are packed into planes: a byte holds the signs of 4, 6 or 8 channels of one pixel, and tells, with some
 * ways of counting, where the image has ended. With stride s there is one plane for each remainder of the padded
 * coordinates modulo s that a tap falls on. So all taps of a tile of pixels are runs of consecutive bytes, each at
 * its own distance from the tile's first pixel, and the kernels read them where they are.
 *
 * Where an image has too few pixels to fill vectors, lanes are output channels instead, and pairs of pixels take the
 * part that pairs of channels have otherwise. A plane is then of codes, one for each pair of pixels that are
 * neighbours.
 *
 * A row of a plane ends with so few padding bytes that the last taps of a row read the padding before the next one.
 * What a vector computes between two rows of the output is dropped. Where that is much, the bytes are gathered first,
 * and a tile then holds pixels of any number of rows and images without a gap. */
#pragma once

#include "kernel.h"
#include "kernel_prototypes.h"

#include <string.h>

/* A row of runtime/kernels/variants.py, which says what the numbers mean. look_up.py, popcount.py and elementwise.py
 * there say what the kernels do. */
typedef struct Variant {
    int64_t vector_bytes;
    int64_t vectors; /* in a tile, at most */
    int64_t channels, outputs, multiple, padding;
    BnasPack* pack;
    BnasCount* count;
    BnasFinish* finish;
    BnasHalve* halve;
    const uint8_t* tables;
    const uint8_t* pair_tables; /* of two pixels; this and the next three are NULL where lanes are always pixels */
    BnasEncode* encode;
    BnasCountChannels* count_channels;
    BnasTranspose* transpose;
    BnasSubtract* subtract; /* may be NULL: where padding counts nothing, or C has to subtract that */
} Variant;

enum {
    MOST_CHANNELS = 8,           /* in a byte */
    CLASSES = 32,                /* of pixels whose padding is subtracted by look-up */
    WIDEST = 64,                 /* bytes in a vector, at most */
    WIDEST_TILE = 256,           /* bytes in a tile, at most */
    BLOCK_CHANNELS = 16,         /* of output: their counts of a tile, at most 8 KB, stay in the first-level cache */
    BLOCK_PIXELS = 16,           /* the same where lanes are channels */
    SQUARE = 8,                  /* counts are transposed in squares */
    MOST_COUNTED = 65535,        /* counts are 16 bits wide */
    MOST_MARGIN_BYTES = 1 << 24, /* of the planes of an image without pixels; more padding is not worth writing out */
    PACK_PIXELS = 4096,          /* packed at a time, before they are spread over the planes */
    GATHERED_BYTES = 24576,      /* of a tile, at most where that leaves a vector: they stay in the first-level cache */
    LONG_ROW = 48,               /* from so many pixels on, outputs are finished row by row */
};

static inline int64_t smaller(int64_t a, int64_t b) {
    return a < b ? a : b;
}

static inline int64_t larger(int64_t a, int64_t b) {
    return a > b ? a : b;
}

static inline int64_t parts(int64_t whole, int64_t part) {
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

/* ------------------------------------------------------------------------------------------------------------------
 * Sizes of a layer and of a row */

/* Lanes that fill a tile. */
static inline int64_t tile_lanes(const Variant* variant) {
    return variant->vectors * variant->vector_bytes;
}

/* LUT2 ignores an index of 0x80. 0 is compared like any other byte: there every 1 of a padded tap's weights counts. */
static inline bool counts_padding(const Variant* variant) {
    return variant->padding == 0;
}

static inline int64_t taps_of(const BnasConv* conv) {
    return conv->kernel[0] * conv->kernel[1];
}

/* Bytes of a pixel, and of a tap. */
static inline int64_t bytes_of(const BnasConv* conv, const Variant* variant) {
    return parts(conv->channels_in, variant->channels);
}

static inline int64_t steps_of(const BnasConv* conv, const Variant* variant) {
    return parts(bytes_of(conv, variant) * taps_of(conv), variant->multiple) * variant->multiple;
}

static inline bool adds_steps(const BnasConv* conv, const Variant* variant) {
    return steps_of(conv, variant) > bytes_of(conv, variant) * taps_of(conv);
}

static inline int64_t group_channels(const BnasConv* conv) {
    return conv->channels_out / conv->groups;
}

static inline int64_t rows_of(const BnasConv* conv, const Variant* variant) {
    return parts(group_channels(conv), variant->outputs);
}

/* Of a row's weights. */
static inline int64_t step_bytes(const Variant* variant) {
    return variant->channels * variant->outputs > 8 ? variant->outputs : 1;
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
    enum { NOTHING, CLASSED, RUNS } padding; /* how what padding has counted is subtracted */
    int64_t vectors;                         /* of a full tile */
    int64_t tile;                            /* lanes of it; pixels where lanes are channels */
    int64_t lanes; /* of one image, with the gaps; of all images together where the bytes are gathered */
    int64_t tiles;
    int64_t blocks; /* of channels, in a group */
    /* Codes: each of `sets` has a distance between the two pixels, and `set` codes, more than the planes have. */
    int64_t sets, set, distances[2];
    /* Where in `packed` each part begins, in bytes. */
    size_t offsets, positions, taps, totals, row_classes, constants, classes, class_tables, magnitudes, k, planes, end;
} Plan;

static inline const Plan* the_plan(const BnasRun* run) {
    return (const Plan*)(const void*)run->plan;
}

static inline void* part(const BnasRun* run, size_t start) {
    return (char*)run->packed + start;
}

/* Floats of a thread's scratch for what constant channels add to a tile, which begin it. */
static inline int64_t tile_constants(const BnasConv* conv, const Variant* variant) {
    return conv->constants ? BLOCK_CHANNELS * tile_lanes(variant) : 0;
}

static inline uint8_t* group_of(const BnasRun* run, int64_t image, int64_t group) {
    const Plan* plan = the_plan(run);
    uint8_t* planes = part(run, plan->planes);
    return planes + (image * run->conv->groups + group) * plan->group_planes * plan->plane;
}

static inline uint16_t* codes_of(const BnasRun* run, int64_t image, int64_t group, int64_t set) {
    const Plan* plan = the_plan(run);
    uint16_t* codes = part(run, plan->planes);
    return codes + ((image * run->conv->groups + group) * plan->sets + set) * plan->set;
}

/* Padding, where a code is made of it: the look-ups' rows of it are zeros. */
static inline int padded_pixel(const Variant* variant) {
    return 1 << variant->channels;
}

/* Elements of a phase before padded coordinate `end`. */
static inline int64_t elements_before(const BnasConv* conv, int axis, int64_t phase, int64_t end) {
    const int64_t stride = conv->strides[axis], remainder = phase * conv->dilations[axis] % stride;
    return end <= remainder ? 0 : parts(end - remainder, stride);
}

/* The elements of a phase that hold pixels. */
static inline Range pixels_of(const BnasRun* run, const Axis* axes, int axis, int64_t phase) {
    const int64_t before = run->conv->pads[axis];
    Range range = {elements_before(run->conv, axis, phase, before),
                   elements_before(run->conv, axis, phase, before + run->size[axis])};
    range.first = smaller(range.first, axes[axis].length);
    range.end = smaller(range.end, axes[axis].length);
    return range;
}

/* ------------------------------------------------------------------------------------------------------------------
 * What the files of the stages do for one another */

/* blocked_weights.c */
bool bnas_covers_conv(const BnasConv* conv, const Variant* variant);
size_t bnas_weights_bytes(const BnasConv* conv, const Variant* variant);
void bnas_prepack_weights(const BnasConv* conv, const Variant* variant, const uint8_t* weights, uint8_t* prepacked);

const uint8_t* bnas_row_weights(const BnasRun* run, const Variant* variant);
/* Of the channels of a group from `first` on, which full tiles divide. */
const uint8_t* bnas_channel_weights(const BnasRun* run, const Variant* variant, int64_t group, int64_t first);
/* The sums of ones for `channel` and those after it. */
const uint16_t* bnas_ones_of(const BnasRun* run, const Variant* variant, int64_t channel);
/* Writes what the padded taps of a pixel count, for some channels, to every `step`th element of `padded`: the ones of
 * all taps less those of the taps inside, which are a rectangle. */
void bnas_write_padded_ones(const BnasConv* conv, const uint16_t* ones, Range rows, Range columns, int64_t channels,
                            uint16_t* padded, int64_t step);

/* blocked_plan.c */
void bnas_plan_run(BnasRun* run, const Variant* variant);
void bnas_prepare_run(const BnasRun* run, const Variant* variant);
/* With the code of two padded pixels. */
void bnas_fill_codes(const Variant* variant, uint16_t* codes, int64_t count);

/* blocked_pack.c */
int64_t bnas_pack_units(const BnasRun* run, const Variant* variant);
void bnas_pack_unit(const BnasRun* run, const Variant* variant, int64_t unit, void* scratch);

/* blocked_convolve.c */
int64_t bnas_convolve_units(const BnasRun* run);
void bnas_convolve_unit(const BnasRun* run, const Variant* variant, int64_t unit, void* scratch);
