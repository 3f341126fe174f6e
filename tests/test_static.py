"""Files to clients: types, conditional requests, ranges, compressed files, downloads, and what is never served."""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
import tracemalloc
import urllib.request
from collections.abc import Callable, Iterator
from email.utils import formatdate
from pathlib import Path
from typing import Any
from urllib.parse import quote
from wsgiref.util import setup_testing_defaults

import pytest
from support import behind_http, environment
from werkzeug.http import parse_options_header

from brubeck_lite import Brubeck, Request, Response, static_file

CONTENT = b"0123456789"
CHANGED = 1_600_000_000
SAME, EARLIER, LATER = (formatdate(CHANGED + seconds, usegmt=True) for seconds in (0, -1, 1))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The folder that is served, beside what is not."""
    root = tmp_path / "root"
    (root / "folder").mkdir(parents=True)
    write(root / "a.txt", CONTENT)
    write(root / "empty.txt", b"")
    write(root / "folder" / "b c.txt", b"inside")
    write(tmp_path / "secret.txt", b"a secret")
    (tmp_path / "root_x").mkdir()
    write(tmp_path / "root_x" / "secret.txt", b"a secret")
    return root


def write(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    os.utime(path, (CHANGED, CHANGED))


def serving(root: Path | str) -> Brubeck:
    app = Brubeck()
    app.static("/static", root)
    return app


def get(root: Path, name: str = "a.txt", method: str = "GET", **fields: str) -> Any:
    """The answer to a request for a file, with header fields whose `_` stand for `-`."""
    headers = {field.replace("_", "-"): value for field, value in fields.items()}
    return serving(root).test(raise_errors=True).request(method, f"/static/{name}", headers)


def static_answer(path: Path | str, **options: Any) -> Any:
    """The answer of a handler that calls `static_file` for this file."""
    app = Brubeck()
    folder, _, name = str(path).rpartition("/")
    app.route("/")(lambda request: static_file(request, name, folder, **options))
    return app.test(raise_errors=True).get("/")


def at_once(ask: Callable[[], Any]) -> Any:
    """What it gives; AssertionError where it waits for something that never comes."""
    got: list[Any] = []
    asking = threading.Thread(target=lambda: got.append(ask()), daemon=True)
    asking.start()
    asking.join(5)
    assert got
    return got[0]


# What a file is


@pytest.mark.parametrize("name", ["a.txt", "folder/b c.txt", "folder/b%20c.txt", "empty.txt"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_file_is_served_and_head_has_the_same_fields(root: Path, name: str, method: str) -> None:
    content = (root / name.replace("%20", " ")).read_bytes()
    got, whole = get(root, name, method), get(root, name)
    assert (got.status, got.body) == (200, content if method == "GET" else b"")
    assert got.headers["Content-Length"] == str(len(content))
    assert got.headers.pairs() == whole.headers.pairs()


@pytest.mark.parametrize(
    ("name", "content_type"),
    [("a.txt", "text/plain"), ("a.html", "text/html"), ("a.css", "text/css"), ("a.js", "text/javascript"),
     ("a.mjs", "text/javascript"), ("a.json", "application/json"), ("a.png", "image/png"), ("a.JPG", "image/jpeg"),
     ("a.svg", "image/svg+xml"), ("a.webp", "image/webp"), ("a.woff2", "font/woff2"), ("a.wasm", "application/wasm"),
     ("a.pdf", "application/pdf"), ("a", "application/octet-stream"), ("a.nothing", "application/octet-stream"),
     ("a.b.txt", "text/plain")],
)  # fmt: skip
def test_a_file_has_the_type_of_its_name(root: Path, name: str, content_type: str) -> None:
    write(root / name, CONTENT)
    assert get(root, name).headers["Content-Type"].partition(";")[0] == content_type


@pytest.mark.parametrize("name", ["data:x/\N{SNOWMAN},y", "data:text/html,y", "http:/[x/y", "ab:a.html?x.png"])
def test_a_name_is_no_url_though_it_may_look_like_one(root: Path, name: str) -> None:
    assert get(root, quote(name)).status == 404
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    write(root / name, CONTENT)
    kind = "image/png" if name.endswith(".png") else "application/octet-stream"
    assert get(root, quote(name)).headers["Content-Type"] == kind


@pytest.mark.parametrize("name", ["a\nb", "a\0b", "..", "", "a/../b", "http://[x/y"])
def test_what_can_be_no_name_is_404_as_a_download_too(root: Path, name: str) -> None:
    app = Brubeck()
    app.route("/")(lambda request: static_file(request, name, root, download=True))
    assert app.test().get("/").status == 404


POSIX = """
from brubeck_lite import Brubeck
app = Brubeck()
app.static("/static", ".")
answers = [ask("/static/%E2%98%83") for ask in (app.test().get, app.test().head)]
print(*(answer.status for answer in answers))
"""


def test_a_name_that_the_file_system_cannot_have_is_404(tmp_path: Path) -> None:
    settings = {**environment(), "LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    ended = subprocess.run([sys.executable, "-c", POSIX], cwd=tmp_path, env=settings, capture_output=True, text=True,
                           check=True, timeout=60)  # fmt: skip
    assert (ended.stdout, ended.stderr) == ("404 404\n", "")


@pytest.mark.parametrize("name", ["a.txt", "a.html", "a.css", "a.js"])
def test_a_text_is_utf_8(root: Path, name: str) -> None:
    write(root / name, "é".encode())
    assert get(root, name).headers["Content-Type"].endswith("; charset=utf-8")


@pytest.mark.parametrize("name", ["a.tar.gz", "a.tgz", "a.js.gz", "a.svg.gz", "a.gz", "a.txt.bz2", "a.txt.br"])
def test_a_compressed_file_that_was_asked_for_is_not_unpacked_by_the_client(root: Path, name: str) -> None:
    write(root / name, CONTENT)
    got = get(root, name, Accept_Encoding="gzip, br")
    assert ("Content-Encoding" in got.headers, got.headers["Content-Type"].startswith("text/")) == (False, False)


def test_a_compressed_picture_is_shown_as_one_and_saved_as_it_is(root: Path) -> None:
    write(root / "a.svgz", CONTENT)
    for accepted in ("gzip", "identity"):
        got = get(root, "a.svgz", Accept_Encoding=accepted)
        assert (got.headers["Content-Type"], got.headers["Content-Encoding"]) == ("image/svg+xml", "gzip")
        assert got.body == CONTENT
    saved = static_answer(root / "a.svgz", download=True)
    assert (saved.headers["Content-Type"], "Content-Encoding" in saved.headers) == ("application/gzip", False)


def test_a_file_is_never_taken_for_another_type_by_the_browser(root: Path) -> None:
    assert get(root).headers["X-Content-Type-Options"] == "nosniff"


def test_a_file_has_a_strong_etag_that_lasts_until_it_changes(root: Path) -> None:
    first, second = (get(root).headers["ETag"] for _ in range(2))
    write(root / "a.txt", CONTENT + b"x")
    third = get(root).headers["ETag"]
    os.utime(root / "a.txt", (CHANGED + 1, CHANGED + 1))
    fourth = get(root).headers["ETag"]
    os.utime(root / "a.txt", ns=(CHANGED * 10**9 + 5, CHANGED * 10**9 + 5))
    assert first == second and len({first, third, fourth, get(root).headers["ETag"]}) == 4
    assert first[0] == first[-1] == '"' and '"' not in first[1:-1] and len(first) > 4


def test_a_file_has_its_date(root: Path) -> None:
    assert get(root).headers["Last-Modified"] == "Sun, 13 Sep 2020 12:26:40 GMT"


@pytest.mark.parametrize(("method", "status"), [("POST", 405), ("PUT", 405), ("DELETE", 405), ("OPTIONS", 200)])
def test_a_file_takes_get_and_head(root: Path, method: str, status: int) -> None:
    got = get(root, method=method)
    assert (got.status, got.headers["Allow"]) == (status, "GET, HEAD, OPTIONS")


@pytest.mark.parametrize(("name", "path"), [("a.css", "/static/a.css"), ("b/é c.css", "/static/b/%C3%A9%20c.css")])
def test_static_files_have_addresses(root: Path, name: str, path: str) -> None:
    assert serving(root).url_for("static", name=name) == path


def test_two_folders_can_be_served(root: Path) -> None:
    app = serving(root / "folder")
    app.static("/more", root)
    assert [app.test().get(path).status for path in ("/static/b c.txt", "/more/a.txt", "/static/a.txt")] == [
        200, 200, 404
    ]  # fmt: skip
    assert app.url_for("static", name="x") == "/static/x"


def test_a_mounted_application_serves_files(root: Path) -> None:
    app = Brubeck()
    app.mount("/inner", serving(root))
    assert app.test().get("/inner/static/a.txt").body == CONTENT


@pytest.mark.parametrize("given", [str, Path, lambda path: f"{path}/", os.path.relpath])
def test_a_folder_may_be_named_in_any_way(root: Path, given: Any) -> None:
    app = serving(given(root))
    assert [app.test().get(f"/static/{name}").status for name in ("a.txt", "../secret.txt")] == [200, 404]


# Conditional requests (RFC 9110, 13.2.2): E is the ETag of the file

TABLE: list[tuple[dict[str, str], int]] = [
    ({"If-Match": "E"}, 200), ({"If-Match": "*"}, 200), ({"If-Match": '"x", E'}, 200), ({"If-Match": '"x"'}, 412),
    ({"If-Match": "W/E"}, 412), ({"If-Match": '"x", W/E'}, 412), ({"If-Match": '"E"'}, 412), ({"If-Match": "x"}, 412),
    ({"If-Match": '"a, b", E'}, 200), ({"If-Match": "E,"}, 200),
    ({"If-Match": "E", "If-Unmodified-Since": EARLIER}, 200), ({"If-Match": '"x"', "If-Unmodified-Since": LATER}, 412),
    ({"If-Unmodified-Since": SAME}, 200), ({"If-Unmodified-Since": LATER}, 200),
    ({"If-Unmodified-Since": EARLIER}, 412), ({"If-Unmodified-Since": "yesterday"}, 200),
    ({"If-None-Match": "E"}, 304), ({"If-None-Match": "W/E"}, 304), ({"If-None-Match": "*"}, 304),
    ({"If-None-Match": '"x", E'}, 304), ({"If-None-Match": '"x",E,W/"y"'}, 304), ({"If-None-Match": '"a, b", E'}, 304),
    ({"If-None-Match": 'W/"x" , W/E'}, 304), ({"If-None-Match": '"x"'}, 200), ({"If-None-Match": "x"}, 200),
    ({"If-None-Match": ""}, 200), ({"If-None-Match": '"'}, 200), ({"If-None-Match": '"""'}, 200),
    ({"If-None-Match": '"*"'}, 200),
    ({"If-None-Match": '"x"', "If-Modified-Since": SAME}, 200),
    ({"If-None-Match": "E", "If-Modified-Since": EARLIER}, 304),
    ({"If-Modified-Since": SAME}, 304), ({"If-Modified-Since": LATER}, 304), ({"If-Modified-Since": EARLIER}, 200),
    ({"If-Modified-Since": "yesterday"}, 200), ({"If-Modified-Since": ""}, 200),
    ({"If-Modified-Since": "Mon, 32 Oct 2020 16:56:23 GMT"}, 200), ({"If-Modified-Since": "9" * 500}, 200),
    ({"If-Modified-Since": "Sun, 13 Sep 99999999999 12:26:40 GMT"}, 200),
    ({"If-Modified-Since": "Sunday, 13-Sep-20 12:26:40 GMT"}, 304),
    ({"If-Modified-Since": "Sun Sep 13 12:26:40 2020"}, 304),
    ({"If-Modified-Since": "Sun Sep 13 12:26:39 2020"}, 200),
    ({"If-Match": "E", "If-None-Match": "E"}, 304), ({"If-Match": '"x"', "If-None-Match": "E"}, 412),
    ({"If-Unmodified-Since": EARLIER, "If-None-Match": "E"}, 412),
    ({"If-Unmodified-Since": SAME, "If-Modified-Since": SAME}, 304),
    ({"If-None-Match": "E", "Range": "bytes=0-1"}, 304), ({"If-Match": '"x"', "Range": "bytes=0-1"}, 412),
    ({"If-Match": "E", "Range": "bytes=0-1"}, 206), ({"If-None-Match": '"x"', "Range": "bytes=0-1"}, 206),
    ({"If-None-Match": "E", "Range": "bytes=99-"}, 304),
]  # fmt: skip


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(("conditions", "status"), TABLE, ids=str)
def test_conditions_are_tried_in_their_order(
    root: Path, conditions: dict[str, str], status: int, method: str
) -> None:
    etag = get(root).headers["ETag"]
    client = serving(root).test(raise_errors=True)
    fields = {name: value.replace("E", etag) if "atch" in name else value for name, value in conditions.items()}
    got = client.request(method, "/static/a.txt", fields)
    if method == "HEAD" and status == 206:
        status = 200  # RFC 9110, 14.2: only GET has ranges
    assert got.status == status
    assert (CONTENT in got.body) is (status == 200 and method == "GET")


