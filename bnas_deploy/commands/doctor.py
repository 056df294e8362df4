"""`bnas-deploy doctor`: what works on this machine, and what mends the rest."""

import click

from bnas_deploy.commands.command import Command


@click.command("doctor", cls=Command)
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
def command(as_json: bool) -> None:
    """Show whether this machine can run models, the missing parts, and the commands that mend it.

    Small layers are run with every kernel that the processor can run, and compared bit for bit with onnxruntime's
    standard operators. The exit code is 0 only if models run here as they should.
    """
    # Imported here so that --help does not wait for numpy.
    from bnas_deploy.doctor import diagnose

    diagnosis = diagnose()
    click.echo(diagnosis.to_json() if as_json else diagnosis.to_text())
    if not diagnosis.works:
        raise SystemExit(1)
