/* The maximum of 2x2 pixels of bits: 1 where any of them is. The kernels write the bits of all pixels to memory of the
 * run; one more stage, the same behind every kernel, makes Y of them while they are in the cache. */
#include "kernel.h"

#include <string.h>

static int64_t unpooled_pixels(const BnasRun* run) {
    return run->out_size[0] * run->out_size[1];
}

size_t bnas_unpooled_size(const BnasRun* run) {
    if (!run->conv->max_pool) {
        return 0;
    }
    const size_t pixels = bnas_product((size_t)run->out_size[0], (size_t)run->out_size[1]);
    return bnas_product(bnas_product((size_t)run->batch, (size_t)run->conv->bytes_out), pixels);
}

/* Bytes of pixels: those of one image are a unit each. */
static int64_t pool_units(const BnasRun* run) {
    return run->conv->max_pool ? run->batch * run->conv->bytes_out : 0;
}

/* Two neighbours are read as one number, which compilers make vectors of; the byte that is kept has the bits of both,
 * in either order of bytes. */
static void pool_row(const uint8_t* restrict top, const uint8_t* restrict bottom, int64_t count, uint8_t* restrict y) {
    for (int64_t i = 0; i < count; ++i) {
        uint16_t above, below;
        memcpy(&above, top + 2 * i, sizeof above);
        memcpy(&below, bottom + 2 * i, sizeof below);
        const uint16_t both = above | below;
        y[i] = (uint8_t)(both | both >> BNAS_BYTE);
    }
}

static void pool(const BnasRun* run, int64_t unit, void* scratch) {
    const int64_t width = run->out_size[1], height = bnas_pooled(run->out_size[0]), columns = bnas_pooled(width);
    const uint8_t* bits = run->bits + unit * unpooled_pixels(run);
    uint8_t* y = run->pooled + unit * height * columns;
    (void)scratch;
    for (int64_t row = 0; row < height; ++row, bits += 2 * width, y += columns) {
        pool_row(bits, bits + width, columns, y);
    }
}

const BnasStage bnas_pool_stage = {pool_units, pool};
