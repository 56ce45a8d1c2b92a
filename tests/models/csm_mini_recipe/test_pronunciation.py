"""csm-mini's tokenizer: lexicon, letter-to-sound rules, count tokens, and arbitrary input."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.fallback.voices import EspeakVoice
from engine.model.tokenizer import TextTokenizer
from models.csm_mini_recipe.pronunciation import ALPHABET, COUNT_TOKENS, build_tokenizer, pronounce, to_ipa

LEXICON = {
    "hello": ["h", "ə", "l", "ˈoʊ"], "don": ["d", "ˈɑː", "n"], "don't": ["d", "ˈoʊ", "n", "t"], "a": ["ɐ"],
    "two": ["t", "ˈuː"], "five": ["f", "ˈaɪ", "v"], "percent": ["p", "ɚ", "s", "ˈɛ", "n", "t"],
    "seven": ["s", "ˈɛ", "v", "ə", "n"],
}  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    build_tokenizer(LEXICON).save(str(path))
    return path


def tokens(path: Path, text: str, speaker: int = 0) -> list[str]:
    import tokenizers

    names = tokenizers.Tokenizer.from_file(str(path))
    return [names.id_to_token(number) for number in TextTokenizer(path).encode(text, speaker)[1:-1]]


def ipa_of(path: Path, text: str, speaker: int = 0) -> str:
    """IPA of a text, without the count token."""
    return to_ipa([token for token in tokens(path, text, speaker) if token not in COUNT_TOKENS.values()])


@pytest.mark.parametrize(
    ("text", "phonemes"),
    [
        ("Hello, HELLO!", "[0]həlˈoʊˈoʊ,həlˈoʊˈoʊ!"),
        ("don't Don’t don", "[0]dˈoʊˈoʊntdˈoʊˈoʊntdˈɑːˈɑːn"),
        ("'hello' hello's", "[0]həlˈoʊˈoʊhəlˈoʊˈoʊs"),
        ("25%", "[0]tˈuːˈuːfˈaɪˈaɪvpɚsˈɛnt"),
        ("a\N{SNOWMAN}a <|end_of_text|>", "[0]ɐɐˈɛndˈɑːˈɑːftˈɛkst"),
        ("Hello ... hello?!", "[0]həlˈoʊˈoʊ.həlˈoʊˈoʊ?"),
        ("a-a", "[0]ɐɐ"),
        # words not in the lexicon
        ("knight", "[0]nˈaɪˈaɪt"),
        ("phase", "[0]fˈeɪˈeɪs"),
        ("naïve", "[0]nˈæˈaɪˈaɪv"),
        ("chatter", "[0]tʃˈætɚ"),
        ("blinking", "[0]blɪŋkɪŋ"),
        ("station", "[0]stˈæʃən"),
        ("zyzzyva", "[0]zɪzɪvə"),
    ],
)
def test_pronunciations(tokenizer_path: Path, text: str, phonemes: str) -> None:
    assert ipa_of(tokenizer_path, text) == phonemes


def test_the_speaker_number_is_not_pronounced(tokenizer_path: Path) -> None:
    assert ipa_of(tokenizer_path, "7 a", 12) == "[12]sˈɛvənɐ"


@pytest.mark.parametrize("text", ["", "???", "日本語", "\N{GRINNING FACE}", "\ue000", "x" * 5_000, "[[[]]]", "e", "'"])
def test_any_text_can_be_tokenized(tokenizer_path: Path, text: str) -> None:
    phonemes = ipa_of(tokenizer_path, text)
    assert phonemes.startswith("[0]")
    assert not any(character in phonemes for character in "日本語\ue000")


@pytest.mark.parametrize(
    ("text", "count"), [("a", 1), ("hello, a", 7), ("a " * 299, 299), ("a " * 300, 300), ("a]a", 2)]
)
@pytest.mark.parametrize("speaker", [0, 12])
def test_a_text_ends_with_its_count_token(tokenizer_path: Path, text: str, count: int, speaker: int) -> None:
    phonemes = tokens(tokenizer_path, text, speaker)
    assert phonemes[-1] == COUNT_TOKENS[count]
    assert phonemes.index("]") + 1 + count + 1 == len(phonemes)


def test_a_text_longer_than_the_largest_count_has_no_count_token(tokenizer_path: Path) -> None:
    assert set(tokens(tokenizer_path, "a " * 301)[3:]) == set(tokens(tokenizer_path, "a")[3:-1])


def test_symbols_are_unique() -> None:
    assert len(set(ALPHABET)) == len(ALPHABET)


def test_words_are_pronounced_as_in_a_sentence() -> None:
    phonemes = pronounce(["of", "a", "water", "don't"], EspeakVoice("f2", 190))
    assert phonemes == {
        "of": ["ʌ", "v"], "a": ["ɐ"], "water": ["w", "ˈɔː", "ɾ", "ɚ"], "don't": ["d", "ˈoʊ", "n", "t"],
    }  # fmt: skip
