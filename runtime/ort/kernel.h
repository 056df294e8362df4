/* The border between the operators (op_*.c) and their kernels, one per instruction set.
 *
 * A kernel gets plain memory and checked sizes. Nothing here knows onnxruntime. docs/operators.md says what the numbers
 * mean. All functions may run in several threads at once. They change only the memory that they are given to fill. */
#pragma once

#if !defined(__GNUC__) /* as clang and zig define it, too */
#error "bnas needs gcc, clang or zig, for their attributes and built-in functions: runtime/build/wheels.py fetches zig"
#endif

#include "operator_table.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The library is built with hidden symbols; this one is seen from outside. */
#if defined(_WIN32)
#define BNAS_EXPORT __declspec(dllexport)
#else
#define BNAS_EXPORT __attribute__((visibility("default")))
#endif

enum { BNAS_ALIGNMENT = 64 }; /* of memory: the widest vector */

/* Indices of BnasConv.vectors. */
enum {
#define VECTOR(name, ...) BNAS_VECTOR_##name,
    BNAS_VECTORS(VECTOR)
#undef VECTOR
        BNAS_VECTOR_COUNT
};

/* One node of a model. It never changes after the node's kernel was created. */
typedef struct BnasConv {
#define CHOICE(type, name) type name;
    BNAS_CHOICES(CHOICE) /* the operator's, bnas_deploy/core/operators.py; pads_signs only where `pad` is not 0 */
#undef CHOICE
    bool has_offset; /* one that is not neutral */
    int64_t channels_out;
    int64_t channels_in;       /* of one group, of X */
    int64_t constant_channels; /* of the weights, behind those of X */
    int64_t groups;
    int64_t kernel[2]; /* height, width */
    int64_t strides[2];
    int64_t pads[4]; /* top, left, bottom, right */
    int64_t dilations[2];
    /* The float inputs by their names or their indices: (groups * channels_in) or (channels_out). NULL where the
     * operator has no such input. */
    union {
        const float* vectors[BNAS_VECTOR_COUNT];
        struct {
#define VECTOR(name, ...) const float* name;
            BNAS_VECTORS(VECTOR)
#undef VECTOR
        };
    };
    /* Of operators that read bits: which bit of a pixel each channel of X is, (groups * channels_in). */
    const int32_t* places;
    int64_t bytes_in; /* of a pixel of X, at least: those that the places are in */
    /* Of operators that write bits: the least sum of signs for which each bit is 1, (bytes_out, BNAS_BYTE). Where it is
     * out of the reach of sums, the bit is always 1 or always 0. */
    const int32_t* least;
    int64_t bytes_out; /* of a pixel of Y */
    /* (channels_out, kernel height + 1, kernel width + 1): what the constant channels add under the taps above and to
     * the left of a corner between taps. NULL without constant channels. */
    const int32_t* constants;
} BnasConv;

static inline int64_t bnas_taps(const BnasConv* conv) {
    return conv->kernel[0] * conv->kernel[1];
}

/* Whether taps may fall on zeros around the image. */
static inline bool bnas_pads_zeros(const BnasConv* conv) {
    return !conv->pads_signs && (conv->pads[0] | conv->pads[1] | conv->pads[2] | conv->pads[3]) != 0;
}

/* What padded taps hold in `count` channels from `first` on, a bit each, where the operator pads with signs. */
static inline uint64_t bnas_pad_bits(const BnasConv* conv, int64_t first, int64_t count) {
    uint64_t bits = 0;
    for (int64_t i = 0; i < count; ++i) {
        bits |= (uint64_t)(conv->pad[first + i] > 0) << i;
    }
    return bits;
}

/* Bytes from one tap's weights to the next in the input W. */
static inline int64_t bnas_weight_bytes(const BnasConv* conv) {
    return (conv->channels_in + conv->constant_channels + 7) / 8;
}

/* One of the tensors that X is the concatenation of. */
typedef struct BnasInput {
    union {
        const float* x;      /* (batch, channels, height, width) */
        const uint8_t* bits; /* the same, where operators read bits: the channels are bytes */
    };
    int64_t channels;
} BnasInput;

/* What the scaled result is multiplied by. From an image to the next are `image` numbers, 0 where all have the same.
 * From a channel to the next are `channel` numbers: 1, or all pixels of the output. */
typedef struct BnasGate {
    const float* first;
    int64_t image, channel;
} BnasGate;

