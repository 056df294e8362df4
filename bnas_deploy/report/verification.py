"""What `export` and `verify` found, as text; the only place that rounds it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from bnas_deploy.core.bundle import Bundle, Manifest
from bnas_deploy.core.counts import counted
from bnas_deploy.core.layer_cost import LayerCost
from bnas_deploy.report import float_layers

if TYPE_CHECKING:
    from bnas_deploy.export import ExportResult
    from bnas_deploy.export.rewrite import Refusal
    from bnas_deploy.runtime.pieces import PieceResult
    from bnas_deploy.runtime.verify import OutputResult, VerifyResult

NAME_WIDTH = 24
FEW_LAYERS = 3

OWN = "their own arithmetic"
TAKEN_IN = "the BN, sum, gate or K that they took in"
"""What may round otherwise than PyTorch; a binary convolution of its own scale and bias only may not."""

POWERLESS = 0.25
"""Where rounding moves outputs by more than this part of their spread, a comparison of them says nothing."""


def describe_export(result: "ExportResult") -> str:
    """Say what was exported and how it compares with PyTorch."""
    passes = ", ".join(f"{name} {count}" for name, count in result.log.applied.items() if count)
    spread = f"of a spread of {result.twin_spread:.2g}"
    lines = [
        describe(result.bundle, result.verification),
        _line("float twin", f"outputs differ from PyTorch by at most {result.twin_difference:.2g}, {spread}"),
        _line("int8 twin", f"outputs differ from the float twin's by at most {result.int8_difference:.2g}, {spread}"),
        _line("rewrites", passes),
        *_bits(result),
        *(_line("left alone", refusal) for refusal in _refusals(result.log.refusals)),
        *(_line("note", note) for note in result.log.notes),
        *(_line("binary layer", str(layer)) for layer in result.layers),
        *_dropped(result),
        *(_line(subject, text) for subject, text in result.doubts.sentences().items()),
        f"\n{result.bundle.path}: ready. Next: bnas-deploy bench {result.bundle.path}",
    ]
    return "\n".join(lines)


def _bits(result: "ExportResult") -> list[str]:
    """Name the layers that write bits instead of floats."""
    pieces = result.verification.pieces
    names = [piece.check.name for piece in pieces.pieces if piece.bits] if pieces else []
    return [_line("write bits", f"{', '.join(names)}: no float result of theirs is made")] if names else []


def _dropped(result: "ExportResult") -> list[str]:
    """Name the binary layers that the model has no more, such as those in front of a Zeroise."""
    kept = {layer.name for layer in result.bundle.manifest.layers}
    names = [layer.name for layer in result.layers if layer.name not in kept]
    computed = "it computes" if len(names) == 1 else "they compute"
    return [_line("dropped", f"{', '.join(names)}: no output depends on what {computed}")] if names else []


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
    lines = [
        *_pieces(bundle, result, every_layer=every_layer),
        _line("with and without library", "identical" if result.identical else "DIFFERENT"),
        *_ties(bundle.manifest),
        *_outputs(result, ties=bool(bundle.manifest.verification.ties)),
        *_classes(result),
        _line("still float", _float_layers(bundle.manifest.still_float)),
        *_choice(bundle),
        *_quantized(bundle.manifest, result),
        *_sizes(bundle),
    ]
    return "\n".join(lines)


def _pieces(bundle: Bundle, result: "VerifyResult", *, every_layer: bool) -> list[str]:
    if result.pieces is None:
        reason = f"not compared, since bundles of format {bundle.manifest.format} hold no values of them"
        return [_line("pieces", f"{reason}; export the model again")]
    pieces = result.pieces.pieces
    groups = {
        "binary convolutions": ([piece for piece in pieces if piece.binary and not piece.repeats], "PyTorch", TAKEN_IN),
        "bits beside a tie": (
            [piece for piece in pieces if piece.bits and piece.repeats],
            "the exported model",
            TAKEN_IN,
        ),
        "everything else": ([piece for piece in pieces if not (piece.binary or piece.in_8_bits)], "PyTorch", OWN),
        "layers in 8 bits": ([piece for piece in pieces if piece.in_8_bits], "the exported model", OWN),
    }
    lines = [_line(name, _agreement(*group)) for name, group in groups.items() if group[0]]
    if silent := sum(piece.silent for piece in pieces):
        channels = sum(piece.channels for piece in pieces)
        text = f"{silent:,} of {channels:,} output channels of binary convolutions are 0 in all compared values"
        lines.append(_line("not seen", f"{text}: their scale and bias are checked by the outputs only"))
    if every_layer:
        lines += [_line("", _piece(piece)) for piece in pieces]
    return lines + [_line("FAULT", fault) for fault in result.pieces.faults]


def _agreement(pieces: "Sequence[PieceResult]", reference: str, arithmetic: str) -> str:
    exact = sum(piece.exact for piece in pieces)
    rounded = sum(piece.passed and not piece.exact for piece in pieces)
    wrong = sum(not piece.passed for piece in pieces)
    text = f"{exact + rounded} of {len(pieces)} agree with {reference}"
    if rounded:
        text += f": {exact} bit-exact, {rounded}" if exact else ","
        text += f" within the rounding of {arithmetic}"
    elif exact:
        text += ", bit-exact"
    return text + (f"; {wrong} WRONG" if wrong else "")


def _piece(piece: "PieceResult") -> str:
    found = "bit-exact"
    if not piece.exact:
        found = f"differs by {piece.difference:.2g}, rounding explains {piece.allowed:.2g}"
    return f"{piece.check.name}: {found} on {piece.compared} {'bytes of bits' if piece.bits else 'values'}"


def _ties(manifest: Manifest) -> list[str]:
    ties = manifest.verification.ties
    if not ties:
        return []
    most = max(ties, key=ties.__getitem__)
    text = f"{sum(ties.values()):,} activations of an image equal a threshold or lie within rounding of it, in "
    text += f"{counted(len(ties), 'layer')}, most ({ties[most]:,}) in {most}: elsewhere they may get the other sign"
    return [_line("ties", text)]


def _outputs(result: "VerifyResult", *, ties: bool) -> list[str]:
    """Say how far each output is from the reference's, and what that is worth."""
    several = len(result.outputs) > 1
    return [
        _line(
            "outputs, for information" if number == 0 else "",
            f"{f'{each.name}: ' if several else ''}{_output(each, result.reference, ties=ties)}",
        )
        for number, each in enumerate(result.outputs)
    ]


