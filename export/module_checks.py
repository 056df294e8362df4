"""What a foreign module is asked before it is captured, so that a refusal names the layer and says what to do."""

import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from bnas_deploy.core.counts import counted
from bnas_deploy.core.errors import ExportError
from bnas_deploy.export.inputs import OF_INPUTS, Feed, Source, feed_of
from bnas_deploy.export.leaves import Structure, tensors_in
from bnas_deploy.export.raised import failure
from bnas_deploy.search.nn.layers import BinaryConv2d, BinaryWeightConv2d, Zeroise

_QUANTIZED = ("torch.ao.nn.quantized", "torch.ao.nn.intrinsic.quantized")

_REPLACED: dict[type[nn.Module], tuple[str, ...]] = {
    BinaryConv2d: ("forward", "convolve", "binarised"),
    BinaryWeightConv2d: ("forward", "_conv_forward"),
    Zeroise: ("forward",),
}
"""The layers that freezing replaces, and the methods that the exported layer does not call."""


NORMS = (WeightNorm, SpectralNorm)
"""Hooks of torch's older normalisations of weights: before each run they compute `weight`, and no more."""


def prepared(module: nn.Module, role: str, *, copied: bool = True) -> nn.Module:
    """Return a copy of `module` on the CPU, in evaluation mode and float32, without wrappers that change how it runs.

    Those are DataParallel, DistributedDataParallel, `torch.compile(module)` and `module.compile()`.

    Args:
        module: stays as it is.
        role: what messages call it.
        copied: False for a module that nobody else has, which is returned itself.

    Raises:
        ExportError: it has a layer that cannot be exported, or values that are not there, no floats or not numbers.
    """
    check_module(module, role)
    for name, layer in module.named_modules():
        _check_kind(f"{role}{name and ': '}{name}", layer)
    for name, value in _state(module):
        _check_value(f"{role}: {name}", value)
    ours = (_copied(module, role) if copied else module).cpu().eval()
    if other_floats(module):
        ours = ours.float()
    for name, value in ours.named_parameters():
        if not value.isfinite().all():
            raise ExportError(
                f"{role}: {name} has {int((~value.isfinite()).sum())} of {value.numel()} values that are NaN or "
                "infinite; the training diverged, so export a state from before that"
            )
    for name, layer in ours.named_modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            _check_statistics(f"{role}: {name}", layer)
    return ours


def kind_of(value: object) -> str:
    """Say what a value is, for messages."""
    return f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__


def check_module(module: object, role: str) -> None:
    """Refuse what is no module, such as the class of one, or a function.

    Raises:
        ExportError: says what it is.
    """
    if isinstance(module, type) and issubclass(module, nn.Module):
        raise ExportError(f"{role}: the class {module.__name__}, wanted a module; make one: {module.__name__}(...)")
    if not isinstance(module, nn.Module):
        raise ExportError(
            f"{role}: {kind_of(module)} is no torch.nn.Module; put what it computes into the forward of one"
        )


def other_floats(module: nn.Module) -> str | None:
    """Say which parameters are floats of another size than 32 bits, and that the export has them as float32."""
    kinds = [value.dtype for value in module.parameters()]
    others = [kind for kind in kinds if kind != torch.float32]
    if not others:
        return None
    types = ", ".join(sorted({str(kind) for kind in others}))
    return (
        f"{len(others)} of {counted(len(kinds), 'parameter')} of {type(module).__name__}: {types}; the export made "
        "that torch.float32, and compares with it"
    )


def answers_of(
    module: nn.Module,
    images: Tensor | Feed,
    role: str,
    structure: Structure | None = None,
    source: Source = OF_INPUTS,
) -> Any:
    """Run `module` on `images`, or on what else it takes; `structure` is how it is called, None for tensors in a row.

    Raises:
        ExportError: it raises something, or answers NaN or infinity.
    """
    args, kwargs = _arguments(images, structure)
    try:
        with torch.no_grad():
            answers = module(*args, **kwargs)
    except Exception as error:  # what a foreign forward raises can be of any kind, and is the user's to mend
        raise ExportError(
            f"{role}: {failure(module, error)}; it was given {feed_of(images)}, {source.given}: "
            f"{source.remedy}{_of_doubles(feed_of(images))}, or mend its forward, which the export runs on the CPU in "
            "evaluation mode"
        ) from error
    if not all(tensor.isfinite().all() for tensor in _tensors(answers)):
        raise ExportError(
            f"{role}: answers NaN or infinity to the images, first made by {_first_not_finite(module, args, kwargs)}; "
            "check what that layer divides by and takes roots and logarithms of"
        )
    return answers


def _of_doubles(feed: Feed) -> str:
    """Say how an input becomes float32 that is float64, as arrays are that numpy makes."""
    doubles = [name for name, tensor in feed.items() if tensor.dtype == torch.float64]
    if not doubles:
        return ""
    return f' ({", ".join(doubles)} as float32 if the network computes in that: array.astype("float32"))'


def _arguments(images: Tensor | Feed, structure: Structure | None) -> tuple[tuple[Any, ...], dict[str, Any]]:
    tensors = feed_of(images).tensors
    return (tensors, {}) if structure is None else structure.filled(tensors)


