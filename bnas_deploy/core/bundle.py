"""The folder that is deployed: models, manifest and test vectors; what is in it, and how it is read and checked.

It holds

    model.onnx               the binary network; its binary convolutions are operators of the domain `bnas`
    float.onnx               the float twin: the same architecture with float weights and no sign
    int8.onnx                the float twin in 8 bits; bundles of bnas-deploy 0.1.0 have none
    manifest.json            a `Manifest`
    README.md                the model card, for people and for hubs of models; whoever publishes a bundle may change
                             it, so the manifest has no hash of it
    test_vectors/images.npz  an array for each input, mostly `images`, PyTorch's answer by the name of each output,
                             mostly `logits`, and, if known, the right classes, `labels`; where float layers were
                             quantised, the answers are those of model.onnx at export, and `float_NAME` are its answers
                             before quantisation
    float_layers.json        what was measured of float layers in 8 bits; where `export --float-layers auto` chose
    test_vectors/pieces.npz  values that PyTorch computed for one image, or corners of them, by their names in
                             model.onnx, and the tolerance of each by channel (`NAME|tolerance`)
"""

import hashlib
import json
import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from bnas_deploy.core.errors import BundleError
from bnas_deploy.core.files import open_regular, read_bytes
from bnas_deploy.core.json_records import LARGEST_FILE, from_json, parse, wanted
from bnas_deploy.core.layer_cost import LayerCost
from bnas_deploy.core.model_card import CARD
from bnas_deploy.core.older_bundles import of_images_to_logits, without_pieces
from bnas_deploy.core.tensor_spec import TensorSpec, check_tensors

FORMAT_VERSION = 4
"""1, of bnas-deploy 0.1.0, had no `quantization`. 1 and 2 had vectors of binary convolutions alone, with a copy of the
model to run them with; they are read without those. 1 to 3 had one input of images and one output of logits."""

FIRST_WITH_PIECES = 3

MODEL = "model.onnx"
FLOAT_TWIN = "float.onnx"
INT8_TWIN = "int8.onnx"
MANIFEST = "manifest.json"
FLOAT_LAYERS = "float_layers.json"
IMAGES = "test_vectors/images.npz"
RIGHT_CLASSES = "labels"
"""Name of the array of right classes among the images."""

BEFORE_QUANTIZATION = "float_{}"
"""Name of the array of answers before float layers were quantised, of an output."""

PIECES = "test_vectors/pieces.npz"
FILES = (MODEL, FLOAT_TWIN, IMAGES, PIECES)
"""Every bundle has these besides the manifest; those of formats 1 and 2 have no pieces."""


@dataclass(frozen=True)
class FileRecord:
    """Size and SHA-256 of one file of the bundle."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes an input: resize, scale to 0..1, (value - mean) / std per channel."""

    height: int
    width: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True)
class Corner:
    """A value of model.onnx, and the first `shape[i]` along each axis i of the array that stands for it."""

    value: str
    array: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class PieceCheck:
    """A part of the model between values that PyTorch recorded, and what it is compared with.

    `name` is that of the node that makes the output. A piece that looks at a neighbourhood is fed corners of PyTorch's
    values. Of its result, of the shape `made`, only the corner `output` is compared, since values past it would depend
    on more than was fed.
    """

    name: str
    inputs: tuple[Corner, ...]
    output: Corner
    made: tuple[int, ...]


@dataclass(frozen=True)
class Verification:
    """What `verify` needs besides the test vectors.

    `output_tolerances` says for each output how far a value of it moves when every value carries its rounding, which
    some networks amplify more than others. `ties` counts, for each binary convolution that has some, the activations of
    one image at the threshold or within rounding of it. Another machine may give these the other sign.
    """

    output_tolerances: dict[str, float]
    pieces: tuple[PieceCheck, ...]
    ties: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Quantization:
    """Effect of 8-bit float layers on the outputs, measured on the `images` of the export.

    Differences are those of a value to the same network with float layers; `agreement` images kept their most likely
    class, None where the network is no classifier.
    """

    largest_difference: float
    mean_difference: float
    images: int
    agreement: int | None


