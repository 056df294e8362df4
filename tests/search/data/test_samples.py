"""Collections of images and labels, and what other packages call a data set.

torchvision and datasets are large, and the first needs a PyTorch of its own; small modules of the same interface stand
for them. Where the packages are installed, they are tried as well.
"""

import importlib.util
import os
import re
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image

from bnas_deploy.core.errors import DataError
from bnas_deploy.search.data import open_data, open_for
from bnas_deploy.search.data.samples import from_samples
from bnas_deploy.search.training.recipes import Augmentation

NAMES = ("cat", "dog", "cow")


@pytest.fixture
def grey(rng: Generator) -> NDArray[np.uint8]:
    return rng.integers(256, size=(6, 8, 12), dtype=np.uint8)


def seen_of(data: Any) -> tuple[torch.Tensor, list[int]]:
    batches = list(data.raw_test_batches(4))
    return torch.cat([batch.images for batch in batches]), torch.cat([batch.labels for batch in batches]).tolist()


def test_images_of_every_kind_arrive_as_they_are(grey: NDArray[np.uint8]) -> None:
    wanted = torch.from_numpy(grey)[:, None]
    kinds: list[list[Any]] = [
        [Image.fromarray(pixels) for pixels in grey],
        list(grey),
        [pixels[..., None] for pixels in grey],
        list(wanted),
        list(torch.from_numpy(grey)),
    ]
    labels = [0, 1, 2, 2, 1, 0]
    for kind in kinds:
        pairs = list(zip(kind, labels, strict=True))
        images, got = seen_of(from_samples(pairs, pairs, class_names=NAMES))
        assert torch.equal(images, wanted)
        assert got == labels


def test_colours_arrive_in_their_places(rng: Generator) -> None:
    pixels = rng.integers(256, size=(8, 12, 3), dtype=np.uint8)
    planes = torch.from_numpy(pixels).permute(2, 0, 1)
    for image in (pixels, planes, Image.fromarray(pixels)):
        data = from_samples([(image, 0)], [(image, np.int64(2))], class_names=NAMES)
        images, labels = seen_of(data)
        assert torch.equal(images[0], planes)
        assert labels == [2]
        assert data.description.mean == (0.485, 0.456, 0.406)


def test_an_iterable_is_read_once(grey: NDArray[np.uint8]) -> None:
    def pairs() -> Iterator[tuple[NDArray[np.uint8], int]]:
        yield from zip(grey, [0, 1, 2] * 2, strict=True)

    data = from_samples(pairs(), pairs(), class_names=NAMES, name="mine")
    assert data.summary == (
        "mine: 6 training and 6 test images of 8x12, grey, 3 classes\n"
        "  every image becomes 8x12 and grey, as the first ones are"
    )
    epochs = [
        torch.cat([batch.labels for batch in data.train_batches(4, Augmentation(), seed=0, epoch=epoch)])
        for epoch in (0, 1)
    ]
    assert [sorted(each.tolist()) for each in epochs] == [[0, 0, 1, 1, 2, 2]] * 2


def test_a_sequence_is_read_when_it_is_needed(grey: NDArray[np.uint8]) -> None:
    class Lazy:
        """What PyTorch calls a data set: an index and a length."""

        def __init__(self) -> None:
            self.read: list[int] = []

        def __len__(self) -> int:
            return 6

        def __getitem__(self, index: int) -> tuple[NDArray[np.uint8], int]:
            self.read.append(index)
            return grey[index], index % 3

    train, test = Lazy(), Lazy()
    data = from_samples(train, test, class_names=NAMES)
    assert (len(train.read), test.read) == (6, [])
    seen_of(data)
    assert sorted(test.read) == [0, 1, 2, 3, 4, 5]
    assert data.limited(3).labels()[0].tolist() == [0, 1, 2]


def test_images_of_several_sizes_are_resized(grey: NDArray[np.uint8]) -> None:
    pairs = [(grey[0], 0), (grey[1][:4], 1)]
    data = from_samples(pairs, pairs, class_names=NAMES)
    assert data.description.image_size == (224, 224)
    assert "every image becomes 224x224 and grey; the first ones are of several sizes" in data.summary
    chosen = from_samples(pairs, pairs, class_names=NAMES, image_size=(4, 4), in_channels=3)
    assert seen_of(chosen)[0].shape == (2, 3, 4, 4)


