/* The operators as onnxruntime sees them: one structure per operator and onnxruntime in the process. */
#pragma once

#include "kernel.h"
#include "ort_abi.h"

/* Indices of BnasDescriptor.places. */
enum {
#define CONSTANT(name) BNAS_INPUT_##name,
    BNAS_CONSTANTS(CONSTANT)
#undef CONSTANT
        BNAS_CONSTANT_COUNT
};

/* The choices and the inputs of one operator: a row of bnas_deploy/core/operators.py. */
typedef struct BnasDescriptor {
    const char* name;
#define CHOICE(type, name) type name;
    BNAS_CHOICES(CHOICE)
#undef CHOICE
    int64_t inputs;
    int8_t places[BNAS_CONSTANT_COUNT]; /* where each constant stands among the inputs; -1 where there is none */
} BnasDescriptor;

#define OPERATOR(...) +1
enum { BNAS_OPERATOR_COUNT = 0 BNAS_OPERATORS(OPERATOR) };
#undef OPERATOR
extern const BnasDescriptor bnas_descriptors[BNAS_OPERATOR_COUNT];

typedef struct BnasOperator {
    BnasOrtCustomOp callbacks; /* first, so that onnxruntime's pointer to it is a pointer to this */
    const BnasDescriptor* descriptor;
    const OrtApi* api;
} BnasOperator;

/* Fills the callbacks of one operator. */
BnasOperator bnas_operator(const BnasDescriptor* descriptor, const OrtApi* api);
