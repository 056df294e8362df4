/* The channel-blocked layout, in which the generated kernels read activations. The counting itself is in
 * runtime/kernels, which TVM lowers to one object per instruction set. docs/kernels.md describes both.
 *
 * A byte holds the signs of 4, 6 or 8 channels of one pixel. Some ways of counting have a byte for padding, too. The
 * bytes of one block of channels are a plane. With stride s there is one plane for each remainder of the padded
 * coordinates modulo s that a tap falls on. So the pixels of a tile lie side by side for every tap, at a fixed distance
 * from the tile's first pixel, and the kernels read them in place.
 *
 * Small images have too few pixels to fill vectors. There the lanes are output channels, and a plane holds codes: one
 * for each pair of neighbouring pixels.
 *
 * Rows of a plane share their padding: the last taps of a row read the padding before the next row. Vectors also
 * compute lanes between two rows of the output, which are dropped. Where these are many, the bytes are gathered into
 * whole tiles first; such a tile holds pixels of any number of rows and images. */
#pragma once

#include "kernel.h"
#include "kernel_prototypes.h"
#include "kernel_sizes.h"

#include <string.h>

/* A row of runtime/kernels/specs.py, which says what the numbers mean. count.py, elementwise.py and
 * epilogue.py there say what the kernels do. */
typedef struct KernelSpec {
    int64_t vector_bytes;
    int64_t vectors;  /* in a tile, at most */
    int64_t in_place; /* counted at once where pixels are read across lines of the cache */
    bool aligns;
    int64_t channels, outputs, multiple, padding;
    BnasPack* pack;
    BnasCount* count;
    BnasEpilogue* epilogue;
    BnasBlockEpilogue* block_epilogue;
    BnasHalve* halve;
    BnasToBits* to_bits;
    const uint8_t* tables;
    const uint8_t* pair_tables; /* of two pixels */
    BnasEncode* encode;
    BnasCountChannels* count_channels;
    BnasTranspose* transpose;
    BnasCorrectPadding* correct_padding; /* may be NULL: where padding counts nothing, or C subtracts the correction */
} KernelSpec;

enum {
    WIDEST = 64,          /* bytes in a vector, at most */
    WIDEST_TILE = 256,    /* bytes in a tile, at most */
    BLOCK_CHANNELS = 16,  /* of output: their mismatches in a tile, at most 8 KB, stay in the first-level cache */
    BLOCK_PIXELS = 16,    /* the same where lanes are channels */
    MOST_COUNTED = 65535, /* mismatches are 16 bits wide */
    MOST_MARGIN_BYTES = 1 << 24, /* of the planes of an image without pixels; more padding is not worth writing out */
    PACK_PIXELS = 4096,          /* packed at a time, before they are spread over the planes */
    GATHERED_BYTES = 24576,      /* of a tile, at most where that leaves a vector: they stay in the first-level cache */
    ALIGNED_TILES = 2,           /* at least, if tiles are gathered for alignment alone: threads share out whole ones */
    LONG_ROW = 48,               /* from so many pixels on, the epilogue takes row by row */
};

static inline int64_t smaller(int64_t a, int64_t b) {
    return a < b ? a : b;
}

static inline int64_t larger(int64_t a, int64_t b) {
    return a > b ? a : b;
}

/* a / b of numbers from 0 on. Divisions of 64 bits take up to 90 cycles, a few of them as long as packing a small
 * plane.
 */
