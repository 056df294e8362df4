"""Command line entry point: gathers the commands, holds no logic of its own."""

import click

import bnas_deploy
from bnas_deploy.commands import bench, export, init, inspect, quickstart, train, verify


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(bnas_deploy.__version__)
def main() -> None:
    """Search, train, export, run and measure binary neural networks on plain CPUs."""


for module in (quickstart, train, init, export, verify, inspect, bench):
    main.add_command(module.command)
