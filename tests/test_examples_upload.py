"""The examples upload.py, templates.py and classes.py: their pages in Chromium, served by the command line; what needs
no browser by the test client."""

from __future__ import annotations

import http.client
import os
import re
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, CDPSession, Page, Route, expect
from support import Mongrel2, behind_http, behind_mongrel2, environment, example, wait_for

from brubeck_lite import Client

pytest_plugins = ["browser"]

MIB = 1 << 20


def png(width: int, height: int) -> bytes:
    """A picture of noise, of about 3 bytes a pixel (PNG specification, 5)."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + os.urandom(3 * width) for _ in range(height))
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(rows, 0)) + chunk(b"IEND", b"")


SMALL = png(40, 30)


def fits(page: Page) -> bool:
    """Whether the page is styled, and needs no scrolling to the side on a phone."""
    page.set_viewport_size({"width": 390, "height": 800})
    styled = page.evaluate("document.styleSheets.length == 1 && document.styleSheets[0].cssRules.length > 20")
    return bool(styled and page.evaluate("document.documentElement.scrollWidth <= innerWidth"))


def slow_down(page: Page, speed: int) -> CDPSession:
    """Let the page send this many bytes a second at the most."""
    session = page.context.new_cdp_session(page)
    limits = {"offline": False, "latency": 0, "downloadThroughput": -1, "uploadThroughput": speed}
    session.send("Network.enable")
    session.send("Network.emulateNetworkConditions", limits)
    return session


# ---- upload.py


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """The address of upload.py, and its folder."""
    folder = tmp_path_factory.mktemp("pictures")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UPLOADS", str(folder))
        with behind_http("upload:app") as (_, port):
            yield f"http://127.0.0.1:{port}", folder


@pytest.fixture
def site(started: tuple[str, Path], page: Page) -> str:
    """The address of upload.py, whose gallery is empty; the page stands there."""
    for file in started[1].iterdir():
        file.unlink()
    page.goto(started[0])
    return started[0]


@pytest.fixture
def folder(started: tuple[str, Path]) -> Path:
    """Where upload.py keeps its pictures."""
    return started[1]


def choose(page: Page, *files: tuple[str, str, bytes]) -> None:
    """Choose files, each a name, a type and its content, with the input."""
    chosen: Any = [{"name": name, "mimeType": kind, "buffer": content} for name, kind, content in files]
    page.locator("input").set_input_files(chosen)


def drop(page: Page, content: bytes, zeros: int = 0) -> None:
    """Drag a picture, with so many zeros behind it, to the place for it and drop it."""
    transfer = page.evaluate_handle(
        """([bytes, zeros]) => {
            const pieces = [new Uint8Array(bytes), new Uint8Array(zeros)];
            const transfer = new DataTransfer();
            transfer.items.add(new File(pieces, "dropped.png", {type: "image/png"}));
            return transfer;
        }""",
        [[*content], zeros],
    )
    for event in ("dragenter", "dragover", "drop"):
        page.dispatch_event(".dropzone", event, {"dataTransfer": transfer})


@pytest.fixture
def sender(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Client:
    """A client of an upload.py that keeps its pictures in `tmp_path`."""
    monkeypatch.setenv("UPLOADS", str(tmp_path))
    return example("upload").app.test()  # type: ignore[no-any-return]


def expect_thumbnails(page: Page, count: int) -> None:
    """The gallery shows so many pictures, which the browser could read."""
    expect(page.locator(".gallery img")).to_have_count(count)
    page.wait_for_function("[...document.querySelectorAll('.gallery img')].every(image => image.naturalWidth > 0)")


def test_upload_chosen_pictures_are_in_the_gallery_now_and_on_the_next_visit(page: Page, site: str) -> None:
    choose(page, ("a.png", "image/png", SMALL), ("b.png", "image/png", png(20, 20)))
    expect(page.get_by_role("status")).to_have_text("2 pictures are here.")
    expect(page.locator("input")).to_have_value("")
    expect_thumbnails(page, 2)
    page.reload()
    expect_thumbnails(page, 2)
    expect(page.get_by_text("2 here")).to_be_visible()


def test_upload_dropped_pictures_are_in_the_gallery(page: Page, site: str, folder: Path) -> None:
    drop(page, SMALL)
    expect(page.get_by_role("status")).to_have_text("The picture is here.")
    expect_thumbnails(page, 1)
    assert [file.read_bytes() for file in folder.iterdir()] == [SMALL]


def test_upload_the_place_to_drop_shows_itself_while_something_hovers_there(page: Page, site: str) -> None:
    zone = page.locator(".dropzone")
    zone.dispatch_event("dragover")
    expect(zone).to_have_class(re.compile("over"))
    zone.dispatch_event("dragleave")
    expect(zone).not_to_have_class(re.compile("over"))


def test_upload_what_is_dropped_beside_it_does_not_leave_the_page(page: Page, site: str) -> None:
    assert page.evaluate(
        "['dragover', 'drop'].every(type => !document.body.dispatchEvent("
        "new DragEvent(type, {bubbles: true, cancelable: true})))"
    )


def test_upload_the_bar_shows_how_much_is_sent_and_reaches_its_end(page: Page, site: str) -> None:
    page.evaluate(
        """() => {
            const bar = document.querySelector("progress");
            window.seen = [];
            new MutationObserver(() => seen.push(bar.value)).observe(bar, {attributeFilter: ["value"]});
        }"""
    )
    slow_down(page, MIB)
    choose(page, ("a.png", "image/png", png(1000, 500)))
    expect(page.get_by_role("status")).to_have_text("The picture is here.")
    expect(page.get_by_role("progressbar")).to_have_js_property("value", 100)
    seen = page.evaluate("seen")
    assert seen == sorted(seen)
    assert [value for value in seen if 0 < value < 100]


def hold_upload(page: Page) -> Callable[[], None]:
    """The next upload waits; the function that is returned lets it go on."""
    held: list[Route] = []

    def hold(route: Route) -> None:
        held.append(route)

    def release() -> None:
        wait_for(lambda: page.wait_for_timeout(10) or held, what="the request")
        held[0].continue_()

    page.route("**/pictures", hold, times=1)
    return release


def test_upload_the_browser_shows_a_thumbnail_before_anything_is_sent(page: Page, site: str) -> None:
    release = hold_upload(page)
    choose(page, ("a <b>.png", "image/png", SMALL))
    expect(page.locator(".gallery figcaption")).to_have_text("a <b>.png")
    expect_thumbnails(page, 1)
    expect(page.locator(".gallery img")).to_have_attribute("src", re.compile("^blob:"))
    release()
    expect(page.get_by_role("status")).to_have_text("The picture is here.")
    expect(page.locator(".gallery img")).to_have_attribute("src", re.compile("^/pictures/"))


def test_upload_what_is_dropped_meanwhile_waits_for_its_turn_and_comes_first(page: Page, site: str) -> None:
    release = hold_upload(page)
    choose(page, ("a.png", "image/png", png(500, 500)))
    drop(page, SMALL)
    expect(page.locator(".gallery figcaption")).to_have_text("a.png")
    release()
    expect(page.get_by_text("2 here")).to_be_visible()
    expect_thumbnails(page, 2)
    assert page.locator(".gallery img").first.evaluate("image => image.naturalWidth") == 40


def test_upload_a_refusal_is_shown_and_nothing_is_kept(page: Page, site: str, folder: Path) -> None:
    choose(page, ("a.png", "image/png", SMALL), ("notes.txt", "text/plain", b"notes"))
    expect(page.get_by_role("status")).to_have_text("this is no picture in PNG, JPEG, GIF or WebP: notes.txt")
    expect(page.locator(".gallery img")).to_have_count(0)
    assert [*folder.iterdir()] == []
    choose(page, ("a.png", "image/png", SMALL))
    expect_thumbnails(page, 1)


def test_upload_too_much_is_said_before_it_is_sent(page: Page, site: str) -> None:
    drop(page, SMALL, zeros=20 * MIB)
    expect(page.get_by_role("status")).to_have_text("Together they are over 20 MiB: send fewer at a time.")


def test_upload_too_much_is_refused_before_it_is_read(site: str) -> None:
    connection = http.client.HTTPConnection(site.removeprefix("http://"), timeout=60)
    connection.putrequest("POST", "/pictures")
    connection.putheader("Content-Type", "multipart/form-data; boundary=x")
    connection.putheader("Content-Length", str(20 * MIB + 1))
    connection.endheaders()
    with connection.getresponse() as answer:
        assert (answer.status, str(20 * MIB) in answer.read().decode()) == (413, True)
    connection.close()


def test_upload_a_broken_connection_is_said(page: Page, site: str) -> None:
    page.route("**/pictures", lambda route: route.abort())
    choose(page, ("a.png", "image/png", SMALL))
    expect(page.get_by_role("status")).to_have_text("The connection broke.")
    expect(page.locator(".gallery img")).to_have_count(0)


def test_upload_without_scripts_the_form_has_a_button(browser: Browser, page: Page, site: str) -> None:
    context = browser.new_context(java_script_enabled=False)
    plain = context.new_page()
    plain.goto(site)
    choose(plain, ("a.png", "image/png", SMALL))
    plain.get_by_role("button", name="Send").click()
    expect(plain.locator(".gallery img")).to_have_count(1)
    context.close()


KINDS = {
    "image/png": SMALL,
    "image/jpeg": b"\xff\xd8\xff\xe0...",
    "image/gif": b"GIF89a...",
    "IMAGE/WebP": b"RIFF\n\n\n\nWEBP...",
}


@pytest.mark.parametrize("kind", KINDS)
def test_upload_a_picture_comes_back_as_it_was_under_a_name_of_our_own(sender: Client, kind: str) -> None:
    answer = sender.post("/pictures", files={"pictures": ("../../evil<i>.html", KINDS[kind], kind)})
    assert (answer.status, answer.headers["location"]) == (303, "/")
    found = re.search(r'src="(/pictures/[0-9a-f]{32}\.[a-z]+)"', sender.get("/").text)
    assert found is not None
    answer = sender.get(found[1])
    assert (answer.headers["content-type"], answer.body) == (kind.lower(), KINDS[kind])
    assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        ("image/svg+xml", b"<svg xmlns='http://www.w3.org/2000/svg'/>"), ("text/html", SMALL), ("image/gif", SMALL),
        ("image/png", b"<script>"), ("image/png", b""), ("image/png", b"x" + SMALL), ("image/webp", b"RIFF...."),
        ("image/png; x=y", SMALL),
    ],
)  # fmt: skip
def test_upload_only_a_picture_that_says_what_it_is_is_taken(
    sender: Client, tmp_path: Path, kind: str, content: bytes
) -> None:
    assert sender.post("/pictures", files={"pictures": ("a", content, kind)}).status == 415
    assert [*tmp_path.iterdir()] == []


def test_upload_a_form_without_pictures_is_refused(sender: Client) -> None:
    assert sender.post("/pictures", data={"pictures": "x"}).status == 400


def test_upload_other_sites_cannot_send_pictures(sender: Client, tmp_path: Path) -> None:
    picture = {"pictures": ("a.png", SMALL, "image/png")}
    assert sender.post("/pictures", {"Origin": "http://evil.example"}, files=picture).status == 403
    assert [*tmp_path.iterdir()] == []


def test_upload_its_page_fits_a_phone(page: Page, site: str) -> None:
    choose(page, *[(f"{'long' * 30}{number}.png", "image/png", SMALL) for number in range(3)])
    expect_thumbnails(page, 3)
    assert fits(page)


def test_upload_behind_mongrel2_a_large_picture_comes_as_a_file(
    page: Page, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UPLOADS", str(tmp_path))
    picture = png(1000, 700)  # 2.1 MB, where limits.content_length is 1 MiB
    with Mongrel2() as mongrel2, behind_mongrel2("upload:app", mongrel2):
        store = mongrel2.folder / "tmp"
        page.goto(f"http://127.0.0.1:{mongrel2.port}/")
        slow_down(page, 2 * MIB)
        choose(page, ("a.png", "image/png", picture))
        wait_for(lambda: [*store.iterdir()], what="the file of the upload")
        expect(page.get_by_role("status")).to_have_text("The picture is here.")
        expect(page.get_by_role("progressbar")).to_have_js_property("value", 100)
        assert page.locator(".gallery img").evaluate("image => image.decode().then(() => image.naturalWidth)") == 1000
        assert [file.read_bytes() for file in tmp_path.iterdir()] == [picture]
        assert [*store.iterdir()] == []


# ---- templates.py

ENGINES = {"jinja2": "Jinja2", "mako": "Mako", "tornado": "Tornado", "mustache": "Mustache"}
PACKAGES = {"jinja2": "jinja2", "mako": "mako.lookup", "tornado": "tornado.template", "mustache": "pystache"}


@pytest.fixture(scope="module")
def engines() -> Iterator[str]:
    """The address of templates.py."""
    with behind_http("templates:app") as (_, port):
        yield f"http://127.0.0.1:{port}"


@pytest.mark.parametrize("engine", ENGINES)
def test_templates_each_engine_makes_the_same_page(page: Page, engines: str, engine: str) -> None:
    page.goto(engines)
    expected = page.locator("section").first.inner_text().replace("Jinja2", ENGINES[engine])
    page.get_by_role("link", name=ENGINES[engine]).click() if engine != "jinja2" else None
    assert page.locator("section").first.inner_text() == expected
    assert "Blue Rondo à la Turk\tDave Brubeck\t1959" in expected
    assert fits(page)


@pytest.mark.parametrize("engine", ENGINES)
def test_templates_each_engine_escapes_what_it_is_given(page: Page, engines: str, engine: str) -> None:
    visitor = """'"><script>throw "script"</script>{{7*7}}${7*7}&amp;"""
    page.goto(f"{engines}/{engine}")
    page.get_by_label("Your name").fill(visitor)
    page.get_by_role("button", name="Greet").click()
    expect(page.get_by_role("heading").first).to_have_text(f"{ENGINES[engine]} greets {visitor}")
    expect(page.get_by_label("Your name")).to_have_value(visitor)
    assert page.locator("script").count() == 0


