"""The example programs, built as their comments say, give the operator's answer to the bit."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from bnas_deploy.export.opset import reference
from bnas_deploy.remote.wheels import library_in
from bnas_deploy.runtime.library import library_path

EXAMPLES = Path(__file__).parents[2] / "examples"

INPUTS = {
    "X": np.float32([[[[1, -1, 0.5]]], [[[-2, 0, 3]]]]),
    "W": np.array([0b1, 0b0], np.uint8).reshape(2, 1, 1, 1),
    "threshold": np.zeros(1, np.float32),
    "offset": np.float32([1, -2]).reshape(2, 1, 1),
    "scale": np.float32([0.1, 3]),
    "bias": np.float32([0.7, -0.3]),
}
ATTRIBUTES = {
    "weight_shape": [2, 1, 1, 1],
    "strides": [1, 1],
    "pads": [0, 0, 0, 0],
    "dilations": [1, 1],
    "group": 1,
}

Model = tuple[Path, Path]


@pytest.fixture
def model(operator_model: "Callable[..., onnx.ModelProto]", tmp_path: Path) -> Model:
    """A model of one operator, with its function body, and two inputs for it."""
    constants = {name: value for name, value in INPUTS.items() if name != "X"}
    path, inputs = tmp_path / "model.onnx", tmp_path / "input.f32"
    onnx.save(operator_model("BinaryConv2d", constants, ATTRIBUTES, (1, 1, 3), (2, 1, 3)), path)
    INPUTS["X"].tofile(inputs)
    return path, inputs


def run(*command: object, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **variables}
    return subprocess.run([*map(str, command)], env=environment, capture_output=True, text=True, check=False)


def check_answer(done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == 0, done.stderr
    want = reference("BinaryConv2d", list(INPUTS.values()), ATTRIBUTES)
    assert [np.float32(line) for line in done.stdout.split()] == want.ravel().tolist()


@pytest.fixture(scope="session")
def c_program(header_folder: Path, onnxruntime_for_c: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("gcc") is None:
        pytest.skip("needs gcc")
    program, source = tmp_path_factory.mktemp("c") / "run_model", EXAMPLES / "c/run_model.c"
    flags = ["-std=c11", "-Wall", "-Wextra", "-Werror", "-O1", "-isystem", header_folder]
    lib = onnxruntime_for_c.parent
    built = run("gcc", *flags, source, f"-L{lib}", "-lonnxruntime", f"-Wl,-rpath,{lib}", "-o", program)
    assert built.returncode == 0, built.stderr
    return program


@pytest.fixture(scope="session")
def cpp_program(header_folder: Path, onnxruntime_for_c: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("cmake") is None or shutil.which("c++") is None:
        pytest.skip("needs cmake and a C++ compiler")
    release = release_folder(tmp_path_factory.mktemp("release"), header_folder, onnxruntime_for_c)
    return built_with_cmake(tmp_path_factory.mktemp("cpp"), release)


def release_folder(folder: Path, header_folder: Path, library: Path) -> Path:
    """Make a folder look like an unpacked release of onnxruntime."""
    (folder / "include").symlink_to(header_folder)
    (folder / "lib").mkdir()
    for name in ("libonnxruntime.so", "libonnxruntime.so.1"):
        (folder / "lib" / name).symlink_to(library)
    return folder


def built_with_cmake(build: Path, release: Path, *options: str) -> Path:
    """Build the C++ example and return the program."""
    flags = [f"-DCMAKE_PREFIX_PATH={release}", "-DCMAKE_CXX_FLAGS=-Wall -Wextra -Werror"]
    for command in (["-S", EXAMPLES / "cpp", "-B", build, *flags, *options], ["--build", build]):
        built = run("cmake", *command)
        assert built.returncode == 0, built.stdout + built.stderr
    return build / "run_model"


@pytest.fixture(params=["c_program", "cpp_program"])
def program(request: pytest.FixtureRequest) -> Path:
    built: Path = request.getfixturevalue(request.param)
    return built


def test_c_and_cpp_print_the_answer(program: Path, model: Model) -> None:
    path, inputs = model
    check_answer(run(program, path, library_path(), inputs))


def test_c_and_cpp_find_a_library_in_the_folder_where_they_are_started(program: Path, model: Model) -> None:
    path, inputs = model
    shutil.copy(library_path(), path.parent / "libbnas.so")
    done = subprocess.run(
        [program, path.name, "libbnas.so", inputs.name], cwd=path.parent, capture_output=True, text=True, check=False
    )
    check_answer(done)


def test_c_and_cpp_say_what_is_wrong(program: Path, model: Model) -> None:
    path, inputs = model
    done = run(program, path, "/nowhere/libbnas_ort.so", inputs)
    assert done.returncode == 1
    assert "/nowhere/libbnas_ort.so" in done.stderr
    inputs.write_bytes(b"\0" * 4 * 4)
    done = run(program, path, library_path(), inputs)
    assert done.returncode == 1
    assert "the input file" in done.stderr
    assert done.stderr.strip().endswith("does not hold a whole number of inputs")
    done = run(program, path)
    assert done.returncode == 1
    assert "run_model MODEL.onnx LIBRARY INPUT.f32" in done.stderr


# --------------------------------------------------------------------------------------------------------------------
# For 64-bit ARM, compiled here and run in an emulator


CROSS_COMPILER = "aarch64-linux-gnu-g++"


@pytest.fixture(scope="session")
def arm_program(arm_python: Path, header_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ...]:
    """The words that start the C++ example on the emulated machine, linked with the onnxruntime that is there."""
    for program in ("cmake", CROSS_COMPILER):
        if shutil.which(program) is None:
            pytest.skip(f"needs {program}")
    (library,) = arm_python.parent.glob("site/onnxruntime/capi/libonnxruntime.so.*")
    release = release_folder(tmp_path_factory.mktemp("release"), header_folder, library)
    system = ["-DCMAKE_SYSTEM_NAME=Linux", "-DCMAKE_SYSTEM_PROCESSOR=aarch64"]
    compiler = f"-DCMAKE_CXX_COMPILER={CROSS_COMPILER}"
    program = built_with_cmake(tmp_path_factory.mktemp("arm"), release, *system, compiler)
    return arm_python.with_name("qemu-aarch64-static"), Path("-L"), arm_python.with_name("root"), program


def test_cpp_on_arm_prints_the_answer(
    arm_program: tuple[Path, ...], wheels: dict[str, Path], model: Model, tmp_path: Path
) -> None:
    path, inputs = model
    library = tmp_path / "libbnas_ort.so"
    library.write_bytes(library_in(wheels["aarch64-linux"])[0])
    check_answer(run(*arm_program, path, library, inputs, QEMU_CPU="cortex-a72"))
    done = run(*arm_program, path, library_path(), inputs, QEMU_CPU="cortex-a72")
    assert done.returncode == 1  # it was ARM's library that was used
    assert str(library_path()) in done.stderr


# --------------------------------------------------------------------------------------------------------------------
# Node.js


@pytest.fixture(scope="session")
def node_folder(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Node.js example with its package installed, kept from one run of the tests to the next."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("needs node and npm")
    cache = pytestconfig.cache
    folder = cache.mkdir("onnxruntime-node") if cache else tmp_path_factory.mktemp("node")
    for name in ("package.json", "run_model.js"):
        shutil.copy(EXAMPLES / "node" / name, folder)
    wanted = json.loads((folder / "package.json").read_text())["dependencies"]["onnxruntime-node"]
    package = folder / "node_modules/onnxruntime-node/package.json"
    if not package.is_file() or json.loads(package.read_text())["version"] != wanted:
        # Scripts of packages do not run; onnxruntime's own would only fetch libraries for GPUs.
        npm = ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", "--prefix", str(folder)]
        installed = run(*npm)
        if installed.returncode:
            pytest.skip(f"onnxruntime-node {wanted} cannot be had here: {installed.stderr.strip().splitlines()[-1]}")
    return folder


def test_node_prints_the_same_answer_without_the_library(node_folder: Path, model: Model) -> None:
    path, inputs = model
    check_answer(run("node", node_folder / "run_model.js", path, inputs))


def test_node_says_what_is_wrong(node_folder: Path, model: Model) -> None:
    path, inputs = model
    inputs.write_bytes(b"\0" * 4 * 4)
    done = run("node", node_folder / "run_model.js", path, inputs)
    assert done.returncode == 1
    assert done.stderr.strip() == "the input file does not hold a whole number of inputs"


def test_node_still_has_no_option_for_a_library(node_folder: Path) -> None:
    """What README.md and examples/node say; when this fails, they can use the library."""
    modules = node_folder / "node_modules"
    options = (modules / "onnxruntime-common/lib/inference-session.ts").read_bytes()
    bindings = [path.read_bytes() for path in modules.glob("onnxruntime-node/bin/napi-*/*/*/onnxruntime_binding.node")]
    assert bindings
    for text in (options, *bindings):
        assert b"executionMode" in text  # options are looked for in the right place
        assert b"customop" not in text.lower().replace(b"_", b"")
