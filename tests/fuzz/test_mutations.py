"""A sample of what tests/fuzz/mutations.py tries by hand: no change of a model that matters is passed over."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch

from bnas_deploy.core.bundle import read_bundle
from bnas_deploy.core.errors import BundleError, ExportError
from bnas_deploy.export import exporter
from bnas_deploy.export.finish import finish

SEEDS = range(3)


def _module() -> ModuleType:
    spec = importlib.util.spec_from_file_location("mutations", Path(__file__).with_name("mutations.py"))
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["mutations"] = module  # dataclasses look themselves up there
    spec.loader.exec_module(module)
    return module


mutations: Any = _module()


@pytest.fixture(scope="module", params=["BNAS-Mini", "ResNet-20"])
def judge(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    torch.manual_seed(0)
    module = mutations.bnas_mini() if request.param == "BNAS-Mini" else mutations.resnet20(width=8)
    bundle = mutations.export_network(module, tmp_path_factory.mktemp("exported") / "bundle")
    return mutations.Judge(read_bundle(bundle.path))


def test_the_unchanged_model_passes(judge: Any) -> None:
    assert judge.found(onnx.load_from_string(judge.original)) == []
    assert judge.counts(onnx.load_from_string(judge.original)) is None


@pytest.mark.parametrize("seed", SEEDS)
def test_no_change_that_matters_survives(judge: Any, seed: int) -> None:
    outcomes = list(mutations.try_changes(judge, seed))

    assert [outcome.text for outcome in outcomes if outcome.counts] == []
    assert sum(outcome.found is not None for outcome in outcomes) >= 4


def test_replaced_weights_are_told(judge: Any) -> None:
    # The two examples that a comparison of outputs within 9.96 passed over.
    changes = (mutations.zero_classifier, mutations.noise_for_first_convolution)
    for outcome in mutations.try_changes(judge, 0, changes):
        assert outcome.found is not None
        assert "differs from PyTorch by" in outcome.found


@pytest.mark.parametrize("change", mutations.CHANGES[1:5], ids=lambda change: change.__name__)
def test_a_broken_step_of_the_export_is_refused(change: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The same change behind the last pass; one whose piece gives the same for all that is allowed to pass.
    def broken(model: ir.Model) -> onnx.ModelProto:
        proto = finish(model)
        while (text := change(proto.graph, rng)) is None:
            pass
        done.append(text)
        return proto

    rng, done = np.random.default_rng(1), list[str]()
    monkeypatch.setattr(exporter, "finish", broken)
    module = mutations.resnet20(width=8, blocks=1, stages=1)

    with pytest.raises((ExportError, BundleError)):
        mutations.export_network(module, tmp_path / "bundle", size=8)

    assert len(done) == 1
    assert list(tmp_path.iterdir()) == []