@pytest.mark.parametrize("engine", ENGINES)
def test_templates_an_engine_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, engine: str) -> None:
    import templates

    monkeypatch.setitem(sys.modules, PACKAGES[engine], None)
    templates.engine.cache_clear()
    answer = templates.app.test().get(f"/{engine}")
    assert (answer.status, f"pip install {PACKAGES[engine].partition('.')[0]}" in answer.text) == (501, True)


def test_templates_no_engine_is_imported_before_its_page_is_asked_for() -> None:
    program = f"import sys, templates; print([name for name in {[*PACKAGES.values()]} if name in sys.modules])"
    command = [sys.executable, "-c", program]
    child = subprocess.run(command, env=environment(), capture_output=True, text=True, check=True)
    assert child.stdout == "[]\n"


# ---- classes.py


@pytest.fixture(scope="module")
def tunes() -> Iterator[str]:
    """The address of classes.py."""
    with behind_http("classes:app") as (_, port):
        yield f"http://127.0.0.1:{port}"


def sign_in(page: Page, name: str) -> None:
    page.get_by_label("Name").fill(name)
    page.get_by_role("main").get_by_role("button").click()


def test_classes_a_guest_who_wants_to_add_a_tune_signs_in_first(page: Page, tunes: str) -> None:
    page.goto(tunes)
    page.get_by_role("link", name="Add a tune").click()
    expect(page).to_have_url(f"{tunes}/login?next=%2Ftunes%2Fnew")
    sign_in(page, "Dave <i>")
    expect(page).to_have_url(f"{tunes}/tunes/new")
    expect(page.get_by_text("Dave <i>")).to_be_visible()
    page.get_by_label("Title").fill("Bossa <b>Nova</b> U.S.A.")
    page.get_by_role("button", name="Add").click()
    expect(page).to_have_url(re.compile(r"/tunes/1\d$"))
    expect(page.get_by_role("heading")).to_have_text("Bossa <b>Nova</b> U.S.A.")
    page.get_by_role("button", name="Log out").click()
    expect(page.get_by_role("link", name="Sign in")).to_be_visible()


