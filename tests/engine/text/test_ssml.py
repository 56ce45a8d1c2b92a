from __future__ import annotations

import pytest

from engine import InvalidMarkup
from engine.text import spoken_chunks
from engine.text.ssml import parse_markup


def spoken(text: str) -> list[str | int]:
    """The text of each chunk, and the samples of silence before and after it."""
    parts: list[str | int] = []
    for chunk in spoken_chunks(text, 1000, normalizes=True):
        parts += [chunk.pause_before, chunk.text, chunk.pause_after]
    return [part for part in parts if part]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<speak>One <break time='500ms'/> two.</speak>", ["One", 12_000, "two."]),
        ("<speak>One<break time=\"+1.5s\"/>two<break strength='none'/>, three</speak>", ["One", 36_000, "two, three"]),
        ("<speak><break strength='weak'/>One<break/></speak>", [12_000, "One", 18_000]),
        ("<speak>One [pause:10ms] two</speak>", ["One", 240, "two"]),
        ("<speak><s>One</s><s>Two!</s><s>Three</s></speak>", ["One. Two! Three."]),
        ("<speak><p>One</p>\n<p>Two</p></speak>", ["One.", 12_000, "Two."]),
        ("<speak><p>One</p><break time='1s'/><p>Two</p></speak>", ["One.", 24_000, "Two."]),
        ("<speak>Say <sub alias='World Wide Web'>WWW</sub>.</speak>", ["Say World Wide Web."]),
        ("<speak>Fish &amp; chips\n   cost &lt;5</speak>", ["Fish and chips cost less than five"]),
        ("Before. <speak>In<break time='1s'/></speak> after.", ["Before. In", 24_000, "after."]),
        (
            "<?xml version='1.0'?>\n<speak version='1.1' xmlns='http://www.w3.org/2001/10/synthesis' xml:lang='en-US'>"
            "Hi</speak>",
            ["Hi"],
        ),
        ("<speak/>Hi", ["Hi"]),
        ("if 1 < 2 and <b>bold</b> [paused]", ["if one less than two and bold [paused]"]),
        ("Open the <speak> element, then <break time='1s'/>.", ["Open the element, then."]),
    ],
)
def test_elements_and_pauses(text: str, expected: list[str | int]) -> None:
    assert spoken(text) == expected


@pytest.mark.parametrize(
    ("attributes", "content", "expected"),
    [
        ("interpret-as='characters'", "W3C-a", "W three C dash A"),
        ("interpret-as='spell-out'", "cat", "C A T"),
        ("interpret-as='cardinal'", "1,234", "one thousand two hundred thirty-four"),
        ("interpret-as='cardinal'", "-7", "minus seven"),
        ("interpret-as='ordinal'", "21", "twenty-first"),
        ("interpret-as='ordinal'", "3rd", "third"),
        ("interpret-as='digits'", "2024", "two zero two four"),
        ("interpret-as='telephone'", "+44 20 79", "plus four four, two zero, seven nine"),
        ("interpret-as='date' format='dmy'", "3/4/2024", "April third, twenty twenty-four"),
        ("interpret-as='date' format='mdy'", "3/4/2024", "March fourth, twenty twenty-four"),
        ("interpret-as='date' format='md'", "12.24", "December twenty-fourth"),
        ("interpret-as='date'", "2024-04-03", "April third, twenty twenty-four"),
        ("interpret-as='time'", "3:05pm", "three oh five P M"),
        ("interpret-as='currency'", "$3.50", "three dollars and fifty cents"),
        ("interpret-as='fraction'", "2/3", "two thirds"),
        ("interpret-as='unit'", "10 km", "ten kilometers"),
    ],
)
def test_say_as(attributes: str, content: str, expected: str) -> None:
    """Even where the text is not normalised."""
    (chunk,) = spoken_chunks(f"<speak><say-as {attributes}>{content}</say-as></speak>", 1000)
    assert chunk.text == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<speak>a <prosody rate='fast'>b</prosody></speak>", "<prosody> is not supported"),
        ("<speak><audio src='x'/></speak>", "<audio> is not supported"),
        ("<speak><break x='1'/></speak>", "<break x> is not supported"),
        ("<speak><break time='soon'/></speak>", "'soon' is not a time"),
        ("<speak><break time='11s'/></speak>", "at most 10 seconds"),
        ("<speak><break strength='big'/></speak>", "one of none, x-weak"),
        ("<speak><break>a</break></speak>", "<break> cannot hold a text"),
        ("<speak><s><p>a</p></s></speak>", "<p> cannot stand inside <s>"),
        ("<speak><sub>a</sub></speak>", "<sub> needs the attribute alias"),
        ("<speak><sub alias='a'><break/></sub></speak>", "<break> cannot stand inside <sub>"),
        ("<speak><say-as>a</say-as></speak>", "<say-as> needs the attribute interpret-as"),
        ("<speak><say-as interpret-as='song'>a</say-as></speak>", "'song'"),
        ("<speak><say-as interpret-as='date' format='xyz'>1</say-as></speak>", "'xyz'"),
        ("<speak>Tom & Jerry</speak>", "write & as &amp;"),
        ("<speak><s>a</speak>", "not well formed"),
        ("<speak>a <speak>b</speak></speak>", "<speak> cannot stand inside <speak>"),
        ("<speak>a", "<speak> is not closed"),
        ("[pause:soon]", "'soon' is not a time"),
        ("[pause:10001ms]", "at most 10 seconds"),
    ],
)
def test_what_is_not_known_is_refused_by_its_name(text: str, message: str) -> None:
    with pytest.raises(InvalidMarkup, match=message):
        parse_markup(text)


def test_entities_cannot_be_defined() -> None:
    bomb = "<!DOCTYPE speak [<!ENTITY a 'ha'>]><speak>&a;</speak>"
    with pytest.raises(InvalidMarkup, match="undefined entity"):
        parse_markup(bomb)
    with pytest.raises(InvalidMarkup, match="not well formed"):
        parse_markup("<speak><!DOCTYPE speak [<!ENTITY a 'ha'>]>&a;</speak>")


def test_unclosed_elements_take_linear_time() -> None:
    assert parse_markup("a <speak>" * 50_000)
