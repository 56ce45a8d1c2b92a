"""Autoscaling policy: as many replicas as keep a share of their slots busy."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ray.serve.config import AutoscalingContext


def wanted_replicas(busy: Mapping[Any, float], slots: Mapping[Any, float], target_load: float) -> int | None:
    """How many replicas would have `target_load` of their slots busy; None until one has reported its slots.

    busy: slots in use and requests that wait, of each replica, averaged. slots: of each replica.
    """
    reported = [each for each in slots.values() if each > 0]
    if not reported:
        return None
    each_takes = target_load * sum(reported) / len(reported)
    return max(1, math.ceil(sum(busy.values()) / each_takes))


class by_busy_slots:  # noqa: N801  Serve calls the instance as a function
    """The policy of `cluster.options`. Serve applies the limits and the delays of the config to its answer."""

    def __init__(self, target_load: float = 0.7) -> None:
        self._target_load = target_load

    def __call__(self, context: AutoscalingContext) -> tuple[int, dict[str, Any]]:
        metrics = context.aggregated_metrics or {}
        wanted = wanted_replicas(metrics.get("busy_slots", {}), metrics.get("slots", {}), self._target_load)
        return context.target_num_replicas if wanted is None else wanted, {}
