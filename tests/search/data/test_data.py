"""Data sets are made by the tests, in the real formats; CIFAR files are sparse, all but their first images black."""

import itertools
import os
import shutil
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from bnas_deploy.core.errors import DataError
from bnas_deploy.search.data import open_data, open_in_memory
from bnas_deploy.search.data.augment import jitter_colours, random_crop, shift, shift_image
from bnas_deploy.search.data.dataset import Images, InMemoryDataSet, generator
from bnas_deploy.search.data.kinds import hub_name, without_folders
from bnas_deploy.search.data.pixels import describe_image, read_image
from bnas_deploy.search.training.recipes import Augmentation, ColourJitter

PLAIN = Augmentation()
CIFAR_AUGMENTATION = Augmentation(shift=4, flip=True)
PHOTO_AUGMENTATION = Augmentation(crop_area=(0.08, 1.0), flip=True, jitter=ColourJitter(0.4, 0.4, 0.4, 0.2))

CIFAR10_NAMES = [f"class{number}" for number in range(10)]


def write_sparse(path, head, size):
    """Write `head`, and zeros up to `size` that take no room on the disk."""
    with path.open("wb") as file:
        file.write(head)
        file.truncate(size)


def cifar_record(labels, pixels):
    """Lay out one record: label bytes, then the red, the green and the blue plane; pixels (32, 32, 3)."""
    return bytes([*labels, *(pixels[y, x, c] for c, y, x in itertools.product(range(3), range(32), range(32)))])


@pytest.fixture
def cifar10(tmp_path, rng):
    """A folder of CIFAR-10, and the pixels (32, 32, 3) of its first training image, of class 7."""
    pixels = rng.integers(256, size=(32, 32, 3), dtype=np.uint8)
    for number in range(1, 6):
        write_sparse(tmp_path / f"data_batch_{number}.bin", cifar_record([7], pixels), 30_730_000)
    write_sparse(tmp_path / "test_batch.bin", cifar_record([9], pixels), 30_730_000)
    (tmp_path / "batches.meta.txt").write_text("\n".join(CIFAR10_NAMES) + "\n\n")
    return tmp_path, pixels


@pytest.fixture
def photos(tmp_path, rng):
    """An image folder: two classes, JPEG and PNG, two training images and one for testing in each."""
    for part, name, file in (
        ("train", "cat", "1.jpg"),
        ("train", "cat", "2.JPEG"),
        ("train", "dog", "1.png"),
        ("train", "dog", "2.jpeg"),
        ("val", "cat", "3.jpg"),
        ("val", "dog", "3.png"),
    ):
        path = tmp_path / part / name / file
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(256, size=(60, 80, 3), dtype=np.uint8)).save(path)
    return tmp_path


def all_batches(batches):
    batches = list(batches)
    return torch.cat([batch.images for batch in batches]), torch.cat([batch.labels for batch in batches])


def same(left, right):
    return all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


# ---- digits


def test_digits_are_split_as_documented():
    from sklearn.datasets import load_digits

    data = open_data("digits")
    assert (data.train_size, data.test_size) == (1438, 359)
    images, labels = all_batches(data.test_batches(100))
    wanted = load_digits().target[4::5]
    assert (labels.numpy() == wanted).all()
    description = data.description
    assert (description.classes, description.in_channels, description.image_size) == (10, 1, (8, 8))
    assert images.dtype == torch.float32
    assert images.shape == (359, 1, 8, 8)


def test_digits_are_normalised():
    data = open_data("digits")
    images, _ = all_batches(data.train_batches(64, PLAIN, seed=0, epoch=0))
    # float32 sums of 92032 numbers of size 1: pairwise, so far below 1e-5.
    assert images.mean().item() == pytest.approx(0, abs=1e-5)
    assert images.std().item() == pytest.approx(1, abs=1e-5)


def test_an_epoch_has_every_image_once():
    data = open_data("digits")
    batches = list(data.train_batches(100, PLAIN, seed=3, epoch=1))
    assert [len(batch.labels) for batch in batches] == [100] * 14 + [38]
    _, labels = all_batches(batches)
    assert (labels.bincount() == data.train.labels.bincount()).all()


# ---- the same for the same seed and epoch


@pytest.fixture(params=["digits", "photos"])
def some_data(request):
    """A data set in memory and one on disk, each with an augmentation that suits it."""
    if request.param == "digits":
        return open_data("digits"), Augmentation(shift=2, flip=True)
    return open_data(f"imagefolder:{request.getfixturevalue('photos')}"), PHOTO_AUGMENTATION


def test_batches_depend_on_seed_and_epoch_only(some_data):
    data, augmentation = some_data
    once = all_batches(data.train_batches(3, augmentation, seed=1, epoch=2))
    torch.manual_seed(99)  # the global generator is not used
    assert same(all_batches(data.train_batches(3, augmentation, seed=1, epoch=2)), once)
    assert not same(all_batches(data.train_batches(3, augmentation, seed=2, epoch=2)), once)
    assert not same(all_batches(data.train_batches(3, augmentation, seed=1, epoch=3)), once)