def test_what_is_not_modified_says_of_which_file_and_no_more(root: Path) -> None:
    whole = get(root).headers
    got = get(root, If_None_Match=whole["ETag"])
    assert (got.status, got.body, got.headers["ETag"]) == (304, b"", whole["ETag"])
    assert "Content-Length" not in got.headers and "Content-Type" not in got.headers


@pytest.mark.parametrize("field", ["If-None-Match", "If-Match", "Range", "Accept-Encoding", "If-Modified-Since"])
@pytest.mark.parametrize(
    "value", ['"', '"x",', ",", "W/", " ", "bytes=0-1,", "bytes=" + "0-1," * 1000, "gzip;q=0.1,", ";", "=", "1", "x "]
)
def test_any_header_field_is_read_in_less_than_ten_milliseconds(root: Path, field: str, value: str) -> None:
    client = serving(root).test(raise_errors=True)
    took = []
    for _ in range(3):
        started = time.thread_time()
        client.get("/static/a.txt", {field: (value * 8000)[:8000]})
        took.append(time.thread_time() - started)
    assert min(took) < 0.1  # of CPU time; under 10 ms where coverage does not count


# Ranges (RFC 9110, 14): what is sent of "0123456789"; None is a 416


@pytest.mark.parametrize(
    ("asked", "first", "last"),
    [("0-0", 0, 0), ("0-4", 0, 4), ("3-7", 3, 7), ("9-9", 9, 9), ("0-9", 0, 9), ("0-10", 0, 9), ("5-1000", 5, 9),
     ("0-", 0, 9), ("5-", 5, 9), ("9-", 9, 9), ("-1", 9, 9), ("-3", 7, 9), ("-10", 0, 9), ("-11", 0, 9),
     ("-1000", 0, 9), ("00-004", 0, 4), (f"0-{'9' * 18}", 0, 9), (f"-{'9' * 18}", 0, 9)],
)  # fmt: skip
def test_a_range_is_sent_alone(root: Path, asked: str, first: int, last: int) -> None:
    got, whole = get(root, Range=f"bytes={asked}"), get(root)
    assert (got.status, got.body) == (206, CONTENT[first : last + 1])
    assert got.headers["Content-Range"] == f"bytes {first}-{last}/10"
    assert got.headers["Content-Length"] == str(last - first + 1)
    assert all(got.headers[name] == whole.headers[name] for name in ("ETag", "Last-Modified", "Content-Type"))


