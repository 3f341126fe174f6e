"""Multipart forms from an open file, as a WSGI server gives one, parsed in process by us, Werkzeug and Bottle."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import bottle
from rounds import interleave, load, medians, with_each
from tables import Comparison
from werkzeug.formparser import parse_form_data

Parsed = tuple[dict[str, str], Any]  # the fields, and the file `upload` or None
Parser = Callable[[dict[str, Any]], Parsed]
BOUNDARY = "----WebKitFormBoundary7MA4YWxkTrZu0gW0"
bottle.BaseRequest.MEMFILE_MAX = 512 << 10  # about what we and Werkzeug hold in memory


def by_us(brubeck_lite: ModuleType) -> Parser:
    app = brubeck_lite.Brubeck(max_body=1 << 30)

    def parse(environ: dict[str, Any]) -> Parsed:
        request = brubeck_lite.WSGIRequest(environ)
        request.app = app
        return dict(request.form), request.files.get("upload")

    return parse


def by_werkzeug(environ: dict[str, Any]) -> Parsed:
    _, form, files = parse_form_data(environ)
    return form.to_dict(), files.get("upload")


def by_bottle(environ: dict[str, Any]) -> Parsed:
    request = bottle.BaseRequest(environ)
    upload = request.files.get("upload")
    return dict(request.forms.decode()), upload and upload.file


def by_reader(environ: dict[str, Any]) -> Parsed:
    """Our reader alone, which keeps nothing."""
    for _, pieces in load("ours").read_parts(environ["wsgi.input"].read, BOUNDARY.encode()):
        for _ in pieces:
            pass
    return {}, None


OTHERS: dict[str, Parser] = {
    "Werkzeug": by_werkzeug, "Bottle": by_bottle, "our reader alone": by_reader
}  # fmt: skip
AIMS = {"Werkzeug": 1.0, "Bottle": 1.0, "our reader alone": None}


def form(fields: dict[str, str], upload: bytes) -> bytes:
    """The form as browsers send it; without a file if that is empty."""
    parts = [f'Content-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n' for name, value in fields.items()]
    body = "".join(f"--{BOUNDARY}\r\n{part}" for part in parts).encode()
    if upload:
        head = 'Content-Disposition: form-data; name="upload"; filename="a.bin"\r\nContent-Type: image/png\r\n\r\n'
        body += f"--{BOUNDARY}\r\n{head}".encode() + upload + b"\r\n"
    return body + f"--{BOUNDARY}--\r\n".encode()


def parse(parser: Parser, path: str) -> tuple[float, dict[str, str], str]:
    """The seconds of CPU time it took, the fields and the hash of the file."""
    with open(path, "rb") as body:
        environ = {
            "REQUEST_METHOD": "POST", "SCRIPT_NAME": "", "PATH_INFO": "/", "QUERY_STRING": "", "HTTP_HOST": "localhost",
            "CONTENT_TYPE": f"multipart/form-data; boundary={BOUNDARY}", "wsgi.input": body, "wsgi.url_scheme": "http",
            "CONTENT_LENGTH": str(Path(path).stat().st_size),
        }  # fmt: skip
        began = time.process_time()
        fields, file = parser(environ)
        seconds = time.process_time() - began
        hashed = hashlib.sha256()
        while file and (piece := file.read(1 << 16)):
            hashed.update(piece)
    return seconds, fields, hashed.hexdigest()


def peak(parser: Parser, path: str) -> float:
    """The most megabytes that Python held at once while it parsed."""
    tracemalloc.start()
    try:
        parse(parser, path)
        return tracemalloc.get_traced_memory()[1] / 1e6
    finally:
        tracemalloc.stop()


@contextlib.contextmanager
def temporary_files_in_memory() -> Iterator[None]:
    """So that no disk is measured, where there is such a folder."""
    before = tempfile.tempdir
    tempfile.tempdir = "/dev/shm" if os.path.isdir("/dev/shm") else None
    try:
        yield
    finally:
        tempfile.tempdir = before


def compare_form(table: Comparison, what: str, fields: dict[str, str], upload: bytes, rounds: int) -> None:
    """One form: CPU times in interleaved rounds, and memory."""
    parsers = {**{name: by_us(load(name)) for name in with_each()}, **OTHERS}
    expected = [fields, hashlib.sha256(upload).hexdigest()]

    def parse_rightly(name: str) -> float:
        seconds, *parsed = parse(parsers[name], body.name)
        assert parsed == expected or name == "our reader alone", name
        return seconds * 1000

    with temporary_files_in_memory(), tempfile.NamedTemporaryFile() as body:
        body.write(form(fields, upload))
        body.flush()
        times = medians(interleave(rounds, {name: partial(parse_rightly, name) for name in parsers}))
        peaks = {name: peak(parser, body.name) for name, parser in parsers.items()}
    told = {name: f"{times[name]:.1f} ms CPU, {peaks[name]:.1f} MB at most" for name in parsers}
    before = (told["before"], times["ours"] / times["before"]) if "before" in told else None
    for name, aim in AIMS.items():
        table.row(what, told["ours"], f"{name} {told[name]}", times["ours"] / times[name], aim, before=before)


def compare_forms(table: Comparison, short: bool) -> None:
    """A large file, one of short lines, and many small fields."""
    size, rounds = (8_000_000, 2) if short else (100_000_000, 7)
    title, lines = {"title": "a"}, b"Take five, said Dave\r\n" * (size // 88)
    upload = random.Random(5).randbytes(size)
    compare_form(table, f"multipart, {size // 1_000_000} MB file", title, upload, rounds)
    compare_form(table, f"multipart, {size // 4_000_000} MB of CRLF lines", title, lines, rounds)
    fields = {f"field{number}": f"value {number} ä" for number in range(900)}
    compare_form(table, "multipart, 900 fields", fields, b"", rounds * 5)
