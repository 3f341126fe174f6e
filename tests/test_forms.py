"""Room Request: forms and the files in them, urlencoded and multipart/form-data (RFC 7578; RFC 2046, 5.1.1)."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote_to_bytes

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support import environment
from urllib3.fields import RequestField
from urllib3.filepost import encode_multipart_formdata

from brubeck_lite import Brubeck, HTTPError, Request, UploadedFile, parse_urlencoded, read_parts

URLENCODED = "application/x-www-form-urlencoded"
MULTIPART = "multipart/form-data; boundary=limit"
BINARY = "application/octet-stream"  # of a file whose sender does not say
MIB = 1 << 20

app = Brubeck()


def look(request: Request) -> list[Any]:
    """The fields, and the files as [filename, content type, content]."""
    return [
        {name: request.form.getall(name) for name in request.form},
        {
            name: [[file.filename, file.content_type, file.read().decode("latin-1")] for file in files.getall(name)]
            for files in [request.files]
            for name in files
        },
    ]


@app.route("/", methods=["GET", "POST", "PUT", "PATCH", "DELETE"])
def index(request: Request) -> list[Any]:
    return look(request)


@app.post("/small", max_body=1000)
def small(request: Request) -> list[Any]:
    return look(request)


@app.post("/sizes")
@app.post("/large", name="large", max_body=128 * MIB)
def sizes(request: Request) -> list[Any]:
    return [len(request.form), [file.size for name in request.files for file in request.files.getall(name)]]


def see(body: bytes | str, content_type: str = MULTIPART, path: str = "/") -> Any:
    """What a handler sees of a form; the status where the answer is an error."""
    got = app.test().post(path, {"Content-Type": content_type}, data=body)
    return got.json if got.status == 200 else got.status


def part(head: str, content: bytes | str = "", first: str = "Content-Disposition: form-data; ") -> bytes:
    """A part, with the line before it; `head` is what follows `first`, more lines of it too."""
    octets = content.encode() if isinstance(content, str) else content
    return f"--limit\r\n{first}{head}\r\n\r\n".encode() + octets + b"\r\n"


def whole(*parts: bytes) -> bytes:
    return b"".join(parts) + b"--limit--\r\n"


# urlencoded


@pytest.mark.parametrize(
    ("body", "form"),
    [
        ("a=1&b=2", {"a": ["1"], "b": ["2"]}),
        ("a=2&b=&a=1", {"a": ["2", "1"], "b": [""]}),
        ("a=+x+%2B", {"a": [" x +"]}),
        ("a=%C3%A9&%c3%a9=%E2%82%AC", {"a": ["é"], "é": ["€"]}),
        ("a=é", {"a": ["é"]}),
        ("a=%ff", {"a": ["\ufffd"]}),
        (b"a=\xff\xe9", {"a": ["\ufffd\ufffd"]}),
        ("a=%F0%9F%8E%B7", {"a": ["\N{SAXOPHONE}"]}),
        ("a=1;b=2", {"a": ["1;b=2"]}),
        ("a=1=2", {"a": ["1=2"]}),
        ("a&b=1", {"a": [""], "b": ["1"]}),
        ("&&a=1&", {"a": ["1"]}),
        ("=x&a=1", {"": ["x"], "a": ["1"]}),
        ("a=%&b=%zz&c=%4", {"a": ["%"], "b": ["%zz"], "c": ["%4"]}),
        ("a=%00%0d%0a", {"a": ["\0\r\n"]}),
        ("a=1\r\n", {"a": ["1\r\n"]}),
        ("", {}),
    ],
)
def test_urlencoded_forms(body: bytes | str, form: dict[str, list[str]]) -> None:
    assert see(body, URLENCODED) == [form, {}]


@pytest.mark.parametrize("content_type", [URLENCODED + "; charset=latin-1", URLENCODED.upper(), URLENCODED + " ;x"])
def test_a_urlencoded_form_is_utf_8_whatever_its_parameters_say(content_type: str) -> None:
    assert see("a=%C3%A9", content_type) == [{"a": ["é"]}, {}]


@pytest.mark.parametrize(
    "content_type",
    ["", "text/plain", URLENCODED + "x", "x" + URLENCODED, "multipart/mixed; boundary=limit", "multipart/form-datax"],
)
def test_other_bodies_are_no_forms(content_type: str) -> None:
    assert see("a=1", content_type) == [{}, {}]


@pytest.mark.parametrize("method", ["post", "put", "patch", "delete"])
def test_every_method_may_carry_a_form(method: str) -> None:
    answer = getattr(app.test(), method)("/", {"Content-Type": URLENCODED}, data="a=1")
    assert answer.json == [{"a": ["1"]}, {}]


def test_a_request_without_a_body_has_an_empty_form() -> None:
    assert app.test().get("/").json == [{}, {}]


@pytest.mark.parametrize("field", ["a=1", "a", "="])
def test_a_thousand_urlencoded_fields_and_no_more(field: str) -> None:
    assert see("&".join([field] * 1000), URLENCODED)[1] == {}
    assert see("&".join([field] * 1001), URLENCODED) == 413


# multipart, as clients send it


@pytest.mark.parametrize(
    ("body", "form", "files"),
    [
        (whole(part('name="a"', "1")), {"a": ["1"]}, {}),
        (whole(part('name="a"', "2"), part('name="b"', "é"), part('name="a"', "1")), {"a": ["2", "1"], "b": ["é"]}, {}),
        (whole(part('name="a"')), {"a": [""]}, {}),
        (whole(part('name="a"', b"\xff")), {"a": ["\ufffd"]}, {}),
        (whole(part('name="é €"', "x")), {"é €": ["x"]}, {}),
        (whole(part("name=a", "x")), {"a": ["x"]}, {}),
        (whole(part('name=""', "x")), {"": ["x"]}, {}),
        (whole(part('name="a;b=c"; x="y;z"', "x")), {"a;b=c": ["x"]}, {}),
        (whole(part(r'name="a\"b\\c\d"', "x")), {r'a"b\c\d': ["x"]}, {}),
        (whole(part('name="f"; filename="a.txt"', "x")), {}, {"f": [["a.txt", BINARY, "x"]]}),
        (whole(part('filename="a.txt"; name="f"', "x")), {}, {"f": [["a.txt", BINARY, "x"]]}),
        (whole(part("filename=a.txt; name=f", "x")), {}, {"f": [["a.txt", BINARY, "x"]]}),
        (
            whole(part('name="f"; filename="a.png"\r\nContent-Type: image/png', b"\x89PNG\r\n\x1a\n")),
            {},
            {"f": [["a.png", "image/png", "\x89PNG\r\n\x1a\n"]]},
        ),
        (
            whole(part('name="f"; filename="a"\r\nContent-Type: text/x; charset=utf-8', "x"), part("name=f", "y")),
            {"f": ["y"]},
            {"f": [["a", "text/x; charset=utf-8", "x"]]},
        ),
        (
            whole(part("name=f; filename=1", "x"), part("name=f; filename=2", "y")),
            {},
            {"f": [["1", BINARY, "x"], ["2", BINARY, "y"]]},
        ),
        (whole(part('name="f"; filename=""')), {}, {}),
        (whole(part('name="f"; filename=""\r\nContent-Type: application/octet-stream')), {}, {}),
        (whole(part('name="f"; filename=""', "x")), {}, {"f": [["", BINARY, "x"]]}),
        (whole(part('name="f"; filename="a"')), {}, {"f": [["a", BINARY, ""]]}),
        (whole(part("FORM-DATA; NAME=a", "x", first="CONTENT-disposition:")), {"a": ["x"]}, {}),
        (whole(part('form-data ; name="a" ;x=y', "x", first="content-disposition: \t ")), {"a": ["x"]}, {}),
        (
            whole(part("name=a", "x", first="X-1!#$%&'*+-.^_`|~: \"\r\nContent-Disposition: form-data; ")),
            {"a": ["x"]},
            {},
        ),
        (whole(part("name=a\r\nContent-Length: 100", "x")), {"a": ["x"]}, {}),
        (whole(part("name=a\r\nContent-Transfer-Encoding: 7bit", "x")), {"a": ["x"]}, {}),
        (whole(part("name=a\r\nContent-Transfer-Encoding: 8BIT", "x")), {"a": ["x"]}, {}),
        (whole(part("name=a\r\ncontent-transfer-encoding: Binary", "x")), {"a": ["x"]}, {}),
        (whole(part("name=a")[:-2], part("name=b", "x")), {"a": [""], "b": ["x"]}, {}),  # RFC 2046: [CRLF *OCTET]
        (b"--limit--", {}, {}),
        (b"--limit--\r\n", {}, {}),
    ],
)
def test_multipart_forms(body: bytes, form: dict[str, list[str]], files: dict[str, Any]) -> None:
    assert see(body) == [form, files]


@pytest.mark.parametrize(
    "content",
    [
        "\r\n",
        "\r\nx",
        "x\r\n",
        "\r\n\r\n\r\n",
        "\r",
        "\n",
        "x\r",
        "--",
        "x--limit--",
        "x\r\n-limit",
        "x\r\n--limi",
        "x\r\n--limi\r\n--limi\r\n",
        "x\r\n --limit",
        "x\r--limit",
        "x\n--limit\n",
        "x\n--limit--\n",
        "x\r\r--limit",
        "x\r\n--LIMIT\r\n",
        "\r\n" * 50 + "--limi" + "\r\n" * 50,
        "\r\n--\r\n--l\r\n--li\r\n--lim\r\n--limi\r\n-\r\n",
        bytes(range(256)) * 3,
    ],
)
@pytest.mark.parametrize("name", ["name=f; filename=x", "name=a"])
def test_content_that_looks_like_a_boundary_is_content(name: str, content: str | bytes) -> None:
    seen = see(whole(part("name=before", "1"), part(name, content), part("name=after", "2")))
    octets = content.encode() if isinstance(content, str) else content
    assert (seen[0]["before"], seen[0]["after"]) == (["1"], ["2"])
    found = seen[1]["f"][0][2].encode("latin-1") if "f" in seen[1] else seen[0]["a"][0].encode()
    assert found == octets if "f" in seen[1] else found.decode() == octets.decode("utf-8", "replace")


ONE = part("name=a", "1")


@pytest.mark.parametrize(
    "body",
    [
        b"a preamble\r\n" + whole(ONE),
        b"\r\n" + whole(ONE),
        b"\r\n\r\n" + whole(ONE),
        b"MIME-Version: 1.0\r\n\r\nx--limit\r\n --limit\r\n--limi\r\n\r\n" + whole(ONE),
        b"--limi\r\n" + whole(ONE),
        b"\n--limit\n\r\n" + whole(ONE),
        whole(ONE)[:-2],
        whole(ONE) + b"an epilogue",
        whole(ONE) + b"\r\n\r\n--limit\r\nnot a head\r\n\r\n",
        whole(ONE) + whole(part("name=b", "2")),
        whole(ONE) + b"\r" * 1000 + b"\0" * 1000,
        whole(ONE).replace(b"--limit\r\n", b"--limit \t \r\n"),
        whole(ONE).replace(b"limit--", b"limit-- \t"),
    ],
)
def test_what_stands_around_the_parts_is_skipped(body: bytes) -> None:
    assert see(body) == [{"a": ["1"]}, {}]


@pytest.mark.parametrize(
    ("parameter", "filename"),
    [
        ('filename="a.txt"', "a.txt"),
        ('filename="MiXeD cAsE.TXT"', "MiXeD cAsE.TXT"),
        ('filename="日本 é.txt"', "日本 é.txt"),
        ('FileName="a.txt"', "a.txt"),
        (r'filename="a\"b;c=d.txt"', 'a"b;c=d.txt'),
        ('filename="/tmp/a.txt"', "a.txt"),
        ('filename="../../a.txt"', "a.txt"),
        (r'filename="..\..\a.txt"', "a.txt"),
        (r'filename="C:\some\folder\a.txt"', "a.txt"),
        (r'filename="C:\\some\\folder\\a.txt"', "a.txt"),
        (r'filename="\\host\share\a.txt"', "a.txt"),
        (r'filename="/mixed\a.txt"', "a.txt"),
        (r'filename="mixed\in/a.txt"', "a.txt"),
        ('filename="folder/"', ""),
        ('filename="..&#x2F;a.txt"', "..&#x2F;a.txt"),
        ('filename="' + "x" * 1000 + '"', "x" * 1000),
        ("filename*=UTF-8''a.txt", "a.txt"),
        ("filename*=utf-8'en'%e2%82%ac%20.txt", "€ .txt"),
        ("FILENAME*=UTF-8''a", "a"),
        ("filename*=UTF-8''..%2F..%2Fa.txt", "a.txt"),
        ("filename*=UTF-8''..%5Ca.txt", "a.txt"),
    ],
)
def test_filenames(parameter: str, filename: str) -> None:
    assert see(whole(part(f"name=f; {parameter}", "x")))[1]["f"][0][0] == filename


@pytest.mark.parametrize("parameter", ['filename="a\0b\x07\x7f.txt"', "filename*=UTF-8''a%00b%07%7F.txt%0D%0A"])
def test_no_control_character_reaches_a_filename(parameter: str) -> None:
    seen = see(whole(part(f"name=f; {parameter}", "x")))
    assert seen == 400 or seen[1]["f"][0][0] == "ab.txt"


@pytest.mark.parametrize("filename", [b'"\xff\xe9.txt"', b'"\xe9"'])
def test_a_filename_of_invalid_utf_8_has_replacement_characters(filename: bytes) -> None:
    body = whole(part("name=f; filename=HERE", "x")).replace(b"HERE", filename)
    assert "\ufffd" in see(body)[1]["f"][0][0]


# Names and charsets as real clients write them


@pytest.mark.parametrize(
    ("parameters", "name", "filename"),
    [
        (r'name="f"; filename="tail\"', "f", "tail\\"),  # Node, curl, urllib3: a backslash is one
        (r'name="tail\"; filename="a.txt"', "tail\\", "a.txt"),
        (r'name="tail\"; filename="tail\"', "tail\\", "tail\\"),
        (r'name="f" ; filename="tail\" ; x=y', "f", "tail\\"),
        (r'name="tail\\"; filename="tail\\"', "tail\\", "tail\\"),  # Go: it is escaped
        (r'name="\"; filename="a.txt"', "\\", "a.txt"),
        (r'name="a\"; filename="b\"c.txt"', "a\\", '"c.txt'),  # who writes both
        (r'name="a\"b"; filename="a\"; b=c.txt"', 'a"b', 'a"; b=c.txt'),  # Go, old curl: \" is a quote
        (r'name="\"\""; filename="\"a\""', '""', '"a"'),
        (r'name="first\ name"; filename="a%20b.txt"', "first name", "a%20b.txt"),  # aiohttp
        ('name="f"; filename="12" single.txt"', "f", '12" single.txt'),  # form-data of npm
        ('name="f"; filename=""a""', "f", '"a"'),
        ('name="a%22b"; filename="12%22 single.txt"', 'a"b', '12" single.txt'),  # browsers
        ('name="a%0D%0Ab%0Ac"; filename="a%0Ab.txt"', "a\r\nb\nc", "ab.txt"),
        ('name="%0d%41%25%2522%"; filename="100%25 %20%2F%5C%.txt"', "%0d%41%25%2522%", "100%25 %20%2F%5C%.txt"),
        ("name=a%22b; filename=c%22d", "a%22b", "c%22d"),  # outside quotes nobody writes them
        ("name=file; filename=a.txt; filename*=utf-8''a.txt", "file", "a.txt"),  # .NET
        ("name=f; filename=\"a.txt\"; filename*=UTF-8''%e2%82%ac.txt", "f", "€.txt"),
        ("name=f; filename*=UTF-8''%e2%82%ac.txt; filename=\"a.txt\"", "f", "€.txt"),
        ("name=f; filename=\"=?utf-8?B?4oKsLnR4dA==?=\"; filename*=utf-8''%E2%82%AC.txt", "f", "€.txt"),
        ('name="=?utf-8?B?4oKs?="; filename=a', "€", "a"),  # .NET
        ('name="=?utf-8?B?gA==?="; filename="=?utf-8?Q?a?="', "=?utf-8?B?gA==?=", "=?utf-8?Q?a?="),
        ("name=f; filename*=iso-8859-1'en'%A3%20%E9.txt", "f", "£ é.txt"),
        ("name=f; filename*=\"UTF-8''%e2%82%ac.txt\"", "f", "€.txt"),  # Apache HttpClient 5
        ("name=f; filename*=UTF-8''it's.txt", "f", "it's.txt"),
        ("name=f; filename*=UTF-8''a%22b%5Cc%2F..%2Fd%0D.txt", "f", "d.txt"),
        ("name=f; filename=a.txt; filename*=koi8-r''b.txt", "f", "a.txt"),  # broken ones stand back
        ("name=f; filename=a.txt; filename*=UTF-8''%ff", "f", "a.txt"),
        ("name=f; filename=a.txt; filename*=UTF-8'%41", "f", "a.txt"),
        ("name=f; filename=a.txt; filename*=UTF-8''%4", "f", "a.txt"),
        ("name=f; filename=a.txt; filename*=b.txt", "f", "a.txt"),
        ("name=x; name*=utf-8''%e2%82%ac; filename=a", "€", "a"),  # old urllib3
        ("name*=utf-8''%e2%82%ac; filename=a", "€", "a"),
        ("name=my field ; filename=my file.txt ;x=y", "my field", "my file.txt"),
        ("name=é; filename=ü@[]{}?/,<>=.txt", "é", ",<>=.txt"),
        ("name=f;\r\n filename=a.txt", "f", "a.txt"),
        ('name="f";\r\n\tfilename="a\r\n b.txt"\r\nX:\r\n y', "f", "a b.txt"),
        ('name="\u202etxt.exe"; filename="\u05d0\u202etxt.exe"', "\u202etxt.exe", "\u05d0\u202etxt.exe"),
        ('name="f"; filename="' + "ä" * 127 + 'a"', "f", "ä" * 127 + "a"),
        ('name="f"; filename="..\\"', "f", ""),
    ],
)
def test_names_and_filenames_as_clients_write_them(parameters: str, name: str, filename: str) -> None:
    seen = see(whole(part(parameters, "x")))
    assert [(name, files[0][0]) for name, files in seen[1].items()] == [(name, filename)]


# What clients make of a name between quotes: seen of these versions, in November 2026.
STYLES: dict[str, Callable[[str], str]] = {
    "Chromium 156, curl 7.88, fetch of Node 20, requests 2.34": lambda name: re.sub(
        '["\r\n]', lambda character: quote(character[0]), name
    ),
    "httpx 0.28": lambda name: re.sub('["\n]', lambda c: quote(c[0]), name.replace("\\", r"\\")),
    "Go 1.19, HttpClient 4.5, HTTP::Request::Common 6.44": lambda name: re.sub(r'(["\\])', r"\\\1", name),
    "form-data of npm": str,
}


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize(
    "name",
    ["plain.txt", 'a"b.txt', '"', "tail\\", "a\\b.txt", "a\nb.txt", "100%41 %.txt", "a; b=c.txt", "äöü é.txt",
     "ä" * 127, "\u05e9\u05dc\u05d5\u05dd \u202etxt.exe", "'", ";", "a=b", '12" single, 7" too.txt', "=?utf-8?B?x?=",
     "%2F", "%5C", " a "],
)  # fmt: skip
def test_a_name_arrives_as_it_was_whatever_the_client_makes_of_it(style: str, name: str) -> None:
    """But for folders and control characters of filenames; and some clients cannot send a line end."""
    sent = STYLES[style](name)
    seen = see(whole(part(f'name="{sent}"; filename="{sent}"', "x")))
    if "\n" in sent:
        assert seen == 400
    else:
        filename = "b.txt" if name == "a\\b.txt" else name.replace("\n", "")
        assert seen == [{}, {name: [[filename, BINARY, "x"]]}]


def test_a_field_is_named_as_a_file_is() -> None:
    names = ["a%22b", "a%0D%0Ab", "tail\\"]
    seen = see(whole(*[part(f'name="{name}"', "x") for name in names]))
    assert list(seen[0]) == ['a"b', "a\r\nb", "tail\\"]


LATIN, CHARSET = "é".encode("latin-1"), part("name=_charset_", "ISO-8859-1")


@pytest.mark.parametrize(
    ("parts", "form"),
    [
        ([part("name=a\r\nContent-Type: text/plain; charset=ISO-8859-1", LATIN)], {"a": ["é"]}),
        ([part('name=a\r\nContent-Type: text/plain;charset="iso-8859-1"', LATIN)], {"a": ["é"]}),
        ([part("name=a\r\nContent-Type: application/json; Charset=latin1", LATIN)], {"a": ["é"]}),
        ([part("name=a\r\nContent-Type: text/plain; charset=UTF-8", "é")], {"a": ["é"]}),
        ([part("name=a\r\nContent-Type: text/plain; charset=us-ascii", "é")], {"a": ["\ufffd\ufffd"]}),
        ([part("name=a\r\nContent-Type: text/plain; charset=", "é")], {"a": ["é"]}),
        ([part("name=a\r\nContent-Type: text/plain; format", "é")], {"a": ["é"]}),
        ([part("name=a\r\nContent-Type: text/plain; charset=windows-1252", b"\x80")], {"a": ["€"]}),
        ([part("name=a\r\nContent-Type: text/plain; charset=Shift_JIS", "表".encode("sjis"))], {"a": ["表"]}),
        ([part("name=a\r\nContent-Type: text/plain; charset=koi8-u", "є".encode("koi8-u"))], {"a": ["є"]}),
        ([part("name=a\r\nContent-Type: text/plain; charset=utf-16", "é".encode("utf-16"))], {"a": ["é"]}),
        ([part("name=a\r\nContent-Type: text/plain; charset=utf-16le", b"\x00\xd8")], {"a": ["\ufffd"]}),
        ([CHARSET, part("name=a", LATIN)], {"_charset_": ["ISO-8859-1"], "a": ["é"]}),
        ([part("name=a", LATIN), CHARSET], {"a": ["é"], "_charset_": ["ISO-8859-1"]}),
        (
            [CHARSET, part("name=a\r\nContent-Type: text/plain; charset=utf-8", "é")],
            {"_charset_": ["ISO-8859-1"], "a": ["é"]},
        ),
        ([part("name=_charset_"), part("name=a", "é")], {"_charset_": [""], "a": ["é"]}),
    ],
)
def test_a_field_has_its_own_charset_else_that_of_the_form(parts: list[bytes], form: dict[str, list[str]]) -> None:
    assert see(whole(*parts)) == [form, {}]


def test_names_that_are_not_utf_8_are_in_the_charset_of_the_form() -> None:
    head = b'--limit\r\nContent-Disposition: form-data; name="\xe9"'
    seen = see(head + b"\r\n\r\nx\r\n" + head + b'; filename="\xe9.txt"\r\n\r\ny\r\n' + whole(CHARSET))
    assert seen == [{"é": ["x"], "_charset_": ["ISO-8859-1"]}, {"é": [["é.txt", BINARY, "y"]]}]


def test_no_charset_brings_a_folder_into_a_filename() -> None:
    """In EBCDIC, `a` is a slash."""
    head = b'--limit\r\nContent-Disposition: form-data; name="f"; filename="KKaK\xff"\r\n\r\nx\r\n'
    assert "/" not in see(head + whole(part("name=_charset_", "cp037")))[1]["f"][0][0]


UNKNOWN = ["x-unknown", "utf-9", "base64", "hex", "rot13", "rot_13", "zip", "zlib", "bz2", "uu", "quopri", "idna",
           "mbcs", "punycode", "unicode_escape", "raw-unicode-escape", "utf-7", "undefined", "é",
           "utf-8" + "x" * 5000]  # fmt: skip


@pytest.mark.parametrize("charset", UNKNOWN)
def test_a_charset_that_is_none_of_text_is_400(charset: str) -> None:
    assert see(whole(part(f"name=a\r\nContent-Type: text/plain; charset={charset}", "x"))) == 400
    assert see(whole(part("name=_charset_", charset), ONE)) == 400


def test_python_keeps_nothing_of_the_charsets_that_clients_make_up() -> None:
    import encodings

    before = len(encodings._cache)  # type: ignore[attr-defined]
    for number in range(50):
        assert see(whole(part(f"name=a\r\nContent-Type: text/plain; charset=x{number}", "x"))) == 400
    assert len(encodings._cache) == before  # type: ignore[attr-defined]


# The body and its form


def test_a_urlencoded_form_leaves_its_bytes_as_the_body() -> None:
    asked = Brubeck()
    asked.post("/")(lambda request: [request.form["a"], request.body.decode(), request.form["a"]])
    assert asked.test().post("/", data={"a": "1 2"}).json == ["1 2", "a=1+2", "1 2"]
    assert asked.test().post("/", {"Content-Type": URLENCODED}, data="a=1&a=%ff").json == ["1", "a=1&a=%ff", "1"]


@pytest.mark.parametrize("first", ["form", "files", "get_argument"])
def test_the_body_of_a_multipart_form_is_read_before_it_or_an_error_says_so(first: str) -> None:
    asked, bad = Brubeck(), whole(part("name=a\r\nno colon"))

    @asked.post("/<order>")
    def read(request: Request, order: str) -> str:
        if order == "before":
            request.body  # noqa: B018
        with contextlib.suppress(HTTPError):
            value = getattr(request, first)
            value("a") if callable(value) else value
        return str(len(request.body))

    client, form = asked.test(raise_errors=True), {"Content-Type": MULTIPART}
    for body in (whole(ONE), bad):
        assert client.post("/before", form, data=body).text == str(len(body))
        with pytest.raises(RuntimeError, match=r"read request\.body before request\.form"):
            client.post("/after", form, data=body)
    assert client.post("/after", {"Content-Type": "text/plain"}, data="x").text == "1"


# multipart that is refused


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"a=1",
        b"--limit",
        b"--limit\r\n",
        b"--limit\r\n--limit--",
        whole(ONE).replace(b"limit", b"other"),
        whole(ONE).replace(b"\r\n", b"\n"),
        whole(ONE).replace(b"\r\n", b"\r"),
        whole(ONE).replace(b"--limit\r\n", b"--limit\n"),
        whole(ONE).replace(b"\r\n--limit--", b"--limit--"),
        whole(ONE).replace(b"--limit--", b"--limit-"),
        whole(ONE).replace(b"--limit--", b"--limit"),
        b"--limit\r\n\r\n1\r\n--limit--",
        whole(part("text/plain", "x", first="Content-Type: ")),
        whole(part("attachment; name=a", "x", first="Content-Disposition: ")),
        whole(part("mixed; name=a", "x", first="Content-Disposition: ")),
        whole(part("form-datax; name=a", "x", first="Content-Disposition: ")),
        whole(part("form-data", "x", first="Content-Disposition: ")),
        whole(part("form-data;", "x", first="Content-Disposition: ")),
        whole(part("filename=a", "x")),
        whole(part("xname=a", "x")),
        whole(part('name="a', "x")),
        whole(part('name="a; filename="b"', "x")),
        whole(part('name="a"b; filename="c.txt', "x")),
        whole(part("name=a; filename*=koi8-r''b.txt", "x")),
        whole(part("name=a; filename*=UTF-8''%ff.txt", "x")),
        whole(part("name=a; filename*=UTF-8''%zz", "x")),
        whole(part("name=a; filename*=b.txt", "x")),
        whole(part("name=a; filename*0=b; filename*1=.txt", "x")),
        whole(part("name=a; filename*0*=UTF-8''b; filename*1=.txt", "x")),
        whole(part("name=a; filename*=UTF-8''b; filename*=UTF-8''c", "x")),
        whole(part("name=a; name=b", "x")),
        whole(part("name=a; filename=b; filename=c", "x")),
        whole(part("name=a\r\nContent-Disposition: form-data; name=b", "x")),
        whole(part("name=a\r\nno colon", "x")),
        whole(part("name=a\r\n: no name", "x")),
        whole(part("name=a\r\nX : y", "x")),
        whole(part("name=a\r\nX<: y", "x")),
        whole(part("name=a\r\nX: y\nZ: z", "x")),
        whole(part("name=a\r\nX: y\rZ: z", "x")),
        whole(part("name=a\r\nX: \0", "x")),
        whole(part("name=\n a", "x")),
        whole(part("X: y", "x", first=" ")),
        whole(part("name=a\r\nContent-Transfer-Encoding: base64", "eA==")),
        whole(part("name=a; filename=b\r\nContent-Transfer-Encoding: BASE64", "eA==")),
        whole(part("name=a\r\nContent-Transfer-Encoding: quoted-printable", "=3D")),
        whole(part("name=a\r\nContent-Transfer-Encoding: x", "x")),
        whole(ONE, part("name=b\r\nno colon", "x")),
    ],
)
def test_multipart_that_is_none_is_400(body: bytes) -> None:
    assert see(body) == 400


@pytest.mark.parametrize("behind", [b"ed", b"-", b"-\r\n", b"\n", b"\r", b"\rx", b" x", b"\0"])
def test_a_line_that_begins_with_the_boundary_is_one(behind: bytes) -> None:
    """RFC 2046, 5.1.1: whatever follows; and only blanks may follow."""
    for name in ("name=a", "name=f; filename=x"):
        assert see(whole(part(name, b"x\r\n--limit" + behind + b"\r\n"))) == 400
    assert see(b"preamble\r\n--limit" + behind + b"\r\n" + whole(ONE)) == 400


def test_a_body_that_stops_anywhere_before_its_end_is_400() -> None:
    body = b"preamble\r\n" + whole(ONE, part("name=f; filename=x", "--limi\r\n--limit"))
    complete = len(body) - len(b"\r\n")
    assert {see(body[:end]) for end in range(complete)} == {400}
    assert see(body[:complete]) == see(body)


def test_the_answer_says_what_was_wrong() -> None:
    answer = app.test().post("/", {"Content-Type": MULTIPART}, data=whole(part("filename=a", "x")))
    assert "name" in answer.text.partition("\n")[2]


@pytest.mark.parametrize(
    ("parameters", "boundary"),
    [
        (";boundary=limit", "limit"),
        ('; boundary="limit"', "limit"),
        ("; Boundary=limit", "limit"),
        ("; charset=utf-8; boundary=limit; x=y", "limit"),
        ('; x="; boundary=other"; boundary=limit', "limit"),
        ("; boundary=----WebKitFormBoundaryQ0", "----WebKitFormBoundaryQ0"),
        ('; boundary="two words"', "two words"),
        ("; boundary=----=_Part_1_2.3", "----=_Part_1_2.3"),
        ('; boundary="\'()+_,-./:=?"', "'()+_,-./:=?"),
        ("; boundary=-", "-"),
        ("; boundary=----", "----"),
        ("; boundary=----------a_BoUnDaRy0.5$", "----------a_BoUnDaRy0.5$"),  # a Python recipe, and WebTest
        ("; boundary=lim%it#&^`|~{}*!", "lim%it#&^`|~{}*!"),
        ("; boundary=a b", "a b"),
        ("; boundary=a=b/c:d,e?f@g[h]<i>", "a=b/c:d,e?f@g[h]<i>"),
        ('; boundary="lim;it"', "lim;it"),
        ('; boundary="lim%22it"', "lim%22it"),
        ('; boundary="limit "', "limit "),
        (r'; boundary="lim\"it"', 'lim"it'),
        ("; boundary=lim\xe9t", "lim\xe9t"),
        ("; boundary=" + "x" * 256, "x" * 256),
    ],
)
def test_boundaries(parameters: str, boundary: str) -> None:
    body = whole(ONE).replace(b"limit", boundary.encode("latin-1"))
    assert see(body, "multipart/form-data" + parameters) == [{"a": ["1"]}, {}]
    assert see(body, "Multipart/FORM-Data" + parameters) == [{"a": ["1"]}, {}]


@pytest.mark.parametrize(
    "parameters",
    [
        "",
        ";",
        "; boundary",
        "; boundary=",
        '; boundary=""',
        "; xboundary=limit",
        '; boundary="limit',
        '; boundary="lim\tit"',
        '; boundary="lim\x7fit"',
        "; boundary=a; boundary=limit",
        "; boundary=" + "x" * 257,
        "; boundary=lim\u20acit",
        "; boundary*=UTF-8''limit",
    ],
)
def test_a_multipart_body_without_a_proper_boundary_is_400(parameters: str) -> None:
    for boundary in ("limit", "lim\tit", "lim\x7fit", "x" * 257):
        body = whole(ONE).replace(b"limit", boundary.encode())
        assert see(body, "multipart/form-data" + parameters) == 400


def test_a_boundary_that_is_too_long_is_refused_in_words_that_say_so() -> None:
    asked = app.test().post("/", {"Content-Type": "multipart/form-data; boundary=" + "x" * 257}, data=whole(ONE))
    assert "256 characters" in asked.text


# Bytes come as they come


Parts = list[tuple[str, str | None, str, bytes]]


def parts_of(pieces: Iterable[bytes], boundary: bytes = b"limit") -> Parts | int:
    """All that is found in a body that comes in these pieces; the status where it is refused."""
    coming = iter(pieces)
    try:
        return [(*head, b"".join(content)) for head, content in read_parts(lambda *size: next(coming, b""), boundary)]
    except HTTPError as error:
        return error.status


def in_pieces(body: bytes, size: int) -> list[bytes]:
    return [body[start : start + size] for start in range(0, len(body), size)]


CUT = {
    "plain": whole(part('name="field"', "1"), part('name="file"; filename="x"\r\nContent-Type: text/x', "2\r\n")),
    "look-alikes": whole(part("name=a", "\r\n--limi\r\r\n--lim-\r\n\r--limit\n"), part("name=b"), part("name=c", "-")),
    "padded": b"pre\r\n--limi\r\nX\r\n" + whole(ONE).replace(b"--limit\r\n", b"--limit\t \r\n") + b"\r\n--limit\r\n",
    "dense": whole(part("name=f; filename=x", "\r\n" * 20), part("name=g; filename=y", "\r" * 9 + "\n" * 9)),
    "of hyphens": whole(part("name=a", "----\r\n---")).replace(b"limit", b"----"),
}


@pytest.mark.parametrize("name", CUT)
def test_a_body_cut_anywhere_has_the_same_parts(name: str) -> None:
    body = CUT[name]
    boundary = b"----" if name == "of hyphens" else b"limit"
    expected = parts_of([body], boundary)
    assert isinstance(expected, list) and expected
    for place in range(1, len(body)):
        assert parts_of([body[:place], body[place:]], boundary) == expected
    for size in range(1, 12):
        assert parts_of(in_pieces(body, size), boundary) == expected


@pytest.mark.parametrize("unread", [0, 1])
def test_pieces_that_nobody_reads_are_skipped(unread: int) -> None:
    body = whole(part("name=a", b"x" * 300_000), part("name=b; filename=c", "y"))
    coming = iter(in_pieces(body, 1000))
    parts = read_parts(lambda *size: next(coming, b""), b"limit")
    _, content = next(parts)
    for _ in range(unread):
        assert next(content)
    (name, filename, _), content = next(parts)
    assert (name, filename, list(content)) == ("b", "c", [b"y"])
    assert next(parts, None) is None


texts = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters='"\\'), max_size=12)
contents = st.one_of(
    st.binary(max_size=40),
    st.lists(st.sampled_from([b"\r", b"\n", b"--", b"limit", b"\r\n--limit", b"x"])).map(b"".join),
)


@given(
    fields=st.lists(st.tuples(texts, st.none() | texts.filter(bool), contents), max_size=5),
    size=st.integers(1, 60),
    boundary=st.text("abcXYZ019'()+_,-./:=?", min_size=30, max_size=70),
)
@settings(deadline=None)
def test_what_another_program_encoded_is_read_back(
    fields: list[tuple[str, str | None, bytes]], size: int, boundary: str
) -> None:
    encoded = []
    for name, filename, content in fields:
        field = RequestField(name, content, filename)
        field.make_multipart()
        encoded.append(field)
    body, _ = encode_multipart_formdata(encoded, boundary)
    found = parts_of(in_pieces(body, size), boundary.encode())
    assert isinstance(found, list)
    assert [(name, filename, content) for name, filename, _, content in found] == [
        (name, filename and filename.rpartition("/")[2], content) for name, filename, content in fields
    ]


@given(
    body=st.sampled_from(list(CUT.values())),
    changes=st.lists(
        st.tuples(
            st.integers(0, 300),
            st.integers(0, 3),
            st.sampled_from([b"", b"\r", b"\n", b"-", b'"', b"\0", b"\xff", b";"]),
        )
    ),
    size=st.integers(1, 30),
)
@example(body=b"--limit\r\n\r\n", changes=[], size=1)
@settings(deadline=None, max_examples=300)
def test_a_damaged_body_is_read_or_refused_the_same_however_it_comes(
    body: bytes, changes: list[tuple[int, int, bytes]], size: int
) -> None:
    for place, removed, inserted in changes:
        body = body[:place] + inserted + body[place + removed :]
    at_once = parts_of([body])
    assert isinstance(at_once, list) or at_once == 400
    assert parts_of(in_pieces(body, size)) == at_once


# Limits


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (whole(*[ONE] * 1000), 200),
        (whole(*[ONE] * 1001), 413),
        (whole(*[part("name=f; filename=x")] * 100), 200),
        (whole(*[part("name=f; filename=x")] * 101), 413),
        (whole(*[ONE] * 1000, *[part("name=f; filename=x")] * 100), 200),
        (whole(part("name=a\r\nX: " + "x" * 8000, "x")), 200),
        (whole(part("name=a\r\nX: " + "x" * 8200, "x")), 400),
        (whole(part("name=a" + "\r\nX: y" * 2000, "x")), 400),
        (whole(part('name="' + "a" * 8200 + '"', "x")), 400),
    ],
)
def test_parts_and_their_heads_are_limited(body: bytes, status: int) -> None:
    assert app.test().post("/", {"Content-Type": MULTIPART}, data=body).status == status


def test_the_text_of_all_fields_together_is_limited_and_that_of_files_is_not() -> None:
    half = part("name=a", b"x" * (8 * MIB))
    file = part("name=file; filename=x", b"x" * (17 * MIB))
    assert see(whole(half, half, file), path="/large") == [1, [17 * MIB]]
    assert see(whole(half, half, part("name=b", "x")), path="/large") == 413


@pytest.mark.parametrize(
    "body",
    [
        whole(part("name=a", b"x" * 1000)),
        whole(part("name=a; filename=b", b"x" * 1000)),
        b"x" * 1000 + b"\r\n" + whole(ONE),
        whole(ONE) + b"x" * 1000,
    ],
)
def test_max_body_holds_for_a_form_and_all_around_it(body: bytes) -> None:
    answer = app.test().post("/small", {"Content-Type": MULTIPART}, data=body)
    assert (answer.status, "1000" in answer.text) == (413, True)
    assert see("a=" + "x" * 1000, URLENCODED, "/small") == 413


# Files


def upload(look_at: Callable[[UploadedFile], Any], content: bytes = b"one\ntwo\n", **options: Any) -> Any:
    """What `look_at` finds of an uploaded file."""
    asked = Brubeck()
    found: list[Any] = []
    asked.post("/", name="upload", max_body=8 * MIB)(lambda request: found.append(look_at(request.files["file"])))
    answer = asked.test(raise_errors=True).post("/", files={"file": ("a.txt", content, "text/x")})
    assert answer.status == 200
    return found[0]


def test_a_file_says_what_it_is() -> None:
    assert upload(lambda file: (file.name, file.filename, file.content_type, file.size)) == (
        "file",
        "a.txt",
        "text/x",
        8,
    )


@pytest.mark.parametrize("filler", [0, 512 * 1024 - 8, 512 * 1024, 5 * MIB])
def test_a_file_is_a_file_object_whatever_its_size(filler: int) -> None:
    content = b"one\ntwo\n" + b"x" * filler

    def look_at(file: UploadedFile) -> None:
        assert file.size == len(content)
        assert file.readable() and file.seekable()
        assert (file.read(3), file.tell()) == (b"one", 3)
        assert file.readline() == b"\n"
        file.seek(0)
        assert list(itertools.islice(file, 2)) == [b"one\n", b"two\n"]
        assert file.seek(-1, os.SEEK_END) == len(content) - 1
        assert file.read() == content[-1:]
        file.seek(0)
        assert file.read() == content
        assert io.TextIOWrapper(file, "ascii").readable()  # type: ignore[arg-type]

    upload(look_at, content)


def test_a_large_file_without_a_folder_for_temporary_files_is_507(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "not-there"))
    app = Brubeck()
    app.post("/", max_body=8 * MIB)(lambda request: str(request.files["file"].size))
    client = app.test()
    assert client.post("/", files={"file": ("a", b"x" * MIB, "text/x")}).status == 507
    assert "no space for an upload to '/'" in caplog.text and "Traceback" not in caplog.text
    assert client.post("/", files={"file": ("a", b"small", "text/x")}).text == "5"


@pytest.mark.parametrize("filler", [0, MIB])
def test_save_writes_all_of_a_file_wherever_it_was_read_to(tmp_path: Path, filler: int) -> None:
    content = b"one\ntwo\n" + b"x" * filler

    def look_at(file: UploadedFile) -> None:
        file.read(5)
        file.save(tmp_path / "one")
        file.save(str(tmp_path / "two"))

    upload(look_at, content)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes() == content


def test_save_replaces_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 100)
    upload(lambda file: file.save(tmp_path / "a"))
    assert (tmp_path / "a").read_bytes() == b"one\ntwo\n"


def test_a_large_file_lies_on_disk_without_a_name_and_is_gone_with_the_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    open_files = Path("/proc/self/fd")

    def in_the_folder() -> int:
        return sum(str(tmp_path) in os.readlink(link) for link in open_files.iterdir() if link.is_symlink())

    assert upload(lambda file: (list(tmp_path.iterdir()), in_the_folder()), b"x" * MIB) == ([], 1)
    assert upload(lambda file: in_the_folder(), b"x" * 1000) == 0
    assert in_the_folder() == 0


def test_a_file_may_stand_in_a_with_block_and_is_closed_by_it() -> None:
    def look_at(file: UploadedFile) -> None:
        with file as opened:
            assert next(opened) == b"one\n"
        assert file.closed

    upload(look_at)


# The form, the body and the stream


def respond(look_at: Callable[[Request], Any], body: bytes, content_type: str, path: str = "/") -> Any:
    asked = Brubeck()
    asked.post("/<name>", name="named")(lambda request, name: [look_at(request)])
    asked.post("/", name="index")(lambda request: [look_at(request)])
    answer = asked.test().post(path, {"Content-Type": content_type}, data=body)
    return answer.json[0] if answer.status == 200 else answer.status


@pytest.mark.parametrize(("body", "content_type"), [(b"a=1", URLENCODED), (whole(ONE), MULTIPART)])
def test_a_form_is_read_from_a_body_that_was_read_before(body: bytes, content_type: str) -> None:
    assert respond(lambda request: [len(request.body), request.form["a"]], body, content_type) == [len(body), "1"]
    assert respond(lambda request: [request.form["a"], request.form["a"]], body, content_type) == ["1", "1"]


@pytest.mark.parametrize(("body", "content_type"), [(b"a=1", URLENCODED), (whole(ONE), MULTIPART)])
def test_a_handler_may_read_the_stream_of_a_form_itself(body: bytes, content_type: str) -> None:
    assert respond(lambda request: request.stream.read().decode(), body, content_type) == body.decode()


def test_a_form_that_was_refused_is_refused_again_and_for_the_same_reason() -> None:
    def ask_twice(request: Request) -> list[str]:
        messages = []
        for _ in range(2):
            with pytest.raises(HTTPError) as refusal:
                request.form  # noqa: B018
            messages.append(refusal.value.message)
        return messages

    first, second = respond(ask_twice, whole(part("filename=x")) + b"x" * 100_000, MULTIPART)
    assert first == second


@pytest.mark.parametrize(("body", "content_type"), [(b"a=form&b=form&c=form", URLENCODED), (None, MULTIPART)])
def test_an_argument_is_looked_for_in_path_query_and_form(body: bytes | None, content_type: str) -> None:
    body = body or whole(*[part(f"name={name}", "form") for name in ("name", "b", "c", "c")])
    look_at = [
        lambda request: request.get_argument("name"),
        lambda request: request.get_argument("b"),
        lambda request: request.get_argument("c"),
        lambda request: request.get_argument("d", "default"),
    ]
    seen = [respond(look, body, content_type, "/path?name=query&b=query") for look in look_at]
    assert seen == ["path", "query", "form", "default"]


def test_all_arguments_of_a_name_come_in_that_order_too() -> None:
    seen = respond(lambda request: request.get_arguments("a"), b"a=3&a=4", URLENCODED, "/?a=1&a=2")
    assert seen == ["1", "2", "3", "4"]


def test_a_field_of_the_wrong_type_is_400_that_names_it() -> None:
    asked = Brubeck()
    asked.post("/", name="index")(lambda request: str(request.get_argument("page", 1, type=int)))
    answer = asked.test().post("/", data={"page": "two"})
    assert (answer.status, "page" in answer.text) == (400, True)
    assert asked.test().post("/", data={"page": "2"}).text == "2"


# The client of tests


def test_the_client_posts_forms_and_files() -> None:
    client = app.test()
    assert client.post("/", data={"a": "é&=\r\n"}).json == [{"a": ["é&=\r\n"]}, {}]
    files = {"one": ("a.png", b"\x89", "image/png"), "two": ("b", b"\r\n--"), "three": b"bare"}
    form, seen = client.post("/", data={"a": "é", 'b"\\': "2"}, files=files).json
    assert form == {"a": ["é"], 'b"\\': ["2"]}
    assert seen["one"] == [["a.png", "image/png", "\x89"]]
    assert (seen["two"][0][0], seen["two"][0][2], seen["three"][0][2]) == ("b", "\r\n--", "bare")


# Hostile bodies. They come without a Content-Length, as chunked ones do, to a process of its own, which may hold 96 MiB
# more than before each, and use two minutes of the processor for all of them, where a reader that goes over what it
# has read again and again would need days.

FIELD, FILE, END = part("name=a", "x")[:-3], part("name=f; filename=x", "x")[:-3], b"\r\n--limit--"
Body = list[tuple[bytes, int]]  # bytes, and how many times

HOSTILE: dict[str, tuple[str, Body, Any]] = {  # what comes back, or its status; None: as you like, 200 or 413
    "a million percent signs": ("/sizes", [(b"a=", 1), (b"%", 1_000_000)], [1, []]),
    "percent-encoded letters": ("/sizes", [(b"a=", 1), (b"%41", 330_000)], [1, []]),
    "100,000 fields": ("/large", [(ONE, 100_000), (END, 1)], 413),
    "100,000 files": ("/large", [(part("name=f; filename=x", "1"), 100_000), (END, 1)], 413),
    "100,000 files that nobody chose": ("/large", [(part('name=f; filename=""'), 100_000), (END, 1)], 413),
    "a million boundaries": ("/large", [(b"--limit\r\n", 1_000_000), (END, 1)], 400),
    "a million ends": ("/large", [(b"--limit-\r\n", 1_000_000), (END, 1)], 400),
    "a head without end": ("/large", [(b"--limit\r\n", 1), (b"X: y\r\n", 9_000_000)], 400),
    "a line without end": ("/large", [(b"--limit\r\nX: ", 1), (b"y", 50_000_000)], 400),
    "blanks without end": ("/large", [(b"--limit", 1), (b" ", 50_000_000)], 400),
    "a head of \\r and zeros": ("/large", [(b"--limit\r\nX: ", 1), (b"\r\0", 25_000_000)], 400),
    "a thousand heads of parameters": ("/large", [(part("name=a" + ';="' * 2_000, "1"), 1000), (END, 1)], 400),
    "a thousand long heads": ("/large", [(part("name=a" + ';x="y' * 1_500 + '"', "1"), 1000), (END, 1)], 400),
    "a thousand heads of quotes": ("/large", [(part('name="' + '\\"' * 4000 + '"', "1"), 1000), (END, 1)], [1, []]),
    "a preamble of \\r and zeros": ("/large", [(b"\r", 25_000_000), (b"\0", 25_000_000), (END, 1)], [0, []]),
    "a preamble of line ends": ("/large", [(b"\r\n", 25_000_000), (END, 1)], [0, []]),
    "a preamble of nearly boundaries": ("/large", [(b"\r\n--limi", 6_000_000), (END, 1)], [0, []]),
    "an epilogue of \\r and zeros": ("/large", [(END, 1), (b"\r", 25_000_000), (b"\0", 25_000_000)], [0, []]),
    "a field of \\r and zeros": ("/large", [(FIELD, 1), (b"\r", 25_000_000), (b"\0", 25_000_000), (END, 1)], 413),
    "a file of \\r and zeros": (
        "/large",
        [(FILE, 1), (b"\r", 25_000_000), (b"\0", 25_000_000), (b"\r\0", 5_000_000), (END, 1)],
        [0, [60_000_000]],
    ),
    "a file of line ends": ("/large", [(FILE, 1), (b"\r\n", 25_000_000), (END, 1)], [0, [50_000_000]]),
    "a file of nearly boundaries": ("/large", [(FILE, 1), (b"\r\n--limi", 6_000_000), (END, 1)], [0, [48_000_000]]),
    "a file of 100 MB": ("/large", [(FILE, 1), (b"x", 100_000_000), (END, 1)], [0, [100_000_000]]),
    "a field of 100 MB": ("/large", [(FIELD, 1), (b"x", 100_000_000), (END, 1)], 413),
    "a preamble of 100 MB": ("/large", [(b"x", 100_000_000), (END, 1)], [0, []]),
    "a file over max_body": ("/", [(FILE, 1), (b"x", 100_000_000), (END, 1)], 413),
    "a field over max_body": ("/", [(FIELD, 1), (b"x", 100_000_000), (END, 1)], 413),
    "a preamble over max_body": ("/", [(b"x", 100_000_000), (END, 1)], 413),
    "an urlencoded field of 100 MB": ("/large", [(b"a=", 1), (b"x", 100_000_000)], 413),
    "50 million urlencoded fields": ("/large", [(b"a&", 50_000_000)], 413),
    "50 million percent signs": ("/large", [(b"a=", 1), (b"%", 50_000_000)], 413),
    "15 million percent signs": ("/large", [(b"a=", 1), (b"%", 15_000_000)], None),
    "5 million percent-encoded letters": ("/large", [(b"a=", 1), (b"%41", 5_000_000)], None),
}


class Endless:
    """The input of a WSGI server that gives a Body, without holding it."""

    def __init__(self, body: Body) -> None:
        self.pieces = (
            octets * min(step, times - at)
            for octets, times in body
            for step in [max(1, (1 << 16) // len(octets))]
            for at in range(0, times, step)
        )
        self.rest = b""

    def read(self, size: int) -> bytes:
        while len(self.rest) < size and (piece := next(self.pieces, b"")):
            self.rest += piece
        taken, self.rest = self.rest[:size], self.rest[size:]
        return taken


def high_water() -> int:
    """How many KiB of memory this process has used at the most since it was asked last (proc(5), clear_refs)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    Path("/proc/self/clear_refs").write_text("5")
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


