"""Where a trial ran, in a line."""

import platform

import torch

from bnas_deploy.core.counts import counted
from bnas_deploy.core.host import usable_cpus
from bnas_deploy.runtime.bench.machine import cpu_name


def describe_machine(device: torch.device) -> str:
    """Return processor or GPU, how many processors this process may use, and the versions that matter."""
    gpu = f"{torch.cuda.get_device_name(device)}, " if device.type == "cuda" else ""
    processors = counted(usable_cpus(), "processor")
    return f"{gpu}{cpu_name()}, {processors}, PyTorch {torch.__version__}, Python {platform.python_version()}"
