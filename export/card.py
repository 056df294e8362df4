"""The model card of a bundle."""

from bnas_deploy.core.bundle import FLOAT_LAYERS, FLOAT_TWIN, INT8_TWIN, MODEL, Bundle, Manifest
from bnas_deploy.core.model_card import blocks, bullets, fenced, plain, table
from bnas_deploy.export.description import Description
from bnas_deploy.export.doubts import Doubts
from bnas_deploy.runtime.verify import VerifyResult
from bnas_deploy.search.training.card import (
    LIBRARY,
    card_head,
    data_section,
    evaluation_command,
    library_section,
    licence_section,
    network_section,
    training_section,
)

_FILES = {
    MODEL: "the network",
    FLOAT_TWIN: "its float twin: the same architecture with float weights and no sign, to compare with",
    INT8_TWIN: "the float twin in 8 bits, to compare with",
    FLOAT_LAYERS: "what was measured of float layers in 8 bits, and so which are",
}


def bundle_card(bundle: Bundle, description: Description, found: VerifyResult, doubts: Doubts) -> str:
    """Return the card of a bundle.

    Args:
        bundle: with its manifest; the card names no folder of this machine.
        description: what the export was told.
        found: how the exported model compares with PyTorch.
        doubts: what a person should look at.
    """
    manifest, record = bundle.manifest, description.training
    name = str(manifest.network.get("name", "a network"))
    accuracy = _accuracy(manifest)
    evaluate = evaluation_command(".", record)
    trained = f", trained on {plain(description.data)}" if description.data else ""
    return blocks(
        card_head(
            name,
            description.data or "test images",
            record,
            binary=True,
            accuracy=accuracy,
            tags=("onnx",),
            classifies=manifest.labels is not None,
        ),
        f"# {plain(name)}{trained}",
        "A bundle of `bnas-deploy export`: a binary network that onnxruntime runs, and what is needed to check and to\n"
        "measure it.",
        network_section(name, description.config, manifest.layers),
        data_section(description.data, manifest.labels, manifest.preprocessing, record, _tensors(manifest)),
        training_section(record, manifest.metrics),
        "## Figures",
        _accuracy_line(manifest, accuracy),
        f"The bundle's own, with classes and confusion:\n\n{fenced(evaluate, 'sh')}" if evaluate else "",
        _size_table(manifest),
        "Found at the export, and again by `bnas-deploy verify .` in this folder, on any machine:",
        bullets([*_found(manifest, found), *_doubts(doubts)]),
        "How fast it is depends on the machine: `bnas-deploy bench .` measures it and its twins.",
        "## How to use it",
        f"With [bnas-deploy](#{LIBRARY}), in this folder{_images_are(manifest)}:",
        fenced(_snippet(manifest), "python"),
        "`model.onnx` runs in plain onnxruntime too: slower, with the same bits. `manifest.json` says what goes in and "
        "comes\nout.",
        library_section(),
        licence_section(),
    )


_SNIPPET = """import numpy as np

import bnas_deploy

model = bnas_deploy.open_bundle(".")
images = np.zeros({}, np.uint8)
logits = model.predict(model.preprocess(images))
print(model.labels[logits[0].argmax()])"""


_ARRAYS = """import numpy as np

import bnas_deploy

model = bnas_deploy.open_bundle(".")
inputs = {{
{}
}}
for name, array in model.run(inputs).items():
    print(name, array.shape)"""


def _images_are(manifest: Manifest) -> str:
    """Say what the snippet's images are, where there are some."""
    if _classified_image(manifest) is None:
        return ""
    shape = "(N, height, width)" if len(_classified_image(manifest) or ()) == 3 else "(N, height, width, channels)"
    return f". Images are unsigned bytes {shape}"


def _classified_image(manifest: Manifest) -> tuple[int, ...] | None:
    """Return the shape of one image of bytes that a classifier takes; None if it is none, or takes something else."""
    if manifest.labels is None or manifest.image_size is None:
        return None
    channels, height, width = manifest.image_size
    return (1, height, width) if channels == 1 else (1, height, width, channels)


def _snippet(manifest: Manifest) -> str:
    if shape := _classified_image(manifest):
        return _SNIPPET.format(shape)
    zeros = [
        f'    "{each.name}": np.zeros({tuple(size or 1 for size in each.shape)}, "{each.dtype}"),'
        for each in manifest.inputs
    ]
    return _ARRAYS.format("\n".join(zeros))


def _tensors(manifest: Manifest) -> list[str]:
    """Say what goes in and comes out of a network that does more than to classify images."""
    if _classified_image(manifest) is not None:
        return []
    sides = (("input", manifest.inputs), ("output", manifest.outputs))
    return [f"{side} {plain(each.name)}: {each.dtype} {each.size}" for side, tensors in sides for each in tensors]


def _accuracy(manifest: Manifest) -> float | None:
    """Return the test accuracy that training measured; what a module of somebody else's says may be anything."""
    value = manifest.metrics.get("test_accuracy")
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        return None
    return float(value)


def _accuracy_line(manifest: Manifest, accuracy: float | None) -> str:
    if accuracy is None:
        return "No test accuracy is known."
    epoch = manifest.metrics.get("epoch")
    after = f" after epoch {epoch}" if isinstance(epoch, int) else ""
    return f"Test accuracy: {accuracy:.2%}, measured in PyTorch{after} of training."


def _size_table(manifest: Manifest) -> str:
    whole = manifest.files[FLOAT_TWIN].bytes
    rows = [
        (f"`{name}`", what, f"{manifest.files[name].bytes:,}", f"1/{whole / manifest.files[name].bytes:.1f}")
        for name, what in _FILES.items()
        if name in manifest.files
    ]
    return table(("file", "what", "bytes", f"of `{FLOAT_TWIN}`"), rows)


def _doubts(doubts: Doubts) -> list[str]:
    return [f"{subject}: {plain(text)}" for subject, text in doubts.sentences().items()]


def _found(manifest: Manifest, found: VerifyResult) -> list[str]:
    lines = []
    if found.pieces is not None:
        groups = {
            "binary convolutions": [piece for piece in found.pieces.pieces if piece.binary],
            "other parts": [piece for piece in found.pieces.pieces if not piece.binary],
        }
        lines += [
            f"{name}: {sum(piece.exact for piece in pieces)} of {len(pieces)} give the recorded values to the bit, "
            f"{sum(piece.passed and not piece.exact for piece in pieces)} within the rounding of their own arithmetic"
            for name, pieces in groups.items()
            if pieces
        ]
    lines.append(f"with and without the operator library: {'identical' if found.identical else 'different'}")
    if found.agreement is not None:
        lines.append(f"the same class as {found.reference} for {found.agreement} of {found.images} images")
    if found.correct is not None:
        lines[-1] += f", the right one for {found.correct}"
    change = manifest.quantization
    if change is not None and change.agreement is not None:
        lines.append(
            f"float layers in 8 bits: the same class as with float ones for {change.agreement} of {change.images} "
            "images"
        )
    return lines