def test_an_epoch_can_be_continued(some_data):
    data, augmentation = some_data
    whole = list(data.train_batches(3, augmentation, seed=1, epoch=2))
    rest = list(data.train_batches(3, augmentation, seed=1, epoch=2, first=1))
    assert len(rest) == len(whole) - 1
    assert all(same(a, b) for a, b in zip(rest, whole[1:], strict=True))


def test_the_end_of_an_epoch_can_be_continued(some_data):
    data, augmentation = some_data
    assert not list(data.train_batches(data.train_size, augmentation, seed=0, epoch=0, first=1))


# ---- CIFAR


def test_halves_are_a_random_split_and_each_is_tested_on_the_other():
    data = open_data("digits")
    first, second = data.halves(seed=3)
    assert (first.train_size, second.train_size) == (719, 719)
    for left, right in ((first.train, second.test), (first.test, second.train)):
        assert torch.equal(left.pixels, right.pixels)
        assert torch.equal(left.labels, right.labels)
    rows = torch.cat([first.train.pixels, second.train.pixels]).flatten(1).tolist()
    assert sorted(rows) == sorted(data.train.pixels.flatten(1).tolist())
    assert rows != data.train.pixels.flatten(1).tolist()
    assert torch.equal(data.halves(seed=3)[0].train.labels, first.train.labels)
    assert not torch.equal(data.halves(seed=4)[0].train.labels, first.train.labels)


def test_halves_of_an_odd_number_and_of_one():
    data = open_data("digits")
    images = data.train
    odd = InMemoryDataSet(data.description, Images(images.pixels[:5], images.labels[:5]), data.test)
    assert [half.train_size for half in odd.halves(seed=0)] == [2, 3]
    one = InMemoryDataSet(data.description, Images(images.pixels[:1], images.labels[:1]), data.test)
    with pytest.raises(DataError, match="digits: 1 training images cannot be split into two halves"):
        one.halves(seed=0)


def test_cifar10_is_read(cifar10):
    folder, pixels = cifar10
    data = open_data(f"cifar10:{folder}")
    assert (data.train_size, data.test_size) == (50_000, 10_000)
    assert data.description.class_names == tuple(CIFAR10_NAMES)
    images, labels = next(data.test_batches(2))
    mean, std = np.array(data.description.mean), np.array(data.description.std)
    wanted = ((pixels / 255 - mean) / std).transpose(2, 0, 1)
    assert labels.tolist() == [9, 0]
    assert images.shape == (2, 3, 32, 32)
    # three float32 operations on numbers below 3: 3 * 3 * 6e-8
    np.testing.assert_allclose(images[0].numpy(), wanted, atol=6e-7, rtol=0)
    assert data.train.labels[::10_000].tolist() == [7] * 5
    assert (data.train.pixels[40_000].numpy() == pixels.transpose(2, 0, 1)).all()


def test_cifar10_is_found_in_the_folder_of_its_archive(cifar10, tmp_path_factory):
    folder, _ = cifar10
    parent = tmp_path_factory.mktemp("parent")
    (parent / "cifar-10-batches-bin").symlink_to(folder)
    assert open_data(f"cifar10:{parent}").train_size == 50_000


def test_cifar100_uses_the_fine_labels(tmp_path, rng):
    folder = tmp_path / "cifar-100-binary"
    folder.mkdir()
    pixels = rng.integers(256, size=(32, 32, 3), dtype=np.uint8)
    write_sparse(folder / "train.bin", cifar_record([19, 99], pixels), 153_700_000)
    write_sparse(folder / "test.bin", cifar_record([3, 42], pixels), 30_740_000)
    (folder / "fine_label_names.txt").write_text("".join(f"fine{number}\n" for number in range(100)))
    data = open_data(f"cifar100:{tmp_path}")
    assert (data.description.name, data.description.classes) == ("CIFAR-100", 100)
    assert (data.train_size, data.test_size) == (50_000, 10_000)
    assert (data.train.labels[0], data.test.labels[0]) == (99, 42)
    assert (data.train.pixels[0].numpy() == pixels.transpose(2, 0, 1)).all()


def test_a_truncated_cifar_file_is_refused(cifar10):
    folder, _ = cifar10
    with (folder / "data_batch_3.bin").open("r+b") as file:
        file.truncate(30_730_000 - 3073)
    with pytest.raises(
        DataError, match=r"data_batch_3\.bin: 30726927 bytes, expected 30730000 \(10000 images of CIFAR-10\)"
    ):
        open_data(f"cifar10:{folder}")


