"""Settings of networks as options: every family's, in each command that builds a network by name."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import click

from bnas_deploy.commands.options import Decorator, Name, all_of

# These import no framework.
from bnas_deploy.search.models.family import Family
from bnas_deploy.search.models.registry import FAMILIES, least_images, shared_settings
from bnas_deploy.search.models.settings import Choice, Count, Kind, Setting, Switch, Text


def _all(family: Family) -> Sequence[Setting]:
    return family.settings


def network_settings(settings: Callable[[Family], Iterable[Setting]] = _all) -> Decorator:
    """Return options for some settings of every family; `given_settings` takes what arrives.

    An option of several families is one option. `configure` refuses one that the family of the network lacks.
    """
    return all_of(
        *(
            setting_option(next(iter(families.values())), _help(families))
            for families in shared_settings(settings).values()
        )
    )


def network_help(text: str) -> str:
    """Return the help of --network in a command whose data may be small: it names the networks that need larger."""
    needs = ", ".join(f"{name} {pixels}" for name, pixels in least_images().items())
    return f"{text} Images must have some pixels in height and width for {needs}."


def setting_names(settings: Callable[[Family], Iterable[Setting]] = _all) -> set[str]:
    """Return the names under which the options of `network_settings` arrive at a command."""
    return {_argument(setting) for families in shared_settings(settings).values() for setting in families.values()}


def setting_option(setting: Setting, help_text: str | None = None) -> Decorator:
    """Return the option of one setting."""
    return click.option(
        setting.option, _argument(setting), help=help_text or setting.help, **_as_click_says(setting.kind)
    )


def _as_click_says(kind: Kind) -> dict[str, Any]:
    match kind:
        case Switch():
            return {"is_flag": True}
        case Count(least):
            return {"type": click.IntRange(min=least)}
        case Choice(names, repeated=True):
            return {"type": Name(names), "multiple": True, "metavar": "NAME"}
        case Choice(names):
            return {"type": Name(names)}
        case Text(metavar):
            return {"metavar": metavar}


def _argument(setting: Setting) -> str:
    """Return the name under which a setting arrives at a command; a switch says what its option says."""
    return setting.option.strip("-").replace("-", "_") if isinstance(setting.kind, Switch) else setting.keyword


def _help(families: Mapping[str, Setting]) -> str:
    """Return the text of an option; where not every family has it in the same words, it names those that do."""
    texts: dict[str, list[str]] = {}
    for family, setting in families.items():
        texts.setdefault(setting.help, []).append(family)
    if len(texts) == 1 and families.keys() == FAMILIES.keys():
        return next(iter(texts))
    return " ".join(f"Networks of {', '.join(names)}: {text}" for text, names in texts.items())


def given_settings(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that options give, by the keywords of `configure`.

    Raises:
        BnasError: a text cannot be read.
    """
    given = {each.keyword: _value(each, options.get(argument)) for argument, each in _known().items()}
    return {keyword: value for keyword, value in given.items() if value is not None}


def _known() -> dict[str, Setting]:
    """Return the settings of all families by the names under which they arrive."""
    return {_argument(setting): setting for family in FAMILIES.values() for setting in family.settings}


def _value(setting: Setting, given: Any) -> object:
    """Return the value of a setting; None where its option was not given."""
    match setting.kind:
        case Switch(on):
            return on if given else None
        case Choice(repeated=True):
            return given or None
        case Text(read=read):
            return None if given is None else read(given)
    return given


def refuse_binary_settings(options: Mapping[str, Any]) -> None:
    """Refuse options that say how layers are binary, which a float twin has none of.

    Raises:
        UsageError: there is one.
    """
    for argument, setting in _known().items():
        if setting.binary and options.get(argument):
            raise click.UsageError(
                f"--float-twin and {setting.option} exclude each other: the float twin has nothing binary; leave one "
                "of them out"
            )
