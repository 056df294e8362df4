"""What one subject took in one engine, and how two of them compare: numbers, for `bnas_deploy.report` to show."""

from dataclasses import asdict, dataclass

import numpy as np

from bnas_deploy.core.layer_cost import LayerCost
from bnas_deploy.runtime.bench.memory import PeakMemory
from bnas_deploy.runtime.bench.samples import Column

NETWORK = "network"
"""The subject of a record that is about a whole network."""


@dataclass(frozen=True)
class Ratio:
    """How many times faster than `baseline`: percentiles over rounds of the ratio of two neighbouring runs.

    `pairs` of runs count, None in the file of an older version; in `preempted` further ones another program had the
    processor. Where it left too few, `disturbed` is set, and the preempted ones are among those that count.
    """

    baseline: str
    p10: float
    median: float
    p90: float
    pairs: int | None = None
    preempted: int = 0
    disturbed: bool = False


@dataclass(frozen=True)
class Record:
    """How long one subject took in one engine, over `runs` runs.

    In `preempted` further runs another program had the processor; None where the system does not tell. Where these left
    too few, `disturbed` is set, and they are among those that count.

    `subject` is `network`, a node's name in the file (or, of a node that onnxruntime added, in its profile), or a
    layer such as `56x56 64->64 k3 s1 d1`. What follows `p99_ms` is None where it does not apply: `ratio` is of a
    network or of a layer that was measured by itself, and not of the baseline; `kind` is of a node, and `layer` of a
    node with weights; files, memory and creation are of a network, with one thread, and memory is that of a process of
    its own (`runtime.memory`); `creation_ms` is the median time that it takes to make a session of the file. `macs`,
    multiply-accumulates of one run, are of a layer that was measured by itself, and `format` is, among the number
    formats that the engine has for it, the fastest.

    `thread_scaling` and `batch_scaling` are of a network where there is something to compare it with: how many times
    as many images per second as with the fewest threads and the same batch, or with the smallest batch and as many
    threads.
    """

    subject: str
    engine: str
    isa: str
    threads: int
    batch: int
    runs: int
    median_ms: float
    p90_ms: float
    p99_ms: float
    ratio: Ratio | None = None
    kind: str | None = None
    layer: str | None = None
    file_bytes: int | None = None
    memory: PeakMemory | None = None
    creation_ms: float | None = None
    thread_scaling: Ratio | None = None
    batch_scaling: Ratio | None = None
    macs: int | None = None
    format: str | None = None
    preempted: int | None = None
    disturbed: bool = False


@dataclass(frozen=True)
class EngineSetting:
    """What the records of one measurement share."""

    engine: str
    isa: str
    threads: int
    batch: int


def record(subject: str, setting: EngineSetting, samples: Column) -> Record:
    """Describe the runs that were not preempted; percentiles are interpolated linearly, as numpy does."""
    used = samples.kept_ns()
    median, p90, p99 = (np.percentile(used, (50, 90, 99)) / 1e6).tolist()
    preempted = int(samples.preempted.sum()) if samples.told else None
    return Record(
        subject,
        **asdict(setting),
        runs=len(used),
        median_ms=median,
        p90_ms=p90,
        p99_ms=p99,
        preempted=preempted,
        disturbed=samples.undisturbed() is None,
    )


def ratio(baseline: str, baseline_samples: Column, samples: Column) -> Ratio:
    """Compare round by round, where neither run was preempted."""
    kept = samples.undisturbed(baseline_samples)
    ratios = baseline_samples.ns / samples.ns
    used = ratios if kept is None else ratios[kept]
    p10, median, p90 = np.percentile(used, (10, 50, 90)).tolist()
    preempted = int((samples.preempted | baseline_samples.preempted).sum())
    return Ratio(baseline, p10, median, p90, len(used), preempted, kept is None)


def layer_name(cost: LayerCost) -> str:
    """Name a layer by what decides its time: height and width of its input, channels, kernel, stride, dilation.

    Such as `56x56 64->64 k3 s1 d1`; a pair of unequal numbers is written `3x1`, and ` g4` stands for groups, where
    there are several.
    """
    channels, height, width = cost.input
    kernel, stride, dilation = map(_pair, (cost.kernel, cost.stride, cost.dilation))
    text = f"{height}x{width} {channels}->{cost.output[0]} k{kernel} s{stride} d{dilation}"
    return text if cost.groups == 1 else f"{text} g{cost.groups}"


def _pair(numbers: tuple[int, int]) -> str:
    vertical, horizontal = numbers
    return str(vertical) if vertical == horizontal else f"{vertical}x{horizontal}"
