"""From a PyTorch module to a bundle that runs without PyTorch."""

from bnas_deploy.export.description import Description
from bnas_deploy.export.doubts import LooksBinaryWarning
from bnas_deploy.export.exporter import (
    ExportResult,
    FloatLayers,
    Images,
    export_checkpoint,
    export_module,
)

__all__ = [
    "Description",
    "ExportResult",
    "FloatLayers",
    "Images",
    "LooksBinaryWarning",
    "export_checkpoint",
    "export_module",
]
