/* The border between the operators (binary_conv2d.c) and their kernels, one per instruction set.
 *
 * A kernel sees plain memory and sizes that were checked; nothing here knows onnxruntime. What the numbers mean is
 * docs/operators.md. All functions may run in several threads at once and change only what they are given to fill. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum BnasActivation { BNAS_NO_ACTIVATION, BNAS_RELU, BNAS_PRELU } BnasActivation;

/* One node of a model. It never changes after the node's kernel was created. */
typedef struct BnasConv {
    bool uses_k;
    BnasActivation activation;
    int64_t channels_out;
    int64_t channels_in; /* of one group */
    int64_t groups;
    int64_t kernel[2]; /* height, width */
    int64_t strides[2];
    int64_t pads[4]; /* top, left, bottom, right */
    int64_t dilations[2];
    const float* threshold; /* (groups * channels_in) */
    const float* offset;    /* (channels_out, offset_shape[0], offset_shape[1]) */
    int64_t offset_shape[2]; /* 1, 1 or the output's height, width */
    const float* scale;      /* (channels_out) */
    const float* bias;       /* (channels_out) */
    const float* slope;      /* (channels_out); NULL without PReLU */
} BnasConv;

/* One call of a node. */
typedef struct BnasRun {
    const BnasConv* conv;
    const void* weights; /* what `prepack` wrote */
    int64_t batch;
    int64_t size[2];     /* height, width of x */
    int64_t out_size[2]; /* height, width of y */
    const float* x;      /* (batch, groups * channels_in, height, width) */
    float* y;            /* (batch, channels_out, output height, output width) */
    void* packed;        /* what `pack` writes and `convolve` reads */
} BnasRun;

/* An image is worked on in tiles: runs of consecutive pixels in row-major order, at most so many at a time. */
typedef struct BnasKernel {
    const char* isa;
    bool (*runs_here)(void); /* whether this CPU has the instructions */

    size_t (*weights_size)(const BnasConv*); /* in bytes, as all sizes here; SIZE_MAX is "too large" */
    void (*prepack)(const BnasConv*, const uint8_t* weights, void* prepacked);

    size_t (*packed_size)(const BnasRun*);
    int64_t pack_tile;
    /* Packs `count` <= pack_tile pixels of x, from pixel `first` of image `image`. Each pixel once per run. */
    void (*pack)(const BnasRun*, int64_t image, int64_t first, int64_t count);

    size_t (*scratch_size)(const BnasConv*); /* what one call of `convolve` needs for itself */
    int64_t convolve_tile;
    /* Computes `count` <= convolve_tile pixels of y, all channels. Runs when all of x is packed. */
    void (*convolve)(const BnasRun*, int64_t image, int64_t first, int64_t count, void* scratch);
} BnasKernel;

/* The rows of the dispatch table in kernels.c. */
extern const BnasKernel bnas_popcnt_kernel;
extern const BnasKernel bnas_generic_kernel;

/* Returns the best kernel that this CPU can run, or the one that the environment variable BNAS_ISA names. Returns NULL
 * where there is no such kernel, and then writes one sentence about it to `reason`. */
const BnasKernel* bnas_select_kernel(char* reason, size_t size);

/* Sizes in bytes: a product or sum that does not fit is SIZE_MAX, which no allocation grants. */
static inline size_t bnas_product(size_t a, size_t b) {
    return b != 0 && a > SIZE_MAX / b ? SIZE_MAX : a * b;
}

static inline size_t bnas_sum(size_t a, size_t b) {
    return a > SIZE_MAX - b ? SIZE_MAX : a + b;
}
