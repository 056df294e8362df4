"""The class of every command: what a user can cause ends it with a line, not with a traceback."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from bnas_deploy.core.errors import BnasError


class Command(click.Command):
    """Shows a BnasError as click shows its own errors; only here do the two meet."""

    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        """Read the options."""
        with as_a_line():
            return super().make_context(*args, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        with as_a_line():
            return super().invoke(ctx)


@contextmanager
def as_a_line() -> Iterator[None]:
    """Turn a BnasError into the error of click that ends a command with one line."""
    try:
        yield
    except BnasError as error:
        raise click.ClickException(error.message) from None
