/* The plan of a run, which lays out the planes, the tiles and the tables that all of its units read. */
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
static int64_t row_bytes_of(const BnasRun* run, const Axis* axes) {
    int64_t row_bytes = run->out_size[1];
    for (int64_t phase = 0; phase < axes[1].phases; ++phase) {
        const Range pixels = pixels_of(run, axes, 1, phase);
        row_bytes = larger(row_bytes, larger(pixels.end, axes[1].length - pixels.first));
    }
    return row_bytes;
}

/* What gathering whole tiles saves where loads across two lines of the cache are slow, in the unit below: a ninth of
 * counting, and for rows that the epilogue does not take one by one the copies that move their mismatches together. */
static int64_t saved_by_alignment(const BnasRun* run, const KernelSpec* spec, int64_t vectors) {
    const int64_t channels = group_channels(run->conv), width = run->out_size[1];
    const int64_t copies = width < LONG_ROW ? run->out_size[0] * ceil_div(2 * width, 16) * channels : 0;
    return vectors * weight_rows(run->conv, spec) / 9 + 2 * copies / steps_of(run->conv, spec);
}

/* Vectors of a gathered tile. */
static int64_t gathered_vectors(const BnasRun* run, const KernelSpec* spec) {
    int64_t vectors = spec->vectors;
    while (vectors > 1 && steps_of(run->conv, spec) * vectors * spec->vector_bytes > GATHERED_BYTES) {
        vectors /= 2;
    }
    return vectors;
}

/* What look-ups cost for each pair: 4 for a vector, and where a tile has no other 1 or 2 more, so that each has to
 * load a table of its own, or to add two. `most` are the vectors of a full tile. */
static int64_t cost_of(const KernelSpec* spec, int64_t lanes, int64_t most) {
    const int64_t vectors = ceil_div(lanes, spec->vector_bytes);
    const int64_t alone = most == 1 ? vectors : vectors % most == 1;
    return 4 * vectors + alone * step_bytes(spec);
}

static int64_t cost_in_place(const BnasRun* run, const KernelSpec* spec, int64_t lanes) {
    return run->batch * cost_of(spec, lanes, spec->vectors);
}

static int64_t cost_gathered(const BnasRun* run, const KernelSpec* spec) {
    const int64_t pixels = run->out_size[0] * run->out_size[1];
    return cost_of(spec, run->batch * pixels, gathered_vectors(run, spec));
}

/* Gathering costs a copy for each step and each 16 pixels of a row, about as much as counting 2 rows of weights. */
static bool gathering_pays(const BnasRun* run, const KernelSpec* spec, int64_t lanes) {
    const int64_t pixels = run->out_size[0] * run->out_size[1];
    const int64_t saved =
        (cost_in_place(run, spec, lanes) - cost_gathered(run, spec)) * weight_rows(run->conv, spec) / 4;
    const int64_t copies = run->batch * run->out_size[0] * ceil_div(run->out_size[1], 16);
    const bool fits = gathered_vectors(run, spec) == spec->vectors;
    const bool shares = run->batch * pixels > (ALIGNED_TILES - 1) * tile_lanes(spec);
    const bool aligns = spec->aligns && lanes > pixels && fits && shares;
    const int64_t vectors = ceil_div(lanes, spec->vector_bytes);
    const int64_t aligned = aligns ? run->batch * saved_by_alignment(run, spec, vectors) : 0;
    return saved + aligned > 2 * copies;
}

/* Mismatches are transposed after lanes that were channels, and the epilogue takes a few pixels at a time. For one
 * output that takes as long, on a Zen 4, as a cost of 1 for one step. */
static bool channels_pay(const BnasRun* run, const KernelSpec* spec, int64_t lanes, bool gathers) {
    const BnasConv* conv = run->conv;
    /* Where 8 channels fill a byte there is no code for padding. */
    if (bnas_pads_zeros(conv) && padded_pixel(spec) > UINT8_MAX) {
        return false;
    }
    const int64_t pixels = run->out_size[0] * run->out_size[1], channels = group_channels(conv);
    const int64_t by_pixels = gathers ? cost_gathered(run, spec) : cost_in_place(run, spec, lanes);
    /* A look-up is for both pixels of a pair. */
    const int64_t by_channels = run->batch * cost_of(spec, channels, spec->vectors) * 2 / spec->outputs;
    const int64_t saved = by_pixels * weight_rows(conv, spec) - by_channels * ceil_div(pixels, 2);
    return saved * steps_of(conv, spec) > run->batch * pixels * channels;
}

