"""How many operators a frame runs: on a GPU each is a kernel, and small kernels, not bytes, are most of a frame's time.

Counted on the CPU at CSM-1B's depth and number of codebooks, with tiny widths, without compilation. On a GPU compiled
modules fuse some of them, and ragged attention takes one more per layer. The budgets are what the code needs now: lower
them with every operator that is saved, and never raise them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from engine.codec.mimi import load_transformers_mimi
from engine.frame_pipeline import CAPTURED_MODE
from engine.model.config import read_config
from engine.model.csm import CsmModel
from engine.model.graphs import Bucket
from engine.model.weights import open_tensors
from engine.model_runner import ModelRunner
from engine.random_checkpoint import TINY, build_model, write_checkpoint

STEP_BUDGET = 3063
CODEC_BUDGET = 171

DEEP: dict[str, Any] = TINY | {
    "num_codebooks": 32, "num_hidden_layers": 16, "depth_num_hidden_layers": 4, "codec_num_hidden_layers": 8,
}  # fmt: skip


class KernelCounter(TorchDispatchMode):
    """Counts the operators that compute or copy: views and allocations launch nothing."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = operator(*args, **(kwargs or {}))
        given = {_storage(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        made = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor) and _storage(leaf) not in given]
        name = operator.overloadpacket.__name__
        if operator._schema.is_mutable or (made and "empty" not in name):
            self.counts[name] += 1
        return result


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def kernels_of(work: Callable[[], object]) -> Counter[str]:
    with torch.inference_mode():
        work()  # the first run may allocate or cache
        with KernelCounter() as counter:
            work()
    return counter.counts


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("deep"), build_model(DEEP))


@pytest.fixture(scope="module")
def model(checkpoint: Path) -> CsmModel:
    """With plain products: a CPU's packed ones are other operators than a GPU's."""
    return CsmModel(read_config(checkpoint / "config.json"), 257, DEEP["codec_codebook_size"]).eval()


@pytest.fixture(scope="module")
def runner(checkpoint: Path, model: CsmModel) -> ModelRunner:
    config, tensors = read_config(checkpoint / "config.json"), open_tensors(checkpoint)
    return ModelRunner(model, load_transformers_mimi(config.codec, tensors, config.codebooks, torch.device("cpu")), 2)


def test_a_step_stays_within_its_budget(model: CsmModel) -> None:
    state = model.allocate(2)
    state.active[:] = True
    counts = kernels_of(lambda: model.frame_step(state, 2, 64, CAPTURED_MODE))
    assert counts.total() <= STEP_BUDGET, counts.most_common()


def test_a_step_multiplies_with_every_weight_once(model: CsmModel) -> None:
    """Each layer has four products (QKV, output, gate and up, down); a frame has a head for each codebook, and the
    projection of the backbone's state: 593, as counted on a GPU."""
    state = model.allocate(2)
    counts = kernels_of(lambda: model.frame_step(state, 2, 64, CAPTURED_MODE))
    books = DEEP["num_codebooks"]
    layers = DEEP["num_hidden_layers"] + DEEP["depth_num_hidden_layers"] * (books - 1)
    products = sum(counts[name] for name in ("linear", "mm", "addmm", "bmm", "matmul"))
    assert products == 4 * layers + books + 1 == 593


def test_a_codec_step_stays_within_its_budget(runner: ModelRunner) -> None:
    counts = kernels_of(lambda: runner.frames._decode(Bucket(2)))
    assert counts.total() <= CODEC_BUDGET, counts.most_common()


def test_views_and_allocations_are_not_counted() -> None:
    x = torch.zeros(4, 6)

    def work() -> None:
        y = x.view(6, 4).t()[1:]
        torch.empty_like(y)
        x.add_(1)
        torch.cat((y, y * 2))

    assert kernels_of(work) == {"add_": 1, "mul": 1, "cat": 1}
