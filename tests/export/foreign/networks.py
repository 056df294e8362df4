"""Networks as their authors write them, with nothing of this package: the idioms of the field."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

CLASSES = 5
IMAGE = (3, 16, 16)


def settled(module: nn.Module, seed: int = 0) -> nn.Module:
    """Return a network with the statistics and the parameters of one that was trained, in evaluation mode."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in module.parameters():
            value.copy_(0.3 * torch.randn(value.shape, generator=generator))
        for layer in module.modules():
            if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
                layer.weight.copy_(torch.randn(layer.weight.shape, generator=generator).abs() + 0.2)
                layer.running_mean.copy_(torch.randn(layer.bias.shape, generator=generator))
                layer.running_var.copy_(torch.rand(layer.bias.shape, generator=generator) + 0.5)
    return module.eval()


# --- ReActNet -------------------------------------------------------------------------------------------------------


class PolynomialSign(nn.Module):
    """sign(x) with the derivative of a quadratic spline, by adding and taking away what has it."""

    def forward(self, x: Tensor) -> Tensor:
        hard = torch.sign(x)
        below, negative, small = (x < -1).float(), (x < 0).float(), (x < 1).float()
        spline = -below + (x * x + 2 * x) * (1 - below)
        spline = spline * negative + (-x * x + 2 * x) * (1 - negative)
        spline = spline * small + (1 - small)
        return hard.detach() - spline.detach() + spline


class Shift(nn.Module):
    """A learned number for each channel, expanded to the image."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(1, channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.bias.expand_as(x)


class ScaledSignConv(nn.Module):
    """Weights are kept flat, and scaled in forward."""

    def __init__(self, channels: int, channels_out: int, stride: int = 1) -> None:
        super().__init__()
        self.stride, self.shape = stride, (channels_out, channels, 3, 3)
        self.weights = nn.Parameter(torch.rand(channels_out * channels * 9, 1) * 0.001)

    def forward(self, x: Tensor) -> Tensor:
        real = self.weights.view(self.shape)
        scale = real.abs().mean(3, keepdim=True).mean(2, keepdim=True).mean(1, keepdim=True).detach()
        hard, soft = scale * torch.sign(real), torch.clamp(real, -1.0, 1.0)
        return F.conv2d(x, hard.detach() - soft.detach() + soft, stride=self.stride, padding=1)


class ReActBlock(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.move, self.sign, self.conv = Shift(channels), PolynomialSign(), ScaledSignConv(channels, channels)
        self.norm = nn.BatchNorm2d(channels)
        self.before, self.slope, self.behind = Shift(channels), nn.PReLU(channels), Shift(channels)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.conv(self.sign(self.move(x)))) + x
        return self.behind(self.slope(self.before(y)))


def react_net() -> nn.Module:
    stem = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16))
    return nn.Sequential(stem, ReActBlock(16), ReActBlock(16), *_head(16))


# --- QuickNet -------------------------------------------------------------------------------------------------------


class SteSign(torch.autograd.Function):
    """sign with 0 as +1, and the gradient within -1 to 1."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return torch.where(x >= 0, torch.ones_like(x), -torch.ones_like(x))

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors  # type: ignore[attr-defined] # autograd gives it one
        return gradient * (x.abs() <= 1)


class OnePadded(nn.Conv2d):
    """Padded with ones, behind the sign."""

    def forward(self, x: Tensor) -> Tensor:
        signs = F.pad(SteSign.apply(x), (1, 1, 1, 1), value=1.0)
        return F.conv2d(signs, SteSign.apply(self.weight), None, self.stride, 0)


class QuickBlock(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv, self.norm = OnePadded(channels, channels, 3, bias=False), nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.norm(torch.relu(self.conv(x)))


def quick_net() -> nn.Module:
    stem = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 1))
    return nn.Sequential(stem, QuickBlock(16), nn.MaxPool2d(2), QuickBlock(16), nn.ReLU(), *_head(16))


# --- Bi-Real Net ----------------------------------------------------------------------------------------------------


class BiRealConv(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        hard = torch.sign(x)
        soft = torch.where(x.abs() < 1, x * (2 - x.abs()), hard)
        scale = self.weight.abs().mean((1, 2, 3), keepdim=True)
        return F.conv2d((hard - soft).detach() + soft, self.weight.sign() * scale, None, self.stride, self.padding)


class BiRealBlock(nn.Module):
    def __init__(self, channels: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.conv = BiRealConv(channels, channels_out, 3, stride, 1, bias=False)
        self.norm = nn.BatchNorm2d(channels_out)
        self.down = nn.Identity()
        if stride > 1:
            self.down = nn.Sequential(
                nn.AvgPool2d(2), nn.Conv2d(channels, channels_out, 1), nn.BatchNorm2d(channels_out)
            )

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x)) + self.down(x)


def bi_real_net() -> nn.Module:
    stem = nn.Sequential(nn.Conv2d(3, 8, 3, 1, 1), nn.BatchNorm2d(8), nn.MaxPool2d(3, 2, 1))
    return nn.Sequential(stem, BiRealBlock(8, 8, 1), BiRealBlock(8, 16, 2), *_head(16))