def test_classes_a_title_that_is_none_is_refused_in_the_form(page: Page, tunes: str) -> None:
    page.goto(f"{tunes}/tunes/new")
    sign_in(page, "Dave")
    page.get_by_label("Title").fill("   ")
    with page.expect_response("**/tunes/new") as answer:
        page.get_by_role("button", name="Add").click()
    assert answer.value.status == 422
    expect(page.get_by_text("A title has 1 to 100 characters.")).to_be_visible()
    assert fits(page)


def test_classes_tunes_are_found_by_a_word_and_shown_page_by_page(page: Page, tunes: str) -> None:
    page.goto(tunes)
    expect(page.get_by_role("listitem")).to_have_count(5)
    page.get_by_role("link", name="More").click()
    expect(page.get_by_role("listitem").first).to_have_text("Everybody's Jumpin'")
    page.get_by_label("A word of the title").fill("WALTZ")
    page.get_by_role("button", name="Search").click()
    expect(page.get_by_role("listitem")).to_have_text(["Kathy's Waltz", "It's a Raggy Waltz"])
    page.get_by_role("link", name="It's a Raggy Waltz").click()
    expect(page.get_by_role("heading")).to_have_text("It's a Raggy Waltz")
    page.goto(f"{tunes}/?word=%3Ci%3E")
    expect(page.get_by_text("No tune has “<i>” in its title.")).to_be_visible()
    assert fits(page)


