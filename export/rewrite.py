"""What a pass is, and how a list of passes is run.

A pass says where it applies, why it leaves a place alone, and what it does. A refusal is a sentence for the log.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import onnx_ir as ir


class Rewrite(Protocol):
    """A local rewrite: it looks at one node at a time."""

    def sites(self, model: ir.Model) -> Iterable[ir.Node]:
        """Return the nodes at which the pass may apply."""

    def refusal(self, model: ir.Model, node: ir.Node) -> str | None:
        """Return why the pass leaves `node` alone, "" where nobody would expect otherwise, or None if it does not."""

    def apply(self, model: ir.Model, node: ir.Node) -> None:
        """Rewrite in place at `node`."""


class Sweep(Protocol):
    """A pass over the whole graph at once."""

    def sweep(self, model: ir.Model) -> None:
        """Rewrite the whole model in place."""


@dataclass(frozen=True)
class Refusal:
    """Which pass left which node alone, and why."""

    rewrite: str
    node: str
    reason: str

    def __str__(self) -> str:
        return f"{self.rewrite}: {self.node}: {self.reason}"


@dataclass
class RewriteLog:
    """What the passes did: how often each applied, and where and why it refused; `notes` are sentences for people."""

    applied: dict[str, int] = field(default_factory=dict)
    refusals: list[Refusal] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def run(pipeline: Sequence[Rewrite | Sweep], model: ir.Model) -> RewriteLog:
    """Run the passes in order, in place; the graph is checked after each."""
    log = RewriteLog()
    for step in pipeline:
        name = type(step).__name__
        if hasattr(step, "sweep"):
            step.sweep(model)
        else:
            _run_rewrite(step, name, model, log)
        _check(model.graph, name)
    log.refusals = list(dict.fromkeys(log.refusals))  # a pass that runs twice refuses twice
    return log


def _run_rewrite(step: Rewrite, name: str, model: ir.Model, log: RewriteLog) -> None:
    log.applied.setdefault(name, 0)
    for node in list(step.sites(model)):
        if node.graph is None:
            continue  # removed by an earlier site of the same pass
        reason = step.refusal(model, node)
        if reason is None:
            step.apply(model, node)
            log.applied[name] += 1
        elif reason:
            log.refusals.append(Refusal(name, str(node.name), reason))


def _check(graph: ir.Graph, step: str) -> None:
    """Assert that every value is made before it is read, and once; a violation is a bug of the pass."""
    known = {id(value) for value in (*graph.inputs, *graph.initializers.values())}
    for node in graph:
        for value in node.inputs:
            assert value is None or id(value) in known, f"{step}: {node.name} reads {value} before it is made"
        known |= {id(value) for value in node.outputs}
    assert all(id(value) in known for value in graph.outputs), f"{step}: an output of the graph is not made"
