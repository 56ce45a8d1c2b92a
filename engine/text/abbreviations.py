"""Abbreviations, acronyms and Roman numerals as they are said: "Dr." -> "Doctor", "SSH" -> "S S H"."""

from __future__ import annotations

import re

from .numbers import cardinal, digits, number, ordinal
from .rules import Rule, sentence_dot

# ---- Abbreviations with a dot

# Before a name: the dot never ends a sentence.
_TITLES = {
    "Dr": "Doctor", "Mr": "Mister", "Mrs": "Missus", "Ms": "Miz", "Prof": "Professor", "Gen": "General",
    "Sen": "Senator", "Rep": "Representative", "Gov": "Governor", "Capt": "Captain", "Lt": "Lieutenant",
    "Col": "Colonel", "Sgt": "Sergeant", "Cpl": "Corporal", "Maj": "Major", "Cmdr": "Commander", "Adm": "Admiral",
    "Rev": "Reverend", "Hon": "Honorable", "Pres": "President", "Mt": "Mount", "Ft": "Fort", "Sr": "Senior",
    "Fr": "Father",
}  # fmt: skip
# Before a number.
_NUMBERED = {
    "No": "number", "no": "number", "Nos": "numbers", "Fig": "figure", "fig": "figure", "Figs": "figures",
    "Eq": "equation", "eq": "equation", "Sec": "section", "sec": "section", "Ch": "chapter", "ch": "chapter",
    "Vol": "volume", "vol": "volume", "p": "page", "pp": "pages", "Ver": "version", "ver": "version", "Art": "article",
    "Apt": "apartment", "Rm": "room", "Tel": "telephone", "tel": "telephone", "Ed": "edition",
}  # fmt: skip
# Anywhere: the dot may end the sentence, too.
_ANYWHERE = {
    "etc": "et cetera", "vs": "versus", "approx": "approximately", "Inc": "Incorporated", "Ltd": "Limited",
    "Corp": "Corporation", "Co": "Company", "Bros": "Brothers", "Dept": "Department", "dept": "department",
    "Univ": "University", "Assn": "Association", "Jr": "Junior", "Ave": "Avenue", "Blvd": "Boulevard", "Rd": "Road",
    "Ln": "Lane", "Hwy": "Highway", "Pkwy": "Parkway", "Sq": "Square", "govt": "government", "min": "minutes",
    "hrs": "hours", "est": "estimated", "avg": "average", "incl": "including", "misc": "miscellaneous",
    "qty": "quantity",
    "temp": "temperature", "ext": "extension", "cf": "compare", "ca": "circa", "al": "al", "ibid": "ibid",
    "Esq": "Esquire", "max": "maximum", "Jan": "January", "Feb": "February", "Aug": "August", "Sept": "September",
    "Oct": "October", "Nov": "November", "Dec": "December", "yrs": "years", "lbs": "pounds", "oz": "ounces",
    "tbsp": "tablespoons", "tsp": "teaspoons",
}  # fmt: skip
_AFTER_NUMBER = {"min", "hrs", "yrs", "lbs", "oz", "tbsp", "tsp"}  # elsewhere these are words or left alone
# Without their dots, too; nothing else is written like this.
_LATIN = {"e.g": "for example", "i.e": "that is", "a.k.a": "also known as", "n.b": "note", "p.s": "P S", "q.v": "see",
          "w/o": "without", "w/": "with ", "b/c": "because", "c/o": "care of", "n/a": "not applicable",
          "N/A": "not applicable", "a/c": "A C", "and/or": "and or"}  # fmt: skip


def _keys(table: dict[str, str]) -> str:
    return "|".join(sorted(map(re.escape, table), key=len, reverse=True))


def _anywhere(found: re.Match[str]) -> str:
    return _ANYWHERE[found[1]] + sentence_dot(found)


def _initialism(found: re.Match[str]) -> str:
    return " ".join(found[1].replace(".", "")) + sentence_dot(found, before_names=True)


def _initial(found: re.Match[str]) -> str:
    return found[1]


