/* The inputs that are not activations. They are read, and the weights packed, once and for all where they are constant.
 * Otherwise every run does so for itself, which takes longer: in some files what is stored is an input of the model
 * too, so that a run may be given other values. */
#include "node.h"

#include <stdlib.h>
#include <string.h>

OrtStatus* bnas_find_constants(Node* node, const OrtKernelInfo* info) {
    node->is_constant = true;
    for (size_t at = position(node->row, W); at < first_added(node->row); ++at) {
        int constant = 0;
        const OrtValue* value = NULL;
        TRY(BNAS_ORT(node->api, KernelInfoGetConstantInput_tensor)(info, at, &constant, &value));
        node->is_constant = node->is_constant && constant && value;
    }
    return NULL;
}

typedef struct Constant {
    const char* name;
    size_t rank;
    int64_t dims[RANK];
    const void* data;
} Constant;

static OrtStatus* read_value(const Node* node, InputSource source, size_t at, const OrtValue** value) {
    int constant = 0;
    return source.info ? BNAS_ORT(node->api, KernelInfoGetConstantInput_tensor)(source.info, at, &constant, value)
                       : BNAS_ORT(node->api, KernelContext_GetInput)(source.context, at, value);
}

static OrtStatus* read_constant(const Node* node, InputSource source, size_t index, Constant* constant) {
    static const char* const names[] = {"W", "threshold", "offset", "scale", "bias", "slope"};
    constant->name = names[index];
    const OrtValue* value = NULL;
    TRY(read_value(node, source, position(node->row, index), &value));
    TRY(bnas_read_shape(node->api, value, constant->dims, &constant->rank));
    if (constant->rank > RANK) {
        return bnas_refuse(node, "%s has %zu dimensions, wanted at most %d; export the model again", constant->name,
                           constant->rank, RANK);
    }
    void* data = NULL;
    TRY(BNAS_ORT(node->api, GetTensorMutableData)((OrtValue*)value, &data));
    constant->data = data;
    return NULL;
}

static bool has_shape(const Constant* constant, const int64_t* dims, size_t rank) {
    return constant->rank == rank && memcmp(constant->dims, dims, rank * sizeof *dims) == 0;
}

/* The sum of a tap's weights of the constant channels. */
static int32_t tap_sum(const BnasConv* conv, const uint8_t* tap) {
    int32_t sum = 0;
    for (int64_t i = conv->channels_in; i < conv->channels_in + conv->constant_channels; ++i) {
        sum += tap[i / 8] >> i % 8 & 1 ? 1 : -1;
    }
    return sum;
}

static OrtStatus* sum_constants(const Node* node, const uint8_t* weights, Parameters* parameters) {
    BnasConv* conv = &parameters->conv;
    const int64_t height = conv->kernel[0], width = conv->kernel[1], line = width + 1;
    const size_t corners = bnas_product((size_t)conv->channels_out, (size_t)((height + 1) * line));
    const size_t size = bnas_product(corners, sizeof *parameters->constants);
    int32_t* corner = parameters->constants = size == SIZE_MAX ? NULL : calloc(1, size);
    if (!corner) {
        return bnas_out_of_memory(node, size);
    }
    conv->constants = corner;
    for (int64_t channel = 0; channel < conv->channels_out; ++channel, corner += line) {
        for (int64_t y = 0; y < height; ++y, ++corner) {
            for (int64_t x = 0; x < width; ++x, ++corner, weights += bnas_weight_bytes(conv)) {
                corner[line + 1] = corner[line] + corner[1] - corner[0] + tap_sum(conv, weights);
            }
        }
    }
    return NULL;
}

