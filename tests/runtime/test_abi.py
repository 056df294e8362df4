"""What needs onnxruntime's official C header: our own declarations of its ABI, and the C example.

The header is the one that the system has, else the one in Debian's package libonnxruntime-dev, which is looked up
beside the system's packages and not installed.
"""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from bnas_deploy.export.opset import DOMAIN, IR_VERSION, ONNX_OPSET, VERSION, reference
from bnas_deploy.runtime.library import library_path

ROOT = Path(__file__).parents[2]
HEADER = "onnxruntime_c_api.h"
SYSTEM_FOLDERS = ("/usr/include/onnxruntime", "/usr/local/include/onnxruntime", "/usr/include", "/usr/local/include")
SUITE = "trixie"
"""The oldest Debian with the package; another Debian's package sources are read as if they were this one's."""

pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")


@pytest.fixture(scope="session")
def header_folder(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    cached = pytestconfig.cache.mkdir("onnxruntime-header") if pytestconfig.cache else tmp_path_factory.mktemp("header")
    for folder in (*map(Path, SYSTEM_FOLDERS), cached):
        if (folder / HEADER).is_file():
            return folder
    work = tmp_path_factory.mktemp("debian")
    try:
        header = _header_from_debian(work)
    except (OSError, subprocess.CalledProcessError) as error:
        lines = str(getattr(error, "stderr", None) or error).strip().splitlines()
        pytest.skip(f"needs onnxruntime's C header; Debian's libonnxruntime-dev cannot be had: {lines[-1]}")
    shutil.copy(header, work / "copy.h")
    shutil.move(work / "copy.h", cached / HEADER)
    return cached


def _header_from_debian(work: Path) -> Path:
    """Unpack the package in `work`, with apt's state there too."""
    release = dict(line.split("=", 1) for line in Path("/etc/os-release").read_text().splitlines() if "=" in line)
    codename = release["VERSION_CODENAME"].strip('"') if release.get("ID") == "debian" else None
    found = [Path(f"/etc/apt/{name}") for name in ("sources.list.d/debian.sources", "sources.list")]
    source = next((path for path in found if path.is_file()), None)
    if codename is None or source is None:
        raise OSError("this is no Debian")
    sources = work / source.name
    sources.write_text(source.read_text().replace(codename, SUITE))
    for folder in ("state/lists/partial", "cache/archives/partial"):
        (work / folder).mkdir(parents=True)
    (work / "state/status").touch()
    options = {
        "Dir::Etc::sourcelist": sources,
        "Dir::Etc::sourceparts": "/dev/null",
        "Dir::State": work / "state",
        "Dir::State::status": work / "state/status",
        "Dir::Cache": work / "cache",
        "Acquire::Languages": "none",
        "APT::Sandbox::User": "root",
    }
    apt = ["apt-get", "-q", *(word for key, value in options.items() for word in ("-o", f"{key}={value}"))]
    for command in (["update"], ["download", "libonnxruntime-dev"]):
        subprocess.run([*apt, *command], cwd=work, check=True, capture_output=True, text=True)
    package = next(work.glob("libonnxruntime-dev*.deb"))
    subprocess.run(["dpkg-deb", "-x", package, work / "package"], check=True, capture_output=True, text=True)
    return next((work / "package").rglob(HEADER))


def _compile_check(header_folder: Path, our_folder: Path) -> subprocess.CompletedProcess[str]:
    check = Path(__file__).with_name("abi_check.c")
    # -w: the official header warns about itself.
    command = ["gcc", "-w", "-std=c11", "-fsyntax-only", f"-I{header_folder}", f"-I{our_folder}", str(check)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_our_declarations_are_those_of_the_official_header(header_folder: Path) -> None:
    run = _compile_check(header_folder, ROOT / "runtime/ort")
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize(
    ("ours", "wrong", "reason"),
    [
        ("SLOT(130, AddSession", "SLOT(131, AddSession", "slot of AddSessionConfigEntry"),
        ("(OrtStatus*))", "(const OrtStatus*))", "type of ReleaseStatus"),
        ("BNAS_ORT_UINT8 = 2", "BNAS_ORT_UINT8 = 3", "BNAS_ORT_UINT8"),
        ("    int (*GetStartVersion)", "    void* extra;\n    int (*GetStartVersion)", "OrtCustomOp.GetStartVersion"),
    ],
)
def test_a_wrong_declaration_is_noticed(
    header_folder: Path, tmp_path: Path, ours: str, wrong: str, reason: str
) -> None:
    text = (ROOT / "runtime/ort/ort_abi.h").read_text()
    assert ours in text
    (tmp_path / "ort_abi.h").write_text(text.replace(ours, wrong))
    run = _compile_check(header_folder, tmp_path)
    assert run.returncode != 0
    assert reason in run.stderr


# --------------------------------------------------------------------------------------------------------------------
# The C example


@pytest.fixture(scope="session")
def run_model(header_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compile the example against the library in onnxruntime's wheel."""
    folder = Path(onnxruntime.__file__).parent / "capi"
    library = next(folder.glob("libonnxruntime.so.*"), None)
    if library is None:
        pytest.skip(f"the wheel of onnxruntime {onnxruntime.__version__} has no libonnxruntime.so")
    work = tmp_path_factory.mktemp("example")
    (work / "libonnxruntime.so.1").symlink_to(library)
    program, source = work / "run_model", ROOT / "examples/c/run_model.c"
    flags = ["-std=c11", "-Wall", "-Wextra", "-Werror", "-O1", "-isystem", str(header_folder)]
    command = ["gcc", *flags, str(source), str(library), f"-Wl,-rpath,{work}", "-o", str(program)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return program


INPUTS = {
    "X": np.float32([[[[1, -1, 0.5]]], [[[-2, 0, 3]]]]),
    "W": np.array([0b1, 0b0], np.uint8).reshape(2, 1, 1, 1),
    "threshold": np.zeros(1, np.float32),
    "offset": np.float32([1, -2]).reshape(2, 1, 1),
    "scale": np.float32([0.1, 3]),
    "bias": np.float32([0.7, -0.3]),
}
ATTRIBUTES = {"weight_shape": [2, 1, 1, 1]}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    graph = helper.make_graph(
        [helper.make_node("BinaryConv2d", list(INPUTS), ["Y"], domain=DOMAIN, **ATTRIBUTES)],
        "g",
        [helper.make_tensor_value_info("X", TensorProto.FLOAT, ["N", 1, 1, 3])],
        [helper.make_tensor_value_info("Y", TensorProto.FLOAT, ["N", 2, 1, 3])],
        [numpy_helper.from_array(value, name) for name, value in INPUTS.items() if name != "X"],
    )
    opsets = [helper.make_opsetid("", ONNX_OPSET), helper.make_opsetid(DOMAIN, VERSION)]
    path = tmp_path / "model.onnx"
    path.write_bytes(helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION).SerializeToString())
    INPUTS["X"].tofile(tmp_path / "input.f32")
    return path


def _run(program: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([program, *map(str, arguments)], capture_output=True, text=True, check=False)


def test_the_c_example_prints_the_answer(run_model: Path, model: Path) -> None:
    run = _run(run_model, model, library_path(), model.with_name("input.f32"))
    assert run.returncode == 0, run.stderr
    want = reference("BinaryConv2d", list(INPUTS.values()), ATTRIBUTES)
    assert [np.float32(line) for line in run.stdout.split()] == want.ravel().tolist()


def test_the_c_example_says_what_is_wrong(run_model: Path, model: Path) -> None:
    run = _run(run_model, model, "/nowhere/libbnas_ort.so", model.with_name("input.f32"))
    assert run.returncode == 1
    assert "/nowhere/libbnas_ort.so" in run.stderr
    model.with_name("input.f32").write_bytes(b"\0" * 4 * 4)
    run = _run(run_model, model, library_path(), model.with_name("input.f32"))
    assert run.returncode == 1
    assert run.stderr.strip() == "the input file: does not hold a whole number of inputs"
