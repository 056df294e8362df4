"""A Pad becomes padding of the binary convolution behind it, with the sign that each channel has there, or stays."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bnas_deploy.export.capture import capture
from bnas_deploy.export.graph import constant_array, input_of
from bnas_deploy.export.passes import PIPELINE, DropUnused, FuseConcat, FusePadding
from bnas_deploy.export.rewrite import run
from bnas_deploy.search.nn.layers import BinaryConv2d

INPUTS = "W, threshold, offset, scale, bias"
AROUND = np.int64([0, 0, 1, 2, 0, 0, 0, 3])
LEVELS = np.float32([-1, 0, 0.5, 1])


def _pad(number: float | None = 1.0, pads: np.ndarray = AROUND) -> dict[str, np.ndarray]:
    return {"pads": pads} if number is None else {"pads": pads, "number": np.float32(number)}


@pytest.mark.parametrize(
    ("number", "signs"),
    [(1.0, [1, 1, 1, 1]), (0.5, [1, 1, 1, -1]), (None, [1, 1, -1, -1]), (-0.0, [1, 1, -1, -1]), (-2.0, [-1] * 4)],
)
def test_fuse(load, listing, evaluate, binary_conv, rng, number: float | None, signs: list[int]) -> None:
    text = "Pad (x, pads)" if number is None else "Pad (x, pads, number)"
    model = load(
        f"(float[N,4,5,6] x) => (float[N,3,4,9] y) {{ p = {text} y = bnas.BinaryConv2d <group = 1> (p, {INPUTS}) }}",
        **(binary_conv(4, 3, kernel=3) | {"threshold": LEVELS}),
        **_pad(number),
    )
    feeds = {"x": rng.integers(-3, 4, (2, 4, 5, 6)).astype(np.float32)}
    answer = evaluate(model, feeds)["y"]

    log = run([FusePadding(), DropUnused()], model)

    assert log.applied == {"FusePadding": 1}
    assert listing(model) == ["y = BinaryConv2dPad(x)"]
    (node,) = model.graph
    assert node.attributes.get_ints("pads") == (1, 2, 0, 3)
    assert constant_array(input_of(node, "pad")).tolist() == signs
    assert (evaluate(model, feeds)["y"] == answer).all()


def test_other_readers_keep_the_pad(load, listing, binary_conv) -> None:
    model = load(
        f"(float[N,4,5,6] x) => (float[N,3,6,11] y, float[N,4,6,11] z) "
        f"{{ p = Pad (x, pads, number) y = bnas.BinaryConv2d (p, {INPUTS}) z = Relu (p) }}",
        **binary_conv(4, 3),
        **_pad(),
    )
    run([FusePadding(), DropUnused()], model)
    assert listing(model) == ["p = Pad(x)", "y = BinaryConv2dPad(x)", "z = Relu(p)"]


COMPUTED = "how p pads is computed, or it pads other axes than rows and columns"


@pytest.mark.parametrize(
    ("graph", "pads", "reason"),
    [
        (f"p = Pad (x, pads, number) y = bnas.BinaryConv2dK (p, {INPUTS})", AROUND, "the K map needs what is padded"),
        (
            f'p = Pad <mode = "reflect"> (x, pads) y = bnas.BinaryConv2d (p, {INPUTS})',
            AROUND,
            "p does not pad with one number",
        ),
        (
            f"p = Pad (x, pads, number) y = bnas.BinaryConv2d <pads = [1, 1, 1, 1], group = 1> (p, {INPUTS})",
            AROUND,
            "it pads what was padded",
        ),
        (
            f"p = Pad (x, pads, number) y = bnas.BinaryConv2d (p, {INPUTS})",
            np.int64([0, 0, -1, 0, 0, 0, 2, 0]),
            COMPUTED,
        ),
        (
            f"p = Pad (x, pads, number) y = bnas.BinaryConv2d (p, {INPUTS})",
            np.int64([1, 0, 1, 0, 0, 0, 2, 0]),
            COMPUTED,
        ),
        (f"n = Abs (number) p = Pad (x, pads, n) y = bnas.BinaryConv2d (p, {INPUTS})", AROUND, COMPUTED),
    ],
    ids=["K", "reflected", "padded twice", "cropped", "more images", "computed"],
)
def test_left_alone_because(load, listing, binary_conv, graph: str, pads: np.ndarray, reason: str) -> None:
    model = load(f"(float[N,4,5,6] x) => (float[N,3,H,W] y) {{ {graph} }}", **binary_conv(4, 3), **_pad(1.0, pads))
    before = listing(model)

    log = run([FusePadding()], model)

    assert listing(model) == before
    assert [refusal.reason[: len(reason)] for refusal in log.refusals] == [reason]


def test_parts_are_no_padding(load, listing, binary_conv) -> None:
    model = load(
        f"(float[N,2,5,6] x) => (float[N,3,6,11] y) {{ p = Pad (x, pads, number) c = Concat <axis = 1> (p, p) "
        f"y = bnas.BinaryConv2d (c, {INPUTS}) }}",
        **binary_conv(4, 3),
        **_pad(),
    )
    run([FuseConcat(), FusePadding(), DropUnused()], model)
    assert listing(model) == ["p = Pad(x)", "y = BinaryConv2dConcat2(p, p)"]


class Padded(nn.Module):
    """A BN on either side of a Pad, in front of the signs, with slopes of both signs."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(6)
        self.first = BinaryConv2d(6, 5, 3, stride=2, bias=True)
        self.pad = nn.ConstantPad2d((1, 2, 0, 1), 0.25)
        self.next_norm = nn.BatchNorm2d(5)
        self.second = BinaryConv2d(5, 4, 3)
        for norm in (self.norm, self.next_norm):
            for value in (norm.weight, norm.bias, norm.running_mean):
                nn.init.normal_(value)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(F.pad(self.norm(x), (1, 1, 1, 1), value=1.0))
        answer: Tensor = self.second(self.next_norm(self.pad(y)))
        return answer.amax(dim=(2, 3))


def test_a_bn_on_either_side_becomes_a_threshold(evaluate) -> None:
    torch.manual_seed(3)
    module = Padded().eval()
    images = torch.randn(4, 6, 9, 8)
    captured = capture(module, images.shape[1:])
    run(PIPELINE, captured.model)
    kinds = [node.op_type for node in captured.model.graph]
    assert kinds[:2] == ["BinaryConv2dToBits", "BinaryConv2dOfBits"]  # which have a pad, as all operators of bits
    assert not {"Pad", "BatchNormalization", "Mul"} & set(kinds)
    # Of +1 in front of the signs, in channels whose comparison is flipped and in others.
    assert set(constant_array(input_of(captured.model.graph[0], "pad")).tolist()) == {-1.0, 1.0}
    values = evaluate(captured.model, {"images": images.numpy()})
    node = captured.model.graph[1]
    with torch.no_grad():
        wanted = captured.values_of(images)[str(node.outputs[0].name)]
    np.testing.assert_array_equal(values[str(node.outputs[0].name)], wanted.numpy())
