"""Voices in object storage, seen by several machines: on real servers, with latency and faults, and on a folder.

S3's server is always there, those of Google and Azure where they are installed.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.errors import PreloadedVoice, ServiceError, Unavailable, UnknownVoice, Unprocessable, VoiceExists
from app.voices import shared_store, watched_storage
from app.voices.object_storage import FolderStorage, ObjectStorage
from app.voices.openai_voices import resolve_voice_id
from app.voices.preparation import prepare
from app.voices.recording_decoder import DecodedRecording, VoiceDecoder
from app.voices.shared_record import SharedRecord
from app.voices.shared_store import SharedVoicesConfig, SharedVoiceStore
from app.voices.watched_storage import MARKER, StorageLost
from engine import VoicePrompt
from engine.testing import FakeEngine
from tests.app.voices.cloud_servers import azure_connection, azure_server, gcs_server
from tests.app.voices.recordings import recording
from tests.app.voices.s3_server import CREDENTIALS, StorageProxy, s3_server

AMY, BOB, EVE = (recording("wav", pitch=pitch) for pitch in (220.0, 330.0, 440.0))
WAIT_SECONDS = 30.0

Machine = Callable[..., SharedVoiceStore]


@pytest.fixture(scope="module")
def s3() -> Iterator[int]:
    with s3_server() as port:
        import boto3

        client = boto3.client(
            "s3",
            endpoint_url=f"http://127.0.0.1:{port}",
            aws_access_key_id="test",
            aws_secret_access_key="test",
            region_name="us-east-1",
        )
        client.create_bucket(Bucket="bucket")
        client.close()
        yield port


@pytest.fixture(scope="module")
def gs() -> Iterator[int]:
    with gcs_server("bucket") as port:
        yield port


@pytest.fixture(scope="module")
def az() -> Iterator[int]:
    with azure_server("bucket") as port:
        yield port


@pytest.fixture
def scheme(request: pytest.FixtureRequest) -> str:
    return str(getattr(request, "param", "s3"))


every_cloud = pytest.mark.parametrize("scheme", ["s3", "gs", "az"], indirect=True)


@pytest.fixture
def proxy(scheme: str, request: pytest.FixtureRequest) -> Iterator[StorageProxy]:
    proxy = StorageProxy(request.getfixturevalue(scheme))
    yield proxy
    proxy.close()


@pytest.fixture(autouse=True)
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The recordings that were decoded; without a process for each, which other tests have."""
    seen: list[bytes] = []

    def decode(self: VoiceDecoder, data: bytes) -> DecodedRecording:
        seen.append(data)
        if not data.startswith(b"RIFF"):
            raise Unprocessable("it is damaged")
        return parsed(data)

    monkeypatch.setattr(VoiceDecoder, "decode", decode)
    monkeypatch.setattr(VoiceDecoder, "start", lambda self: None)
    return seen


@pytest.fixture
def folder(tmp_path: Path) -> FolderStorage:
    """What the machines share, unless a test names another storage."""
    return FolderStorage(tmp_path / "shared")


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    """Starts a machine's store: another name is another machine, with a disk of its own."""
    stores: list[SharedVoiceStore] = []

    def start(name: str = "a", *, url: str = "", **options: Any) -> SharedVoiceStore:
        preloaded = tmp_path / name / "preloaded"
        preloaded.mkdir(parents=True, exist_ok=True)
        names = ("options", "check_seconds", "mirror_bytes", "timeout")
        parameters = {"options": {}, "timeout": WAIT_SECONDS} | {
            each: options.pop(each) for each in names if each in options
        }
        url = url or f"file://{tmp_path}/shared"
        config = SharedVoicesConfig(url, tmp_path / name / "mirror", **parameters)
        stores.append(SharedVoiceStore(preloaded, config, **options))
        return stores[-1]

    yield start
    for each in stores:
        each.close()


@pytest.fixture
def bucket(
    scheme: str,
    request: pytest.FixtureRequest,
    proxy: StorageProxy,
    machine: Machine,
    monkeypatch: pytest.MonkeyPatch,
) -> Machine:
    """Starts machines that share a folder of a bucket, behind the proxy."""
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    options: dict[str, dict[str, Any]] = {
        "s3": {"endpoint_url": proxy.url},
        "gs": {"endpoint_url": proxy.url, "token": "anon"},
        "az": {"connection_string": azure_connection(proxy.url)},
    }
    where = {"url": f"{scheme}://bucket/{request.node.originalname}", "options": options[scheme]}
    return lambda name, **changes: machine(name, **where | changes)