def test_the_size_of_a_cifar_file_is_looked_at_before_it_is_read(cifar10):
    folder, _ = cifar10
    write_sparse(folder / "data_batch_2.bin", b"", 1 << 40)
    with pytest.raises(DataError, match=r"data_batch_2\.bin: 1099511627776 bytes, expected 30730000 \(10000 images"):
        open_data(f"cifar10:{folder}")


def test_a_pipe_among_cifar_files_is_refused(cifar10):
    folder, _ = cifar10
    for name in ("batches.meta.txt", "test_batch.bin"):
        (folder / name).unlink()
        os.mkfifo(folder / name)
        with pytest.raises(DataError, match=rf"{name}: cannot be read: it is a pipe, and only files are read"):
            open_data(f"cifar10:{folder}")
        (folder / name).unlink()
        (folder / name).write_text("\n".join(CIFAR10_NAMES))


def test_a_home_that_nobody_has_is_no_folder():
    with pytest.raises(DataError, match=r"~nobody-of-this-name/x: no such folder; expected the folder of the data set"):
        open_data("cifar10:~nobody-of-this-name/x")


def test_a_missing_cifar_file_is_named(cifar10):
    folder, _ = cifar10
    (folder / "test_batch.bin").unlink()
    with pytest.raises(
        DataError,
        match=r"test_batch\.bin: no such file; expected the binary version of CIFAR-10 \(data_batch_1.*or its",
    ):
        open_data(f"cifar10:{folder}")


def test_a_cifar_label_out_of_range_is_refused(cifar10):
    folder, pixels = cifar10
    write_sparse(folder / "data_batch_2.bin", cifar_record([10], pixels), 30_730_000)
    with pytest.raises(DataError, match=r"data_batch_2\.bin: image 0 has label 10, expected 0 to 9"):
        open_data(f"cifar10:{folder}")


def test_missing_class_names_are_refused(cifar10):
    folder, _ = cifar10
    (folder / "batches.meta.txt").write_text("cat\ndog\n")
    with pytest.raises(DataError, match=r"batches\.meta\.txt: 2 class names, expected 10"):
        open_data(f"cifar10:{folder}")


# ---- image folders


def test_photos_are_read(photos):
    data = open_data(f"imagefolder:{photos}")
    assert data.description.class_names == ("cat", "dog")
    assert (data.train_size, data.test_size, data.description.image_size) == (4, 2, (224, 224))
    images, labels = all_batches(data.test_batches(5))
    assert labels.tolist() == [0, 1]
    assert images.shape == (2, 3, 224, 224)
    images, labels = all_batches(data.train_batches(3, PHOTO_AUGMENTATION, seed=0, epoch=0))
    assert sorted(labels.tolist()) == [0, 0, 1, 1]
    assert images.shape == (4, 3, 224, 224)


def test_the_centre_of_a_test_image_is_used(photos):
    # Three stripes of 256 columns: resizing keeps 256 rows, and of the columns 272 to 495 are cut out.
    stripes = np.zeros((256, 768, 3), np.uint8)
    stripes[:, 256:512] = 255
    Image.fromarray(stripes).save(photos / "val" / "dog" / "3.png")
    data = open_data(f"imagefolder:{photos}")
    *_, batch = data.test_batches(1)
    pixels = batch.images[0] * torch.tensor(data.description.std)[:, None, None]
    pixels += torch.tensor(data.description.mean)[:, None, None]
    # white everywhere; normalised and back, a few float32 roundings of numbers below 3
    torch.testing.assert_close(pixels, torch.ones_like(pixels), atol=1e-6, rtol=0)


def test_grey_and_transparent_photos_become_rgb(photos):
    Image.new("L", (50, 40), 128).save(photos / "train" / "cat" / "grey.png")
    Image.new("RGBA", (50, 40), (255, 0, 0, 9)).save(photos / "train" / "dog" / "clear.png")
    data = open_data(f"imagefolder:{photos}")
    images, _ = all_batches(data.train_batches(6, PLAIN, seed=0, epoch=0))
    assert images.shape == (6, 3, 224, 224)


def test_a_reader_that_stops_early_leaves_no_threads(photos):
    import threading

    batches = open_data(f"imagefolder:{photos}").train_batches(1, PLAIN, seed=0, epoch=0)
    next(batches)
    batches.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("decode")]


def test_an_unreadable_photo_is_named(photos):
    path = photos / "train" / "cat" / "1.jpg"
    whole = path.read_bytes()
    message = r"train/cat/1\.jpg: cannot be read as an image \(.+\); replace or remove it"
    path.write_bytes(whole[:500])  # within its header
    with pytest.raises(DataError, match=message):
        open_data(f"imagefolder:{photos}")
    path.write_bytes(whole[:-500])
    data = open_data(f"imagefolder:{photos}")
    with pytest.raises(DataError, match=message):
        all_batches(data.train_batches(4, PLAIN, seed=0, epoch=0))


