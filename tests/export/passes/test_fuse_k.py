"""XNOR-Net's K as authors write it goes into the binary convolution; another map does not."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bnas_deploy.export.capture import capture
from bnas_deploy.export.foreign.translate import Translator
from bnas_deploy.export.graph import constant_array, input_of
from bnas_deploy.export.module_checks import prepared
from bnas_deploy.export.passes import PIPELINE
from bnas_deploy.export.rewrite import RewriteLog, run


class WithK(nn.Conv2d):
    """Signs times a map of magnitudes: K is the mean of |X|, and then of its window, by a convolution."""

    def scale(self) -> Tensor:
        return self.weight.abs().mean((1, 2, 3), keepdim=True)

    def magnitudes(self, x: Tensor) -> Tensor:
        kernel = torch.full((1, 1, *self.kernel_size), 1 / self.weight[0, 0].numel())
        return F.conv2d(x.abs().mean(1, keepdim=True), kernel, None, self.stride, self.padding)

    def forward(self, x: Tensor) -> Tensor:
        signs = torch.where(x >= 0, 1.0, -1.0)
        return self._conv_forward(signs, self.weight.sign() * self.scale(), self.bias) * self.magnitudes(x)


class Expanded(WithK):
    """By a sum, behind a scale of its own, and expanded."""

    def forward(self, x: Tensor) -> Tensor:
        signs = torch.where(x >= 0, 1.0, -1.0)
        y = self._conv_forward(signs, self.weight.sign(), None) * self.scale().flatten().view(1, -1, 1, 1)
        mean = x.abs().sum(1, keepdim=True) / x.size(1)
        k = F.avg_pool2d(mean, self.kernel_size, self.stride, self.padding)
        return y * k.expand_as(y)


class OnePixel(WithK):
    """A window of one pixel needs no mean over it."""

    def magnitudes(self, x: Tensor) -> Tensor:
        return x.abs().mean(1, keepdim=True)


class OfAnother(WithK):
    def magnitudes(self, x: Tensor) -> Tensor:
        return super().magnitudes(x + 0.5)


class OtherWindow(WithK):
    def magnitudes(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(x.abs().mean(1, keepdim=True), 1, self.stride)


class NotCounted(WithK):
    """The mean leaves out the padding, which is no sum over the window."""

    def magnitudes(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(x.abs().mean(1, keepdim=True), 3, self.stride, 1, count_include_pad=False)


LAYERS = {
    "mean": lambda: WithK(8, 8, 3, 2, 1, bias=False),
    "expanded": lambda: Expanded(8, 8, 3, padding=1, bias=False),
    "pixel": lambda: OnePixel(8, 8, 1, bias=False),
    "another": lambda: OfAnother(8, 8, 3, padding=1, bias=False),
    "window": lambda: OtherWindow(8, 8, 3, padding=1, bias=False),
    "padding": lambda: NotCounted(8, 8, 3, padding=1, bias=False),
    "bias": lambda: WithK(8, 8, 3, padding=1),
}
REFUSED = {
    "another": "another takes signs of another value than K magnitudes",
    "window": "K has another window than window",
    "bias": "bias has a bias, which stands before K",
}


@pytest.fixture(scope="module")
def module() -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Sequential()
    layers.add_module("stem", nn.Conv2d(3, 8, 3, padding=1))
    for name, make in LAYERS.items():
        layers.add_module(name, make())
    return layers.eval()


def test_k_is_taken_in(module: nn.Module) -> None:
    images = torch.randn(2, 3, 8, 8)
    translator = Translator(prepared(module, "module"), images)
    captured = capture(translator.module, images.shape[1:], translate=translator)

    log: RewriteLog = run(PIPELINE, captured.model)

    kinds = {str(node.name).partition("#")[0]: node for node in captured.model.graph if node.domain}
    taken = ("mean", "expanded", "pixel")
    assert kinds.keys() == LAYERS.keys()
    assert [name for name, node in kinds.items() if node.op_type == "BinaryConv2dK"] == list(taken)
    reasons = [refusal.reason.replace("#2", "") for refusal in log.refusals if refusal.rewrite == "FuseK"]
    assert sorted(reasons) == sorted(REFUSED.values())
    for name in taken:
        layer = module.get_submodule(name)
        assert isinstance(layer, WithK)
        want = layer.scale().flatten().detach().numpy()
        # The number of a kernel, of a mean and of the scale are float32; their product is rounded once.
        np.testing.assert_allclose(constant_array(input_of(kinds[name], "scale")), want, rtol=4 * 2**-24)