static OrtStatus* prepack_weights(const Node* node, InputSource source, Parameters* parameters) {
    const BnasConv* conv = &node->conv;
    const int64_t channels = conv->channels_in + conv->constant_channels;
    const int64_t shape[RANK] = {conv->channels_out, conv->kernel[0], conv->kernel[1], channels};
    const int64_t wanted[RANK] = {shape[0], shape[1], shape[2], (shape[3] + 7) / 8};
    Constant weights;
    TRY(read_constant(node, source, W, &weights));
    if (!has_shape(&weights, wanted, RANK)) {
        char got[SHAPE_SIZE], packed[SHAPE_SIZE], signs[SHAPE_SIZE];
        return bnas_refuse(node,
                           "W has the shape %s, but weight_shape %s packed eight to a byte is %s; the file was "
                           "changed, or export the model again",
                           bnas_shape_text(weights.dims, weights.rank, got), bnas_shape_text(shape, RANK, signs),
                           bnas_shape_text(wanted, RANK, packed));
    }
    const size_t size = node->kernel->weights_size(conv);
    const size_t aligned = bnas_aligned(size);
    parameters->weights = aligned == SIZE_MAX ? NULL : aligned_alloc(BNAS_ALIGNMENT, aligned);
    if (!parameters->weights) {
        return bnas_out_of_memory(node, size);
    }
    node->kernel->prepack(conv, weights.data, parameters->weights);
    return conv->constant_channels > 0 ? sum_constants(node, weights.data, parameters) : NULL;
}

static OrtStatus* read_vector(const Node* node, InputSource source, size_t index, int64_t length,
                              const char* channels, Constant* vector) {
    TRY(read_constant(node, source, index, vector));
    if (!has_shape(vector, &length, 1)) {
        char got[SHAPE_SIZE];
        return bnas_refuse(node, "%s has the shape %s, wanted [%lld], one value per %s channel; export the model again",
                           vector->name, bnas_shape_text(vector->dims, vector->rank, got), (long long)length, channels);
    }
    return NULL;
}

static OrtStatus* read_offset(const Node* node, InputSource source, Constant* offset) {
    const int64_t wanted[3] = {node->conv.channels_out, 1, 1};
    TRY(read_constant(node, source, OFFSET, offset));
    if (!has_shape(offset, wanted, 3)) {
        char got[SHAPE_SIZE], text[SHAPE_SIZE];
        return bnas_refuse(node,
                           "offset has the shape %s, wanted %s, one value per output channel (older versions also "
                           "wrote maps); export the model again, or run it without the library",
                           bnas_shape_text(offset->dims, offset->rank, got), bnas_shape_text(wanted, 3, text));
    }
    return NULL;
}

static bool any(const float* values, size_t count) {
    for (size_t i = 0; i < count; ++i) {
        if (values[i] != 0) {
            return true;
        }
    }
    return false;
}

/* Copies `count` floats to *end and moves it behind them. */
static const float* append(float** end, const Constant* constant, size_t count) {
    float* const start = *end;
    memcpy(start, constant->data, count * sizeof *start);
    *end += count;
    return start;
}

static OrtStatus* copy_numbers(const Node* node, InputSource source, Parameters* parameters) {
    BnasConv* conv = &parameters->conv;
    const bool prelu = conv->activation == BNAS_PRELU;
    Constant threshold, offset, scale, bias, slope;
    TRY(read_vector(node, source, THRESHOLD, conv->groups * conv->channels_in, "input", &threshold));
    TRY(read_offset(node, source, &offset));
    TRY(read_vector(node, source, SCALE, conv->channels_out, "output", &scale));
    TRY(read_vector(node, source, BIAS, conv->channels_out, "output", &bias));
    if (prelu) {
        TRY(read_vector(node, source, SLOPE, conv->channels_out, "output", &slope));
    }
    /* All of these lie in memory already, so their sizes need no check against overflow. */
    const size_t inputs = (size_t)(conv->groups * conv->channels_in), outputs = (size_t)conv->channels_out;
    const size_t size = (inputs + (prelu ? 4 : 3) * outputs) * sizeof(float);
    float* end = parameters->numbers = malloc(size);
    if (!end) {
        return bnas_out_of_memory(node, size);
    }
    conv->threshold = append(&end, &threshold, inputs);
    conv->offset = append(&end, &offset, outputs);
    conv->has_offset = any(conv->offset, outputs);
    conv->scale = append(&end, &scale, outputs);
    conv->bias = append(&end, &bias, outputs);
    conv->slope = prelu ? append(&end, &slope, outputs) : NULL;
    return NULL;
}

OrtStatus* bnas_read_parameters(const Node* node, InputSource source, Parameters* parameters) {
    parameters->conv = node->conv;
    TRY(prepack_weights(node, source, parameters));
    return copy_numbers(node, source, parameters);
}

void bnas_free_parameters(Parameters* parameters) {
    free(parameters->weights);
    free(parameters->constants);
    free(parameters->numbers);
}
