"""`bnas-deploy train`."""

from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bnas_deploy.commands.command import Command
from bnas_deploy.commands.network_options import (
    given_settings,
    network_help,
    network_settings,
    refuse_binary_settings,
)
from bnas_deploy.commands.options import Name, seed_option
from bnas_deploy.commands.recipe_options import recipe_file_options
from bnas_deploy.commands.runs import (
    arithmetic_option,
    at_work,
    by_data,
    check_means,
    check_only_source,
    checkpoint_of,
    device_option,
    folder_options,
    leave,
    one_voice,
    published_command,
    run_folder,
    tell_end,
    training_data_options,
)

# These import no framework.
from bnas_deploy.search.data.kinds import kind_of, training_defaults
from bnas_deploy.search.models.registry import check_settings, configure, network_names
from bnas_deploy.search.training.recipes import Recipe, find_recipe

if TYPE_CHECKING:
    from bnas_deploy.search.data.dataset import DataDescription
    from bnas_deploy.search.models.family import ModelConfig
    from bnas_deploy.search.training.checkpoint import Checkpoint
    from bnas_deploy.search.training.fine_tuning import Start
    from bnas_deploy.search.training.stages import StagedResult

DEFAULTS = training_defaults()


@click.command("train", cls=Command)
@training_data_options("Height and width that the images of a folder are made. [default: 224]")
@click.option(
    "--network",
    type=Name(network_names()),
    show_default=by_data({name: defaults.network for name, defaults in DEFAULTS.items()}),
    help=network_help("Published size to train."),
)
@network_settings()
@click.option(
    "--float-twin", is_flag=True, help="Train the float twin: the same architecture with float weights and no sign."
)
@click.option(
    "--from",
    "source",
    type=click.Path(path_type=Path),
    metavar="CHECKPOINT|RUN",
    help="Begin with the weights of a checkpoint, or of the best one of a run; its network is trained, and what "
    "belongs to other classes is new. [default: random weights]",
)
@recipe_file_options(by_data({name: defaults.recipe for name, defaults in DEFAULTS.items()}))
@click.option(
    "--class-weights",
    metavar="balanced|W1,W2,...",
    help="How much each class counts in the loss; balanced: the fewer images it has, the more. [default: all the same]",
)
@click.option("--tensorboard", is_flag=True, help="Write scalars for TensorBoard as well, to the output folder.")
@seed_option("weights, order and augmentation")
@device_option
@arithmetic_option
@folder_options("run", "runs/NETWORK-DATA", "checkpoints, metrics, model card and resume.safetensors")
@click.pass_context
def command(
    context: click.Context,
    /,
    data: str,
    image_size: tuple[int, int] | None,
    in_channels: int | None,
    limit: int | None,
    skip_bad: bool,
    network: str | None,
    float_twin: bool,
    source: Path | None,
    recipe: str | None,
    changes: tuple[str, ...],
    epochs: int | None,
    batch_size: int | None,
    class_weights: str | None,
    tensorboard: bool,
    device: str,
    output: Path | None,
    seed: int,
    arithmetic: str,
    resume: bool,
    **options: Any,
) -> None:
    """Train a binary network.

    Ctrl-C finishes the current batch and saves the place; --resume goes on from there.
    """
    _check_network(source, network, options, float_twin=float_twin)
    context.with_resource(one_voice())
    # Imported here so that --help does not wait for PyTorch.
    from bnas_deploy.search.data import open_data
    from bnas_deploy.search.training.checkpoint import load_checkpoint
    from bnas_deploy.search.training.class_weights import class_weights as weights_of
    from bnas_deploy.search.training.stages import check_folder, train_in_stages
    from bnas_deploy.search.training.tensorboard import to_tensorboard

    for keyword, given in (("epochs", epochs), ("batch_size", batch_size)):
        if given is not None and any(change.partition("=")[0].strip() == keyword for change in changes):
            option = keyword.replace("_", "-")
            raise click.UsageError(f"--{option} and --set {keyword} exclude each other; leave one of them out")
    kind = kind_of(data)
    check_means(context, check_folder)
    known = image_size or kind.training_small is None  # then the default is known before the images are
    ahead = recipe or (kind.defaults(image_size or (0, 0)).recipe if known else None)
    _check_choices(network, options, ahead, changes, tensorboard=tensorboard)
    checkpoint = None if source is None else load_checkpoint(checkpoint_of(source))
    images = open_data(data, image_size=image_size, in_channels=in_channels, limit=limit, skip_bad=skip_bad)
    click.echo(images.summary)
    about = images.description
    defaults = kind.defaults(about.image_size)
    start = _start(checkpoint, about)
    config = start.network if start else _configure(network or defaults.network, about, options, float_twin=float_twin)
    chosen = find_recipe(recipe or defaults.recipe, changes).of_length(epochs, batch_size)
    what = f"{config.name}{'-float' if config.is_float else ''}{'-tuned' if start else ''}"
    folder = output or run_folder(what, kind.word(about.name), limit)
    defaults_then = {"recipe": defaults.recipe} | ({} if start else {"network": defaults.network})
    with at_work(device) as work:
        scalars = tensorboard and work.processes.writes
        result = train_in_stages(
            images,
            config,
            chosen,
            folder,
            start=start,
            seed=seed,
            arithmetic=arithmetic,
            class_weights=None if class_weights is None else weights_of(class_weights, images),
            resume=resume,
            listeners=lambda place: to_tensorboard(place, work.bar) if scalars else nullcontext(work.bar),
            announce=work.bar.say,
            command=published_command(context, **defaults_then),
            **work.settings,
        )
    _print_stages(chosen, result)
    tell_end(context, result.summary, images.skipped_note, finished=result.finished)
    leave(context, finished=result.finished)


def _check_network(source: Path | None, network: str | None, options: Mapping[str, Any], *, float_twin: bool) -> None:
    """Refuse options of the network that exclude each other.

    Raises:
        click.UsageError: there are two.
    """
    if float_twin:
        refuse_binary_settings(options)
    if source is not None:
        check_only_source({"network": network, "float_twin": float_twin, **options})


def _check_choices(
    network: str | None, options: Mapping[str, Any], recipe: str | None, changes: tuple[str, ...], *, tensorboard: bool
) -> None:
    """Refuse what is wrong with options whatever the data are; where one of them has a default, that is by the data.

    Raises:
        BnasError: there is something.
    """
    from bnas_deploy.search.training.tensorboard import check_tensorboard

    settings = given_settings(options)
    if network is not None:
        check_settings(network, settings)
    if recipe is not None:
        for stage in find_recipe(recipe, changes).all_stages:
            stage.optimiser.states()  # of which PyTorch says what it takes
    if tensorboard:
        check_tensorboard()


def _start(checkpoint: "Checkpoint | None", about: "DataDescription") -> "Start | None":
    """Return the weights of --from for these data, and tell what is taken."""
    from bnas_deploy.search.training.fine_tuning import start_from

    if checkpoint is None:
        return None
    start = start_from(checkpoint, about)
    click.echo(start.summary)
    return start


def _configure(
    network: str, about: "DataDescription", options: Mapping[str, Any], *, float_twin: bool
) -> "ModelConfig":
    """Return the configuration of a network by name for these data."""
    config = configure(network, **about.sizes, options=given_settings(options))
    return config.float_twin() if float_twin else config


def _print_stages(recipe: Recipe, result: "StagedResult") -> None:
    """Print a table of the finished stages, where the recipe has several."""
    from bnas_deploy.report.recipes import stage_table
    from bnas_deploy.report.text import print_tables

    if recipe.stages and result.stages:
        print_tables([stage_table(result.stages)], "")