@pytest.mark.parametrize("asked", ["10-", "10-20", "1000-", "-0", "-000", f"{'9' * 18}-"])
def test_a_range_that_is_not_there_is_416_which_says_how_long_the_file_is(root: Path, asked: str) -> None:
    got = get(root, Range=f"bytes={asked}")
    assert (got.status, got.headers["Content-Range"], CONTENT in got.body) == (416, "bytes */10", False)


@pytest.mark.parametrize(
    "asked",
    ["bytes=0-1,3-4", "bytes=0-1, 3-4", "bytes=0-0,-1", "bytes=" + ",".join(["0-1"] * 1000),
     "bytes=" + ",".join(f"{n}-" for n in range(1000)), "bytes=5-4", "bytes=", "bytes=-", "bytes", "", "=0-1",
     "bytes 0-4", "bytes=0-4-", "bytes=--3", "bytes=+1-2", "bytes=1-+2", "bytes=1_0-", "bytes=0x0-1", "bytes=0-²",
     "bytes=a-b", "bytes=0-b", "bytes=0.0-1", "bytes=0 - 1", "bytes:0-1", "items=0-1", "seconds=0-", "bytesx=0-1",
     "none", "bytes=0-1;2-3", "bytes=0-1\t2"],
)  # fmt: skip
def test_what_is_no_single_range_gets_the_whole_file(root: Path, asked: str) -> None:
    got = get(root, Range=asked)
    assert (got.status, got.body, "Content-Range" in got.headers) == (200, CONTENT, False)


@pytest.mark.parametrize("asked", [f"0-{'9' * 6000}", f"-{'9' * 6000}", f"{'9' * 6000}-", f"{'0' * 6000}1-"])
def test_numbers_of_any_length_are_no_error_of_ours(root: Path, asked: str) -> None:
    assert get(root, Range=f"bytes={asked}").status in (200, 206, 416)


def test_the_unit_of_a_range_is_read_in_any_case(root: Path) -> None:
    assert get(root, Range="Bytes=0-1").status == 206


def test_head_has_no_ranges(root: Path) -> None:
    got = get(root, method="HEAD", Range="bytes=0-1")
    assert (got.status, got.headers["Content-Length"], "Content-Range" in got.headers) == (200, "10", False)


@pytest.mark.parametrize(("asked", "status"), [("0-", 416), ("0-0", 416), ("-1", 200), ("-5", 200), ("-0", 416)])
def test_an_empty_file_has_no_ranges_but_its_last_bytes_are_all_of_it(root: Path, asked: str, status: int) -> None:
    got = get(root, "empty.txt", Range=f"bytes={asked}")
    assert got.status == status
    assert status == 200 or got.headers["Content-Range"] == "bytes */0"


@pytest.mark.parametrize(
    ("condition", "status"),
    [("E", 206), ("W/E", 200), ('"x"', 200), ("x", 200), ("*", 200), ('"x", E', 200), (SAME, 206), (LATER, 200),
     (EARLIER, 200), ("yesterday", 200)],
)  # fmt: skip
def test_a_range_is_sent_if_the_file_is_still_the_same(root: Path, condition: str, status: int) -> None:
    fields = {"If_Range": condition.replace("E", get(root).headers["ETag"]) if "E" in condition[:4] else condition}
    got = get(root, Range="bytes=2-3", **fields)
    assert (got.status, got.body) == (status, b"23" if status == 206 else CONTENT)


def test_of_a_file_that_changed_a_range_that_is_not_there_is_no_error(root: Path) -> None:
    assert get(root, Range="bytes=99-", If_Range='"x"').status == 200


def test_without_a_range_if_range_says_nothing(root: Path) -> None:
    assert get(root, If_Range='"x"').status == 200


# Files that were compressed beforehand


@pytest.fixture
def packed(root: Path) -> Path:
    for name, content in (("a.js", b"plain"), ("a.js.br", b"br"), ("a.js.gz", b"gzip"), ("b.js", b"plain"),
                          ("b.js.gz", b"gzip"), ("c.js.gz", b"gzip")):  # fmt: skip
        write(root / name, content)
    return root


@pytest.mark.parametrize(
    ("accepted", "sent"),
    [("gzip", "gzip"), ("br", "br"), ("gzip, br", "br"), ("br, gzip", "br"), ("gzip, deflate, br, zstd", "br"),
     ("br;q=0.5, gzip;q=0", "br"), ("gzip;q=0.5", "gzip"), ("br;q=0, gzip", "gzip"), ("br;q=0", "plain"),
     ("br;q=0.0,gzip;q=0.000", "plain"), ("br ; q=0 , gzip ; q=0.3", "gzip"), ("GZIP", "gzip"), ("Br;Q=1", "br"),
     ("*;q=0", "plain"), ("*;q=0, gzip", "gzip"), ("br;q=0;x=1", "plain"), ("br;q=0,br", "plain"),
     ("identity", "plain"), ("deflate", "plain"), ("gzipx", "plain"), ("xbr", "plain"), ("", "plain"), (",", "plain"),
     ("gzip;level=9", "gzip"), ("br;q=0.5, gzip;q=0.8", "gzip"), ("gzip, br;q=0.9", "gzip"), ("*;q=0.1, gzip", "gzip"),
     ("br;q=0.5, gzip;q=0.4, identity;q=0.6", "plain")],
)  # fmt: skip
def test_a_compressed_file_beside_it_is_sent_where_it_is_accepted(packed: Path, accepted: str, sent: str) -> None:
    got = get(packed, "a.js", Accept_Encoding=accepted)
    assert (got.status, got.text) == (200, sent)
    assert got.headers.get("Content-Encoding", "plain") == sent
    assert (got.headers["Vary"], got.headers["Content-Length"]) == ("Accept-Encoding", str(len(sent)))
    assert got.headers["Content-Type"].startswith("text/javascript")


