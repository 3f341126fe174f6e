"""Section Client: how programs are tested without a server. Nothing here opens a socket, and nothing is patched."""

from __future__ import annotations

import contextlib
import io
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import environment

from brubeck_lite import Brubeck, Channel, Client, Event, Request, Response, WebSocket, event_stream, eventlet, redirect


def seen(request: Request, **_: str) -> list[Any]:
    return [request.headers.get("content-type"), request.body.decode(), request.query.get("q"), request.path]


def echoing() -> Client:
    app = Brubeck()
    app.route("/", ["GET", "POST"], "root")(seen)
    app.get("/<x>")(seen)
    return app.test()


# What is sent


@pytest.mark.parametrize(
    ("options", "content_type", "body"),
    [({"json": {"a": "é"}}, "application/json", '{"a":"\\u00e9"}'), ({"json": []}, "application/json", "[]"),
     ({"data": "é"}, None, "é"),
     ({"data": {"a": "é b", "c": "&"}}, "application/x-www-form-urlencoded", "a=%C3%A9+b&c=%26"),
     ({"data": {"a": ["1", "2"], "b": 3}}, "application/x-www-form-urlencoded", "a=1&a=2&b=3"),
     ({"data": b"a"}, None, "a"),
     ({"data": "{}", "headers": {"content-type": "text/x"}}, "text/x", "{}")],
)  # fmt: skip
def test_json_forms_and_bytes(options: dict[str, Any], content_type: str | None, body: str) -> None:
    assert echoing().post("/", **options).json == [content_type, body, None, "/"]


@pytest.mark.parametrize(
    ("target", "query", "path"),
    [("/?q=%20", " ", "/"), ("/?q=é", "é", "/"), ("/é", None, "/é"), ("/a#top", None, "/a"), ("/?q=1#?q=2", "1", "/"),
     ("a", None, "/a"), ("?q=1", "1", "/"), ("", None, "/"), ("http://localhost#top", None, "/")],
)  # fmt: skip
def test_targets_as_people_write_them(target: str, query: str | None, path: str) -> None:
    assert echoing().get(target).json == [None, "", query, path]


@pytest.mark.parametrize("target", ["/", "/?a=1"])
def test_a_query_is_added_to_that_of_the_path(target: str) -> None:
    app = Brubeck()
    app.get("/")(lambda request: {name: request.query.getall(name) for name in request.query})
    answer = app.test().get(target, query={"q": "take five&", "n": 5, "tag": ["x", "é"]}).json
    assert answer == {**({"a": ["1"]} if "a" in target else {}), "q": ["take five&"], "n": ["5"], "tag": ["x", "é"]}


def uploading() -> Client:
    app = Brubeck()

    @app.post("/")
    def look(request: Request) -> Any:
        names = [(name, file) for name in request.files for file in request.files.getall(name)]
        files = [[name, file.filename, file.content_type, file.read().decode()] for name, file in names]
        return {"form": {name: request.form.getall(name) for name in request.form}, "files": files}

    return app.test()


def test_files_with_and_without_names_and_content_types(tmp_path: Path) -> None:
    (tmp_path / "on disk.txt").write_text("four")
    with open(tmp_path / "on disk.txt", "rb") as file:
        files = {"a": b"one", "b": ("two.txt", b"two"), "c": ('"3".png', b"three", "image/png"), "d": file,
                 "e": ("five.bin", io.BytesIO(b"five")), "f": io.BytesIO(b"six")}  # fmt: skip
        got = uploading().post("/", files=files).json["files"]
    plain = uploading().post("/", files={"a": b""}).json["files"][0][2]
    assert got == [["a", "a", plain, "one"], ["b", "two.txt", plain, "two"], ["c", '"3".png', "image/png", "three"],
                   ["d", "on disk.txt", plain, "four"], ["e", "five.bin", plain, "five"],
                   ["f", "f", plain, "six"]]  # fmt: skip


