"""What the command line is told of a user's images and arrays: a refusal names options, not arguments of Python."""

from pathlib import Path

import numpy as np
import pytest
from torch import Tensor, nn

from bnas_deploy.core.errors import ExportError
from bnas_deploy.export.foreign.user_images import UserImages, images_for


class Shifted(nn.Module):
    def forward(self, x: Tensor, shift: Tensor) -> Tensor:
        return x.mean((2, 3)) + shift


REFUSED = {
    "as many": (
        (),
        "inputs: other numbers of examples along axis 0: x 2, shift 3; give as many of each, or name with --fixed what "
        "has no axis of examples",
    ),
    "unknown": (("shif",), "inputs: --fixed names 'shif', the inputs are x, shift; did you mean shift?"),
    "all": (("x", "shift"), "inputs: all are fixed, so that there are no examples; leave one of x, shift out of --fix"),
}


@pytest.mark.parametrize(("fixed", "message"), REFUSED.values(), ids=REFUSED)
def test_arrays_without_examples_are_named_by_an_option(fixed: tuple[str, ...], message: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=np.ones((2, 3, 4, 4), np.float32), shift=np.ones(3, np.float32))
    with pytest.raises(ExportError) as refused:
        images_for(Shifted(), "Net", UserImages(inputs=tmp_path / "x.npz", fixed=fixed))
    assert message in refused.value.message


def test_channels_that_nobody_named_are_the_default() -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU())
    with pytest.raises(ExportError) as refused:
        images_for(network.eval(), "Net", UserImages(image_size=(16, 16)))
    said = "it was given input float32 (1, 3, 16, 16), its 3 channels by default, its 16x16 by --image-size: give "
    assert said in refused.value.message