def test_a_photo_that_is_no_image_is_named(photos):
    (photos / "val" / "dog" / "3.png").write_text("<html>not found</html>")
    data = open_data(f"imagefolder:{photos}")
    with pytest.raises(DataError, match=r"val/dog/3\.png: cannot .*, or leave such images out with --skip-bad"):
        all_batches(data.test_batches(4))


def test_test_images_need_no_training_images_where_the_channels_are_known(photos):
    for path in (photos / "train").rglob("*.*"):
        path.write_text("<html>not found</html>")
    data = open_data(f"imagefolder:{photos}", in_channels=3)
    assert sum(len(batch.labels) for batch in data.test_batches(4)) == data.test_size
    with pytest.raises(DataError, match="cannot be read as an image"):
        all_batches(data.train_batches(4, PLAIN, seed=0, epoch=0))


def test_a_class_without_images_is_named(photos):
    (photos / "val" / "dog" / "3.png").rename(photos / "val" / "dog" / "3.txt")
    message = (
        r"val/dog: no images in it \(1 other files, such as 3\.txt\); expected files that end in \.jpg, \.png or as "
        "another format that Pillow reads"
    )
    with pytest.raises(DataError, match=message):
        open_data(f"imagefolder:{photos}")
    (photos / "val" / "dog" / "3.txt").unlink()
    with pytest.raises(DataError, match=r"val/dog: no images in it; expected"):
        open_data(f"imagefolder:{photos}")


def test_classes_that_differ_are_refused(photos):
    (photos / "val" / "dog").rename(photos / "val" / "horse")
    with pytest.raises(DataError, match="train has 2 classes, val has 2; train lacks horse; val lacks dog; both must"):
        open_data(f"imagefolder:{photos}")


def test_one_class_is_refused(photos):
    for part in ("train", "val"):
        shutil.rmtree(photos / part / "dog")
    with pytest.raises(DataError, match=r"has one class, cat, so there is nothing to tell apart; wanted a folder for"):
        open_data(f"imagefolder:{photos}")


def test_a_folder_without_val_is_refused(photos):
    (photos / "val").rename(photos / "test")
    with pytest.raises(DataError, match=r"val: No such file or directory; expected train/CLASS/\*\.jpg and val/CLASS"):
        open_data(f"imagefolder:{photos}")


def test_photos_without_class_folders_are_refused(photos):
    for name in ("cat", "dog"):
        (photos / "val" / name).rename(photos / name)
    with pytest.raises(DataError, match="val: no class folders in it"):
        open_data(f"imagefolder:{photos}")


def raw_pixels(data):
    """Return the test images as bytes, undone from normalisation, (N, C, H, W)."""
    images, _ = all_batches(data.test_batches(16))
    mean, std = (torch.tensor(values)[:, None, None] for values in (data.description.mean, data.description.std))
    return ((images * std + mean) * 255).round().to(torch.uint8)


@pytest.fixture
def grey(tmp_path, rng):
    """A folder of grey images of 28x20 (HxW), one of each class in train and val, and the pixels of val."""
    pixels = rng.integers(256, size=(2, 28, 20), dtype=np.uint8)
    for part, (label, name) in itertools.product(("train", "val"), enumerate(("a", "b"))):
        (tmp_path / part / name).mkdir(parents=True)
        Image.fromarray(pixels[label]).save(tmp_path / part / name / "1.png")
    return tmp_path, pixels


def test_small_grey_images_are_read_as_they_are(grey):
    folder, pixels = grey
    data = open_data(f"imagefolder:{folder}", image_size=(28, 20))
    assert (data.description.in_channels, data.description.image_size) == (1, (28, 20))
    preprocessing = data.description.preprocessing
    assert (preprocessing.height, preprocessing.width) == (28, 20)
    assert (len(preprocessing.mean), len(preprocessing.std)) == (1, 1)
    assert torch.equal(raw_pixels(data), torch.from_numpy(pixels)[:, None])
    for augmentation in (PLAIN, CIFAR_AUGMENTATION, PHOTO_AUGMENTATION):
        images, _ = all_batches(data.train_batches(2, augmentation, seed=0, epoch=0))
        assert images.shape == (2, 1, 28, 20)


def test_how_images_are_read_is_said(grey):
    folder, _ = grey
    data = open_data(f"imagefolder:{folder}")
    name = f"image folder {folder.name}: 2 training and 2 test images of"
    assert data.summary.splitlines() == [
        f"{name} 224x224, grey, 2 classes",
        "  every image becomes 224x224; the first of them is 28x20; --image-size N or HxW decides otherwise",
        "  every image is grey, so there is 1 channel; --in-channels 1 or 3 decides otherwise",
    ]
    data = open_data(f"imagefolder:{folder}", image_size=(28, 20), in_channels=3)
    assert data.summary.splitlines() == [
        f"{name} 28x20, RGB, 2 classes",
        "  every image becomes 28x20; the first of them is 28x20",
    ]
    Image.new("RGB", (20, 28)).save(folder / "val" / "b" / "2.png")
    data = open_data(f"imagefolder:{folder}")
    assert data.description.in_channels == 3
    assert data.notes[1] == "there are coloured images; --in-channels 1 or 3 decides otherwise"
    assert open_data("digits").summary == "digits: 1,438 training and 359 test images of 8x8, grey, 10 classes"


