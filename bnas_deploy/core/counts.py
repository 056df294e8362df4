"""Numbers of things, as sentences have them."""


def counted(count: int, one: str, more: str | None = None) -> str:
    """Return "1 epoch", "2 epochs" or "2,000 epochs"; `more` is the plural, that of an -s unless it is given."""
    return f"{count:,} {one if count == 1 else more or one + 's'}"
