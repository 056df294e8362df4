"""What a network takes, whatever it is: nested values as the user gives them, and as the tensors that a graph has."""

import inspect
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bnas_deploy.core.errors import ExportError
from bnas_deploy.core.names import did_you_mean
from bnas_deploy.core.tensor_spec import DTYPES
from bnas_deploy.export.leaves import Structure, checked_names, leaves_of

INPUT = "images"
"""Name of the input of a network that takes `Images`."""


@dataclass(frozen=True)
class Inputs:
    """Examples for each input of a network, to verify its export with: instead of `Images`, where it takes more.

    Attributes:
        values: a tensor; a tuple of what forward takes, in its order; or a dict of that by the names of its arguments.
            Each is a tensor, or a list, tuple or dict of them. Axis 0 is that of the N examples.
        fixed: the names of inputs without that axis, which are the same for all examples.
        labels: (N) int64, the right classes of a classifier; None where there are none, or they are unknown.

    An input has the name of its argument; a part of a list, tuple or dict that of the whole, a dot and its key.
    """

    values: Tensor | Sequence[Any] | Mapping[str, Any]
    fixed: Collection[str] = ()
    labels: Tensor | None = None


@dataclass(frozen=True)
class Source:
    """Where examples come from, for the messages that they do not fit: an argument in Python, or options.

    Attributes:
        given: ends "it was given x float32 (2, 3, 8, 8), ..."; what decides the types and shapes.
        remedy: how other examples are given.
        names: how each is given by its name.
        fixed: how those without an axis of examples are named.
    """

    given: str
    remedy: str
    names: str
    fixed: str = "Inputs(fixed=...)"


_NAMES = "give Inputs(...) with a tuple in its order, or a dict by its names"
OF_IMAGES = Source("the pixels of Images(...)", "give images as the network takes them", _NAMES)
OF_INPUTS = Source("the values of Inputs(...)", "give examples as the network takes them", _NAMES)


