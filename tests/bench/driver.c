/* Calls kernels without onnxruntime: on memory that the caller chose, with a clock around the parts.
 *
 * native_kernels.py links this with the whole library, all of its symbols visible. */
#define _POSIX_C_SOURCE 200809L

#include "kernel.h"
#include "kernel_prototypes.h"

#include <setjmp.h>
#include <signal.h>
#include <string.h>
#include <time.h>

/* What native_kernels.py declares again for ctypes. */
const size_t driver_layout[] = {sizeof(BnasConv), offsetof(BnasConv, constants), sizeof(BnasRun),
                                offsetof(BnasRun, packed)};

typedef struct DriverTicks {
    uint64_t prepare, stages[BNAS_STAGES], pool, count, epilogue;
} DriverTicks;

/* So often that a call from Python costs nothing beside it. */
void driver_repeat(int calls, BnasCount* count, int32_t vectors, int32_t pairs, int32_t steps, const uint8_t* blocked,
                   const int32_t* offsets, const uint8_t* weights, const uint8_t* tables, uint16_t* mismatches) {
    for (int call = 0; call < calls; ++call) {
        count(vectors, pairs, steps, blocked, offsets, weights, tables, mismatches);
    }
}

/* ------------------------------------------------------------------------------------------------------------------
 * Accesses to pages that are not there. One thread at a time. */

size_t driver_fault; /* the address of the last one */
static sigjmp_buf after_fault;

static void on_fault(int number, siginfo_t* info, void* context) {
    (void)number, (void)context;
    driver_fault = (size_t)info->si_addr;
    siglongjmp(after_fault, 1);
}

typedef struct Handlers {
    struct sigaction segv, bus;
} Handlers;

static Handlers catch_faults(void) {
    struct sigaction ours = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO};
    Handlers theirs;
    sigaction(SIGSEGV, &ours, &theirs.segv);
    sigaction(SIGBUS, &ours, &theirs.bus);
    return theirs;
}

static void put_back(const Handlers* theirs) {
    sigaction(SIGSEGV, &theirs->segv, NULL);
    sigaction(SIGBUS, &theirs->bus, NULL);
}

/* ------------------------------------------------------------------------------------------------------------------
 * A clock */

static uint64_t ticks(void) {
#if defined(__x86_64__)
    return __builtin_ia32_rdtsc(); /* takes a few nanoseconds, where a part may take a thousand */
#else
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
#endif
}

static uint64_t count_ticks, epilogue_ticks;

/* Defines what the linker gives the callers in place of a generated function (--wrap). Where a row has a function of
 * another row, nobody calls what is made under its own name, and there is nothing behind it. */
#define CLOCKED(type, name, sum, parameters, arguments) \
    type __real_##name __attribute__((weak));           \
    type __wrap_##name;                                 \
    int32_t __wrap_##name parameters {                  \
        const uint64_t start = ticks();                 \
        __real_##name arguments;                        \
        sum += ticks() - start;                         \
        return 0;                                       \
    }

/* What only one way of counting has. */
#define CLOCKED_lut4x2(isa)
#define CLOCKED_popcount8(isa)
#define CLOCKED_lut6x2(isa)                                                                                    \
    CLOCKED(BnasCorrectPadding, bnas_##isa##_correct_padding, count_ticks,                                     \
            (int32_t channels, int32_t vectors, const uint16_t* correction_index, const uint16_t* corrections, \
             uint16_t* mismatches),                                                                            \
            (channels, vectors, correction_index, corrections, mismatches))