def test_channels_can_be_chosen(grey):
    folder, pixels = grey
    rgb = raw_pixels(open_data(f"imagefolder:{folder}", image_size=(28, 20), in_channels=3))
    assert torch.equal(rgb, torch.from_numpy(pixels)[:, None].expand(-1, 3, -1, -1))
    for name in ("a", "b"):
        Image.new("RGB", (20, 28), (255, 0, 0)).save(folder / "val" / name / "1.png")
    red = raw_pixels(open_data(f"imagefolder:{folder}", image_size=(28, 20), in_channels=1))
    assert red.unique().tolist() == [76]  # luma of red: 0.299 * 255
    with pytest.raises(DataError, match=r": images of 2 channels; images of 1 \(grey\) or 3 \(RGB\) can be read"):
        open_data(f"imagefolder:{folder}", in_channels=2)


def test_small_images_cover_the_size_asked_for(grey):
    folder, _ = grey
    stripes = np.zeros((20, 60), np.uint8)
    stripes[:, 20:40] = 255
    for name in ("a", "b"):
        Image.fromarray(stripes).save(folder / "val" / name / "1.png")
    # The centre third, without a margin; and half as large.
    assert raw_pixels(open_data(f"imagefolder:{folder}", image_size=(20, 20))).unique().tolist() == [255]
    assert raw_pixels(open_data(f"imagefolder:{folder}", image_size=(10, 8))).unique().tolist() == [255]
    assert raw_pixels(open_data(f"imagefolder:{folder}", image_size=(20, 60)))[0, 0].tolist() == stripes.tolist()


def test_a_folder_in_memory_has_the_same_images(grey):
    folder, _ = grey
    lazy = open_data(f"imagefolder:{folder}", image_size=(16, 16))
    data = open_in_memory(f"imagefolder:{folder}", image_size=(16, 16))
    assert isinstance(data, InMemoryDataSet)
    assert (data.description, data.notes) == (lazy.description, lazy.notes)
    assert same(all_batches(data.test_batches(1)), all_batches(lazy.test_batches(1)))
    assert isinstance(open_in_memory("digits"), InMemoryDataSet)


def test_images_of_other_data_have_a_size_of_their_own():
    message = "--data digits: --image-size, --in-channels and --skip-bad are for image files; leave them out"
    for settings in ({"image_size": (8, 8)}, {"in_channels": 1}):
        with pytest.raises(DataError) as refusal:
            open_data("digits", **settings)
        assert refusal.value.message == message


def test_shifted_images_are_black_where_nothing_was(rng):
    image = Image.fromarray(np.full((6, 4), 200, np.uint8))
    places = set()
    for _ in range(60):
        pixels = np.asarray(shift_image(image, 2, rng))
        rows, columns = (np.flatnonzero(pixels.any(axis=axis)) for axis in (1, 0))
        assert set(np.unique(pixels)) <= {0, 200}
        assert (pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] == 200).all()
        # What is left of 6 rows and 4 columns after a shift by 0 to 2, and at which end.
        assert len(rows) >= 4
        assert len(columns) >= 2
        places.add((len(rows), int(rows[0]), len(columns), int(columns[0])))
    assert len(places) > 12  # of 25


# ---- kinds of pixels


