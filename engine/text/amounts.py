"""Amounts as they are said: money, percent, units, ranges, fractions, ordinals, arithmetic, and every other number."""

from __future__ import annotations

import re

from .numbers import NUMBER, START, cardinal, digits, is_year, number, ordinal, plural, year
from .rules import Rule, after_article

# ---- Money

# One, several, a hundredth, hundredths.
_DOLLARS, _EUROS, _POUNDS = (
    ("dollar", "dollars", "cent", "cents"),
    ("euro", "euros", "cent", "cents"),
    ("pound", "pounds", "penny", "pence"),
)
_SYMBOLS = {
    "$": _DOLLARS, "€": _EUROS, "£": _POUNDS, "¥": ("yen", "yen", "", ""), "₹": ("rupee", "rupees", "paisa", "paise"),
    "₩": ("won", "won", "", ""), "₽": ("ruble", "rubles", "kopek", "kopeks"), "₿": ("bitcoin", "bitcoins", "", ""),
    "₺": ("lira", "lira", "", ""), "₫": ("dong", "dong", "", ""), "₪": ("shekel", "shekels", "", ""),
    "₴": ("hryvnia", "hryvnias", "", ""),
}  # fmt: skip
_COUNTRIES = {"US": "U S", "CA": "Canadian", "C": "Canadian", "A": "Australian", "AU": "Australian",
              "NZ": "New Zealand", "HK": "Hong Kong", "S": "Singapore"}  # fmt: skip
_CODES = {
    "USD": ("U S dollar", "U S dollars", "cent", "cents"), "EUR": _EUROS, "GBP": _POUNDS, "JPY": _SYMBOLS["¥"],
    "CAD": ("Canadian dollar", "Canadian dollars", "cent", "cents"), "INR": _SYMBOLS["₹"],
    "AUD": ("Australian dollar", "Australian dollars", "cent", "cents"), "BTC": _SYMBOLS["₿"],
    "CHF": ("Swiss franc", "Swiss francs", "centime", "centimes"), "CNY": ("yuan", "yuan", "", ""),
}  # fmt: skip
_MAGNITUDES = {
    "k": "thousand", "K": "thousand", "m": "million", "M": "million", "mn": "million", "mm": "million",
    "b": "billion", "B": "billion", "bn": "billion", "T": "trillion", "tn": "trillion",
}  # fmt: skip
_MAGNITUDE = rf"(?:[\s-]?(hundred|thousand|million|billion|trillion)|({'|'.join(_MAGNITUDES)}))?(?!\w)"
_SYMBOL = f"[{''.join(_SYMBOLS)}]"
_COUNTRY = f"(?:(?<![A-Za-z])({'|'.join(_COUNTRIES)}))?"


def _money(amount: str, magnitude: str | None, names: tuple[str, str, str, str]) -> str:
    one, several, hundredth, hundredths = names
    if magnitude:
        return f"{number(amount)} {_MAGNITUDES.get(magnitude, magnitude)} {several}"
    whole, _, part = amount.replace(",", "").partition(".")
    if hundredth and len(part) == 2:
        units, cents = int(whole), int(part)
        words = [f"{number(whole)} {one if units == 1 else several}"] if units or not cents else []
        if cents:
            words.append(f"{cardinal(cents)} {hundredth if cents == 1 else hundredths}")
        return " and ".join(words)
    return f"{number(amount)} {one if amount == '1' else several}"


def _named(symbol: str, country: str | None) -> tuple[str, str, str, str]:
    one, several, hundredth, hundredths = _SYMBOLS[symbol]
    if not country:
        return one, several, hundredth, hundredths
    return f"{_COUNTRIES[country]} {one}", f"{_COUNTRIES[country]} {several}", hundredth, hundredths


def _before(found: re.Match[str]) -> str:
    minus, country, symbol, amount, second, word, letter = found.groups()
    names = _named(symbol, country)
    if after_article(found):
        names = (names[0], names[0], *names[2:])
    amount = f"0{amount}" if amount.startswith(".") else amount
    spoken = _money(amount, None if second else word or letter, names)
    if second:
        spoken = f"{number(amount)} to {_money(second, word or letter, names)}"
    return ("minus " if minus else "") + spoken