def test_several_files_of_one_name_and_fields_beside_them() -> None:
    files = {"pictures": [("a.png", b"1", "image/png"), ("b.png", b"2", "image/png")]}
    got = uploading().post("/", data={"title": "é", "tag": ["x", "y"]}, files=files).json
    assert got["form"] == {"title": ["é"], "tag": ["x", "y"]}
    assert [(name, filename, content) for name, filename, _, content in got["files"]] == [
        ("pictures", "a.png", "1"), ("pictures", "b.png", "2")]  # fmt: skip


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND"])
def test_every_method(method: str) -> None:
    app = Brubeck()
    app.route("/", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND"])(lambda request: request.method)
    assert app.test().request(method, "/").text == method
    if method != "PROPFIND":
        assert getattr(app.test(), method.lower())("/").text == method


def test_head_has_the_fields_of_get_and_no_body() -> None:
    answer = echoing().head("/")
    assert (answer.status, answer.body, answer.headers["Content-Type"]) == (200, b"", "application/json")


def test_header_fields_that_are_repeated_are_joined_as_servers_do() -> None:
    app = Brubeck()
    app.get("/")(lambda request: [request.headers["x-a"], "x_b" in request.headers])
    assert app.test().get("/", [("X-A", "1"), ("x-a", "2"), ("x_b", "3")]).json == ["1, 2", False]


def where() -> Brubeck:
    app = Brubeck()
    app.get("/where")(lambda request: [request.scheme, request.host, request.remote_addr, request.url])
    return app


def test_who_asks_and_for_which_host_may_be_chosen() -> None:
    assert where().test().get("/where").json == ["http", "localhost", "127.0.0.1", "http://localhost/where"]
    client = where().test(base_url="https://app.example:8443", remote_addr="203.0.113.9")
    expected = ["https", "app.example:8443", "203.0.113.9", "https://app.example:8443/where"]
    assert client.get("/where").json == expected
    assert client.get("http://other.example/where?a=1").json[::3] == ["http", "http://other.example/where?a=1"]
    assert client.get("/where", headers={"Host": "third.example"}).json[1] == "third.example"


def test_an_answer_knows_its_request() -> None:
    answer = echoing().get("/there")
    assert (answer.request.path, answer.request.route.name) == ("/there", "seen")
    assert repr(answer) == "<Answer 200 to <Request GET '/there'>>"


# Cookies and errors


def test_cookies_are_kept_until_they_expire() -> None:
    app = Brubeck()

    @app.get("/set/<value>/<int(signed=True):age>")
    def put(request: Request, value: str, age: int) -> Response:
        response = Response()
        response.set_cookie("c", value, max_age=age)
        return response

    app.get("/")(lambda request: dict(request.cookies))
    client, kept = app.test(), []
    for path in ("/set/one two/60", "/set/three/60", "/set/x/0", "/set/four/60", "/set/x/-5"):
        client.get(path)
        kept.append(client.get("/").json)
    assert kept == [{"c": "one two"}, {"c": "three"}, {}, {"c": "four"}, {}]
    assert app.test().get("/").json == {}
    assert client.get("/", headers={"Cookie": "own=1"}).json == {"own": "1"}


def test_a_cookie_that_a_program_writes_itself_is_kept_however_its_field_is_written() -> None:
    app = Brubeck()
    app.get("/set")(lambda request: ("", {"set-cookie": "c=1; path=/"}))
    app.get("/delete")(lambda request: ("", {"SET-COOKIE": "c=;max-age=0;path=/"}))
    client = app.test()
    client.get("/set")
    assert client.cookies == {"c": "1"}
    client.get("/delete")
    assert client.cookies == {}


def test_a_field_of_bytes_is_sent_as_it_is_with_files_and_without() -> None:
    app = Brubeck()
    app.post("/")(lambda request: request.form["a"])
    sent = [app.test().post("/", data={"a": "\xfc".encode()}, files=files).text for files in (None, {"f": b""})]
    assert sent == ["\xfc", "\xfc"]


def test_a_multipart_form_is_written_as_browsers_write_it() -> None:
    """HTML Standard, multipart/form-data encoding algorithm."""
    app = Brubeck()
    app.post("/")(lambda request: [request.body.decode(), dict(request.form), request.files['f"\\'].filename])
    names = {'a"b\r\nc\\': "é"}
    body, form, filename = app.test().post("/", data=names, files={'f"\\': ('12" %41\\', b"x")}).json
    assert 'name="a%22b%0D%0Ac\\"\r\n\r\né' in body and 'name="f%22\\"; filename="12%22 %41\\"' in body
    assert (form, filename) == (names, '12" %41\\')


def test_raise_errors_brings_what_a_handler_raised_to_the_test_and_nothing_else() -> None:
    app = Brubeck()
    app.get("/")(lambda request: 1 / 0)
    app.error(500)(lambda request, error: "sorry")
    with pytest.raises(ZeroDivisionError):
        app.test(raise_errors=True).get("/")
    with pytest.raises(ZeroDivisionError):
        app.test().get("/", raise_errors=True)
    assert (app.test().get("/").text, app.test(raise_errors=True).get("/missing").status) == ("sorry", 404)


# Redirects


def redirecting() -> Brubeck:
    """An application whose /from sends its client to /to, or wherever it is told."""
    app = Brubeck()

    @app.route("/from", ["GET", "POST", "PUT"])
    def leave(request: Request) -> Response:
        answer = redirect(request.query.get("to", "/to"), request.get_argument("status", 303, int))
        answer.set_cookie("on_the_way", "1")
        return answer

    @app.route("/to", ["GET", "POST", "PUT"])
    def arrive(request: Request) -> list[Any]:
        own = [request.headers.get("content-type"), request.headers.get("x-own")]
        return [request.method, request.body.decode(), *own, dict(request.cookies), request.scheme]

    app.get("/again")(lambda request: redirect("/again"))
    return app


def test_redirects_are_followed_on_request_only() -> None:
    client = redirecting().test()
    assert client.get("/from").status == 303
    answer = client.get("/from", follow=True)
    assert (answer.status, answer.request.path, client.get("/to", follow=True).status) == (200, "/to", 200)


@pytest.mark.parametrize(
    ("method", "status", "arrives_as"),
    [("POST", 301, "GET"), ("POST", 302, "GET"), ("POST", 303, "GET"), ("POST", 307, "POST"), ("POST", 308, "POST"),
     ("PUT", 301, "PUT"), ("PUT", 302, "PUT"), ("PUT", 303, "GET"), ("PUT", 308, "PUT"), ("GET", 307, "GET")],
)  # fmt: skip
def test_the_method_and_the_body_stay_or_become_a_get_as_browsers_have_it(
    method: str, status: int, arrives_as: str
) -> None:
    data, own = {"a": "1"} if method != "GET" else b"", {"X-Own": "kept"}
    answer = redirecting().test().request(method, f"/from?status={status}", own, data=data, follow=True)
    sent = ["a=1", "application/x-www-form-urlencoded"] if data and arrives_as != "GET" else ["", None]
    assert answer.json == [arrives_as, *sent, "kept", {"on_the_way": "1"}, "http"]


def test_head_stays_head() -> None:
    answer = redirecting().test().head("/from", follow=True)
    assert (answer.status, answer.request.method) == (200, "HEAD")


@pytest.mark.parametrize("target", ["to", "./to#part", "//localhost/to", "http://localhost/to", "https://localhost/to"])
def test_every_way_to_name_a_target_on_this_host_is_followed(target: str) -> None:
    answer = redirecting().test().get("/from", query={"to": target}, follow=True)
    assert (answer.status, answer.json[-1]) == (200, "https" if "https" in target else "http")


@pytest.mark.parametrize("target", ["//evil.example/to", "http://localhost:81/to", "mailto:a@localhost"])
def test_redirects_to_elsewhere_are_not_followed(target: str) -> None:
    answer = redirecting().test().get("/from", query={"to": target}, follow=True)
    assert (answer.status, answer.headers["Location"]) == (303, target)


def test_redirects_without_end_are_an_error() -> None:
    with pytest.raises(RuntimeError, match="more than 20 redirects, the last to http://localhost/again"):
        redirecting().test().get("/again", follow=True)


# Streams


def counting(ended: list[Any]) -> Brubeck:
    """An application that streams numbers, and notes those it made and how it ended."""
    app = Brubeck()

    @app.get("/count")
    def count(request: Request) -> Iterator[str]:
        try:
            for number in range(request.get_argument("to", 1_000_000, int)):
                ended.append(number)
                yield f"{number};"
        except BaseException as error:
            ended.append(type(error).__name__)
            raise

    @app.get("/sleep")
    def sleep(request: Request) -> Iterator[str]:
        yield "first"
        try:
            eventlet.sleep(600)
        except BaseException as error:
            ended.append(type(error).__name__)
            raise

    @app.get("/breaks")
    def breaks(request: Request) -> Iterator[str]:
        yield "first"
        raise LookupError("lost")

    return app


def test_a_stream_is_read_piece_by_piece_and_made_no_faster() -> None:
    made: list[Any] = []
    with counting(made).test().get("/count", stream=True) as answer:
        pieces = iter(answer)
        assert [next(pieces) for _ in range(5)] == [b"0;", b"1;", b"2;", b"3;", b"4;"]
        assert len(made) < 10


def test_a_stream_that_is_left_early_is_closed_in_the_handler() -> None:
    made: list[Any] = []
    with counting(made).test().get("/count", stream=True) as answer:
        next(iter(answer))
    assert made[-1] == "GeneratorExit"
    assert list(answer) == []


def test_a_stream_that_waits_when_it_is_left_ends_where_it_waits() -> None:
    ended: list[Any] = []
    with counting(ended).test().get("/sleep", stream=True) as answer:
        assert next(iter(answer)) == b"first"
    assert ended == ["GreenletExit"]


@pytest.mark.parametrize("waits", [True, False])
def test_what_a_handler_raises_when_it_is_left_is_raised_in_the_test(waits: bool) -> None:
    app = Brubeck()

    @app.get("/")
    def fail_late(request: Request) -> Iterator[str]:
        try:
            while True:
                yield "piece"
                eventlet.sleep(600 if waits else 0)
        finally:
            raise LookupError("in the end")

    with pytest.raises(LookupError, match="in the end"), app.test().get("/", stream=True) as answer:
        assert next(iter(answer)) == b"piece"


def test_what_was_not_yet_read_of_a_stream_is_its_body() -> None:
    with counting([]).test().get("/count?to=4", stream=True) as answer:
        next(iter(answer))
        assert (answer.status, answer.text, list(answer)) == (200, "1;2;3;", [b"1;2;3;"])


def test_a_stream_that_is_too_slow_is_a_timeout_of_the_test() -> None:
    with counting([]).test(timeout=0.5).get("/sleep", stream=True) as answer:
        pieces = iter(answer)
        assert next(pieces) == b"first"
        with pytest.raises(TimeoutError, match="did not go on for"):
            next(pieces)


def test_a_stream_that_was_too_slow_once_may_go_on() -> None:
    app, channel = Brubeck(), Channel()

    @app.get("/")
    def pieces(request: Request) -> Iterator[str]:
        with channel.subscribe() as subscription:
            yield "first"
            yield subscription.get()

    with app.test(timeout=0.05).get("/", stream=True) as answer:
        read = iter(answer)
        assert next(read) == b"first"
        with pytest.raises(TimeoutError):
            next(read)
        channel.publish("second")
        assert list(read) == [b"second"]


def test_a_stream_that_goes_on_though_it_is_left_is_read_to_its_end() -> None:
    app, made = Brubeck(), list[int]()

    @app.get("/")
    def insist(request: Request) -> Iterator[str]:
        yield "first"
        for number in range(10):
            with contextlib.suppress(BaseException):
                eventlet.sleep(600 if number == 0 else 0)
            made.append(number)
            yield str(number)

    with app.test().get("/", stream=True) as answer:
        assert next(iter(answer)) == b"first"
    assert made == [*range(10)]


@pytest.mark.parametrize("stream", [True, False])
def test_what_a_stream_raises_is_raised_where_it_is_read(stream: bool) -> None:
    with pytest.raises(LookupError, match="lost"):
        counting([]).test().get("/breaks", stream=stream).body  # noqa: B018


def test_every_answer_may_be_read_as_a_stream() -> None:
    client = echoing()
    with client.get("/", stream=True) as answer:
        assert (answer.status, answer.headers["Content-Length"], len(list(answer))) == (200, "18", 1)
    assert client.get("/missing/path", stream=True).status == 404
    assert list(client.get("/")) == [client.get("/").body]


def test_raise_errors_holds_for_streams() -> None:
    app = Brubeck()
    app.get("/")(lambda request: iter([1 / 0]))
    with pytest.raises(ZeroDivisionError):
        app.test(raise_errors=True).get("/", stream=True)


def test_a_handler_that_waits_for_another_request_gets_it_when_both_run_in_coroutines() -> None:
    app, channel = Brubeck(), Channel()

    @app.get("/next")
    def wait(request: Request) -> Any:
        with channel.subscribe() as subscription:
            return subscription.get(timeout=60)

    app.post("/publish")(lambda request: channel.publish(request.json))
    client = app.test()
    poll = eventlet.spawn(client.get, "/next")
    eventlet.sleep(0)
    client.post("/publish", json={"at": "last"})
    assert poll.wait().json == {"at": "last"}


# Server-sent events


def newsroom(heartbeat: float = 15) -> tuple[Client, Channel]:
    """The client of an application that streams what a channel publishes, and the channel."""
    app, channel = Brubeck(), Channel(size=3)
    app.get("/news")(lambda request: event_stream(channel, heartbeat))
    app.post("/news")(lambda request: channel.publish(request.form["text"]))
    return app.test(), channel


def test_events_of_a_channel_are_read_one_by_one() -> None:
    client, channel = newsroom()
    with client.get("/news", stream=True) as answer:
        events = answer.events()
        client.post("/news", data={"text": "Take Five"})
        assert next(events) == Event("Take Five")
        channel.publish(Event({"a": "é\n"}, "kind", "7", 1500))
        channel.publish("two\nlines")
        assert next(events) == Event('{"a":"\\u00e9\\n"}', "kind", "7", 1500)
        assert next(events) == Event("two\nlines")
    assert not channel.subscriptions


def test_a_heartbeat_is_no_event() -> None:
    client, channel = newsroom(heartbeat=0.01)
    with client.get("/news", stream=True) as answer:
        assert [next(iter(answer)) for _ in range(3)] == [b":\n\n"] * 3
        channel.publish("after silence")
        assert next(answer.events()) == Event("after silence")


def test_who_reads_too_slowly_for_a_channel_sees_that_it_was_dropped() -> None:
    client, channel = newsroom()
    with client.get("/news", stream=True) as answer:
        for number in range(10):
            channel.publish(str(number))
        *read, last = answer.events()
    assert [event.data for event in read] == ["0", "1", "2"][: len(read)] and last.event == "dropped"


def test_a_stream_of_events_that_never_ends_by_itself_is_ended_by_its_reader() -> None:
    app, ended = Brubeck(), []

    def ticks() -> Iterator[Any]:
        try:
            for number in range(1_000_000):
                yield number
                eventlet.sleep(0)
        finally:
            ended.append("ended")

    app.get("/")(lambda request: event_stream(ticks()))
    with app.test().get("/", stream=True) as answer:
        assert [event.data for event, _ in zip(answer.events(), range(3), strict=False)] == ["0", "1", "2"]
    assert ended == ["ended"]


@pytest.mark.parametrize(
    ("pieces", "events"),
    [(["data: a\n\nda", "ta:b\n", "\nid\ndata\n\n"], [("a", None), ("b", None), ("", "")]),
     (["data: a\r\nid: 1\r\n\r\ndata:  b\r", "\rid: 9\n\n"], [("a", "1"), (" b", None)]),
     (["\ufeff: no\n\n: data: no\n\nevent: no\n\n", "data: unfinished\n"], []),
     ([b"data: \xc3", b"\xa9\n\n"], [("é", None)])],
)  # fmt: skip
def test_events_are_read_as_the_standard_says(pieces: list[Any], events: list[Any]) -> None:
    app = Brubeck()
    app.get("/")(lambda request: Response(iter(pieces), content_type="text/event-stream"))
    assert [(event.data, event.id) for event in app.test().get("/").events()] == events


# WebSockets


def talking() -> tuple[Client, list[Any]]:
    """The client of an application with WebSockets, and what their handlers noted."""
    app, noted, everybody = Brubeck(secret="s" * 32), [], Channel()

    @app.websocket("/echo", subprotocols=["first", "second"], max_message=1000)
    def echo(ws: WebSocket) -> None:
        for message in ws:
            ws.send(message)
        noted.append(ws.closed)

    @app.websocket("/room/<name>", origins="https://app.example")
    def room(ws: WebSocket, name: str) -> None:
        ws.follow(everybody)
        for message in ws:
            everybody.publish({name: message})
        everybody.publish(f"{name} left")

    @app.websocket("/closes/<int:code>")
    def closes(ws: WebSocket, code: int) -> None:
        ws.send("one last word")
        ws.close(code, "as you wished")

    @app.websocket("/raises")
    def raises(ws: WebSocket) -> None:
        raise LookupError(ws.receive())

    @app.websocket("/asleep")
    def asleep(ws: WebSocket) -> None:
        try:
            eventlet.sleep(600)
        except BaseException as error:
            noted.append(type(error).__name__)
            raise

    @app.websocket("/pours")
    def pours(ws: WebSocket) -> None:
        while True:
            ws.send(b"x" * 65536)
            noted.append(len(noted))

    @app.websocket("/asks")
    def asks(ws: WebSocket) -> None:
        ws.ping()
        ws.send({"answered": ws.receive()})

    return app.test(), noted


@pytest.mark.parametrize("message", ["", "é", b"", b"\xff\x00", "x" * 200, {"a": [1]}])
def test_text_bytes_and_json_go_there_and_back(message: Any) -> None:
    with talking()[0].websocket("/echo") as ws:
        ws.send(message)
        assert ws.receive() == ('{"a":[1]}' if isinstance(message, dict) else message)


@pytest.mark.parametrize("size", [125, 126, 65535, 65536, 1 << 20])
def test_messages_of_every_size_arrive(size: int) -> None:
    app = Brubeck()
    app.websocket("/")(lambda ws: [ws.send(message * 2) for message in ws])
    with app.test().websocket("/") as ws:
        ws.send("x" * size)
        assert ws.receive() == "x" * 2 * size


def test_several_talk_to_each_other_through_a_channel() -> None:
    client, _ = talking()
    with client.websocket("/room/paul") as paul, client.websocket("/room/dave") as dave:
        paul.send("hello")
        assert (paul.receive(), dave.receive()) == ('{"paul":"hello"}', '{"paul":"hello"}')
        with client.websocket("/room/joe") as joe:
            joe.send("me too")
            assert [ws.receive() for ws in (paul, dave, joe)] == ['{"joe":"me too"}'] * 3
        assert dave.receive() == "joe left"


def test_the_end_of_the_block_closes_it_and_waits_for_the_handler() -> None:
    client, noted = talking()
    with client.websocket("/echo") as ws:
        ws.send("unread")
        assert ws.closed is None
    assert noted == [(1000, "")] and ws.closed == (1000, "")
    with pytest.raises(ConnectionError, match="closed"):
        ws.send("more")
    assert ws.receive() is None


@pytest.mark.parametrize("code", [1001, 1006, 4999])
def test_the_client_may_close_with_a_code_or_vanish(code: int) -> None:
    client, noted = talking()
    with client.websocket("/echo") as ws:
        ws.close(code, "" if code == 1006 else "enough")
    assert noted == [(code, "" if code == 1006 else "enough")]


@pytest.mark.parametrize("code", [1000, 1012, 4001])
def test_the_code_with_which_the_handler_closes(code: int) -> None:
    with talking()[0].websocket(f"/closes/{code}") as ws:
        assert list(ws) == ["one last word"]
        assert ws.closed == (code, "as you wished")


def test_a_handler_that_raises_closes_with_1011_and_with_raise_errors_the_test_sees_it() -> None:
    client, _ = talking()
    with client.websocket("/raises") as ws:
        ws.send("a secret")
        assert (ws.receive(), ws.closed) == (None, (1011, ""))
    with pytest.raises(LookupError, match="a secret"), client.websocket("/raises", raise_errors=True) as ws:
        ws.send("a secret")


def test_a_message_that_is_too_large_closes_with_1009() -> None:
    with talking()[0].websocket("/echo") as ws:
        ws.send("x" * 1001)
        assert ws.receive() is None and ws.closed is not None and ws.closed[0] == 1009


def test_a_handler_that_does_not_look_when_its_client_leaves_is_ended() -> None:
    client, noted = talking()
    with client.websocket("/asleep"):
        assert noted == []
    assert noted == ["GreenletExit"]


def test_a_handler_sends_no_more_than_its_client_reads() -> None:
    client, noted = talking()
    with client.websocket("/pours") as ws:
        for _ in range(20):
            assert ws.receive() == b"x" * 65536
        assert 20 <= len(noted) < 30


def test_who_reads_too_slowly_for_a_channel_is_closed_with_1013() -> None:
    app, channel = Brubeck(), Channel()

    @app.websocket("/")
    def follow(ws: WebSocket) -> None:
        ws.follow(channel)
        ws.receive()

    with app.test().websocket("/") as ws:
        for _ in range(10):
            channel.publish("x" * 65536)
        assert len(list(ws)) < 10 and ws.closed == (1013, "too slow")


def test_a_message_that_does_not_come_is_a_timeout_of_the_test() -> None:
    with talking()[0].websocket("/echo") as ws, pytest.raises(TimeoutError, match="no message came in"):
        ws.receive(timeout=0.05)


def test_pings_are_no_messages() -> None:
    with talking()[0].websocket("/asks") as ws:
        ws.send("yes")
        assert ws.receive() == '{"answered":"yes"}'


@pytest.mark.parametrize(("offered", "spoken"), [(None, None), ("second", "second"), ("second, first", "first")])
def test_the_subprotocol_that_is_spoken(offered: str | None, spoken: str | None) -> None:
    headers = {"Sec-WebSocket-Protocol": offered} if offered else {}
    with talking()[0].websocket("/echo", headers) as ws:
        assert (ws.answer.status, ws.answer.headers.get("Sec-WebSocket-Protocol")) == (101, spoken)


def test_one_subprotocol_may_be_named_without_a_list() -> None:
    app = Brubeck()
    app.websocket("/", subprotocols="chat")(lambda ws: None)
    with app.test().websocket("/", {"Sec-WebSocket-Protocol": "c, chat"}) as ws:
        assert ws.answer.headers["Sec-WebSocket-Protocol"] == "chat"


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [("/room/a", {"Origin": "https://app.example"}, 101), ("/room/a", {"Origin": "http://localhost"}, 101),
     ("/room/a", {"Origin": "https://evil.example"}, 403), ("/missing", {}, 404),
     ("/echo", {"Sec-WebSocket-Version": "8"}, 426), ("/echo", {"Sec-WebSocket-Key": "short"}, 400),
     ("/echo", {"Upgrade": "h2c"}, 426)],
)  # fmt: skip
def test_a_handshake_is_accepted_or_refused_with_an_answer(path: str, headers: dict[str, str], status: int) -> None:
    with talking()[0].websocket(path, headers) as ws:
        assert ws.answer.status == status
        if status != 101:
            assert ws.closed == (1006, "") and ws.receive() is None and ws.answer.text.startswith(str(status))
            with pytest.raises(ConnectionError, match=f"Answer {status}"):
                ws.send("hello")


