"""The example arena.py by our server, two workers of it, Mongrel2 and gunicorn: what the benchmark checks before it
measures."""

from __future__ import annotations

import contextlib
import gzip
import http.client
import importlib
import itertools
import json
import random
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import arena_data
import pytest
from servers import Postgres, redis
from support import Mongrel2, environment, free_port, listens, output, process, wait_for, wsgi_command
from websockets.sync.client import connect

DOORS = ("http", "workers", "mongrel2", "gunicorn")
TYPES = {
    "css": "text/css", "js": "text/javascript", "html": "text/html", "woff2": "font/woff2", "svg": "image/svg+xml",
    "webp": "image/webp", "json": "application/json",
}  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("arena")
    arena_data.make_files(folder)
    return folder


@pytest.fixture(scope="module")
def services(data: Path) -> Iterator[dict[str, str]]:
    """The environment of a server with files, a database and a Redis."""
    with Postgres() as postgres, redis() as address:
        arena_data.fill_table(postgres.url, 3000)
        yield {**environment(), "DATA": str(data), "DATABASE_URL": postgres.url, "REDIS_URL": address, "POOL_SIZE": "4"}


@contextlib.contextmanager
def serving(door: str, variables: dict[str, str]) -> Iterator[int]:
    """The port behind which the example answers through this door."""
    with contextlib.ExitStack() as stack:
        ours, port = [sys.executable, "-m", "brubeck_lite", "arena:app"], free_port()
        if door == "mongrel2":
            mongrel2 = stack.enter_context(Mongrel2())
            command, port = [*ours, "--mongrel2", mongrel2.pull, mongrel2.pub], mongrel2.port
            variables = {**variables, "UPLOAD_STORE": str(mongrel2.folder / "tmp")}
        elif door == "gunicorn":
            command = wsgi_command("gunicorn", "arena:app", port)
        else:
            command = [*ours, "--bind", f"127.0.0.1:{port}", *(["--workers", "2"] if door == "workers" else [])]
        child = stack.enter_context(process(command, env=variables))
        ready = "connected to Mongrel2" if door == "mongrel2" else ""
        wait_for(lambda: (listens(port) and ready in output(child)) or child.poll() is not None, what=door)
        assert child.poll() is None, output(child)
        yield port


@pytest.fixture(scope="module", params=DOORS)
def door(request: pytest.FixtureRequest, services: dict[str, str]) -> Iterator[tuple[str, int]]:
    variables = dict(services)
    if request.param == "http":
        del variables["REDIS_URL"]  # the example has a cache of its own
    with serving(request.param, variables) as port:
        yield request.param, port


@pytest.fixture
def client(door: tuple[str, int]) -> Iterator[http.client.HTTPConnection]:
    """A connection that is kept."""
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", door[1], timeout=60)) as connection:
        yield connection


def ask(client: http.client.HTTPConnection, method: str, path: str, body: Any = None, **fields: str) -> Any:
    """The response, with its body in `.content`."""
    headers = {name.replace("_", "-"): value for name, value in fields.items()}
    client.request(method, path, body, headers, encode_chunked="Transfer-Encoding" in headers)
    response = client.getresponse()
    response.content = response.read()  # type: ignore[attr-defined]
    return response


def get_json(client: http.client.HTTPConnection, path: str) -> Any:
    got = ask(client, "GET", path)
    assert (got.status, got.headers["Content-Type"], got.headers["Content-Encoding"]) == (200, "application/json", None)
    return json.loads(got.content)


