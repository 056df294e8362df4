/* The operators of images: what others do to the result of a convolution is done to X, in one pass over it.
 *
 * The compiler makes vectors of the loop, and a loop for each operator. The roundings are those of docs/operators.md,
 * one in each line. */
#include "kernel.h"

/* What one operator does; constants at every call. A gate is a number of the channel, or one for each pixel. */
typedef struct Steps {
    bool gate;
    BnasActivation activation;
    bool affine;
    int64_t added;
    bool gate_map;
} Steps;

static inline __attribute__((always_inline)) float activated(const Steps steps, float value, float slope, float low,
                                                             float high) {
    const float sloped = value * slope; /* outside of the choice: the compiler need not ask whether it may compute it */
    switch (steps.activation) {
        case BNAS_NO_ACTIVATION: return value;
        case BNAS_RELU: return value < 0 ? 0 : value;
        case BNAS_PRELU: return value < 0 ? sloped : value;
        case BNAS_CLIP: value = value < low ? low : value; return value > high ? high : value;
    }
    return value;
}

static inline __attribute__((always_inline)) float larger(float a, float b) {
    return a < b ? b : a;
}

/* One channel of one image. */
static inline __attribute__((always_inline)) void compute(const BnasRun* run, int64_t unit, const Steps steps) {
    const BnasConv* conv = run->conv;
    const int64_t image = unit / conv->channels_out, channel = unit % conv->channels_out;
    const int64_t pixels = run->size[0] * run->size[1], at = unit * pixels;
    const float* restrict x = bnas_channel(run, image, channel);
    const float* restrict gate = steps.gate ? bnas_gate_at(run, image, channel, 0) : NULL;
    const float* restrict added1 = steps.added > 0 ? run->added[0] + at : NULL;
    const float* restrict added2 = steps.added > 1 ? run->added[1] + at : NULL;
    float* restrict y = run->y + at;
    const float slope = steps.activation == BNAS_PRELU ? conv->slope[channel] : 0;
    const float low = steps.activation == BNAS_CLIP ? conv->low[channel] : 0;
    const float high = steps.activation == BNAS_CLIP ? conv->high[channel] : 0;
    const float scale2 = steps.affine ? conv->scale2[channel] : 1, bias2 = steps.affine ? conv->bias2[channel] : 0;
    for (int64_t p = 0; p < pixels; ++p) {
        float value = x[p];
        if (steps.gate) {
            value *= gate[steps.gate_map ? p : 0];
        }
        value = activated(steps, value, slope, low, high);
        if (steps.affine) {
            value *= scale2;
            value += bias2;
        }
        if (steps.added > 0) {
            value += added1[p];
        }
        if (steps.added > 1) {
            value += added2[p];
        }
        y[p] = value;
    }
}

/* The largest of 2x2 pixels of one channel of one image; a last row or column of its own is left out. */
static inline __attribute__((always_inline)) void pool_affine(const BnasRun* run, int64_t unit) {
    const BnasConv* conv = run->conv;
    const int64_t image = unit / conv->channels_out, channel = unit % conv->channels_out;
    const int64_t width = run->size[1], rows = bnas_pooled(run->size[0]), columns = bnas_pooled(width);
    const float scale2 = conv->scale2[channel], bias2 = conv->bias2[channel];
    for (int64_t row = 0; row < rows; ++row) {
        const float* restrict top = bnas_channel(run, image, channel) + 2 * row * width;
        const float* restrict bottom = top + width;
        float* restrict y = run->y + (unit * rows + row) * columns;
        for (int64_t i = 0; i < columns; ++i) {
            const float left = larger(top[2 * i] * scale2 + bias2, bottom[2 * i] * scale2 + bias2);
            const float right = larger(top[2 * i + 1] * scale2 + bias2, bottom[2 * i + 1] * scale2 + bias2);
            y[i] = larger(left, right);
        }
    }
}

static inline __attribute__((always_inline)) void choose(const BnasRun* run, int64_t unit) {
    const BnasConv* conv = run->conv;
    if (conv->max_pool) {
        pool_affine(run, unit);
        return;
    }
    const bool has_map = conv->gate && run->gate.channel > 1;
#define OPERATOR(with_gate, with_activation, with_affine, terms)                                           \
    if (conv->gate == with_gate && conv->activation == with_activation && conv->affine == with_affine &&   \
        conv->added == terms) {                                                                            \
        if (has_map) {                                                                                     \
            compute(run, unit, (Steps){with_gate, with_activation, with_affine, terms, .gate_map = true}); \
        } else {                                                                                           \
            compute(run, unit, (Steps){with_gate, with_activation, with_affine, terms});                   \
        }                                                                                                  \
        return;                                                                                            \
    }
    BNAS_IMAGE_OPERATORS(OPERATOR)
#undef OPERATOR
}

#if defined(__x86_64__)
__attribute__((target("avx2"))) static void choose_avx2(const BnasRun* run, int64_t unit) {
    choose(run, unit);
}

enum { AVX2_BYTES = 32 };
#endif

int64_t bnas_image_units(const BnasRun* run) {
    return run->batch * run->conv->channels_out;
}

void bnas_image_unit(const BnasRun* run, int64_t unit, int64_t vector_bytes) {
    (void)vector_bytes; /* elsewhere all vectors are of one width */
#if defined(__x86_64__)
    if (vector_bytes >= AVX2_BYTES) {
        choose_avx2(run, unit);
        return;
    }
#endif
    choose(run, unit);
}
