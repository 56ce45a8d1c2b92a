from __future__ import annotations

import pytest

from app.audio.encoders import EncoderError
from app.audio.encoders.container import ContainerEncoder, Profile


@pytest.mark.parametrize(
    "profile",
    [
        Profile(container="mp3", codec="no_such_codec", sample_format="fltp"),
        Profile(container="no_such_container", codec="flac", sample_format="s16"),
        Profile(container="webm", codec="aac", sample_format="fltp"),
        Profile(container="mp3", codec="libmp3lame", sample_format="u8"),
        Profile(container="mp4", codec="mpeg4", sample_format="fltp"),
    ],
    ids=lambda profile: f"{profile.codec} in {profile.container}",
)
def test_unsupported_codecs_and_containers_raise_encoder_error(profile: Profile) -> None:
    with pytest.raises(EncoderError, match=f"cannot encode {profile.codec} into {profile.container}: .+PyAV"):
        ContainerEncoder(profile)
