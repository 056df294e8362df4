"""A quick look at a data set: some images of every class, the first ones."""

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.random import Generator
from PIL import Image

from bnas_deploy.core.errors import DataError
from bnas_deploy.search.data import open_data, open_in_memory
from bnas_deploy.search.data.dataset import DataDescription, Images, InMemoryDataSet


def numbered(train: list[int], test: list[int], classes: int) -> InMemoryDataSet:
    """Images of one pixel that is their number, with these labels."""
    description = DataDescription("numbers", tuple("abcdefgh"[:classes]), 1, (1, 1), (0.5,), (0.5,))
    first, second = (
        Images(torch.arange(len(labels))[:, None, None, None], torch.tensor(labels)) for labels in (train, test)
    )
    return InMemoryDataSet(description, first, second)


def numbers_of(images: Images) -> list[int]:
    return [int(number) for number in images.pixels.flatten()]


def slowly_limited(labels: list[int], most: int) -> list[int]:
    """Go round the classes, take the next image of each, until there are enough."""
    waiting = {label: [i for i, each in enumerate(labels) if each == label] for label in sorted(set(labels))}
    taken: list[int] = []
    while len(taken) < min(most, len(labels)):
        for queue in waiting.values():
            if queue and len(taken) < most:
                taken.append(queue.pop(0))
    return sorted(taken)


@pytest.mark.parametrize("most", [3, 4, 7, 8, 9, 10, 11, 100])
def test_the_first_images_of_each_class_are_kept_evenly_in_order(most: int) -> None:
    labels = [2, 0, 0, 0, 1, 2, 0, 1, 2, 0]
    limited = numbered(labels, labels[::-1], 3).limited(most).in_memory()
    for kept, all_labels in ((limited.train, labels), (limited.test, labels[::-1])):
        assert numbers_of(kept) == slowly_limited(all_labels, most)
        assert kept.labels.tolist() == [all_labels[i] for i in numbers_of(kept)]
    assert limited.train_size == len(limited.train.labels) == min(most, 10)


def test_a_limit_that_leaves_nothing_out_is_none() -> None:
    whole = numbered([0, 1, 1], [0, 1], 2)
    assert whole.limited(3) is whole


def test_a_class_without_images_is_passed_over() -> None:
    limited = numbered([2, 2, 0, 2], [0, 2], 3).limited(3).in_memory()
    assert numbers_of(limited.train) == [0, 1, 2]


def test_the_limit_is_told_and_travels_in_the_name() -> None:
    limited = open_data("digits", limit=20)
    assert limited.summary == (
        "digits, limited to 20: 20 training and 20 test images of 8x8, grey, 10 classes\n"
        "  the first images of each class, out of 1,438 and 359"
    )
    assert limited.labels()[0].bincount().tolist() == [2] * 10


def test_pixels_are_normalised_as_those_of_all_images() -> None:
    assert open_data("digits", limit=20).description.preprocessing == open_data("digits").description.preprocessing


def test_fewer_images_than_classes_are_refused() -> None:
    with pytest.raises(DataError) as refusal:
        open_data("digits", limit=9)
    assert refusal.value.message == ("digits: a limit of 9 images for 10 classes; at least one of each is needed")


def test_a_folder_of_images_decodes_only_what_is_kept(tmp_path: Path, rng: Generator) -> None:
    for part, name, number in ((p, n, i) for p in ("train", "val") for n in ("cat", "dog") for i in range(3)):
        path = tmp_path / part / name / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(256, size=(8, 8, 3), dtype=np.uint8)).save(path)
    # Cut off behind the header: it has a size, but no pixels.
    damaged = tmp_path / "train" / "dog" / "2.png"
    damaged.write_bytes(damaged.read_bytes()[:60])
    folder = f"imagefolder:{tmp_path}"
    whole = open_data(folder, image_size=(8, 8))
    limited = open_in_memory(folder, image_size=(8, 8), limit=4)
    assert (limited.train_size, limited.test_size) == (4, 4)
    assert limited.train.labels.tolist() == [0, 0, 1, 1]
    pixels = torch.cat([batch.images for batch in whole.raw_test_batches(9)])
    assert torch.equal(limited.test.pixels, pixels[torch.tensor([0, 1, 3, 4])])
