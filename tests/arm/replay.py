"""Runs what another machine has recorded: `python replay.py CASES ISA...`, on the machine that is tested.

CASES are arrays by name, `name/kind/key`, one behind the other; CASES.json says where each lies. An emulated processor
takes longer to read them from an .npz than to compute with them.

For every ISA, or `body` for the models without the library, it prints a line of JSON: the ISA, how many cases agree to
the bit, the outputs that do not, and how many operators ran in the library. NaN agrees with any NaN.
"""

import ctypes
import json
import os
import sys
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from bnas_deploy.runtime.library import library_path
from bnas_deploy.runtime.session import session_options

WITHOUT_LIBRARY = "body"
ALIGNMENT = 64  # of arrays in the file, in bytes


def main(path: str, *isas: str) -> None:
    cases = read_arrays(Path(path))
    names = sorted({key.split("/")[0] for key in cases})
    calls = ctypes.CDLL(str(library_path())).bnas_native_calls
    calls.restype = ctypes.c_uint64
    for isa in isas:
        os.environ["BNAS_ISA"] = "" if isa == WITHOUT_LIBRARY else isa
        before = calls()
        wrong = {name: wrong_outputs(cases, name, library=isa != WITHOUT_LIBRARY) for name in names}
        report = {
            "isa": isa,
            "right": sum(not outputs for outputs in wrong.values()),
            "wrong": [f"{name}, {output}" for name, outputs in wrong.items() for output in outputs],
            "native": calls() - before,
        }
        print(json.dumps(report), flush=True)


def write_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write CASES and CASES.json."""
    places, at = {}, 0
    with path.open("wb") as file:
        for name, array in arrays.items():
            places[name] = (array.dtype.str, array.shape, at)
            at += file.write(array.tobytes())
            at += file.write(bytes(-at % ALIGNMENT))
    path.with_suffix(".json").write_text(json.dumps(places), encoding="utf-8")


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    data = path.read_bytes()
    places = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    return {
        name: np.frombuffer(data, dtype, prod(shape), offset=at).reshape(shape)
        for name, (dtype, shape, at) in places.items()
    }


def wrong_outputs(cases: Mapping[str, NDArray[np.float32]], name: str, *, library: bool) -> list[str]:
    def arrays(kind: str) -> dict[str, NDArray[np.float32]]:
        prefix = f"{name}/{kind}/"
        return {key.removeprefix(prefix): value for key, value in cases.items() if key.startswith(prefix)}

    options = session_options(threads=1, library=library)
    model = cases[f"{name}/model"].tobytes()
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    wanted = arrays("answer")
    answers = session.run(list(wanted), arrays("feed"))
    return [output for output, got in zip(wanted, answers, strict=True) if not same_bits(got, wanted[output])]


def same_bits(got: NDArray[np.float32], wanted: NDArray[np.float32]) -> bool:
    if got.shape != wanted.shape or got.dtype != wanted.dtype:
        return False
    if got.dtype != np.float32:  # bits
        return bool((got == wanted).all())
    return bool(((got.view(np.uint32) == wanted.view(np.uint32)) | (np.isnan(got) & np.isnan(wanted))).all())


if __name__ == "__main__":
    main(*sys.argv[1:])
