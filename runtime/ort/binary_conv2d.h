/* The operators as onnxruntime sees them: one structure per operator and onnxruntime in the process. */
#pragma once

#include "kernel.h"
#include "ort_abi.h"

/* One row of the table in docs/operators.md. */
typedef struct BnasOperatorRow {
    const char* name;
    bool uses_k;
    BnasActivation activation;
    int added; /* inputs that are added at the end */
    int parts; /* inputs that X is the concatenation of */
} BnasOperatorRow;

enum { BNAS_OPERATOR_ROWS = 6 * (1 + BNAS_MOST_ADDED) * BNAS_MOST_PARTS };
extern const BnasOperatorRow bnas_operator_rows[BNAS_OPERATOR_ROWS];

typedef struct BnasOperator {
    BnasOrtCustomOp callbacks; /* first, so that onnxruntime's pointer to it is a pointer to this */
    const BnasOperatorRow* row;
    const OrtApi* api;
} BnasOperator;

/* Fills the callbacks of one operator. */
BnasOperator bnas_operator(const BnasOperatorRow* row, const OrtApi* api);
