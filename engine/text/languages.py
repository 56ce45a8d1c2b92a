"""Whether a line is English: the rules of normalisation are English, and leave other languages alone."""

from __future__ import annotations

import re

_WORD = re.compile(r"[^\W\d_]+")
# Frequent words that are none in English.
_FOREIGN_LIST = """
der das und ist nicht ein eine einen einem mit für auf den dem von zu im ich wir sie wird sind auch nach bei uhr
über le la les des est et une dans pour que qui sur avec au aux du ce cette sont nous vous il elle pas plus
heures el los las del en por con una para es son como pero está muy más se su al lo gli della delle di che per
sono è nel alla non più ore o os as da dos em com uma não é são às mais de het een van op te dat niet zijn voor
met aan ook och att det som är på av för inte med i w z na się nie jest do że ve bir bu için ile
"""
_FOREIGN = set(_FOREIGN_LIST.split()) - {
    "as",
    "do",
    "i",
    "per",
    "plus",
    "com",
    "est",
    "son",
    "in",
    "met",
    "op",
    "au",
    "al",
    "lo",
    "con",
    "on",
    "os",
    "z",
    "o",
    "w",
}
_ENGLISH_LIST = """
the a an and of to is in it that for on with as was at by be this are from or have not you he she they we i but
his her their will would can what when which there been has had do if my your our its were about out up so no
more
"""
_ENGLISH = set(_ENGLISH_LIST.split())


def is_english(line: str) -> bool:
    """False where most letters are of another script, or frequent words of another language outnumber English ones."""
    words = _WORD.findall(line)
    letters = sum(map(len, words))
    if not letters:
        return True
    if not line.isascii():
        latin = sum(character < "\u0250" for word in words for character in word)
        if latin * 2 < letters:
            return False
    known = [word.lower() for word in words]
    foreign = sum(word in _FOREIGN for word in known)
    if not foreign:
        return line.isascii() or not _mostly_accented(words)
    return foreign < 2 + sum(word in _ENGLISH for word in known) if foreign > 1 else not _mostly_accented(words)


def _mostly_accented(words: list[str]) -> bool:
    letters = "".join(words)
    return sum(letter > "\x7f" and letter.isalpha() for letter in letters) * 4 > len(letters)
