"""The configuration style: regular expressions, classes, and a dictionary that says it all.

python regex.py                     (http://127.0.0.1:6767)
brubeck_lite regex:app --mongrel2 tcp://127.0.0.1:9999 tcp://127.0.0.1:9998
"""

from html import escape
from pathlib import Path
from typing import Any

from brubeck_lite import Brubeck, HTTPConnection, MessageHandler, Request, Response, WebMessageHandler, static_file

TUNES = {1: ("Take Five", "5/4"), 2: ("Blue Rondo à la Turk", "9/8"), 3: ("Unsquare Dance", "7/4")}

PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Tunes</title>
<link rel="stylesheet" href="/static/style.css">
<header class="top"><a class="brand" href="/">Odd times</a> <a href="/tunes.json">The same as JSON</a></header>
<main><section class="card"><h1>Tunes</h1>
<table><tr><th>Tune<th class="number">Time{rows}</table>
<form method="post" action="/tunes">
  <label>Tune <input name="title" required maxlength="80"></label>
  <label>Time <input name="time" required pattern="[0-9]+/[0-9]+" placeholder="5/4"></label>
  <button>Add</button>
</form></section></main>
</html>
"""


class Tunes(WebMessageHandler):
    """The page, and the form in it: a method of the class for each HTTP method."""

    def get(self) -> str:
        rows = (f'<tr><td>{escape(title)}<td class="number">{escape(time)}' for title, time in TUNES.values())
        return PAGE.format(rows="".join(rows))

    def post(self) -> Response:
        title, time = (self.request.form.get(name, "").strip() for name in ("title", "time"))
        if not title or not time:
            self.render_error(400, "a tune has a title and a time")
        TUNES[max(TUNES, default=0) + 1] = title, time
        return self.redirect("/")


class Tune(WebMessageHandler):
    """One tune. Groups with names, like `(?P<number>...)`, are passed by name."""

    def prepare(self) -> None:
        self.headers["Cache-Control"] = "no-store"

    def get(self, number: str) -> dict[str, str]:
        if int(number) not in TUNES:
            self.render_error(404, "there is no such tune")
        title, time = TUNES[int(number)]
        return {"title": title, "time": time}

    def delete(self, number: str) -> None:
        TUNES.pop(int(number), None)
        self.set_status(204)


class TunesAsJSON(MessageHandler):
    """A MessageHandler alone is enough where status and header fields are the usual ones."""

    def get(self) -> dict[str, Any]:
        return {"tunes": [{"title": title, "time": time} for title, time in TUNES.values()]}


def stylesheet(request: Request, name: str) -> Response:
    """Functions may stand here as well. Groups without names are passed in their order."""
    return static_file(request, name, Path(__file__).parent / "static")


config: dict[str, Any] = {
    "msg_conn": HTTPConnection(
        "127.0.0.1:6767"
    ),  # or Mongrel2Connection("tcp://127.0.0.1:9999", "tcp://127.0.0.1:9998")
    "handler_tuples": [
        (r"^/(?:tunes)?$", Tunes),
        (r"^/tunes/(?P<number>[0-9]{1,9})$", Tune),
        (r"^/tunes\.json$", TunesAsJSON),
        (r"^/static/(.+)$", stylesheet, ["GET"]),
    ],
    "max_body": 1 << 16,
}

app = Brubeck(**config)

if __name__ == "__main__":
    app.run()