def until(condition: Callable[[], bool]) -> None:
    limit = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.005)


def heard(store: SharedVoiceStore, voice_id: str) -> tuple[str, str]:
    """Which recording a voice has, and its transcript."""
    voice = store.get(voice_id)
    names = {np.float32(sample(data)): name for name, data in (("amy", AMY), ("bob", BOB), ("eve", EVE))}
    assert voice.sha256 == {"amy": sha(AMY), "bob": sha(BOB), "eve": sha(EVE)}[names[voice.prompt.samples[100]]]
    return names[voice.prompt.samples[100]], voice.prompt.transcript


def sample(data: bytes) -> np.float32:
    return np.float32(prepare(parsed(data)).samples[100])


def parsed(data: bytes) -> DecodedRecording:
    return DecodedRecording(np.frombuffer(data[44:], np.int16)[:48_000].astype(np.float32) / 32768, 0.0)


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@every_cloud
def test_what_one_machine_changes_others_have_at_once(bucket: Machine, decoded: list[bytes]) -> None:
    change_and_look(bucket("a"), bucket("b"), decoded)


@pytest.mark.parametrize("url", ["", "memory://voices"])
def test_so_it_is_in_a_folder_and_in_memory(url: str, machine: Machine, decoded: list[bytes]) -> None:
    change_and_look(machine("a", url=url), machine("b", url=url), decoded)


def change_and_look(one: SharedVoiceStore, two: SharedVoiceStore, decoded: list[bytes]) -> None:
    for store in (one, two):
        assert store.ids() == []
        with pytest.raises(UnknownVoice):
            store.get("amy.wav")
    added = one.add("amy.wav", AMY, "Hello.")
    assert (added.sha256, added.prompt.transcript, added.preloaded) == (sha(AMY), "Hello.", False)
    assert decoded == [AMY]
    assert heard(two, "amy.wav") == heard(two, "amy") == ("amy", "Hello.")
    assert two.ids() == one.ids() == ["amy.wav"]
    assert two.get("amy.wav").created == added.created
    with pytest.raises(VoiceExists):
        two.add("amy.wav", BOB)
    with pytest.raises(VoiceExists):
        two.add("AMY.wav", BOB)
    two.replace("amy.wav", BOB, "Goodbye.")
    assert heard(one, "amy.wav") == ("bob", "Goodbye.")
    one.replace("amy.wav", BOB, "Only other words.")
    assert heard(two, "amy") == ("bob", "Only other words.")
    two.add("été (2).wav", EVE)
    assert one.ids() == ["amy.wav", "été (2).wav"]
    assert heard(one, "été (2)") == ("eve", "")
    one.delete("amy.wav")
    for store in (one, two):
        for voice_id in ("amy.wav", "amy"):
            with pytest.raises(UnknownVoice):
                store.get(voice_id)
        with pytest.raises(UnknownVoice):
            store.delete("amy.wav")
        with pytest.raises(UnknownVoice):
            store.replace("amy.wav", AMY)
    two.delete("été (2).wav")
    assert (one.ids(), one._storage.names("recordings")) == ([], [])


@every_cloud
def test_a_request_costs_one_round_trip_and_no_transfer(
    bucket: Machine, proxy: StorageProxy, decoded: list[bytes]
) -> None:
    one, two = bucket("a"), bucket("b")
    one.add("amy.wav", AMY)
    decoded.clear()
    proxy.take_requests()
    first = two.get("amy.wav")
    requests = proxy.take_requests()
    assert len(requests) == 2  # the record and the recording
    assert decoded == [AMY]
    for _ in range(3):
        assert two.get("amy.wav") is first
    assert proxy.take_requests() == [requests[0]] * 3
    assert decoded == [AMY]
    assert first.prompt.samples.size > 0
    restarted = bucket("b")
    restarted.get("amy.wav")
    assert proxy.take_requests() == [requests[0]]  # the recording is in the mirror
    for speaker in ("speaker_0", "speaker_12"):
        with pytest.raises(UnknownVoice):
            two.get(speaker)
    assert proxy.take_requests() == []  # built-in speakers cost nothing


