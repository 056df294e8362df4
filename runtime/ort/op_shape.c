/* Shape inference. What is wrong with a node is told when it is created; here it only leaves the shape open. */
#include "op.h"

#include <stdatomic.h>
#include <stdio.h>

int64_t bnas_out_length(const BnasConv* conv, int axis, int64_t length) {
    const int64_t reach = (conv->kernel[axis] - 1) * conv->dilations[axis] + 1;
    const int64_t room = length + conv->pads[axis] + conv->pads[2 + axis] - reach;
    return room < 0 ? 0 : room / conv->strides[axis] + 1;
}

static bool infer_attribute(const OrtApi* api, const OrtShapeInferContext* context,
                            const AttributeDescriptor* descriptor, int64_t* values) {
    const OrtOpAttr* attribute = NULL;
    OrtStatus* status = BNAS_ORT(api, ShapeInferContext_GetAttribute)(context, descriptor->name, &attribute);
    if (status || !attribute) { /* absent */
        BNAS_ORT(api, ReleaseStatus)(status);
        return !descriptor->is_required;
    }
    size_t bytes = 0;
    const size_t wanted = descriptor->length * sizeof *values;
    status = BNAS_ORT(api, ReadOpAttr)(attribute, BNAS_ORT_ATTRIBUTE_INTS, values, wanted, &bytes);
    bool valid = !status && bytes == wanted;
    BNAS_ORT(api, ReleaseStatus)(status);
    for (size_t i = 0; valid && i < descriptor->length; ++i) {
        valid = values[i] >= descriptor->least && values[i] <= BNAS_LARGEST_SIZE;
    }
    return valid;
}

/* No shape depends on an attribute that is no list. */
static bool infer_attributes(const OrtApi* api, const OrtShapeInferContext* context, Attributes* attributes) {
    bool valid = true;
    for (size_t i = 0; valid && i < ATTRIBUTE_COUNT; ++i) {
        const AttributeDescriptor* descriptor = &bnas_attributes[i];
        valid =
            !descriptor->is_list || infer_attribute(api, context, descriptor, attributes->values + descriptor->first);
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

/* The same where 2x2 pixels become one. */
static void name_pooled(const BnasConv* conv, int axis, const char* name, char* symbol) {
    char unpooled[SYMBOL_SIZE];
    name_length(conv, axis, name, unpooled);
    if (snprintf(symbol, SYMBOL_SIZE, "(%s)/2", unpooled) >= SYMBOL_SIZE) {
        name_length(conv, axis, "", symbol);
    }
}

static void infer_length(const BnasConv* conv, int axis, Shape* shape) {
    int64_t* length = &shape->dims[2 + axis];
    if (*length < 0) {
        (bnas_pools(conv) ? name_pooled : name_length)(conv, axis, shape->names[2 + axis], shape->symbols[2 + axis]);
        shape->names[2 + axis] = shape->symbols[2 + axis];
    } else {
        *length = bnas_out_length(conv, axis, *length);
        *length = bnas_pools(conv) ? bnas_pooled(*length) : *length;
    }
}

/* The channels of Y: those of the constant that has a number, or where it is bits eight levels, for each of them; or
 * those of the weights. */
static OrtStatus* infer_channels(const BnasDescriptor* descriptor, const OrtApi* api, OrtShapeInferContext* context,
                                 const BnasConv* conv, Shape* shape) {
    shape->dims[1] = conv->channels_out;
    shape->names[1] = "";
    if (!descriptor->to_bits && descriptor->convolves) {
        return NULL;
    }
    OrtTensorTypeAndShapeInfo* numbers = NULL; /* belongs to the context */
    size_t rank = 0;
    int64_t dims[RANK];
    /* Of images the constants come behind the parts of X. */
    const int64_t place = descriptor->to_bits ? descriptor->places[BNAS_INPUT_level] : descriptor->parts;
    TRY(BNAS_ORT(api, ShapeInferContext_GetInputTypeShape)(context, (size_t)place, &numbers));
    TRY(BNAS_ORT(api, GetDimensionsCount)(numbers, &rank));
    if (rank >= 1 && rank <= RANK) {
        TRY(BNAS_ORT(api, GetDimensions)(numbers, dims, rank));
        shape->dims[1] = dims[0];
    }
    return NULL;
}

static OrtStatus* set_shape(const OrtApi* api, OrtShapeInferContext* context, unsigned type, Shape* shape) {
    OrtTensorTypeAndShapeInfo* info = NULL;
    TRY(BNAS_ORT(api, CreateTensorTypeAndShapeInfo)(&info));
    OrtStatus* status = BNAS_ORT(api, SetTensorElementType)(info, type);
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

static bool read_x_shape(const OrtApi* api, const OrtTensorTypeAndShapeInfo* x, Shape* shape, OrtStatus** status) {
    *status = BNAS_ORT(api, GetDimensions)(x, shape->dims, RANK);
    if (!*status) {
        *status = BNAS_ORT(api, GetSymbolicDimensions)(x, shape->names, RANK);
    }
    const bool is_small = !*status && shape->dims[2] <= BNAS_LARGEST_SIZE && shape->dims[3] <= BNAS_LARGEST_SIZE;
    return is_small && (shape->dims[0] >= 0 || (shape->names[0] && *shape->names[0]));
}

OrtStatus* bnas_infer_shape(const struct OrtCustomOp* op, OrtShapeInferContext* context) {
    const OrtApi* api = ((const BnasOperator*)(const void*)op)->api;
    const BnasDescriptor* descriptor = ((const BnasOperator*)(const void*)op)->descriptor;
    OrtTensorTypeAndShapeInfo* x = NULL; /* belongs to the context */
    size_t rank = 0;
    TRY(BNAS_ORT(api, ShapeInferContext_GetInputTypeShape)(context, 0, &x)); /* X, or its first part */
    TRY(BNAS_ORT(api, GetDimensionsCount)(x, &rank));
    Attributes attributes = bnas_attribute_defaults;
    BnasConv conv = {.max_pool = descriptor->max_pool, .mean_pool = descriptor->mean_pool};
    if (rank != RANK || (descriptor->convolves && !infer_attributes(api, context, &attributes))) {
        return NULL;
    }
    bnas_set_attributes(&conv, &attributes);
    for (int axis = 0; axis < 2 && !descriptor->convolves; ++axis) {
        conv.kernel[axis] = 1; /* what each pixel depends on */
    }
    Shape shape = {.names = {"", "", "", ""}};
    OrtStatus* status = NULL;
    if (!read_x_shape(api, x, &shape, &status)) {
        return status;
    }
    TRY(infer_channels(descriptor, api, context, &conv, &shape));
    infer_length(&conv, 0, &shape);
    infer_length(&conv, 1, &shape);
    return set_shape(api, context, descriptor->to_bits ? BNAS_ORT_UINT8 : BNAS_ORT_FLOAT, &shape);
}
