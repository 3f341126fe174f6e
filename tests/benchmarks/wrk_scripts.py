"""What wrk is told to ask, in Lua: a crowd of browsers, each request with ten fields and another visitor's cookie; one
such request without a cookie, repeated; and many requests at once."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Iterator

FIELDS = (
    "GET / HTTP/1.1\r\n"
    "Host: localhost\r\n"
    "Connection: keep-alive\r\n"
    "User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:143.0) Gecko/20100101 Firefox/143.0\r\n"
    "Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8\r\n"
    "Accept-Language: de-DE,de;q=0.9,en-US;q=0.8,en;q=0.7\r\n"
    "Accept-Encoding: gzip, deflate, br, zstd\r\n"
    "Upgrade-Insecure-Requests: 1\r\n"
    "Sec-Fetch-Dest: document\r\n"
    "Sec-Fetch-Mode: navigate\r\n"
    "Sec-Fetch-Site: same-origin\r\n"
)
COOKIE = "Cookie: theme=dark; session=eyJ1c2VyIjoiZGF2ZSJ9.q2W7Zk1vYx0rT3mB"  # a visitor's number follows

# A function for both, so that wrk itself is as fast with either. The numbers of visitors begin at the time, so that no
# round meets those of an earlier one.
CROWD = f"""local visitor = os.time() % 1000000 * 1000000

function request()
   visitor = visitor + 1
   return {json.dumps(FIELDS + COOKIE)} .. visitor .. "\\r\\n\\r\\n"
end
"""
REPEATED = f"""function request()
   return {json.dumps(FIELDS)} .. "\\r\\n"
end
"""

PIPELINED = """local together

function init(arguments)
   local requests = {}
   for number = 1, 16 do
      requests[number] = wrk.format()
   end
   together = table.concat(requests)
end

function request()
   return together
end
"""


def browser_head(visitor: int | None) -> bytes:
    """Such a head for what is measured in process; without a cookie where that is None."""
    cookie = "" if visitor is None else f"{COOKIE}{visitor}\r\n"
    return f"{FIELDS}{cookie}\r\n".encode()


@contextlib.contextmanager
def script(text: str) -> Iterator[list[str]]:
    """The options that have wrk run this script, none for no script."""
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as file:
        file.write(text)
        file.flush()
        yield ["-s", file.name] if text else []
