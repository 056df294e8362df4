/* The operators of docs/operators.md: life, running and shape inference. Arithmetic is the kernels' business.
 *
 * What can be checked when a session is created is checked then. A kernel's state does not change afterwards, so that
 * any number of threads may run it. */
#include "memory.h"
#include "op.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const BnasOperatorRow bnas_operator_rows[BNAS_OPERATOR_ROWS] = {
#define OPERATOR(operator, ...) {.name = operator, __VA_ARGS__},
    BNAS_OPERATORS(OPERATOR)
#undef OPERATOR
};

static atomic_uint_fast64_t native_calls;

/* How often an operator of this library ran in this process: tests prove with it that it was not the function body. */
BNAS_EXPORT uint64_t bnas_native_calls(void);
uint64_t bnas_native_calls(void) {
    return atomic_load(&native_calls);
}

static atomic_uint_fast64_t shared_stages;

/* How many stages of runs were shared out among threads: the same for those. */
BNAS_EXPORT uint64_t bnas_shared_stages(void);
uint64_t bnas_shared_stages(void) {
    return atomic_load(&shared_stages);
}

/* ------------------------------------------------------------------------------------------------------------------
 * Life of a kernel */

static void destroy(void* state) {
    Node* node = state;
    bnas_free_parameters(&node->parameters);
    free(node);
    bnas_release_blocks();
}

static OrtStatus* select_kernel(Node* node) {
    char reason[MESSAGE_SIZE];
    node->kernel = bnas_select_kernel(reason, sizeof reason);
    return node->kernel ? NULL : bnas_refuse(node, "%s", reason);
}

static OrtStatus* fill(Node* node, const OrtKernelInfo* info) {
    size_t size = sizeof node->name;
    OrtStatus* status = BNAS_ORT(node->api, KernelInfo_GetNodeName)(info, node->name, &size);
    if (status) { /* longer than the buffer: messages do without it */
        BNAS_ORT(node->api, ReleaseStatus)(status);
        strcpy(node->name, "?");
    }
    TRY(select_kernel(node));
    TRY(bnas_read_attributes(node, info));
    node->kernel = bnas_covering_kernel(node->kernel, &node->conv);
    TRY(bnas_find_constants(node, info));
    return node->is_constant ? bnas_read_parameters(node, (InputSource){.info = info}, &node->parameters) : NULL;
}

static OrtStatus* create(const struct OrtCustomOp* op, const OrtApi* api, const OrtKernelInfo* info, void** state) {
    const BnasOperatorRow* row = ((const BnasOperator*)(const void*)op)->row;
    *state = NULL;
    Node* node = calloc(1, sizeof *node);
    if (!node) {
        return BNAS_ORT(api, CreateStatus)(BNAS_ORT_FAIL, "bnas: out of memory");
    }
    node->api = api;
    node->row = row;
#define CHOICE(type, name) node->conv.name = row->name;
    BNAS_CHOICES(CHOICE)
#undef CHOICE
    OrtStatus* status = fill(node, info);
    if (status) {
        destroy(node);
        return status;
    }
    *state = node;
    return NULL;
}

/* ------------------------------------------------------------------------------------------------------------------
 * Running */

/* The length of the output along one axis, 0 where the kernel does not fit. */
static int64_t out_length(const BnasConv* conv, int axis, int64_t length) {
    const int64_t reach = (conv->kernel[axis] - 1) * conv->dilations[axis] + 1;
    const int64_t room = length + conv->pads[axis] + conv->pads[2 + axis] - reach;
    return room < 0 ? 0 : room / conv->strides[axis] + 1;
}

/* Reads an input that is computed while the model runs; its rank must be 4. */
static OrtStatus* read_image(const Node* node, const OrtKernelContext* context, size_t index, const char* name,
                             int64_t* dims, const float** data) {
    const OrtApi* api = node->api;
    const OrtValue* value = NULL;
    size_t rank;
    TRY(BNAS_ORT(api, KernelContext_GetInput)(context, index, &value));
    TRY(bnas_read_shape(api, value, dims, &rank));
    if (rank != RANK) {
        return bnas_refuse(node,
                           "%s has %zu dimensions, wanted 4: batch, channels, height, width; check the input's shape",
                           name, rank);
    }
    void* found = NULL;
    TRY(BNAS_ORT(api, GetTensorMutableData)((OrtValue*)value, &found));
    *data = found;
    return NULL;
}

