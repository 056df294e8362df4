"""Studies of training, of widths and of the error of binary layers: Table 9 of BNAS v2, Table 1 of DMS, section 4.1."""

from collections.abc import Mapping
from typing import Any

from bnas_deploy.core.genotype import GENOTYPES
from bnas_deploy.studies.comparisons import BNAS, accuracy
from bnas_deploy.studies.study import (
    BACKBONE,
    ERROR,
    ERROR_WITH_K,
    MEGABYTES,
    PAPER,
    SAVED_SHARE,
    SEARCH_ERROR,
    SMALL,
    TEST,
    TEST_ABOVE_TRAIN,
    TOY,
    TRAIN,
    Contrast,
    Level,
    Named,
    OfOneOperation,
    Picture,
    Printed,
    Record,
    Row,
    Study,
    Widened,
)

_OURS = (SMALL, TOY)

_PLAIN = (
    "batch_size=64",
    "augmentation.crop_area=false",
    "augmentation.jitter=false",
    "augmentation.flip=false",
    "augmentation.shift=1",
)
"""What recipes for photographs lose on small images, some of which are another digit when they are mirrored."""

_STANDARD = (*_PLAIN, "schedule.restart_epochs=2")
_MINIMAL = (*_PLAIN, "optimiser.learning_rate=8e-3")
_STAGES = (
    *_PLAIN,
    "stages.float.batch_size=64",
    "stages.tanh.optimiser.learning_rate=8e-3",
    "stages.signs.optimiser.learning_rate=8e-3",
    "optimiser.learning_rate=1.6e-3",
)

_TRAININGS = (
    ("SGD, cosine with restarts", "imagenet-standard", _STANDARD, 1.0, "57.69", "Table 9"),
    (
        "the same, with the activation regulariser",
        "imagenet-standard",
        (*_STANDARD, "loss.activation_distribution=2"),
        1.0,
        "",
        "",
    ),
    ("minimal regularisation", "minimal", _MINIMAL, 1.0, "63.82", "Table 9"),
    ("minimal, twice as long", "minimal", _MINIMAL, 2.0, "64.63", "Table 8"),
    ("multi-stage", "multi-stage", _STAGES, 1.0, "66.03", "Table 9"),
)


def _of_photographs(changes: tuple[str, ...]) -> tuple[str, ...]:
    """Return the changes of the budget paper: the regulariser is the only one."""
    return tuple(each for each in changes if each.startswith("loss."))


TRAINING = Study(
    name="training",
    title="Ways of training one network",
    repeats=f"{BNAS}, Table 9 and Figures 6 to 10",
    question="Is the network underfitted, and does it gain where it is regularised less and trained longer?",
    rows=tuple(
        Row(
            name,
            Named(),
            recipe=recipe,
            changes=_of_photographs(changes) if budget == PAPER else changes,
            times_epochs=times,
            printed=accuracy(text, source) if text else {},
            budgets=(PAPER,) if budget == PAPER else _OURS,
        )
        for budget in (SMALL, PAPER)
        for name, recipe, changes, times, text, source in _TRAININGS
    ),
    measures=(TEST, TRAIN, TEST_ABOVE_TRAIN),
    findings=(
        Contrast("minimal regularisation", "SGD, cosine with restarts"),
        Contrast("minimal regularisation", "SGD, cosine with restarts", TEST_ABOVE_TRAIN),
        Contrast("the same, with the activation regulariser", "SGD, cosine with restarts"),
        Contrast("minimal, twice as long", "minimal regularisation"),
        Contrast("multi-stage", "minimal regularisation"),
        Level(
            "SGD, cosine with restarts",
            TEST_ABOVE_TRAIN,
            0.0,
            "so the test images are classified better than the augmented training images, as in Figure 6",
            "so the test images are classified worse than the training images, unlike Figure 6",
        ),
    ),
    pictures=(Picture.CURVES, Picture.BARS),
    changes={PAPER: {"network": "BNAS-D-dagger", "epochs": None}},
    notes=(
        "The paper's figures are of ImageNet, the first of BNAS-D and the others of BNAS-D-dagger. With the budget "
        "paper the data have to be an image folder of ImageNet.",
        "With the budget small the rates of Adam are eight times those of the recipes, since there are a few "
        "hundred steps and not hundreds of thousands. Restarts come every two epochs. Nothing is cropped, mirrored or "
        "jittered.",
        "Training accuracy is measured while the weights change, on shifted images.",
        "As in the paper, minimal regularisation also has another optimiser and schedule, Adam and one cosine instead "
        "of SGD with restarts, so not all of a difference is of regularisation. Multi-stage trains four networks one "
        "after the other, each about as long as the other rows, and so takes four times as many steps.",
    ),
)


def _dms(text: str, megabytes: str) -> dict[str, Printed]:
    return {**accuracy(text, "DMS, Table 1"), MEGABYTES.key: Printed(megabytes, "DMS, Table 1")}


_UNIFORM = ((1, "78.31", "0.08"), (2, "85.37", "0.29"), (3, "88.17", "0.65"), (4, "88.68", "1.14"))
_SMALL_A: Mapping[str, Any] = {"memory_mb": 0.03, "first_ratio": 1.5}
_SMALL_B: Mapping[str, Any] = {"memory_mb": 0.25, "first_ratio": 2.5}


def _searched(name: str, budget: str, options: Mapping[str, Any], uniform: bool = False, **more: Any) -> Row:
    return Row(name, Widened(options, uniform), budgets=(budget,), **more)


_TOY_OPTIONS: Mapping[str, Any] = {"first_ratio": 1.5}

