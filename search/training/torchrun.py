"""What torchrun tells each process that it starts, in its environment. No framework is imported."""

import os


def started() -> int:
    """Return how many processes train together, this one included; 1 where torchrun has started none.

    Other programs, such as those of clusters, set some of the same variables, but not torchrun's own.
    """
    return int(os.environ["WORLD_SIZE"]) if "TORCHELASTIC_RUN_ID" in os.environ else 1


def number() -> int:
    """Return the number of this process among them, from 0."""
    return int(os.environ["RANK"]) if started() > 1 else 0


def started_here() -> int:
    """Return how many of them are on this machine."""
    return int(os.environ["LOCAL_WORLD_SIZE"]) if started() > 1 else 1


def number_here() -> int:
    """Return the number of this process among those of this machine, from 0."""
    return int(os.environ["LOCAL_RANK"]) if started() > 1 else 0
