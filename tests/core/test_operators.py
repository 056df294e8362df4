"""The table of operators. What they compute is tested in tests/export/test_opset.py."""

import subprocess
import sys

import pytest

from bnas_deploy.core import operators
from bnas_deploy.core.operators import ATTRIBUTES, CONSTANTS, IMAGES, OPERATORS, Operator


def test_a_build_can_read_the_table_where_nothing_is_installed() -> None:
    subprocess.run([sys.executable, "-I", "-S", str(operators.__file__)], check=True)


def test_inputs_are_parts_constants_and_what_is_added() -> None:
    constants = ("W", "threshold", "offset", "scale", "bias")
    assert Operator().inputs == ("X", *constants)
    with_pad = ("W", "threshold", "pad", "offset", "scale", "bias", "slope")
    assert Operator(pads_signs=True, activation="PRelu").inputs == ("X", *with_pad)
    assert Operator(activation="PRelu", added=2, parts=3).inputs == (
        *("X1", "X2", "X3"),
        *(*constants, "slope"),
        *("added1", "added2"),
    )
    computed = ("gate", "before1", "added1")
    assert Operator(gate=True, before=1, activation="Relu", affine=True, added=1).inputs == (
        *("X", "W", "threshold", "pad", "offset", "scale", "bias", "scale2", "bias2"),
        *computed,
    )


def test_a_row_is_found_by_its_name_and_nothing_else_is_an_operator() -> None:
    assert all(operators.operator(row.name) == row and operators.is_operator(row.name) for row in OPERATORS)
    for other in ("BinaryConv2dConcat5", "BinaryConv2dAddAddAdd", "binaryconv2d", "Conv", ""):
        assert not operators.is_operator(other)


def test_no_operator_has_k_and_signs_at_the_padding() -> None:
    with pytest.raises(ValueError, match="no operator has both K and Pad: K is a mean of"):
        Operator(k_map=True, pads_signs=True)
    assert not operators.is_operator("BinaryConv2dKPad")


def test_operators_of_blocks_have_no_k_and_their_sums_an_activation() -> None:
    with pytest.raises(ValueError, match="no operator of blocks has K"):
        Operator(k_map=True, gate=True)
    for without in (Operator, lambda **fields: Operator(gate=True, **fields)):
        with pytest.raises(ValueError, match="nothing is before or behind an activation that is not there"):
            without(before=1)
        with pytest.raises(ValueError, match="nothing is before or behind an activation that is not there"):
            without(affine=True)


def test_operators_of_blocks_have_a_pad_that_their_names_leave_out() -> None:
    row = Operator(activation="Clip")
    assert row.pads_signs
    assert row == Operator(activation="Clip", pads_signs=True)
    assert (row.name, row.inputs[3]) == ("BinaryConv2dClip", "pad")
    assert all(each.parts == 1 and each.pads_signs for each in OPERATORS if each.is_of_blocks)


def test_operators_of_bits_have_a_pad_and_nothing_that_bits_have_no_use_for() -> None:
    assert Operator(to_bits=True).inputs == ("X", "W", "threshold", "pad", "offset", "level")
    assert Operator(of_bits=True, added=1).inputs == ("X", "W", "place", "pad", "offset", "scale", "bias", "added1")
    assert Operator(of_bits=True, to_bits=True).inputs == ("X", "W", "place", "pad", "offset", "level")
    for other in ({"k_map": True}, {"gate": True}, {"activation": "Clip"}):
        with pytest.raises(ValueError, match="no operator with K or of blocks reads or writes bits"):
            Operator(of_bits=True, **other)
    assert Operator(max_pool=True, to_bits=True).inputs == Operator(to_bits=True).inputs
    for other in ({}, {"of_bits": True}):
        with pytest.raises(ValueError, match="no operator has MaxPool and writes floats"):
            Operator(max_pool=True, **other)
    for other in ({"activation": "Relu"}, {"added": 1}):
        with pytest.raises(ValueError, match="bits are made of the accumulator, without an activation or a sum"):
            Operator(to_bits=True, **other)


def test_operators_of_images_have_numbers_of_their_channels_and_may_pool() -> None:
    row = Operator(convolves=False, gate=True, affine=True, added=1)
    assert (row.name, row.inputs) == ("GateAffineAdd", ("X", "scale2", "bias2", "gate", "added1"))
    assert Operator(convolves=False, activation="PRelu").inputs == ("X", "slope")
    assert IMAGES[-1].inputs == (
        *("X", "reach", "scale", "bias", "slope", "scale2", "bias2", "scale3", "bias3"),
        *("before1", "added1"),
    )
    assert IMAGES[-1].name == "ReachAddAffinePReluAffineAddAffine"
    assert not any(each.pads_signs or each.is_of_blocks for each in IMAGES)
    row = Operator(convolves=False, affine=True, max_pool=True, parts=2)
    assert (row.name, row.inputs) == ("AffineMaxPoolConcat2", ("X1", "X2", "scale2", "bias2"))
    for other in ({"k_map": True}, {"pads_signs": True}, {"to_bits": True}):
        with pytest.raises(ValueError, match="an operator of images neither pads nor has bits"):
            Operator(convolves=False, activation="PRelu", **other)
    for other in ({"gate": True}, {"added": 1}, {"activation": "PRelu"}, {"scaled": True}, {"affine": False}):
        with pytest.raises(ValueError, match="a maximum of pixels stands behind a second scale and bias alone"):
            Operator(convolves=False, **{"affine": True, "max_pool": True, **other})
    with pytest.raises(ValueError, match="what reaches something is added, too"):
        Operator(convolves=False, reaches=True)
    for other in ({"second_bit": True}, {"reaches": True, "before": 1}, {"scaled_last": True}, {"mean_pool": True}):
        with pytest.raises(
            ValueError, match="no operator that convolves has a second bit, a reach, a third scale or a mean"
        ):
            Operator(**other)
    for other in ({"affine": True}, {"activation": "PRelu", "added": 1}, {"activation": "Clip"}):
        with pytest.raises(ValueError, match="a mean of pixels stands behind an activation alone"):
            Operator(convolves=False, mean_pool=True, **other)
    with pytest.raises(ValueError, match="an operator of images has numbers of its channels"):
        Operator(convolves=False, gate=True, added=1)


def test_attributes_have_as_many_defaults_as_values() -> None:
    for row in ATTRIBUTES:
        assert row.default is None or row.length == (len(row.default) if isinstance(row.default, tuple) else 1)
        assert row.is_list == (row.name != "group")
    assert operators.defaults(constant_channels=False).keys() == operators.defaults().keys() - {"constant_channels"}


def test_names_of_constants_differ() -> None:
    assert len({constant.name for constant in CONSTANTS}) == len(CONSTANTS)
