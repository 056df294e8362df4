"""The folder that is deployed: models, manifest and test vectors; how it is written, read and checked.

It holds

    model.onnx               the binary network; its binary convolutions are operators of the domain `bnas`
    float.onnx               the float twin: the same architecture with real weights and no sign
    manifest.json            what is described by `Manifest`
    test_vectors/images.npz  `images`, what PyTorch answered to them (`logits`) and, if known, `labels`
    test_vectors/layers.onnx every binary convolution of model.onnx, each with an input and an output of its own
    test_vectors/layers.npz  for layer L, what PyTorch fed to it (`L.x`) and what it answered (`L.y`)
"""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from bnas_deploy.cost import LayerCost
from bnas_deploy.errors import BundleError

FORMAT_VERSION = 1

MODEL = "model.onnx"
FLOAT_TWIN = "float.onnx"
MANIFEST = "manifest.json"
IMAGES = "test_vectors/images.npz"
LAYERS_MODEL = "test_vectors/layers.onnx"
LAYERS = "test_vectors/layers.npz"


@dataclass(frozen=True)
class FileRecord:
    """Size and SHA-256 of one file of the bundle."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes an input: resize, scale to 0..1, (value - mean) / std per channel."""

    height: int
    width: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True)
class LayerCheck:
    """One binary convolution of the model and how its test vector is compared.

    `name` is the node's name. Only the first `rows` by `columns` outputs are compared: the vector's input is a
    corner of PyTorch's activation, and outputs past these would read beyond it. `tolerance` is 0 where
    the arithmetic is the same as PyTorch's, else the derived bound on the absolute difference.
    """

    name: str
    rows: int
    columns: int
    tolerance: float


@dataclass(frozen=True)
class Verification:
    """What `verify` needs besides the test vectors.

    `output_tolerance` is the largest difference of a logit that float rounding can explain.
    """

    output_tolerance: float
    layers: tuple[LayerCheck, ...]


@dataclass(frozen=True)
class Manifest:
    """What a bundle says about itself; `network` and `metrics` are shown to people, not interpreted.

    The keys of `files` are paths inside the bundle, with forward slashes.
    """

    bnas_deploy: str
    network: dict[str, Any]
    opset: dict[str, int]
    input_name: str
    input_shape: tuple[int, ...]  # (channels, height, width); the batch is free
    output_name: str
    labels: tuple[str, ...]
    preprocessing: Preprocessing
    layers: tuple[LayerCost, ...]
    verification: Verification
    metrics: dict[str, Any] = field(default_factory=dict)
    files: dict[str, FileRecord] = field(default_factory=dict)
    format: int = FORMAT_VERSION

    @property
    def still_float(self) -> tuple[LayerCost, ...]:
        """Return the layers whose weights stayed float."""
        return tuple(layer for layer in self.layers if not layer.is_binary)

    def to_json(self) -> str:
        """Return the text of manifest.json."""
        return json.dumps(asdict(self), indent=2) + "\n"


@dataclass(frozen=True)
class Bundle:
    """A bundle on disk whose manifest was read and whose files are there."""

    path: Path
    manifest: Manifest

    def file(self, name: str) -> Path:
        """Return the path of one file of the bundle, by the names above."""
        return self.path / name


def read_bundle(path: Path, *, check_hashes: bool = True) -> Bundle:
    """Read and check the bundle in folder `path`.

    Args:
        path: the folder.
        check_hashes: read every file and compare its SHA-256; sizes are compared in any case.

    Raises:
        BundleError: the folder is no bundle, of a newer format, or a file is missing or was changed.
    """
    try:
        if not path.is_dir():
            raise BundleError(f"{path}: not a folder; expected the folder that `bnas-deploy export -o` wrote")
        manifest = _read_manifest(path / MANIFEST)
        for name, record in manifest.files.items():
            _check_file(path, name, record, check_hashes)
    except OSError as error:
        raise BundleError(f"{error.filename or path}: cannot be read: {error.strerror}") from None
    return Bundle(path, manifest)


