"""Time of text normalisation per 100 characters, by kind of text. No model and no GPU.

    python -m bench.text

The limit is 1 ms per 100 characters. `plain` needs no rule, `dense` is numbers, dates and abbreviations throughout, and
`brackets` is the worst case of Markdown. Best of several runs. The last line is JSON.
"""

from __future__ import annotations

import json
import time

from engine.text import normalize

LIMIT_MS = 1.0
TEXTS = {
    "plain": "This is a sentence of plain words, as most texts are. It needs no rule at all. ",
    "prose": "In 2019, Dr. Lee moved to Boston and opened a small shop there. It took 3 years to pay off the loan. ",
    "dense": "Call 555-123-4567 at 3:30 p.m. on 5/12/2024: $3.5M, 12% of 1,234 km, e.g. SSH v2.0.1. ",
    "markdown": "## A **heading**\n\n- item *one*\n- [item](https://example.com/two) 2\n\n> quoted `code` here\n\n",
    "brackets": "[[![a](b*_",
}
SIZES = (100, 5_000, 500_000)
_RUNS = {100: 20, 5_000: 3, 500_000: 1}


def ms_per_100_characters(text: str, runs: int) -> float:
    best = float("inf")
    for _ in range(runs):
        started = time.process_time()
        normalize(text)
        best = min(best, time.process_time() - started)
    return best * 1000 / len(text) * 100


def main() -> None:
    for text in TEXTS.values():
        normalize(text)  # loads the libraries
    results: dict[str, dict[int, float]] = {}
    print(f"CPU ms per 100 characters; the limit is {LIMIT_MS:g}")
    print(f"{'text':10}" + "".join(f"{size:>10} ch" for size in SIZES))
    for name, text in TEXTS.items():
        results[name] = {}
        for size in SIZES:
            repeated = (text * (size // len(text) + 1))[:size]
            results[name][size] = round(ms_per_100_characters(repeated, _RUNS[size]), 4)
        print(f"{name:10}" + "".join(f"{value:>13.3f}" for value in results[name].values()))
    print(json.dumps({"ms_per_100_characters": results, "limit": LIMIT_MS}))


if __name__ == "__main__":
    main()
