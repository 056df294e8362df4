"""Files of larq's networks: their answers, computed by larq itself, and what is refused.

`ANSWERS` was printed by larq-zoo 2.3.1, larq 0.12.2 and TF-Keras 2.21 on TensorFlow 2.21, for weights and images of the
formula `numbers`. They compute in float32, and this package here in float64: 1e-4 of a logit is some hundred roundings.
A sign that fell over would change logits by more than 1e-2 of them.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from numpy.typing import NDArray

from bnas_deploy.cli import main
from bnas_deploy.core.errors import CheckpointError
from bnas_deploy.search.models.backbone import BackboneConfig
from bnas_deploy.search.models.registry import build_network, configure, layout_of
from bnas_deploy.search.training.checkpoint import load_checkpoint
from bnas_deploy.search.training.import_weights import import_checkpoint
from bnas_deploy.search.training.keras_files import Place, places

Array = NDArray[Any]

ANSWERS = {
    ("QuickNet-Small", (48, 64)): [[310.5335, -68.3414, 303.0567], [300.0856, -62.7928, 292.1893]],
    ("QuickNet-Small", (45, 50)): [[311.0226, -61.2372, 213.4026], [443.4722, -26.1561, 187.1246]],
    ("Bi-Real-18", (48, 64)): [[-278.4964, -31.6139, -84.4738], [-217.6341, -19.1894, -136.0256]],
    ("Bi-Real-18", (45, 50)): [[-45.9095, -40.8125, -328.041], [-117.6115, 116.7432, -242.2962]],
    ("BinaryDenseNet-28", (50, 64)): [[-722.5509, 46.9813, 999.8893], [-567.7061, -52.5717, 1094.3096]],
    ("BinaryDenseNet-28", (51, 50)): [[-619.7773, 10.5994, 835.2695], [-475.3518, -330.4226, 1152.6161]],
    ("BinaryDenseNet-28", (32, 32)): [[1888.8693, 1480.4712, 1191.8378], [1745.6986, 1508.8352, 1245.343]],
    ("MeliusNet-22", (48, 64)): [[294.9495, 43.8853, -88.6955], [288.8149, -257.3477, 73.5742]],
    ("MeliusNet-22", (45, 50)): [[227.7598, -108.0302, -47.5693], [313.7059, -116.9461, 145.1582]],
}
"""Logits of two images, by network and size."""


def numbers(index: int, shape: tuple[int, ...]) -> Array:
    """Return numbers of 0..1 that look random, for array `index`; products and remainders of float64 only."""
    t = np.arange(np.prod(shape), dtype=np.float64)
    u = (t * t * 0.6180339887498949 + t * 0.41421356237309503 + index * 0.7548776662466927) % 1
    return u.reshape(shape)


def images(height: int, width: int) -> torch.Tensor:
    x = (4 * numbers(1000, (2, height, width, 3)) - 2).astype(np.float32)  # TensorFlow's order
    return torch.from_numpy(x).permute(0, 3, 1, 2).double()


def configured(network: str, size: tuple[int, int], **options: Any) -> BackboneConfig:
    # larq's BinaryDenseNet has the form for large images from 50 rows on.
    form = {"form": "cifar" if size[0] < 50 and "Dense" in network else "imagenet"}
    config = configure(network, classes=3, image_size=size, options={"like_larq": True, **form, **options})
    assert isinstance(config, BackboneConfig)
    return config


def places_of(config: BackboneConfig) -> list[Place]:
    layout = layout_of(config.network, "larq")[1]
    assert layout.layers is not None
    with torch.device("meta"):
        network = build_network(config)
    return list(places(network, layout.layers(network)))


def arrays_of(config: BackboneConfig) -> dict[str, Array]:
    """Return the arrays that larq computed with, by names that tell nothing, as a list of `get_weights` has them."""
    arrays = {}
    for index, place in enumerate(places_of(config)):
        u, kind = numbers(index, place.shape), place.name.rpartition(".")[2]
        if len(place.shape) == 1:
            scaled = {
                "weight": (2 * u - 1) * 0.04,
                "running_var": (0.5 + 1.5 * u) * 1e-2,
            }
            value = scaled.get(kind, (2 * u - 1) * 0.3)
        elif place.shape[-1] == 1 and index > 5:  # the blur of QuickNet, which is fixed
            row = np.array([1, 2, 1]) / 4
            value = np.broadcast_to(np.outer(row, row)[:, :, None, None], place.shape)
        else:
            value = 2 * u - 1
        arrays[f"arr_{index}"] = value.astype(np.float32)
    return arrays


def as_npz(path: Path, arrays: dict[str, Array]) -> Path:
    np.savez(path, **arrays)
    return path


def as_hdf5(path: Path, config: BackboneConfig, *, whole: bool = False, split: bool = False) -> Path:
    """Write a file as Keras 2 does: a group for each layer, and lists of names as attributes."""
    h5py = pytest.importorskip("h5py")
    layers: dict[str, dict[str, Array]] = {"input_1": {}}
    last = ""
    for place, array in zip(places_of(config), arrays_of(config).values(), strict=True):
        module, _, kind = place.name.rpartition(".")
        if module != last or array.ndim > 1:  # of a convolution with groups, each is a layer
            layers[f"layer_{len(layers)}"] = {}
        layers[f"layer_{len(layers) - 1}"][f"{kind}:0"] = array
        last = module
    with h5py.File(path, "w") as file:
        root = file.create_group("model_weights") if whole else file
        if split:
            root.attrs["layer_names0"] = [name.encode() for name in list(layers)[:9]]
            root.attrs["layer_names1"] = [name.encode() for name in list(layers)[9:]]
        else:
            root.attrs["layer_names"] = list(layers)
        # Groups lie in a file in the order of their names, which is not that of the layers.
        for name, weights in sorted(layers.items()):
            group = root.create_group(name)
            group.attrs["weight_names"] = [f"{name}/{kind}" for kind in weights]
            for kind, array in weights.items():
                group.create_dataset(f"{name}/{kind}", data=array)
    return path


def answers(path: Path, config: BackboneConfig) -> Array:
    checkpoint = import_checkpoint(path, config, layout_of(config.network, "larq")[1], None)
    network = build_network(config)
    network.load_state_dict(checkpoint.state)
    with torch.no_grad():
        logits: Array = network.double().eval()(images(*config.image_size)).numpy()
    return logits


@pytest.mark.parametrize(("network", "size"), list(ANSWERS))
def test_the_answers_are_larqs(network: str, size: tuple[int, int], tmp_path: Path) -> None:
    config = configured(network, size)
    got = answers(as_npz(tmp_path / "weights.npz", arrays_of(config)), config)
    np.testing.assert_allclose(got, ANSWERS[network, size], rtol=1e-4, atol=0.01)


@pytest.mark.parametrize(("network", "size"), [key for key in ANSWERS if key[1] in ((48, 64), (50, 64))])
def test_other_padding_gives_other_answers(network: str, size: tuple[int, int], tmp_path: Path) -> None:
    """The check has power: without larq's padding and constants of BN it fails."""
    config = configured(network, size, like_larq=False)
    got = answers(as_npz(tmp_path / "weights.npz", arrays_of(config)), config)
    assert np.abs(got - ANSWERS[network, size]).max() > 1


