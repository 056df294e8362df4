"""A verified model whose float layers, all or those that are faster so, are then put into 8 bits."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import Tensor

from bnas_deploy.core import bundle as files
from bnas_deploy.core.bundle import Bundle, Manifest, Quantization, describe_files
from bnas_deploy.core.errors import ExportError
from bnas_deploy.core.npz import write_arrays
from bnas_deploy.export.compared import answers_of_file, write_vectors
from bnas_deploy.export.finish import finish
from bnas_deploy.export.inputs import Feed
from bnas_deploy.export.passes import ISLAND_PIPELINE
from bnas_deploy.export.quantization import layers_worth_8_bits, quantize_layers, with_origins
from bnas_deploy.export.rewrite import run
from bnas_deploy.export.vectors import output_tolerances
from bnas_deploy.runtime.session import create_session

Choose = Callable[[onnx.ModelProto, tuple[str, ...]], tuple[str, ...]]
"""(model, the names of the layers that can gain from 8 bits) -> the names of those that shall be."""


def all_of_them(model: onnx.ModelProto, names: tuple[str, ...]) -> tuple[str, ...]:
    """Return all layers that can gain from 8 bits, at least one.

    Raises:
        ExportError: there is none.
    """
    if not names:
        raise ExportError(
            "--float-layers int8: no float layer has channels or a kernel to gain from 8 bits; export with float layers"
        )
    return names


def quantize_float_layers(
    bundle: Bundle,
    feed: Feed,
    examples: Mapping[str, NDArray[Any]],
    graph: ir.Model,
    values: Mapping[str, Tensor],
    choose: Choose,
) -> Manifest:
    """Replace the verified model, made of `graph`, by one whose float layers are in 8 bits; return its manifest.

    Of the layers that can gain from 8 bits `choose` says which. Where it chooses none, the model stays as it is.

    Other machines must then reproduce this model's answers, for the whole network and for each 8-bit layer. The other
    pieces are compared with PyTorch's `values` as before. `examples` are the arrays that the bundle keeps.
    """
    path, manifest = bundle.file(files.MODEL), bundle.manifest
    outputs = [each.name for each in manifest.outputs]
    before = answers_of_file(path, outputs, feed, library=True)
    run(ISLAND_PIPELINE, graph)
    finished = finish(graph)
    names = choose(finished, layers_worth_8_bits(finished))
    if not names:
        return replace(manifest, files=describe_files(bundle.path))
    model = quantize_layers(finished, feed.arrays(), names)
    onnx.save(model, path)
    _, checks = write_vectors(with_origins(ir.from_proto(model), graph, names), values, bundle.path)
    session = create_session(path)

    def answer(feed: Feed) -> tuple[Tensor, ...]:
        return tuple(torch.from_numpy(np.asarray(each)) for each in session.run(outputs, feed.arrays()))

    after = [tensor.numpy() for tensor in answer(feed)]
    changed = dict(zip(outputs, after, strict=True))
    kept = {files.BEFORE_QUANTIZATION.format(name): array for name, array in zip(outputs, before, strict=True)}
    write_arrays(bundle.file(files.IMAGES), {**examples, **changed, **kept})
    return replace(
        manifest,
        layers=tuple(replace(layer, weight_bits=8) if layer.name in names else layer for layer in manifest.layers),
        verification=replace(
            manifest.verification,
            output_tolerances=dict(zip(outputs, output_tolerances(answer, feed), strict=True)),
            pieces=checks,
        ),
        quantization=_change(before, after, len(feed), is_classifier=manifest.labels is not None),
        files=describe_files(bundle.path),
    )


def _change(
    before: tuple[NDArray[Any], ...], after: list[NDArray[Any]], examples: int, *, is_classifier: bool
) -> Quantization:
    differences = [
        np.abs(np.subtract(new, old, dtype=np.float64)).ravel() for new, old in zip(after, before, strict=True)
    ]
    every = np.concatenate(differences)
    return Quantization(
        largest_difference=float(every.max()),
        mean_difference=float(every.mean()),
        images=examples,
        agreement=int((after[0].argmax(axis=1) == before[0].argmax(axis=1)).sum()) if is_classifier else None,
    )
