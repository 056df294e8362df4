/* The plan of a run, which lays out the planes and the tiles, and the tables that all of its units read. */
#include "blocked.h"

static int64_t divisor(int64_t a, int64_t b) {
    return b == 0 ? a : divisor(b, a % b);
}

static Axis axis_of(const BnasRun* run, int axis) {
    const BnasConv* conv = run->conv;
    const int64_t taps = conv->kernel[axis], stride = conv->strides[axis], dilation = conv->dilations[axis];
    return (Axis){.phases = smaller(taps, stride / divisor(stride, dilation)),
                  .length = run->out_size[axis] + (taps - 1) * dilation / stride};
}

/* All pixels of a row must fit in, and where a tap reads past its end, the next row must still begin with padding. */
static int64_t row_of(const BnasRun* run, const Axis* axes) {
    int64_t row = run->out_size[1];
    for (int64_t phase = 0; phase < axes[1].phases; ++phase) {
        const Range pixels = pixels_of(run, axes, 1, phase);
        row = larger(row, larger(pixels.end, axes[1].length - pixels.first));
    }
    return row;
}

/* Gathering costs a copy for each step and each 16 pixels of a row, about as much as counting 2 rows of weights. */
static bool gathering_pays(const BnasRun* run, const Variant* variant, int64_t lanes) {
    const int64_t vector_bytes = variant->vector_bytes, pixels = run->out_size[0] * run->out_size[1];
    const int64_t saved = run->batch * parts(lanes, vector_bytes) - parts(run->batch * pixels, vector_bytes);
    const int64_t copies = run->batch * run->out_size[0] * parts(run->out_size[1], 16);
    return saved * rows_of(run->conv, variant) > 2 * copies;
}

/* What look-ups cost for each pair: 4 for a vector, and where a tile has no other 1 or 2 more, so that each has to
 * load a table of its own, or to add two. */
static int64_t cost_of(const Variant* variant, int64_t lanes) {
    const int64_t vectors = parts(lanes, variant->vector_bytes);
    return 4 * vectors + (vectors % variant->vectors == 1 ? step_bytes(variant) : 0);
}

/* Counts have to be transposed after lanes that were channels, and are finished a few pixels at a time. For one
 * output that takes as long, on a Zen 4, as a cost of 1 for one step. */
static bool channels_pay(const BnasRun* run, const Variant* variant, int64_t lanes, bool gathers) {
    if (!variant->count_channels) {
        return false;
    }
    const BnasConv* conv = run->conv;
    const int64_t pixels = run->out_size[0] * run->out_size[1], channels = group_channels(conv);
    const int64_t by_pixels = gathers ? cost_of(variant, run->batch * pixels) : run->batch * cost_of(variant, lanes);
    const int64_t by_channels = run->batch * cost_of(variant, channels);
    const int64_t saved = by_pixels * rows_of(conv, variant) - by_channels * parts(pixels, 2);
    return saved * steps_of(conv, variant) > run->batch * pixels * channels;
}

/* Positions of the output whose taps inside are the same ones, one after the other. */
static int64_t classes_along(const BnasRun* run, int axis) {
    int64_t classes = 0;
    Range last = {-1, -1};
    for (int64_t position = 0; position < run->out_size[axis]; ++position) {
        const Range taps = bnas_taps_inside(run, axis, position);
        classes += !same_range(taps, last);
        last = taps;
    }
    return classes;
}

static bool classed(const BnasRun* run, const Variant* variant) {
    return variant->subtract && classes_along(run, 0) * classes_along(run, 1) <= CLASSES;
}

static size_t place(size_t* end, int64_t count, size_t size) {
    const size_t start = *end;
    *end = bnas_aligned(bnas_sum(start, bnas_product((size_t)count, size)));
    return start;
}

/* Tiles of lanes that are pixels. */
static void plan_pixels(const BnasRun* run, const Variant* variant, Plan* plan) {
    if (plan->layout == GATHERED) {
        plan->lanes = run->batch * run->out_size[0] * run->out_size[1];
        while (plan->vectors > 1 && plan->steps * plan->vectors * variant->vector_bytes > GATHERED_BYTES) {
            plan->vectors /= 2;
        }
    }
    plan->tile = plan->vectors * variant->vector_bytes;
    plan->tiles = parts(plan->lanes, plan->tile);
    plan->blocks = parts(group_channels(run->conv), BLOCK_CHANNELS);
}

/* Tiles of pixels whose lanes are channels. The two pixels of a pair are neighbours in a row, or the last of a row
 * and the first of the next one. */
static void plan_channels(const BnasRun* run, const Variant* variant, Plan* plan) {
    plan->tile = BLOCK_PIXELS;
    plan->tiles = parts(run->out_size[0] * run->out_size[1], BLOCK_PIXELS);
    plan->blocks = parts(group_channels(run->conv), tile_lanes(variant));
    plan->distances[0] = 1;
    plan->distances[1] = plan->row - run->out_size[1] + 1;
    plan->sets = run->out_size[1] % 2 == 1 && run->out_size[0] > 1 ? 2 : 1;
    /* The last row's taps end past it. */
    plan->set = plan->group_planes * plan->plane + plan->axes[1].length;
}

