"""Answers that are compressed on their way: which, how, and what the header fields say of it."""

from __future__ import annotations

import http.client
import importlib
import json
import socket
import sys
import types
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from program_compress import GOOD, LARGE, TEXT
from support import ROOT, Mongrel2, behind_http, behind_mongrel2, output, wait_for
from test_doors import Door, ask, is_mongrel2, raw
from test_doors import get as get_by

from brubeck_lite import Brubeck, Request, Response, choose_coding, compress, event_stream, static_file


def unpack(body: bytes, coding: str = "gzip") -> bytes:
    """A whole body out of its coding: an error where its end is missing."""
    if coding == "gzip":
        unpacker = zlib.decompressobj(wbits=31)
        plain = unpacker.decompress(body)
        assert unpacker.eof and not unpacker.unused_data
        return plain
    module = importlib.import_module({"br": "brotli", "zstd": "compression.zstd"}[coding])
    return bytes(module.decompress(body))


def serving(value: Any, **settings: Any) -> Any:
    """A client of an application whose only page is this: a value, or a function that makes it."""
    app = Brubeck()
    app.route("/", ["GET", "POST"])(value if callable(value) else lambda request: value)
    app.wrap(compress(**settings))
    return app.test(raise_errors=True)


def get(value: Any = TEXT, accepted: str = "gzip", method: str = "GET", **settings: Any) -> Any:
    return serving(value, **settings).request(method, "/", {"Accept-Encoding": accepted})


def coding_of(got: Any) -> str:
    return str(got.headers.get("Content-Encoding", "plain"))


# What Accept-Encoding asks for (RFC 9110, 12.5.3), of br, zstd and gzip, which is the order of what makes the least

NEGOTIATED = [
    ("gzip", "gzip"), ("br", "br"), ("zstd", "zstd"), ("deflate", None), ("compress, gzip", "gzip"),
    ("gzip, deflate, br, zstd", "br"), ("gzip, deflate, zstd", "zstd"), ("gzip, br", "br"), ("br, gzip", "br"),
    ("", None), (" ", None), (",", None), (" , gzip", "gzip"), ("identity", None), ("x-gzip", "gzip"), ("GZip", "gzip"),
    ("x-br, x-zstd, x-*", None),  # x-gzip alone is another name (8.4.1.3)
    # weights
    ("gzip;q=1.0, br;q=0.5", "gzip"), ("br;q=0.8, gzip;q=0.9", "gzip"), ("br;q=0.8, gzip;q=0.8", "br"),
    ("gzip;q=0.001", "gzip"), ("gzip;q=0", None), ("gzip;q=0.000", None), ("gzip;q=0, br;q=0", None),
    ("gzip ; q = 0.5 , br ; q=0.6", "br"), ("gzip;Q=0", None), ("gzip; q=0.5, zstd; q=0.501", "zstd"),
    # the plain form is as good as any that is named, unless it is named
    ("gzip;q=0.5, identity;q=0.4", "gzip"), ("gzip;q=0.5, identity;q=0.6", None), ("identity;q=1, gzip;q=0.5", None),
    ("gzip, identity", "gzip"), ("gzip;q=1.0, identity; q=0.5, *;q=0", "gzip"), ("identity;q=0, gzip", "gzip"),
    ("identity;q=0", None), ("identity;q=0, deflate", None),
    # "*" is every coding that is not named
    ("*", "br"), ("*;q=0", None), ("*;q=0.5", "br"), ("gzip, *;q=0", "gzip"), ("br;q=0, *", "zstd"),
    ("*, br;q=0.5, zstd;q=0.5", "gzip"), ("*;q=0.1, gzip;q=0.2", "gzip"), ("gzip;q=0.2, *;q=0.3", "br"),
    ("br;q=0, zstd;q=0, *;q=0.1", "gzip"), ("*;q=0, identity", None), ("*;q=0.5, gzip;q=0, br;q=0, zstd;q=0", None),
    # what no browser sends
    ("gzip;q=0, gzip", None), ("gzip;level=9", "gzip"), ("gzipped", None), ("gzip gzip", None), (";q=1", None),
    ("x," * 30_000 + "gzip", None), ("gzip" + ";" * 60_000, "gzip"), ("gzip;q=" + "0" * 60_000, "gzip"),
]  # fmt: skip


