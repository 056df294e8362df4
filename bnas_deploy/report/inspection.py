"""What is in a file, or behind the name of a network, and how papers count it: as text or as JSON."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bnas_deploy.core.bundle import FLOAT_TWIN, MANIFEST, MODEL, Manifest, read_bundle
from bnas_deploy.core.counting.energy import energy_pj
from bnas_deploy.core.counting.published import PUBLISHED, RATIOS, Printed
from bnas_deploy.core.counting.rules import DEFAULT_RULE, RULES, Network, Rule
from bnas_deploy.core.counts import counted
from bnas_deploy.core.errors import BnasError
from bnas_deploy.core.files import open_regular
from bnas_deploy.core.genotype import GENOTYPES, Genotype, read_genotype
from bnas_deploy.core.layer_cost import LayerCost, total
from bnas_deploy.core.names import did_you_mean, known_name
from bnas_deploy.report import float_layers
from bnas_deploy.report.counting import Counted, Measured, counted_record, counted_text
from bnas_deploy.report.figures import millions
from bnas_deploy.report.saved import Report, digest_of, measured_network, read_report, size_text
from bnas_deploy.report.summary import Summary
from bnas_deploy.runtime.bench.engines import BASELINE

if TYPE_CHECKING:
    from bnas_deploy.search.models.family import ModelConfig


@dataclass(frozen=True)
class Question:
    """How to count, and what with.

    Attributes:
        rules: of papers; none for the one of the network's own paper.
        network: name of a network that gives a genotype its size.
        against: cells whose float network is compared with, a genotype by name or file; None for the network's own.
        report: of `bnas-deploy bench --json`, of this network.
        energy: whether to show the energy of arithmetic.
    """

    rules: tuple[Rule, ...] = ()
    network: str | None = None
    against: str | None = None
    report: Path | None = None
    energy: bool = False


@dataclass(frozen=True)
class Subject:
    """A network that was found: in words, and its layers.

    Attributes:
        name: of the network.
        measured_as: its name in reports.
        settings: what reports tell it from others of that name by.
        heading: lines that say what it is.
        network: its layers.
        rule: of its own paper.
        config: None for a bundle, which has none.
        files: bytes of the binary file and of the float one, where there are such files.
    """

    name: str
    measured_as: str
    settings: str
    heading: tuple[str, ...]
    network: Network
    rule: Rule
    config: "ModelConfig | None" = None
    files: tuple[int, int] | None = None


def inspect(path: Path, question: Question = Question()) -> str:
    """Describe a checkpoint, a bundle, a genotype or a network by its name, and count it.

    A genotype may be that of a search, or a published one by its name; alone it has no size, and is not counted.

    Raises:
        BnasError: the file is none of them, or cannot be counted as asked.
    """
    found = _found(path, question)
    if isinstance(found, Genotype):
        return "\n".join(found.describe()) + "\n"
    return "\n".join(_text(subject, path, question) for subject in found)


def inspect_json(path: Path, question: Question = Question()) -> str:
    """Return every figure of `inspect`, unrounded, as JSON: a list `networks`, one for each form of a network.

    Raises:
        BnasError: the file is none of them, or cannot be counted as asked.
    """
    found = _found(path, question)
    if isinstance(found, Genotype):
        raise _no_size(path)
    return json.dumps({"networks": [_record(subject, path, question) for subject in found]}, indent=2) + "\n"


def _text(subject: Subject, path: Path, question: Question) -> str:
    layers = layer_table(subject.network, energy=question.energy)
    text = "\n".join(subject.heading) + "\n\n" + layers
    found = _counted(subject, path, question)
    if not subject.network.is_binary:
        return text
    other = f"Compared with the float network of the cells {question.against}.\n" if question.against else ""
    return f"{text}\n{other}{counted_text(found)}"


def _record(subject: Subject, path: Path, question: Question) -> dict[str, Any]:
    return {"name": subject.name, **counted_record(_counted(subject, path, question))}


# --- what there is --------------------------------------------------------------------------------------------------


def _found(path: Path, question: Question) -> Genotype | list[Subject]:
    try:
        return _read(path, question)
    except OSError as error:  # a name that is too long, no permission
        raise BnasError(f"{path}: cannot be read: {error.strerror}; check the name and the permissions") from None


def _read(path: Path, question: Question) -> Genotype | list[Subject]:
    if path.is_dir():
        found = path / "genotype.json"  # of a search, as `draw` takes it
        is_search = found.is_file() and not (path / MANIFEST).exists()
        return _cells(found, path, question) if is_search else [_bundle(path, question)]
    if not path.exists():
        return _named(path, question)
    return _cells(path, path, question) if _is_json(path) else [_checkpoint(path, question)]


def _is_json(path: Path) -> bool:
    """Tell a genotype from a checkpoint by its first byte: a checkpoint begins with the length of its header."""
    with open_regular(path) as file:
        return path.suffix == ".json" or file.read(1) == b"{"


def _named(path: Path, question: Question) -> Genotype | list[Subject]:
    """Return the published genotype or network of a name."""
    from bnas_deploy.search.models.registry import configs_named, network_names

    if known_name(str(path), GENOTYPES):
        return _cells(path, path, question)
    if configs := configs_named(str(path)):
        _refuse_network(path, question)
        return [_network(config) for config in configs]
    near = did_you_mean(str(path), [*GENOTYPES, *network_names()])
    raise BnasError(
        f"{path}: no such file; expected a checkpoint (.safetensors), a bundle (folder), a genotype (.json), a "
        f"published one ({', '.join(GENOTYPES)}) or a network that `bnas-deploy networks` lists{near}"
    )


def _cells(file: Path, path: Path, question: Question) -> Genotype | list[Subject]:
    """Return a genotype, or the network of the asked size that it makes."""
    genotype = read_genotype(str(file))
    if question.network is not None:
        from bnas_deploy.search.models.registry import configure

        return [_network(configure(question.network, options={"genotype": genotype}))]
    if question != Question():
        raise _no_size(path)
    return genotype


def _no_size(path: Path) -> BnasError:
    return BnasError(
        f"{path}: a genotype alone has no size, so nothing can be counted; give it one, such as --network BNAS-A"
    )


def _refuse_network(path: Path, question: Question) -> None:
    if question.network is not None:
        raise BnasError(f"{path}: --network gives a genotype its size, and this has one of its own; leave it out")


def _bundle(path: Path, question: Question) -> Subject:
    bundle = read_bundle(path)
    manifest = bundle.manifest
    _refuse_network(path, question)
    heading = (
        f"bundle of {_name(manifest)}, written by bnas-deploy {manifest.bnas_deploy}",
        *(f"input {each.name}: {each.size} {each.dtype}" for each in manifest.inputs),
        *(f"output {each.name}: {each.size} {each.dtype}" for each in manifest.outputs),
        *(f"{name}: {record.bytes:,} bytes" for name, record in manifest.files.items()),
        *_metrics(manifest.metrics),
        *(f"float layers: {line}" for line in float_layers.of_bundle(bundle)),
    )
    files = (manifest.files[MODEL].bytes, manifest.files[FLOAT_TWIN].bytes)
    # As `bench` calls it.
    measured_as = measured_network(
        manifest.network.get("name", path.resolve().name), size_text(manifest), manifest.layers
    )
    return Subject(
        _name(manifest),
        measured_as,
        digest_of(manifest.network),
        heading,
        Network(manifest.layers),
        _rule_of_bundle(manifest),
        files=files,
    )


def _name(manifest: Manifest) -> str:
    return str(manifest.network.get("name", "a network"))


def _rule_of_bundle(manifest: Manifest) -> Rule:
    """Return the rule of a bundle's network, whose family only its fields tell: BNAS alone has a genotype."""
    return RULES["bnas-v2" if "genotype" in manifest.network else DEFAULT_RULE]