enum { BNAS_PLAN_SIZE = 320 }; /* in bytes, enough for every kernel */

/* One call of a node. */
typedef struct BnasRun {
    const BnasConv* conv;
    const void* weights; /* what `prepack` wrote */
    int64_t batch;
    int64_t size[2];     /* height, width of x */
    int64_t out_size[2]; /* height, width of y, before 2x2 pixels become one */
    /* The parts of X, (batch, groups * channels_in, height, width), along the channels. */
    BnasInput inputs[BNAS_MOST_PARTS];
    BnasGate gate;
    const float* before[BNAS_MOST_BEFORE]; /* like y */
    const float* added[BNAS_MOST_ADDED];   /* like y */
    union {
        float* y;      /* (batch, channels_out, output height, output width) */
        uint8_t* bits; /* (batch, bytes_out, output height, output width); where they are pooled, memory of the run */
    };
    uint8_t* pooled; /* only where bits are pooled: (batch, bytes_out, half the output's height, half its width) */
    void* packed;    /* what the stages hand on, aligned to BNAS_ALIGNMENT */
    _Alignas(8) unsigned char plan[BNAS_PLAN_SIZE]; /* what the kernel's `plan` worked out */
} BnasRun;

/* Some consecutive things: from `first` up to `end`. */
typedef struct Range {
    int64_t first, end;
} Range;

static inline bool same_range(Range a, Range b) {
    return a.first == b.first && a.end == b.end;
}

/* The taps of one axis (0 for rows) that fall on the image, at one position of the output. They follow one another. */
Range bnas_taps_inside(const BnasRun* run, int axis, int64_t position);

/* What constant channels add to the accumulator of an output channel where these taps fall on the image. */
static inline int32_t bnas_constant_of(const BnasConv* conv, int64_t channel, Range rows, Range columns) {
    if (!conv->constants) {
        return 0;
    }
    const int64_t line = conv->kernel[1] + 1;
    const int32_t* corners = conv->constants + channel * (conv->kernel[0] + 1) * line;
    const int32_t *top = corners + rows.first * line, *bottom = corners + rows.end * line;
    return bottom[columns.end] - bottom[columns.first] - top[columns.end] + top[columns.first];
}

/* All that is added to it. */
static inline float bnas_offset_of(const BnasConv* conv, int64_t channel, Range rows, Range columns) {
    return conv->offset[channel] + (float)bnas_constant_of(conv, channel, rows, columns);
}

/* Returns the byte of X, (height, width), which has one bit of each pixel. */
static inline const uint8_t* bnas_byte(const BnasRun* run, int64_t image, int64_t place) {
    const int64_t byte = place / BNAS_BYTE;
    return run->inputs->bits + (image * run->inputs->channels + byte) * run->size[0] * run->size[1];
}

/* Returns one channel of X, (height, width). */
static inline const float* bnas_channel(const BnasRun* run, int64_t image, int64_t channel) {
    const BnasInput* input = run->inputs;
    for (; channel >= input->channels; ++input) {
        channel -= input->channels;
    }
    return input->x + (image * input->channels + channel) * run->size[0] * run->size[1];
}

/* The channel of Y that the first bit of byte `byte` is made of; the last byte of all channels may have fewer than 8.
 */
static inline int64_t bnas_first_of_byte(const BnasConv* conv, int64_t byte) {
    return byte % ((conv->channels_out + BNAS_BYTE - 1) / BNAS_BYTE) * BNAS_BYTE;
}

/* The gate of a channel, from one pixel of the output on. */
static inline const float* bnas_gate_at(const BnasRun* run, int64_t image, int64_t channel, int64_t pixel) {
    const BnasGate* gate = &run->gate;
    return gate->first + image * gate->image + channel * gate->channel + (gate->channel > 1 ? pixel : 0);
}

/* A run has stages, one after the other, each of so many units that any threads may work on at once, in any order. */
enum { BNAS_STAGES = 3 };

typedef struct BnasStage {
    int64_t (*units)(const BnasRun*); /* NULL where the kernel has no such stage */
    void (*work)(const BnasRun*, int64_t unit, void* scratch);
} BnasStage;

