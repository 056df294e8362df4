/* XNOR and popcount in portable C: the oracle of all other kernels, and what runs where there is none.
 *
 * A sign is one bit, 1 for +1. The inner product of two vectors of n signs is n - 2 * (number of bits that differ).
 * Bits past the last channel are 0 in both operands, so they never differ. */
#include "kernel.h"

#include <string.h>

enum {
    WORD_BITS = 64,
    HALF_BITS = 32,
    PACK_TILE = BNAS_MAGNITUDES_TILE, /* pixels; the bits of one tile, 4 bytes each, stay in the first-level cache */
    CONVOLVE_TILE = 16,               /* pixels; so many share one reading of the weights */
};

static int64_t words_per_pixel(const BnasConv* conv) {
    return ceil_div(conv->channels_in, WORD_BITS);
}

/* ------------------------------------------------------------------------------------------------------------------
 * Weights: uint64 (channels_out, taps, words), then int32 (channels_out, taps), the number of 1 bits of each tap. */

static size_t words_size(const BnasConv* conv) {
    const size_t taps = bnas_product((size_t)conv->channels_out, (size_t)bnas_taps(conv));
    return bnas_product(taps, bnas_product((size_t)words_per_pixel(conv), sizeof(uint64_t)));
}

static size_t weights_size(const BnasConv* conv) {
    const size_t taps = bnas_product((size_t)conv->channels_out, (size_t)bnas_taps(conv));
    return bnas_sum(words_size(conv), bnas_product(taps, sizeof(int32_t)));
}

static const int32_t* weight_ones(const BnasConv* conv, const void* prepacked) {
    return (const int32_t*)(const void*)((const char*)prepacked + words_size(conv));
}

static void prepack(const BnasConv* conv, const uint8_t* weights, void* prepacked) {
    const int64_t bytes = ceil_div(conv->channels_in, 8), step = bnas_weight_bytes(conv), words = words_per_pixel(conv);
    const int64_t taps = conv->channels_out * bnas_taps(conv);
    const unsigned tail_bits = (unsigned)(conv->channels_in % 8);
    uint64_t* words_out = prepacked;
    int32_t* ones_out = (int32_t*)(void*)((char*)prepacked + words_size(conv));
    for (int64_t tap = 0; tap < taps; ++tap) {
        uint64_t* word = words_out + tap * words;
        memset(word, 0, (size_t)words * sizeof *word);
        ones_out[tap] = 0;
        for (int64_t i = 0; i < bytes; ++i) {
            uint64_t byte = weights[tap * step + i];
            if (i == bytes - 1 && tail_bits) {
                byte &= (1u << tail_bits) - 1u; /* the rest are constant channels, and bits that mean nothing */
            }
            word[i / 8] |= byte << (8 * (i % 8));
            ones_out[tap] += __builtin_popcountll(byte);
        }
    }
}

/* ------------------------------------------------------------------------------------------------------------------
 * Activations: uint64 (batch, groups, pixels, words), then with K double (batch, pixels), the sum of |x| over the
 * channels. K is summed in double and rounded to float once, which keeps its error far below one float's. Behind the
 * pixels of an image is one more where padding has signs: all padded taps read it. */

static size_t signs_size(const BnasRun* run) {
    const size_t image = bnas_product((size_t)run->size[0], (size_t)run->size[1]);
    const size_t pixels = bnas_sum(image, run->conv->pads_signs ? 1 : 0);
    const size_t planes = bnas_product((size_t)run->batch, (size_t)run->conv->groups);
    return bnas_product(bnas_product(planes, pixels), (size_t)words_per_pixel(run->conv) * sizeof(uint64_t));
}

static size_t packed_size(const BnasRun* run) {
    const size_t pixels = bnas_product((size_t)run->size[0], (size_t)run->size[1]);
    const size_t doubles = run->conv->k_map ? bnas_product((size_t)run->batch, pixels) : 0;
    return bnas_sum(signs_size(run), bnas_product(doubles, sizeof(double)));
}

static uint64_t* signs_of(const BnasRun* run, int64_t image, int64_t group) {
    const int64_t pixels = run->size[0] * run->size[1] + (run->conv->pads_signs ? 1 : 0);
    return (uint64_t*)run->packed + (image * run->conv->groups + group) * pixels * words_per_pixel(run->conv);
}

static double* magnitudes_of(const BnasRun* run, int64_t image) {
    return (double*)(void*)((char*)run->packed + signs_size(run)) + image * run->size[0] * run->size[1];
}

