"""What a captured program computes of parameters alone, and what it does to a value element by element.

Both are found by running parts of the program, so it does not matter how they are written.
"""

from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, InputSpec
from torch.fx import Node
from torch.fx.node import map_aggregate
from torch.utils._pytree import tree_leaves

from bnas_deploy.export.foreign.operations import (
    EXPANSIONS,
    IDENTITIES,
    SHAPES,
    filled_with,
    is_elementwise,
    is_one_number,
    mask_of,
    operation,
    place_of,
    reads_by,
    same_shape,
    shape_of,
    stacked_in,
    values_read,
)


@dataclass(frozen=True)
class Evaluated:
    """A value, and for each element the largest magnitude on the way to it, which roundings are relative to."""

    value: Tensor
    largest: Tensor


class NotElementwise(Exception):  # noqa: N818  # no mistake of anybody's: it says what a function is not
    """A part of a program is no function of single elements; the message says why."""


class Program:
    """A captured program.

    Attributes:
        exported: as torch.export made it.
        order: the place of each node.
        varying: nodes whose values depend on the images or on chance; shapes do not count.
    """

    def __init__(self, exported: ExportedProgram) -> None:
        self.exported = exported
        self.order: dict[Node, float] = {node: number for number, node in enumerate(exported.graph.nodes)}
        self._specs = {spec.arg.name: spec for spec in exported.graph_signature.input_specs if _names_a_value(spec)}
        self.varying: set[Node] = set()
        for node in exported.graph.nodes:
            if self._varies(node):
                self.varying.add(node)

    def _varies(self, node: Node) -> bool:
        if node.op == "placeholder":
            return self.leaf(node) is None
        random = (
            isinstance(node.target, torch._ops.OpOverload) and torch.Tag.nondeterministic_seeded in node.target.tags
        )
        # Dropout is marked as random, and gives what it reads in evaluation mode.
        random = random and not is_elementwise(node)
        return random or any(each in self.varying for each in values_read(node))

    def leaf(self, node: Node) -> Tensor | None:
        """Return the parameter, buffer or constant that a placeholder stands for; None for an input."""
        spec = self._specs.get(node.name)
        if node.op != "placeholder" or spec is None or spec.kind == InputKind.USER_INPUT:
            return None
        held = self.exported.state_dict.get(str(spec.target), self.exported.constants.get(str(spec.target)))
        return held if isinstance(held, Tensor) else None

    def parameters_of(self, node: Node, source: Node | None = None) -> list[str]:
        """Return the names of the parameters and buffers that a value is computed of, besides `source`."""
        given = () if source is None else (source,)
        leaves = [each for each in self._slice(node, given, compact=True) if self.leaf(each) is not None]
        return [str(self._specs[each.name].target) for each in leaves if not _is_made_up(self._specs[each.name])]

    def between(self, source: Node, result: Node) -> list[Node]:
        """Return what is computed of `source` on the way to `result`, in running order."""
        return [each for each in self._slice(result, (source,), compact=True) if each in self.varying - {source}]

    def joined(self, parts: Sequence[Node], like: Node) -> Node:
        """Return a new concatenation of parts in front of one like it, which nothing reads yet."""
        with self.exported.graph.inserting_before(like):
            assert callable(like.target)
            node: Node = self.exported.graph.call_function(like.target, (list(parts), *like.args[1:]), like.kwargs)
        node.meta = dict(like.meta)
        self.order[node] = self.order[like] - 0.5
        self.varying.add(node)
        return node

    def constant(self, node: Node, dtype: torch.dtype = torch.float32) -> Evaluated:
        """Compute a value that depends on parameters alone; `dtype` is that of every float on the way.

        Raises:
            NotElementwise: it takes a shape of the images.
        """
        return self._evaluate(node, {}, dtype, compact=False)

    def _evaluate(self, result: Node, given: Mapping[Node, Tensor], dtype: torch.dtype, *, compact: bool) -> Evaluated:
        """Compute `result` with some values given; where it is `compact` nothing is expanded, but left to broadcast."""
        known = {node: Evaluated(value, value.abs()) for node, value in given.items()}
        for node in self._slice(result, known, compact=compact):
            if node not in known:
                known[node] = self._computed(node, known, dtype, compact=compact)
        return known[result]

    def _slice(self, result: Node, given: Container[Node] = (), *, compact: bool = False) -> list[Node]:
        """Return what `result` is computed of, in running order, not past nodes that are given."""
        found, needed = {result}, [result]
        while needed:
            node = needed.pop()
            if node in given:
                continue
            read = values_read(node) if compact or self._takes_shape(node) else node.all_input_nodes
            needed += [each for each in read if each not in found]
            found.update(read)
        return sorted(found, key=self.order.__getitem__)

    def _takes_shape(self, node: Node) -> bool:
        """Tell whether the size of what a node makes depends on the images."""
        return any(operation(each) in SHAPES or each in self.varying for each in node.all_input_nodes)

    def _computed(self, node: Node, known: Mapping[Node, Evaluated], dtype: torch.dtype, *, compact: bool) -> Evaluated:
        if (leaf := self.leaf(node)) is not None:
            value = leaf.detach().to(dtype) if leaf.is_floating_point() else leaf.detach()
            return Evaluated(value, value.abs() if value.dtype != torch.bool else value)
        if operation(node) in SHAPES or node.op != "call_function":
            return Evaluated(torch.tensor(torch.nan), torch.tensor(0.0))  # read as a size only, if at all
        if compact or self._takes_shape(node):
            left_out = _left_out(node, known, dtype)
            if left_out is not None:
                return left_out
        read = values_read(node)
        before = [known[each].largest for each in read]
        if stacked_in(node):
            sizes = torch.broadcast_shapes(*(known[each].value.shape for each in read))  # type: ignore[no-untyped-call]  # as torch has it
            parts = torch.stack([known[each].value.expand(sizes) for each in read])
            value = parts.argmax(0) if operation(node) == "argmax" else parts.argmin(0)
            return Evaluated(value, value.abs())
        if mask_of(node) is not None and node in self.varying:
            value = _by_mask(node, known, self.varying)
            return Evaluated(value, _largest(value, before))

        def argument(value: Any) -> Any:
            if isinstance(value, Node):
                return known[value].value
            return dtype if value == torch.float32 and isinstance(value, torch.dtype) else value

        arguments, options = map_aggregate((node.args, dict(node.kwargs)), argument)
        try:
            with torch.no_grad():
                value = node.target(*arguments, **options)  # type: ignore[operator]  # call_function's target is one
        except (RuntimeError, TypeError, LookupError, ValueError):  # sizes that only the images have
            raise NotElementwise(f"{place_of(node)} takes more than single numbers") from None
        return Evaluated(value, _largest(value, before))