/* Positions of the output whose taps inside are the same ones, one after the other. */
static int64_t distinct_taps(const BnasRun* run, int axis) {
    int64_t distinct = 0;
    Range last = {-1, -1};
    for (int64_t position = 0; position < run->out_size[axis]; ++position) {
        const Range taps = bnas_taps_inside(run, axis, position);
        distinct += !same_range(taps, last);
        last = taps;
    }
    return distinct;
}

static bool table_fits(const BnasRun* run, const KernelSpec* spec) {
    return spec->correct_padding && distinct_taps(run, 0) * distinct_taps(run, 1) <= CORRECTIONS;
}

static size_t place(size_t* end, int64_t count, size_t size) {
    const size_t start = *end;
    *end = bnas_aligned(bnas_sum(start, bnas_product((size_t)count, size)));
    return start;
}

/* Whether all that the count reads in place begins at a multiple of half a vector: few loads then read from two lines
 * of the cache, which takes as long as two loads. */
static bool reads_few_lines_twice(const BnasRun* run, const KernelSpec* spec, const Plan* plan) {
    return bnas_taps(run->conv) == 1 && plan->plane % (spec->vector_bytes / 2) == 0;
}

/* Tiles of lanes that are pixels. */
static void plan_pixels(const BnasRun* run, const KernelSpec* spec, Plan* plan) {
    if (plan->layout == GATHERED) {
        plan->lanes = run->batch * run->out_size[0] * run->out_size[1];
        plan->vectors = gathered_vectors(run, spec);
    }
    const bool in_place = plan->layout == BLOCKED && !reads_few_lines_twice(run, spec, plan);
    plan->at_once = in_place ? spec->in_place : plan->vectors;
    plan->tile = plan->vectors * spec->vector_bytes;
    plan->tiles = ceil_div(plan->lanes, plan->tile);
    plan->blocks = ceil_div(group_channels(run->conv), BLOCK_CHANNELS);
}

/* Tiles of pixels whose lanes are channels. The two pixels of a pair are neighbours in a row, or the last of a row
 * and the first of the next one. */
static void plan_channels(const BnasRun* run, const KernelSpec* spec, Plan* plan) {
    plan->tile = BLOCK_PIXELS;
    plan->tiles = ceil_div(run->out_size[0] * run->out_size[1], BLOCK_PIXELS);
    plan->blocks = ceil_div(group_channels(run->conv), tile_lanes(spec));
    plan->distances[0] = 1;
    plan->distances[1] = plan->row_bytes - run->out_size[1] + 1;
    plan->sets = run->out_size[1] % 2 == 1 && run->out_size[0] > 1 ? 2 : 1;
    /* The last row's taps end past it. */
    plan->set = plan->group_planes * plan->plane + plan->axes[1].length;
}

/* Bytes behind the last row of a plane. Its last taps end past it, in the padding that the next plane begins with:
 * which is another one where each plane has signs of its own. */
static int64_t tail_of(const BnasRun* run, const Plan* plan) {
    return run->conv->pads_signs ? larger(0, plan->axes[1].length - plan->row_bytes) : 0;
}

/* Whether the kernels, whose indices are 32 bits wide, can work on planes and images of these sizes. */
static bool has_indices(const BnasRun* run, const Plan* plan) {
    const size_t most = INT32_MAX / BLOCK_CHANNELS;
    const size_t rows = bnas_product((size_t)plan->axes[0].length, (size_t)plan->row_bytes);
    const size_t plane = bnas_sum(rows, (size_t)tail_of(run, plan));
    return bnas_product((size_t)plan->group_planes, plane) <= INT32_MAX / 4 &&
           bnas_product((size_t)run->out_size[0], (size_t)run->out_size[1]) <= most &&
           bnas_product((size_t)run->size[0], (size_t)run->size[1]) <= most;
}

