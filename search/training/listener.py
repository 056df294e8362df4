"""What is told how a run goes."""

from typing import Any, Protocol


class Listener(Protocol):
    """Is told how a run goes."""

    def started(self, *, epochs: int, steps: int, done: int) -> None:
        """A run of `epochs` epochs of `steps` steps begins, or goes on after `done` steps of all."""

    def stepped(self, *, done: int, loss: float) -> None:
        """`done` steps of all are done; `loss` is the mean over the current epoch so far."""

    def finished(self, record: Any) -> None:
        """An epoch is finished and saved; `record` is the run's record of it."""


class Silence:
    """A listener that does nothing with what it is told."""

    def started(self, *, epochs: int, steps: int, done: int) -> None:
        """Do nothing."""

    def stepped(self, *, done: int, loss: float) -> None:
        """Do nothing."""

    def finished(self, record: Any) -> None:
        """Do nothing."""
