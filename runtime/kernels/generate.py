"""Writes the object file of one spec and its C header: `python generate.py ISA TRIPLE FILE.o [CODE.ll]`.

TRIPLE is LLVM's name of a platform, such as x86_64-linux-gnu. The header is FILE.h: it has the types of all kernels,
and declares those of the object. FILE.ll is what the object was made from; given as CODE.ll, it makes the object of
another platform in a quarter of the time, and nothing else is written. runtime/build/native.py runs this.
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
# TVM imports PyTorch where it finds it, for tensors that nobody has here: a fifth of the time that this takes.
sys.modules.setdefault("torch", None)  # type: ignore[arg-type]  # None is how Python is told that there is none

from bnas_deploy.runtime.kernels import bits, count, elementwise, epilogue  # noqa: E402  # the package was made above
from bnas_deploy.runtime.kernels.lower import write_code, write_object  # noqa: E402  # as above
from bnas_deploy.runtime.kernels.prototypes import function_type, type_name  # noqa: E402  # as above
from bnas_deploy.runtime.kernels.specs import (  # noqa: E402  # as above
    KERNEL_SPECS,
    LUT6X2,
    KernelSpec,
    function_name,
    owner,
)

Algorithm = Callable[[KernelSpec], Any]

ALGORITHMS: tuple[Algorithm, ...] = (
    elementwise.pack,
    elementwise.halve,
    elementwise.encode,
    count.count,
    count.count_channels,
    elementwise.transpose,
    epilogue.epilogue,
    epilogue.block_epilogue,
    bits.to_bits,
)


def main(isa: str, triple: str, output: str, code: str = "") -> None:
    """Generate, lower and compile, or only the last; the suffix of `output` may also be s, to look at."""
    (spec,) = (spec for spec in KERNEL_SPECS if spec.isa == isa)
    path = Path(output)
    if not code:
        _write_code(spec, path)
    write_object(Path(code) if code else path.with_suffix(".ll"), spec, triple, path)


def _write_code(spec: KernelSpec, path: Path) -> None:
    """Write the code and the header beside the object that comes later."""
    functions = {algorithm.__name__: algorithm(spec) for algorithm in _algorithms(spec)}
    symbols = {function_name(spec, name): function for name, function in functions.items() if owner(spec, name) == spec}
    write_code(symbols, spec, path.with_suffix(".ll"))
    path.with_suffix(".h").write_text("\n".join(_header(spec, functions)) + "\n", encoding="utf-8")


def _algorithms(spec: KernelSpec) -> tuple[Algorithm, ...]:
    return (*ALGORITHMS, elementwise.correct_padding) if spec.counting == LUT6X2 else ALGORITHMS


def _header(spec: KernelSpec, functions: Mapping[str, Any]) -> Iterator[str]:
    yield f"/* Written by runtime/kernels/generate.py beside the kernels of {spec.isa}. */"
    yield "#include <stdint.h>"
    yield from (function_type(function, name) for name, function in functions.items())
    yield "/* Kernels of other rows: the code around the kernels calls them where there are some. */"
    others = {each.__name__: (each, row) for row in reversed(KERNEL_SPECS) for each in _algorithms(row)}
    for name, (algorithm, row) in others.items():
        if name not in functions:
            yield function_type(algorithm(row), name)
    for name in functions:
        if owner(spec, name) == spec:
            yield f"{type_name(name)} {function_name(spec, name)};"
        else:
            yield f"#define bnas_{spec.isa}_{name} {function_name(spec, name)}"


if __name__ == "__main__":
    main(*sys.argv[1:])