@pytest.mark.parametrize(("accepted", "coding"), NEGOTIATED, ids=range(len(NEGOTIATED)))
def test_the_coding_that_the_client_has_as_the_best_is_taken(accepted: str, coding: str | None) -> None:
    assert choose_coding(accepted, ["br", "zstd", "gzip"]) == coding


@pytest.mark.parametrize(
    ("accepted", "coding"),
    [("gzip", None), ("gzip, identity;q=0.1", None), ("gzip, identity;q=0", "gzip"), ("gzip, *;q=0", "gzip"),
     ("*;q=0, identity, gzip", None), ("identity;q=0", None)],
)  # fmt: skip
def test_a_small_body_is_compressed_only_for_a_client_that_refuses_the_plain_form(
    accepted: str, coding: str | None
) -> None:
    assert choose_coding(accepted, ["gzip"], only_if_needed=True) == coding
    got = get("small", accepted)
    assert (coding_of(got), got.headers["Vary"]) == (coding or "plain", "Accept-Encoding")
    assert (unpack(got.body) if coding else got.body) == b"small"


@pytest.mark.parametrize(("accepted", "minimum"), [("gzip", 0), ("gzip, identity;q=0", 500)])
def test_an_empty_body_that_is_compressed_is_no_stream(accepted: str, minimum: int) -> None:
    got = get("", accepted, minimum=minimum)
    assert (coding_of(got), unpack(got.body), got.headers["Content-Length"]) == ("gzip", b"", str(len(got.body)))


def test_a_client_that_says_nothing_gets_the_plain_form() -> None:
    got = serving(TEXT).get("/")
    assert (coding_of(got), got.text, got.headers["Vary"]) == ("plain", TEXT, "Accept-Encoding")


def stand_in(monkeypatch: pytest.MonkeyPatch, name: str, **attributes: Any) -> None:
    monkeypatch.setitem(sys.modules, name, types.SimpleNamespace(**attributes))  # type: ignore[arg-type]


def test_br_is_offered_where_the_package_is_installed() -> None:
    pytest.importorskip("brotli")
    got = get({"text": TEXT}, "gzip, deflate, br")
    assert (coding_of(got), json.loads(unpack(got.body, "br"))) == ("br", {"text": TEXT})
    assert int(got.headers["Content-Length"]) == len(got.body) < len(get({"text": TEXT}).body) * 1.2


def test_zstd_is_offered_where_python_has_it() -> None:
    pytest.importorskip("compression.zstd")
    got = get({"text": TEXT}, "gzip, deflate, zstd")
    assert (coding_of(got), json.loads(unpack(got.body, "zstd"))) == ("zstd", {"text": TEXT})


def test_a_module_of_this_name_that_compresses_nothing_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch, "brotli")
    assert coding_of(get(TEXT, "br, gzip")) == "gzip"


@pytest.mark.parametrize("coding", ["br", "zstd"])
def test_all_codings_may_be_streamed_each_piece_as_it_comes(coding: str) -> None:
    pytest.importorskip({"br": "brotli", "zstd": "compression.zstd"}[coding])
    client = serving(lambda request: iter(["one", "", b"two", "three"]))
    pieces = [*client.get("/", {"Accept-Encoding": coding}, stream=True)]
    assert unpack(b"".join(pieces), coding) == b"onetwothree"
    assert len(pieces) >= 3


# What is compressed


def test_what_is_compressed_is_the_body_in_less_bytes_and_its_length_is_right() -> None:
    got = get({"text": TEXT})
    assert json.loads(unpack(got.body)) == {"text": TEXT}
    assert (coding_of(got), got.headers["Content-Type"]) == ("gzip", "application/json")
    assert int(got.headers["Content-Length"]) == len(got.body) < len(TEXT) / 5


@pytest.mark.parametrize(("size", "coding"), [(0, "plain"), (499, "plain"), (500, "gzip"), (501, "gzip")])
def test_bodies_of_500_bytes_and_more_are(size: int, coding: str) -> None:
    assert coding_of(get("x" * size)) == coding


def test_the_minimum_and_the_level_may_be_set() -> None:
    assert [coding_of(get("x" * size, minimum=10)) for size in (9, 10)] == ["plain", "gzip"]
    text = "".join(f"{number * number} is the square of {number}; " for number in range(3000))
    fast, small = (len(get(text, level=level).body) for level in (1, 9))
    assert small < fast < len(text)


