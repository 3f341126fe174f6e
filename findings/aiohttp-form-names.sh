#!/usr/bin/env bash
# aiohttp 3.14.3: FormData percent-encodes the names of files, and cannot send a field whose name is not ASCII.
#
# The file "ä 1.txt" goes out as filename="%C3%A4%201.txt". RFC 7578, 4.2, allows that, but nothing in the form says
# that the name is encoded, and browsers send UTF-8 as it is: servers take it as it stands, as werkzeug's parser
# shows. A text field "straße" of a multipart form gets a name*, and sending that is an AssertionError in aiohttp
# itself. With FormData(quote_fields=False) both arrive as they are.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
packages=(aiohttp==3.14.3 aiohappyeyeballs==2.7.1 aiosignal==1.4.0 attrs==26.1.0 frozenlist==1.8.0 idna==3.20
    multidict==6.9.1 propcache==0.5.4 yarl==1.25.1 werkzeug==3.1.9 markupsafe==3.0.4)
{ python3 -m venv "$folder/venv" && "$folder/venv/bin/pip" install --quiet --only-binary :all: "${packages[@]}"; } ||
    { echo "could not be tried: no aiohttp 3.14.3 and werkzeug 3.1.9" >&2; exit 2; }

PYTHONIOENCODING=utf-8 timeout -k 5 60 "$folder/venv/bin/python" - <<'PYTHON'
import asyncio
import importlib.metadata
import io
import sys

import aiohttp
from werkzeug.formparser import parse_form_data


class Written:
    """What takes the bytes of a body."""

    def __init__(self):
        self.data = b""

    async def write(self, data):
        self.data += data


async def parsed(form):
    """The Content-Disposition of the first part and the names (of fields, of files) that werkzeug reads; or the error."""
    written, payload = Written(), form()
    try:
        await payload.write(written)
    except AssertionError:
        return "AssertionError", ()
    header = next(line for line in written.data.split(b"\r\n") if line.startswith(b"Content-Disposition"))
    environ = {"REQUEST_METHOD": "POST", "CONTENT_TYPE": payload.headers["Content-Type"],
               "CONTENT_LENGTH": str(len(written.data)), "wsgi.input": io.BytesIO(written.data)}
    _, fields, files = parse_form_data(environ)
    return header.decode(), (*fields, *((name, file.filename) for name, file in files.items()))


async def main():
    seen = []
    for quote_fields in (True, False):
        print(f"quote_fields={quote_fields}")
        for name, filename in (("file", "\u00e4 1.txt"), ("stra\u00dfe", None)):
            form = aiohttp.FormData(quote_fields=quote_fields, default_to_multipart=True)
            form.add_field(name, "value" if filename is None else b"value", filename=filename)
            header, names = await parsed(form)
            seen.append(names)
            print(f"  name {name!r}, filename {filename!r}: {header}\n    werkzeug reads {names}")
    return seen


print("aiohttp", aiohttp.__version__, "and werkzeug", importlib.metadata.version("werkzeug"))
if asyncio.run(main()) != [(("file", "%C3%A4%201.txt"),), (), (("file", "\u00e4 1.txt"),), ("stra\u00dfe",)]:
    sys.exit("CHANGED")
print("as stated")
PYTHON
