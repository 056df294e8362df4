"""Write binary layers into a captured program as the operators that the rest of the export knows."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, InputSpec, TensorArgument
from torch.fx import Node

from bnas_deploy.export.foreign.layers import Found
from bnas_deploy.export.foreign.operands import Operands, Translation
from bnas_deploy.export.foreign.operations import operation, path_of, shape_of
from bnas_deploy.export.graph import RECOGNISED
from bnas_deploy.search.nn.layers import sides_of


def write_layers(program: ExportedProgram, layers: Sequence[tuple[Found, Translation]]) -> dict[str, str]:
    """Put the operators of each layer in its place, in `program` itself; return the names of their results by layer.

    A layer whose activations have more than two levels becomes a sum. What nobody reads any longer is dropped, with
    its parameters.
    """
    replaced: dict[Node, Node] = {}
    for found, translation in layers:
        # What one layer takes signs of may be the result of another.
        writer = _Writer(program, found, replaced.get(found.source, found.source))
        replaced[found.node] = writer.write(translation.operands)
    _tidy(program)
    return {found.name: replaced[found.node].name for found, _ in layers}


def write_float_layers(program: ExportedProgram, layers: Sequence[Found]) -> None:
    """Put a float convolution of what a layer takes signs of in the place of each, with the weights of that."""
    replaced: dict[Node, Node] = {}
    for found in layers:
        writer = _Writer(program, found, replaced.get(found.source, found.source))
        replaced[found.node] = writer.write_float()
    _tidy(program)


def _tidy(program: ExportedProgram) -> None:
    """Drop what nobody reads any longer; checks are read by nobody, and hold on to what they check."""
    for node in program.graph.nodes:
        if operation(node) in {"_assert_tensor_metadata", "_assert_scalar", "sym_constrain_range_for_size"}:
            program.graph.erase_node(node)
    program.graph.eliminate_dead_code()
    _drop_unread(program)
    program.graph_module.recompile()


class _Writer:
    """Writes the operators of one layer in front of the node that they replace."""

    def __init__(self, program: ExportedProgram, found: Found, source: Node) -> None:
        self.program, self.found, self.source = program, found, source

    def write(self, operands: Sequence[Operands]) -> Node:
        """Write them, and return the node that has the layer's result."""
        found, graph = self.found, self.program.graph
        with graph.inserting_before(found.node):
            x = self._pixels(self._moved())
        total: Node | None = None
        for number, each in enumerate(operands):
            tensors = [
                None if tensor is None else self._buffer(f"{name}_{number}", tensor)
                for name, tensor in each.tensors().items()
            ]
            with graph.inserting_before(found.node):
                y = self._convolve(torch.ops.bnas.binary_conv2d.default, x, *tensors, *each.options(found.window))
                total = y if total is None else self._of_its_shape(self._call(torch.ops.aten.add.Tensor, total, y))
        assert total is not None
        with graph.inserting_before(found.node):
            result = self._like_result(total)
        self._put_in_place(result)
        return result

    def write_float(self) -> Node:
        """Write a float convolution, and return the node that has its result."""
        found, graph, window = self.found, self.program.graph, self.found.window
        weights = found.weights.translated
        weight = self._buffer("weight", weights if weights.ndim == 4 else weights[:, :, None, None])
        bias = None if found.bias is None else self._buffer("bias", found.bias)
        with graph.inserting_before(found.node):
            x, padding = self._pixels(self._moved()), window.padding
            if any(window.extra_padding):
                x = self._call(torch.ops.aten.pad.default, x, sides_of(window.padding, window.extra_padding))
                padding = (0, 0)
            options = [list(window.stride), list(padding), list(window.dilation), window.groups]
            y = self._convolve(torch.ops.aten.conv2d.default, x, weight, bias, *options)
            result = self._like_result(y)
        self._put_in_place(result)
        return result

    def _put_in_place(self, result: Node) -> None:
        """Let all read `result` that read the layer's own, and the program answer it, where that was an output."""
        self.found.node.replace_all_uses_with(result)
        self.program.graph_signature.replace_all_uses(self.found.node.name, result.name)
        self.program.graph.erase_node(self.found.node)

    def _call(self, target: Any, *arguments: Any, value: Any = None) -> Node:
        """Add a node, with its value on fake tensors if that is known: without, PyTorch has to trace all again."""
        node: Node = self.program.graph.call_function(target, arguments)
        node.meta["nn_module_stack"] = self.found.node.meta.get("nn_module_stack", {})
        if value is not None:
            node.meta["val"] = value
        return node

    def _convolve(self, target: Any, *arguments: Any) -> Node:
        """Add a convolution, which is of the module that the layer was of.

        The exported graph calls it after that. Where it was of the whole network's forward it gets a module of its
        own, which has the layer's name.
        """
        node: Node = self.program.graph.call_function(target, arguments)
        node.meta.update({key: value for key, value in self.found.node.meta.items() if key != "val"})
        if not path_of(self.found.node):
            name, stack = self.found.name, node.meta.get("nn_module_stack", {})
            node.meta["nn_module_stack"] = {**stack, name: (name, str(operation(self.found.node)))}
        return self._of_its_shape(node)

    def _of_its_shape(self, node: Node) -> Node:
        """Give a node with images of the result the value that the layer's own result has."""
        value = _fake(self.found.node)
        if value is not None and (not self.found.is_dense or value.ndim == 2):
            node.meta["val"] = value[..., None, None] if self.found.is_dense else value
        return node

    def _moved(self) -> Node:
        """Return what the layer takes signs of, moved as its activations are."""
        x, alike = self.source, _are_alike(self.found.source, self.found.activations)
        for move in self.found.moves:
            assert callable(move.target)
            node: Node = self.program.graph.call_function(move.target, (x, *move.args[1:]), dict(move.kwargs))
            node.meta = {key: value for key, value in move.meta.items() if alike or key != "val"}
            x = node
        return x

    def _pixels(self, x: Node) -> Node:
        """Return the rows of a dense layer as images of one pixel; images are as they are."""
        if not self.found.is_dense:
            return x
        if len(shape_of(self.found.node)) != 2:
            x = self._call(torch.ops.aten.reshape.default, x, [-1, self.found.weights.value.shape[1]])
        for _ in range(2):
            value = _fake(x)
            x = self._call(torch.ops.aten.unsqueeze.default, x, -1, value=None if value is None else value[..., None])
        return x

    def _like_result(self, y: Node) -> Node:
        """Return y in the shape that the layer's own result has."""
        if not self.found.is_dense:
            return y
        shape = shape_of(self.found.node)
        value = _fake(self.found.node) if len(shape) == 2 else None
        y = self._call(torch.ops.aten.squeeze.dims, y, [-2, -1], value=value)
        if len(shape) == 2:
            return y
        # One size may be a symbol, which reshape finds out by itself.
        sizes = [size if isinstance(size, int) else -1 for size in shape]
        return self._call(torch.ops.aten.reshape.default, y, sizes)

    def _buffer(self, name: str, value: Tensor) -> Node:
        """Add a buffer to the program and return the placeholder for it."""
        program = self.program
        unique = f"{RECOGNISED}{self.found.node.name}.{name}"
        graph, signature = program.graph, program.graph_signature
        place = next(number for number, spec in enumerate(signature.input_specs) if spec.kind == InputKind.USER_INPUT)
        placeholders = [node for node in graph.nodes if node.op == "placeholder"]
        with graph.inserting_before(placeholders[place]):
            node: Node = graph.placeholder(f"b_{unique.replace('.', '_')}")
        node.meta["val"] = _fake_mode(program).from_tensor(value, static_shapes=True)
        spec = InputSpec(InputKind.BUFFER, TensorArgument(node.name), unique, persistent=True)
        signature.input_specs.insert(place, spec)
        program.state_dict[unique] = value
        return node


def _fake(node: Node) -> FakeTensor | None:
    """Return the value of a node on fake tensors; None where it has none."""
    value = node.meta.get("val")
    return value if isinstance(value, FakeTensor) else None


def _are_alike(one: Node, other: Node) -> bool:
    """Tell whether two nodes are known to have values of one shape and type."""
    values = _fake(one), _fake(other)
    return None not in values and len({(str(value.shape), value.dtype) for value in values if value is not None}) == 1


def _fake_mode(program: ExportedProgram) -> FakeTensorMode:
    values = (node.meta.get("val") for node in program.graph.nodes)
    return next(value.fake_mode for value in values if isinstance(value, FakeTensor))


def _drop_unread(program: ExportedProgram) -> None:
    """Drop parameters and buffers that nothing reads, such as the float weights behind signs."""
    specs = {spec.arg.name: spec for spec in program.graph_signature.input_specs if hasattr(spec.arg, "name")}
    for node in [each for each in program.graph.nodes if each.op == "placeholder" and not each.users]:
        spec = specs[node.name]
        if spec.kind == InputKind.USER_INPUT:
            continue
        program.graph.erase_node(node)
        program.graph_signature.input_specs.remove(spec)
        program.state_dict.pop(str(spec.target), None)
