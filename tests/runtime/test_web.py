"""The page of examples/web in a headless Chromium: a drawing gets the answer that Python gives for the same pixels."""

import functools
import http.server
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest
import torch
from torch import nn

from bnas_deploy.core.bundle import Preprocessing
from bnas_deploy.export import Description, Images, export_module
from bnas_deploy.runtime.session import open_bundle
from bnas_deploy.search.nn.layers import BinaryConv2d

EXAMPLE = Path(__file__).parents[2] / "examples/web"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chromium-headless-shell")
PACKAGE = "onnxruntime-web"
SIZE = 8


class Browser:
    """A page, spoken to through Chromium's debugging pipe: messages of JSON that end with a zero."""

    def __init__(self, program: str, profile: Path) -> None:
        (theirs_in, self._to), (self._from, theirs_out) = os.pipe(), os.pipe()
        # Chromium reads from descriptor 3 and writes to 4. As root it cannot have its sandbox.
        words = [program, "--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe"]
        shell = f'exec "$@" 3<&{theirs_in} 4>&{theirs_out}'
        self._process = subprocess.Popen(
            ["bash", "-c", shell, "bash", *words, f"--user-data-dir={profile}", "about:blank"],
            pass_fds=(theirs_in, theirs_out),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self._read, self._messages, self._session = b"", 0, ""
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._to)
        os.close(self._from)

    def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._messages += 1
        message = {"id": self._messages, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            answer = json.loads(self._next())
            if answer.get("id") == self._messages:
                assert "error" not in answer, answer
                result: dict[str, Any] = answer["result"]
                return result

    def _next(self) -> bytes:
        while b"\0" not in self._read:
            more = os.read(self._from, 1 << 20)
            assert more, "the browser has ended"
            self._read += more
        line, self._read = self._read.split(b"\0", 1)
        return line

    def evaluate(self, code: str) -> Any:
        """Return what JavaScript gives, or what it promises."""
        result = self.ask("Runtime.evaluate", expression=code, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def wait_for(self, code: str) -> None:
        """Return when JavaScript gives something true, which may take minutes on a busy machine."""
        self.evaluate(
            "new Promise((done, failed) => { let tries = 0; const look = () => {"
            f"if ({code}) done(); else if (++tries > 3600) failed(new Error(document.body?.innerText));"
            "else setTimeout(look, 50); }; look(); })"
        )

    def draw(self, *points: tuple[int, int]) -> None:
        """Press the mouse at the first point, move it to the others and let go."""
        kinds = ["mousePressed", *["mouseMoved"] * (len(points) - 1), "mouseReleased"]
        for kind, (x, y) in zip(kinds, [*points, points[-1]], strict=True):
            self.ask("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", buttons=1, clickCount=1)


@pytest.fixture(scope="module")
def packages(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page with its package installed, kept from one run of the tests to the next."""
    if shutil.which("npm") is None:
        pytest.skip("needs npm")
    cache = getattr(pytestconfig, "cache", None)
    folder: Path = cache.mkdir(PACKAGE) if cache else tmp_path_factory.mktemp("web")
    shutil.copy(EXAMPLE / "package.json", folder)
    wanted = json.loads((folder / "package.json").read_text())["dependencies"][PACKAGE]
    package = folder / "node_modules" / PACKAGE / "package.json"
    if not package.is_file() or json.loads(package.read_text())["version"] != wanted:
        npm = ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", "--prefix", str(folder)]
        done = subprocess.run(npm, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"{PACKAGE} {wanted} cannot be had here: {done.stderr.strip().splitlines()[-1]}")
    return folder / "node_modules"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network for digits, never trained."""
    torch.manual_seed(0)
    layers = [
        *(nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16)),
        *(BinaryConv2d(16, 16, 3, padding=1), nn.PReLU(16)),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10)),
    ]
    description = Description(
        network={"name": "digits"},
        labels=tuple("0123456789"),
        preprocessing=Preprocessing(height=SIZE, width=SIZE, mean=(0.3,), std=(0.4,)),
        metrics={},
    )
    path = tmp_path_factory.mktemp("web") / "bundle"
    export_module(
        nn.Sequential(*layers), path=path, images=Images(torch.randn(2, 1, SIZE, SIZE)), description=description
    )
    return path


