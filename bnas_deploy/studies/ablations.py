"""Studies of the search and of the cell template: Tables 2, 4, 10, 12, 13, 15 of BNAS v2, Figures 2, 4, 13, 14."""

from collections.abc import Mapping
from typing import Any

from bnas_deploy.core.genotype import GENOTYPES
from bnas_deploy.studies.comparisons import BNAS, accuracy
from bnas_deploy.studies.study import (
    FLOPS,
    GRADIENT_SPIKES,
    LEARNABLE_EARLY,
    MEMORY,
    PAPER,
    SEPARABLE_SHARE,
    SMALL,
    TEST,
    TOY,
    TRAIN,
    VALIDATION,
    ZEROISE_SHARE,
    Contrast,
    Named,
    Picture,
    Printed,
    Record,
    Row,
    Searched,
    Study,
)

NO_SKIP: Mapping[str, Any] = {"inter_cell_skip": False}
"""DARTS's template: nothing goes from cell to cell but the two inputs."""

FLOAT_DARTS: Mapping[str, Any] = {"strategy": "darts", "space": "darts", "precision": "float", "no_skip": True}
"""DARTS as it was published: float candidates, its own space and its own template."""

_SIZES = (("B", "BNAS-B"), ("C", "BNAS-C"))
"""Rows of Table 10 besides BNAS-A, which is the network of the budget paper."""

_SEARCH_NOTE = (
    "The search of the budget small has 3 cells of 8 channels and ten epochs, that of the paper 8 cells of 16 channels "
    "and 50 epochs; so its cells say little of the paper's."
)


def _both(test: str, train: str, source: str) -> dict[str, Printed]:
    return {**accuracy(test, source), TRAIN.key: Printed(train, source)}


ZEROISE = Study(
    name="zeroise",
    title="With and without Zeroise",
    repeats=f"{BNAS}, Tables 2, 10 and 12",
    question="Does a binary network gain where Zeroise is kept in the cells, and a float one not?",
    rows=(
        Row("BNAS, Zeroise kept", Searched(zeroise=True), printed=_both("92.70", "97.46", "Table 2")),
        Row("BNAS, left out", Searched(zeroise=False), printed=_both("89.47", "93.41", "Table 2")),
        Row("published cells, Zeroise kept", Named(), printed=accuracy("92.70", "Table 12")),
        Row(
            "published cells without Zeroise",
            Named(settings={"genotype": GENOTYPES["imagenet"]}),
            printed=accuracy("89.47", "Table 12"),
        ),
        Row(
            "DARTS in float, Zeroise kept",
            Searched(FLOAT_DARTS, zeroise=True, settings=NO_SKIP),
            is_float=True,
            printed=_both("94.43", "35.64", "Table 2"),
        ),
        Row(
            "DARTS in float, left out",
            Searched(FLOAT_DARTS, zeroise=False, settings=NO_SKIP),
            is_float=True,
            printed=_both("97.45", "99.18", "Table 2"),
        ),
        *(
            Row(
                f"BNAS-{size}, {what}",
                Searched(zeroise=kept, settings={"cells": cells, "channels": channels}),
                printed=accuracy(text, "Table 10"),
                budgets=(PAPER,),
            )
            for size, cells, channels, full, without in (
                ("B", 12, 64, "93.76", "91.69"),
                ("C", 16, 108, "94.43", "88.74"),
            )
            for what, kept, text in (("Zeroise kept", True, full), ("left out", False, without))
        ),
    ),
    measures=(TEST, TRAIN, ZEROISE_SHARE, FLOPS, MEMORY),
    findings=(
        Contrast("BNAS, Zeroise kept", "BNAS, left out"),
        Contrast("published cells, Zeroise kept", "published cells without Zeroise"),
        Contrast("published cells, Zeroise kept", "published cells without Zeroise", FLOPS),
        Contrast("DARTS in float, Zeroise kept", "DARTS in float, left out"),
        Contrast("BNAS-B, Zeroise kept", "BNAS-B, left out"),
        Contrast("BNAS-C, Zeroise kept", "BNAS-C, left out"),
    ),
    pictures=(Picture.BARS, Picture.CURVES),
    notes=(
        "Kept and left out are read off the same search, as Eq. 5 and as DARTS's code do.",
        "The cells that the paper searched without Zeroise are not published. Those of its ImageNet networks, which "
        "have none, stand for them; with these the operations of Table 12 come out.",
        _SEARCH_NOTE,
    ),
)

