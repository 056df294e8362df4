"""The decomposition of a program before it becomes a graph, without tracing it anew where that would change little.

torch.onnx has a program decomposed into the operations that it can translate, for which PyTorch traces all of it a
second time: half of the time of a capture. Of what networks mostly consist of, only four operations become others,
and those are replaced here, node by node. A program with anything else is decomposed by PyTorch.
"""

import copy
import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.fx import Graph, Node

from bnas_deploy.export.torch_operators import TRANSLATIONS

_aten = torch.ops.aten
_NORM = _aten._native_batch_norm_legit_no_training.default

_TRANSLATED = frozenset(
    {
        *TRANSLATIONS,
        operator.getitem,
        _NORM,
        _aten.abs.default,
        _aten.add.Tensor,
        _aten.amax.default,
        _aten.avg_pool2d.default,
        _aten.bmm.default,
        _aten.cat.default,
        _aten.clamp.default,
        _aten.clone.default,
        _aten.conv1d.default,
        _aten.conv2d.default,
        _aten.detach.default,
        _aten.div.Tensor,
        _aten.elu.default,
        _aten.exp.default,
        _aten.expand.default,
        _aten.flatten.using_ints,
        _aten.gelu.default,
        _aten.group_norm.default,
        _aten.hardsigmoid.default,
        _aten.hardswish.default,
        _aten.hardtanh.default,
        _aten.index_select.default,
        _aten.instance_norm.default,
        _aten.layer_norm.default,
        _aten.leaky_relu.default,
        _aten.linear.default,
        _aten.matmul.default,
        _aten.max_pool2d.default,
        _aten.maximum.default,
        _aten.mean.default,
        _aten.mean.dim,
        _aten.mul.Tensor,
        _aten.neg.default,
        _aten.pad.default,
        _aten.permute.default,
        _aten.pixel_shuffle.default,
        _aten.pow.Tensor_Scalar,
        _aten.prelu.default,
        _aten.relu.default,
        _aten.relu6.default,
        _aten.repeat.default,
        _aten.select.int,
        _aten.sigmoid.default,
        _aten.sign.default,
        _aten.silu.default,
        _aten.slice.Tensor,
        _aten.softmax.int,
        _aten.split_with_sizes.default,
        _aten.sqrt.default,
        _aten.squeeze.dim,
        _aten.squeeze.dims,
        _aten.sub.Tensor,
        _aten.sum.dim_IntList,
        _aten.sym_size.int,
        _aten.tanh.default,
        _aten.transpose.int,
        _aten.unsqueeze.default,
        _aten.upsample_nearest2d.vec,
        _aten.view.default,
    }
)
"""What torch.onnx translates as it is: each changes nothing that it reads."""


class LightlyDecomposed(ExportedProgram):
    """A program that torch.onnx may ask to be decomposed, which has been done."""

    def run_decompositions(
        self,
        decomp_table: dict[Any, Callable[..., Any]] | None = None,
        decompose_custom_triton_ops: bool = False,
    ) -> ExportedProgram:
        """Return the program itself, or PyTorch's decomposition if that has something to do after all."""
        if decomp_table is not None and not any(node.target in decomp_table for node in self.graph.nodes):
            return self
        decomposed: ExportedProgram = super().run_decompositions(decomp_table, decompose_custom_triton_ops)
        return decomposed


def lightly_decomposed(program: ExportedProgram) -> ExportedProgram:
    """Return a copy of a program that needs no decomposition by PyTorch; `program` itself if it needs one."""
    graph = copy.deepcopy(program.graph)
    for node, copied in zip(list(graph.nodes), program.graph.nodes, strict=True):
        node.name = copied.name  # a copy has another where it is that of a function in Python, as `input` is
        if replace := _REPLACED.get(node.target):
            replace(node)
        if not _is_ready(node):
            return program
    return LightlyDecomposed(
        program.graph_module,
        graph,
        program.graph_signature,
        program.state_dict,
        program.range_constraints,
        program.module_call_graph,
        program.example_inputs,
        program.constants,
        verifiers=program.verifiers,
    )


def _is_ready(node: Node) -> bool:
    """Tell whether torch.onnx can translate a node as it is: that its result is known, too."""
    if node.op in ("placeholder", "output"):
        return True
    return node.op == "call_function" and node.target in _TRANSLATED and "val" in node.meta


def _replace_norm(node: Node) -> None:
    """Take the first of the three results of a batch normalisation by known statistics, as PyTorch decomposes it."""
    *numbers, training, momentum, eps, _ = node.args
    if training or None in numbers[3:5]:
        return
    with node.graph.inserting_before(node):
        norm = node.graph.call_function(_NORM, (*numbers, momentum, eps))
    value = node.meta["val"]
    norm.meta = {**node.meta, "val": (value, value.new_empty(0), value.new_empty(0))}
    node.target, node.args = operator.getitem, (norm, 0)


def _replace_mean(node: Node) -> None:
    """Average whole images: the adaptive pooling to one pixel."""
    x, size = node.args
    if size == [1, 1]:
        node.target, node.args = _aten.mean.dim, (x, [-1, -2], True)


def _replace_difference(node: Node) -> None:
    """Take a value from a number, such as 1 - x, as any difference."""
    x, number, *alpha = node.args
    if not alpha:
        node.target, node.args = _aten.sub.Tensor, (number, x)


def _replace_expand_as(node: Node) -> None:
    """Expand to sizes instead of to a value, as ReActNet's learned shifts do."""
    x, other = node.args
    sizes = [size if isinstance(size, int) else _size(node.graph, size) for size in other.meta["val"].shape]  # type: ignore[union-attr]  # a node
    if None not in sizes:
        node.target, node.args = _aten.expand.default, (x, sizes)


def _size(graph: Graph, size: torch.SymInt) -> Node | None:
    """Return the node that reads a size from an input, made behind the inputs if there is none; None for another."""
    known: list[Node] = [node for node in graph.nodes if node.target == _aten.sym_size.int]
    for node in known:
        if str(node.meta["val"]) == str(size):
            return node
    inputs = [node for node in graph.nodes if node.op == "placeholder"]
    for node in inputs:
        for axis, other in enumerate(node.meta["val"].shape if isinstance(node.meta.get("val"), Tensor) else ()):
            if str(other) == str(size):
                with graph.inserting_after(inputs[-1]):
                    made: Node = graph.call_function(_aten.sym_size.int, (node, axis))
                made.meta["val"] = size
                return made
    return None


_REPLACED: dict[Any, Callable[[Node], None]] = {
    _aten.batch_norm.default: _replace_norm,
    _aten.adaptive_avg_pool2d.default: _replace_mean,
    _aten.expand_as.default: _replace_expand_as,
    _aten.rsub.Scalar: _replace_difference,
}
