"""Names of the nodes of a captured graph, as people know them."""

import ast

import onnx_ir as ir

from bnas_deploy.core import operators
from bnas_deploy.export.foreign.operations import is_of_none

_LAYERS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})


def name_after_modules(graph: ir.Graph) -> None:
    """Name each node after the module in whose forward it is, so that people and both twins agree on names.

    A layer with weights has the module's path, any other node the path and its operator: blocks.0/Add#2 is the second
    sum there. What is in no module but the whole network is named as PyTorch's program names its result, such as
    conv2d_1.
    """
    taken: dict[str, int] = {}
    for node in graph:
        scopes = ast.literal_eval(node.metadata_props.get("pkg.torch.onnx.name_scopes", "[]"))
        path = str(scopes[-2]) if len(scopes) > 1 and not is_of_none(str(scopes[-2])) else ""
        is_layer = node.op_type in _LAYERS or node.domain == operators.DOMAIN
        name = (path if is_layer else f"{path}/{node.op_type}") if path else str(node.outputs[0].name)
        taken[name] = taken.get(name, 0) + 1
        node.name = name if taken[name] == 1 else f"{name}#{taken[name]}"
