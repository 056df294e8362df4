"""`bnas-deploy ops-library`: where the operator library is, or a copy of it for some machine."""

from pathlib import Path

import click

from bnas_deploy.commands.command import Command
from bnas_deploy.commands.options import output_option, say


@click.command("ops-library", cls=Command)
@click.option(
    "--target",
    metavar="ARCHITECTURE-SYSTEM",
    help="For which machine, such as aarch64-linux or x86_64-windows. [default: this one]",
)
@click.option(
    "--wheel", type=click.Path(path_type=Path), help="Take it from this wheel of bnas-deploy instead of building it."
)
@output_option("File to write a copy to.")
def command(target: str | None, wheel: Path | None, output: Path | None) -> None:
    """Print the path of the operator library, which an app registers with onnxruntime, or write a copy of it.

    For another machine the library is built, which needs the sources. Those are a clone of the repository or an
    unpacked sdist, installed with `pip install -e .`.
    """
    # Imported here so that --help does not wait for numpy.
    from bnas_deploy.core.files import check_writable, write_whole
    from bnas_deploy.remote import wheels
    from bnas_deploy.runtime.library import library_path
    from bnas_deploy.runtime.targets import TARGETS, this_machine

    if target is not None and target not in TARGETS:
        raise click.UsageError(f"--target is {target!r}; there are {', '.join(TARGETS)}")
    if output is None:
        if wheel is not None or target not in (None, this_machine()):
            raise click.UsageError("give the file to write with -o; only this machine's library lies here already")
        click.echo(library_path())
        return
    check_writable(output)
    data = wheels.library_for(target, say) if wheel is None else _library_of(wheel, target)
    write_whole(output, data)
    # Absolute: a loader looks for a name without a slash in the system's folders only.
    click.echo(f"{output.absolute()}: {len(data) / 1000:.0f} kB")


def _library_of(wheel: Path, target: str | None) -> bytes:
    """Return the library in a wheel, which must be for `target` where that is given."""
    from bnas_deploy.remote.wheels import library_in

    data, file = library_in(wheel)
    if target not in (None, file.target):
        raise click.UsageError(f"{wheel}: its library is for {file.target}, and --target is {target}")
    return data
