"""A network with its weights in one safetensors file, and everything that export and use need beside them.

The file's metadata has one entry, `bnas_deploy`, a JSON object:

    format           3; formats 1 and 2 hold networks of the family "bnas" only
    bnas_deploy      version that wrote the file
    model            the family of the network, a name of `bnas_deploy.search.models.registry`
    network          its configuration, such as the fields of `NetworkConfig`
    data             name of the data set
    labels           class names, in the order of the logits
    preprocessing    height, width, mean, std
    metrics          what training measured, for people to read
    training         how it was trained, a `TrainingRecord`, or null; the first files of format 3 have none

Nothing is ever unpickled.
"""

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

import bnas_deploy
from bnas_deploy.core.bundle import Preprocessing
from bnas_deploy.core.errors import BnasError, CheckpointError
from bnas_deploy.core.files import open_regular, read_bytes, write_whole
from bnas_deploy.core.json_records import from_json, parse, value_of
from bnas_deploy.core.names import in_order
from bnas_deploy.search.models.family import ModelConfig
from bnas_deploy.search.models.registry import build_network, read_config
from bnas_deploy.search.training.training_record import TrainingRecord

FORMAT_VERSION = 3
METADATA_KEY = "bnas_deploy"

EXPECTED = "expected a safetensors file that `bnas-deploy train` or `init` wrote"

_FIRST_WITH_MODEL = 3
"""The first format that names the family of its network; before, there were BNAS networks only."""

_LENGTH_BYTES = 8  # a safetensors file begins with the length of its JSON header, little-endian
_LARGEST_HEADER = 100_000_000  # what the package safetensors reads


