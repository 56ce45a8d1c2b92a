"""Training reports: TensorBoard scalars and a plot of the losses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch.utils.tensorboard import SummaryWriter

from .run_log import read_log

_CURVES = {
    "first": "codebook 0 (backbone)",
    "depth": "other codebooks (depth decoder)",
    "held_out_first": "codebook 0, held out",
    "held_out_depth": "other codebooks, held out",
}


class TensorBoardLogger:
    """Writes every log figure as a TensorBoard scalar."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._writer: Any = None

    def __call__(self, entry: dict[str, float]) -> None:
        step = int(entry["step"])
        if self._writer is None:  # purge steps that a killed run logged after its last saved state
            self._writer = SummaryWriter(str(self._directory), purge_step=step)
        for name, figure in entry.items():
            if name != "step":
                self._writer.add_scalar(name, figure, step)
        self._writer.flush()

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


def plot_losses(log: Path, path: Path) -> None:
    """Plot the losses in log.jsonl over the steps, as a PNG."""
    lines = read_log(log)
    figure = Figure(figsize=(8, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for name, meaning in _CURVES.items():
        points = [(line["step"], line[name]) for line in lines if name in line]
        if points:
            held_out = name.startswith("held_out")
            axes.plot(*zip(*points, strict=True), "o--" if held_out else "-", markersize=3, label=meaning)
    axes.set_xlabel("step")
    axes.set_ylabel("cross-entropy, nats")
    axes.grid(alpha=0.3)
    if axes.lines:
        axes.legend()
    figure.savefig(path, dpi=120, format="png")
