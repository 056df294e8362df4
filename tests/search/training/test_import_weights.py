"""Weights of the official BNAS code, and packed ones, become checkpoints; all else is refused with a sentence."""

import io
import os
import pickle
import re
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from bnas_deploy.cli import main
from bnas_deploy.core.errors import BnasError, CheckpointError
from bnas_deploy.core.genotype import GENOTYPES
from bnas_deploy.search.models.bnas import config as configs
from bnas_deploy.search.models.bnas.config import NetworkConfig, published_config
from bnas_deploy.search.models.bnas.official import CIFAR_10, OFFICIAL_LAYOUTS
from bnas_deploy.search.models.registry import configure, layout_of
from bnas_deploy.search.training.checkpoint import load_checkpoint, save_checkpoint
from bnas_deploy.search.training.import_weights import import_checkpoint, read_names, unpack_words
from bnas_deploy.search.training.untrained import untrained_checkpoint

OFFICIAL = OFFICIAL_LAYOUTS["official"]
CIFAR = NetworkConfig("tiny", 3, 4, "cifar", GENOTYPES["cifar"], classes=10, in_channels=3, image_size=(8, 8))
IMAGENET = NetworkConfig(
    "tiny", 4, 4, "imagenet", GENOTYPES["imagenet"], classes=12, in_channels=3, image_size=(32, 32)
)

State = dict[str, Tensor]


def norm_pairs(theirs: str, here: str, affine: bool = True) -> Iterator[tuple[str, str]]:
    kinds = ("weight", "bias") if affine else ()
    for kind in (*kinds, "running_mean", "running_var", "num_batches_tracked"):
        yield f"{theirs}.{kind}", f"{here}.{kind}"


def block_pairs(theirs: str, here: str, affine: bool = True) -> Iterator[tuple[str, str]]:
    yield from norm_pairs(f"{theirs}.bn", f"{here}.norm", affine)
    yield f"{theirs}.op.0.weight", f"{here}.conv.weight"


def official_names(config: NetworkConfig) -> Iterator[tuple[str, str]]:
    """Yield each name of the official code with the name here, cell by cell, as its modules are nested."""
    if config.stem == "cifar":
        yield from block_pairs("stem", "stem")
    else:
        for theirs, number in (("stem0.0", 0), ("stem0.3", 1), ("stem1.1", 2)):
            yield f"{theirs}.weight", f"stem.conv{number}.weight"
            sequence, place = theirs.split(".")
            yield from norm_pairs(f"{sequence}.{int(place) + 1}", f"stem.norm{number}")
    for i in range(config.cells):
        reduces = i in config.reduction_cells
        after = i - 1 in config.reduction_cells or (config.stem == "imagenet" and i == 0)
        red = "_red" if reduces and config.stem == "imagenet" else ""
        affine = config.stem == "imagenet" or not after
        yield from block_pairs(f"cells.{i}.preprocess0{red}", f"cells.{i}.preprocess0", affine)
        yield from block_pairs(f"cells.{i}.preprocess1{red}", f"cells.{i}.preprocess1")
        if reduces:
            yield from norm_pairs(f"cells.{i}.preprocess_res.0", f"cells.{i}.skip.norm")
            for kind in ("weight", "bias"):
                yield f"cells.{i}.preprocess_res.1.{kind}", f"cells.{i}.skip.conv.{kind}"
        cell = config.genotype.reduction if reduces else config.genotype.normal
        for j, edge in enumerate(cell.edges):
            if "conv" in edge.operation:
                yield from block_pairs(f"cells.{i}._ops.{j}", f"cells.{i}.edges.{j}")
    yield from ((f"classifier.{kind}", f"classifier.{kind}") for kind in ("weight", "bias"))


def official_state(config: NetworkConfig) -> State:
    state = untrained_checkpoint(config, seed=0).state
    return {theirs: state[here].clone() for theirs, here in official_names(config)}


def saved(path: Path, data: Any) -> Path:
    torch.save(data, path)
    return path


def imported(path: Path, config: NetworkConfig = CIFAR, **settings: Any) -> State:
    return dict(import_checkpoint(path, config, OFFICIAL, settings.get("names")).state)


def refusal(path: Path, config: NetworkConfig = CIFAR) -> str:
    with pytest.raises(CheckpointError) as error:
        import_checkpoint(path, config, OFFICIAL, None)
    assert "\n" not in error.value.message
    return error.value.message.removeprefix(f"{path}: ")


# --- the official code ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "tensors"), [("BNAS-A", 474), ("BNAS-D", 694)])
def test_the_published_networks_have_as_many_tensors_as_theirs(name: str, tensors: int) -> None:
    # Counted in the state dicts of the official code, at its last commit.
    assert len(list(official_names(published_config(name)))) == tensors


