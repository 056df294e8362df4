/* The stages of a run, shared out among the threads of onnxruntime. */
#include "memory.h"
#include "op.h"

#include <stdatomic.h>

static atomic_uint_fast64_t shared_stages;

/* How many stages of runs were shared out among threads: the same for those. */
BNAS_EXPORT uint64_t bnas_shared_stages(void);
uint64_t bnas_shared_stages(void) {
    return atomic_load(&shared_stages);
}

/* The units of one stage of a run, shared out as `count` jobs: enough of them that many threads have work and that an
 * unlucky one does not hold up the rest, few enough that starting them costs nothing beside the work. */
enum { MOST_JOBS = 32 };

/* A shorter run is not shared out. To start a second thread took 0.4 us of an AMD Zen 4 where that waited in a loop, as
 * onnxruntime's do between the nodes of a model, and up to 10 where it slept. */
enum { LEAST_SHARED_NANOSECONDS = 9000 };

typedef struct Jobs {
    const BnasRun* run;
    const BnasStage* stage;
    int64_t units;
    int64_t count;
    char* scratch; /* `scratch_size` bytes for each job */
    size_t scratch_size;
} Jobs;

/* Job i has the units from first_unit(i) up to first_unit(i + 1). */
static int64_t first_unit(const Jobs* jobs, int64_t job) {
    const int64_t each = jobs->units / jobs->count, more = jobs->units % jobs->count;
    return job * each + (job < more ? job : more);
}

static void do_job(void* data, size_t job) {
    const Jobs* jobs = data;
    char* scratch = jobs->scratch + job * jobs->scratch_size;
    const int64_t end = first_unit(jobs, (int64_t)job + 1);
    for (int64_t unit = first_unit(jobs, (int64_t)job); unit < end; ++unit) {
        jobs->stage->work(jobs->run, unit, scratch);
    }
}

/* All stages or none: the first one wakes the threads for the others. */
static int64_t most_jobs(const BnasKernel* kernel, const BnasRun* run) {
    const int64_t time = kernel->nanoseconds ? kernel->nanoseconds(run) : LEAST_SHARED_NANOSECONDS;
    return time < LEAST_SHARED_NANOSECONDS ? 1 : MOST_JOBS;
}

static Jobs jobs_of(const BnasRun* run, const BnasStage* stage, int64_t most) {
    Jobs jobs = {.run = run, .stage = stage, .units = stage->units ? stage->units(run) : 0};
    jobs.count = jobs.units < most ? jobs.units : most;
    return jobs;
}

/* What lies in the memory between the processor and its farther caches goes through at about so many floats. */
enum { FLOATS_OF_NANOSECOND = 2 };

static Jobs image_jobs(const BnasRun* run, const BnasStage* stage) {
    const int64_t floats = run->batch * run->conv->channels_out * run->size[0] * run->size[1];
    return jobs_of(run, stage, floats / FLOATS_OF_NANOSECOND < LEAST_SHARED_NANOSECONDS ? 1 : MOST_JOBS);
}

/* Works on onnxruntime's own threads, or in this one alone. */
static OrtStatus* work(const Node* node, const OrtKernelContext* context, Jobs* jobs) {
    if (jobs->count <= 1) {
        for (int64_t unit = 0; unit < jobs->units; ++unit) {
            jobs->stage->work(jobs->run, unit, jobs->scratch);
        }
        return NULL;
    }
    atomic_fetch_add_explicit(&shared_stages, 1, memory_order_relaxed);
    return BNAS_ORT(node->api, KernelContext_ParallelFor)(context, do_job, (size_t)jobs->count, 0, jobs);
}

/* Those of the kernel, and the one that pools bits. */
enum { ALL_STAGES = BNAS_STAGES + 1 };

OrtStatus* bnas_run_stages(const Node* node, const OrtKernelContext* context, BnasRun* run) {
    const BnasKernel* kernel = node->kernel;
    if (!run->conv->convolves) {
        const BnasStage stage = {bnas_image_units, kernel->image};
        Jobs jobs = image_jobs(run, &stage);
        return work(node, context, &jobs);
    }
    if (kernel->plan) {
        kernel->plan(run);
    }
    const size_t scratch_size = bnas_aligned(kernel->scratch_size(run));
    const size_t packed_size = bnas_aligned(kernel->packed_size(run));
    const size_t bits_size = bnas_aligned(bnas_unpooled_size(run));
    Jobs stages[ALL_STAGES];
    int64_t most = 0;
    for (int i = 0; i < ALL_STAGES; ++i) {
        const BnasStage* stage = i < BNAS_STAGES ? &kernel->stages[i] : &bnas_pool_stage;
        stages[i] = jobs_of(run, stage, most_jobs(kernel, run));
        most = stages[i].count > most ? stages[i].count : most;
    }
    const size_t kept_size = bnas_sum(packed_size, bits_size);
    const size_t size = bnas_sum(kept_size, bnas_product((size_t)most, scratch_size));
    const BnasBlock block = bnas_take_block(size);
    if (!block.memory) {
        return bnas_out_of_memory(node, size);
    }
    run->packed = block.memory;
    if (run->conv->max_pool) {
        run->bits = (uint8_t*)block.memory + packed_size;
    }
    if (kernel->prepare) {
        kernel->prepare(run);
    }
    OrtStatus* status = NULL;
    for (int i = 0; !status && i < ALL_STAGES; ++i) {
        stages[i].scratch = (char*)block.memory + kept_size;
        stages[i].scratch_size = scratch_size;
        status = work(node, context, &stages[i]);
    }
    bnas_give_block(block);
    return status;
}
