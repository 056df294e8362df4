/* The dispatch table. */
#include "kernel.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Best first: the first row that the CPU can run is the one that runs. */
static const BnasKernel* const kernels[] = {
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
    const char* forced = getenv("BNAS_ISA");
    if (forced && !*forced) {
        forced = NULL;
    }
    bool known = false;
    for (size_t i = 0; i < KERNELS; ++i) {
        if (forced && strcmp(forced, kernels[i]->isa) != 0) {
            continue;
        }
        known = true;
        if (kernels[i]->runs_here()) {
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