def _checkpoint(path: Path, question: Question) -> Subject:
    from bnas_deploy.search.training.checkpoint import load_checkpoint

    checkpoint = load_checkpoint(path)
    _refuse_network(path, question)
    config = checkpoint.network
    subject = _network(config)
    first, *rest = subject.heading
    images, *more = rest
    heading = (
        f"checkpoint of {first}, {'float twin' if config.is_float else 'binary'}",
        f"{images}, data {checkpoint.data}",
        *more,
        *_metrics(checkpoint.metrics),
    )
    return replace(subject, heading=heading)


def _network(config: "ModelConfig") -> Subject:
    from bnas_deploy.search.models.layer_costs import network_size
    from bnas_deploy.search.models.registry import rule_of

    height, width = config.image_size
    heading = (
        f"{config.name}: {config.summary}, {counted(config.classes, 'class', 'classes')}",
        f"images {config.in_channels} x {height} x {width}",
        *config.describe(),
    )
    network = network_size(config).counted
    measured_as = measured_network(config.name, f"{height}x{width}", network.layers)
    return Subject(config.name, measured_as, digest_of(config.to_json()), heading, network, rule_of(config), config)


def _metrics(metrics: object) -> list[str]:
    return [f"metrics: {json.dumps(metrics)}"] if metrics else []


# --- how it is counted ----------------------------------------------------------------------------------------------


def _counted(subject: Subject, path: Path, question: Question) -> Counted:
    if not subject.network.is_binary and (question.rules or question.against or question.report):
        raise BnasError(
            f"{path}: nothing in it is binary, so no rule of binary networks counts it; give the checkpoint of the "
            "binary network, or leave --rule, --against and --report out"
        )
    against = _against(subject, path, question.against) if question.against else None
    return Counted(
        subject.network,
        against.network if against else None,
        question.rules or (subject.rule,),
        _measured(subject, question.report),
        tuple(_printed_of(subject.config, against.config if against else None)),
        question.energy,
    )