#define BNAS_KERNEL_SPEC(isa, cpu_check, suits, counting, ...)                                                         \
    CLOCKED_##counting(isa) CLOCKED(BnasCount, bnas_##isa##_count, count_ticks,                                        \
                                    (int32_t vectors, int32_t pairs, int32_t steps, const uint8_t* blocked,            \
                                     const int32_t* offsets, const uint8_t* weights, const uint8_t* tables,            \
                                     uint16_t* mismatches),                                                            \
                                    (vectors, pairs, steps, blocked, offsets, weights, tables, mismatches))            \
        CLOCKED(BnasCountChannels, bnas_##isa##_count_channels, count_ticks,                                           \
                (int32_t vectors, int32_t pairs, int32_t steps, const uint8_t* weights, const uint16_t* codes,         \
                 const int32_t* offsets, const int32_t* positions, const uint8_t* tables, uint16_t* mismatches),       \
                (vectors, pairs, steps, weights, codes, offsets, positions, tables, mismatches))                       \
            CLOCKED(BnasEpilogue, bnas_##isa##_epilogue, epilogue_ticks,                                               \
                    (int32_t channels, int32_t count, int32_t activation, int32_t k_map, int32_t offset_stride,        \
                     int32_t added, int32_t y_stride, const uint16_t* mismatches, const int32_t* totals,               \
                     const float* offset, const float* scale, const float* bias, const float* slope, const float* k,   \
                     const float* added1, const float* added2, float* y),                                              \
                    (channels, count, activation, k_map, offset_stride, added, y_stride, mismatches, totals, offset,   \
                     scale, bias, slope, k, added1, added2, y))                                                        \
                CLOCKED(BnasToBits, bnas_##isa##_to_bits, epilogue_ticks,                                              \
                        (int32_t channels, int32_t count, int32_t are_equal, const uint16_t* mismatches,               \
                         const int16_t* totals, const int16_t* limits, uint8_t* bits),                                 \
                        (channels, count, are_equal, mismatches, totals, limits, bits))                                \
                    CLOCKED(BnasBlockEpilogue, bnas_##isa##_block_epilogue, epilogue_ticks,                            \
                            (int32_t channels, int32_t count, int32_t activation, int32_t affine, int32_t gate_stride, \
                             int32_t offset_stride, int32_t before, int32_t added, int32_t y_stride,                   \
                             const uint16_t* mismatches, const int32_t* totals, const float* offset,                   \
                             const float* scale, const float* bias, const float* slope, const float* low,              \
                             const float* high, const float* scale2, const float* bias2, const float* gate,            \
                             const float* before1, const float* added1, const float* added2, float* y),                \
                            (channels, count, activation, affine, gate_stride, offset_stride, before, added, y_stride, \
                             mismatches, totals, offset, scale, bias, slope, low, high, scale2, bias2, gate, before1,  \
                             added1, added2, y))
#include "kernel_specs.h"
#undef BNAS_KERNEL_SPEC

/* ------------------------------------------------------------------------------------------------------------------
 * A whole operator */

/* In bytes: prepacked weights, what the stages hand on, one thread's scratch, bits that are pooled. */
void driver_sizes(const BnasKernel* kernel, BnasRun* run, size_t sizes[4]) {
    if (kernel->plan) {
        kernel->plan(run);
    }
    sizes[0] = kernel->weights_size(run->conv);
    sizes[1] = kernel->packed_size(run);
    sizes[2] = kernel->scratch_size(run);
    sizes[3] = bnas_unpooled_size(run);
}

/* Both return whether there was an access to a page that is not there. */
int driver_prepack(const BnasKernel* kernel, BnasRun* run, const uint8_t* weights) {
    const Handlers theirs = catch_faults();
    const int fault = sigsetjmp(after_fault, 1);
    if (!fault) {
        kernel->prepack(run->conv, weights, (void*)(size_t)run->weights);
    }
    put_back(&theirs);
    return fault;
}

static uint64_t run_stage(const BnasStage* stage, const BnasRun* run, void* scratch) {
    const uint64_t before = ticks();
    const int64_t units = stage->units ? stage->units(run) : 0;
    for (int64_t unit = 0; unit < units; ++unit) {
        stage->work(run, unit, scratch);
    }
    return ticks() - before;
}

static void run_all(const BnasKernel* kernel, BnasRun* run, void* scratch, DriverTicks* parts) {
    count_ticks = epilogue_ticks = 0;
    const uint64_t before = ticks();
    if (kernel->plan) {
        kernel->plan(run);
    }
    if (kernel->prepare) {
        kernel->prepare(run);
    }
    parts->prepare = ticks() - before;
    for (int i = 0; i < BNAS_STAGES; ++i) {
        parts->stages[i] = run_stage(&kernel->stages[i], run, scratch);
    }
    parts->pool = run_stage(&bnas_pool_stage, run, scratch);
    parts->count = count_ticks;
    parts->epilogue = epilogue_ticks;
}

int driver_run(const BnasKernel* kernel, BnasRun* run, void* scratch, DriverTicks* parts) {
    const Handlers theirs = catch_faults();
    const int fault = sigsetjmp(after_fault, 1);
    if (!fault) {
        run_all(kernel, run, scratch, parts);
    }
    put_back(&theirs);
    return fault;
}
