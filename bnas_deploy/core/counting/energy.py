"""An estimate of the energy of the arithmetic of a layer, from published figures of single operations.

M. Horowitz, "Computing's energy problem (and what we can do about it)", ISSCC 2014, for 45 nm and 0.9 V. No paper of a
rule in `rules` counts energy. Reading weights and activations from memory, which takes more than all arithmetic in
most systems, is not in it: it depends on caches and on the order of the loops.
"""

from bnas_deploy.core.layer_cost import LayerCost

FLOAT_MULTIPLY_PJ, FLOAT_ADD_PJ = 3.7, 0.9
INT8_MULTIPLY_PJ, INT32_ADD_PJ = 0.2, 0.1
"""Picojoules of one operation, of 32-bit floats and of integers."""

SOURCE = "Horowitz, ISSCC 2014, 45 nm, 0.9 V; arithmetic alone, no memory"

_SIGNS = 32

MAC_PJ = {
    32: FLOAT_MULTIPLY_PJ + FLOAT_ADD_PJ,
    8: INT8_MULTIPLY_PJ + INT32_ADD_PJ,
    # The source has no bit operation, so this is a bound. 32 signs take an XOR, a count and an addition. A 32-bit
    # addition has 32 full adders; the XOR is 32 gates, each less than one, and a count of 32 bits takes at most 31.
    # So each of the three costs at most an addition.
    1: 3 * INT32_ADD_PJ / _SIGNS,
}
"""Picojoules of a multiply-accumulate by the bits of its weights."""


def energy_pj(layer: LayerCost) -> float:
    """Return the picojoules of a layer's arithmetic for one image."""
    return layer.macs * MAC_PJ[layer.weight_bits]


def float_energy_pj(layer: LayerCost) -> float:
    """Return the picojoules of the same layer of the float twin."""
    return layer.macs * MAC_PJ[32]
