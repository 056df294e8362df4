/* A node of a model as the library keeps it, and what the files of the operators do for one another. */
#pragma once

#include "op_table.h"

/* Returns from the calling function when `expression` is an error. */
#define TRY(expression)                       \
    do {                                      \
        OrtStatus* const try_ = (expression); \
        if (try_) {                           \
            return try_;                      \
        }                                     \
    } while (0)

enum { RANK = 4, MESSAGE_SIZE = 640, SHAPE_SIZE = 128, NODE_SIZE = 160 };

/* The attributes of a node, by their names or all together. */
typedef struct AttributeValues {
#define ATTRIBUTE(name, length, ...) int64_t name[length];
    BNAS_ATTRIBUTES(ATTRIBUTE)
#undef ATTRIBUTE
} AttributeValues;

typedef union Attributes {
    AttributeValues of;
    int64_t values[sizeof(AttributeValues) / sizeof(int64_t)];
} Attributes;

typedef struct AttributeDescriptor {
    const char* name;
    size_t first; /* index of Attributes.values */
    size_t length;
    int64_t least;
    bool is_list, is_required;
} AttributeDescriptor;

#define ATTRIBUTE(...) +1
enum { ATTRIBUTE_COUNT = 0 BNAS_ATTRIBUTES(ATTRIBUTE) };
#undef ATTRIBUTE

/* What the inputs that are not activations hold, ready for the kernels. */
typedef struct Parameters {
    BnasConv conv; /* the node's, with its pointers set */
    void* weights; /* prepacked */
    int32_t* constants;
    int32_t* places;
    int32_t* least;
    float* numbers; /* the vectors of conv, in one piece */
} Parameters;

/* A node's kernel. */
typedef struct Node {
    const OrtApi* api;
    const BnasDescriptor* descriptor;
    char name[NODE_SIZE];
    BnasConv conv; /* without its pointers */
    const BnasKernel* kernel;
    bool is_constant; /* whether `parameters` are known before a run */
    Parameters parameters;
} Node;

/* The inputs are the parts of X, the constants, the gate, and what is added before and behind the activation. */
static inline size_t first_computed(const BnasDescriptor* descriptor) {
    return (size_t)(descriptor->inputs - (descriptor->gate ? 1 : 0) - descriptor->before - descriptor->added);
}

/* op_node.c */
OrtStatus* bnas_create_node(const struct OrtCustomOp* op, const OrtApi* api, const OrtKernelInfo* info, void** state);
void bnas_destroy_node(void* state);
OrtStatus* bnas_refuse(const Node* node, const char* format, ...) __attribute__((format(printf, 2, 3)));
OrtStatus* bnas_out_of_memory(const Node* node, size_t size);
/* Writes a shape to `text`, which has SHAPE_SIZE bytes, and returns it. */
const char* bnas_shape_text(const int64_t* dims, size_t rank, char* text);
/* `dims` are written where there are no more than RANK. */
OrtStatus* bnas_read_shape(const OrtApi* api, const OrtValue* value, int64_t* dims, size_t* rank);

/* op_attributes.c */
extern const AttributeDescriptor bnas_attributes[ATTRIBUTE_COUNT];
extern const Attributes bnas_attribute_defaults;
/* Sets the sizes of `conv`. */
void bnas_set_attributes(BnasConv* conv, const Attributes* attributes);
OrtStatus* bnas_read_attributes(Node* node, const OrtKernelInfo* info);

/* op_inputs.c */
/* Where inputs are read: before any run where `info` is given, else in a run. */
typedef struct InputSource {
    const OrtKernelInfo* info;
    const OrtKernelContext* context;
} InputSource;

OrtStatus* bnas_find_constants(Node* node, const OrtKernelInfo* info);
/* What was read has to be freed, after an error too. */
OrtStatus* bnas_read_parameters(const Node* node, InputSource source, Parameters* parameters);
void bnas_free_parameters(Parameters* parameters);

/* op_shape.c */
/* The length of the output along one axis, 0 where the kernel does not fit. */
int64_t bnas_out_length(const BnasConv* conv, int axis, int64_t length);
OrtStatus* bnas_infer_shape(const struct OrtCustomOp* op, OrtShapeInferContext* context);

/* op_run.c */
OrtStatus* bnas_compute(void* state, OrtKernelContext* context);

/* jobs.c */
/* Runs all stages of the node's kernel. */
OrtStatus* bnas_run_stages(const Node* node, const OrtKernelContext* context, BnasRun* run);
