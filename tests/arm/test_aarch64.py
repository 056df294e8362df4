"""The wheel for 64-bit ARM in an emulator, with the onnxruntime for it: the answers are those of x86, to the bit."""

import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import helper

from bnas_deploy.core.bundle import MODEL
from bnas_deploy.export import Images, export_checkpoint
from bnas_deploy.export.capture import capture
from bnas_deploy.export.finish import finish
from bnas_deploy.export.inputs import INPUT
from bnas_deploy.export.passes import PIPELINE
from bnas_deploy.export.rewrite import run
from bnas_deploy.runtime.session import create_session
from bnas_deploy.search.models.bnas.config import NetworkConfig, published_config
from bnas_deploy.search.training.untrained import untrained_checkpoint

HERE = Path(__file__).parent
OPERATOR_TESTS = HERE.parent / "runtime/test_native_operators.py"

CPUS = {"cortex-a53": "neon_inorder", "cortex-a72": "neon", "cortex-a76": "neon_tbl", "neoverse-n1": "neon_tbl"}
"""Of the Raspberry Pi 3, 4 and 5 and of servers, the oldest first, with the kernels that suit them."""

OLDEST = next(iter(CPUS))

FLOAT_SUMS = ("Conv", "Gemm", "ReduceMean")
"""onnxruntime's own operators that add up floats: in an order of their own on each architecture."""

Floats = NDArray[np.float32]


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # dataclasses look themselves up there
    spec.loader.exec_module(module)
    return module


# --------------------------------------------------------------------------------------------------------------------
# The machine


@dataclass(frozen=True)
class Machine:
    """Its Python, and the folder that the wheel is installed in."""

    python: Path
    packages: Path

    def run(self, *arguments: object, cpu: str = "cortex-a72") -> str:
        """Run Python there and return what it prints; qemu knows `cpu`."""
        environment = {**os.environ, "QEMU_CPU": cpu, "PYTHONPATH": str(self.packages)}
        environment.pop("BNAS_ISA", None)
        command = [str(self.python), "-P", *map(str, arguments)]
        run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert run.returncode == 0, f"{run.stdout[-4000:]}\n{run.stderr[-4000:]}"
        return run.stdout

    def replay(self, cases: Path, *isas: str, cpu: str) -> list[dict[str, Any]]:
        """Return what replay.py reports for each ISA."""
        return [json.loads(line) for line in self.run(HERE / "replay.py", cases, *isas, cpu=cpu).splitlines()]


@pytest.fixture(scope="session")
def machine(arm_python: Path, wheels: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Machine:
    packages = tmp_path_factory.mktemp("packages")
    options = ["--platform", "manylinux_2_17_aarch64", "--only-binary", ":all:", "--no-deps", "--target", str(packages)]
    pip = [sys.executable, "-m", "pip", "install", "--quiet"]
    subprocess.run([*pip, *options, str(wheels["aarch64-linux"])], check=True)
    return Machine(arm_python, packages)


class Recording:
    """Models with what they are fed and what they answer, as replay.py reads them."""

    def __init__(self) -> None:
        self.cases: list[str] = []
        self._arrays: dict[str, NDArray[Any]] = {}

    def add(self, name: str, model: bytes, feeds: dict[str, Floats], answers: dict[str, Floats]) -> None:
        self.cases.append(name)
        self._arrays[f"{name}/model"] = np.frombuffer(model, np.uint8)
        for kind, arrays in (("feed", feeds), ("answer", answers)):
            self._arrays.update({f"{name}/{kind}/{key}": value for key, value in arrays.items()})

    def save(self, path: Path) -> Path:
        load(HERE / "replay.py").write_arrays(path, self._arrays)
        return path


# --------------------------------------------------------------------------------------------------------------------
# What it answers


@pytest.fixture(scope="session")
def edges(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int, int]:
    """The edges of the operators, with numpy's answers; the number of models, and that of the nodes in them."""
    operators = load(OPERATOR_TESTS)
    some = [operators.problems_of_every_operator(name) for name in operators.OF_EVERY_OPERATOR]
    parts = [(operators.plain_problems(row), 3) for row in operators.PLAIN]
    parts += [(problems, 2) for problems in some]
    recording = Recording()
    for i, (problems, batch) in enumerate(parts):
        recording.add(f"{i}: batch {batch}", *operators.side_by_side(problems, batch))
    path = recording.save(tmp_path_factory.mktemp("edges") / "cases")
    return path, len(parts), sum(len(problems) for problems, _ in parts)


# The oldest processor is enough for what the library does by itself: it runs the same instructions on all of them, and
# one that this one lacks would stop it here. What else is different on the others is onnxruntime's, in whole networks.
# `neon` has the code of `neon_inorder`, in tiles and an order of its own: networks run it below.
AT_EDGES = ("neon_tbl", "neon_inorder", "generic")


@pytest.fixture(scope="session")
def at_edges(machine: Machine, edges: tuple[Path, int, int]) -> dict[str, dict[str, Any]]:
    """What replay.py reports of the edges, by ISA: one process reads them once for all."""
    return {report["isa"]: report for report in machine.replay(edges[0], *AT_EDGES, cpu=OLDEST)}


@pytest.mark.parametrize("isa", AT_EDGES)
def test_edges_agree_with_the_reference(
    at_edges: dict[str, dict[str, Any]], edges: tuple[Path, int, int], isa: str
) -> None:
    _, models, nodes = edges
    assert at_edges[isa] == {"isa": isa, "right": models, "wrong": [], "native": nodes}


def _of_every_kind(name: str) -> NetworkConfig:
    """Return a published network with one cell of each kind, where the whole has more of the same."""
    return replace(published_config(name), cells=5)


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """BNAS-Mini of 5 cells, never trained, exported here."""
    path = tmp_path_factory.mktemp("bundle") / "BNAS-Mini"
    images = Images(torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)), torch.tensor([0]))
    export_checkpoint(untrained_checkpoint(_of_every_kind(path.name), seed=3), path, images)
    return path


