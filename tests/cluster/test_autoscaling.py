from __future__ import annotations

from types import SimpleNamespace

import pytest

from cluster.autoscaling import by_busy_slots, wanted_replicas


@pytest.mark.parametrize(
    ("busy", "slots", "wanted"),
    [
        ([0.0], [8], 1),  # never none
        ([5.6], [8], 1),
        ([5.7], [8], 2),
        ([8.0, 8.0], [8, 8], 3),
        ([3.0, 3.0, 3.0], [8, 8, 8], 2),
        ([12.0, 0.0], [8, 0], 3),  # one has not loaded its engine yet
    ],
)
def test_as_many_as_have_seven_tenths_of_their_slots_busy(busy: list[float], slots: list[int], wanted: int) -> None:
    assert wanted_replicas(dict(enumerate(busy)), dict(enumerate(slots)), 0.7) == wanted


def test_before_any_report_the_number_stays() -> None:
    context = SimpleNamespace(aggregated_metrics={}, target_num_replicas=4)
    assert by_busy_slots(0.7)(context) == (4, {})  # type: ignore[arg-type]


def test_the_policy_reads_what_replicas_record() -> None:
    metrics = {"busy_slots": {"a": 8.0, "b": 8.0}, "slots": {"a": 8, "b": 8}}
    context = SimpleNamespace(aggregated_metrics=metrics, target_num_replicas=2)
    assert by_busy_slots(0.5)(context) == (4, {})  # type: ignore[arg-type]