static OrtStatus* check_same_images(const Node* node, const int64_t* first, const int64_t* dims) {
    if (dims[0] == first[0] && memcmp(dims + 2, first + 2, 2 * sizeof *dims) == 0) {
        return NULL;
    }
    char got[SHAPE_SIZE], beside[SHAPE_SIZE];
    return bnas_refuse(node,
                       "a part of X has the shape %s beside one of %s, wanted the same batch, height and width; check "
                       "the input's shape",
                       bnas_shape_text(dims, RANK, got), bnas_shape_text(first, RANK, beside));
}

/* An empty image takes no memory, whatever its other sizes. */
static OrtStatus* refuse_sides(const Node* node, const int64_t* dims) {
    char got[SHAPE_SIZE];
    return bnas_refuse(node, "X has the shape %s, wanted channels and sides up to %lld; check the input's shape",
                       bnas_shape_text(dims, RANK, got), (long long)BNAS_LARGEST_SIZE);
}

/* X: `dims` is the shape of all its parts together. */
static OrtStatus* read_parts(const Node* node, const OrtKernelContext* context, BnasRun* run, int64_t* dims) {
    for (int64_t i = 0; i < node->conv.parts; ++i) {
        BnasPart* part = &run->parts[i];
        int64_t shape[RANK];
        TRY(read_image(node, context, (size_t)i, "X", shape, &part->x));
        if (shape[1] > BNAS_LARGEST_SIZE || shape[2] > BNAS_LARGEST_SIZE || shape[3] > BNAS_LARGEST_SIZE) {
            return refuse_sides(node, shape);
        }
        part->channels = shape[1];
        if (i == 0) {
            memcpy(dims, shape, sizeof shape);
        } else {
            TRY(check_same_images(node, dims, shape));
            dims[1] += shape[1];
        }
    }
    return NULL;
}

static OrtStatus* refuse_channels(const Node* node, const int64_t* dims) {
    char got[SHAPE_SIZE];
    return bnas_refuse(node, "X has the shape %s, that is %lld channels, wanted %lld; check the input's shape",
                       bnas_shape_text(dims, RANK, got), (long long)dims[1],
                       (long long)(node->conv.groups * node->conv.channels_in));
}

static OrtStatus* refuse_small(const Node* node, const int64_t* dims) {
    const BnasConv* conv = &node->conv;
    char got[SHAPE_SIZE], pads[SHAPE_SIZE];
    return bnas_refuse(node,
                       "X has the shape %s, too small for a kernel of %lld x %lld with dilation %lld x %lld and "
                       "pads %s; use a larger image",
                       bnas_shape_text(dims, RANK, got), (long long)conv->kernel[0], (long long)conv->kernel[1],
                       (long long)conv->dilations[0], (long long)conv->dilations[1],
                       bnas_shape_text(conv->pads, 4, pads));
}

static OrtStatus* read_x(const Node* node, const OrtKernelContext* context, BnasRun* run) {
    const BnasConv* conv = &node->conv;
    int64_t dims[RANK];
    TRY(read_parts(node, context, run, dims));
    if (dims[1] != conv->groups * conv->channels_in) {
        return refuse_channels(node, dims);
    }
    run->batch = dims[0];
    for (int axis = 0; axis < 2; ++axis) {
        run->size[axis] = dims[2 + axis];
        run->out_size[axis] = out_length(conv, axis, dims[2 + axis]);
        if (run->out_size[axis] < 1) {
            return refuse_small(node, dims);
        }
    }
    return NULL;
}

