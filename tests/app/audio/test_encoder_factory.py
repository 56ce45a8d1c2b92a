from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from app.audio.encoder_factory import check_encoders, create_encoder
from app.audio.encoders import FORMATS, Encoder
from app.audio.encoders.base import Samples
from app.audio.encoders.profiles import PROFILES
from app.errors import ComponentFailed
from app.observability.components import Components, ComponentStatus


def test_every_format_can_be_made() -> None:
    parts = Components()
    check_encoders(FORMATS.values(), parts)
    assert parts.statuses()["encoders"] == ComponentStatus("ok")


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"codec": "libnothing"}, "cannot encode libnothing into mp3"),
        ({"container": "nothing"}, "cannot encode libmp3lame into nothing"),
        ({"codec_options": 7}, "TypeError: "),  # and what is no refusal of FFmpeg's
    ],
)
def test_a_format_that_cannot_be_made_is_reported_until_it_can(
    change: dict[str, object], why: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    parts = Components()
    with monkeypatch.context() as patch:
        patch.setitem(PROFILES, "mp3", replace(PROFILES["mp3"], **change))  # type: ignore[arg-type]
        check_encoders(FORMATS.values(), parts)
        with pytest.raises(ComponentFailed, match="format mp3 cannot be encoded") as refused:
            create_encoder(FORMATS["mp3"], parts)
        assert (refused.value.status, refused.value.code, refused.value.headers) == (503, "encoder_failed", {})
        status = parts.statuses()["encoders"]
        assert status.state == "failed"
        assert status.error.startswith(f"mp3: {why}")
        assert create_encoder(FORMATS["flac"], parts).encode(np.zeros(4800, np.float32))
    assert [each.levelname for each in caplog.records] == ["ERROR"]
    create_encoder(FORMATS["mp3"], parts)
    assert parts.statuses()["encoders"] == ComponentStatus("ok")


def test_a_codec_that_opens_and_cannot_encode_is_found_by_the_check() -> None:
    class Silent:
        def encode(self, samples: Samples) -> bytes:
            raise ValueError("no frame of this size")

        def flush(self) -> bytes:
            return b""

    def make() -> Encoder:
        return Silent()

    parts = Components()
    check_encoders([replace(FORMATS["mp3"], create_encoder=make)], parts)
    assert parts.statuses()["encoders"] == ComponentStatus("failed", "mp3: ValueError: no frame of this size")
