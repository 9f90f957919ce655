"""A page as a real browser shows it, for tests: document after its scripts ran, picture, console and requests."""

import json
import re
import shutil
import subprocess
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "chromium-headless-shell")
SECONDS = 120
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--enable-unsafe-swiftshader", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars",
    "--disable-extensions", "--enable-logging=stderr", "--virtual-time-budget=10000", "--dump-dom",
)  # fmt: skip


@dataclass(frozen=True)
class Rendering:
    """What the browser made of a page; `requests` are the addresses for which the page asked the network."""

    dom: str
    screenshot: Path
    console: tuple[str, ...]
    requests: tuple[str, ...]


def find_browser() -> str | None:
    """The first Chromium on the path, if any."""
    return next(filter(None, map(shutil.which, NAMES)), None)


def render(html_path: Path, tmp_path: Path, *, width: int = 1280, height: int = 4000, dark: bool = False) -> Rendering:
    """The page, opened from its file in a fresh profile under `tmp_path`."""
    browser = find_browser()
    assert browser is not None, "ask find_browser() first and skip the test"
    assert html_path.is_file(), f"no page at {html_path}"
    room = tmp_path / f"browser-{html_path.stem}-{width}-{'dark' if dark else 'light'}"
    room.mkdir(parents=True)
    screenshot, log = room / "page.png", room / "net.json"
    scheme = ["--blink-settings=preferredColorScheme=0"] if dark else []
    command = [
        browser, *FLAGS, *scheme, f"--user-data-dir={room / 'profile'}", f"--log-net-log={log}",
        f"--window-size={width},{height}", f"--screenshot={screenshot}",
        html_path.resolve().as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=True)
    console = tuple(line for line in done.stderr.splitlines() if re.search(r":CONSOLE[:(]", line))
    return Rendering(done.stdout, screenshot, console, tuple(dict.fromkeys(_requests(log))))


EARLY = """<script>
// Under virtual time the browser draws few frames, so frames and intersections come from a clock.
window.requestAnimationFrame = (act) => setTimeout(() => act(performance.now()), 5);
window.IntersectionObserver = class {
  constructor(act) { this.act = act; this.seen = new Map(); setInterval(() => this.look(), 15); }
  observe(target) { this.seen.set(target, null); }
  unobserve(target) { this.seen.delete(target); }
  look() {
    for (const [target, before] of [...this.seen]) {
      const box = target.getBoundingClientRect();
      const isIntersecting = box.width > 0 && box.bottom > 0 && box.top < innerHeight;
      this.seen.set(target, isIntersecting);
      if (isIntersecting !== before) this.act([{ target, isIntersecting }]);
    }
  }
};</script>"""


def ask(page: str, script: str, tmp_path: Path, *, width: int = 1400, height: int = 900, dark: bool = False) -> Any:
    """What an async script says that runs in the page once it is loaded, after a check of the console and the requests."""
    path = tmp_path / f"asked-{width}-{'dark' if dark else 'light'}.html"
    told = (
        f"<script>(async () => {{ {script} }})().then((answer) => {{ const told = document.createElement('pre');"
        "told.id = 'answer'; told.textContent = encodeURIComponent(JSON.stringify(answer));"
        "document.body.append(told); });</script>"
    )
    early = page.replace("<head>", f"<head>{EARLY}", 1) if page.startswith("<!doctype") else page
    path.write_text(early.replace("</body>", f"{told}</body>"), encoding="utf-8")
    seen = render(path, tmp_path, width=width, height=height, dark=dark)
    assert (seen.console, seen.requests) == ((), ())
    found = re.search(r'<pre id="answer">([^<]*)</pre>', seen.dom)
    assert found is not None, "the script did not end"
    return json.loads(urllib.parse.unquote(found.group(1)))


def count_printed_pages(html_path: Path, tmp_path: Path) -> int:
    """The number of pages that the browser prints."""
    browser = find_browser()
    assert browser is not None, "ask find_browser() first and skip the test"
    printed = tmp_path / "printed.pdf"
    flags = [flag for flag in FLAGS if flag != "--dump-dom"]
    command = [
        browser,
        *flags,
        f"--user-data-dir={tmp_path / 'printing'}",
        f"--print-to-pdf={printed}",
        html_path.resolve().as_uri(),
    ]
    subprocess.run(command, capture_output=True, timeout=SECONDS, check=True)
    return len(re.findall(rb"/Type\s*/Page\b", printed.read_bytes()))


def _requests(log: Path) -> Iterator[str]:
    """Addresses that are no files, less those that the browser asks for by itself (no page initiates them)."""
    for event in json.loads(log.read_text())["events"]:
        parameters: dict[str, Any] = event.get("params") or {}
        address = str(parameters.get("url", ""))
        if address.startswith(("http:", "https:", "ws:", "wss:")) and parameters.get("initiator") not in (
            None,
            "not an origin",
        ):
            yield address
