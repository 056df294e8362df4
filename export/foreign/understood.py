"""How a binary layer was understood, as one line for the person who wrote it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Node

from bnas_deploy.export.foreign.judge import Seen
from bnas_deploy.export.foreign.layers import Found
from bnas_deploy.export.foreign.operations import IDENTITIES, called, operation
from bnas_deploy.export.foreign.program import Program
from bnas_deploy.export.foreign.rules import BinaryLayer
from bnas_deploy.export.foreign.steps import Steps
from bnas_deploy.search.nn.layers import BinaryConv2d


@dataclass(frozen=True)
class Understood:
    """What a layer is in the exported network, and what that was read from."""

    name: str
    activations: str
    threshold: str
    scale: str
    padding: str

    def __str__(self) -> str:
        """Return it as one line."""
        text = f"{self.name}: activations {self.activations}; threshold {self.threshold}"
        return f"{text}; scale {self.scale}; padding {self.padding}"


def of_found(program: Program, found: Found, seen: Seen | None) -> Understood:
    """Describe a layer that was recognised; `seen` is what it met on the images, None if there were none."""
    return Understood(
        name=found.name,
        activations=_activations(found.source_steps, seen),
        threshold=_threshold(program, found),
        scale=_scale(found),
        padding=_padding(found.window.is_padded, found.pad_value),
    )


def of_rule(name: str, layer: BinaryLayer) -> Understood:
    """Describe a layer of a registered rule."""
    assert isinstance(layer.threshold, torch.Tensor)
    assert isinstance(layer.scale, torch.Tensor)
    padded = layer.padding not in (0, (0, 0))
    threshold = f"{_range(layer.threshold)}, from the rule"
    scale = f"{_range(layer.scale)}, from the rule"
    return Understood(name, _listed((layer.low, layer.high)), threshold, scale, _padding(padded, layer.pad_value))


def of_package(name: str, layer: BinaryConv2d) -> Understood:
    """Describe a layer of the package, whose scheme says what it is."""
    exported = layer.exported()
    zero_one = exported.offset is not None and bool(exported.offset.any())
    coding = "0 and 1" if zero_one else "-1 and +1"
    if exported.sign_of_zero:
        coding += ", 0 at 0"
    made_of = f"from {layer.scheme}"
    pad = 0.0 if zero_one and exported.pad_value == -1 else float(exported.pad_value)
    return Understood(
        name,
        coding,
        f"{_range(exported.threshold)}, {made_of}",
        f"{_range(exported.scale)}, {made_of}" + (", times K" if layer.scheme.k_map else ""),
        _padding(layer.is_padded, pad),
    )


def _activations(steps: Steps, seen: Seen | None) -> str:
    levels = steps.levels
    if not steps.is_sign:
        text = _listed(levels)
        return text if len(levels) == 2 else f"{text} (a sum of {len(levels) - 1} packed convolutions)"
    text = _listed((levels[0], levels[2]))
    if seen is None:
        return f"{text}, 0 at 0"
    if not seen.meets_zero:
        return f"{text} (0 at 0, which none of {seen.activations:,} values was)"
    met = f"{seen.zeros:,} of {seen.activations:,} values" if seen.zeros else "no BN or bias moves values off it"
    return f"{text}, 0 at 0 ({met}: a sum of 2 packed convolutions)"


def _listed(levels: tuple[float, ...]) -> str:
    texts = [f"{level:g}" if level <= 0 or levels[0] >= 0 else f"+{level:g}" for level in levels]
    return " and ".join([", ".join(texts[:-1]), texts[-1]])


def _threshold(program: Program, found: Found) -> str:
    steps = found.source_steps
    values = torch.from_numpy(steps.thresholds[:1] if steps.is_sign else steps.thresholds)
    pairs = _pairs(found.source, found.activations)
    done = _operations(program, pairs)
    names = dict.fromkeys(name for source, made in pairs for name in program.parameters_of(made, source))
    parameters = f" with {', '.join(names)}" if names else ""
    places = " and of ".join(dict.fromkeys(f"the output of {called(source)}" for source, _ in pairs))
    text = f"{_range(values)} of {places}, from {done}{parameters}"
    falling = int(steps.falling.sum())
    if falling:
        text += f", {falling} of {len(steps.falling)} channels falling"
    return text if steps.exact else f"{text}, its roundings left out"


def _pairs(source: Node, activations: Node) -> list[tuple[Node, Node]]:
    """Return the value that a layer takes signs of and its activations; both of each part where some are joined."""
    if operation(activations) != "cat":
        return [(source, activations)]
    parts: Any = zip(source.args[0], activations.args[0], strict=True)  # type: ignore[arg-type]  # lists of nodes
    return [pair for each in parts for pair in _pairs(*each)]


def _operations(program: Program, pairs: Sequence[tuple[Node, Node]]) -> str:
    """Return what is done between the values that a layer takes signs of and its activations."""
    passed = [node for pair in pairs for node in program.between(*pair)]
    names = list(dict.fromkeys(name for node in passed if (name := operation(node)) not in _SILENT))
    few = names if len(names) <= MOST_OPERATIONS else [*names[: MOST_OPERATIONS - 1], "..."]
    return ", ".join(few)


MOST_OPERATIONS = 4
_SILENT = IDENTITIES | {"_to_copy", "copy", "expand", "expand_as", "to", "type_as"}


def _scale(found: Found) -> str:
    weights = found.weights
    text = " and ".join(_range(scale) for _, scale in weights.terms)
    text += f", from {', '.join(weights.names)}" if weights.names else ""
    if (count := len(weights.terms)) > 1:
        zeros = int((weights.value == 0).sum())
        few = count == 2 and 0 < zeros <= FEW_ZEROS * weights.value.numel()
        what = "two magnitudes of weights" if count == 2 else "three values of weights"
        what = f"{zeros:,} of {weights.value.numel():,} weights are 0" if zeros else what
        text += f" ({what}: a sum of {count} packed convolutions{_SPARE if few else ''})"
    return text if weights.is_exact else f"{text}, roundings of the estimator left out"


FEW_ZEROS = 0.1
"""Weights of which a larger part is 0 are ternary by intention; torch.sign has some where a weight is exactly 0."""

_SPARE = "; one is enough if what is 0 gets a small value such as 1e-9"


def _padding(is_padded: bool, value: float) -> str:
    return f"{value:+g}".replace("+0", "0") if is_padded else "none"


SMALLEST = 2.0**-149
"""The first float above 0."""


def _range(values: torch.Tensor) -> str:
    low, high = float(values.min()), float(values.max())
    if low == high == SMALLEST:
        return "just above 0"
    return f"{low:.4g}" if low == high else f"{low:.4g} to {high:.4g}"