COMPRESSED_TYPES = [
    "text/html", "text/plain; charset=utf-8", "TEXT/CSS", "text/csv;header=present", "application/json",
    "application/json ; charset=utf-8", "application/problem+json", "application/ld+json", "image/svg+xml",
    "application/javascript", "text/javascript", "application/xml", "application/atom+xml", "application/wasm",
]  # fmt: skip
PLAIN_TYPES = [
    "image/png", "image/webp", "video/mp4", "font/woff2", "application/zip", "application/gzip", "application/pdf",
    "application/octet-stream", "text/event-stream", "text/event-stream; charset=utf-8", "Text/Event-Stream",
    "application/jsonx", "xtext/html", "json", "", "application/x+zip; y=+json",
]  # fmt: skip


@pytest.mark.parametrize("kind", [*COMPRESSED_TYPES, *PLAIN_TYPES])
def test_only_types_that_are_no_compressed_ones_are(kind: str) -> None:
    got = get(lambda request: Response(TEXT, content_type=kind))
    assert (coding_of(got), got.headers.get("Vary")) == (
        ("gzip", "Accept-Encoding") if kind in COMPRESSED_TYPES else ("plain", None)
    )


def test_the_types_may_be_set() -> None:
    def typed(kind: str, types: Any) -> str:
        return coding_of(get(lambda request: Response(TEXT, content_type=kind), types=types))

    assert typed("application/x-mine", ["application/x-mine"]) == typed("image/x", "image/*") == "gzip"
    assert typed("a/b+cbor; x=y", ["*/*+cbor"]) == typed("a/b", ["*/*"]) == "gzip"
    assert typed("text/html", ["text/css"]) == typed("a/b+cborx", ["*/*+cbor"]) == typed("a/b", ["a/bc"]) == "plain"


@pytest.mark.parametrize("settings", [{"level": 0}, {"level": 10}, {"level": 6.5}, {"level": "6"}, {"types": ["json"]},
                                      {"types": ["text/html; a=b"]}, {"types": ["*"]}])  # fmt: skip
