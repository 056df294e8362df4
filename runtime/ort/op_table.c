/* The table of operators, and what onnxruntime asks about one. */
#include "op.h"

const BnasDescriptor bnas_descriptors[BNAS_OPERATOR_COUNT] = {
#define OPERATOR(operator, ...) {.name = operator, __VA_ARGS__ },
    BNAS_OPERATORS(OPERATOR)
#undef OPERATOR
};

static const BnasDescriptor* descriptor_of(const struct OrtCustomOp* op) {
    return ((const BnasOperator*)(const void*)op)->descriptor;
}

static const char* get_name(const struct OrtCustomOp* op) {
    return descriptor_of(op)->name;
}

static const char* on_the_cpu(const struct OrtCustomOp* op) {
    (void)op;
    return NULL; /* NULL means the CPU */
}

static unsigned input_type(const struct OrtCustomOp* op, size_t index) {
    const BnasDescriptor* descriptor = descriptor_of(op);
    const bool is_bits = descriptor->of_bits && (int64_t)index < descriptor->parts;
    return is_bits || (int)index == descriptor->places[BNAS_INPUT_W] ? BNAS_ORT_UINT8 : BNAS_ORT_FLOAT;
}

static size_t input_count(const struct OrtCustomOp* op) {
    return (size_t)descriptor_of(op)->inputs;
}

static unsigned output_type(const struct OrtCustomOp* op, size_t index) {
    (void)index;
    return descriptor_of(op)->to_bits ? BNAS_ORT_UINT8 : BNAS_ORT_FLOAT;
}

static size_t output_count(const struct OrtCustomOp* op) {
    (void)op;
    return 1;
}

static unsigned required(const struct OrtCustomOp* op, size_t index) {
    (void)op, (void)index;
    return BNAS_ORT_REQUIRED;
}

static int memory_type(const struct OrtCustomOp* op, size_t index) {
    (void)op, (void)index;
    return BNAS_ORT_MEMORY_DEFAULT;
}

/* No input or output is variadic; onnxruntime asks all the same. */
static int variadic_arity(const struct OrtCustomOp* op) {
    (void)op;
    return 0;
}

static int variadic_homogeneity(const struct OrtCustomOp* op) {
    (void)op;
    return 1;
}

static int first_version(const struct OrtCustomOp* op) {
    (void)op;
    return BNAS_VERSION;
}

static int last_version(const struct OrtCustomOp* op) {
    (void)op;
    return INT32_MAX;
}

BnasOperator bnas_operator(const BnasDescriptor* descriptor, const OrtApi* api) {
    return (BnasOperator){
        .descriptor = descriptor,
        .api = api,
        .callbacks =
            {
                .version = BNAS_ORT_API_VERSION,
                .GetName = get_name,
                .GetExecutionProviderType = on_the_cpu,
                .GetInputType = input_type,
                .GetInputTypeCount = input_count,
                .GetOutputType = output_type,
                .GetOutputTypeCount = output_count,
                .KernelDestroy = bnas_destroy_node,
                .GetInputCharacteristic = required,
                .GetOutputCharacteristic = required,
                .GetInputMemoryType = memory_type,
                .GetVariadicInputMinArity = variadic_arity,
                .GetVariadicInputHomogeneity = variadic_homogeneity,
                .GetVariadicOutputMinArity = variadic_arity,
                .GetVariadicOutputHomogeneity = variadic_homogeneity,
                .CreateKernelV2 = bnas_create_node,
                .KernelComputeV2 = bnas_compute,
                .InferOutputShapeFn = bnas_infer_shape,
                .GetStartVersion = first_version,
                .GetEndVersion = last_version,
            },
    };
}
