"""Batch normalisation beside convolutions of every rank, in both orders: folded right, or left alone with a reason."""

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from torch import Tensor, nn

from bnas_deploy.export.capture import capture
from bnas_deploy.export.finish import finish
from bnas_deploy.export.graph import channel_slopes
from bnas_deploy.export.layer_costs import layer_costs
from bnas_deploy.export.passes import FLOAT_PIPELINE, INT8_PIPELINE, PIPELINE
from bnas_deploy.export.quantization import FloatFile, quantize
from bnas_deploy.export.rewrite import RewriteLog, run
from bnas_deploy.runtime.session import create_session, session_options
from bnas_deploy.search.nn.layers import BinaryConv2d

CHANNELS = 12
PLAIN = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
LAYERS = [
    *((rank, kind, *how) for rank, kind in PLAIN.items() for how in ((1, 0), (1, 1), (3, 0), (CHANNELS, 1))),
    *((rank, kind, *how) for rank, kind in TRANSPOSED.items() for how in ((1, 0), (3, 1))),
]
"""Axes of the kernel, class, groups, padding."""

NORMS = {0: nn.BatchNorm1d, 1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}


class Pair(nn.Module):
    """A layer of some rank and a BN, on the pixels of images (N, 12, 8, 8) seen as that many axes; the mean (N, 12)."""

    def __init__(self, layer: nn.Module, rank: int, *, norm_first: bool) -> None:
        super().__init__()
        self.layer, self.norm, self.rank, self.norm_first = layer, NORMS[rank](CHANNELS), rank, norm_first

    def forward(self, x: Tensor) -> Tensor:
        shapes = {0: (), 1: (64,), 2: (8, 8), 3: (4, 4, 4)}
        x = x.mean((2, 3)) if self.rank == 0 else x.reshape(-1, CHANNELS, *shapes[self.rank])
        y = self.layer(self.norm(x)) if self.norm_first else self.norm(self.layer(x))
        y = torch.relu(y)
        return y if self.rank == 0 else y.flatten(2).mean(2)


class Pairs(nn.Module):
    """Every pair side by side; binary layers where `binary`, so that both pipelines see each of them."""

    def __init__(self, *, binary: bool) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, CHANNELS, 3, padding=1)
        self.binary = (BinaryConv2d if binary else nn.Conv2d)(CHANNELS, CHANNELS, 3, padding=1)
        self.pairs = nn.ModuleDict()
        for norm_first in (False, True):
            order = "first" if norm_first else "after"
            self.pairs[f"Linear_{order}"] = Pair(nn.Linear(CHANNELS, CHANNELS), 0, norm_first=norm_first)
            for rank, kind, groups, padding in LAYERS:
                layer = kind(CHANNELS, CHANNELS, 2, padding=padding, groups=groups, bias=padding == 0)
                name = f"{kind.__name__}_groups{groups}_padding{padding}_{order}"
                self.pairs[name] = Pair(layer, rank, norm_first=norm_first)

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x)
        y = y + self.binary(y)
        return torch.cat([pair(y) for pair in self.pairs.values()], 1)


def _randomised(module: nn.Module) -> nn.Module:
    for layer in module.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            nn.init.normal_(layer.weight)
            nn.init.normal_(layer.bias)
            nn.init.normal_(layer.running_mean)
            nn.init.uniform_(layer.running_var, 0.5, 2)
    return module.eval()


def _rewritten(module: Pairs, pipeline: tuple) -> tuple[ir.Model, RewriteLog]:
    captured = capture(module, (3, 8, 8))
    return captured.model, run(pipeline, captured.model)


def _differing(module: Pairs, path: Path, images: Tensor) -> list[str]:
    """Return the pairs whose answers are not those of PyTorch."""
    session = create_session(path, session_options(library=False))
    got = session.run(None, {"images": images.numpy()})[0]
    with torch.no_grad():
        want = module(images).numpy()
    names = list(module.pairs)
    parts = zip(names, *(np.split(each, len(names), axis=1) for each in (got, want)), strict=True)
    # A sum of at most 12 * 8 products and a fold of 10 roundings: 106 * 2^-24 of less than ten times the answers.
    return [name for name, mine, theirs in parts if np.abs(mine - theirs).max() > 1e-4 * (1 + np.abs(theirs).max())]


def _counts(model: ir.Model) -> dict[str, tuple[int, int]]:
    """Return weights and MACs of some layers."""
    costs = {layer.name: layer for layer in layer_costs(model)}
    kinds = ("Linear", "Conv1d_groups1_padding0", "Conv3d_groups3_padding0", "ConvTranspose2d_groups1_padding0")
    layers = {kind: costs[f"pairs.{kind}_after.layer"] for kind in kinds}
    return {kind: (layer.weights, layer.macs) for kind, layer in layers.items()}


@pytest.mark.parametrize("binary", [True, False], ids=["binary network", "float twin"])
def test_every_pair_is_folded_right_or_left_alone(binary: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    module, images = _randomised(Pairs(binary=binary)), torch.randn(2, 3, 8, 8)

    model, log = _rewritten(module, PIPELINE if binary else FLOAT_PIPELINE)

    onnx.save(finish(model), tmp_path / "model.onnx")
    assert _differing(module, tmp_path / "model.onnx", images) == []
    assert log.applied["FoldBatchNormAfterConv"] == 3 * 4  # plain convolutions of three ranks
    assert log.applied["FoldBatchNormBeforeConv"] == 3  # those without groups and padding
    reasons = {refusal.reason.partition(" ")[2] for refusal in log.refusals if "BeforeConv" in refusal.rewrite}
    assert reasons == {"pads with zeros behind the BN, so the shift is missing at the border", "is grouped"}
    assert _counts(model) == {
        "Linear": (144, 144),
        "Conv1d_groups1_padding0": (144 * 2, 144 * 2 * 63),
        "Conv3d_groups3_padding0": (48 * 8, 48 * 8 * 27),
        "ConvTranspose2d_groups1_padding0": (144 * 4, 144 * 4 * 64),  # every input pixel meets every weight
    }
    if not binary:
        run(INT8_PIPELINE, model)
        onnx.save(quantize(FloatFile.of(finish(model), tmp_path), images.numpy()), tmp_path / "int8.onnx")
        session = create_session(tmp_path / "int8.onnx", session_options(library=False))
        assert np.isfinite(session.run(None, {"images": images.numpy()})[0]).all()


@pytest.mark.parametrize(
    ("shape", "slope", "known"),
    [
        ((2, 5, 5, 5, 5), (5, 1, 1), False),  # the depth
        ((2, 5, 5, 5, 5), (1, 5, 1, 1, 1), True),
        ((2, 5, 4), (5, 1), True),
        ((2, 5, 5), (5,), False),  # the columns
        ((2, 5), (5,), True),
        ((2, 5, 4, 4), (1,), True),
    ],
)
def test_slopes_of_channels_stand_at_the_channels(shape: tuple[int, ...], slope: tuple[int, ...], known: bool) -> None:
    x, y = (ir.Value(name=name, shape=ir.Shape(shape), type=ir.TensorType(ir.DataType.FLOAT)) for name in "xy")
    data = ir.Value(name="slope", const_value=ir.tensor(np.ones(slope, np.float32)))
    node = ir.Node("", "PRelu", [x, data], outputs=[y])

    slopes = channel_slopes(node)

    assert (slopes is not None) == known
    assert slopes is None or slopes.shape == (5,)