def _output(result: "OutputResult", reference: str, *, ties: bool) -> str:
    text = f"differ from {reference} by at most {result.difference:.2g}"
    explained = f"rounding explains {result.tolerance:.2g} of a spread of {result.spread:.2g}"
    if result.tolerance > POWERLESS * result.spread:
        return f"{text}; {explained}: this says nothing, the pieces do"
    if result.difference > result.tolerance:
        if not ties:
            return f"{text}; {explained}: WARNING, more than that, and no ties were found that could make it"
        return f"{text}; {explained}: more than that, as ties in front of a sign can make of it"
    return f"{text}; {explained}"


def _classes(result: "VerifyResult") -> list[str]:
    if result.agreement is None:
        return [_line("classes", f"none, so that {counted(result.images, 'example')} are compared by their outputs")]
    return [_line("top-1 agreement", f"{result.agreement} of {counted(result.images, 'image')}{_correct(result)}")]


def _correct(result: "VerifyResult") -> str:
    return " (random, not real ones)" if result.correct is None else f"; {result.correct} classified correctly"


def _choice(bundle: Bundle) -> list[str]:
    """Say why float layers have 8 bits or have not, where that was measured."""
    return [_line("" if i else "float layers", line) for i, line in enumerate(float_layers.of_bundle(bundle))]


def _quantized(manifest: Manifest, result: "VerifyResult") -> list[str]:
    change = manifest.quantization
    if change is None:
        return []
    text = f"outputs differ from those with float layers by at most {change.largest_difference:.2g}, in the mean by "
    text += f"{change.mean_difference:.2g}"
    spreads = [each.spread for each in result.outputs]
    if len(spreads) == 1 and spreads[0] > 0:  # several outputs have no common scale
        parts = (difference / spreads[0] for difference in (change.largest_difference, change.mean_difference))
        text += f", {' and '.join(f'{part:.2%}' for part in parts)} of their spread"
    if change.agreement is not None:
        text += f"; same class for {change.agreement} of {counted(change.images, 'image')}"
    if result.correct_before is not None:
        text += f"; {result.correct} classified correctly, {result.correct_before} with float layers"
    return [_line("in 8 bits", _float_layers(manifest.in_8_bits)), _line("change by 8 bits", text)]


def _float_layers(layers: tuple[LayerCost, ...]) -> str:
    weights, macs = sum(layer.weights for layer in layers), sum(layer.macs for layer in layers)
    names = ", ".join(layer.name for layer in layers)
    return f"{names} ({weights:,} weights, {macs / 1e6:.1f} MMAC)" if layers else "nothing"


def _sizes(bundle: Bundle) -> list[str]:
    return [_line(name, f"{record.bytes / 1000:,.1f} kB") for name, record in bundle.manifest.files.items()]


def _line(name: str, text: str) -> str:
    return f"{name:<{NAME_WIDTH}} {text}"
