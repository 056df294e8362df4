/* The life of a node, and how it refuses.
 *
 * What can be checked when a session is created is checked then. A node does not change afterwards, so that any number
 * of threads may run it. */
#include "memory.h"
#include "op.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

OrtStatus* bnas_refuse(const Node* node, const char* format, ...) {
    char reason[MESSAGE_SIZE], message[MESSAGE_SIZE + NODE_SIZE + 64];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(reason, sizeof reason, format, arguments);
    va_end(arguments);
    snprintf(message, sizeof message, BNAS_DOMAIN ".%s (node '%s'): %s", node->descriptor->name, node->name, reason);
    return BNAS_ORT(node->api, CreateStatus)(BNAS_ORT_INVALID_ARGUMENT, message);
}

OrtStatus* bnas_out_of_memory(const Node* node, size_t size) {
    if (size == SIZE_MAX) {
        return bnas_refuse(node,
                           "image, output or weights are larger than the kernels can work on; use a smaller batch or "
                           "image");
    }
    return bnas_refuse(node, "cannot allocate %zu bytes; use a smaller batch or image, or free memory", size);
}

const char* bnas_shape_text(const int64_t* dims, size_t rank, char* text) {
    size_t length = (size_t)snprintf(text, SHAPE_SIZE, "[");
    for (size_t i = 0; i < rank && length < SHAPE_SIZE; ++i) {
        length += (size_t)snprintf(text + length, SHAPE_SIZE - length, "%s%lld", i ? ", " : "", (long long)dims[i]);
    }
    if (length < SHAPE_SIZE) {
        snprintf(text + length, SHAPE_SIZE - length, "]");
    }
    return text;
}

OrtStatus* bnas_read_shape(const OrtApi* api, const OrtValue* value, int64_t* dims, size_t* rank) {
    OrtTensorTypeAndShapeInfo* shape = NULL;
    TRY(BNAS_ORT(api, GetTensorTypeAndShape)(value, &shape));
    OrtStatus* status = BNAS_ORT(api, GetDimensionsCount)(shape, rank);
    if (!status && *rank <= RANK) {
        status = BNAS_ORT(api, GetDimensions)(shape, dims, *rank);
    }
    BNAS_ORT(api, ReleaseTensorTypeAndShapeInfo)(shape);
    return status;
}

void bnas_destroy_node(void* state) {
    Node* node = state;
    bnas_free_parameters(&node->parameters);
    free(node);
    bnas_release_blocks();
}

static OrtStatus* select_kernel(Node* node) {
    char reason[MESSAGE_SIZE];
    node->kernel = bnas_select_kernel(reason, sizeof reason);
    return node->kernel ? NULL : bnas_refuse(node, "%s", reason);
}

static OrtStatus* fill(Node* node, const OrtKernelInfo* info) {
    size_t size = sizeof node->name;
    OrtStatus* status = BNAS_ORT(node->api, KernelInfo_GetNodeName)(info, node->name, &size);
    if (status) { /* longer than the buffer: messages do without it */
        BNAS_ORT(node->api, ReleaseStatus)(status);
        strcpy(node->name, "?");
    }
    TRY(select_kernel(node));
    if (node->conv.convolves) {
        TRY(bnas_read_attributes(node, info));
        node->kernel = bnas_covering_kernel(node->kernel, &node->conv);
    }
    TRY(bnas_find_constants(node, info));
    return node->is_constant ? bnas_read_parameters(node, (InputSource){.info = info}, &node->parameters) : NULL;
}

OrtStatus* bnas_create_node(const struct OrtCustomOp* op, const OrtApi* api, const OrtKernelInfo* info, void** state) {
    const BnasDescriptor* descriptor = ((const BnasOperator*)(const void*)op)->descriptor;
    *state = NULL;
    Node* node = calloc(1, sizeof *node);
    if (!node) {
        return BNAS_ORT(api, CreateStatus)(BNAS_ORT_FAIL, "bnas: out of memory");
    }
    node->api = api;
    node->descriptor = descriptor;
#define CHOICE(type, name) node->conv.name = descriptor->name;
    BNAS_CHOICES(CHOICE)
#undef CHOICE
    OrtStatus* status = fill(node, info);
    if (status) {
        bnas_destroy_node(node);
        return status;
    }
    *state = node;
    return NULL;
}
