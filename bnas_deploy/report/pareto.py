"""Searches side by side: validation accuracy against the latency of what they found."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Candidate:
    """What one search found.

    `accuracy` is the supernet's on held-out images, a share of 1, and `trained_accuracy` that of the network that the
    table is of, if it was trained. Latencies are of one run of that network: predicted from the table, and measured on
    this machine, or None.
    """

    run: str
    accuracy: float
    predicted_ms: float
    measured_ms: float | None = None
    trained_accuracy: float | None = None

    @property
    def merit(self) -> float:
        """Return the accuracy that counts: the network's, or the supernet's where that is all there is."""
        return self.accuracy if self.trained_accuracy is None else self.trained_accuracy

    @property
    def error(self) -> float | None:
        """Return by what share the prediction is off: 0.1 is 10 % too long."""
        return None if self.measured_ms is None else self.predicted_ms / self.measured_ms - 1


def front(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Return those that no other beats in accuracy or predicted latency without losing in the other, fastest first."""
    best = [each for each in candidates if not any(_beats(other, each) for other in candidates)]
    return sorted(best, key=lambda each: each.predicted_ms)


def _beats(one: Candidate, other: Candidate) -> bool:
    a, b = (one.merit, -one.predicted_ms), (other.merit, -other.predicted_ms)
    return a != b and a[0] >= b[0] and a[1] >= b[1]


def table(candidates: Sequence[Candidate]) -> str:
    """Return a line for each candidate, the fastest first; a star marks the front."""
    on_front = front(candidates)
    width = max(len(each.run) for each in candidates)
    measured = any(each.measured_ms is not None for each in candidates)
    trained = any(each.trained_accuracy is not None for each in candidates)
    head = f"  {'search':<{width}}  supernet" + ("  trained" if trained else "") + "  predicted ms"
    lines = [head + ("  measured ms  off by" if measured else "")]
    for each in sorted(candidates, key=lambda each: each.predicted_ms):
        line = f"{'*' if each in on_front else ' '} {each.run:<{width}}  {each.accuracy:>8.2%}"
        if each.trained_accuracy is not None:
            line += f"  {each.trained_accuracy:>7.2%}"
        line += f"  {each.predicted_ms:>12.3f}"
        if each.measured_ms is not None and each.error is not None:
            line += f"  {each.measured_ms:>11.3f}  {each.error:>+6.1%}"
        lines.append(line)
    return "\n".join(lines)


def to_json(candidates: Sequence[Candidate], about: dict[str, Any]) -> str:
    """Return all figures, and which are on the front."""
    on_front = front(candidates)
    rows = [{**asdict(each), "front": each in on_front} for each in candidates]
    return json.dumps({**about, "candidates": rows}, indent=2) + "\n"
