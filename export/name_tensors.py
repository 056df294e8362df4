"""Give inputs and outputs of a captured graph the names that people know, and each output a node that makes it."""

import json
from collections.abc import Sequence

import onnx_ir as ir

from bnas_deploy.export.graph import UNRECORDED, Origin, origin_of


def name_inputs_and_outputs(
    graph: ir.Graph,
    inputs: Sequence[tuple[str, str]],
    outputs: Sequence[tuple[str, str]],
) -> None:
    """Rename inputs and outputs, which keep their origin; another value of that name gets a new one.

    Args:
        graph: changed in place.
        inputs: pairs of the name in PyTorch's program and the name to give, in the order of the graph.
        outputs: the same of outputs.
    """
    graph.metadata_props[_OUTPUTS] = json.dumps([name for _, name in outputs])
    make_outputs(graph)
    for value, (value_name, _) in zip((*graph.inputs, *graph.outputs), (*inputs, *outputs), strict=True):
        value.meta["origin"] = Origin(value_name)
        value.meta.pop(UNRECORDED, None)
    names = (name for _, name in (*inputs, *outputs))
    named = dict(zip((*graph.inputs, *graph.outputs), names, strict=True))
    _make_room(graph, set(named.values()), set(named))
    for value, name in named.items():
        value.name = name


def make_outputs(graph: ir.Graph) -> None:
    """Let each output of a graph be made by a node: what is an input, a constant or another output as well is copied.

    A runtime wants that, and so do pieces, which are compared by what a node makes. Passes of others undo it, and give
    a value that is several outputs the name of the last.
    """
    known = graph.metadata_props.get(_OUTPUTS)
    names = json.loads(known) if known is not None else [str(value.name) for value in graph.outputs]
    seen: set[ir.Value] = set()
    for number, (value, name) in enumerate(zip(list(graph.outputs), names, strict=True)):
        if value.producer() is None or value in seen:
            if value.name == name:
                value.name = f"{name}#inside"
            graph.outputs[number] = _copy(graph, value, number, name)
        elif known is not None:
            value.name = name
        seen.add(graph.outputs[number])


_OUTPUTS = "outputs"
"""Key of a graph's note: the names of its outputs, in order."""


def _copy(graph: ir.Graph, value: ir.Value, number: int, name: str) -> ir.Value:
    copied = ir.Value(name=name, shape=value.shape, type=value.type)
    copied.meta["origin"] = Origin(output_key(number))
    graph.append(ir.Node("", "Identity", [value], outputs=[copied], name=f"{name}.copy"))
    return copied


def output_key(number: int) -> str:
    """Return what an output is called among the values of a program, whatever its value is: no value of it is so."""
    return f"output {number}"


def _make_room(graph: ir.Graph, names: set[str], kept: set[ir.Value]) -> None:
    """Rename the values that have one of these names, but for those that are to have them."""
    for value in [*graph.initializers.values(), *(value for node in graph for value in node.outputs)]:
        if value.name in names and value not in kept:
            if UNRECORDED not in value.meta:
                value.meta["origin"] = origin_of(value)
            value.name = f"{value.name}#inside"
