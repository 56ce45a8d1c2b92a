"""Training settings of one run."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

# Settings that may change on resume: they do not affect a step's result, or are the reason for resuming.
RESUME_MAY_CHANGE = frozenset(
    {"steps", "minutes", "device", "max_positions", "log_every", "save_every", "evaluate_every", "sample_every"}
)


@dataclass(frozen=True)
class TrainSettings:
    """Everything that determines a training step. Raises ValueError naming the setting and its allowed values.

    steps: optimizer steps in total.
    max_positions: positions in one batch on one device, padding included; a step with more uses gradient accumulation
        over several batches.
    schedule: learning rate after `warmup` steps of linear increase: a cosine or linear decay to `final_share` of it, or
        constant.
    weight_decay: on matrices only, not on norms or embeddings.
    clip: maximum gradient norm.
    depth_share: random share of the frames that the depth decoder is trained on; 1/16 in Sesame's paper.
    first_weight, depth_weight: weights of the two losses; depth's is the mean over its codebooks.
    codebook_weights: weights of codebooks 1 and up in the depth loss; None weights all alike.
    precision: "bfloat16" uses autocast; trained weights stay float32. "auto" does so on GPUs with native support.
    device: "auto" (CUDA if available), "cpu" or "cuda".
    minutes: time limit; the run saves its state and ends. None runs to the last step.
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
        for name, minimum in _MINIMUMS.items():
            value = getattr(self, name)
            if value is not None and not value >= minimum:
                raise ValueError(f"{name} is {value}, but must be at least {minimum:g}")
        for name in ("learning_rate", "clip", "depth_share"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}, but must be above 0")
        if self.depth_share > 1:
            raise ValueError(f"depth_share is {self.depth_share}, but must be at most 1")
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} is {getattr(self, name)!r}, but must be one of {', '.join(choices)}")

    def binding(self) -> dict[str, Any]:
        """Settings that must be unchanged on resume, JSON-compatible."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in asdict(self).items()
            if name not in RESUME_MAY_CHANGE
        }


_MINIMUMS: dict[str, float] = {
    "steps": 1, "max_positions": 1, "warmup": 0, "final_share": 0, "weight_decay": 0, "first_weight": 0,
    "depth_weight": 0, "minutes": 0, "log_every": 1, "save_every": 1, "evaluate_every": 0, "sample_every": 0,
}  # fmt: skip
_CHOICES = {
    "schedule": ("cosine", "linear", "constant"),
    "precision": ("auto", "float32", "bfloat16"),
    "device": ("auto", "cpu", "cuda"),
}