/* Whether the kernels, whose indices are 32 bits wide, can work on planes and images of these sizes. */
static bool has_indices(const BnasRun* run, const Plan* plan) {
    const size_t most = INT32_MAX / BLOCK_CHANNELS;
    const size_t plane = bnas_product((size_t)plan->axes[0].length, (size_t)plan->row);
    return bnas_product((size_t)plan->group_planes, plane) <= INT32_MAX / 4 &&
           bnas_product((size_t)run->out_size[0], (size_t)run->out_size[1]) <= most &&
           bnas_product((size_t)run->size[0], (size_t)run->size[1]) <= most;
}

static Plan plan_of(const BnasRun* run, const Variant* variant) {
    const BnasConv* conv = run->conv;
    Plan plan = {
        .axes = {axis_of(run, 0), axis_of(run, 1)}, .steps = steps_of(conv, variant), .vectors = variant->vectors};
    plan.row = row_of(run, plan.axes);
    const int64_t planes = bytes_of(conv, variant) * plan.axes[0].phases * plan.axes[1].phases;
    plan.group_planes = planes + (adds_steps(conv, variant) ? 1 : 0);
    if (!has_indices(run, &plan)) { /* before any of these sizes are multiplied */
        plan.end = SIZE_MAX;
        return plan;
    }
    const int64_t pixels = run->out_size[0] * run->out_size[1];
    plan.plane = plan.axes[0].length * plan.row;
    plan.lanes = (run->out_size[0] - 1) * plan.row + run->out_size[1];
    const bool gathers = gathering_pays(run, variant, plan.lanes);
    plan.layout = channels_pay(run, variant, plan.lanes, gathers) ? CODES : gathers ? GATHERED : PLANES;
    (plan.layout == CODES ? plan_channels : plan_pixels)(run, variant, &plan);
    size_t end = 0;
    plan.offsets = place(&end, 2 * plan.steps, sizeof(int32_t));
    plan.positions = place(&end, plan.layout == CODES ? parts(pixels, 2) : 0, sizeof(int32_t));
    plan.taps = place(&end, run->out_size[0] + run->out_size[1], sizeof(Range));
    plan.totals = place(&end, pixels, sizeof(int32_t));
    const int64_t row_classes = conv->constants ? classes_along(run, 0) : 0;
    plan.row_classes = place(&end, conv->constants ? run->out_size[0] : 0, sizeof(int32_t));
    plan.constants = place(&end, row_classes * conv->channels_out * run->out_size[1], sizeof(float));
    plan.padding = !counts_padding(variant) || plan.layout == CODES ? NOTHING : classed(run, variant) ? CLASSED : RUNS;
    plan.classes = place(&end, plan.padding == CLASSED ? plan.lanes + WIDEST_TILE : 0, sizeof(uint16_t));
    plan.class_tables = place(&end, plan.padding == CLASSED ? conv->channels_out * CLASSES : 0, sizeof(uint16_t));
    plan.magnitudes = place(&end, conv->uses_k ? run->batch * run->size[0] * run->size[1] : 0, sizeof(double));
    plan.k = place(&end, conv->uses_k ? run->batch * pixels : 0, sizeof(float));
    if (plan.layout == CODES) {
        plan.planes = place(&end, run->batch * conv->groups * plan.sets * plan.set, sizeof(uint16_t));
        plan.end = end;
    } else {
        plan.planes = place(&end, run->batch * conv->groups * plan.group_planes, (size_t)plan.plane);
        /* Vectors end past the last pixel, and the last row's taps past the last row. */
        plan.end = bnas_sum(end, (size_t)(plan.axes[1].length + WIDEST_TILE));
    }
    return plan;
}

_Static_assert(sizeof(Plan) <= BNAS_PLAN_SIZE, "a plan has to fit in a run");

void bnas_plan_run(BnasRun* run, const Variant* variant) {
    const Plan plan = plan_of(run, variant);
    memcpy(run->plan, &plan, sizeof plan);
}

void bnas_fill_codes(const Variant* variant, uint16_t* codes, int64_t count) {
    if (count > 0) {
        const uint8_t pair[2] = {(uint8_t)padded_pixel(variant), (uint8_t)padded_pixel(variant)};
        variant->encode(1, 1, pair, codes);
    }
    for (int64_t i = 1; i < count; ++i) {
        codes[i] = codes[0];
    }
}

/* Bytes, or codes, from a tile's first pixel to what each step reads; behind them the same where the bytes were
 * gathered. */
