"""The figures of a training run as scalars for TensorBoard, in the folder `tensorboard` of the run."""

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bnas_deploy.core.errors import BnasError
from bnas_deploy.core.run_metrics import EpochRecord
from bnas_deploy.search.training.listener import Listener

FOLDER = "tensorboard"

SCALARS = {
    "accuracy/training": "train_accuracy",
    "accuracy/test": "test_accuracy",
    "loss/training": "train_loss",
    "loss/test": "test_loss",
    "learning rate": "learning_rate",
    "changed signs": "changed_signs",
    "waiting for data": "waiting_share",
    "seconds": "duration_s",
}
"""What TensorBoard calls the fields of an `EpochRecord`."""


def check_tensorboard() -> None:
    """Make sure that TensorBoard is installed.

    Raises:
        BnasError: it is not.
    """
    if importlib.util.find_spec("tensorboard") is None:
        raise BnasError("--tensorboard: the package tensorboard is not installed; pip install tensorboard")


@contextmanager
def to_tensorboard(folder: Path, listener: Listener) -> Iterator[Listener]:
    """Give a listener that writes each epoch of the run in `folder` for TensorBoard, and tells `listener` all."""
    writing = _Writing(folder, listener)
    try:
        yield writing
    finally:
        writing.close()


class _Writing:
    """The files are opened when the run begins, which makes its folder, or refuses it."""

    def __init__(self, folder: Path, listener: Listener) -> None:
        self.folder = folder
        self.listener = listener
        self.writer: Any = None

    def started(self, *, epochs: int, steps: int, done: int) -> None:
        """Open the files; TensorBoard drops what an earlier session wrote of epochs that are done again."""
        from torch.utils.tensorboard import SummaryWriter

        writer: Any = SummaryWriter
        self.writer = writer(str(self.folder / FOLDER), purge_step=done // steps + 1)
        self.listener.started(epochs=epochs, steps=steps, done=done)

    def stepped(self, *, done: int, loss: float) -> None:
        """Tell the other listener."""
        self.listener.stepped(done=done, loss=loss)

    def finished(self, record: EpochRecord) -> None:
        """Write the figures of an epoch."""
        for name, field in SCALARS.items():
            value = getattr(record, field)
            if value is not None:
                self.writer.add_scalar(name, value, record.epoch)
        self.writer.flush()
        self.listener.finished(record)

    def close(self) -> None:
        """Close the files, if the run began."""
        if self.writer is not None:
            self.writer.close()