@dataclass(frozen=True)
class Feed:
    """Examples for each input of a network: tensors in the order of its graph; `fixed` are names without the axis N."""

    names: tuple[str, ...]
    tensors: tuple[Tensor, ...]
    fixed: frozenset[str] = frozenset()

    @classmethod
    def of_images(cls, pixels: Tensor) -> "Feed":
        """Return images (N, C, H, W) as what a network of one input takes."""
        return cls((INPUT,), (pixels,))

    def __len__(self) -> int:
        """Return N."""
        return next(len(tensor) for name, tensor in self.items() if name not in self.fixed)

    def __getitem__(self, part: slice) -> "Feed":
        """Return some of the examples."""
        cut = (tensor if name in self.fixed else tensor[part] for name, tensor in self.items())
        return Feed(self.names, tuple(cut), self.fixed)

    def items(self) -> Iterator[tuple[str, Tensor]]:
        """Return pairs of a name and a tensor."""
        return zip(self.names, self.tensors, strict=True)

    def with_tensors(self, tensors: Sequence[Tensor]) -> "Feed":
        """Return other tensors for the same inputs."""
        return Feed(self.names, tuple(tensors), self.fixed)

    def zeros(self, count: int) -> "Feed":
        """Return `count` examples of zeros, to trace a network with."""
        sizes = (tensor.shape if name in self.fixed else (count, *tensor.shape[1:]) for name, tensor in self.items())
        zeros = [torch.zeros(size, dtype=tensor.dtype) for size, tensor in zip(sizes, self.tensors, strict=True)]
        return self.with_tensors(zeros)

    def __str__(self) -> str:
        """Return names, types and shapes."""
        kinds = (str(tensor.dtype).removeprefix("torch.") for tensor in self.tensors)
        texts = (f"{name} {kind} {tuple(each.shape)}" for (name, each), kind in zip(self.items(), kinds, strict=True))
        return ", ".join(texts)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return arrays by name."""
        return {name: tensor.numpy() for name, tensor in self.items()}


def feed_of(given: Tensor | Feed) -> Feed:
    """Return what is given, or images (N, C, H, W)."""
    return given if isinstance(given, Feed) else Feed.of_images(given)


def taken_by(module: nn.Module, inputs: Inputs, role: str, source: Source = OF_INPUTS) -> tuple[Feed, Structure]:
    """Return what `module` takes as tensors, and how its forward is called with them.

    Raises:
        ExportError: its forward takes something else, a value is no tensor that onnxruntime takes, or the examples
            are not as many of each.
    """
    parameters = inspect.signature(module.forward)
    _check_types(inputs)
    try:
        bound = _bound(parameters, inputs.values)
    except TypeError as error:
        given = f" {', '.join(map(str, inputs.values))}" if isinstance(inputs.values, Mapping) else ""
        raise ExportError(
            f"{role}: its forward takes {_listed(parameters)}, and the inputs{given} do not fit: {error}; "
            f"{source.names}"
        ) from None
    named = list(leaves_of("inputs", dict(bound.arguments)))
    if not named:
        raise ExportError("inputs: none; give a tensor, a tuple or a dict of them")
    names = checked_names("inputs", [name for name, _ in named])
    tensors = tuple(_checked(name, tensor) for name, tensor in named)
    if unknown := [name for name in inputs.fixed if name not in names]:
        raise ExportError(
            f"inputs: {source.fixed} names {unknown[0]!r}, the inputs are {', '.join(names)}"
            f"{did_you_mean(unknown[0], names)}"
        )
    feed = Feed(names, tensors, frozenset(inputs.fixed))
    _check_counts(feed, source)
    return feed, Structure(bound.args, bound.kwargs)


def _check_types(inputs: Inputs) -> None:
    """Refuse values that are no examples of anything, and names that are none."""
    values, fixed = inputs.values, inputs.fixed
    if isinstance(values, str | bytes) or not isinstance(values, Tensor | Sequence | Mapping):
        raise ExportError(
            f"inputs: {type(values).__name__}, wanted a tensor, a tuple of what forward takes, or a dict of it by name"
            "; give torch.from_numpy(array) for an array"
        )
    if isinstance(fixed, str):
        raise ExportError(f"inputs: fixed is the text {fixed!r}, wanted names; give fixed=({fixed!r},)")
    if not (isinstance(fixed, Collection) and all(isinstance(name, str) for name in fixed)):
        raise ExportError(f"inputs: fixed is {fixed!r}, wanted names of inputs; give a tuple of texts")


def _bound(parameters: inspect.Signature, values: Tensor | Sequence[Any] | Mapping[str, Any]) -> inspect.BoundArguments:
    if isinstance(values, Tensor):
        return parameters.bind(values)
    return parameters.bind(**values) if isinstance(values, Mapping) else parameters.bind(*values)


def _listed(parameters: inspect.Signature) -> str:
    return ", ".join(map(str, parameters.parameters.values())) or "nothing"


def _checked(name: str, tensor: Tensor) -> Tensor:
    kind = str(tensor.dtype).removeprefix("torch.")
    if kind not in DTYPES:
        raise ExportError(
            f"inputs: {name} is {tensor.dtype}, wanted {', '.join(DTYPES)}; convert it, and in forward back"
        )
    if tensor.is_floating_point() and not tensor.isfinite().all():
        count = int((~tensor.isfinite()).sum())
        raise ExportError(
            f"inputs: {count} of {tensor.numel()} values of {name} are NaN or infinite; give examples without them"
        )
    if not tensor.numel():
        raise ExportError(f"inputs: {name} is empty, {tuple(tensor.shape)}; give at least one example")
    return tensor.detach().cpu().contiguous()


def _check_counts(feed: Feed, source: Source) -> None:
    batched = {name: tensor for name, tensor in feed.items() if name not in feed.fixed}
    advice = f"name with {source.fixed} what has no axis of examples"
    if not batched:
        names = ", ".join(feed.names)
        raise ExportError(
            f"inputs: all are fixed, so that there are no examples; leave one of {names} out of {source.fixed}"
        )
    for name, tensor in batched.items():
        if tensor.ndim == 0:
            raise ExportError(f"inputs: {name} is one number, without an axis of examples; {advice}")
    counts = {name: len(tensor) for name, tensor in batched.items()}
    if len(set(counts.values())) > 1:
        got = ", ".join(f"{name} {count}" for name, count in counts.items())
        raise ExportError(f"inputs: other numbers of examples along axis 0: {got}; give as many of each, or {advice}")
