"""From TIR to an object file with plain C functions, which need nothing but libc.

TVM's own calling convention passes packed arguments and needs TVM's run-time library; here a buffer becomes a pointer
and a number stays a number: `int name(int, const float*, ...)`.

Between the two lies the code in LLVM's language, optimised. Platforms of an architecture share it: arguments are
numbers and pointers only, and LLVM looks up in which registers they come when it makes the object.
"""

import re
import tempfile
from collections.abc import Mapping
from pathlib import Path

import tvm
import tvm_ffi
from tvm import s_tir, tirx
from tvm.ir import PointerType, PrimType
from tvm.target import Target

from bnas_deploy.runtime.kernels.hide import hidden
from bnas_deploy.runtime.kernels.specs import KernelSpec

C_CALLING_CONVENTION = 1  # TVM's kCPackedFunc is 1: the code generator takes the signature as it is


def write_code(functions: Mapping[str, tirx.PrimFunc], spec: KernelSpec, path: Path) -> None:
    """Compile the functions, by symbol, for a row's CPUs, to a file in LLVM's language."""
    target = _target(spec, _triple(spec))
    module = tvm.IRModule({name: function.with_attr("global_symbol", name) for name, function in functions.items()})
    _compiled(_lower(module, target), target).write_to_file(str(path), "ll")


def write_object(code: Path, spec: KernelSpec, triple: str, path: Path) -> None:
    """Make an object file of a row's code for a platform, which LLVM calls `triple`; assembly if `path` ends in s."""
    text = code.read_text(encoding="utf-8")
    if triple != _triple(spec):
        text = _moved(text, spec, triple)
    with tempfile.TemporaryDirectory() as folder:
        moved = Path(folder) / "code.ll"
        moved.write_text(text, encoding="utf-8")
        tvm.runtime.load_module(str(moved)).write_to_file(str(path), path.suffix[1:])
    if path.suffix == ".o":
        path.write_bytes(hidden(path.read_bytes()))


def _moved(text: str, spec: KernelSpec, triple: str) -> str:
    """Return code for another platform: of what LLVM says about that, TVM knows the layout of data."""
    head = _compiled(tvm.IRModule({}), _target(spec, triple)).inspect_source("ll")
    (layout,) = _LAYOUT.findall(head)
    return _LAYOUT.sub(layout, text.replace(_triple(spec), triple)).replace(_ELF_SECTION, "")


_LAYOUT = re.compile("^target datalayout = .*$", re.MULTILINE)
_ELF_SECTION = ' section ".text.tvm.fp16.conv"'
"""Of two functions that TVM adds, and no kernel calls. Other formats name sections differently."""


def _triple(spec: KernelSpec) -> str:
    return f"{spec.architecture}-linux-gnu"


def _target(spec: KernelSpec, triple: str) -> Target:
    features = [f"+{feature}" for feature in spec.features]
    return Target({"kind": "llvm", "mtriple": triple, "mcpu": spec.cpu, "mattr": features})


def _compiled(module: tvm.IRModule, target: Target) -> tvm.runtime.Module:
    return tvm.get_global_func("target.build.llvm")(module, target)


def _lower(module: tvm.IRModule, target: Target) -> tvm.IRModule:
    """Lower schedules, which have blocks with memory of their own, and straight-line TIR on flat buffers.

    All indices have 32 bits, so none is to be narrowed.
    """
    transform, blocks = tirx.transform, s_tir.transform
    passes = (
        transform.BindTarget(target.with_host(target)),
        tvm.transform.module_pass(_begin_sums, opt_level=0),
        blocks.PlanAndUpdateBufferAllocationLocation(),
        blocks.ConvertBlocksToOpaque(),
        blocks.CompactBufferAllocation(),
        blocks.LowerMatchBuffer(),
        blocks.LowerOpaqueBlock(),
        transform.FlattenBuffer(),
        transform.VectorizeLoop(True),
        transform.UnrollLoop(),
        transform.StmtSimplify(),
        transform.RemoveNoOp(),
        transform.CommonSubexprElim(),
        tvm.transform.module_pass(_make_plain_c, opt_level=0),
        transform.LowerIntrin(),
    )
    for step in passes:
        module = step(module)
    return module


def _begin_sums(module: tvm.IRModule, context: tvm.transform.PassContext) -> tvm.IRModule:
    """Have sums begin with what is added first. TVM's pass stores 0 and loads it again: 28 cycles for each tile."""

    def begin(block: s_tir.SBlock) -> s_tir.SBlock:
        if block.init is None:
            return block
        reduced = (axis for axis in block.iter_vars if axis.iter_type == tirx.IterVar.CommReduce)
        is_first = tirx.all(*(axis.var == axis.dom.min for axis in reduced))
        first = tirx.BufferStore(block.init.buffer, block.body.value.b, block.init.indices)
        body = tirx.IfThenElse(is_first, first, block.body)
        return s_tir.SBlock(block.iter_vars, block.reads, block.writes, block.name_hint, body)

    def begun(function: tirx.PrimFunc) -> tirx.PrimFunc:
        return function.with_body(tvm_ffi.structural_map(function.body, (s_tir.SBlock, begin)))

    return tvm.IRModule({name: begun(function) for name, function in module.functions.items()}, attrs=module.attrs)


def _make_plain_c(module: tvm.IRModule, context: tvm.transform.PassContext) -> tvm.IRModule:
    return tvm.IRModule({name: _plain_c(function) for name, function in module.functions.items()}, attrs=module.attrs)


def _plain_c(function: tirx.PrimFunc) -> tirx.PrimFunc:
    parameters, declarations = [], []
    for parameter in function.params:
        if parameter.ty.__class__.__name__ == "BufferType":
            pointer = tirx.Var(parameter.name, PointerType(PrimType(str(parameter.ty.dtype))))
            parameters.append(pointer)
            declarations.append(tirx.DeclBuffer(parameter, data=pointer))
        else:
            parameters.append(parameter)
    body = tirx.SeqStmt([*declarations, function.body])
    plain = tirx.PrimFunc(parameters, body, PrimType("int32"), function.attrs)
    return plain.with_attr("calling_conv", C_CALLING_CONVENTION)
