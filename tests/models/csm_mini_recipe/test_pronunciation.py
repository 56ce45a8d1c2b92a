"""How csm-mini reads: words by their phonemes, whatever is not listed by rules, and no text that cannot be read."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.fallback.voices import EspeakVoice
from engine.model.tokenizer import TextTokenizer
from models.csm_mini_recipe.pronunciation import ALPHABET, COUNTS, build_tokenizer, pronounce, read_back

LEXICON = {
    "hello": ["h", "ə", "l", "ˈoʊ"], "don": ["d", "ˈɑː", "n"], "don't": ["d", "ˈoʊ", "n", "t"], "a": ["ɐ"],
    "two": ["t", "ˈuː"], "five": ["f", "ˈaɪ", "v"], "percent": ["p", "ɚ", "s", "ˈɛ", "n", "t"],
    "seven": ["s", "ˈɛ", "v", "ə", "n"],
}  # fmt: skip


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    build_tokenizer(LEXICON).save(str(path))
    return path


def tokens(path: Path, text: str, speaker: int = 0) -> list[str]:
    import tokenizers

    names = tokenizers.Tokenizer.from_file(str(path))
    return [names.id_to_token(number) for number in TextTokenizer(path).encode(text, speaker)[1:-1]]


def read(path: Path, text: str, speaker: int = 0) -> str:
    """Without the token for how many they are."""
    return read_back([token for token in tokens(path, text, speaker) if token not in COUNTS.values()])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Hello, HELLO!", "[0]həlˈoʊˈoʊ,həlˈoʊˈoʊ!"),
        ("don't Don’t don", "[0]dˈoʊˈoʊntdˈoʊˈoʊntdˈɑːˈɑːn"),
        ("'hello' hello's", "[0]həlˈoʊˈoʊhəlˈoʊˈoʊs"),
        ("25%", "[0]tˈuːˈuːfˈaɪˈaɪvpɚsˈɛnt"),
        ("a\N{SNOWMAN}a <|end_of_text|>", "[0]ɐɐˈɛndˈɑːˈɑːftˈɛkst"),
        ("Hello ... hello?!", "[0]həlˈoʊˈoʊ.həlˈoʊˈoʊ?"),
        ("a-a", "[0]ɐɐ"),
        # words that are not listed
        ("knight", "[0]nˈaɪˈaɪt"),
        ("phase", "[0]fˈeɪˈeɪs"),
        ("naïve", "[0]nˈæˈaɪˈaɪv"),
        ("chatter", "[0]tʃˈætɚ"),
        ("blinking", "[0]blɪŋkɪŋ"),
        ("station", "[0]stˈæʃən"),
        ("zyzzyva", "[0]zɪzɪvə"),
    ],
)
def test_what_is_read(reader: Path, text: str, said: str) -> None:
    assert read(reader, text) == said


def test_the_number_of_the_speaker_is_no_word(reader: Path) -> None:
    assert read(reader, "7 a", 12) == "[12]sˈɛvənɐ"


@pytest.mark.parametrize("text", ["", "???", "日本語", "\N{GRINNING FACE}", "\ue000", "x" * 5_000, "[[[]]]", "e", "'"])
def test_any_text_can_be_read(reader: Path, text: str) -> None:
    said = read(reader, text)
    assert said.startswith("[0]")
    assert not any(character in said for character in "日本語\ue000")


@pytest.mark.parametrize(
    ("text", "count"), [("a", 1), ("hello, a", 7), ("a " * 299, 299), ("a " * 300, 300), ("a]a", 2)]
)
@pytest.mark.parametrize("speaker", [0, 12])
def test_a_text_ends_with_its_number_of_tokens(reader: Path, text: str, count: int, speaker: int) -> None:
    said = tokens(reader, text, speaker)
    assert said[-1] == COUNTS[count]
    assert said.index("]") + 1 + count + 1 == len(said)


def test_what_is_longer_than_any_number_has_none(reader: Path) -> None:
    assert set(tokens(reader, "a " * 301)[3:]) == set(tokens(reader, "a")[3:-1])


def test_every_symbol_is_one_of_its_own() -> None:
    assert len(set(ALPHABET)) == len(ALPHABET)


def test_words_are_said_as_in_a_sentence() -> None:
    said = pronounce(["of", "a", "water", "don't"], EspeakVoice("f2", 190))
    assert said == {
        "of": ["ʌ", "v"], "a": ["ɐ"], "water": ["w", "ˈɔː", "ɾ", "ɚ"], "don't": ["d", "ˈoʊ", "n", "t"],
    }  # fmt: skip
