/* The dispatch table. */
#include "kernel.h"
#include "system.h"

#include <stdio.h>
#include <string.h>

/* Best first: the first row that the CPU can run, and that suits it, is the one that runs. */
static const BnasKernel* const kernels[] = {
#define BNAS_KERNEL_SPEC(isa, ...) &bnas_##isa##_kernel,
#include "kernel_specs.h"
#undef BNAS_KERNEL_SPEC
#if defined(__x86_64__)
    &bnas_popcnt_kernel,
#endif
    &bnas_generic_kernel,
};

enum { KERNELS = sizeof kernels / sizeof kernels[0] };

static void list_kernels(char* text, size_t size) {
    size_t length = 0;
    for (size_t i = 0; i < KERNELS && length < size; ++i) {
        length += (size_t)snprintf(text + length, size - length, "%s%s", i ? ", " : "", kernels[i]->isa);
    }
}

const BnasKernel* bnas_select_kernel(char* reason, size_t size) {
    char variable[64];
    const char* forced = bnas_variable("BNAS_ISA", variable, sizeof variable);
    bool known = false;
    for (size_t i = 0; i < KERNELS; ++i) {
        if (forced && strcmp(forced, kernels[i]->isa) != 0) {
            continue;
        }
        known = true;
        if (kernels[i]->runs_here() && (forced || kernels[i]->suits())) {
            return kernels[i];
        }
    }
    char names[256];
    list_kernels(names, sizeof names);
    if (known) {
        snprintf(reason, size, "BNAS_ISA is '%s', which this CPU cannot run; unset it to pick one that it can", forced);
    } else {
        snprintf(reason, size, "BNAS_ISA is '%s', but this library has %s; unset it to pick the best", forced, names);
    }
    return NULL;
}

const BnasKernel* bnas_covering_kernel(const BnasKernel* kernel, const BnasConv* conv) {
    for (size_t i = 0; !kernel->covers(conv) && i < KERNELS; ++i) {
        if (kernels[i]->runs_here() && kernels[i]->covers(conv)) {
            kernel = kernels[i];
        }
    }
    return kernel; /* the last row covers all */
}

/* Name of the kernels that run here: NULL where BNAS_ISA asks for some that do not. */
BNAS_EXPORT const char* bnas_isa(void);
const char* bnas_isa(void) {
    char reason[512];
    const BnasKernel* kernel = bnas_select_kernel(reason, sizeof reason);
    return kernel ? kernel->isa : NULL;
}

/* Row `index` of the table, best first: its name, and whether this CPU can run it. NULL past the last row. */
BNAS_EXPORT const char* bnas_row(size_t index, int* runs_here);
const char* bnas_row(size_t index, int* runs_here) {
    if (index >= KERNELS) {
        return NULL;
    }
    *runs_here = kernels[index]->runs_here();
    return kernels[index]->isa;
}
