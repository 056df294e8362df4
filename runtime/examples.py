"""The examples in a bundle: what its network was run on at export, and what PyTorch answered."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bnas_deploy.core.bundle import BEFORE_QUANTIZATION, IMAGES, RIGHT_CLASSES, Bundle, Manifest
from bnas_deploy.core.errors import BundleError
from bnas_deploy.core.npz import read_arrays
from bnas_deploy.core.tensor_spec import TensorSpec


@dataclass(frozen=True)
class Examples:
    """Arrays by the names of inputs and outputs; what has the axis N has `count` entries there.

    `labels` (N) int64 are the right classes, None where they are unknown or the network is no classifier. `before` are
    the outputs that a classifier gave before float layers were put into 8 bits, None where they are not kept.
    """

    inputs: Mapping[str, NDArray[Any]]
    outputs: Mapping[str, NDArray[Any]]
    count: int
    labels: NDArray[np.int64] | None = None
    before: Mapping[str, NDArray[Any]] | None = None


def read_examples(bundle: Bundle) -> Examples:
    """Read them.

    Raises:
        BundleError: they cannot be read, one is missing, or they do not belong together.
    """
    path, manifest = bundle.file(IMAGES), bundle.manifest
    arrays = read_vectors(path)
    inputs, outputs = (
        {each.name: _required(arrays, each, path) for each in tensors}
        for tensors in (manifest.inputs, manifest.outputs)
    )
    counts = {len(inputs[each.name]) for each in manifest.inputs if each.is_batched}
    if len(counts) > 1:
        raise BundleError(f"{path}: inputs for {sorted(counts)} examples, wanted one number; export the model again")
    count = counts.pop() if counts else 1
    labels = arrays.get(RIGHT_CLASSES) if manifest.labels is not None else None
    if labels is not None and labels.shape != (count,):
        raise BundleError(f"{path}: labels of shape {labels.shape} for {count} images; export the model again")
    return Examples(inputs, outputs, count, labels, _before(manifest, arrays, path))


def read_vectors(path: Path) -> dict[str, NDArray[Any]]:
    """Read the arrays of a file of test vectors.

    Raises:
        BundleError: it cannot be read.
    """
    try:
        return read_arrays(path)
    except OSError as error:
        raise BundleError(f"{path}: cannot be read: {error.strerror}; export the model again") from None
    except ValueError as error:
        raise BundleError(f"{path}: cannot be read: {error}; export the model again") from None


def feeds_of(bundle: Bundle, inputs: Mapping[str, NDArray[Any]], count: int) -> dict[str, NDArray[Any]]:
    """Return `count` examples, the first ones, or all of them as often as it takes; others than N stay as they are."""
    return {
        each.name: np.ascontiguousarray(np.take(array, np.arange(count) % len(array), axis=0))
        if each.is_batched
        else array
        for each, array in ((each, inputs[each.name]) for each in bundle.manifest.inputs)
    }


def _before(manifest: Manifest, arrays: Mapping[str, NDArray[Any]], where: Path) -> Mapping[str, NDArray[Any]] | None:
    """Return the logits that a classifier gave before its float layers were put into 8 bits; None of any other."""
    if manifest.quantization is None or manifest.labels is None:
        return None
    (logits,) = manifest.outputs
    kept = BEFORE_QUANTIZATION.format(logits.name)
    return {kept: _required(arrays, replace(logits, name=kept), where)} if kept in arrays else None


def _required(arrays: Mapping[str, NDArray[Any]], wanted: TensorSpec, where: Path) -> NDArray[Any]:
    if wanted.name not in arrays:
        raise BundleError(f"{where}: no test vector {wanted.name!r}; export the model again")
    array = arrays[wanted.name]
    if str(array.dtype) != wanted.dtype or not array.size:
        raise BundleError(
            f"{where}: {wanted.name} is {array.dtype} {array.shape}, wanted {wanted.dtype} and something in it; "
            "export the model again"
        )
    if array.ndim != len(wanted.shape):
        raise BundleError(f"{where}: {wanted.name} has the shape {array.shape}, wanted {wanted.wanted}; export again")
    return array