@pytest.mark.parametrize("config", [CIFAR, IMAGENET], ids=["cifar", "imagenet"])
@pytest.mark.parametrize("form", ["bare", "DataParallel", "training", "compiled", "safetensors"])
def test_every_tensor_comes_to_its_place(config: NetworkConfig, form: str, tmp_path: Path) -> None:
    state = official_state(config)
    path = tmp_path / "weights.pt"
    if form == "bare":
        saved(path, state)
    elif form == "DataParallel":
        saved(path, {f"module.{name}": tensor for name, tensor in state.items()})
    elif form == "training":
        wrapped = {f"module.{name}": tensor for name, tensor in state.items()}
        saved(path, {"epoch": 3, "state_dict": wrapped, "best_acc_top1": torch.tensor(57.6), "optimizer": {"lr": 0.1}})
    elif form == "compiled":
        saved(path, {f"_orig_mod.module.{name}": tensor for name, tensor in state.items()})
    else:
        from safetensors.torch import save_file

        save_file(state, path)

    got = imported(path, config)

    want = untrained_checkpoint(config, seed=0).state
    assert list(got) == list(want)
    for name, tensor in want.items():
        assert torch.equal(got[name], tensor), name


def test_half_precision_is_widened_and_missing_counts_are_no_matter(tmp_path: Path) -> None:
    state = official_state(CIFAR)
    halves = {name: tensor.half() for name, tensor in state.items() if not name.endswith("num_batches_tracked")}
    got = imported(saved(tmp_path / "half.pt", halves))
    assert torch.equal(got["classifier.weight"], state["classifier.weight"].half().float())
    assert got["stem.norm.num_batches_tracked"] == 0


def test_logits_of_imagenet_are_sorted_as_text(tmp_path: Path) -> None:
    path = saved(tmp_path / "weights.pt", official_state(IMAGENET))
    numbered = import_checkpoint(path, IMAGENET, OFFICIAL, None)
    assert numbered.labels == ("0", "1", "10", "11", "2", "3", "4", "5", "6", "7", "8", "9")
    named = import_checkpoint(path, IMAGENET, OFFICIAL, tuple("abcdefghijkl"))
    assert named.labels == tuple("abklcdefghij")
    assert (named.data, named.preprocessing.mean) == ("imagenet", (0.485, 0.456, 0.406))


def test_logits_of_cifar_are_in_the_usual_order(tmp_path: Path) -> None:
    checkpoint = import_checkpoint(saved(tmp_path / "weights.pt", official_state(CIFAR)), CIFAR, OFFICIAL, None)
    assert checkpoint.labels == CIFAR_10
    assert checkpoint.preprocessing.std == (0.24703233, 0.24348505, 0.26158768)


# --- packed weights -------------------------------------------------------------------------------------------------


