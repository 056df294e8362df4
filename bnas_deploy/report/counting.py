"""A network as papers count it, as it is executed and as it was measured, side by side: numbers, then text or JSON."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from bnas_deploy.core.counting.energy import MAC_PJ, SOURCE, energy_pj, float_energy_pj
from bnas_deploy.core.counting.published import FIGURES, Printed
from bnas_deploy.core.counting.rules import EXECUTED, EXECUTED_WEIGHTS, Count, Network, Rule
from bnas_deploy.report import figures

MEASURED = "measured"
"""The title of the last column."""


@dataclass(frozen=True)
class Measured:
    """What was measured of a network: bytes of its files, milliseconds of one image. None: not measured.

    `times_as_fast` is of neighbouring runs, so it is no quotient of the medians. `where` says what the figures are of.
    """

    bytes: int | None
    float_bytes: int | None
    ms: float | None = None
    float_ms: float | None = None
    times_as_fast: float | None = None
    where: str = ""

    @property
    def memory_saving(self) -> float | None:
        """Return how many times the bytes of the binary network's file the float twin's has."""
        return self.float_bytes / self.bytes if self.float_bytes and self.bytes else None


@dataclass(frozen=True)
class Counted:
    """A network by some rules.

    Attributes:
        network: what is counted.
        against: whose float twin it is compared with; None for its own.
        rules: of papers; what is executed comes by itself.
        measured: None where nothing was.
        printed: the figures that papers print of exactly this network.
        energy: whether the energy of arithmetic is shown.
    """

    network: Network
    against: Network | None
    rules: tuple[Rule, ...]
    measured: Measured | None = None
    printed: tuple[Printed, ...] = ()
    energy: bool = False

    @property
    def counts(self) -> dict[Rule, Count]:
        """Return what each rule counts, and last what is executed."""
        executed = EXECUTED_WEIGHTS if self.network.other_parameters is None else EXECUTED
        return {rule: rule.count(self.network, self.against) for rule in (*self.rules, executed)}

    @property
    def energies_pj(self) -> tuple[float, float]:
        """Return the energy of all arithmetic of one image, and that of the float twin."""
        return (
            sum(map(energy_pj, self.network.layers)),
            sum(map(float_energy_pj, (self.against or self.network).layers)),
        )


# --- as text --------------------------------------------------------------------------------------------------------


def counted_text(counted: Counted) -> str:
    """Return the table, and below it the rules and what the papers print."""
    return "\n".join([*_table(counted), "", *_notes(counted)]) + "\n"


def _table(counted: Counted) -> list[str]:
    counts = list(counted.counts.values())
    measured = counted.measured or Measured(None, None)
    rows = [
        *_rows(
            ("memory, kB", "times as small"),
            figures.kilobytes,
            [(_bytes(each.bits), _bytes(each.float_bits), each.memory_saving) for each in counts],
            (measured.bytes, measured.float_bytes, measured.memory_saving),
        ),
        *_rows(
            ("operations, 1e6", "times fewer"),
            figures.millions,
            [(each.operations, each.float_operations, each.speed_up) for each in counts],
            None,
        ),
    ]
    if measured.ms is not None:
        times = (measured.ms, measured.float_ms, measured.times_as_fast)
        rows += _rows(("ms", "times as fast"), figures.optional_milliseconds, [None] * len(counts), times)
    if counted.energy:
        own, twin = counted.energies_pj
        executed = [*[None] * len(counted.rules), (own, twin, twin / own)]
        rows += _rows(("energy, uJ", "times less"), figures.millions, executed, None)
    return _aligned([("", *(rule.name for rule in counted.counts), MEASURED), *rows])


Cells = tuple[float | None, float | None, float | None]
"""The binary network's, the float twin's, and the ratio of both."""


def _rows(
    titles: tuple[str, str],
    shown: Callable[[float | None], str],
    counts: Sequence[Cells | None],
    measured: Cells | None,
) -> list[tuple[str, ...]]:
    """Return three rows: what the network has, what its float twin has, and the ratio."""
    what, ratio = titles
    columns = [each or (None, None, None) for each in (*counts, measured)]
    return [
        (what, *(shown(own) for own, _, _ in columns)),
        ("  of the float twin", *(shown(twin) for _, twin, _ in columns)),
        (f"  {ratio}", *(figures.factor(times) for _, _, times in columns)),
    ]


def _aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            [f"{title:<{widths[0]}}", *(f"{cell:>{width}}" for cell, width in zip(cells, widths[1:], strict=True))]
        )
        for title, *cells in rows
    ]


def _bytes(bits: int | None) -> float | None:
    return None if bits is None else bits / 8


def _notes(counted: Counted) -> Iterable[str]:
    for rule, count in counted.counts.items():
        yield f"{rule.name}: {rule.source}"
        yield f"  memory: {rule.memory}"
        if count.bits is None:
            yield "  not told: an exported file has BN folded into thresholds; inspect the checkpoint or the network"
        elif rule.megabyte != EXECUTED.megabyte:
            yield f"  in its MB: {rule.megabytes(count.bits):.3f}"
        yield f"  operations: {rule.operations}"
        yield from (f"  {_printed(each, rule, count)}" for each in counted.printed if each.rule == rule.name)
    yield f"  {_size(counted.network)}"
    if counted.measured is None:
        yield (
            f"{MEASURED}: nothing; `bnas-deploy export` writes the files, `bnas-deploy bench --json` a report for "
            "--report"
        )
    else:
        yield f"{MEASURED}: {counted.measured.where}"
    if counted.energy:
        yield f"energy: {SOURCE}; a binary MAC at most {1000 * MAC_PJ[1]:.1f} fJ"


def _size(network: Network) -> str:
    """Say how many parameters and MACs there are."""
    weights, macs = (sum(getattr(layer, what) for layer in network.layers) for what in ("weights", "macs"))
    if network.other_parameters is None:
        return f"{weights:,} weights, {macs:,} MACs"
    others = network.other_parameters
    return f"{weights + others:,} parameters, {others:,} of them others than weights of layers; {macs:,} MACs"


def _printed(each: Printed, rule: Rule, count: Count) -> str:
    """Say what a paper prints, and what it is here."""
    here = FIGURES[each.figure](rule, count)
    assert here is not None
    why = f" ({each.why})" if each.why and not each.agrees(here) else ""
    return f"{each.table}: {each.figure} {each.text} in print, {each.rounded(here)} here{why}"


# --- as JSON --------------------------------------------------------------------------------------------------------


def counted_record(counted: Counted) -> dict[str, Any]:
    """Return every figure by name, unrounded; what is not counted is None."""
    own, twin = counted.energies_pj
    return {
        "other_parameters": counted.network.other_parameters,
        "rules": {rule.name: _rule_record(rule, count, counted.printed) for rule, count in counted.counts.items()},
        "measured": None
        if counted.measured is None
        else {**asdict(counted.measured), "memory_saving": counted.measured.memory_saving},
        "energy": {"source": SOURCE, "pj": own, "float_pj": twin} if counted.energy else None,
        "layers": [
            {
                **asdict(layer),
                "weights": layer.weights,
                "macs": layer.macs,
                "counted": {
                    rule.name: {"bits": rule.bits_of(layer), "operations": rule.operations_of(layer)}
                    for rule in counted.counts
                },
                **({"energy_pj": energy_pj(layer)} if counted.energy else {}),
            }
            for layer in counted.network.layers
        ],
    }


def _rule_record(rule: Rule, count: Count, printed: Sequence[Printed]) -> dict[str, Any]:
    return {
        "source": rule.source,
        "how": {"memory": rule.memory, "operations": rule.operations},
        **asdict(count),
        "memory_saving": count.memory_saving,
        "speed_up": count.speed_up,
        "printed": [
            {
                "table": each.table,
                "figure": each.figure,
                "printed": each.text,
                "here": FIGURES[each.figure](rule, count),
            }
            for each in printed
            if each.rule == rule.name
        ],
    }