@dataclass(frozen=True)
class _Description:
    """The JSON object in the file's metadata."""

    format: int
    bnas_deploy: str
    model: str
    network: dict[str, Any]
    data: str
    labels: tuple[str, ...]
    preprocessing: Preprocessing
    metrics: dict[str, Any]
    training: TrainingRecord | None


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A network and its weights.

    Attributes:
        network: what to build.
        state: the state dict of that network.
        preprocessing: how an image becomes an input.
        labels: the class of logit i is labels[i].
        data: name of the data set it was trained on.
        metrics: what training measured; shown to people, not interpreted.
        training: how it was trained, for people too; None where nobody has said.
        version: of the bnas-deploy that made it.
    """

    network: ModelConfig
    state: Mapping[str, Tensor] = field(repr=False)
    preprocessing: Preprocessing
    labels: tuple[str, ...]
    data: str
    metrics: Mapping[str, Any] = field(default_factory=dict)
    training: TrainingRecord | None = None
    version: str = bnas_deploy.__version__

    def __post_init__(self) -> None:
        if len(self.labels) != self.network.classes:
            raise CheckpointError(
                f"{len(self.labels)} labels, but {self.network.name} has {self.network.classes} classes"
            )
        size = (self.preprocessing.height, self.preprocessing.width)
        if size != self.network.image_size:
            raise CheckpointError(
                f"preprocessing to {size}, but {self.network.name} takes images of {self.network.image_size}"
            )
        for name, values in (("mean", self.preprocessing.mean), ("std", self.preprocessing.std)):
            if len(values) != self.network.in_channels:
                raise CheckpointError(
                    f"{len(values)} values in {name}, but {self.network.name} takes {self.network.in_channels} channels"
                )
            if not all(map(math.isfinite, values)):
                raise CheckpointError(f"{name} is {list(values)}, expected finite numbers")
        if min(self.preprocessing.std) <= 0:
            raise CheckpointError(f"std is {list(self.preprocessing.std)}, expected positive numbers")

    def build(self) -> nn.Module:
        """Return the network with these weights, on the CPU, in evaluation mode."""
        with torch.random.fork_rng(devices=[]):  # its random initialisation is overwritten and must leave no trace
            network = build_network(self.network)
        network.load_state_dict(self.state)
        return network.eval()


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint. Whoever looks at `path` sees the old file or the new one, whole.

    Raises:
        CheckpointError: `path` cannot be written.
    """
    description = {
        "format": FORMAT_VERSION,
        "bnas_deploy": checkpoint.version,
        "model": checkpoint.network.model,
        "network": checkpoint.network.to_json(),
        "data": checkpoint.data,
        "labels": checkpoint.labels,
        "preprocessing": asdict(checkpoint.preprocessing),
        "metrics": dict(checkpoint.metrics),
        "training": None if checkpoint.training is None else asdict(checkpoint.training),
    }
    write_tensors(path, checkpoint.state, METADATA_KEY, description)


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint and check it against the network that it describes.

    Raises:
        CheckpointError: `path` is no checkpoint of bnas-deploy, of a newer format, damaged, or its tensors are not
            those of its network or hold values that no training gives.
    """
    state, description = read_tensors(path, METADATA_KEY)
    check_format(path, description, FORMAT_VERSION)
    try:
        if description["format"] < _FIRST_WITH_MODEL:
            description = {"model": "bnas", **description}
        told: _Description = from_json(_Description, {"training": None, **description})
        checkpoint = Checkpoint(
            network=read_config(told.model, told.network, "network"),
            state=state,
            preprocessing=told.preprocessing,
            labels=told.labels,
            data=told.data,
            metrics=told.metrics,
            training=told.training,
            version=told.bnas_deploy,
        )
    except (BnasError, ValueError) as error:
        reason = error.message if isinstance(error, BnasError) else str(error)
        raise CheckpointError(f"{path}: {reason}; {_advice(description)}") from None
    with torch.device("meta"):  # shapes without memory
        wanted = build_network(checkpoint.network).state_dict()
    misfits = find_misfits(state, wanted)
    if misfits:
        raise CheckpointError(
            f"{path}: its tensors are not those of the {checkpoint.network.name} that it describes: "
            f"{'; '.join(misfits)}; copy or train it again"
        )
    check_values(path, state)
    return checkpoint


def is_checkpoint(data: bytes) -> bool:
    """Tell whether the bytes of a file are those of a checkpoint, by the metadata at their start."""
    if data[_LENGTH_BYTES : _LENGTH_BYTES + 1] != b"{":
        return False
    try:
        header = parse(data[_LENGTH_BYTES : _LENGTH_BYTES + _header_bytes(data)])
        return METADATA_KEY in header["__metadata__"]
    except (ValueError, LookupError, TypeError):
        return False


def _advice(description: Mapping[str, Any]) -> str:
    """Say what to do with a file that cannot be understood: another version may have written what this one lacks."""
    version = description.get("bnas_deploy")
    if isinstance(version, str) and version != bnas_deploy.__version__:
        return (
            f"bnas-deploy {version} wrote the file and this is {bnas_deploy.__version__}: use that version or a later "
            "one, or train the network again"
        )
    return "the file is damaged, copy or train it again"


def write_tensors(path: Path, tensors: Mapping[str, Tensor], key: str, description: Mapping[str, Any]) -> None:
    """Write tensors with a JSON object under `key` in the metadata; same input, same bytes.

    Raises:
        CheckpointError: `path` cannot be written.
    """
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    data = safetensors.torch.save(plain, {key: json.dumps(description)})
    try:
        write_whole(path, data)
    except BnasError as error:
        raise CheckpointError(error.message) from None


def read_tensors(path: Path, key: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `write_tensors` wrote: the tensors and the JSON object under `key`.

    Raises:
        CheckpointError: `path` cannot be read, or was written by something else or for something else.
    """
    try:
        data = _read(path)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}; {EXPECTED}") from None
    try:
        tensors = safetensors.torch.load(data)
        header = parse(data[_LENGTH_BYTES : _LENGTH_BYTES + _header_bytes(data)])
    except (safetensors.SafetensorError, ValueError) as error:
        raise CheckpointError(f"{path}: damaged ({error}); copy or train it again") from None
    metadata = header.get("__metadata__", {})
    if key not in metadata:
        kinds = ", ".join(metadata) or "none"
        raise CheckpointError(
            f"{path}: a safetensors file, but without the metadata {key!r} (it has: {kinds}); "
            "expected a file that `bnas-deploy train` or `init` wrote, such as best.safetensors"
        )
    try:
        description = parse(metadata[key])
    except ValueError as error:
        raise CheckpointError(f"{path}: its metadata {key!r} is not JSON ({error}); copy or train it again") from None
    if not isinstance(description, dict):
        raise CheckpointError(f"{path}: its metadata {key!r} is not a JSON object; copy or train it again")
    return tensors, description


def check_format(path: Path, description: Mapping[str, Any], newest: int, oldest: int = 1) -> None:
    """Refuse a description whose `format` this version cannot read.

    Raises:
        CheckpointError: the format is newer or older, or there is none.
    """
    version = description.get("format")
    if type(version) is not int or version < 1:
        raise CheckpointError(
            f"{path}: format version {version!r}, expected {oldest} to {newest}; copy or train it again"
        )
    if version > newest:
        raise CheckpointError(
            f"{path}: format version {version}, this bnas-deploy reads up to {newest}; upgrade bnas-deploy"
        )
    if version < oldest:
        raise CheckpointError(
            f"{path}: format version {version}, this bnas-deploy reads {oldest} and later; go on with the bnas-deploy "
            f"that wrote it ({description.get('bnas_deploy')})"
        )


