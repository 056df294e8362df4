/* Convolution: the mismatches of a tile of lanes are counted, and meet the epilogue while they are in the first-level
 * cache. */
#include "blocked.h"

/* Some consecutive output channels of one group. */
typedef struct Channels {
    int64_t group, first, count;
} Channels;

static Channels channels_of(const BnasConv* conv, int64_t group, int64_t block) {
    const int64_t first = block * BLOCK_CHANNELS, left = group_channels(conv) - first;
    return (Channels){group, first, smaller(BLOCK_CHANNELS, left)};
}

/* Counts the mismatches in `lanes`, the first of which lies at `pixels`. */
static void count_lanes(const BnasRun* run, const KernelSpec* spec, Channels channels, Range lanes,
                        const uint8_t* pixels, uint16_t* mismatches) {
    const Plan* plan = the_plan(run);
    const int32_t* offsets = (const int32_t*)region(run, plan->offsets) + (plan->layout == GATHERED ? plan->steps : 0);
    const int64_t row = channels.group * weight_rows(run->conv, spec) + channels.first / spec->outputs;
    const int64_t channel = channels.group * group_channels(run->conv) + channels.first;
    const int64_t vectors = ceil_div(lanes.end - lanes.first, spec->vector_bytes);
    for (int64_t first = 0; first < vectors; first += plan->at_once) {
        const int64_t lane = first * spec->vector_bytes;
        spec->count((int32_t)smaller(plan->at_once, vectors - first), (int32_t)ceil_div(channels.count, spec->outputs),
                    (int32_t)plan->steps, pixels + lane, offsets,
                    bnas_row_weights(run, spec) + row * plan->steps * step_bytes(spec), spec->tables,
                    mismatches + lane);
    }
    if (plan->correction == BY_TABLE) {
        spec->correct_padding((int32_t)channels.count, (int32_t)vectors,
                              (const uint16_t*)region(run, plan->correction_index) + lanes.first,
                              (const uint16_t*)region(run, plan->corrections) + channel * CORRECTIONS, mismatches);
    }
}

/* Subtracts the zero-padding correction of `count` pixels, in runs of pixels with the same taps inside. */
static void correct_runs(const BnasRun* run, const KernelSpec* spec, Channels channels, int64_t pixel, int64_t count,
                         uint16_t* mismatches) {
    const BnasConv* conv = run->conv;
    const int64_t width = run->out_size[1];
    const Range *all_rows = region(run, the_plan(run)->taps), *all_columns = all_rows + run->out_size[0];
    const uint16_t* weight_ones = bnas_weight_ones(run, spec, channels.group * group_channels(conv) + channels.first);
    for (int64_t done = 0, length; done < count; done += length, pixel += length) {
        const int64_t y = pixel / width, x = pixel % width, end = smaller(width, x + count - done);
        const Range rows = all_rows[y], columns = all_columns[x];
        for (length = 1; x + length < end && same_range(all_columns[x + length], columns);) {
            ++length;
        }
        if ((rows.end - rows.first) * (columns.end - columns.first) == bnas_taps(conv)) {
            continue;
        }
        uint16_t corrections[BLOCK_CHANNELS];
        bnas_write_corrections(conv, weight_ones, rows, columns, channels.count, corrections, 1);
        for (int64_t channel = 0; channel < channels.count; ++channel) {
            uint16_t* lane = mismatches + channel * tile_lanes(spec) + done;
            for (int64_t i = 0; i < length; ++i) {
                lane[i] = (uint16_t)(lane[i] - corrections[channel]);
            }
        }
    }
}

/* What is added to the accumulators of some channels at some pixels of an image: neutral throughout where `stride` is
 * 0, a number per channel where it is 1, else (channels, stride). */
typedef struct Offset {
    const float* first;
    int64_t stride;
} Offset;

/* With constant channels it depends on the pixel's row. Where pixels are of several rows, those are copied
 * to `tile` one behind the other. */
