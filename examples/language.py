"""Other languages: a program in C beside ours behind one Mongrel2, and one that asks ours by ZeroMQ.

    gcc -O2 -Wall -o language/handler language/handler.c -lzmq      (apt-get install gcc libzmq3-dev mongrel2-core)
    gcc -O2 -Wall -o language/peer language/peer.c -lzmq

    mkdir -p run logs tmp && m2sh load -config language/mongrel2.conf -db language.sqlite
    m2sh start -db language.sqlite -every                           (http://127.0.0.1:6767)
    language/handler tcp://127.0.0.1:9989 tcp://127.0.0.1:9988
    python language.py
    echo 'to be or not to be' | language/peer tcp://127.0.0.1:9997 tcp://127.0.0.1:9996 @words

Whatever has a library for ZeroMQ can do either. A handler gets the requests of its route straight from Mongrel2, and
knows nothing of us. A peer speaks to us as Mongrel2 does: it is one more Mongrel2, which has only a message socket.
"""

import math
from collections import Counter
from pathlib import Path
from typing import Any

from brubeck_lite import Brubeck, MessageHandler, Mongrel2Connection, Request, Response, static_file

STATIC = Path(__file__).parent / "static"
LIMIT = 200_000  # to compute holds up all others, so it must be short; in C it is

app = Brubeck(
    [
        Mongrel2Connection("tcp://127.0.0.1:9999", "tcp://127.0.0.1:9998"),  # the real one
        Mongrel2Connection("tcp://127.0.0.1:9997", "tcp://127.0.0.1:9996"),  # language/peer, when it runs
    ]
)
app.static("/static", STATIC)


@app.get(f"/python/primes/<int(max={LIMIT}):below>")
def primes(request: Request, below: int) -> dict[str, Any]:
    """What language/handler.c does, in the same way."""
    numbers = range(2, below)
    count = sum(all(number % divisor for divisor in range(2, math.isqrt(number) + 1)) for number in numbers)
    return {"language": "Python", "below": below, "count": count}


@app.route("@words", name="ask_words")
@app.route("/words")
class Words(MessageHandler):
    """How often each word is in a text: for other programs by ZeroMQ, and in the browser."""

    def count(self, text: str) -> dict[str, int]:
        return dict(Counter(text.split()).most_common(100))

    def message(self) -> dict[str, int]:
        return self.count(self.request.body.decode(errors="replace"))

    def get(self) -> dict[str, int]:
        return self.count(self.request.get_argument("text", ""))


@app.get("/")
def index(request: Request) -> Response:
    return static_file(request, "language.html", STATIC)


if __name__ == "__main__":
    app.run()