@pytest.mark.parametrize(
    "accepted", ["gzip;q=x", "gzip;q=", "gzip;q=2", "gzip;q=-1", "br;q=nan", "br;q=inf, gzip", ";;", "br;q=1;q=0"]
)
def test_weights_that_are_none_are_no_error_of_ours(packed: Path, accepted: str) -> None:
    assert get(packed, "a.js", Accept_Encoding=accepted).status == 200


def test_only_what_is_there_is_sent(packed: Path) -> None:
    assert [get(packed, "b.js", Accept_Encoding=accepted).text for accepted in ("br, gzip", "br")] == ["gzip", "plain"]
    assert get(packed, "c.js", Accept_Encoding="gzip").status == 404


def test_each_form_of_a_file_has_an_etag_of_its_own(packed: Path) -> None:
    for name in ("a.js", "a.js.br", "a.js.gz"):
        write(packed / name, CONTENT)
    etags = {sent: get(packed, "a.js", Accept_Encoding=sent).headers["ETag"] for sent in ("br", "gzip", "identity")}
    assert len(set(etags.values())) == 3
    for sent, etag in etags.items():
        got = get(packed, "a.js", Accept_Encoding="gzip", If_None_Match=etag)
        assert got.status == (304 if sent == "gzip" else 200)
        assert got.headers["Vary"] == "Accept-Encoding"


def test_a_range_is_of_the_form_that_is_sent(packed: Path) -> None:
    got = get(packed, "a.js", Accept_Encoding="gzip", Range="bytes=1-2")
    assert got.status == 206
    whole = b"gzip" if "Content-Encoding" in got.headers else b"plain"
    assert (got.body, got.headers["Content-Range"]) == (whole[1:3], f"bytes 1-2/{len(whole)}")
    assert got.headers["Vary"] == "Accept-Encoding"


@pytest.mark.parametrize("kind", ["folder", "fifo", "link that leaves", "link to nothing"])
def test_what_is_no_file_of_this_folder_is_not_sent_for_one(root: Path, kind: str) -> None:
    beside = root / "a.txt.gz"
    if kind == "folder":
        beside.mkdir()
    elif kind == "fifo":
        os.mkfifo(beside)
    else:
        beside.symlink_to("../secret.txt" if kind == "link that leaves" else "nothing")
    got = at_once(lambda: get(root, Accept_Encoding="gzip"))
    assert (got.status, got.body, "Content-Encoding" in got.headers) == (200, CONTENT, False)


# Downloads


@pytest.mark.parametrize(
    ("download", "name"),
    [(True, "a b.txt"), ("report.pdf", "report.pdf"), ("Übersicht €.pdf", "Übersicht €.pdf"), ('a"b.txt', 'a"b.txt'),
     ("a\\b.txt", "a\\b.txt"), ('";filename=x.exe;"', '";filename=x.exe;"'), ("a;b,c.txt", "a;b,c.txt"),
     ("日本語.txt", "日本語.txt"), ("a'b%41.txt", "a'b%41.txt"), ('é"\\;%.txt', 'é"\\;%.txt'), ("😀", "😀")],
)  # fmt: skip
def test_a_download_has_a_name(root: Path, download: Any, name: str) -> None:
    write(root / "a b.txt", CONTENT)
    got = static_answer(root / "a b.txt", download=download)
    field = got.headers["Content-Disposition"]
    assert field.isascii() and got.body == CONTENT
    assert parse_options_header(field) == ("attachment", {"filename": name})


@pytest.mark.parametrize("download", ["a\r\nX-Evil: 1", "a\n", "\r", "a\x00b", "é\r\nX: 1", "\x7f"])
def test_a_download_whose_name_could_break_the_answer_is_an_error(root: Path, download: str) -> None:
    with pytest.raises(ValueError):
        static_answer(root / "a.txt", download=download)


@pytest.mark.parametrize("download", [None, False])
def test_a_file_is_no_download_unless_told(root: Path, download: Any) -> None:
    assert "Content-Disposition" not in static_answer(root / "a.txt", download=download).headers


def test_a_download_has_the_type_of_the_file_and_not_that_of_its_name(root: Path) -> None:
    assert static_answer(root / "a.txt", download="page.html").headers["Content-Type"].startswith("text/plain")


def test_a_download_with_ranges_can_be_resumed(root: Path) -> None:
    app = Brubeck()
    app.route("/")(lambda request: static_file(request, "a.txt", root, download=True))
    got = app.test().get("/", {"Range": "bytes=5-"})
    assert (got.status, got.body, "Content-Disposition" in got.headers) == (206, b"56789", True)


# What is never served

OUTSIDE = [
    "../secret.txt", "%2e%2e/secret.txt", "%2E%2E%2fsecret.txt", "..%2fsecret.txt", ".%2e/secret.txt",
    "folder/../../secret.txt", "folder/%2e%2e/%2e%2e/secret.txt", "../root/a.txt", "../root_x/secret.txt",
    "../static_x", "..", "../", "../../../../../../../../etc/passwd", "/etc/passwd", "%2fetc%2fpasswd",
    "//etc/passwd", "..%5csecret.txt", "..\\secret.txt", "%5c%5chost%5cshare", "....//secret.txt",
    "%252e%252e/secret.txt", "..%00/secret.txt", "a.txt%00", "a.txt%00.png", "%00", "..;/secret.txt",
    "%c0%ae%c0%ae/secret.txt", "%e0%80%ae%e0%80%ae/secret.txt", "%uff0e%uff0e/secret.txt", "a.txt/", "a.txt/x",
    "a.txt/../secret.txt", "a.txt/../../secret.txt", "", ".", "folder", "folder/", "folder/.", "missing", "x" * 300,
    "x/" * 2000, "folder/../a.txt",
]  # fmt: skip


@pytest.mark.parametrize("name", OUTSIDE, ids=lambda name: name[:40])
def test_what_is_outside_the_folder_or_no_file_is_not_found(root: Path, name: str, caplog: Any) -> None:
    got = get(root, name)
    assert len(caplog.records) <= 1
    assert got.status in ((400, 404) if "%00" in name or "%c0" in name or "%e0" in name else (404, 308))
    assert b"secret" not in got.body and CONTENT not in got.body and b"root:" not in got.body


NAMES = [
    "NUL", "nul.tar.gz", "con.txt", "CON .txt", "aux.js", "COM1", "conout$", "COM¹", "C:x", "12:30.txt",
    "a.txt::$DATA", "\\\\host\\share", "a\\b", "CON.", "AUX ", "a~1", "a b", "%41", "a;b", "a?b", "a#b",
]  # fmt: skip


@pytest.mark.parametrize("folder", ["", "aux/", "c:/", "a\\b/"])
def test_what_windows_takes_for_something_else_is_an_ordinary_name(root: Path, folder: str) -> None:
    (root / folder).mkdir(exist_ok=True)
    app = serving(root)
    for name in NAMES:
        write(root / folder / name, CONTENT)
        got = app.test().get(f"/static/{quote(folder + name)}")
        assert (name, got.status, got.body) == (name, 200, CONTENT)


