"""From a PyTorch module to a bundle that runs without PyTorch."""

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