/* One stage in tiles: runs of consecutive pixels of an image in row-major order, each a unit of the stage. */
static int64_t tiles_of(const int64_t size[2], int64_t tile) {
    return ceil_div(size[0] * size[1], tile);
}

static int64_t pack_units(const BnasRun* run) {
    return run->batch * tiles_of(run->size, PACK_TILE);
}

static int64_t convolve_units(const BnasRun* run) {
    return run->batch * tiles_of(run->out_size, CONVOLVE_TILE);
}

typedef struct Pixels {
    int64_t image, first, count;
} Pixels;

static Pixels pixels_of(const int64_t size[2], int64_t tile, int64_t unit) {
    const int64_t tiles = tiles_of(size, tile), first = unit % tiles * tile, left = size[0] * size[1] - first;
    return (Pixels){unit / tiles, first, left < tile ? left : tile};
}

/* Packs up to 32 channels. The bits are gathered in 32-bit lanes, as wide as the floats, so that the loop over the
 * pixels becomes vector compares and masks. */
static void pack_half_word(const BnasRun* run, Pixels pixels, int64_t channel, int64_t channels, uint32_t* bits) {
    memset(bits, 0, PACK_TILE * sizeof *bits);
    for (int64_t c = 0; c < channels && run->conv->of_bits; ++c) {
        const int64_t place = run->conv->places[channel + c];
        const uint8_t* row = bnas_byte(run, pixels.image, place) + pixels.first;
        for (int64_t i = 0; i < pixels.count; ++i) {
            bits[i] |= (uint32_t)(row[i] >> place % BNAS_BYTE & 1) << c;
        }
    }
    for (int64_t c = 0; c < channels && !run->conv->of_bits; ++c) {
        const float* row = bnas_channel(run, pixels.image, channel + c) + pixels.first;
        const float threshold = run->conv->threshold[channel + c];
        for (int64_t i = 0; i < pixels.count; ++i) {
            bits[i] |= (uint32_t)(row[i] >= threshold) << c;
        }
    }
}

static void pack_group(const BnasRun* run, Pixels pixels, int64_t group, uint64_t* signs) {
    const int64_t channels = run->conv->channels_in, words = words_per_pixel(run->conv), count = pixels.count;
    uint32_t bits[PACK_TILE];
    for (int64_t c = 0; c < channels; c += HALF_BITS) {
        const int64_t left = channels - c;
        pack_half_word(run, pixels, group * channels + c, left < HALF_BITS ? left : HALF_BITS, bits);
        uint64_t* word = signs + c / WORD_BITS;
        if (c % WORD_BITS == 0) {
            for (int64_t i = 0; i < count; ++i) {
                word[i * words] = bits[i];
            }
        } else {
            for (int64_t i = 0; i < count; ++i) {
                word[i * words] |= (uint64_t)bits[i] << HALF_BITS;
            }
        }
    }
}

static void write_padding(const BnasRun* run) {
    const BnasConv* conv = run->conv;
    const int64_t words = words_per_pixel(conv), channels = conv->channels_in;
    for (int64_t image = 0; conv->pads_signs && image < run->batch; ++image) {
        for (int64_t group = 0; group < conv->groups; ++group) {
            uint64_t* word = signs_of(run, image, group) + run->size[0] * run->size[1] * words;
            for (int64_t c = 0; c < channels; c += WORD_BITS) {
                const int64_t left = channels - c;
                *word++ = bnas_pad_bits(conv, group * channels + c, left < WORD_BITS ? left : WORD_BITS);
            }
        }
    }
}

static void pack(const BnasRun* run, int64_t unit, void* scratch) {
    const BnasConv* conv = run->conv;
    const Pixels pixels = pixels_of(run->size, PACK_TILE, unit);
    const int64_t image = pixels.image, first = pixels.first;
    (void)scratch;
    for (int64_t group = 0; group < conv->groups; ++group) {
        pack_group(run, pixels, group, signs_of(run, image, group) + first * words_per_pixel(conv));
    }
    if (conv->k_map) {
        bnas_sum_magnitudes(run, image, first, pixels.count, magnitudes_of(run, image) + first);
    }
}

/* ------------------------------------------------------------------------------------------------------------------
 * Convolution of one tile. */

