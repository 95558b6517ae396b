"""A headless Chromium that a test drives over a pipe, by its DevTools protocol; no network is reachable from it."""

import contextlib
import fcntl
import json
import os
import shutil
import subprocess
import time

NAMES = ("chromium", "chromium-browser", "google-chrome")
PROGRAM = next((path for path in map(shutil.which, NAMES) if path), None)


class Browser:
    """One page; ``errors`` are those of its console, ``requests`` the addresses outside of it that it asked for."""

    def __init__(self, profile, width=1500, height=1000):
        (read, theirs_out), (theirs_in, write) = ([_high(end) for end in os.pipe()] for _ in range(2))
        options = (
            f"--headless=new --no-sandbox --disable-gpu --hide-scrollbars --window-size={width},{height} "
            "--no-first-run --disable-background-networking --disable-component-update --disable-sync "
            f"'--host-resolver-rules=MAP * ~NOTFOUND' --user-data-dir={profile} --remote-debugging-pipe about:blank"
        )
        command = f"exec {PROGRAM} {options} 3<&{theirs_in} 4>&{theirs_out}"
        self.process = subprocess.Popen(
            ["bash", "-c", command], pass_fds=(theirs_in, theirs_out), stderr=subprocess.DEVNULL, start_new_session=True
        )
        os.close(theirs_in), os.close(theirs_out)
        self.read, self.write = os.fdopen(read, "rb", 0), os.fdopen(write, "wb", 0)
        self.rest, self.number, self.session = b"", 0, None
        self.errors, self.requests, self.loaded = [], [], False
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method, **parameters):
        """Return what a method of the protocol answers."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters}
        self.write.write(json.dumps(message | ({"sessionId": self.session} if self.session else {})).encode() + b"\0")
        while True:
            found = self._next()
            if found.get("id") == self.number:
                assert "error" not in found, found["error"]
                return found["result"]

    def open(self, address):
        """Open a page, and wait until it has loaded."""
        self.loaded = False
        self.call("Page.navigate", url=address)
        until(lambda: self.evaluate("document.readyState") == "complete")

    def evaluate(self, script):
        """Return the value of a JavaScript expression."""
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    @property
    def text(self):
        """All that can be read on the page."""
        return self.evaluate("document.body.innerText")

    def click(self, text):
        """Click the last link of that text."""
        links = f"[...document.querySelectorAll('a')].filter(link => link.innerText.trim() == {json.dumps(text)})"
        until(lambda: self.evaluate(f"{links}.length"))
        self.evaluate(f"{links}.pop().click()")

    def type(self, selector, text):
        """Write a text into an input, and press Enter."""
        self.evaluate(f"document.querySelector({json.dumps(selector)}).focus()")
        self.call("Input.insertText", text=text)
        key = {"key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 13, "text": "\r"}
        self.call("Input.dispatchKeyEvent", type="keyDown", **key)

    def screenshot(self, path):
        """Write what is seen as PNG."""
        import base64

        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot")["data"]))

    def close(self):
        """End the browser."""
        with contextlib.suppress(Exception):
            self.session = None
            self.call("Browser.close")
        self.process.kill()
        self.process.wait()

    def _next(self):
        while b"\0" not in self.rest:
            part = os.read(self.read.fileno(), 1 << 20)
            assert part, "the browser has ended"
            self.rest += part
        message, _, self.rest = self.rest.partition(b"\0")
        found = json.loads(message)
        method, what = found.get("method"), found.get("params", {})
        if method == "Runtime.exceptionThrown":
            self.errors.append(what["exceptionDetails"].get("text", "exception"))
        if method == "Runtime.consoleAPICalled" and what["type"] == "error":
            self.errors.append(" ".join(str(part.get("value", part.get("description"))) for part in what["args"]))
        if method == "Log.entryAdded" and what["entry"]["level"] == "error":
            self.errors.append(what["entry"]["text"])
        if method == "Network.requestWillBeSent" and not what["request"]["url"].startswith(("data:", "file:", "blob:")):
            self.requests.append(what["request"]["url"])
        return found


def until(condition, seconds=30):
    """Wait for a condition, and return its value."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end
        time.sleep(0.05)
    return value


def _high(descriptor):
    """The same file at a number that is not in the way of 3 and 4, at which Chromium expects its pipes."""
    high = fcntl.fcntl(descriptor, fcntl.F_DUPFD, 10)
    os.close(descriptor)
    return high