DOTTED = _keys({**_TITLES, **_NUMBERED, **_ANYWHERE, "St": ""})  # what a dot may follow

ABBREVIATIONS = (
    Rule(rf"\b({_keys(_TITLES)})\.(?=\s*[A-Z\"“])", lambda found: f"{_TITLES[found[1]]} ".rstrip(), "."),
    Rule(r"\b(Dr|Mr|Mrs|Ms|Prof)(?= [A-Z][a-z])", lambda found: _TITLES[found[1]]),
    Rule(rf"\b({_keys(_NUMBERED)})\.\s?(?=#?[\dIVXLC])", lambda found: f"{_NUMBERED[found[1]]} ", "."),
    Rule(r"\b[Pp]h\.\s?D(\.)?", lambda found: "P H D" + (sentence_dot(found) if found[1] else ""), "h."),
    Rule(r"\b([BM])\.\s?([AS])c?\.(?=\s|$|,)", lambda found: f"{found[1]} {found[2]}" + sentence_dot(found), "."),
    Rule(
        r"(?<![\w.])([eE]\.\s?g|[iI]\.\s?e|[aA]\.k\.a|[nN]\.b|[pP]\.[sS]|[qQ]\.v)\.(,)?",
        lambda found: _LATIN[found[1].lower().replace(" ", "")] + (found[2] or ""),
        ".",
    ),
    Rule(r"(?<![\w/])(w/o|b/c|c/o|n/a|N/A|and/or)(?![\w/])", lambda found: _LATIN[found[1]], "/"),
    Rule(r"(?<![\w/])w/ ?(?=[A-Za-z])", "with ", "/"),
    Rule(
        r"\b(?!(?:In|At|On|Of|To|From|The|And|By|For|With|Near|Is|See)\b)"
        r"([A-Z][a-z]+|\d+(?:st|nd|rd|th)) St(\.?)(?![\w'])",
        lambda found: f"{found[1]} Street" + (sentence_dot(found) if found[2] else ""),
        "St",
    ),
    Rule(r"\bSt\.?(?= [A-Z][a-z])", "Saint", "St"),
    Rule(r"\bet al\.", lambda found: "et al" + sentence_dot(found), "al."),
    Rule(rf"(?<=\d )({'|'.join(sorted(_AFTER_NUMBER))})\.(?!\w)", _anywhere, "."),
    Rule(
        rf"(?<![\w.])({_keys({k: v for k, v in _ANYWHERE.items() if k not in _AFTER_NUMBER})})\.(?!\w)", _anywhere, "."
    ),
    Rule(r"\bvs\b", "versus", "vs"),
    Rule(r"\betc\b", "et cetera", "etc"),
    Rule(r"(?<![\w.])([ap])\.m\.(?!\w)", lambda found: f"{found[1].upper()} M" + sentence_dot(found), "."),
    Rule(r"(?<![\w.])((?:[A-Z]\.){1,8}[A-Z])\.(?!\w)", _initialism, "."),
    # "George W. Bush", "J. Smith"; not "plan B. Then".
    Rule(
        r"\b([A-Z][a-z]+ [A-HJ-Z])\.(?=\s(?!(?:The|An?|It|He|She|They|We|This|That"
        r"|But|And|So|In|On|At|As|If|Then|There|When|What|You)\b)[A-Z][a-z])",
        _initial,
        ".",
    ),
)

# ---- Acronyms