@pytest.mark.skipif(os.name == "nt", reason="it is a separator there")
@pytest.mark.parametrize("name", ["..\\secret.txt", "folder\\..\\..\\secret.txt"])
def test_a_backslash_is_no_separator(root: Path, name: str) -> None:
    assert get(root, name).status == 404


DOT_NAMES = [".env", ".git/config", "folder/.env", "folder/.git/a", "..a", "...", ".well-known/.env", ".well-known.txt"]


@pytest.mark.parametrize("asked_for", [False, True])
@pytest.mark.parametrize("name", DOT_NAMES)
def test_a_name_that_begins_with_a_dot_is_served_only_where_that_was_asked_for(
    root: Path, name: str, asked_for: bool
) -> None:
    for each in (name, f"{name}.gz"):
        (root / each).parent.mkdir(parents=True, exist_ok=True)
        write(root / each, CONTENT)
    app = Brubeck()
    app.static("/static", root, dotfiles=asked_for)
    app.route("/own")(lambda request: static_file(request, name, root, dotfiles=asked_for))
    statuses = [app.test().get(path).status for path in (f"/static/{name}", f"/static/{name}.gz", "/own")]
    assert statuses == [200 if asked_for else 404] * 3
    assert app.test().get("/static/../secret.txt").status == 404


def test_well_known_files_are_always_served(root: Path) -> None:
    (root / ".well-known" / "acme-challenge").mkdir(parents=True)
    write(root / ".well-known" / "acme-challenge" / "token", CONTENT)
    assert get(root, ".well-known/acme-challenge/token").body == CONTENT


@pytest.mark.parametrize("name", ["console.txt", "context.js", "null.txt", "com.txt", "com10.txt", "auxiliary", "a.con",
                                  "a..b", "a..", "-a", "~", "é.txt", "a'b", "a&b"])  # fmt: skip
def test_a_name_that_only_looks_alike_is_served(root: Path, name: str) -> None:
    write(root / name, CONTENT)
    assert get(root, name).body == CONTENT


@pytest.mark.parametrize(
    ("link", "target", "asked", "status"),
    [("l.txt", "a.txt", "l.txt", 200), ("l.txt", "folder/b c.txt", "l.txt", 200),
     ("l.txt", "../root/a.txt", "l.txt", 200), ("l", "folder", "l/b c.txt", 200),
     ("folder/l", "..", "folder/l/a.txt", 200),
     ("l.txt", "../secret.txt", "l.txt", 404), ("l.txt", "/etc/passwd", "l.txt", 404), ("l", "..", "l/secret.txt", 404),
     ("l", "../root_x", "l/secret.txt", 404), ("l", "../root_x/secret.txt", "l", 404), ("l", "/", "l/etc/passwd", 404),
     ("l.txt", "l.txt", "l.txt", 404), ("l.txt", "missing", "l.txt", 404), ("l.txt", "/dev/zero", "l.txt", 404),
     ("l.txt", "/proc/self/environ", "l.txt", 404), ("l", "folder", "l", 404), ("l", "/dev", "l/null", 404)],
)  # fmt: skip
def test_a_link_is_followed_as_long_as_it_stays_in_the_folder(
    root: Path, link: str, target: str, asked: str, status: int
) -> None:
    (root / link).symlink_to(target)
    assert get(root, asked).status == status


def swapping(first: Path, second: Path, swapped: Path) -> subprocess.Popen[bytes]:
    """A process that puts the two in one place, in turn, as fast as it can, until it is ended."""
    program = (
        "import os, sys, itertools\n"
        "first, second, swapped = sys.argv[1:]\n"
        "for place in itertools.cycle((first, second)):\n"
        "    os.rename(swapped, swapped + '.old') if os.path.lexists(swapped) else None\n"
        "    os.rename(place, swapped)\n"
        "    os.rename(swapped, place)\n"
    )
    return subprocess.Popen([sys.executable, "-c", program, str(first), str(second), str(swapped)])


@pytest.mark.parametrize("what", ["the file", "its folder", "the file that a link names", "the compressed one"])
def test_a_link_that_takes_the_place_of_what_was_asked_for_meanwhile_leads_nowhere(root: Path, what: str) -> None:
    folder, outside = root / "folder", root.parent / "outside"
    outside.mkdir()
    for each in ("a.js", "a.js.gz"):
        write(folder / each, b"inside")
        write(outside / each, b"a secret")
    if what == "its folder":
        (root / "link").symlink_to(outside)
        places, asked = (folder, root / "link", root / "now"), "now/a.js"
    else:
        (folder / "out").symlink_to(outside / "a.js")
        swapped = folder / ("now.js.gz" if what == "the compressed one" else "now.js")
        places, asked = (folder / "a.js", folder / "out", swapped), "folder/now.js"
        if what == "the compressed one":
            write(folder / "now.js", b"inside")
        if what == "the file that a link names":
            (root / "named.js").symlink_to("folder/now.js")
            asked = "named.js"
    client = serving(root).test(raise_errors=True)
    child = swapping(*places)
    try:
        bodies, end = set(), time.monotonic() + 1.5
        while b"inside" not in bodies or time.monotonic() < end:
            bodies.add(client.get(f"/static/{asked}", {"Accept-Encoding": "gzip"}).body)
    finally:
        child.kill()
        child.wait()
    assert bodies <= {b"inside", b"404 Not Found\n"}


def test_a_pipe_that_takes_the_place_of_a_file_holds_up_nobody(root: Path) -> None:
    (root / "link").symlink_to("fifo")
    (root / "folder.js").mkdir()
    os.mkfifo(root / "fifo")
    os.mkfifo(root / "a.txt.gz")
    for name, status in (("link", 404), ("fifo/x", 404), ("a.txt", 200), ("folder.js", 404)):
        assert at_once(lambda name=name: get(root, name, Accept_Encoding="gzip")).status == status


@pytest.mark.parametrize("missing", [(), ("O_PATH",)])
def test_a_folder_that_may_be_entered_but_not_listed_has_files(root: Path, missing: tuple[str, ...]) -> None:
    program = (
        "import os, sys\n"
        "[delattr(os, name) for name in sys.argv[2:]]\n"
        "import brubeck_lite, wsgiref.util\n"
        "os.chmod(sys.argv[1], 0o711 if len(sys.argv) == 2 else 0o755)\n"
        "app = brubeck_lite.Brubeck()\n"
        "app.static('/s', sys.argv[1])\n"
        "os.geteuid() or os.seteuid(65534)\n"
        "for name in ('a.txt', 'folder/b c.txt', 'l', '../secret.txt'):\n"
        "    environ = {'PATH_INFO': f'/s/{name}'}\n"
        "    wsgiref.util.setup_testing_defaults(environ)\n"
        "    app({**environ, 'SCRIPT_NAME': ''}, lambda status, fields: print(status[:3]))\n"
    )
    (root / "l").symlink_to("a.txt")
    for folder in [root, *root.parents][:-2]:
        folder.chmod(folder.stat().st_mode | 0o11)
    done = subprocess.run([sys.executable, "-c", program, str(root), *missing], capture_output=True, text=True,
                          check=True, env=environment())  # fmt: skip
    assert done.stdout.split() == ["200", "200", "200", "404"]