WIDTHS = Study(
    name="widths",
    title="Searched widths against one ratio for all layers",
    repeats="DMS, Table 1, Figures 3 and 4",
    question="Is a network of searched widths better than one of the same memory whose layers all have one ratio?",
    rows=(
        Row("float", Named(BACKBONE), is_float=True, printed=_dms("88.10", "2.20")),
        *(
            Row(f"binary, {times}x", Named(BACKBONE, {"width_factor": float(times)}), printed=_dms(text, megabytes))
            for times, text, megabytes in _UNIFORM
        ),
        *(
            row
            for budget, a, b in (
                (SMALL, _SMALL_A, _SMALL_B),
                (PAPER, {"preset": "dms-a"}, {"preset": "dms-b"}),
                (TOY, _TOY_OPTIONS, {**_TOY_OPTIONS, "memory_mb": 0.002}),
            )
            for row in (
                _searched("DMS-A", budget, a, printed=_dms("84.16", "0.08")),
                _searched("one ratio, as large as DMS-A", budget, a, uniform=True),
                _searched("DMS-A without best effort", budget, {**a, "best_effort": False}),
                _searched("DMS-B", budget, b, printed=_dms("89.10", "0.64")),
                _searched("one ratio, as large as DMS-B", budget, b, uniform=True),
            )
        ),
    ),
    measures=(TEST, TRAIN, SEARCH_ERROR, MEGABYTES),
    findings=(
        Contrast("DMS-A", "one ratio, as large as DMS-A"),
        Contrast("DMS-B", "one ratio, as large as DMS-B"),
        Contrast("DMS-A", "binary, 1x"),
        Contrast("DMS-A", "binary, 2x"),
        Contrast("DMS-A", "DMS-A without best effort"),
        Contrast("DMS-A", "DMS-A without best effort", SEARCH_ERROR),
    ),
    pictures=(Picture.TRADE, Picture.WIDTHS, Picture.SEARCH_ERROR),
    changes={
        SMALL: {"limit": 1000, "backbone_settings": {"width_factor": 0.5}, "widths": {"preset": "small", "epochs": 20}},
        PAPER: {"recipe": "dms"},
    },
    rule="dms",
    notes=(
        "The network is VGG-11; with the budget small it has half of the channels, and the targets are 0.03 and 0.25 "
        "MB, a quarter of the published 0.12 and 1. A search ends where its widths leave it, at most at the target: "
        "the column MB says where, and rows of other MB are not of one memory.",
        "Rows of one ratio have the search error of the search that their memory is of.",
        "DMS-B is trained with the weight decay of DMS-A. The paper's B.1 has best-effort initialisation on "
        "ResNet-18: 89.30 % with and 87.74 % without.",
    ),
)

_KINDS = (
    ("conv 3x3", "bin_conv_3x3"),
    ("conv 5x5", "bin_conv_5x5"),
    ("dilated 3x3", "bin_dil_conv_3x3"),
    ("dilated 5x5", "bin_dil_conv_5x5"),
    ("separable 3x3", "bin_sep_conv_3x3"),
    ("separable 5x5", "bin_sep_conv_5x5"),
)
_ABOVE = "above 1 for every seed: in the mean over its layers Zeroise would have the smaller error"
_BELOW = "below 1 for every seed: in the mean over its layers a binary one has a smaller error than Zeroise"

QUANTISATION = Study(
    name="quantisation-error",
    title="What is lost where float layers are made binary",
    repeats=f"{BNAS}, sections 4.1 and 4.2, Eqs. 3 and 4, Figure 3",
    question="Is the error of a separable layer larger, and which layers had better be Zeroise?",
    rows=(
        *(Row(name, OfOneOperation(operation), is_float=True, records=(Record.ERRORS,)) for name, operation in _KINDS),
        Row("published cells", Named(), is_float=True, records=(Record.ERRORS,)),
        Row(
            "cells without Zeroise",
            Named(settings={"genotype": GENOTYPES["imagenet"]}),
            is_float=True,
            records=(Record.ERRORS,),
        ),
    ),
    measures=(ERROR, ERROR_WITH_K, SAVED_SHARE, TEST),
    findings=(
        Contrast("separable 3x3", "conv 3x3", ERROR),
        Contrast("separable 3x3", "conv 3x3", ERROR_WITH_K),
        Contrast("separable 5x5", "conv 5x5", ERROR),
        Contrast("dilated 3x3", "conv 3x3", ERROR),
        *(Level(name, ERROR, 1.0, _ABOVE, _BELOW) for name in ("conv 3x3", "separable 3x3")),
        *(Level(name, ERROR, 1.0, _ABOVE, _BELOW) for name in ("published cells", "cells without Zeroise")),
    ),
    pictures=(Picture.ERRORS, Picture.BARS),
    notes=(
        "The paper argues and does not measure. Here float networks are trained, and each layer's float output is "
        "compared with what Eq. 3 puts in its place: |Y - Y_binary|^2 / |Y|^2, on 200 test images. Weights and "
        "activations are those of the float network: nothing is trained after signs are taken.",
        "The relative error is that of beta (B * I), with beta for each output channel the mean magnitude of its "
        "weights; with K it is that of Eq. 3 as printed. It is of squares: its root is what is lost of the output's "
        "size.",
        "Zeroise puts 0 in the place of an output, which is a relative error of 1. So it has the smaller error exactly "
        "where a layer's relative error is above 1. Both errors are means over the layers; the share of layers above 1 "
        "has its own column, and the picture shows each.",
    ),
)
