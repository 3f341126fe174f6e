"""Members only: register, sign in, go on to where one wanted to go, log out.

python login.py                     (http://127.0.0.1:6767)
SECRET=... brubeck_lite login:app --bind 0.0.0.0:8000

SECRET signs the cookies; make one with `python -c "import secrets; print(secrets.token_hex(32))"`. Without it each run
makes up its own, and everybody has to sign in again.
"""

import os
import secrets
from html import escape
from pathlib import Path
from urllib.parse import urlencode

from brubeck_lite import (
    Brubeck,
    Request,
    Response,
    authenticated,
    check_password,
    csrf,
    csrf_token,
    hash_password,
    redirect,
    safe_target,
)

app = Brubeck(secret=os.environ.get("SECRET") or secrets.token_hex(32))
app.wrap(csrf())
app.static("/static", Path(__file__).parent / "static")

USERS: dict[str, str] = {}  # name: hash of the password; a real site keeps them in a database

PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<link rel="stylesheet" href="/static/style.css">
<header class="top"><a class="brand" href="/">The Quartet Club</a> <nav>{menu}</nav></header>
<main><section class="card"><h1>{title}</h1>{content}</section></main>
</html>
"""
GUEST_MENU = '<a href="/login">Sign in</a> <a href="/register">Register</a>'
MEMBER_MENU = """<a href="/members">Members</a>
<form method="post" action="/logout">{token}<button class="quiet">Log out</button></form>"""
FORM = """<p class="{kind}">{note}</p>
<form method="post">{token}
<label>Name <input name="name" value="{name}" required autocomplete="username"></label>
<label>Password <input name="password" type="password" required autocomplete="current-password"></label>
<button>{title}</button></form>"""


def token(request: Request) -> str:
    """The field by which csrf() knows our forms where the browser is too old to say whose they are."""
    return f'<input type="hidden" name="csrf_token" value="{csrf_token(request)}">'


def page(request: Request, title: str, content: str) -> str:
    """A whole page around this content, which is HTML."""
    menu = MEMBER_MENU.format(token=token(request)) if request.current_user else GUEST_MENU
    return PAGE.format(title=title, content=content, menu=menu)


def form(request: Request, title: str, note: str, kind: str = "message error") -> str:
    """The page with a form for name and password, which goes where the page came from, `?next=` included."""
    name = escape(request.form.get("name", ""))
    return page(request, title, FORM.format(note=note, kind=kind, token=token(request), name=name, title=title))


def sign_in(request: Request, name: str) -> Response:
    """Begin a session of this user's and go on to `next`, if that is a page of ours."""
    request.session.clear()
    request.session["user"] = name
    wanted = request.get_argument("next", "")
    return redirect(wanted if safe_target(request, wanted) else "/members")


@app.get("/")
def index(request: Request) -> str:
    user = request.current_user
    greeting = f"Good to see you, {escape(user)}!" if user else "What is played in here, only members know."
    return page(request, "Welcome", f'<p class="lead">{greeting}</p><a class="button" href="/members">Come in</a>')


@app.get("/members")
@authenticated
def members(request: Request) -> str:
    names = "".join(f"<li>{escape(name)}</li>" for name in sorted(USERS))
    return page(request, "Members", f'<p>Tonight at nine: Take Five. On the list:</p><ul class="list">{names}</ul>')


@app.get("/register")
def register(request: Request) -> str:
    return form(request, "Register", "Choose a name, and a password of 8 characters or more.", "muted")


@app.post("/register")
def add_user(request: Request) -> Response | tuple[str, int]:
    name, password = request.form.get("name", "").strip(), request.form.get("password", "")
    if not 1 <= len(name) <= 40 or len(password) < 8:
        return form(request, "Register", "The name has 1 to 40 characters, the password 8 or more."), 400
    hashed = hash_password(password)
    if USERS.setdefault(name, hashed) != hashed:  # others went on while we hashed: the first one has the name
        return form(request, "Register", "This name is taken."), 409
    return sign_in(request, name)


@app.get("/login")
def login(request: Request) -> str:
    other = f"/register?{urlencode({'next': request.get_argument('next', '/members')})}"
    return form(request, "Sign in", f'New here? Then <a href="{escape(other)}">register</a> first.', "muted")


@app.post("/login")
def check(request: Request) -> Response | tuple[str, int]:
    name, password = request.form.get("name", "").strip(), request.form.get("password", "")
    if not check_password(password, USERS.get(name)):  # for nobody it takes as long as for somebody
        return form(request, "Sign in", "The name or the password is wrong."), 403
    return sign_in(request, name)


@app.post("/logout")
def logout(request: Request) -> Response:
    request.session.clear()
    return redirect("/")


if __name__ == "__main__":
    app.run()
