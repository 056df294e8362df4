/* The operators of images: what others do to the result of a convolution is done to X, in one pass over it.
 *
 * The compiler makes vectors of the loop, and a loop for each operator. The roundings are those of docs/operators.md,
 * one in each line. */
#include "kernel.h"

/* What one operator does; constants at every call. A gate is a number of the channel, or one for each pixel. */
typedef struct Steps {
#define STEP(type, name) type name;
    BNAS_IMAGE_STEPS(STEP)
#undef STEP
} Steps;

/* The numbers of one channel; 0 where the operator has none. */
typedef struct Numbers {
#define VECTOR(name, ...) float name;
    BNAS_VECTORS(VECTOR)
#undef VECTOR
} Numbers;

/* In line, so that what the operator does not have is not even looked at. */
static inline __attribute__((always_inline)) Numbers numbers_of(const BnasConv* conv, int64_t channel) {
    return (Numbers){
#define VECTOR(name, ...) .name = conv->name ? conv->name[channel] : 0,
        BNAS_VECTORS(VECTOR)
#undef VECTOR
    };
}

static inline __attribute__((always_inline)) float activated(BnasActivation activation, float value,
                                                             const Numbers* numbers) {
    switch (activation) {
        case BNAS_NO_ACTIVATION: return value;
        case BNAS_RELU: return value < 0 ? 0 : value;
        case BNAS_PRELU: return value < 0 ? numbers->slope * value : value;
        case BNAS_CLIP: value = value < numbers->low ? numbers->low : value; break;
    }
    return value > numbers->high ? numbers->high : value;
}

static inline __attribute__((always_inline)) float larger(float a, float b) {
    return a < b ? b : a;
}

/* One channel of one image. */
static inline __attribute__((always_inline)) void compute(const BnasRun* run, int64_t image, int64_t channel,
                                                          const Steps steps, bool gate_map) {
    const BnasConv* conv = run->conv;
    const int64_t pixels = run->size[0] * run->size[1], at = (image * conv->channels_out + channel) * pixels;
    const Numbers numbers = numbers_of(conv, channel);
    const float* restrict x = bnas_channel(run, image, channel);
    const float* restrict gate = steps.gate ? bnas_gate_at(run, image, channel, 0) : NULL;
    const float* restrict before1 = steps.before > 0 ? run->before[0] + at : NULL;
    const float* restrict added1 = steps.added > 0 ? run->added[0] + at : NULL;
    float* restrict y = run->y + at;
    for (int64_t p = 0; p < pixels; ++p) {
        float value = x[p];
        if (steps.second_bit) {
            value *= numbers.step - __builtin_fabsf(value);
        }
        if (steps.reaches) {
            value = before1[p] >= numbers.reach ? value : 0;
        }
        if (steps.gate) {
            value *= gate[gate_map ? p : 0];
        }
        if (steps.before > 0) {
            value += before1[p];
        }
        if (steps.scaled) {
            value *= numbers.scale;
            value += numbers.bias;
        }
        value = activated(steps.activation, value, &numbers);
        if (steps.affine) {
            value *= numbers.scale2;
            value += numbers.bias2;
        }
        if (steps.added > 0) {
            value += added1[p];
        }
        if (steps.scaled_last) {
            value *= numbers.scale3;
            value += numbers.bias3;
        }
        y[p] = value;
    }
}

/* The largest of 2x2 pixels of one channel of one image; a last row or column of its own is left out. */
static inline __attribute__((always_inline)) void pool_affine(const BnasRun* run, int64_t image, int64_t channel) {
    const BnasConv* conv = run->conv;
    const int64_t width = run->size[1], rows = bnas_pooled(run->out_size[0]), columns = bnas_pooled(run->out_size[1]);
    const float scale2 = conv->scale2[channel], bias2 = conv->bias2[channel];
    float* restrict y = run->y + (image * conv->channels_out + channel) * rows * columns;
    for (int64_t row = 0; row < rows; ++row, y += columns) {
        const float* restrict top = bnas_channel(run, image, channel) + 2 * row * width;
        const float* restrict bottom = top + width;
        for (int64_t i = 0; i < columns; ++i) {
            const float left = larger(top[2 * i] * scale2 + bias2, bottom[2 * i] * scale2 + bias2);
            const float right = larger(top[2 * i + 1] * scale2 + bias2, bottom[2 * i + 1] * scale2 + bias2);
            y[i] = larger(left, right);
        }
    }
}

/* The mean of 2x2 pixels of one channel of one image, behind an activation. */
static inline __attribute__((always_inline)) void compute_mean(const BnasRun* run, int64_t image, int64_t channel,
                                                               BnasActivation activation) {
    const BnasConv* conv = run->conv;
    const int64_t rows = bnas_pooled(run->out_size[0]), columns = bnas_pooled(run->out_size[1]), width = run->size[1];
    const int64_t plane = image * conv->channels_out + channel;
    const Numbers numbers = numbers_of(conv, channel);
    for (int64_t row = 0; row < rows; ++row) {
        const float* restrict top = run->inputs->x + (plane * run->size[0] + 2 * row) * width;
        const float* restrict bottom = top + width;
        float* restrict y = run->y + (plane * rows + row) * columns;
        for (int64_t p = 0; p < columns; ++p) {
            float value = activated(activation, top[2 * p], &numbers);
            value += activated(activation, top[2 * p + 1], &numbers);
            value += activated(activation, bottom[2 * p], &numbers);
            value += activated(activation, bottom[2 * p + 1], &numbers);
            y[p] = value * 0.25f;
        }
    }
}

static inline __attribute__((always_inline)) bool does(const BnasConv* conv, const Steps steps) {
#define STEP(type, name) &&conv->name == steps.name
    return true BNAS_IMAGE_STEPS(STEP);
#undef STEP
}

enum { TOGETHER = 8 }; /* channels of a unit: to find the loop of a small one takes as long as the loop */

static int64_t units_of_image(const BnasConv* conv) {
    return ceil_div(conv->channels_out, TOGETHER);
}

static inline __attribute__((always_inline)) void compute_unit(const BnasRun* run, int64_t unit, const Steps steps,
                                                               bool gate_map) {
    const int64_t units = units_of_image(run->conv), channels = run->conv->channels_out;
    const int64_t image = unit / units, first = unit % units * TOGETHER;
    const int64_t end = first + TOGETHER < channels ? first + TOGETHER : channels;
    for (int64_t channel = first; channel < end; ++channel) {
        if (steps.max_pool) {
            pool_affine(run, image, channel);
        } else if (steps.mean_pool) {
            compute_mean(run, image, channel, steps.activation);
        } else {
            compute(run, image, channel, steps, gate_map);
        }
    }
}

static inline __attribute__((always_inline)) void choose(const BnasRun* run, int64_t unit) {
#define OPERATOR(...)                                                        \
    {                                                                        \
        const Steps steps = {__VA_ARGS__};                                   \
        if (does(run->conv, steps) && steps.gate && run->gate.channel > 1) { \
            compute_unit(run, unit, steps, true);                            \
            return;                                                          \
        }                                                                    \
        if (does(run->conv, steps)) {                                        \
            compute_unit(run, unit, steps, false);                           \
            return;                                                          \
        }                                                                    \
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
    return run->batch * units_of_image(run->conv);
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