static void write_offsets(const BnasRun* run, const Variant* variant, const Plan* plan) {
    const BnasConv* conv = run->conv;
    const Axis *rows = &plan->axes[0], *columns = &plan->axes[1];
    const int64_t taps = taps_of(conv), real = bytes_of(conv, variant) * taps;
    const int64_t byte = rows->phases * columns->phases * plan->plane;
    int32_t *offsets = part(run, plan->offsets), *gathered = offsets + plan->steps;
    int64_t step = 0;
    for (int64_t y = 0; y < conv->kernel[0]; ++y) {
        const int64_t down = y * conv->dilations[0] / conv->strides[0] * plan->row;
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
    Range* taps = part(run, plan->taps);
    for (int axis = 0; axis < 2; ++axis) {
        for (int64_t position = 0; position < run->out_size[axis]; ++position) {
            *taps++ = bnas_taps_inside(run, axis, position);
        }
    }
}

/* totals: the number of signs under the kernel, for each output pixel. */
static void write_totals(const BnasRun* run, const Plan* plan) {
    const int64_t height = run->out_size[0], width = run->out_size[1];
    const Range *rows = part(run, plan->taps), *columns = rows + height;
    int32_t* totals = part(run, plan->totals);
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

/* Where the code of the first pixel of each pair lies, of those before which a tap is 0 elements away. */
static void write_positions(const BnasRun* run, const Plan* plan) {
    const int64_t width = run->out_size[1], pixels = run->out_size[0] * width;
    int32_t* positions = part(run, plan->positions);
    for (int64_t pixel = 0; pixel < pixels; pixel += 2) {
        const int64_t y = pixel / width, x = pixel % width;
        const int64_t set = x + 1 == width && plan->sets == 2 ? 1 : 0;
        *positions++ = (int32_t)(set * plan->set + y * plan->row + x);
    }
}

static void prepare_codes(const BnasRun* run, const Variant* variant, const Plan* plan) {
    write_positions(run, plan);
    const int64_t used = plan->group_planes * plan->plane;
    for (int64_t set = 0; set < run->batch * run->conv->groups * plan->sets; ++set) {
        bnas_fill_codes(variant, codes_of(run, 0, 0, set) + used, plan->set - used);
    }
}

/* classes: for each lane, which class its pixel belongs to. class_tables: what that has counted, for each channel. */
static void write_classes(const BnasRun* run, const Variant* variant, const Plan* plan) {
    const BnasConv* conv = run->conv;
    const int64_t height = run->out_size[0], width = run->out_size[1];
    const int64_t step = plan->layout == GATHERED ? width : plan->row;
    const Range *rows = part(run, plan->taps), *columns = rows + height;
    const uint16_t* ones = bnas_ones_of(run, variant, 0);
    uint16_t *classes = part(run, plan->classes), *tables = part(run, plan->class_tables);
    memset(classes, 0, (size_t)(plan->lanes + WIDEST_TILE) * sizeof *classes);
    int64_t class = -1;
    for (int64_t y = 0; y < height; ++y) {
        uint16_t* lane = classes + y * step;
        if (y > 0 && same_range(rows[y], rows[y - 1])) {
            copy(lane, lane - step, width * (int64_t)sizeof *lane);
            continue;
        }
        for (int64_t x = 0; x < width; ++x) {
            if (x == 0 || !same_range(columns[x], columns[x - 1])) {
                ++class;
                bnas_write_padded_ones(conv, ones, rows[y], columns[x], conv->channels_out, tables + class, CLASSES);
            }
            lane[x] = (uint16_t)class;
        }
    }
    if (plan->layout == GATHERED) {
        for (int64_t image = 1; image < run->batch; ++image) {
            memcpy(classes + image * height * width, classes, (size_t)(height * width) * sizeof *classes);
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

/* One such array for each class of rows; and the class of each row. */
static void write_constants(const BnasRun* run, const Plan* plan) {
    const int64_t height = run->out_size[0], size = run->conv->channels_out * run->out_size[1];
    const Range *rows = part(run, plan->taps), *columns = rows + height;
    int32_t* row_classes = part(run, plan->row_classes);
    float* constants = part(run, plan->constants);
    int32_t class = -1;
    for (int64_t y = 0; y < height; ++y) {
        if (y == 0 || !same_range(rows[y], rows[y - 1])) {
            ++class;
            write_row_constants(run, rows[y], columns, constants + class * size);
        }
        row_classes[y] = class;
    }
}

void bnas_prepare_run(const BnasRun* run, const Variant* variant) {
    const Plan* plan = the_plan(run);
    write_offsets(run, variant, plan);
    write_taps(run, plan);
    write_totals(run, plan);
    if (run->conv->constants) {
        write_constants(run, plan);
    }
    if (plan->layout == CODES) {
        prepare_codes(run, variant, plan);
        return;
    }
    if (plan->padding == CLASSED) {
        write_classes(run, variant, plan);
    }
    const size_t behind = plan->planes + (size_t)(run->batch * run->conv->groups * plan->group_planes * plan->plane);
    memset(part(run, behind), (int)variant->padding, plan->end - behind);
}
