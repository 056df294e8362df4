"""The class of every command: what a user can cause ends it with a line, not with a traceback."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from bnas_deploy.core.errors import BnasError
from bnas_deploy.core.memory import allocation_failure

# Imports no framework.
from bnas_deploy.search.training import torchrun


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
    """Turn a BnasError into the error of click that ends a command with a line, which one of several processes says.

    Memory that could not be had is an error of the user, too, wherever it is met.
    """
    try:
        yield
    except BnasError as error:
        raise _once(click.ClickException(error.message)) from None
    except click.ClickException as error:
        raise _once(error) from None
    except (MemoryError, RuntimeError) as error:
        if (failure := allocation_failure(error)) is None:
            raise
        message = f"{failure}; end other programs, or ask for less: a smaller network, smaller images or batches"
        raise _once(click.ClickException(message)) from None


def _once(error: click.ClickException) -> click.ClickException | click.exceptions.Exit:
    """Return an error, or the end without a word where another process has said the same."""
    return error if torchrun.says(error.format_message()) else click.exceptions.Exit(error.exit_code)