/* With constant channels, pixels with the same taps inside share what these add, and the limits made of it. */
static void place_constants(const BnasRun* run, Plan* plan, size_t* end) {
    const BnasConv* conv = run->conv;
    const int64_t row_kinds = conv->constants ? distinct_taps(run, 0) : 1;
    plan->column_kinds = conv->constants ? distinct_taps(run, 1) : 1;
    plan->kinds = place(end, conv->constants ? run->out_size[0] + run->out_size[1] : 0, sizeof(int32_t));
    const int64_t limits = conv->to_bits ? row_kinds * plan->column_kinds * conv->bytes_out * BNAS_BYTE : 0;
    plan->limits = place(end, limits, sizeof(int16_t));
    const int64_t constants = conv->constants && !conv->to_bits ? row_kinds * conv->channels_out * run->out_size[1] : 0;
    plan->constants = place(end, constants, sizeof(float));
}

static Plan plan_of(const BnasRun* run, const KernelSpec* spec) {
    const BnasConv* conv = run->conv;
    Plan plan = {.axes = {axis_of(run, 0), axis_of(run, 1)}, .steps = steps_of(conv, spec), .vectors = spec->vectors};
    plan.row_bytes = row_bytes_of(run, plan.axes);
    const int64_t planes = bytes_of(conv, spec) * plan.axes[0].phases * plan.axes[1].phases;
    plan.group_planes = planes + (adds_steps(conv, spec) ? 1 : 0);
    plan.group_units = bytes_of(conv, spec) + (adds_steps(conv, spec) ? 1 : 0);
    if (!has_indices(run, &plan)) { /* before any of these sizes are multiplied */
        plan.end = SIZE_MAX;
        return plan;
    }
    const int64_t pixels = run->out_size[0] * run->out_size[1];
    plan.plane = plan.axes[0].length * plan.row_bytes + tail_of(run, &plan);
    plan.lanes = (run->out_size[0] - 1) * plan.row_bytes + run->out_size[1];
    const bool gathers = gathering_pays(run, spec, plan.lanes);
    plan.layout = channels_pay(run, spec, plan.lanes, gathers) ? CODES : gathers ? GATHERED : BLOCKED;
    (plan.layout == CODES ? plan_channels : plan_pixels)(run, spec, &plan);
    size_t end = 0;
    plan.offsets = place(&end, 2 * plan.steps, sizeof(int32_t));
    plan.positions = place(&end, plan.layout == CODES ? ceil_div(pixels, 2) : 0, sizeof(int32_t));
    plan.taps = place(&end, run->out_size[0] + run->out_size[1], sizeof(Range));
    plan.totals = place(&end, pixels, sizeof(int32_t));
    plan.short_totals = place(&end, conv->to_bits ? pixels : 0, sizeof(int16_t));
    place_constants(run, &plan, &end);
    const bool corrects = counts_padding(spec) && plan.layout != CODES && bnas_pads_zeros(conv);
    plan.correction = !corrects ? NO_CORRECTION : table_fits(run, spec) ? BY_TABLE : BY_RUNS;
    plan.correction_index = place(&end, plan.correction == BY_TABLE ? plan.lanes + WIDEST_TILE : 0, sizeof(uint16_t));
    plan.corrections =
        place(&end, plan.correction == BY_TABLE ? conv->channels_out * CORRECTIONS : 0, sizeof(uint16_t));
    plan.magnitudes = place(&end, conv->k_map ? run->batch * run->size[0] * run->size[1] : 0, sizeof(double));
    plan.k = place(&end, conv->k_map ? run->batch * pixels : 0, sizeof(float));
    if (plan.layout == CODES) {
        plan.blocked = place(&end, run->batch * conv->groups * plan.sets * plan.set, sizeof(uint16_t));
        plan.end = end;
    } else {
        plan.blocked = place(&end, run->batch * conv->groups * plan.group_planes, (size_t)plan.plane);
        /* Vectors end past the last pixel, and the last row's taps past the last row. */
        plan.end = bnas_sum(end, (size_t)(plan.axes[1].length + WIDEST_TILE));
    }
    return plan;
}

_Static_assert(sizeof(Plan) <= BNAS_PLAN_SIZE, "a plan has to fit in a run");

void bnas_plan_run(BnasRun* run, const KernelSpec* spec) {
    const Plan plan = plan_of(run, spec);
    memcpy(run->plan, &plan, sizeof plan);
}
