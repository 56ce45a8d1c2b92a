from __future__ import annotations

from app.realtime.turn_detector import WINDOW_MS, TurnDetector, TurnEvent


def run(detector: TurnDetector, *runs: tuple[float, int]) -> list[TurnEvent]:
    """Events of windows: (probability, how many)."""
    events = [detector.push(probability) for probability, count in runs for _ in range(count)]
    return [event for event in events if event is not None]


def test_a_turn_starts_with_its_first_window_and_stops_after_the_silence() -> None:
    events = run(TurnDetector(0.5, 480), (0.1, 10), (0.9, 20), (0.1, 15))
    assert events == [
        TurnEvent("started", 10 * WINDOW_MS),
        TurnEvent("paused", 35 * WINDOW_MS),
        TurnEvent("stopped", 45 * WINDOW_MS, silence_ms=15 * WINDOW_MS),
    ]


def test_a_click_is_no_turn() -> None:
    assert run(TurnDetector(0.5, 480), (0.1, 5), (0.9, 1), (0.1, 20)) == []


def test_a_pause_does_not_end_a_turn_and_is_taken_back() -> None:
    kinds = [event.kind for event in run(TurnDetector(0.5, 480), (0.9, 10), (0.1, 10), (0.9, 5), (0.1, 15))]
    assert kinds == ["started", "paused", "resumed", "paused", "stopped"]


def test_probabilities_just_below_the_threshold_are_still_speech() -> None:
    assert [event.kind for event in run(TurnDetector(0.5, 320), (0.9, 5), (0.4, 50))] == ["started"]


def test_the_shortest_silence_still_ends_a_turn() -> None:
    assert [event.kind for event in run(TurnDetector(0.5, 32), (0.9, 5), (0.1, 1))] == ["started", "stopped"]


def test_reset_forgets_the_turn() -> None:
    detector = TurnDetector(0.5, 480)
    run(detector, (0.9, 5))
    detector.reset()
    assert not detector.in_turn
    assert run(detector, (0.1, 30)) == []
