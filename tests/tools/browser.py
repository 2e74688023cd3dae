"""A real browser, Chromium without a window, driven through its WebDriver (W3C); it reaches no address but loopback."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import re
import shutil
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

import httpx

from tests.node import unavailable

PATIENCE: Final = 60.0  # seconds that anything may take
# Seconds between the first two looks at the page, and at most between later ones: each takes its browser 20 ms.
_BETWEEN: Final = 0.05
_LONGEST: Final = 0.3
_ARGUMENTS: Final = [
    "--headless=new",
    "--no-sandbox",  # as root, in a container
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
]
_STARTED: Final = re.compile(rb"started successfully on port (\d+)")


class Browser:
    """One page at a time. Without Chromium the test that starts one is skipped; in CI it fails."""

    def __init__(self, http: httpx.AsyncClient, session: str) -> None:
        self._http = http
        self._session = session

    @classmethod
    @contextlib.asynccontextmanager
    async def start(cls) -> AsyncIterator[Browser]:
        """A browser with a profile of its own, until the block ends."""
        driver = shutil.which("chromedriver")
        binary = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
        if driver is None or binary is None:
            unavailable("Chromium and its chromedriver are not installed")
        process = await asyncio.create_subprocess_exec(
            driver, "--port=0", stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
        )
        try:
            async with asyncio.timeout(PATIENCE):
                port = await _port(process)
            async with httpx.AsyncClient(
                base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=PATIENCE
            ) as http:
                options = {"args": _ARGUMENTS, "binary": binary}
                wanted = {"capabilities": {"alwaysMatch": {"goog:chromeOptions": options}}}
                session = _value(await http.post("/session", json=wanted))["sessionId"]
                try:
                    yield cls(http, session)
                finally:
                    await http.delete(f"/session/{session}")
        finally:
            process.terminate()
            await process.wait()

    async def open(self, url: str) -> None:
        """Goes to an address; what was on the page before is closed, as by its user."""
        await self._post("url", url=url)

    async def reload(self) -> None:
        await self._post("refresh")

    async def picture(self, width: int, height: int) -> bytes:
        """The page as it is seen in a window of so many pixels, as a PNG."""
        await self._post("window/rect", width=width, height=height)
        return base64.b64decode(_value(await self._http.get(f"/session/{self._session}/screenshot")))

    async def run(self, script: str, *arguments: Any) -> Any:
        """What a function body returns, run in the page."""
        return await self._post("execute/sync", script=script, args=list(arguments))

    async def press(self, *keys: str) -> None:
        """Has these keys pressed, one after the other, as by hand (https://www.w3.org/TR/webdriver2/#keyboard-actions)."""
        actions = [{"type": kind, "value": key} for key in keys for kind in ("keyDown", "keyUp")]
        await self._post("actions", actions=[{"type": "key", "id": "keyboard", "actions": actions}])

    async def emulate(self, command: str, **parameters: Any) -> None:
        """Has Chromium be otherwise, by a command of its DevTools protocol, such as `Emulation.setEmulatedMedia`."""
        await self._post("goog/cdp/execute", cmd=command, params=parameters)

    async def until(
        self, script: str, condition: Callable[[Any], bool], arguments: Callable[[], tuple[Any, ...]] = tuple
    ) -> Any:
        """Waits until what this function body returns fulfils the condition. Raises TimeoutError, which tells it."""
        seen = None
        pause = _BETWEEN
        try:
            async with asyncio.timeout(PATIENCE):
                while not condition(seen := await self.run(script, *arguments())):
                    await asyncio.sleep(pause)
                    pause = min(_LONGEST, 1.5 * pause)
        except TimeoutError:
            raise TimeoutError(f"the page has come no further than {seen!r}") from None
        return seen

    async def _post(self, what: str, **parameters: Any) -> Any:
        return _value(await self._http.post(f"/session/{self._session}/{what}", json=parameters))


async def _port(process: asyncio.subprocess.Process) -> int:
    assert process.stdout is not None
    async for line in process.stdout:
        if found := _STARTED.search(line):
            return int(found[1])
    raise RuntimeError("chromedriver ended at once")


def _value(response: httpx.Response) -> Any:
    value = response.json()["value"]
    if response.is_error:
        raise RuntimeError(f"the browser refuses: {value['error']}: {value['message']}")
    return value