static Offset offset_at(const BnasRun* run, const KernelSpec* spec, int64_t channel, int64_t channels, int64_t pixel,
                        int64_t count, float* tile) {
    const BnasConv* conv = run->conv;
    const Plan* plan = the_plan(run);
    if (!conv->constants) {
        return (Offset){conv->offset + channel, conv->has_offset ? 1 : 0};
    }
    const int64_t width = run->out_size[1], stride = tile_lanes(spec);
    const int32_t* kinds = region(run, plan->kinds);
    const float* constants = region(run, plan->constants);
    int64_t y = pixel / width, x = pixel % width;
    const float* row = constants + (kinds[y] * conv->channels_out + channel) * width;
    if (x + count <= width) {
        return (Offset){row + x, width};
    }
    for (int64_t done = 0, length; done < count; done += length, x = 0, ++y) {
        length = smaller(width - x, count - done);
        row = constants + (kinds[y] * conv->channels_out + channel) * width + x;
        for (int64_t i = 0; i < channels; ++i) {
            copy(tile + i * stride + done, row + i * width, length * (int64_t)sizeof *tile);
        }
    }
    return (Offset){tile, stride};
}

/* What both epilogues are given: some pixels of an image, from `pixel` on, in some channels. */
typedef struct Part {
    int64_t channel, channels, image, pixel, count;
    const uint16_t* mismatches;
    Offset offset;
} Part;

#define VECTOR_OF(name) conv->name ? conv->name + channel : NULL
#define ADDED(index) conv->added > (index) ? run->added[index] + at : NULL,
#define BEFORE(index) conv->before > (index) ? run->before[index] + at : NULL,

static void epilogue_of_cells(const BnasRun* run, const KernelSpec* spec, const Part* part) {
    const BnasConv* conv = run->conv;
    const Plan* plan = the_plan(run);
    const int64_t pixels = run->out_size[0] * run->out_size[1], channel = part->channel;
    const int64_t at = (part->image * conv->channels_out + channel) * pixels + part->pixel;
    const float* k = (const float*)region(run, plan->k) + part->image * pixels + part->pixel;
    spec->epilogue((int32_t)part->channels, (int32_t)part->count, (int32_t)conv->activation, conv->k_map,
                   (int32_t)part->offset.stride, (int32_t)conv->added, (int32_t)pixels, part->mismatches,
                   (const int32_t*)region(run, plan->totals) + part->pixel, part->offset.first, conv->scale + channel,
                   conv->bias + channel, VECTOR_OF(slope), k, BNAS_ADDED(ADDED) run->y + at);
}

static void epilogue_of_blocks(const BnasRun* run, const KernelSpec* spec, const Part* part) {
    const BnasConv* conv = run->conv;
    const int64_t pixels = run->out_size[0] * run->out_size[1], channel = part->channel;
    const int64_t at = (part->image * conv->channels_out + channel) * pixels + part->pixel;
    spec->block_epilogue((int32_t)part->channels, (int32_t)part->count, (int32_t)conv->activation, conv->affine,
                         conv->gate ? (int32_t)run->gate.channel : 0, (int32_t)part->offset.stride,
                         (int32_t)conv->before, (int32_t)conv->added, (int32_t)pixels, part->mismatches,
                         (const int32_t*)region(run, the_plan(run)->totals) + part->pixel, part->offset.first,
                         conv->scale + channel, conv->bias + channel, VECTOR_OF(slope), VECTOR_OF(low), VECTOR_OF(high),
                         VECTOR_OF(scale2), VECTOR_OF(bias2),
                         conv->gate ? bnas_gate_at(run, part->image, channel, part->pixel) : NULL,
                         BNAS_BEFORE(BEFORE) BNAS_ADDED(ADDED) run->y + at);
}

#undef VECTOR_OF
#undef ADDED
#undef BEFORE

/* Writes `count` pixels of one image, from `pixel` on. */
static void epilogue_of_pixels(const BnasRun* run, const KernelSpec* spec, Channels channels, int64_t image,
                               int64_t pixel, int64_t count, uint16_t* mismatches, float* constants) {
    const BnasConv* conv = run->conv;
    const int64_t channel = channels.group * group_channels(conv) + channels.first;
    if (the_plan(run)->correction == BY_RUNS) {
        correct_runs(run, spec, channels, pixel, count, mismatches);
    }
    if (conv->to_bits) {
        bnas_write_bits(run, spec, channel, channels.count, image, (Range){pixel, pixel + count}, mismatches);
        return;
    }
    const Offset offset = offset_at(run, spec, channel, channels.count, pixel, count, constants);
    const Part part = {channel, channels.count, image, pixel, count, mismatches, offset};
    (conv->is_of_blocks ? epilogue_of_blocks : epilogue_of_cells)(run, spec, &part);
}

