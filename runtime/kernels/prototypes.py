"""The C prototypes of generated kernels: what lets the C compiler check every call.

Types, names and order are those of the TIR functions. A pointer is const where the function never writes through it.
Several headers may be included: C allows a typedef twice where both mean the same type, and refuses two that differ.
"""

from collections.abc import Iterable
from typing import Any

import tvm_ffi
from tvm import tirx

C_TYPES = {"int32": "int32_t", "int16": "int16_t", "uint8": "uint8_t", "uint16": "uint16_t", "float32": "float"}


def function_type(function: Any, name: str) -> str:
    """Return the declaration of the type of a TIR function: `typedef int32_t BnasPack(int32_t channels, ...);`."""
    written: list[Any] = []
    tvm_ffi.structural_walk(function.body, (tirx.BufferStore, lambda node: written.append(node.buffer)))
    parameters = ", ".join(_parameter(each, written) for each in function.params)
    return f"typedef int32_t {type_name(name)}({parameters});"


def type_name(name: str) -> str:
    """Return the name of the type of a function: BnasCountChannels of count_channels."""
    return "Bnas" + "".join(word.title() for word in name.split("_"))


def _parameter(parameter: Any, written: Iterable[Any]) -> str:
    c_type = C_TYPES[str(parameter.ty.dtype)]
    if type(parameter.ty).__name__ != "BufferType":
        return f"{c_type} {parameter.name}"
    const = "" if any(buffer.same_as(parameter) for buffer in written) else "const "
    return f"{const}{c_type}* {parameter.name}"