@pytest.mark.parametrize("settings", [{}, {"whole": True}, {"split": True}], ids=["weights", "model", "long lists"])
def test_hdf5_has_the_same_arrays(settings: dict[str, bool], tmp_path: Path) -> None:
    config = configured("QuickNet-Small", (45, 50), width_factor=0.125)
    layout = layout_of("QuickNet-Small", "larq")[1]
    want = import_checkpoint(as_npz(tmp_path / "weights.npz", arrays_of(config)), config, layout, None).state
    got = import_checkpoint(as_hdf5(tmp_path / "weights.h5", config, **settings), config, layout, None).state
    assert list(got) == list(want)
    assert all(torch.equal(got[name], want[name]) for name in want)


# --- what is refused ------------------------------------------------------------------------------------------------

SMALL = configured("QuickNet-Small", (45, 50), width_factor=0.125)


def refusal(path: Path, config: BackboneConfig = SMALL) -> str:
    with pytest.raises(CheckpointError) as error:
        import_checkpoint(path, config, layout_of(config.network, "larq")[1], None)
    return error.value.message


def test_other_shapes_and_numbers_of_arrays_are_named(tmp_path: Path) -> None:
    arrays = arrays_of(SMALL)
    path = tmp_path / "weights.npz"
    wrong = {**arrays, "arr_12": np.zeros((3, 3, 9, 4), np.float32)}
    message = refusal(as_npz(path, wrong))
    assert (
        "its tensors are not those of QuickNet-Small-0.125x: array 13, arr_12, is [3, 3, 9, 4], expected [" in message
    )
    assert "] for stem." in message or "] for blocks." in message
    last = next(reversed(arrays))
    fewer = {name: array for name, array in arrays.items() if name != last}
    count = len(arrays)
    message = refusal(as_npz(path, fewer))
    assert f"{count - 1} arrays, expected {count}; the first missing is classifier.1.linear.bias" in message
    message = refusal(as_npz(path, {**arrays, "more": np.zeros(3, np.float32)}))
    assert f"{count + 1} arrays, expected {count}; the first more is more" in message
    assert "give the network, the genotype, the layout, the number of classes and --in-channels" in message
    whole = {**arrays, "arr_0": arrays["arr_0"].astype(np.int32)}
    assert "stem.0.0.weight is int32 [1, 3, 3, 3], expected float32" in refusal(as_npz(path, whole))


