"""Binary layers of other people's become operators, and the module itself judges that."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx import Node

from bnas_deploy.core.errors import ExportError
from bnas_deploy.export.foreign.judge import BATCH, REFUSED, Seen, compare_layers, compare_whole
from bnas_deploy.export.foreign.layers import Found, binary_layers
from bnas_deploy.export.foreign.left_float import Left, NotTranslated
from bnas_deploy.export.foreign.operands import translation_of
from bnas_deploy.export.foreign.operations import operation, values_read
from bnas_deploy.export.foreign.program import Program
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
        self.recognised = 0
        self.has_sums = False

    def __call__(self, exported: ExportedProgram) -> ExportedProgram:
        """Return a captured program whose binary layers are operators, whoever wrote them.

        Raises:
            ExportError: a translation does not agree with the module.
        """
        exported = _functional(exported)
        program = Program(exported)
        found, self.left = self._translatable(program)
        self.recognised = len(found)
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
                translation_of(each, meets_zero=True)
            except NotTranslated as why:
                left.append(Left(each.name, str(why), why.remedy))
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


_MAKE_ZEROS = frozenset(
    {"clamp", "clamp_min", "hardshrink", "relu", "relu6", "round", "softshrink", "threshold", "trunc"}
)
"""Operations that give 0 for many values."""

_WITH_BIAS = frozenset({"conv1d", "conv2d", "conv3d", "convolution", "linear"})
"""Operations whose third argument is a bias."""

_SUMS = frozenset({"add", "rsub", "sub"})


def _may_meet_zero(program: Program, found: Found, seen: Seen) -> bool:
    """Tell whether a sign that is 0 at 0 may see one: it did on the images, or nothing moves its values off 0.

    A few images prove little of others: a black square is 0 in all pixels of an image, and behind a convolution without
    bias. Behind a BN or a bias a value is 0 about as seldom as any other number.
    """
    return seen.zeros > 0 or not _is_moved_off_zero(program, found.source)


def _is_moved_off_zero(program: Program, node: Node) -> bool:
    """Tell whether every number of a value comes from a BN or has a bias, with no other layer with weights behind that.

    One moved term is enough for a sum, and so is a constant one, such as a learned shift. All that a product, a
    concatenation and other operations read has to be moved.
    """
    name = operation(node)
    if "batch_norm" in name:
        return True
    if name in _WITH_BIAS:
        return len(node.args) > 2 and node.args[2] is not None
    if not name or name in _MAKE_ZEROS or any(part in name for part in ("conv", "mm", "matmul", "einsum")):
        return False
    read = values_read(node)
    varying = [each for each in read if each in program.varying]
    if name in _SUMS:
        is_shifted = len(varying) < len(read) or any(isinstance(each, int | float) and each for each in node.args)
        return is_shifted or any(_is_moved_off_zero(program, each) for each in varying)
    return bool(varying) and all(_is_moved_off_zero(program, each) for each in varying)


def _functional(exported: ExportedProgram) -> ExportedProgram:
    """Return a program in which no operation changes what it reads, so that a node is one value."""
    operators = (node.target for node in exported.graph.nodes if isinstance(node.target, torch._ops.OpOverload))
    in_place = any(operator._schema.is_mutable for operator in operators)
    return exported.run_decompositions({}) if in_place else exported


def _tensors(value: object) -> Sequence[Tensor]:
    return [each for each in torch.utils._pytree.tree_leaves(value) if isinstance(each, Tensor)]
