"""How much memory a machine has."""

import re
from pathlib import Path

from bnas_deploy.core import host


def memory_bytes(root: Path = Path("/")) -> int | None:
    """Return the bytes of memory of this machine, None where the system does not tell; `root` is where /proc is."""
    try:
        text = (root / "proc/meminfo").read_text(encoding="utf-8")
    except OSError:
        text = ""
    if found := re.search(r"^MemTotal:\s*(\d+) kB", text, re.MULTILINE):
        return int(found[1]) * 1024
    return host.memory_bytes() if root == Path("/") else None
