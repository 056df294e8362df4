/* Compiles only if runtime/ort/ort_abi.h says what onnxruntime's official header says. */
#include <stddef.h>

#include "onnxruntime_c_api.h"
#include "ort_abi.h"

#define SAME_TYPE(official, ours) __builtin_types_compatible_p(__typeof__(official), __typeof__(ours))

#define CHECK_SLOT(number, name, result, parameters)                                      \
    _Static_assert(offsetof(OrtApi, name) == (number) * sizeof(void*), "slot of " #name); \
    _Static_assert(SAME_TYPE(((OrtApi*)0)->name, *(BnasOrt_##name*)0), "type of " #name);
BNAS_ORT_SLOTS(CHECK_SLOT)

#define CHECK_FIELD(official, ours, field)                                                                \
    _Static_assert(offsetof(official, field) == offsetof(ours, field), "place of " #official "." #field); \
    _Static_assert(SAME_TYPE(((official*)0)->field, ((ours*)0)->field), "type of " #official "." #field);

CHECK_FIELD(OrtApiBase, BnasOrtApiBase, GetApi)
CHECK_FIELD(OrtApiBase, BnasOrtApiBase, GetVersionString)

#define CHECK_OP(field) CHECK_FIELD(OrtCustomOp, BnasOrtCustomOp, field)
CHECK_OP(version)
CHECK_OP(CreateKernel)
CHECK_OP(GetName)
CHECK_OP(GetExecutionProviderType)
CHECK_OP(GetInputType)
CHECK_OP(GetInputTypeCount)
CHECK_OP(GetOutputType)
CHECK_OP(GetOutputTypeCount)
CHECK_OP(KernelCompute)
CHECK_OP(KernelDestroy)
CHECK_OP(GetInputCharacteristic)
CHECK_OP(GetOutputCharacteristic)
CHECK_OP(GetInputMemoryType)
CHECK_OP(GetVariadicInputMinArity)
CHECK_OP(GetVariadicInputHomogeneity)
CHECK_OP(GetVariadicOutputMinArity)
CHECK_OP(GetVariadicOutputHomogeneity)
CHECK_OP(CreateKernelV2)
CHECK_OP(KernelComputeV2)
CHECK_OP(InferOutputShapeFn)
CHECK_OP(GetStartVersion)
CHECK_OP(GetEndVersion)
CHECK_OP(GetMayInplace)
CHECK_OP(ReleaseMayInplace)
CHECK_OP(GetAliasMap)
CHECK_OP(ReleaseAliasMap)
_Static_assert(sizeof(BnasOrtCustomOp) <= sizeof(OrtCustomOp), "OrtCustomOp only grows");

#define CHECK_VALUE(official, ours) _Static_assert((int)(official) == (int)(ours), #ours);
CHECK_VALUE(ORT_FAIL, BNAS_ORT_FAIL)
CHECK_VALUE(ORT_INVALID_ARGUMENT, BNAS_ORT_INVALID_ARGUMENT)
CHECK_VALUE(ORT_NOT_IMPLEMENTED, BNAS_ORT_NOT_IMPLEMENTED)
CHECK_VALUE(ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, BNAS_ORT_FLOAT)
CHECK_VALUE(ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8, BNAS_ORT_UINT8)
CHECK_VALUE(ORT_OP_ATTR_INTS, BNAS_ORT_ATTRIBUTE_INTS)
CHECK_VALUE(INPUT_OUTPUT_REQUIRED, BNAS_ORT_REQUIRED)
CHECK_VALUE(OrtMemTypeDefault, BNAS_ORT_MEMORY_DEFAULT)
