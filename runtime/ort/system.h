/* What differs between systems: system_posix.c and system_windows.c have one implementation each. */
#pragma once

#include <stddef.h>
#include <stdint.h>

/* Returns `size` bytes with BNAS_ALIGNMENT, which must divide it, or NULL. */
void* bnas_new_aligned(size_t size);
void bnas_free_aligned(void* memory);

/* Copies the environment variable `name` to `value`, which has `size` bytes, and returns that; NULL where it is unset
 * or empty. Of one that is too long it has the start, or on Windows question marks. */
const char* bnas_variable(const char* name, char* value, size_t size);

enum { BNAS_MOST_CORES = 64 };

/* Writes what ARM's cores say of their maker and kind (MIDR_EL1), and returns how many did: all that are switched on,
 * or the one that this runs on, or none where the system does not tell. */
size_t bnas_core_ids(uint64_t ids[BNAS_MOST_CORES]);

/* Keeps the library in memory until the process ends: onnxruntime keeps pointers into it for as long as there are
 * sessions. */
void bnas_stay_loaded(void);