_PERIODS = {"hr": "hour", "h": "hour", "mo": "month", "yr": "year", "wk": "week", "d": "day", "min": "minute",
            "kg": "kilogram", "lb": "pound", "mi": "mile", "km": "kilometer", "gal": "gallon", "l": "liter",
            "sqft": "square foot"}  # fmt: skip

_MONEY = (
    Rule(
        rf"(?<![\w$])([-−](?={_SYMBOL}|[A-Z]))?{_COUNTRY}({_SYMBOL})\s?({NUMBER}|\.\d+)(?:\s?[-–]\s?{_SYMBOL}?({NUMBER}))?{_MAGNITUDE}",
        _before,
        tuple(_SYMBOLS),
    ),
    Rule(
        rf"{START}({NUMBER}){_MAGNITUDE}\s?({_SYMBOL})(?![\w$])",
        lambda found: _money(found[1], found[2] or found[3], _SYMBOLS[found[4]]),
        tuple(_SYMBOLS),
    ),
    Rule(
        rf"{START}({NUMBER})\s?¢",
        lambda found: f"{number(found[1])} {'cent' if found[1] == '1' or after_article(found) else 'cents'}",
        "¢",
    ),
    Rule(
        rf"\b({'|'.join(_CODES)})\s?({NUMBER}){_MAGNITUDE}",
        lambda found: _money(found[2], found[3] or found[4], _CODES[found[1]]),
        tuple(_CODES),
    ),
    Rule(
        rf"{START}({NUMBER})(?:\s(hundred|thousand|million|billion|trillion)|({'|'.join(_MAGNITUDES)}))?\s?({'|'.join(_CODES)})\b",
        lambda found: _money(found[1], found[2] or found[3], _CODES[found[4]]),
        tuple(_CODES),
    ),
    Rule(
        r"(?<=(?:dollars|..euros|.pounds|..cents|.rupees))\s?/\s?([a-z]+)\b",
        lambda found: f" per {_PERIODS.get(found[1], found[1])}",
        "/",
    ),
)

# ---- Units

