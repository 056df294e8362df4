"""Command line entry point: gathers the commands, holds no logic of its own."""

import sys
from importlib import import_module
from io import TextIOWrapper
from pkgutil import iter_modules
from typing import Any

import click

import bnas_deploy
from bnas_deploy import commands
from bnas_deploy.commands.runs import INTERRUPTED
from bnas_deploy.core.errors import INSTALL_TRAINING
from bnas_deploy.core.files import NO_ROOM


class Commands(click.Group):
    """Ends every command alike, whatever stops it.

    A package that is not installed becomes advice: a plain install has what a device needs, not PyTorch. Ctrl-C becomes
    one line and the exit code that shells know; where there is a place to go on from, the command itself saves it.
    """

    def main(self, *args: Any, **more: Any) -> Any:
        """Run the command line; a letter that the output's encoding lacks, as Windows' pipes do, is escaped."""
        if isinstance(sys.stdout, TextIOWrapper) and sys.stdout.errors == "strict":
            sys.stdout.reconfigure(errors="backslashreplace")
        return super().main(*args, **more)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            click.echo("\nStopped. Files that were finished are kept, the others are as they were.", err=True)
            ctx.exit(INTERRUPTED)
        except OSError as error:
            # What is written by this package says so itself; this is the screen, or the file that the shell put there.
            if error.errno not in NO_ROOM:
                raise
            raise click.ClickException(
                f"{error.filename or 'the output'}: cannot be written: {error.strerror}; make room"
            ) from None
        except ModuleNotFoundError as error:
            if error.name is None or error.name.partition(".")[0] not in TRAINING_PACKAGES:
                raise
            raise click.ClickException(
                f"{ctx.invoked_subcommand} needs the package {error.name}, which is not installed; {INSTALL_TRAINING}"
            ) from None


TRAINING_PACKAGES = {"torch", "matplotlib", "safetensors", "sklearn", "onnx", "onnx_ir", "onnxscript", "PIL"}
"""What the extra `train` brings, by import name."""


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(bnas_deploy.__version__)
def main() -> None:
    """Search, train, export, run and measure binary neural networks on plain CPUs."""


for module in iter_modules(commands.__path__, "bnas_deploy.commands."):
    found = getattr(import_module(module.name), "command", None)
    if isinstance(found, click.Command):  # the other modules hold what several commands share
        main.add_command(found)