_BATCH = 16
"""Images that PyTorch runs at once: more of them no longer fit into the caches together and take longer each."""


def answers_in_batches(module: nn.Module, feed: Feed) -> tuple[Tensor, ...]:
    """Return what a flattened `module` answers to all examples, each output of which has an entry for each."""
    batches = [feed[first : first + _BATCH] for first in range(0, len(feed), _BATCH)]
    answers = [tensors_in(answers_of(module, batch, type(module).__name__)) for batch in batches]
    return tuple(torch.cat(parts) for parts in zip(*answers, strict=True))


def own_doing(module: nn.Module, images: Tensor | Feed) -> str | None:
    """Say why `module` does not always answer alike to the same images, if it does not."""
    before = {name: (value.clone(), value.data_ptr(), value._version) for name, value in _state(module)}
    tensors = feed_of(images).tensors
    with torch.no_grad():
        first, second = (tensors_in(module(*tensors)) for _ in range(2))
    parameters = {name for name, _ in module.named_parameters()}
    for name, value in _state(module):
        data, place, version = before[name]
        written = (value.data_ptr(), value._version) != (place, version)
        # A parameter may be given the value that it has: `weight.data = weight.org.sign()`.
        if not torch.equal(value, data) or (written and not (name in parameters and _keeps(module, name, images))):
            return (
                f"{name} is written to in forward, so that an answer depends on what was answered before; "
                "write to parameters and buffers in training mode only"
            )
    if not all(map(torch.equal, first, second)):
        return (
            f"{_first_changing(module, images)} answers differently to the same input each time; in evaluation mode "
            "let it draw no random numbers (functional.dropout needs training=self.training) and count nothing"
        )
    return None


def _first_changing(module: nn.Module, images: Tensor | Feed) -> str:
    """Return the name of the first layer that answers otherwise in a second run, though it is given the same."""
    runs: list[list[tuple[str, Any, Any]]] = []
    for _ in range(2):
        seen: list[tuple[str, Any, Any]] = []

        def look(name: str, layer: nn.Module, given: Any, answer: Any, seen: list[Any] = seen) -> None:
            seen.append((f"{name} ({type(layer).__name__})" if name else "it", given, answer))

        _run_hooked(module, feed_of(images).tensors, {}, look)
        runs.append(seen)
    for (name, given, answer), (_, given_again, answer_again) in zip(runs[0], runs[1], strict=False):
        if _equal(given, given_again) and not _equal(answer, answer_again):
            return name
    return "it"


def _equal(one: object, other: object) -> bool:
    pairs = zip(_tensors(one), _tensors(other), strict=False)
    return all(left.shape == right.shape and torch.equal(left, right) for left, right in pairs)


def _keeps(module: nn.Module, name: str, images: Tensor | Feed) -> bool:
    """Tell whether a parameter has the same value behind a run on other images."""
    given = feed_of(images).tensors
    others = (each.flip(-1) / 2 if each.is_floating_point() and each.ndim else each for each in given)
    value = module.get_parameter(name).clone()
    with torch.no_grad():
        module(*others)
    return torch.equal(module.get_parameter(name), value)


def refuse_hooks(module: nn.Module, role: str) -> None:
    """Refuse hooks of a whole module that is flattened: they would be given others than they were written for.

    Raises:
        ExportError: names the hook.
    """
    hooks = [*module._forward_hooks.values(), *module._forward_pre_hooks.values()]
    hooks = [hook for hook in hooks if not isinstance(hook, NORMS)]
    if hooks:
        name = getattr(hooks[0], "__qualname__", type(hooks[0]).__name__)
        raise ExportError(
            f"{role}: the whole module has the forward hook {name}, and its graph takes and answers tensors in a row; "
            "do the hook's work in forward"
        )


def refuse_dropped(module: nn.Module) -> None:
    """Refuse a package layer with code of its own, which the operator that replaces it would not run.

    Raises:
        ExportError: names the layer and the code.
    """
    for name, layer in module.named_modules():
        base = next((base for base in _REPLACED if isinstance(layer, base)), None)
        if base is None:
            continue
        hooks = [*layer._forward_hooks.values(), *layer._forward_pre_hooks.values()]
        hooks = [hook for hook in hooks if not isinstance(hook, NORMS)]
        methods = [
            method
            for method in _REPLACED[base]
            if method in vars(layer) or getattr(type(layer), method) is not getattr(base, method)
        ]
        if hooks:
            hook = getattr(hooks[0], "__qualname__", type(hooks[0]).__name__)
            raise ExportError(
                f"{name or 'the module'}: {base.__name__} with the forward hook {hook}, which the exported layer would "
                "not run; remove the hook, or do its work in a module around the layer"
            )
        if methods:
            raise ExportError(
                f"{name or 'the module'}: {type(layer).__name__} has a {methods[0]} of its own, which the exported "
                f"layer would not run; take {base.__name__} and do the rest in a module around it"
            )