def test_a_held_image_is_left_as_it_is(tmp_path: Path, rng: Generator) -> None:
    turned = Image.fromarray(rng.integers(256, size=(8, 12, 3), dtype=np.uint8))
    exif = turned.getexif()
    exif[0x0112] = 6  # a quarter turn
    turned.save(tmp_path / "turned.png", exif=exif)
    with Image.open(tmp_path / "turned.png") as image:
        data = from_samples([(image, 0)], [(image, 0)], class_names=NAMES)
        assert data.description.image_size == (12, 8)
        assert torch.equal(seen_of(data)[0], seen_of(data)[0])
        assert image.size == (12, 8)  # width, height


@pytest.mark.parametrize(
    ("image", "label", "message"),
    [
        (np.zeros((4, 4)), 0, "pixels of float64, wanted uint8; leave out ToTensor and Normalize, which is done here"),
        (torch.zeros(1, 4, 4), 0, "pixels of float32, wanted uint8"),
        (np.zeros((4, 4, 2), np.uint8), 0, "an array of 4x4x2, wanted (H, W), (H, W, 1) or (H, W, 3)"),
        (np.zeros((0, 4), np.uint8), 0, "an array of 0x4, wanted (H, W)"),
        (np.zeros(4, np.uint8), 0, "an array of 4, wanted (H, W)"),
        ("cat.jpg", 0, "an image of type str; give one of Pillow, numpy or PyTorch"),
        (np.zeros((4, 4), np.uint8), 3, "its label is 3, wanted a number of 0 to 2"),
        (np.zeros((4, 4), np.uint8), -1, "its label is -1, wanted a number of 0 to 2"),
        (np.zeros((4, 4), np.uint8), 1.5, "its label is 1.5, wanted a number of 0 to 2"),
        (np.zeros((4, 4), np.uint8), "cat", "its label is 'cat', wanted a number of 0 to 2"),
        (np.zeros((4, 4), np.uint8), None, "its label is None, wanted a number of 0 to 2"),
    ],
)
def test_what_is_no_sample_is_named(image: Any, label: Any, message: str) -> None:
    good = (np.zeros((4, 4), np.uint8), 0)
    data = from_samples([good], [good, (image, label)], class_names=NAMES, name="mine")
    with pytest.raises(DataError) as refusal:
        seen_of(data)
    assert refusal.value.message.startswith(f"mine: test image 1: {message}")
    with pytest.raises(DataError, match="mine: training image 0: "):
        from_samples([(image, label)], [good], class_names=NAMES, name="mine")


def test_no_pair_and_no_images_are_named() -> None:
    good = (np.zeros((4, 4), np.uint8), 0)
    with pytest.raises(DataError, match="samples: training image 0: ndarray, wanted a pair of image and label"):
        from_samples([good[0]], [good], class_names=NAMES)  # type: ignore[list-item]  # that is what is tried
    with pytest.raises(DataError, match="samples: test images: there are none; at least 1 is needed"):
        from_samples([good], [], class_names=NAMES)


def test_a_bad_image_is_an_error_or_left_out(grey: NDArray[np.uint8]) -> None:
    class Damaged(list[Any]):
        def __getitem__(self, index: Any) -> Any:
            if index == 2:
                raise OSError("image file is truncated")
            return super().__getitem__(index)

    samples = Damaged(zip(grey, [0, 1, 2] * 2, strict=True))
    good = list(zip(grey, [0, 1, 2] * 2, strict=True))
    with pytest.raises(DataError) as refusal:
        seen_of(from_samples(good, samples, class_names=NAMES))
    wanted = (
        "samples: test image 2: cannot be read (image file is truncated); replace or remove it, or leave such images "
        "out with --skip-bad"
    )
    assert refusal.value.message == wanted
    data = from_samples(samples, samples, class_names=NAMES, skip_bad=True)
    assert seen_of(data)[1] == [0, 1, 0, 1, 2]
    assert data.skipped_note == "left out, since they cannot be read: 1 image (samples: test image 2)"
    assert data.in_memory().train_size == 5


# ---- torchvision


class FakeMnist:
    """As torchvision's MNIST: `train=`, and files below the root."""

    classes: tuple[str, ...] = ("0 - zero", "1 - one")

    def __init__(self, root: str, train: bool = True, transform: Any = None, download: bool = False) -> None:
        assert not download
        if not os.path.isdir(os.path.join(root, "MNIST")):
            raise RuntimeError("Dataset not found. You can use download=True to download it")
        self.items = [(Image.new("L", (8, 8), 10 * i + train), i % 2) for i in range(4 if train else 3)]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return self.items[index]


