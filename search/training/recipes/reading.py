"""Recipes as TOML files: their keys, and how a file is read and changed.

A file has the keys of `Recipe` without its name. A stage is a table `stages.NAME` with its differences from the last
stage, which the keys outside describe. `like = "NAME"` begins with another recipe, of which the file changes what it
names. A table with another `kind` replaces the other's whole, and with another optimiser goes the momentum that the
schedule lowers. Without a learning rate, an optimiser has PyTorch's.
"""

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass, replace
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

from bnas_deploy.core.errors import RecipeError
from bnas_deploy.core.files import read_bytes
from bnas_deploy.core.json_records import value_of
from bnas_deploy.core.names import did_you_mean
from bnas_deploy.search.training.recipes.recipe import (
    LAST_STAGE,
    LEARNING_RATES,
    Optimiser,
    Recipe,
    check_optimiser,
)
from bnas_deploy.search.training.recipes.schedules import SCHEDULES, Schedule

SUFFIX = ".toml"

LARGEST_FILE = 1_000_000
"""Bytes; those that come with the package have less than 5,000."""

Table = dict[str, Any]


def read_recipe(path: Path, changes: Sequence[str] = ()) -> Recipe:
    """Return the recipe in a file, with `changes` as `--set` has them: KEY=VALUE, the value as in TOML.

    Raises:
        RecipeError: the file cannot be read, or it or a change has a key or a value that no recipe has.
    """
    table = _table_of(path, ())
    for key, value in _in_order(changes):
        before = _kind(table.get("optimiser"))
        _set(table, key, value)
        if _kind(table.get("optimiser")) != before:
            table = _without_optimiser(table)
    try:
        return _recipe(table, path.stem)
    except (ValueError, RecipeError) as error:
        reason = error.message if isinstance(error, RecipeError) else str(error)
        raise RecipeError(f"recipe {_shown(path)}: {reason}") from None


def recipe_text(path: Path) -> str:
    """Return a recipe's file as it is.

    Raises:
        RecipeError: it cannot be read.
    """
    try:
        return read_bytes(path, LARGEST_FILE).decode("utf-8-sig")
    except OSError as error:
        raise RecipeError(f"{path}: cannot be read: {error.strerror}; expected the TOML file of a recipe") from None
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path}: not text in UTF-8 ({error}); expected the TOML file of a recipe") from None


def packaged_recipes() -> dict[str, Path]:
    """Return the files that come with this package, by the name of the recipe."""
    files = {path.stem: path for path in Path(__file__).parent.glob(f"*{SUFFIX}")}
    return dict(sorted(files.items()))


def _shown(path: Path) -> str:
    return path.stem if path in packaged_recipes().values() else str(path)


# ---- tables


def _table_of(path: Path, above: tuple[Path, ...]) -> Table:
    """Return what a file holds, on top of the recipe that it is like; `above` are the files that are like this one."""
    table = _parsed(recipe_text(path), str(path))
    if "like" not in table:
        return table
    like = table.pop("like")
    known = packaged_recipes()
    if isinstance(like, str) and like in known:
        base = known[like]
    elif isinstance(like, str) and like.endswith(SUFFIX):
        base = path.parent / like
    else:
        near = did_you_mean(like, known) if isinstance(like, str) else ""
        raise RecipeError(f"{path}: like: got {like!r}, wanted a file *.toml or one of {', '.join(known)}{near}")
    if base.resolve() in (each.resolve() for each in (*above, path)):
        raise RecipeError(f"{path}: like: {like!r} is like this file itself; name another recipe")
    return _with_changes(_table_of(base, (*above, path)), table)


def _parsed(text: str, where: str) -> Table:
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise RecipeError(f"{where}: nested too deeply") from None
    except ValueError as error:
        raise RecipeError(f"{where}: not TOML ({error})") from None


def _with_changes(base: Table, top: Table) -> Table:
    """Return the table of a recipe with what `top` changes."""
    kind = _kind(base.get("optimiser"))
    changed = _kind(_merged(base, top).get("optimiser")) != kind
    return _merged(_without_optimiser(base) if changed else base, top)


