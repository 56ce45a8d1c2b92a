"""Bodies of POST /tts/dialogue (API.md section 10) and ElevenLabs' /v1/text-to-dialogue, and their jobs."""

from __future__ import annotations

from pydantic import ConfigDict, Field, field_validator

from engine import MAX_GAP_MILLISECONDS, MIN_GAP_MILLISECONDS, DialogueTurn

from ..audio.timeline import ScriptTurn
from ..errors import Unprocessable
from ..settings import Settings
from .elevenlabs import BodyOptions, VoiceSettings
from .parameters import RequestParameters
from .speech import LexiconParameters, SpeechJob, SynthesisParameters, check_length, require_text

MAX_TURNS = 100
MAX_VOICES = 10
DEFAULT_GAP_MILLISECONDS = 200


class TurnParameters(RequestParameters):
    """One turn: who says what."""

    voice_id: str = Field(min_length=1, max_length=128, description="A voice of GET /voices, or speaker_N.")
    text: str = Field(min_length=1, description="All texts together have at most MAX_TEXT_LENGTH characters.")
    gap_ms: int | None = Field(
        None,
        ge=MIN_GAP_MILLISECONDS,
        le=MAX_GAP_MILLISECONDS,
        description="Before this turn, in place of the dialogue's gap_ms.",
    )

    @field_validator("text")
    @classmethod
    def _require_text(cls, text: str) -> str:
        return require_text(text)


class DialogueBody(LexiconParameters, SynthesisParameters):
    """The parameters of /tts/dialogue: turns, and those of /tts/generate except who says what."""

    turns: list[TurnParameters] = Field(
        min_length=2, max_length=MAX_TURNS, description=f"In order, of at most {MAX_VOICES} voices."
    )
    gap_ms: int = Field(
        DEFAULT_GAP_MILLISECONDS,
        ge=MIN_GAP_MILLISECONDS,
        le=MAX_GAP_MILLISECONDS,
        description="Milliseconds of silence between two turns; a negative gap mixes the end of one with the next.",
    )

    @property
    def script(self) -> list[ScriptTurn]:
        return [ScriptTurn(turn.voice_id, turn.text) for turn in self.turns]

    def to_job(self, settings: Settings) -> SpeechJob:
        """The job, with defaults from the settings. Raises Unprocessable: too many voices, or too long a text.

        The texts themselves are read, and refused if need be, by the engine.
        """
        voices = len({turn.voice_id for turn in self.turns})
        if voices > MAX_VOICES:
            raise Unprocessable(
                f"the dialogue has {voices} voices; the limit is {MAX_VOICES}: use fewer, or send it in parts",
                code="too_many_voices",
            )
        check_length(sum(len(turn.text) for turn in self.turns), settings)
        turns = tuple(
            DialogueTurn(turn.text, gap_milliseconds=self.gap_ms if turn.gap_ms is None else turn.gap_ms)
            for turn in self.turns
        )
        request = self.make_request(settings, turns=turns)
        return SpeechJob(request, None, turn_voices=tuple(turn.voice_id for turn in self.turns))


class ElevenLabsTurn(RequestParameters):
    """One input of ElevenLabs' dialogue."""

    model_config = ConfigDict(extra="ignore")

    text: str = Field(min_length=1)
    voice_id: str = Field(min_length=1, max_length=128)

    @field_validator("text")
    @classmethod
    def _require_text(cls, text: str) -> str:
        return require_text(text)


class ElevenLabsDialogue(BodyOptions):
    """The body of /v1/text-to-dialogue. Its context fields are ignored."""

    inputs: list[ElevenLabsTurn] = Field(
        min_length=1, max_length=MAX_TURNS, description=f"The turns in order, of at most {MAX_VOICES} voices."
    )
    settings: VoiceSettings | None = None

    @property
    def script(self) -> list[ScriptTurn]:
        return [ScriptTurn(turn.voice_id, turn.text) for turn in self.inputs]

    def to_dialogue_job(self, settings: Settings) -> SpeechJob:
        """The job. Raises Unprocessable: too many voices, or too long a text."""
        turns = [TurnParameters.model_construct(**turn._asdict()) for turn in self.script]
        options = self.synthesis(self.settings, settings)
        return DialogueBody.model_construct(turns=turns, **options).to_job(settings)