@contextmanager
def new_bundle(path: Path) -> Iterator[Path]:
    """Give an empty folder to fill, and put it at `path` when the block ends without an error.

    Whoever looks at `path` sees a whole bundle, the old one or the new one (or none, in the instant between the two
    renamings). After an error the old one is still there and nothing else is left, folders made on the way included.

    Raises:
        BundleError: `path` exists and is no bundle, or cannot be written.
    """
    made: list[Path] = []
    try:
        with _as_unwritable(path):
            if path.exists() and not (path / MANIFEST).is_file() and (not path.is_dir() or any(path.iterdir())):
                raise BundleError(f"{path}: exists and is not a bundle; it was left alone, choose another folder")
            made += (folder for folder in path.parents if not folder.exists())  # innermost first
            path.parent.mkdir(parents=True, exist_ok=True)
            work = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
        try:
            fresh = work / "new"
            (fresh / "test_vectors").mkdir(parents=True)
            yield fresh
            with _as_unwritable(path):
                _put(fresh, path, old=work / "old")
        finally:
            shutil.rmtree(work, ignore_errors=True)
    finally:
        for folder in made:
            with suppress(OSError):  # it is not empty: the bundle lies in it
                folder.rmdir()


def describe_files(folder: Path) -> dict[str, FileRecord]:
    """Return the size and hash of every file below `folder` but the manifest."""
    files = sorted(file for file in folder.rglob("*") if file.is_file() and file.name != MANIFEST)
    return {
        file.relative_to(folder).as_posix(): FileRecord(
            file.stat().st_size, hashlib.sha256(file.read_bytes()).hexdigest()
        )
        for file in files
    }


@contextmanager
def _as_unwritable(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise BundleError(f"{path}: cannot be written: {error.strerror}; choose another folder") from None


def _put(fresh: Path, path: Path, old: Path) -> None:
    """Rename `fresh` to `path`; what is there becomes `old`, and comes back if the renaming fails."""
    if path.exists():
        path.rename(old)
    try:
        fresh.rename(path)
    except OSError:
        if old.exists():
            old.rename(path)
        raise


def _check_file(bundle: Path, name: str, record: FileRecord, check_hash: bool) -> None:
    if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
        raise BundleError(
            f"{bundle / MANIFEST}: lists the file {name!r}, which is not inside the bundle; export the model again"
        )
    path = bundle / name
    if not path.is_file():
        raise BundleError(f"{path}: missing, but the manifest lists it; export the model again")
    got = path.stat().st_size
    if got != record.bytes:
        raise BundleError(f"{path}: {got} bytes, the manifest says {record.bytes}; copy or export the bundle again")
    if check_hash and hashlib.sha256(path.read_bytes()).hexdigest() != record.sha256:
        raise BundleError(f"{path}: its SHA-256 is not the one in the manifest; copy or export the bundle again")


def _read_manifest(path: Path) -> Manifest:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BundleError(
            f"{path.parent}: no {MANIFEST} in it; expected the folder that `bnas-deploy export -o` wrote"
        ) from None
    except ValueError as error:  # not UTF-8, not JSON, or an integer that is too long
        raise BundleError(f"{path}: not a JSON file: {error}; export the model again") from None
    return _manifest_from_json(data, path)


def _manifest_from_json(data: Any, where: Path) -> Manifest:
    if not isinstance(data, dict) or not isinstance(data.get("format"), int):
        raise BundleError(f"{where}: not a manifest: no integer `format`; export the model again")
    version = data["format"]
    if version < 1:
        raise BundleError(f"{where}: format version {version}, expected 1 to {FORMAT_VERSION}; export the model again")
    if version > FORMAT_VERSION:
        raise BundleError(
            f"{where}: format version {version}, this bnas-deploy reads up to {FORMAT_VERSION}; upgrade bnas-deploy"
        )
    try:
        verification = data["verification"]
        return Manifest(
            **{
                **data,
                "network": {**data["network"]},
                "metrics": {**data["metrics"]},
                "input_shape": tuple(data["input_shape"]),
                "labels": tuple(data["labels"]),
                "layers": tuple(map(LayerCost.from_json, data["layers"])),
                "preprocessing": Preprocessing(
                    **{**data["preprocessing"], **{key: tuple(data["preprocessing"][key]) for key in ("mean", "std")}}
                ),
                "verification": Verification(
                    verification["output_tolerance"], tuple(LayerCheck(**layer) for layer in verification["layers"])
                ),
                "files": {name: FileRecord(**record) for name, record in data["files"].items()},
            }
        )
    except (AttributeError, KeyError, TypeError) as error:
        raise BundleError(
            f"{where}: a field is missing or of another kind ({error!r}); export the model again"
        ) from None
