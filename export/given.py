"""What a caller of the export gives: images and networks, and what is refused of them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bnas_deploy.core.bundle import RIGHT_CLASSES, Preprocessing
from bnas_deploy.core.counts import counted
from bnas_deploy.core.errors import ExportError
from bnas_deploy.core.tensor_spec import DTYPES
from bnas_deploy.export.capture import OUTPUT
from bnas_deploy.export.description import Description
from bnas_deploy.export.inputs import OF_IMAGES, OF_INPUTS, Feed, Inputs, taken_by
from bnas_deploy.export.leaves import Structure, checked_names, flatten, outputs_of, tensors_in
from bnas_deploy.export.module_checks import answers_in_batches, answers_of, refuse_hooks
from bnas_deploy.search.nn.layers import BinaryConv2d

TWIN = "the float twin"
"""What messages call it."""


Progress = Callable[[str], object]
"""Is told what is being done, in a few words, each time that changes."""


def silent(doing: str) -> None:
    """Tell nobody."""


@dataclass(frozen=True)
class Images:
    """Images to verify with: (N, C, H, W) float32, normalised; labels (N) int64 where they are known."""

    pixels: Tensor
    labels: Tensor | None = None


def check_twin(twin: nn.Module) -> None:
    """Refuse a float twin with a binary layer."""
    binary = next((name for name, layer in twin.named_modules() if isinstance(layer, BinaryConv2d)), None)
    if binary is not None:
        raise ExportError(
            f"{TWIN}: {binary or 'it'} is a binary layer; give the same network with float layers, such as "
            "torch.nn.Conv2d and Linear, to compare latencies with"
        )


@dataclass(frozen=True)
class Asked:
    """What a network takes and answers: examples, how its own forward is called with them, and its outputs.

    `outputs` are their names, `kinds` their types and shapes for a few examples.
    """

    feed: Feed
    structure: Structure
    outputs: tuple[str, ...]
    kinds: tuple[str, ...]


def asked(module: nn.Module, given: Images | Inputs, description: Description, role: str) -> Asked:
    """Call `module` with a few examples, and let it take and answer tensors in a row if it does not yet.

    Args:
        module: as `prepared` returned it; changed in place.
        given: the examples.
        description: what its answers have to fit.
        role: what messages call it.

    Raises:
        ExportError: the examples do not fit it or the description, or it answers what cannot be exported.
    """
    feed, structure = _taken(module, given, description, role)
    few, source = feed[:FEW], OF_IMAGES if isinstance(given, Images) else OF_INPUTS
    answer = answers_of(module, few, role, structure, source)
    named = outputs_of(role, answer, "output" if description.labels is None else OUTPUT)
    _check_outputs(role, named, len(few), description)
    alone = f"{role}, given one example"
    _check_alone(role, outputs_of(alone, answers_of(module, feed[:1], alone, structure, source), OUTPUT), named)
    if not (structure.is_flat and isinstance(answer, Tensor)):
        refuse_hooks(module, role)
        flatten(module, structure, role)
    kinds = tuple(f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}" for _, tensor in named)
    return Asked(feed, structure, tuple(name for name, _ in named), kinds)


def _check_alone(role: str, alone: Sequence[tuple[str, Tensor]], few: Sequence[tuple[str, Tensor]]) -> None:
    """Refuse a network that answers to a single example with other tensors, or with some of other ranks."""
    if len(alone) != len(few):
        raise ExportError(
            f"{role}: answers {counted(len(alone), 'tensor')} to one example and {len(few)} to {FEW}; answer as many "
            "to any number"
        )
    for (_, one), (name, several) in zip(alone, few, strict=True):
        if one.ndim != several.ndim:
            raise ExportError(
                f"{role}: answers {name} of the shape {tuple(one.shape)} to one example and {tuple(several.shape)} to "
                f"{FEW}; let its forward keep the axis of the examples (squeeze() without a dimension drops it: write "
                "flatten(1))"
            )


FEW = 2
"""Examples that show what a network answers."""


def _taken(module: nn.Module, given: Images | Inputs, description: Description, role: str) -> tuple[Feed, Structure]:
    if isinstance(given, Images):
        check_images(given, description)
        feed, structure = taken_by(module, Inputs(given.pixels), role, OF_IMAGES)
        return Feed.of_images(*feed.tensors), structure
    feed, structure = taken_by(module, given, role)
    _check_classes("inputs", given.labels, len(feed), description)
    if (image := _image_shape(description.preprocessing)) is not None:
        shapes = {name: tuple(tensor.shape[1:]) for name, tensor in feed.items() if tensor.dtype == torch.float32}
        if image not in shapes.values():
            raise ExportError(
                f"inputs: none is torch.float32 (N, {', '.join(map(str, image))}), which the preprocessing makes of "
                "images; mend the preprocessing, or leave it out"
            )
    return feed, structure


def _check_classes(whole: str, labels: Tensor | None, count: int, description: Description) -> None:
    """Refuse right classes that are not one whole number for each example, of a class that there is."""
    if labels is None:
        return
    if not isinstance(labels, Tensor):
        raise ExportError(f"{whole}: labels are {type(labels).__name__}, wanted a tensor; give torch.tensor(labels)")
    if labels.shape != (count,):
        raise ExportError(
            f"{whole}: labels of shape {tuple(labels.shape)} for {count} {_EXAMPLES[whole]}; give one class for each"
        )
    if labels.dtype != torch.int64:
        raise ExportError(
            f"{whole}: labels are {labels.dtype}, wanted torch.int64, the number of a class each; give labels.long()"
        )
    if description.labels is not None:
        wrong = (labels < 0) | (labels >= len(description.labels))
        if bool(wrong.any()):
            place = int(wrong.int().argmax())
            raise ExportError(
                f"{whole}: label {int(labels[place])} of number {place}, and the description names "
                f"{counted(len(description.labels), 'class', 'classes')}, from 0 on; give labels from 0 to "
                f"{len(description.labels) - 1}, or leave them out where they are unknown"
            )


_EXAMPLES = {"images": "images", "inputs": "examples"}


def _image_shape(preprocessing: Preprocessing | None) -> tuple[int, int, int] | None:
    if preprocessing is None:
        return None
    return len(preprocessing.mean), preprocessing.height, preprocessing.width


def check_images(images: Images, description: Description) -> None:
    """Refuse images that are not those of the preprocessing, or have values that are no numbers."""
    pixels, wanted = images.pixels, _image_shape(description.preprocessing)
    if not isinstance(pixels, Tensor):
        raise ExportError(
            f"images: pixels are {type(pixels).__name__}, wanted a tensor (N, channels, height, width); give "
            "torch.from_numpy(array) for an array"
        )
    fits = pixels.ndim == 4 if wanted is None else tuple(pixels.shape[1:]) == wanted
    if pixels.dtype != torch.float32 or len(pixels) == 0 or not fits:
        sizes = "channels, height, width" if wanted is None else ", ".join(map(str, wanted))
        raise ExportError(
            f"images: got {pixels.dtype} {tuple(pixels.shape)}, "
            f"{'wanted' if wanted is None else 'the preprocessing makes'} torch.float32 (N, {sizes}) with N at least "
            "1; give images as the network sees them"
        )
    _check_classes("images", images.labels, len(pixels), description)
    if not pixels.isfinite().all():
        count = int((~pixels.isfinite()).sum())
        raise ExportError(f"images: {count} of {pixels.numel()} values are NaN or infinite; give images without them")


def example_arrays(
    network: Asked, answers: Sequence[Tensor], labels: Tensor | None, description: Description
) -> dict[str, NDArray[Any]]:
    """Return what a bundle keeps of the examples, by name.

    Raises:
        ExportError: an input or an output has the name of something else among them.
    """
    named = [*network.feed.items(), *zip(network.outputs, answers, strict=True)]
    if labels is not None and description.labels is not None:
        named.append((RIGHT_CLASSES, labels))
    checked_names("inputs and outputs", [name for name, _ in named])
    return {name: tensor.numpy() for name, tensor in named}


def check_same_outputs(wanted: Asked, twin: Asked) -> None:
    """Refuse a float twin that answers something else, by name, type or shape: its times would say nothing."""
    if wanted.outputs != twin.outputs:
        raise ExportError(
            f"{TWIN}: answers {', '.join(twin.outputs)}, the module answers {', '.join(wanted.outputs)}; give the same "
            "network with float layers"
        )
    for name, ours, theirs in zip(wanted.outputs, wanted.kinds, twin.kinds, strict=True):
        if ours != theirs:
            examples = counted(len(wanted.feed[:FEW]), "example")
            raise ExportError(
                f"{TWIN}: answers {name} as {theirs} to {examples}, the module as {ours}; give the same network with "
                "float layers"
            )


def answers_to(module: nn.Module, feed: Feed, description: Description) -> tuple[Tensor, ...]:
    """Return what a flattened module answers to all examples: a tensor for each output.

    A classifier runs in batches. What else there is may belong to all examples together.

    Raises:
        ExportError: it raises something, or its answers do not fit the labels.
    """
    role = type(module).__name__
    if description.labels is None:
        return tensors_in(answers_of(module, feed, role))
    (logits,) = answers_in_batches(module, feed)
    _check_outputs(role, [(OUTPUT, logits)], len(feed), description)
    return (logits,)


def _check_outputs(role: str, named: Sequence[tuple[str, Tensor]], count: int, description: Description) -> None:
    if description.labels is not None:
        _check_logits(role, named, count, len(description.labels))
        return
    for name, tensor in named:
        kind = str(tensor.dtype).removeprefix("torch.")
        if kind not in DTYPES:
            raise ExportError(f"{role}: answers {tensor.dtype} as {name}, wanted {', '.join(DTYPES)}; convert it")
        if not tensor.numel():
            raise ExportError(
                f"{role}: answers {name} of the shape {tuple(tensor.shape)}, which is empty; leave it out"
            )


def _check_logits(role: str, named: Sequence[tuple[str, Tensor]], images: int, labels: int) -> None:
    """Refuse what is not one logit per image and label."""
    wanted = f"wanted ({images}, {labels}), one logit for each of {counted(labels, 'label')}"
    advice = "put it into a module that returns the logits alone, or describe it without labels if it is no classifier"
    if len(named) > 1:
        names = ", ".join(name for name, _ in named)
        raise ExportError(f"{role}: answers {names} to {images} images, {wanted}; {advice}")
    ((_, answers),) = named
    got = tuple(answers.shape)
    if len(got) == 2 and got[0] == images and got[1] != labels:
        advice = f"describe it with {counted(got[1], 'label')} if those are its classes, else {advice}"
    if got != (images, labels):
        raise ExportError(f"{role}: answers {got} to {images} images, {wanted}; {advice}")
    if answers.dtype != torch.float32:
        raise ExportError(f"{role}: answers {answers.dtype}, wanted torch.float32; call .float() on the logits")
