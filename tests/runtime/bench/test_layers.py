"""Single layers of every engine: each result against the numpy meaning of the operator, and what is left out."""

import dataclasses
import gc
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bnas_deploy.core.bits import pack_signs
from bnas_deploy.core.errors import RuntimeLibraryError
from bnas_deploy.core.layer_cost import LayerCost
from bnas_deploy.export import opset
from bnas_deploy.runtime.bench import layers, samples
from bnas_deploy.runtime.bench.engine_process import OpenedModel
from bnas_deploy.runtime.bench.engines import LeftOut
from bnas_deploy.runtime.bench.layer_engines import ENGINE_VARIANTS, EngineVariant
from bnas_deploy.runtime.bench.layer_problems import LAYERS, Problem, problem, same_convolution, same_padding
from bnas_deploy.runtime.bench.layers import Entry, measure_layers
from bnas_deploy.runtime.bench.openvino import UnsupportedLayerError, openvino_is_installed

# Odd sizes and channel counts, every kind of kernel, stride and dilation of the list; 64 channels in one.
SMALL = (
    same_convolution(7, 64, 3, 3),
    same_convolution(9, 3, 5, 5),
    same_convolution(9, 36, 4, 3, dilation=2),
    same_convolution(9, 5, 8, 3, stride=2),
    same_convolution(8, 5, 8, 3, stride=2),
    same_convolution(5, 17, 2, 1),
)

EVERY_LAYER = pytest.mark.parametrize("layer", SMALL, ids=lambda layer: layer.name)


@pytest.fixture(autouse=True)
def _no_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layers, "WARMUP_NS", 0)
    monkeypatch.setattr(samples, "WARMUP_NS", 0)


def reference(given: Problem) -> np.ndarray:
    """What the operator's numpy meaning gives."""
    channels_out, channels_in, *kernel = given.signs.shape
    inputs = (
        given.x,
        pack_signs(given.signs.transpose(0, 2, 3, 1)),
        np.zeros(channels_in, np.float32),
        np.zeros((channels_out, 1, 1), np.float32),
        given.scale,
        given.bias,
    )
    attributes = {
        "weight_shape": [channels_out, *kernel, channels_in],
        "strides": given.layer.stride,
        "dilations": given.layer.dilation,
        "pads": [same_padding(given.layer)] * 4,
    }
    return opset.reference("BinaryConv2dRelu", inputs, attributes)


def test_the_list_of_layers() -> None:
    assert [(layer.name, round(layer.macs / 1e6, 1)) for layer in LAYERS] == [
        ("56x56 64->64 k3 s1 d1", 115.6),
        ("28x28 128->128 k3 s1 d1", 115.6),
        ("14x14 256->256 k3 s1 d1", 115.6),
        ("7x7 512->512 k3 s1 d1", 115.6),
        ("32x32 36->36 k3 s1 d1", 11.9),
        ("16x16 72->72 k3 s1 d1", 11.9),
        ("8x8 144->144 k3 s1 d1", 11.9),
        ("32x32 36->36 k5 s1 d1", 33.2),
        ("32x32 36->36 k3 s1 d2", 11.9),
        ("56x56 64->128 k3 s2 d1", 57.8),
        ("28x28 256->64 k1 s1 d1", 12.8),
    ]


@EVERY_LAYER
def test_the_binary_answer_is_the_operators(layer: LayerCost) -> None:
    given = problem(layer, batch=2)
    assert np.array_equal(given.binary_answer, reference(given))


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: layer.name)
def test_nothing_rounds(layer: LayerCost) -> None:
    given = problem(layer, batch=1)
    steps = given.x.astype(np.float64) * 16
    assert (steps % 2 == 1).all()  # odd, so never 0
    assert np.abs(steps).max() <= 127
    # Every product is a multiple of 2^-10, and so is every sum; the largest sum has to be below 2^24 of them.
    terms = layer.weights // layer.output[0]
    assert (given.scale.min(), given.scale.max()) == (2**-6, 2**-4)
    assert (given.bias * 64 % 1 == 0).all()
    assert terms * 127 / 16 * given.scale.max() + np.abs(given.bias).max() < 2**24 / 2**10


@EVERY_LAYER
@pytest.mark.parametrize(
    "variant", ENGINE_VARIANTS, ids=lambda variant: f"{variant.engine} {variant.format or ''}".strip()
)
def test_every_engine_gives_the_right_result(variant: EngineVariant, layer: LayerCost, tmp_path: Path) -> None:
    if variant.engine == "openvino-binary":
        if not openvino_is_installed():
            pytest.skip("the package openvino is not installed")
        if layer.input[0] % 8:
            pytest.skip("OpenVINO's binary convolution is wrong where channels are no multiple of 8")
    given = problem(layer, batch=2)
    runner = variant.open(given, tmp_path / "layer.onnx", 1)
    assert variant.is_right(given, runner.output)
    runner.run()
    assert variant.is_right(given, runner.output)
    # And the check sees one output that is three steps of 8 bits off.
    runner.output.flat[-1] += 3 if runner.output.dtype.kind != "f" else given.float_answer.max() / 85
    assert not variant.is_right(given, runner.output)


