"""Capture a trained PyTorch module as an ONNX graph whose binary layers are operators of the domain `bnas`.

The module is frozen first: each binary layer computes its signs and its scale once, in PyTorch, so that nothing that
decides a bit is computed again by another library. torch.onnx's dynamo exporter does the rest. In the captured graph

* a binary convolution is `bnas.BinaryConv2d`, `BinaryConv2dPad` or `BinaryConv2dK`, with all the inputs of the
  finished operator, but its weights are still float ±1, (O, C/groups, KH, KW); the pass PackWeights packs them. With a
  scheme whose sign(0) is 0 a weight may be 0, and the node has an attribute that the pass TakeSignOfZero takes away;
* a Zeroise layer is `bnas.Zeroise`, which no finished model holds;
* nodes are named after their module: convolutions and matrix products as it is, such as `cells.3.edges.1.conv`, others
  with their operator, such as `cells.3/Add`;
* every value has the name of the value in PyTorch's exported program, which `CapturedModel.values_of` computes.
"""

import contextlib
import functools
import gc
import inspect
import io
import logging
import re
import warnings
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode

from bnas_deploy.core import operators
from bnas_deploy.core.errors import ExportError
from bnas_deploy.export.data_attribute import TracedData
from bnas_deploy.export.decompose import lightly_decomposed
from bnas_deploy.export.foreign.operations import name_layers_of_none, place_of
from bnas_deploy.export.freeze import freeze
from bnas_deploy.export.graph import UNRECORDED, constant, origin_of
from bnas_deploy.export.inputs import Feed, feed_of
from bnas_deploy.export.leaves import tensors_in
from bnas_deploy.export.module_checks import own_doing
from bnas_deploy.export.name_nodes import name_after_modules
from bnas_deploy.export.name_tensors import name_inputs_and_outputs, output_key
from bnas_deploy.export.raised import failure, or_a_rule, place_of_error
from bnas_deploy.export.torch_operators import TRANSLATIONS

OUTPUT = "logits"
"""Name of the output of a network that answers one tensor, if nothing else is said."""


