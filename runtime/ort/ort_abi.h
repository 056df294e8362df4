/* The part of onnxruntime's C ABI that this library uses, declared by hand.
 *
 * onnxruntime's wheels carry no header, and the official one would tie the library to the version it came with. The
 * ABI itself is stable: OrtApi is a table of functions that only ever grows at its end, so a slot number means the same
 * in every version that has it. Asking for version 17 gives one binary for onnxruntime 1.17 and everything later.
 * tests/runtime/test_abi.py compares every line below with the official header.
 *
 * Enumerations cross the ABI as unsigned int, except OrtMemType, which has negative values. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#define BNAS_ORT_API_VERSION 17u

typedef struct OrtApi OrtApi; /* opaque here: used as an array of function pointers, see BNAS_ORT below */
typedef struct OrtCustomOpDomain OrtCustomOpDomain;
typedef struct OrtKernelContext OrtKernelContext;
typedef struct OrtKernelInfo OrtKernelInfo;
typedef struct OrtOpAttr OrtOpAttr;
typedef struct OrtSessionOptions OrtSessionOptions;
typedef struct OrtShapeInferContext OrtShapeInferContext;
typedef struct OrtStatus OrtStatus;
typedef struct OrtTensorTypeAndShapeInfo OrtTensorTypeAndShapeInfo;
typedef struct OrtValue OrtValue;
struct OrtCustomOp;

typedef struct BnasOrtApiBase { /* OrtApiBase */
    const OrtApi* (*GetApi)(uint32_t version);
    const char* (*GetVersionString)(void);
} BnasOrtApiBase;

enum { BNAS_ORT_FAIL = 1, BNAS_ORT_INVALID_ARGUMENT = 2, BNAS_ORT_NOT_IMPLEMENTED = 9 }; /* OrtErrorCode */
enum { BNAS_ORT_FLOAT = 1, BNAS_ORT_UINT8 = 2 };                                         /* ONNXTensorElementDataType */
enum { BNAS_ORT_ATTRIBUTE_INTS = 2 };                                                    /* OrtOpAttrType */
enum { BNAS_ORT_REQUIRED = 0 };       /* OrtCustomOpInputOutputCharacteristic */
enum { BNAS_ORT_MEMORY_DEFAULT = 0 }; /* OrtMemType */

/* SLOT(number, name, type of the result, (parameters)) */
#define BNAS_ORT_SLOTS(SLOT)                                                                                          \
    SLOT(0, CreateStatus, OrtStatus*, (unsigned code, const char* message))                                           \
    SLOT(26, CreateCustomOpDomain, OrtStatus*, (const char* name, OrtCustomOpDomain** out))                           \
    SLOT(27, CustomOpDomain_Add, OrtStatus*, (OrtCustomOpDomain*, const struct OrtCustomOp*))                         \
    SLOT(28, AddCustomOpDomain, OrtStatus*, (OrtSessionOptions*, OrtCustomOpDomain*))                                 \
    SLOT(51, GetTensorMutableData, OrtStatus*, (OrtValue*, void** out))                                               \
    SLOT(57, CreateTensorTypeAndShapeInfo, OrtStatus*, (OrtTensorTypeAndShapeInfo * *out))                            \
    SLOT(58, SetTensorElementType, OrtStatus*, (OrtTensorTypeAndShapeInfo*, unsigned type))                           \
    SLOT(59, SetDimensions, OrtStatus*, (OrtTensorTypeAndShapeInfo*, const int64_t* dims, size_t count))              \
    SLOT(60, GetTensorElementType, OrtStatus*, (const OrtTensorTypeAndShapeInfo*, unsigned* out))                     \
    SLOT(61, GetDimensionsCount, OrtStatus*, (const OrtTensorTypeAndShapeInfo*, size_t* out))                         \
    SLOT(62, GetDimensions, OrtStatus*, (const OrtTensorTypeAndShapeInfo*, int64_t* dims, size_t count))              \
    SLOT(63, GetSymbolicDimensions, OrtStatus*, (const OrtTensorTypeAndShapeInfo*, const char** names, size_t count)) \
    SLOT(65, GetTensorTypeAndShape, OrtStatus*, (const OrtValue*, OrtTensorTypeAndShapeInfo** out))                   \
    SLOT(86, KernelInfoGetAttribute_int64, OrtStatus*, (const OrtKernelInfo*, const char* name, int64_t* out))        \
    SLOT(90, KernelContext_GetInput, OrtStatus*, (const OrtKernelContext*, size_t index, const OrtValue** out))       \
    SLOT(91, KernelContext_GetOutput, OrtStatus*,                                                                     \
         (OrtKernelContext*, size_t index, const int64_t* dims, size_t count, OrtValue** out))                        \
    SLOT(93, ReleaseStatus, void, (OrtStatus*))                                                                       \
    SLOT(99, ReleaseTensorTypeAndShapeInfo, void, (OrtTensorTypeAndShapeInfo*))                                       \
    SLOT(101, ReleaseCustomOpDomain, void, (OrtCustomOpDomain*))                                                      \
    SLOT(130, AddSessionConfigEntry, OrtStatus*, (OrtSessionOptions*, const char* key, const char* value))            \
    SLOT(163, KernelInfoGetAttributeArray_int64, OrtStatus*,                                                          \
         (const OrtKernelInfo*, const char* name, int64_t* out, size_t* count))                                       \
    SLOT(237, HasSessionConfigEntry, OrtStatus*, (const OrtSessionOptions*, const char* key, int* out))               \
    SLOT(244, KernelInfo_GetNodeName, OrtStatus*, (const OrtKernelInfo*, char* out, size_t* size))                    \
    SLOT(249, KernelInfoGetConstantInput_tensor, OrtStatus*,                                                          \
         (const OrtKernelInfo*, size_t index, int* is_constant, const OrtValue** out))                                \
    SLOT(268, ShapeInferContext_GetInputTypeShape, OrtStatus*,                                                        \
         (const OrtShapeInferContext*, size_t index, OrtTensorTypeAndShapeInfo** out))                                \
    SLOT(269, ShapeInferContext_GetAttribute, OrtStatus*,                                                             \
         (const OrtShapeInferContext*, const char* name, const OrtOpAttr** out))                                      \
    SLOT(270, ShapeInferContext_SetOutputTypeShape, OrtStatus*,                                                       \
         (const OrtShapeInferContext*, size_t index, const OrtTensorTypeAndShapeInfo*))                               \
    SLOT(271, SetSymbolicDimensions, OrtStatus*, (OrtTensorTypeAndShapeInfo*, const char** names, size_t count))      \
    SLOT(272, ReadOpAttr, OrtStatus*, (const OrtOpAttr*, unsigned type, void* data, size_t size, size_t* out))        \
    SLOT(274, KernelContext_ParallelFor, OrtStatus*,                                                                  \
         (const OrtKernelContext*, void (*work)(void*, size_t), size_t total, size_t batches, void* data))

