"""Backbones: sizes as published, forms, widths, and the way through checkpoint and export."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from bnas_deploy.cli import main
from bnas_deploy.core.errors import BnasError
from bnas_deploy.core.layer_cost import total
from bnas_deploy.search.models.backbone import Backbone as Published
from bnas_deploy.search.models.backbone import BackboneConfig
from bnas_deploy.search.models.backbone_settings import read_widths
from bnas_deploy.search.models.layer_costs import layer_costs, network_size
from bnas_deploy.search.models.registry import BACKBONES as BACKBONE_FAMILIES
from bnas_deploy.search.models.registry import FAMILIES, build_network, configure, read_config
from bnas_deploy.search.nn.schemes import scheme_names

PUBLISHED = {name: network for family in BACKBONE_FAMILIES for name, network in family.networks.items()}
BACKBONES = list(PUBLISHED)


def small(network: str, form: str | None = None, **options) -> BackboneConfig:
    """Return a tenth of a network for images that just fit it, in its first form."""
    published = PUBLISHED[network]
    height, width = (max(published.least_image, size) for size in (16, 12))
    config = configure(
        network,
        image_size=(height, width),
        options={"form": form or next(iter(published.forms)), **{"width_factor": 0.1, **options}},
    )
    assert isinstance(config, BackboneConfig)
    return config


@pytest.mark.parametrize(
    ("network", "factor", "binary_mib", "float_mib"),
    [("VGG-11", 1, 0.08, 2.20), ("VGG-11", 2, 0.29, None), ("ResNet-18", 0.25, 0.09, 2.67)],
)
def test_sizes_are_those_of_dms_table_1(network, factor, binary_mib, float_mib) -> None:
    totals = total(layer_costs(configure(network, image_size=(32, 32), options={"width_factor": factor})))
    assert round(totals.weight_bytes / 2**20, 2) == binary_mib
    if float_mib is not None:
        # The paper may count other parameters as well: two in the last digit.
        assert totals.float_twin_bytes / 2**20 == pytest.approx(float_mib, abs=0.015)


@pytest.mark.parametrize(
    ("network", "parameters", "source"),
    [
        ("WRN-40-4", 8_949_210, "Zagoruyko and Komodakis: 8.9 million"),
        ("ResNeXt-29-64", 34_426_698, "Xie et al.: 34.4 million"),
        ("DenseNet-121", 7_978_856, "torchvision"),
        ("ResNet-18", 11_689_512, "torchvision"),
        ("ResNet-34", 21_797_672, "torchvision"),
        ("MeliusNet-22", 6_944_584, "larq"),
        # larq counts the two statistics of each of the 16 channels of a BN without parameters, too.
        ("QuickNet", 13_234_088 - 32, "larq"),
        ("QuickNet-Large", 23_342_248 - 32, "larq"),
    ],
)
def test_parameters_are_as_many_as_published(network, parameters, source) -> None:
    assert parameters_of(network) == parameters, source


@pytest.mark.parametrize(
    ("network", "total_of_larq"),
    [("BinaryDenseNet-28", 5_150_504), ("BinaryDenseNet-37", 8_734_120), ("Real-to-Binary-18", 11_995_624)],
)
def test_parameters_and_statistics_are_as_many_as_published(network, total_of_larq) -> None:
    assert parameters_of(network, statistics=True) == total_of_larq


def parameters_of(network: str, *, statistics: bool = False) -> int:
    with torch.device("meta"):
        built = build_network(configure(network))
    counted = sum(value.numel() for value in built.parameters())
    named = {name: value for name, value in built.named_buffers() if "running" in name}
    return counted + (sum(value.numel() for value in named.values()) if statistics else 0)


def test_a_weight_that_two_layers_share_is_one_parameter() -> None:
    size = network_size(configure("FracBNN-20"))
    thermometer, bits = 96 * 16 * 9, 16 * 16 * 9 * 6 + (16 + 5 * 32) * 32 * 9 + (32 + 5 * 64) * 64 * 9
    assert size.binary_parameters == thermometer + bits
    assert total(size.layers).binary_weights == thermometer + 2 * bits


@pytest.mark.parametrize("network", BACKBONES)
def test_every_width_is_the_channels_of_a_layer(network) -> None:
    config = small(network)
    names = FAMILIES[config.model].width_names(config)
    assert len(set(names)) == len(config.widths)
    # All different, and multiples of every number of groups.
    widths = tuple(8 * number for number in range(3, 3 + len(names)))
    channels = {layer.output[0] for layer in layer_costs(config.with_widths(widths))}
    assert set(widths) <= channels


@pytest.mark.parametrize(
    ("network", "form"), [(name, form) for name, network in PUBLISHED.items() for form in network.forms]
)
def test_images_of_any_size_come_through(network, form) -> None:
    config = small(network, form)
    least = (PUBLISHED[network].least_image,) * 2
    for variant in (config, config.float_twin(), config.relax("tanh"), replace(config, image_size=least)):
        logits = build_network(variant).eval()(torch.zeros(2, 3, *variant.image_size))
        assert logits.shape == (2, config.classes)


@pytest.mark.parametrize("scheme", scheme_names())
@pytest.mark.parametrize("network", ["ResNet-18", "AlexNet-XNOR", "ResNeXt-29-64", "QuickNet", "ReActNet-A"])
def test_any_scheme_runs_on_any_backbone_or_is_refused(network, scheme) -> None:
    # An eighth, so that channels are multiples of CBCN's rotations; it has no 1x1 and 5x5 filters.
    config = small(network, scheme=scheme, width_factor=0.125)
    excluded = {"ResNeXt-29-64": {"cbcn", "binary-duo"}, "QuickNet": {"zero-alpha", "dorefa", "binary-duo", "frac-bnn"}}
    if scheme in excluded.get(network, {"cbcn"}):
        with pytest.raises(BnasError, match=rf"{network}.*: .*; choose another --scheme or --network"):
            build_network(config)
        return
    logits = build_network(config).eval()(torch.zeros(2, 3, *config.image_size))
    assert logits.isfinite().all()


@pytest.mark.parametrize("scheme", ["zero-alpha", "dorefa", "binary-duo"])
def test_activations_of_0_and_1_have_no_sign_at_the_padding(scheme) -> None:
    config = configure("QuickNet", image_size=(32, 32), options={"width_factor": 0.1, "scheme": scheme})
    said = (
        r"QuickNet-0.1x: blocks.0.0.branch.0: its padding holds the sign \+1, and the scheme's activations are 0 and 1"
    )
    with pytest.raises(BnasError, match=said):
        build_network(config)


@pytest.mark.parametrize(
    ("network", "has"), [("ResNeXt-29-64", "8 groups"), ("QuickNet", r"signs of \+1 at their padding")]
)
def test_a_k_map_that_a_backbone_excludes_is_refused(network, has) -> None:
    message = f"{network}-0.1x: it has convolutions with {has}, and the K map is a mean .*; leave --k-map out"
    with pytest.raises(BnasError, match=message):
        build_network(small(network, k_map=True))


def test_groups_that_do_not_divide_a_width_are_refused() -> None:
    widths = [64, *[512] * 3, 256, *[1024] * 3, 512, *[2048] * 3, 1024]
    widths[3] = 511
    message = "511 channels of stage1.block3.inside, which 8 groups do not divide; wanted a multiple of 8"
    with pytest.raises(BnasError, match=f"ResNeXt-29-64-cifar-own-widths: {message}"):
        configure("ResNeXt-29-64", options={"widths": read_widths(",".join(map(str, widths)))})
    config = configure("ResNeXt-29-64")
    with pytest.raises(BnasError, match=f"here: {message}"):
        read_config("resnext", {**json.loads(json.dumps(config.to_json())), "widths": widths}, "here")
    assert isinstance(config, BackboneConfig)
    with pytest.raises(BnasError, match=message):
        build_network(config.with_widths(tuple(widths)))


def test_images_that_leave_nothing_are_refused() -> None:
    message = "AlexNet-XNOR: images of 38x227, of which its layers leave nothing; wanted at least 39 pixels in height"
    with pytest.raises(BnasError, match=message):
        configure("AlexNet-XNOR", image_size=(38, 227))


def test_the_form_follows_the_images() -> None:
    assert configure("resnet18").name == "ResNet-18-imagenet"
    assert configure("resnet18", image_size=(28, 28)).name == "ResNet-18-cifar"
    assert configure("resnet18", image_size=(28, 28), options={"form": "imagenet"}).form == "imagenet"
    assert configure("BiReal18", options={"width_factor": 2}).name == "Bi-Real-18-imagenet-2x"


def test_a_configuration_comes_back(tmp_path: Path) -> None:
    config = small("ResNet-20", widths=None)
    assert read_config("resnet", json.loads(json.dumps(config.to_json())), "here") == config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"network": "VGG-11"}, "'VGG-11' of 'resnet' in its form 'cifar'; this bnas-deploy builds ResNet-18"),
        ({"form": "imagenet"}, "'ResNet-20' of 'resnet' in its form 'imagenet'"),
        ({"widths": [1, 2]}, "2 widths, wanted 12, those of ResNet-20"),
        ({"widths": [0] * 12}, "width 1 is 0; wanted a number from 1 to 65536"),
        ({"widths": [65_537] * 12}, "width 1 is 65537; wanted a number from 1 to 65536"),
        ({"image_size": [1_000_000, 8]}, "height is 1000000; wanted a number from 1 to 65536"),
        ({"in_channels": 65_537}, "in_channels is 65537; wanted a number from 1 to 65536"),
        ({"classes": 0}, "classes is 0; wanted a number from 1 to 1000000"),
        ({"scheme": "none"}, "unknown scheme 'none'"),
        ({"relaxed": "softly"}, "relaxed is 'softly'"),
        ({"more": 1}, "the field 'more' is unknown"),
    ],
)
def test_a_damaged_configuration_is_refused(changes, message) -> None:
    with pytest.raises(BnasError, match=message):
        read_config("resnet", {**json.loads(json.dumps(small("ResNet-20").to_json())), **changes}, "here")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"form": "imagenet"}, "VGG-11: no form 'imagenet'; it has cifar"),
        ({"widths": read_widths("1,2")}, "2 widths, wanted 8: the channels of conv1, conv2, conv3"),
        ({"widths": read_widths("1,2"), "width_factor": 2}, "--widths and --width-factor exclude each other"),
        ({"cells": 4}, "VGG-11 has no setting --cells"),
    ],
)
def test_settings_that_do_not_fit_are_refused(options, message) -> None:
    with pytest.raises(BnasError, match=message):
        configure("VGG-11", options=options)


def test_widths_are_read_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "widths.json"
    path.write_text(json.dumps({"channels": [1, 2, 3, 4, 5, 6, 7, 8], "network": "VGG-11", "form": "cifar"}))
    config = configure("VGG-11", options={"widths": read_widths(str(path))})
    assert (config.name, config.widths) == ("VGG-11-cifar-own-widths", (1, 2, 3, 4, 5, 6, 7, 8))
    with pytest.raises(BnasError, match="widths of VGG-11 in its cifar form, wanted those of VGG-Small"):
        configure("VGG-Small", options={"widths": read_widths(str(path))})
    path.write_text("[]")
    with pytest.raises(BnasError, match=r"widths.json: .*expected a file of widths, as search-widths writes it"):
        read_widths(str(path))
    with pytest.raises(BnasError, match="cannot be read"):
        read_widths(str(tmp_path / "none"))


@pytest.mark.parametrize("text", ["0", "x", "nan", "inf", "-1"])
def test_a_factor_that_is_none_is_refused(text, tmp_path) -> None:
    result = CliRunner().invoke(
        main, ["init", "--network", "VGG-11", "--width-factor", text, "-o", str(tmp_path / "c.safetensors")]
    )
    assert result.exit_code != 0
    assert f"--width-factor is {text!r}; wanted a number from 0.001 to 1000" in result.output


FOUR_STAGES = (2, 1, 1, 1)

SHORT: dict[str, Any] = {
    **dict.fromkeys(("ResNet-18", "ResNet-18-float-shortcuts", "Bi-Real-18", "SENet-18"), FOUR_STAGES),
    **dict.fromkeys(("DenseNet-121", "BinaryDenseNet-28", "MeliusNet-22", "QuickNet"), FOUR_STAGES),
    "ResNet-20": (2, 1, 1),
    "WRN-40-4": 2,
    "ResNeXt-29-64": 1,
    "BNext-Tiny": 3,
    "FracBNN-20": 1,
}
"""Blocks that are enough of networks that have the same ones again and again, whose capture takes long."""


def shortened(network: str) -> tuple[Mapping[str, Published], Published]:
    """Return where a network of SHORT is published, and the network with fewer blocks of the widths that they have."""
    (family,) = (family for family in BACKBONE_FAMILIES if network in family.networks)
    whole, blocks = PUBLISHED[network], SHORT[network]
    architecture = whole.architecture
    part = replace(
        whole, architecture=blocks if isinstance(architecture, int) else replace(architecture, blocks=blocks)
    )
    kept = set(family.width_names(part))
    forms = {}
    for key, form in whole.forms.items():
        named = zip(family.width_names(whole), form.widths, strict=True)
        forms[key] = replace(form, widths=tuple(width for name, width in named if name in kept))
    return family.networks, replace(part, forms=forms)


TOLD_BY_ANOTHER = {
    "VGG-13",
    "VGG-16",
    "ResNet-34",
    "ResNet-34-float-shortcuts",
    "Bi-Real-34",
    "BinaryDenseNet-37",
    "BinaryDenseNet-45",
    "QuickNet-Small",
    "QuickNet-Large",
}
"""Networks of the same layers as one beside them."""


@pytest.mark.parametrize("network", [name for name in BACKBONES if name not in TOLD_BY_ANOTHER])
def test_it_is_exported_with_every_binary_layer_exact(network, tmp_path: Path, monkeypatch) -> None:
    if network in SHORT:
        networks, short = shortened(network)
        monkeypatch.setitem(networks, network, short)
    from bnas_deploy.export import export_checkpoint
    from bnas_deploy.export.images import verification_images
    from bnas_deploy.search.training.untrained import untrained_checkpoint

    checkpoint = untrained_checkpoint(small(network), seed=0)
    result = export_checkpoint(checkpoint, tmp_path / "bundle", verification_images(checkpoint, None, 2))
    expected = sum(layer.is_binary for layer in layer_costs(checkpoint.network))
    assert sum(layer.weight_bits == 1 for layer in result.bundle.manifest.layers) == expected