typedef struct Tile {
    int64_t first;        /* pixel of the image */
    int64_t count;        /* pixels; the lanes past them hold zeros and their results are not stored */
    int64_t* sources;     /* (taps, CONVOLVE_TILE): the input pixel under a tap, -1 in padding of zeros */
    int64_t* border_taps; /* those that lie in padding of zeros for at least one pixel of the tile */
    int64_t border_count;
    uint64_t* patches;            /* (taps * words, CONVOLVE_TILE): the input's signs, 0 in padding of zeros */
    int32_t total[CONVOLVE_TILE]; /* number of signs under the kernel, without zeros */
    Range rows[CONVOLVE_TILE], columns[CONVOLVE_TILE]; /* of taps that fall on the image; with constant channels only */
    float k[CONVOLVE_TILE];
} Tile;

static size_t scratch_size(const BnasRun* run) {
    const BnasConv* conv = run->conv;
    const size_t taps = (size_t)bnas_taps(conv), row = CONVOLVE_TILE * sizeof(uint64_t);
    const size_t patches = bnas_product(taps, bnas_product((size_t)words_per_pixel(conv), row));
    return bnas_sum(patches, bnas_product(taps, row + sizeof(int64_t)));
}

/* Finds the input pixel under every tap of every output pixel of the tile. */
static void locate(const BnasRun* run, int64_t first, Tile* tile) {
    const BnasConv* conv = run->conv;
    const int64_t height = run->size[0], width = run->size[1], taps = bnas_taps(conv);
    const int64_t padding = conv->pads_signs ? height * width : -1;
    bool in_padding[CONVOLVE_TILE];
    for (int64_t p = 0; p < CONVOLVE_TILE; ++p) {
        tile->total[p] = 0;
    }
    tile->border_count = 0;
    for (int64_t tap = 0; tap < taps; ++tap) {
        int64_t* sources = tile->sources + tap * CONVOLVE_TILE;
        const int64_t down = tap / conv->kernel[1] * conv->dilations[0] - conv->pads[0];
        const int64_t right = tap % conv->kernel[1] * conv->dilations[1] - conv->pads[1];
        bool border = false;
        int64_t out_y = first / run->out_size[1], out_x = first % run->out_size[1];
        for (int64_t p = 0; p < tile->count; ++p) {
            const int64_t y = out_y * conv->strides[0] + down, x = out_x * conv->strides[1] + right;
            in_padding[p] = y < 0 || y >= height || x < 0 || x >= width;
            sources[p] = in_padding[p] ? padding : y * width + x;
            border |= sources[p] < 0;
            tile->total[p] += sources[p] < 0 ? 0 : (int32_t)conv->channels_in;
            if (++out_x == run->out_size[1]) {
                out_x = 0;
                ++out_y;
            }
        }
        for (int64_t p = tile->count; p < CONVOLVE_TILE; ++p) {
            sources[p] = -1;
        }
        if (border) {
            tile->border_taps[tile->border_count++] = tap;
        }
    }
}

static void locate_taps(const BnasRun* run, int64_t first, Tile* tile) {
    for (int64_t p = 0; p < tile->count; ++p) {
        tile->rows[p] = bnas_taps_inside(run, 0, (first + p) / run->out_size[1]);
        tile->columns[p] = bnas_taps_inside(run, 1, (first + p) % run->out_size[1]);
    }
}

static void gather_patches(const BnasConv* conv, const uint64_t* signs, Tile* tile) {
    const int64_t words = words_per_pixel(conv), taps = bnas_taps(conv);
    uint64_t* patches = tile->patches;
    for (int64_t tap = 0; tap < taps; ++tap) {
        const int64_t* sources = tile->sources + tap * CONVOLVE_TILE;
        for (int64_t word = 0; word < words; ++word, patches += CONVOLVE_TILE) {
            for (int64_t p = 0; p < CONVOLVE_TILE; ++p) {
                patches[p] = sources[p] < 0 ? 0 : signs[sources[p] * words + word];
            }
        }
    }
}

static void compute_k(const BnasRun* run, const double* magnitudes, int64_t first, Tile* tile) {
    for (int64_t p = 0; p < tile->count; ++p) {
        const int64_t pixel = first + p;
        tile->k[p] = bnas_k_of(run, magnitudes, pixel / run->out_size[1], pixel % run->out_size[1]);
    }
}

/* mismatches[p]: the number of bits in which patch p differs from the weights. `lanes` patches at a time are counted in
 * registers; it is a constant at every call, so that the loops over it are unrolled or become vectors. */
