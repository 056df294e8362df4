"""Which float layers are faster in 8 bits on a machine: what it measured of them, and what follows from that."""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

from bnas_deploy.core.errors import BnasError
from bnas_deploy.core.json_records import from_json, read_json, shown, value_of, wanted
from bnas_deploy.core.layer_cost import LayerCost

FloatLayers = Literal["float", "int8", "auto"]
"""How a binary network computes what is not binary; auto: each layer as it is faster."""

CHOICES: tuple[FloatLayers, ...] = get_args(FloatLayers)
FORMAT_VERSION = 1
EXPECTED = "a table of `bnas-deploy bench-ops --float-layers FLOAT INT8 --json`"
AGAIN = "measure this network there: bnas-deploy bench-ops --float-layers FLOAT INT8 --json FILE"
FEW = 3


@dataclass(frozen=True)
class FormTime:
    """How long a part of a network takes with the layers `in_8_bits` in 8 bits and its other layers in float32.

    `times_as_fast` it is as with float layers alone, in the median of neighbouring runs, and three of four runs are at
    least `mostly` times as fast.
    """

    in_8_bits: tuple[str, ...]
    median_us: float
    times_as_fast: float
    mostly: float


@dataclass(frozen=True)
class InNetwork:
    """What a part in 8 bits does to the whole network, beside the other parts in theirs.

    `times_as_fast` the network is with it as with that part in float32, in the median of neighbouring runs, and three
    of four runs are at most `at_most` times as fast.
    """

    times_as_fast: float
    at_most: float


@dataclass(frozen=True)
class PartTimes:
    """A part of a network with float `layers`, measured by itself, with the nodes `beside` them: their operators.

    `in_network` is what its fastest form in 8 bits does there; None where that was not measured.
    """

    layers: tuple[str, ...]
    beside: tuple[str, ...]
    float_us: float
    forms: tuple[FormTime, ...]
    in_network: InNetwork | None = None

    @property
    def chosen(self) -> FormTime | None:
        """The fastest form by itself, unless the network is slower with it in three of four runs; None without."""
        return None if self.in_network is not None and self.in_network.at_most < 1 else self.fastest

    @property
    def fastest(self) -> FormTime | None:
        """The fastest form that is faster than float layers in three of four runs, and in the median; None without.

        Float layers win where it is not to be told, since they change no answer: on a busy machine neighbouring runs
        may say one thing and medians another.
        """
        faster = [form for form in self.forms if form.mostly > 1 and form.median_us < self.float_us]
        return max(faster, key=lambda form: form.times_as_fast, default=None)


@dataclass(frozen=True)
class FloatLayerTable:
    """What a machine measured of the float layers of one network.

    `machine` is what `bnas_deploy.runtime.bench.machine.Machine` says of it, `isa` names the kernels of the operator
    library and `float_isa` those of onnxruntime. `layers` are all of the network that could have 8 bits. `network_us`
    are the medians of the whole network in turns, with float layers and with the chosen ones in 8 bits; None where none
    was chosen.
    """

    machine: Mapping[str, Any]
    isa: str
    float_isa: str
    network: str
    threads: int
    batch: int
    layers: tuple[LayerCost, ...]
    parts: tuple[PartTimes, ...]
    network_us: tuple[float, float] | None = None

    @property
    def chosen(self) -> tuple[str, ...]:
        """The layers that are to be in 8 bits, in the order of the network."""
        found = {name for part in self.parts if part.chosen for name in part.chosen.in_8_bits}
        return tuple(layer.name for layer in self.layers if layer.name in found)

    def to_json(self) -> str:
        """Return the text of the file."""
        return json.dumps({"float_layers_format": FORMAT_VERSION, **asdict(self)}, indent=1) + "\n"


