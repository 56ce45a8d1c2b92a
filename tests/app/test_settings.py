from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import SecretStr

from app.settings import Settings
from app.settings_loader import SettingsError, load_settings, read_env_file
from app.watermark_key import PUBLIC_KEY

EXAMPLE = Path(__file__).parents[2] / ".env.example"


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_the_example_lists_exactly_the_settings() -> None:
    names = re.findall(r"^([A-Z_0-9]+)=", EXAMPLE.read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(names) == sorted(name.upper() for name in Settings.model_fields)


def test_the_example_shows_the_defaults(tmp_path: Path) -> None:
    filled = write(tmp_path / ".env", EXAMPLE.read_text(encoding="utf-8").replace("\nAPI_KEY=\n", "\nAPI_KEY=key\n"))
    only_the_key = write(tmp_path / "key", "API_KEY=key\n")
    assert load_settings(filled) == load_settings(only_the_key)


def test_the_environment_wins_over_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(tmp_path / ".env", "API_KEY=key\nPORT=9000\nTTS_TOP_K=7\n")
    monkeypatch.setenv("PORT", "9001")
    settings = load_settings(file)
    assert (settings.port, settings.tts_top_k) == (9001, 7)


def test_an_empty_value_counts_as_unset(tmp_path: Path) -> None:
    settings = load_settings(write(tmp_path / ".env", "API_KEY=key\nPORT=\nMODEL_PATH=\nTTS_TOP_K=\n"))
    assert (settings.port, settings.model_path, settings.tts_top_k) == (8000, None, 50)


def test_lists_are_separated_by_commas(tmp_path: Path) -> None:
    file = write(tmp_path / ".env", "API_KEY=one, two,\nCORS_ORIGINS=http://a,https://b:8\n")
    settings = load_settings(file)
    assert settings.keys == ("one", "two")
    assert settings.cors_origins == ("http://a", "https://b:8")


def test_auto_and_upper_case_are_read() -> None:
    settings = Settings(api_key="k", workers="AUTO", concurrent_requests_per_worker="auto", log_level="debug")  # type: ignore[arg-type]
    assert (settings.workers, settings.concurrent_requests_per_worker, settings.log_level) == (None, None, "DEBUG")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORT", "70000"),
        ("PORT", "web"),
        ("REFERENCE_HOSTS", "cdn.example.org, https://cdn.example.org"),
        ("WORKERS", "0"),
        ("DEVICE", "tpu"),
        ("DTYPE", "int8"),
        ("TTS_TOP_K", "2052"),
        ("TTS_SYNTHESIS_TEMPERATURE", "nan"),
        ("WEBSOCKET_IDLE_SECONDS", "0"),
        ("FALLBACK_ENGINE", "say"),
        ("TTS_MAX_AUDIO_LENGTH_MS", "79"),
        ("LOG_FORMAT", "xml"),
    ],
)
def test_an_invalid_value_is_reported_with_the_valid_ones(tmp_path: Path, name: str, value: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings(write(tmp_path / ".env", f"API_KEY=key\n{name}={value}\n"))
    message = str(caught.value)
    assert f"{name} is {value!r}" in message
    assert str(Settings.model_fields[name.lower()].description) in message


def test_every_invalid_value_has_its_line(tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings(write(tmp_path / ".env", "PORT=x\nTTS_TOP_K=0\n"))
    assert [line.split()[0] for line in str(caught.value).splitlines()] == ["API_KEY", "PORT", "TTS_TOP_K"]


@pytest.mark.parametrize("value", ["", ",", " , "])
def test_a_key_is_required(tmp_path: Path, value: str) -> None:
    with pytest.raises(SettingsError, match="API_KEY"):
        load_settings(write(tmp_path / ".env", f"API_KEY={value}\n"))


def test_no_secret_is_ever_shown(tmp_path: Path) -> None:
    file = write(tmp_path / ".env", "API_KEY=s3cret\nHF_TOKEN=hf_s3cret\nPORT=x\n")
    with pytest.raises(SettingsError) as caught:
        load_settings(file)
    assert "s3cret" not in str(caught.value)
    assert "s3cret" not in repr(load_settings(write(tmp_path / "good", "API_KEY=s3cret\nHF_TOKEN=hf_s3cret\n")))


def test_without_a_file_only_the_environment_is_read(tmp_path: Path) -> None:
    assert read_env_file(tmp_path / "none") == {}
    assert read_env_file(None) == {}


def test_a_slot_may_be_ahead_by_both_queue_sizes(settings: Settings) -> None:
    assert settings.audio_queue_slices == 5


@pytest.mark.parametrize("key", ["1,2,3", "1,2,3,4,256", "1,2,3,4,five", "1 2 3 4 5"])
def test_an_invalid_watermark_key_is_refused_but_not_shown(tmp_path: Path, key: str) -> None:
    file = tmp_path / ".env"
    file.write_text(f"API_KEY=k\nCSM_WATERMARK_KEY={key}\n")
    with pytest.raises(SettingsError) as caught:
        load_settings(file)
    assert "CSM_WATERMARK_KEY" in str(caught.value)
    assert "five numbers from 0 to 255" in str(caught.value)
    assert key not in str(caught.value)


def test_without_a_watermark_key_the_public_one_is_used(settings: Settings) -> None:
    assert settings.watermark_key == PUBLIC_KEY
    own = settings.model_copy(update={"csm_watermark_key": SecretStr("1, 2, 3, 4, 5")})
    assert own.watermark_key == bytes([1, 2, 3, 4, 5])