# --- IR-Net ---------------------------------------------------------------------------------------------------------


class Quantised(torch.autograd.Function):
    """sign, whose gradient is that of k tanh(t x)."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor, k: Tensor, t: Tensor) -> Tensor:
        ctx.save_for_backward(x, k, t)
        return torch.sign(x)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, gradient: Tensor) -> tuple[Tensor, None, None]:
        x, k, t = ctx.saved_tensors  # type: ignore[attr-defined] # autograd gives it some
        return k * t * (1 - torch.tanh(x * t) ** 2) * gradient, None, None


class IrConv(nn.Conv2d):
    """Weights are standardised in forward, and the scale is a power of two."""

    def __init__(self, channels: int, channels_out: int, stride: int = 1) -> None:
        super().__init__(channels, channels_out, 3, stride, 1, bias=False)
        self.register_buffer("k", torch.tensor([10.0]))
        self.register_buffer("t", torch.tensor([0.1]))

    def forward(self, x: Tensor) -> Tensor:
        flat = self.weight.view(self.weight.size(0), -1)
        centred = self.weight - flat.mean(-1).view(-1, 1, 1, 1)
        standard = centred / centred.view(centred.size(0), -1).std(-1).view(-1, 1, 1, 1)
        exponent = torch.log(standard.abs().view(standard.size(0), -1).mean(-1)) / torch.log(torch.tensor(2.0))
        scale = torch.pow(torch.tensor([2.0] * len(flat)), exponent.round().float()).view(-1, 1, 1, 1).detach()
        weight = Quantised.apply(standard, self.k, self.t) * scale
        return F.conv2d(Quantised.apply(x, self.k, self.t), weight, self.bias, self.stride, self.padding)


class IrBlock(nn.Module):
    def __init__(self, channels: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.conv, self.norm = IrConv(channels, channels_out, stride), nn.BatchNorm2d(channels_out)
        self.stride, self.more = stride, channels_out - channels

    def forward(self, x: Tensor) -> Tensor:
        short = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.more // 2, self.more - self.more // 2))
        return F.hardtanh(self.norm(self.conv(x)) + short)


def ir_net() -> nn.Module:
    stem = nn.Sequential(nn.Conv2d(3, 8, 3, 1, 1, bias=False), nn.BatchNorm2d(8), nn.Hardtanh())
    return nn.Sequential(stem, IrBlock(8, 8, 1), IrBlock(8, 12, 2), *_head(12))


# --- others ---------------------------------------------------------------------------------------------------------


class DoReFaConv(nn.Conv2d):
    """Activations of one bit are 0 and 1, and one scale is for all weights."""

    def forward(self, x: Tensor) -> Tensor:
        clipped = torch.clamp(x, 0, 1)
        activations = clipped + (torch.round(clipped) - clipped).detach()
        scale = self.weight.abs().mean().detach()
        return self._conv_forward(activations, torch.sign(self.weight / scale) * scale, self.bias)


def do_re_fa() -> nn.Module:
    body = (nn.BatchNorm2d(8), DoReFaConv(8, 16, 3, padding=1), nn.BatchNorm2d(16), DoReFaConv(16, 16, 3, 2))
    return nn.Sequential(nn.Conv2d(3, 8, 3), *body, nn.BatchNorm2d(16), nn.ReLU(), *_head(16))


class SignConv(nn.Conv2d):
    """The shortest there is."""

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(torch.sign(x), torch.sign(self.weight), self.bias)


class SignLinear(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return F.linear(torch.sign(x), torch.sign(self.weight), self.bias)


def after_relu() -> nn.Module:
    """torch.sign behind ReLU, and behind a pool of one: 0 and 1."""
    blocks = (nn.ReLU(), SignConv(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), SignConv(8, 8, 3))
    return nn.Sequential(nn.Conv2d(3, 8, 3), *blocks, *_head(8))


def le_net() -> nn.Module:
    """A bias behind each convolution, pools, and dense layers on a flattened image."""
    convolutions = (nn.BatchNorm2d(6), SignConv(6, 12, 5), nn.MaxPool2d(2), nn.BatchNorm2d(12))
    dense = (nn.Flatten(), nn.BatchNorm1d(12 * 9), SignLinear(12 * 9, 20), nn.BatchNorm1d(20), SignLinear(20, 20))
    return nn.Sequential(nn.Conv2d(3, 6, 7), *convolutions, *dense, nn.BatchNorm1d(20), nn.Linear(20, CLASSES))


class Shared(nn.Module):
    """One layer that is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv, self.norm = nn.Conv2d(3, 8, 3), SignConv(8, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.head = nn.Sequential(*_head(8))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.conv(self.stem(x)))
        return self.head(self.norm(self.conv(y)) + y)


def _head(channels: int) -> tuple[nn.Module, ...]:
    return nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, CLASSES)
