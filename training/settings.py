"""How a run is to go."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

# What may differ when a run is taken up again: it changes no step, or is the reason why one takes it up.
FREE = frozenset(
    {"steps", "minutes", "device", "max_positions", "log_every", "save_every", "evaluate_every", "sample_every"}
)


@dataclass(frozen=True)
class TrainSettings:
    """Everything that decides what a step does. Raises ValueError that names the setting and what it may be.

    steps: updates of the weights, all in all.
    max_positions: places in one batch on one device, padding included; a step whose sequences take more is done in
        several batches, with their gradients added up.
    schedule: of the learning rate, behind `warmup` steps of linear rise: falling along a cosine or a line to
        `final_share` of it, or constant.
    weight_decay: on matrices alone, neither on norms nor on embeddings.
    clip: the gradients' norm is held at most there.
    depth_share: the random part of the frames that the depth decoder learns from; Sesame's paper has 1/16.
    first_weight, depth_weight: what the two losses count for; depth's is the mean over its codebooks.
    codebook_weights: what each codebook from 1 on counts for in the depth loss; None counts all alike.
    precision: "bfloat16" computes in it where that is safe (autocast); trained weights stay float32. "auto" does so
        on GPUs that do it natively.
    device: "auto" (cuda where there is one), "cpu" or "cuda".
    minutes: end cleanly after so long, with the state saved; None goes on to the last step.
    """

    steps: int = 1000
    seed: int = 0
    max_positions: int = 4096
    learning_rate: float = 1e-4
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup: int = 50
    final_share: float = 0.1
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.01
    clip: float = 1.0
    depth_share: float = 1 / 16
    first_weight: float = 1.0
    depth_weight: float = 1.0
    codebook_weights: tuple[float, ...] | None = None
    precision: Literal["auto", "float32", "bfloat16"] = "float32"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    minutes: float | None = None
    log_every: int = 10
    save_every: int = 200
    evaluate_every: int = 0  # 0: never
    sample_every: int = 0  # 0: never

    def __post_init__(self) -> None:
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if value is not None and not value >= least:
                raise ValueError(f"{name} is {value}, but must be at least {least:g}")
        for name in ("learning_rate", "clip", "depth_share"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}, but must be above 0")
        if self.depth_share > 1:
            raise ValueError(f"depth_share is {self.depth_share}, but is a part: at most 1")
        for name, allowed in _ONE_OF.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} is {getattr(self, name)!r}, but must be one of {', '.join(allowed)}")

    def binding(self) -> dict[str, Any]:
        """What must not differ when a run is taken up again, fit for JSON."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in asdict(self).items()
            if name not in FREE
        }


_LEAST: dict[str, float] = {
    "steps": 1, "max_positions": 1, "warmup": 0, "final_share": 0, "weight_decay": 0, "first_weight": 0,
    "depth_weight": 0, "minutes": 0, "log_every": 1, "save_every": 1, "evaluate_every": 0, "sample_every": 0,
}  # fmt: skip
_ONE_OF = {
    "schedule": ("cosine", "linear", "constant"),
    "precision": ("auto", "float32", "bfloat16"),
    "device": ("auto", "cpu", "cuda"),
}
