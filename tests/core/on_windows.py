"""What of bnas_deploy.core needs the standard library only, on a Windows: `python on_windows.py ROOT FOLDER`.

ROOT is the repository, FOLDER an empty one for what is written. test_windows_python.py runs this with Windows' Python.
"""

import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

ROOT, FOLDER = map(Path, sys.argv[1:3])
# The package itself would look for its installation.
sys.modules["bnas_deploy"] = package = ModuleType("bnas_deploy")
package.__path__ = [str(ROOT), str(ROOT / "bnas_deploy")]  # type: ignore[attr-defined]  # a package has one

from bnas_deploy.core import host  # noqa: E402  # the package was made above
from bnas_deploy.core.errors import BnasError  # noqa: E402  # as above
from bnas_deploy.core.files import check_writable, read_bytes, temporary_folder, write_whole  # noqa: E402  # as above
from bnas_deploy.core.memory import memory_bytes  # noqa: E402  # as above
from bnas_deploy.core.partial import partial_file, partial_folder, put_folder, remove_leftovers  # noqa: E402  # as above
from bnas_deploy.runtime.bench.processor import processor  # noqa: E402  # as above

HOLD = """
import sys, time
file = open(sys.argv[1], "rb")
print("held", flush=True)
sys.stdin.read()
"""
COUNT = "import sys, time\nwhile True: print(1, flush=True); time.sleep(0.01)"


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def a_file_is_written_whole() -> None:
    path = FOLDER / "ein Ordner, 二値" / "ż.bin"
    path.parent.mkdir()
    check_writable(path)
    for data in (b"old\r\n\x1a", b"new" * 100_000):
        write_whole(path, data)
        assert read_bytes(path) == data
    assert names(path.parent) == ["ż.bin"]


def a_file_that_another_program_holds_is_told() -> None:
    path = FOLDER / "held.bin"
    write_whole(path, b"old")
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout
        assert holder.stdin
        assert holder.stdout.readline().strip() == b"held"
        refusal = ""
        try:
            write_whole(path, b"new")
        except BnasError as error:
            refusal = str(error)
        assert "another program has it open" in refusal
        assert read_bytes(path) == b"old"
        holder.stdin.close()
    write_whole(path, b"newer")
    assert read_bytes(path) == b"newer"
    assert [name for name in names(FOLDER) if name.endswith(".partial")] == []


def a_folder_takes_the_place_of_another() -> None:
    target = FOLDER / "bundle"
    for text in ("old", "new"):
        with partial_folder(FOLDER) as work:
            (work / "fresh").mkdir()
            (work / "fresh/file").write_text(text, encoding="utf-8")
            host.sync(work / "fresh/file")
            put_folder(work / "fresh", target, work)
        assert (target / "file").read_text(encoding="utf-8") == text
    assert [name for name in names(FOLDER) if name.endswith(".partial")] == []


def leftovers_are_removed_and_work_is_not() -> None:
    folder = FOLDER / "leftovers"
    folder.mkdir()
    with partial_file(folder) as (file, _), partial_folder(folder) as work:
        remove_leftovers(folder)
        assert names(folder) == sorted((file.name, work.name))
        (folder / file.name.replace(file.name[-16:], "0000.partial")).write_bytes(b"half")
        left = folder / work.name.replace(work.name[-16:], "1111.partial")
        left.mkdir()
        (left / ".lock").touch()
        # Another program had a file of this one open when the rest was removed.
        held = folder / work.name.replace(work.name[-16:], "2222.partial")
        held.mkdir()
        (held / "file").touch()
        remove_leftovers(folder)
        assert names(folder) == sorted((file.name, work.name))
    assert names(folder) == []


def a_process_stands_still_and_goes_on() -> None:
    process = host.start_apart([sys.executable, "-c", COUNT], stdout=subprocess.PIPE)
    assert process.stdout
    assert process.stdout.readline().strip() == b"1"
    assert host.stop(process)
    host.go_on(process)
    assert process.stdout.readline().strip() == b"1"
    process.kill()
    process.wait()
    process.stdout.close()
    assert not host.stop(process)


def the_machine_is_described() -> None:
    assert host.usable_cpus() >= 1
    assert (memory_bytes() or 0) > 100_000_000
    assert (host.peak_bytes() or 0) > 1_000_000
    assert host.load_average() is None
    found = processor()
    assert found is not None
    assert found.name != "unknown"
    assert "ssse3" in found.flags
    assert found.cores is None or found.cores >= 1
    assert found.os.startswith("Windows") or "Windows" in found.os
    host.stay_on_one_cpu()
    assert host.usable_cpus() == 1


def a_temporary_folder_goes() -> None:
    with temporary_folder() as folder:
        (folder / "file").touch()
    assert not folder.exists()


CHECKS = (
    a_file_is_written_whole,
    a_file_that_another_program_holds_is_told,
    a_folder_takes_the_place_of_another,
    leftovers_are_removed_and_work_is_not,
    a_process_stands_still_and_goes_on,
    the_machine_is_described,
    a_temporary_folder_goes,
)

if __name__ == "__main__":
    for check in CHECKS:
        start = time.monotonic()
        check()
        print(f"{check.__name__}: {time.monotonic() - start:.1f} s", flush=True)
    print("all")
