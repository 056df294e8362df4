"""Weights that somebody else trained, as a checkpoint of this package.

A file of `torch.save` is read with `weights_only`, so nothing in it is executed. It may hold a state dict, or one under
a name such as `state_dict`, beside an optimiser and the rest of a training. Its names may start with `module.` or
`_orig_mod.`, which DataParallel and `torch.compile` add.

**Packed weights.** A convolution may be stored as signs in 32-bit words (XNOR-Net's ports save such): an integer tensor
of O rows, in each the signs of C KH KW weights one after another, the first in the lowest bit, 1 for +1. A tensor
`NAME.scale` or `NAME.alpha` beside `NAME.weight` holds the scale of each output channel. Such weights need the scheme
`xnor-net-plus`, whose scale is a parameter of its own: the answers are then theirs to the bit.
"""

import hashlib
import io
import math
import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from bnas_deploy.core.bits import unpack_signs
from bnas_deploy.core.bundle import Preprocessing
from bnas_deploy.core.counts import counted
from bnas_deploy.core.errors import BnasError, CheckpointError
from bnas_deploy.core.files import read_bytes
from bnas_deploy.search.models.family import Layout, ModelConfig
from bnas_deploy.search.models.registry import build_network
from bnas_deploy.search.nn.scheme_layer import binary_weights
from bnas_deploy.search.training.checkpoint import Checkpoint, check_values, find_misfits, is_checkpoint
from bnas_deploy.search.training.keras_files import HDF5, placed, places, read_keras

NESTED = ("state_dict", "model_state_dict", "model", "net", "network")
"""Where training scripts put a state dict beside other things."""

_WANTED = "give a file of safetensors, of torch.save or of Keras"

WRAPPERS = ("module.", "_orig_mod.")

WORD_BITS = 32

SCALES = ("scale", "alpha")


def import_checkpoint(
    path: Path,
    config: ModelConfig,
    layout: Layout,
    names: tuple[str, ...] | None,
    *,
    mean: tuple[float, ...] = (),
    std: tuple[float, ...] = (),
) -> Checkpoint:
    """Return the weights in a file as a checkpoint of the network of `config`.

    Args:
        path: a file of `torch.save`, or safetensors.
        config: the network that they belong to.
        layout: how they are stored.
        names: of the classes, in the order of the data set (its folders sorted by name); None: what the layout says.
            The layout knows which class a logit is.
        mean: of the images, a number for each channel; empty: as the layout says.
        std: what they were divided by; likewise.

    Raises:
        CheckpointError: the file cannot be read, its tensors are not those of the network, or it is a checkpoint.
        BnasError: mean or std are not those of as many channels.
    """
    mean = _of_channels("--mean", mean, layout.mean(config), config)
    std = _of_channels("--std", std, layout.std(config), config)
    if min(std) <= 0:
        raise BnasError(f"--std: {_listed(std)}, wanted numbers above 0: the images were divided by them")
    data = _bytes_of(path)
    if is_checkpoint(data):
        raise CheckpointError(
            f"{path}: a checkpoint of bnas-deploy already; eval, export and train --from take it as it is"
        )
    with torch.device("meta"):  # shapes without memory
        network = build_network(config)
    wanted = network.state_dict()
    state, theirs = _stored(path, data, config, network, layout)
    converted = sorted({str(each.dtype).removeprefix("torch.") for each in state.values() if _is_other_float(each)})
    state = {name: tensor.float() if _is_other_float(tensor) else tensor for name, tensor in state.items()}
    for name in wanted.keys() - state.keys():
        if name.endswith(".num_batches_tracked"):  # old versions of PyTorch have no such count, and no answer needs it
            state[name] = torch.zeros((), dtype=torch.int64)
    if misfits := find_misfits(state, wanted, theirs):
        raise _misfit(path, config, "; ".join(misfits))
    check_values(path, state)
    return Checkpoint(
        network=config,
        state={name: state[name] for name in wanted},
        preprocessing=Preprocessing(*config.image_size, mean=mean, std=std),
        labels=tuple((names or layout.names(config))[index] for index in layout.order(config)),
        data=layout.data(config),
        metrics={"imported": _source(path, data, converted)},
    )


def _source(path: Path, data: bytes, converted: Sequence[str]) -> dict[str, str]:
    """Return what a checkpoint says of the file, and of the types of its floats that became float32."""
    source = {"file": path.name, "sha256": hashlib.sha256(data).hexdigest()}
    return {**source, "converted from": ", ".join(converted)} if converted else source


def _of_channels(
    option: str, given: tuple[float, ...], usual: tuple[float, ...], config: ModelConfig
) -> tuple[float, ...]:
    numbers = given or usual
    if len(numbers) != config.in_channels:
        whose = "" if given else " by the layout"
        raise BnasError(
            f"{option}: {counted(len(numbers), 'number')}{whose} ({_listed(numbers)}), and the images of {config.name} "
            f"have {counted(config.in_channels, 'channel')}; give {option} as it was in training"
        )
    return numbers