def _read(path: Path) -> bytes:
    """Return the bytes of a safetensors file. Its header is looked at first: any file may be given, of any size.

    Raises:
        CheckpointError: it is something else, or is cut short.
        OSError: it cannot be read.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        start = file.read(_LENGTH_BYTES)
        length = int.from_bytes(start, "little")
        start += file.read(min(length, _LARGEST_HEADER))
    if refusal := _refusal_of(start, size):
        raise CheckpointError(f"{path}: {refusal}")
    return read_bytes(path)


def _refusal_of(start: bytes, size: int) -> str | None:
    """Say what a file is that is no whole safetensors file, and what to do; `start` is its header with the length."""
    if not size:
        return f"empty; {EXPECTED}"
    # After the length a safetensors file has "{". This comes first: a length may look like another format's magic.
    if start[_LENGTH_BYTES : _LENGTH_BYTES + 1] == b"{":
        promised = _promised_bytes(start)
        if promised is None or size < promised:
            told = "its header is incomplete" if promised is None else f"its header promises {promised}"
            return f"cut short: {size} bytes, {told}; copy or train it again"
        return (
            None
            if size == promised
            else f"damaged: {size} bytes, its header promises {promised}; copy or train it again"
        )
    if size <= _LENGTH_BYTES:  # the rest of a length may look like any magic; a model takes more bytes than that
        return f"not a safetensors file; {EXPECTED}"
    if start[:2] == b"PK":
        return f"a zip file, probably from torch.save, which holds pickles; they are never loaded, {EXPECTED}"
    if start[:1] == b"\x80":
        return f"a pickle, probably from torch.save; pickles are never loaded, {EXPECTED}"
    return f"not a safetensors file; {EXPECTED}"


def _header_bytes(data: bytes) -> int:
    return int.from_bytes(data[:_LENGTH_BYTES], "little")


def _promised_bytes(data: bytes) -> int | None:
    """Return the size that a safetensors header implies, or None where the header itself is cut or no JSON."""
    start = _LENGTH_BYTES + _header_bytes(data)
    try:
        header = parse(data[_LENGTH_BYTES:start])
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        return start + max(value_of(tuple[int, ...], ends, "data_offsets"), default=0)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError):
        return None


def check_values(path: Path, state: Mapping[str, Tensor]) -> None:
    """Refuse values that make every answer NaN.

    Raises:
        CheckpointError: a tensor is not finite, or a variance is negative.
    """
    for name, tensor in state.items():
        if not tensor.isfinite().all():
            raise CheckpointError(f"{path}: tensor {name} holds NaN or infinity; copy or train it again")
        if name.endswith("running_var") and (tensor < 0).any():
            raise CheckpointError(f"{path}: tensor {name} holds a negative variance; copy or train it again")


_SHOWN = 5
"""Differences of a kind that are told one by one; the others are counted."""


def find_misfits(
    got: Mapping[str, Tensor], wanted: Mapping[str, Tensor], theirs: Mapping[str, str] | None = None
) -> list[str]:
    """Compare names, shapes and types of tensors; return a phrase per kind of difference.

    Args:
        got: tensors by name.
        wanted: those that there should be.
        theirs: what those of `got` are called in their file, where that is something else.
    """
    called = {name: f"{name} (in the file {theirs[name]})" for name in theirs or () if theirs and theirs[name] != name}
    missing = [f"{name} {_kind(tensor)}" for name, tensor in wanted.items() if name not in got]
    # A safetensors file gives its tensors back in no order of their names.
    others = sorted((name for name in got if name not in wanted), key=in_order)
    unexpected = [f"{called.get(name, name)} {_kind(got[name])}" for name in others]
    other = [
        f"{called.get(name, name)} is {_kind(got[name])}, expected {_kind(wanted[name])}"
        for name in wanted
        if name in got and _kind(got[name]) != _kind(wanted[name])
    ]
    kinds = (("missing", missing), ("unexpected", unexpected), ("of another shape or type", other))
    return [f"{len(found)} {what}: {_some(found)}" for what, found in kinds if found]


def _some(phrases: Sequence[str]) -> str:
    left = len(phrases) - _SHOWN
    return " | ".join([*phrases[:_SHOWN], *([f"{left} more"] if left > 0 else [])])


def _kind(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
