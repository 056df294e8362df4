"""A writer that is killed or out of room at any of its steps loses nothing and leaves nothing."""

import os
import subprocess
import sys
from pathlib import Path

from bnas_deploy.core.files import write_whole
from bnas_deploy.core.partial import partial_file, partial_folder

NET = Path(__file__).with_name("killed_writers.py")


def test_every_step_of_a_writer() -> None:
    # In a process of its own, because it forks: this one may have threads.
    run = subprocess.run([sys.executable, "-P", NET], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    lines = run.stdout.splitlines()
    assert len(lines) == 9  # scenarios
    assert not any(" 0 killed" in line or " 0 refused" in line for line in lines), run.stdout


def test_a_living_writer_is_left_alone(tmp_path: Path) -> None:
    with partial_file(tmp_path) as (file, _), partial_folder(tmp_path) as folder:
        code = "import sys; from pathlib import Path; from bnas_deploy.core.files import write_whole\n"
        code += "write_whole(Path(sys.argv[1]), b'')"
        subprocess.run([sys.executable, "-P", "-c", code, tmp_path / "other"], check=True)
        assert sorted(tmp_path.iterdir()) == sorted([file, folder, tmp_path / "other"])
    assert [path.name for path in tmp_path.iterdir()] == ["other"]


def test_what_another_machine_may_still_write_is_left_for_a_week(tmp_path: Path) -> None:
    week = 7 * 24 * 3600
    ages = {".bnas-deploy-00000000-aaaa.partial": week - 60, ".bnas-deploy-00000000-bbbb.partial": week + 60}
    ages[".bnas-deploy-x8_2.partial"] = week + 60  # as bnas-deploy 0.1.0 named them
    for name, age in ages.items():
        (tmp_path / name).write_bytes(b"half")
        then = (tmp_path / name).stat().st_mtime - age
        os.utime(tmp_path / name, (then, then))
    write_whole(tmp_path / "file", b"")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".bnas-deploy-00000000-aaaa.partial", "file"]


def test_other_names_are_left_alone(tmp_path: Path) -> None:
    names = [".bnas-deploy-x.partial.txt", "bnas-deploy-x.partial", ".bnas-deploy-.partial", ".partial", ".git"]
    for name in names:
        (tmp_path / name).write_bytes(b"")
        os.utime(tmp_path / name, (0, 0))
    os.mkfifo(tmp_path / ".bnas-deploy-1.partial")
    (tmp_path / ".bnas-deploy-2.partial").symlink_to(".git")
    write_whole(tmp_path / "file", b"")
    assert {path.name for path in tmp_path.iterdir()} == {*names, "file", *(f".bnas-deploy-{i}.partial" for i in "12")}
