"""Errors that a user can cause. The command line prints them without a traceback; bugs keep theirs."""

import click


class BnasError(click.ClickException):
    """Something the user gave cannot be used.

    The message says what, where, got, wanted, and what to do.
    """


INSTALL_TRAINING = (
    "run pip install '.[train]' in a clone of bnas-deploy, or pip install 'FILE.whl[train]' with its wheel"
)
"""What brings the packages that only training and exporting need; no index of packages has bnas-deploy."""


class CheckpointError(BnasError):
    """A checkpoint cannot be read or does not fit."""


class DataError(BnasError):
    """A data set is missing, truncated or of another format."""


class ExportError(BnasError):
    """A model cannot be exported, or the export does not agree with PyTorch."""


class BundleError(BnasError):
    """A bundle cannot be read, or its files do not match its manifest."""


class RuntimeLibraryError(BnasError):
    """The operator library or onnxruntime cannot be used on this machine."""


class DeviceError(BnasError):
    """The machine that is to be measured over ssh cannot be reached or used."""
