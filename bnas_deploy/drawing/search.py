"""The pictures that belong into the folder of a search."""

from pathlib import Path

from bnas_deploy.core.genotype import Genotype
from bnas_deploy.core.history import History
from bnas_deploy.drawing.cells import genotype_figure
from bnas_deploy.drawing.history import history_figure
from bnas_deploy.drawing.pictures import FORMATS, save_picture


def draw_search(folder: Path, genotype: Genotype, history: History, *, skip: bool) -> None:
    """Write cells, with or without the skip past them, and history to `folder`, as SVG and PNG.

    Raises:
        BnasError: a file cannot be written.
    """
    for name, figure in (
        ("cells", genotype_figure(genotype, str(folder), skip=skip)),
        ("history", history_figure(history, str(folder))),
    ):
        for ending in FORMATS:
            save_picture(figure, folder / f"{name}{ending}")
