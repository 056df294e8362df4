"""One thread, and a small study of two rows, of which one cannot be trained."""

from collections.abc import Iterator

import pytest
import torch

from bnas_deploy.studies.study import (
    TEST,
    TRAIN,
    Contrast,
    OfOneOperation,
    Picture,
    Printed,
    Row,
    Study,
)


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """Networks as small as these spend their time on waking a second thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def make_pair(*, failing: bool) -> Study:
    """Return a study of two rows; a learning rate beyond all numbers lets the second fail."""
    return Study(
        name="pair",
        title="A pair",
        repeats="Nobody, Table 1",
        question="Which?",
        rows=(
            Row("plain", OfOneOperation("bin_conv_3x3"), printed={TEST.key: Printed("46.15", "Table 1")}),
            Row(
                "other",
                OfOneOperation("bin_conv_5x5"),
                changes=("optimiser.learning_rate=1e30",) if failing else (),
                printed={TEST.key: Printed("42.53", "Table 1")},
            ),
        ),
        measures=(TEST, TRAIN),
        findings=(Contrast("plain", "other"),),
        pictures=(Picture.BARS,),
    )


@pytest.fixture(scope="session")
def pair() -> Study:
    return make_pair(failing=False)


@pytest.fixture(scope="session")
def failing_pair() -> Study:
    return make_pair(failing=True)