class FakeSvhn(FakeMnist):
    """As torchvision's SVHN: `split=`, and labels without names."""

    classes = ()

    def __init__(self, root: str, split: str = "train", download: bool = False) -> None:
        if split == "test" and "no-test" in root:
            raise ValueError("Unknown value 'test' for argument split")
        super().__init__(root, train=split == "train")
        self.split = split
        self.labels = np.array([label for _, label in self.items])


class FakeEmnist(FakeMnist):
    """As torchvision's EMNIST: `split=` is something else, and has no default."""

    def __init__(self, root: str, split: str, **more: Any) -> None:
        super().__init__(root, **more)


@pytest.fixture
def torchvision(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Put a small torchvision in place, and return a folder with files for it."""
    package, datasets = ModuleType("torchvision"), ModuleType("torchvision.datasets")
    classes = {"MNIST": FakeMnist, "SVHN": FakeSvhn, "EMNIST": FakeEmnist}
    for name, each in classes.items():
        setattr(datasets, name, each)
    datasets.__all__ = (*classes, "wrap_for_v2")  # type: ignore[attr-defined]  # a module has whatever is put into it
    datasets.wrap_for_v2 = len  # type: ignore[attr-defined]  # as above; no class, so no data set
    package.datasets = datasets  # type: ignore[attr-defined]  # as above
    monkeypatch.setitem(sys.modules, "torchvision", package)
    monkeypatch.setitem(sys.modules, "torchvision.datasets", datasets)
    for name in ("files", "no-test"):
        (tmp_path / name / "MNIST").mkdir(parents=True)
    return tmp_path / "files"


def test_torchvision_by_train(torchvision: Path) -> None:
    data = open_data(f"torchvision:mnist:{torchvision}")
    assert (data.description.name, data.description.class_names) == ("MNIST", ("0 - zero", "1 - one"))
    assert (data.train_size, data.test_size) == (4, 3)
    images, labels = seen_of(data)
    assert images[:, 0, 0, 0].tolist() == [0, 10, 20]
    assert labels == [0, 1, 0]


@pytest.mark.parametrize(("folder", "split"), [("files", "test"), ("no-test", "val")])
def test_torchvision_by_split(folder: str, split: str, torchvision: Path) -> None:
    data: Any = open_data(f"TorchVision:SVHN:{torchvision.parent / folder}")
    assert data.description.class_names == ("0", "1")
    assert data.test[0].samples.split == split


def test_a_network_gets_the_images_of_its_size(torchvision: Path) -> None:
    data = open_for(f"torchvision:MNIST:{torchvision}", image_size=(4, 4), in_channels=3)
    assert seen_of(data)[0].shape == (3, 3, 4, 4)


def test_labels_that_are_given_apart_need_no_image(grey: NDArray[np.uint8]) -> None:
    class Unreadable(list[Any]):
        def __getitem__(self, index: Any) -> Any:
            raise AssertionError(f"image {index} is read")

    good = list(zip(grey, [0, 1, 2] * 2, strict=True))
    data = from_samples(good, Unreadable(good), class_names=NAMES, train_labels=[0, 1, 2] * 2, test_labels=[2] * 6)
    train, test = data.limited(3).labels()
    assert (train.tolist(), test.tolist()) == ([0, 1, 2], [2, 2, 2])
    with pytest.raises(DataError, match="samples: test images: 5 labels for 6 images; give one each"):
        from_samples(good, good, class_names=NAMES, test_labels=[0] * 5)
    with pytest.raises(DataError, match="samples: training image 1: its label is -1, wanted a number of 0 to 2"):
        from_samples(good, good, class_names=NAMES, train_labels=[0, -1, 0, 0, 0, 0])


def test_torchvision_says_what_is_missing(torchvision: Path, tmp_path: Path) -> None:
    def refusal(data: str) -> str:
        with pytest.raises(DataError) as refused:
            open_data(data)
        return str(refused.value.message)

    assert refusal("torchvision:") == "data 'torchvision' without its NAME:FOLDER; give torchvision:NAME:FOLDER"
    assert refusal("torchvision:MNIST") == ("data 'torchvision:MNIST' without its folder; give torchvision:NAME:FOLDER")
    assert refusal("torchvision:MNST:x") == (
        "torchvision has no data set 'MNST'; it has MNIST, SVHN, EMNIST; did you mean MNIST?"
    )
    assert refusal(f"torchvision:MNIST:{tmp_path}") == (
        f"{tmp_path}: torchvision cannot open MNIST there (Dataset not found. You can use download=True to download "
        'it); nothing is downloaded here. To fetch it: python -c "from torchvision.datasets import MNIST; '
        f"MNIST('{tmp_path}', train=True, download=True)\""
    )
    assert refusal("torchvision:EMNIST:x").startswith("torchvision's EMNIST is not divided by train= or split=; give")


OF_THIS_TORCH = f"'torchvision==0.{int(torch.__version__.split('.')[1]) + 15}.*'"
"""torchvision 0.15 came with torch 2.0, and since then each with the next."""


@pytest.mark.parametrize(
    ("kind", "package", "command"),
    [("torchvision:MNIST:x", "torchvision", OF_THIS_TORCH), ("hf:mnist", "datasets", "datasets")],
)
def test_a_package_that_is_missing_is_named(
    kind: str, package: str, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(DataError, match=rf"the package {package} .*; pip install {re.escape(command)}"):
        open_data(kind)


def test_a_torchvision_for_another_pytorch_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "torchvision.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    monkeypatch.delitem(sys.modules, "torchvision", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(DataError) as refusal:
        open_data("torchvision:MNIST:x")
    assert refusal.value.message.startswith(
        "data 'torchvision:MNIST': the package torchvision cannot be used, perhaps it is made for another PyTorch "
        f"(operator torchvision::nms does not exist); pip install --force-reinstall --no-deps {OF_THIS_TORCH}"
    )


def test_a_misspelt_name_is_found_where_torchvision_cannot_be_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, about = tmp_path / "torchvision" / "datasets", tmp_path / "torchvision-0.1.dist-info"
    folder.mkdir(parents=True)
    about.mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text("raise RuntimeError('nms')")
    (folder / "__init__.py").write_text('from nowhere import MNIST\n__all__ = ("MNIST", "SVHN")\n')
    (about / "METADATA").write_text("Name: torchvision\nVersion: 0.1\n")
    (about / "RECORD").write_text("torchvision/datasets/__init__.py,,\n")
    for module in ("torchvision", "torchvision.datasets"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(DataError, match=r"torchvision has no data set 'SVHM'; it has MNIST, SVHN; did you mean SVHN\?"):
        open_data("torchvision:SVHM:x")
    with pytest.raises(DataError, match="cannot be used, perhaps it is made for another PyTorch"):
        open_data("torchvision:svhn:x")


# ---- Hugging Face


class ClassLabel(SimpleNamespace):
    """As datasets' own: has names."""


class Value(SimpleNamespace):
    """As datasets' own: a number or a text."""


class FakeTable:
    """As datasets' Dataset: rows by number, columns by name."""

    def __init__(self, features: dict[str, Any], rows: list[dict[str, Any]]) -> None:
        self.features = features
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: Any) -> Any:
        return [row[key] for row in self.rows] if isinstance(key, str) else self.rows[key]


