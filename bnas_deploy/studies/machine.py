"""Where a trial ran, in a line."""

import os

import torch

from bnas_deploy.runtime.bench.machine import read_machine


def describe_machine(device: torch.device) -> str:
    """Return processor or GPU, how many processors this process may use, and the versions that matter."""
    machine = read_machine()
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    gpu = f"{torch.cuda.get_device_name(device)}, " if device.type == "cuda" else ""
    return f"{gpu}{machine.cpu}, {processors} processors, PyTorch {torch.__version__}, Python {machine.python}"