def test_what_is_no_level_or_type_is_an_error_at_once(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        compress(**settings)


@pytest.mark.parametrize(
    "headers",
    [{"Content-Encoding": "gzip"}, {"Content-Encoding": "identity"},
     {"Cache-Control": "max-age=60, No-Transform"}, {"Content-Digest": "sha-256=:eA==:"}, {"Digest": "md5=eA=="}],
)  # fmt: skip
def test_what_is_coded_or_to_stay_as_it_is_does(headers: dict[str, str]) -> None:
    got = get(lambda request: (TEXT, 200, {"ETag": '"x"', **headers}))
    assert (got.text, got.headers["ETag"], got.headers.get("Vary")) == (TEXT, '"x"', None)


@pytest.mark.parametrize("status", [204, 205, 304])
def test_a_status_without_a_body_has_no_coding(status: int) -> None:
    assert "Content-Encoding" not in get(lambda request: (TEXT, status)).headers


@pytest.mark.parametrize("status", [200, 206, 416])
def test_a_part_is_not_compressed_but_says_what_the_whole_would_say(status: int) -> None:
    fields = {"ETag": '"x"'} if status == 206 else {"Content-Range": "bytes 0-9/10", "ETag": '"x"'}
    got = get(lambda request: (TEXT, status, fields))
    assert (got.text, got.headers["ETag"], got.headers["Vary"]) == (TEXT, '"x"', "Accept-Encoding")


@pytest.mark.parametrize("status", [201, 400, 404, 500])
def test_errors_and_successes_are_compressed_alike(status: int) -> None:
    got = get(lambda request: (TEXT, status))
    assert (got.status, unpack(got.body).decode()) == (status, TEXT)


def test_the_same_answer_may_be_given_to_many() -> None:
    response = Response(TEXT, headers={"ETag": '"x"', "Vary": "Cookie"})
    client = serving(response)
    for _ in range(2):
        got = client.get("/", {"Accept-Encoding": "gzip"})
        assert (unpack(got.body).decode(), got.headers["ETag"]) == (TEXT, 'W/"x"')
        assert got.headers["Vary"] == "Cookie, Accept-Encoding"
        assert client.get("/").text == TEXT
    assert dict(response.headers) == {"Content-Type": "text/html; charset=utf-8", "ETag": '"x"', "Vary": "Cookie"}


def test_two_around_each_other_compress_once() -> None:
    inner, app = Brubeck(), Brubeck()
    inner.route("/")(lambda request: TEXT)
    inner.wrap(compress())
    app.wrap(compress())
    app.mount("/in", inner)
    got = app.test().get("/in/", {"Accept-Encoding": "gzip"})
    assert (coding_of(got), unpack(got.body).decode(), got.headers["Vary"]) == ("gzip", TEXT, "Accept-Encoding")


def test_json_of_middleware_is_made_by_the_applications_json_dumps() -> None:
    app = Brubeck()
    app.json_dumps = lambda value: json.dumps(value, default=str)
    app.wrap(compress())
    app.wrap(lambda respond: lambda request: Response({"text": TEXT, "set": set()}))
    assert json.loads(unpack(app.test().get("/", {"Accept-Encoding": "gzip"}).body))["set"] == "set()"


@pytest.mark.parametrize("varied", ["*", "Cookie, *"])
def test_what_varies_by_everything_says_no_more(varied: str) -> None:
    got = get(lambda request: (TEXT, 200, {"Vary": varied}))
    assert (unpack(got.body).decode(), got.headers["Vary"]) == (TEXT, varied)


@pytest.mark.parametrize("make", [lambda octets: octets, lambda octets: lambda request: iter([octets])])
def test_a_body_or_a_piece_of_many_megabytes_is_compressed_in_parts(make: Callable[[bytes], Any]) -> None:
    octets = TEXT.encode() * 3000
    pieces = [*serving(make(octets)).get("/", {"Accept-Encoding": "gzip"}, stream=True)]
    assert unpack(b"".join(pieces)) == octets and len(pieces) > 10
    assert coding_of(get(make(octets), method="HEAD")) == "gzip"


# HEAD, and what a client has already


@pytest.mark.parametrize("accepted", ["gzip", "", "gzip, identity;q=0"])
@pytest.mark.parametrize(
    "value",
    [TEXT, "small", {"text": TEXT}, lambda request: iter([TEXT]),
     lambda request: (b"" if request.method == "HEAD" else TEXT, 200, {"Content-Length": str(len(TEXT))}),
     lambda request: static_file(request, "program.py", Path(__file__).parent),
     lambda request: static_file(request, "brubeck_lite.py", ROOT)],
    ids=["text", "small", "json", "stream", "own HEAD", "file", "large file"],
)  # fmt: skip
def test_what_head_gets_has_the_fields_of_get(value: Any, accepted: str) -> None:
    whole, head = (get(value, accepted, method) for method in ("GET", "HEAD"))
    fields, of_head = (dict(got.headers.items()) for got in (whole, head))
    assert head.body == b""
    assert of_head.pop("Content-Length", None) in (fields.pop("Content-Length", None), None)
    assert of_head == fields


@pytest.mark.parametrize(
    "value",
    [lambda request: static_file(request, "brubeck_lite.py", ROOT),
     lambda request: Response(iter([TEXT]), headers={"Content-Length": str(len(TEXT))})],
    ids=["large file", "stream with a length"],
)  # fmt: skip
def test_a_minimum_is_the_same_for_what_is_streamed_and_for_head(value: Any) -> None:
    whole, head = (get(value, method=method, minimum=1 << 20) for method in ("GET", "HEAD"))
    assert coding_of(whole) == "plain" and int(whole.headers["Content-Length"]) == len(whole.body)
    assert dict(head.headers.items()) == dict(whole.headers.items())


def filed(root: Path) -> Any:
    (root / "a.txt").write_text(TEXT)
    app = Brubeck()
    app.static("/static", root)
    app.wrap(compress())
    return app.test(raise_errors=True)


def test_a_strong_etag_becomes_weak_and_its_file_is_not_sent_again(tmp_path: Path) -> None:
    client = filed(tmp_path)
    plain, packed = (client.get("/static/a.txt", {"Accept-Encoding": accepted}) for accepted in ("", "gzip"))
    assert packed.headers["ETag"] == f"W/{plain.headers['ETag']}"
    for known in (packed.headers["ETag"], f'"x", {packed.headers["ETag"]}', plain.headers["ETag"]):
        again = client.get("/static/a.txt", {"Accept-Encoding": "gzip", "If-None-Match": known})
        assert (again.status, again.body) == (304, b"")
        assert (again.headers["ETag"], again.headers["Vary"]) == (packed.headers["ETag"], "Accept-Encoding")
        assert "Content-Encoding" not in again.headers
    again = client.get("/static/a.txt", {"If-None-Match": plain.headers["ETag"]})
    assert (again.status, again.headers["ETag"]) == (304, plain.headers["ETag"])


@pytest.mark.parametrize("accepted", ["gzip", "gzip, identity;q=0", ""])
@pytest.mark.parametrize(
    "value",
    [lambda request: Response(TEXT).conditional(request), lambda request: Response("small").conditional(request),
     lambda request: static_file(request, "brubeck_lite.py", ROOT),
     lambda request: static_file(request, "small.py", Path(__file__).parent)],
    ids=["text", "small", "large file", "small file"],
)  # fmt: skip
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_304_has_the_etag_and_the_vary_of_what_is_not_sent_again(value: Any, accepted: str, method: str) -> None:
    client, fields = serving(value), {"Accept-Encoding": accepted}
    whole = client.request(method, "/", fields)
    again = client.request(method, "/", {**fields, "If-None-Match": whole.headers["ETag"]})
    assert (whole.status, again.status, again.body) == (200, 304, b"")
    assert [again.headers.get(name) for name in ("ETag", "Vary")] == [whole.headers[name] for name in ("ETag", "Vary")]
    assert {"Content-Length", "Content-Type", "Content-Encoding"}.isdisjoint(again.headers)


def test_a_weak_etag_stays_as_it_is() -> None:
    assert get(lambda request: (TEXT, 200, {"ETag": 'W/"x"'})).headers["ETag"] == 'W/"x"'


def test_ranges_are_of_the_plain_form_alone(tmp_path: Path) -> None:
    client = filed(tmp_path)
    packed = client.get("/static/a.txt", {"Accept-Encoding": "gzip"})
    assert "Accept-Ranges" not in packed.headers
    part = client.get("/static/a.txt", {"Accept-Encoding": "gzip", "Range": "bytes=2-5"})
    assert (part.status, part.text, coding_of(part)) == (206, TEXT[2:6], "plain")
    assert part.headers["Vary"] == "Accept-Encoding"
    whole = client.get(
        "/static/a.txt", {"Accept-Encoding": "gzip", "Range": "bytes=2-5", "If-Range": packed.headers["ETag"]}
    )
    assert (whole.status, unpack(whole.body).decode()) == (200, TEXT)


def test_files_that_were_compressed_beforehand_are_left_alone(tmp_path: Path) -> None:
    client = filed(tmp_path)
    (tmp_path / "a.txt.br").write_bytes(b"ready")
    for accepted, sent in (("br", b"ready"), ("br, gzip", b"ready"), ("gzip", None)):
        got = client.get("/static/a.txt", {"Accept-Encoding": accepted})
        assert (got.body if sent else unpack(got.body)) == (sent or TEXT.encode())
        assert (got.headers["Vary"], coding_of(got)) == ("Accept-Encoding", "br" if sent else "gzip")
        assert got.headers["ETag"].startswith('"' if sent else "W/")


# Streams


def test_each_piece_of_a_stream_can_be_read_when_it_comes() -> None:
    unpacker = zlib.decompressobj(wbits=31)
    answer = serving(lambda request: iter(["one", "two", "three"])).get("/", {"Accept-Encoding": "gzip"}, stream=True)
    read = [unpacker.decompress(piece) for piece in answer]
    assert [piece for piece in read if piece] == [b"one", b"two", b"three"]
    assert unpacker.eof and "Content-Length" not in answer.headers


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_stream_is_closed_when_it_is_over(method: str) -> None:
    closed: list[bool] = []

    def stream(request: Request) -> Iterator[str]:
        try:
            yield from (TEXT, TEXT)
        finally:
            closed.append(True)

    assert get(stream, method=method).body or method == "HEAD"
    assert closed == [True]


class Source:
    """A stream without an end."""

    def __init__(self) -> None:
        self.is_closed = False

    def __next__(self) -> str:
        return TEXT

    def close(self) -> None:
        self.is_closed = True


def test_a_stream_that_is_left_is_closed() -> None:
    source = Source()
    with serving(lambda request: source).get("/", {"Accept-Encoding": "gzip"}, stream=True) as answer:
        next(iter(answer))
        assert not source.is_closed
    assert source.is_closed


def test_a_stream_that_fails_is_cut_short() -> None:
    def stream(request: Request) -> Iterator[str]:
        yield TEXT
        raise ZeroDivisionError

    client = serving(stream)
    with pytest.raises(ZeroDivisionError):
        client.get("/", {"Accept-Encoding": "gzip"})


@pytest.mark.parametrize("pieces", [[TEXT], [TEXT, TEXT, TEXT]])
def test_a_stream_that_belies_its_content_length_is_cut_short(pieces: list[str]) -> None:
    client = serving(lambda request: Response(iter(pieces), headers={"Content-Length": str(2 * len(TEXT))}))
    with pytest.raises(ValueError, match=f"the body has {len(pieces) * len(TEXT)} bytes"):
        client.get("/", {"Accept-Encoding": "gzip"})


def test_events_are_compressed_where_that_is_asked_for() -> None:
    events: Callable[[Request], Response] = lambda request: event_stream(iter(["one", "two"]))  # noqa: E731
    assert coding_of(get(events)) == coding_of(get(events, types=["text/*"])) == "plain"
    for kind in ("text/event-stream", "Text/Event-Stream"):
        assert unpack(get(events, types=[kind]).body) == b":\n\ndata: one\n\ndata: two\n\n"


# By every door


def test_every_door_sends_the_same(door: Door) -> None:
    for path in ("/text", "/json", "/file/program_compress.py"):
        plain = get_by(door, f"/compressed{path}")
        packed = get_by(door, f"/compressed{path}", [("Accept-Encoding", "gzip, deflate")])
        assert packed.headers["Content-Encoding"] == "gzip" and packed.headers["Vary"] == "Accept-Encoding"
        assert int(packed.headers["Content-Length"]) == len(packed.content) < len(plain.content)
        assert unpack(packed.content) == plain.content
        head = ask(door, "HEAD", f"/compressed{path}", headers=[("Accept-Encoding", "gzip")])
        assert (head.headers["Content-Encoding"], head.content) == ("gzip", b"")
        assert head.headers["Content-Length"] in (packed.headers["Content-Length"], None)


def test_a_stream_comes_whole_by_every_door(door: Door) -> None:
    got = get_by(door, "/compressed/stream/20", [("Accept-Encoding", "gzip")])
    assert (got.headers["Content-Encoding"], got.headers["Content-Length"]) == ("gzip", None)
    assert unpack(got.content) == GOOD * 20
    again = raw(door, b"GET /compressed/stream/5 HTTP/1.0\r\nHost: x\r\nAccept-Encoding: gzip\r\n\r\n")
    if not is_mongrel2(door):
        head, _, body = again.partition(b"\r\n\r\n")
        assert b"transfer-encoding" not in head.lower() and unpack(body) == GOOD * 5


@pytest.mark.parametrize("path", ["/large", "/module"])
def test_what_would_become_a_stream_stays_as_it_is_behind_a_mongrel2_that_takes_none(path: str) -> None:
    mongrel2 = Mongrel2()
    mongrel2.configure((mongrel2.folder / "mongrel2.conf").read_text().replace("'download.flow_control': 1,", ""))
    with mongrel2, behind_mongrel2("program_compress:app", mongrel2):
        client = http.client.HTTPConnection("127.0.0.1", mongrel2.port, timeout=60)
        client.request("GET", path, headers={"Accept-Encoding": "gzip"})
        got = client.getresponse()
        whole = LARGE if path == "/large" else (ROOT / "brubeck_lite.py").read_bytes()
        assert (got.status, got.headers["Content-Encoding"], got.read()) == (200, None, whole)
        client.request("HEAD", path, headers={"Accept-Encoding": "gzip"})
        head = client.getresponse()
        assert (head.headers["Content-Encoding"], head.headers["ETag"]) == (None, got.headers["ETag"])
        client.close()


def test_a_stream_ends_when_its_client_leaves() -> None:
    with behind_http("program_compress:app") as (child, port):
        with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
            client.sendall(b"GET /endless HTTP/1.1\r\nHost: x\r\nAccept-Encoding: gzip\r\n\r\n")
            head, unpacker = b"", zlib.decompressobj(wbits=31)
            while b"\r\n\r\n" not in head:
                head += client.recv(1)
            size = int(client.makefile("rb", 0).readline(), 16)
            assert unpacker.decompress(client.recv(size)) == GOOD  # and nothing follows for an hour
        wait_for(lambda: "ended" in output(child), what="the end of the stream")
        assert "Traceback" not in output(child)