def gradient(high):
    """Values from 0 to `high`, (1, 4)."""
    return np.array([[0, high // 3, 2 * (high // 3), high]])


def png(width, height, depth, colour, rows):
    """Lay out a PNG file, of which Pillow cannot write every kind."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    data = b"".join(b"\0" + row.astype(">u2").tobytes() for row in rows)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


EIGHT_BITS = [0, 85, 170, 255]


@pytest.mark.parametrize("name", ["g.png", "g.tif", "g.pgm"])
def test_16_bit_grey_is_scaled(tmp_path, name):
    if name == "g.pgm":
        values = gradient(65535).astype(">u2")
        (tmp_path / name).write_bytes(b"P5\n4 1\n65535\n" + values.tobytes())
    else:
        Image.fromarray(gradient(65535).astype(np.uint16)).save(tmp_path / name)
    image = read_image(tmp_path / name)
    assert (image.mode, np.asarray(image).tolist()) == ("L", [EIGHT_BITS])
    assert describe_image(tmp_path / name) == ((1, 4), True)


def test_big_endian_16_bit_tiff_is_scaled(tmp_path):
    """By hand: header, one strip, and a directory of nine fields."""
    values = gradient(65535).astype(">u2").tobytes()
    fields = [(256, 3, 4), (257, 3, 1), (258, 3, 16), (259, 3, 1), (262, 3, 1), (273, 4, 8), (277, 3, 1), (278, 3, 1)]
    fields.append((279, 4, len(values)))
    directory = struct.pack(">H", len(fields))
    for tag, kind, value in fields:
        directory += struct.pack(">HHI", tag, kind, 1) + (
            struct.pack(">HH", value, 0) if kind == 3 else struct.pack(">I", value)
        )
    path = tmp_path / "big.tiff"
    path.write_bytes(b"MM\0*" + struct.pack(">I", 8 + len(values)) + values + directory + bytes(4))
    with Image.open(path) as image:
        assert image.mode == "I;16B"
    assert np.asarray(read_image(path)).tolist() == [EIGHT_BITS]


def test_two_classes_of_16_bits_are_not_the_same_pixels(grey):
    folder, _ = grey
    for name, low, high in (("a", 5000, 30000), ("b", 35000, 60000)):
        values = np.linspace(low, high, 28 * 20).reshape(28, 20).astype(np.uint16)
        Image.fromarray(values).save(folder / "val" / name / "1.png")
    dark, bright = raw_pixels(open_data(f"imagefolder:{folder}", image_size=(28, 20)))
    assert (dark.min(), dark.max()) == (5000 >> 8, 30000 >> 8)
    assert (bright.min(), bright.max()) == (35000 >> 8, 60000 >> 8)


def test_16_bit_colours_are_scaled_too(tmp_path):
    path = tmp_path / "rgb.png"
    path.write_bytes(png(2, 1, 16, 2, [np.array([0, 21845, 43690, 65535, 256, 255])]))
    assert np.asarray(read_image(path)).tolist() == [[[0, 85, 170], [255, 1, 0]]]
    assert describe_image(path) == ((1, 2), False)


@pytest.mark.parametrize(
    ("dtype", "pixels"), [(np.int32, "32-bit integers"), (np.float32, "floating-point numbers")], ids=["I", "F"]
)
def test_pixels_without_a_known_white_are_refused(tmp_path, dtype, pixels):
    path = tmp_path / "wide.tif"
    Image.fromarray(gradient(900).astype(dtype)).save(path)
    with pytest.raises(DataError) as refusal:
        read_image(path)
    assert refusal.value.message == (
        f"{path}: its pixels are {pixels}, of which no white is known; save it with 8 or 16 bits"
    )


@pytest.mark.parametrize("mode", ["LA", "RGBA", "P", "L"])
def test_transparent_images_are_as_on_a_white_page(tmp_path, mode):
    """The first pixel is black and opaque, the second black and transparent."""
    path = tmp_path / "clear.png"
    if mode == "P":
        image = Image.new("P", (2, 1))
        image.putpalette([0, 0, 0, 0, 0, 0])
        image.putpixel((1, 0), 1)
        image.save(path, transparency=1)
    elif mode == "L":
        image = Image.new("L", (2, 1))
        image.putpixel((1, 0), 3)
        image.save(path, transparency=3)
    else:
        image = Image.new(mode, (2, 1))
        image.putpixel((0, 0), (0, 255) if mode == "LA" else (0, 0, 0, 255))
        image.save(path)
    grey = np.asarray(read_image(path).convert("L"))
    assert grey.tolist() == [[0, 255]]
    assert read_image(path).mode == ("RGB" if mode == "RGBA" else "L")


def test_half_transparent_is_half_white(tmp_path):
    Image.new("RGBA", (1, 1), (255, 0, 0, 128)).save(tmp_path / "half.png")
    # 255 * 127 / 255 of white, and as much of the red as there is.
    assert np.asarray(read_image(tmp_path / "half.png")).tolist() == [[[255, 127, 127]]]


def test_other_kinds_of_pixels(tmp_path):
    cases = {
        "one.png": (Image.fromarray(np.array([[False, True]])), "L", [[0, 255]]),
        "cmyk.tif": (Image.new("CMYK", (1, 1), (0, 255, 255, 0)), "RGB", [[[255, 0, 0]]]),
        "palette.gif": (Image.new("RGB", (1, 1), (0, 255, 0)).quantize(2), "RGB", [[[0, 255, 0]]]),
        "grey.bmp": (Image.new("L", (1, 1), 9), "L", [[9]]),
        "grey.webp": (Image.new("RGB", (1, 1), (7, 7, 7)), "RGB", None),
        "photo.jp2": (Image.new("RGB", (8, 8), (7, 7, 7)), "RGB", None),
    }
    for name, (image, mode, pixels) in cases.items():
        image.save(tmp_path / name)
        read = read_image(tmp_path / name)
        assert read.mode == mode, name
        assert pixels is None or np.asarray(read).tolist() == pixels, name


def test_a_grey_palette_is_grey(tmp_path):
    image = Image.new("P", (2, 1))
    image.putpalette([0, 0, 0, 200, 200, 200])
    image.putpixel((1, 0), 1)
    image.save(tmp_path / "grey.png")
    image.putpalette([0, 0, 0, 200, 0, 0])
    image.save(tmp_path / "red.png")
    assert [describe_image(tmp_path / f"{name}.png")[1] for name in ("grey", "red")] == [True, False]
    assert np.asarray(read_image(tmp_path / "grey.png")).tolist() == [[0, 200]]
    assert np.asarray(read_image(tmp_path / "red.png")).tolist() == [[[0, 0, 0], [200, 0, 0]]]


def test_the_orientation_of_a_camera_is_applied(tmp_path):
    """Orientation 6: what is stored lies on its left side."""
    pixels = np.arange(6, dtype=np.uint8).reshape(2, 3) * 40
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    assert np.asarray(read_image(tmp_path / "turned.png")).tolist() == np.rot90(pixels, -1).tolist()


# ---- what is in a folder


def test_every_format_is_read_and_the_rest_is_named(photos):
    cat = photos / "train" / "cat"
    for name in ("3.webp", "4.BMP", "5.TIF", "6.gif", "7.PnG"):
        Image.new("RGB", (9, 9), (250, 0, 0)).save(cat / name)
    assert open_data(f"imagefolder:{photos}").notes[2:] == ()
    for name in ("notes.txt", "8.heic"):
        (cat / name).write_text("")
    (cat / "more.png").mkdir()
    os.mkfifo(cat / "pipe.png")
    (photos / "val" / "labels.csv").write_text("")
    data = open_data(f"imagefolder:{photos}")
    assert data.train_size == 4 + 5
    assert data.notes[2] == (
        f"passed over, not an image by its name: 5 ({photos.name}/val/labels.csv, train/cat/8.heic, "
        "train/cat/more.png, ...)"
    )
    assert data.summary.splitlines()[-1] == f"  {data.notes[2]}"
    all_batches(data.train_batches(4, PLAIN, seed=0, epoch=0))


def test_hidden_files_and_litter_are_no_classes_and_no_images(photos):
    image = next((photos / "train" / "cat").iterdir()).read_bytes()
    litter = (".ipynb_checkpoints", ".git", "__MACOSX", "@eaDir", "lost+found", "System Volume Information")
    for part, name in itertools.product(("train", "val"), litter):
        (photos / part / name).mkdir()
        (photos / part / name / "1.png").write_bytes(image)
    for part in ("train", "val"):
        (photos / part / ".DS_Store").write_text("")
        (photos / part / "Thumbs.db").write_text("")
    for name in (".DS_Store", "._1.jpg", "Thumbs.db", "desktop.ini"):
        (photos / "train" / "cat" / name).write_text("no image")
    (photos / "train" / "cat" / ".ipynb_checkpoints").mkdir()
    data = open_data(f"imagefolder:{photos}")
    assert data.description.class_names == ("cat", "dog")
    assert data.train_size == 4
    assert data.notes[2:] == ()


def test_a_damaged_image_of_any_format_is_named(photos, rng):
    image = Image.fromarray(rng.integers(256, size=(40, 40, 3), dtype=np.uint8))
    for suffix in ("png", "jpg", "gif", "bmp", "tif", "webp", "jp2", "ppm", "tga", "qoi"):
        path = photos / "val" / "cat" / f"broken.{suffix}"
        image.save(path)
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(
            DataError, match=rf"broken\.{suffix}: cannot be read as an image \(.*\); replace or remove it"
        ):
            read_image(path)
        path.unlink()


def test_a_file_of_another_format_behind_a_suffix_is_refused(photos):
    """Postscript is a program, which Pillow would run."""
    path = photos / "val" / "cat" / "program.png"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n")
    with pytest.raises(DataError, match=r"program\.png: cannot be read as an image"):
        read_image(path)


# ---- names, and what suits what


def test_an_unknown_name_is_refused():
    wanted = (
        "unknown data 'mnist'; expected one of digits, cifar10:FOLDER, cifar100:FOLDER, idx:FOLDER, imagefolder:FOLDER"
    )
    with pytest.raises(DataError, match=wanted):
        open_data("mnist")
    with pytest.raises(DataError, match="data 'cifar10' without its folder; give cifar10:FOLDER"):
        open_data("cifar10")


def test_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(DataError, match="nowhere: no such folder; expected the folder of the data set cifar10"):
        open_data(f"cifar10:{tmp_path / 'nowhere'}")
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="file: not a folder"):
        open_data(f"imagefolder:{tmp_path / 'file'}")


def test_a_recipe_that_does_not_suit_the_data_is_refused(photos):
    with pytest.raises(
        DataError, match=r"digits: the recipe crops by area or jitters colours, .*choose another recipe"
    ):
        open_data("digits").check(PHOTO_AUGMENTATION)
    message = (
        r"image folder .*: the recipe shifts images by pixels, which is done for images of less than 64x64 only; these "
        "are 64x100; choose another recipe"
    )
    with pytest.raises(DataError, match=message):
        open_data(f"imagefolder:{photos}", image_size=(64, 100)).check(CIFAR_AUGMENTATION)
    open_data(f"imagefolder:{photos}", image_size=(60, 100)).check(CIFAR_AUGMENTATION)


@pytest.mark.parametrize("shift", [8, 9, 1000])
def test_a_shift_out_of_sight_is_refused(shift):
    message = (
        rf"digits: augmentation.shift: got {shift}, and images of 8x8 would be moved out of sight; wanted less than 8, "
        "such as --set augmentation.shift=1"
    )
    with pytest.raises(DataError, match=message):
        open_data("digits").check(Augmentation(shift=shift))
    open_data("digits").check(Augmentation(shift=7))


# ---- augmentation


def test_a_shift_moves_each_image_as_a_whole():
    images = torch.arange(1, 1 + 50 * 2 * 5 * 6).remainder(255).add(1).to(torch.uint8).reshape(50, 2, 5, 6)
    moved = shift(images, 2, generator(0))
    padded = torch.nn.functional.pad(images, (2, 2, 2, 2))
    places = set()
    for image, result in zip(padded, moved, strict=True):
        found = [
            (top, left)
            for top, left in itertools.product(range(5), repeat=2)
            if torch.equal(image[:, top : top + 5, left : left + 6], result)
        ]
        assert len(found) == 1
        places.update(found)
    assert len(places) > 12  # of 25; all but never fewer with 50 images


def test_a_flip_mirrors_about_half_of_the_images():
    data = open_data("digits")
    raw, _ = all_batches(data.train_batches(2000, PLAIN, seed=0, epoch=0))
    flipped, _ = all_batches(data.train_batches(2000, Augmentation(flip=True), seed=0, epoch=0))
    mirrored = (flipped == raw.flip(3)).flatten(1).all(dim=1)
    kept = (flipped == raw).flatten(1).all(dim=1)
    assert (mirrored | kept).all()
    assert 0.4 < mirrored.float().mean().item() < 0.6  # 7 standard deviations for 1438 images


def test_random_crops_have_the_size_asked_for_and_differ(rng):
    image = Image.fromarray(rng.integers(256, size=(90, 120, 3), dtype=np.uint8))
    crops = [random_crop(image, (0.08, 1.0), (32, 24), rng) for _ in range(10)]
    assert {crop.size for crop in crops} == {(24, 32)}
    assert len({crop.tobytes() for crop in crops}) == 10


@pytest.mark.parametrize("size", [(1, 1), (2000, 3), (3, 2000)])
def test_any_image_can_be_cropped(rng, size):
    assert random_crop(Image.new("RGB", size), (0.9, 1.0), (8, 8), rng).size == (8, 8)


def test_jitter_of_nothing_keeps_the_colours(rng):
    # Through HSV and back: the hue is rounded to a byte, of which a step moves a channel by 6 * 255 / 256 levels.
    pixels = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 0], [0, 0, 0], [255, 255, 255]]], np.uint8)
    jittered = np.asarray(jitter_colours(Image.fromarray(pixels), ColourJitter(0, 0, 0, 0), rng))
    assert np.abs(jittered.astype(int) - pixels).max() <= 6


def test_the_hue_turns(rng):
    red = Image.new("RGB", (2, 2), (255, 0, 0))
    colours = {jitter_colours(red, ColourJitter(0, 0, 0, 0.5), rng).getpixel((0, 0)) for _ in range(20)}
    assert len(colours) > 10


@pytest.mark.parametrize(
    ("given", "shown", "hub"),
    [
        ("digits", "digits", None),
        ("CIFAR10:/home/me/x", "cifar10:FOLDER", "uoft-cs/cifar10"),
        ("imagefolder:a:b", "imagefolder:FOLDER", None),
        ("torchvision:SVHN:/home/me", "torchvision:SVHN:FOLDER", None),
        ("torchvision:SVHN:a:b", "torchvision:SVHN:FOLDER", None),
        ("hf:ylecun/mnist", "hf:ylecun/mnist", "ylecun/mnist"),
        ("hf:/", "hf:FOLDER", None),
    ],
)
def test_folders_are_not_told_to_strangers(given, shown, hub):
    assert without_folders(given) == shown
    assert hub_name(shown) == hub


def test_a_data_set_says_what_it_was_opened_as():
    data = open_data("Digits", limit=20)
    assert (data.named, data.limit) == ("digits", 20)
    assert open_data("digits").limit is None
