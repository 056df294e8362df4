"""Writes the object file of one variant and its C header: `python generate.py ISA FILE.o`.

The header is FILE.h: it has the types of all kernels, and declares those of the object. runtime/build/native.py runs
this.
"""

import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

# This runs before the package is installed. A module in its place lets `bnas_deploy.runtime` be found at the top of the
# repository; the package itself would look for its installation.
ROOT = Path(__file__).parents[2]
sys.modules["bnas_deploy"] = package = ModuleType("bnas_deploy")
package.__path__ = [str(ROOT), str(ROOT / "bnas_deploy")]

from bnas_deploy.runtime.kernels import elementwise, look_up, popcount  # noqa: E402  # the package was made above
from bnas_deploy.runtime.kernels.lower import write_object  # noqa: E402
from bnas_deploy.runtime.kernels.prototypes import function_type, type_name  # noqa: E402
from bnas_deploy.runtime.kernels.variants import LUT2, LUT6, POPCOUNT, VARIANTS, Variant, function_name  # noqa: E402

Algorithm = Callable[[Variant], Any]

SHARED: tuple[Algorithm, ...] = (elementwise.pack, elementwise.halve, elementwise.finish)
COUNTING: dict[str, tuple[Algorithm, ...]] = {
    LUT2.name: (look_up.count, elementwise.encode, look_up.count_channels, elementwise.transpose),
    LUT6.name: (look_up.count, elementwise.encode, look_up.count_channels, elementwise.transpose, elementwise.subtract),
    POPCOUNT.name: (popcount.count,),
}


def main(isa: str, output: str) -> None:
    """Generate, lower and compile; the suffix of `output` may also be s or ll, to look at."""
    (variant,) = (variant for variant in VARIANTS if variant.isa == isa)
    functions = {algorithm.__name__: algorithm(variant) for algorithm in _algorithms(variant)}
    symbols = {function_name(variant, name): function for name, function in functions.items()}
    write_object(symbols, variant, Path(output))
    Path(output).with_suffix(".h").write_text("\n".join(_header(variant, functions)) + "\n")


def _algorithms(variant: Variant) -> tuple[Algorithm, ...]:
    return (*SHARED, *COUNTING[variant.counting.name])


def _header(variant: Variant, functions: Mapping[str, Any]) -> Iterator[str]:
    yield f"/* Written by runtime/kernels/generate.py beside the kernels of {variant.isa}. */"
    yield "#include <stdint.h>"
    yield from (function_type(function, name) for name, function in functions.items())
    yield "/* Kernels of other rows: the code around the kernels calls them where there are some. */"
    others = {algorithm.__name__: algorithm(row) for row in reversed(VARIANTS) for algorithm in _algorithms(row)}
    yield from (function_type(function, name) for name, function in others.items() if name not in functions)
    yield from (f"{type_name(name)} {function_name(variant, name)};" for name in functions)


if __name__ == "__main__":
    main(*sys.argv[1:])