def test_the_folder_itself_may_be_a_link(root: Path) -> None:
    (root.parent / "link").symlink_to("root")
    assert [get(root.parent / "link", name).status for name in ("a.txt", "../secret.txt")] == [200, 404]


def test_a_pipe_or_a_socket_is_not_found_and_nobody_waits_for_it(root: Path) -> None:
    os.mkfifo(root / "fifo")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(root / "socket"))
        assert [at_once(lambda name=name: get(root, name)).status for name in ("fifo", "socket")] == [404, 404]


@pytest.mark.skipif(not Path("/proc/sys/vm/compact_memory").exists(), reason="Linux has a file that nobody can read")
def test_a_file_that_we_may_not_read_is_not_found() -> None:
    assert get(Path("/proc/sys/vm"), "compact_memory").status == 404


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "../secret.txt", "folder/../a.txt", "", ".", "\x00", "a.txt\x00", "\ud800"]
)
def test_the_name_that_a_program_gives_is_looked_at_too(root: Path, name: str) -> None:
    app = Brubeck()
    app.route("/")(lambda request: static_file(request, name, root))
    assert app.test(raise_errors=True).get("/").status == 404


@pytest.mark.parametrize("name", ["secret.txt", "%2e%2e/secret.txt"])
def test_a_folder_that_was_removed_has_no_files(root: Path, name: str) -> None:
    (root / "removed").mkdir()
    app = serving(root / "removed")
    (root / "removed").rmdir()
    assert app.test().get(f"/static/{name}").status == 404


def test_a_file_that_is_not_there_is_an_error_like_any_other(root: Path) -> None:
    app = serving(root)
    app.error(404)(lambda request, error: "sorry")
    assert app.test().get("/static/missing").text == "sorry"


# Large files


@pytest.fixture
def large(root: Path) -> Path:
    with (root / "large.bin").open("wb") as file:
        file.truncate(64 << 20)
    return root


def pieces_of(root: Path, method: str = "GET", **environ: str) -> Any:
    """The iterable that a WSGI server gets for the large file."""
    asked = {"PATH_INFO": "/static/large.bin", "SCRIPT_NAME": "", "REQUEST_METHOD": method, **environ}
    setup_testing_defaults(asked)
    return serving(root)(asked, lambda status, fields: None)


def test_a_large_file_is_read_piece_by_piece(large: Path) -> None:
    sizes = [len(piece) for piece in pieces_of(large)]
    assert sum(sizes) == 64 << 20 and max(sizes) <= 1 << 20


@pytest.mark.parametrize(("asked", "size"), [("bytes=1000-40000000", 39_999_001), ("bytes=-33554432", 1 << 25)])
def test_a_large_range_is_read_piece_by_piece(large: Path, asked: str, size: int) -> None:
    sizes = [len(piece) for piece in pieces_of(large, HTTP_RANGE=asked)]
    assert sum(sizes) == size and max(sizes) <= 1 << 20


def open_files(root: Path) -> list[str]:
    """Which files of the folder this process has open."""
    links = [Path(f"/proc/self/fd/{number}") for number in os.listdir("/proc/self/fd")]
    return [name for link in links if link.is_symlink() and (name := os.readlink(link)).startswith(str(root))]


@pytest.mark.parametrize(
    ("method", "environ"),
    [("GET", {}), ("HEAD", {}), ("GET", {"HTTP_RANGE": "bytes=0-1"}), ("GET", {"HTTP_RANGE": "bytes=99999999999-"}),
     ("GET", {"HTTP_IF_NONE_MATCH": "*"}), ("GET", {"HTTP_IF_MATCH": '"x"'})],
    ids=str,
)  # fmt: skip
def test_a_file_is_closed_though_the_client_left(large: Path, method: str, environ: dict[str, str]) -> None:
    pieces = pieces_of(large, method, **environ)
    next(iter(pieces), b"")
    getattr(pieces, "close", lambda: None)()
    assert open_files(large) == []


def test_a_file_that_was_sent_is_closed(large: Path) -> None:
    for _ in pieces_of(large):
        pass
    assert open_files(large) == []


def test_middleware_that_gives_another_answer_leaves_no_file_open(large: Path) -> None:
    app = serving(large)

    @app.wrap
    def never(respond: Any) -> Any:
        def refuse(request: Request) -> Response:
            respond(request)
            return Response("no", 403)

        return refuse

    assert app.test().get("/static/large.bin").status == 403
    assert open_files(large) == []


# Through every door

Door = tuple[str, int]
LARGE = b"".join(b"%09d\n" % number for number in range(2_000_000))  # 20 MB
FILES = tempfile.TemporaryDirectory()
PUBLIC = Path(FILES.name, "public")
PUBLIC.mkdir()
os.environ["TEST_FILES"] = str(PUBLIC)  # for program_files, which is in processes of its own


@pytest.fixture(scope="session", autouse=True)
def files() -> Iterator[None]:
    """What program_files serves, and what it must not serve."""
    folder = Path(FILES.name)
    (folder / "public/folder").mkdir()
    (folder / "public_not").mkdir()
    for name, content in {
        "public/a.txt": CONTENT, "public/large.bin": LARGE, "public/a.js": b"plain", "public/a.js.gz": b"packed",
        "public/folder/b c.txt": b"inside", "public_not/secret.txt": b"a secret", "secret.txt": b"a secret",
    }.items():  # fmt: skip
        (folder / name).write_bytes(content)
    with (folder / "public/huge.bin").open("wb") as file:
        file.truncate(1 << 30)  # a hole, which takes no space on the disk
    (folder / "public/leaves.txt").symlink_to("../secret.txt")
    (folder / "public/leaves").symlink_to("../public_not")
    os.mkfifo(folder / "public/fifo")
    yield
    FILES.cleanup()


def ask(door: Door, target: str, method: str = "GET", part: str = "public", **fields: str) -> Any:
    """One request on a connection of its own: the response, with its body in `.content`."""
    connection = http.client.HTTPConnection("127.0.0.1", door[1], timeout=60)
    try:
        headers = {name.replace("_", "-"): value for name, value in fields.items()}
        connection.request(method, f"/files/{part}/{target}", headers=headers)
        response: Any = connection.getresponse()
        response.content = response.read()
        return response
    finally:
        connection.close()


@pytest.mark.parametrize(
    ("fields", "status", "content"),
    [({}, 200, CONTENT), ({"Range": "bytes=2-4"}, 206, b"234"), ({"Range": "bytes=-1"}, 206, b"9"),
     ({"If_None_Match": "*"}, 304, b""), ({"If_Modified_Since": formatdate(2**31, usegmt=True)}, 304, b"")],
    ids=str,
)  # fmt: skip
def test_a_file_by_every_door(door: Door, fields: dict[str, str], status: int, content: bytes) -> None:
    got = ask(door, "a.txt", **fields)
    assert (got.status, got.content) == (status, content)
    assert got.headers.get("Content-Length", "0") == str(len(content))


def test_a_range_that_is_not_there_by_every_door(door: Door) -> None:
    got = ask(door, "a.txt", Range="bytes=10-")
    assert (got.status, got.headers["Content-Range"]) == (416, "bytes */10")


