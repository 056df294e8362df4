"""`bnas-deploy pareto`: searches with several latency weights, side by side."""

from pathlib import Path

import click

from bnas_deploy.commands.command import Command
from bnas_deploy.commands.options import (
    check_outputs,
    latency_target_option,
    one_of_the_data,
    output_option,
    say,
    seed_option,
)
from bnas_deploy.core.files import write_whole


@click.command("pareto", cls=Command)
@click.argument("runs", nargs=-1, required=True, type=click.Path(file_okay=False, path_type=Path))
@latency_target_option(required=True)
@click.option(
    "--train",
    "epochs",
    type=click.IntRange(min=1),
    help="Also train every network for so many epochs, on one half of the training images of --data. Its accuracy on "
    "the other half then replaces the supernet's.",
)
@click.option(
    "--data",
    default="digits",
    show_default=True,
    metavar="DATA",
    help=f"What --train trains on: {one_of_the_data}.",
)
@seed_option("the halves, weights and order of --train")
@click.option("--measure", is_flag=True, help="Also export every network, untrained, and measure it on this machine.")
@output_option("Picture to write, FILE.svg or FILE.png.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="File for every figure, as JSON.")
def command(
    runs: tuple[Path, ...],
    latency_target: Path,
    epochs: int | None,
    data: str,
    seed: int,
    measure: bool,
    output: Path | None,
    json_path: Path | None,
) -> None:
    """Compare RUNS, folders of `bnas-deploy search`: validation accuracy against latency on a device.

    Latency is predicted for the table's network, built from the cells of each search. A star marks the searches that
    no other beats in both. The accuracy is the supernet's, in which all operations still run, so it hardly depends on
    the found cells. --train measures the accuracy of the network itself.
    """
    # Imported here so that --help does not wait for the frameworks.
    from bnas_deploy.core.latency_table import read_latency_table
    from bnas_deploy.drawing.pareto import pareto_figure
    from bnas_deploy.drawing.pictures import check_picture, save_picture
    from bnas_deploy.report import pareto
    from bnas_deploy.report.searches import SearchedNetworks

    if output:
        check_picture(output)
    check_outputs({"--output": output, "--json": json_path}, inputs=[latency_target])
    table = read_latency_table(latency_target)
    networks = SearchedNetworks(runs, table, latency_target, say)
    candidates = networks.candidates(data=data, epochs=epochs, seed=seed, measure=measure)
    click.echo(pareto.table(candidates))
    name, device = networks.network, table.machine["cpu"]
    if json_path:
        about = {"network": name, "device": device, "isa": table.isa, "threads": table.threads}
        write_whole(json_path, pareto.to_json(candidates, about).encode())
    if output:
        save_picture(pareto_figure(candidates, f"{name} on {device}, {table.isa}"), output)