/* A tile's lanes are pixels with the gaps between rows. Rows that are long enough meet the epilogue where they are,
 * short ones are moved together first. */
static void epilogue_of_rows(const BnasRun* run, const KernelSpec* spec, Channels channels, int64_t image, Range lanes,
                             uint16_t* mismatches, uint16_t* joined, float* constants) {
    const Plan* plan = the_plan(run);
    const int64_t width = run->out_size[1], stride = tile_lanes(spec);
    int64_t start = 0, count = 0;
    for (int64_t y = lanes.first / plan->row_bytes; y * plan->row_bytes < lanes.end; ++y) {
        const int64_t from = larger(lanes.first, y * plan->row_bytes),
                      to = smaller(lanes.end, y * plan->row_bytes + width);
        const int64_t pixel = y * width + from - y * plan->row_bytes, length = to - from;
        if (length <= 0) {
            continue;
        }
        if (width >= LONG_ROW) {
            epilogue_of_pixels(run, spec, channels, image, pixel, length, mismatches + from - lanes.first, constants);
            continue;
        }
        start = count == 0 ? pixel : start;
        for (int64_t channel = 0; channel < channels.count; ++channel) {
            copy(joined + channel * stride + count, mismatches + channel * stride + from - lanes.first,
                 length * (int64_t)sizeof *mismatches);
        }
        count += length;
    }
    if (count > 0) {
        epilogue_of_pixels(run, spec, channels, image, start, count, joined, constants);
    }
}

static void convolve_in_place(const BnasRun* run, const KernelSpec* spec, int64_t unit, void* scratch) {
    const Plan* plan = the_plan(run);
    const int64_t block = unit % plan->blocks, tile = unit / plan->blocks % plan->tiles;
    const int64_t group = unit / plan->blocks / plan->tiles % run->conv->groups;
    const int64_t image = unit / plan->blocks / plan->tiles / run->conv->groups;
    const Channels channels = channels_of(run->conv, group, block);
    const Range lanes = {tile * plan->tile, smaller(plan->lanes, (tile + 1) * plan->tile)};
    float* constants = scratch;
    uint16_t* mismatches = (uint16_t*)(constants + tile_constants(run->conv, spec));
    uint16_t* joined = mismatches + BLOCK_CHANNELS * tile_lanes(spec);
    const uint8_t* pixels = blocked_of(run, image, group) + lanes.first;
    count_lanes(run, spec, channels, lanes, pixels, mismatches);
    if (plan->row_bytes == run->out_size[1]) {
        epilogue_of_pixels(run, spec, channels, image, lanes.first, lanes.end - lanes.first, mismatches, constants);
    } else {
        epilogue_of_rows(run, spec, channels, image, lanes, mismatches, joined, constants);
    }
}

/* The same stretch of pixels for every step. In line, a piece of as many bytes is a few instructions. */
static inline void gather_stretch(const Plan* plan, const int32_t* offsets, const uint8_t* from, int64_t pieces,
                                  int64_t bytes, uint8_t* to) {
    for (int64_t step = 0; step < plan->steps; ++step) {
        for (int64_t i = 0; i < pieces * bytes; i += bytes) {
            memcpy(to + step * (plan->tile + WIDEST) + i, from + offsets[step] + i, (size_t)bytes);
        }
    }
}

/* gathered: (steps, tile + WIDEST), the bytes of pixels `lanes` of all images together. Pieces are whole: what they
 * write too much, the next row overwrites, or lies in the room behind the tile. */
static void gather(const BnasRun* run, int64_t group, Range lanes, uint8_t* gathered) {
    const Plan* plan = the_plan(run);
    const int64_t width = run->out_size[1], pixels = run->out_size[0] * width;
    const int32_t* offsets = region(run, plan->offsets);
    for (int64_t lane = lanes.first, length; lane < lanes.end; lane += length) {
        const int64_t image = lane / pixels, y = lane % pixels / width, x = lane % width;
        length = smaller(width - x, lanes.end - lane);
        const uint8_t* from = blocked_of(run, image, group) + y * plan->row_bytes + x;
        uint8_t* to = gathered + lane - lanes.first;
        if (length <= 16) {
            gather_stretch(plan, offsets, from, 1, 16, to);
        } else if (length <= 32) {
            gather_stretch(plan, offsets, from, 1, 32, to);
        } else {
            gather_stretch(plan, offsets, from, ceil_div(length, 32), 32, to);
        }
    }
}

