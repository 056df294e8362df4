/* Packed weights: uint8 (groups, rows, steps, step_bytes), a row for each output channel, or for two, which share a
 * byte where they fit in one. Before them uint8 (groups, steps, lanes), a channel in a byte, where each full tile of
 * lanes is an array of its own. Behind them, where padding counts, sums of the weights' ones. Step k is tap k % taps of
 * the channels in byte k / taps. */
#include "blocked.h"
#include "look_up_tables.h"

/* Of one group. */
static int64_t channel_lanes(const BnasConv* conv, const KernelSpec* spec) {
    return ceil_div(group_channels(conv), spec->vector_bytes) * spec->vector_bytes;
}

static size_t channel_weights_size(const BnasConv* conv, const KernelSpec* spec) {
    const size_t lanes = bnas_product((size_t)conv->groups, (size_t)channel_lanes(conv, spec));
    return bnas_aligned(bnas_product(lanes, (size_t)steps_of(conv, spec)));
}

/* Where the sums of the weights' ones begin. */
static size_t weight_ones_start(const BnasConv* conv, const KernelSpec* spec) {
    const size_t rows = bnas_product((size_t)conv->groups, (size_t)weight_rows(conv, spec));
    const size_t bits = bnas_product(rows, (size_t)(steps_of(conv, spec) * step_bytes(spec)));
    return bnas_aligned(bnas_sum(channel_weights_size(conv, spec), bits));
}

/* Whether there is little enough padding, or distance between taps, to write it out in planes. */
static bool blocked_stays_small(const BnasConv* conv, const KernelSpec* spec) {
    int64_t bytes = bytes_of(conv, spec);
    for (int axis = 0; axis < 2; ++axis) {
        const int64_t reach = (conv->kernel[axis] - 1) * conv->dilations[axis];
        const int64_t margin = conv->pads[axis] + conv->pads[2 + axis] + reach;
        if (margin >= MOST_MARGIN_BYTES) {
            return false;
        }
        bytes *= 1 + margin;
    }
    return bytes <= MOST_MARGIN_BYTES;
}

bool bnas_covers_conv(const BnasConv* conv, const KernelSpec* spec) {
    return bnas_taps(conv) * bytes_of(conv, spec) * spec->channels <= MOST_COUNTED && blocked_stays_small(conv, spec);
}

size_t bnas_weights_bytes(const BnasConv* conv, const KernelSpec* spec) {
    const size_t corners = (size_t)((conv->kernel[0] + 1) * (conv->kernel[1] + 1));
    const size_t weight_ones = bnas_product(bnas_product(corners, (size_t)conv->channels_out), sizeof(uint16_t));
    return bnas_sum(weight_ones_start(conv, spec), counts_padding(spec) ? weight_ones : 0);
}

const uint8_t* bnas_row_weights(const BnasRun* run, const KernelSpec* spec) {
    return (const uint8_t*)run->weights + channel_weights_size(run->conv, spec);
}

const uint8_t* bnas_channel_weights(const BnasRun* run, const KernelSpec* spec, int64_t group, int64_t first) {
    const int64_t lane = group * channel_lanes(run->conv, spec) + first;
    return (const uint8_t*)run->weights + lane * steps_of(run->conv, spec);
}

const uint16_t* bnas_weight_ones(const BnasRun* run, const KernelSpec* spec, int64_t channel) {
    return (const uint16_t*)((const uint8_t*)run->weights + weight_ones_start(run->conv, spec)) + channel;
}

void bnas_write_corrections(const BnasConv* conv, const uint16_t* weight_ones, Range rows, Range columns,
                            int64_t channels, uint16_t* corrections, int64_t step) {
    const int64_t outputs = conv->channels_out, line = (conv->kernel[1] + 1) * outputs;
    const uint16_t *top = weight_ones + rows.first * line, *bottom = weight_ones + rows.end * line;
    const uint16_t *top_left = top + columns.first * outputs, *top_right = top + columns.end * outputs;
    const uint16_t *bottom_left = bottom + columns.first * outputs, *bottom_right = bottom + columns.end * outputs;
    const uint16_t* all = weight_ones + conv->kernel[0] * line + conv->kernel[1] * outputs;
    for (int64_t i = 0; i < channels; ++i) {
        corrections[i * step] = (uint16_t)(all[i] - bottom_right[i] + bottom_left[i] + top_right[i] - top_left[i]);
    }
}

