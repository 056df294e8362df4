/* The tables that runtime/kernels/look_up.py looks up in, which says what they are for, aligned to BNAS_ALIGNMENT. */
#pragma once

#include <stdint.h>

/* Ones of 4 bits. */
#define BNAS_NIBBLE_ONES(x) ((int)(0x4332322132212110u >> (4 * (x)) & 15))

/* [16 * weights + x]: what differs of a nibble x and the weights' low nibble, and 16 times that of the high one. */
extern const uint8_t bnas_lut4x2_tables[256 * 16];

/* [16 * (x + 17 * y) + w]: the same for the nibbles x and y of two pixels and one of weights; padding is 16 and adds
 * 0. */
extern const uint8_t bnas_lut4x2_pair_tables[17 * 17 * 16];

/* [0][w][x]: what differs of two times six bits, [1][w][x]: 16 times that; row 64 is zeros, for padding. */
extern const uint8_t bnas_lut6x2_tables[2][65][64];
