"""Arithmetic and compiled code: what they round, what they leave as it is, and what they need."""

import subprocess
import sys
import sysconfig
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from bnas_deploy.core.errors import BnasError
from bnas_deploy.search.cells import search as module
from bnas_deploy.search.cells import search_run
from bnas_deploy.search.cells.config import SEARCH_RECIPES, SearchConfig, SupernetConfig
from bnas_deploy.search.cells.space import SearchSpace
from bnas_deploy.search.cells.supernet import Mixture, Supernet
from bnas_deploy.search.data.dataset import DataDescription, Images, InMemoryDataSet
from bnas_deploy.search.nn.estimators import sign_activation, sign_weight
from bnas_deploy.search.nn.layers import BinaryConv2d
from bnas_deploy.search.training import acceleration
from bnas_deploy.search.training.acceleration import check_arithmetic, check_compiler, compiled, memory_format_of, tf32

# While it traces, torch.compile uses what PyTorch deprecates, and looks at attributes that warn.
compiles = pytest.mark.filterwarnings("ignore")

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
SPACE = SearchSpace(("none", "max_pool_3x3", "bin_conv_3x3"))
NETWORK = SupernetConfig(SPACE, cells=3, channels=2, classes=3, in_channels=1, image_size=(8, 8))
CONFIG = SearchConfig(NETWORK, replace(SEARCH_RECIPES["digits"], epochs=1, batch_size=6))

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch finds no CUDA GPU here")


def missing_compiler() -> str | None:
    try:
        check_compiler(CPU)
    except BnasError as error:
        return error.message
    return None


def make_data():
    random = torch.Generator().manual_seed(0)
    images = Images(
        torch.randint(256, (35, 1, 8, 8), generator=random, dtype=torch.uint8),
        torch.randint(3, (35,), generator=random),
    )
    return InMemoryDataSet(DataDescription("noise", ("a", "b", "c"), 1, (8, 8), (0.5,), (0.3,)), images, images)


def step(run, network, x):
    """Return logits and gradients."""
    mixture = Mixture(*(alphas.softmax(dim=1) for alphas in network.alphas.values()))
    network.zero_grad()
    logits = run(x, mixture)
    (logits * torch.arange(1.0, logits.numel() + 1).to(x).reshape(logits.shape)).sum().backward()
    return logits.detach(), {name: parameter.grad for name, parameter in network.named_parameters()}


def assert_same_step(run, network, x, tolerance):
    run(x, Mixture(*(alphas.softmax(dim=1) for alphas in network.alphas.values())))
    got, got_gradients = step(run, network, x)
    want, want_gradients = step(network, network, x)
    assert (got - want).abs().max() <= tolerance * want.abs().max()
    for name, gradient in want_gradients.items():
        assert (got_gradients[name] - gradient).abs().max() <= tolerance * gradient.abs().max().clamp_min(1), name


# ---- arithmetic


def test_bfloat16_rounds_the_exact_sums_of_a_binary_convolution():
    x, weight = torch.randn(2, 40, 6, 6), torch.randn(8, 40, 3, 3)
    exact = F.conv2d(x.sign(), weight.sign(), padding=1)  # integers below 2^24
    with torch.autocast("cpu", torch.bfloat16):
        got = F.conv2d(sign_activation(x), sign_weight(weight), padding=1)
    assert torch.equal(got, exact.bfloat16())


@pytest.mark.parametrize("operand", [-1.0, 0.0, 1.0])
def test_operands_of_binary_convolutions_are_exact_in_tf32(operand):
    bits = torch.tensor(operand).view(torch.int32).item()
    assert bits & (2**13 - 1) == 0  # TF32 drops the last 13 bits of a float32


def test_tf32_is_what_was_asked_for_and_is_put_back():
    def flags():
        return torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32

    before = flags()
    with tf32(True):
        assert flags() == (True, True)
        with tf32(False):
            assert flags() == (False, False)
        assert flags() == (True, True)
    assert flags() == before