#define BNAS_ORT_TYPE(number, name, result, parameters) typedef result(*BnasOrt_##name) parameters;
BNAS_ORT_SLOTS(BNAS_ORT_TYPE)
#undef BNAS_ORT_TYPE

#define BNAS_ORT_NUMBER(number, name, result, parameters) BNAS_ORT_SLOT_##name = number,
enum { BNAS_ORT_SLOTS(BNAS_ORT_NUMBER) };
#undef BNAS_ORT_NUMBER

/* The function `name` of the table `api`: BNAS_ORT(api, ReleaseStatus)(status). */
#define BNAS_ORT(api, name) (((const BnasOrt_##name*)(const void*)(api))[BNAS_ORT_SLOT_##name])

/* OrtCustomOp: onnxruntime reads the fields that `version` says are there. */
typedef struct BnasOrtCustomOp {
    uint32_t version;
    void* (*CreateKernel)(const struct OrtCustomOp*, const OrtApi*, const OrtKernelInfo*);
    const char* (*GetName)(const struct OrtCustomOp*);
    const char* (*GetExecutionProviderType)(const struct OrtCustomOp*);
    unsigned (*GetInputType)(const struct OrtCustomOp*, size_t index);
    size_t (*GetInputTypeCount)(const struct OrtCustomOp*);
    unsigned (*GetOutputType)(const struct OrtCustomOp*, size_t index);
    size_t (*GetOutputTypeCount)(const struct OrtCustomOp*);
    void (*KernelCompute)(void* kernel, OrtKernelContext*);
    void (*KernelDestroy)(void* kernel);
    unsigned (*GetInputCharacteristic)(const struct OrtCustomOp*, size_t index);
    unsigned (*GetOutputCharacteristic)(const struct OrtCustomOp*, size_t index);
    int (*GetInputMemoryType)(const struct OrtCustomOp*, size_t index);
    int (*GetVariadicInputMinArity)(const struct OrtCustomOp*);
    int (*GetVariadicInputHomogeneity)(const struct OrtCustomOp*);
    int (*GetVariadicOutputMinArity)(const struct OrtCustomOp*);
    int (*GetVariadicOutputHomogeneity)(const struct OrtCustomOp*);
    OrtStatus* (*CreateKernelV2)(const struct OrtCustomOp*, const OrtApi*, const OrtKernelInfo*, void** kernel);
    OrtStatus* (*KernelComputeV2)(void* kernel, OrtKernelContext*);
    OrtStatus* (*InferOutputShapeFn)(const struct OrtCustomOp*, OrtShapeInferContext*);
    int (*GetStartVersion)(const struct OrtCustomOp*);
    int (*GetEndVersion)(const struct OrtCustomOp*);
    /* From API version 18 on. They stay NULL, and are here so that the object is never shorter than its reader. */
    size_t (*GetMayInplace)(int** inputs, int** outputs);
    void (*ReleaseMayInplace)(int* inputs, int* outputs);
    size_t (*GetAliasMap)(int** inputs, int** outputs);
    void (*ReleaseAliasMap)(int* inputs, int* outputs);
} BnasOrtCustomOp;
