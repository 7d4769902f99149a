"""Drives a headless Chromium over the pipe of its DevTools protocol: no network, no other library."""

from __future__ import annotations

import base64
import fcntl
import itertools
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
_SECONDS = 30  # for an answer, on a busy machine
_FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"),
    *("--hide-scrollbars", "--remote-debugging-pipe", "--force-prefers-reduced-motion"),
)


class Browser:
    """A browser with one page at a time.

    Args:
        profile: folder of its own, to be made.

    Attributes:
        errors: what the page has written to the console or thrown since it was opened.
    """

    def __init__(self, profile: Path) -> None:
        # High numbers: the shell moves them to 3 and 4, where Chromium expects them.
        their_read, our_write = map(_high, os.pipe())
        our_read, their_write = map(_high, os.pipe())
        command = f'exec "$@" 3<&{their_read} 4>&{their_write}'
        self._process = subprocess.Popen(
            ["bash", "-c", command, "bash", str(CHROMIUM), *_FLAGS, f"--user-data-dir={profile}", "about:blank"],
            pass_fds=(their_read, their_write),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(their_read)
        os.close(their_write)
        self._read, self._write = our_read, our_write
        self._received, self._numbers = b"", itertools.count(1)
        self._session: str | None = None
        self.errors: list[str] = []

    def open(self, url: str, *, width: int = 1400, height: int = 900, dark: bool = False) -> None:
        """Opens an address in a new page of a size in pixels, and waits until it is loaded."""
        self._session = None
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.errors = []
        for name in ("Runtime", "Log", "Page"):
            self._call(f"{name}.enable")
        self._call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._call("Emulation.setEmulatedMedia", features=[scheme])
        self._call("Page.navigate", url=url)
        self.wait_for(
            f"location.href.startsWith({json.dumps(url.partition('#')[0])}) && document.readyState === 'complete'"
        )

    def run(self, script: str) -> Any:
        """Returns the value of an expression in the page."""
        answer = self._call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait_for(self, condition: str) -> None:
        """Waits until an expression is true in the page."""
        deadline = time.monotonic() + _SECONDS
        while not self._is_true(condition):
            assert time.monotonic() < deadline, f"never true: {condition}; errors: {self.errors}"
            time.sleep(0.05)

    def _is_true(self, condition: str) -> bool:
        """Returns whether an expression is true; not of a page that another one takes the place of meanwhile."""
        try:
            return bool(self.run(condition))
        except AssertionError as error:
            if "navigated or closed" in str(error):
                return False
            raise

    def click(self, selector: str) -> None:
        """Clicks the first element of a selector."""
        self.run(f"document.querySelector({json.dumps(selector)}).click()")

    def enter(self, selector: str, value: str) -> None:
        """Gives a control a value, as its user does."""
        self.run(
            f"(one => {{ one.value = {json.dumps(value)}; for (const kind of ['input', 'change'])"
            " one.dispatchEvent(new Event(kind, {bubbles: true})); })"
            f"(document.querySelector({json.dumps(selector)}))"
        )

    def press(self, key: str, selector: str = "body") -> None:
        """Presses a key on an element."""
        self.run(
            f"document.querySelector({json.dumps(selector)}).dispatchEvent("
            f"new KeyboardEvent('keydown', {{key: {json.dumps(key)}, bubbles: true}}))"
        )

    def tab_to(self, selector: str) -> None:
        """Gives an element the focus as the tabulator key does."""
        self.run(f"document.querySelector({json.dumps(selector)}).focus({{focusVisible: true}})")

    def point(self, selector: str, x: str, y: str) -> None:
        """Clicks with the mouse at a place in an element: expressions in pixels from its left and its top."""
        left, top = self.run(
            "(one => { one.scrollIntoView({block: 'center', behavior: 'instant'});"
            f" const box = one.getBoundingClientRect(); return [box.left + {x}, box.top + {y}]; }})"
            f"(document.querySelector({json.dumps(selector)}))"
        )
        for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
            self._call("Input.dispatchMouseEvent", type=kind, x=left, y=top, button="left", clickCount=1)

    def texts(self, selector: str) -> list[str]:
        """Returns the texts of a selector's elements, of those that are shown."""
        return self.run(
            f"[...document.querySelectorAll({json.dumps(selector)})].filter(one => one.getClientRects().length)"
            ".map(one => one.innerText)"
        )

    def accessible(self, selector: str) -> list[tuple[str, str]]:
        """Returns role and name of what a screen reader is given of the first element of a selector, in order."""
        root = self._call("DOM.getDocument")["root"]["nodeId"]
        found = self._call("DOM.querySelector", nodeId=root, selector=selector)
        tree = self._call("Accessibility.queryAXTree", nodeId=found["nodeId"])["nodes"]
        known = [(node["role"]["value"], node.get("name", {}).get("value", "")) for node in tree if not node["ignored"]]
        return [(role, name) for role, name in known if role not in ("none", "generic", "StaticText", "InlineTextBox")]

    def screenshot(self, path: Path) -> None:
        """Writes a PNG of the whole page."""
        picture = self._call("Page.captureScreenshot", captureBeyondViewport=True)["data"]
        path.write_bytes(base64.b64decode(picture))

    def close(self) -> None:
        """Ends the browser."""
        self._process.kill()
        self._process.wait()
        os.close(self._read)
        os.close(self._write)

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        number = next(self._numbers)
        message: dict[str, Any] = {"id": number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            received = self._receive()
            if received.get("id") == number:
                assert "error" not in received, (method, received["error"])
                return received["result"]
            self._note(received)

    def _note(self, event: dict[str, Any]) -> None:
        """Keeps what a page complains of."""
        about = event.get("params", {})
        if event.get("method") == "Runtime.consoleAPICalled" and about["type"] in ("error", "warning", "assert"):
            self.errors.append(json.dumps(about["args"]))
        elif event.get("method") == "Runtime.exceptionThrown":
            self.errors.append(json.dumps(about["exceptionDetails"]))
        elif event.get("method") == "Log.entryAdded" and about["entry"]["level"] == "error":
            self.errors.append(about["entry"]["text"])

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._received:
            ready, _, _ = select.select([self._read], [], [], _SECONDS)
            assert ready, "the browser does not answer"
            some = os.read(self._read, 1 << 20)
            assert some, "the browser has ended"
            self._received += some
        message, _, self._received = self._received.partition(b"\0")
        return json.loads(message)


def _high(file: int) -> int:
    """Returns a duplicate of a file descriptor with a number from 20, in place of it."""
    moved = fcntl.fcntl(file, fcntl.F_DUPFD_CLOEXEC, 20)
    os.close(file)
    return moved
