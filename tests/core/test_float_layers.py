"""The table of float layers in 8 bits: what follows from it, and every refusal of a file or of another network."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bnas_deploy.core.errors import BnasError
from bnas_deploy.core.float_layers import (
    FloatLayerTable,
    FormTime,
    InNetwork,
    PartTimes,
    check_layers,
    check_network,
    read_float_layers,
)
from bnas_deploy.core.layer_cost import LayerCost

STEM, SKIP = (
    LayerCost(name, (16, 8, 8), (32, 4, 4), (2, 2), (2, 2), (1, 1), 1, 32) for name in ("stem.conv", "skip.conv")
)
CLASSIFIER = LayerCost("classifier", (32, 1, 1), (10, 1, 1), (1, 1), (1, 1), (1, 1), 1, 32)


def form(times_as_fast: float, mostly: float, *layers: str) -> FormTime:
    return FormTime(layers, 10 / times_as_fast, times_as_fast, mostly)


CHAIN = PartTimes(
    ("stem.conv", "skip.conv"),
    ("Relu",),
    10.0,
    (form(1.1, 1.05, "stem.conv"), form(0.9, 0.8, "skip.conv"), form(1.4, 1.3, "stem.conv", "skip.conv")),
)
ALONE = PartTimes(("classifier",), (), 10.0, (form(1.02, 0.99, "classifier"),))
TABLE = FloatLayerTable(
    {"cpu": "Cortex-A72", "isa_flags": ["asimd"]},
    "neon",
    "neon",
    "BNAS-A",
    1,
    1,
    (STEM, SKIP, CLASSIFIER),
    (CHAIN, ALONE),
    (20.0, 17.0),
)


def test_the_fastest_form_is_chosen_where_three_of_four_runs_are_faster() -> None:
    assert CHAIN.chosen == CHAIN.forms[2]
    assert ALONE.chosen is None  # faster in the median only
    assert replace(ALONE, forms=(FormTime(("classifier",), 10.5, 1.2, 1.1),)).chosen is None  # slower in the median
    assert TABLE.chosen == ("stem.conv", "skip.conv")
    assert replace(TABLE, parts=(replace(CHAIN, forms=CHAIN.forms[:2]), ALONE)).chosen == ("stem.conv",)


def test_a_form_with_which_the_network_is_slower_is_not_chosen() -> None:
    slower, not_told = (replace(CHAIN, in_network=InNetwork(0.97, most)) for most in (0.99, 1.01))
    assert (slower.chosen, slower.fastest) == (None, CHAIN.forms[2])
    assert not_told.chosen == CHAIN.forms[2]
    assert replace(TABLE, parts=(slower, ALONE)).chosen == ()


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "pi.json"
    path.write_text(TABLE.to_json())
    assert read_float_layers(path) == TABLE

    with_network = replace(TABLE, parts=(replace(CHAIN, in_network=InNetwork(1.1, 1.2)), ALONE))
    path.write_text(with_network.to_json())
    assert read_float_layers(path) == with_network


def test_a_table_from_before_the_network_was_measured_with_each_part_is_read(tmp_path: Path) -> None:
    path = tmp_path / "pi.json"
    parts = [{name: value for name, value in part.items() if name != "in_network"} for part in PARTS]
    path.write_text(_changed(parts=parts))
    assert read_float_layers(path) == TABLE


def _changed(**changed: Any) -> str:
    return json.dumps({**json.loads(TABLE.to_json()), **changed})


PARTS = json.loads(TABLE.to_json())["parts"]
WRONG = {
    "no JSON": ("{", "pi.json: not a table of `bnas-deploy bench-ops --float-layers FLOAT INT8 --json` ("),
    "another file": (
        "{}",
        "pi.json: another JSON file, wanted a table of `bnas-deploy bench-ops --float-layers FLOAT INT8 --json`; meas",
    ),
    "a search's table": (
        '{"latency_format": 2}',
        "pi.json: a latency table of a search, wanted a table of `bnas-deploy bench-ops --float-layers FLOAT INT8 --j",
    ),
    "another format": (
        _changed(float_layers_format=9),
        "pi.json: format 9, this bnas-deploy reads 1; measure the device again with this version",
    ),
    "no machine": (_changed(machine={}), "(machine.cpu: got null, wanted text); measure the device again"),
    "a load of text": (
        _changed(machine={**json.loads(TABLE.to_json())["machine"], "load_average": "high"}),
        '(machine.load_average: got "high", wanted ',
    ),
    "no time of the network": (
        _changed(network_us=[20, 0]),
        "(network_us: got [20.0, 0.0], wanted more than 0 each); measure the device again",
    ),
    "no threads": (_changed(threads=0), "(threads: got 0, wanted at least 1); measure the device again"),
    "a part missing": (
        _changed(parts=PARTS[:1]),
        '(parts: layers: got ["stem.conv", "skip.conv"], wanted each of ["stem.conv", "skip.conv", "classifier"] once)',
    ),
    "no time": (
        _changed(parts=[PARTS[0], {**PARTS[1], "float_us": 0}]),
        "(parts[1].float_us: got 0.0, wanted more than 0); measure the device again",
    ),
    "no form": (
        _changed(parts=[PARTS[0], {**PARTS[1], "forms": []}]),
        "(parts[1].forms: got [], wanted at least one); measure the device again",
    ),
    "no gain in the network": (
        _changed(parts=[PARTS[0], {**PARTS[1], "in_network": {"times_as_fast": 1, "at_most": 0}}]),
        "(parts[1].in_network.at_most: got 0.0, wanted more than 0); measure the device again",
    ),
    "a form of another part": (
        _changed(parts=[PARTS[0], {**PARTS[1], "forms": PARTS[0]["forms"]}]),
        '(parts[1].forms: in_8_bits: got ["stem.conv"], wanted some of ["classifier"]); measure the device again',
    ),
}


@pytest.mark.parametrize(("text", "message"), WRONG.values(), ids=WRONG)
def test_other_files_are_refused(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "pi.json"
    path.write_text(text)
    with pytest.raises(BnasError) as error:
        read_float_layers(path)
    assert message in error.value.message


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BnasError, match=r"pi\.json: cannot be read: No such file or directory; expected a table of"):
        read_float_layers(tmp_path / "pi.json")


AGAIN = "; measure this network there: bnas-deploy bench-ops --float-layers FLOAT INT8 --json FILE"


def test_the_table_of_another_network_is_refused() -> None:
    check_network(TABLE, Path("pi.json"), "BNAS-A")
    with pytest.raises(BnasError) as error:
        check_network(TABLE, Path("pi.json"), "BNAS-D")
    assert error.value.message == "pi.json: measured BNAS-A, and this is BNAS-D" + AGAIN


def test_a_table_without_a_layer_or_of_other_shapes_is_refused() -> None:
    check_layers(TABLE, Path("pi.json"), [SKIP, CLASSIFIER])
    with pytest.raises(BnasError) as error:
        check_layers(TABLE, Path("pi.json"), [replace(SKIP, name="tail"), CLASSIFIER])
    assert error.value.message == ("pi.json: has no times of tail, only of stem.conv, skip.conv, classifier" + AGAIN)
    with pytest.raises(BnasError) as error:
        check_layers(TABLE, Path("pi.json"), [replace(SKIP, input=(16, 16, 16), output=(32, 8, 8))])
    assert error.value.message == (
        "pi.json: measured skip.conv as 8x8 16->32 k2x2 s2, and here it is 16x16 16->32 k2x2 s2" + AGAIN
    )