def table(rows: int, **features: Any) -> FakeTable:
    kinds = {"image": type("Image", (), {})(), **(features or {"label": ClassLabel(names=["cat", "dog"])})}
    columns = features or ["label"]
    made = [{"image": Image.new("RGB", (8, 8), (i, 0, 0)), **dict.fromkeys(columns, i % 2)} for i in range(rows)]
    return FakeTable(kinds, made)


@pytest.fixture
def hugging_face(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Put a small `datasets` in place, and return the table of what it finds."""
    found: dict[str, Any] = {}

    def load_dataset(name: str) -> Any:
        if name not in found:
            raise FileNotFoundError(f"Couldn't find {name}\noffline")
        return found[name]

    module = ModuleType("datasets")
    module.__dict__.update(__version__="4.4.2", load_dataset=load_dataset, load_from_disk=lambda path: found["disk"])
    monkeypatch.setitem(sys.modules, "datasets", module)
    return found


def test_a_data_set_that_was_fetched_before(hugging_face: dict[str, Any]) -> None:
    hugging_face["me/pets"] = {"train": table(5), "validation": table(3), "test": table(2)}
    data = open_data("hf:me/pets")
    assert (data.description.name, data.description.class_names) == ("pets", ("cat", "dog"))
    assert (data.train_size, data.test_size) == (5, 2)
    images, labels = seen_of(data)
    assert images[:, 0, 0, 0].tolist() == [0, 1]
    assert labels == [0, 1]


def test_test_images_without_labels_are_passed_over(hugging_face: dict[str, Any]) -> None:
    secret = table(2)
    for row in secret.rows:
        row["label"] = -1
    hugging_face["contest"] = {"train": table(5), "validation": table(3), "test": secret}
    assert open_data("hf:contest").test_size == 3
    hugging_face["contest"]["test"] = table(2, id=Value())
    assert open_data("hf:contest").test_size == 3
    del hugging_face["contest"]["validation"]
    with pytest.raises(DataError, match=r"hf:contest: no split for testing has labels \(train, test\); divide train"):
        open_data("hf:contest")


def test_a_folder_that_was_saved(hugging_face: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "dataset_dict.json").write_text("{}")
    hugging_face["disk"] = {"train": table(5, fine_label=Value(), id=Value()), "val": table(3, fine_label=Value())}
    assert open_data(f"hf:{tmp_path}").description.class_names == ("0", "1")


def test_hugging_face_says_what_is_missing(
    hugging_face: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refusal(data: str) -> str:
        with pytest.raises(DataError) as refused:
            open_data(data)
        return str(refused.value.message)

    assert refusal("hf:me/pets") == (
        "hf:me/pets: cannot be opened (Couldn't find me/pets offline); nothing is downloaded here. To fetch it: python "
        "-c \"from datasets import load_dataset; load_dataset('me/pets').save_to_disk('FOLDER')\", then give hf:FOLDER"
    )
    assert refusal(f"hf:{tmp_path}").endswith("expected what save_to_disk wrote, or a folder that load_dataset reads")
    hugging_face["one"] = {"train": table(2)}
    assert refusal("hf:one").startswith("hf:one: its splits are train; wanted train, and test or validation; divide")
    hugging_face["two"] = {"train": table(2, a=ClassLabel(), b=ClassLabel()), "test": table(2)}
    assert refusal("hf:two") == (
        "hf:two: its columns are image (Image), a (ClassLabel), b (ClassLabel); wanted one of images, and one of class "
        "labels or called label, labels, fine_label"
    )
    monkeypatch.setattr(sys.modules["datasets"], "__version__", "3.6.0")
    assert refusal("hf:one") == (
        "data 'hf:one': datasets 3.6.0 may run programs that come with a data set; pip install 'datasets>=4'"
    )


# ---- the packages themselves, where they are


@pytest.mark.skipif(importlib.util.find_spec("torchvision") is None, reason="torchvision is not installed")
def test_the_true_torchvision_reads_what_idx_reads(tmp_path: Path, rng: Generator) -> None:
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for part, count in (("train", 5), ("t10k", 4)):
        pixels = rng.integers(256, size=(count, 28, 28), dtype=np.uint8)
        (raw / f"{part}-images-idx3-ubyte").write_bytes(struct.pack(">4I", 0x803, count, 28, 28) + pixels.tobytes())
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">2I", 0x801, count) + bytes(range(count)))
    data = open_data(f"torchvision:MNIST:{tmp_path}")
    images, labels = seen_of(data)
    idx_images, idx_labels = seen_of(open_data(f"idx:{raw}"))
    assert torch.equal(images, idx_images)
    assert labels == idx_labels


@pytest.mark.skipif(importlib.util.find_spec("datasets") is None, reason="the package datasets is not installed")
def test_the_true_datasets_reads_what_it_saved(tmp_path: Path, rng: Generator) -> None:
    import datasets

    pixels = rng.integers(256, size=(6, 8, 8), dtype=np.uint8)
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list(NAMES))})
    columns = {"image": [Image.fromarray(each) for each in pixels], "label": [0, 1, 2, 0, 1, 2]}
    part = datasets.Dataset.from_dict(columns, features=features)
    datasets.DatasetDict({"train": part, "test": part}).save_to_disk(tmp_path / "saved")
    data = open_data(f"hf:{tmp_path / 'saved'}")
    images, labels = seen_of(data)
    assert torch.equal(images, torch.from_numpy(pixels)[:, None])
    assert (labels, data.description.class_names) == ([0, 1, 2, 0, 1, 2], NAMES)
