/* One call of a node: its inputs are checked and its output is asked for. Arithmetic is the kernels' business. */
#include "op.h"

#include <stdatomic.h>
#include <string.h>

static atomic_uint_fast64_t native_calls;

/* How often an operator of this library ran in this process: tests prove with it that it was not the function body. */
BNAS_EXPORT uint64_t bnas_native_calls(void);
uint64_t bnas_native_calls(void) {
    return atomic_load(&native_calls);
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
        BnasInput* input = &run->inputs[i];
        int64_t shape[RANK];
        TRY(read_image(node, context, (size_t)i, "X", shape, &input->x));
        if (shape[1] > BNAS_LARGEST_SIZE || shape[2] > BNAS_LARGEST_SIZE || shape[3] > BNAS_LARGEST_SIZE) {
            return refuse_sides(node, shape);
        }
        input->channels = shape[1];
        if (i == 0) {
            memcpy(dims, shape, sizeof shape);
        } else {
            TRY(check_same_images(node, dims, shape));
            dims[1] += shape[1];
        }
    }
    return NULL;
}

static OrtStatus* refuse_channels(const Node* node, const int64_t* dims, int64_t wanted) {
    char got[SHAPE_SIZE];
    return bnas_refuse(node, "X has the shape %s, that is %lld channels, wanted %lld; check the input's shape",
                       bnas_shape_text(dims, RANK, got), (long long)dims[1], (long long)wanted);
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

static OrtStatus* refuse_to_pool(const Node* node, const int64_t* dims, const int64_t* made) {
    char got[SHAPE_SIZE];
    return bnas_refuse(node,
                       "X has the shape %s, of which %lld x %lld pixels are made, too few for a maximum of 2 x 2; "
                       "use a larger image",
                       bnas_shape_text(dims, RANK, got), (long long)made[0], (long long)made[1]);
}

static OrtStatus* refuse_bytes(const Node* node, const int64_t* dims, int64_t wanted) {
    char got[SHAPE_SIZE];
    return bnas_refuse(node, "X has the shape %s, wanted at least %lld bytes for each pixel; check the input's shape",
                       bnas_shape_text(dims, RANK, got), (long long)wanted);
}

static OrtStatus* read_x(const Node* node, const OrtKernelContext* context, BnasRun* run) {
    const BnasConv* conv = run->conv;
    int64_t dims[RANK];
    TRY(read_parts(node, context, run, dims));
    if (conv->of_bits && dims[1] < conv->bytes_in) {
        return refuse_bytes(node, dims, conv->bytes_in);
    }
    const int64_t channels = conv->convolves ? conv->groups * conv->channels_in : conv->channels_out;
    if (!conv->of_bits && dims[1] != channels) {
        return refuse_channels(node, dims, channels);
    }
    run->batch = dims[0];
    for (int axis = 0; axis < 2; ++axis) {
        run->size[axis] = dims[2 + axis];
        run->out_size[axis] = conv->convolves ? bnas_out_length(conv, axis, dims[2 + axis]) : dims[2 + axis];
        if (conv->convolves && run->out_size[axis] < 1) {
            return refuse_small(node, dims);
        }
    }
    const bool pools = !conv->max_pool || (bnas_pooled(run->out_size[0]) > 0 && bnas_pooled(run->out_size[1]) > 0);
    return pools ? NULL : refuse_to_pool(node, dims, run->out_size);
}

static void shape_of_y(const BnasRun* run, int64_t* dims) {
    const BnasConv* conv = run->conv;
    const int64_t channels = conv->to_bits ? conv->bytes_out : conv->channels_out;
    const int64_t shape[RANK] = {run->batch, channels, run->out_size[0], run->out_size[1]};
    memcpy(dims, shape, sizeof shape);
    for (int axis = 0; axis < 2 && bnas_pools(conv); ++axis) {
        dims[2 + axis] = bnas_pooled(dims[2 + axis]);
    }
}

/* The gate is for each image, or one for all, and has one number for each channel, or one for each pixel, too. */
static OrtStatus* read_gate(const Node* node, const OrtKernelContext* context, BnasRun* run, size_t index) {
    int64_t dims[RANK], y[RANK];
    shape_of_y(run, y);
    TRY(read_image(node, context, index, "gate", dims, &run->gate.first));
    const bool is_map = dims[2] == y[2] && dims[3] == y[3];
    if ((dims[0] != y[0] && dims[0] != 1) || dims[1] != y[1] || (!is_map && (dims[2] != 1 || dims[3] != 1))) {
        char got[SHAPE_SIZE], wanted[SHAPE_SIZE];
        return bnas_refuse(node,
                           "gate has the shape %s, the output %s; it must have its channels, its images or one, and "
                           "its pixels or one; check the input's shape",
                           bnas_shape_text(dims, RANK, got), bnas_shape_text(y, RANK, wanted));
    }
    run->gate.channel = dims[2] * dims[3];
    run->gate.image = dims[0] == 1 ? 0 : dims[1] * run->gate.channel;
    return NULL;
}

/* What is added has the shape of Y: ONNX would also add one row or one image to all, the exporter does not. */
static OrtStatus* read_terms(const Node* node, const OrtKernelContext* context, const BnasRun* run, size_t index,
                             int64_t count, const float** terms) {
    int64_t wanted[RANK];
    shape_of_y(run, wanted);
    for (int64_t i = 0; i < count; ++i) {
        int64_t dims[RANK];
        TRY(read_image(node, context, index + (size_t)i, "what is added", dims, &terms[i]));
        if (memcmp(dims, wanted, sizeof dims) != 0) {
            char got[SHAPE_SIZE], y[SHAPE_SIZE];
            return bnas_refuse(node,
                               "an added input has the shape %s, the output %s; they must be equal; check the input's "
                               "shape",
                               bnas_shape_text(dims, RANK, got), bnas_shape_text(wanted, RANK, y));
        }
    }
    return NULL;
}

static OrtStatus* read_computed(const Node* node, const OrtKernelContext* context, BnasRun* run) {
    size_t index = first_computed(node->descriptor);
    if (node->conv.gate) {
        TRY(read_gate(node, context, run, index++));
    }
    TRY(read_terms(node, context, run, index, node->conv.before, run->before));
    return read_terms(node, context, run, index + (size_t)node->conv.before, node->conv.added, run->added);
}

/* Asking onnxruntime for the output also checks that its size fits. */
static OrtStatus* get_y(const Node* node, OrtKernelContext* context, BnasRun* run) {
    int64_t dims[RANK];
    shape_of_y(run, dims);
    OrtValue* y = NULL;
    void* data = NULL;
    TRY(BNAS_ORT(node->api, KernelContext_GetOutput)(context, 0, dims, RANK, &y));
    TRY(BNAS_ORT(node->api, GetTensorMutableData)(y, &data));
    if (run->conv->max_pool && run->conv->to_bits) {
        run->pooled = data;
    } else {
        run->y = data;
    }
    return NULL;
}

static OrtStatus* run_with(const Node* node, OrtKernelContext* context, const Parameters* parameters) {
    BnasRun run = {.conv = &parameters->conv, .weights = parameters->weights};
    TRY(read_x(node, context, &run));
    TRY(read_computed(node, context, &run));
    TRY(get_y(node, context, &run));
    return run.batch == 0 ? NULL : bnas_run_stages(node, context, &run);
}

OrtStatus* bnas_compute(void* state, OrtKernelContext* context) {
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
