"""The last step: a rewritten graph becomes a file that stands alone."""

from collections.abc import Mapping

import onnx
import onnx_ir as ir

import bnas_deploy
from bnas_deploy.core.operators import DOMAIN, IR_VERSION, ONNX_OPSET, VERSION, defaults
from bnas_deploy.export import opset
from bnas_deploy.export.graph import batched_input
from bnas_deploy.export.name_tensors import make_outputs

BATCH = "N"


def finish(model: ir.Model) -> onnx.ModelProto:
    """Return the model as a checked protobuf with the function bodies that it needs and without capture's notes.

    The batch is called N. IR version and opset are the oldest that hold the model, so that onnxruntime 1.17 loads it.
    """
    make_outputs(model.graph)
    _name_batch(model.graph)
    skeleton = ir.to_proto(_without_weights(model))
    _complete(skeleton)
    onnx.checker.check_model(skeleton, full_check=True)
    proto = ir.to_proto(model)
    _complete(proto)
    return proto


MOST_NUMBERS = 1024
"""Constants of more numbers are weights: what shapes depend on is smaller."""


def _without_weights(model: ir.Model) -> ir.Model:
    """Return a copy whose weights are inputs: the checker copies a model several times, and asks for no weight."""
    skeleton = model.clone()
    for name, value in list(skeleton.graph.initializers.items()):
        if value.const_value is not None and value.const_value.size > MOST_NUMBERS:
            del skeleton.graph.initializers[name]
            value.const_value = None
            skeleton.graph.inputs.append(value)
    return skeleton


def finish_proto(proto: onnx.ModelProto) -> None:
    """Do the same in place for a model whose batch is called N already."""
    _complete(proto)
    onnx.checker.check_model(proto, full_check=True)


def _complete(proto: onnx.ModelProto) -> None:
    used = sorted({node.op_type for node in proto.graph.node if node.domain == DOMAIN})
    with_constants = _operators_with_constant_channels(proto)
    _drop_notes(proto)
    proto.ir_version = IR_VERSION
    proto.producer_name = "bnas-deploy"
    proto.producer_version = bnas_deploy.__version__
    proto.graph.name = "network"
    del proto.functions[:]
    proto.functions.extend(opset.function(name, constant_channels=name in with_constants) for name in used)
    set_opsets(proto, {"": ONNX_OPSET, **({DOMAIN: VERSION} if used else {})})


def _operators_with_constant_channels(proto: onnx.ModelProto) -> set[str]:
    """Return those that some node has constant channels of; their other nodes get the attribute too."""
    name = "constant_channels"
    nodes = [node for node in proto.graph.node if node.domain == DOMAIN]
    without = [all(attribute.name != name for attribute in node.attribute) for node in nodes]
    found = {node.op_type for node, lacks in zip(nodes, without, strict=True) if not lacks}
    for node, lacks in zip(nodes, without, strict=True):
        if lacks and node.op_type in found:
            node.attribute.append(onnx.helper.make_attribute(name, defaults()[name]))
    return found


def set_opsets(proto: onnx.ModelProto, opsets: Mapping[str, int]) -> None:
    """Let the model import exactly these domains."""
    del proto.opset_import[:]
    proto.opset_import.extend(onnx.helper.make_opsetid(domain, version) for domain, version in opsets.items())


def _name_batch(graph: ir.Graph) -> None:
    captured = batched_input(graph).shape
    assert captured is not None
    for value in (*graph.inputs, *(output for node in graph for output in node.outputs)):
        if value.shape is not None:
            value.shape = ir.Shape([BATCH if size == captured[0] else size for size in value.shape])


def _drop_notes(proto: onnx.ModelProto) -> None:
    """Remove stack traces and paths of the machine that captured the model."""
    values = (*proto.graph.input, *proto.graph.output, *proto.graph.value_info)
    for holder in (proto, proto.graph, *proto.graph.node, *values):
        del holder.metadata_props[:]
        holder.doc_string = ""
    for tensor in proto.graph.initializer:
        del tensor.metadata_props[:]
        tensor.doc_string = ""
