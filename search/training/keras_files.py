"""Arrays out of the files of Keras, and their places in a network here. Nothing in such a file is executed.

Keras tells the arrays of a file apart by their order, that of the layers of a model and of the weights of a layer; the
names are numbered anew in every session. A file is HDF5, of `model.save_weights("FILE.h5")` or `model.save("FILE.h5")`,
or .npz, of `numpy.savez(FILE, *model.get_weights())` or with names.

Kernels lie there as (KH, KW, C, O), those of depthwise convolutions as (KH, KW, C, 1), those of dense layers as (C, O).
A convolution with groups is several convolutions, one behind another.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bnas_deploy.core.errors import CheckpointError
from bnas_deploy.core.files import open_regular
from bnas_deploy.core.memory import memory_bytes
from bnas_deploy.core.npz import read_arrays
from bnas_deploy.search.nn.layers import BinaryConv2d

HDF5 = b"\x89HDF\r\n\x1a\n"
"""How a file of HDF5 begins."""

Arrays = Mapping[str, NDArray[Any]]


def read_keras(path: Path) -> dict[str, NDArray[Any]]:
    """Return the arrays of a file by name, in the order of the layers.

    Raises:
        CheckpointError: it cannot be read, or is neither HDF5 nor .npz as Keras and numpy write them; h5py is missing.
    """
    start = b""
    try:
        with open_regular(path) as file:
            start = file.read(len(HDF5))
        return _read_hdf5(path) if start == HDF5 else read_arrays(path)
    except OSError as error:
        reason = error.strerror or "damaged"
        raise CheckpointError(f"{path}: cannot be read: {reason}; give a file of Keras: .h5, or .npz") from None
    except ValueError as error:
        if not start.startswith((HDF5, b"PK")):
            raise CheckpointError(
                f"{path}: neither HDF5 nor .npz: it begins with {start!r}; give a file of Keras: .h5, or .npz"
            ) from None
        raise CheckpointError(
            f"{path}: no file of Keras that can be read ({error}); give one of model.save_weights('FILE.h5') or of "
            "numpy.savez('FILE.npz', *model.get_weights())"
        ) from None


# --- HDF5 -----------------------------------------------------------------------------------------------------------


def _read_hdf5(path: Path) -> dict[str, NDArray[Any]]:
    try:
        import h5py
    except ImportError:
        raise CheckpointError(f"{path}: is HDF5, which h5py reads; pip install h5py") from None
    with h5py.File(path, "r") as file:
        root = _inside(file, "model_weights") if "model_weights" in set(file) else file
        if not _has_list(root, "layer_names"):
            raise ValueError("it has no layer_names; Keras 3 writes such files, and Keras 2 those that are read")
        left = memory_bytes()
        arrays: dict[str, NDArray[Any]] = {}
        for layer in _list(root, "layer_names"):
            group = _inside(root, layer)
            for name in _list(group, "weight_names"):
                dataset = _checked(_inside(group, name), name)
                size = prod(dataset.shape) * dataset.dtype.itemsize
                if left is not None and size > left:
                    raise ValueError("its arrays are larger than this machine's memory")
                left = None if left is None else left - size
                arrays[name if name not in arrays else f"{layer}/{name}"] = np.asarray(dataset[()])
        return arrays


def _has_list(group: Any, name: str) -> bool:
    return name in group.attrs or f"{name}0" in group.attrs


def _list(group: Any, name: str) -> list[str]:
    """Return a list of names, which Keras splits over NAME0, NAME1 and so on where it is long."""
    if name in group.attrs:
        parts = [group.attrs[name]]
    else:
        numbers = range(len(group.attrs))
        parts = [group.attrs[f"{name}{number}"] for number in numbers if f"{name}{number}" in group.attrs]
    return [each.decode() if isinstance(each, bytes) else str(each) for part in parts for each in np.ravel(part)]


def _inside(group: Any, name: str) -> Any:
    """Return what is at a path in a group. A link to another file is not followed: it could name any file."""
    import h5py

    for part in name.split("/"):
        if not isinstance(group, h5py.Group) or not isinstance(group.get(part, getlink=True), h5py.HardLink):
            raise ValueError(f"{name} is not in it")
        group = group[part]
    return group


def _checked(dataset: Any, name: str) -> Any:
    import h5py

    if not isinstance(dataset, h5py.Dataset) or dataset.dtype.kind != "f":
        raise ValueError(f"{name} is no array of floating-point numbers")
    if dataset.external or dataset.is_virtual:
        raise ValueError(f"{name} lies in another file")
    return dataset


# --- places ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Place:
    """Where an array belongs.

    Attributes:
        name: of the tensor here.
        shape: of the array in Keras.
        axes: of the array, in the order that they have here.
    """

    name: str
    shape: tuple[int, ...]
    axes: tuple[int, ...]


def places(network: nn.Module, layers: Iterable[str]) -> Iterator[Place]:
    """Yield the places of the arrays of a file, for the names here of its layers with weights, in their order."""
    for name in layers:
        module = network.get_submodule(name)
        match module:
            case nn.BatchNorm2d():
                kinds = ("weight", "bias") if module.affine else ()
                for kind in (*kinds, "running_mean", "running_var"):
                    yield Place(f"{name}.{kind}", (module.num_features,), (0,))
            case nn.Linear():
                yield Place(f"{name}.weight", (module.in_features, module.out_features), (1, 0))
                yield Place(f"{name}.bias", (module.out_features,), (0,))
            case nn.Conv2d() | BinaryConv2d():
                yield from _kernels(name, module)


def _kernels(name: str, conv: nn.Conv2d | BinaryConv2d) -> Iterator[Place]:
    height, width = conv.kernel_size
    if conv.groups == conv.in_channels == conv.out_channels:
        yield Place(f"{name}.weight", (height, width, conv.in_channels, 1), (2, 3, 0, 1))
        return
    ins, outs = conv.in_channels // conv.groups, conv.out_channels // conv.groups
    for _ in range(conv.groups):
        yield Place(f"{name}.weight", (height, width, ins, outs), (3, 2, 0, 1))


def placed(arrays: Arrays, wanted: Sequence[Place]) -> dict[str, Tensor]:
    """Return arrays as the tensors of their places, by the names here; parts of one tensor are joined.

    Raises:
        ValueError: there are more or fewer, or one has another shape; the message names the first that does not fit.
    """
    for number, ((name, array), place) in enumerate(zip(arrays.items(), wanted, strict=False), start=1):
        if array.shape != place.shape:
            raise ValueError(
                f"array {number}, {name}, is {list(array.shape)}, expected {list(place.shape)} for {place.name}"
            )
    if len(arrays) != len(wanted):
        more = list(arrays)[len(wanted) :] or [place.name for place in wanted[len(arrays) :]]
        kind = "more" if len(arrays) > len(wanted) else "missing"
        raise ValueError(f"{len(arrays)} arrays, expected {len(wanted)}; the first {kind} is {more[0]}")
    parts: dict[str, list[Tensor]] = {}
    for array, place in zip(arrays.values(), wanted, strict=True):
        parts.setdefault(place.name, []).append(torch.from_numpy(np.array(array.transpose(place.axes), order="C")))
    return {name: torch.cat(tensors) for name, tensors in parts.items()}
