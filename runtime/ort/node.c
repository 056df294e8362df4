/* What is asked of a node when a session is created, and how it refuses. */
#include "node.h"

#include <stdarg.h>
#include <stdio.h>

/* Sums of so many ±1 are exact in float32, which the function body computes them in. */
static const int64_t most_terms = (int64_t)1 << 24;

/* ------------------------------------------------------------------------------------------------------------------
 * Errors */

OrtStatus* bnas_refuse(const Node* node, const char* format, ...) {
    char reason[MESSAGE_SIZE], message[MESSAGE_SIZE + NODE_SIZE + 64];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(reason, sizeof reason, format, arguments);
    va_end(arguments);
    snprintf(message, sizeof message, "bnas.%s (node '%s'): %s", node->row->name, node->name, reason);
    return BNAS_ORT(node->api, CreateStatus)(BNAS_ORT_INVALID_ARGUMENT, message);
}

OrtStatus* bnas_out_of_memory(const Node* node, size_t size) {
    if (size == SIZE_MAX) {
        return bnas_refuse(node,
                           "image, output or weights are larger than the kernels can work on; use a smaller batch or "
                           "image");
    }
    return bnas_refuse(node, "cannot allocate %zu bytes; use a smaller batch or image, or free memory", size);
}

const char* bnas_shape_text(const int64_t* dims, size_t rank, char* text) {
    size_t length = (size_t)snprintf(text, SHAPE_SIZE, "[");
    for (size_t i = 0; i < rank && length < SHAPE_SIZE; ++i) {
        length += (size_t)snprintf(text + length, SHAPE_SIZE - length, "%s%lld", i ? ", " : "", (long long)dims[i]);
    }
    if (length < SHAPE_SIZE) {
        snprintf(text + length, SHAPE_SIZE - length, "]");
    }
    return text;
}

OrtStatus* bnas_read_shape(const OrtApi* api, const OrtValue* value, int64_t* dims, size_t* rank) {
    OrtTensorTypeAndShapeInfo* shape = NULL;
    TRY(BNAS_ORT(api, GetTensorTypeAndShape)(value, &shape));
    OrtStatus* status = BNAS_ORT(api, GetDimensionsCount)(shape, rank);
    if (!status && *rank <= RANK) {
        status = BNAS_ORT(api, GetDimensions)(shape, dims, *rank);
    }
    BNAS_ORT(api, ReleaseTensorTypeAndShapeInfo)(shape);
    return status;
}

/* ------------------------------------------------------------------------------------------------------------------
 * Attributes */

/* Whether the node has the attribute. onnxruntime's getters answer with the same error when an attribute is absent and
 * when it is of another kind; asking for the length of a list fails only when it is absent. */
static bool attribute_length(const Node* node, const OrtKernelInfo* info, const char* name, size_t* length) {
    *length = 0;
    OrtStatus* status = BNAS_ORT(node->api, KernelInfoGetAttributeArray_int64)(info, name, NULL, length);
    if (status) {
        BNAS_ORT(node->api, ReleaseStatus)(status);
    }
    return !status;
}

static OrtStatus* check_range(const Node* node, const char* name, const int64_t* values, size_t count, int64_t least) {
    for (size_t i = 0; i < count; ++i) {
        if (values[i] < least || values[i] > largest) {
            return bnas_refuse(node, "attribute %s has the value %lld, wanted %lld to %lld; export the model again",
                               name, (long long)values[i], (long long)least, (long long)largest);
        }
    }
    return NULL;
}

static OrtStatus* read_list(const Node* node, const OrtKernelInfo* info, const char* name, int64_t* values,
                            size_t count, int64_t least) {
    size_t length;
    if (!attribute_length(node, info, name, &length)) {
        return NULL; /* the caller's defaults stay */
    }
    if (length != count) {
        return bnas_refuse(node, "attribute %s is not a list of %zu integers; export the model again", name, count);
    }
    TRY(BNAS_ORT(node->api, KernelInfoGetAttributeArray_int64)(info, name, values, &length));
    return check_range(node, name, values, count, least);
}

static OrtStatus* read_integer(const Node* node, const OrtKernelInfo* info, const char* name, int64_t* value) {
    size_t length;
    if (!attribute_length(node, info, name, &length)) {
        return NULL;
    }
    OrtStatus* status = BNAS_ORT(node->api, KernelInfoGetAttribute_int64)(info, name, value);
    if (status) {
        BNAS_ORT(node->api, ReleaseStatus)(status);
        return bnas_refuse(node, "attribute %s is not an integer; export the model again", name);
    }
    return check_range(node, name, value, 1, 1);
}

static OrtStatus* check_constant_channels(const Node* node) {
    const BnasConv* conv = &node->conv;
    if (conv->constant_channels > 0 && (conv->uses_k || conv->groups != 1)) {
        return bnas_refuse(node, "constant_channels is %lld, wanted 0 with K or groups; export the model again",
                           (long long)conv->constant_channels);
    }
    if (conv->channels_in < 1) {
        return bnas_refuse(node,
                           "constant_channels is %lld, wanted fewer than the %lld of weight_shape; export the model "
                           "again",
                           (long long)conv->constant_channels,
                           (long long)(conv->channels_in + conv->constant_channels));
    }
    return NULL;
}

OrtStatus* bnas_read_attributes(Node* node, const OrtKernelInfo* info) {
    BnasConv* conv = &node->conv;
    int64_t shape[RANK];
    size_t length;
    if (!attribute_length(node, info, "weight_shape", &length)) {
        return bnas_refuse(node, "attribute weight_shape is missing; export the model again");
    }
    TRY(read_list(node, info, "weight_shape", shape, RANK, 1));
    TRY(read_list(node, info, "strides", conv->strides, 2, 1));
    TRY(read_list(node, info, "pads", conv->pads, 4, 0));
    TRY(read_list(node, info, "dilations", conv->dilations, 2, 1));
    TRY(read_list(node, info, "constant_channels", &conv->constant_channels, 1, 0));
    TRY(read_integer(node, info, "group", &conv->groups));
    conv->channels_out = shape[0];
    conv->kernel[0] = shape[1];
    conv->kernel[1] = shape[2];
    conv->channels_in = shape[3] - conv->constant_channels;
    const int64_t taps = shape[1] * shape[2];
    if (taps >= most_terms || taps * shape[3] >= most_terms) {
        char text[SHAPE_SIZE];
        return bnas_refuse(node,
                           "weight_shape %s sums 2^24 or more terms, which float32 cannot count exactly; split the "
                           "layer",
                           bnas_shape_text(shape, RANK, text));
    }
    if (conv->channels_out % conv->groups != 0) {
        return bnas_refuse(node,
                           "group is %lld, which does not divide the %lld output channels; export the model again",
                           (long long)conv->groups, (long long)conv->channels_out);
    }
    if (conv->uses_k && conv->groups != 1) {
        return bnas_refuse(node, "group is %lld, but an operator with K has one group; use the operator without K",
                           (long long)conv->groups);
    }
    return check_constant_channels(node);
}
