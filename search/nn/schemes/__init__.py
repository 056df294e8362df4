"""The binarisation schemes that can be named, a module each: its name with dashes is that of the scheme.

A new scheme is a new module here, with a subclass of `Scheme` and an object of it, `SCHEME`. Listing the names imports
no framework.
"""

import importlib
import pkgutil
from typing import TYPE_CHECKING

from bnas_deploy.core.errors import BnasError
from bnas_deploy.core.names import did_you_mean

if TYPE_CHECKING:
    from bnas_deploy.search.nn.scheme import Scheme

DEFAULT = "xnor-net"
"""The scheme of BNAS: sign, and beta of XNOR-Net."""


def scheme_names() -> list[str]:
    """Return the names of all schemes."""
    return sorted(module.name.replace("_", "-") for module in pkgutil.iter_modules(__path__))


def check_scheme(name: str, where: str) -> None:
    """Check that a scheme has this name; `where` names its origin in the error.

    Raises:
        BnasError: none has.
    """
    known = scheme_names()
    if name not in known:
        raise BnasError(
            f"{where}: unknown scheme {name!r}; the schemes are {', '.join(known)}{did_you_mean(name, known)}"
        )


def named_scheme(name: str) -> "Scheme":
    """Return the scheme of a name that `check_scheme` takes."""
    scheme: Scheme = importlib.import_module(f"{__name__}.{name.replace('-', '_')}").SCHEME
    return scheme