_UNITS = {
    "km": "kilometer", "cm": "centimeter", "mm": "millimeter", "nm": "nanometer", "m": "meter", "mi": "mile",
    "µm": "micrometer", "μm": "micrometer", "ft": "foot", "yd": "yard", "yds": "yard",
    "kg": "kilogram", "g": "gram", "mg": "milligram", "µg": "microgram", "μg": "microgram", "mcg": "microgram",
    "lb": "pound", "lbs": "pound", "oz": "ounce",
    "L": "liter", "l": "liter", "ml": "milliliter", "mL": "milliliter", "cl": "centiliter", "dl": "deciliter",
    "gal": "gallon", "tsp": "teaspoon", "tbsp": "tablespoon",
    "Hz": "hertz", "kHz": "kilohertz", "MHz": "megahertz", "GHz": "gigahertz", "THz": "terahertz",
    "KB": "kilobyte", "kB": "kilobyte", "MB": "megabyte", "GB": "gigabyte", "TB": "terabyte", "PB": "petabyte",
    "KiB": "kibibyte", "MiB": "mebibyte", "GiB": "gibibyte", "TiB": "tebibyte",
    "kbps": "kilobit per second", "Kbps": "kilobit per second", "kbit/s": "kilobit per second",
    "Mbps": "megabit per second", "Gbps": "gigabit per second", "Mbit/s": "megabit per second",
    "Gbit/s": "gigabit per second", "MB/s": "megabyte per second", "GB/s": "gigabyte per second",
    "W": "watt", "kW": "kilowatt", "MW": "megawatt", "GW": "gigawatt", "mW": "milliwatt",
    "Wh": "watt-hour", "kWh": "kilowatt-hour", "MWh": "megawatt-hour", "mAh": "milliamp-hour", "Ah": "amp-hour",
    "V": "volt", "kV": "kilovolt", "mV": "millivolt", "mA": "milliamp", "Ω": "ohm", "kΩ": "kilohm",
    "dB": "decibel", "dBA": "decibel", "Pa": "pascal", "kPa": "kilopascal", "hPa": "hectopascal",
    "psi": "P S I", "rpm": "R P M", "fps": "frames per second", "bpm": "beats per minute", "dpi": "D P I",
    "px": "pixel", "pt": "point", "cal": "calorie", "kcal": "kilocalorie", "kJ": "kilojoule",
    "ha": "hectare", "mph": "mile per hour", "kph": "kilometer per hour", "km/h": "kilometer per hour",
    "kmh": "kilometer per hour", "m/s": "meter per second", "ft/s": "foot per second",
    "mi/h": "mile per hour", "mg/dL": "milligram per deciliter", "mg/L": "milligram per liter",
    "g/L": "gram per liter", "kg/m³": "kilogram per cubic meter", "mpg": "mile per gallon",
    "ms": "millisecond", "µs": "microsecond", "μs": "microsecond", "ns": "nanosecond",
    "s": "second", "sec": "second", "secs": "second", "min": "minute", "mins": "minute",
    "h": "hour", "hr": "hour", "hrs": "hour", "yr": "year", "yrs": "year", "wk": "week", "wks": "week",
    "°C": "degree Celsius", "°F": "degree Fahrenheit", "℃": "degree Celsius", "℉": "degree Fahrenheit",
    "°": "degree", "sq ft": "square foot", "sqft": "square foot", "sq m": "square meter", "sq km": "square kilometer",
    "sq mi": "square mile", "cu ft": "cubic foot", "cc": "C C",
}  # fmt: skip
_POWERS = {"²": "square", "^2": "square", "2": "square", "³": "cubic", "^3": "cubic", "3": "cubic"}
_SAME = {"hertz", "P S I", "R P M", "D P I", "C C"}
_UNIT = "|".join(sorted(map(re.escape, _UNITS), key=len, reverse=True))


def _several(unit: str) -> str:
    head, per, tail = unit.partition(" per ")
    if any(head.endswith(same) for same in _SAME) or head in ("frames", "beats"):
        return unit
    if head.startswith("degree"):
        return head.replace("degree", "degrees", 1)
    return (f"{head[:-4]}feet" if head.endswith("foot") else plural(head)) + per + tail


def _measure(found: re.Match[str]) -> str:
    amount, hyphen, unit, power = found.groups()
    name = f"{_POWERS[power]} {_UNITS[unit]}" if power else _UNITS[unit]
    single = amount == "1" or hyphen == "-" or after_article(found)
    return f"{number(amount)} {name if single else _several(name)}"


def _feet(found: re.Match[str]) -> str:
    return f"{cardinal(int(found[1]))} feet {cardinal(int(found[2]))} inch{'' if found[2] == '1' else 'es'}"


_MEASURES = (
    Rule(
        rf"{START}(\d+)[\s-]?(m|km|cm|mm|ft|mi)(?:(²|\^2)|(³|\^3))(?!\w)",
        lambda found: (
            f"{number(found[1])} {'square' if found[3] else 'cubic'} "
            f"{_UNITS[found[2]] if found[1] == '1' or after_article(found) else _several(_UNITS[found[2]])}"
        ),
    ),
    Rule(rf"{START}({NUMBER})([\s-]?)({_UNIT})(²|³|\^[23])?(?![\w°]|/\w|\.\w|['’][a-z])(?:\.(?=\s[a-z]))?", _measure),
    Rule(r"(?<![\w.])(\d{1,2})['′]\s?(\d{1,2})(?:\"|″|''|”)", _feet),
    Rule(
        rf"{START}({NUMBER})in\b\.?(?!\w)",
        lambda found: f"{number(found[1])} inch{'' if found[1] == '1' or after_article(found) else 'es'}",
        "in",
    ),
    Rule(rf"{START}({NUMBER})(k|K)(?!\w)", lambda found: f"{number(found[1])} K"),
    Rule(
        rf"{START}({NUMBER})(?:(M|mn|bn|tn)|(?<=\.\d)([BT]))(?!\w)",
        lambda found: f"{number(found[1])} {_MAGNITUDES[found[2] or found[3]]}",
    ),
    Rule(rf"{START}({NUMBER})\s?%", lambda found: f"{number(found[1])} percent", "%"),
    Rule(rf"{START}({NUMBER})\s?‰", lambda found: f"{number(found[1])} per mille", "‰"),
)

