/* Linux, macOS and Android. */
#define _POSIX_C_SOURCE 200112L /* posix_memalign: Android has had aligned_alloc since version 9 only */
#define _DARWIN_C_SOURCE        /* dladdr */

#include "system.h"

#include "kernel.h"

#include <stdio.h>
#include <stdlib.h>

#if defined(__APPLE__)
#include <dlfcn.h>
#endif

void* bnas_new_aligned(size_t size) {
    void* memory = NULL;
    return posix_memalign(&memory, BNAS_ALIGNMENT, size) == 0 ? memory : NULL;
}

void bnas_free_aligned(void* memory) {
    free(memory);
}

const char* bnas_variable(const char* name, char* value, size_t size) {
    const char* found = getenv(name);
    if (!found || !*found) {
        return NULL;
    }
    snprintf(value, size, "%s", found);
    return value;
}

void bnas_stay_loaded(void) {
#if defined(__APPLE__)
    Dl_info here;
    if (dladdr((const void*)&bnas_generic_kernel, &here)) {
        dlopen(here.dli_fname, RTLD_LAZY | RTLD_NODELETE);
    }
#endif
    /* Where libraries are ELF files the linker was told: -z nodelete. */
}
