"""Makes the pictures in examples/pictures from the real programs, in Chromium.

    python tests/pictures.py            all of them
    python tests/pictures.py todo chat  these
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

from playwright.sync_api import Browser, Page, expect, sync_playwright

sys.path[:0] = [str(Path(__file__).parent.parent), str(Path(__file__).parent)]

from servers import Postgres, redis  # noqa: E402
from support import ROOT, Mongrel2, environment, free_port, listens, output, process, wait_for  # noqa: E402

FOLDER = ROOT / "examples" / "pictures"
LARGEST = 60_000  # bytes
WIDTH = 720  # pixels
HIGHEST = {"templates": 600}  # pixels, where the whole page is too much; 900 elsewhere


@contextlib.contextmanager
def serve(program: str, *options: str, **variables: str) -> Iterator[int]:
    """An example on a port."""
    port = free_port()
    command = [sys.executable, "-m", "brubeck_lite", f"{program}:app", "--bind", f"127.0.0.1:{port}", *options]
    with process(command, env={**environment(), **variables}) as child:
        wait_for(lambda: listens(port) or child.poll() is not None, what=program)
        assert child.poll() is None, output(child)
        yield port


def picture_of(colour: tuple[int, int, int], size: int = 120) -> bytes:
    """A PNG with a shade of this colour (PNG specification, 5)."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(
        b"\0" + bytes(part * (size + y // 8 * 8) // (2 * size) for part in colour) * size for y in range(size)
    )
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", size, size, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


# ---- One function for each picture: it has a browser, and gives the page that is taken


def open_page(browser: Browser, port: int, path: str = "/") -> Page:
    page = browser.new_page(viewport={"width": WIDTH, "height": 450}, color_scheme="light")
    page.goto(f"http://127.0.0.1:{port}{path}")
    return page


@contextlib.contextmanager
def hello(browser: Browser) -> Iterator[Page]:
    with serve("hello") as port:
        yield open_page(browser, port, "/hello/Dave")


@contextlib.contextmanager
def regex(browser: Browser) -> Iterator[Page]:
    with serve("regex") as port:
        yield open_page(browser, port)


@contextlib.contextmanager
def todo(browser: Browser) -> Iterator[Page]:
    with tempfile.TemporaryDirectory() as folder, serve("todo", DATABASE=f"{folder}/todo.sqlite") as port:
        page = open_page(browser, port)
        for title in ("Listen to Time Out", "Count to five", "Buy a saxophone"):
            page.get_by_role("textbox").first.fill(title)
            page.keyboard.press("Enter")
            expect(page.get_by_text(title)).to_be_visible()
        page.get_by_role("checkbox").first.check()
        yield page


@contextlib.contextmanager
def login(browser: Browser) -> Iterator[Page]:
    with serve("login") as port:
        page = open_page(browser, port, "/register")
        page.get_by_label("Name").fill("Dave")
        page.get_by_label("Password").fill("take five")
        page.get_by_role("main").get_by_role("button").click()
        page.wait_for_url("**/members")
        yield page


@contextlib.contextmanager
def classes(browser: Browser) -> Iterator[Page]:
    with serve("classes") as port:
        yield open_page(browser, port)


@contextlib.contextmanager
def templates(browser: Browser) -> Iterator[Page]:
    with serve("templates") as port:
        yield open_page(browser, port)


@contextlib.contextmanager
def upload(browser: Browser) -> Iterator[Page]:
    with serve("upload") as port:
        page = open_page(browser, port)
        colours = ((47, 91, 215), (179, 38, 30), (27, 110, 60), (220, 160, 30))
        files = [
            {"name": f"{number}.png", "mimeType": "image/png", "buffer": picture_of(colour)}
            for number, colour in enumerate(colours)
        ]
        page.set_input_files("input[type=file]", files)  # type: ignore[arg-type]
        expect(page.locator(".gallery img")).to_have_count(len(colours))
        page.wait_for_load_state("networkidle")
        yield page


@contextlib.contextmanager
def chat(browser: Browser) -> Iterator[Page]:
    with serve("chat") as port:
        pages = [open_page(browser, port) for _ in range(2)]
        for page, name in zip(pages, ("Paul", "Dave"), strict=True):
            page.get_by_label("Your name").fill(name)
            page.get_by_role("button", name="Enter").click()
            expect(page.get_by_role("list", name="Who is here")).to_contain_text(name)
        for page, text in zip([*pages, pages[0]], ("Shall we?", "In five.", "Four would do, too."), strict=True):
            page.get_by_role("textbox", name="Message").fill(text)
            page.get_by_role("button", name="Send").click()
            expect(pages[1].get_by_role("list", name="What was said")).to_contain_text(text)
        yield pages[1]


@contextlib.contextmanager
def clock(browser: Browser) -> Iterator[Page]:
    with serve("clock") as port:
        page = open_page(browser, port)
        enough = "document.querySelector('#chart polyline').getAttribute('points')?.split(' ').length > 30"
        page.wait_for_function(enough)
        yield page


@contextlib.contextmanager
def longpoll(browser: Browser) -> Iterator[Page]:
    with serve("longpoll") as port:
        page, _ = (open_page(browser, port) for _ in range(2))
        expect(page.get_by_role("status")).to_have_text("2 waiting")
        for text in ("Take Five", "Unsquare Dance"):
            page.get_by_role("textbox", name="Message").fill(text)
            page.get_by_role("button", name="Post").click()
            expect(page.get_by_text(text)).to_be_visible()
        yield page


@contextlib.contextmanager
def database(browser: Browser) -> Iterator[Page]:
    with Postgres() as postgres, serve("database", DATABASE_URL=postgres.url) as port:
        page = open_page(browser, port)
        for name, message in (("Dave", "The acoustics are good."), ("Paul", "Like a dry martini.")):
            page.get_by_label("Name").fill(name)
            page.get_by_label("Message").fill(message)
            page.get_by_role("button", name="Sign").click()
            expect(page.get_by_role("list")).to_contain_text(message)
        yield page


@contextlib.contextmanager
def work_queue(browser: Browser) -> Iterator[Page]:
    port = free_port()
    variables = {"REDIS_URL": f"redis://127.0.0.1:{port}/0", "JOBS": f"tcp://127.0.0.1:{free_port()}"}
    worker = [sys.executable, str(ROOT / "examples" / "work_queue.py"), "--worker"]
    with contextlib.ExitStack() as stack:
        stack.enter_context(redis(port))
        page = open_page(browser, stack.enter_context(serve("work_queue", **variables)))
        for _ in range(2):
            stack.enter_context(process(worker, env={**environment(), **variables}))
        for below in ("100000", "3000000", "2000000", "5000000"):
            page.get_by_label("Below").fill(below)
            page.get_by_role("button", name="Count").click()
            expect(page.get_by_role("listitem").first).to_contain_text(f"{int(below):,}")
        expect(page.get_by_role("listitem").last).to_contain_text("9,592 prime numbers")
        expect(page.locator("li.working")).to_have_count(2)
        expect(page.locator("li.working").last).to_have_text(re.compile("[3-9].%"), timeout=60_000)
        yield page


@contextlib.contextmanager
def language(browser: Browser) -> Iterator[Page]:
    with tempfile.TemporaryDirectory() as folder, Mongrel2() as mongrel2, contextlib.ExitStack() as stack:
        ports = {name: f"tcp://127.0.0.1:{free_port()}" for name in ("9999", "9998", "9989", "9988")}
        config = (ROOT / "examples" / "language" / "mongrel2.conf").read_text()
        for name, spec in ports.items():
            config = config.replace(f"tcp://127.0.0.1:{name}", spec)
        config = config.replace("port=6767,", f"port={mongrel2.port}, bind_addr='127.0.0.1',")
        (mongrel2.folder / "mongrel2.conf").write_text(config)
        mongrel2.kill()
        m2sh = ["m2sh", "load", "-config", "mongrel2.conf", "-db", "config.sqlite"]
        subprocess.run(m2sh, cwd=mongrel2.folder, check=True, capture_output=True)
        mongrel2.start()
        source, program = str(ROOT / "examples" / "language" / "handler.c"), f"{folder}/handler"
        subprocess.run(["gcc", "-O2", "-o", program, source, "-lzmq"], check=True)
        stack.enter_context(process([program, ports["9989"], ports["9988"]]))
        options = ["--mongrel2", ports["9999"], ports["9998"]]
        stack.enter_context(process([sys.executable, "-m", "brubeck_lite", "language:app", *options]))
        page = open_page(browser, mongrel2.port)
        page.get_by_role("button", name="Count").click()
        expect(page.locator("tbody").get_by_role("row")).to_have_count(2)
        yield page


PICTURES: dict[str, Callable[[Browser], contextlib.AbstractContextManager[Page]]] = {
    function.__name__: function
    for function in (
        hello, regex, todo, login, classes, templates, upload, chat, clock, longpoll, database, work_queue, language,
    )
}  # fmt: skip


def take(browser: Browser, name: str, folder: Path) -> Path:
    """Take the picture of an example: the file."""
    path = folder / f"{name}.png"
    with PICTURES[name](browser) as page:
        page.evaluate("document.activeElement?.blur()")
        page.set_viewport_size({"width": WIDTH, "height": 60})  # then see how high all of it is
        height = page.evaluate("document.documentElement.scrollHeight")
        page.set_viewport_size({"width": WIDTH, "height": min(max(height, 60), HIGHEST.get(name, 900))})
        page.screenshot(path=path, animations="disabled", caret="hide")
    for open_pages in browser.contexts:
        open_pages.close()
    assert path.stat().st_size < LARGEST, f"{path} has {path.stat().st_size} bytes"
    return path


def main() -> None:
    from browser import OPTIONS  # which pytest wants to be the first to import

    FOLDER.mkdir(exist_ok=True)
    expect.set_options(timeout=30_000)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=OPTIONS)
        for name in sys.argv[1:] or PICTURES:
            path = take(browser, name, FOLDER)
            print(f"{os.path.relpath(path)}: {path.stat().st_size:,} bytes")
        browser.close()


if __name__ == "__main__":
    main()
