"""`bnas-deploy networks`: every network that can be built, in one table, on request with its latency here."""

from pathlib import Path

import click

from bnas_deploy.commands.command import Command
from bnas_deploy.commands.options import Name, check_outputs, say
from bnas_deploy.core.counts import counted

# Imports no framework.
from bnas_deploy.search.models.registry import network_names


@click.command("networks", cls=Command)
@click.argument("names", nargs=-1, metavar="[NAME]...", type=Name(network_names()))
@click.option("--measure", is_flag=True, help="Also export every network, untrained, and measure it on this machine.")
@click.option(
    "--threads", type=click.IntRange(min=1), default=1, show_default=True, help="That --measure lets a run use."
)
@click.option(
    "--min-seconds",
    type=click.FloatRange(min=0, max=86_400),
    default=4.0,
    show_default=True,
    help="Minimum seconds of --measure for each network; the engines share it.",
)
@click.option("--csv", "csv_path", type=click.Path(path_type=Path), help="File for every figure, as CSV.")
@click.option("--markdown", "markdown_path", type=click.Path(path_type=Path), help="File for the table, as Markdown.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="File for every figure, as JSON.")
@click.option(
    "--picture",
    type=click.Path(path_type=Path),
    help="File for a picture of --measure, FILE.svg or FILE.png: latency against FLOPs.",
)
def command(
    names: tuple[str, ...],
    measure: bool,
    threads: int,
    min_seconds: float,
    csv_path: Path | None,
    markdown_path: Path | None,
    json_path: Path | None,
    picture: Path | None,
) -> None:
    """List the networks that --network takes, or those of these NAMEs, as published and in every form.

    Latency does not depend on the weights, so --measure needs no training. It measures each network against its float
    twin and its int8 twin, in turns, as `bnas-deploy bench` does; all of them take half an hour to
    an hour.
    """
    if picture and not measure:
        raise click.UsageError("--picture shows latencies; give --measure as well")
    check_outputs({"--csv": csv_path, "--markdown": markdown_path, "--json": json_path, "--picture": picture})
    # Imported here so that --help does not wait for the frameworks.
    from bnas_deploy.core.files import write_whole
    from bnas_deploy.drawing.networks import networks_figure
    from bnas_deploy.drawing.pictures import check_picture, save_picture
    from bnas_deploy.report import network_list
    from bnas_deploy.report.text import print_tables, table_markdown

    if picture:
        check_picture(picture)
    networks = network_list.network_rows(dict.fromkeys(names) or network_names())
    rows, machine = [row for _, row in networks], None
    if measure:
        rows, machine = network_list.measured_rows(networks, threads=threads, min_seconds=min_seconds, say=say)
    table = network_list.network_table(rows, machine, threads)
    print_tables([table], f"{counted(len(rows), 'network')}; build one with `bnas-deploy init --network NAME`.")
    if csv_path:
        write_whole(csv_path, network_list.networks_csv(rows).encode())
    if markdown_path:
        write_whole(markdown_path, table_markdown(table).encode())
    if json_path:
        write_whole(json_path, network_list.networks_json(rows, machine, threads).encode())
    if picture and machine:
        save_picture(networks_figure(rows, network_list.measured_where(rows, machine, threads)), picture)