def test_requests_that_wait_share_a_round_trip_that_began_after_them(bucket: Machine, proxy: StorageProxy) -> None:
    two = bucket("b")
    two.add("amy.wav", AMY)
    proxy.take_requests()
    proxy.latency = 0.3
    with ThreadPoolExecutor(24) as threads:
        running = threads.submit(two.get, "amy.wav")
        until(lambda: len(proxy._requests) == 1)
        later = [threads.submit(two.get, "amy.wav") for _ in range(23)]
        for each in (running, *later):
            assert each.result(WAIT_SECONDS).sha256 == sha(AMY)
    assert 2 <= len(proxy.take_requests()) <= 4  # two, unless a thread of this test was late


@every_cloud
def test_no_request_that_follows_a_change_has_the_old_recording(bucket: Machine, proxy: StorageProxy) -> None:
    """One machine replaces a voice all the time, two others ask for it all the time, over a slow line."""
    one, others = bucket("a"), [bucket("b"), bucket("c")]
    contents = [AMY, BOB, EVE]
    order = {sha(each): number for number, each in enumerate(contents)}
    one.add("amy.wav", AMY, "0")
    proxy.latency = 0.003
    answered = [0]  # number of the newest change that has been answered
    failures: list[str] = []
    stop = threading.Event()

    def ask(store: SharedVoiceStore) -> int:
        asked = 0
        while not stop.is_set():
            at_least = answered[0]
            voice = store.get("amy.wav")
            number = int(voice.prompt.transcript)
            if number < at_least or order[voice.sha256] != number % 3:
                failures.append(f"{number} with recording {order[voice.sha256]} after {at_least}")
            asked += 1
        return asked

    with ThreadPoolExecutor(6) as threads:
        asking = [threads.submit(ask, store) for store in others for _ in range(3)]
        try:
            for number in range(1, 13):
                one.replace("amy.wav", contents[number % 3], str(number))
                answered[0] = number
        finally:
            stop.set()
        assert sum(each.result(WAIT_SECONDS) for each in asking) > 20
    assert failures == []


def test_a_kept_look_is_as_old_as_allowed_and_never_older_here(machine: Machine, folder: FolderStorage) -> None:
    one, two = machine("a", check_seconds=3600.0), machine("b", check_seconds=3600.0)
    one.add("amy.wav", AMY)
    two.get("amy.wav")
    assert heard(one, "amy.wav")[0] == "amy"
    machine("c").replace("amy.wav", EVE)
    assert heard(one, "amy.wav")[0] == heard(two, "amy.wav")[0] == "amy"  # they have not looked again
    two.replace("amy.wav", BOB)
    assert heard(two, "amy.wav")[0] == "bob"  # its own change
    one.delete("amy.wav")
    with pytest.raises(UnknownVoice):
        one.get("amy.wav")


