"""`bnas-deploy verify`: check a bundle on this machine."""

from pathlib import Path

import click

from bnas_deploy.commands.command import Command


@click.command("verify", cls=Command)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--layers", is_flag=True, help="Print a line for every piece of the model.")
def command(bundle: Path, layers: bool) -> None:
    """Check BUNDLE on this machine against what PyTorch computed: needs numpy and onnxruntime only.

    The model is cut at every value that PyTorch recorded. Each binary convolution has to give PyTorch's answer to the
    bit, with the operator library and without it; with a BN, a sum, a gate or K in it, within the rounding of
    these. Everything else has to agree within the rounding of its own arithmetic. If anything does not hold, the exit
    code is 1.
    """
    # Imported here so that --help does not wait for the frameworks.
    from bnas_deploy.core.bundle import read_bundle
    from bnas_deploy.core.errors import BundleError
    from bnas_deploy.report import verification
    from bnas_deploy.runtime.verify import verify_bundle

    opened = read_bundle(bundle)
    result = verify_bundle(opened)
    click.echo(verification.describe(opened, result, every_layer=layers))
    if result.failures:
        raise BundleError(
            f"{bundle}: does not agree with PyTorch: {'; '.join(result.failures)}; export the model again"
        )
