"""Each refusal is provoked with a file that differs from a good one in one respect."""

import json
import os
import pickle
import re
from dataclasses import replace

import pytest
import safetensors.torch
import torch

import bnas_deploy
from bnas_deploy.core import files
from bnas_deploy.core.bundle import Preprocessing
from bnas_deploy.core.errors import CheckpointError
from bnas_deploy.core.genotype import GENOTYPES
from bnas_deploy.search.models.bnas.config import NetworkConfig
from bnas_deploy.search.models.bnas.network import build_network
from bnas_deploy.search.models.registry import FAMILIES
from bnas_deploy.search.training.checkpoint import Checkpoint, find_misfits, load_checkpoint, save_checkpoint
from bnas_deploy.search.training.untrained import randomise_statistics

CONFIG = NetworkConfig(
    name="tiny",
    cells=3,
    channels=2,
    stem="cifar",
    genotype=GENOTYPES["imagenet"],
    classes=3,
    in_channels=1,
    image_size=(8, 8),
)


def a_checkpoint(config=CONFIG):
    network = build_network(config)
    randomise_statistics(network, seed=1)
    return Checkpoint(
        network=config,
        state=network.state_dict(),
        preprocessing=Preprocessing(8, 8, (0.25,), (0.5,)),
        labels=("a", "b", "c"),
        data="letters",
        metrics={"epoch": 3, "test_accuracy": 1 / 3},
    )


@pytest.fixture
def path(tmp_path):
    """A good checkpoint."""
    path = tmp_path / "net.safetensors"
    save_checkpoint(path, a_checkpoint())
    return path


def rewrite(path, *, tensors=lambda state: state, description=lambda description: description):
    """Write the file again with changed tensors or a changed description."""
    header_bytes = int.from_bytes(path.read_bytes()[:8], "little")
    metadata = json.loads(path.read_bytes()[8 : 8 + header_bytes])["__metadata__"]
    changed = description(json.loads(metadata["bnas_deploy"]))
    safetensors.torch.save_file(tensors(safetensors.torch.load_file(path)), path, {"bnas_deploy": json.dumps(changed)})


def refusal(path):
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path)
    assert caught.value.message.startswith(str(path))
    return caught.value.message.removeprefix(f"{path}: ")


# ---- what comes back


@pytest.mark.parametrize(
    "config",
    [
        CONFIG,
        CONFIG.float_twin(),
        replace(CONFIG, genotype=GENOTYPES["cifar"], k_map=True),
        replace(CONFIG, deviations=("centre-weights", "real-last-two")),
        replace(CONFIG, inter_cell_skip=False),
    ],
    ids=["binary", "float", "k-map", "deviations", "no skip"],
)
def test_what_is_saved_comes_back(tmp_path, config):
    saved = a_checkpoint(config)
    save_checkpoint(tmp_path / "net.safetensors", saved)
    loaded = load_checkpoint(tmp_path / "net.safetensors")
    for field in ("network", "preprocessing", "labels", "data", "metrics", "version"):
        assert getattr(loaded, field) == getattr(saved, field)
    assert list(loaded.build().state_dict()) == list(saved.state)
    assert all(torch.equal(loaded.build().state_dict()[name], tensor) for name, tensor in saved.state.items())


def test_it_does_not_print_its_weights(path):
    said = repr(load_checkpoint(path))
    assert "tensor(" not in said
    assert "network=NetworkConfig(" in said


def test_the_network_is_built_for_use_and_no_random_number_is_spent(path):
    before = torch.get_rng_state()
    checkpoint = load_checkpoint(path)
    network = checkpoint.build()
    assert not network.training
    assert torch.equal(torch.get_rng_state(), before)
    images = torch.randn(2, 1, 8, 8)
    assert torch.equal(network(images), checkpoint.build()(images))


def test_the_same_checkpoint_gives_the_same_bytes(tmp_path):
    checkpoint = a_checkpoint()
    for name in ("a", "b"):
        save_checkpoint(tmp_path / name, checkpoint)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


# ---- refusals of files


def test_a_file_of_torch_save_is_refused(path):
    torch.save(a_checkpoint().state, path)
    assert refusal(path).startswith("a zip file, probably from torch.save, which holds pickles; they are never loaded")


def test_an_old_file_of_torch_save_is_refused(path):
    torch.save(a_checkpoint().state, path, _use_new_zipfile_serialization=False)
    assert refusal(path).startswith(
        "a pickle, probably from torch.save; pickles are never loaded, expected a safetensors"
    )


def test_a_pickle_is_refused_and_not_run(path, tmp_path):
    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "exploded"),)

    path.write_bytes(pickle.dumps(Bomb()))
    assert refusal(path).startswith("a pickle")
    assert not (tmp_path / "exploded").exists()


def test_an_empty_file_is_refused(path):
    path.write_bytes(b"")
    assert refusal(path).startswith("empty; expected a safetensors file that `bnas-deploy train` or `init` wrote")