@given(st.integers(1, 5), st.integers(1, 70), st.integers(0, 2**32 - 1), st.sampled_from([torch.int32, torch.int64]))
def test_words_are_unpacked_as_they_were_packed(rows: int, count: int, seed: int, kind: torch.dtype) -> None:
    rng = np.random.default_rng(seed)
    signs = rng.choice([-1.0, 1.0], (rows, count)).astype(np.float32)
    words = np.zeros((rows, -(-count // 32)), np.uint32)
    for row in range(rows):
        for i in range(count):
            if signs[row, i] > 0:
                words[row, i // 32] |= np.uint32(1) << np.uint32(i % 32)
    stored = torch.from_numpy(words.astype(np.int64)).to(kind)  # a set highest bit is a negative int32
    assert torch.equal(unpack_words(stored, (rows, count, 1, 1)), torch.from_numpy(signs).reshape(rows, count, 1, 1))


def packed_state(config: NetworkConfig, layer: str) -> tuple[State, Tensor, Tensor]:
    """Return the state with the weights of a layer in words, its signs and its scale."""
    state = official_state(config)
    weight = state.pop(f"{layer}.weight")
    outputs, count = len(weight), weight[0].numel()
    bits = (weight.reshape(outputs, -1) >= 0).numpy()
    padded = np.zeros((outputs, -(-count // 32) * 32), bool)
    padded[:, :count] = bits
    words = np.packbits(padded, axis=1, bitorder="little").view("<u4").astype(np.int64)
    scale = torch.rand(outputs) + 0.5
    state[f"{layer}.weight"] = torch.from_numpy(words).to(torch.int32)
    state[f"{layer}.alpha"] = scale
    return state, torch.from_numpy(np.where(bits, 1.0, -1.0).astype(np.float32)).reshape(weight.shape), scale


def test_packed_weights_keep_their_signs_and_their_scale(tmp_path: Path) -> None:
    config = replace(CIFAR, scheme="xnor-net-plus")
    layer = "cells.0.preprocess0.op.0"
    state, signs, scale = packed_state(CIFAR, layer)
    packed = "cells.0.preprocess0.conv.learned_scale"
    others = untrained_checkpoint(config, seed=0).state
    state |= {name: value for name, value in others.items() if name.endswith("learned_scale") and name != packed}

    got = imported(saved(tmp_path / "packed.pt", state), config)

    assert torch.equal(got["cells.0.preprocess0.conv.weight"], signs)
    assert torch.equal(got[packed], scale)


def test_packed_weights_need_a_scheme_with_a_scale_and_the_scale(tmp_path: Path) -> None:
    state, _, _ = packed_state(CIFAR, "cells.0.preprocess0.op.0")
    path = saved(tmp_path / "packed.pt", state)
    assert "give --scheme xnor-net-plus" in refusal(path)
    plus = replace(CIFAR, scheme="xnor-net-plus")
    del state["cells.0.preprocess0.op.0.alpha"]
    assert "cells.0.preprocess0.conv.scale or cells.0.preprocess0.conv.alpha is missing" in refusal(
        saved(path, state), plus
    )
    state["cells.0.preprocess0.op.0.alpha"] = torch.ones(4)
    state["cells.0.preprocess0.op.0.weight"] = torch.zeros(4, 3, dtype=torch.int32)
    assert "does not fit: 12 words, wanted 4 for [4, 12, 1, 1]" in refusal(saved(path, state), plus)


# --- what is refused ------------------------------------------------------------------------------------------------


class Executes:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("executed",)


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_nothing_is_executed(legacy: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "weights.pt"
    torch.save({"weights": Executes()}, path, _use_new_zipfile_serialization=not legacy)
    assert "posix.mkdir, which would have to be executed to be read; nothing is" in refusal(path)
    assert not (tmp_path / "executed").exists()


def test_a_whole_module_is_refused(tmp_path: Path) -> None:
    message = refusal(saved(tmp_path / "module.pt", torch.nn.Linear(2, 2)))
    assert message.startswith("holds torch.nn.modules.linear.Linear, which would have to be executed")
    assert "torch.save(model.state_dict(), FILE)" in message


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (torch.zeros(3), "holds Tensor; wanted a state dict, or a dict with one"),
        ({}, "holds no state dict: it has nothing"),
        ({"epoch": 1, "lr": 0.1}, "it has epoch, lr; wanted tensors by name, or one of state_dict,"),
    ],
    ids=["a tensor", "nothing", "no tensors"],
)
def test_what_is_no_state_dict(data: Any, message: str, tmp_path: Path) -> None:
    assert message in refusal(saved(tmp_path / "weights.pt", data))


def _npz() -> bytes:
    file = io.BytesIO()
    np.savez(file, arr_0=np.zeros(3))
    return file.getvalue()


def foreign_files(folder: Path) -> dict[str, bytes]:
    """Files that are no state dict, by what they are; torch has advice of its own for most."""
    linear = torch.nn.Linear(2, 2)
    script = io.BytesIO()
    with warnings.catch_warnings(action="ignore"):  # TorchScript is deprecated
        torch.jit.save(torch.jit.script(linear), script)  # type: ignore[no-untyped-call]  # torch leaves it untyped
    return {
        "a pickle that is no state dict": pickle.dumps(Executes()),
        "a pickle that is no": pickle.dumps({"a": 1}),
        "a TorchScript program": script.getvalue(),
        "empty; copy it again": b"",
        "neither a file of torch.save nor safetensors: it begins with b'ustar": b"ustar" + bytes(1000),
        "arrays of numpy (.npz), as Keras's are kept; give --layout larq": _npz(),
    }


def test_no_advice_of_torch_is_passed_on(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    for number, (message, data) in enumerate(foreign_files(tmp_path).items()):
        path = tmp_path / f"{number}.pt"
        path.write_bytes(data)
        told = refusal(path)
        assert message in told
        for advice in ("weights_only", "Re-running", "torch.load", "issue", "PyTorch 2.6"):
            assert advice not in told
    assert not [each for each in recwarn if "torch.load" in str(each.message)]


def test_a_damaged_file(tmp_path: Path) -> None:
    path = saved(tmp_path / "weights.pt", official_state(CIFAR))
    whole = path.read_bytes()
    for damaged in (whole[:1000], whole[:5] + b"\xff" * 40):
        path.write_bytes(damaged)
        assert "a damaged file of torch.save: a part of it is missing or was changed; copy it again" in refusal(path)
    path.write_bytes(b"text")
    assert "it begins with b'text'; give a file of safetensors, of torch.save or of Keras" in refusal(path)


UNUSUAL: dict[str, tuple[Callable[[torch.Tensor], torch.Tensor], str]] = {
    "sparse": (torch.Tensor.to_sparse, "is sparse_coo, wanted dense numbers; save it as a dense tensor: tensor.to_d"),
    "rows": (lambda each: each.flatten(1).to_sparse_csr(), "is sparse_csr, wanted dense numbers; save it as a dense"),
    "complex": (lambda each: each + 1j, "is complex64, wanted dense numbers; save real numbers"),
    "meta": (lambda each: each.to("meta"), "is without values (on the device meta), wanted dense numbers; save it fr"),
    "quantised": (
        lambda each: torch.quantize_per_tensor(each, 0.1, 0, torch.qint8),
        "is qint8, wanted dense numbers; save the weights before they were quantised",
    ),
    "whole": (lambda each: each.int(), "int32 ["),
}


@pytest.mark.filterwarnings("ignore:Sparse", "ignore:TypedStorage", "ignore:torch.quantize_per_tensor")
@pytest.mark.parametrize(("change", "message"), UNUSUAL.values(), ids=UNUSUAL)
def test_tensors_that_are_no_dense_floats(
    change: Callable[[torch.Tensor], torch.Tensor], message: str, tmp_path: Path
) -> None:
    state = official_state(CIFAR)
    name = next(name for name, each in state.items() if each.ndim == 4 and each.shape[2:] == (3, 3))
    assert message in refusal(saved(tmp_path / "weights.pt", {**state, name: change(state[name])}))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_other_floats_become_float32(dtype: torch.dtype, tmp_path: Path) -> None:
    state = {name: each.to(dtype) if each.is_floating_point() else each for name, each in official_state(CIFAR).items()}
    path, output = saved(tmp_path / "weights.pt", state), tmp_path / "imported.safetensors"
    words = ["import", str(path), "--network", "BNAS-Mini", "--cells", "3", "--channels", "4", "--image-size", "8"]
    result = CliRunner().invoke(main, [*words, "-o", str(output)])
    assert result.exit_code == 0, result.output
    assert f"\n  converted to float32 from {str(dtype).removeprefix('torch.')}\n" in result.output
    assert load_checkpoint(output).metrics["imported"]["converted from"] == str(dtype).removeprefix("torch.")


def test_mean_and_std(tmp_path: Path) -> None:
    path = saved(tmp_path / "weights.pt", official_state(CIFAR))
    with pytest.raises(BnasError, match=r"--std: 0, 1, 1, wanted numbers above 0: the images were divided by them"):
        import_checkpoint(path, CIFAR, OFFICIAL, None, std=(0.0, 1.0, 1.0))
    with pytest.raises(BnasError, match=r"--mean: 3 numbers by the layout \(0\.\d+, .*\), and .* have 1 channel; give"):
        import_checkpoint(path, replace(CIFAR, in_channels=1), OFFICIAL, None)


def test_a_folder_and_a_file_that_is_not_there(tmp_path: Path) -> None:
    assert "cannot be read" in refusal(tmp_path)
    assert "cannot be read: No such file" in refusal(tmp_path / "nowhere.pt")


def test_weights_of_another_network(tmp_path: Path) -> None:
    path = saved(tmp_path / "weights.pt", official_state(CIFAR))
    message = refusal(path, replace(CIFAR, classes=7))
    assert (
        "2 of another shape or type: classifier.weight is float32 [10, 64], expected float32 [7, 64] | "
        "classifier.bias is float32 [10], expected float32 [7]; give the network"
    ) in message
    assert "give the network, the genotype, the layout, the number of classes and --in-channels" in message
    message = refusal(path, replace(CIFAR, cells=4))
    assert "missing: cells.3.preprocess0.norm.running_mean float32 [" in message
    assert re.search(r"18 missing: .*cells\.3\.\S+ float32 \[\d+\] \| 13 more; give the network", message)
    assert message.count("cells.3.") == 5
    message = refusal(path, replace(CIFAR, channels=8))
    assert "stem.conv.weight (in the file stem.op.0.weight) is float32 [" in message


def test_two_tensors_of_one_name(tmp_path: Path) -> None:
    state = official_state(CIFAR)
    state["cells.0.edges.0.norm.weight"] = state["cells.0._ops.1.bn.weight"]
    state["cells.0._ops.0.bn.weight"] = state["cells.0._ops.1.bn.weight"]
    assert "two tensors are cells.0.edges.0.norm.weight here" in refusal(saved(tmp_path / "weights.pt", state))


def test_a_checkpoint_is_not_imported_again(tmp_path: Path) -> None:
    config = configure("BNAS-Mini", options={"cells": 3, "channels": 4})
    save_checkpoint(tmp_path / "net", untrained_checkpoint(config, seed=0))
    _, layout = layout_of("BNAS-Mini")
    with pytest.raises(CheckpointError, match=r"net: a checkpoint of bnas-deploy already; eval, export and train --fr"):
        import_checkpoint(tmp_path / "net", config, layout, None)


def test_numbers_that_are_none(tmp_path: Path) -> None:
    state = official_state(CIFAR)
    state["classifier.bias"][0] = float("nan")
    assert "tensor classifier.bias holds NaN or infinity" in refusal(saved(tmp_path / "weights.pt", state))


def test_names_of_classes(tmp_path: Path) -> None:
    path = tmp_path / "names.txt"
    path.write_text("cat\ndog\n")
    assert read_names(path, 2) == ("cat", "dog")
    with pytest.raises(BnasError, match=r"has 2 lines; wanted 3, the name of a class in each"):
        read_names(path, 3)
    path.write_bytes(b"\xff")
    with pytest.raises(BnasError, match=r"is no UTF-8 text"):
        read_names(path, 1)
    with pytest.raises(BnasError, match=r"cannot be read: No such file"):
        read_names(tmp_path / "nowhere", 1)


def test_a_layout_that_the_family_lacks() -> None:
    with pytest.raises(
        BnasError, match=r"BNAS-A: no layout 'bi-real' of its weights; there are official, official-first"
    ):
        layout_of("BNAS-A", "bi-real")


# --- the command ----------------------------------------------------------------------------------------------------


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> NetworkConfig:
    size = replace(configs.NETWORKS["BNAS-Mini"], cells=3, channels=4)
    monkeypatch.setitem(configs.NETWORKS, "BNAS-Mini", size)
    return published_config("BNAS-Mini")


def test_the_command(tiny: NetworkConfig, tmp_path: Path) -> None:
    path, out = saved(tmp_path / "weights.pt", official_state(tiny)), tmp_path / "net.safetensors"
    words = ["import", str(path), "--network", "BNAS-Mini", "-o", str(out)]

    done = CliRunner().invoke(main, words)

    assert done.exit_code == 0, done.output
    assert f"{out}: BNAS-Mini with the weights of {path} (layout official)" in done.output
    assert f"deviates from the paper: {', '.join(OFFICIAL.options['deviations'])}" in done.output
    assert f"Next: bnas-deploy eval {out}" in done.output
    network = load_checkpoint(out).network
    assert isinstance(network, NetworkConfig)
    assert network.deviations == OFFICIAL.options["deviations"]

    CliRunner().invoke(main, [*words, "--layout", "official-first"])
    first = load_checkpoint(out).network
    assert isinstance(first, NetworkConfig)
    assert "binary-weight-skip" in first.deviations

    CliRunner().invoke(main, [*words, "--like-official-code", "centre-weights"])
    chosen = load_checkpoint(out).network
    assert isinstance(chosen, NetworkConfig)
    assert chosen.deviations == ("centre-weights",)


def test_the_command_refuses(tiny: NetworkConfig, tmp_path: Path) -> None:
    path, out = saved(tmp_path / "weights.pt", official_state(CIFAR)), tmp_path / "net.safetensors"
    done = CliRunner().invoke(main, ["import", str(path), "--network", "BNAS-Mini", "--classes", "3", "-o", str(out)])
    assert done.exit_code == 1
    assert done.stderr.startswith(f"Error: {path}: its tensors are not those of BNAS-Mini: ")
    assert not out.exists()


def test_a_network_for_grey_images_is_imported(tmp_path: Path) -> None:
    config = replace(CIFAR, in_channels=1)
    path = tmp_path / "grey.pt"
    state = untrained_checkpoint(config, seed=0).state
    torch.save({theirs: state[here] for theirs, here in official_names(config)}, path)
    found = import_checkpoint(path, config, OFFICIAL, None, mean=(0.1307,), std=(0.3081,))
    assert found.preprocessing.mean == (0.1307,)
    assert found.preprocessing.std == (0.3081,)
    with pytest.raises(
        BnasError, match=r"--mean: 3 numbers by the layout \(0\.49\d*, .*images of tiny have 1 channel; give --mean as"
    ):
        import_checkpoint(path, config, OFFICIAL, None)