def test_head_for_a_large_file_by_every_door(door: Door) -> None:
    got = ask(door, "large.bin", "HEAD")
    assert (got.status, got.content, got.headers["Content-Length"]) == (200, b"", str(len(LARGE)))


def test_a_compressed_file_by_every_door(door: Door) -> None:
    got = ask(door, "a.js", Accept_Encoding="gzip")
    assert (got.content, got.headers["Content-Encoding"]) == (b"packed", "gzip")


def test_a_large_file_arrives_whole_by_every_door(door: Door) -> None:
    got = ask(door, "large.bin")
    assert (got.status, got.headers["Content-Length"]) == (200, str(len(LARGE)))
    assert got.content == LARGE


def test_a_large_range_arrives_whole_by_every_door(door: Door) -> None:
    got = ask(door, "large.bin", Range="bytes=1000000-14999999")
    assert (got.status, got.content) == (206, LARGE[1_000_000:15_000_000])


@pytest.mark.parametrize("how", ["undeclared", "changed", "continued"])
def test_a_large_file_that_a_program_changes_arrives_so_by_every_door(door: Door, how: str) -> None:
    first = len(LARGE) - len(ask(door, "large.bin", part="continued").content)
    expected = {"undeclared": LARGE, "changed": LARGE[:first][::-1] + LARGE[first:], "continued": LARGE[first:]}[how]
    assert 0 < first <= 1 << 18 and ask(door, "large.bin", part=how).content == expected


def test_a_large_file_with_a_smaller_content_length_is_an_error_by_every_door(door: Door) -> None:
    assert ask(door, "large.bin", part="misdeclared").status == 500