@pytest.fixture(scope="module")
def page(packages: Path, bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """The page, opened."""
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None or sys.platform != "linux":
        pytest.skip("needs Chromium: apt-get install --no-install-recommends chromium")
    site = tmp_path_factory.mktemp("site")
    for file in ("index.html", "classify.js"):
        shutil.copy(EXAMPLE / file, site)
    (site / "node_modules").symlink_to(packages)
    (site / "bundle").symlink_to(bundle)

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *arguments: object) -> None:
            """Say nothing of each request."""

    Quiet.extensions_map |= {".mjs": "text/javascript", ".wasm": "application/wasm"}
    handler = functools.partial(Quiet, directory=str(site))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with Browser(program, tmp_path_factory.mktemp("profile")) as browser:
            browser.ask("Page.navigate", url=f"http://127.0.0.1:{server.server_port}/index.html")
            browser.wait_for("document.getElementById('answer')?.textContent.startsWith('Draw')")
            yield browser
        server.shutdown()


def test_a_drawing_is_classified_as_python_does(page: Browser, bundle: Path) -> None:
    page.draw((60, 30), (110, 30), (110, 90), (60, 140))
    page.wait_for("document.getElementById('answer').textContent.startsWith('This is')")
    said = page.evaluate("document.getElementById('answer').textContent")
    seen = page.evaluate("Array.from(window.bundle.input(document.getElementById('paper')))")
    pixels = np.float32(seen).reshape(1, 1, SIZE, SIZE)
    assert len(np.unique(pixels)) > 2  # something was drawn
    model = open_bundle(bundle, library=False)
    assert said == f"This is {model.labels[model.predict(pixels)[0].argmax()]}."


def test_logits_are_those_of_the_desktop(page: Browser, bundle: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (4, SIZE, SIZE), np.uint8)
    model = open_bundle(bundle)
    want = model.predict(model.preprocess(images))
    got = [
        page.evaluate(f"window.bundle.predict(window.bundle.normalised({image.ravel().tolist()}))") for image in images
    ]
    # The float layers at both ends sum at most 64 terms in another order: 64 roundings of 6e-8, of values below 8.
    np.testing.assert_allclose(np.float32(got), want, rtol=0, atol=64 * 2.0**-24 * 8)
    assert np.abs(want[0] - want[1]).max() > 1e-3  # other images have other answers, which would be noticed


MODULE = """
export const env = { wasm: {} };
export class InferenceSession { static create() { return Promise.resolve("opened"); } }
"""
OPEN = """
globalThis.fetch = async () => ({
  ok: true,
  json: async () => JSON.parse(process.argv[2]),
  arrayBuffer: async () => new ArrayBuffer(0),
});
const { openBundle } = await import("./classify.js");
openBundle("bundle").then((bundle) => console.log(bundle.session), (error) => console.log(error.message));
"""


@pytest.mark.parametrize(
    ("lacks", "said"),
    [
        ((), "opened"),
        (("labels",), "it has no labels, so its network is no classifier; export one that has labels"),
        (
            ("preprocessing",),
            "it has no preprocessing, so nothing says how a drawing becomes its input; export it with one",
        ),
    ],
    ids=["nothing", "labels", "preprocessing"],
)
def test_a_bundle_that_lacks_something_is_told(lacks: tuple[str, ...], said: str, bundle: Path, tmp_path: Path) -> None:
    if (node := shutil.which("node")) is None:
        pytest.skip("needs node")
    manifest = json.loads((bundle / "manifest.json").read_text()) | dict.fromkeys(lacks)
    shutil.copy(EXAMPLE / "classify.js", tmp_path)
    package = tmp_path / "node_modules" / PACKAGE / "dist"
    package.mkdir(parents=True)
    (package / "ort.wasm.bundle.min.mjs").write_text(MODULE)  # nothing is computed here
    (tmp_path / "package.json").write_text('{"type": "module"}')
    (tmp_path / "open.js").write_text(OPEN)
    done = subprocess.run(
        [node, "open.js", json.dumps(manifest)], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == said


def test_what_cannot_be_opened_is_told(page: Browser) -> None:
    url = page.evaluate("location.origin")
    page.ask("Page.navigate", url=f"{url}/index.html?bundle=nowhere")
    page.wait_for("document.getElementById('answer')?.textContent.startsWith('This bundle')")
    said = page.evaluate("document.getElementById('answer').textContent")
    assert said == "This bundle cannot be opened: nowhere/manifest.json: 404 File not found"
