"""The model card of a search for widths, of the parts that the card of a training run is made of."""

import shlex
from dataclasses import dataclass

from bnas_deploy.core.counts import counted
from bnas_deploy.core.model_card import blocks, bullets, fenced, front_matter, plain, table
from bnas_deploy.core.width_history import UNIFORM_FILE, WIDTH_HISTORY, WIDTHS_FILE, WidthHistory
from bnas_deploy.search.data.dataset import DataSet
from bnas_deploy.search.data.kinds import hub_name, kind_of
from bnas_deploy.search.training.card import LIBRARY, data_section, library_section, licence_section, numbers_table
from bnas_deploy.search.widths.config import WidthSearchConfig


@dataclass(frozen=True)
class Searched:
    """What the card of a search is about.

    Attributes:
        history: a pass at least.
        config: of the search.
        uniform_cost: of the network of one ratio, in the unit of the goal.
        seed: of the search.
        command: the command line that searches so, None where there was none.
        evaluation: options of `train` for what was found.
    """

    history: WidthHistory
    config: WidthSearchConfig
    uniform_cost: float
    seed: int
    command: str | None
    evaluation: tuple[str, ...] = ()


def width_search_card(searched: Searched, data: DataSet) -> str:
    """Return the card of a search on `data`."""
    heading, last = searched.history.heading, searched.history.epochs[-1]
    base, known = searched.config.network, hub_name(data.named) if data.named else None
    widths = zip(heading.names, heading.base, last.widths, heading.uniform, strict=True)
    numbers = {key: value for key, value in searched.config.to_json().items() if key != "network"}
    return blocks(
        front_matter({
            "library_name": LIBRARY,
            "tags": ["binary-neural-network", "neural-architecture-search"],
            **({"datasets": [known]} if known else {}),
        }),
        f"# Widths for {plain(heading.network)}, searched on {plain(data.description.name)}",
        f"A folder of `bnas-deploy search-widths`. `{WIDTHS_FILE}` has the channels that were found, `{UNIFORM_FILE}` "
        f"those of the\nnetwork of one ratio that costs as much, `{WIDTH_HISTORY}` what every pass measured. "
        "`resume.safetensors` is there to go on.",
        "## Network",
        bullets([plain(f"{base.name}, the base: {base.summary}"), *map(plain, base.describe())]),
        table(
            ("width", "base", f"`{WIDTHS_FILE}`", f"`{UNIFORM_FILE}`"),
            [(plain(name), *map(str, channels)) for name, *channels in widths],
        ),
        data_section(data.description.name, data.description.class_names, data.description.preprocessing, None, more=[
            f"{data.train_size:,} training images: half of them train weights, half the widths; no test image is seen",
            *([] if data.limit is None else [f"limited to {data.limit:,} training images, the first of each class"]),
        ]),
        "## Search",
        bullets(["method: DMS, differentiable dimension search", f"seed: {searched.seed}"]),
        numbers_table("setting", numbers),
        f"To search again:\n\n{fenced(searched.command, 'sh')}" if searched.command else "",
        "## Figures",
        table((f"{heading.goal}, {heading.unit}", ""), [
            ("aimed at", f"{heading.target:g}"),
            (f"`{WIDTHS_FILE}`", f"{last.cost:.4g}"),
            (f"`{UNIFORM_FILE}`", f"{searched.uniform_cost:.4g}"),
        ]),
        f"{counted(len(searched.history.epochs), 'pass', 'passes')} of {searched.config.passes} are done. How often "
        "the network is right is known once it is trained.",
        "## How to use it",
        f"With [bnas-deploy](#{LIBRARY}), in this folder, the network of these widths is trained and exported by:",
        fenced(_commands(searched, data), "sh"),
        library_section(),
        licence_section(),
    )  # fmt: skip


def _commands(searched: Searched, data: DataSet) -> str:
    base = searched.config.network
    words = ["bnas-deploy", "train", "--network", base.network, "--form", base.form, "--scheme", base.scheme]
    named = ["--data", data.named or "DATA"]
    size = "x".join(map(str, base.image_size))
    sized = ["--image-size", size] if data.named and kind_of(data.named).resizes else []
    limit = [] if data.limit is None else ["--limit", str(data.limit)]
    return (
        f"{shlex.join([*words, '--widths', WIDTHS_FILE, *named, *sized, *limit, *searched.evaluation, '-o', 'RUN'])}\n"
        "bnas-deploy export RUN/best.safetensors -o BUNDLE"
    )
