"""A CUDA graph's twin on the CPU: what was done is done again, operator by operator, on the same addresses."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from engine.model.graphs import Work

_ASKS_FOR_VALUES = {"_local_scalar_dense", "nonzero", "equal", "is_nonzero", "item", "masked_select", "unique2"}
_BRINGS_VALUES = {"lift_fresh", "lift_fresh_copy"}  # torch.tensor([1, 2]): on a device, a copy from the host


class HostMustNotWait(RuntimeError):
    """What a graph cannot hold: Python asks for a tensor's values or brings some, or a shape depends on them."""


class _Tape(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if operator.overloadpacket.__name__ in _ASKS_FOR_VALUES | _BRINGS_VALUES:
            raise HostMustNotWait(str(operator))
        result = operator(*args, **(kwargs or {}))
        self.calls.append((operator, args, kwargs or {}, result))
        return result

    def play(self) -> None:
        for operator, args, kwargs, before in self.calls:
            given = {_storage(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
            after = operator(*args, **kwargs)
            for old, new in zip(tree_leaves(before), tree_leaves(after), strict=True):
                if isinstance(old, Tensor) and _storage(old) not in given:  # else a view, or written in place
                    old.copy_(new)


def _storage(tensor: Tensor) -> int:
    """Where its values are; of a weight that oneDNN has laid out, nobody may know."""
    return id(tensor) if tensor.is_mkldnn else tensor.untyped_storage().data_ptr()


class TapeCapturer:
    """Implements engine.model.graphs.GraphCapturer. Counts what is played."""

    def __init__(self) -> None:
        self.played = 0

    def capture(self, work: Work) -> Work:
        work()
        tape = _Tape()
        with tape:
            work()

        def replay() -> None:
            self.played += 1
            with torch.inference_mode():
                tape.play()

        return replay
