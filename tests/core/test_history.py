"""history.json is read back as it was written, or refused."""

import json

import pytest

from bnas_deploy.core.errors import BnasError
from bnas_deploy.core.genotype import GENOTYPES
from bnas_deploy.core.history import Epoch, History, HistoryError, Tables, read_history

TABLE = ((0.25, 0.75), (0.5, 0.5))


def make_epoch(number, accuracy):
    return Epoch(
        epoch=number,
        learning_rate=0.025,
        train_loss=2.0,
        train_accuracy=0.5,
        architecture_loss=1.0,
        terms={"diversity": -0.5},
        validation_loss=2.5,
        validation_accuracy=accuracy,
        alphas=Tables(TABLE, TABLE),
        probabilities=Tables(TABLE, TABLE),
        entropy=0.6,
        learnable_share=0.25,
        learnable_probability=0.4,
        genotype=GENOTYPES["cifar"],
        duration_s=3.0,
    )


HISTORY = History(
    operations=("none", "bin_conv_3x3"),
    edges=((0, 2), (1, 2)),
    settings={"seed": 0},
    epochs=(make_epoch(1, 0.4), make_epoch(2, 0.6), make_epoch(3, 0.6)),
)


def test_the_best_epoch_is_the_first_of_the_highest_accuracy():
    assert HISTORY.best is HISTORY.epochs[1]
    assert HISTORY.to_json()["best_epoch"] == 2


def test_a_file_gives_back_what_was_written(tmp_path):
    path = tmp_path / "history.json"
    path.write_text(json.dumps(HISTORY.to_json()))
    assert read_history(path) == HISTORY


def test_a_history_without_epochs():
    empty = History(("none", "bin_conv_3x3"), ((0, 2),), {}, ())
    assert empty.best is None
    assert History.from_json(json.loads(json.dumps(empty.to_json())), "here") == empty


def changed(**fields):
    return {**HISTORY.to_json(), **fields}


def changed_epoch(**fields):
    return changed(epochs=[{**make_epoch(1, 0.4).to_json(), **fields}])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "not the history of a search; expected history.json of `bnas-deploy search`"),
        ({}, "not the history of a search"),
        (changed(format=2), "format version 2, this bnas-deploy reads 1; upgrade"),
        (changed(edges=[[0]]), r"edges\[0\]: got \[0\], wanted a list of 2; copy it again, or search again"),
        (changed(edges=[[0, 2.5]]), r"edges\[0\]\[1\]: got 2.5, wanted an integer of 64 bits; copy"),
        (changed(epochs=[{}]), r"epochs\[0\]: the field 'epoch' is missing"),
        (changed(epochs=[3]), r"epochs\[0\]: got 3, wanted an object"),
        (changed_epoch(epoch=2), "epoch 2 in place 1; copy it again"),
        (changed_epoch(entropy="high"), r'epochs\[0\]\.entropy: got "high", wanted a number'),
        (changed_epoch(entropy=float("nan")), r"epochs\[0\]\.entropy: got NaN, wanted a number"),
        (changed_epoch(terms=[]), r"epochs\[0\]\.terms: got \[\], wanted an object"),
        (changed_epoch(alphas=TABLE), r"epochs\[0\]\.alphas: got \[\[.*, wanted an object"),
        (changed_epoch(alphas={"normal": 1, "reduction": 1}), r"epochs\[0\]\.alphas\.normal: got 1, wanted a list"),
        (
            changed_epoch(alphas={"normal": TABLE, "reduction": TABLE[:1]}),
            "epoch 1: a table is not 2 edges by 2 operations",
        ),
        (changed_epoch(genotype={}), r"epochs\[0\]\.genotype: a genotype is"),
    ],
)
def test_refused(tmp_path, data, message):
    path = tmp_path / "history.json"
    path.write_text(json.dumps(data))
    with pytest.raises(BnasError, match=rf"history\.json: {message}"):
        read_history(path)


def test_a_missing_file_and_one_that_is_not_json(tmp_path):
    with pytest.raises(HistoryError, match="cannot be read: No such file or directory"):
        read_history(tmp_path / "history.json")
    (tmp_path / "history.json").write_text("{")
    with pytest.raises(HistoryError, match=r"history\.json: not history.json of `bnas-deploy search` \(.+\)$"):
        read_history(tmp_path / "history.json")
