/* K of the operators, one implementation for all kernels so that they agree to the bit. */
#include "kernel.h"

#include <math.h>
#include <string.h>

void bnas_sum_magnitudes(const BnasRun* run, int64_t image, int64_t first, int64_t count, double* magnitudes) {
    double sums[BNAS_MAGNITUDES_TILE] = {0};
    for (int64_t c = 0; c < run->conv->channels_in; ++c) {
        const float* x = bnas_channel(run, image, c) + first;
        for (int64_t i = 0; i < count; ++i) {
            sums[i] += fabsf(x[i]);
        }
    }
    memcpy(magnitudes, sums, (size_t)count * sizeof *sums);
}

/* The mean of |x| over the channels, summed over the taps, divided by the number of taps. */
float bnas_k_of(const BnasRun* run, const double* magnitudes, int64_t out_y, int64_t out_x) {
    const BnasConv* conv = run->conv;
    double sum = 0;
    for (int64_t i = 0; i < conv->kernel[0]; ++i) {
        const int64_t y = out_y * conv->strides[0] + i * conv->dilations[0] - conv->pads[0];
        for (int64_t j = 0; j < conv->kernel[1]; ++j) {
            const int64_t x = out_x * conv->strides[1] + j * conv->dilations[1] - conv->pads[1];
            const bool inside = y >= 0 && y < run->size[0] && x >= 0 && x < run->size[1];
            sum += inside ? magnitudes[y * run->size[1] + x] : 0;
        }
    }
    return (float)(sum / (double)(conv->channels_in * bnas_taps(conv)));
}