DIVERSITY = Study(
    name="diversity",
    title="With and without the diversity term",
    repeats=f"{BNAS}, Table 4, section 4.3 and Table 10",
    question="Does the entropy term have operations with weights chosen early, and does that give better cells?",
    rows=(
        Row("BNAS, with the term", Searched(), printed=accuracy("92.70", "Table 4")),
        Row("BNAS, without", Searched({"diversity": 0.0}), printed=accuracy("90.95", "Table 4")),
        Row(
            "DARTS in float, with the term",
            Searched({**FLOAT_DARTS, "diversity": 1.0}, settings=NO_SKIP),
            is_float=True,
            printed=accuracy("96.73", "Table 4"),
        ),
        Row(
            "DARTS in float, without",
            Searched(FLOAT_DARTS, settings=NO_SKIP),
            is_float=True,
            printed=accuracy("96.53", "Table 4"),
        ),
    ),
    measures=(TEST, LEARNABLE_EARLY, VALIDATION),
    findings=(
        Contrast("BNAS, with the term", "BNAS, without"),
        Contrast("BNAS, with the term", "BNAS, without", LEARNABLE_EARLY),
        Contrast("DARTS in float, with the term", "DARTS in float, without"),
        Contrast("DARTS in float, with the term", "DARTS in float, without", LEARNABLE_EARLY),
    ),
    pictures=(Picture.BARS, Picture.LEARNABLE),
    notes=(
        "The paper has 16 % more operations with weights in the first 20 of 50 epochs, and does not say how it counts "
        "them. Here they are the edges whose most probable operation has weights, in the first two fifths of a search.",
        _SEARCH_NOTE,
    ),
)

SKIP = Study(
    name="skip",
    title="With and without the skip from cell to cell",
    repeats=f"{BNAS}, Table 10, Figures 4, 13 and 14",
    question="Does a network collapse without the skip, and are its gradients spiky?",
    rows=(
        Row("with the skip", Named(), records=(Record.GRADIENTS,), printed=accuracy("92.70", "Table 10, BNAS-A")),
        Row(
            "without",
            Named(settings=NO_SKIP),
            records=(Record.GRADIENTS,),
            printed=accuracy("61.23", "Table 10, BNAS-A"),
        ),
        Row("cells without Zeroise, with the skip", Named(settings={"genotype": GENOTYPES["imagenet"]}),
            records=(Record.GRADIENTS,), budgets=(SMALL, TOY)),
        Row("cells without Zeroise, without", Named(settings={**NO_SKIP, "genotype": GENOTYPES["imagenet"]}),
            records=(Record.GRADIENTS,), budgets=(SMALL, TOY)),
        *(
            Row(
                f"BNAS-{size}, {what}",
                Named(f"BNAS-{size}", settings),
                records=(Record.GRADIENTS,),
                printed=accuracy(text, "Table 10"),
                budgets=(PAPER,),
            )
            for size, full, without in (("B", "93.76", "67.15"), ("C", "94.43", "70.58"))
            for what, settings, text in (("with the skip", {}, full), ("without", NO_SKIP, without))
        ),
    ),
    measures=(TEST, TRAIN, GRADIENT_SPIKES),
    findings=(
        Contrast("with the skip", "without"),
        Contrast("with the skip", "without", GRADIENT_SPIKES),
        Contrast("cells without Zeroise, with the skip", "cells without Zeroise, without"),
        Contrast("cells without Zeroise, with the skip", "cells without Zeroise, without", GRADIENT_SPIKES),
        Contrast("BNAS-B, with the skip", "BNAS-B, without"),
        Contrast("BNAS-C, with the skip", "BNAS-C, without"),
    ),
    pictures=(Picture.GRADIENTS, Picture.CURVES, Picture.BARS),
    changes={SMALL: {"settings": {"cells": 8, "channels": 8}}, TOY: {"epochs": 2}},
    notes=(
        "The paper does not say over which images it sums gradients; here it is one batch of 256, the same after every "
        "epoch. A layer stands out where its sum is many times that of the middle layer.",
        "The cells are the published ones in both rows; the paper does not say whether it searched anew without the "
        "skip.",
    ),
)  # fmt: skip

