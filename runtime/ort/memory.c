#include "memory.h"

#include "system.h"

#include <stdatomic.h>

/* As many runs at once find a block here. A block begins with its size. */
enum { SPARE_BLOCKS = 16, HEADER = BNAS_ALIGNMENT };

static _Atomic(size_t*) spare[SPARE_BLOCKS];

BnasBlock bnas_take_block(size_t size) {
    for (int i = 0; i < SPARE_BLOCKS; ++i) {
        size_t* block = atomic_exchange(&spare[i], NULL);
        if (block && *block >= size) {
            return (BnasBlock){(char*)block + HEADER, *block};
        }
        bnas_free_aligned(block);
    }
    const size_t whole = bnas_aligned(bnas_sum(size, HEADER));
    size_t* block = whole == SIZE_MAX ? NULL : bnas_new_aligned(whole);
    if (!block) {
        return (BnasBlock){NULL, 0};
    }
    *block = whole - HEADER;
    return (BnasBlock){(char*)block + HEADER, *block};
}

void bnas_give_block(BnasBlock block) {
    size_t* given = (size_t*)(void*)((char*)block.memory - HEADER);
    for (int i = 0; given && i < SPARE_BLOCKS; ++i) {
        size_t* none = NULL;
        if (atomic_compare_exchange_strong(&spare[i], &none, given)) {
            given = NULL;
        }
    }
    bnas_free_aligned(given);
}

void bnas_release_blocks(void) {
    for (int i = 0; i < SPARE_BLOCKS; ++i) {
        bnas_free_aligned(atomic_exchange(&spare[i], NULL));
    }
}