/* What is added has the shape of Y: ONNX would also add one row or one image to all, the exporter does not. */
static OrtStatus* read_added(const Node* node, const OrtKernelContext* context, BnasRun* run) {
    const int64_t wanted[RANK] = {run->batch, node->conv.channels_out, run->out_size[0], run->out_size[1]};
    for (int64_t i = 0; i < node->conv.added; ++i) {
        int64_t dims[RANK];
        TRY(read_image(node, context, first_added(node->row) + (size_t)i, "what is added", dims, &run->added[i]));
        if (memcmp(dims, wanted, sizeof dims) != 0) {
            char got[SHAPE_SIZE], y[SHAPE_SIZE];
            return bnas_refuse(node,
                               "what is added has the shape %s, the output %s, wanted the same; check the input's "
                               "shape",
                               bnas_shape_text(dims, RANK, got), bnas_shape_text(wanted, RANK, y));
        }
    }
    return NULL;
}

/* Asking onnxruntime for the output also checks that its size fits. */
static OrtStatus* get_y(const Node* node, OrtKernelContext* context, BnasRun* run) {
    const int64_t dims[RANK] = {run->batch, node->conv.channels_out, run->out_size[0], run->out_size[1]};
    OrtValue* y = NULL;
    void* data = NULL;
    TRY(BNAS_ORT(node->api, KernelContext_GetOutput)(context, 0, dims, RANK, &y));
    TRY(BNAS_ORT(node->api, GetTensorMutableData)(y, &data));
    run->y = data;
    return NULL;
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

static OrtStatus* run_stages(const Node* node, const OrtKernelContext* context, BnasRun* run) {
    const BnasKernel* kernel = node->kernel;
    if (kernel->plan) {
        kernel->plan(run);
    }
    const size_t scratch_size = bnas_aligned(kernel->scratch_size(run));
    const size_t packed_size = bnas_aligned(kernel->packed_size(run));
    Jobs stages[BNAS_STAGES];
    int64_t most = 0;
    for (int i = 0; i < BNAS_STAGES; ++i) {
        stages[i] = jobs_of(run, &kernel->stages[i], most_jobs(kernel, run));
        most = stages[i].count > most ? stages[i].count : most;
    }
    const size_t size = bnas_sum(packed_size, bnas_product((size_t)most, scratch_size));
    const BnasBlock block = bnas_take_block(size);
    if (!block.memory) {
        return bnas_out_of_memory(node, size);
    }
    run->packed = block.memory;
    if (kernel->prepare) {
        kernel->prepare(run);
    }
    OrtStatus* status = NULL;
    for (int i = 0; !status && i < BNAS_STAGES; ++i) {
        stages[i].scratch = (char*)block.memory + packed_size;
        stages[i].scratch_size = scratch_size;
        status = work(node, context, &stages[i]);
    }
    bnas_give_block(block);
    return status;
}

static OrtStatus* run_with(const Node* node, OrtKernelContext* context, const Parameters* parameters) {
    BnasRun run = {.conv = &parameters->conv, .weights = parameters->weights};
    TRY(read_x(node, context, &run));
    TRY(read_added(node, context, &run));
    TRY(get_y(node, context, &run));
    return run.batch == 0 ? NULL : run_stages(node, context, &run);
}

static OrtStatus* compute(void* state, OrtKernelContext* context) {
    const Node* node = state;
    atomic_fetch_add_explicit(&native_calls, 1, memory_order_relaxed);
    if (node->is_constant) {
        return run_with(node, context, &node->parameters);
    }
    Parameters parameters = {0};
    OrtStatus* status = bnas_read_parameters(node, (InputSource){.context = context}, &parameters);
    if (!status) {
        status = run_with(node, context, &parameters);
    }
    bnas_free_parameters(&parameters);
    return status;
}

/* ------------------------------------------------------------------------------------------------------------------
 * Shape inference. What is wrong with a node is told when its kernel is created; here it only leaves the shape open. */

static bool infer_attribute(const OrtApi* api, const OrtShapeInferContext* context, const AttributeRow* row,
                            int64_t* values) {
    const OrtOpAttr* attribute = NULL;
    OrtStatus* status = BNAS_ORT(api, ShapeInferContext_GetAttribute)(context, row->name, &attribute);
    if (status || !attribute) { /* absent */
        BNAS_ORT(api, ReleaseStatus)(status);
        return !row->is_required;
    }
    size_t bytes = 0;
    const size_t wanted = row->length * sizeof *values;
    status = BNAS_ORT(api, ReadOpAttr)(attribute, BNAS_ORT_ATTRIBUTE_INTS, values, wanted, &bytes);
    bool valid = !status && bytes == wanted;
    BNAS_ORT(api, ReleaseStatus)(status);
    for (size_t i = 0; valid && i < row->length; ++i) {
        valid = values[i] >= row->least && values[i] <= BNAS_LARGEST_SIZE;
    }
    return valid;
}

/* No shape depends on an attribute that is no list. */
static bool infer_attributes(const OrtApi* api, const OrtShapeInferContext* context, Attributes* attributes) {
    bool valid = true;
    for (size_t i = 0; valid && i < ATTRIBUTE_ROWS; ++i) {
        const AttributeRow* row = &bnas_attribute_rows[i];
        valid = !row->is_list || infer_attribute(api, context, row, attributes->values + row->first);
    }
    return valid;
}

enum { SYMBOL_SIZE = 256 };

typedef struct Shape {
    int64_t dims[RANK];
    const char* names[RANK]; /* of unknown dimensions */
    char symbols[RANK][SYMBOL_SIZE];
} Shape;

/* onnxruntime takes dimensions of one name for equal, and reuses memory by it. So an unknown length is named by the
 * formula that gives it, and by a number of its own where there is no name to start from. */
static void name_length(const BnasConv* conv, int axis, const char* name, char* symbol) {
    const int64_t grown = conv->pads[axis] + conv->pads[2 + axis] - (conv->kernel[axis] - 1) * conv->dilations[axis];
    const int64_t stride = conv->strides[axis];
    int length = SYMBOL_SIZE;
    if (name && *name && stride == 1 && grown == 0) {
        length = snprintf(symbol, SYMBOL_SIZE, "%s", name);
    } else if (name && *name) {
        length = snprintf(symbol, SYMBOL_SIZE, "(%s%+lld)/%lld+1", name, (long long)grown - 1, (long long)stride);
    }
    if (length >= SYMBOL_SIZE) {
        static atomic_uint unknowns;
        snprintf(symbol, SYMBOL_SIZE, "bnas_unknown_%u", atomic_fetch_add(&unknowns, 1));
    }
}

static void infer_length(const BnasConv* conv, int axis, Shape* shape) {
    int64_t* length = &shape->dims[2 + axis];
    if (*length < 0) {
        name_length(conv, axis, shape->names[2 + axis], shape->symbols[2 + axis]);
        shape->names[2 + axis] = shape->symbols[2 + axis];
    } else {
        *length = out_length(conv, axis, *length);
    }
}

static OrtStatus* set_shape(const OrtApi* api, OrtShapeInferContext* context, Shape* shape) {
    OrtTensorTypeAndShapeInfo* info = NULL;
    TRY(BNAS_ORT(api, CreateTensorTypeAndShapeInfo)(&info));
    OrtStatus* status = BNAS_ORT(api, SetTensorElementType)(info, BNAS_ORT_FLOAT);
    if (!status) {
        status = BNAS_ORT(api, SetDimensions)(info, shape->dims, RANK);
    }
    if (!status) {
        status = BNAS_ORT(api, SetSymbolicDimensions)(info, shape->names, RANK);
    }
    if (!status) {
        status = BNAS_ORT(api, ShapeInferContext_SetOutputTypeShape)(context, 0, info);
    }
    BNAS_ORT(api, ReleaseTensorTypeAndShapeInfo)(info);
    return status;
}

static OrtStatus* infer_shape(const struct OrtCustomOp* op, OrtShapeInferContext* context) {
    const OrtApi* api = ((const BnasOperator*)(const void*)op)->api;
    OrtTensorTypeAndShapeInfo* x = NULL; /* belongs to the context */
    size_t rank = 0;
    TRY(BNAS_ORT(api, ShapeInferContext_GetInputTypeShape)(context, 0, &x)); /* X, or its first part */
    TRY(BNAS_ORT(api, GetDimensionsCount)(x, &rank));
    Attributes attributes = bnas_attribute_defaults;
    BnasConv conv = {0};
    if (rank != RANK || !infer_attributes(api, context, &attributes)) {
        return NULL;
    }
    bnas_set_attributes(&conv, &attributes);
    Shape shape = {.names = {"", "", "", ""}};
    TRY(BNAS_ORT(api, GetDimensions)(x, shape.dims, RANK));
    TRY(BNAS_ORT(api, GetSymbolicDimensions)(x, shape.names, RANK));
    if (shape.dims[2] > BNAS_LARGEST_SIZE || shape.dims[3] > BNAS_LARGEST_SIZE) {
        return NULL;
    }
    if (shape.dims[0] < 0 && (!shape.names[0] || !*shape.names[0])) {
        return NULL;
    }
    shape.dims[1] = conv.channels_out;
    shape.names[1] = "";
    infer_length(&conv, 0, &shape);
    infer_length(&conv, 1, &shape);
    return set_shape(api, context, &shape);
}

/* ------------------------------------------------------------------------------------------------------------------
 * What onnxruntime asks about an operator */

static const BnasOperatorRow* row_of(const struct OrtCustomOp* op) {
    return ((const BnasOperator*)(const void*)op)->row;
}

static const char* get_name(const struct OrtCustomOp* op) {
    return row_of(op)->name;
}

static const char* on_the_cpu(const struct OrtCustomOp* op) {
    (void)op;
    return NULL; /* NULL means the CPU */
}

static unsigned input_type(const struct OrtCustomOp* op, size_t index) {
    return (int)index == row_of(op)->places[BNAS_INPUT_W] ? BNAS_ORT_UINT8 : BNAS_ORT_FLOAT;
}

static size_t input_count(const struct OrtCustomOp* op) {
    return (size_t)row_of(op)->inputs;
}

static unsigned output_type(const struct OrtCustomOp* op, size_t index) {
    (void)op, (void)index;
    return BNAS_ORT_FLOAT;
}

static size_t output_count(const struct OrtCustomOp* op) {
    (void)op;
    return 1;
}

static unsigned required(const struct OrtCustomOp* op, size_t index) {
    (void)op, (void)index;
    return BNAS_ORT_REQUIRED;
}

static int memory_type(const struct OrtCustomOp* op, size_t index) {
    (void)op, (void)index;
    return BNAS_ORT_MEMORY_DEFAULT;
}

/* No input or output is variadic; onnxruntime asks all the same. */
static int variadic_arity(const struct OrtCustomOp* op) {
    (void)op;
    return 0;
}

static int variadic_homogeneity(const struct OrtCustomOp* op) {
    (void)op;
    return 1;
}

static int first_version(const struct OrtCustomOp* op) {
    (void)op;
    return 1;
}

static int last_version(const struct OrtCustomOp* op) {
    (void)op;
    return INT32_MAX;
}

BnasOperator bnas_operator(const BnasOperatorRow* row, const OrtApi* api) {
    return (BnasOperator){
        .row = row,
        .api = api,
        .callbacks =
            {
                .version = BNAS_ORT_API_VERSION,
                .GetName = get_name,
                .GetExecutionProviderType = on_the_cpu,
                .GetInputType = input_type,
                .GetInputTypeCount = input_count,
                .GetOutputType = output_type,
                .GetOutputTypeCount = output_count,
                .KernelDestroy = destroy,
                .GetInputCharacteristic = required,
                .GetOutputCharacteristic = required,
                .GetInputMemoryType = memory_type,
                .GetVariadicInputMinArity = variadic_arity,
                .GetVariadicInputHomogeneity = variadic_homogeneity,
                .GetVariadicOutputMinArity = variadic_arity,
                .GetVariadicOutputHomogeneity = variadic_homogeneity,
                .CreateKernelV2 = create,
                .KernelComputeV2 = compute,
                .InferOutputShapeFn = infer_shape,
                .GetStartVersion = first_version,
                .GetEndVersion = last_version,
            },
    };
}