def _left_out(node: Node, known: Mapping[Node, Evaluated], dtype: torch.dtype) -> Evaluated | None:
    """Compute what would only have another size, and is left to broadcast; None for other operations."""
    name, kind = operation(node), node.meta["val"].dtype if isinstance(node.meta.get("val"), Tensor) else dtype
    kind = dtype if kind.is_floating_point else kind
    if (number := filled_with(node)) is not None:
        # What is in memory that nobody filled is no number, and counts as no rounding.
        empty = number != number
        value = torch.tensor(0 if empty and not kind.is_floating_point else number, dtype=kind)
        return Evaluated(value, torch.zeros(()) if empty or kind == torch.bool else value.abs())
    if name in EXPANSIONS or (name in {"copy", "slice", "slice_scatter"} and is_elementwise(node)):
        (read,) = values_read(node) or (None,)
        if read is not None and read in known:
            found = known[read]
            return Evaluated(found.value.to(kind), found.largest) if name == "copy" else found
    return None


def _by_mask(node: Node, known: Mapping[Node, Evaluated], varying: Container[Node]) -> Tensor:
    """Read or write elements by a mask: what is read stays in its place, and what is written is chosen there.

    Raises:
        NotElementwise: what is written was not read from the same places.
    """
    into, mask = node.args[0], mask_of(node)
    assert isinstance(into, Node)
    assert mask is not None
    before = known[into].value
    if operation(node) == "index":
        return before
    written = node.args[2]
    assert isinstance(written, Node)
    value = known[written].value
    one_number = written not in varying and bool((value == value.flatten()[:1]).all())
    if not (is_one_number(written) or one_number or reads_by(written, mask)):
        raise NotElementwise(f"{place_of(node)} moves numbers from one place to another")
    value = before + value if len(node.args) > 3 and node.args[3] else value
    return torch.where(known[mask].value != 0, value.to(before.dtype), before)


def _largest(value: Any, before: list[Tensor]) -> Tensor:
    """Return the largest magnitude of each element of `value` and of what it was computed of; infinite for NaN.

    It is one number for an operation with several results.
    """
    if not isinstance(value, Tensor):
        return torch.stack([each.float().max() for each in before if each.numel()] or [torch.zeros(())]).max()
    # A function is computed for a thousand numbers of each channel, and this for each of its operations: in place.
    largest = value.abs() if value.is_floating_point() else value.float().abs()
    for each in before:
        try:
            each.expand(value.shape)
        except RuntimeError:  # a mean, or a reshape
            each = each.max() if each.numel() else each.new_zeros(())
        torch.maximum(largest, each.to(largest.dtype), out=largest)
    return largest.nan_to_num_(nan=torch.inf, posinf=torch.inf)


