"""Backbones: sizes as published, forms, widths, and the way through checkpoint and export."""

import contextlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from bnas_deploy.cli import main
from bnas_deploy.core.errors import BnasError
from bnas_deploy.core.layer_cost import total
from bnas_deploy.search.models.backbone import FORMS, BackboneConfig, read_widths
from bnas_deploy.search.models.layer_costs import layer_costs
from bnas_deploy.search.models.registry import FAMILIES, build_network, configure, read_config

BACKBONES = [name for family in FAMILIES.values() if family.width_names for name in family.networks]


def small(network: str, form: str = "cifar", **options) -> BackboneConfig:
    config = configure(network, image_size=(16, 12), options={"form": form, "width_factor": 0.1, **options})
    assert isinstance(config, BackboneConfig)
    return config


def forms_of(network: str) -> list[str]:
    """Return the forms that a network takes; the error of another one is tested below."""
    forms = []
    for form in FORMS:
        with contextlib.suppress(BnasError):
            configure(network, options={"form": form})
            forms.append(form)
    return forms


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


@pytest.mark.parametrize("network", BACKBONES)
def test_every_width_is_used_where_its_name_says(network) -> None:
    config = small(network)
    names = FAMILIES[config.model].width_names(config)
    assert len(set(names)) == len(config.widths)
    before = [(layer.input[0], layer.output[0]) for layer in layer_costs(config)]
    for number in range(len(names)):
        widths = list(config.widths)
        widths[number] += 8
        wider = config.with_widths(tuple(widths))
        assert [(layer.input[0], layer.output[0]) for layer in layer_costs(wider)] != before


@pytest.mark.parametrize(("network", "form"), [(name, form) for name in BACKBONES for form in forms_of(name)])
def test_images_of_any_size_come_through(network, form) -> None:
    config = small(network, form)
    for variant in (config, config.float_twin(), config.relax("tanh"), replace(config, image_size=(1, 1))):
        logits = build_network(variant).eval()(torch.zeros(2, 3, *variant.image_size))
        assert logits.shape == (2, config.classes)


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
        ({"widths": [0] * 12}, "width 1 is 0; wanted a number of channels from 1 to 65536"),
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


@pytest.mark.parametrize("network", BACKBONES)
def test_it_is_exported_with_every_binary_layer_exact(network, tmp_path: Path) -> None:
    from bnas_deploy.export import export_checkpoint
    from bnas_deploy.export.images import verification_images
    from bnas_deploy.search.training.untrained import untrained_checkpoint

    checkpoint = untrained_checkpoint(small(network), seed=0)
    result = export_checkpoint(checkpoint, tmp_path / "bundle", verification_images(checkpoint, None, 2))
    expected = sum(layer.is_binary for layer in layer_costs(checkpoint.network))
    assert sum(layer.weight_bits == 1 for layer in result.bundle.manifest.layers) == expected