def test_a_search_takes_steps_in_its_arithmetic_and_evaluates_in_float32(tmp_path, monkeypatch):
    seen = set()
    forward = Supernet.forward

    def watched(self, x, mixture):
        seen.add((self.training, torch.is_autocast_enabled("cpu"), torch.backends.cudnn.allow_tf32))
        return forward(self, x, mixture)

    monkeypatch.setattr(Supernet, "forward", watched)
    monkeypatch.setattr(
        module, "check_step", lambda config, device, processes: None
    )  # which runs a supernet of its own
    result = module.search(make_data(), replace(CONFIG, arithmetic="bfloat16"), tmp_path / "a")
    assert result.finished
    assert seen == {(True, True, False), (False, False, False)}
    seen.clear()
    monkeypatch.setattr(module, "check_arithmetic", lambda arithmetic, device: None)
    module.search(make_data(), replace(CONFIG, arithmetic="tf32"), tmp_path / "b")
    assert seen == {(True, False, True), (False, False, False)}


def test_an_arithmetic_that_the_machine_lacks(monkeypatch):
    with pytest.raises(BnasError, match=r"^--arithmetic tf32: a CPU has no TF32; use float32 or bfloat16, or --device"):
        check_arithmetic("tf32", CPU)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla T4")
    with pytest.raises(
        BnasError, match=r"^--arithmetic bfloat16: Tesla T4 has compute capability 7.5, and 8.0 is needed; use float32$"
    ):
        check_arithmetic("bfloat16", CUDA)
    check_arithmetic("float32", CUDA)
    check_arithmetic("float16", CUDA)
    with pytest.raises(
        BnasError, match=r"^--arithmetic float16: CPUs convert it to float32 and back, .*; use float32 or"
    ):
        check_arithmetic("float16", CPU)
    with pytest.raises(BnasError, match=r"^unknown arithmetic 'int8'; there are float32, tf32, bfloat16, float16$"):
        replace(CONFIG, arithmetic="int8")


# ---- compiled code


@compiles
def test_what_is_traced_is_the_same_step(monkeypatch):
    """Tracing finds the whole network, with its gradients; the code that would be made of it runs here as it is."""
    compile_ = torch.compile
    monkeypatch.setattr(
        torch, "compile", lambda network, **options: compile_(network, backend="aot_eager", fullgraph=True)
    )
    network = Supernet(NETWORK).double()
    x = torch.randn(6, 1, 8, 8, dtype=torch.float64)
    # The same float64 operations, some in another order; see test_supernet.py.
    assert_same_step(compiled(network, CPU), network, x, 1e-8)


def test_full_batches_run_compiled_and_others_do_not(tmp_path, monkeypatch):
    sizes = []

    def pretend(network, device):
        return lambda x, mixture: sizes.append(len(x)) or network(x, mixture)

    monkeypatch.setattr(search_run, "compiled", pretend)
    monkeypatch.setattr(module, "check_compiler", lambda device: None)
    with_code = module.search(make_data(), replace(CONFIG, compiled=True), tmp_path / "a")
    assert sizes == [6] * 5  # of 18 images for the alphas three full batches, of 17 for the weights two and one of 5
    without = module.search(make_data(), CONFIG, tmp_path / "b")
    assert with_code.genotype == without.genotype
    with pytest.raises(module.SearchError, match=r"other settings: search.compiled \(True before, False now\)"):
        module.search(make_data(), CONFIG, tmp_path / "a", resume=True)


@compiles
@pytest.mark.skipif(missing_compiler() is not None, reason=str(missing_compiler()))
def test_code_for_the_cpu_gives_the_same_signs_and_gradients():
    """One binary convolution with what surrounds it in a supernet; a whole one takes minutes to compile."""

    def block(x, weight):
        y = F.relu(F.conv2d(sign_activation(x), sign_weight(weight), padding=1))
        return y * weight.abs().mean(dim=(1, 2, 3))[:, None, None]

    torch.manual_seed(0)
    x, weight = torch.randn(2, 3, 5, 5), torch.randn(4, 3, 3, 3)
    x[0, 0, 0, :2] = torch.tensor([0.0, -0.0])
    x[0, 0, 1, :2] = torch.tensor([1.0, -1.0])
    results = []
    for run in (block, torch.compile(block, dynamic=False)):
        inputs = [each.clone().requires_grad_() for each in (x, weight)]
        y = run(*inputs)
        y.sum().backward()
        results.append((y.detach(), *(each.grad for each in inputs)))
    for got, want in zip(*reversed(results), strict=True):
        # Sums of integers are exact; a mean of 27 and sums of 50 products round by at most 2^-24 of the whole each.
        torch.testing.assert_close(got, want, rtol=100 * 2**-24, atol=100 * 2**-24)


