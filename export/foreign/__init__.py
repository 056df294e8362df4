"""Binary layers that are not the package's: known by what they compute, or by a rule that their owner registers."""

from bnas_deploy.export.foreign.rules import BinaryLayer, Registration, register

__all__ = ["BinaryLayer", "Registration", "register"]
