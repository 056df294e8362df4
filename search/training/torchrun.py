"""What torchrun tells each process that it starts, in its environment. No framework is imported."""

import hashlib
import os
from pathlib import Path


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


def says(message: str) -> bool:
    """Return whether this process is to say what went wrong: one of a machine says what all of them meet.

    torchrun gives every process a file for its error, in a folder of its own inside one of this start. The first that
    makes a file there for a message says it; what one process alone has met, no other has said.
    """
    error_file = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if started() == 1 or error_file is None:
        return True
    said = Path(error_file).parent.parent / f"said-{hashlib.sha256(message.encode()).hexdigest()[:16]}"
    try:
        said.touch(exist_ok=False)
    except FileExistsError:
        return False
    except OSError:  # rather twice than not at all
        return True
    return True