/* The byte's bits of one tap's weights, which are packed as the node has them. */
static unsigned weight_bits(const BnasConv* conv, const KernelSpec* spec, const uint8_t* tap, int64_t byte) {
    const int64_t first = byte * spec->channels, present = smaller(spec->channels, conv->channels_in - first);
    unsigned bits = tap[first / 8];
    if (first % 8 + present > 8) {
        bits |= (unsigned)tap[first / 8 + 1] << 8;
    }
    /* Behind these are constant channels, and bits that mean nothing. */
    return bits >> first % 8 & ((1u << present) - 1u);
}

static unsigned ones_of_byte(unsigned byte) {
    return (unsigned)(BNAS_NIBBLE_ONES(byte & 15) + BNAS_NIBBLE_ONES(byte >> 4));
}

/* weight_ones: uint16 (kernel height + 1, kernel width + 1, channels_out). An element counts the ones in the weights of
 * the taps above and to the left of a corner between taps. */
static void sum_weight_ones(const BnasConv* conv, const KernelSpec* spec, const uint8_t* weights,
                            uint16_t* weight_ones) {
    const int64_t bytes = bnas_weight_bytes(conv), outputs = conv->channels_out;
    const int64_t line = (conv->kernel[1] + 1) * outputs;
    memset(weight_ones, 0, (size_t)((conv->kernel[0] + 1) * line) * sizeof *weight_ones);
    for (int64_t y = 0; y < conv->kernel[0]; ++y) {
        for (int64_t x = 0; x < conv->kernel[1]; ++x) {
            for (int64_t channel = 0; channel < outputs; ++channel) {
                const uint8_t* tap = weights + ((channel * conv->kernel[0] + y) * conv->kernel[1] + x) * bytes;
                uint16_t* corner = weight_ones + y * line + x * outputs + channel;
                unsigned sum = (unsigned)corner[line] + corner[outputs] - corner[0];
                for (int64_t byte = 0; byte < bytes_of(conv, spec); ++byte) {
                    sum += ones_of_byte(weight_bits(conv, spec, tap, byte));
                }
                corner[line + outputs] = (uint16_t)sum;
            }
        }
    }
}

void bnas_prepack_weights(const BnasConv* conv, const KernelSpec* spec, const uint8_t* weights, uint8_t* prepacked) {
    const int64_t taps = bnas_taps(conv), bytes = bnas_weight_bytes(conv), steps = steps_of(conv, spec);
    const int64_t lanes = channel_lanes(conv, spec), block = tile_lanes(spec);
    uint8_t* rows = prepacked + channel_weights_size(conv, spec);
    memset(prepacked, 0, weight_ones_start(conv, spec));
    for (int64_t channel = 0; channel < conv->channels_out; ++channel) {
        const int64_t group = channel / group_channels(conv), member = channel % group_channels(conv);
        const int64_t first = member / block * block, width = smaller(block, lanes - first);
        const int64_t place = member % spec->outputs, row_step = step_bytes(spec);
        uint8_t* row = rows + (group * weight_rows(conv, spec) + member / spec->outputs) * steps * row_step;
        uint8_t* column = prepacked + (group * lanes + first) * steps + member - first;
        for (int64_t byte = 0; byte < bytes_of(conv, spec); ++byte) {
            for (int64_t tap = 0; tap < taps; ++tap) {
                const unsigned bits = weight_bits(conv, spec, weights + (channel * taps + tap) * bytes, byte);
                const int64_t step = byte * taps + tap;
                if (row_step > 1) {
                    row[step * row_step + place] = (uint8_t)bits;
                } else {
                    row[step] |= (uint8_t)(bits << (place * spec->channels));
                }
                column[step * width] = (uint8_t)bits;
            }
        }
    }
    if (counts_padding(spec)) {
        sum_weight_ones(conv, spec, weights, (uint16_t*)(prepacked + weight_ones_start(conv, spec)));
    }
}
