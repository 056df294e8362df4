/* The operators as onnxruntime sees them: one structure per operator and onnxruntime in the process. */
#pragma once

#include "kernel.h"
#include "ort_abi.h"

/* One row of the table in docs/operators.md. */
typedef struct BnasVariant {
    const char* name;
    bool uses_k;
    BnasActivation activation;
} BnasVariant;

enum { BNAS_VARIANTS = 6 };
extern const BnasVariant bnas_variants[BNAS_VARIANTS];

typedef struct BnasOperator {
    BnasOrtCustomOp callbacks; /* first, so that onnxruntime's pointer to it is a pointer to this */
    const BnasVariant* variant;
    const OrtApi* api;
} BnasOperator;

/* Fills the callbacks of one operator. */
BnasOperator bnas_operator(const BnasVariant* variant, const OrtApi* api);
