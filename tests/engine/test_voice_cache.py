"""The voice cache evicts by last use, within its limit of bytes."""

from __future__ import annotations

import numpy as np

from engine.voice_cache import CachedVoices, VoiceCache, VoiceKey, VoiceKeys


def key(*contents: str) -> VoiceKeys:
    return tuple(VoiceKey(content, speaker=0, with_text=True) for content in contents)


def voice(size: int) -> CachedVoices:
    return CachedVoices(length=3, kv=np.zeros(size, np.uint8))


def test_the_least_recently_used_entry_is_evicted_first() -> None:
    cache = VoiceCache(100)
    for content in "abc":
        cache.put(key(content), voice(30))
    assert cache.get(key("a")) is not None
    cache.put(key("d"), voice(30))
    assert [key(content) in cache for content in "abcd"] == [True, False, True, True]
    assert cache.get(key("b")) is None
    assert cache.nbytes == 90


def test_codes_are_cached_beside_keys_and_values() -> None:
    cache, codes = VoiceCache(200), np.zeros((5, 4), np.int64)
    cache.put_codes("a", codes)
    assert cache.codes("a") is codes
    assert cache.get(key("a")) is None
    cache.put(key("a"), voice(30))
    assert cache.nbytes == codes.nbytes + 30
    cache.put_codes("b", codes)  # evicts the codes of a; its keys and values stay
    assert cache.codes("a") is None
    assert key("a") in cache


def test_put_replaces_an_entry() -> None:
    cache = VoiceCache(100)
    cache.put(key("a"), voice(30))
    cache.put(key("a"), voice(40))
    assert cache.nbytes == 40


def test_an_entry_larger_than_the_limit_is_not_cached() -> None:
    cache = VoiceCache(100)
    cache.put(key("a"), voice(101))
    assert key("a") not in cache
    assert cache.nbytes == 0


def test_the_longest_prefix_of_several_voices_is_found() -> None:
    cache = VoiceCache(100)
    assert cache.longest_prefix(key("a", "b")) == (0, None)
    one, two = voice(30), voice(31)
    cache.put(key("a"), one)
    cache.put(key("a", "b"), two)
    assert cache.longest_prefix(key("a", "c", "b")) == (1, one)
    assert cache.longest_prefix(key("a", "b", "c")) == (2, two)
    assert cache.longest_prefix(key("b", "a")) == (0, None)
    assert cache.longest_prefix(()) == (0, None)