def test_a_handshake_sends_and_keeps_cookies() -> None:
    app = Brubeck(secret="s" * 32)

    @app.wrap
    def count(respond: Any) -> Any:
        def wrapped(request: Request) -> Response:
            request.session["times"] = request.session.get("times", 0) + 1
            return respond(request)  # type: ignore[no-any-return]

        return wrapped

    app.websocket("/")(lambda ws: ws.send(str(ws.request.session["times"])))
    client, heard = app.test(), []
    for _ in range(3):
        with client.websocket("/") as ws:
            heard.append(ws.receive())
    assert heard == ["1", "2", "3"]


@pytest.mark.parametrize("file", ["text", io.StringIO("text"), Path("a"), (io.BytesIO(b"a"), "a.txt")])
def test_what_is_no_file_is_told_by_the_name_of_its_field(file: Any) -> None:
    with pytest.raises(TypeError, match="the file 'f' is bytes or a binary file"):
        Brubeck().test().post("/", files={"f": file})


@pytest.mark.parametrize("scheme", ["ws", "wss"])
def test_a_websocket_may_be_opened_by_its_whole_address(scheme: str) -> None:
    app = Brubeck()
    app.websocket("/x")(lambda ws: ws.send(ws.request.url))
    with app.test().websocket(f"{scheme}://a.example/x") as ws:
        assert ws.receive() == f"{scheme.replace('ws', 'http')}://a.example/x"