def answer_all() -> None:
    """In a process of its own: print for each hostile body the answer, and by how many MiB the process has grown."""

    def ask(path: str, body: Body) -> tuple[int, str]:
        environ: dict[str, Any] = {"wsgi.input": Endless(body), "wsgi.input_terminated": True}
        environ |= {"REQUEST_METHOD": "POST", "PATH_INFO": path, "SERVER_NAME": "x", "SERVER_PORT": "1"}
        environ["CONTENT_TYPE"] = URLENCODED if body[0][0] in (b"a=", b"a&") else MULTIPART
        said: list[str] = []
        answer = b"".join(app(environ, lambda status, fields, error=None: said.append(status)))
        return int(said[0][:3]), answer.decode()

    ask("/", [(END, 1)])
    resource.setrlimit(resource.RLIMIT_CPU, (120, 120))
    for name, (path, body, _) in HOSTILE.items():
        high_water()
        start = high_water()
        status, text = ask(path, body)
        grown = (high_water() - start) >> 10
        print(json.dumps([name, status, text, grown]), flush=True)


@pytest.fixture(scope="module")
def hostile_answers() -> dict[str, tuple[int, str, int]]:
    variables = environment(measured=False)  # to measure its coverage takes longer than all else of it
    run = subprocess.run([sys.executable, __file__], env=variables, capture_output=True, text=True, check=False)
    return {name: tuple(answer) for name, *answer in map(json.loads, run.stdout.splitlines())}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_bodies_are_answered_in_flat_memory(
    hostile_answers: dict[str, tuple[int, str, int]], name: str
) -> None:
    path, _, expected = HOSTILE[name]
    assert name in hostile_answers, "the process was ended before"
    status, text, grown = hostile_answers[name]
    if expected is None:
        assert status in (200, 413)
    else:
        assert (json.loads(text) if status == 200 else status) == expected
    assert grown <= 96
    if path == "/":
        assert str(MIB) in text


