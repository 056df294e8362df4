/* Linux, macOS and Android. */
#define _POSIX_C_SOURCE 200809L /* posix_memalign: Android has had aligned_alloc since version 9 only */
#define _DARWIN_C_SOURCE        /* dladdr */

#include "system.h"

#include "kernel.h"

#include <stdio.h>
#include <stdlib.h>

#if defined(__APPLE__)
#include <dlfcn.h>
#endif

#if defined(__aarch64__) && defined(__linux__)
#include <fcntl.h>
#include <sys/auxv.h>
#include <unistd.h>
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

#if defined(__aarch64__) && defined(__linux__)
enum { HAS_IDS = 1 << 11 }; /* HWCAP_CPUID: Linux answers a program that reads these registers */

/* 0 where there is no such core, or it is switched off. */
static uint64_t id_of(size_t core) {
    char path[80], text[32] = "";
    snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%zu/regs/identification/midr_el1", core);
    const int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0) {
        return 0;
    }
    const ssize_t size = read(file, text, sizeof text - 1);
    close(file);
    return size > 0 ? strtoull(text, NULL, 16) : 0;
}

size_t bnas_core_ids(uint64_t ids[BNAS_MOST_CORES]) {
    size_t count = 0;
    for (size_t core = 0; core < BNAS_MOST_CORES; ++core) {
        const uint64_t id = id_of(core);
        if (id) {
            ids[count++] = id;
        }
    }
    if (count == 0 && (getauxval(AT_HWCAP) & HAS_IDS)) {
        __asm__("mrs %0, MIDR_EL1" : "=r"(ids[0]));
        count = 1;
    }
    return count;
}
#else
size_t bnas_core_ids(uint64_t ids[BNAS_MOST_CORES]) {
    (void)ids;
    return 0;
}
#endif

void bnas_stay_loaded(void) {
#if defined(__APPLE__)
    Dl_info here;
    if (dladdr((const void*)&bnas_generic_kernel, &here)) {
        dlopen(here.dli_fname, RTLD_LAZY | RTLD_NODELETE);
    }
#endif
    /* Where libraries are ELF files the linker was told: -z nodelete. */
}