def _kind(table: Any) -> Any:
    return table.get("kind") if isinstance(table, dict) else None


def _without_optimiser(table: Table) -> Table:
    """Return the table of a recipe without what it has elsewhere for the kind of its optimiser.

    That is the momentum of the schedule, and what stages change of the optimiser without a kind of their own.
    """
    result = dict(table)
    if isinstance(schedule := table.get("schedule"), dict):
        result["schedule"] = {key: value for key, value in schedule.items() if key != "low_momentum"}
    if isinstance(stages := table.get("stages"), dict):
        result["stages"] = {name: _stage_without_optimiser(stage) for name, stage in stages.items()}
    return result


def _stage_without_optimiser(stage: Any) -> Any:
    if not isinstance(stage, dict) or _kind(stage.get("optimiser")) is not None:
        return stage
    return _without_optimiser({key: value for key, value in stage.items() if key != "optimiser"})


def _merged(base: Table, top: Table) -> Table:
    """Return `base` with what `top` has in its place, table by table."""
    if top.get("kind", base.get("kind")) != base.get("kind"):
        return top
    merged = dict(base)
    for key, value in top.items():
        below = merged.get(key)
        merged[key] = _merged(below, value) if isinstance(value, dict) and isinstance(below, dict) else value
    return merged


def _in_order(changes: Sequence[str]) -> list[tuple[list[str], Any]]:
    """Return keys and values of `--set`, those first that replace a whole table.

    Raises:
        RecipeError: one is no key and value, or a key is there twice.
    """

    def rank(pair: tuple[list[str], Any]) -> tuple[bool, bool]:
        key, value = pair
        return not (key[-1] == "kind" or isinstance(value, dict)), "optimiser" not in key  # which changes the schedule

    pairs = [_change(text) for text in changes]
    keys = [key for key, _ in pairs]
    if twice := next((key for number, key in enumerate(keys) if key in keys[:number]), None):
        raise RecipeError(f"--set {'.'.join(twice)}: given twice; leave one of them out")
    return sorted(pairs, key=rank)


def _change(text: str) -> tuple[list[str], Any]:
    key, sign, literal = text.partition("=")
    key, literal = key.strip(), literal.strip()
    if not sign or not all(part.strip() for part in key.split(".")):
        raise RecipeError(f"--set {text}: wanted KEY=VALUE, such as optimiser.learning_rate=0.01")
    try:
        parsed = tomllib.loads(f"value = {literal}")
    except (ValueError, RecursionError):
        parsed = {}
    if parsed.keys() != {"value"}:
        raise RecipeError(
            f'--set {text}: the value is not one of TOML, such as 0.01, true, [0.9, 0.99] or "SGD"; a shell takes '
            "quotes for itself, so put the whole into others: --set 'optimiser.kind=\"SGD\"'"
        )
    return [part.strip() for part in key.split(".")], parsed["value"]


def _set(table: Table, key: list[str], value: Any) -> None:
    stages = table.get("stages")
    stages = stages if isinstance(stages, dict) else {}
    if key[0] == "stages" and len(key) > 1 and key[1] not in stages:
        there = f"the stages are {', '.join(stages)}" if stages else "this recipe has no stages"
        raise RecipeError(f"--set {'.'.join(key)}: no such stage; {there}{did_you_mean(key[1], stages)}")
    for number, part in enumerate(key[:-1], start=1):
        table = table.setdefault(part, {})
        if not isinstance(table, dict):
            raise RecipeError(f"--set {'.'.join(key)}: {'.'.join(key[:number])} is no table of keys")
    if key[-1] == "kind" and table.get("kind") != value:
        table.clear()  # the keys of another kind are others
    table[key[-1]] = value


# ---- values


def _recipe(table: Table, name: str) -> Recipe:
    if "name" in table:
        raise RecipeError("name: unknown key; the name of a recipe is that of its file")
    stages = table.get("stages", {})
    last = {key: value for key, value in table.items() if key != "stages"}
    recipe: Recipe = _built(Recipe, {"name": name, **last}, "")
    if not isinstance(stages, dict):
        raise RecipeError(f"stages: got {_as_toml(stages)}, wanted a table of stages")
    return replace(recipe, stages=tuple(_stage(stage, each, last) for stage, each in stages.items()))