@every_cloud
def test_of_two_machines_that_add_a_voice_one_is_told_so(bucket: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    stores = [bucket(name) for name in "ab"]
    together = threading.Barrier(2)
    check = SharedVoiceStore._check_available

    def check_together(self: SharedVoiceStore, voice_id: str) -> None:
        check(self, voice_id)
        together.wait(timeout=WAIT_SECONDS)  # all have found the id free

    monkeypatch.setattr(SharedVoiceStore, "_check_available", check_together)

    def add(number: int) -> str | None:
        try:
            stores[number].add("amy.wav", AMY, f"from {number}")
        except VoiceExists:
            return None
        return f"from {number}"

    with ThreadPoolExecutor(2) as threads:
        added = [each for each in threads.map(add, range(2)) if each]
    assert len(added) == 1
    assert {heard(store, "amy.wav") for store in stores} == {("amy", added[0])}
    assert len(stores[0]._storage.names("recordings")) == 1


def test_a_write_whose_answer_was_lost_has_succeeded(machine: Machine, folder: FolderStorage) -> None:
    store = machine()

    class Twice:
        """The storage's package tries again after an answer that never came: the second try finds the first."""

        def __getattr__(self, name: str) -> Any:
            return getattr(folder, name)

        def create(self, name: str, data: bytes, limit: float) -> None:
            folder.create(name, data)
            folder.create(name, data)

    store._storage._connect = Twice  # type: ignore[assignment]
    assert store.add("amy.wav", AMY).sha256 == sha(AMY)
    assert heard(machine("b"), "amy.wav")[0] == "amy"


@every_cloud
def test_a_lost_storage_leaves_what_the_machine_has(
    bucket: Machine, proxy: StorageProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watched_storage, "_PROBE_SECONDS", 0.05)
    reports: list[str | None] = []
    one, two = bucket("a"), bucket("b", report_storage=lambda error, detail: reports.append(error))
    one.add("amy.wav", AMY, "Hello.")
    one.add("bob.wav", BOB)
    assert heard(two, "amy.wav") == ("amy", "Hello.")
    assert two.ids() == ["amy.wav", "bob.wav"]
    assert resolve_voice_id(two, "alloy") == "speaker_0"
    proxy.down()
    two._storage._timeout = 0.5  # gcsfs and adlfs go on trying
    for _ in range(2):
        assert heard(two, "amy.wav") == heard(two, "amy") == ("amy", "Hello.")
    for unknown in ("bob.wav", "bob", "new.wav", "new"):
        with pytest.raises(StorageLost, match="VOICES_URL") as lost:
            two.get(unknown)
        assert (lost.value.status, lost.value.code, lost.value.retry_after) == (503, "storage_failed", 5)
    changes: list[Callable[[], object]] = [
        lambda: two.add("eve.wav", EVE),
        lambda: two.replace("amy.wav", BOB),
        lambda: two.delete("amy.wav"),
    ]
    for change in changes:
        with pytest.raises(StorageLost):
            change()
    assert reports[-1] is not None
    assert resolve_voice_id(two, "alloy") == "speaker_0"  # there was no such voice when it last answered
    monkeypatch.setattr(watched_storage, "_OPENING_SECONDS", 0.0)
    restarted = bucket("b", timeout=0.5)
    assert heard(restarted, "amy.wav") == ("amy", "Hello.")  # from the disk
    assert restarted.ids() == ["amy.wav"]
    with pytest.raises(StorageLost):
        resolve_voice_id(restarted, "alloy")  # it cannot know
    two._storage._timeout = WAIT_SECONDS
    proxy.up()
    until(lambda: reports[-1] is None)  # without a request
    for number, fault in enumerate(("hang", "cut", "error")):
        one.replace("amy.wav", EVE, str(number))
        assert heard(two, "amy.wav") == ("eve", str(number))
        two._storage._timeout = 0.5
        proxy.fault = fault  # type: ignore[assignment]
        assert heard(two, "amy.wav") == ("eve", str(number))
        with pytest.raises(StorageLost):
            two.get("bob.wav")
        assert two._storage.lost
        two._storage._timeout = WAIT_SECONDS
        proxy.up()
        until(lambda: reports[-1] is None)
    assert heard(two, "bob")[0] == "bob"


def test_a_storage_that_was_emptied_is_lost(machine: Machine, tmp_path: Path) -> None:
    """A folder that is not mounted looks like an empty one: that must not delete what the machine has."""
    store, later = machine("a"), machine("b")
    assert later.ids() == []
    store.add("amy.wav", AMY)
    assert heard(later, "amy.wav")[0] == "amy"
    (tmp_path / "shared").rename(tmp_path / "elsewhere")
    (tmp_path / "shared").mkdir()
    for each in (store, later, machine("a")):
        assert heard(each, "amy.wav")[0] == "amy"
        with pytest.raises(StorageLost, match=MARKER.replace(".", r"\.")):
            each.get("bob.wav")
        with pytest.raises(StorageLost):
            each.add("bob.wav", BOB)
    assert list((tmp_path / "shared").iterdir()) == []
    (tmp_path / "shared").rmdir()
    (tmp_path / "elsewhere").rename(tmp_path / "shared")
    store.delete("amy.wav")
    with pytest.raises(UnknownVoice):
        later.get("amy.wav")


@every_cloud
def test_a_bucket_that_does_not_exist_is_told(scheme: str, bucket: Machine) -> None:
    store = bucket("a", url=f"{scheme}://no-such-bucket/voices")
    with pytest.raises(UnknownVoice if scheme == "gs" else StorageLost) as asked:  # gcsfs does not tell what is missing
        store.get("amy.wav")
    assert scheme == "gs" or "the bucket does not exist" in str(asked.value)
    with pytest.raises(StorageLost, match="does not exist"):
        store.add("amy.wav", AMY)
    assert store.ids() == []


def test_preloaded_voices_are_of_each_machine_and_come_first(machine: Machine, tmp_path: Path) -> None:
    one, two = machine("a"), machine("b")
    one.add("amy.wav", AMY)
    (tmp_path / "b" / "preloaded" / "amy.wav").write_bytes(BOB)
    assert (heard(one, "amy.wav")[0], heard(two, "amy.wav")[0]) == ("amy", "bob")
    assert (one.is_preloaded("amy.wav"), two.is_preloaded("amy.wav")) == (False, True)
    assert two.ids() == ["amy.wav"]
    with pytest.raises(PreloadedVoice):
        two.delete("amy.wav")
    with pytest.raises(PreloadedVoice):
        two.replace("amy.wav", EVE)
    (tmp_path / "b" / "preloaded" / "eve.wav").write_bytes(EVE)
    with pytest.raises(VoiceExists, match="preloaded"):
        two.add("eve.wav", AMY)
    assert dict(two.load_all())["amy.wav"].preloaded  # type: ignore[union-attr]
    assert heard(two, "eve")[0] == "eve"


def test_damaged_objects_are_told_and_can_be_replaced(machine: Machine, folder: FolderStorage, tmp_path: Path) -> None:
    store = machine()
    store.add("amy.wav", AMY)
    other = machine("b")
    for damage in (b"", b"{}", b"[1]", b'{"token": "../../etc", "sha256": "", "transcript": "", "created": ""}'):
        folder.write("voices/amy.wav.json", damage)
        with pytest.raises(StorageLost, match="damaged"):
            other.get("amy.wav")
    store.replace("amy.wav", BOB)
    assert heard(other, "amy.wav")[0] == "bob"
    record = SharedRecord.from_bytes(folder.read("voices/amy.wav.json"))
    folder.write(record.recording, EVE)  # of another voice
    with pytest.raises(StorageLost, match="damaged"):
        machine("c").get("amy.wav")
    assert heard(other, "amy.wav")[0] == "bob"  # it has the right one
    copy = next((tmp_path / "b").glob(f"mirror/*/{record.token}.recording"))
    copy.write_bytes(EVE)
    with pytest.raises(StorageLost, match="damaged"):
        machine("b").get("amy.wav")


def test_a_recording_that_cannot_be_decoded_is_not_stored(machine: Machine, folder: FolderStorage) -> None:
    store = machine()
    with pytest.raises(Unprocessable):
        store.add("amy.wav", b"noise")
    with pytest.raises(Unprocessable):
        store.add("a/b", AMY)
    assert (store.ids(), folder.names("recordings")) == ([], [])


def test_the_mirror_is_bounded_and_forgets_what_is_gone(machine: Machine, tmp_path: Path) -> None:
    one, two = machine("a"), machine("b", mirror_bytes=2 * len(AMY) + 5000)
    for voice_id, data in (("amy.wav", AMY), ("bob.wav", BOB), ("eve.wav", EVE)):
        one.add(voice_id, data)
        two.get(voice_id)
    [folder] = (tmp_path / "b" / "mirror").iterdir()

    def copies() -> list[int]:
        return [path.stat().st_size for path in folder.glob("*.recording")]

    assert len(copies()) == 2
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 2 * len(AMY) + 5000
    assert {heard(two, each) for each in ("amy", "bob", "eve")} == {("amy", ""), ("bob", ""), ("eve", "")}
    for voice_id in one.ids():
        one.delete(voice_id)
        with pytest.raises(UnknownVoice):
            two.get(voice_id)
    assert copies() == []
    one.add("amy.wav", EVE)
    two.get("amy.wav")
    one.delete("amy.wav")
    assert len(copies()) == 1
    assert list(machine("b").load_all()) == []  # a start looks at all
    assert copies() == []


def test_all_voices_are_loaded_at_a_start(machine: Machine, tmp_path: Path) -> None:
    store = machine()
    for number in range(10):
        store.add(f"voice {number}.wav", (AMY, BOB)[number % 2], str(number))
    store.add("zoe.wav", EVE)
    assert [voice_id for voice_id, _ in machine("b").load_all()] == store.ids()
    fresh = machine("c", cache_bytes=2 * store.get("zoe.wav").prompt.samples.nbytes)
    loaded = dict(fresh.load_all())
    assert [*loaded] == [f"voice {number}.wav" for number in range(8)]  # no more than the cache holds, and one batch
    assert heard(fresh, "zoe.wav")[0] == "eve"
    (tmp_path / "shared").rename(tmp_path / "elsewhere")
    assert len(dict(machine("b").load_all())) == 11
    assert list(machine("d").load_all()) == []


def test_what_an_upload_that_ended_half_way_left_is_removed_when_it_is_old(
    machine: Machine, folder: FolderStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = machine()
    store.add("amy.wav", AMY)
    folder.write("recordings/" + "0" * 32 + "/recording", BOB)
    other = machine("c")
    assert len(list(other.load_all())) == 1
    other._background.submit(lambda: None).result(WAIT_SECONDS)
    assert len(folder.names("recordings")) == 2  # young: it may be an upload in progress
    monkeypatch.setattr(shared_store, "_ORPHAN_SECONDS", -1.0)
    other._clean_up()
    assert len(folder.names("recordings")) == 1
    assert heard(machine("d"), "amy.wav")[0] == "amy"


def test_codes_are_made_once_for_all_machines(machine: Machine, folder: FolderStorage, tmp_path: Path) -> None:
    engines = {name: FakeEngine() for name in "abc"}
    stores = {name: machine(name) for name in "abc"}

    def prepare(name: str, engine: FakeEngine | None = None) -> VoicePrompt:
        prompt = stores[name].get("amy.wav").prompt
        (engine or engines[name]).prepare_voice(prompt)
        stores[name]._background.submit(lambda: None).result(WAIT_SECONDS)
        return prompt

    try:
        stores["a"].add("amy.wav", AMY, "Hello.")
        prompt = prepare("a")
        assert engines["a"].encoded == [prompt.key]
        prepare("b")
        assert engines["b"].encoded == []
        np.testing.assert_array_equal(prompt.codes_store.load(prompt.key, "fake"), engines["a"].encode(prompt))  # type: ignore[union-attr, arg-type]
        [token] = folder.names("recordings")
        [codes] = [name for name in folder.names(f"recordings/{token}") if name != "recording"]
        assert codes == f"{prompt.key[:16]}-fake.npy"
        stores["b"].replace("amy.wav", AMY, "Other words.")  # another content: another voice
        prepare("b")
        assert len(engines["b"].encoded) == 1
        [token] = folder.names("recordings")
        [codes] = [name for name in folder.names(f"recordings/{token}") if name != "recording"]
        for damage in (
            b"",
            b"noise",
            b"\x93NUMPY\x01\x00v\x00{'descr': '<i2', 'fortran_order': False, 'shape': (9,), }\n",
        ):
            folder.write(f"recordings/{token}/{codes}", damage)
            engine = FakeEngine()
            prepare("c", engine)
            assert len(engine.encoded) == 1
            assert folder.read(f"recordings/{token}/{codes}") != damage
            engine.close()
            stores["c"]._mirror.remove(f"{token}.{codes}")
        prepare("c")
        (tmp_path / "shared").rename(tmp_path / "elsewhere")
        prepare("c")  # from its mirror
        assert engines["c"].encoded == []
        stores["c"]._mirror.remove(f"{token}.{codes}")
        prepare("c")
        assert len(engines["c"].encoded) == 1
    finally:
        for engine in engines.values():
            engine.close()


def test_a_voice_that_changes_during_a_read_is_read_again(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = machine("a"), machine("b")
    one.add("amy.wav", AMY)
    changes = iter([BOB, EVE])
    read = SharedVoiceStore._read

    def replaced_before(self: SharedVoiceStore, voice_id: str, record: SharedRecord) -> bytes:
        if self is two and (data := next(changes, None)) is not None:
            one.replace("amy.wav", data)
        return read(self, voice_id, record)

    monkeypatch.setattr(SharedVoiceStore, "_read", replaced_before)
    assert heard(two, "amy.wav")[0] == "eve"
    changes = iter([AMY, BOB] * 10)
    two._loader._cache.clear()
    two._mirror.remove(f"{two._catalogue._known['amy.wav'].token}.recording")
    with pytest.raises(Unavailable, match="changing continuously"):
        two.get("amy.wav")


def test_a_record_is_checked() -> None:
    record = SharedRecord.new(sha(AMY), "Hello.")
    assert SharedRecord.from_bytes(record.to_bytes()) == record
    good = json.loads(record.to_bytes())
    wrong: list[dict[str, object]] = [
        {**good, "token": "0" * 31},
        {**good, "sha256": "x" * 64},
        {**good, "transcript": 5},
        {**good, "transcript": "a" * 2001},
        {**good, "created": "yesterday"},
        {**good, "created": "2026-01-01T00:00:00"},
        {**good, "more": ""},
    ]
    for each in wrong:
        with pytest.raises(ValueError, match="damaged"):
            SharedRecord.from_bytes(json.dumps(each).encode())


def test_errors_of_all_kinds_are_service_errors(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    store = machine()

    def broken() -> ObjectStorage:
        raise ImportError("No module named 's3fs'")

    store._storage._connect = broken
    with pytest.raises(ServiceError, match="No module named 's3fs'"):
        store.get("amy.wav")