typedef struct BnasKernel {
    const char* isa;
    bool (*runs_here)(void);         /* whether this CPU has the instructions */
    bool (*suits)(void);             /* whether no later row is faster on its cores */
    bool (*covers)(const BnasConv*); /* whether it can work on this node; another row has to, otherwise */

    size_t (*weights_size)(const BnasConv*); /* in bytes, as all sizes here; SIZE_MAX is "too large" */
    void (*prepack)(const BnasConv*, const uint8_t* weights, void* prepacked);

    void (*plan)(BnasRun*); /* first of all, from the sizes alone; NULL where there is nothing to work out */
    size_t (*packed_size)(const BnasRun*);
    size_t (*scratch_size)(const BnasRun*); /* what one thread needs for itself */
    /* writes what all units read to `packed`, before any; NULL where there is nothing */
    void (*prepare)(const BnasRun*);
    int64_t (*nanoseconds)(const BnasRun*); /* that one thread takes, about; NULL: so many that others always help */
    BnasStage stages[BNAS_STAGES];
    void (*image)(const BnasRun*, int64_t unit, void* scratch); /* the one stage where nothing is convolved */
} BnasKernel;

/* images.c: a unit is some channels of an image; `vector_bytes` are those of a vector of the CPU. */
int64_t bnas_image_units(const BnasRun* run);
void bnas_image_unit(const BnasRun* run, int64_t unit, int64_t vector_bytes);

/* pool_bits.c: what stands behind the stages of every kernel, without units where nothing is pooled. */
extern const BnasStage bnas_pool_stage;

/* Bytes of the bits that are pooled; 0 where none are. */
size_t bnas_unpooled_size(const BnasRun* run);

/* Whether Y has one pixel for 2x2 of those that are made. */
static inline bool bnas_pools(const BnasConv* conv) {
    return conv->max_pool || conv->mean_pool;
}

/* Rows or columns that 2x2 pixels leave; a last one of its own is left out. */
static inline int64_t bnas_pooled(int64_t length) {
    return length / 2;
}

/* The rows of the dispatch table in dispatch.c, and the checks in cpu.c that a processor and its operating system have
 * what a row needs. Levels are those of the x86-64 ABI. */
extern const BnasKernel bnas_popcnt_kernel;
extern const BnasKernel bnas_generic_kernel;
bool bnas_cpu_popcnt(void);
bool bnas_suits_any_cpu(void);
#define BNAS_KERNEL_SPEC(isa, cpu_check, suits, ...) \
    extern const BnasKernel bnas_##isa##_kernel;     \
    bool bnas_cpu_##cpu_check(void);                 \
    bool bnas_suits_##suits(void);
#include "kernel_specs.h"
#undef BNAS_KERNEL_SPEC

/* Returns the best kernel that this CPU can run, or the one that the environment variable BNAS_ISA names. Returns NULL
 * where there is no such kernel, and then writes one sentence about it to `reason`. */
const BnasKernel* bnas_select_kernel(char* reason, size_t size);

/* Returns `kernel`, or where that does not cover the node the best one that does and that this CPU can run. */
const BnasKernel* bnas_covering_kernel(const BnasKernel* kernel, const BnasConv* conv);

/* K of the operators, one implementation for all kernels so that they agree to the bit: the sums of |x| over the
 * channels for `count` pixels from `first` on, and K from them for one output pixel. Both are summed in double and
 * rounded once. */
void bnas_sum_magnitudes(const BnasRun* run, int64_t image, int64_t first, int64_t count, double* magnitudes);
float bnas_k_of(const BnasRun* run, const double* magnitudes, int64_t out_y, int64_t out_x);

/* Pixels that bnas_sum_magnitudes takes at a time. */
enum { BNAS_MAGNITUDES_TILE = 128 };

/* Rounds up. */
static inline int64_t ceil_div(int64_t whole, int64_t divisor) {
    return (whole + divisor - 1) / divisor;
}

/* Sizes in bytes: a product or sum that does not fit is SIZE_MAX, which no allocation grants. */
static inline size_t bnas_product(size_t a, size_t b) {
    return b != 0 && a > SIZE_MAX / b ? SIZE_MAX : a * b;
}

static inline size_t bnas_sum(size_t a, size_t b) {
    return a > SIZE_MAX - b ? SIZE_MAX : a + b;
}

/* Rounded up to whole BNAS_ALIGNMENTs. */
static inline size_t bnas_aligned(size_t size) {
    const size_t grown = bnas_sum(size, BNAS_ALIGNMENT - 1);
    return grown == SIZE_MAX ? SIZE_MAX : grown - grown % BNAS_ALIGNMENT;
}
