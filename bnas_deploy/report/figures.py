"""Numbers as people read them: the only place that rounds."""


def threads(count: int) -> str:
    """Count threads, as in `1 thread`."""
    return "1 thread" if count == 1 else f"{count} threads"


def milliseconds(value: float) -> str:
    """Three significant digits and more: nothing here is known better than that."""
    return f"{value:.3f}" if value < 10 else f"{value:.2f}" if value < 100 else f"{value:.1f}"


def optional_milliseconds(value: float | None) -> str:
    """Return milliseconds, or a dash."""
    return "-" if value is None else milliseconds(value)


def microseconds(value: float | None) -> str:
    """Return microseconds, or a dash."""
    return "-" if value is None else f"{value:.1f}" if value < 100 else f"{value:.0f}"


def quotient(baseline: float | None, other: float | None) -> str:
    """Return how many times the one is the other, or a dash."""
    return factor(baseline / other) if baseline is not None and other else "-"


def factor(value: float | None) -> str:
    """Return a ratio, or a dash."""
    return "-" if value is None else f"{value:.2f}"


def kilobytes(value: float | None) -> str:
    """Return bytes as kB of 1000, or a dash."""
    return "-" if value is None else f"{value / 1e3:,.1f}"


def megabytes(value: float | None) -> str:
    """Return bytes as MB of a million, or a dash."""
    return "-" if value is None else f"{value / 1e6:,.1f}"


def millions(value: float | None) -> str:
    """Return a count in millions, or a dash; of less than one the first three digits."""
    if value is None:
        return "-"
    return f"{value / 1e6:.3g}" if 0 < value < 1e6 else f"{value / 1e6:,.1f}"


def gigabytes(value: int | None) -> str:
    """Return bytes as GB with their unit."""
    return "not told by this system" if value is None else f"{value / 1e9:.1f} GB"


def megahertz(value: float | None) -> str:
    """Return a clock with its unit."""
    return "unknown" if value is None else f"{value:.0f} MHz"


def percent(value: float | None) -> str:
    """Return a share in per cent with its sign, or a dash."""
    return "-" if value is None else f"{100 * value:.1f} %"


def fraction(value: float | None) -> str:
    """Return a share as one part in so many, or a dash."""
    return "-" if value is None else f"1/{1 / value:.2f}"


def celsius(value: float) -> str:
    """Tenths of a degree, which is more than a sensor knows."""
    return f"{value:.1f} °C"


def throttling(value: str) -> str:
    """Name what `Machine.throttling` says."""
    return value or "none"
