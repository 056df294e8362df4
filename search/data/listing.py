"""What is in a folder of images: sorted by name, without what is hidden or litter."""

import os
from collections.abc import Callable
from pathlib import Path

from bnas_deploy.core.errors import DataError
from bnas_deploy.search.data.pixels import image_suffixes

_LITTER = {
    *("__macosx", "thumbs.db", "desktop.ini"),  # of archives and file managers
    *("$recycle.bin", "system volume information", "lost+found"),  # of file systems
    *("@eadir", "@recycle", "#recycle", "@__thumb"),  # of network storage
}
"""Folders and files that programs leave and nobody means, in lower case; hidden ones are left out, too."""


def list_folders(folder: Path) -> tuple[list[Path], list[Path]]:
    """Return the folders in a folder, sorted by name, and what else is in it.

    Raises:
        OSError: the folder cannot be read.
    """
    return _split(folder, lambda entry: entry.is_dir())


def list_images(folder: Path) -> tuple[list[Path], list[Path]]:
    """Return the files in a folder that end as images do, sorted by name, and what else is in it.

    Raises:
        DataError: there are no such files.
        OSError: the folder cannot be read.
    """
    suffixes = image_suffixes()
    # Not a pipe or a device, which would be waited for.
    images, others = _split(folder, lambda entry: Path(entry.name).suffix.lower() in suffixes and entry.is_file())
    if not images:
        found = f" ({len(others):,} other files, such as {others[0].name})" if others else ""
        raise DataError(
            f"{folder}: no images in it{found}; expected files that end in .jpg, .png or as another format "
            "that Pillow reads"
        )
    return images, others


def _split(folder: Path, wanted: Callable[[os.DirEntry[str]], bool]) -> tuple[list[Path], list[Path]]:
    with os.scandir(folder) as found:
        entries = [entry for entry in found if not (entry.name.startswith(".") or entry.name.lower() in _LITTER)]
    chosen: list[Path] = []
    others: list[Path] = []
    for entry in sorted(entries, key=lambda entry: entry.name):
        try:
            is_wanted = wanted(entry)
        except OSError:  # a link in a circle is of no kind
            is_wanted = False
        (chosen if is_wanted else others).append(Path(entry.path))
    return chosen, others
