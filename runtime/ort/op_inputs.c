/* The inputs that are not activations. They are read, and the weights packed, once and for all where they are constant.
 * Otherwise every run does so for itself, which takes longer: in some files what is stored is an input of the model
 * too, so that a run may be given other values. */
#include "op.h"
#include "system.h"

#include <stdlib.h>
#include <string.h>

OrtStatus* bnas_find_constants(Node* node, const OrtKernelInfo* info) {
    node->is_constant = true;
    for (size_t at = (size_t)node->descriptor->parts; at < first_computed(node->descriptor); ++at) {
        int constant = 0;
        const OrtValue* value = NULL;
        TRY(BNAS_ORT(node->api, KernelInfoGetConstantInput_tensor)(info, at, &constant, &value));
        node->is_constant = node->is_constant && constant && value;
    }
    return NULL;
}

typedef struct Constant {
    size_t rank;
    int64_t dims[RANK];
    const void* data;
} Constant;

static OrtStatus* read_value(const Node* node, InputSource source, size_t at, const OrtValue** value) {
    int constant = 0;
    return source.info ? BNAS_ORT(node->api, KernelInfoGetConstantInput_tensor)(source.info, at, &constant, value)
                       : BNAS_ORT(node->api, KernelContext_GetInput)(source.context, at, value);
}

