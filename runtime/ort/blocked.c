/* The kernels of the channel-blocked layout: one per row of runtime/kernels/specs.py. */
#include "blocked.h"

#include "look_up_tables.h"

/* ------------------------------------------------------------------------------------------------------------------
 * K: the sums over the channels are units of the first stage, the map is the second. */

static int64_t magnitude_tiles(const BnasRun* run) {
    return run->conv->k_map ? ceil_div(run->size[0] * run->size[1], BNAS_MAGNITUDES_TILE) : 0;
}

static void sum_magnitudes(const BnasRun* run, int64_t unit) {
    const int64_t image = unit / magnitude_tiles(run), plane = run->size[0] * run->size[1];
    const int64_t first = unit % magnitude_tiles(run) * BNAS_MAGNITUDES_TILE;
    double* magnitudes = (double*)region(run, the_plan(run)->magnitudes) + image * plane + first;
    bnas_sum_magnitudes(run, image, first, smaller(BNAS_MAGNITUDES_TILE, plane - first), magnitudes);
}

static int64_t k_units(const BnasRun* run) {
    return run->conv->k_map ? run->batch * run->out_size[0] : 0;
}

static void compute_k(const BnasRun* run, int64_t unit, void* scratch) {
    const int64_t image = unit / run->out_size[0], y = unit % run->out_size[0];
    const double* magnitudes = (const double*)region(run, the_plan(run)->magnitudes);
    float* k = (float*)region(run, the_plan(run)->k) + unit * run->out_size[1];
    (void)scratch;
    for (int64_t x = 0; x < run->out_size[1]; ++x) {
        k[x] = bnas_k_of(run, magnitudes + image * run->size[0] * run->size[1], y, x);
    }
}

/* ------------------------------------------------------------------------------------------------------------------
 * Stages */

static size_t packed_bytes(const BnasRun* run) {
    return the_plan(run)->end;
}

static size_t scratch_bytes(const BnasRun* run, const KernelSpec* spec) {
    const Plan* plan = the_plan(run);
    const size_t mismatches = (size_t)(BLOCK_CHANNELS * tile_lanes(spec)) * sizeof(uint16_t);
    const size_t gathered = bnas_product((size_t)plan->steps, (size_t)(plan->tile + WIDEST));
    const int64_t phases = plan->axes[0].phases * plan->axes[1].phases;
    const size_t planes = plan->layout == CODES ? bnas_aligned((size_t)(phases * plan->plane + plan->distances[1])) : 0;
    const size_t packing = bnas_sum(planes, (size_t)(larger(PACK_PIXELS, run->size[1]) + WIDEST));
    const size_t constants = (size_t)tile_constants(run->conv, spec) * sizeof(float);
    const size_t convolving = bnas_sum(constants + mismatches, plan->layout == GATHERED ? gathered : mismatches);
    return (size_t)larger((int64_t)convolving, (int64_t)packing);
}

static int64_t first_units(const BnasRun* run) {
    return bnas_pack_units(run) + run->batch * magnitude_tiles(run);
}

static void first_stage(const BnasRun* run, const KernelSpec* spec, int64_t unit, void* scratch) {
    const int64_t planes = bnas_pack_units(run);
    if (unit < planes) {
        bnas_pack_unit(run, spec, unit, scratch);
    } else {
        sum_magnitudes(run, unit - planes);
    }
}

/* On the processor of docs/kernels.md, about: enough to tell whether a second thread helps. */
static int64_t nanoseconds(const BnasRun* run, const KernelSpec* spec) {
    const BnasConv* conv = run->conv;
    const int64_t floats = run->batch * conv->groups * conv->channels_in * run->size[0] * run->size[1];
    const int64_t outputs = run->batch * conv->channels_out * run->out_size[0] * run->out_size[1];
    const int64_t multiply_adds = outputs * bnas_taps(conv) * conv->channels_in;
    const int64_t k = k_units(run) * run->out_size[1] * bnas_taps(conv) + (conv->k_map ? floats / 5 : 0);
    return floats / 16 + k + multiply_adds / (14 * spec->vector_bytes) + outputs / 10;
}

