"""Multipart forms from an open file, as a WSGI server gives one, parsed in process by us, Werkzeug and Bottle."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import statistics
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import bottle
from werkzeug.formparser import parse_form_data

from brubeck_lite import Brubeck, WSGIRequest, read_parts

Parsed = tuple[dict[str, str], Any]  # the fields, and the file `upload` or None
BOUNDARY = "----WebKitFormBoundary7MA4YWxkTrZu0gW0"
bottle.BaseRequest.MEMFILE_MAX = 512 << 10  # about what we and Werkzeug hold in memory
app = Brubeck(max_body=1 << 30)


def by_us(environ: dict[str, Any]) -> Parsed:
    request = WSGIRequest(environ)
    request.app = app
    return dict(request.form), request.files.get("upload")


def by_werkzeug(environ: dict[str, Any]) -> Parsed:
    _, form, files = parse_form_data(environ)
    return form.to_dict(), files.get("upload")


def by_bottle(environ: dict[str, Any]) -> Parsed:
    request = bottle.BaseRequest(environ)
    upload = request.files.get("upload")
    return dict(request.forms.decode()), upload and upload.file


def by_reader(environ: dict[str, Any]) -> Parsed:
    """Our reader alone, which keeps nothing."""
    for _, pieces in read_parts(environ["wsgi.input"].read, BOUNDARY.encode()):
        for _ in pieces:
            pass
    return {}, None


PARSERS: dict[str, Callable[[dict[str, Any]], Parsed]] = {
    "ours": by_us, "Werkzeug": by_werkzeug, "Bottle": by_bottle, "our reader alone": by_reader
}  # fmt: skip


def form(fields: dict[str, str], upload: bytes) -> bytes:
    """The form as browsers send it; without a file if that is empty."""
    parts = [f'Content-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n' for name, value in fields.items()]
    body = "".join(f"--{BOUNDARY}\r\n{part}" for part in parts).encode()
    if upload:
        head = 'Content-Disposition: form-data; name="upload"; filename="a.bin"\r\nContent-Type: image/png\r\n\r\n'
        body += f"--{BOUNDARY}\r\n{head}".encode() + upload + b"\r\n"
    return body + f"--{BOUNDARY}--\r\n".encode()


def parse(parser: str, path: str) -> tuple[float, dict[str, str], str]:
    """The seconds of CPU time it took, the fields and the hash of the file."""
    with open(path, "rb") as body:
        environ = {
            "REQUEST_METHOD": "POST", "SCRIPT_NAME": "", "PATH_INFO": "/", "QUERY_STRING": "", "HTTP_HOST": "localhost",
            "CONTENT_TYPE": f"multipart/form-data; boundary={BOUNDARY}", "wsgi.input": body, "wsgi.url_scheme": "http",
            "CONTENT_LENGTH": str(Path(path).stat().st_size),
        }  # fmt: skip
        began = time.process_time()
        fields, file = PARSERS[parser](environ)
        seconds = time.process_time() - began
        hashed = hashlib.sha256()
        while file and (piece := file.read(1 << 16)):
            hashed.update(piece)
    return seconds, fields, hashed.hexdigest()


def peak(parser: str, path: str) -> float:
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


def compare_forms(row: Callable[..., None], short: bool) -> None:
    """A large file, one of short lines, and many small fields: CPU times in interleaved rounds, and memory."""
    size = (8 if short else 100) * 1_000_000
    title, lines = {"title": "a"}, b"Take five, said Dave\r\n" * (size // 88)
    for what, fields, upload in (
        (f"multipart, {size // 1_000_000} MB file", title, random.Random(5).randbytes(size)),
        (f"multipart, {size // 4_000_000} MB of CRLF lines", title, lines),
        ("multipart, 900 fields", {f"field{number}": f"value {number} ä" for number in range(900)}, b""),
    ):
        with temporary_files_in_memory(), tempfile.NamedTemporaryFile() as body:
            body.write(form(fields, upload))
            body.flush()
            times: dict[str, list[float]] = {parser: [] for parser in PARSERS}
            expected = [fields, hashlib.sha256(upload).hexdigest()]
            for _ in range((2 if short else 7) * (1 if upload else 5)):
                for parser, measured in times.items():
                    seconds, *parsed = parse(parser, body.name)
                    assert parsed == expected or parser == "our reader alone", parser
                    measured.append(seconds * 1000)
            medians = {parser: statistics.median(measured) for parser, measured in times.items()}
            told = {
                parser: f"{ms:.1f} ms CPU, {peak(parser, body.name):.1f} MB at most" for parser, ms in medians.items()
            }
        for parser in (*PARSERS,)[1:]:
            aim = None if parser == "our reader alone" else 1.0
            row(what, told["ours"], f"{parser} {told[parser]}", medians["ours"] / medians[parser], aim)
