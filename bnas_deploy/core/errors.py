"""Errors that a user can cause. The command line prints them without a traceback; bugs keep theirs."""

LONGEST_MESSAGE = 3000
"""Characters: a file may hold a name of any length, and a message may show it."""


def printable(text: str) -> str:
    """Return text as one line that every terminal shows as it is: other characters become their escapes."""
    return "".join(each if each.isprintable() else repr(each)[1:-1] for each in text)


class BnasError(Exception):
    """Something the user gave cannot be used.

    `message` says what, where, got, wanted, and what to do. It is one line: names in it come from files and from other
    libraries' messages, and may hold any character. A very long one loses its middle.
    """

    def __init__(self, message: str) -> None:
        half = LONGEST_MESSAGE // 2
        message = printable(message)
        self.message = message if len(message) <= LONGEST_MESSAGE else f"{message[:half]} ... {message[-half:]}"
        super().__init__(self.message)


INSTALL_TRAINING = (
    "run pip install '.[train]' in a clone of bnas-deploy, or pip install 'FILE.whl[train]' with its wheel"
)
"""What brings the packages that only training and exporting need; no index of packages has bnas-deploy."""


class CheckpointError(BnasError):
    """A checkpoint cannot be read or does not fit."""


class DataError(BnasError):
    """A data set is missing, truncated or of another format."""


class RecipeError(BnasError):
    """A recipe cannot be read, or has a key or a value that no recipe has."""


class ExportError(BnasError):
    """A model cannot be exported, or the export does not agree with PyTorch."""


class BundleError(BnasError):
    """A bundle cannot be read, or its files do not match its manifest."""


class RuntimeLibraryError(BnasError):
    """The operator library or onnxruntime cannot be used on this machine."""


class DeviceError(BnasError):
    """The machine that is to be measured over ssh cannot be reached or used."""
