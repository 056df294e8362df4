"""Spellings of bnas-deploy 0.1 that still work: `bench --layers` is bench-layers, `bench --ops` is bench-ops."""

import copy
from typing import Any

import click

from bnas_deploy.commands import bench_layers, bench_ops
from bnas_deploy.commands.command import Command, as_a_line

MISSING = (
    "give a BUNDLE, the folder that `bnas-deploy export -o` wrote; bench-layers and bench-ops measure without a bundle"
)

_TARGET = ("network", "image_size", "in_channels", "classes", "no_skip")


def _hidden() -> list[click.Parameter]:
    """Return the options of the old spellings, which --help does not show."""
    target = [copy.copy(option) for option in bench_ops.command.params if option.name in _TARGET]
    options = [click.Option([f"--{name}"], is_flag=True) for name in ("layers", "ops")]
    options += [option for option in target if isinstance(option, click.Option)]
    for option in options:
        option.hidden = True
    return [*options]


class BenchWithOldSpellings(Command):
    """Does what another command does where it is called by the old spelling."""

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """Return what is parsed; `params` has the options of today alone."""
        return [*super().get_params(ctx), *_hidden()]

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command that is meant."""
        given = ctx.params
        layers, ops = given.pop("layers"), given.pop("ops")
        target = {name: given.pop(name) for name in _TARGET}
        if ops:
            return self._measure_operations(ctx, target, layers=layers)
        if any(value not in (None, False) for value in target.values()):
            raise click.UsageError("--network, --image-size, --in-channels, --classes and --no-skip go with --ops")
        if not layers:
            return super().invoke(ctx)
        if given.pop("bundle") is not None:
            raise click.UsageError(MISSING)
        with as_a_line():
            return ctx.invoke(bench_layers.command, **given)

    def _measure_operations(self, ctx: click.Context, target: dict[str, Any], *, layers: bool) -> Any:
        known = ("threads", "batches", "min_seconds", "json_path")
        if layers or any(value for name, value in ctx.params.items() if name not in known):
            raise click.UsageError(
                "--ops measures no BUNDLE and no --layers, is run on the device itself, and writes --json only; "
                "leave the other options out"
            )
        with as_a_line():
            return ctx.invoke(bench_ops.command, **{name: ctx.params[name] for name in known}, **target)
