"""onnxruntime for C and C++: official headers, and the library in Python's wheel.

The headers are those that the system has, else those in Debian's package libonnxruntime-dev, which is looked up beside
the system's packages and not installed.
"""

import shutil
import subprocess
from pathlib import Path

import onnxruntime
import pytest

HEADERS = ("onnxruntime_c_api.h", "onnxruntime_cxx_api.h", "onnxruntime_cxx_inline.h", "onnxruntime_float16.h")
SYSTEM_FOLDERS = ("/usr/include/onnxruntime", "/usr/local/include/onnxruntime", "/usr/include", "/usr/local/include")
SUITE = "trixie"
"""The oldest Debian with the package; another Debian's package sources are read as if they were this one's."""


@pytest.fixture(scope="session")
def header_folder(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    cached = (
        pytestconfig.cache.mkdir("onnxruntime-headers") if pytestconfig.cache else tmp_path_factory.mktemp("headers")
    )
    for folder in (*map(Path, SYSTEM_FOLDERS), cached):
        if all((folder / name).is_file() for name in HEADERS):
            return folder
    work = tmp_path_factory.mktemp("debian")
    try:
        headers = _headers_from_debian(work)
    except (OSError, subprocess.CalledProcessError) as error:
        lines = str(getattr(error, "stderr", None) or error).strip().splitlines()
        pytest.skip(f"needs onnxruntime's headers; Debian's libonnxruntime-dev cannot be had: {lines[-1]}")
    for header in headers:
        shutil.copy(header, work / "copy.h")
        shutil.move(work / "copy.h", cached / header.name)
    return cached


def _headers_from_debian(work: Path) -> list[Path]:
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
    return list(next((work / "package").rglob(HEADERS[0])).parent.glob("*.h"))


@pytest.fixture(scope="session")
def onnxruntime_for_c(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library in onnxruntime's wheel, under the names that it has in a release of onnxruntime."""
    folder = Path(onnxruntime.__file__).parent / "capi"
    library = next(folder.glob("libonnxruntime.so.*"), None)
    if library is None:
        pytest.skip(f"the wheel of onnxruntime {onnxruntime.__version__} has no libonnxruntime.so")
    lib = tmp_path_factory.mktemp("onnxruntime")
    for name in ("libonnxruntime.so", "libonnxruntime.so.1"):
        (lib / name).symlink_to(library)
    return lib / "libonnxruntime.so"
