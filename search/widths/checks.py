"""What a search for widths is refused for: before its first step, and where it runs away."""

from collections.abc import Sequence

from bnas_deploy.core.errors import BnasError, DataError
from bnas_deploy.core.names import known_name
from bnas_deploy.search.data.dataset import InMemoryDataSet
from bnas_deploy.search.models.registry import FAMILIES
from bnas_deploy.search.models.size_limits import MOST
from bnas_deploy.search.models.width_layout import Layout
from bnas_deploy.search.widths.config import Goal, WidthSearchConfig
from bnas_deploy.search.widths.cost import Cost
from bnas_deploy.search.widths.distribution import LEAST_RATIO, SPREAD


class WidthSearchError(BnasError):
    """A search for widths cannot begin, go on or be resumed."""


def check_reach(config: WidthSearchConfig, cost: Cost, layout: Layout) -> None:
    """Make sure that the goal can be met, and that a search can begin where it would.

    Raises:
        WidthSearchError: the network of the least widths costs more, or the widest candidates are no network.
    """
    check_goal(config.goal, cost, layout)
    check_first_ratio(config, layout)


def check_goal(goal: Goal, cost: Cost, layout: Layout) -> None:
    """Make sure that a goal can be met.

    Raises:
        WidthSearchError: the network of the least widths costs more.
    """
    least = cost.of(layout.channels([LEAST_RATIO] * len(layout.multiples)))
    if goal.target < least:
        raise WidthSearchError(
            f"{layout.base.name}: no widths reach a {goal.kind} of {goal.target:g} {goal.unit}; the least, with every "
            f"width at {LEAST_RATIO} of the base, is {least:.4g} {goal.unit}. Aim at that or more, or choose a smaller "
            "base with --width-factor"
        )


def check_first_ratio(config: WidthSearchConfig, layout: Layout) -> None:
    """Make sure that the widest candidates of the first round are a network.

    Raises:
        WidthSearchError: a layer would have more channels than a network may.
    """
    ratio = config.first_ratio + SPREAD * config.first_sigma
    widest, most = max(ratio * width for width in layout.base.widths), MOST["channels"]
    if widest > most:
        raise WidthSearchError(
            f"{layout.base.name}: a search from the ratio {config.first_ratio:g} begins with candidates of up to "
            f"{widest:.4g} channels, and a layer has {most} at most; choose a smaller --first-ratio or --width-factor"
        )


def check_images(data: InMemoryDataSet, config: WidthSearchConfig) -> None:
    """Make sure that the network is for these images, and that there are enough of them.

    Raises:
        WidthSearchError: it is for others.
        BnasError: it has no widths.
        DataError: there are too few, or the augmentation does not suit them.
    """
    description, network = data.description, config.network
    for what, got, wanted in (
        ("classes", network.classes, description.classes),
        ("channels in", network.in_channels, description.in_channels),
        ("image size", network.image_size, description.image_size),
    ):
        if got != wanted:
            raise WidthSearchError(f"{network.name} has {what} {got}, but {description.name} has {wanted}")
    data.check(config.augmentation)
    half = data.train_size // 2
    if half < config.batch_size:
        raise DataError(
            f"{description.name}: {data.train_size} training images, so that each half of a search has {half}, fewer "
            f"than one batch of {config.batch_size}; use a larger data set or a smaller --batch-size"
        )
    if half % config.batch_size == 1:
        raise DataError(
            f"{description.name}: halves of {half} images in batches of {config.batch_size} leave a last batch of one, "
            "which has no deviation for batch normalisation; choose another --batch-size"
        )


def check_widths(network: str) -> None:
    """Refuse a network without widths of its own.

    Raises:
        WidthSearchError: its family has none.
    """
    having = [name for family in FAMILIES.values() if family.width_names for name in family.networks]
    if not known_name(network, having):
        raise WidthSearchError(f"{network} has no widths to search; choose one of {', '.join(having)}")


def runaway(layout: Layout, ratios: Sequence[float]) -> str | None:
    """Say which width has grown beyond what a network may have, if one has; `ratios` are its means to the base."""
    widths = [ratio * width for ratio, width in zip(ratios, layout.base.widths, strict=True)]
    widest, most = max(widths), MOST["channels"]
    if widest <= most:
        return None
    number = widths.index(widest) + 1
    return f"width {number} of {layout.base.network}, of at most {most:,} channels, grew to {widest:.3g}"
