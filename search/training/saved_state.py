"""The state of a run in its file: every module, optimiser, schedule and generator of random numbers.

The tensors of the file are

    MODULE.NAME                  the state of a module
    OPTIMISER.PARAMETER.STATE    the state of an optimiser, by the number of the parameter
    random.cpu, random.cuda      the generators of random numbers

and its metadata lists them, and has the settings of optimisers and schedules.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from bnas_deploy.search.training.checkpoint import find_misfits
from bnas_deploy.search.training.resume import check_kind, of_json


@dataclass(frozen=True)
class SavedState:
    """Everything in a run that has a state of its own, by name.

    Attributes:
        modules: what is trained.
        optimizers: of any kind whose state is of tensors like its parameters, and of single numbers.
        schedules: each is stepped once per step.
        device: where the modules are.
        scaler: of the loss, in float16; None and a disabled one have no state.
        later: modules that the files of older versions lack.
    """

    modules: Mapping[str, nn.Module]
    optimizers: Mapping[str, Optimizer]
    schedules: Mapping[str, LRScheduler]
    device: torch.device
    later: frozenset[str] = frozenset()
    scaler: torch.amp.GradScaler | None = None

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors of the file."""
        tensors = self._module_tensors()
        for name, optimizer in self.optimizers.items():
            tensors |= optimizer_tensors(optimizer.state_dict()["state"], name)
        tensors["random.cpu"] = torch.get_rng_state()
        if self.device.type == "cuda":
            tensors["random.cuda"] = torch.cuda.get_rng_state(self.device)
        return tensors

    def settings(self) -> dict[str, Any]:
        """Return what is no tensor, for JSON."""
        states = {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()}
        return {
            "optimizers": {name: state["param_groups"] for name, state in states.items()},
            "numbers": {name: optimizer_numbers(state["state"]) for name, state in states.items()},
            "schedules": {name: schedule.state_dict() for name, schedule in self.schedules.items()},
            "scaler": {} if self.scaler is None else self.scaler.state_dict(),
        }

    def check(self, tensors: Mapping[str, Tensor], description: Mapping[str, Any]) -> None:
        """Make sure that a file can be of this state.

        Raises:
            LookupError, TypeError, ValueError: something is missing, or of another kind, shape or type.
        """
        misfits = find_misfits(tensors, self._expected_tensors(tensors, description["tensors"]))
        if misfits:
            raise ValueError(f"tensors: {'; '.join(misfits)}")
        wanted = json.loads(json.dumps(self.settings()))
        for kind in ("optimizers", "schedules"):
            check_kind(description[kind], wanted[kind], kind)
        scaler = description.get("scaler", {})  # older versions had none
        check_kind(scaler, wanted["scaler"], "scaler")
        if scaler and not 0 < scaler["scale"] < math.inf:
            raise ValueError(f"the loss is multiplied by {scaler['scale']}")

    def load(self, tensors: Mapping[str, Tensor], description: Mapping[str, Any], lacks: Callable[[str], None]) -> None:
        """Take over all but the random numbers of a file that `check` let through.

        `lacks` is called with the name of each of the modules `later` that is not in it, which stays as it is.
        """
        states: dict[str, dict[str, Tensor]] = {name: {} for name in (*self.modules, *self.optimizers, "random")}
        for key, tensor in tensors.items():
            part, name = key.split(".", 1)
            states[part][name] = tensor
        for name, module in self.modules.items():
            if states[name] or name not in self.later:
                module.load_state_dict(states[name])
            else:
                lacks(name)
        for name, optimizer in self.optimizers.items():
            numbers, groups = description["numbers"][name], description["optimizers"][name]
            optimizer.load_state_dict(optimizer_state(states[name], numbers, groups))
            lay_out_as_parameters(optimizer)
        for name, schedule in self.schedules.items():
            schedule.load_state_dict(of_json(description["schedules"][name], schedule.state_dict()))
        if self.scaler is not None and self.scaler.is_enabled():
            self.scaler.load_state_dict(description["scaler"])

    def take_random_numbers(self, tensors: Mapping[str, Tensor]) -> None:
        """Set the generators of random numbers.

        Raises:
            ValueError: they cannot be in this state.
        """
        try:
            torch.set_rng_state(tensors["random.cpu"])
            if self.device.type == "cuda" and "random.cuda" in tensors:
                torch.cuda.set_rng_state(tensors["random.cuda"], self.device)
        except RuntimeError as error:
            raise ValueError(f"random numbers: {error}") from None

    def _module_tensors(self) -> dict[str, Tensor]:
        return {
            f"{name}.{key}": tensor
            for name, module in self.modules.items()
            for key, tensor in module.state_dict().items()
        }

    def _expected_tensors(self, tensors: Mapping[str, Tensor], names: Sequence[str]) -> dict[str, Tensor]:
        """Return a tensor of the right shape and type for each that the file must have.

        The state of an optimiser depends on its kind and on the steps taken, so the file lists its tensors. Each is
        like its parameter, a mean over some of its axes or a single number.
        """
        expected = {
            name: tensor
            for name, tensor in self._module_tensors().items()
            if name.split(".", 1)[0] not in self.later or name in names
        }
        expected["random.cpu"] = torch.get_rng_state()
        for name in names:
            if name == "random.cuda":  # its size depends on the GPU
                expected[name] = tensors[name]
            elif name not in expected:
                expected[name] = self._like_its_parameter(name, tensors.get(name))
        return expected

    def _like_its_parameter(self, name: str, tensor: Tensor | None) -> Tensor:
        optimizer, number, _ = name.split(".")
        parameters = [parameter for group in self.optimizers[optimizer].param_groups for parameter in group["params"]]
        parameter: Tensor = parameters[int(number)]
        if tensor is None or tensor.ndim != parameter.ndim:
            return parameter if tensor is None or tensor.ndim else torch.zeros((), dtype=tensor.dtype)
        # Adafactor has means over an axis of the parameter, which stays with the length 1.
        sides = zip(tensor.shape, parameter.shape, strict=True)
        return torch.zeros([1 if side == 1 else whole for side, whole in sides], dtype=parameter.dtype)


