"""Which float layers are put into 8 bits: those that are faster so, on this machine or on the one of a table."""

from collections.abc import Sequence
from pathlib import Path

import onnx

from bnas_deploy.core import bundle as files
from bnas_deploy.core.bundle import Bundle
from bnas_deploy.core.float_layers import (
    FloatLayerTable,
    check_layers,
    check_network,
    network_name,
    read_float_layers,
)
from bnas_deploy.core.layer_cost import LayerCost
from bnas_deploy.export.given import Progress
from bnas_deploy.export.inputs import Feed
from bnas_deploy.export.quantization import quantize_layers
from bnas_deploy.runtime.bench.float_layers import measure_float_layers
from bnas_deploy.runtime.onnx_file.forms import Forms

MIN_SECONDS = 4.0
"""How long the layers are measured, and again the network: as long as `bnas-deploy bench-ops` takes by default."""


def choose_layers(
    bundle: Bundle, feed: Feed, given: Path | None, progress: Progress, model: onnx.ModelProto, names: Sequence[str]
) -> tuple[str, ...]:
    """Return which of the float layers `names` are faster in 8 bits, and keep the table that says so in the bundle.

    Args:
        bundle: with the verified model of float layers.
        feed: images to calibrate with; the first one is what is measured.
        given: the table of a device; None to measure here, with one thread.
        progress: is told what is being done.
        model: that of the bundle, before layers are quantised.
        names: the layers that could be in 8 bits.

    Raises:
        BnasError: the table cannot be read, or does not fit the network.
    """
    layers = [layer for layer in bundle.manifest.layers if layer.name in names]
    if given is None:
        table = _measured(bundle, model, feed, layers, progress)
    else:
        table = read_float_layers(given)
        check_network(table, given, network_name(bundle.manifest.network))
        check_layers(table, given, layers)
    bundle.file(files.FLOAT_LAYERS).write_text(table.to_json(), encoding="utf-8")
    return tuple(name for name in table.chosen if name in names)


def _measured(
    bundle: Bundle, model: onnx.ModelProto, feed: Feed, layers: Sequence[LayerCost], progress: Progress
) -> FloatLayerTable:
    names = tuple(layer.name for layer in layers)
    floats = bundle.file(files.MODEL).read_bytes()
    int8 = quantize_layers(model, feed.arrays(), names).SerializeToString() if names else floats
    return measure_float_layers(
        Forms(floats, int8, names),
        network_name(bundle.manifest.network),
        layers,
        feed[:1].arrays(),
        threads=1,
        batch=1,
        min_seconds=MIN_SECONDS,
        on_step=progress,
    )
