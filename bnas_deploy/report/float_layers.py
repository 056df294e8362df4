"""Which float layers are in 8 bits, and what was measured of them, as text."""

from collections.abc import Sequence

from bnas_deploy.core.bundle import FLOAT_LAYERS, Bundle
from bnas_deploy.core.float_layers import FloatLayerTable, PartTimes, read_float_layers


def of_bundle(bundle: Bundle) -> list[str]:
    """Return the lines on the table that a bundle's float layers were chosen by; none, where all or none have 8 bits.

    Raises:
        BnasError: the table cannot be read.
    """
    if FLOAT_LAYERS not in bundle.manifest.files:
        return []
    return describe(read_float_layers(bundle.file(FLOAT_LAYERS)))


def describe(table: FloatLayerTable) -> list[str]:
    """Return a line on what was measured where, and one for each part of the network; of what was chosen, how fast."""
    lines = [f"measured {source(table)}", *map(_part, table.parts)]
    if not table.layers:
        return [*lines, "no float layer has channels or a kernel to gain from 8 bits: all stay in float32"]
    if not table.chosen:
        return [*lines, "nothing is faster in 8 bits: all float layers stay in float32"]
    if table.network_us is None:
        return lines
    floats, mixed = table.network_us
    whole = f"the whole network, batch {table.batch}: {mixed / 1000:,.3f} ms, {floats / 1000:,.3f} with float layers"
    return [*lines, f"{whole}: {floats / mixed:.2f} times as fast"]


def source(table: FloatLayerTable) -> str:
    """Name the machine, its kernels and versions, and when it was."""
    machine = table.machine
    threads = "1 thread" if table.threads == 1 else f"{table.threads} threads"
    load = machine.get("load_average")
    busy = f", load {load[0]:.1f} before it" if load else ""
    return (
        f"by {machine['cpu']}, {threads}, kernels {table.isa}, of onnxruntime {machine.get('onnxruntime')} "
        f"{table.float_isa}{_vnni(table)}, {machine.get('date')}{busy}"
    )


def _vnni(table: FloatLayerTable) -> str:
    """Name what multiplies 8-bit numbers, where the processor has that."""
    found = [flag for flag in ("avx512_vnni", "avx_vnni", "asimddp", "i8mm") if flag in table.machine["isa_flags"]]
    return f" with {' and '.join(found)}" if found else ""


def _part(part: PartTimes) -> str:
    """Say what was chosen of a part, and the times of float layers and of the best form in 8 bits."""
    beside = f" (with {', '.join(part.beside)})" if part.beside else ""
    chosen = part.chosen
    best = part.fastest or max(part.forms, key=lambda form: form.times_as_fast)
    times = f"float {part.float_us:,.1f} us, int8 {best.median_us:,.1f} us{_of(best.in_8_bits, part.layers)}{beside}"
    if chosen is None:
        return f"{', '.join(part.layers)}: float32; {times}, {_why_not(part)}"
    kept = [name for name in part.layers if name not in chosen.in_8_bits]
    floats = f", {', '.join(kept)}: float32" if kept else ""
    return f"{', '.join(chosen.in_8_bits)}: int8{floats}; {times}, {chosen.times_as_fast:.2f} times as fast"


def _why_not(part: PartTimes) -> str:
    """Say why no form of a part is chosen."""
    if part.fastest is None or part.in_network is None:
        return "not faster in the median and in three of four runs"
    network = f"the network {part.in_network.times_as_fast:.2f} times, below 1 in three of four runs"
    return f"{part.fastest.times_as_fast:.2f} times as fast by itself, but {network}"


def _of(in_8_bits: Sequence[str], layers: Sequence[str]) -> str:
    """Name the layers that a time in 8 bits is of, where these are not all."""
    return f" with {', '.join(in_8_bits)} alone" if len(in_8_bits) < len(layers) else ""
