"""Handlers that are classes: everybody reads the tunes, members add to them.

    python classes.py                   (http://127.0.0.1:6767; its templates need: pip install jinja2)
    SECRET=... brubeck_lite classes:app --bind 0.0.0.0:8000

One class for each kind of page, a method for each method of HTTP. What several need stands in `Page`, from mixins:
arguments, who is signed in, templates. SECRET signs the cookies; without it, each run makes up its own.
"""

import os
import secrets
from pathlib import Path
from typing import Any

from brubeck_lite import (
    ArgumentsMixin,
    AuthMixin,
    Brubeck,
    Response,
    TemplateMixin,
    WebMessageHandler,
    authenticated,
    csrf,
    jinja2_templates,
    safe_target,
)

app = Brubeck(secret=os.environ.get("SECRET") or secrets.token_hex(32))
app.wrap(csrf())
app.templates = jinja2_templates(Path(__file__).parent / "templates")
app.static("/static", Path(__file__).parent / "static")

TUNES = [
    "Take Five", "Blue Rondo à la Turk", "Strange Meadow Lark", "Three to Get Ready", "Kathy's Waltz",
    "Everybody's Jumpin'", "Pick Up Sticks", "Unsquare Dance", "It's a Raggy Waltz", "Far More Blue",
]  # fmt: skip
ON_A_PAGE = 5
FORTNIGHT = 14 * 24 * 60 * 60  # seconds


class Page(ArgumentsMixin, AuthMixin, TemplateMixin, WebMessageHandler):
    """What all pages have in common."""

    def prepare(self) -> None:
        self.headers["X-Frame-Options"] = "DENY"

    def get_current_user(self) -> str | None:
        """The name in a signed cookie; `current_user` and `@authenticated` ask here."""
        return self.request.get_signed_cookie("member", max_age=FORTNIGHT)

    def render(self, name: str, /, **values: Any) -> str:
        """Every template also has the user and the addresses of the pages."""
        return super().render(name, user=self.current_user, url_for=self.request.url_for, **values)


@app.route("/", name="tunes")
class Tunes(Page):
    def get(self) -> str:
        word = self.get_argument("word", "")
        found = [(number, tune) for number, tune in enumerate(TUNES) if word.lower() in tune.lower()]
        last = max(1, -(-len(found) // ON_A_PAGE))
        page = self.get_argument("page", 1, type=int)  # anything but a number: 400, which says so
        if not 1 <= page <= last:
            self.render_error(404, "there is no such page")
        start = (page - 1) * ON_A_PAGE
        shown = found[start : start + ON_A_PAGE]
        return self.render("classes/tunes.html", tunes=shown, word=word, page=page, last=last, count=len(found))


@app.route("/tunes/new", name="new")
class New(Page):
    @authenticated  # nobody signed in: to the route named "login", and back here afterwards
    def get(self) -> str:
        return self.render("classes/new.html")

    @authenticated
    def post(self) -> Response | str:
        title = self.get_argument("title", "").strip()
        if not 0 < len(title) <= 100:
            self.set_status(422)
            return self.render("classes/new.html", error="A title has 1 to 100 characters.")
        TUNES.append(title)
        return self.redirect(self.request.url_for("tune", number=len(TUNES) - 1))


@app.route("/tunes/<int:number>", name="tune")
class Tune(Page):
    def get(self, number: int) -> str:
        if number >= len(TUNES):
            self.render_error(404, "there is no such tune")
        return self.render("classes/tune.html", number=number, title=TUNES[number])


@app.route("/login", name="login")
class Login(Page):
    """Any name will do: login.py shows passwords."""

    def get(self) -> str:
        return self.render("classes/login.html", next=self.get_argument("next", ""))

    def post(self) -> Response:
        self.set_cookie("member", self.get_argument("name", "somebody"), max_age=FORTNIGHT, signed=True)
        target = self.get_argument("next", "")
        return self.redirect(target if safe_target(self.request, target) else self.request.url_for("tunes"))


@app.route("/logout", name="logout")
class Logout(Page):
    def post(self) -> Response:
        response = self.redirect(self.request.url_for("tunes"))
        response.delete_cookie("member")
        return response


if __name__ == "__main__":
    app.run()