@dataclass(frozen=True)
class Manifest:
    """What a bundle says about itself; `network` and `metrics` are shown to people, not interpreted.

    `labels` are of a classifier, which answers one logit for each; None for any other network. `preprocessing` makes an
    input of an image, one that is float32 (N, channels, height, width); None if no input is an image. The keys of
    `files` are paths inside the bundle, with forward slashes.
    """

    bnas_deploy: str
    network: dict[str, Any]
    opset: dict[str, int]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    labels: tuple[str, ...] | None
    preprocessing: Preprocessing | None
    layers: tuple[LayerCost, ...]
    verification: Verification
    quantization: Quantization | None = None
    metrics: dict[str, Any] = field(default_factory=dict)
    files: dict[str, FileRecord] = field(default_factory=dict)
    format: int = FORMAT_VERSION

    @property
    def image_size(self) -> tuple[int, int, int] | None:
        """Return (channels, height, width) where an image is the only input; None where it is not."""
        shape = self.inputs[0].shape
        if self.preprocessing is None or len(self.inputs) > 1 or None in shape[1:]:
            return None
        channels, height, width = (size or 0 for size in shape[1:])
        return channels, height, width

    @property
    def still_float(self) -> tuple[LayerCost, ...]:
        """Return the layers whose weights stayed float."""
        return tuple(layer for layer in self.layers if layer.weight_bits == 32)

    @property
    def reference(self) -> str:
        """Name, in a sentence, whose answers the test vectors are."""
        return "PyTorch" if self.quantization is None else "the exported model"

    @property
    def in_8_bits(self) -> tuple[LayerCost, ...]:
        """Return the layers whose weights have 8 bits."""
        return tuple(layer for layer in self.layers if layer.weight_bits == 8)

    def to_json(self) -> str:
        """Return the text of manifest.json."""
        return json.dumps(asdict(self), indent=2) + "\n"


@dataclass(frozen=True)
class Bundle:
    """A bundle on disk whose manifest was read and whose files are there."""

    path: Path
    manifest: Manifest

    def __repr__(self) -> str:
        """Say what it is in a line; the manifest has a line for every layer."""
        return f"<Bundle: {self.description}>"

    @property
    def description(self) -> str:
        """Its folder, and the inputs and classes of its network."""
        manifest, name = self.manifest, self.manifest.network.get("name", "a network")
        if manifest.labels is None:
            answers = ", ".join(f"{each.name} {each.size}" for each in manifest.outputs)
        else:
            answers = f"{len(manifest.labels)} classes"
        given = ", ".join(each.size for each in manifest.inputs)
        return f"{self.path}, {name}, {given} to {answers}"

    def file(self, name: str) -> Path:
        """Return the path of one file of the bundle, by the names above."""
        return self.path / name


def read_bundle(path: Path) -> Bundle:
    """Read the bundle in folder `path` and compare every file with its size and SHA-256 in the manifest.

    Raises:
        BundleError: the folder is no bundle, of a newer format, or a file is missing or was changed.
    """
    try:
        if not path.is_dir():
            raise BundleError(f"{path}: not a folder; expected the folder that `bnas-deploy export -o` wrote")
        manifest = read_manifest(path / MANIFEST)
        for name, record in manifest.files.items():
            _check_file(path, name, record)
    except OSError as error:
        raise BundleError(f"{error.filename or path}: cannot be read: {error.strerror}") from None
    return Bundle(path, manifest)


def describe_files(folder: Path) -> dict[str, FileRecord]:
    """Return the size and hash of every file below `folder` but the manifest and the model card."""
    others = {folder / MANIFEST, folder / CARD}
    files = sorted(file for file in folder.rglob("*") if file.is_file() and file not in others)
    return {file.relative_to(folder).as_posix(): FileRecord(file.stat().st_size, _sha256(file)) for file in files}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_file(bundle: Path, name: str, record: FileRecord) -> None:
    if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts or "\0" in name:
        raise BundleError(
            f"{bundle / MANIFEST}: lists the file {name!r}, which is not inside the bundle; export the model again"
        )
    path = bundle / name
    try:
        opened = open_regular(path)
    except FileNotFoundError:
        raise BundleError(f"{path}: missing, but the manifest lists it; export the model again") from None
    with opened as file:
        got = os.fstat(file.fileno()).st_size
        if got != record.bytes:
            raise BundleError(f"{path}: {got} bytes, the manifest says {record.bytes}; copy or export the bundle again")
        if hashlib.file_digest(file, "sha256").hexdigest() != record.sha256:
            raise BundleError(f"{path}: its SHA-256 is not the one in the manifest; copy or export the bundle again")


def read_manifest(path: Path) -> Manifest:
    """Read a manifest.

    Raises:
        BundleError: it is missing, of a newer format, or something in it is wrong.
        OSError: the file cannot be read.
    """
    try:
        data = parse(read_bytes(path, LARGEST_FILE))
    except FileNotFoundError:
        raise BundleError(
            f"{path.parent}: no {MANIFEST} in it; expected the folder that `bnas-deploy export -o` wrote"
        ) from None
    except ValueError as error:
        raise BundleError(f"{path}: not a JSON file: {error}; export the model again") from None
    return _manifest_from_json(data, path)