static inline int64_t quotient(int64_t a, int64_t b) {
    return (uint64_t)(a | b) >> 32 ? a / b : (int64_t)((uint32_t)a / (uint32_t)b);
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
static inline int64_t tile_lanes(const KernelSpec* spec) {
    return spec->vectors * spec->vector_bytes;
}

/* lut4x2 ignores an index of 0x80. 0 is compared like any other byte: there each 1 of a padded tap's weights counts.
 * Where padding has signs it is packed as pixels are, and has to count. */
static inline bool counts_padding(const KernelSpec* spec) {
    return spec->padding == 0;
}

/* Blocks of channels: bytes of a pixel, and of a tap. */
static inline int64_t bytes_of(const BnasConv* conv, const KernelSpec* spec) {
    return ceil_div(conv->channels_in, spec->channels);
}

static inline int64_t steps_of(const BnasConv* conv, const KernelSpec* spec) {
    return ceil_div(bytes_of(conv, spec) * bnas_taps(conv), spec->multiple) * spec->multiple;
}

static inline bool adds_steps(const BnasConv* conv, const KernelSpec* spec) {
    return steps_of(conv, spec) > bytes_of(conv, spec) * bnas_taps(conv);
}

static inline int64_t group_channels(const BnasConv* conv) {
    return conv->channels_out / conv->groups;
}

/* Rows of weights of one group. */
static inline int64_t weight_rows(const BnasConv* conv, const KernelSpec* spec) {
    return ceil_div(group_channels(conv), spec->outputs);
}

/* Bytes of one step in a row of weights. */
static inline int64_t step_bytes(const KernelSpec* spec) {
    return spec->channels * spec->outputs > 8 ? spec->outputs : 1;
}

/* ------------------------------------------------------------------------------------------------------------------
 * The plan of a run */

typedef struct Axis {
    int64_t phases; /* residues (padded coordinate mod stride) that taps read; tap t reads that of tap t % phases */
    int64_t length; /* elements of each phase that are read */
} Axis;

typedef struct Plan {
    Axis axes[2];
    int64_t row_bytes;    /* from one row of a plane to the next */
    int64_t plane;        /* bytes of a plane */
    int64_t group_planes; /* planes of one group of one image; the last is all padding where steps had to be added */
    int64_t group_units;  /* of packing: bytes of a pixel, and the plane that is all padding */
    int64_t steps;
    enum { BLOCKED, GATHERED, CODES } layout;
    enum { NO_CORRECTION, BY_TABLE, BY_RUNS } correction; /* how the zero-padding correction is subtracted */
    int64_t vectors;                                      /* of a full tile */
    int64_t at_once;                                      /* vectors that one call of `count` takes */
    int64_t tile;                                         /* lanes of it; pixels where lanes are channels */
    int64_t lanes; /* of one image, with the gaps; of all images together where the bytes are gathered */
    int64_t tiles;
    int64_t blocks;       /* of channels, in a group */
    int64_t column_kinds; /* sets of taps inside, along a row of the output; 1 where nothing depends on them */
    /* Codes: each of `sets` has a distance between the two pixels, and `set` codes, more than the planes have. */
    int64_t sets, set, distances[2];
    /* Where in `packed` each region begins, in bytes. */
    size_t offsets, positions, taps, totals, short_totals, kinds, limits, constants, correction_index, corrections,
        magnitudes, k, blocked, end;
} Plan;

static inline const Plan* the_plan(const BnasRun* run) {
    return (const Plan*)(const void*)run->plan;
}

static inline void* region(const BnasRun* run, size_t start) {
    return (char*)run->packed + start;
}

/* Floats of a thread's scratch for what constant channels add to a tile, which begin it. */
static inline int64_t tile_constants(const BnasConv* conv, const KernelSpec* spec) {
    return conv->constants ? BLOCK_CHANNELS * tile_lanes(spec) : 0;
}

/* The blocked activations of one group of one image. */
static inline uint8_t* blocked_of(const BnasRun* run, int64_t image, int64_t group) {
    const Plan* plan = the_plan(run);
    uint8_t* planes = region(run, plan->blocked);
    return planes + (image * run->conv->groups + group) * plan->group_planes * plan->plane;
}

static inline uint16_t* codes_of(const BnasRun* run, int64_t image, int64_t group, int64_t set) {
    const Plan* plan = the_plan(run);
    uint16_t* codes = region(run, plan->blocked);
    return codes + ((image * run->conv->groups + group) * plan->sets + set) * plan->set;
}

/* Padding of zeros, where a code is made of it: the look-ups' rows of it are zeros. */
static inline int padded_pixel(const KernelSpec* spec) {
    return 1 << spec->channels;
}

/* The byte at padded taps of a plane of `channels` channels from `first` on; `zeros` where padding has no signs. */
static inline int padding_of(const BnasConv* conv, int64_t first, int64_t channels, int zeros) {
    return conv->pads_signs ? (int)bnas_pad_bits(conv, first, channels) : zeros;
}

/* Elements of a phase before padded coordinate `end`. */
static inline int64_t elements_before(const BnasConv* conv, int axis, int64_t phase, int64_t end) {
    const int64_t stride = conv->strides[axis], remainder = phase * conv->dilations[axis] % stride;
    return end <= remainder ? 0 : ceil_div(end - remainder, stride);
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

/* Some rows of the image, and the rows of a plane that take every `stride`th of their bytes. */
typedef struct Rows {
    int64_t count, length, stride;
    const uint8_t* from;
    int64_t from_step;
    uint8_t* to;
    int64_t to_step;
} Rows;

/* ------------------------------------------------------------------------------------------------------------------
 * What the files of the stages do for one another */

/* blocked_weights.c */
bool bnas_covers_conv(const BnasConv* conv, const KernelSpec* spec);
size_t bnas_weights_bytes(const BnasConv* conv, const KernelSpec* spec);
void bnas_prepack_weights(const BnasConv* conv, const KernelSpec* spec, const uint8_t* weights, uint8_t* prepacked);

const uint8_t* bnas_row_weights(const BnasRun* run, const KernelSpec* spec);
/* Of the channels of a group from `first` on, which full tiles divide. */
const uint8_t* bnas_channel_weights(const BnasRun* run, const KernelSpec* spec, int64_t group, int64_t first);
/* The sums of the weights' ones for `channel` and those after it. */
const uint16_t* bnas_weight_ones(const BnasRun* run, const KernelSpec* spec, int64_t channel);
/* Writes the zero-padding correction of one pixel for some channels to every `step`th element of `corrections`: the
 * ones of all taps less those of the taps inside, which are a rectangle. */
void bnas_write_corrections(const BnasConv* conv, const uint16_t* weight_ones, Range rows, Range columns,
                            int64_t channels, uint16_t* corrections, int64_t step);

/* blocked_plan.c */
void bnas_plan_run(BnasRun* run, const KernelSpec* spec);

/* blocked_tables.c */
void bnas_prepare_run(const BnasRun* run, const KernelSpec* spec);
/* With the code of two padded pixels. */
void bnas_fill_codes(const KernelSpec* spec, uint16_t* codes, int64_t count);

/* blocked_pack.c */
int64_t bnas_pack_units(const BnasRun* run);
void bnas_pack_unit(const BnasRun* run, const KernelSpec* spec, int64_t unit, void* scratch);

/* blocked_bits.c */
/* Takes the bits of some channels out of X, for rows of pixels from `pixel` on: bit j of a byte is channel first + j.
 */
void bnas_unpack_bits(const BnasRun* run, int64_t image, int64_t first_channel, int64_t channels, int64_t pixel,
                      Rows rows);
/* Rows of fewer pixels are unpacked together, before they are spread over the plane. */
enum { LEAST_UNPACKED = 8 };
/* Whether mismatches alone are compared with a limit. Sums differ from pixel to pixel by padding of zeros, but not
 * within the stretches that constant channels have the pixels cut into. */
static inline bool bnas_limits_mismatches(const BnasConv* conv) {
    return conv->constants || !bnas_pads_zeros(conv);
}
/* Whether the sums of the signs of X, and their mismatches, fit in 16 bits. */
bool bnas_sums_are_short(const BnasConv* conv);
/* limits: what the kernel compares with, for each set of taps inside on which constant channels depend, else once. */
void bnas_write_limits(const BnasRun* run);
/* Writes the bits of some channels and pixels, whose first channel is a multiple of 8. */
void bnas_write_bits(const BnasRun* run, const KernelSpec* spec, int64_t channel, int64_t channels, int64_t image,
                     Range pixels, const uint16_t* mismatches);

/* blocked_convolve.c */
int64_t bnas_convolve_units(const BnasRun* run);
void bnas_convolve_unit(const BnasRun* run, const KernelSpec* spec, int64_t unit, void* scratch);