static inline __attribute__((always_inline)) void count_mismatches(const uint64_t* patches, const uint64_t* weights,
                                                                   int64_t words, int lanes, int32_t* mismatches) {
    for (int first = 0; first < CONVOLVE_TILE; first += lanes) {
        uint64_t sums[CONVOLVE_TILE] = {0};
        for (int64_t word = 0; word < words; ++word) {
            for (int lane = 0; lane < lanes; ++lane) {
                const uint64_t differs = patches[word * CONVOLVE_TILE + first + lane] ^ weights[word];
                sums[lane] += (uint64_t)__builtin_popcountll(differs);
            }
        }
        for (int lane = 0; lane < lanes; ++lane) {
            mismatches[first + lane] = (int32_t)sums[lane];
        }
    }
}

/* A zero must add 0. Its bits are 0 in the patch, so a tap there has counted the 1 bits of its weights: take them off
 * again. */
static void correct_padding(const Tile* tile, const int32_t* ones, int32_t* mismatches) {
    for (int64_t i = 0; i < tile->border_count; ++i) {
        const int64_t tap = tile->border_taps[i];
        const int64_t* sources = tile->sources + tap * CONVOLVE_TILE;
        for (int64_t p = 0; p < CONVOLVE_TILE; ++p) {
            mismatches[p] -= sources[p] < 0 ? ones[tap] : 0;
        }
    }
}

static void activate(const BnasConv* conv, int64_t channel, int64_t count, float* y) {
    switch (conv->activation) {
        case BNAS_NO_ACTIVATION: break;
        case BNAS_RELU:
            for (int64_t p = 0; p < count; ++p) {
                y[p] = y[p] < 0 ? 0 : y[p]; /* written so that NaN stays NaN, as in onnxruntime's Relu */
            }
            break;
        case BNAS_PRELU:
            for (int64_t p = 0; p < count; ++p) {
                y[p] = y[p] < 0 ? conv->slope[channel] * y[p] : y[p];
            }
            break;
        case BNAS_CLIP:
            for (int64_t p = 0; p < count; ++p) {
                y[p] = y[p] < conv->low[channel] ? conv->low[channel] : y[p];
                y[p] = y[p] > conv->high[channel] ? conv->high[channel] : y[p];
            }
            break;
    }
}

/* `pixel` is the first of y in its image and channel. */
static void gate(const BnasRun* run, int64_t image, int64_t channel, int64_t pixel, int64_t count, float* y) {
    const float* factors = bnas_gate_at(run, image, channel, pixel);
    const int64_t step = run->gate.channel > 1 ? 1 : 0;
    for (int64_t p = 0; p < count; ++p) {
        y[p] *= factors[p * step];
    }
}

/* Adds what is like the output, whose `count` pixels from `at` on are y. */
static void add(const float* const* terms, int64_t number, int64_t at, int64_t count, float* y) {
    for (int64_t i = 0; i < number; ++i) {
        for (int64_t p = 0; p < count; ++p) {
            y[p] += terms[i][at + p];
        }
    }
}

/* Sets the bits of one channel. The first channel of a byte also clears the others, and a unit has all channels. */
static void write_bits(const BnasRun* run, const Tile* tile, int64_t image, int64_t channel,
                       const int32_t* mismatches) {
    const BnasConv* conv = run->conv;
    const int64_t pixels = run->out_size[0] * run->out_size[1], bit = channel % BNAS_BYTE;
    const int64_t step = ceil_div(conv->channels_out, BNAS_BYTE);
    for (int64_t byte = channel / BNAS_BYTE; byte < conv->bytes_out; byte += step) {
        uint8_t* bits = run->bits + (image * conv->bytes_out + byte) * pixels + tile->first;
        const int32_t least = conv->least[byte * BNAS_BYTE + bit];
        for (int64_t p = 0; p < tile->count; ++p) {
            const int32_t sum =
                tile->total[p] - 2 * mismatches[p] + bnas_constant_of(conv, channel, tile->rows[p], tile->columns[p]);
            bits[p] = (uint8_t)((bit == 0 ? 0 : bits[p]) | (sum >= least) << bit);
        }
    }
}

