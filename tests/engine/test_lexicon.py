from __future__ import annotations

import pytest

from engine import InvalidRequest, Lexicon, parse_lexicon


@pytest.mark.parametrize(
    ("entries", "text", "expected"),
    [
        ({"sql": "sequel"}, "SQL, Sql's sql; sqlite NoSQL", "sequel, sequel's sequel; sqlite NoSQL"),
        ({"US": "United States"}, "Tell us about the US.", "Tell us about the United States."),
        ({"US": "United States", "us": "you and me"}, "us US Us", "you and me United States you and me"),
        ({"new york": "the city", "new": "old"}, "New\nYork new", "the city old"),
        ({"C++": "see plus plus", ".NET": "dot net"}, "C++ C .NET ASP.NET", "see plus plus C dot net ASP.NET"),
        ({"a": "b", "b": "a"}, "a b a", "b a b"),
        ({"straße": "street"}, "STRASSE Straße straßen", "STRASSE street straßen"),
        ({}, "anything", "anything"),
    ],
)
def test_whole_words_are_replaced(entries: dict[str, str], text: str, expected: str) -> None:
    assert Lexicon(entries).apply(text) == expected


def test_entries_on_top_override_those_below() -> None:
    base = Lexicon({"sql": "sequel", "gif": "jif"})
    both = Lexicon({"sql": "S Q L", "SQL": "Squeal"}, base)
    assert both.apply("sql SQL gif") == "S Q L Squeal jif"
    assert base.apply("sql SQL") == "sequel sequel"
    assert both.entries == {"sql": "S Q L", "gif": "jif", "SQL": "Squeal"}


def test_a_large_lexicon_takes_linear_time() -> None:
    lexicon = Lexicon({f"word{n}": "x" for n in range(10_000)})
    assert lexicon.apply("word1 word2 other " * 20_000).startswith("x x other x")


def test_a_file_has_an_entry_on_each_line() -> None:
    lines = ["# names\n", "\n", " Nguyen = win \n", "C# = see sharp\n", "a = b = c"]
    assert parse_lexicon(lines) == {"Nguyen": "win", "C#": "see sharp", "a": "b = c"}


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["a = b", "no sign"], "line 2: 'no sign' must be written as word = replacement"),
        (["= b"], "line 1: .*cannot be replaced"),
        (["a ="], "line 1: .*replacement of 'a'"),
        (["a = !"], "line 1: .*replacement of 'a'"),
        ([f"{'a' * 101} = b"], "1 to 100 characters"),
        ([f"a = {'b' * 501}"], "1 to 500 characters"),
    ],
)
def test_a_line_that_cannot_be_used_is_named(lines: list[str], message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        parse_lexicon(lines)