DILATED = Study(
    name="dilated",
    title="With and without dilated convolutions in the space",
    repeats=f"{BNAS}, Table 13",
    question="Do the searched cells get worse without dilated convolutions?",
    rows=(
        Row("with dilated convolutions", Searched(), printed=accuracy("92.70", "Table 13")),
        Row("without", Searched({"no_dilated": True}), printed=accuracy("92.22", "Table 13")),
    ),
    measures=(TEST, TRAIN, VALIDATION, FLOPS),
    findings=(Contrast("with dilated convolutions", "without"),),
    pictures=(Picture.BARS, Picture.CURVES),
    notes=(_SEARCH_NOTE,),
)

_BNAS_ROW = Row(
    "BNAS",
    Searched(),
    printed={**accuracy("92.70", "Table 15"), SEPARABLE_SHARE.key: Printed("0.00", "Table 15")},
)

SEPARABLE = Study(
    name="separable",
    title="With and without separable convolutions in the space",
    repeats=f"{BNAS}, Table 15, lower half",
    question="Does a binary search pick separable convolutions, and are the cells worse if it may?",
    rows=(
        _BNAS_ROW,
        Row(
            "BNAS with separable convolutions",
            Searched({"separable": True}),
            printed={**accuracy("89.66", "Table 15"), SEPARABLE_SHARE.key: Printed("12.50", "Table 15")},
        ),
    ),
    measures=(TEST, SEPARABLE_SHARE, VALIDATION),
    findings=(
        Contrast("BNAS", "BNAS with separable convolutions"),
        Contrast("BNAS", "BNAS with separable convolutions", SEPARABLE_SHARE),
    ),
    pictures=(Picture.BARS, Picture.CURVES),
    notes=(_SEARCH_NOTE,),
)

_STRATEGIES = (
    ("DARTS", "darts", "10.01", "62.50"),
    ("SNAS", "snas", "41.72", "36.75"),
    ("GDAS", "gdas", "43.19", "36.75"),
)

FLOAT_SEARCH = Study(
    name="float-search",
    title="Cells of float searches, made binary",
    repeats=f"{BNAS}, Figure 2 and Table 15, upper half",
    question="Do cells that were searched in float train when they are made binary?",
    rows=(
        _BNAS_ROW,
        *(
            Row(
                f"{name} + binarised",
                Searched({**FLOAT_DARTS, "strategy": strategy}, settings=NO_SKIP),
                printed={**accuracy(text, "Table 15"), SEPARABLE_SHARE.key: Printed(share, "Table 15")},
            )
            for name, strategy, text, share in _STRATEGIES
        ),
        *(
            Row(f"{name} in float", Searched({**FLOAT_DARTS, "strategy": strategy}, settings=NO_SKIP), is_float=True)
            for name, strategy, *_ in _STRATEGIES
        ),
    ),
    measures=(TEST, TRAIN, SEPARABLE_SHARE, FLOPS),
    findings=(
        *(Contrast("BNAS", f"{name} + binarised") for name, *_ in _STRATEGIES),
        *(Contrast(f"{name} + binarised", f"{name} in float") for name, *_ in _STRATEGIES),
        *(Contrast("BNAS", f"{name} + binarised", SEPARABLE_SHARE) for name, *_ in _STRATEGIES),
    ),
    pictures=(Picture.CURVES, Picture.BARS),
    notes=(
        "The paper took the published cells of DARTS, SNAS and GDAS. Here each is searched, with its own way of mixing "
        "and in DARTS's space, and both its rows are read off the same search.",
        "A separable layer is depthwise and 1x1 once, with a batch normalisation between; DARTS has it twice in a row.",
        _SEARCH_NOTE,
    ),
)

TRANSFER = Study(
    name="transfer",
    title="The transferability of Zeroise",
    repeats=f"{BNAS}, Eq. 5 and Table 5",
    question="How many edges are Zeroise, and how good are the cells, as gamma goes from 1 to 3?",
    rows=tuple(Row(f"gamma {gamma:g}", Searched(gamma=gamma)) for gamma in (1.0, 1.25, 1.5, 2.0, 3.0)),
    measures=(TEST, ZEROISE_SHARE, FLOPS),
    findings=(
        Contrast("gamma 1", "gamma 3"),
        Contrast("gamma 1", "gamma 3", ZEROISE_SHARE),
        Contrast("gamma 1", "gamma 2"),
    ),
    pictures=(Picture.BARS, Picture.CURVES),
    notes=(
        "The paper gives gamma, 1 for CIFAR-10 and 3 for ImageNet, and no figures. All rows of a seed are read off one "
        "search, so rows with the same cells have the same figures.",
        _SEARCH_NOTE,
    ),
)
