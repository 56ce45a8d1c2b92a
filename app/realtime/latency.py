"""The spans between the end of the user's speech and the first audio of the answer."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class TurnLatency:
    """Points in time of one turn, of the monotonic clock; None where they did not happen.

    speech_ended: the user fell silent. turn_ended: the silence was long enough, or the client asked for a response.
    transcribed: the words are known. clause_ready: the language model has written its first clause.
    first_audio: the first audio was sent.
    """

    turn_ended: float
    speech_ended: float | None = None
    transcribed: float | None = None
    clause_ready: float | None = None
    first_audio: float | None = None

    def spans(self) -> dict[str, float]:
        """Seconds by name: silence, stt, llm, first_frame, and total for all of them."""
        points = {
            "silence": (self.speech_ended, self.turn_ended),
            "stt": (self.turn_ended, self.transcribed),
            "llm": (self.transcribed or self.turn_ended, self.clause_ready),
            "first_frame": (self.clause_ready, self.first_audio),
            "total": (self.turn_ended if self.speech_ended is None else self.speech_ended, self.first_audio),
        }
        return {
            name: max(end - start, 0.0)
            for name, (start, end) in points.items()
            if start is not None and end is not None
        }
