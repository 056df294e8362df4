"""CIFAR in its Python version. Files are made as Python 2 wrote the published ones, and by today's pickle."""

import os
import pickle
import pickletools
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.random import Generator
from numpy.typing import NDArray

from bnas_deploy.core.errors import DataError
from bnas_deploy.search.data import open_data
from bnas_deploy.search.data.inert_pickle import read_pickle

Write = Callable[[Any], bytes]


def python2_text(text: str) -> bytes:
    """SHORT_BINSTRING, with the BINPUT that cPickle put behind it."""
    return b"U" + bytes([len(text)]) + text.encode() + b"q\x7f"


def python2_int(number: int) -> bytes:
    return b"K" + bytes([number]) if 0 <= number < 256 else b"M" + struct.pack("<H", number)


def python2_array(array: NDArray[np.uint8]) -> bytes:
    """An array as numpy 1 and cPickle wrote it with protocol 2, names and numbers of the memory included."""
    shape = b"".join(map(python2_int, array.shape))
    state = b"(K\x01" + shape + b"\x86q\x0bcnumpy\ndtype\nq\x0cU\x02u1q\x0dK\x00K\x01\x87q\x0eRq\x0f"
    state += b"(K\x03U\x01|q\x10NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tq\x11b\x89"
    state += b"T" + struct.pack("<i", array.size) + array.tobytes() + b"q\x12tq\x13b"
    start = b"cnumpy.core.multiarray\n_reconstruct\nq\x05cnumpy\nndarray\nq\x06K\x00\x85q\x07U\x01bq\x08\x87q\x09Rq\x0a"
    return start + state


def python2_value(value: Any) -> bytes:
    if isinstance(value, str):
        return python2_text(value)
    if isinstance(value, int):
        return python2_int(value)
    if isinstance(value, list):
        return b"]q\x04(" + b"".join(map(python2_value, value)) + b"e"
    return python2_array(value)


def python2(value: dict[str, Any]) -> bytes:
    """A dict as cPickle wrote it with protocol 2."""
    items = b"".join(python2_text(key) + python2_value(each) for key, each in value.items())
    return b"\x80\x02}q\x01(" + items + b"u."


def of_today(protocol: int) -> Write:
    return lambda value: pickle.dumps(value, protocol)


def with_bytes_as_keys(value: dict[str, Any]) -> bytes:
    """What remains of Python 2's strings where the file was loaded with encoding='bytes' and saved again."""
    texts = {key.encode(): [t.encode() if isinstance(t, str) else t for t in v] if isinstance(v, list) else v
             for key, v in value.items()}  # fmt: skip
    return pickle.dumps(texts)