def test_files_that_are_not_of_keras(tmp_path: Path) -> None:
    path = tmp_path / "weights.h5"
    path.write_bytes(b"no file of Keras")
    assert f"{path}: neither HDF5 nor .npz: it begins with b'no file '; give a file of Keras" in refusal(path)
    assert "cannot be read: No such file or directory; give a file" in refusal(tmp_path / "none")
    torch.save({"a": torch.zeros(3)}, path)
    assert "no file of Keras that can be read" in refusal(path)


def test_a_damaged_file_of_hdf5(tmp_path: Path) -> None:
    path = as_hdf5(tmp_path / "weights.h5", SMALL)
    path.write_bytes(path.read_bytes()[:3000])
    assert f"{path}: cannot be read: " in refusal(path)


def test_a_file_of_keras_3(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    path = tmp_path / "model.weights.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("layers/conv2d/vars/0", data=np.zeros((3, 3, 3, 2), np.float32))
    assert "it has no layer_names; Keras 3 writes such files, and Keras 2 those that are read" in refusal(path)


def test_hdf5_that_points_to_other_files_is_not_followed(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(2 * 27 * 4))
    path = tmp_path / "weights.h5"

    def write(add: Any) -> None:
        with h5py.File(path, "w") as file:
            file.attrs["layer_names"] = ["conv2d"]
            group = file.create_group("conv2d")
            group.attrs["weight_names"] = ["conv2d/kernel:0"]
            add(group.create_group("conv2d"))

    outside = {"external": [(str(secret), 0, 216)]}
    write(lambda group: group.create_dataset("kernel:0", (3, 3, 3, 2), "f4", **outside))
    assert "conv2d/kernel:0 lies in another file" in refusal(path)
    write(lambda group: group.__setitem__("kernel:0", h5py.ExternalLink("other.h5", "x")))
    assert "conv2d/kernel:0 is not in it" in refusal(path)
    write(lambda group: group.create_dataset("kernel:0", data=np.zeros((3, 3, 3, 2), np.int32)))
    assert "conv2d/kernel:0 is no array of floating-point numbers" in refusal(path)
    write(lambda group: group.create_group("kernel:0"))
    assert "conv2d/kernel:0 is no array of floating-point numbers" in refusal(path)
    write(lambda group: group.create_dataset("kernel:0", (2**20, 2**20, 8, 8), "f4", chunks=(1, 1, 8, 8)))
    assert "its arrays are larger than this machine's memory" in refusal(path)


def test_h5py_is_asked_for_where_it_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = as_hdf5(tmp_path / "weights.h5", SMALL)
    monkeypatch.setitem(sys.modules, "h5py", None)
    assert f"{path}: is HDF5, which h5py reads; pip install h5py" in refusal(path)


# --- the command ----------------------------------------------------------------------------------------------------


def run(*words: object) -> Any:
    return CliRunner().invoke(main, [str(word) for word in words])


def test_the_command_builds_the_network_as_larq_does(tmp_path: Path) -> None:
    path, out = as_npz(tmp_path / "weights.npz", arrays_of(SMALL)), tmp_path / "net.safetensors"
    config = configure("QuickNet-Small", classes=3, options={"width_factor": 0.125, "like_larq": True})

    done = run("import", path, "--network", "QuickNet-Small", "--classes", 3, "--width-factor", 0.125, "-o", out)

    assert done.exit_code == 0, done.output
    assert "(layout larq)" in done.output
    assert load_checkpoint(out).network == config
    assert "padded and normalised as larq's" in run("inspect", out).output


def test_hdf5_wants_its_layout(tmp_path: Path) -> None:
    path = as_hdf5(tmp_path / "weights.h5", SMALL)
    done = run("import", path, "--network", "BNAS-A", "-o", tmp_path / "out")
    assert f"{path}: a file of HDF5, as Keras writes it; give --layout larq and a network of larq's" in done.output


@pytest.mark.parametrize("network", ["QuickNet-Small", "Bi-Real-18"])
def test_a_network_of_larq_is_exported(network: str, tmp_path: Path) -> None:
    """Float and binary convolutions with more zeros on one side stay exact."""
    from bnas_deploy.export import export_checkpoint
    from bnas_deploy.export.images import verification_images

    config = configured(network, (32, 64), width_factor=0.125)
    path = as_npz(tmp_path / "weights.npz", arrays_of(config))
    checkpoint = import_checkpoint(path, config, layout_of(network, "larq")[1], None)
    result = export_checkpoint(checkpoint, tmp_path / "bundle", verification_images(checkpoint, None, 2))
    assert sum(layer.weight_bits == 1 for layer in result.bundle.manifest.layers) == 16


def test_networks_that_larq_lacks_are_refused(tmp_path: Path) -> None:
    done = run("init", "--network", "Bi-Real-34", "--like-larq", "-o", tmp_path / "out")
    assert "Bi-Real-34: larq has no such network, but Bi-Real-18; leave --like-larq out" in done.output
