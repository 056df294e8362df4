"""From a PyTorch module to a bundle that runs without PyTorch."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bnas_deploy.core.float_layers import FloatLayers
    from bnas_deploy.export.description import Description
    from bnas_deploy.export.doubts import LooksBinaryWarning
    from bnas_deploy.export.exporter import ExportResult, export_checkpoint, export_module
    from bnas_deploy.export.foreign import BinaryLayer, Registration, register
    from bnas_deploy.export.given import Images
    from bnas_deploy.export.inputs import Inputs

__all__ = [
    "BinaryLayer",
    "Description",
    "ExportResult",
    "FloatLayers",
    "Images",
    "Inputs",
    "LooksBinaryWarning",
    "Registration",
    "export_checkpoint",
    "export_module",
    "register",
]

_HOMES = {
    "BinaryLayer": "export.foreign",
    "Description": "export.description",
    "ExportResult": "export.exporter",
    "FloatLayers": "core.float_layers",
    "Images": "export.given",
    "Inputs": "export.inputs",
    "LooksBinaryWarning": "export.doubts",
    "Registration": "export.foreign",
    "export_checkpoint": "export.exporter",
    "export_module": "export.exporter",
    "register": "export.foreign",
}


def __getattr__(name: str) -> Any:
    """Import what is asked for: the meaning of the operators, beside it, needs no PyTorch."""
    if name in _HOMES:
        return getattr(importlib.import_module(f"bnas_deploy.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