/* `input` is one of BNAS_INPUT_... that the operator has. */
static OrtStatus* read_constant(const Node* node, InputSource source, size_t input, const char* name,
                                Constant* constant) {
    const OrtValue* value = NULL;
    TRY(read_value(node, source, (size_t)node->descriptor->places[input], &value));
    TRY(bnas_read_shape(node->api, value, constant->dims, &constant->rank));
    if (constant->rank > RANK) {
        return bnas_refuse(node, "%s has %zu dimensions, wanted at most %d; export the model again", name,
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
    TRY(read_constant(node, source, BNAS_INPUT_W, "W", &weights));
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
    parameters->weights = aligned == SIZE_MAX ? NULL : bnas_new_aligned(aligned);
    if (!parameters->weights) {
        return bnas_out_of_memory(node, size);
    }
    node->kernel->prepack(conv, weights.data, parameters->weights);
    return conv->constant_channels > 0 ? sum_constants(node, weights.data, parameters) : NULL;
}

typedef struct VectorDescriptor {
    const char* name;
    size_t input, rank;
    bool is_of_x;  /* a number for each channel of X, else of Y */
    float neutral; /* changes nothing */
} VectorDescriptor;

static const VectorDescriptor vector_descriptors[BNAS_VECTOR_COUNT] = {
#define VECTOR(name, rank, is_of_x, neutral) {#name, BNAS_INPUT_##name, rank, is_of_x, neutral},
    BNAS_VECTORS(VECTOR)
#undef VECTOR
};

static OrtStatus* refuse_vector(const Node* node, const VectorDescriptor* descriptor, const Constant* vector,
                                const int64_t* wanted) {
    char got[SHAPE_SIZE], text[SHAPE_SIZE];
    return bnas_refuse(node, "%s has the shape %s, wanted %s, one value per %s channel%s", descriptor->name,
                       bnas_shape_text(vector->dims, vector->rank, got),
                       bnas_shape_text(wanted, descriptor->rank, text), descriptor->is_of_x ? "input" : "output",
                       descriptor->rank > 1
                           ? " (older versions also wrote maps); export the model again, or run it without "
                             "the library"
                           : "; export the model again");
}

static OrtStatus* read_vector(const Node* node, InputSource source, const VectorDescriptor* descriptor, int64_t length,
                              Constant* vector) {
    const int64_t wanted[RANK] = {length, 1, 1, 1};
    TRY(read_constant(node, source, descriptor->input, descriptor->name, vector));
    return has_shape(vector, wanted, descriptor->rank) ? NULL : refuse_vector(node, descriptor, vector, wanted);
}

static bool any_but(float neutral, const float* values, int64_t count) {
    for (int64_t i = 0; i < count; ++i) {
        if (values[i] != neutral) {
            return true;
        }
    }
    return false;
}

/* Padded taps hold bits, as pixels do, or all are zeros. */
static OrtStatus* read_pad(const Node* node, BnasConv* conv) {
    const int64_t count = conv->groups * conv->channels_in;
    conv->pads_signs = conv->pad && any_but(vector_descriptors[BNAS_VECTOR_pad].neutral, conv->pad, count);
    for (int64_t i = 0; conv->pads_signs && i < count; ++i) {
        if (conv->pad[i] != 1 && conv->pad[i] != -1) {
            return bnas_refuse(node,
                               "pad is %g for channel %lld, wanted 1 or -1, or 0 for all channels; export the model "
                               "again",
                               (double)conv->pad[i], (long long)i);
        }
    }
    return NULL;
}

/* An operator of images has as many channels as its first vector has numbers. */
static OrtStatus* count_channels(const Node* node, InputSource source, BnasConv* conv) {
    for (size_t i = 0; i < BNAS_VECTOR_COUNT && !conv->convolves; ++i) {
        const VectorDescriptor* descriptor = &vector_descriptors[i];
        Constant vector;
        if (node->descriptor->places[descriptor->input] >= 0) {
            TRY(read_constant(node, source, descriptor->input, descriptor->name, &vector));
            conv->channels_out = vector.rank > 0 ? vector.dims[0] : 1;
            return NULL;
        }
    }
    return NULL;
}

/* Copies all vectors to one piece of memory. */
static OrtStatus* copy_vectors(const Node* node, InputSource source, Parameters* parameters) {
    BnasConv* conv = &parameters->conv;
    TRY(count_channels(node, source, conv));
    Constant vectors[BNAS_VECTOR_COUNT];
    size_t counts[BNAS_VECTOR_COUNT] = {0}, total = 0; /* of numbers; these lie in memory already: no overflow */
    for (size_t i = 0; i < BNAS_VECTOR_COUNT; ++i) {
        const VectorDescriptor* descriptor = &vector_descriptors[i];
        const int64_t length = descriptor->is_of_x ? conv->groups * conv->channels_in : conv->channels_out;
        if (node->descriptor->places[descriptor->input] >= 0) {
            TRY(read_vector(node, source, descriptor, length, &vectors[i]));
            counts[i] = (size_t)length;
            total += counts[i];
        }
    }
    float* end = parameters->numbers = malloc(total * sizeof *end);
    if (!end) {
        return bnas_out_of_memory(node, total * sizeof *end);
    }
    for (size_t i = 0; i < BNAS_VECTOR_COUNT; ++i) {
        if (counts[i] > 0) {
            conv->vectors[i] = memcpy(end, vectors[i].data, counts[i] * sizeof *end);
            end += counts[i];
        }
    }
    conv->has_offset =
        conv->offset && any_but(vector_descriptors[BNAS_VECTOR_offset].neutral, conv->offset, conv->channels_out);
    return read_pad(node, conv);
}

/* Which bit of a pixel each channel of X is. */
static OrtStatus* read_places(const Node* node, Parameters* parameters) {
    BnasConv* conv = &parameters->conv;
    const int64_t count = conv->groups * conv->channels_in;
    if (!conv->of_bits) {
        return NULL;
    }
    int32_t* places = parameters->places = malloc((size_t)count * sizeof *places);
    if (!places) {
        return bnas_out_of_memory(node, (size_t)count * sizeof *places);
    }
    conv->places = places;
    for (int64_t i = 0; i < count; ++i) {
        const float place = conv->place[i];
        if (!(place >= 0 && place < (float)BNAS_MOST_TERMS) || (float)(int32_t)place != place) {
            return bnas_refuse(node,
                               "place is %g for channel %lld, wanted a whole number from 0 to 2^24 - 1; export the "
                               "model again",
                               (double)place, (long long)i);
        }
        places[i] = (int32_t)place;
        const int64_t bytes = places[i] / BNAS_BYTE + 1;
        conv->bytes_in = bytes > conv->bytes_in ? bytes : conv->bytes_in;
    }
    return NULL;
}

/* The accumulator is the sum of signs and the offset, and what constant channels add to it: whole numbers, all of them
 * below 2^24. NaN is reached by none. */
static int32_t least_of(float level, float offset) {
    if (!(level <= BNAS_MOST_TERMS)) {
        return 2 * BNAS_MOST_TERMS;
    }
    if (level < -BNAS_MOST_TERMS) {
        return -2 * BNAS_MOST_TERMS;
    }
    const int32_t whole = (int32_t)level;
    return whole + ((float)whole < level ? 1 : 0) - (int32_t)offset;
}

static OrtStatus* read_levels(const Node* node, InputSource source, Parameters* parameters) {
    BnasConv* conv = &parameters->conv;
    if (!conv->to_bits) {
        return NULL;
    }
    Constant level;
    TRY(read_constant(node, source, BNAS_INPUT_level, "level", &level));
    const int64_t bytes = ceil_div(conv->channels_out, BNAS_BYTE);
    if (level.rank != 2 || level.dims[1] != BNAS_BYTE || level.dims[0] < 1 || level.dims[0] % bytes != 0) {
        char got[SHAPE_SIZE];
        return bnas_refuse(node,
                           "level has the shape %s, wanted rows of %d, as many as the %lld bytes of %lld output "
                           "channels or a multiple; export the model again",
                           bnas_shape_text(level.dims, level.rank, got), BNAS_BYTE, (long long)bytes,
                           (long long)conv->channels_out);
    }
    const int64_t count = level.dims[0] * BNAS_BYTE;
    int32_t* least = parameters->least = malloc((size_t)count * sizeof *least);
    if (!least) {
        return bnas_out_of_memory(node, (size_t)count * sizeof *least);
    }
    conv->least = least;
    conv->bytes_out = level.dims[0];
    for (int64_t i = 0; i < count; ++i) {
        const int64_t channel = bnas_first_of_byte(conv, i / BNAS_BYTE) + i % BNAS_BYTE;
        const bool is_there = channel < conv->channels_out; /* else its bit is 0, whatever its level */
        least[i] = is_there ? least_of(((const float*)level.data)[i], conv->offset[channel]) : 2 * BNAS_MOST_TERMS;
    }
    return NULL;
}

OrtStatus* bnas_read_parameters(const Node* node, InputSource source, Parameters* parameters) {
    parameters->conv = node->conv;
    if (node->conv.convolves) {
        TRY(prepack_weights(node, source, parameters));
    }
    TRY(copy_vectors(node, source, parameters));
    TRY(read_places(node, parameters));
    return read_levels(node, source, parameters);
}

void bnas_free_parameters(Parameters* parameters) {
    bnas_free_aligned(parameters->weights);
    free(parameters->constants);
    free(parameters->places);
    free(parameters->least);
    free(parameters->numbers);
}
