/* Packing: one unit per plane, with all its phases, and where steps were added one that is all padding. */
#include "blocked.h"

int64_t bnas_pack_units(const BnasRun* run) {
    return run->batch * run->conv->groups * the_plan(run)->group_units;
}

static void copy_rows(const KernelSpec* spec, Rows rows) {
    if (rows.stride == 2) {
        spec->halve((int32_t)rows.count, (int32_t)rows.length, (int32_t)rows.from_step, (int32_t)rows.to_step,
                    rows.from, rows.to);
        return;
    }
    for (int64_t row = 0; row < rows.count; ++row, rows.from += rows.from_step, rows.to += rows.to_step) {
        if (rows.stride == 1) {
            copy(rows.to, rows.from, rows.length);
            continue;
        }
        for (int64_t i = 0; i < rows.length; ++i) {
            rows.to[i] = rows.from[i * rows.stride];
        }
    }
}

/* Spreads packed rows, from `first` up to `end` of the image, over the planes that have them. */
static void spread_rows(const BnasRun* run, const KernelSpec* spec, const uint8_t* pixels, Range image,
                        uint8_t* planes) {
    const BnasConv* conv = run->conv;
    const Plan* plan = the_plan(run);
    const int64_t stride_y = conv->strides[0], stride_x = conv->strides[1], width = run->size[1];
    for (int64_t down = 0; down < plan->axes[0].phases; ++down) {
        Range rows = {elements_before(conv, 0, down, image.first + conv->pads[0]),
                      elements_before(conv, 0, down, image.end + conv->pads[0])};
        rows.end = smaller(rows.end, plan->axes[0].length);
        const int64_t row_zero = down * conv->dilations[0] % stride_y - conv->pads[0] - image.first;
        for (int64_t right = 0; right < plan->axes[1].phases; ++right, planes += plan->plane) {
            const Range columns = pixels_of(run, plan->axes, 1, right);
            const int64_t column_zero = right * conv->dilations[1] % stride_x - conv->pads[1];
            copy_rows(spec, (Rows){
                                .count = rows.end - rows.first,
                                .length = columns.end - columns.first,
                                .stride = stride_x,
                                .from = pixels + (rows.first * stride_y + row_zero) * width + columns.first * stride_x +
                                        column_zero,
                                .from_step = stride_y * width,
                                .to = planes + rows.first * plan->row_bytes + columns.first,
                                .to_step = plan->row_bytes,
                            });
        }
    }
}

static void pack_pixels(const BnasRun* run, const KernelSpec* spec, int64_t image, int64_t first_channel,
                        int64_t channels, Range pixels, uint8_t* bits) {
    if (run->conv->of_bits) {
        const Rows one = {.count = 1, .length = pixels.end - pixels.first, .to = bits};
        bnas_unpack_bits(run, image, first_channel, channels, pixels.first, one);
        return;
    }
    const int64_t at = pixels.first;
    const float *x[MOST_CHANNELS], *threshold = run->conv->threshold + first_channel;
    for (int64_t i = 0; i < MOST_CHANNELS; ++i) {
        x[i] = i < channels ? bnas_channel(run, image, first_channel + i) : x[0];
    }
    spec->pack((int32_t)channels, (int32_t)(pixels.end - at), x[0] + at, x[1] + at, x[2] + at, x[3] + at, x[4] + at,
               x[5] + at, x[6] + at, x[7] + at, threshold, bits);
}

/* Packs the channels of a byte of one image into their planes, all phases one after the other. */
static void pack_planes(const BnasRun* run, const KernelSpec* spec, int64_t image, int64_t first_channel,
                        int64_t channels, int padding, uint8_t* planes, uint8_t* scratch) {
    const BnasConv* conv = run->conv;
    const Plan* plan = the_plan(run);
    const int64_t height = run->size[0], width = run->size[1], phases = plan->axes[0].phases * plan->axes[1].phases;
    const int64_t pixels = height * width;
    if (phases == 1 && conv->strides[0] * conv->strides[1] == 1 && plan->plane == pixels && plan->row_bytes == width &&
        conv->pads[0] == 0 && conv->pads[1] == 0) {
        pack_pixels(run, spec, image, first_channel, channels, (Range){0, pixels}, planes);
        return;
    }
    memset(planes, padding, (size_t)(phases * plan->plane));
    if (pixels == 0) {
        return; /* an empty image under enough padding has outputs too */
    }
    if (conv->of_bits && phases == 1 && conv->strides[0] * conv->strides[1] == 1 && width >= LEAST_UNPACKED &&
        pixels_of(run, plan->axes, 0, 0).end - conv->pads[0] == height &&
        pixels_of(run, plan->axes, 1, 0).end - conv->pads[1] == width) {
        uint8_t* first = planes + conv->pads[0] * plan->row_bytes + conv->pads[1];
        const Rows all = {.count = height, .length = width, .to = first, .to_step = plan->row_bytes};
        bnas_unpack_bits(run, image, first_channel, channels, 0, all);
        return;
    }
    const int64_t rows = larger(1, PACK_PIXELS / width);
    for (int64_t y = 0; y < height; y += rows) {
        const int64_t taken = smaller(rows, height - y);
        pack_pixels(run, spec, image, first_channel, channels, (Range){y * width, (y + taken) * width}, scratch);
        spread_rows(run, spec, scratch, (Range){y, y + taken}, planes);
    }
}

void bnas_pack_unit(const BnasRun* run, const KernelSpec* spec, int64_t unit, void* scratch) {
    const BnasConv* conv = run->conv;
    const Plan* plan = the_plan(run);
    const int64_t phases = plan->axes[0].phases * plan->axes[1].phases;
    const int64_t groups = quotient(unit, plan->group_units), byte = unit - groups * plan->group_units;
    const int64_t image = quotient(groups, conv->groups), group = groups - image * conv->groups;
    const int64_t start = byte * phases * plan->plane, channel = group * conv->channels_in + byte * spec->channels;
    /* 0 where all is padding. */
    const int64_t channels = smaller(spec->channels, conv->channels_in - byte * spec->channels);
    if (plan->layout != CODES) {
        uint8_t* planes = blocked_of(run, image, group) + start;
        if (channels > 0) {
            const int padding = padding_of(conv, channel, channels, (int)spec->padding);
            pack_planes(run, spec, image, channel, channels, padding, planes, scratch);
        } else {
            memset(planes, (int)spec->padding, (size_t)plan->plane);
        }
        return;
    }
    uint8_t *planes = scratch, *packed = planes + bnas_aligned((size_t)(phases * plan->plane + plan->distances[1]));
    if (channels > 0) {
        const int padding = padding_of(conv, channel, channels, padded_pixel(spec));
        memset(planes + phases * plan->plane, padding, (size_t)plan->distances[1]);
        pack_planes(run, spec, image, channel, channels, padding, planes, packed);
    }
    for (int64_t set = 0; set < plan->sets; ++set) {
        uint16_t* codes = codes_of(run, image, group, set) + start;
        if (channels > 0) {
            spec->encode((int32_t)(phases * plan->plane), (int32_t)plan->distances[set], planes, codes);
        } else {
            bnas_fill_codes(spec, codes, plan->plane);
        }
    }
}