def test_a_file_cut_anywhere_is_refused(path):
    data = path.read_bytes()
    for length in (len(data) - 1, len(data) // 2):
        path.write_bytes(data[:length])
        assert refusal(path) == (f"cut short: {length} bytes, its header promises {len(data)}; copy or train it again")
    path.write_bytes(data[:100])
    assert refusal(path) == "cut short: 100 bytes, its header is incomplete; copy or train it again"
    for start in (data[:7], b"\x80" + data[1:8], b"PK" + data[2:8]):  # a length may look like another format's magic
        path.write_bytes(start)
        assert refusal(path).startswith("not a safetensors file")


def test_a_file_that_is_too_long_is_refused(path):
    data = path.read_bytes()
    path.write_bytes(data + b"\0")
    assert refusal(path) == (f"damaged: {len(data) + 1} bytes, its header promises {len(data)}; copy or train it again")


def test_text_is_refused(path):
    path.write_text('{"normal": [], "reduction": []}')
    assert refusal(path).startswith("not a safetensors file; expected")


@pytest.mark.parametrize("make", [lambda path: path.unlink(), lambda path: (path.unlink(), path.mkdir())])
def test_a_path_that_is_no_file_is_refused(path, make):
    make(path)
    assert refusal(path).startswith("cannot be read: ")


def test_a_safetensors_file_of_something_else_is_refused(path):
    safetensors.torch.save_file({"weight": torch.zeros(1)}, path, {"format": "pt"})
    assert refusal(path).startswith(
        "a safetensors file, but without the metadata 'bnas_deploy' (it has: format); expected a file that"
    )
    safetensors.torch.save_file({"weight": torch.zeros(1)}, path)
    assert "(it has: none)" in refusal(path)


# ---- refusals of descriptions


def test_a_newer_format_is_refused(path):
    rewrite(path, description=lambda description: description | {"format": 4})
    assert refusal(path) == "format version 4, this bnas-deploy reads up to 3; upgrade bnas-deploy"


def test_format_1_is_read(path):
    def as_before(description):
        del description["model"]
        network = description["network"]
        return description | {"format": 1, "network": {name: network[name] for name in network if "skip" not in name}}

    now = load_checkpoint(path)
    rewrite(path, description=as_before)
    assert b"inter_cell_skip" not in path.read_bytes()
    assert load_checkpoint(path).network == now.network
    assert now.network.inter_cell_skip


def test_format_2_is_read(path):
    def as_before(description):
        del description["model"]
        return description | {"format": 2}

    now = load_checkpoint(path)
    rewrite(path, description=as_before)
    assert load_checkpoint(path).network == now.network


def test_an_unknown_family_is_refused(path):
    rewrite(path, description=lambda description: description | {"model": "perceptron"})
    known = ", ".join(FAMILIES)
    assert refusal(path).startswith(
        f"network: unknown model 'perceptron'; this bnas-deploy builds {known}; the file is damaged"
    )


@pytest.mark.parametrize("version", [None, "1", 0])
def test_a_format_that_never_was_is_refused(path, version):
    rewrite(path, description=lambda description: description | {"format": version})
    assert refusal(path) == f"format version {version!r}, expected 1 to 3; copy or train it again"


@pytest.mark.parametrize("field", ["model", "network", "data", "labels", "preprocessing", "metrics", "bnas_deploy"])
def test_a_missing_field_is_refused(path, field):
    rewrite(path, description=lambda description: {key: value for key, value in description.items() if key != field})
    assert refusal(path) == f"the field '{field}' is missing; the file is damaged, copy or train it again"


def test_what_another_version_wrote_is_not_called_damaged(path):
    newer = {"model": "dms", "bnas_deploy": "9.1.0"}
    rewrite(path, description=lambda description: description | newer)
    assert refusal(path) == (
        f"network: unknown model 'dms'; this bnas-deploy builds {', '.join(FAMILIES)}; bnas-deploy 9.1.0 wrote the "
        f"file and this is {bnas_deploy.__version__}: use that version or a later one, or train the network again"
    )


@pytest.mark.parametrize("text", ["{", "[]"])
def test_a_description_that_is_no_json_object_is_refused(path, text):
    safetensors.torch.save_file({"weight": torch.zeros(1)}, path, {"bnas_deploy": text})
    assert "metadata 'bnas_deploy' is not" in refusal(path)


def test_a_malformed_network_is_refused_by_its_field(path):
    rewrite(path, description=lambda description: description | {"network": description["network"] | {"cells": 2}})
    assert "2 cells; at least 3 are needed" in refusal(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": ["a", "b"]}, "2 labels, but tiny has 3 classes"),
        (
            {"preprocessing": {"height": 9, "width": 8, "mean": [0.0], "std": [1.0]}},
            "preprocessing to (9, 8), but tiny takes images of (8, 8)",
        ),
        (
            {"preprocessing": {"height": 8, "width": 8, "mean": [0.0], "std": [1.0, 1.0]}},
            "2 values in std, but tiny takes 1 channels",
        ),
        (
            {"preprocessing": {"height": 8, "width": 8, "mean": [0.0], "std": [0.0]}},
            "std is [0.0], expected positive numbers",
        ),
        (
            {"preprocessing": {"height": 8, "width": 8, "mean": [0.0], "std": [float("nan")]}},
            "preprocessing.std[0]: got NaN, wanted a number that float32 can hold",
        ),
        (
            {"preprocessing": {"height": 8, "width": 8, "mean": [float("inf")], "std": [1.0]}},
            "preprocessing.mean[0]: got Infinity, wanted a number that float32 can hold",
        ),
        (
            {"preprocessing": {"height": 8, "width": 8, "mean": [], "std": [1.0]}},
            "0 values in mean, but tiny takes 1 channels",
        ),
        ({"labels": "abc"}, 'labels: got "abc", wanted a list'),
        ({"labels": ["a", "b", 3]}, "labels[2]: got 3, wanted text"),
    ],
    ids=["count", "size", "std", "zero", "nan", "inf", "mean", "text", "number"],
)
def test_a_description_that_contradicts_itself_is_refused(path, change, message):
    rewrite(path, description=lambda description: description | change)
    assert refusal(path) == f"{message}; the file is damaged, copy or train it again"


