"""From a model on disk to answers, with numpy and onnxruntime: what an app needs.

    import bnas_deploy

    model = bnas_deploy.open_bundle("bundle")
    logits = model.predict(model.preprocess(images))

The operator library is registered by `session_options` and nowhere else; a second registration is refused.
"""

import importlib
import importlib.metadata
import os
import re
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bnas_deploy.core.bundle import MODEL, Bundle, read_bundle
from bnas_deploy.core.errors import BnasError, BundleError, RuntimeLibraryError
from bnas_deploy.core.files import open_regular
from bnas_deploy.core.tensor_spec import TensorSpec
from bnas_deploy.runtime.library import ISA_VARIABLE, check_forced_isa, library_path

if TYPE_CHECKING:
    import onnxruntime

MOST_THREADS = 1024
"""More than a machine has; onnxruntime would try to start any number."""

OLDEST_ONNXRUNTIME = (1, 17)
"""The first version with the C API that the operator library is written against."""


def session_options(
    *, threads: int | None = None, library: bool = True, once: bool = False
) -> "onnxruntime.SessionOptions":
    """Return options for `create_session`, to be used as they are or changed further.

    Args:
        threads: threads that share the work of one operator; None is onnxruntime's choice, one per core.
        library: register the operator library. Without it onnxruntime runs the function bodies in the file, which
            is slower and gives the same answers.
        once: the session is for a run or two. Without the library onnxruntime would unpack the weights when the session
            is made, and keep three copies of 32 bits for each bit; so it unpacks them in each run.

    Raises:
        BnasError: fewer than 1 thread, or more than 1024.
        RuntimeLibraryError: onnxruntime is older than 1.17, or cannot load the library.
    """
    if threads is not None and not 1 <= threads <= MOST_THREADS:
        raise BnasError(f"{threads} threads; give 1 to {MOST_THREADS}, or nothing for one per core")
    runtime = import_onnxruntime()
    options = runtime.SessionOptions()
    options.inter_op_num_threads = 1
    if threads is not None:
        options.intra_op_num_threads = threads
    if once:
        options.add_session_config_entry("optimization.disable_specified_optimizers", "ConstantFolding")
    if library:
        _register(options, library_path())
    return options


def create_session(
    model: str | Path, options: "onnxruntime.SessionOptions | None" = None, *, data: bytes | None = None
) -> "onnxruntime.InferenceSession":
    """Return a CPU session of the ONNX file `model`; `options` default to `session_options()`.

    `data` are the bytes of a model that was made of the file, and are used in its place.

    Raises:
        BundleError: the file is missing, no ONNX file, or damaged.
        RuntimeLibraryError: as for `session_options`.
    """
    runtime = import_onnxruntime()
    try:
        open_regular(Path(model)).close()  # onnxruntime would wait for a pipe
    except OSError as error:
        raise BundleError(
            f"{model}: cannot be read: {error.strerror}; expected an ONNX file such as {MODEL} of a bundle"
        ) from None
    if options is None:
        options = session_options()
    try:
        source = str(model) if data is None else data
        # Without its fallback, which prints and tries the same again after a message that is no UTF-8.
        return runtime.InferenceSession(source, options, providers=["CPUExecutionProvider"], enable_fallback=0)
    except _errors(runtime) as error:
        raise BundleError(
            f"{model}: onnxruntime {runtime.__version__} cannot use it: {_said(error)}; copy or export the bundle again"
        ) from None


def run_session(
    session: "onnxruntime.InferenceSession", model: Path, outputs: Sequence[str], inputs: dict[str, NDArray[Any]]
) -> list[NDArray[Any]]:
    """Return the outputs of `session`, which is one of the file `model`, by their names.

    Raises:
        BundleError: the model has no such inputs or outputs, or is damaged in a way that only shows when it runs.
    """
    try:
        has = [{value.name for value in values} for values in (session.get_inputs(), session.get_outputs())]
    except UnicodeDecodeError as error:
        raise BundleError(
            f"{model}: a name in it is no UTF-8: {_said(error)}; copy or export the bundle again"
        ) from None
    if has[0] != inputs.keys() or not has[1].issuperset(outputs):
        raise BundleError(
            f"{model}: has the inputs {sorted(has[0])} and outputs {sorted(has[1])}; the bundle wants the inputs "
            f"{sorted(inputs)} and outputs {sorted(outputs)}; export the model again"
        )
    try:
        answers: list[NDArray[Any]] = session.run(outputs, inputs)
    except _errors(import_onnxruntime()) as error:
        raise BundleError(
            f"{model}: onnxruntime cannot run it: {_said(error)}; copy or export the bundle again"
        ) from None
    return answers