def read_float_layers(path: Path) -> FloatLayerTable:
    """Read what `FloatLayerTable.to_json` wrote.

    Raises:
        BnasError: the file cannot be read, is something else, or holds what cannot be.
    """
    data = read_json(path, EXPECTED)
    if not isinstance(data, Mapping) or "float_layers_format" not in data:
        other = isinstance(data, Mapping) and "latency_format" in data
        kind = "a latency table of a search" if other else "another JSON file"
        raise BnasError(f"{path}: {kind}, wanted {EXPECTED}; {AGAIN}")
    if data["float_layers_format"] != FORMAT_VERSION:
        raise BnasError(
            f"{path}: format {shown(data['float_layers_format'])}, this bnas-deploy reads {FORMAT_VERSION}; "
            "measure the device again with this version"
        )
    try:
        table: FloatLayerTable = from_json(FloatLayerTable, data, passing_over=True)
        _check_values(table)
    except ValueError as error:
        raise BnasError(f"{path}: not {EXPECTED} ({error}); measure the device again") from None
    return table


_SHOWN = {"cpu": str, "isa_flags": tuple[str, ...], "load_average": tuple[float, float, float] | None}
"""What is shown of a machine, and what it is."""


def _check_values(table: FloatLayerTable) -> None:
    """Raise ValueError where a value is of the right kind and impossible."""
    for name, kind in _SHOWN.items():
        value_of(kind, table.machine.get(name), f"machine.{name}")
    for name in ("threads", "batch"):
        wanted(getattr(table, name) > 0, getattr(table, name), name, "at least 1")
    if table.network_us is not None:
        wanted(min(table.network_us) > 0, table.network_us, "network_us", "more than 0 each")
    names = [layer.name for layer in table.layers]
    measured = [name for part in table.parts for name in part.layers]
    wanted(sorted(measured) == sorted(names), measured, "parts: layers", f"each of {json.dumps(names)} once")
    for i, part in enumerate(table.parts):
        wanted(part.float_us > 0, part.float_us, f"parts[{i}].float_us", "more than 0")
        wanted(len(part.forms) > 0, part.forms, f"parts[{i}].forms", "at least one")
        for name, value in asdict(part.in_network).items() if part.in_network else ():
            wanted(value > 0, value, f"parts[{i}].in_network.{name}", "more than 0")
        for form in part.forms:
            inside = len(form.in_8_bits) > 0 and set(form.in_8_bits) <= set(part.layers)
            wanted(inside, form.in_8_bits, f"parts[{i}].forms: in_8_bits", f"some of {json.dumps(part.layers)}")
            for name in ("median_us", "times_as_fast", "mostly"):
                wanted(getattr(form, name) > 0, getattr(form, name), f"parts[{i}].forms: {name}", "more than 0")


def network_name(network: Mapping[str, Any]) -> str:
    """Return what a manifest, or a description, calls its network."""
    return str(network.get("name", "a network"))


def check_network(table: FloatLayerTable, path: Path, network: str) -> None:
    """Refuse the table of another network than the one of this name.

    Raises:
        BnasError: it is of another.
    """
    if table.network != network:
        raise BnasError(f"{path}: measured {table.network}, and this is {network}; {AGAIN}")


def check_layers(table: FloatLayerTable, path: Path, layers: Sequence[LayerCost]) -> None:
    """Refuse a table that was not measured with these float layers.

    Raises:
        BnasError: a layer is not in it, or has another shape.
    """
    measured = {layer.name: layer for layer in table.layers}
    if missing := [layer.name for layer in layers if layer.name not in measured]:
        raise BnasError(f"{path}: has no times of {_few(missing)}, only of {_few(list(measured))}; {AGAIN}")
    for layer in layers:
        other = replace(measured[layer.name], weight_bits=layer.weight_bits)
        if other != layer:
            raise BnasError(
                f"{path}: measured {layer.name} as {_shape(other)}, and here it is {_shape(layer)}; {AGAIN}"
            )


def _few(names: Collection[str]) -> str:
    return ", ".join(list(names)[:FEW]) + (f" and {len(names) - FEW} others" if len(names) > FEW else "") or "nothing"


def _shape(layer: LayerCost) -> str:
    (channels, *size), kernel = layer.input, layer.kernel
    image, window = ("x".join(map(str, pair)) for pair in (size, kernel))
    return f"{image} {channels}->{layer.output[0]} k{window} s{layer.stride[0]}"
