"Chromium without a window, driven through its own protocol: pages at a width, scripts, errors on the console."
import json
import re
import shutil
import subprocess
import tempfile
import time
import urllib.request
from itertools import count

import websocket

WORDS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
         "--disable-background-networking", "--disable-component-update", "--remote-debugging-port=0",
         "--remote-allow-origins=*", "about:blank"]


def find_chromium():
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Browser:
    "One page of a Chromium that ends with the block."
    def __enter__(self):
        self.folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        self.process = subprocess.Popen(
            [find_chromium(), f"--user-data-dir={self.folder.name}", *WORDS], stderr=subprocess.PIPE, text=True
        )
        for line in self.process.stderr:
            if found := re.search(r"ws://([^/]+)/", line): break
        pages = json.load(urllib.request.urlopen(f"http://{found[1]}/json/list"))
        address = next(p["webSocketDebuggerUrl"] for p in pages if p["type"] == "page")
        self.socket, self.numbers, self.errors = websocket.create_connection(address, timeout=60), count(1), []
        for domain in ("Page", "Runtime", "Log"): self.send(f"{domain}.enable")
        return self

    def __exit__(self, *_):
        self.socket.close()
        self.process.kill()
        self.process.wait()
        self.process.stderr.close()
        self.folder.cleanup()

    def send(self, method, **params):
        "A command of the protocol; its result."
        number = next(self.numbers)
        self.socket.send(json.dumps(dict(id=number, method=method, params=params)))
        while (said := json.loads(self.socket.recv())).get("id") != number: self.note(said)
        assert "error" not in said, said
        return said["result"]

    def note(self, said):
        about = said.get("params", {})
        if said.get("method") == "Runtime.exceptionThrown":
            details = about["exceptionDetails"]
            self.errors.append(details.get("exception", {}).get("description") or details["text"])
        entry = about.get("entry", {})
        if entry.get("level") == "error": self.errors.append(f"{entry['text']} {entry.get('url', '')}")

    def prefer(self, scheme):
        "Show pages as on a computer that is set to 'light' or 'dark'."
        self.send("Emulation.setEmulatedMedia", features=[dict(name="prefers-color-scheme", value=scheme)])

    def scripts(self, wanted):
        "Whether pages may run scripts."
        self.send("Emulation.setScriptExecutionDisabled", value=not wanted)

    def press(self, key, code):
        "A key on the keyboard, such as ArrowDown, 40."
        for kind in ("keyDown", "keyUp"):
            self.send("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code)

    def open(self, path, width, height=900):
        "A page from the disk, at a width in pixels; errors of earlier pages are forgotten."
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        self.errors = []
        self.send("Page.navigate", url=path.resolve().as_uri())
        self.until("document.readyState == 'complete'")

    def run(self, script):
        "The value of an expression on the page."
        found = self.send("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def until(self, script, seconds=30):
        "Wait until an expression is true."
        end = time.time() + seconds
        while not self.run(script):
            assert time.time() < end, f"not within {seconds} s: {script}"
            time.sleep(0.1)
