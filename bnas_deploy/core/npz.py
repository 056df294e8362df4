"""Arrays out of an .npz file, which anybody may have written: its sizes are looked at before memory is asked for."""

import math
import re
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bnas_deploy.core.files import open_regular
from bnas_deploy.core.memory import memory_bytes

_ENCRYPTED = 1  # bit of `flag_bits`
_COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # what numpy writes

_MAGIC = b"\x93NUMPY\x01\x00"
_HEADER = re.compile(
    rb"\{'descr': '(?P<dtype>\|b1|\|[iu]1|<[iu][248]|<f[248])', 'fortran_order': (?P<order>False|True), "
    rb"'shape': \((?P<shape>(?:\d{1,18}(?:, |,(?=\)))?){0,32})\), \} *\n"
)
"""What numpy puts before numbers. Its own reader evaluates this text, which can fail in many ways."""


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Return the arrays of numbers in an .npz file by name. Nothing is unpickled.

    Raises:
        OSError: the file cannot be read, or is not regular.
        ValueError: it is no such file, or damaged, or its arrays are larger than this machine's memory.
    """
    try:
        with open_regular(path) as file, zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            size = sum(member.file_size for member in members)
            limit = memory_bytes()
            if limit is not None and size > limit:
                raise ValueError(f"its arrays have {size:,} bytes, more than this machine's memory")
            return {member.filename.removesuffix(".npy"): _read(archive, member) for member in members}
    # What zipfile raises for damage; NotImplementedError is for versions and flags that it does not know.
    except (EOFError, NotImplementedError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(str(error) or "it ends too early") from None


def write_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write an .npz file of arrays of numbers by name; compressed, as those of a bundle are.

    `numpy.savez` takes names as arguments, and so no array that is called "file".
    """
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asarray(array), allow_pickle=False)


def _read(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> NDArray[Any]:
    name = member.filename
    if member.flag_bits & _ENCRYPTED:
        raise ValueError(f"{name} is encrypted")
    if member.compress_type not in _COMPRESSIONS:
        raise ValueError(f"{name} is compressed in a way that numpy does not write")
    data = archive.read(member)
    start = len(_MAGIC) + 2
    begin = start + int.from_bytes(data[len(_MAGIC) : start], "little")
    header = _HEADER.fullmatch(data, start, begin)
    if not data.startswith(_MAGIC) or not header:
        raise ValueError(f"{name} is no array of numbers in version 1.0 of numpy's format")
    dtype, shape = np.dtype(header["dtype"].decode()), tuple(map(int, re.findall(rb"\d+", header["shape"])))
    wanted = math.prod(shape) * dtype.itemsize
    if len(data) - begin != wanted:
        raise ValueError(f"{name} has {len(data) - begin:,} bytes of numbers, and its header promises {wanted:,}")
    order: Any = "F" if header["order"] == b"True" else "C"
    return (
        np.frombuffer(data, dtype, offset=begin).reshape(shape, order=order).copy()
        if wanted
        else np.empty(shape, dtype)
    )
