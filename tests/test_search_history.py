"""history.json is read back as it was written, or refused."""

import json

import pytest

from bnas_deploy.errors import BnasError
from bnas_deploy.genotype import GENOTYPES
from bnas_deploy.search_history import Epoch, History, HistoryError, Tables, read_history

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
        (changed(edges=[[0]]), "a field is missing or of another kind .*; copy it again, or search again"),
        (changed(edges=[[0, 2.5]]), "expected a whole number, got 2.5"),
        (changed(epochs=[{}]), r"epoch 1: an epoch has the fields \['alphas', .*, got \[\]"),
        (changed(epochs=[3]), "epoch 1: an epoch has the fields .*, got int"),
        (changed_epoch(epoch=2), "epoch 2 in place 1; copy it again"),
        (changed_epoch(entropy="high"), "epoch 1: entropy: expected a finite number, got 'high'"),
        (changed_epoch(entropy=float("nan")), "epoch 1: entropy: expected a finite number, got nan"),
        (changed_epoch(terms=[]), r"epoch 1: expected an object, got \[\]"),
        (changed_epoch(alphas=TABLE), "epoch 1: alphas: expected a table 'normal' and a table 'reduction'"),
        (changed_epoch(alphas={"normal": 1, "reduction": 1}), "epoch 1: alphas: normal: expected a list of rows"),
        (
            changed_epoch(alphas={"normal": TABLE, "reduction": TABLE[:1]}),
            "epoch 1: a table is not 2 edges by 2 operations",
        ),
        (changed_epoch(genotype={}), "epoch 1: a genotype is"),
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
