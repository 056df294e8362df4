/* A node of a model as the library keeps it, and what its files do for one another: binary_conv2d.c creates and runs
 * nodes, node.c reads their attributes, parameters.c the inputs that are not activations. */
#pragma once

#include "binary_conv2d.h"

/* Returns from the calling function when `expression` is an error. */
#define TRY(expression)                        \
    do {                                       \
        OrtStatus* const try_ = (expression);  \
        if (try_) {                            \
            return try_;                       \
        }                                      \
    } while (0)

enum { RANK = 4, MESSAGE_SIZE = 640, SHAPE_SIZE = 128, NODE_SIZE = 160 };

/* Inputs behind the parts of X, which come first; what is added comes last. */
enum { W, THRESHOLD, OFFSET, SCALE, BIAS, SLOPE };

/* Attributes and image sizes stay below this, so that no sum or product of two of them overflows int64. */
static const int64_t largest = INT32_MAX;

/* What the inputs that are not activations hold, ready for the kernels. */
typedef struct Parameters {
    BnasConv conv;  /* the node's, with its pointers set */
    void* weights;  /* prepacked */
    int32_t* constants;
    float* numbers; /* threshold, offset, scale, bias and slope of conv, in one piece */
} Parameters;

/* A node's kernel. */
typedef struct Node {
    const OrtApi* api;
    const BnasOperatorRow* row;
    char name[NODE_SIZE];
    BnasConv conv; /* without its pointers */
    const BnasKernel* kernel;
    bool is_constant; /* whether `parameters` are known before a run */
    Parameters parameters;
} Node;

/* Where an input stands among all inputs of an operator. */
static inline size_t position(const BnasOperatorRow* row, size_t input) {
    return (size_t)row->parts + input;
}

static inline size_t first_added(const BnasOperatorRow* row) {
    return position(row, row->activation == BNAS_PRELU ? SLOPE + 1 : BIAS + 1);
}

/* node.c */
OrtStatus* bnas_refuse(const Node* node, const char* format, ...) __attribute__((format(printf, 2, 3)));
OrtStatus* bnas_out_of_memory(const Node* node, size_t size);
/* Writes a shape to `text`, which has SHAPE_SIZE bytes, and returns it. */
const char* bnas_shape_text(const int64_t* dims, size_t rank, char* text);
/* `dims` are written where there are no more than RANK. */
OrtStatus* bnas_read_shape(const OrtApi* api, const OrtValue* value, int64_t* dims, size_t* rank);
OrtStatus* bnas_read_attributes(Node* node, const OrtKernelInfo* info);

/* parameters.c */
/* Where inputs are read: before any run where `info` is given, else in a run. */
typedef struct InputSource {
    const OrtKernelInfo* info;
    const OrtKernelContext* context;
} InputSource;

OrtStatus* bnas_find_constants(Node* node, const OrtKernelInfo* info);
/* What was read has to be freed, after an error too. */
OrtStatus* bnas_read_parameters(const Node* node, InputSource source, Parameters* parameters);
void bnas_free_parameters(Parameters* parameters);