def _listed(numbers: tuple[float, ...]) -> str:
    return ", ".join(f"{each:g}" for each in numbers)


def _misfit(path: Path, config: ModelConfig, reason: str) -> CheckpointError:
    return CheckpointError(
        f"{path}: its tensors are not those of {config.name}: {reason}; give the network, the genotype, the layout, "
        "the number of classes and --in-channels that it was trained with"
    )


def _stored(
    path: Path, data: bytes, config: ModelConfig, network: nn.Module, layout: Layout
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors of a file by their names here, and their names in the file by these."""
    if layout.layers is not None:
        try:
            return placed(read_keras(path), list(places(network, layout.layers(network)))), {}
        except ValueError as error:
            raise _misfit(path, config, str(error)) from None
    wanted = network.state_dict()
    joined = layout.join(state_in(path, data))
    theirs = _names_here(path, joined, config, layout)
    state = _unpacked(path, {here: joined[name] for here, name in theirs.items()}, wanted)
    return {name: _adapted(name, tensor, wanted, layout) for name, tensor in state.items()}, theirs


def zero_weights(checkpoint: Checkpoint) -> int:
    """Return how many of the weights that a network takes the signs of are exactly 0."""
    with torch.device("meta"):
        network = build_network(checkpoint.network)
    here = {id(parameter): name for name, parameter in network.named_parameters()}
    return sum(int((checkpoint.state[here[id(each)]] == 0).sum()) for each in binary_weights(network))


# --- reading --------------------------------------------------------------------------------------------------------


def state_in(path: Path, data: bytes) -> dict[str, Tensor]:
    """Return the state dict in the bytes of a file, without the prefixes of wrappers. Nothing is executed.

    Raises:
        CheckpointError: they are damaged, or hold no state dict.
    """
    found = _state_dict_in(path, _loaded(path, data))
    for name, tensor in found.items():
        _check_plain(path, name, tensor)
    while prefix := next((each for each in WRAPPERS if all(name.startswith(each) for name in found)), None):
        found = {name.removeprefix(prefix): tensor for name, tensor in found.items()}
    return found


def _check_plain(path: Path, name: str, tensor: Tensor) -> None:
    """Refuse tensors that are no dense numbers in memory."""
    kind, remedy = "", "save it as a dense tensor: tensor.to_dense()"
    if tensor.is_quantized:
        kind, remedy = str(tensor.dtype), "save the weights before they were quantised, or tensor.dequantize()"
    elif tensor.is_meta:
        kind, remedy = "without values (on the device meta)", "save it from a network that was loaded"
    elif tensor.is_complex():
        kind, remedy = str(tensor.dtype), "save real numbers"
    elif tensor.is_nested or tensor.layout != torch.strided:
        kind = "nested" if tensor.is_nested else str(tensor.layout)
    if kind:
        raise CheckpointError(f"{path}: tensor {name} is {kind.removeprefix('torch.')}, wanted dense numbers; {remedy}")


def _bytes_of(path: Path) -> bytes:
    try:
        return read_bytes(path)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}; {_WANTED}") from None


def _loaded(path: Path, data: bytes) -> Any:
    if not data:
        raise CheckpointError(f"{path}: empty; copy it again")
    if data.startswith(HDF5):
        raise CheckpointError(f"{path}: a file of HDF5, as Keras writes it; {_LARQ}")
    if _is_npz(data):
        raise CheckpointError(f"{path}: arrays of numpy (.npz), as Keras's are kept; {_LARQ}")
    try:
        if data[8:9] == b"{":  # a safetensors file has it behind a length of 8 bytes
            return safetensors.torch.load(data)
        with warnings.catch_warnings(action="ignore"):  # they are about what is refused below
            return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except safetensors.SafetensorError as error:
        raise CheckpointError(f"{path}: damaged ({error}); copy it again") from None
    except Exception as error:  # torch's reader raises whatever the damage leads to
        raise CheckpointError(f"{path}: {_reason(data, error)}") from None


_LARQ = "give --layout larq and a network of larq's, or save a state dict with torch.save"


def _is_npz(data: bytes) -> bool:
    """Tell whether a file is one of numpy's arrays; those of `torch.save` are zip archives as well."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError):
        return False
    return bool(names) and all(name.endswith(".npy") for name in names)


def _reason(data: bytes, error: Exception) -> str:
    """Say why torch refused a file: something in it would have to be executed, or it is damaged.

    Of torch's own text only a name is taken: it advises to execute the file.
    """
    anew = "Save the state dict alone where it was trained: torch.save(model.state_dict(), FILE)"
    if found := re.search(r"GLOBAL (\S+)", str(error)):
        return f"holds {found[1].rstrip('.,')}, which would have to be executed to be read; nothing is. {anew}"
    if "TorchScript" in str(error):
        return f"a TorchScript program, which would have to be executed to be read; nothing is. {anew}"
    if isinstance(error, pickle.UnpicklingError) and data.startswith(b"\x80"):
        return f"a pickle that is no state dict of torch.save, or a damaged one; nothing in it is executed. {anew}"
    if data.startswith((b"PK", b"\x80")):
        return "a damaged file of torch.save: a part of it is missing or was changed; copy it again, or save it anew"
    return f"neither a file of torch.save nor safetensors: it begins with {data[:8]!r}; {_WANTED}"


def _state_dict_in(path: Path, read: Any) -> dict[str, Tensor]:
    """Return what is a state dict in what torch read."""
    if not isinstance(read, Mapping):
        raise CheckpointError(f"{path}: holds {type(read).__name__}; wanted a state dict, or a dict with one")
    for candidate in (read, *(read[name] for name in NESTED if name in read)):
        if (
            isinstance(candidate, Mapping)
            and candidate
            and all(isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in candidate.items())
        ):
            return dict(candidate)
    names = ", ".join(map(str, list(read)[:5])) or "nothing"
    raise CheckpointError(
        f"{path}: holds no state dict: it has {names}; wanted tensors by name, or one of {', '.join(NESTED)} with them"
    )


def _names_here(path: Path, state: Mapping[str, Tensor], config: ModelConfig, layout: Layout) -> dict[str, str]:
    """Return the names that tensors have in the file by those that they have here."""
    theirs: dict[str, str] = {}
    for name in state:
        here = layout.rename(config, name)
        if here in theirs:
            raise CheckpointError(f"{path}: two tensors are {here} here, one of them {name}; keep one of them")
        theirs[here] = name
    return theirs


def _adapted(name: str, tensor: Tensor, wanted: Mapping[str, Tensor], layout: Layout) -> Tensor:
    return layout.adapt(name, tensor, tuple(wanted[name].shape)) if name in wanted else tensor


def _is_other_float(tensor: Tensor) -> bool:
    return tensor.is_floating_point() and tensor.dtype != torch.float32


# --- packed weights -------------------------------------------------------------------------------------------------


def unpack_words(words: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return ±1 float32 of `shape` (O, ...) from rows of 32-bit words, the first sign in the lowest bit.

    Args:
        words: integers, O rows of ceil(n / 32) words in any shape; n is the product of the other sizes.
        shape: of the weights.

    Raises:
        ValueError: another number of words.
    """
    rows, count = shape[0], math.prod(shape[1:])
    expected = rows * math.ceil(count / WORD_BITS)
    if words.numel() != expected:
        raise ValueError(f"{words.numel()} words, wanted {expected} for {list(shape)}")
    # Little-endian words lie in memory as the bytes of `bits` do.
    packed = words.reshape(rows, -1).numpy().astype("<u4").view(np.uint8)
    return torch.from_numpy(unpack_signs(packed, count)).reshape(shape)


def _unpacked(path: Path, state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the state with signs and learned scales in place of packed words and their scales."""
    result = dict(state)
    for name, words in state.items():
        layer, _, kind = name.rpartition(".")
        scale_here = f"{layer}.learned_scale"
        if kind != "weight" or words.is_floating_point() or name not in wanted:
            continue
        if words.shape == wanted[name].shape:  # words are fewer than weights
            continue
        if scale_here not in wanted:
            raise CheckpointError(
                f"{path}: {name} is packed to bits, with a scale beside it; give --scheme xnor-net-plus, whose layers "
                "have one, and no deviation of the official code"
            )
        stored = next((f"{layer}.{each}" for each in SCALES if f"{layer}.{each}" in state), None)
        if stored is None:
            raise CheckpointError(f"{path}: {name} is packed to bits, and {layer}.scale or {layer}.alpha is missing")
        try:
            result[name] = unpack_words(words, tuple(wanted[name].shape))
            result[scale_here] = result.pop(stored).reshape(wanted[scale_here].shape)
        except (ValueError, RuntimeError) as error:
            raise CheckpointError(f"{path}: {name} is packed to bits and does not fit: {error}") from None
    return result


def read_names(path: Path, classes: int) -> tuple[str, ...]:
    """Return class names from a text file, one in each line.

    Raises:
        BnasError: the file cannot be read, or has another number of lines.
    """
    try:
        lines = read_bytes(path).decode().splitlines()
    except OSError as error:
        raise BnasError(f"{path}: cannot be read: {error.strerror}; give a text file of {classes} lines") from None
    except UnicodeDecodeError:
        raise BnasError(f"{path}: is no UTF-8 text; give a text file of {classes} lines") from None
    if len(lines) != classes:
        raise BnasError(f"{path}: has {len(lines)} lines; wanted {classes}, the name of a class in each")
    return tuple(lines)
