"""Readers of a Flue 2.x app's conversations, answered from its own rows by whichever Machine they came to.

Law: never a wrong answer. Whatever is not known for certain is left to the app that owns the conversation.

Written against Flue (withastro/flue) 2.1.0, whose tables are of format version 1.
"""

from __future__ import annotations

from typing import Final

VERSION: Final = "2.1.0"
"""The version of @flue/runtime of which it is known here what it answers."""
