"""Compiles `resolver.c`, which Machines are started with: names that do not resolve, and nothing leaves this host."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

SOURCE = Path(__file__).with_name("resolver.c")


async def compile_resolver(folder: Path) -> Path | None:
    """The library for LD_PRELOAD; None where there is no compiler: then nobody tries such names."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        return None
    library = folder / "resolver.so"
    process = await asyncio.create_subprocess_exec(
        compiler, "-shared", "-fPIC", "-O2", "-o", str(library), str(SOURCE), "-ldl"
    )
    return None if await process.wait() else library
