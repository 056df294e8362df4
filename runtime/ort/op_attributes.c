/* The attributes of a node: read and checked when a session is created. */
#include "op.h"

#include <string.h>

const AttributeDescriptor bnas_attributes[ATTRIBUTE_COUNT] = {
#define ATTRIBUTE(name, length, least, is_list, is_required, ...) \
    {#name, offsetof(AttributeValues, name) / sizeof(int64_t), length, least, is_list, is_required},
    BNAS_ATTRIBUTES(ATTRIBUTE)
#undef ATTRIBUTE
};

const Attributes bnas_attribute_defaults = {{
#define ATTRIBUTE(name, length, least, is_list, is_required, ...) .name = {__VA_ARGS__},
    BNAS_ATTRIBUTES(ATTRIBUTE)
#undef ATTRIBUTE
}};

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

static OrtStatus* check_range(const Node* node, const AttributeDescriptor* descriptor, const int64_t* values) {
    for (size_t i = 0; i < descriptor->length; ++i) {
        if (values[i] < descriptor->least || values[i] > BNAS_LARGEST_SIZE) {
            return bnas_refuse(node, "attribute %s has the value %lld, wanted %lld to %lld; export the model again",
                               descriptor->name, (long long)values[i], (long long)descriptor->least,
                               (long long)BNAS_LARGEST_SIZE);
        }
    }
    return NULL;
}

static OrtStatus* read_list(const Node* node, const OrtKernelInfo* info, const AttributeDescriptor* descriptor,
                            size_t length, int64_t* values) {
    if (length != descriptor->length) {
        return bnas_refuse(node, "attribute %s is not a list of %zu integers; export the model again", descriptor->name,
                           descriptor->length);
    }
    return BNAS_ORT(node->api, KernelInfoGetAttributeArray_int64)(info, descriptor->name, values, &length);
}

static OrtStatus* read_integer(const Node* node, const OrtKernelInfo* info, const AttributeDescriptor* descriptor,
                               int64_t* value) {
    OrtStatus* status = BNAS_ORT(node->api, KernelInfoGetAttribute_int64)(info, descriptor->name, value);
    if (!status) {
        return NULL;
    }
    BNAS_ORT(node->api, ReleaseStatus)(status);
    return bnas_refuse(node, "attribute %s is not an integer; export the model again", descriptor->name);
}

/* The default in `values` stays where the node lacks the attribute. */
static OrtStatus* read_attribute(const Node* node, const OrtKernelInfo* info, const AttributeDescriptor* descriptor,
                                 int64_t* values) {
    size_t length;
    if (!attribute_length(node, info, descriptor->name, &length)) {
        return descriptor->is_required
                   ? bnas_refuse(node, "attribute %s is missing; export the model again", descriptor->name)
                   : NULL;
    }
    TRY(descriptor->is_list ? read_list(node, info, descriptor, length, values)
                            : read_integer(node, info, descriptor, values));
    return check_range(node, descriptor, values);
}

static OrtStatus* check_constant_channels(const Node* node) {
    const BnasConv* conv = &node->conv;
    if (conv->constant_channels > 0 && (conv->k_map || conv->groups != 1)) {
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

void bnas_set_attributes(BnasConv* conv, const Attributes* attributes) {
    const AttributeValues* of = &attributes->of;
    conv->channels_out = of->weight_shape[0];
    memcpy(conv->kernel, of->weight_shape + 1, sizeof conv->kernel);
    memcpy(conv->strides, of->strides, sizeof conv->strides);
    memcpy(conv->pads, of->pads, sizeof conv->pads);
    memcpy(conv->dilations, of->dilations, sizeof conv->dilations);
    conv->groups = of->group[0];
    conv->constant_channels = of->constant_channels[0];
    conv->channels_in = of->weight_shape[3] - conv->constant_channels;
}

OrtStatus* bnas_read_attributes(Node* node, const OrtKernelInfo* info) {
    BnasConv* conv = &node->conv;
    Attributes attributes = bnas_attribute_defaults;
    for (size_t i = 0; i < ATTRIBUTE_COUNT; ++i) {
        const AttributeDescriptor* descriptor = &bnas_attributes[i];
        TRY(read_attribute(node, info, descriptor, attributes.values + descriptor->first));
    }
    bnas_set_attributes(conv, &attributes);
    const int64_t* shape = attributes.of.weight_shape;
    const int64_t taps = shape[1] * shape[2];
    if (taps >= BNAS_MOST_TERMS || taps * shape[3] >= BNAS_MOST_TERMS) { /* float32 cannot count further */
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
    if (conv->k_map && conv->groups != 1) {
        return bnas_refuse(node, "group is %lld, but an operator with K has one group; use the operator without K",
                           (long long)conv->groups);
    }
    if (conv->to_bits && conv->groups != 1) {
        return bnas_refuse(node,
                           "group is %lld, but an operator that writes bits has one group; export the model again",
                           (long long)conv->groups);
    }
    return check_constant_channels(node);
}
