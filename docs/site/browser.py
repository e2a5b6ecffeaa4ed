"""A headless Chromium that opens pages of the site and says what it saw, over its DevTools pipe."""

import base64
import fcntl
import json
import os
import shutil
import signal
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

SEEN = """(() => ({
    wide: document.documentElement.scrollWidth - document.documentElement.clientWidth,
    equations: [...document.querySelectorAll('math')].filter(m => m.getClientRects().length).map(
        m => Math.round(m.getBoundingClientRect().height)),
    text: document.body.innerText,
}))()"""


class Seen(NamedTuple):
    """What a page looked like.

    * `errors`: what scripts reported, and what could not be loaded;
    * `wide`: by how many pixels the page is wider than the window;
    * `equations`: the height of each visible equation in pixels;
    * `text`: the visible text.
    """

    errors: list[str]
    wide: int
    equations: list[int]
    text: str


def find_chromium() -> str | None:
    """The path of a Chromium or Chrome; `None` if there is none."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Browser:
    """Chromium without a window, as a context manager. It has no network."""

    def __init__(self, program: str):
        self._program, self._count, self._events = program, 0, []

    def __enter__(self) -> "Browser":
        self._profile = tempfile.TemporaryDirectory()
        reads, self._to = os.pipe()
        self._from, writes = os.pipe()
        options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", "--hide-scrollbars"]
        offline = "--host-resolver-rules=MAP * ~NOTFOUND"
        command = [self._program, *options, offline, f"--user-data-dir={self._profile.name}", "about:blank"]
        # Chromium reads commands from descriptor 3 and answers on 4.
        high = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in (reads, writes)]
        actions = [(os.POSIX_SPAWN_DUP2, end, to) for end, to in zip(high, (3, 4), strict=True)]
        actions += [(os.POSIX_SPAWN_OPEN, stream, os.devnull, os.O_WRONLY, 0) for stream in (1, 2)]
        self._process = os.posix_spawn(self._program, command, os.environ, file_actions=actions)
        for end in (reads, writes, *high):
            os.close(end)
        self._rest = b""
        target = self._ask("Target.createTarget", {"url": "about:blank"})["targetId"]
        self._session = self._ask("Target.attachToTarget", {"targetId": target, "flatten": True})["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._ask(f"{domain}.enable")
        return self

    def __exit__(self, *exception) -> None:
        os.kill(self._process, signal.SIGTERM)
        os.waitpid(self._process, 0)
        os.close(self._to)
        os.close(self._from)
        self._profile.cleanup()

    def open(
        self, page: Path, *, width: int, query: str = "", until: str = "true", picture: Path | None = None
    ) -> Seen:
        """Opens a page in a window of this width, waits until the expression `until` is true, and looks at it."""
        height, phone = 900, width < 600
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": phone}
        self._ask("Emulation.setDeviceMetricsOverride", size)
        self._events = []
        self._ask("Page.navigate", {"url": page.resolve().as_uri() + query})
        end = time.monotonic() + 20
        ready = f"document.readyState === 'complete' && Boolean({until})"
        while not self._value(ready) and time.monotonic() < end:
            time.sleep(0.1)
        seen = self._value(SEEN)
        if picture is not None:
            shot = self._ask("Page.captureScreenshot", {"captureBeyondViewport": True})
            picture.write_bytes(base64.b64decode(shot["data"]))
        return Seen([found for event in self._events if (found := _error(event))], **seen)

    def _value(self, expression: str) -> Any:
        result = self._ask("Runtime.evaluate", {"expression": expression, "returnByValue": True})["result"]
        return result.get("value")

    def _ask(self, method: str, parameters: dict | None = None) -> Any:
        self._count += 1
        message = {"id": self._count, "method": method, "params": parameters or {}}
        if hasattr(self, "_session"):
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while (answer := self._next()).get("id") != self._count:
            self._events.append(answer)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        return answer["result"]

    def _next(self) -> dict:
        while b"\0" not in self._rest:
            read = os.read(self._from, 1 << 16)
            if not read:
                raise RuntimeError("Chromium ended.")
            self._rest += read
        message, _, self._rest = self._rest.partition(b"\0")
        return json.loads(message)


def _error(event: dict) -> str:
    """The sentence of an event that reports an error; empty for any other."""
    parameters = event.get("params", {})
    match event.get("method"):
        case "Runtime.exceptionThrown":
            return str(parameters["exceptionDetails"].get("exception", {}).get("description", "an exception"))
        case "Log.entryAdded" if parameters["entry"]["level"] == "error":
            return parameters["entry"]["text"]
        case "Network.loadingFailed" if not parameters.get("canceled"):
            return f"not loaded: {parameters.get('errorText')}"
    return ""