def _against(subject: Subject, path: Path, cells: str) -> Subject:
    """Return the network of a subject with other cells."""
    config: Any = subject.config
    if not hasattr(config, "genotype"):
        raise BnasError(
            f"{path}: --against compares with the float network of other cells, which only a BNAS network or its "
            "checkpoint has; leave it out"
        )
    return _network(replace(config, genotype=read_genotype(cells)))


def _printed_of(config: "ModelConfig | None", against: "ModelConfig | None") -> Iterator[Printed]:
    """Return the figures that papers print of exactly this network, however it binarises."""
    if config is None:
        return
    from bnas_deploy.search.models.registry import configure

    for each in PUBLISHED:
        if not _same(configure(each.network, options=each.options), config):
            continue
        if each.figure in RATIOS:
            other = None if each.against is None else configure(each.network, options=each.against)
            if not (_same(other, against) if other and against else other is against):
                continue
        yield each


def _same(one: Any, other: Any) -> bool:
    """Tell whether two networks have the same layers, however they binarise."""
    return type(one) is type(other) and one == replace(other, scheme=one.scheme, k_map=one.k_map)


def _measured(subject: Subject, file: Path | None) -> Measured | None:
    if file is None:
        return subject.files and Measured(*subject.files, where="the files of the bundle")
    report = read_report(file)
    summary = _summary(report, subject, file)
    own, twin = summary.file_bytes.get(summary.engine), summary.file_bytes.get(BASELINE)
    if subject.files and own != subject.files[0]:
        raise BnasError(
            f"{file}: measured a {MODEL} of {own:,} bytes, and the bundle's has {subject.files[0]:,}; measure this "
            "bundle, or leave --report out"
        )
    machine = report.machine
    disturbed = ""
    if BASELINE in summary.disturbed:
        disturbed = "; other programs left too few runs to tell how many times as fast"
    return Measured(
        own,
        twin,
        summary.image_ms[summary.engine],
        summary.image_ms.get(BASELINE),
        None if disturbed else summary.times_as_fast.get(BASELINE),
        f"{file.name}: {machine.cpu}, threads: {summary.threads}, onnxruntime {machine.onnxruntime}, {machine.date}"
        f"{disturbed}",
    )


def _summary(report: Report, subject: Subject, file: Path) -> Summary:
    """Return the figures with the fewest threads and images."""
    if not report.summaries:
        raise BnasError(f"{file}: measured single layers and no network; give the report of `bnas-deploy bench --json`")
    if report.network not in (None, subject.measured_as):
        raise BnasError(
            f"{file}: measured {report.network}, and this is {subject.measured_as}; give the report of the one that "
            "you inspect"
        )
    if report.settings not in (None, subject.settings):
        raise BnasError(
            f"{file}: measured another {report.network}, with other cells, widths, scheme or classes than this; give "
            "the report of the one that you inspect"
        )
    return min(report.summaries, key=lambda each: (each.threads, each.batch))


# --- layers ---------------------------------------------------------------------------------------------------------


def layer_table(network: Network, *, energy: bool = False) -> str:
    """Return a line per layer, and the totals."""
    layers = network.layers
    width = max(map(len, ["layer", *(layer.name for layer in layers)]))
    header = (
        f"{'layer':<{width}}  {'bits':>4}  {'input':>12}  {'output':>12}  {'kernel':>14}  {'weights':>11}  {'MMAC':>8}"
    )
    rows = [
        f"{layer.name:<{width}}  {layer.weight_bits:>4}  {_shape(layer.input):>12}  {_shape(layer.output):>12}  "
        f"{_geometry(layer):>14}  {layer.weights:>11,}  {layer.macs / 1e6:>8.2f}"
        + (f"  {energy_pj(layer) / 1e6:>8.2f}" if energy else "")
        for layer in layers
    ]
    costs = total(layers)
    totals = [
        f"1-bit weights {costs.binary_weights:,}, {millions(costs.binary_macs)} MMAC",
        *([f"8-bit weights {costs.int8_weights:,}, {millions(costs.int8_macs)} MMAC"] if costs.int8_weights else []),
        f"32-bit weights {costs.float_weights:,}, {millions(costs.float_macs)} MMAC",
        *([f"32-bit others {network.other_parameters:,}: BN, biases, slopes"] if network.other_parameters else []),
        f"weights alone take {costs.weight_bytes / 1000:,.1f} kB, in float32 {costs.float_twin_bytes / 1000:,.1f} kB "
        f"({costs.float_twin_bytes / max(1, costs.weight_bytes):.2f} times as much)",
    ]
    return "\n".join([header + (f"  {'uJ':>8}" if energy else ""), *rows, "", *totals]) + "\n"


def _shape(shape: tuple[int, int, int]) -> str:
    return "x".join(map(str, shape))


def _geometry(layer: LayerCost) -> str:
    height, width = layer.kernel
    text = f"{height}x{width} s{layer.stride[0]}"
    text += f" d{layer.dilation[0]}" if layer.dilation != (1, 1) else ""
    return text + (f" g{layer.groups}" if layer.groups > 1 else "")
