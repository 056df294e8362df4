"""Studies that compare networks, schemes and recipes: Tables 1, 6, 7 and 9 of BNAS v2, Table 1 of DMS."""

from bnas_deploy.search.nn.schemes import scheme_names
from bnas_deploy.studies.study import (
    FLOPS,
    MEMORY,
    PAPER,
    SMALL,
    TEST,
    TOY,
    TRAIN,
    Contrast,
    Named,
    OfOneOperation,
    Picture,
    Printed,
    Ranking,
    Row,
    Study,
)

BNAS = "BNAS v2"


def accuracy(text: str, source: str) -> dict[str, Printed]:
    """Return a printed test accuracy by the key of its measure."""
    return {TEST.key: Printed(text, source)}


_OPERATIONS = (
    ("conv 3x3", "bin_conv_3x3", "61.78", "46.15"),
    ("conv 5x5", "bin_conv_5x5", "60.14", "42.53"),
    ("dilated 3x3", "bin_dil_conv_3x3", "56.97", "41.02"),
    ("dilated 5x5", "bin_dil_conv_5x5", "55.17", "37.68"),
    ("separable 3x3", "bin_sep_conv_3x3", "56.38", "10.00"),
    ("separable 5x5", "bin_sep_conv_5x5", "57.00", "10.00"),
)

LAYERS = Study(
    name="layers",
    title="A small network of one kind of layer",
    repeats=f"{BNAS}, Table 1",
    question="Which kind of convolution survives when it is made binary?",
    rows=tuple(
        Row(
            f"{name}, {'float' if is_float else 'binary'}",
            OfOneOperation(operation),
            is_float=is_float,
            printed=accuracy(text, "Table 1"),
        )
        for name, operation, in_float, in_binary in _OPERATIONS
        for is_float, text in ((True, in_float), (False, in_binary))
    ),
    measures=(TEST, TRAIN),
    findings=(
        *(Contrast(f"{name}, binary", f"{name}, float") for name, *_ in _OPERATIONS),
        Contrast("separable 3x3, binary", "conv 3x3, binary"),
        Contrast("separable 5x5, binary", "conv 5x5, binary"),
    ),
    pictures=(Picture.BARS, Picture.CURVES),
    notes=(
        "The paper does not say how many channels its network has, nor what is in front of the three layers and "
        "between them; search/models/small_cnn.py says what was chosen.",
        "Between the two convolutions of a separable layer there is a batch normalisation here, as in DARTS; Eq. 4 has "
        "none.",
    ),
)

_BACKBONES = (
    ("ResNet18", "ResNet-18", "88.82"),
    ("NiN", "NiN", "86.28"),
    ("SENet", "SENet-18", "88.12"),
    ("WRN40", "WRN-40-4", "91.58"),
    ("ResNext29-64", "ResNeXt-29-64", "84.27"),
    ("Bi-Real Net18", "Bi-Real-18", ""),
    ("ResNet20", "ResNet-20", ""),
    ("VGG-Small", "VGG-Small", ""),
    ("ReActNet-A", "ReActNet-A", ""),
)
"""Row, network, and its accuracy in Table 6, where it has one: there the operations of the rows differ."""

_IN_TOY = ("NiN", "VGG-Small")
"""Those that train on images of 8x8 with the fewest channels."""

_ONE_SCHEME = "xnor-net"

BACKBONES = Study(
    name="backbones",
    title="Backbones under one scheme",
    repeats=f"{BNAS}, Table 6",
    question="Are the searched cells better than backbones that were designed by hand, at equal operations?",
    rows=(
        Row("BNAS", Named(), printed=accuracy("92.70", "Table 6, BNAS-A")),
        *(
            Row(
                name,
                Named(network, {"scheme": _ONE_SCHEME}, equal_flops=True),
                printed=accuracy(text, "Table 6") if text else {},
                budgets=() if name in _IN_TOY else (SMALL, PAPER),
            )
            for name, network, text in _BACKBONES
        ),
        Row(
            "DenseNet",
            Named("DenseNet-121", {"scheme": _ONE_SCHEME}),
            printed=accuracy("85.16", "Table 6"),
            budgets=(PAPER,),
        ),
        *(
            Row(f"BNAS-{size}", Named(f"BNAS-{size}"), printed=accuracy(text, "Table 6"), budgets=(PAPER,))
            for size, text in (("B", "93.76"), ("C", "94.43"))
        ),
    ),
    measures=(TEST, TRAIN, FLOPS, MEMORY),
    findings=(Ranking("BNAS"),),
    pictures=(Picture.BARS, Picture.CURVES),
    changes={SMALL: {"limit": 1500}, TOY: {"limit": 30, "least": 20}},
    notes=(
        "Every network has the scheme of XNOR-Net. The cells are the published ones.",
        "With the budget small a width factor makes the operations of each backbone equal to those of BNAS, as its "
        "paper counts them; channels are whole numbers, so they are not quite the same. With the budget paper networks "
        "are as published, and so their operations differ, as in Table 6.",
    ),
)

_PRINTED_SCHEMES = {
    "binarynet": ("89.95", "Table 7, ResNet18"),
    "xnor-net": ("88.82", "Table 6, ResNet18"),
    "pcnn": ("89.16", "Table 7, ResNet18 of 16 channels"),
}

SCHEMES = Study(
    name="schemes",
    title="Binarisation schemes on one backbone",
    repeats=f"{BNAS}, Table 7",
    question="How much does the way of making signs matter, on one backbone and with one recipe?",
    rows=tuple(
        Row(
            name,
            Named(network, {"scheme": name}, equal_flops=True),
            printed=accuracy(*_PRINTED_SCHEMES[name]) if name in _PRINTED_SCHEMES else {},
            budgets=budgets,
        )
        for network, budgets, names in (
            ("ResNet-18-float-shortcuts", (SMALL, PAPER), scheme_names()),
            ("VGG-Small", (TOY,), ["abc-net", "cbcn", "xnor-net", "zero-alpha"]),
        )
        for name in names
    ),
    measures=(TEST, TRAIN, FLOPS, MEMORY),
    findings=(Ranking("xnor-net"),),
    pictures=(Picture.BARS, Picture.CURVES),
    changes={SMALL: {"limit": 1000, "epochs": 6}, TOY: {"limit": 30, "least": 20}},
    notes=(
        "The backbone is ResNet-18 with float 1x1 convolutions on its shortcuts, as some schemes need them.",
        "All schemes are trained by one recipe, not each by its own, without pretraining and stages. The paper copied "
        "most of its rows from others, on other backbones.",
        "ABC-Net makes nine convolutions of one. The backbone is the same, the operations are not: with the budget "
        "small a width factor brings each network's operations near those of BNAS; CBCN's channels are multiples of "
        "four, so it has more.",
        "The paper's figures are those of CIFAR-10; its rows of ImageNet are left out.",
    ),
)