_SPELLED_LIST = """
AI API ATM AWS BBC BMW CD CEO CFO CI CIA CLI CMS COO CPU CSS CSV CTO CVS DIY DJ DNA DNS DOB DVD ECG EEG EKG ETA EU
FAQ FBI FDA FYI GDP GIS GOP GPS GPT GPU GUI HDMI HIV HQ HR HTML HTTP HTTPS IBM ICU ID IDE IMF IP IPA IPO IQ IRS
ISO ISP ITV IV JS KGB LA LCD LLM LLC MBA MIT MRI MSI NBA NBC NFL NHL NHS NLP NSA NYC NYU OCR OEM OK OS PC PDF
PHP PR PTSD PVC QA QR RNA ROI RSS RSVP SDK SEO SMS SOS SQL SSD SSH SSL STT SUV TBA TBD TCP TLS TNT TTS TV UAE
UCLA UDP UFO UHD UI UK UN UPS URI URL USA USB USD UTC UV UX VIP VM VOD VPN VR WC WWW XML XSS CSRF ORM JWT EST
PST CST EDT PDT GMT CET PM BC CE BCE ADHD AKA ASAP BTW IDK IMO TLDR LGBT LGBTQ NGO CCTV CRM ERP KPI OECD EPA FCC
IEEE IETF RFC CSM
"""
_SPELLED = set(_SPELLED_LIST.split())
# Said as a word though nothing in their letters says so.
_WORDS_LIST = """
NASA NATO UNESCO UNICEF OPEC FIFA UEFA ASCII RAM ROM LAN WAN GIF PIN SIM AIDS LASER RADAR SONAR SCUBA TASER
NAFTA OSHA FEMA DARPA CERN NAND JPEG MPEG BIOS RAID YOLO FOMO LOL NVIDIA WIFI COVID SARS IKEA LEGO CUDA REST
CRUD
"""
_WORDS = set(_WORDS_LIST.split())
_SHOUTED = re.compile(r"\b[A-Z]{2,}\b")
_ACRONYM = re.compile(r"(?<![\w&])([A-Z][A-Za-z]*[A-Z])(['’]?s)?(?![\w&])")
_PAIR = re.compile(r"(?<![\w&])([A-Z])\s?&(?:amp;)?\s?([A-Z])(?![\w&])")
_CONSONANTS = re.compile(r"[BCDFGHJKLMNPQRSTVWXZ]{2,6}")
_ALONE = {"US": "U S", "IT": "I T", "OAuth": "O Auth", "iOS": "I O S", "IoT": "I O T", "macOS": "mac O S",

          "MySQL": "my S Q L", "NoSQL": "no S Q L", "PostgreSQL": "postgres Q L",
          "eBay": "E bay", "iPhone": "I phone", "iPad": "I pad", "ChatGPT": "chat G P T", "PhD": "P H D",
          "PhDs": "P H D's", "WebRTC": "web R T C", "JPG": "J P G", "kWh": "kilowatt-hour"}  # fmt: skip


def is_shouted(line: str) -> bool:
    """Whether words are in capitals for emphasis: most of a line of several words."""
    capitals = _SHOUTED.findall(line)
    words = len(line.split())
    return words > 1 and len(capitals) * 2 > words and any(len(word) > 3 for word in capitals)


def acronyms(line: str) -> str:
    """Letters one by one where that is sure: in a list of those, or without a vowel. A line in capitals is shouted."""
    shouted = is_shouted(line)

    def spell(found: re.Match[str]) -> str:
        word, several = found[1], "'s" if found[2] else ""
        if word in _ALONE and not shouted:
            return _ALONE[word] + several
        if word in _WORDS or not word.isupper():
            return found[0]
        if (word in _SPELLED and not (shouted and len(word) < 3)) or _CONSONANTS.fullmatch(word):
            return " ".join(word) + several
        return found[0]

    line = _PAIR.sub(r"\1 and \2", line)
    line = re.sub(r"(?<![A-Za-z])(AT|at)&T(?!\w)", "A T and T", line)
    line = re.sub(
        r"(?<!\w)([CcF])(\+\+|#)(?!\w)", lambda m: f"{m[1].upper()} {'plus plus' if m[2] == '++' else 'sharp'}", line
    )
    line = _MIXED.sub(lambda found: _ALONE[found[1]] + ("'s" if found[2] else ""), line)
    return _ACRONYM.sub(spell, line)


_MIXED = re.compile(
    rf"(?<![\w-])({'|'.join(map(re.escape, (k for k in _ALONE if not k.isupper())))})(['’]?s)?(?![\w-])"
)

