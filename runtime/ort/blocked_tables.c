/* The tables that all units of a run read, written before any of them. */
#include "blocked.h"

void bnas_fill_codes(const KernelSpec* spec, uint16_t* codes, int64_t count) {
    if (count > 0) {
        const uint8_t pair[2] = {(uint8_t)padded_pixel(spec), (uint8_t)padded_pixel(spec)};
        spec->encode(1, 1, pair, codes);
    }
    for (int64_t i = 1; i < count; ++i) {
        codes[i] = codes[0];
    }
}

/* Bytes, or codes, from a tile's first pixel to what each step reads; behind them the same where the bytes were
 * gathered. */
static void write_offsets(const BnasRun* run, const KernelSpec* spec, const Plan* plan) {
    const BnasConv* conv = run->conv;
    const Axis *rows = &plan->axes[0], *columns = &plan->axes[1];
    const int64_t taps = bnas_taps(conv), real = bytes_of(conv, spec) * taps;
    const int64_t byte = rows->phases * columns->phases * plan->plane;
    int32_t *offsets = region(run, plan->offsets), *gathered = offsets + plan->steps;
    int64_t step = 0;
    for (int64_t y = 0; y < conv->kernel[0]; ++y) {
        const int64_t down = y * conv->dilations[0] / conv->strides[0] * plan->row_bytes;
        for (int64_t x = 0; x < conv->kernel[1]; ++x, ++step) {
            const int64_t plane = y % rows->phases * columns->phases + x % columns->phases;
            const int64_t right = x * conv->dilations[1] / conv->strides[1];
            offsets[step] = (int32_t)(plane * plan->plane + down + right);
        }
    }
    for (; step < real; ++step) {
        offsets[step] = offsets[step - taps] + (int32_t)byte;
    }
    for (; step < plan->steps; ++step) {
        offsets[step] = (int32_t)((plan->group_planes - 1) * plan->plane);
    }
    for (step = 0; plan->layout == GATHERED && step < plan->steps; ++step) {
        gathered[step] = (int32_t)(step * (plan->tile + WIDEST));
    }
}

/* taps: those inside for each row of the output, then for each column. */
static void write_taps(const BnasRun* run, const Plan* plan) {
    Range* taps = region(run, plan->taps);
    for (int axis = 0; axis < 2; ++axis) {
        for (int64_t position = 0; position < run->out_size[axis]; ++position) {
            *taps++ = bnas_taps_inside(run, axis, position);
        }
    }
}

/* kinds: for each row of the output, then for each column, which set of taps inside it has. */
static void write_kinds(const BnasRun* run, const Plan* plan) {
    const Range* taps = region(run, plan->taps);
    int32_t* kinds = region(run, plan->kinds);
    for (int axis = 0; axis < 2; ++axis, taps += run->out_size[0], kinds += run->out_size[0]) {
        for (int64_t i = 0; i < run->out_size[axis]; ++i) {
            kinds[i] = i == 0 ? 0 : kinds[i - 1] + !same_range(taps[i], taps[i - 1]);
        }
    }
}

/* totals: the number of signs under the kernel, for each output pixel. */
static void write_totals(const BnasRun* run, const Plan* plan) {
    const int64_t height = run->out_size[0], width = run->out_size[1];
    const Range *rows = region(run, plan->taps), *columns = rows + height;
    int32_t* totals = region(run, plan->totals);
    if (run->conv->pads_signs) { /* which are under the kernel, too */
        for (int64_t pixel = 0; pixel < height * width; ++pixel) {
            totals[pixel] = (int32_t)(bnas_taps(run->conv) * run->conv->channels_in);
        }
        return;
    }
    int64_t before = 0; /* taps inside, in the row above */
    for (int64_t y = 0; y < height; ++y, totals += width) {
        const int64_t inside = rows[y].end - rows[y].first;
        if (y > 0 && inside == before) {
            memcpy(totals, totals - width, (size_t)width * sizeof *totals);
            continue;
        }
        const int32_t signs = (int32_t)(inside * run->conv->channels_in);
        for (int64_t x = 0; x < width; ++x) {
            totals[x] = signs * (int32_t)(columns[x].end - columns[x].first);
        }
        before = inside;
    }
}

/* short_totals: the same in 16 bits. Nobody reads them where mismatches alone are compared. */
static void write_short_totals(const BnasRun* run, const Plan* plan) {
    const int32_t* totals = region(run, plan->totals);
    int16_t* restrict short_totals = region(run, plan->short_totals);
    const int64_t pixels = bnas_limits_mismatches(run->conv) ? 0 : run->out_size[0] * run->out_size[1];
    for (int64_t pixel = 0; pixel < pixels; ++pixel) {
        short_totals[pixel] = (int16_t)totals[pixel];
    }
}

