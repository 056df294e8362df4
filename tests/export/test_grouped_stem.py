"""A stem with groups is exported like any other: float convolutions that agree with PyTorch, and its twins."""

from pathlib import Path
from typing import Literal

import pytest
import torch

from bnas_deploy.core.bundle import read_bundle
from bnas_deploy.core.genotype import GENOTYPES
from bnas_deploy.core.layer_cost import total
from bnas_deploy.export import Images, export_checkpoint
from bnas_deploy.runtime.verify import verify_bundle
from bnas_deploy.search.models.bnas.config import NetworkConfig
from bnas_deploy.search.models.layer_costs import layer_costs
from bnas_deploy.search.training.untrained import untrained_checkpoint

CONFIG = NetworkConfig(
    "grouped", 3, 64, "imagenet", GENOTYPES["imagenet"], classes=3, in_channels=3, image_size=(32, 64), stem_groups=2
)


@pytest.mark.parametrize("float_layers", ["float", "int8"])
def test_it_is_exported_and_verified(float_layers: Literal["float", "int8"], tmp_path: Path) -> None:
    images = Images(torch.randn(4, 3, 32, 64, generator=torch.Generator().manual_seed(0)))
    result = export_checkpoint(untrained_checkpoint(CONFIG, 0), tmp_path / "bundle", images, float_layers=float_layers)
    bundle = read_bundle(tmp_path / "bundle")
    assert verify_bundle(bundle).failures == result.verification.failures == []
    stem = [layer for layer in bundle.manifest.layers if layer.input[1] in (16, 8) and layer.kernel == (3, 3)][:2]
    assert [(layer.input[0], layer.output[0], layer.groups) for layer in stem] == [(32, 64, 2), (64, 64, 2)]
    in_pytorch, exported = total(layer_costs(CONFIG)), total(bundle.manifest.layers)
    assert exported.float_weights + exported.int8_weights == in_pytorch.float_weights
    assert exported.float_macs + exported.int8_macs == in_pytorch.float_macs
