"""A stand-in for CUDA graphs on the CPU: records operators and replays them on the same addresses."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from engine.model.graphs import Work

_READS_VALUES = {"_local_scalar_dense", "nonzero", "equal", "is_nonzero", "item", "masked_select", "unique2"}
_CREATES_VALUES = {"lift_fresh", "lift_fresh_copy"}  # torch.tensor([1, 2]): on a device, a copy from the host


class HostSynchronization(RuntimeError):
    """A graph cannot capture this: Python reads or creates a tensor's values, or a shape depends on them."""


class _Tape(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if operator.overloadpacket.__name__ in _READS_VALUES | _CREATES_VALUES:
            raise HostSynchronization(str(operator))
        result = operator(*args, **(kwargs or {}))
        self.calls.append((operator, args, kwargs or {}, result))
        return result

    def replay(self) -> None:
        for operator, args, kwargs, before in self.calls:
            given = {_storage(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
            after = operator(*args, **kwargs)
            for old, new in zip(tree_leaves(before), tree_leaves(after), strict=True):
                if isinstance(old, Tensor) and _storage(old) not in given:  # else a view, or written in place
                    old.copy_(new)


def _storage(tensor: Tensor) -> int:
    """Address of the storage; a weight in oneDNN's layout has none to read, so its identity."""
    return id(tensor) if tensor.is_mkldnn else tensor.untyped_storage().data_ptr()


class TapeCapturer:
    """Implements engine.model.graphs.GraphCapturer. Counts the replays."""

    def __init__(self) -> None:
        self.replays = 0

    def capture(self, work: Work) -> Work:
        work()
        tape = _Tape()
        with tape:
            work()

        def replay() -> None:
            self.replays += 1
            with torch.inference_mode():
                tape.replay()

        return replay