def _stage(name: str, table: Any, last: Table) -> Recipe:
    """Return a stage: the last one with what the table has in its place."""
    path = f"stages.{name}"
    if not isinstance(table, dict):
        raise RecipeError(f"{path}: got {_as_toml(table)}, wanted a table of keys")
    if not _NAME_OF_STAGE.fullmatch(name) or name == LAST_STAGE:
        raise RecipeError(
            f"{path}: the name of a stage has at most 40 letters, digits and dashes, for a folder is called so, and is "
            f"not {LAST_STAGE!r}; choose another"
        )
    if unknown := next((key for key in ("name", "stages") if key in table), None):
        raise RecipeError(f"{path}.{unknown}: unknown key; a stage has the keys of a recipe but name and stages")
    try:
        stage: Recipe = _built(Recipe, {"name": name, **_with_changes(last, table)}, "")
    except (ValueError, RecipeError) as error:
        raise RecipeError(f"{path}.{error.message if isinstance(error, RecipeError) else error}") from None
    return stage


_NAME_OF_STAGE = re.compile(r"[A-Za-z0-9-]{1,40}")


def _built(kind: Any, table: Any, where: str) -> Any:
    """Build a dataclass of a table; `where` names the table."""
    if not isinstance(table, dict):
        keys = ", ".join(f"{where}.{each.name}" for each in fields(kind))
        raise RecipeError(f"{where}: got {_as_toml(table)}, wanted a table of keys; set its keys one by one: {keys}")
    hints = {each.name: get_type_hints(kind)[each.name] for each in fields(kind)}
    dot = f"{where}." if where else ""
    for key in table:
        if key not in hints:
            keys = ", ".join(each for each in hints if where or each not in ("name", "stages"))
            raise RecipeError(f"{dot}{key}: unknown key; the keys here are {keys}{did_you_mean(key, hints)}")
    for each in fields(kind):
        if each.name not in table and each.default is MISSING and each.default_factory is MISSING:
            raise RecipeError(f"{dot}{each.name}: missing; give it in the file or by --set {dot}{each.name}=VALUE")
    return kind(**{key: _value(hints[key], value, f"{dot}{key}") for key, value in table.items()})


def _value(hint: Any, value: Any, where: str) -> Any:
    """Return the value of a key; `false` takes away what need not be there."""
    if get_origin(hint) is UnionType:
        return None if value is False else _value(get_args(hint)[0], value, where)
    if hint is Schedule:
        return _schedule(value, where)
    if hint is Optimiser:
        return _optimiser(value, where)
    if is_dataclass(hint):
        return _built(hint, value, where)
    _check_plain(value, where)
    return value_of(hint, value, where)


def _optimiser(table: Any, where: str) -> Any:
    if isinstance(table, dict) and "kind" in table:
        check_optimiser(table["kind"])
        table = {"learning_rate": LEARNING_RATES[table["kind"]], **table}
    return _built(Optimiser, table, where)


def _schedule(table: Any, where: str) -> Any:
    kind = table.get("kind") if isinstance(table, dict) else None
    if not isinstance(kind, str) or kind not in SCHEDULES:
        near = did_you_mean(kind, SCHEDULES) if isinstance(kind, str) else ""
        raise RecipeError(f"{where}.kind: got {kind!r}, wanted one of {', '.join(SCHEDULES)}{near}")
    return _built(SCHEDULES[kind], table, where)


def _as_toml(value: Any) -> str:
    """Return a value as its file has it, where that is no table."""
    return str(value).lower() if isinstance(value, bool) else repr(value)


def _check_plain(value: Any, where: str) -> None:
    """Refuse what TOML has and no recipe: dates and times, at any depth."""
    inner = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
    for each in inner:
        _check_plain(each, where)
    if not isinstance(value, str | int | float | list | dict):
        raise RecipeError(f"{where}: got {value}, wanted a number, true, false, text, a list or a table")