def raw(door: Door, target: str) -> bytes:
    """All that comes back for a target that is sent as it stands."""
    with socket.create_connection(("127.0.0.1", door[1]), timeout=60) as connection:
        connection.sendall(f"GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        received = b""
        try:
            while piece := connection.recv(65536):
                received += piece
        except ConnectionResetError:
            pass
        return received


@pytest.mark.parametrize(
    "name",
    ["../secret.txt", "%2e%2e/secret.txt", "%2e%2e%2fsecret.txt", "..%2fsecret.txt", "../public_not/secret.txt",
     "folder/../../secret.txt", "..%5csecret.txt", "leaves.txt", "leaves/secret.txt", "fifo", "", "folder", "%00",
     "a.txt%00", "%2fetc%2fpasswd", "/etc/passwd", "%c0%ae%c0%ae/secret.txt", "NUL", "a/CON%20.txt", "C:x"],
)  # fmt: skip
def test_what_is_not_in_the_folder_is_not_served_by_any_door(door: Door, name: str) -> None:
    received = raw(door, f"/files/public/{name}")
    assert received.split(b" ")[1:2] in ([b"404"], [b"400"], [b"308"])
    assert b"a secret" not in received and b"root:" not in received


def peak(pid: int) -> int:
    """The most memory that a process has had, in KiB."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0])


@pytest.fixture(scope="module")
def own_server() -> Iterator[tuple[int, int]]:
    """The process and the port of an embedded server that serves the files to nobody else."""
    with behind_http("program_files:app") as (child, port):
        yield child.pid, port


@pytest.mark.parametrize("pause", [0.0, 1.0])
def test_a_file_of_a_gigabyte_takes_no_memory_however_slow_the_client_is(
    own_server: tuple[int, int], pause: float
) -> None:
    pid, port = own_server
    before = peak(pid)
    received, buffer = 0, bytearray(1 << 20)
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.sendall(b"GET /public/huge.bin HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        time.sleep(pause)
        while size := connection.recv_into(buffer):
            received += size
    assert received > 1 << 30
    assert peak(pid) - before < 16 << 10


def anonymous_memory(pid: int) -> int:
    """What a process has of memory that is in no file, in KiB."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("RssAnon:")[2].split()[0])


def slow_client(port: int, name: str, buffer: int = 4096) -> socket.socket:
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    client.settimeout(60)
    client.connect(("127.0.0.1", port))
    client.sendall(f"GET /public/{name} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    return client


def test_nothing_of_a_file_is_held_for_clients_that_read_slowly(own_server: tuple[int, int]) -> None:
    pid, port = own_server
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(slow_client(port, "huge.bin"))
        assert first.recv(1) == b"H"
        before = anonymous_memory(pid)
        clients = [stack.enter_context(slow_client(port, "huge.bin")) for _ in range(200)]
        for _ in range(3):
            for client in clients:
                assert client.recv(2048)
        assert anonymous_memory(pid) - before < 200 * 24


@pytest.mark.parametrize("size", [1_000_000, 39_000_000])
def test_a_file_that_changes_while_it_is_sent_is_sent_as_declared_or_ends_in_a_reset(
    own_server: tuple[int, int], size: int
) -> None:
    changing = Path(FILES.name, "public", f"changing{size}.bin")
    with changing.open("wb") as file:
        file.write(LARGE)
    with slow_client(own_server[1], changing.name, 1 << 18) as client:
        received = client.recv(1000)
        with changing.open("r+b") as file:
            file.truncate(size)
        length = received.index(b"\r\n\r\n") + 4 + len(LARGE)
        try:
            while len(received) < length and (piece := client.recv(1 << 20)):
                received += piece
        except ConnectionResetError:
            assert len(LARGE) > size and len(received) < length
            return
        assert (len(LARGE) < size, received[-len(LARGE) :] == LARGE) == (True, True)
        client.sendall(b"GET /public/a.txt HTTP/1.1\r\nHost: x\r\n\r\n")
        assert client.recv(1000).startswith(b"HTTP/1.1 200 OK\r\n")


FAST_CLIENT = """
import socket, sys
buffer = bytearray(1 << 20)
with socket.create_connection(("127.0.0.1", int(sys.argv[1]))) as connection:
    connection.sendall(f"GET {sys.argv[2]} HTTP/1.1\\r\\nHost: x\\r\\nConnection: close\\r\\n\\r\\n".encode())
    connection.recv_into(buffer, 1)
    print("it has begun", flush=True)
    while connection.recv_into(buffer, 1 << 20, socket.MSG_TRUNC):  # which throws away without a copy
        pass
"""


@pytest.mark.parametrize("target", ["/public/huge.bin", "/pieces"])
def test_others_are_served_while_a_client_takes_a_large_answer_as_fast_as_it_comes(
    own_server: tuple[int, int], target: str
) -> None:
    port = own_server[1]
    served = 0
    command = [sys.executable, "-c", FAST_CLIENT, str(port), target]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as fast:
        assert fast.stdout is not None and fast.stdout.readline() == b"it has begun\n"
        while fast.poll() is None:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/public/a.txt", timeout=60) as response:
                assert response.read() == CONTENT
            served += 1
    assert fast.returncode == 0 and served > 5  # who had to wait for its end would be one or two


# The session by every door


def test_a_session_by_every_door(door: Door) -> None:
    cookie = ""
    for number in (1, 2, 3):
        connection = http.client.HTTPConnection("127.0.0.1", door[1], timeout=60)
        connection.request("GET", "/files/visits", headers={"Cookie": cookie} if cookie else {})
        response = connection.getresponse()
        assert response.read() == b'{"visits":%d}' % number
        assert (response.headers["Vary"], response.headers["Cache-Control"]) == ("Cookie", "private")
        cookie = response.headers["Set-Cookie"].partition(";")[0]
        connection.close()


# What is kept in memory


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten seconds later: files that were changed just now could change again without another time."""
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + 10)


def no_open(*arguments: Any, **named: Any) -> int:
    raise AssertionError("a file is opened")


@pytest.mark.usefixtures("later")
def test_a_small_file_that_did_not_change_is_not_opened_again(packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    client = serving(packed).test(raise_errors=True)
    asked = [("a.js", "br"), ("a.js", "gzip"), ("a.js", ""), ("a.txt", "br")]
    first = [client.get(f"/static/{name}", {"Accept-Encoding": accepted}) for name, accepted in asked]
    monkeypatch.setattr(os, "open", no_open)
    again = [client.get(f"/static/{name}", {"Accept-Encoding": accepted}) for name, accepted in asked]
    assert [got.body for got in again] == [b"br", b"gzip", b"plain", CONTENT]
    assert [[*got.headers.items()] for got in again] == [[*got.headers.items()] for got in first]


@pytest.mark.usefixtures("later")
@pytest.mark.parametrize("how", ["written", "replaced", "removed", "made a folder", "link outside", "link inside"])
def test_what_is_kept_of_a_file_ends_with_the_file(root: Path, how: str) -> None:
    client = serving(root).test(raise_errors=True)
    file = root / "a.txt"
    before = file.stat()
    assert [client.get("/static/a.txt").body for _ in range(2)] == [CONTENT] * 2
    changed, expected = CONTENT[::-1], (404, None)
    if how == "written":
        file.write_bytes(changed)
    elif how == "replaced":
        write(root / "new.txt", changed)
        os.replace(root / "new.txt", file)
    else:
        file.unlink()
    if how == "made a folder":
        file.mkdir()
    elif how == "link outside":
        write(root.parent / "outside.txt", changed)
        file.symlink_to("../outside.txt")
    elif how == "link inside":
        write(root / "b.txt", changed)
        file.symlink_to("b.txt")
    if how != "removed":
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))  # as rsync and tar do
    if how in ("written", "replaced", "link inside"):
        expected = (200, changed)
    for _ in range(2):
        got = client.get("/static/a.txt")
        assert (got.status, got.body if got.status == 200 else None) == expected


@pytest.mark.usefixtures("later")
def test_a_folder_that_became_a_link_to_elsewhere_keeps_nothing(root: Path) -> None:
    (root / "sub").mkdir()
    write(root / "sub" / "a.txt", CONTENT)
    client = serving(root).test(raise_errors=True)
    assert [client.get("/static/sub/a.txt").status for _ in range(2)] == [200, 200]
    (root / "sub").rename(root.parent / "moved")
    (root / "sub").symlink_to("../moved")
    assert [client.get("/static/sub/a.txt").status for _ in range(2)] == [404, 404]


@pytest.mark.usefixtures("later")
def test_a_link_inside_the_folder_gives_what_it_leads_to_each_time(root: Path) -> None:
    client = serving(root).test(raise_errors=True)
    (root / "link.txt").symlink_to("a.txt")
    (root / "b.js").write_text("plain")
    (root / "b.js.gz").symlink_to("packed")
    write(root / "packed", b"packed")
    for content in (CONTENT, CONTENT[::-1]):
        write(root / "a.txt", content)
        assert [client.get("/static/link.txt").body for _ in range(2)] == [content] * 2
        asked = [client.get("/static/b.js", {"Accept-Encoding": accepted}).body for accepted in ("gzip", "") * 2]
        assert asked == [b"packed", b"plain"] * 2


@pytest.mark.usefixtures("later")
def test_a_compressed_file_that_comes_or_goes_is_seen(root: Path) -> None:
    client = serving(root).test(raise_errors=True)

    def sent() -> bytes:
        return bytes([client.get("/static/a.txt", {"Accept-Encoding": "gzip"}) for _ in range(2)][1].body)

    assert sent() == CONTENT
    write(root / "a.txt.gz", b"packed")
    assert sent() == b"packed"
    (root / "a.txt.gz").unlink()
    assert sent() == CONTENT


@pytest.mark.usefixtures("later")
def test_each_client_gets_the_form_that_it_likes_best_of_what_is_kept(packed: Path) -> None:
    client, likes = serving(packed).test(raise_errors=True), ("br, gzip", "br;q=0.5, gzip", "br", "gzip", "")
    for _ in range(2):
        sent = [client.get("/static/a.js", {"Accept-Encoding": accepted}).text for accepted in likes]
        assert sent == ["br", "gzip", "br", "gzip", "plain"]


@pytest.mark.usefixtures("later")
def test_what_middleware_adds_to_an_answer_is_not_kept_with_the_file(root: Path) -> None:
    app = serving(root)

    @app.wrap
    def personal(respond: Callable[[Request], Response]) -> Callable[[Request], Response]:
        def answer(request: Request) -> Response:
            response = respond(request)
            response.headers.add("X-For", request.query.get("for", "nobody"))
            return response

        return answer

    told = [app.test().get("/static/a.txt", query={"for": name}).headers["X-For"] for name in ("Dave", "Paul", "Joe")]
    assert told == ["Dave", "Paul", "Joe"]


@pytest.mark.usefixtures("later")
def test_conditions_ranges_and_head_are_as_for_any_file(root: Path) -> None:
    client = serving(root).test(raise_errors=True)
    etag = [client.get("/static/a.txt") for _ in range(2)][1].headers["ETag"]
    assert client.get("/static/a.txt", {"If-None-Match": etag}).status == 304
    assert client.get("/static/a.txt", {"Range": "bytes=1-2"}).body == CONTENT[1:3]
    assert client.get("/static/a.txt", {"If-Match": '"x"'}).status == 412
    head = client.request("HEAD", "/static/a.txt")
    assert (head.body, head.headers["Content-Length"]) == (b"", str(len(CONTENT)))


def test_a_file_that_changed_just_now_is_read_each_time(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second change at once may leave it the same time, and the same size."""
    client = serving(root).test()
    write(root / "new.txt", CONTENT)
    assert client.get("/static/new.txt").status == 200
    monkeypatch.setattr(os, "open", no_open)
    assert client.get("/static/new.txt").status == 500


@pytest.mark.usefixtures("later")
def test_what_is_kept_has_a_bound(root: Path) -> None:
    for number in range(400):
        write(root / f"{number}.bin", bytes(64 << 10))
    client = serving(root).test(raise_errors=True)
    client.get("/static/a.txt")
    tracemalloc.start()
    try:
        for number in range(400):
            client.get(f"/static/{number}.bin")
        assert tracemalloc.get_traced_memory()[1] < 20 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", ["nowhere", "file"])
def test_a_folder_that_is_not_there_is_an_error_where_it_is_named(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=re.escape(f"there is no folder {str(tmp_path / name)!r}")):
        Brubeck().static("/static", name)
