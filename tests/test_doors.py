"""Every request gets the same answer through every door: the embedded server, a real Mongrel2 in JSON and tnetstring,
and WSGI servers."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import re
import socket
import subprocess
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from support import Mongrel2, behind_http, behind_mongrel2, behind_wsgi

Door = tuple[str, int]


def ask(
    door: Door, method: str, target: str, body: bytes | None = None, headers: Iterable[tuple[str, str]] = ()
) -> http.client.HTTPResponse:
    """Send one request on a connection of its own: the response, with its body in `.content`."""
    connection = http.client.HTTPConnection("127.0.0.1", door[1], timeout=60)
    try:
        connection.putrequest(method, target, skip_accept_encoding=True)
        for name, value in headers:
            connection.putheader(name, value)
        if body is not None:
            connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body)
        response = connection.getresponse()
        response.content = response.read()  # type: ignore[attr-defined]
        return response
    finally:
        connection.close()


def get(door: Door, target: str, headers: Iterable[tuple[str, str]] = ()) -> Any:
    return ask(door, "GET", target, headers=headers)


def post(door: Door, target: str, body: bytes, content_type: str = "application/octet-stream") -> Any:
    return ask(door, "POST", target, body, [("Content-Type", content_type)])


def raw(door: Door, sent: bytes, seconds: float = 60.0) -> bytes:
    """Everything that comes back for these bytes until the server closes. Of a WebSocket only the beginning: its server
    waits seconds for a client that does not close it."""
    with socket.create_connection(("127.0.0.1", door[1]), timeout=seconds) as connection:
        connection.sendall(sent)
        received = b""
        try:
            while received[9:12] != b"101" and (piece := connection.recv(65536)):
                received += piece
        except ConnectionResetError:
            pass
        return received


def is_mongrel2(door: Door) -> bool:
    return door[0].startswith("mongrel2")


# What handlers see


def test_a_plain_page(door: Door) -> None:
    response = get(door, "/")
    assert (response.status, response.content) == (200, b"Take five!")
    assert response.headers["Content-Type"] == "text/html; charset=utf-8"
    assert response.headers["Content-Length"] == "10"
    assert response.headers.get_all("Date") and len(response.headers.get_all("Date")) == 1
    assert response.headers.get_all("Server") and len(response.headers.get_all("Server")) == 1


@pytest.mark.parametrize(
    ("target", "body"),
    [
        ("/text/bob", "Take five, bob!"),
        ("/text/%C3%A9", "Take five, é!"),
        ("/text/a%20b", "Take five, a b!"),
        ("/text/50%25", "Take five, 50%!"),
        ("/text/%253C", "Take five, %3C!"),
        ("/number/42", '{"number":42}'),
        ("/expression/7/abc-and-more", "7-abc"),
        ("/path/a/b", '{"path":"a/b"}'),
        ("/path/a%2Fb", '{"path":"a/b"}'),
        ("/plain-class/x", '{"name":"x"}'),
        ("/inner/page/n", "/inner/page/n n"),
        ("/inner/", "/inner/page/x"),
    ],
)
def test_arguments_of_the_path(door: Door, target: str, body: str) -> None:
    response = get(door, target)
    assert (response.status, response.content.decode()) == (200, body)


def test_a_request_looks_the_same_by_every_door(door: Door) -> None:
    headers = [
        ("X-Text", "a  b\u00e9"),
        ("X-Twice", "1"),
        ("X-Twice", "2"),
        ("X_Dropped", "x"),
        ("Cookie", 'a=1; bad; q="x\\073y"; a=2'),
        ("Content-Type", "text/x"),
        ("METHOD", "JSON"),
        ("PATTERN", "1.2.3.4"),
    ]
    response = ask(door, "POST", "/echo?a=1&b=%C3%A9;c&a=+2&empty=", b"\x00\xffbody", headers)
    assert response.status == 200
    seen = json.loads(response.content)
    if door[0] == "wsgiref":  # cannot tell X_Dropped from X-Dropped, as other servers can
        del seen["headers"]["x-dropped"]
    twice = seen["headers"].pop("x-twice")
    assert re.fullmatch("1, ?2", twice)  # some WSGI servers leave the space out
    assert seen == {
        "method": "POST",
        "path": "/echo",
        "query": {"a": ["1", " 2"], "b": ["é;c"], "empty": [""]},
        "headers": {
            "x-text": "a  bé",
            "cookie": 'a=1; bad; q="x\\073y"; a=2',
            "content-type": "text/x",
            "method": "JSON",
            "pattern": "1.2.3.4",
        },
        "cookies": {"a": ["1", "2"], "q": ["x;y"]},
        "body": "\x00\xffbody",
        "host": "127.0.0.1",
        "scheme": "http",
        "version": "HTTP/1.1",
        "remote_addr": "127.0.0.1",
        "connected": True,
        "url": "http://HOST/echo?a=1&b=%C3%A9;c&a=+2&empty=",
    }


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE"])
def test_methods(door: Door, method: str) -> None:
    assert json.loads(ask(door, method, "/echo").content)["method"] == method


def test_json_bodies(door: Door) -> None:
    answer = post(door, "/json", b'{"a": [1, null, "\xc3\xa9"]}', "application/json; charset=utf-8")
    assert json.loads(answer.content) == {"json": {"a": [1, None, "é"]}}
    assert answer.headers["Content-Type"] == "application/json"


@pytest.mark.parametrize(
    ("content_type", "body", "status"),
    [
        ("text/plain", b"{}", 415),
        ("text/plain;application/json", b"{}", 415),
        ("application/json", b"{", 400),
        ("application/json", b"", 400),
        ("application/json", b"\xff", 400),
        ("application/json", b"[" * 100_000, 400),
        ("application/json", b"NaN", 400),
        ("application/problem+json", b"{}", 200),
    ],
)
def test_json_that_is_none(door: Door, content_type: str, body: bytes, status: int) -> None:
    assert post(door, "/json", body, content_type).status == status


@pytest.mark.parametrize(
    ("boundary", "head", "content", "form", "file"),
    [
        ("b", "name=f; filename=a.txt; filename*=utf-8''%e2%82%ac.txt", b"x", {}, ["f", "€.txt"]),  # .NET
        ('"b b"', 'name="a%22b"; filename="tail\\"', b"x", {}, ['a"b', "tail\\"]),
        ("----------a_BoUnDaRy0.5$", 'name="a%22b"', b"x", {'a"b': ["x"]}, []),  # WebTest
        ("l\xe9", "name=a\r\nContent-Type: text/plain;\r\n charset=ISO-8859-1", b"\xe9", {"a": ["é"]}, []),
    ],
)
def test_forms_as_real_clients_write_them(
    door: Door, boundary: str, head: str, content: bytes, form: dict[str, list[str]], file: list[str]
) -> None:
    limit = b"--" + boundary.strip('"').encode("latin-1")
    head = f"\r\nContent-Disposition: form-data; {head}\r\n\r\n"
    body = limit + head.encode() + content + b"\r\n" + limit + b"--\r\n"
    seen = json.loads(post(door, "/form", body, f"multipart/form-data; boundary={boundary}").content)
    assert (seen["form"], [files[:2] for files in seen["files"]]) == (form, [file] if file else [])


def test_curl_sends_names_of_every_kind(door: Door, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    names = ["plain", 'a"b', "tail\\", "a; b", "100% %41", "äöü é", "\u05e9\u05dc\u202etxt", "ä" * 127]
    command = ["curl", "-sS", f"http://127.0.0.1:{door[1]}/form"]
    for name in names:
        quoted = re.sub(r'(["\\])', r"\\\1", name)
        command += ["-F", f'{name}=@{tmp_path}/file;filename="{quoted}"', "-F", f"{name}=x"]
    seen = json.loads(subprocess.run(command, capture_output=True, check=True, timeout=30).stdout)
    assert [files[:2] for files in seen["files"]] == [[name, name] for name in names]
    assert seen["form"] == {name: ["x"] for name in names}


def test_a_charset_that_nobody_knows_is_400(door: Door) -> None:
    body = b'--b\r\nContent-Disposition: form-data; name="_charset_"\r\n\r\nx-none\r\n--b--\r\n'
    response = post(door, "/form", body, "multipart/form-data; boundary=b")
    assert (response.status, b"charset" in response.content) == (400, True)


@pytest.mark.parametrize(("body", "status"), [(b"\xef\xbb\xbf[1]", 200), (b"[1e999]", 400), (b"9" * 5000, 400)])
def test_a_byte_order_mark_is_skipped_and_a_number_that_is_none_is_refused(
    door: Door, body: bytes, status: int
) -> None:
    assert post(door, "/json", body, "application/json").status == status


def test_a_body_read_in_pieces(door: Door) -> None:
    assert json.loads(post(door, "/stream", b"x" * 2500).content) == [1000, 1000, 500]


def test_bodies_up_to_the_limit_arrive(door: Door) -> None:
    body = bytes(range(256)) * (1 << 12)
    answer = post(door, "/length", body)
    assert answer.content.decode() == f"{1 << 20} {hashlib.sha256(body).hexdigest()}"


def refused_upload(door: Door, target: str, size: int) -> bytes:
    """The answer to a body that is over a limit: a client may be told before it has sent all."""
    head = f"POST {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {size}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", door[1]), timeout=60) as connection:
        received = b""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.sendall(head.encode() + b"x" * size)
        try:
            while piece := connection.recv(65536):
                received += piece
        except ConnectionResetError:
            pass
        return received


@pytest.mark.parametrize("target", ["/echo", "/json", "/unread", "/stream"])
def test_a_body_over_the_limit_is_413(door: Door, target: str) -> None:
    answer = refused_upload(door, target, (1 << 20) + 1)
    assert answer.split(b" ")[1] == b"413"
    if not is_mongrel2(door):
        assert b"1048576" in answer


def test_uploads_of_mongrel2_are_believed_from_nobody(door: Door) -> None:
    headers = [("x-mongrel2-upload-start", "/etc/hostname"), ("x-mongrel2-upload-done", "/etc/hostname")]
    answer = ask(door, "POST", "/echo", b"", headers)
    assert answer.status == 400 if is_mongrel2(door) else json.loads(answer.content)["body"] == ""


# What clients get


@pytest.mark.parametrize("size", [10, 1000, 100_000, 3_000_000])
def test_a_body_arrives_whole(door: Door, size: int) -> None:
    response = get(door, f"/large/{size}")
    assert response.content == b"0123456789" * (size // 10)


@pytest.mark.parametrize("version", ["HTTP/1.0", "HTTP/1.1"])
def test_a_large_body_arrives_whole_before_the_connection_closes(door: Door, version: str) -> None:
    answer = raw(door, f"GET /large/3000000 {version}\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    assert answer.partition(b"\r\n\r\n")[2] == b"0123456789" * 300_000


def test_pieces_of_an_iterator(door: Door) -> None:
    response = get(door, "/pieces")
    assert (response.status, response.content) == (200, b"one two three")


def test_an_iterator_of_nothing(door: Door) -> None:
    response = get(door, "/pieces-of-nothing")
    assert (response.status, response.content) == (200, b"")


def test_an_iterator_that_fails_at_once_is_a_500(door: Door) -> None:
    response = get(door, "/pieces-that-fail")
    assert (response.status, response.content) == (500, b"500 Internal Server Error\n")


def test_nothing_returned_is_an_empty_200(door: Door) -> None:
    response = get(door, "/none")
    assert (response.status, response.content, response.headers["Content-Length"]) == (200, b"", "0")


@pytest.mark.parametrize("status", [200, 204, 205, 304, 400, 404, 599])
def test_statuses(door: Door, status: int) -> None:
    response = get(door, f"/status/{status}")
    assert (response.status, response.content) == (status, b"" if status in (204, 205, 304) else b"a body")
    assert ("Content-Length" in response.headers) is (status not in (204, 304))


@pytest.mark.parametrize("target", ["/pieces", "/status/204", "/status/304"])
def test_an_answer_to_head_claims_no_length_where_that_to_get_has_none(door: Door, target: str) -> None:
    for method in ("HEAD", "GET"):
        answer = raw(door, f"{method} {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        assert answer.startswith(b"HTTP/1.") and b"content-length" not in answer.lower()


@pytest.mark.parametrize("target", ["/", "/pieces", "/status/204", "/missing", "/boom"])
def test_head_has_no_body(door: Door, target: str) -> None:
    close = "\r\nHost: x\r\nConnection: close\r\n\r\n"
    answer, head = (raw(door, f"{method} {target} HTTP/1.1{close}".encode()) for method in ("GET", "HEAD"))
    assert head.endswith(b"\r\n\r\n")
    assert head.split()[1] == answer.split()[1]
    if target == "/":
        assert b"content-length: 10" in head.lower()


def test_a_route_of_its_own_for_head(door: Door) -> None:
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", door[1], timeout=10)) as connection:
        connection.request("HEAD", "/own-head")
        response = connection.getresponse()
        assert (response.status, response.headers["X-Own"], response.read()) == (200, "head", b"")
    assert get(door, "/own-head").content == b"got"


def test_headers_and_cookies(door: Door) -> None:
    response = get(door, "/headers")
    assert (response.status, response.content) == (201, b"\x00\xff")
    assert response.headers["X-One"] == "1"
    assert response.headers.get_all("Link") == ["<a>", "<b>"]
    assert response.headers["Content-Type"] == "application/octet-stream"
    assert response.headers.get_all("Set-Cookie") == [
        "plain=value; Path=/; HttpOnly; SameSite=Lax",
        'odd="a\\073 b \\042c\\042 \\303\\251"; Max-Age=60; Path=/; HttpOnly; SameSite=Strict',
    ]


SESSIONS = {"": "session", "/files": "session%2Ffiles", "/files/secure": "__Host-session%2Ffiles%2Fsecure"}


def visit(door: Door, place: str, *cookies: str) -> tuple[int, str]:
    """How many visits a session counts with these cookies, and the cookie it has then."""
    response = get(door, f"{place}/visits", [("Cookie", "; ".join(cookies))])
    return json.loads(response.content)["visits"], response.headers["Set-Cookie"].partition(";")[0]


@pytest.mark.parametrize(("place", "name"), SESSIONS.items())
def test_a_session_is_found_behind_other_cookies_of_its_name(door: Door, place: str, name: str) -> None:
    count, cookie = visit(door, place)
    assert (count, cookie.partition("=")[0]) == (1, name)
    for sent in ([cookie], [f"{name}=x; {name}=; {cookie}"], [f"{name}=a.b.c", "other=1", cookie]):
        assert visit(door, place, *sent)[0] == 2
    others = [visit(door, other)[1].partition("=")[2] for other in SESSIONS if other != place]
    assert visit(door, place, *(f"{name}={value}" for value in others))[0] == 1


def test_the_session_of_each_application_is_one_and_each_is_left_by_itself(door: Door) -> None:
    cookies = [visit(door, place)[1] for place in SESSIONS]
    assert [visit(door, place, *cookies)[0] for place in SESSIONS] == [2, 2, 2]
    for place, name in SESSIONS.items():
        left = get(door, f"{place}/leave", [("Cookie", "; ".join(cookies))]).headers.get_all("Set-Cookie")
        assert [field.partition("; ")[0] for field in left or ()] == [f"{name}="]
        assert "; Max-Age=0; " in left[0] and left[0].endswith("; Secure") == name.startswith("__Host-")


def test_a_length_of_the_handlers_own_never_breaks_the_framing(door: Door) -> None:
    response = get(door, "/own-length")
    assert (response.headers.get_all("Content-Length"), response.content) == (["5"], b"five!")


def test_a_first_piece_over_the_handlers_own_length_is_a_500_and_the_connection_serves_on(door: Door) -> None:
    assert get(door, "/too-long").status == 500
    assert get(door, "/own-length").content == b"five!"


@pytest.mark.parametrize("value", ["%0d%0aX-Evil:%201", "a%00b", "%0a", "%e2%82%ac"])
def test_nothing_of_a_header_with_control_characters_reaches_the_wire(door: Door, value: str) -> None:
    response = get(door, f"/bad-header?value={value}")
    assert response.status == 500
    assert "X-Evil" not in response.headers and "X-Bad" not in response.headers


@pytest.mark.parametrize("to", ["/x%0d%0aX-Evil:%201", "/%00"])
def test_nothing_of_a_redirect_with_control_characters_reaches_the_wire(door: Door, to: str) -> None:
    response = get(door, f"/redirect?to={to}")
    assert response.status == 500
    assert "X-Evil" not in response.headers


def test_a_redirect(door: Door) -> None:
    response = get(door, "/redirect?to=/text/%C3%A9?a=b%2520c")
    assert (response.status, response.headers["Location"]) == (303, "/text/%C3%A9?a=b%20c")


def test_a_missing_final_slash_is_redirected_with_the_query(door: Door) -> None:
    response = get(door, "/folder?a=1&b=%2F")
    assert (response.status, response.headers["Location"]) == (308, "/folder/?a=1&b=%2F")


@pytest.mark.parametrize("target", ["//evil.example/folder", "//folder", "/%5Cevil/..//folder"])
def test_no_redirect_leaves_the_site(door: Door, target: str) -> None:
    location = get(door, target).headers.get("Location", "/")
    assert re.match(r"/(?![/\\])", location)


@pytest.mark.parametrize(
    ("target", "merged"),
    [("//text/bob?a=1", "/text/bob?a=1"), ("/%2Ftext/bob", "/text/bob"), ("//inner/page/n", "/inner/page/n"),
     ("/inner//page/n", "/inner/page/n"), ("/inner/%2F/page/n", "/inner/page/n"), ("//127.0.0.1/text/bob", None),
     ("///missing", None), ("/inner//missing", None), ("//expression/1/a", "/expression/1/a")],
)  # fmt: skip
def test_a_path_that_begins_with_slashes_is_never_matched_as_it_is(
    door: Door, target: str, merged: str | None
) -> None:
    response = get(door, target)
    if response.status == 200:  # these servers merge the first slashes before we see them, middleware too
        assert door[0] in ("waitress", "wsgiref") and not target.startswith("/inner")
    else:
        assert (response.status, response.headers.get("Location")) == ((308 if merged else 404), merged)


@pytest.mark.parametrize("target", ["/text/bob%0A", "/%0D%0AX-Evil:%201", "/text/%7F", "/expression/1/a%0a", "//%1F"])
def test_a_control_character_in_a_path_is_400(door: Door, target: str) -> None:
    response = get(door, target)
    assert (response.status, response.headers.get("X-Evil")) == (400, None)
    assert get(door, "/text/%C2%85%E2%80%A8").content.decode() == "Take five, \x85\u2028!"


# Errors


@pytest.mark.parametrize(
    ("target", "status", "body"),
    [
        ("/missing", 404, b"404 Not Found\n"),
        ("/boom", 500, b"500 Internal Server Error\n"),
        ("/odd", 500, b"500 Internal Server Error\n"),
        ("/surrogate", 500, b"500 Internal Server Error\n"),
        ("/exit", 500, b"500 Internal Server Error\n"),
        ("/spent-timeout", 500, b"500 Internal Server Error\n"),
        ("/abort/418", 418, b"short and stout"),
        ("/divide", 422, b"divided"),
        ("/inner/missing", 404, b"not in here"),
        ("/number/x", 404, b"404 Not Found\n"),
    ],
)
def test_errors(door: Door, target: str, status: int, body: bytes) -> None:
    response = get(door, target)
    assert (response.status, response.content) == (status, body)
    assert get(door, "/").status == 200


def test_abort_says_what_it_was_told(door: Door) -> None:
    response = get(door, "/abort/409")
    assert (response.status, response.content) == (409, b"409 Conflict\nas you wished\n")
    assert response.headers["X-Abort"] == "yes"


@pytest.mark.parametrize("method", ["POST", "DELETE", "REPORT"])
def test_a_method_that_is_not_taken_is_405_with_allow(door: Door, method: str) -> None:
    response = ask(door, method, "/", b"")
    assert (response.status, response.headers["Allow"]) == (405, "GET, HEAD, OPTIONS")


@pytest.mark.parametrize("method", ["PREPARE", "RENDER", "__INIT__", "ON_FINISH", "MESSAGE"])
def test_no_request_names_an_attribute_of_a_class(door: Door, method: str) -> None:
    answer = raw(
        door, f"{method} /class HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 0\r\n\r\n".encode()
    )
    assert answer[:12] in (b"HTTP/1.1 405", b"HTTP/1.1 400", b"HTTP/1.0 405") or (is_mongrel2(door) and answer == b"")
    assert b"not for clients" not in answer


def test_options_are_answered(door: Door) -> None:
    response = ask(door, "OPTIONS", "/class")
    assert (response.status, response.headers["Allow"]) == (200, "GET, HEAD, OPTIONS, POST")


def test_classes(door: Door) -> None:
    response = ask(door, "POST", "/class", b"")
    assert (response.status, response.content, response.headers["X-Prepared"]) == (201, b"posted", "yes")
    assert response.headers["Set-Cookie"].startswith("made=yes; ")
    assert get(door, "/class").content == b"got"
    assert {"GET", "POST"} <= set(json.loads(get(door, "/finished").content))


def test_middleware_sees_the_route(door: Door) -> None:
    assert get(door, "/").headers["X-Wrapped"] == "index"
    assert get(door, "/missing").headers["X-Wrapped"] == "no route"


# Hostile input


@pytest.mark.parametrize("target", ["/text/%ff", "/%ff", "/%zz", "/text/a%00b", "/%00", "/text/%ed%a0%80"])
def test_paths_that_are_none(door: Door, target: str) -> None:
    assert get(door, target).status in (400, 404)
    assert get(door, "/text/bob").content == b"Take five, bob!"


@pytest.mark.parametrize("value", [b"caf\xe9", b"a\tb", b'"\\"', b"\\u0041", b"\xff" * 100])
def test_header_values_that_are_odd_but_legal(door: Door, value: bytes) -> None:
    answer = raw(door, b"GET /echo HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX-Odd: " + value + b"\r\n\r\n")
    seen = json.loads(answer.partition(b"\r\n\r\n")[2].strip().split(b"\r\n")[-1] or b"{}")
    assert seen["headers"]["x-odd"] == value.decode("latin-1")


def test_blanks_around_a_value_are_no_part_of_it(door: Door) -> None:
    sent = b"GET /echo HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX-Blanks:  \ta b \t \r\nX-None: \r\n\r\n"
    seen = json.loads(raw(door, sent).partition(b"\r\n\r\n")[2])["headers"]
    assert (seen["x-blanks"], seen.get("x-none", "")) == ("a b", "")


def test_a_cookie_header_of_backslashes(door: Door) -> None:
    size = 3000 if is_mongrel2(door) else 7000  # Mongrel2 takes heads of 4 KiB
    answer = get(door, "/echo", [("Cookie", 'a=1; b="' + "\\" * size + '"; =__Host-a=b; c=3')])
    cookies = json.loads(answer.content)["cookies"]
    assert (cookies["a"], cookies["c"]) == (["1"], ["3"])
    assert not any("Host" in name for name in cookies)


def test_a_query_of_two_thousand_fields_is_refused(door: Door) -> None:
    assert get(door, "/echo?" + "a&" * 2000).status == 400


def test_an_empty_host_is_one(door: Door) -> None:
    """RFC 9112, 3.2."""
    assert b" 200 OK\r\n" in raw(door, b"GET / HTTP/1.1\r\nHost:\r\nConnection: close\r\n\r\n")


def test_http_1_0_and_connection_close_are_closed(door: Door) -> None:
    started = time.monotonic()
    assert b"Take five!" in raw(door, b"GET / HTTP/1.0\r\nHost: x\r\n\r\n")
    assert b"Take five!" in raw(door, b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert time.monotonic() - started < 14  # the embedded server ends a connection that is idle after 15 seconds


def test_a_connection_serves_one_request_after_another(door: Door) -> None:
    if door[0] == "wsgiref":
        pytest.skip("wsgiref speaks HTTP/1.0")
    connection = http.client.HTTPConnection("127.0.0.1", door[1], timeout=60)
    for target, body in [("/", b"Take five!"), ("/missing", b"404 Not Found\n"), ("/pieces", b"one two three")] * 3:
        connection.request("GET", target)
        assert connection.getresponse().read() == body
    connection.close()


# The context of a request


def test_no_request_finds_what_another_left_in_its_context(door: Door) -> None:
    once = b"GET /context HTTP/1.1\r\nHost: x\r\nX-Client: me\r\n\r\n"
    for sent in [once * 2 + once.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")] * 6:  # there are four threads
        found = re.findall(rb"\[.*\]", raw(door, sent))
        assert found == [b'[null,28,"me"]'] * (1 if door[0] == "wsgiref" else 3)


@pytest.mark.parametrize("kind", ["pieces", "events"])
def test_a_stream_is_made_in_the_context_of_its_handler(door: Door, kind: str) -> None:
    with ThreadPoolExecutor(3) as pool:
        ask_as = lambda name: get(door, f"/context/{kind}", [("X-Client", name)]).content.decode()  # noqa: E731
        for name, answer in zip("abc", pool.map(ask_as, "abc"), strict=True):
            lines = [f"0 {name} -", f"1 {name} 0", f"2 {name} 1"]
            assert re.findall(r"\d \w .", answer) == lines


# Many at once


def test_waiting_requests_wait_side_by_side(door: Door) -> None:
    at_once = 4 if door[0] in ("gunicorn", "waitress") else 30  # their threads
    with ThreadPoolExecutor(at_once) as pool:
        answers = list(pool.map(lambda _: get(door, f"/meet/all/{at_once}").content, range(at_once)))
    assert answers == [b"met"] * at_once


def test_everyone_gets_their_own_answer(door: Door) -> None:
    def several(worker: int) -> list[bool]:
        return [get(door, f"/text/{worker}-{i}").content == f"Take five, {worker}-{i}!".encode() for i in range(25)]

    with ThreadPoolExecutor(8) as pool:
        assert all(all(own) for own in pool.map(several, range(8)))


# Hosts

CLOSE = "Connection: close\r\n"
SERVED = ["a.example", "A.Example", "a.example.", "a.example:81", "x.b.example", "x.y.b.example:1", "c.example:8000",
          "[2001:db8::1]", "[2001:DB8::1]:443"]  # fmt: skip
NOT_SERVED = ["evil.example", "a.example.evil.example", "xa.example", "b.example", "xb.example", "c.example", "[::1]",
              "c.example:80", "127.0.0.1", "localhost", "a.example:81.evil.example"]  # fmt: skip
OURS = ["127.0.0.1", "127.0.0.1:PORT", "localhost", "LOCALHOST:1", "localhost.", "a.localhost", "a.b.localhost:80",
        "[::1]", "[::1]:PORT"]  # fmt: skip
NOT_OURS = ["evil.example", "127.0.0.1.evil.example", "127.0.0.2", "localhost.evil.example", "evil-localhost", "[::2]",
            "192.168.0.1", "10.0.0.1:PORT"]  # fmt: skip


@contextlib.contextmanager
def behind(server: str, program: str) -> Iterator[int]:
    """The port at which a program answers through this server."""
    if server == "mongrel2":
        with Mongrel2() as mongrel2, behind_mongrel2(program, mongrel2):
            yield mongrel2.port
    elif server == "http":
        with behind_http(program) as (_, port):
            yield port
    else:
        with behind_wsgi(server, program) as port:
            yield port


def status_of(port: int, host: str, target: str = "/", fields: str = "") -> tuple[int, bytes]:
    host = host.replace("PORT", str(port))
    sent = f"GET {target} HTTP/1.1\r\nHost: {host}\r\n{fields or CLOSE}\r\n"
    answer = raw(("", port), sent.encode())
    return int(answer[9:12]), answer


@pytest.mark.parametrize("server", ["http", "mongrel2", "gunicorn", "waitress", "wsgiref"])
def test_hosts_that_were_not_named_are_400_and_not_repeated(server: str) -> None:
    with behind(server, "program_hosts:named") as port:
        assert [status_of(port, host)[0] for host in SERVED] == [200] * len(SERVED)
        for host in NOT_SERVED:
            for target in ("/", "/inner/", "/missing", "//", "/inner"):
                status, answer = status_of(port, host, target)
                assert (host, status, host.encode() in answer) == (host, 400, False)


@pytest.mark.parametrize("server", ["http", "gunicorn", "wsgiref"])
def test_with_debug_at_a_loopback_address_only_its_own_names_are_answered(server: str) -> None:
    with behind(server, "program_hosts:debugged") as port:
        assert [status_of(port, host)[0] for host in OURS] == [200] * len(OURS)
        for host in NOT_OURS:
            for target in ("/", "/inner/"):
                assert (host, status_of(port, host, target)[0]) == (host, 400)


@pytest.mark.parametrize("program", ["plain", "told"])
@pytest.mark.parametrize("server", ["http", "gunicorn"])
def test_without_debug_or_where_it_was_told_otherwise_every_host_is_answered(server: str, program: str) -> None:
    with behind(server, f"program_hosts:{program}") as port:
        assert [status_of(port, host)[0] for host in OURS + NOT_OURS] == [200] * len(OURS + NOT_OURS)
        mounted = [status_of(port, host, "/inner/")[0] for host in OURS + NOT_OURS]  # with debug
        assert mounted == [200] * len(OURS) + [200 if program == "told" else 400] * len(NOT_OURS)


def test_behind_mongrel2_debug_names_no_hosts_for_it_is_mongrel2_that_listens() -> None:
    with behind("mongrel2", "program_hosts:debugged") as port:
        assert status_of(port, "a.example")[0] == 200


def test_a_websocket_of_a_rebound_name_is_refused_though_its_origin_is_that_name() -> None:
    handshake = ("Connection: Upgrade, close\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
                 "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nOrigin: http://HOST\r\n")  # fmt: skip
    with behind("http", "program_hosts:debugged") as port:
        for target in ("/talk", "/inner/talk"):
            for host, status in ((f"evil.example:{port}", 400), (f"localhost:{port}", 101)):
                assert status_of(port, host, target, handshake.replace("HOST", host))[0] == status


# Behind a proxy


SERVERS = ["http", "mongrel2", "gunicorn", "waitress", "wsgiref"]


@pytest.fixture(scope="module", params=SERVERS)
def proxied(request: pytest.FixtureRequest) -> Iterator[Door]:
    with behind(request.param, "program_proxied:app") as port:
        yield request.param, port


def asked(door: Door, target: str, method: str = "GET", **fields: str) -> Any:
    """The answer to a request with these header fields, in whose names `_` stands for `-`."""
    connection = http.client.HTTPConnection("127.0.0.1", door[1], timeout=60)
    try:
        connection.request(method, target, headers={name.replace("_", "-"): value for name, value in fields.items()})
        response = connection.getresponse()
        response.content = response.read()  # type: ignore[attr-defined]
        return response
    finally:
        connection.close()


@pytest.mark.parametrize(
    ("written", "address"),
    [("203.0.113.9:51008", "203.0.113.9"), ("[2001:DB8::1]:4711", "2001:db8::1"),
     ("6.6.6.6, 203.0.113.9", "203.0.113.9"), ("unknown", "127.0.0.1"), ("<b>", "127.0.0.1")],
)  # fmt: skip
def test_the_address_of_a_client_is_an_address_by_every_door(proxied: Door, written: str, address: str) -> None:
    if proxied[0] in ("mongrel2", "waitress"):
        address = "127.0.0.1"  # Mongrel2 writes the peer's address over it, waitress leaves the field out
    for place in ("", "/inner"):
        assert json.loads(asked(proxied, f"{place}/seen", X_Forwarded_For=written).content)[0] == address


@pytest.mark.parametrize("place", ["", "/inner"])
def test_an_origin_is_ours_with_the_usual_port_written_or_not_by_every_door(proxied: Door, place: str) -> None:
    for host, origin, status in (
        ("a.example:80", "http://a.example", 200), ("a.example", "http://a.example:80", 200),
        ("a.example:80", "https://a.example", 403), ("a.example:80", "http://a.example:8080", 403),
        ("a.example", "null", 403),
    ):  # fmt: skip
        assert (host, origin, asked(proxied, f"{place}/change", "POST", Host=host, Origin=origin).status) == (
            host, origin, status
        )  # fmt: skip


@pytest.mark.parametrize("place", ["", "/inner"])
def test_what_depends_on_credentials_and_streams_are_private_by_every_door(proxied: Door, place: str) -> None:
    for target, status in (("mine", 200), ("read", 200), ("stream", 200), ("nowhere", 404)):
        response = asked(proxied, f"{place}/{target}", Authorization="Basic YTpi")
        assert (target, response.status, response.headers["Cache-Control"], response.headers["Vary"]) == (
            target, status, "private", "Authorization"
        )  # fmt: skip
    refused = asked(proxied, f"{place}/mine")
    assert (refused.status, refused.headers["Cache-Control"], refused.headers["Vary"]) == (
        401, "private", "Authorization"
    )  # fmt: skip
    assert asked(proxied, f"{place}/stream").headers["Cache-Control"] == "private"
    assert asked(proxied, f"{place}/read").headers["Cache-Control"] is None


@pytest.mark.parametrize("server", ["http", "mongrel2"])
def test_a_websocket_of_our_own_page_opens_though_the_proxy_writes_the_usual_port(server: str) -> None:
    handshake = ("Connection: Upgrade, close\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
                 "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nOrigin: {}\r\n")  # fmt: skip
    with behind(server, "program_proxied:app") as port:
        for target in ("/talk", "/inner/talk"):
            for host, origin, status in (
                ("a.example:80", "http://a.example", 101), ("a.example:443", "https://a.example", 101),
                ("a.example", "https://friend.example", 101), ("a.example:80", "http://b.example", 403),
                ("a.example:80", "null", 403),
            ):  # fmt: skip
                assert (origin, status_of(port, host, target, handshake.format(origin))[0]) == (origin, status)
