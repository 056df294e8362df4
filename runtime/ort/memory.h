/* Memory for runs, kept from one to the next so that a run allocates nothing, and finds it warm in the cache. */
#pragma once

#include "kernel.h"

typedef struct BnasBlock {
    void* memory; /* NULL where there is none */
    size_t size;
} BnasBlock;

/* Returns at least `size` bytes, with BNAS_ALIGNMENT. */
BnasBlock bnas_take_block(size_t size);
void bnas_give_block(BnasBlock block);

/* Frees what no run is using. */
void bnas_release_blocks(void);