@pytest.fixture(scope="session")
def bnas_a() -> onnx.ModelProto:
    """The model of BNAS-A of 5 cells, never trained; a bundle would have its twins too, which take longer."""
    captured = capture(untrained_checkpoint(_of_every_kind("BNAS-A"), seed=3).build().eval(), (3, 32, 32))
    run(PIPELINE, captured.model)
    return finish(captured.model)


def without_float_sums(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with the results of float sums as inputs, and what they are made of as outputs.

    All that is left gives the same bits everywhere.
    """
    cut = onnx.ModelProto()
    cut.CopyFrom(model)
    sums = [node for node in model.graph.node if node.op_type in FLOAT_SUMS]
    results = {name for node in sums for name in node.output}
    makings = dict.fromkeys(node.input[0] for node in sums if node.input[0] not in results)
    for nodes, wanted in ((cut.graph.input, sorted(results)), (cut.graph.output, makings)):
        kept = [value for value in nodes if value.name == INPUT]
        del nodes[:]
        nodes.extend([*kept, *(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in wanted)])
    for node in sums:
        cut.graph.node.remove(node)
    return cut


def values_of(model: onnx.ModelProto, names: list[str], image: Floats, path: Path) -> dict[str, Floats]:
    """Return values inside a model."""
    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    del shown.graph.output[:]
    shown.graph.output.extend(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in names)
    onnx.save(shown, path)
    return dict(zip(names, create_session(path).run(names, {INPUT: image}), strict=True))


@pytest.fixture(scope="session")
def networks(bundle: Path, bnas_a: onnx.ModelProto, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """The networks without their float sums, and the number of binary convolutions in both."""
    folder = tmp_path_factory.mktemp("networks")
    recording, binary = Recording(), 0
    image = np.random.default_rng(1).standard_normal((1, 3, 32, 32)).astype(np.float32)
    for name, model in (("BNAS-Mini", onnx.load(bundle / MODEL)), ("BNAS-A", bnas_a)):
        cut = without_float_sums(model)
        given = [value.name for value in cut.graph.input if value.name != INPUT]
        wanted = [value.name for value in cut.graph.output]
        values = values_of(model, given + wanted, image, folder / f"{name}.onnx")
        feeds = {INPUT: image, **{key: values[key] for key in given}}
        recording.add(name, cut.SerializeToString(), feeds, {key: values[key] for key in wanted})
        binary += sum(node.domain == "bnas" for node in cut.graph.node)
    return recording.save(folder / "cases"), binary


@pytest.mark.parametrize(("cpu", "isa"), CPUS.items())
def test_each_processor_has_the_kernels_that_suit_it(machine: Machine, cpu: str, isa: str) -> None:
    # Without the package, whose imports take most of the time.
    (library,) = machine.packages.rglob("libbnas_ort.so")
    code = f"import ctypes; isa = ctypes.CDLL({str(library)!r}).bnas_isa; isa.restype = ctypes.c_char_p; print(isa())"
    assert machine.run("-c", code, cpu=cpu).strip() == f"b'{isa}'"


@pytest.mark.parametrize(("cpu", "isa"), list(CPUS.items())[:3])
def test_networks_give_the_bits_of_this_machine(
    machine: Machine, networks: tuple[Path, int], cpu: str, isa: str
) -> None:
    cases, binary = networks
    assert machine.replay(cases, isa, "body", cpu=cpu) == [
        {"isa": isa, "right": 2, "wrong": [], "native": binary},
        {"isa": "body", "right": 2, "wrong": [], "native": 0},
    ]


def test_verify_holds_there(machine: Machine, bundle: Path) -> None:
    shown = machine.run("-m", "bnas_deploy", "verify", bundle)
    assert "1 of 1 image" in shown
