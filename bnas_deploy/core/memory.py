"""How much memory a machine has."""

import os
import re
from pathlib import Path


def memory_bytes(root: Path = Path("/")) -> int | None:
    """Return the bytes of memory of this machine, None where the system does not tell; `root` is where /proc is."""
    try:
        text = (root / "proc/meminfo").read_text(encoding="utf-8")
    except OSError:
        text = ""
    if found := re.search(r"^MemTotal:\s*(\d+) kB", text, re.MULTILINE):
        return int(found[1]) * 1024
    if root != Path("/") or "SC_PHYS_PAGES" not in getattr(os, "sysconf_names", {}):
        return None
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
