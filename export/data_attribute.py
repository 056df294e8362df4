"""`tensor.data` while a module is traced.

torch.export does not see what is done through `.data`. Code that binarises by hand is full of it:

    x.data = x.data.sign()
    self.weight.data = self.weight.org.sign()

Reading it is `detach()`. Setting it gives the tensor another value for the rest of the run, so here each later
operation that is given the tensor takes that value instead.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

_READ = Tensor.data.__get__  # type: ignore[attr-defined]  # of the C class
_SET = Tensor.data.__set__  # type: ignore[attr-defined]  # of the C class


class TracedData(TorchFunctionMode):
    """Makes reading and setting `.data` operations that are traced."""

    def __init__(self) -> None:
        super().__init__()
        # By the identity of the tensor, which is kept alive with its value.
        self._values: dict[int, tuple[Tensor, Tensor]] = {}

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run a function on the values that tensors have by now."""
        if func == _SET:
            tensor, value = args
            self._values[id(tensor)] = (tensor, self._now(value))
            return None
        given, options = (
            tree_map(self._now, (tuple(args), dict(kwargs or {}))) if self._values else (args, kwargs or {})
        )
        return given[0].detach() if func == _READ else func(*given, **options)

    def _now(self, value: Any) -> Any:
        known = self._values.get(id(value)) if isinstance(value, Tensor) else None
        return value if known is None else known[1]
