from __future__ import annotations

import json
import stat
import threading
from pathlib import Path
from typing import Any

import pytest

from app.access.api_keys import ApiKey, hash_key
from app.access.key_file import InvalidKeyFile, edited_keys, read_keys
from app.access.key_ring import KeyRing
from app.cli.main import main
from app.errors import Unauthorized


def entry(name: str, key: str = "", **fields: Any) -> ApiKey:
    return ApiKey(name=name, sha256=hash_key(key or name), **fields)


def add(path: Path, *entries: ApiKey) -> None:
    with edited_keys(path) as keys:
        keys.extend(entries)


def clear_and_fail(path: Path) -> None:
    with edited_keys(path) as keys:
        keys.clear()
        raise ZeroDivisionError


def refreshed(ring: KeyRing) -> KeyRing:
    """The ring, as it is once it looks at its file again."""
    ring._next_check = 0.0
    return ring


def test_what_is_written_is_read_and_only_its_owner_may_read_it(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    keys = (entry("acme", weight=2.5, concurrent_slots=3), entry("b", audio_seconds_per_day=600))
    add(path, *keys)
    assert read_keys(path) == keys
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [each.name for each in tmp_path.iterdir()] == ["keys.json"]


def test_a_failed_edit_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    add(path, entry("acme"))
    before = path.read_bytes()
    with pytest.raises(InvalidKeyFile, match="'acme' is there twice"):
        add(path, entry("acme", "another"))
    with pytest.raises(ZeroDivisionError):
        clear_and_fail(path)
    assert path.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


def test_editors_wait_for_each_other(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    threads = [threading.Thread(target=add, args=(path, entry(f"key-{number}"))) for number in range(20)]
    for each in threads:
        each.start()
    for each in threads:
        each.join(60)
    assert {each.name for each in read_keys(path)} == {f"key-{number}" for number in range(20)}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "the file: Invalid JSON"),
        ('{"keys": [{"name": "a"}]}', r"keys\.0\.sha256: Field required"),
        (json.dumps({"keys": [{"name": "a b", "sha256": "0" * 64}]}), r"keys\.0\.name: .*letters, digits"),
        (json.dumps({"keys": [{"name": "a", "sha256": "0" * 64, "limit": 1}]}), r"keys\.0\.limit"),
        (json.dumps({"keys": [{"name": "a", "sha256": "0" * 64, "weight": 0}]}), r"keys\.0\.weight"),
        (json.dumps({"keys": [{"name": "api_key_1", "sha256": "0" * 64}]}), "are those of API_KEY"),
        (json.dumps({"keys": [{"name": n, "sha256": "0" * 64} for n in "ab"]}), "sha256 .* is there twice"),
        (json.dumps({"keys": [{"name": f"k{n}", "sha256": f"{n:064x}"} for n in range(1001)]}), "the limit is 1000"),
    ],
)
def test_an_invalid_file_says_what_is_wrong(tmp_path: Path, content: str, reason: str) -> None:
    path = tmp_path / "keys.json"
    path.write_text(content)
    with pytest.raises(InvalidKeyFile, match=reason):
        read_keys(path)


def test_a_ring_follows_its_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "keys.json"
    add(path, entry("acme", "secret"))
    ring = KeyRing(("operator",), path)
    found = ring.find([b"secret"])
    assert found is not None
    assert found.name == "acme"
    assert ring.find([b"nothing", b"operator"]) == ring.keys[0]
    assert ring.keys[0].is_operator
    assert ring.find([]) is ring.find([b"", b"secret2"]) is None

    add(path, entry("other", "more"))
    assert refreshed(ring).find([b"more"]) is not None
    path.write_text("{")
    assert refreshed(ring).find([b"more"]) is not None
    path.unlink()
    for _ in range(3):
        assert refreshed(ring).find([b"secret"]) is not None
    assert [each.levelname for each in caplog.records].count("ERROR") == 2  # once for each reason
    add(path, entry("acme", "new"))
    assert refreshed(ring).find([b"secret"]) is None
    assert ring.find([b"new"]) is not None


def test_a_key_that_was_found_is_as_it_stands_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    add(path, entry("acme"))
    ring = KeyRing(("operator",), path)
    operator, acme = ring.keys
    with edited_keys(path) as keys:
        keys[0] = acme.model_copy(update={"requests_per_minute": 5})
    assert refreshed(ring).current(acme).limits == {"requests_per_minute": 5}
    with edited_keys(path) as keys:
        keys.clear()
    with pytest.raises(Unauthorized, match="'acme' was removed"):
        refreshed(ring).current(acme)
    assert ring.current(operator) is operator


def test_a_file_keeps_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    add(path, entry("acme"))
    path.chmod(0o640)
    add(path, entry("other"))
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_a_key_sees_itself_and_the_operator_all(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    add(path, entry("acme"), entry("other"))
    ring = KeyRing(("operator",), path)
    operator, acme, other = ring.keys
    assert ring.visible_to(operator) == (operator, acme, other)
    assert ring.visible_to(acme) == (acme,)
    assert ring.visible_to(None) == ()


def test_the_command_makes_lists_and_removes_keys(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "keys.json"
    monkeypatch.setenv("API_KEYS_FILE", str(path))
    assert main(["keys", "add", "acme", "--weight", "2", "--requests-per-minute", "60"]) == 0
    key = capsys.readouterr().out.strip()
    assert key.startswith("csm_")
    assert len(key) > 40
    assert key not in path.read_text()
    found = KeyRing((), path).find([key.encode()])
    assert found is not None
    assert (found.name, found.weight, found.limits) == ("acme", 2.0, {"requests_per_minute": 60})

    assert main(["keys", "list"]) == 0
    assert "acme  weight 2  requests_per_minute 60" in capsys.readouterr().out
    for wrong in (["add", "acme"], ["add", "a/b"], ["add", "b", "--concurrent-slots", "0"], ["remove", "b"]):
        assert main(["keys", *wrong]) == 2
    assert main(["keys", "remove", "acme"]) == 0
    assert read_keys(path) == ()
    monkeypatch.delenv("API_KEYS_FILE")
    assert main(["keys", "list"]) == 2
    assert "API_KEYS_FILE is not set" in capsys.readouterr().err
