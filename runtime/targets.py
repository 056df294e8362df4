"""What wheels are built for.

runtime/build/wheels.py reads this file where nothing is installed yet, so it imports nothing.
"""

OLDEST_GLIBC = 17
"""The minor version of the glibc 2 that zig links against; no Python that this package supports runs on an older."""

TARGETS = {f"{cpu}-linux": f"{cpu}-linux-gnu.2.{OLDEST_GLIBC}" for cpu in ("x86_64", "aarch64")}
"""The kinds of Linux that have kernels, and how BNAS_TARGET (runtime/build/native.py) names them."""