def optimizer_tensors(state: Mapping[int, Mapping[str, Any]], prefix: str) -> dict[str, Tensor]:
    """Return the tensors of an optimiser's state by PREFIX.PARAMETER.STATE."""
    return {
        f"{prefix}.{index}.{name}": value
        for index, values in state.items()
        for name, value in values.items()
        if isinstance(value, Tensor)
    }


def optimizer_numbers(state: Mapping[int, Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Return an optimiser's values that are no tensors, by parameter and state; unset ones are left out."""
    return {
        str(index): {
            name: value for name, value in values.items() if value is not None and not isinstance(value, Tensor)
        }
        for index, values in state.items()
    }


def optimizer_state(
    tensors: Mapping[str, Tensor], numbers: Mapping[str, Mapping[str, float]], groups: list[dict[str, Any]]
) -> dict[str, Any]:
    """Return the state dict of an optimiser from tensors named PARAMETER.STATE and from `optimizer_numbers`.

    Raises:
        TypeError: the numbers are not what that gives.
    """
    state: dict[int, dict[str, Any]] = {int(index): dict(values) for index, values in _are_by_state(numbers).items()}
    for key, tensor in tensors.items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = tensor
    return {"state": state, "param_groups": groups}


def _are_by_state(numbers: object) -> Mapping[str, Mapping[str, float]]:
    if not isinstance(numbers, dict) or not all(isinstance(values, dict) for values in numbers.values()):
        raise TypeError("the numbers of an optimiser are not by parameter and state")
    for index, values in numbers.items():
        for name, value in values.items():
            if type(value) not in (int, float, bool):
                raise TypeError(f"{name} of parameter {index} of an optimiser is {type(value).__name__}, no number")
    return numbers


def lay_out_as_parameters(optimizer: Optimizer) -> None:
    """Give each tensor of an optimiser's state the layout in memory of its parameter, which no file keeps.

    With another one a step would go other ways through the same numbers, and might round them differently.
    """
    for parameter, values in optimizer.state.items():
        for name, value in values.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                values[name] = torch.empty_like(parameter).copy_(value)
