"""`bnas-deploy recipes`: what training recipes there are, and the numbers of each with their sources."""

import click

from bnas_deploy.commands.command import Command
from bnas_deploy.commands.recipe_options import tell_new_name


@click.command("recipes", cls=Command)
@click.argument("recipe", metavar="[NAME|FILE]", required=False)
def command(recipe: str | None) -> None:
    """List the training recipes, or show the file of one: its numbers, and where each comes from.

    A recipe's file can be copied, changed, and given to `bnas-deploy train --recipe FILE.toml`.
    """
    # Imported here so that --help reads no recipe.
    from bnas_deploy.report.recipes import recipe_table
    from bnas_deploy.search.training.recipes import RECIPES, find_recipe, recipe_file, recipe_text

    if recipe is None:
        from bnas_deploy.report.text import print_tables

        print_tables([recipe_table(RECIPES.values())], "Show one with `bnas-deploy recipes NAME`.")
    else:
        tell_new_name(recipe)
        find_recipe(recipe)  # a file with a mistake is told here, not when it is trained with
        click.echo(recipe_text(recipe_file(recipe)), nl=False)