def exchange(port: int, pieces: list[bytes], pause: float = 0.03) -> bytes:
    """All that comes back for these pieces of requests, the last of which has the connection close."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        for piece in pieces:
            connection.sendall(piece)
            time.sleep(pause)
        return connection.makefile("rb").read()


# baseline, limited-conn, pipelined


def test_numbers_are_added_on_one_connection(client: http.client.HTTPConnection) -> None:
    for _ in range(10):
        a, b, body = (random.randint(-1000, 1000) for _ in range(3))
        path = f"/baseline11?a={a}&b={b}"
        for got, expected in (
            (ask(client, "GET", path), a + b), (ask(client, "POST", path, f"{body}"), a + b + body),
            (ask(client, "POST", path, iter([f"{body}".encode()]), Transfer_Encoding="chunked"), a + b + body),
        ):  # fmt: skip
            assert (got.status, got.content.decode()) == (200, str(expected))
            assert got.headers["Content-Type"].startswith("text/plain")


@pytest.mark.parametrize("query", ["a=x&b=1", "a=1&b="])
def test_what_is_no_number_is_a_400(client: http.client.HTTPConnection, query: str) -> None:
    assert ask(client, "GET", f"/baseline11?{query}").status == 400


def test_a_sum_of_more_digits_than_python_writes_is_a_400(client: http.client.HTTPConnection) -> None:
    assert ask(client, "POST", "/baseline11?a=1", "9" * 4300).status == 400


GET = b"GET /baseline11?a=13&b=42 HTTP/1.1\r\nHost: localhost\r\nX-Long: yes\r\nConnection: close\r\n\r\n"
POST = (
    b"POST /baseline11?a=13&b=42 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\nConnection: close\r\n\r\n20"
)


@pytest.mark.parametrize(
    ("sent", "cuts", "expected"),
    [(GET, [2], b"55"), (GET, [14], b"55"), (GET, [37, 60], b"55"), (GET, [-2], b"55"),
     (GET, [5, 37, 50, 60, -1], b"55"), (POST, [-2], b"75"), (POST, [-1], b"75"), (POST, [9, -30, -2, -1], b"75")],
    ids=range(8),
)  # fmt: skip
def test_requests_may_come_in_pieces(door: tuple[str, int], sent: bytes, cuts: list[int], expected: bytes) -> None:
    places = [0, *(cut % len(sent) for cut in cuts), len(sent)]
    pieces = [sent[start:end] for start, end in itertools.pairwise(places)]
    head, _, body = exchange(door[1], pieces).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n") and body == expected


def test_sixteen_requests_at_once_have_sixteen_answers(door: tuple[str, int]) -> None:
    one = b"GET /pipeline HTTP/1.1\r\nHost: localhost\r\n\r\n"
    last = b"GET /pipeline HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    said = exchange(door[1], [one * 15 + last])
    assert (said.count(b"HTTP/1.1 200 OK\r\n"), said.count(b"\r\n\r\nok")) == (16, 16)


# json, json-comp


@pytest.mark.parametrize(("count", "factor"), [(1, 3), (5, 7), (10, 2), (15, 5), (25, 4), (40, 8), (50, 6), (0, 1)])
def test_items_have_their_totals(client: http.client.HTTPConnection, data: Path, count: int, factor: int) -> None:
    dataset = json.loads((data / "dataset.json").read_text())
    assert len(dataset) == 50
    for m in (factor, random.randint(2, 99)):
        items = [{**item, "total": item["price"] * item["quantity"] * m} for item in dataset[:count]]
        assert get_json(client, f"/json/{count}?m={m}") == {"items": items, "count": count}


def test_a_multiplier_of_thousands_of_digits_is_a_400(client: http.client.HTTPConnection) -> None:
    got = ask(client, "GET", f"/json/1?m={'9' * 4299}")  # times a price, it is more than Python writes
    assert got.status in (400, 414)  # 414: gunicorn's own


@pytest.mark.parametrize("accepted", ["gzip, br", "gzip"])
def test_json_is_compressed_where_that_is_asked_for(client: http.client.HTTPConnection, accepted: str) -> None:
    plain = ask(client, "GET", "/json/40?m=8").content
    got = ask(client, "GET", "/json/40?m=8", Accept_Encoding=accepted)
    coding = got.headers["Content-Encoding"]
    assert coding in accepted and len(got.content) == int(got.headers["Content-Length"]) < len(plain) / 3
    packed = gzip.decompress(got.content) if coding == "gzip" else unpack_br(got.content)
    assert packed == plain


def unpack_br(octets: bytes) -> bytes:
    return bytes(importlib.import_module("brotli").decompress(octets))


# upload, static


@pytest.mark.parametrize("size", [0, 1, 500_000, 2_000_000, 20_000_000])
def test_the_bytes_of_an_upload_are_counted(client: http.client.HTTPConnection, size: int) -> None:
    got = ask(client, "POST", "/upload", bytes(size), Content_Type="application/octet-stream")
    assert (got.status, got.content.decode()) == (200, str(size))
    assert got.headers["Content-Type"].startswith("text/plain")


@pytest.mark.parametrize("name", arena_data.FILES)
def test_files_have_their_type_and_bytes(client: http.client.HTTPConnection, data: Path, name: str) -> None:
    for accepted in ("", "br;q=1, gzip;q=0.8", "gzip"):
        got = ask(client, "GET", f"/static/{name}", **({"Accept_Encoding": accepted} if accepted else {}))
        unpack = {"br": unpack_br, "gzip": gzip.decompress}.get(got.headers["Content-Encoding"], bytes)
        assert (got.status, unpack(got.content)) == (200, (data / "static" / name).read_bytes())
        assert got.headers["Content-Type"].split(";")[0] == TYPES[name.rpartition(".")[2]]
        is_text = not name.endswith((".woff2", ".webp"))
        assert got.headers["Content-Encoding"] == (accepted[:4].rstrip(";q=") or None if is_text else None)


def test_a_file_that_is_not_there_is_a_404(client: http.client.HTTPConnection) -> None:
    assert ask(client, "GET", "/static/nowhere.css").status == 404


# async-db, crud


@pytest.mark.parametrize(("low", "high", "limit"), [(5, 80, 7), (20, 150, 18), (100, 400, 33), (10, 50, 50)])
def test_rows_between_two_prices_are_found(
    client: http.client.HTTPConnection, low: int, high: int, limit: int
) -> None:
    found = get_json(client, f"/async-db?min={low}&max={high}&limit={limit}")
    assert len(found["items"]) == found["count"] == limit
    for item in found["items"]:
        assert low <= item["price"] <= high and isinstance(item["active"], bool) and isinstance(item["tags"], list)
        assert item["rating"].keys() == {"score", "count"}


@pytest.mark.parametrize(("asked", "count"), [("min=9999&max=9999", 0), ("limit=1000", 50), ("limit=-3", 1), ("", 50)])
def test_there_are_never_more_than_fifty(client: http.client.HTTPConnection, asked: str, count: int) -> None:
    assert get_json(client, f"/async-db?{asked}")["count"] == count


def test_a_page_of_items_of_a_category_is_listed(client: http.client.HTTPConnection) -> None:
    first, second = (get_json(client, f"/crud/items?category=office&page={page}&limit=5") for page in (1, 2))
    assert (first["total"], first["page"], second["page"]) == (5, 1, 2)
    numbers = [item["id"] for page in (first, second) for item in page["items"]]
    assert numbers == sorted(set(numbers)) and len(numbers) == 10
    assert {item["category"] for item in first["items"]} == {"office"}


def test_an_item_is_cached_until_it_changes(client: http.client.HTTPConnection) -> None:
    def read(number: int) -> tuple[str, Any]:
        got = ask(client, "GET", f"/crud/items/{number}")
        assert got.status == 200
        return got.headers["X-Cache"], json.loads(got.content)

    number = random.randint(100_000, 10_000_000)
    sent = {"id": number, "name": "new", "category": "test", "price": 25, "quantity": 10}
    for name in ("new", "newer"):
        made = ask(client, "POST", "/crud/items", json.dumps({**sent, "name": name}), Content_Type="application/json")
        assert (made.status, json.loads(made.content)["name"]) == (201, name)
    hits = []
    for _ in range(100):  # two requests within 200 ms, on a machine that is busy with other things
        told, item = read(number)
        hits.append(told)
        assert (item["id"], item["name"], item["rating"]) == (number, "newer", {"score": 0, "count": 0})
        if "HIT" in hits:
            break
    assert hits[0] == "MISS" and hits[-1] == "HIT"
    changed = json.dumps({"name": "changed", "price": 30, "quantity": 5})
    got = ask(client, "PUT", f"/crud/items/{number}", changed, Content_Type="application/json")
    assert (got.status, json.loads(got.content)["price"]) == (200, 30)
    told, item = read(number)
    assert (told, item["name"], item["quantity"]) == ("MISS", "changed", 5)


def test_an_item_that_is_not_there_is_a_404(client: http.client.HTTPConnection) -> None:
    changed = json.dumps({"name": "changed", "price": 30, "quantity": 5})
    assert ask(client, "GET", "/crud/items/999999").status == 404
    assert ask(client, "PUT", "/crud/items/999999", changed, Content_Type="application/json").status == 404


@pytest.mark.parametrize(
    "sent",
    ["{", "[]", '{"name": "x"}', '{"name": "x", "price": [], "quantity": 5}',
     '{"name": null, "price": 1, "quantity": 5}', '{"name": "x", "price": null, "quantity": 5}',
     '{"name": "x", "price": 1e30, "quantity": 5}', '{"name": "\\u0000", "price": 1, "quantity": 1}',
     '{"name": "x", "price": 1.5, "quantity": 5}', '{"name": "x", "price": true, "quantity": 5}',
     '{"name": "x", "price": "1", "quantity": 5}', '{"name": ["x"], "price": 1, "quantity": 5}',
     '{"name": "x", "price": 2147483648, "quantity": 5}'],
)  # fmt: skip
def test_what_is_no_item_is_a_400(client: http.client.HTTPConnection, sent: str) -> None:
    assert ask(client, "PUT", "/crud/items/1", sent, Content_Type="application/json").status == 400


# echo-ws


def test_a_websocket_gives_every_text_back(door: tuple[str, int]) -> None:
    if door[0] == "gunicorn":
        pytest.skip("WSGI servers have no WebSockets")
    with connect(f"ws://127.0.0.1:{door[1]}/ws", open_timeout=60) as websocket:
        for text in ["hello"] * 20 + [f"{random.random()}", "", "ü" * 1000]:
            websocket.send(text)
            assert websocket.recv(60) == text


# What is missing


def test_without_a_database_lists_are_empty_and_all_else_is_served(services: dict[str, str]) -> None:
    away = {**services, "DATABASE_URL": f"postgresql://tester@127.0.0.1:{free_port()}/postgres"}
    with serving("http", away) as port, contextlib.closing(
        http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    ) as client:
        assert get_json(client, "/async-db?min=10&max=50&limit=20") == {"items": [], "count": 0}
        assert ask(client, "GET", "/crud/items/1").status == 503
        assert ask(client, "GET", "/pipeline").content == b"ok"


def test_without_its_redis_items_are_a_503_and_all_else_is_served(services: dict[str, str]) -> None:
    away = {**services, "REDIS_URL": f"redis://127.0.0.1:{free_port()}"}
    with serving("http", away) as port, contextlib.closing(
        http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    ) as client:
        got = ask(client, "GET", "/crud/items/1")
        assert (got.status, got.headers["Retry-After"]) == (503, "1")
        assert ask(client, "GET", "/async-db").status == ask(client, "GET", "/pipeline").status == 200


def test_without_its_data_it_says_so_in_one_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "brubeck_lite", "arena:app", "--bind", f"127.0.0.1:{free_port()}", "--quiet"]
    variables = {**environment(), "DATA": str(tmp_path)}
    done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert f"there is no folder '{tmp_path}/static'" in done.stderr
