"""Binary layers of other people's become operators, and the module itself judges that."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx import Node

from bnas_deploy.core.errors import ExportError
from bnas_deploy.export.foreign.judge import BATCH, REFUSED, Seen, compare_layers, compare_whole
from bnas_deploy.export.foreign.layers import Found, binary_layers, left_float
from bnas_deploy.export.foreign.left_float import Left, NotTranslated
from bnas_deploy.export.foreign.moves import MOVES
from bnas_deploy.export.foreign.operands import check_translatable, translation_of
from bnas_deploy.export.foreign.operations import IDENTITIES, operation, values_read
from bnas_deploy.export.foreign.program import NotElementwise, Program
from bnas_deploy.export.foreign.registered import judge_rules, with_rules
from bnas_deploy.export.foreign.replace import write_float_layers, write_layers
from bnas_deploy.export.foreign.understood import Understood, of_found, of_package, of_rule
from bnas_deploy.export.inputs import Feed, feed_of
from bnas_deploy.search.nn.layers import BinaryConv2d


class Translator:
    """Translates one module: first the layers that have a rule, then what is recognised in the captured program.

    Attributes:
        module: what is to be captured: the user's, or a copy in which layers with a rule are operators.
        layers: how each binary layer was understood, the recognised ones once the program was translated.
        left: the layers with weights that stayed float, and why.
        recognised: how many layers of the program were translated.
        has_sums: some layer of them has more than two levels, and became several convolutions.
    """

    def __init__(self, module: nn.Module, images: Tensor | Feed) -> None:
        """Take the user's module as it was prepared, and images (N, C, H, W) float32, or other inputs, to judge with.

        Raises:
            ExportError: a rule does not describe its layer.
        """
        self.feed = feed_of(images)
        ruled = with_rules(module)
        self.module = ruled.module
        if ruled.layers:
            judge_rules(module, ruled, self.feed)
        self.layers: list[Understood] = [of_rule(path, layer) for path, (layer, _) in ruled.layers.items()]
        self.layers += [
            of_package(name, layer)
            for name, layer in self.module.named_modules()
            if isinstance(layer, BinaryConv2d) and layer.scheme.weight_bits == 1
        ]
        self.left: list[Left] = []
        self.recognised: frozenset[str] = frozenset()
        self.has_sums = False

    def __call__(self, exported: ExportedProgram) -> ExportedProgram:
        """Return a captured program whose binary layers are operators, whoever wrote them.

        Raises:
            ExportError: a translation does not agree with the module.
        """
        exported = _functional(exported)
        program = Program(exported)
        found, self.left = self._translatable(program)
        self.recognised = frozenset(each.name for each in found)
        if not found:
            return exported
        original = exported.module()
        assert isinstance(original, torch.fx.GraphModule)
        self._check_program(original)
        seen = compare_layers(original, found, self.feed)
        for each in found:
            seen[each.name].meets_zero = _may_meet_zero(program, each, seen[each.name])
        layers = [(each, translation_of(each, meets_zero=seen[each.name].meets_zero)) for each in found]
        self.layers += [of_found(program, each, seen[each.name]) for each in found]
        self.has_sums = any(len(translation.operands) > 1 for _, translation in layers)
        results = write_layers(exported, layers)
        translated = exported.module()
        assert isinstance(translated, torch.fx.GraphModule)
        compare_whole(original, translated, found, results, self.feed[:BATCH])
        return exported

    def float_layers(self, exported: ExportedProgram) -> ExportedProgram:
        """Return a captured program of the same module with one float convolution for each recognised layer."""
        exported = _functional(exported)
        found, _ = self._translatable(Program(exported))
        write_float_layers(exported, found)
        return exported

    def _translatable(self, program: Program) -> tuple[list[Found], list[Left]]:
        found, left = binary_layers(program)
        kept = []
        for each in found:
            try:
                check_translatable(each)
            except NotTranslated as why:
                left.append(left_float(each.name, each.node, why))
            else:
                kept.append(each)
        return kept, left

    def _check_program(self, original: torch.fx.GraphModule) -> None:
        """Refuse a program that answers otherwise than the module that it was captured from."""
        tensors = self.feed[:BATCH].tensors
        with torch.no_grad():
            got, want = original(*tensors), self.module(*tensors)
        if not all(torch.equal(*pair) for pair in zip(_tensors(got), _tensors(want), strict=True)):
            raise ExportError(
                f"{REFUSED}: the captured program answers differently from {type(self.module).__name__}; its forward "
                "may use something outside of the module: keep that in parameters and buffers"
            )


_WITH_BIAS = {
    "conv1d": 2, "conv2d": 2, "conv3d": 2, "convolution": 2, "conv_transpose1d": 2, "conv_transpose2d": 2, "linear": 2,
    "group_norm": 3, "instance_norm": 2, "layer_norm": 3,
}  # fmt: skip
"""Operations with a bias, and which of their arguments it is."""

_KEEP_OFF_ZERO = IDENTITIES | MOVES | {
    "_to_copy", "abs", "adaptive_avg_pool2d", "avg_pool2d", "cat", "celu", "chunk", "concat", "copy", "div", "divide",
    "elu", "exp", "expand", "expand_as", "getitem", "index_select", "leaky_relu", "max", "max_pool2d_with_indices",
    "maximum", "mean", "min", "minimum", "mul", "multiply", "neg", "negative", "prelu", "select", "selu", "sigmoid",
    "slice", "split", "split_with_sizes", "stack", "tanh", "to", "true_divide", "type_as", "upsample_bilinear2d",
    "upsample_nearest2d",
}  # fmt: skip
"""Operations that give 0 about as seldom as all that they read is 0. Others, such as a mask, may make zeros."""

_SUMS = frozenset({"add", "rsub", "sub"})


def _may_meet_zero(program: Program, found: Found, seen: Seen) -> bool:
    """Tell whether a sign that is 0 at 0 may see one: it did on the images, or nothing moves its values off 0.

    A few images prove little of others: a black square is 0 in all pixels of an image, and behind a convolution without
    bias. Behind a BN or a bias a value is 0 about as seldom as any other number.
    """
    return seen.zeros > 0 or not _moved_by(program, found.source)


def _moved_by(program: Program, node: Node, known: dict[Node, frozenset[Node]] | None = None) -> frozenset[Node]:
    """Return the nodes that move every number of a value off 0: BNs, biases, added constants; none where it may be 0.

    All that a product or a concatenation reads has to be moved. A sum needs a term that is moved by something that
    moves no other: x minus its own mean is 0 in a flat image, wherever x comes from.
    """
    known = {} if known is None else known
    if node not in known:
        known[node] = _found_moving(program, node, known)
    return known[node]


def _found_moving(program: Program, node: Node, known: dict[Node, frozenset[Node]]) -> frozenset[Node]:
    name, none = operation(node), frozenset[Node]()
    if "batch_norm" in name:
        if _shifts_all(program, node):
            return frozenset({node})
        return _moved_by(program, node.all_input_nodes[0], known)
    if name in _WITH_BIAS:
        bias = node.args[_WITH_BIAS[name]] if len(node.args) > _WITH_BIAS[name] else None
        return frozenset({node}) if isinstance(bias, Node) and _is_never_zero(program, bias) else none
    # With both bounds other than 0 it is no ReLU.
    is_hardtanh = name == "hardtanh" and all(node.args[1:3]) and len(node.args) != 2
    if name not in _SUMS | _KEEP_OFF_ZERO and not is_hardtanh:
        return none
    read = values_read(node)
    parts = [_moved_by(program, each, known) for each in read if each in program.varying]
    every = none.union(*parts)
    if name not in _SUMS:
        return every if parts and all(parts) else none
    numbers = [each for each in read if each not in program.varying]
    if any(_is_never_zero(program, each) for each in numbers) or any(
        isinstance(each, int | float) and each for each in node.args
    ):
        return every | {node}
    return every if any(sum(each in part for part in parts) == 1 for each in every) else none


def _is_never_zero(program: Program, node: Node) -> bool:
    """Tell whether no number of a bias or another constant is 0, as far as is known: one that is moves nothing."""
    numbers = _numbers(program, node)
    return numbers is not None and bool((numbers != 0).all())


def _shifts_all(program: Program, node: Node) -> bool:
    """Tell whether a batch normalisation makes another number of 0 in every channel; one that is new does in none."""
    weight, bias, mean, variance = (
        _numbers(program, each) if isinstance(each, Node) else None for each in node.args[1:5]
    )
    if mean is None or variance is None:
        return False
    eps = next((each for each in reversed(node.args) if isinstance(each, float)), 0.0)
    slope = torch.rsqrt(variance + eps) * (1.0 if weight is None else weight)
    return bool(((0.0 if bias is None else bias) - mean * slope != 0).all())


def _numbers(program: Program, node: Node) -> Tensor | None:
    """Return a value that parameters alone make, in float64; None for others, and for sizes that only images have."""
    if node in program.varying:
        return None
    try:
        return program.constant(node).value.double()
    except NotElementwise:
        return None


def _functional(exported: ExportedProgram) -> ExportedProgram:
    """Return a program in which no operation changes what it reads, so that a node is one value."""
    operators = (node.target for node in exported.graph.nodes if isinstance(node.target, torch._ops.OpOverload))
    in_place = any(operator._schema.is_mutable for operator in operators)
    return exported.run_decompositions({}) if in_place else exported


def _tensors(value: object) -> Sequence[Tensor]:
    return [each for each in torch.utils._pytree.tree_leaves(value) if isinstance(each, Tensor)]
