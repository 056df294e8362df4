"""Networks of other people's, and what the translator makes of a module."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from bnas_deploy.export.capture import _program, _quiet_exporter
from bnas_deploy.export.foreign.program import Program
from bnas_deploy.export.foreign.translate import Translator
from bnas_deploy.export.freeze import freeze
from bnas_deploy.export.module_checks import prepared

SPEC = importlib.util.spec_from_file_location("foreign_networks", Path(__file__).with_name("networks.py"))
assert SPEC is not None
assert SPEC.loader is not None
networks_module = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(networks_module)


@pytest.fixture(scope="session")
def networks() -> ModuleType:
    """The networks of networks.py."""
    return networks_module


def _exported(module: nn.Module, images: Tensor) -> ExportedProgram:
    ours = prepared(module, type(module).__name__)
    with _quiet_exporter():
        return _program(freeze(ours), torch.cat([images[:1], images[:1]]), ours, free_batch=True)


@pytest.fixture(scope="session")
def program() -> Callable[[nn.Module, Tensor], Program]:
    """Capture a module with images (N, C, H, W), and return its program."""
    return lambda module, images: Program(_exported(module, images))


@pytest.fixture(scope="session")
def translate() -> Callable[[nn.Module, Tensor], tuple[Translator, Callable[[Tensor], Tensor]]]:
    """Translate a module, judged by images, and return the translator and the translated network."""

    def run(module: nn.Module, images: Tensor) -> tuple[Translator, Callable[[Tensor], Tensor]]:
        translator = Translator(prepared(module, type(module).__name__), images)
        with _quiet_exporter():
            return translator, translator(_exported(translator.module, images)).module()

    return run