@dataclass(frozen=True)
class CapturedModel:
    """The captured graph, and the program that PyTorch made of the module, to compute any value of it.

    `traced` is that program before it was decomposed, which PyTorch may round otherwise: an adaptive pooling is a mean
    of gathered pixels then. `inputs` and `outputs` are the names of those of the graph.
    """

    model: ir.Model
    traced: torch.export.ExportedProgram
    program: torch.export.ExportedProgram
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    def copy(self) -> "CapturedModel":
        """Return it with a graph of its own; weights and program are shared."""
        return replace(self, model=self.model.clone())

    @functools.cached_property
    def network(self) -> torch.fx.GraphModule:
        """The program as a module, made once since that takes as long as a run; not to be changed."""
        module = self.program.module()
        assert isinstance(module, torch.fx.GraphModule)
        return module

    @property
    def input_values(self) -> tuple[str, ...]:
        """The names that the program has for its inputs."""
        return tuple(map(str, self.program.graph_signature.user_inputs))

    @property
    def output_values(self) -> tuple[str, ...]:
        """The names that the program has for what it answers; several outputs may be one value."""
        return tuple(map(str, self.program.graph_signature.user_outputs))

    def values_of(self, images: Tensor | Feed, off_zero: Container[str] = ()) -> dict[str, Tensor]:
        """Run the program in PyTorch and return what it computes by name, that of the program.

        Inputs and outputs have their own names as well, where no other value has them.

        Args:
            images: (N, C, H, W) float32, or what else the network takes.
            off_zero: names of values whose zeros are the smallest positive number instead, here and in what is made of
                them.
        """
        recorder, feed = _Recorder(self.network, off_zero), feed_of(images)
        with torch.no_grad():
            answers = tensors_in(recorder.run(*feed.tensors))
        values = recorder.values | dict(zip(self.input_values, feed.tensors, strict=True))
        for names, tensors in (
            (self.output_values, answers),  # a constant is computed by no node
            (map(output_key, range(len(answers))), answers),
            (self.inputs, feed.tensors),
            (self.outputs, answers),
        ):
            for name, tensor in zip(names, tensors, strict=True):
                values.setdefault(name, tensor)
        return values

    def answers_in(self, values: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """Return the outputs among what `values_of` returned."""
        return tuple(values[name] for name in self.output_values)

    def with_noise(
        self, feed: Feed, slack: Mapping[str, NDArray[Any]], generator: torch.Generator
    ) -> tuple[Tensor, ...]:
        """Run the program with uniform noise in the values that `slack` names, up to so much in each channel."""
        noisy = _Noisy(self.network, slack, generator)
        with torch.no_grad():
            return tensors_in(noisy.run(*feed.tensors))


class _Noisy(torch.fx.Interpreter):
    """Runs an FX program and adds noise to some of the values that it computes."""

    def __init__(
        self, module: torch.fx.GraphModule, slack: Mapping[str, NDArray[Any]], generator: torch.Generator
    ) -> None:
        super().__init__(module)
        self.slack = {name: torch.from_numpy(np.array(bound, np.float32)) for name, bound in slack.items()}
        self.generator = generator

    def run_node(self, n: torch.fx.Node) -> Any:
        result = super().run_node(n)
        # The program's own end may have the name of an output, too.
        if n.op == "output" or n.name not in self.slack or not result.is_floating_point():
            return result
        return result + self.slack[n.name] * (2 * torch.rand(result.shape, generator=self.generator) - 1)


class _Recorder(torch.fx.Interpreter):
    """Runs an FX program and keeps every tensor that it computes."""

    def __init__(self, module: torch.fx.GraphModule, off_zero: Container[str]) -> None:
        super().__init__(module)
        self.values: dict[str, Tensor] = {}
        self.off_zero = off_zero

    def run_node(self, n: torch.fx.Node) -> Any:
        result = super().run_node(n)
        if n.name in self.off_zero:
            result = torch.where(result == 0, torch.finfo(result.dtype).tiny, result)
        if isinstance(result, Tensor) and n.op != "get_attr":  # weights, which nobody asks for by this name
            self.values[n.name] = result
        return result


Translate = Callable[[torch.export.ExportedProgram], torch.export.ExportedProgram]
"""Puts operators in the place of binary layers that are not the package's."""


def capture(
    module: nn.Module,
    inputs: Sequence[int] | Feed,
    *,
    outputs: Sequence[str] = (OUTPUT,),
    batch: int | None = None,
    translate: Translate | None = None,
) -> CapturedModel:
    """Capture `module` in evaluation mode, with a free batch unless `batch` gives its size, which is faster.

    Args:
        module: maps tensors in a row to a tensor, or to a tuple of them.
        inputs: (channels, height, width) of images float32; or examples of what else it takes.
        outputs: what its answers are called in the graph.
        batch: N, for a graph that is looked at only.
        translate: done to PyTorch's program before it becomes a graph; None for nothing.

    Raises:
        ExportError: torch.export cannot trace the module, torch.onnx has no translation of an operation in it, or an
            input changes no output.
    """
    frozen = freeze(module)
    feed = inputs if isinstance(inputs, Feed) else Feed.of_images(torch.zeros(1, *inputs))
    # Two images where N is free, since torch.export takes a dimension of 1 for a constant.
    example = feed.zeros(batch or 2)
    with _quiet_exporter(), _without_collection():
        program = _program(frozen, example, module, free_batch=batch is None)
        _refuse_unused(program, feed.names, type(module).__name__)
        program = program if translate is None else translate(program)
        name_layers_of_none(program.graph)
        captured = _translated(program, module, feed.names, tuple(outputs))
    graph = captured.model.graph
    for node in graph:
        node.meta.pop("node", None)  # of the program, which would live, with all its weights, as long as the graph
    name_after_modules(graph)
    _check_ranks(graph)
    _note_unrecorded(graph, {node.name for node in captured.program.graph.nodes})
    _drop_made_up_biases(graph)
    _fold_in_pytorch(captured, example)
    pairs = (captured.input_values, captured.inputs), (captured.output_values, captured.outputs)
    name_inputs_and_outputs(graph, *(list(zip(*names, strict=True)) for names in pairs))
    return captured.copy()  # torch.onnx's own graph keeps every weight that was an input of it once


def _program(
    frozen: nn.Module, example: Tensor | Feed, module: nn.Module, *, free_batch: bool
) -> torch.export.ExportedProgram:
    """Return the program of a frozen module; errors name the `module` that it was."""
    feed = feed_of(example)
    shapes = _free_batch(frozen, feed) if free_batch else None
    where = f"{type(module).__name__} cannot be captured by torch.export"
    try:
        # torch.export prints the program so far, which is nothing that a user knows.
        with TracedData(), contextlib.redirect_stderr(io.StringIO()):
            return torch.export.export(frozen, feed.tensors, dynamic_shapes=shapes)
    except GuardOnDataDependentSymNode as error:
        raise ExportError(
            f"{where}: {place_of_error(frozen, error)}what is done next depends on values that are computed, as an if, "
            "a loop, .item() or float() of a tensor does; its forward must be free of control flow that depends on "
            f"data: write torch.where, or multiply by the tensor itself{or_a_rule(frozen, error)}"
        ) from None
    except torch._dynamo.exc.UserError as error:
        raise ExportError(
            f"{where}: {place_of_error(frozen, error)}{_first_line(error)}; its forward must take any number of "
            "images: let it read the number from a shape, as in x.view(x.size(0), -1), and not resize what it was "
            "given: torch.empty_like(x) instead of resize_as_"
        ) from None
    except Exception as error:  # tracing runs the module's own code, which may raise anything
        advice = "its forward must compute with torch's operations on tensors alone"
        reason = own_doing(module, example) or f"{failure(frozen, error)}; {advice}{or_a_rule(frozen, error)}"
        raise ExportError(f"{where}: {reason}") from error


def _refuse_unused(program: torch.export.ExportedProgram, names: Sequence[str], module: str) -> None:
    """Refuse an input that no output depends on."""
    needed, used = [program.graph.output_node()], set[torch.fx.Node]()
    while needed:
        node = needed.pop()
        needed += [each for each in node.all_input_nodes if each not in used]
        used.update(node.all_input_nodes)
    read = {node.name for node in used}
    for name, value in zip(names, program.graph_signature.user_inputs, strict=True):
        if value not in read:
            raise ExportError(
                f"{module}: no output depends on the input {name}; leave it out, and give forward a default for it"
            )


def _translated(
    program: torch.export.ExportedProgram, module: nn.Module, inputs: tuple[str, ...], outputs: tuple[str, ...]
) -> CapturedModel:
    """Return torch.onnx's translation of a program, and the program as torch.onnx decomposed it."""
    try:
        exported = torch.onnx.export(
            lightly_decomposed(program),
            (),
            dynamo=True,
            opset_version=operators.ONNX_OPSET,
            custom_translation_table=TRANSLATIONS,
            optimize=False,
            verbose=False,
        )
    except torch.onnx.OnnxExporterError as error:
        reason = _first_line(error.__cause__ or error)
        raise ExportError(
            f"{type(module).__name__} cannot be translated by torch.onnx: {_untranslated(program, reason) or reason}; "
            "write its forward with other operations"
        ) from None
    assert exported is not None
    assert exported.exported_program is not None
    return CapturedModel(exported.model, program, exported.exported_program, inputs, outputs)


def _untranslated(program: torch.export.ExportedProgram, reason: str) -> str | None:
    """Return where the operation stands that torch.onnx has no translation of, if its message names one."""
    named = re.search(r"translating node %(\w+)", reason)
    node = next((node for node in program.graph.nodes if named is not None and node.name == named[1]), None)
    return None if node is None else f"ONNX has no {place_of(node)}"


def _free_batch(module: nn.Module, feed: Feed) -> tuple[Any, ...]:
    """Return what torch.export wants to be told of the inputs: the number of examples is free."""
    count = torch.export.Dim("N")
    shapes = tuple({} if name in feed.fixed else {0: count} for name in feed.names)
    first = next(iter(inspect.signature(module.forward).parameters.values()), None)
    return (shapes,) if first is not None and first.kind is first.VAR_POSITIONAL else shapes


def _first_line(error: BaseException) -> str:
    """Return what an error of torch says first; advice to developers of torch follows."""
    return str(error).strip().partition("\n")[0]


@contextlib.contextmanager
def _without_collection() -> Iterator[None]:
    """Keep Python from looking for garbage: tracing makes many objects that stay, and looks at all again and again."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@contextlib.contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Keep the exporter from telling users about torchvision and about its own deprecated internals."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.fx")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            # torch.export copies its own tree specs in a way that it has deprecated itself.
            warnings.filterwarnings("ignore", message=".*LeafSpec.*", category=FutureWarning)
            # What a module keeps of its last run is dropped with the copy that was traced.
            warnings.filterwarnings("ignore", message=".*assigned during export.*", category=UserWarning)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


# --- tidying the captured graph -------------------------------------------------------------------------------------


def _check_ranks(graph: ir.Graph) -> None:
    for node in graph:
        x = node.inputs[0] if node.domain == operators.DOMAIN else None
        if x is not None and x.shape is not None and len(x.shape) != 4:
            raise ExportError(
                f"{node.name}: reads a tensor of {len(x.shape)} axes, wanted images (N, C, H, W); reshape it in front"
            )


_RANDOM = {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial"}


def _fold_in_pytorch(captured: CapturedModel, example: Feed) -> None:
    """Put PyTorch's own values in the place of what is computed of weights alone, such as a slope behind a sigmoid.

    Another library may round it otherwise, and a layer would no longer do to the bit what PyTorch does.
    """
    graph = captured.model.graph
    known = set(graph.initializers.values())
    computed = []
    for node in graph:
        if node.op_type not in _RANDOM and all(value is None or value in known for value in node.inputs):
            known |= set(node.outputs)
            computed += [value for value in node.outputs if UNRECORDED not in value.meta]
    if not computed:
        return
    values = captured.values_of(example)
    for value in computed:
        computed_of = values.get(origin_of(value).name)
        if computed_of is None or computed_of.dtype not in _FOLDED:
            continue
        data = computed_of.detach().numpy()
        if value.dtype == ir.DataType.from_numpy(data.dtype):
            folded = constant(graph, f"{value.name}.folded", data)
            value.replace_all_uses_with(folded, replace_graph_outputs=True)


_FOLDED = {torch.float32, torch.int64, torch.bool}


def _note_unrecorded(graph: ir.Graph, recorded: Container[str]) -> None:
    """Mark the values that torch.onnx computes on the way to PyTorch's, as for a stack or `alpha` of a sum."""
    for value in (value for node in graph for value in node.outputs):
        if value.name not in recorded and not value.is_graph_output():
            value.meta[UNRECORDED] = True


def _drop_made_up_biases(graph: ir.Graph) -> None:
    """Leave out the zeros that torch.onnx gives a convolution without bias; for Conv3d they are (O, 2) by mistake."""
    for node in graph:
        bias = node.inputs[2] if node.op_type == "Conv" and len(node.inputs) > 2 else None
        if bias is not None and UNRECORDED in bias.meta:
            node.resize_inputs(2)