# ---- Fractions, ordinals, ranges

_PARTS = {2: ("half", "halves"), 4: ("quarter", "quarters")}
_VULGAR = {
    "½": (1, 2), "⅓": (1, 3), "⅔": (2, 3), "¼": (1, 4), "¾": (3, 4), "⅕": (1, 5), "⅖": (2, 5), "⅗": (3, 5),
    "⅘": (4, 5), "⅙": (1, 6), "⅚": (5, 6), "⅛": (1, 8), "⅜": (3, 8), "⅝": (5, 8), "⅞": (7, 8), "⅐": (1, 7),
    "⅑": (1, 9), "⅒": (1, 10),
}  # fmt: skip


def _fraction(top: int, bottom: int) -> str:
    one, several = _PARTS.get(bottom) or (ordinal(bottom), plural(ordinal(bottom)))
    return f"{cardinal(top)} {one if top == 1 else several}"


# Measures that parts are taken of: "three quarters of a cup".
_PARTED = re.compile(
    r" (cup|teaspoon|tablespoon|pint|quart|gallon|liter|litre|ounce|pound|inch|foot|yard|mile|meter|metre|kilometer"
    r"|kilometre|acre|second|minute|hour|day|week|month|year|page|pill|tablet)\b"
)


def _written_fraction(found: re.Match[str]) -> str:
    whole, top, bottom = found[1], int(found[2]), int(found[3])
    if (2 <= bottom <= 20 and 0 < top < bottom) or bottom in (32, 64, 100):
        spoken = _fraction(top, bottom)
        if whole:
            return f"{number(whole.strip())} and {'a' + spoken[3:] if top == 1 else spoken}"
        parted = _PARTED.match(found.string, found.end()) if top > 1 else None
        return f"{spoken} of {'an' if parted[1] in ('ounce', 'inch', 'acre', 'hour') else 'a'}" if parted else spoken
    relation = "out of" if top == bottom else "over"
    return f"{number(whole.strip()) + ' ' if whole else ''}{cardinal(top)} {relation} {cardinal(bottom)}"


def _vulgar(found: re.Match[str]) -> str:
    top, bottom = _VULGAR[found[2]]
    spoken = _fraction(top, bottom)
    if found[1]:
        return f"{number(found[1])} and {'a' + spoken[3:] if top == 1 else spoken}"
    return spoken


def _ordinal(found: re.Match[str]) -> str:
    return ordinal(int(found[1].replace(",", "")))


def _range(found: re.Match[str]) -> str:
    first, second = found[1], found[2]
    if is_year(first) and is_year(second):
        return f"{year(int(first))} to {year(int(second))}"
    return f"{first} to {second}"


FRACTIONS = (
    Rule(r"(?<![\w./])24/7(?![\w/])", "twenty-four seven", "/"),
    Rule(r"(?<![\w./,])(\d{1,4} )?(\d{1,4})/(\d{1,4})(?![\w/]|[.,]\d)", _written_fraction, "/"),
    Rule(r"(?<![\w.])(\d{1,6})?\s?([½⅓⅔¼¾⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞⅐⅑⅒])(?!\d)", _vulgar),
)
_ORDINALS = (Rule(rf"{START}(\d{{1,3}}(?:,\d{{3}})+|\d{{1,12}})(?:st|nd|rd|th|ST|ND|RD|TH)(?!\w)", _ordinal),)
_RANGES = (
    Rule(
        rf"(?<![\w.,/–-])({NUMBER})(?:–|\s–\s|-)({NUMBER})(?![–/-]\d|[a-zA-Z]*\d|[a-zA-Z]{{4}}|[.,]\d)",
        _range,
    ),
)