@pytest.mark.parametrize(
    ("content_type", "body"),
    [(URLENCODED, b"a=" + b"%" * (2 << 20)), (URLENCODED, b"a=" + b"%41a" * (3 << 20)),
     (URLENCODED, b"&".join([b"a=" + b"%%" * 4000] * 300)),
     (MULTIPART, part('name="' + '\\"' * 3000 + '"', "1") * 200 + END)],
    ids=["percent signs", "escapes", "fields of percent signs", "parts"],
)  # fmt: skip
def test_others_have_their_turns_while_a_form_is_read(content_type: str, body: bytes) -> None:
    import eventlet

    app, turns, finished = Brubeck(max_body=1 << 25), [0], []
    app.post("/")(lambda request: str(len(request.form)))

    def ask() -> None:
        finished.append(app.test().post("/", {"Content-Type": content_type}, data=body).status)

    asking = eventlet.spawn(ask)
    while not finished:
        turns[0] += 1
        eventlet.sleep(0)
    asking.wait()
    assert finished == [200] and turns[0] > 5


URLENCODED_PARTS = [b"%", b"41", b"%4", b"%E2%82%AC", b"=", b"+", b"\r\n", b"_", b" \n", b"%3d", b"\xff"]


@example([b"%", b"%", b"%", b"%", b"%E2%82%AC"])
@given(st.lists(st.sampled_from(URLENCODED_PARTS)))
def test_percent_signs_are_read_as_the_standard_library_does_wherever_a_long_value_is_cut(parts: list[bytes]) -> None:
    octets = b"".join(parts)
    for value in (octets, octets + b"x" * (16383 - len(octets) // 2) + octets, octets * (20_000 // (len(octets) or 1))):
        assert parse_urlencoded(b"a=" + value, 413)["a"] == unquote_to_bytes(value.replace(b"+", b" ")).decode(
            "utf-8", "replace"
        )


if __name__ == "__main__":
    answer_all()


# Names that the client left out


@pytest.mark.parametrize(
    ("look_up", "expected"),
    [(lambda request: request.form["x"], "the form has no field 'x'"),
     (lambda request: request.files["x"].filename, "the form has no file 'x'"),
     (lambda request: request.query["x"], "the query has no argument 'x'"),
     (lambda request: request.cookies["x"], "the request has no cookie 'x'"),
     (lambda request: request.headers["X"], "the request has no header 'X'")],
    ids=["form", "files", "query", "cookies", "headers"],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["nothing", "json", "urlencoded", "multipart"])
def test_a_name_that_the_client_left_out_is_400_and_named(
    kind: str, look_up: Callable[[Request], str], expected: str, caplog: pytest.LogCaptureFixture
) -> None:
    app = Brubeck()
    app.post("/")(look_up)
    sent: dict[str, dict[str, Any]] = {"nothing": {}, "json": {"json": {"x": 1}}, "urlencoded": {"data": {"y": "1"}},
                                       "multipart": {"data": {"y": "1"}, "files": {"y": ("n", b"1")}}}  # fmt: skip
    answer = app.test(raise_errors=True).post("/?y=1", **sent[kind])
    text = answer.json["detail"] if kind == "json" else answer.text.removeprefix("400 Bad Request\n").rstrip("\n")
    assert (answer.status, text) == (400, expected)
    assert not caplog.records


def test_a_name_that_is_not_there_is_a_key_error_to_the_program() -> None:
    app = Brubeck()

    @app.post("/")
    def index(request: Request) -> list[Any]:
        found = []
        for values in (request.form, request.files, request.query, request.cookies, request.headers):
            try:
                found.append(values["x"])
            except KeyError as error:
                found += [str(error), error.args, isinstance(error, HTTPError)]
            found += ["x" in values, values.get("x"), values.get("x", "default"), dict(values).get("x")]
        return found

    expected = ["'x'", ["x"], True, False, None, "default", None]
    assert app.test(raise_errors=True).post("/").json == 5 * expected


def test_a_key_error_of_the_programs_own_is_500(caplog: pytest.LogCaptureFixture) -> None:
    app = Brubeck()
    app.get("/")(lambda request: {}["x"])
    assert app.test().get("/").status == 500
    assert "KeyError: 'x'" in caplog.text


def test_an_error_handler_may_answer_for_what_was_left_out() -> None:
    app = Brubeck()
    app.post("/")(lambda request: request.form["x"])
    app.error(KeyError)(lambda request, error: f"please fill in {error.args[0]}")
    answer = app.test().post("/")
    assert (answer.status, answer.text) == (400, "please fill in x")
