"""Texts of the benchmarks, shared by all systems under test."""

from __future__ import annotations

SENTENCES = (
    "The quick brown fox jumps over the lazy dog near the bank of the river.",
    "Your parcel was handed to a neighbour at half past two, and they know that you will come for it.",
    "Turn left behind the bakery, then follow the tram line until you see the water.",
    "I have looked at the figures twice, and I am afraid that we forgot to count the second week.",
    "It will be mild and cloudy today, with a little rain in the evening and a clear night behind it.",
    "Whoever wrote this page was in a hurry, so read the first paragraph slowly and skip the rest.",
    "She opened the window, listened for a while, and said that the birds were back.",
    "You can reach us every day between nine and five, or leave a message after the tone.",
    "Take two spoons of flour, a pinch of salt and as much water as it needs to come together.",
    "The meeting has moved to the small room upstairs, because the large one is being painted.",
    "Nobody had told the children that the train would stop for so long, and yet they were the only patient ones.",
    "Good morning, and thank you for waiting. How can I help you?",
)
HARVARD = (  # IEEE's sentences for measurements of speech quality (1969), list 1
    "The birch canoe slid on the smooth planks.",
    "Glue the sheet to the dark blue background.",
    "It's easy to tell the depth of a well.",
    "These days a chicken leg is a rare dish.",
    "Rice is often served in round bowls.",
    "The juice of lemons makes fine punch.",
    "The box was thrown beside the parked truck.",
    "The hogs were fed chopped corn and garbage.",
    "Four hours of steady work faced us.",
    "A large size in stockings is hard to sell.",
)
# Twice the fastest speaking rate, so that a cut answer never ends before its limit.
_CHARACTERS_PER_SECOND = 40


def natural_text(number: int) -> str:
    """One to three sentences selected by `number`: answers of different lengths."""
    return " ".join(SENTENCES[(number + each) % len(SENTENCES)] for each in range(1 + number % 3))


def text_longer_than(number: int, seconds: float) -> str:
    """A text, selected by `number`, that takes longer than `seconds` to speak."""
    text = SENTENCES[number % len(SENTENCES)]
    each = number
    while len(text) < seconds * _CHARACTERS_PER_SECOND:
        each += 1
        text += f" {SENTENCES[each % len(SENTENCES)]}"
    return text
