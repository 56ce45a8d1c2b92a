"""What is read sign by sign: web and e-mail addresses, file names, handles, phone numbers, versions."""

from __future__ import annotations

import re

from .numbers import digits, number
from .rules import Rule

_SIGNS = {".": "dot", "/": "slash", "-": "dash", "_": "underscore", "@": "at", ":": "colon", "+": "plus", "~": "tilde"}
_SPOKEN_ENDINGS = {"com", "org", "net", "edu", "gov", "info", "biz", "dev", "app", "blog", "shop", "online", "site"}
_PIECES = re.compile(r"[A-Za-z]+|\d+|[./\-_@:+~]")
_ENDINGS = (
    "com|org|net|edu|gov|mil|int|info|biz|io|ai|co|me|tv|dev|app|uk|us|ca|au|de|fr|es|it|nl|eu|ch|at|jp|cn|in|br|ru|se|no"
    "|fi|dk|pl|be|ie|nz|gg|ly|xyz|blog|shop|online|site|tech|cloud"
)
_FILES = (
    "txt|pdf|docx?|xlsx?|pptx?|csv|tsv|json|ya?ml|toml|xml|html?|css|js|ts|tsx|jsx|py|rs|go|rb|java|cpp|hpp|cs|php|sh"
    "|sql|md|rst|log|ini|cfg|conf|env|lock|zip|tar|gz|tgz|rar|7z|exe|dll|so|deb|rpm|apk|iso|dmg|png|jpe?g|gif|svg|webp"
    "|bmp|mp[34]|wav|flac|ogg|opus|m4a|avi|mkv|mov|webm|bin|dat|bak|tmp|safetensors|ipynb"
)
_SPELLED = re.compile(r"[bcdfghjklmnpqrstvwxz]+")


def _sign_by_sign(text: str) -> str:
    """ "john_2@x.io" -> "john underscore two at x dot I O"."""
    words = []
    for piece in _PIECES.findall(text):
        if piece in _SIGNS:
            words.append(_SIGNS[piece])
        elif piece.isdigit():
            words.append(number(piece) if len(piece) <= 2 else digits(piece))
        elif words and words[-1] == "dot" and piece.lower() not in _SPOKEN_ENDINGS and len(piece) <= 4:
            words.append(_ending(piece))
        elif len(piece) <= 5 and _SPELLED.fullmatch(piece.lower()):
            words.append(" ".join(piece.upper()))
        else:
            words.append(piece)
    return " ".join(words)


def _ending(piece: str) -> str:
    """The end of a name: two letters and those without a vowel one by one, the others as a word."""
    lower = piece.lower()
    if lower in ("co", "me", "so", "go", "bin", "zip", "doc", "docx", "java", "json", "log", "exe", "env", "lock"):
        return lower
    if len(lower) == 2 or _SPELLED.fullmatch(lower) or lower in ("html", "yml", "mp3", "pdf", "sql", "jpeg", "svg"):
        return " ".join(piece.upper())
    return lower


def _url(found: re.Match[str]) -> str:
    """Host and path; the scheme, "www." and the query are not said."""
    end = re.search(r"[.,;:!?'\")\]]*$", found[0])
    rest = end[0] if end else ""
    text = re.split(r"[?#]", found[0].removesuffix(rest) if rest else found[0])[0]
    text = re.sub(r"^(?:[a-z]+://)?(?:www\.)?", "", text, flags=re.I).rstrip("/")
    return (_sign_by_sign(text) or "link") + rest


def _digits_in_groups(found: re.Match[str]) -> str:
    groups = [digits(group) for group in re.findall(r"\d+", found[0])]
    return ("plus " if found[0].lstrip().startswith("+") else "") + ", ".join(groups)


def _version(found: re.Match[str]) -> str:
    return ("version " if found[1] else "") + " point ".join(number(part) for part in found[2].split("."))


