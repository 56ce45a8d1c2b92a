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


def test_every_format_can_be_encoded() -> None:
    components = Components()
    check_encoders(FORMATS.values(), components)
    assert components.statuses()["encoders"] == ComponentStatus("ok")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"codec": "libnothing"}, "cannot encode libnothing into mp3"),
        ({"container": "nothing"}, "cannot encode libmp3lame into nothing"),
        ({"codec_options": 7}, "TypeError: "),  # not an FFmpeg error
    ],
)
def test_a_failing_encoder_is_reported_until_it_works(
    change: dict[str, object], reason: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    components = Components()
    with monkeypatch.context() as patch:
        patch.setitem(PROFILES, "mp3", replace(PROFILES["mp3"], **change))  # type: ignore[arg-type]
        check_encoders(FORMATS.values(), components)
        with pytest.raises(ComponentFailed, match="format mp3 cannot be encoded") as raised:
            create_encoder(FORMATS["mp3"], components)
        assert (raised.value.status, raised.value.code, raised.value.headers) == (503, "encoder_failed", {})
        status = components.statuses()["encoders"]
        assert status.state == "failed"
        assert status.error.startswith(f"mp3: {reason}")
        assert create_encoder(FORMATS["flac"], components).encode(np.zeros(4800, np.float32))
    assert [each.levelname for each in caplog.records] == ["ERROR"]
    create_encoder(FORMATS["mp3"], components)
    assert components.statuses()["encoders"] == ComponentStatus("ok")


def test_the_check_encodes_a_frame() -> None:
    class FailingEncoder:
        def encode(self, samples: Samples) -> bytes:
            raise ValueError("no frame of this size")

        def flush(self) -> bytes:
            return b""

    def create_failing_encoder() -> Encoder:
        return FailingEncoder()

    components = Components()
    check_encoders([replace(FORMATS["mp3"], create_encoder=create_failing_encoder)], components)
    assert components.statuses()["encoders"] == ComponentStatus("failed", "mp3: ValueError: no frame of this size")
