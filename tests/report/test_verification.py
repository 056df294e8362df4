"""What `verify` says of what it found; the bundles that it finds it in are made in other tests."""

from dataclasses import replace
from pathlib import Path

import pytest

from bnas_deploy.core.bundle import Bundle, Corner, Manifest, PieceCheck, Preprocessing, Quantization, Verification
from bnas_deploy.core.tensor_spec import TensorSpec
from bnas_deploy.report import verification
from bnas_deploy.runtime.pieces import PieceResult, PiecesResult
from bnas_deploy.runtime.verify import OutputResult, VerifyResult

MANIFEST = Manifest(
    bnas_deploy="0",
    network={},
    opset={},
    inputs=(TensorSpec("x", "float32", (None, 1, 1, 1)),),
    outputs=(TensorSpec("y", "float32", (None, 2)),),
    labels=("a", "b"),
    preprocessing=Preprocessing(1, 1, (0.0,), (1.0,)),
    layers=(),
    verification=Verification({"y": 0.1}, (), {"conv": 1200, "conv1": 34}),
)


def _piece(name: str, difference: float, *, binary: bool = False, passed: bool = True, array: str = "y") -> PieceResult:
    check = PieceCheck(name, (), Corner("y", array, (4,)), (4,))
    return PieceResult(check, binary, 4, difference, 0.5, passed)


PIECES = (
    _piece("conv", 0, binary=True),
    _piece("conv1", 0.5, binary=True),
    _piece("stem", 0.25),
    _piece("relu", 0),
    _piece("skip", 2, passed=False),
    _piece("head", 0, array="own"),
)
RESULT = VerifyResult(
    pieces=PiecesResult(PIECES, ("constants a of the model in no piece",), alike=True),
    identical=True,
    outputs=(OutputResult("y", 0.05, 0.1, 2.0),),
    faults=(),
    images=4,
    agreement=3,
    correct=None,
)


def _said(result: VerifyResult, manifest: Manifest = MANIFEST, *, every_layer: bool = False) -> str:
    return verification.describe(Bundle(Path("bundle"), manifest), result, every_layer=every_layer)


def test_every_kind_of_piece_has_a_line() -> None:
    assert _said(RESULT).splitlines()[:6] == [
        "binary convolutions      2 of 2 agree with PyTorch: 1 bit-exact, 1 within the rounding of the BN, sum, gate "
        "or K that they took in",
        "everything else          2 of 3 agree with PyTorch: 1 bit-exact, 1 within the rounding of their own "
        "arithmetic; 1 WRONG",
        "layers in 8 bits         1 of 1 agree with the exported model, bit-exact",
        "FAULT                    constants a of the model in no piece",
        "with and without library identical",
        "ties                     1,234 activations of an image equal a threshold or lie within rounding of it, in 2 "
        "layers, most (1,200) in conv: elsewhere they may get the other sign",
    ]
    assert "\n                         skip: differs by 2, rounding explains 0.5 on 4 values\n" in _said(
        RESULT, every_layer=True
    )


@pytest.mark.parametrize(
    ("difference", "tolerance", "spread", "said"),
    [
        (0.05, 0.1, 2.0, "at most 0.05; rounding explains 0.1 of a spread of 2"),
        (0.05, 9.96, 4.6, "at most 0.05; rounding explains 10 of a spread of 4.6: this says nothing, the pieces do"),
        (
            0.5,
            0.1,
            2.0,
            "at most 0.5; rounding explains 0.1 of a spread of 2: more than that, as ties in front of a sign",
        ),
    ],
)
def test_what_the_outputs_are_worth(difference: float, tolerance: float, spread: float, said: str) -> None:
    result = replace(RESULT, outputs=(OutputResult("y", difference, tolerance, spread),))

    assert f"outputs, for information differ from PyTorch by {said}" in _said(result)
    assert result.failures == ["constants a of the model in no piece", PIECES[4].failure]


def test_outputs_that_no_tie_explains_are_a_warning() -> None:
    sure = replace(MANIFEST, verification=replace(MANIFEST.verification, ties={}))
    said = _said(replace(RESULT, outputs=(OutputResult("y", 0.5, 0.1, 2.0),)), sure)
    assert "rounding explains 0.1 of a spread of 2: WARNING, more than that, and no ties were found that" in said


def test_each_output_has_a_line_and_no_class_is_told_where_there_are_none() -> None:
    outputs = OutputResult("boxes", 0.5, 0.1, 2.0), OutputResult("count", 0.0, 0.0, 3.0)
    lines = _said(replace(RESULT, outputs=outputs, agreement=None)).splitlines()
    place = next(number for number, line in enumerate(lines) if line.startswith("outputs, for information boxes: "))
    assert lines[place + 1 : place + 3] == [
        "                         count: differ from PyTorch by at most 0; rounding explains 0 of a spread of 3",
        "classes                  none, so that 4 examples are compared by their outputs",
    ]


def test_channels_that_no_value_shows_are_counted() -> None:
    some = replace(PIECES[0], channels=16, silent=3), replace(PIECES[1], channels=1200)
    said = _said(replace(RESULT, pieces=PiecesResult(some, (), alike=True)))
    assert (
        "\nnot seen                 3 of 1,216 output channels of binary convolutions are 0 in all compared values: "
        "their scale and bias are checked by the outputs only\n" in said
    )


def test_a_bundle_without_pieces_says_so() -> None:
    said = _said(replace(RESULT, pieces=None), replace(MANIFEST, format=2))

    assert said.startswith(
        "pieces                   not compared, since bundles of format 2 hold no values of them; export the model "
        "again\n"
    )


def test_what_8_bits_changed_is_told_of_outputs_and_of_classes() -> None:
    manifest = replace(MANIFEST, quantization=Quantization(0.05, 0.01, 4, 3))
    start = "change by 8 bits         outputs differ from those with float layers by at most 0.05, in the mean by 0.01"

    with_labels = _said(replace(RESULT, correct=2, correct_before=3), manifest)
    of_two = _said(replace(RESULT, outputs=(*RESULT.outputs, OutputResult("z", 0.0, 0.1, 9.0))), manifest)

    assert f"{start}; same class for 3 of 4 images\n" in f"{of_two}\n"
    assert (
        f"{start}, 2.50% and 0.50% of their spread; same class for 3 of 4 images; 2 classified correctly, 3 with float "
        "layers\n"
    ) in f"{with_labels}\n"
