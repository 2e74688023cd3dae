"""The manuals, as tests read them: the README at the top, and one in each room, beside the code that it describes."""

from __future__ import annotations

from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parent.parent


def manual(room: str = "") -> str:
    """The text of a room's manual, such as that of `runs`; without a name the README at the top."""
    return (ROOT / "gateway" / room / "README.md" if room else ROOT / "README.md").read_text()


def manuals() -> list[Path]:
    """Every manual."""
    return [
        ROOT / "README.md",
        *sorted(path for top in ("gateway", "tests", "loadtests") for path in _found(ROOT / top)),
    ]


def _found(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("README.md") if "node_modules" not in path.parts]