/* What depends on the way of counting. */
#define WITH_TABLES(name, tables, pair_tables) \
    tables, pair_tables, bnas_##name##_encode, bnas_##name##_count_channels, bnas_##name##_transpose
#define BNAS_COUNTING_lut4x2(name) WITH_TABLES(name, bnas_lut4x2_tables, bnas_lut4x2_pair_tables), NULL
#define BNAS_COUNTING_lut6x2(name) \
    WITH_TABLES(name, bnas_lut6x2_tables[0][0], bnas_lut6x2_tables[0][0]), bnas_##name##_correct_padding
#define BNAS_COUNTING_popcount8(name) WITH_TABLES(name, NULL, NULL), NULL

#define BNAS_KERNEL_SPEC(name, cpu_check, suits_check, counting, ...)                                      \
    static const KernelSpec name = {__VA_ARGS__,                                                           \
                                    bnas_##name##_pack,                                                    \
                                    bnas_##name##_count,                                                   \
                                    bnas_##name##_epilogue,                                                \
                                    bnas_##name##_block_epilogue,                                          \
                                    bnas_##name##_halve,                                                   \
                                    bnas_##name##_to_bits,                                                 \
                                    BNAS_COUNTING_##counting(name)};                                       \
    static bool covers_##name(const BnasConv* conv) {                                                      \
        return bnas_covers_conv(conv, &name);                                                              \
    }                                                                                                      \
    static size_t weights_size_##name(const BnasConv* conv) {                                              \
        return bnas_weights_bytes(conv, &name);                                                            \
    }                                                                                                      \
    static void prepack_##name(const BnasConv* conv, const uint8_t* weights, void* prepacked) {            \
        bnas_prepack_weights(conv, &name, weights, prepacked);                                             \
    }                                                                                                      \
    static void plan_##name(BnasRun* run) {                                                                \
        bnas_plan_run(run, &name);                                                                         \
    }                                                                                                      \
    static size_t scratch_size_##name(const BnasRun* run) {                                                \
        return scratch_bytes(run, &name);                                                                  \
    }                                                                                                      \
    static void prepare_##name(const BnasRun* run) {                                                       \
        bnas_prepare_run(run, &name);                                                                      \
    }                                                                                                      \
    static void first_##name(const BnasRun* run, int64_t unit, void* scratch) {                            \
        first_stage(run, &name, unit, scratch);                                                            \
    }                                                                                                      \
    static int64_t nanoseconds_##name(const BnasRun* run) {                                                \
        return nanoseconds(run, &name);                                                                    \
    }                                                                                                      \
    static void last_##name(const BnasRun* run, int64_t unit, void* scratch) {                             \
        bnas_convolve_unit(run, &name, unit, scratch);                                                     \
    }                                                                                                      \
    static void image_##name(const BnasRun* run, int64_t unit, void* scratch) {                            \
        (void)scratch;                                                                                     \
        bnas_image_unit(run, unit, name.vector_bytes);                                                     \
    }                                                                                                      \
    const BnasKernel bnas_##name##_kernel = {                                                              \
        .isa = #name,                                                                                      \
        .runs_here = bnas_cpu_##cpu_check,                                                                 \
        .suits = bnas_suits_##suits_check,                                                                 \
        .covers = covers_##name,                                                                           \
        .weights_size = weights_size_##name,                                                               \
        .prepack = prepack_##name,                                                                         \
        .plan = plan_##name,                                                                               \
        .packed_size = packed_bytes,                                                                       \
        .scratch_size = scratch_size_##name,                                                               \
        .prepare = prepare_##name,                                                                         \
        .nanoseconds = nanoseconds_##name,                                                                 \
        .stages = {{first_units, first_##name}, {k_units, compute_k}, {bnas_convolve_units, last_##name}}, \
        .image = image_##name,                                                                             \
    };
#include "kernel_specs.h"