WRITERS = {"python2": python2, "bytes": with_bytes_as_keys, **{f"protocol{n}": of_today(n) for n in range(6)}}
NAMES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def write_cifar10(folder: Path, write: Write, random: Generator) -> dict[str, tuple[NDArray[np.uint8], list[int]]]:
    """Write CIFAR-10 of 3 images a file; return pixels and labels by file."""
    folder.mkdir(exist_ok=True)
    made = {}
    for name in (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"):
        pixels = random.integers(256, size=(3, 3072), dtype=np.uint8)
        labels = random.integers(10, size=3).tolist()
        files = [f"{name}_{i}.png" for i in range(3)]
        value = {"batch_label": name, "labels": labels, "data": pixels, "filenames": files}
        (folder / name).write_bytes(write(value))
        made[name] = (pixels, labels)
    meta = {"num_cases_per_batch": 10_000, "label_names": NAMES, "num_vis": 3072}
    (folder / "batches.meta").write_bytes(write(meta))
    return made


@pytest.mark.parametrize("writer", WRITERS)
def test_every_way_of_writing_it_is_read(writer: str, tmp_path: Path, rng: Generator) -> None:
    made = write_cifar10(tmp_path / "cifar-10-batches-py", WRITERS[writer], rng)
    data = open_data(f"cifar10:{tmp_path}").in_memory()
    assert (data.description.name, data.description.class_names) == ("CIFAR-10", tuple(NAMES))
    assert (data.train_size, data.test_size) == (15, 3)
    assert data.train.labels.tolist() == [label for _, labels in [*made.values()][:5] for label in labels]
    for images, (pixels, labels) in ((data.train, made["data_batch_1"]), (data.test, made["test_batch"])):
        assert images.labels[:3].tolist() == labels
        for i, channel, y, x in ((0, 0, 0, 0), (1, 2, 3, 4), (2, 1, 31, 31)):
            assert images.pixels[i, channel, y, x] == pixels[i, 1024 * channel + 32 * y + x]


def test_what_the_tests_call_python_2_is_a_pickle(rng: Generator) -> None:
    pixels = rng.integers(256, size=(3, 3072), dtype=np.uint8)
    loaded = pickle.loads(python2({"labels": [1, 300], "data": pixels}), encoding="latin-1")
    assert loaded["labels"] == [1, 300]
    assert (loaded["data"] == pixels).all()


def test_arrays_whose_columns_come_first(tmp_path: Path, rng: Generator) -> None:
    wanted = np.asfortranarray(rng.integers(256, size=(3, 4), dtype=np.uint8))
    for protocol in range(6):
        path = tmp_path / "array"
        path.write_bytes(pickle.dumps({"data": wanted}, protocol))
        assert (read_pickle(path, 10_000)["data"] == wanted).all()


def test_cifar100_has_fine_labels(tmp_path: Path, rng: Generator) -> None:
    names = [f"fine{i}" for i in range(100)]
    for part, label in (("train", 99), ("test", 42)):
        pixels = rng.integers(256, size=(1, 3072), dtype=np.uint8)
        value = {"filenames": ["a"], "batch_label": part, "fine_labels": [label], "coarse_labels": [7], "data": pixels}
        (tmp_path / part).write_bytes(python2(value))
    (tmp_path / "meta").write_bytes(python2({"fine_label_names": names, "coarse_label_names": ["a", "b"]}))
    data = open_data(f"cifar100:{tmp_path}").in_memory()
    assert (data.train.labels.tolist(), data.test.labels.tolist()) == ([99], [42])
    assert data.description.class_names == tuple(names)


# ---- what is refused, without being executed


class Hostile:
    """Runs a command where a pickle is loaded."""

    def __init__(self, call: tuple[Any, ...]) -> None:
        self.call = call

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


@pytest.mark.parametrize("protocol", range(6))
def test_a_hostile_pickle_is_refused_and_not_executed(protocol: int, tmp_path: Path, rng: Generator) -> None:
    write_cifar10(tmp_path, python2, rng)
    victim = tmp_path / "victim"
    hostile = {"data": Hostile((os.mkdir, (str(victim),))), "labels": [1]}
    (tmp_path / "data_batch_2").write_bytes(pickle.dumps(hostile, protocol))
    with pytest.raises(DataError) as refusal:
        open_data(f"cifar10:{tmp_path}")
    assert refusal.value.message == (
        f"{tmp_path / 'data_batch_2'}: a pickle that wants 'posix.mkdir', and only numbers, texts, lists and arrays of "
        "bytes are read; nothing in it was executed; do not load it with anything else, and get the file again from "
        "its authors"
    )
    assert not victim.exists()


@pytest.mark.parametrize(
    ("program", "wanted"),
    [
        (b"cbuiltins\neval\n(S'1'\ntR.", "'builtins.eval'"),
        (b"(S'1'\nios\nsystem\n.", "'os.system'"),
        (b"\x8c\x02os\x8c\x06system\x93.", "'os.system'"),
        (b"cnumpy.core.multiarray\nscalar\n.", "'numpy.core.multiarray.scalar'"),
        (b"cnumpy\nload\n.", "'numpy.load'"),
        (b"cnumpy\nndarray\n\x81.", "the operation NEWOBJ"),
        (b"P1\n.", "the operation PERSID"),
        (b"\x82\x01.", "the operation EXT1"),
        (b"\x97.", "the operation NEXT_BUFFER"),
    ],
)
def test_what_a_pickle_wants_is_named(program: bytes, wanted: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(program)
    with pytest.raises(DataError, match=rf"a pickle that wants {wanted}, and only numbers"):
        read_pickle(path, 1000)


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        (b"", "pickle exhausted before seeing STOP"),
        (b"PNG", "no newline found"),
        (b"}", "pickle exhausted before seeing STOP"),
        (b".", "pop from empty list"),
        (b"K\x01K\x02e.", "pop from empty list"),
        (b"K\x01(K\x02e.", "items for what is no list"),
        (b"}(K\x01u.", "keys for what is no dict"),
        (b"}]K\x01s.", "a key that is no text"),
        (b"h\x05.", "5"),
        (b"K\x01K\x02R.", "a call of what is no name"),
        (b"K\x01K\x02b.", "a state for what is no array"),
        (b"cnumpy\ndtype\n(S'f4'\nI0\nI1\ntR.", "an array of 'f4', wanted bytes"),
        (b"cnumpy\ndtype\n(S'O'\nI0\nI1\ntR.", "an array of 'O', wanted bytes"),
        (b"cnumpy\nndarray\n)R.", "'numpy.ndarray'"),
        (b"c_codecs\nencode\n(V1\nVrot13\ntR.", "bytes in an unknown code"),
        (b"T\xff\xff\xff\x7fabc.", "expected 2147483647 bytes in a string4, but only 4 remain"),
    ],
)
def test_what_is_damaged_is_a_sentence(program: bytes, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(program)
    with pytest.raises(DataError) as refusal:
        read_pickle(path, 1000)
    assert refusal.value.message.startswith(f"{path}: no pickle, or a damaged one (")
    assert reason in refusal.value.message
    assert refusal.value.message.endswith("; unpack the archive again")


def test_the_shape_of_an_array_has_to_be_that_of_its_bytes(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(python2({"data": np.zeros((2, 3), np.uint8)}).replace(b"K\x02K\x03\x86", b"K\xffK\xff\x86"))
    with pytest.raises(DataError, match=r"an array of 6 bytes, its shape is \(255, 255\)"):
        read_pickle(path, 1000)


def test_no_mutilated_file_is_more_than_a_sentence(tmp_path: Path, rng: Generator) -> None:
    whole = python2({"labels": [1, 2], "data": np.arange(6, dtype=np.uint8).reshape(2, 3)})
    assert [each.name for each, _, _ in pickletools.genops(whole)].count("REDUCE") == 2
    path = tmp_path / "file"
    for _ in range(3000):
        data = bytearray(whole)
        for position in rng.integers(len(data), size=2):
            data[position] = rng.integers(256)
        path.write_bytes(data[: rng.integers(1, len(data) + 1)] if rng.integers(2) else data)
        try:
            read_pickle(path, 1000)
        except DataError:
            continue


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("data_batch_1", [1], "data_batch_1: a pickle of list, wanted a dict; unpack the archive again"),
        ("data_batch_1", {"data": [1]}, "data_batch_1: 'data' is list, wanted bytes of Nx3072"),
        ("data_batch_1", {"data": np.zeros((2, 5), np.uint8)}, "data_batch_1: 'data' is 2x5, wanted bytes of Nx3072"),
        (
            "test_batch",
            {"data": np.zeros((2, 3072), np.uint8), "fine_labels": [1]},
            "test_batch: 'labels' is no list of numbers (it has 'data', 'fine_labels'); is this the file of another",
        ),
        (
            "test_batch",
            {"data": np.zeros((2, 3072), np.uint8), "labels": [1]},
            "test_batch: 1 labels for 2 images; unpack the archive again",
        ),
        (
            "test_batch",
            {"data": np.zeros((2, 3072), np.uint8), "labels": [1, 10]},
            "test_batch: image 1 has label 10, expected 0 to 9; unpack the archive again",
        ),
        ("batches.meta", {"label_names": ["a"]}, "batches.meta: 'label_names' is no list of 10 names; is this the"),
    ],
)
def test_other_data_are_refused(name: str, value: Any, message: str, tmp_path: Path, rng: Generator) -> None:
    write_cifar10(tmp_path, python2, rng)
    (tmp_path / name).write_bytes(pickle.dumps(value))
    with pytest.raises(DataError) as refusal:
        open_data(f"cifar10:{tmp_path}")
    assert f"{tmp_path}/{message}" in refusal.value.message


def test_a_missing_file_is_named(tmp_path: Path, rng: Generator) -> None:
    write_cifar10(tmp_path, python2, rng)
    (tmp_path / "data_batch_4").unlink()
    with pytest.raises(DataError) as refusal:
        open_data(f"cifar10:{tmp_path}")
    assert refusal.value.message == (
        f"{tmp_path}/data_batch_4: no such file; expected the Python version: data_batch_1, data_batch_2, "
        "data_batch_3, data_batch_4, data_batch_5, test_batch, batches.meta"
    )


def test_an_empty_folder_is_told_where_the_archives_are(tmp_path: Path) -> None:
    with pytest.raises(DataError) as refusal:
        open_data(f"cifar100:{tmp_path}")
    assert refusal.value.message.endswith(
        "not the one for Matlab; its archives are at https://www.cs.toronto.edu/~kriz/cifar.html"
    )