@pytest.fixture
def guest() -> Client:
    """A client of a classes.py that nobody else uses."""
    return example("classes").app.test()  # type: ignore[no-any-return]


def test_classes_an_argument_of_the_wrong_type_is_400_that_names_it(guest: Client) -> None:
    answer = guest.get("/?page=two")
    assert (answer.status, "'page'" in answer.text) == (400, True)
    assert [guest.get(path).status for path in ("/?page=99", "/?page=0", "/tunes/99")] == [404] * 3


def test_classes_only_members_post_and_only_we_make_members(guest: Client) -> None:
    def add(**headers: str) -> int:
        return guest.post("/tunes/new", headers, data={"title": "x"}).status

    assert add() == 401
    guest.cookies["member"] = "RGF2ZQ.6b060441.forged"
    assert add(Origin="http://localhost") == 401
    guest.cookies.clear()
    guest.post("/login", data={"name": "Dave"})
    assert add(Origin="https://evil.example") == 403
    assert add(Origin="http://localhost") == 303


@pytest.mark.parametrize(("wanted", "target"), [("/tunes/3?x=1", "/tunes/3?x=1"), ("//evil.example/", "/"), ("", "/")])
def test_classes_signing_in_goes_on_to_no_other_site(guest: Client, wanted: str, target: str) -> None:
    answer = guest.post("/login", data={"name": "Dave", "next": wanted})
    assert (answer.status, answer.headers["location"]) == (303, target)


def test_classes_answer_with_what_prepare_set_and_only_to_their_methods(guest: Client) -> None:
    answer = guest.get("/")
    assert (answer.status, answer.headers["x-frame-options"], answer.headers["vary"]) == (200, "DENY", "Cookie")
    answer = guest.delete("/login")
    assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD, OPTIONS, POST")