/* One loop per rounding, in the order of docs/operators.md. */
static void epilogue(const BnasRun* run, const Tile* tile, int64_t image, int64_t channel, const int32_t* mismatches) {
    const BnasConv* conv = run->conv;
    const int64_t count = tile->count, pixels = run->out_size[0] * run->out_size[1];
    const int64_t at = (image * conv->channels_out + channel) * pixels + tile->first;
    float* y = run->y + at;
    for (int64_t p = 0; p < count; ++p) {
        y[p] = (float)(tile->total[p] - 2 * mismatches[p]) +
               bnas_offset_of(conv, channel, tile->rows[p], tile->columns[p]);
    }
    for (int64_t p = 0; p < count; ++p) {
        y[p] *= conv->scale[channel];
    }
    if (conv->k_map) {
        for (int64_t p = 0; p < count; ++p) {
            y[p] *= tile->k[p];
        }
    }
    if (conv->gate) {
        gate(run, image, channel, tile->first, count, y);
    }
    for (int64_t p = 0; p < count; ++p) {
        y[p] += conv->bias[channel];
    }
    add(run->before, conv->before, at, count, y);
    activate(conv, channel, count, y);
    if (conv->affine) {
        for (int64_t p = 0; p < count; ++p) {
            y[p] *= conv->scale2[channel];
        }
        for (int64_t p = 0; p < count; ++p) {
            y[p] += conv->bias2[channel];
        }
    }
    add(run->added, conv->added, at, count, y);
}

static inline __attribute__((always_inline)) void convolve(const BnasRun* run, int64_t unit, void* scratch, int lanes) {
    const BnasConv* conv = run->conv;
    const Pixels place = pixels_of(run->out_size, CONVOLVE_TILE, unit);
    const int64_t image = place.image, first = place.first, count = place.count;
    const int64_t taps = bnas_taps(conv), words = taps * words_per_pixel(conv);
    const int64_t channels = conv->channels_out / conv->groups;
    const int32_t* ones = weight_ones(conv, run->weights);
    Tile tile = {.first = first, .count = count, .patches = scratch};
    tile.sources = (int64_t*)scratch + words * CONVOLVE_TILE;
    tile.border_taps = tile.sources + taps * CONVOLVE_TILE;
    locate(run, first, &tile);
    if (conv->constants) {
        locate_taps(run, first, &tile);
    }
    if (conv->k_map) {
        compute_k(run, magnitudes_of(run, image), first, &tile);
    }
    for (int64_t group = 0; group < conv->groups; ++group) {
        gather_patches(conv, signs_of(run, image, group), &tile);
        for (int64_t channel = group * channels; channel < (group + 1) * channels; ++channel) {
            int32_t mismatches[CONVOLVE_TILE];
            count_mismatches(tile.patches, (const uint64_t*)run->weights + channel * words, words, lanes, mismatches);
            correct_padding(&tile, ones + channel * taps, mismatches);
            (conv->to_bits ? write_bits : epilogue)(run, &tile, image, channel, mismatches);
        }
    }
}

/* ------------------------------------------------------------------------------------------------------------------
 * The kernels: the same C, compiled with and without the instruction that counts bits. */

#define PORTABLE                                                                                       \
    .covers = all_nodes, .weights_size = weights_size, .prepack = prepack, .packed_size = packed_size, \
    .scratch_size = scratch_size, .prepare = write_padding, .image = image

/* Vectors of any CPU of the architecture. */
static void image(const BnasRun* run, int64_t unit, void* scratch) {
    (void)scratch;
    bnas_image_unit(run, unit, 0);
}

static bool all_nodes(const BnasConv* conv) {
    (void)conv;
    return true;
}

#if defined(__x86_64__)
/* Four counters: with their operands they fit the 16 registers, and hide the latency of popcnt. */
__attribute__((target("popcnt"))) static void convolve_popcnt(const BnasRun* run, int64_t unit, void* scratch) {
    convolve(run, unit, scratch, 4);
}

const BnasKernel bnas_popcnt_kernel = {
    PORTABLE,
    .isa = "popcnt",
    .runs_here = bnas_cpu_popcnt,
    .suits = bnas_suits_any_cpu,
    .stages = {{pack_units, pack}, {convolve_units, convolve_popcnt}},
};
#endif

static bool always(void) {
    return true;
}

/* All lanes at once: a compiler whose target counts bits in vectors, as NEON does, makes vectors of them. */
static void convolve_generic(const BnasRun* run, int64_t unit, void* scratch) {
    convolve(run, unit, scratch, CONVOLVE_TILE);
}

const BnasKernel bnas_generic_kernel = {
    PORTABLE,
    .isa = "generic",
    .runs_here = always,
    .suits = bnas_suits_any_cpu,
    .stages = {{pack_units, pack}, {convolve_units, convolve_generic}},
};