def test_what_a_compiler_needs(monkeypatch, tmp_path):
    monkeypatch.setenv("CXX", "no-such-compiler")
    end = "or leave --compile out"
    assert missing_compiler() == (
        "--compile: PyTorch needs a C++ compiler (no-such-compiler), which is not here; install one (Debian: apt "
        f"install g++) or name one in CXX, {end}"
    )
    monkeypatch.setenv("CXX", "true")
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    assert missing_compiler() == (
        f"--compile: PyTorch needs {tmp_path / 'Python.h'}, which is not here; install Python's headers (Debian: apt "
        f"install python3-dev), {end}"
    )
    monkeypatch.setattr(acceleration.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BnasError, match=f"needs Triton, which is not here; install it with pip install triton, {end}"):
        check_compiler(CUDA)
    (tmp_path / "Python.h").touch()
    assert missing_compiler() is None
    assert Path(tmp_path, "Python.h").exists()


def test_gdas_is_not_compiled():
    with pytest.raises(BnasError, match=r"^--compile: gdas runs other operations in every step"):
        replace(CONFIG, strategy="gdas", compiled=True)


# ---- on a GPU


@needs_gpu
@compiles
@pytest.mark.parametrize("code", [False, True], ids=["as-it-is", "compiled"])
def test_a_gpu_takes_the_step_of_the_cpu(code):
    network = Supernet(NETWORK)
    x = torch.randn(6, 1, 8, 8)
    want, want_gradients = step(network, network, x)
    on_gpu = Supernet(NETWORK)
    on_gpu.load_state_dict(network.state_dict())
    on_gpu = on_gpu.to(device="cuda", memory_format=torch.channels_last)
    with tf32(False):
        got, gradients = step(compiled(on_gpu, CUDA) if code else on_gpu, on_gpu, x.to("cuda"))
    # float32 sums in another order; a sign that flips by it would show as far more, with this seed none does.
    assert (got.cpu() - want).abs().max() <= 1e-3 * want.abs().max()
    for name, gradient in want_gradients.items():
        assert (gradients[name].cpu() - gradient).abs().max() <= 1e-2 * gradient.abs().max().clamp_min(1), name


@needs_gpu
@compiles
@pytest.mark.parametrize("arithmetic", ["float32", "tf32", "bfloat16"])
@pytest.mark.parametrize("code", [False, True], ids=["as-it-is", "compiled"])
def test_a_gpu_searches(tmp_path, arithmetic, code):
    config = replace(CONFIG, arithmetic=arithmetic, compiled=code)
    assert module.search(make_data(), config, tmp_path, device=CUDA).finished


STRIDED = """
import torch
from torch import nn
from bnas_deploy.search.training.acceleration import memory_format_of

for channels in (2, 4, 6):
    network = nn.Sequential(nn.Conv2d(3, channels, 1, bias=False), nn.Conv2d(channels, 8, 1, stride=2, bias=False))
    layout = memory_format_of(network, torch.device("cpu"))
    network.to(memory_format=layout)
    for _ in range(30):
        images = torch.randint(-8, 9, (4, 3, 16, 16)).float()
        network(images.contiguous(memory_format=layout)).sum().backward()
        seen = network[0](images)[:, :, ::2, ::2].sum((0, 2, 3))
        assert torch.allclose(network[1].weight.grad[:, :, 0, 0], seen.expand(8, -1), rtol=1e-3, atol=1e-2)
        network.zero_grad()
"""


def test_gradients_of_strided_1x1_convolutions_of_few_channels_are_right():
    # In channels last the process ends with "corrupted double-linked list", or hangs, where a CPU has AVX2.
    command = [sys.executable, "-P", "-c", STRIDED]
    run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize("kind", [nn.Conv2d, BinaryConv2d])
def test_only_networks_with_such_a_convolution_have_their_channels_first(kind):
    network = nn.Sequential(nn.Conv2d(3, 4, 3), kind(4, 8, 1, stride=2))
    assert memory_format_of(network, CPU) == torch.contiguous_format
    assert memory_format_of(network, CUDA) == torch.channels_last
    for other in (kind(4, 8, 1), kind(4, 8, 3, stride=2), kind(8, 8, 1, stride=2), nn.Linear(3, 4)):
        assert memory_format_of(nn.Sequential(other), CPU) == torch.channels_last
