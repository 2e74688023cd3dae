"""Manuals lead where they say: every link and every anchor resolves, and the README at the top stays short."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.manual import ROOT, manual, manuals

LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")


def anchors(path: Path) -> set[str]:
    """What GitHub makes of a file's headings."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", path.read_text(), flags=re.DOTALL), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", manuals(), ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_of_a_manual_leads_somewhere(path: Path) -> None:
    text = re.sub(r"```.*?```", "", path.read_text(), flags=re.DOTALL)
    for link in LINK.findall(text):
        if re.match(r"https?:", link):
            continue
        file, _, anchor = link.partition("#")
        there = (path.parent / file).resolve() if file else path
        assert there.exists(), link
        if anchor:
            assert anchor in anchors(there if there.is_file() else there / "README.md"), link


def test_the_readme_fits_on_few_screens() -> None:
    assert len(manual().splitlines()) <= 250


def test_no_paragraph_stands_in_two_manuals() -> None:
    seen: dict[str, Path] = {}
    for path in manuals():
        for paragraph in re.split(r"\n\s*\n", path.read_text()):
            if len(paragraph) > 120:
                assert paragraph not in seen, f"{path} repeats {seen.get(paragraph)}"
                seen[paragraph] = path