def test_mounted_applications_stream_and_talk_like_others() -> None:
    outer, inner = Brubeck(), Brubeck()
    inner.get("/stream")(lambda request: iter(["a", request.url_for("talk")]))
    inner.websocket("/talk", name="talk")(lambda ws: ws.send(ws.request.url_for("talk")))
    outer.mount("/inner", inner)
    with outer.test().get("/inner/stream", stream=True) as answer:
        assert list(answer) == [b"a", b"/inner/talk"]
    with outer.test().websocket("/inner/talk") as ws:
        assert (ws.receive(), ws.receive(), ws.closed) == ("/inner/talk", None, (1000, ""))


# What it needs


PROGRAM = """
import socket, sys, threading, time
from brubeck_lite import Brubeck

before = time.sleep, socket.socket, threading.Thread.start
app = Brubeck()
app.get("/")(lambda request: iter(["a", "b"]))
app.websocket("/talk")(lambda ws: ws.send("hello"))
client = app.test()
print(client.get("/").text, [name for name in ("eventlet", "zmq", "greenlet") if name in sys.modules])
with client.get("/", stream=True) as answer:
    print(list(answer))
with client.websocket("/talk") as ws:
    print(ws.receive())
print(before == (time.sleep, socket.socket, threading.Thread.start), "zmq" in sys.modules)
"""


def test_only_streams_and_websockets_need_eventlet_and_nothing_is_patched_or_warned_of() -> None:
    command = [sys.executable, "-W", "error", "-c", PROGRAM]
    done = subprocess.run(
        command, env=environment(measured=False), capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.stdout, done.stderr) == ("ab []\n[b'a', b'b']\nhello\nTrue False\n", "")