def _names_a_value(spec: InputSpec) -> bool:
    return hasattr(spec.arg, "name")


def _is_made_up(spec: InputSpec) -> bool:
    """Tell whether a constant is a number in the code, which torch.export names by itself."""
    return spec.kind == InputKind.CONSTANT_TENSOR


@dataclass(frozen=True)
class Function:
    """What a program does to each element of `source` on the way to `result`, channel by channel.

    Attributes:
        axis: that of the channels, counted from the end: -3 for images, -1 for what a dense layer reads.
        lowest: no element of `source` is below.
    """

    program: Program
    source: Node
    result: Node
    axis: int
    lowest: float = float("-inf")

    @property
    def channels(self) -> int:
        """Their number; 1 where only the images say it, for a function that is to be the same for all."""
        size = shape_of(self.source)[self.axis]
        return size if isinstance(size, int) else 1

    def __call__(self, x: Tensor, dtype: torch.dtype = torch.float32) -> Evaluated:
        """Compute it for numbers (P, C), P in each channel.

        Raises:
            NotElementwise: it depends on more than the element and its channel.
        """
        shape = [len(x), *(1,) * max(1, len(shape_of(self.source)) - 1)]
        shape[self.axis] = self.channels
        probe = x.clamp(min=self.lowest).to(dtype).reshape(shape)
        found = self.program._evaluate(self.result, {self.source: probe}, dtype, compact=True)
        try:
            value = found.value.to(dtype).broadcast_to(shape).reshape(x.shape)
            return Evaluated(value, found.largest.broadcast_to(shape).reshape(x.shape))
        except RuntimeError:
            raise NotElementwise("what it does depends on the place in the image") from None


def sources_of(program: Program, result: Node) -> Iterator[Node]:
    """Yield the float32 values of its shape that `result` is a function of, element by element: the nearest first."""
    for node, is_alone in _backwards(program, result):
        if is_alone and node is not result and operation(node) not in IDENTITIES and _alike(node, result):
            yield node


def obstacle_of(program: Program, result: Node) -> Node:
    """Return the nearest operation that `result` is no function of single elements past."""
    *_, (last, _) = _backwards(program, result)
    return last


def _backwards(program: Program, result: Node) -> Iterator[tuple[Node, bool]]:
    """Yield what `result` is computed of, the last first, and whether it is computed of that alone.

    It ends with the first node that is more than a function of single elements.
    """
    front = {result}
    while front:
        last = max(front, key=program.order.__getitem__)
        yield last, len(front) == 1
        if not is_elementwise(last):
            return
        front.remove(last)
        front |= {each for each in values_read(last) if each in program.varying}


def _alike(node: Node, result: Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, Tensor) and value.dtype == torch.float32 and same_shape(node, result)


_NOT_NEGATIVE = frozenset({"abs", "relu", "relu6", "sigmoid", "hardsigmoid", "softmax", "exp", "square", "softplus"})
_KEEPS_SIGN = frozenset({
    "adaptive_avg_pool2d", "alias", "avg_pool2d", "clone", "contiguous", "detach", "dropout", "expand", "flatten",
    "getitem", "max_pool2d", "max_pool2d_with_indices", "mean", "permute", "reshape", "slice", "squeeze", "sum", "to",
    "transpose", "unsqueeze", "view", "_to_copy", "split", "chunk", "adaptive_max_pool2d", "upsample_nearest2d",
})  # fmt: skip
_ALL_OF = frozenset({"add", "cat", "concat", "mul", "maximum", "stack"})


def never_negative(program: Program, node: Node, depth: int = 64) -> bool:
    """Tell whether no element of a value can be below 0, whatever the images are."""
    name = operation(node)
    if depth == 0:
        return False
    if node not in program.varying:
        try:
            return bool((program.constant(node).value >= 0).all())
        except NotElementwise:
            return False
    if name in _NOT_NEGATIVE:
        return True
    if name in {"clamp", "clamp_min", "hardtanh"} and len(node.args) > 1:
        lowest = node.args[1]
        return isinstance(lowest, int | float) and lowest >= 0
    if name in _KEEPS_SIGN:
        return bool(node.all_input_nodes) and never_negative(program, node.all_input_nodes[0], depth - 1)
    if name in _ALL_OF:
        given = tree_leaves((node.args, dict(node.kwargs)))  # `alpha` of a sum multiplies what is added
        numbers = [each for each in given if isinstance(each, int | float) and name in {"add", "mul"}]
        return all(number >= 0 for number in numbers) and all(
            never_negative(program, each, depth - 1) for each in node.all_input_nodes
        )
    return False
