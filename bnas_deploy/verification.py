"""What `export` and `verify` found, as text; the only place that rounds it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from bnas_deploy.bundle import Bundle, Manifest
from bnas_deploy.cost import LayerCost

if TYPE_CHECKING:
    from bnas_deploy.export import ExportResult
    from bnas_deploy.export.doubts import Doubts, LikelyBinary
    from bnas_deploy.export.rewrite import Refusal
    from bnas_deploy.runtime.verify import LayerResult, VerifyResult

NAME_WIDTH = 24
FEW_LAYERS = 3


def describe_export(result: "ExportResult") -> str:
    """Say what was exported and how it compares with PyTorch."""
    passes = ", ".join(f"{name} {count}" for name, count in result.log.applied.items() if count)
    lines = [
        describe(result.bundle, result.verification),
        _line("float twin", f"outputs differ from PyTorch by at most {result.twin_difference:.2g}"),
        _line("int8 twin", f"outputs differ from the float twin's by at most {result.int8_difference:.2g}"),
        _line("rewrites", passes),
        *(_line("left alone", refusal) for refusal in _refusals(result.log.refusals)),
        *(_line("note", note) for note in result.log.notes),
        *_doubts(result.doubts),
        f"\n{result.bundle.path}: ready. Next: bnas-deploy bench {result.bundle.path}",
    ]
    return "\n".join(lines)


def _doubts(doubts: "Doubts") -> list[str]:
    """Say which float layers look binary, and where sign(0) decides."""
    lines = []
    if doubts.likely_binary:
        names = ", ".join(f"{layer.name} ({_looks(layer)})" for layer in doubts.likely_binary)
        advice = "binary layers that are not the package's? Make them of bnas_deploy.search.layers, or they stay float"
        lines.append(_line("WARNING: look binary", f"{names}: {advice}"))
    if doubts.zero_activations:
        zeros = doubts.zero_activations
        counts = [f"{layer.zeros:,} of {layer.activations:,} before {layer.name}" for layer in zeros[:FEW_LAYERS]]
        counts += [f"and before {len(zeros) - FEW_LAYERS} layers more"] * (len(zeros) > FEW_LAYERS)
        lines.append(_line("activations of exactly 0", f"{', '.join(counts)}; sign(0) is +1 here, and 0 in torch.sign"))
    return lines


def _looks(layer: "LikelyBinary") -> str:
    found = {"weights ±s": layer.weights, "input ±s": layer.input}
    return ", ".join(text for text, true in found.items() if true)


def _refusals(refusals: "Sequence[Refusal]") -> list[str]:
    """Return a sentence for each reason, with the first node that it was given for and how many more."""
    nodes: dict[tuple[str, str], list[str]] = {}
    for refusal in refusals:
        nodes.setdefault((refusal.rewrite, refusal.reason), []).append(refusal.node)
    return [
        f"{rewrite}: {first}{f' and {len(others)} more' if others else ''}: {reason}"
        for (rewrite, reason), (first, *others) in nodes.items()
    ]


def describe(bundle: Bundle, result: "VerifyResult", *, every_layer: bool = False) -> str:
    """Say what `verify_bundle` found, a line for each thing."""
    exact = sum(layer.exact for layer in result.layers)
    rounded = [layer for layer in result.layers if layer.passed and not layer.exact]
    layers = f"{exact} of {len(result.layers)} bit-exact against PyTorch"
    if rounded:
        layers += f", {len(rounded)} within what the rounding of K or of a folded BN explains"
    lines = [_line("binary convolutions", layers)]
    if every_layer:
        lines += [_line("", _layer(layer)) for layer in result.layers]
    lines += [
        _line("with and without library", "identical" if result.identical else "DIFFERENT"),
        _line(
            "outputs",
            f"differ from {result.reference} by at most {result.difference:.2g}; "
            f"rounding explains {result.tolerance:.2g}",
        ),
        _line("top-1 agreement", f"{result.agreement} of {result.images} images{_correct(result)}"),
        _line("still float", _float_layers(bundle.manifest.still_float)),
        *_quantized(bundle.manifest),
        *_sizes(bundle),
    ]
    return "\n".join(lines)


def _layer(layer: "LayerResult") -> str:
    found = "bit-exact"
    if not layer.exact:
        found = f"differs by {layer.difference:.2g}, rounding explains {layer.check.tolerance:.2g}"
    return f"{layer.check.name}: {found} on {layer.compared} outputs"


def _correct(result: "VerifyResult") -> str:
    return " (random, not real ones)" if result.correct is None else f"; {result.correct} classified correctly"


def _quantized(manifest: Manifest) -> list[str]:
    change = manifest.quantization
    if change is None:
        return []
    return [
        _line("in 8 bits", _float_layers(manifest.in_8_bits)),
        _line(
            "change by 8 bits",
            f"outputs differ from those with float layers by at most {change.largest_difference:.2g}, in the mean by "
            f"{change.mean_difference:.2g}; same class for {change.agreement} of {change.images} images",
        ),
    ]


def _float_layers(layers: tuple[LayerCost, ...]) -> str:
    weights, macs = sum(layer.weights for layer in layers), sum(layer.macs for layer in layers)
    names = ", ".join(layer.name for layer in layers)
    return f"{names} ({weights:,} weights, {macs / 1e6:.1f} MMAC)" if layers else "nothing"


def _sizes(bundle: Bundle) -> list[str]:
    return [_line(name, f"{record.bytes / 1000:,.1f} kB") for name, record in bundle.manifest.files.items()]


def _line(name: str, text: str) -> str:
    return f"{name:<{NAME_WIDTH}} {text}"