/* Where the code of the first pixel of each pair lies, of those before which a tap is 0 elements away. */
static void write_positions(const BnasRun* run, const Plan* plan) {
    const int64_t width = run->out_size[1], pixels = run->out_size[0] * width;
    int32_t* positions = region(run, plan->positions);
    for (int64_t pixel = 0; pixel < pixels; pixel += 2) {
        const int64_t y = pixel / width, x = pixel % width;
        const int64_t set = x + 1 == width && plan->sets == 2 ? 1 : 0;
        *positions++ = (int32_t)(set * plan->set + y * plan->row_bytes + x);
    }
}

static void prepare_codes(const BnasRun* run, const KernelSpec* spec, const Plan* plan) {
    write_positions(run, plan);
    const int64_t used = plan->group_planes * plan->plane;
    for (int64_t set = 0; set < run->batch * run->conv->groups * plan->sets; ++set) {
        bnas_fill_codes(spec, codes_of(run, 0, 0, set) + used, plan->set - used);
    }
}

/* corrections: (channels_out, CORRECTIONS), the zero-padding corrections of a channel. correction_index: for each lane,
 * that of its pixel. */
static void write_correction_table(const BnasRun* run, const KernelSpec* spec, const Plan* plan) {
    const BnasConv* conv = run->conv;
    const int64_t height = run->out_size[0], width = run->out_size[1];
    const int64_t step = plan->layout == GATHERED ? width : plan->row_bytes;
    const Range *rows = region(run, plan->taps), *columns = rows + height;
    const uint16_t* weight_ones = bnas_weight_ones(run, spec, 0);
    uint16_t *index = region(run, plan->correction_index), *corrections = region(run, plan->corrections);
    memset(index, 0, (size_t)(plan->lanes + WIDEST_TILE) * sizeof *index);
    int64_t last = -1;
    for (int64_t y = 0; y < height; ++y) {
        uint16_t* lane = index + y * step;
        if (y > 0 && same_range(rows[y], rows[y - 1])) {
            copy(lane, lane - step, width * (int64_t)sizeof *lane);
            continue;
        }
        for (int64_t x = 0; x < width; ++x) {
            if (x == 0 || !same_range(columns[x], columns[x - 1])) {
                ++last;
                bnas_write_corrections(conv, weight_ones, rows[y], columns[x], conv->channels_out, corrections + last,
                                       CORRECTIONS);
            }
            lane[x] = (uint16_t)last;
        }
    }
    if (plan->layout == GATHERED) {
        for (int64_t image = 1; image < run->batch; ++image) {
            memcpy(index + image * height * width, index, (size_t)(height * width) * sizeof *index);
        }
    }
}

/* constants: (channels_out, width), what is added to the accumulators of a row of the output. */
static void write_row_constants(const BnasRun* run, Range rows, const Range* columns, float* constants) {
    const BnasConv* conv = run->conv;
    const int64_t width = run->out_size[1];
    for (int64_t x = 0, end; x < width; x = end) {
        for (end = x + 1; end < width && same_range(columns[end], columns[x]);) {
            ++end;
        }
        for (int64_t channel = 0; channel < conv->channels_out; ++channel) {
            const float offset = bnas_offset_of(conv, channel, rows, columns[x]);
            for (int64_t i = x; i < end; ++i) {
                constants[channel * width + i] = offset;
            }
        }
    }
}

/* One such array for each kind of row. */
static void write_constants(const BnasRun* run, const Plan* plan) {
    const int64_t height = run->out_size[0], size = run->conv->channels_out * run->out_size[1];
    const Range *rows = region(run, plan->taps), *columns = rows + height;
    const int32_t* kinds = region(run, plan->kinds);
    float* constants = region(run, plan->constants);
    for (int64_t y = 0; y < height; ++y) {
        if (y == 0 || kinds[y] != kinds[y - 1]) {
            write_row_constants(run, rows[y], columns, constants + kinds[y] * size);
        }
    }
}

void bnas_prepare_run(const BnasRun* run, const KernelSpec* spec) {
    const Plan* plan = the_plan(run);
    write_offsets(run, spec, plan);
    write_taps(run, plan);
    write_totals(run, plan);
    if (run->conv->constants) {
        write_kinds(run, plan);
    }
    if (run->conv->to_bits && bnas_sums_are_short(run->conv)) {
        write_short_totals(run, plan);
        bnas_write_limits(run);
    }
    if (run->conv->constants && !run->conv->to_bits) {
        write_constants(run, plan);
    }
    if (plan->layout == CODES) {
        prepare_codes(run, spec, plan);
        return;
    }
    if (plan->correction == BY_TABLE) {
        write_correction_table(run, spec, plan);
    }
    const size_t behind = plan->blocked + (size_t)(run->batch * run->conv->groups * plan->group_planes * plan->plane);
    memset(region(run, behind), (int)spec->padding, plan->end - behind);
}
