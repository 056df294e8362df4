"""Measurements from start to end: a machine, what runs on it, and the report that comes of it."""

from collections.abc import Callable
from dataclasses import asdict, replace

from bnas_deploy.core.bundle import MODEL, Bundle
from bnas_deploy.core.counts import counted
from bnas_deploy.core.errors import BnasError
from bnas_deploy.core.float_layers import FloatLayerTable, network_name
from bnas_deploy.core.host import usable_cpus
from bnas_deploy.core.latency_table import LatencyTable
from bnas_deploy.core.layer_cost import LayerCost
from bnas_deploy.report.saved import Report, digest_of, measured_network, size_text
from bnas_deploy.report.text import answer, twin_answer
from bnas_deploy.runtime.bench import layer_problems, layers
from bnas_deploy.runtime.bench.answers import check_answers, check_twins
from bnas_deploy.runtime.bench.engines import LeftOut, engines_for
from bnas_deploy.runtime.bench.float_layers import measure_float_layers
from bnas_deploy.runtime.bench.machine import after_measuring, check_threads, native_isa, read_machine
from bnas_deploy.runtime.bench.networks import measure_bundle as measure_networks
from bnas_deploy.runtime.bench.operations import measure_workloads
from bnas_deploy.runtime.bench.records import Record
from bnas_deploy.runtime.examples import feeds_of, read_examples
from bnas_deploy.runtime.onnx_file.forms import Forms
from bnas_deploy.search.models.family import ModelConfig
from bnas_deploy.search.models.registry import candidate_workloads

Say = Callable[[str], object]
"""Is told what is being done."""


def measure_bundle(
    bundle: Bundle,
    *,
    threads: tuple[int, ...] | None,
    batches: tuple[int, ...],
    min_seconds: float,
    on_step: Say,
    show: Say,
) -> Report:
    """Check the answers of a bundle's network, and measure it against its twins.

    Args:
        bundle: the network and its twins.
        threads: numbers of threads; None: 1, and all processors.
        batches: numbers of images per run.
        min_seconds: for each number of threads and of images; the engines share it.
        on_step: is told what is being done.
        show: is told what the checks found, as text for people.

    Raises:
        BundleError: the bundle answers otherwise than PyTorch did, or lacks what is needed.
        BnasError: there are fewer processors than threads.
    """
    machine = read_machine()  # before measuring, so that the load is that of others
    counts = check_threads(threads or tuple(dict.fromkeys((1, usable_cpus()))))
    on_step("checking the answer")
    show(answer(check_answers(bundle, counts)))
    engines, left_out = engines_for(bundle)
    for check in check_twins(bundle, engines):
        show(twin_answer(check))
        if not check.sensible:
            engines = [engine for engine in engines if engine.name != check.engine]
            left_out.append(LeftOut(check.engine, None, "it answers otherwise than the float twin"))
    records = measure_networks(
        bundle, engines, threads=counts, batches=batches, min_seconds=min_seconds, on_step=on_step
    )
    return Report(
        after_measuring(machine),
        tuple(records),
        tuple(left_out),
        _network_of(bundle),
        digest_of(bundle.manifest.network),
    )


def _network_of(bundle: Bundle) -> str:
    """Name what was measured, so that reports are divided by one another only where that is the same."""
    name = bundle.manifest.network.get("name", bundle.path.resolve().name)
    return measured_network(name, size_text(bundle.manifest), bundle.manifest.layers)


def measure_single_layers(
    *, threads: tuple[int, ...] | None, batches: tuple[int, ...], min_seconds: float, on_step: Say
) -> Report:
    """Measure the fixed list of binary convolutions against other engines; `threads` None: 1, and 2.

    Other arguments are as for `measure_bundle`, but `min_seconds` is for each layer.
    """
    machine = read_machine()  # before measuring, so that the load is that of others
    counts = check_threads(threads or tuple(dict.fromkeys((1, min(2, usable_cpus())))))
    records: list[Record] = []
    left_out: dict[LeftOut, None] = {}
    for batch in batches:
        on_step(f"batch {batch}")
        measured, missing = layers.measure_layers(
            layer_problems.LAYERS, threads=counts, batch=batch, min_seconds=min_seconds, on_step=on_step
        )
        records += measured
        left_out |= dict.fromkeys(missing)
    return Report(after_measuring(machine), tuple(records), tuple(left_out))


def measure_layers_in_8_bits(
    floats: Bundle, int8: Bundle, *, threads: int, batch: int, min_seconds: float, on_step: Say
) -> FloatLayerTable:
    """Measure the layers that are float in one bundle and in 8 bits in another one of the same network.

    Raises:
        BnasError: they are no such pair, or there are fewer processors than threads.
    """
    check_threads((threads,))
    layers = _layers_in_8_bits(floats, int8)
    names = tuple(layer.name for layer in layers)
    forms = Forms(floats.file(MODEL).read_bytes(), int8.file(MODEL).read_bytes(), names)
    feeds = feeds_of(floats, read_examples(floats).inputs, batch)
    name = network_name(floats.manifest.network)
    return measure_float_layers(
        forms, name, layers, feeds, threads=threads, batch=batch, min_seconds=min_seconds, on_step=on_step
    )


def _layers_in_8_bits(floats: Bundle, int8: Bundle) -> list[LayerCost]:
    """Return the layers, as they are in float32.

    Raises:
        BnasError: the bundles are not the same network with float layers and with some of them in 8 bits.
    """
    if floats.manifest.quantization is not None:
        raise BnasError(
            f"{floats.path}: has layers in 8 bits, wanted float ones; export it with --float-layers float, and give it "
            "first"
        )
    if int8.manifest.quantization is None:
        raise BnasError(f"{int8.path}: has no layers in 8 bits; export it with --float-layers int8, and give it second")
    named = [network_name(each.manifest.network) for each in (floats, int8)]
    as_floats = [replace(layer, weight_bits=32) if layer.weight_bits == 8 else layer for layer in int8.manifest.layers]
    if named[0] != named[1] or list(floats.manifest.layers) != as_floats:
        raise BnasError(
            f"{int8.path}: {named[1]}, {counted(len(as_floats), 'layer')}; wanted the same as in {floats.path}, "
            f"{named[0]}, {counted(len(floats.manifest.layers), 'layer')}; export both of one checkpoint"
        )
    return [replace(layer, weight_bits=32) for layer in int8.manifest.in_8_bits]


def measure_operations(
    config: ModelConfig, *, threads: int, batch: int, min_seconds: float, on_step: Say
) -> LatencyTable:
    """Measure every workload that a network of the size of `config` can have, in at least `min_seconds` together."""
    check_threads((threads,))
    machine = read_machine()  # before measuring, so that the load is that of others
    workloads = candidate_workloads(config)
    times = measure_workloads(workloads, threads=threads, batch=batch, min_seconds=min_seconds, on_step=on_step)
    return LatencyTable(asdict(machine), native_isa(), config.to_json(), threads, batch, tuple(times))