def _manifest_from_json(data: Any, where: Path) -> Manifest:
    if not isinstance(data, dict) or type(data.get("format")) is not int:  # True is an int too
        raise BundleError(f"{where}: not a manifest: no integer `format`; export the model again")
    version = data["format"]
    if version < 1:
        raise BundleError(f"{where}: format version {version}, expected 1 to {FORMAT_VERSION}; export the model again")
    if version > FORMAT_VERSION:
        raise BundleError(
            f"{where}: format version {version}, this bnas-deploy reads up to {FORMAT_VERSION}; upgrade bnas-deploy"
        )
    try:
        if version < FIRST_WITH_PIECES:
            data = without_pieces(data)
        if version < FORMAT_VERSION:
            data = of_images_to_logits(data)
        manifest: Manifest = from_json(Manifest, data)
        _check_values(manifest)
    except ValueError as error:
        raise BundleError(f"{where}: {error}; export the model again") from None
    return manifest


def _check_values(manifest: Manifest) -> None:
    """Raise ValueError where fields are right each for itself, and the manifest is not."""
    for index, layer in enumerate(manifest.layers):
        _check_layer(layer, f"layers[{index}]")
    check_tensors(manifest.inputs, "inputs")
    check_tensors(manifest.outputs, "outputs")
    tolerances, names = manifest.verification.output_tolerances, [each.name for each in manifest.outputs]
    where = "verification.output_tolerances"
    wanted(sorted(tolerances) == sorted(names), sorted(tolerances), where, f"one for each of {json.dumps(names)}")
    for name, tolerance in tolerances.items():
        wanted(tolerance >= 0, tolerance, f"{where}[{name!r}]", "0 or more")
    if manifest.format >= FIRST_WITH_PIECES:
        _check_pieces(manifest)
    if manifest.labels is not None:
        logits = (None, len(manifest.labels))
        fits = [(each.dtype, each.shape) for each in manifest.outputs] == [("float32", logits)]
        got = [[each.dtype, list(each.shape)] for each in manifest.outputs]
        wanted(fits, got, "outputs", f"one of float32 [null, {logits[1]}], a logit for each label")
    if manifest.preprocessing is not None:
        _check_preprocessing(manifest.preprocessing, manifest.inputs)
    for name in FILES if manifest.format >= FIRST_WITH_PIECES else FILES[:-1]:
        wanted(name in manifest.files, list(manifest.files), "files", f"{name} among them")


def check_normalisation(preprocessing: Preprocessing) -> None:
    """Make sure that mean and std have a number for each channel that an image can be normalised with.

    Raises:
        ValueError: one has not.
    """
    channels = len(preprocessing.mean)
    for name in ("mean", "std"):
        numbers = getattr(preprocessing, name)
        wanted(all(map(math.isfinite, numbers)), list(map(str, numbers)), f"preprocessing.{name}", "finite numbers")
    wanted(
        len(preprocessing.std) == channels,
        list(preprocessing.std),
        "preprocessing.std",
        f"one for each of {channels} channels",
    )
    wanted(min(preprocessing.std, default=0) > 0, list(preprocessing.std), "preprocessing.std", "more than 0 each")


def _check_preprocessing(preprocessing: Preprocessing, inputs: Sequence[TensorSpec]) -> None:
    check_normalisation(preprocessing)
    image = (None, len(preprocessing.mean), preprocessing.height, preprocessing.width)
    shapes = [list(each.shape) for each in inputs if each.dtype == "float32"]
    text = f"{json.dumps(image)}, as the preprocessing makes images, among those of float32"
    wanted(list(image) in shapes, shapes, "inputs: shapes", text)


def _check_pieces(manifest: Manifest) -> None:
    """Refuse impossible shapes, and binary layers without a piece."""
    pieces = manifest.verification.pieces
    for index, piece in enumerate(pieces):
        shapes = piece.output.shape, piece.made
        fits = len(shapes[0]) == len(shapes[1]) and min((*shapes[0], *shapes[1]), default=1) > 0
        where = f"verification.pieces[{index}]: output, made"
        wanted(fits, [list(shape) for shape in shapes], where, "two shapes of one rank, at least 1 each")
    binary = {layer.name for layer in manifest.layers if layer.is_binary}
    missing = sorted(binary - {piece.name for piece in pieces})
    wanted(
        not missing, sorted(piece.name for piece in pieces), "verification.pieces", f"{json.dumps(missing)} among them"
    )


def _check_layer(layer: LayerCost, name: str) -> None:
    """Refuse what has no weights, or no number of them."""
    for key in ("input", "output", "kernel", "stride", "dilation"):
        sizes = getattr(layer, key)
        wanted(min(sizes) > 0, list(sizes), f"{name}.{key}", "at least 1 each")
    wanted(layer.groups > 0, layer.groups, f"{name}.groups", "at least 1")
    wanted(layer.weight_bits in (1, 8, 32), layer.weight_bits, f"{name}.weight_bits", "1, 8 or 32")
