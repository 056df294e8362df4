"""What is in a file, as text."""

import json
from collections.abc import Sequence
from pathlib import Path

from bnas_deploy.core.bundle import MANIFEST, read_bundle
from bnas_deploy.core.errors import BnasError
from bnas_deploy.core.files import open_regular
from bnas_deploy.core.genotype import GENOTYPES, Genotype, read_genotype
from bnas_deploy.core.layer_cost import LayerCost, total
from bnas_deploy.core.names import did_you_mean, known_name


def inspect(path: Path) -> str:
    """Describe a checkpoint, a bundle or a genotype, which may be that of a search or a published one by its name.

    Raises:
        BnasError: the file is none of them.
    """
    try:
        return _inspect(path)
    except OSError as error:  # a name that is too long, no permission
        raise BnasError(f"{path}: cannot be read: {error.strerror}; check the name and the permissions") from None


def _inspect(path: Path) -> str:
    if path.is_dir():
        found = path / "genotype.json"  # of a search, as `draw` takes it
        is_search = found.is_file() and not (path / MANIFEST).exists()
        return _genotype(read_genotype(str(found))) if is_search else _bundle(path)
    if not path.exists():
        if known_name(str(path), GENOTYPES):
            return _genotype(read_genotype(str(path)))
        raise BnasError(
            f"{path}: no such file; expected a checkpoint (.safetensors), a bundle (folder), a genotype (.json) or a "
            f"published one ({', '.join(GENOTYPES)}){did_you_mean(str(path), GENOTYPES)}"
        )
    return _genotype(read_genotype(str(path))) if _is_json(path) else _checkpoint(path)


def _is_json(path: Path) -> bool:
    """Tell a genotype from a checkpoint by its first byte: a checkpoint begins with the length of its header."""
    with open_regular(path) as file:
        return path.suffix == ".json" or file.read(1) == b"{"


def _bundle(path: Path) -> str:
    manifest = read_bundle(path).manifest
    size = "x".join(map(str, manifest.input_shape))
    lines = [
        f"bundle of {manifest.network.get('name', 'a network')}, written by bnas-deploy {manifest.bnas_deploy}",
        f"input {manifest.input_name}: N x {size} float32",
        f"output {manifest.output_name}: N x {len(manifest.labels)} float32",
        *(f"{name}: {record.bytes:,} bytes" for name, record in manifest.files.items()),
        *_metrics(manifest.metrics),
    ]
    return "\n".join(lines) + "\n\n" + layer_table(manifest.layers)


def _checkpoint(path: Path) -> str:
    from bnas_deploy.search.models.layer_costs import layer_costs
    from bnas_deploy.search.training.checkpoint import load_checkpoint

    checkpoint = load_checkpoint(path)
    config = checkpoint.network
    lines = [
        f"checkpoint of {config.name}: {config.summary}, {config.classes} classes, "
        f"{'float twin' if config.is_float else 'binary'}",
        f"images {config.in_channels} x {config.image_size[0]} x {config.image_size[1]}, data {checkpoint.data}",
        *config.describe(),
        *_metrics(checkpoint.metrics),
        "",
    ]
    return "\n".join([*lines, layer_table(layer_costs(config))])


def _metrics(metrics: object) -> list[str]:
    return [f"metrics: {json.dumps(metrics)}"] if metrics else []


def _genotype(genotype: Genotype) -> str:
    return "\n".join(genotype.describe()) + "\n"


def layer_table(layers: Sequence[LayerCost]) -> str:
    """Return a line per layer, and the totals."""
    width = max(map(len, ["layer", *(layer.name for layer in layers)]))
    header = (
        f"{'layer':<{width}}  {'bits':>4}  {'input':>12}  {'output':>12}  {'kernel':>14}  {'weights':>11}  {'MMAC':>8}"
    )
    rows = [
        f"{layer.name:<{width}}  {layer.weight_bits:>4}  {_shape(layer.input):>12}  {_shape(layer.output):>12}  "
        f"{_geometry(layer):>14}  {layer.weights:>11,}  {layer.macs / 1e6:>8.2f}"
        for layer in layers
    ]
    costs = total(layers)
    totals = [
        f"1-bit weights {costs.binary_weights:,}, {costs.binary_macs / 1e6:,.1f} MMAC",
        *([f"8-bit weights {costs.int8_weights:,}, {costs.int8_macs / 1e6:,.1f} MMAC"] if costs.int8_weights else []),
        f"32-bit weights {costs.float_weights:,}, {costs.float_macs / 1e6:,.1f} MMAC",
        f"weights take {costs.weight_bytes / 1000:,.1f} kB, in float32 {costs.float_twin_bytes / 1000:,.1f} kB "
        f"({costs.float_twin_bytes / max(1, costs.weight_bytes):.1f} times as much)",
    ]
    return "\n".join([header, *rows, "", *totals]) + "\n"


def _shape(shape: tuple[int, int, int]) -> str:
    return "x".join(map(str, shape))


def _geometry(layer: LayerCost) -> str:
    height, width = layer.kernel
    text = f"{height}x{width} s{layer.stride[0]}"
    text += f" d{layer.dilation[0]}" if layer.dilation != (1, 1) else ""
    return text + (f" g{layer.groups}" if layer.groups > 1 else "")
