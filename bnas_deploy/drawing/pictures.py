"""A figure becomes a file, SVG or PNG by its name, the same bytes every time."""

import importlib
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bnas_deploy.core.errors import BnasError
from bnas_deploy.core.files import write_whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS = (".svg", ".png")
DOTS_PER_INCH = 160

# Any, because its keys are strings in the types of one matplotlib and literals in those of another.
SETTINGS: Any = {
    "svg.fonttype": "none",  # text stays text: it can be searched, and is set in the reader's font
    "svg.hashsalt": "bnas-deploy",  # or the names inside an SVG would be random
}


def check_picture(path: Path) -> None:
    """Refuse a name that does not end in .svg or .png.

    Raises:
        BnasError: it ends otherwise.
    """
    if path.suffix.lower() not in FORMATS:
        raise BnasError(f"{path}: a picture's name ends in {' or '.join(FORMATS)}; give one of these")
    check_library()


def check_library() -> None:
    """Import what draws, so that a missing installation shows before long work and not behind it.

    Raises:
        ModuleNotFoundError: matplotlib is not installed; the command line turns that into advice.
    """
    importlib.import_module("matplotlib")


def save_picture(figure: "Figure", path: Path) -> None:
    """Write `figure` to `path`, whole, in the format that its name ends in.

    Raises:
        BnasError: `path` ends otherwise, or cannot be written.
    """
    import matplotlib as mpl

    check_picture(path)
    kind = path.suffix.lower().removeprefix(".")
    data = io.BytesIO()
    with mpl.rc_context(SETTINGS):
        _lay_out(figure)
        # No date: the same figure is the same file.
        metadata = {"Date": None} if kind == "svg" else {"Software": None}
        figure.savefig(data, format=kind, dpi=DOTS_PER_INCH, metadata=metadata, facecolor="white")
    write_whole(path, data.getvalue())


def _lay_out(figure: "Figure") -> None:
    """Settle where everything goes, once: else each `savefig` does, and draws all of it for that before it does so."""
    engine = figure.get_layout_engine()
    if engine is not None:
        engine.execute(figure)
        figure.set_layout_engine(None)