static void convolve_gathered(const BnasRun* run, const KernelSpec* spec, int64_t unit, void* scratch) {
    const Plan* plan = the_plan(run);
    const int64_t group = unit % run->conv->groups, tile = unit / run->conv->groups;
    const int64_t pixels = run->out_size[0] * run->out_size[1];
    const Range lanes = {tile * plan->tile, smaller(plan->lanes, (tile + 1) * plan->tile)};
    float* constants = scratch;
    uint16_t* mismatches = (uint16_t*)(constants + tile_constants(run->conv, spec));
    uint8_t* gathered = (uint8_t*)(mismatches + BLOCK_CHANNELS * tile_lanes(spec));
    gather(run, group, lanes, gathered);
    for (int64_t block = 0; block < plan->blocks; ++block) {
        const Channels channels = channels_of(run->conv, group, block);
        count_lanes(run, spec, channels, lanes, gathered, mismatches);
        for (int64_t lane = lanes.first, length; lane < lanes.end; lane += length) {
            length = smaller(pixels - lane % pixels, lanes.end - lane);
            epilogue_of_pixels(run, spec, channels, lane / pixels, lane % pixels, length,
                               mismatches + lane - lanes.first, constants);
        }
    }
}

/* Lanes are channels: their mismatches are transposed before the epilogue, which takes as many channels at a time
 * as elsewhere. */
static void convolve_codes(const BnasRun* run, const KernelSpec* spec, int64_t unit, void* scratch) {
    const BnasConv* conv = run->conv;
    const Plan* plan = the_plan(run);
    const int64_t tile = unit % plan->tiles, block = unit / plan->tiles % plan->blocks;
    const int64_t group = unit / plan->tiles / plan->blocks % conv->groups;
    const int64_t image = unit / plan->tiles / plan->blocks / conv->groups;
    const int64_t pixel = tile * plan->tile, lanes = tile_lanes(spec), first = block * lanes;
    const int64_t pixels = smaller(plan->tile, run->out_size[0] * run->out_size[1] - pixel);
    const int64_t channels = smaller(lanes, group_channels(conv) - first);
    float* constants = scratch;
    uint16_t* mismatches = (uint16_t*)(constants + tile_constants(conv, spec));
    uint16_t* transposed = mismatches + BLOCK_PIXELS * lanes;
    spec->count_channels((int32_t)ceil_div(channels, spec->vector_bytes), (int32_t)ceil_div(pixels, 2),
                         (int32_t)plan->steps, bnas_channel_weights(run, spec, group, first),
                         codes_of(run, image, group, 0), region(run, plan->offsets),
                         (const int32_t*)region(run, plan->positions) + pixel / 2, spec->pair_tables, mismatches);
    for (int64_t done = 0; done < channels; done += BLOCK_CHANNELS) {
        const Channels some = {group, first + done, smaller(BLOCK_CHANNELS, channels - done)};
        spec->transpose((int32_t)(ceil_div(pixels, SQUARE) * SQUARE), (int32_t)(ceil_div(some.count, SQUARE) * SQUARE),
                        (int32_t)lanes, mismatches + done, transposed);
        epilogue_of_pixels(run, spec, some, image, pixel, pixels, transposed, constants);
    }
}

int64_t bnas_convolve_units(const BnasRun* run) {
    const Plan* plan = the_plan(run);
    return run->conv->groups * plan->tiles * (plan->layout == GATHERED ? 1 : run->batch * plan->blocks);
}

void bnas_convolve_unit(const BnasRun* run, const KernelSpec* spec, int64_t unit, void* scratch) {
    switch (the_plan(run)->layout) {
        case BLOCKED: convolve_in_place(run, spec, unit, scratch); break;
        case GATHERED: convolve_gathered(run, spec, unit, scratch); break;
        case CODES: convolve_codes(run, spec, unit, scratch); break;
    }
}