@dataclass(frozen=True)
class Model:
    """A bundle that is ready to run."""

    bundle: Bundle
    session: "onnxruntime.InferenceSession"

    def __repr__(self) -> str:
        """Say what it is in a line; the whole manifest is `bundle.manifest`."""
        return f"<Model: {self.bundle.description}>"

    @property
    def labels(self) -> tuple[str, ...] | None:
        """Names of the classes, in the order of the logits; None if the network is no classifier."""
        return self.bundle.manifest.labels

    def preprocess(self, images: ArrayLike) -> NDArray[np.float32]:
        """Scale uint8 images (N, H, W, C) to 0..1 and normalise each channel: float32 (N, C, H, W).

        Where C is 1 it may be left out. H and W are the network's.

        Raises:
            BnasError: the images have another dtype or shape, or the network takes no images.
        """
        preprocessing = self.bundle.manifest.preprocessing
        if preprocessing is None:
            raise BnasError(
                f"{self.bundle.path}: does not say how an image becomes an input; it takes {self._taken()}: give that "
                "to Model.run"
            )
        mean, std = (np.array(values, np.float32) for values in (preprocessing.mean, preprocessing.std))
        height, width, channels = preprocessing.height, preprocessing.width, len(mean)
        pixels = _array(images)
        if channels == 1 and pixels.ndim == 3:
            pixels = pixels[..., None]
        _check_array(
            "images",
            pixels,
            TensorSpec("images", "uint8", (None, height, width, channels)),
            "pixels are 0..255 and of this size; a single image is image[None]",
        )
        normalised = (pixels / np.float32(255) - mean) / std
        return np.ascontiguousarray(normalised.transpose(0, 3, 1, 2))

    def predict(self, images: ArrayLike) -> NDArray[np.float32]:
        """Run a network of one input and one output: float32 (N, C, H, W), as `preprocess` gives them, to logits.

        Other inputs than images are taken as well, and other outputs than logits (N, classes) given: those in
        `bundle.manifest`.

        Raises:
            BnasError: the images have another dtype or shape, or the network has several inputs or outputs.
            BundleError: as for `run_session`.
        """
        manifest = self.bundle.manifest
        if len(manifest.inputs) > 1 or len(manifest.outputs) > 1:
            answers = ", ".join(each.name for each in manifest.outputs)
            raise BnasError(f"{self.bundle.path}: takes {self._taken()} and answers {answers}; use Model.run")
        (wanted,) = manifest.inputs
        hint = "give that" if manifest.preprocessing is None else "Model.preprocess makes that from uint8 images"
        pixels = _array(images)
        _check_array("images", pixels, wanted, hint)
        (answer,) = self._answers({wanted.name: pixels}).values()
        return answer

    def run(self, inputs: ArrayLike | Mapping[str, ArrayLike]) -> dict[str, NDArray[Any]]:
        """Run the network, whatever its inputs and outputs are.

        Args:
            inputs: an array for each input by name, as `bundle.manifest.inputs` says; the array alone where there is
                one input. Arrays with the axis N have one size there.

        Returns:
            The array of each output, by name, in the order of `bundle.manifest.outputs`.

        Raises:
            BnasError: an input is missing or unknown, or has another dtype or shape.
            BundleError: as for `run_session`.
        """
        wanted = self.bundle.manifest.inputs
        if not isinstance(inputs, Mapping):
            if len(wanted) > 1:
                raise BnasError(f"one array for {len(wanted)} inputs; give a dict: {self._taken()}")
            inputs = {wanted[0].name: inputs}
        names = {each.name for each in wanted}
        if inputs.keys() != names:
            raise BnasError(f"inputs: got {', '.join(map(str, inputs)) or 'none'}, wanted {self._taken()}")
        arrays = {each.name: _array(inputs[each.name], each.name) for each in wanted}
        for each in wanted:
            _check_array(each.name, arrays[each.name], each, "convert or reshape it")
        sizes = {each.name: len(arrays[each.name]) for each in wanted if each.is_batched}
        if len(set(sizes.values())) > 1:
            got = ", ".join(f"{name} {size}" for name, size in sizes.items())
            raise BnasError(f"inputs: N differs: {got}; give as many of each")
        return self._answers(arrays)

    def _answers(self, arrays: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        names = [each.name for each in self.bundle.manifest.outputs]
        answers = run_session(self.session, self.bundle.file(MODEL), names, arrays)
        # onnxruntime gives a tensor without axes as a number.
        return dict(zip(names, map(np.asarray, answers), strict=True))

    def _taken(self) -> str:
        return ", ".join(f"{each.name} {each.wanted}" for each in self.bundle.manifest.inputs)


def open_bundle(path: str | Path, *, threads: int | None = None, library: bool = True) -> Model:
    """Open the bundle in folder `path`; `threads` and `library` are those of `session_options`.

    Raises:
        BundleError: the folder is no bundle, or a file of it is missing or damaged.
        RuntimeLibraryError: onnxruntime or the operator library cannot be used on this machine.
    """
    options = session_options(threads=threads, library=library)
    bundle = read_bundle(Path(path))
    return Model(bundle, create_session(bundle.file(MODEL), options))


def import_onnxruntime() -> ModuleType:
    """Import onnxruntime if it is new enough.

    Raises:
        RuntimeLibraryError: it is missing, older than 1.17, or cannot be imported.
    """
    # Asked before the import, because onnxruntime 1.16 beside numpy 2 does not get through it. Builds under other
    # names, such as onnxruntime-gpu, are asked after it. It takes a millisecond, which the first session alone pays.
    if "onnxruntime" not in sys.modules:
        with suppress(importlib.metadata.PackageNotFoundError):
            _check_version(importlib.metadata.version("onnxruntime"))
    try:
        runtime = importlib.import_module("onnxruntime")
    except ModuleNotFoundError as error:
        if error.name != "onnxruntime":
            raise
        raise RuntimeLibraryError("onnxruntime is not installed; run: pip install onnxruntime") from None
    except (ImportError, SystemError) as error:  # SystemError is how some fail that were built for another numpy
        raise RuntimeLibraryError(
            f"onnxruntime cannot be imported beside numpy {np.__version__}: {error}; "
            "install a newer one (pip install --upgrade onnxruntime), or numpy<2 for onnxruntime up to 1.18"
        ) from None
    _check_version(runtime.__version__)
    return runtime


def _check_version(version: str) -> None:
    number = re.match(r"(\d+)\.(\d+)", version)
    if number and tuple(map(int, number.groups())) < OLDEST_ONNXRUNTIME:
        wanted = ".".join(map(str, OLDEST_ONNXRUNTIME))
        raise RuntimeLibraryError(
            f"onnxruntime {version} is too old: bnas-deploy needs {wanted} or newer; pip install --upgrade onnxruntime"
        )


def _register(options: "onnxruntime.SessionOptions", library: Path) -> None:
    runtime = import_onnxruntime()
    try:
        options.register_custom_ops_library(str(library))
    except _errors(runtime) as error:
        if os.environ.get(ISA_VARIABLE):
            check_forced_isa(library)  # then another installation would not help
        raise RuntimeLibraryError(
            f"{library}: onnxruntime {runtime.__version__} cannot load the operator library: {error}; reinstall "
            "bnas-deploy on this machine, or go on without it (library=False: slower, same answers)"
        ) from None


def _errors(runtime: ModuleType) -> tuple[type[Exception], ...]:
    """Return the exceptions of onnxruntime that a bad model or library causes; they share no base class of theirs."""
    state = runtime.capi.onnxruntime_pybind11_state
    return (
        state.Fail,
        state.InvalidArgument,
        state.InvalidGraph,
        state.InvalidProtobuf,
        state.NotImplemented,
        state.RuntimeException,
        UnicodeDecodeError,  # instead of any of them, where the message has a name of the file that is no UTF-8
    )


def _said(error: Exception) -> str:
    """Return the message of one of these exceptions, as one line: onnxruntime has one for each node."""
    text = error.object.decode(errors="backslashreplace") if isinstance(error, UnicodeDecodeError) else str(error)
    return " ".join(text.split())


def _array(values: ArrayLike, name: str = "images") -> NDArray[Any]:
    try:
        return np.asarray(values)
    except ValueError as error:  # a list of images of several sizes
        raise BnasError(f"{name}: no array: {error}; give one array, or a list of images of one size") from None


def _check_array(name: str, array: NDArray[Any], wanted: TensorSpec, hint: str) -> None:
    if not wanted.fits(array.dtype, array.shape):
        raise BnasError(f"{name}: got {array.dtype} {array.shape}, wanted {wanted.wanted}; {hint}")
