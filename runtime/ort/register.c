/* The entry point that onnxruntime looks up in a library of custom operators. */
#include "op_table.h"
#include "system.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char already_registered[] = "bnas.registered"; /* our mark among the options' configuration entries */

/* What sessions point to: it must outlive them all and is never freed. There is one for each onnxruntime in the
 * process; an application may well have linked its own beside the one that Python imported. */
typedef struct Registration {
    const OrtApi* api;
    OrtCustomOpDomain* domain;
    BnasOperator operators[BNAS_OPERATOR_COUNT];
    struct Registration* next;
} Registration;

static _Atomic(Registration*) registrations;

static OrtStatus* fail(const OrtApi* api, const char* message) {
    return BNAS_ORT(api, CreateStatus)(BNAS_ORT_FAIL, message);
}

static OrtStatus* read_back(const OrtApi* api, OrtTensorTypeAndShapeInfo* info, bool* same) {
    static const int64_t dims[] = {-1, 5, 7};
    const char *names[] = {"bnas", "", ""}, *got_names[] = {NULL, NULL, NULL};
    int64_t got[] = {0, 0, 0};
    unsigned type = 0;
    size_t rank = 0;
    OrtStatus* status = BNAS_ORT(api, SetTensorElementType)(info, BNAS_ORT_UINT8);
    if (!status) {
        status = BNAS_ORT(api, SetDimensions)(info, dims, 3);
    }
    if (!status) {
        status = BNAS_ORT(api, SetSymbolicDimensions)(info, names, 3);
    }
    if (!status) {
        status = BNAS_ORT(api, GetTensorElementType)(info, &type);
    }
    if (!status) {
        status = BNAS_ORT(api, GetDimensionsCount)(info, &rank);
    }
    if (!status && rank == 3) {
        status = BNAS_ORT(api, GetDimensions)(info, got, 3);
    }
    if (!status && rank == 3) {
        status = BNAS_ORT(api, GetSymbolicDimensions)(info, got_names, 3);
    }
    *same = type == BNAS_ORT_UINT8 && memcmp(got, dims, sizeof dims) == 0 && got_names[0] &&
            strcmp(got_names[0], "bnas") == 0;
    return status;
}

/* Writes a shape through the table and reads it back: an onnxruntime whose table is another one is refused here, before
 * it can crash in a kernel. */
static OrtStatus* check_table(const OrtApi* api) {
    OrtTensorTypeAndShapeInfo* info = NULL;
    bool same = false;
    OrtStatus* status = BNAS_ORT(api, CreateTensorTypeAndShapeInfo)(&info);
    if (status) {
        return status;
    }
    status = read_back(api, info, &same);
    BNAS_ORT(api, ReleaseTensorTypeAndShapeInfo)(info);
    if (!status && !same) {
        status = fail(api, "bnas: this onnxruntime has another C API than the library was built for; use an official "
                           "build of onnxruntime 1.17 or later");
    }
    return status;
}

static OrtStatus* check_kernels(const OrtApi* api) {
    char reason[512], message[560];
    if (bnas_select_kernel(reason, sizeof reason)) {
        return NULL;
    }
    snprintf(message, sizeof message, "bnas: %s", reason);
    return fail(api, message);
}

static OrtStatus* add_operators(Registration* registration) {
    const OrtApi* api = registration->api;
    OrtStatus* status = BNAS_ORT(api, CreateCustomOpDomain)(BNAS_DOMAIN, &registration->domain);
    for (size_t i = 0; !status && i < BNAS_OPERATOR_COUNT; ++i) {
        registration->operators[i] = bnas_operator(&bnas_descriptors[i], api);
        const void* op = &registration->operators[i].callbacks;
        status = BNAS_ORT(api, CustomOpDomain_Add)(registration->domain, op);
    }
    return status;
}

static OrtStatus* new_registration(const OrtApi* api, Registration** out) {
    Registration* registration = calloc(1, sizeof *registration);
    if (!registration) {
        return fail(api, "bnas: out of memory");
    }
    registration->api = api;
    bnas_stay_loaded();
    OrtStatus* status = add_operators(registration);
    if (status) {
        if (registration->domain) {
            BNAS_ORT(api, ReleaseCustomOpDomain)(registration->domain);
        }
        free(registration);
        return status;
    }
    *out = registration;
    return NULL;
}

/* Two threads that are here at once may both make one; both are good, and both stay. */
static OrtStatus* find_registration(const OrtApi* api, Registration** out) {
    for (*out = atomic_load(&registrations); *out; *out = (*out)->next) {
        if ((*out)->api == api) {
            return NULL;
        }
    }
    OrtStatus* status = new_registration(api, out);
    if (!status) {
        (*out)->next = atomic_load(&registrations);
        while (!atomic_compare_exchange_weak(&registrations, &(*out)->next, *out)) {
        }
    }
    return status;
}

/* onnxruntime would accept a second registration here and fail when a session is created, with a message that names
 * neither the library nor the mistake. */
static OrtStatus* check_first(const OrtApi* api, const OrtSessionOptions* options) {
    int marked = 0;
    OrtStatus* status = BNAS_ORT(api, HasSessionConfigEntry)(options, already_registered, &marked);
    if (!status && marked) {
        status = fail(api, "the bnas library is already registered on these session options; register it once");
    }
    return status;
}

static OrtStatus* too_old(const BnasOrtApiBase* base) {
    char message[256];
    snprintf(message, sizeof message,
             "the bnas library needs onnxruntime 1.%u or later, this is %s; upgrade onnxruntime", BNAS_ORT_API_VERSION,
             base->GetVersionString());
    const OrtApi* api = base->GetApi(1);
    return BNAS_ORT(api, CreateStatus)(BNAS_ORT_NOT_IMPLEMENTED, message);
}

BNAS_EXPORT OrtStatus* RegisterCustomOps(OrtSessionOptions* options, const BnasOrtApiBase* base);

OrtStatus* RegisterCustomOps(OrtSessionOptions* options, const BnasOrtApiBase* base) {
    const OrtApi* api = base->GetApi(BNAS_ORT_API_VERSION);
    if (!api) {
        return too_old(base);
    }
    Registration* registration = NULL;
    OrtStatus* status = check_table(api);
    if (!status) {
        status = check_kernels(api);
    }
    if (!status) {
        status = check_first(api, options);
    }
    if (!status) {
        status = find_registration(api, &registration);
    }
    if (!status) {
        status = BNAS_ORT(api, AddCustomOpDomain)(options, registration->domain);
    }
    if (!status) {
        status = BNAS_ORT(api, AddSessionConfigEntry)(options, already_registered, "1");
    }
    return status;
}