# ---- Letters and digits in one word

_TOKEN = re.compile(
    r"(?<![\w@])(?=[A-Za-z0-9-]{0,40}[A-Za-z])(?=[A-Za-z0-9-]{0,40}\d)[A-Za-z0-9]{1,40}(?:-[A-Za-z0-9]{1,40}){0,6}"
    r"(?:\.\d{1,3})?(?![\w@])"
)
_PIECES = re.compile(r"[A-Za-z]+|\d+(?:\.\d+)?|-")


def letters_and_digits(line: str) -> str:
    """ "MP3" -> "M P three", "COVID-19" -> "COVID nineteen", "5-year-old" -> "five-year-old"."""
    return _TOKEN.sub(_mixed_token, line)


def _mixed_token(found: re.Match[str]) -> str:
    pieces = _PIECES.findall(found[0])
    spoken: list[str] = []
    for index, piece in enumerate(pieces):
        if piece == "-":
            around = pieces[max(index - 1, 0) : index + 2]
            words = any(each.isalpha() and each.islower() and len(each) > 1 for each in around)
            spoken.append("-" if words and 0 < index < len(pieces) - 1 else " ")
        elif piece[0].isdigit():
            short = len(piece) <= 2 or "." in piece
            spoken.append(f" {number(piece) if short else digits(piece)} ")
        else:
            letters = len(piece) == 1 or _CONSONANTS.fullmatch(piece.upper()) or piece in _SPELLED
            letters = letters or (piece.isupper() and len(piece) <= 3 and piece not in _WORDS)
            spoken.append(f" {' '.join(piece.upper())} " if letters and len(piece) <= 5 else f" {piece} ")
    return re.sub(r" ?- ?", "-", " ".join("".join(spoken).split()))


# ---- Roman numerals

_ROMAN = r"(?=[IVXL])(?:XL|L?X{0,3})(?:IX|IV|V?I{0,3})(?!\w)"
_COUNTED = (
    "Chapter|Part|Act|Scene|Volume|Vol|Section|Article|Book|Phase|Type|Class|Stage|Title|Appendix|Figure|Table|Level|Tier"
    "|World War|War|Super Bowl|Episode|Season|Grade|Schedule|Mark|Apollo|Final Fantasy|Rocky|Star Wars|Windows|Unit"
)
_RULERS = (
    "Henry|Louis|Elizabeth|George|Charles|James|Edward|Richard|William|Paul|Benedict|Pius|Leo|Francis|Philip|Felipe"
    "|Catherine|Napoleon|Nicholas|Alexander|Frederick|Peter|Mary|Otto|Gregory|Innocent|Clement|Urban|Ivan|Juan Carlos"
    "|Margrethe|Harald|Carl|Gustav|Ferdinand|Leopold|Wilhelm|Friedrich|Ramses|Ptolemy|Cleopatra|Darius|Xerxes"
)
_VALUES = {"I": 1, "V": 5, "X": 10, "L": 50}


def _roman(text: str) -> int:
    values = [_VALUES[letter] for letter in text]
    return sum(-one if one < after else one for one, after in zip(values, [*values[1:], 0], strict=True))


ROMANS = (
    Rule(
        rf"\b({_RULERS}) (I(?=[,.;]| of)|{_ROMAN})(?<![ ])", lambda found: f"{found[1]} the {ordinal(_roman(found[2]))}"
    ),
    Rule(
        rf"\b({_COUNTED}|{_COUNTED.lower()}) ({_ROMAN})(?<! )",
        lambda found: f"{found[1]} {cardinal(_roman(found[2]))}",
    ),
    Rule(
        r"(?<=[a-z]{3} )(II|III|VI|VII|VIII|IX|XI|XII|XIII|XIV|XV|XVI|XVII|XVIII|XIX|XX|XXI)(?![\w'’-])",
        lambda found: cardinal(_roman(found[1])),
        ("II", "VI", "IX", "XI", "XV", "XX"),
    ),
)