def test_an_endless_height_is_refused(path):
    size = {"height": float("inf"), "width": 8, "mean": [0.0], "std": [1.0]}
    rewrite(path, description=lambda description: description | {"preprocessing": size})
    assert refusal(path).startswith("preprocessing.height: got Infinity, wanted an integer of 64 bits; ")


def test_a_description_nested_too_deeply_is_refused(path):
    safetensors.torch.save_file({"weight": torch.zeros(1)}, path, {"bnas_deploy": 100_000 * "["})
    assert refusal(path).startswith("its metadata 'bnas_deploy' is not JSON (")


def test_an_absurd_size_is_refused(path):
    rewrite(path, description=lambda description: description | {"network": description["network"] | {"cells": 10**9}})
    assert "tiny: cells is 1000000000; wanted a number from 1 to 1000" in refusal(path)


# ---- refusals of tensors

LINEAR = "classifier.weight"


def test_missing_and_unexpected_tensors_are_named(path):
    rewrite(path, tensors=lambda state: {("other" if name == LINEAR else name): state[name] for name in state})
    message = refusal(path)
    assert "its tensors are not those of the tiny that it describes" in message
    assert re.search(rf"1 missing: {LINEAR} float32 \[.*\]; 1 unexpected: other float32 \[.*\]", message)


def test_tensors_that_do_not_belong_are_named_in_order():
    others = {f"cells.{number}.weight": torch.zeros(1) for number in (10, 2, 1)}
    assert find_misfits(others, {}) == [
        "3 unexpected: cells.1.weight float32 [1] | cells.2.weight float32 [1] | cells.10.weight float32 [1]"
    ]


def test_a_wrong_shape_is_named(path):
    rewrite(path, tensors=lambda state: state | {LINEAR: torch.zeros(5, 32)})
    assert f"1 of another shape or type: {LINEAR} is float32 [5, 32], expected float32 [3, 32]" in refusal(path)


def test_a_wrong_type_is_named(path):
    rewrite(path, tensors=lambda state: state | {LINEAR: state[LINEAR].half()})
    assert f"{LINEAR} is float16 [3, 32], expected float32 [3, 32]" in refusal(path)


@pytest.mark.parametrize(
    "change", [{"channels": 4}, {"cells": 4}, {"genotype": GENOTYPES["cifar"].to_json()}, {"stem": "imagenet"}]
)
def test_weights_of_another_network_are_refused(path, change):
    if change == {"stem": "imagenet"}:
        change |= {"image_size": [32, 32]}
        size = {"preprocessing": {"height": 32, "width": 32, "mean": [0.0], "std": [1.0]}}
    else:
        size = {}
    rewrite(path, description=lambda description: description | size | {"network": description["network"] | change})
    assert "its tensors are not those of the tiny that it describes" in refusal(path)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_value_that_is_not_finite_is_refused(path, value):
    rewrite(path, tensors=lambda state: state | {LINEAR: torch.full_like(state[LINEAR], value)})
    assert refusal(path) == f"tensor {LINEAR} holds NaN or infinity; copy or train it again"


def test_a_negative_variance_is_refused(path):
    name = next(name for name in a_checkpoint().state if name.endswith("running_var"))
    rewrite(path, tensors=lambda state: state | {name: -state[name]})
    assert refusal(path) == f"tensor {name} holds a negative variance; copy or train it again"


# ---- writing


def test_a_write_that_fails_keeps_the_old_file(path, monkeypatch):
    before = path.read_bytes()

    def no_room(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", no_room)
    with pytest.raises(
        CheckpointError, match="cannot be written: No space left on device; choose another folder or make"
    ):
        save_checkpoint(path, a_checkpoint())
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(
        CheckpointError, match=r"nowhere/net\.safetensors: cannot be written: No such file or directory"
    ):
        save_checkpoint(tmp_path / "nowhere" / "net.safetensors", a_checkpoint())
