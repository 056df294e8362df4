"""Where the operator library is."""

from pathlib import Path

from bnas_deploy.errors import RuntimeLibraryError

LIBRARY = "libbnas_ort.so"


def library_path() -> Path:
    """Return the path of the operator library, which onnxruntime loads with `register_custom_ops_library`.

    Raises:
        RuntimeLibraryError: the package was installed without building it.
    """
    path = Path(__file__).with_name(LIBRARY)
    if not path.is_file():
        raise RuntimeLibraryError(
            f"{path}: missing; wanted the operator library that the installation builds; "
            "install bnas-deploy again with `pip install .` or `pip install -e .` in its repository"
        )
    return path
