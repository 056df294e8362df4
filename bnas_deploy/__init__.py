"""Search, train, export, run and measure binary neural networks on plain CPUs."""

__version__ = "0.1.0"