def _state(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from module.named_parameters()
    yield from module.named_buffers()


def _check_kind(place: str, layer: nn.Module) -> None:
    if isinstance(layer, torch.jit.ScriptModule | torch.fx.GraphModule):
        raise ExportError(
            f"{place}: a traced or scripted module, which hides its layers; give the Python module that it was made of"
        )
    if type(layer).__module__.startswith(_QUANTIZED):
        raise ExportError(
            f"{place}: {type(layer).__name__} of torch.ao is quantised already; give the float layer, and "
            'float_layers="int8" to have it in 8 bits'
        )


def _check_value(place: str, value: Tensor) -> None:
    if isinstance(value, nn.UninitializedParameter | nn.UninitializedBuffer):
        raise ExportError(f"{place} has no shape yet, since its lazy layer never ran; run the module on images once")
    if value.is_meta:
        raise ExportError(f"{place} is on the meta device and has no values; load a checkpoint into the module first")
    if isinstance(value, nn.Parameter) and not value.is_floating_point():
        raise ExportError(f"{place} is not float32 but {value.dtype}; replace its layer")


def _check_statistics(place: str, norm: nn.modules.batchnorm._BatchNorm) -> None:
    mean, var = norm.running_mean, norm.running_var
    if mean is None or var is None:
        return  # capture refuses it
    if not (mean.isfinite().all() and var.isfinite().all() and (var + norm.eps > 0).all()):
        raise ExportError(
            f"{place} has running statistics that are NaN, infinite or negative; calibrate it: run the module on "
            "training images in training mode"
        )


# --- copying --------------------------------------------------------------------------------------------------------


def _copied(module: nn.Module, role: str) -> nn.Module:
    # What stands in `known` is not copied again: so a wrapper becomes what it wraps, wherever it is held.
    known: dict[int, Any] = {}
    layers = list(module.modules())
    for layer in layers:
        for value in _tensors(vars(layer)):
            if not value.is_leaf:  # deepcopy refuses it, and no gradient is needed here
                known[id(value)] = value.detach().clone()
    for layer in reversed(layers):  # the inner ones of nested wrappers first
        if _is_wrapper(layer):
            known[id(layer)] = copy.deepcopy(_wrapped(layer), known)
    try:
        ours: nn.Module = copy.deepcopy(module, known)
    except Exception as error:  # attributes can be of any type, and raise whatever theirs raises
        raise ExportError(f"{role}: {_uncopied(module, error)}; keep it out of the module") from error
    for theirs, parameter in zip(module.parameters(), ours.parameters(), strict=False):
        # deepcopy leaves out what code such as `self.weight.org = ...` keeps in a parameter.
        vars(parameter).update(copy.deepcopy(vars(theirs), known))
    for layer in ours.modules():
        layer._compiled_call_impl = None
        compiled = getattr(vars(layer).get("forward"), "_torchdynamo_orig_callable", None)
        if getattr(compiled, "__func__", None) is type(layer).forward:
            del layer.__dict__["forward"]  # of `module.forward = torch.compile(module.forward)`: it runs the caller's
    return ours


def _is_wrapper(layer: nn.Module) -> bool:
    kinds = (nn.DataParallel, nn.parallel.DistributedDataParallel, torch._dynamo.eval_frame.OptimizedModule)
    return isinstance(layer, kinds)


def _wrapped(layer: nn.Module) -> nn.Module:
    inner = layer._orig_mod if isinstance(layer, torch._dynamo.eval_frame.OptimizedModule) else layer.module
    assert isinstance(inner, nn.Module)
    return inner


def _tensors(value: object) -> Iterator[Tensor]:
    """Return the tensors in `value` and in the lists, tuples and dicts in it."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from _tensors(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _tensors(part)


def _uncopied(module: nn.Module, error: Exception) -> str:
    """Say which attribute of which layer cannot be copied."""
    for name, layer in module.named_modules():
        for attribute, value in vars(layer).items():
            if attribute in {"_parameters", "_buffers", "_modules"}:
                continue
            try:
                copy.deepcopy(value)
            except Exception as reason:  # as above
                place = f"{name}.{attribute}" if name else attribute
                return f"{place} ({type(value).__name__}) cannot be copied: {reason}"
    return f"it cannot be copied: {error}"


def _first_not_finite(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    """Return the name of the first layer that makes NaN or infinity of finite inputs."""
    found: list[str] = []

    def look(name: str, layer: nn.Module, inputs: Any, output: Any) -> None:
        fine = all(value.isfinite().all() for value in _tensors(inputs))
        if fine and not all(value.isfinite().all() for value in _tensors(output)):
            found.append(f"{name} ({type(layer).__name__})" if name else f"{type(layer).__name__} itself")

    _run_hooked(module, args, kwargs, look)
    return found[0] if found else "its forward"


def _run_hooked(
    module: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    look: Callable[[str, nn.Module, Any, Any], None],
) -> None:
    """Run `module`, and show each layer's name, the layer, its inputs and its output, in the order of their ends."""
    layers = module.named_modules()
    handles = [layer.register_forward_hook(lambda *seen, name=name: look(name, *seen)) for name, layer in layers]
    try:
        with torch.no_grad():
            module(*args, **kwargs)
    finally:
        for handle in handles:
            handle.remove()