# ---- Arithmetic and what is left

ARITHMETIC = (
    Rule(r"(?<=\d)(?:\s?x\s?|×)(?=\d)", " by "),
    Rule(rf"{START}({NUMBER})[x×](?![\w])", lambda found: f"{number(found[1])} times"),
    Rule(r"(?<=[\w)])\s?×\s?(?=[\w(])", " times ", "×"),
    Rule(r"(?<=[\d)])\s?\*\s?(?=[\d(])", " times ", "*"),
    Rule(r"\s?÷\s?", " divided by ", "÷"),
    Rule(r"(?<=[\d)]) ?/ (?=[\d(])", " divided by ", "/"),
    Rule(r"(?<=\d)\s?\^\s?(?=-?\d)", " to the power of ", "^"),
    Rule(r"(?<=[\w)])²", " squared", "²"),
    Rule(r"(?<=[\w)])³", " cubed", "³"),
    Rule(r"\s?±\s?", " plus or minus ", "±"),
    Rule(r"\s?≈\s?", " is about ", "≈"),
    Rule(r"\s?(?:≠|!=)\s?", " is not equal to ", ("≠", "!=")),
    Rule(r"(?<=\w)\s?(?:≥|>=)\s?", " is at least ", ("≥", ">=")),
    Rule(r"(?<=\w)\s?(?:≤|<=)\s?", " is at most ", ("≤", "<=")),
    Rule(r"(?:≥|>=)\s?", "at least ", ("≥", ">=")),
    Rule(r"(?:≤|<=)\s?", "at most ", ("≤", "<=")),
    Rule(r"(?<![\w~])~\s?(?=\d)", "about ", "~"),
    Rule(r"(?<=[\w)%])\s?=\s?(?=[\w(-])", " equals ", "="),
    Rule(r"(?<=[\d)%])\s?\+\s?(?=[\d(])", " plus ", "+"),
    Rule(r"(?<=\w)\s\+\s(?=\w)", " plus ", "+"),
    Rule(r"(?<=\w)\+(?!\w)", " plus", "+"),
    Rule(r"(?<!\w)\+(?=\d)", "plus ", "+"),
    Rule(r"(?<=[\d)])\s[-−]\s(?=[\d(])|(?<=\d)−(?=\d)", " minus ", ("-", "−")),
    Rule(r"(?<=[\w)]) ?< ?(?=[\d(-])", " less than ", "<"),
    Rule(r"(?<=[\w)]) ?> ?(?=[\d(-])", " greater than ", ">"),
    Rule(r"(?<!\w)< ?(?=\d)", "less than ", "<"),
    Rule(r"(?<!\w)> ?(?=\d)", "more than ", ">"),
)
PLAIN_NUMBERS = (
    # The comma of a decimal in Europe.
    Rule(r"(?<![\w.,])(\d+),(\d\d?)(?!\w|[.,]\d)", lambda found: f"{number(found[1])} point {digits(found[2])}", ","),
    Rule(r"(?<![\w.])\.(\d+)(?!\w|\.\d)", lambda found: f"point {digits(found[1])}"),
    Rule(rf"{START}({NUMBER})(?!\w|[.,]\d)", lambda found: number(found[1])),
    # Whatever is left: a number between odd signs.
    Rule(r"(?<![^\W_])(\d+)(?![^\W_])", lambda found: number(found[1])),
)

_MINUS = Rule(r"(?<![\w)-])[-−](?=\.?\d)", "minus ")
AMOUNTS = (*_MONEY, *_RANGES, _MINUS, *_ORDINALS, *FRACTIONS, *_MEASURES, *ARITHMETIC)