RULES = (
    Rule(
        r"(?<![\w.+-])[A-Za-z0-9][A-Za-z0-9._%+-]{0,63}@[A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63}){1,8}",
        lambda found: _sign_by_sign(found[0].removesuffix("-")),
        "@",
    ),
    Rule(r"\b(?:https?|ftp|wss?)://[^\s<>\"]+", _url, "://"),
    Rule(r"\bwww\.[^\s<>\"]+", _url, "www."),
    Rule(
        rf"(?<![\w@./-])(?:[A-Za-z0-9][A-Za-z0-9-]{{0,62}}\.){{1,6}}(?:{_ENDINGS})(?::\d{{2,5}})?(?:/[^\s<>\"]*)?(?![\w@])(?<![.,;:!?'\")])",
        _url,
        ".",
    ),
    Rule(
        rf"(?<![\w@.-])(?:[\w-]{{1,64}}/){{0,8}}[A-Za-z0-9_][\w-]{{0,63}}(?:\.[\w-]{{1,32}}){{0,3}}\.(?:{_FILES})(?![\w@-]|\.\w)",
        lambda found: _sign_by_sign(found[0]) if found[0].isascii() else found[0],
        ".",
    ),
    Rule(r"(?<![\w@/.])@([A-Za-z_][A-Za-z0-9_]{1,30})\b", lambda found: f"at {_handle(found[1])}", "@"),
    Rule(r"(?<![\w#&])#([A-Za-z][A-Za-z0-9_]{1,60})\b", lambda found: f"hashtag {_handle(found[1])}", "#"),
    Rule(r"(?<![\w#&])#\s?(?=\d)", "number ", "#"),
    Rule(
        r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?![\w]|\.\d)",
        lambda found: " dot ".join(digits(part) for part in found[0].split(".")),
        ".",
    ),
    # Phone numbers, and others that are written in groups of digits.
    Rule(r"(?<![\w+(])(?:\+\d{1,3}[\s.-]?)(?:\(?\d{1,5}\)?[\s.-]?){1,6}\d(?!\w)", _digits_in_groups, "+"),
    Rule(
        r"(?<![\w.+-])(?:1[\s.-])?(?:\(\d{3}\)\s?|\d{3}[\s.-])\d{3}[\s.-]\d{4}(?:(?=\s?(?:x|ext))|(?![\w-]))",
        _digits_in_groups,
    ),
    Rule(r"(?<![\w.+/-])\d{3}-\d{4}(?![\w-])", _digits_in_groups, "-"),
    Rule(r"(?<![\w.+/-])\d{3}-\d{2}-\d{4}(?![\w-])", _digits_in_groups, "-"),
    Rule(r"(?<![\w.+/-])\d{4}([ -])\d{4}\1\d{4}\1\d{4}(?![\w-])", _digits_in_groups),
    Rule(r"(?<![\w.+/-])0\d{2,4}[ -]\d{3,4}[ -]?\d{3,4}(?![\w-])", _digits_in_groups),
    Rule(
        r"\b((?:[Cc]all|[Dd]ial|[Tt]ext) )(\d{3})(?!\w|[.,-]\d)", lambda found: found[1] + digits(found[2])
    ),
    Rule(r"\b([vV]\.?\s?)(\d{1,5}(?:\.\d{1,5}){0,4})(?!\w|\.\d)", _version),
    Rule(
        r"(?<![\w.,$£€])()(?!\d\d?\.\d\d?\.(?:19|20)\d\d(?!\d))(\d{1,5}(?:\.\d{1,5}){2,4})(?!\w|\.\d)",
        _version,
        ".",
    ),
    Rule(r"\blocalhost:\d{2,5}\b", lambda found: _sign_by_sign(found[0]), "localhost"),
    Rule(r"\b((?:ext|[Ee]xtension|x)\.? ?)(\d{1,6})\b", lambda found: f"extension {digits(found[2])}"),
    Rule(r"\b(P[Ii][Nn](?: is)?|[Cc]ode(?: is)?|[Zz]ip(?: code)?) (\d{4,8})\b",
         lambda found: f"{found[1]} {digits(found[2])}"),
    Rule(r"\b([A-Z]{2} )(\d{5})(?:-(\d{4}))?(?!\w|[.,-]\d)",
         lambda found: found[1] + digits(found[2]) + (f", {digits(found[3])}" if found[3] else "")),
)  # fmt: skip


def _handle(text: str) -> str:
    """ "TextToSpeech_2" -> "Text To Speech underscore two"."""
    return _sign_by_sign(re.sub(r"(?<=[a-z])(?=[A-Z])", " ", text))
