"""Geometries are what torch's arguments say, in one form; the layers' tests have the refusals of arguments."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from bnas_deploy.search.nn.geometry import Geometry

FORMS = {
    "numbers": ((4, 6, 3), {}, Geometry(4, 6, (3, 3))),
    "two numbers each": (
        (4, 6, (3, 5), [2, 1], (1, 0), (1, 2)),
        {},
        Geometry(4, 6, (3, 5), stride=(2, 1), padding=(1, 0), dilation=(1, 2)),
    ),
    "no padding": ((4, 6, 3), {"padding": "valid"}, Geometry(4, 6, (3, 3))),
    "same": ((4, 6, 2), {"padding": "same"}, Geometry(4, 6, (2, 2), padding="same")),
    "more on one side": (
        (4, 6, 3, 2),
        {"extra_padding": (0, 1)},
        Geometry(4, 6, (3, 3), stride=(2, 2), extra_padding=(0, 1)),
    ),
    "groups and a sign": ((4, 6, 3), {"groups": 2, "pad_value": -1}, Geometry(4, 6, (3, 3), groups=2, pad_value=-1)),
}


@pytest.mark.parametrize("form", FORMS)
def test_arguments_in_their_forms(form: str) -> None:
    arguments, named, wanted = FORMS[form]
    geometry = Geometry.of(*arguments, **named)
    assert geometry == wanted
    more = {"pad_value": geometry.pad_value, "extra_padding": geometry.extra_padding}
    assert Geometry.of(*geometry.arguments, **more) == geometry
    assert geometry.group_channels == 4 // geometry.groups


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@pytest.mark.parametrize("kernel_size", [1, 2, (3, 4)])
@pytest.mark.parametrize("dilation", [1, 2])
def test_same_padding_has_the_sides_of_torch(kernel_size: int | tuple[int, int], dilation: int) -> None:
    geometry = Geometry.of(1, 1, kernel_size, padding="same", dilation=dilation)
    (top, left), (rows, columns) = geometry.sides
    conv = nn.Conv2d(*geometry.arguments, bias=False)
    x = torch.randn(1, 1, 7, 8)
    padded = nn.functional.pad(x, (left, left + columns, top, top + rows))
    assert conv(x).shape == x.shape
    assert torch.equal(nn.functional.conv2d(padded, conv.weight, dilation=geometry.dilation), conv(x))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"in_channels": 0}, "0 to 6 channels in 1 groups; each must be at least 1"),
        ({"groups": 4}, "4 groups do not divide 4 and 6 channels"),
        ({"pad_value": 2}, "pad_value=2: a padded tap holds a sign, wanted -1, 0 or 1"),
        ({"padding": "full"}, "padding='full': wanted a number, "),
        ({"padding": "same", "stride": (1, 2)}, r'padding="same" with stride \(1, 2\): a strided convolution does not'),
        (
            {"padding": "same", "extra_padding": (0, 1)},
            r'padding="same" with extra_padding=\(0, 1\): it keeps the size',
        ),
    ],
)
def test_what_no_binary_convolution_has_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        replace(Geometry(4, 6, (3, 3)), **change)
