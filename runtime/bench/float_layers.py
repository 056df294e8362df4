"""How long the float layers of a network take in float32 and in 8 bits, where they are: between their neighbours.

What 8 bits cost lies around a layer as much as in it: its input is quantised, its result is made float again, and
onnxruntime changes the layout of channels, which float convolutions and pools beside one another share. So parts of the
network are measured, not layers:

    part = float layers, and all nodes of one input that lead to them, lie between them, or read what they give

Binary convolutions, sums and concatenations are where parts end: floats pass there in the standard's layout in both
forms. Layers of one part share what is quantised between them, so that every choice among them is measured, or, where
there are more than MOST_TOGETHER of them, each alone and all. Parts do not touch, so what is the fastest of each is the
fastest of all. All forms of all parts run in turns, each twice, and the second run counts: it finds its weights in the
cache, which a network may not. That is to the advantage of float weights, which are four times as large.

A part alone has one reader of what it gives. In the network there may be several, for each of which onnxruntime makes
floats of bytes again. So of the parts that gain least, the network is measured with and without their 8 bits as well.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain, combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bnas_deploy.core.counts import counted
from bnas_deploy.core.files import temporary_folder
from bnas_deploy.core.float_layers import FloatLayerTable, FormTime, InNetwork, PartTimes
from bnas_deploy.core.layer_cost import LayerCost
from bnas_deploy.runtime.bench.engines import OrtRunner
from bnas_deploy.runtime.bench.machine import cpu_flags, native_isa, read_machine, vector_isa
from bnas_deploy.runtime.bench.operations import samples_in_turns
from bnas_deploy.runtime.bench.samples import Column
from bnas_deploy.runtime.onnx_file.forms import Forms, Placed
from bnas_deploy.runtime.onnx_file.reader import is_binary_convolution

MOST_TOGETHER = 3
MOST_DOUBTED = 3

Feeds = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Part:
    """Layers that are measured together: with the nodes around them, from what these read to what others read."""

    layers: tuple[str, ...]
    beside: tuple[str, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    def choices(self) -> list[tuple[str, ...]]:
        """Return which of the layers are in 8 bits, in each form that is measured; in the first one none is."""
        counts = range(len(self.layers) + 1) if len(self.layers) <= MOST_TOGETHER else (0, 1, len(self.layers))
        return list(chain.from_iterable(combinations(self.layers, count) for count in counts))


def parts_of(forms: Forms) -> list[Part]:
    """Return the parts of a network that have layers which could be in 8 bits, in running order."""
    nodes = forms.nodes(())
    groups = _connected(nodes, forms)
    found = [group for group in groups if any(node.name in forms.layers for node in group)]
    return [_part(group, nodes, forms) for group in found]


def _part(group: Sequence[Placed], nodes: Sequence[Placed], forms: Forms) -> Part:
    made = [output for node in group for output in node.outputs]
    others = (node for node in nodes if node.outputs[0] not in made)
    read = {name for node in others for name in node.inputs} | set(forms.outputs)
    inputs = dict.fromkeys(name for node in group for name in _data(node, forms) if name not in made)
    return Part(
        tuple(node.name for node in group if node.name in forms.layers),
        tuple(node.op_type for node in group if node.name not in forms.layers),
        tuple(inputs),
        tuple(name for name in made if name in read),
    )


def _data(node: Placed, forms: Forms) -> list[str]:
    """Return what a node reads that is no constant."""
    return list(dict.fromkeys(name for name in node.inputs if name and name not in forms.constants))


def _connected(nodes: Sequence[Placed], forms: Forms) -> list[list[Placed]]:
    """Return the groups of standard nodes of one input that read one another, and of layers that read the same."""
    makers: dict[str, list[Placed]] = {}
    layers_of: dict[str, list[Placed]] = {}
    groups: list[list[Placed]] = []
    for node in nodes:
        data = _data(node, forms)
        if len(data) != 1 or is_binary_convolution(node.op_type):
            continue
        group = makers.get(data[0]) or (layers_of.get(data[0]) if node.name in forms.layers else None)
        if group is None:
            group = []
            groups.append(group)
        if node.name in forms.layers:
            layers_of[data[0]] = group
        group.append(node)
        makers |= dict.fromkeys(node.outputs, group)
    return groups


def measure_float_layers(
    forms: Forms,
    network: str,
    layers: Sequence[LayerCost],
    feeds: Feeds,
    *,
    threads: int,
    batch: int,
    min_seconds: float,
    on_step: Callable[[str], object] = lambda step: None,
) -> FloatLayerTable:
    """Measure every form of every part here, and the network with the layers that are then chosen.

    Args:
        forms: the network.
        network: its name.
        layers: of `forms`.
        feeds: what to run it on, by the names of its inputs: of a `batch` of images.
        threads: threads that share the work of one operator.
        batch: images per run.
        min_seconds: how long to measure the parts together, and again the network, at least.
        on_step: is told what is being done, for people who wait.

    Raises:
        RuntimeLibraryError: the operator library cannot be used.
    """
    machine = read_machine()  # before measuring, so that the load is that of others
    if not layers:
        return FloatLayerTable(asdict(machine), native_isa(), vector_isa(cpu_flags()), network, threads, batch, (), ())
    on_step(f"measuring {counted(len(layers), 'float layer')} in float32 and in 8 bits, in turns")
    effort: dict[str, Any] = {"threads": threads, "min_seconds": min_seconds}
    parts = measure_parts(forms, feeds, **effort)
    table = FloatLayerTable(
        asdict(machine), native_isa(), vector_isa(cpu_flags()), network, threads, batch, tuple(layers), parts
    )
    if not table.chosen:
        return table
    on_step("measuring the network with the layers that are faster in 8 bits")
    table = replace(table, parts=measure_in_network(forms, feeds, parts, **effort))
    if not table.chosen:
        return table
    return replace(table, network_us=measure_network(forms, feeds, table.chosen, **effort))


def measure_parts(forms: Forms, feeds: Feeds, *, threads: int, min_seconds: float) -> tuple[PartTimes, ...]:
    """Measure every form of every part, in turns."""
    parts = parts_of(forms)
    with temporary_folder() as folder:
        values = _values(forms, feeds, {name for part in parts for name in part.inputs}, folder)
        models = [(part, choice) for part in parts for choice in part.choices()]
        runners = [_open(forms, part, choice, values, threads, folder) for part, choice in models]
    samples = samples_in_turns(runners, threads, min_seconds)
    columns = {model: samples.of(i) for i, model in enumerate(models)}
    return tuple(_times(part, [columns[part, choice] for choice in part.choices()]) for part in parts)


def measure_in_network(
    forms: Forms, feeds: Feeds, parts: Sequence[PartTimes], *, threads: int, min_seconds: float
) -> tuple[PartTimes, ...]:
    """Measure the network with all chosen forms, and without each of those that gain least by themselves, in turns."""
    chosen = {part.layers: part.chosen for part in parts if part.chosen}
    doubted = sorted(chosen, key=lambda layers: chosen[layers].times_as_fast)[:MOST_DOUBTED]
    everything = {name for form in chosen.values() for name in form.in_8_bits}
    choices = [everything, *(everything - {*chosen[layers].in_8_bits} for layers in doubted)]
    every, *without = _network_samples(forms, feeds, choices, threads, min_seconds)
    found = {layers: _in_network(one, every) for layers, one in zip(doubted, without, strict=True)}
    return tuple(replace(part, in_network=found.get(part.layers)) for part in parts)


def measure_network(
    forms: Forms, feeds: Feeds, in_8_bits: Collection[str], *, threads: int, min_seconds: float
) -> tuple[float, float]:
    """Return the median microseconds of the network with float layers, and with some in 8 bits, in turns."""
    columns = _network_samples(forms, feeds, ((), in_8_bits), threads, min_seconds)
    floats, mixed = (float(np.median(column.kept_ns())) / 1000 for column in columns)
    return floats, mixed


def _network_samples(
    forms: Forms, feeds: Feeds, choices: Iterable[Collection[str]], threads: int, min_seconds: float
) -> list[Column]:
    """Run the network in turns, with each choice of layers in 8 bits."""
    with temporary_folder() as folder:
        path = folder / "network.onnx"
        runners = []
        for layers in choices:
            path.write_bytes(forms.model(forms.nodes(layers), feeds, forms.outputs))
            runners.append(OrtRunner(path, feeds, threads=threads, library=True))
    samples = samples_in_turns(runners, threads, min_seconds)
    return [samples.of(i) for i in range(len(runners))]


def _values(forms: Forms, feeds: Feeds, names: Collection[str], folder: Path) -> dict[str, NDArray[Any]]:
    """Compute the values that parts read, as the network with float layers makes them."""
    computed = sorted(set(names) - feeds.keys())
    path = folder / "values.onnx"
    path.write_bytes(forms.model(forms.nodes(()), feeds, computed or forms.outputs))
    outputs = OrtRunner(path, feeds, threads=1, library=True).outputs
    return {**feeds, **dict(zip(computed, outputs, strict=False))}


def _open(forms: Forms, part: Part, in_8_bits: tuple[str, ...], values: Feeds, threads: int, folder: Path) -> OrtRunner:
    feeds = {name: values[name] for name in part.inputs}
    outputs = [forms.rounded(name, in_8_bits) for name in part.outputs]
    path = folder / "part.onnx"
    path.write_bytes(forms.model(forms.nodes(in_8_bits), feeds, outputs))
    return OrtRunner(path, feeds, threads=threads, library=True)


def _times(part: Part, columns: Sequence[Column]) -> PartTimes:
    floats, *others = columns
    forms = tuple(_form(choice, floats, own) for choice, own in zip(part.choices()[1:], others, strict=True))
    return PartTimes(part.layers, part.beside, float(np.median(floats.kept_ns())) / 1000, forms)


def _form(in_8_bits: tuple[str, ...], floats: Column, own: Column) -> FormTime:
    quartile, median = np.percentile(_ratios(floats, own), (25, 50)).tolist()
    return FormTime(in_8_bits, float(np.median(own.kept_ns())) / 1000, median, quartile)


def _in_network(without: Column, every: Column) -> InNetwork:
    median, quartile = np.percentile(_ratios(without, every), (50, 75)).tolist()
    return InNetwork(median, quartile)


def _ratios(other: Column, own: Column) -> NDArray[np.float64]:
    """Return how many times as fast a call is as another one, round by round, where neither was preempted."""
    kept = own.undisturbed(other)
    ratios: NDArray[np.float64] = other.ns / own.ns
    return ratios if kept is None else ratios[kept]
