"""The page takes JSON apart as it is written: no number is rounded and no name is lost."""

from __future__ import annotations

import json
import random
import subprocess
from pathlib import Path
from typing import Any

from tests.node import require_node

SCRIPT = Path(__file__).parent / "json.mjs"
TEXTS = ["", "a", '"', "\\", '\\"', "[1,{]}", ": ,", "\u202e", "😀", "\n"]


def made_of(texts: list[str]) -> list[dict[str, Any]]:
    given = "".join(f"{text}\n" for text in texts)
    done = subprocess.run([require_node(), SCRIPT], input=given, capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def value(rng: random.Random, depth: int = 0) -> Any:
    kind = rng.randrange(8 if depth < 5 else 5)
    if kind < 5:
        return [None, rng.random() < 0.5, rng.randrange(-(10**6), 10**6), rng.choice(TEXTS), 0.5][kind]
    if kind == 5:
        return {rng.choice(TEXTS): value(rng, depth + 1) for _ in range(rng.randrange(4))}
    return [value(rng, depth + 1) for _ in range(rng.randrange(4))]


def test_an_array_comes_apart_and_is_laid_out() -> None:
    rng = random.Random(17)
    values = [[value(rng) for _ in range(rng.randrange(5))] for _ in range(500)]
    for separators in ((",", ":"), (" , ", " : ")):
        found = made_of([json.dumps(each, separators=separators) for each in values])
        assert [[json.loads(element) for element in each["elements"]] for each in found] == values
        assert [each["pretty"] for each in found] == [json.dumps(each, indent=2) for each in values]


def test_what_is_written_stays_as_it_is_written() -> None:
    (found,) = made_of(['[12345678901234567890, 1.0, {"a":1,"a":2}, "\\u0041"]'])
    assert found["elements"] == ["12345678901234567890", "1.0", '{"a":1,"a":2}', '"\\u0041"']
    assert found["pretty"] == '[\n  12345678901234567890,\n  1.0,\n  {\n    "a": 1,\n    "a": 2\n  },\n  "\\u0041"\n]'
    (deep,) = made_of(["[" * 5000 + "]" * 5000])
    assert len(deep["pretty"]) < 1_000_000


def test_what_is_no_array_is_one() -> None:
    assert [found["elements"] for found in made_of(['{"a":[1,2]}', "7", '"[1,2]"'])] == [
        ['{"a":[1,2]}'],
        ["7"],
        ['"[1,2]"'],
    ]
