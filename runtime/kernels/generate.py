"""Writes the object file of one variant: `python generate.py ISA FILE.o`, run by runtime/build/native.py."""

import sys
from pathlib import Path
from types import ModuleType

# This runs before the package is installed. A module in its place lets `bnas_deploy.runtime` be found at the top of the
# repository; the package itself would look for its installation.
ROOT = Path(__file__).parents[2]
sys.modules["bnas_deploy"] = package = ModuleType("bnas_deploy")
package.__path__ = [str(ROOT)]

from bnas_deploy.runtime.kernels import elementwise, look_up, popcount  # noqa: E402  # the package was made above
from bnas_deploy.runtime.kernels.lower import write_object  # noqa: E402
from bnas_deploy.runtime.kernels.variants import LUT2, LUT6, POPCOUNT, VARIANTS, function_name  # noqa: E402

SHARED = (elementwise.pack, elementwise.halve, elementwise.finish)
COUNTING = {
    LUT2.name: (look_up.count, elementwise.encode, look_up.count_channels, elementwise.transpose),
    LUT6.name: (look_up.count, elementwise.encode, look_up.count_channels, elementwise.transpose, elementwise.subtract),
    POPCOUNT.name: (popcount.count,),
}


def main(isa: str, output: str) -> None:
    """Generate, lower and compile; the suffix of `output` may also be s or ll, to look at."""
    (variant,) = (variant for variant in VARIANTS if variant.isa == isa)
    algorithms = (*SHARED, *COUNTING[variant.counting.name])
    functions = {function_name(variant, algorithm.__name__): algorithm(variant) for algorithm in algorithms}
    write_object(functions, variant, Path(output))


if __name__ == "__main__":
    main(*sys.argv[1:])