@pytest.mark.parametrize("engine", ["bnas", "ort-fp32", "openvino-binary"])
def test_a_runner_keeps_the_memory_that_it_reads(engine: str, tmp_path: Path) -> None:
    """In a process of its own nothing else keeps it."""
    if engine == "openvino-binary" and not openvino_is_installed():
        pytest.skip("the package openvino is not installed")
    variant = next(each for each in ENGINE_VARIANTS if each.engine == engine)
    given = problem(SMALL[0], batch=1)
    x = weakref.ref(given.x)
    runner = variant.open(given, tmp_path / "layer.onnx", 1)
    del given
    gc.collect()
    assert x() is not None
    runner.run()


def test_records(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BNAS_ISA", "generic")
    monkeypatch.setattr("bnas_deploy.runtime.bench.layer_engines.openvino_is_installed", lambda: False)
    told: list[str] = []
    records, left_out = measure_layers(SMALL[:2], threads=(2, 1), batch=3, min_seconds=0, on_step=told.append)
    assert told == [layer.name for layer in SMALL[:2]]
    assert left_out == [LeftOut("openvino-binary", None, "the package openvino is not installed")]
    engines = ("bnas", "ort-fp32", "ort-int8", "ort-int8-inner")
    assert [(each.threads, each.subject, each.engine) for each in records] == [
        (threads, layer.name, engine) for threads in (2, 1) for layer in SMALL[:2] for engine in engines
    ]
    for each in records:
        assert each.macs == 3 * {layer.name: layer.macs for layer in SMALL}[each.subject]
        assert each.batch == 3
        assert each.runs >= 10
        assert each.kind is each.layer is None
        assert (each.ratio is None) == (each.engine == "ort-fp32")
        assert (each.format in {"U8S8", "U8U8", "S8S8"}) == each.engine.startswith("ort-int8")
        assert (each.isa == "generic") == (each.engine == "bnas")


def test_the_variant_with_the_shortest_run_is_kept() -> None:
    model: Any = None  # not run
    u8s8, s8s8, inner, _ = (variant for variant in ENGINE_VARIANTS if variant.format in {"U8S8", "S8S8"})
    entries = [Entry(u8s8, 1, model), Entry(s8s8, 1, model), Entry(inner, 1, model), Entry(u8s8, 2, model)]
    shortest = np.array([[9, 7, 1, 5], [3, 4, 1, 5], [9, 7, 1, 5]])
    assert layers._fastest(entries, shortest) == [entries[0], entries[2], entries[3]]


@dataclasses.dataclass
class _Runner:
    output: np.ndarray

    def run(self) -> None:
        """Do nothing."""


class _Here:
    """What EngineProcesses is, in this process, where a test can change the variants."""

    def __enter__(self) -> "_Here":
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is to be ended."""

    def of(self, engine: str, threads: int) -> "_Here":
        return self

    def open(self, opener: Callable[..., Any], **arguments: Any) -> OpenedModel:
        made = opener(**arguments)
        process: Any = self
        self.run = made.run
        return OpenedModel(process, 0, made.output, None)

    def ask(self, do: str, **request: Any) -> dict[str, int | None]:
        self.run()
        return {"ns": 1000, "waited_ns": None}

    def forget(self) -> None:
        """Keep nothing."""


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layers, "EngineProcesses", _Here)


def wrong(engine: str) -> list[EngineVariant]:
    """Return the first variants, those of `engine` with a wrong result."""

    def zeros(given: Problem, path: Path, threads: int) -> _Runner:
        return _Runner(np.zeros_like(given.binary_answer))

    return [
        dataclasses.replace(variant, open=zeros) if variant.engine == engine else variant
        for variant in ENGINE_VARIANTS[:3]
    ]


@pytest.mark.usefixtures("here")
def test_an_engine_with_a_wrong_result_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layers, "ENGINE_VARIANTS", wrong("ort-fp32"))
    monkeypatch.setattr(layers, "missing_engines", list)
    records, left_out = measure_layers(SMALL[:1], threads=(1, 2), batch=1, min_seconds=0)
    assert left_out == [LeftOut("ort-fp32", SMALL[0].name, "wrong result")]
    assert {each.engine for each in records} == {"bnas", "ort-int8"}
    assert not any(each.ratio for each in records)


@pytest.mark.usefixtures("here")
def test_an_engine_that_cannot_run_a_layer_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(given: Problem, path: Path, threads: int) -> _Runner:
        raise UnsupportedLayerError("could not create a primitive")

    other = dataclasses.replace(ENGINE_VARIANTS[-1], open=refuse)
    monkeypatch.setattr(layers, "ENGINE_VARIANTS", [ENGINE_VARIANTS[0], other])
    monkeypatch.setattr(layers, "missing_engines", list)
    records, left_out = measure_layers(SMALL[:1], threads=(1, 2), batch=1, min_seconds=0)
    assert left_out == [LeftOut("openvino-binary", SMALL[0].name, "not supported")]
    assert {each.engine for each in records} == {"bnas"}


@pytest.mark.usefixtures("here")
def test_a_wrong_result_of_the_library_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layers, "ENGINE_VARIANTS", wrong("bnas"))
    message = r"7x7 64->3 k3 s1 d1: the operator library \(.*, threads: 1\) gives a wrong result; nothing more was"
    with pytest.raises(RuntimeLibraryError, match=message):
        measure_layers(SMALL[:1], threads=(1,), batch=1, min_seconds=0)


def test_an_isa_that_the_library_lacks_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BNAS_ISA", "z80")
    with pytest.raises(RuntimeLibraryError, match="BNAS_ISA is 'z80', and the kernels that run on this machine are"):
        measure_layers(SMALL[:1], threads=(1,), batch=1, min_seconds=0)
