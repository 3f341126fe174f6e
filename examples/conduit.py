"""Conduit, the API of RealWorld (https://github.com/realworld-apps/realworld): users who write articles, follow each
other, comment, and have favourites.

    pip install PyJWT
    SECRET=... brubeck_lite conduit:app     (http://127.0.0.1:6767/api)
    SECRET=... DATABASE=/var/lib/conduit.sqlite brubeck_lite conduit:app --bind 0.0.0.0:8000 --workers 2
    SECRET=... python conduit.py

SECRET signs the tokens; make one with `python -c "import secrets; print(secrets.token_hex(32))"`. Any front end of
RealWorld can use the API at the address above.

Each request has a connection to SQLite, and a transaction: what it changes is kept if its answer is a success. Others
who want to change something wait until it ends, so no handler waits between its first change and its answer: bodies are
read, and passwords hashed, before.
"""

import json
import os
import re
import secrets
import sqlite3
import sys
import unicodedata
from collections.abc import Callable, Collection
from contextlib import closing
from datetime import datetime, timedelta, timezone
from typing import Any, NoReturn

from brubeck_lite import (
    Brubeck,
    HTTPError,
    Request,
    Response,
    abort,
    bearer_auth,
    check_password,
    cors,
    hash_password,
    main,
)

if __name__ == "__main__":
    main(["conduit:app", *sys.argv[1:]])  # jwt imports what eventlet has to replace before: the command line does it
    sys.exit()


def stop(reason: str) -> NoReturn:
    """End a start that cannot succeed, with one line that says what to do."""
    print(f"conduit.py: {reason}", file=sys.stderr)
    raise SystemExit(2)


try:
    import jwt
except ImportError:
    stop("PyJWT is missing: pip install PyJWT")  # the package named jwt is another one

SECRET = os.environ.get("SECRET", "")
DATABASE = os.environ.get("DATABASE", "conduit.sqlite")
LIFETIME = timedelta(days=7)  # of a token

JSON = dict[str, Any]

app = Brubeck()
app.wrap(cors("*"))  # pages of any site: scripts send the token, and no browser does so by itself


# ---- The database

SCHEMA = """
CREATE TABLE IF NOT EXISTS user (
    id INTEGER PRIMARY KEY, username TEXT NOT NULL UNIQUE COLLATE NOCASE, email TEXT NOT NULL UNIQUE COLLATE NOCASE,
    password TEXT NOT NULL, bio TEXT, image TEXT);
CREATE TABLE IF NOT EXISTS follow (
    follower INTEGER REFERENCES user, followed INTEGER REFERENCES user, PRIMARY KEY (follower, followed));
CREATE TABLE IF NOT EXISTS article (
    id INTEGER PRIMARY KEY AUTOINCREMENT, slug TEXT NOT NULL UNIQUE, title TEXT, description TEXT, body TEXT,
    created TEXT, updated TEXT, author INTEGER REFERENCES user);
CREATE TABLE IF NOT EXISTS tag (
    article INTEGER REFERENCES article ON DELETE CASCADE, name TEXT, UNIQUE (article, name));
CREATE TABLE IF NOT EXISTS favorite (
    article INTEGER REFERENCES article ON DELETE CASCADE, user INTEGER REFERENCES user, PRIMARY KEY (article, user));
CREATE TABLE IF NOT EXISTS comment (
    id INTEGER PRIMARY KEY AUTOINCREMENT, body TEXT, created TEXT, author INTEGER REFERENCES user,
    article INTEGER REFERENCES article ON DELETE CASCADE);
CREATE INDEX IF NOT EXISTS articles_of_author ON article (author);
CREATE INDEX IF NOT EXISTS articles_with_tag ON tag (name);
CREATE INDEX IF NOT EXISTS comments_on_article ON comment (article);
"""


@app.on_start
def prepare() -> None:
    if len(SECRET) < 32:
        stop("SECRET must have 32 characters: python -c 'import secrets; print(secrets.token_hex(32))' makes one")
    try:
        with closing(sqlite3.connect(DATABASE)) as connection:
            connection.executescript(SCHEMA)
    except sqlite3.Error as error:
        stop(f"cannot use {DATABASE} (DATABASE): {error}")


@app.wrap
def in_transaction(respond: Callable[[Request], Response]) -> Callable[[Request], Response]:
    def answer(request: Request) -> Response:
        connection = sqlite3.connect(DATABASE, timeout=20)  # seconds to wait for a transaction of another worker
        request.when_done(connection.close)
        connection.row_factory = sqlite3.Row
        connection.execute("PRAGMA foreign_keys = ON")
        request.state.connection = connection
        response = respond(request)  # which is a response after an error, too
        if response.status < 400:
            connection.commit()
        else:
            connection.rollback()
        return response

    return answer


def run(request: Request, sql: str, **values: Any) -> sqlite3.Cursor:
    """Run a statement, in which `:name` stands for the value of that name, and `:me` for the number of the user."""
    connection: sqlite3.Connection = request.state.connection
    return connection.execute(sql, {"me": request.current_user, **values})


def insert(request: Request, table: str, **row: Any) -> int:
    """Add a row, and return its number. (Its columns are those that we name, or have a check below.)"""
    values = ", ".join(f":{column}" for column in row)
    return run(request, f"INSERT INTO {table} ({', '.join(row)}) VALUES ({values})", **row).lastrowid or 0


def update(request: Request, table: str, number: int, **changes: Any) -> None:
    columns = ", ".join(f"{column} = :{column}" for column in changes)
    run(request, f"UPDATE {table} SET {columns} WHERE id = :number", number=number, **changes)


def now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="microseconds").replace("+00:00", "Z")


# ---- Errors: {"errors": {what: [why]}}


@app.error(HTTPError)
def explain(request: Request, error: HTTPError) -> tuple[JSON, int]:
    """The errors that `abort` was given, or what the framework refuses. RealWorld has no 400: that is 422 there."""
    errors = error.members.get("errors") or {"request": error.message}
    return {"errors": {what: [why] for what, why in errors.items()}}, 422 if error.status == 400 else error.status


@app.error(401)
def ask_for_token(request: Request, error: HTTPError) -> tuple[JSON, int]:
    reason = "is invalid" if "Authorization" in request.headers else "is missing"
    error.members = error.members or {"errors": {"token": reason}}
    return explain(request, error)


@app.error(500)
def fail(request: Request, error: Exception) -> JSON:
    return {"errors": {"server": ["failed"]}}


@app.error(sqlite3.IntegrityError)
def refuse_duplicate(request: Request, error: sqlite3.IntegrityError) -> tuple[JSON, int]:
    column = str(error).rpartition(".")[2]  # of "UNIQUE constraint failed: user.email"
    return {"errors": {column: ["has already been taken"]}}, 409


def find(request: Request, what: str, sql: str, **values: Any) -> sqlite3.Row:
    """The row that a query finds; 404 without one."""
    row: sqlite3.Row | None = run(request, sql, **values).fetchone()
    if row is None:
        abort(404, members={"errors": {what: "not found"}})
    return row


def find_own(request: Request, what: str, sql: str, **values: Any) -> sqlite3.Row:
    """The same where its author asks; 403 for others."""
    row = find(request, what, sql, **values)
    if row["author"] != request.current_user:
        abort(403, members={"errors": {what: "forbidden"}})
    return row


# ---- Validation: a check returns the value to keep, or raises a ValueError that says what is wrong

Check = Callable[[Any], Any]


def text(least: int, most: int, pattern: str = "(?s).*") -> Check:
    """The check for a text of so many characters."""

    def check(value: Any) -> str:
        if value is None or value == "":
            raise ValueError("can't be blank")
        if not isinstance(value, str) or not re.fullmatch(pattern, value):
            raise ValueError("is invalid")
        if not value.strip():
            raise ValueError("can't be blank")
        if not least <= len(value) <= most:
            raise ValueError(f"must have {least} to {most} characters")
        return value

    return check


def nullable(check: Check) -> Check:
    """The check for a value that may be null, as an empty text becomes."""
    return lambda value: None if value is None or value == "" else check(value)


def tags(value: Any) -> list[str]:
    """The check for tags, each of them once."""
    if not isinstance(value, list) or len(value) > 50:
        raise ValueError("must be a list of at most 50 tags")
    return list(set(map(text(1, 50), value)))


LOGIN = {"email": text(1, 200), "password": text(1, 1000)}
USER = {
    "username": text(1, 50, r"\w[\w.'-]*"),  # it stands in paths
    "email": text(3, 200, r"[^\s@]+@[^\s@]+"),
    "password": text(8, 1000),
}
PROFILE = {"bio": nullable(text(1, 10_000)), "image": nullable(text(1, 2000))}
ARTICLE = {"title": text(1, 200), "description": text(1, 1000), "body": text(1, 500_000), "tagList": tags}
COMMENT = {"body": text(1, 50_000)}


def given(request: Request, name: str, checks: dict[str, Check], optional: Collection[str] = ()) -> JSON:
    """What the client sent as {name: {...}}, checked; 422, with all that is wrong. `optional` may be left out."""
    sent = request.json.get(name) if isinstance(request.json, dict) else None
    if not isinstance(sent, dict) or sent.keys().isdisjoint(checks):
        abort(422, members={"errors": {name: "can't be blank"}})
    values, errors = {}, {}
    for field, check in checks.items():
        if field in sent or field not in optional:
            try:
                values[field] = check(sent.get(field))
            except ValueError as error:
                errors[field] = str(error)
    if errors:
        abort(422, members={"errors": errors})
    return values


# ---- Users


def find_user(token: str, request: Request) -> int | None:
    """The number of the user whose token this is; None where it is too old, or none of ours."""
    try:
        claims = jwt.decode(token, SECRET, algorithms=["HS256"], options={"require": ["exp", "sub"]})
    except jwt.InvalidTokenError:
        return None
    user = run(request, "SELECT id FROM user WHERE id = :id", id=claims["sub"]).fetchone()
    return user and int(user["id"])


member = bearer_auth(find_user, scheme="Token")
anyone = bearer_auth(find_user, scheme="Token", optional=True)  # guests, too: request.current_user is None


def show_user(request: Request, number: int) -> JSON:
    user = find(request, "user", "SELECT email, username, bio, image FROM user WHERE id = :id", id=number)
    claims = {"sub": str(number), "exp": datetime.now(timezone.utc) + LIFETIME}
    return {"user": {**user, "token": jwt.encode(claims, SECRET, "HS256")}}


@app.post("/api/users")
def register(request: Request) -> tuple[JSON, int]:
    user = given(request, "user", USER)
    user["password"] = hash_password(user["password"])
    return show_user(request, insert(request, "user", **user)), 201


@app.post("/api/users/login")
def log_in(request: Request) -> JSON:
    sent = given(request, "user", LOGIN)
    user = run(request, "SELECT id, password FROM user WHERE email = :email", email=sent["email"]).fetchone()
    if not check_password(sent["password"], user and user["password"]):  # for nobody it takes as long
        abort(401, members={"errors": {"credentials": "invalid"}})
    return show_user(request, user["id"])


@app.get("/api/user")
@member
def current_user(request: Request) -> JSON:
    return show_user(request, request.current_user)


@app.put("/api/user")
@member
def change_user(request: Request) -> JSON:
    changes = given(request, "user", USER | PROFILE, optional=USER | PROFILE)
    if "password" in changes:
        changes["password"] = hash_password(changes["password"])
    update(request, "user", request.current_user, **changes)
    return show_user(request, request.current_user)


# ---- Profiles

AUTHOR = """username, bio, image,
    EXISTS (SELECT 1 FROM follow WHERE followed = user.id AND follower = :me) AS following"""
PROFILES = f"SELECT id, {AUTHOR} FROM user WHERE username = :username"


def show_profile(row: sqlite3.Row) -> JSON:
    """The user of a row that has the columns of AUTHOR."""
    return {**{name: row[name] for name in ("username", "bio", "image")}, "following": bool(row["following"])}


@app.get("/api/profiles/<username>")
@anyone
def profile(request: Request, username: str) -> JSON:
    return {"profile": show_profile(find(request, "profile", PROFILES, username=username))}


@app.route("/api/profiles/<username>/follow", ["POST", "DELETE"])
@member
def follow(request: Request, username: str) -> JSON:
    number = find(request, "profile", PROFILES, username=username)["id"]
    if request.method == "POST":
        run(request, "INSERT OR IGNORE INTO follow VALUES (:me, :number)", number=number)
    else:
        run(request, "DELETE FROM follow WHERE follower = :me AND followed = :number", number=number)
    return {"profile": show_profile(find(request, "profile", PROFILES, username=username))}


# ---- Articles

ONE = "/api/articles/<slug>"
SOURCE = "FROM article JOIN user ON user.id = author"
ARTICLES = f"""
SELECT article.id, author, slug, title, description, body, created, updated, {AUTHOR},
    (SELECT json_group_array(name) FROM (SELECT name FROM tag WHERE article = article.id ORDER BY name)) AS tags,
    (SELECT count(*) FROM favorite WHERE article = article.id) AS favorites,
    EXISTS (SELECT 1 FROM favorite WHERE article = article.id AND user = :me) AS favorited
{SOURCE}"""
THIS = f"{ARTICLES} WHERE slug = :slug"
FILTERS = {
    "tag": "article.id IN (SELECT article FROM tag WHERE name = :tag)",
    "author": "username = :author",
    "favorited": "article.id IN (SELECT article FROM favorite JOIN user ON user.id = user WHERE username = :favorited)",
}


def make_slug(title: str) -> str:
    """The letters and digits of a title, in whatever script, and something that makes it the only one."""
    kept = "".join(each if unicodedata.category(each)[0] in "LMN" else " " for each in title.lower())
    return "-".join([*kept.split(), secrets.token_hex(4)])


def show_article(row: sqlite3.Row) -> JSON:
    return {
        **{name: row[name] for name in ("slug", "title", "description", "body")},
        "tagList": json.loads(row["tags"]),
        "createdAt": row["created"],
        "updatedAt": row["updated"],
        "favorited": bool(row["favorited"]),
        "favoritesCount": row["favorites"],
        "author": show_profile(row),
    }


def answer_article(request: Request, slug: str) -> JSON:
    return {"article": show_article(find(request, "article", THIS, slug=slug))}


def list_articles(request: Request, where: list[str], **values: Any) -> JSON:
    """A page of the articles that meet these conditions, the newest first, and without their bodies."""
    condition = " AND ".join(["1", *where])
    limit = min(max(request.get_argument("limit", 20, int), 0), 100)
    offset = min(max(request.get_argument("offset", 0, int), 0), 1_000_000_000)
    count = run(request, f"SELECT count(*) {SOURCE} WHERE {condition}", **values).fetchone()[0]
    sql = f"{ARTICLES} WHERE {condition} ORDER BY article.id DESC LIMIT :limit OFFSET :offset"
    shown = [show_article(row) for row in run(request, sql, limit=limit, offset=offset, **values)]
    for each in shown:
        del each["body"]
    return {"articles": shown, "articlesCount": count}


def set_tags(request: Request, number: int, names: list[str]) -> None:
    run(request, "DELETE FROM tag WHERE article = :number", number=number)
    for name in names:
        insert(request, "tag", article=number, name=name)


@app.get("/api/articles")
@anyone
def articles(request: Request) -> JSON:
    values = {name: request.query[name] for name in FILTERS if name in request.query}
    return list_articles(request, [FILTERS[name] for name in values], **values)


@app.get("/api/articles/feed")
@member
def feed(request: Request) -> JSON:
    return list_articles(request, ["author IN (SELECT followed FROM follow WHERE follower = :me)"])


@app.get(ONE)
@anyone
def article(request: Request, slug: str) -> JSON:
    return answer_article(request, slug)


@app.post("/api/articles")
@member
def add_article(request: Request) -> tuple[JSON, int]:
    values = given(request, "article", ARTICLE, optional=["tagList"])
    names, slug, created = values.pop("tagList", []), make_slug(values["title"]), now()
    author = request.current_user
    number = insert(request, "article", slug=slug, created=created, updated=created, author=author, **values)
    set_tags(request, number, names)
    return answer_article(request, slug), 201


@app.put(ONE)
@member
def change_article(request: Request, slug: str) -> JSON:
    before = find_own(request, "article", THIS, slug=slug)
    changes = given(request, "article", ARTICLE, optional=ARTICLE)
    if "tagList" in changes:
        set_tags(request, before["id"], changes.pop("tagList"))
    if changes.get("title", before["title"]) != before["title"]:
        changes["slug"] = slug = make_slug(changes["title"])
    update(request, "article", before["id"], updated=now(), **changes)
    return answer_article(request, slug)


@app.delete(ONE)
@member
def remove_article(request: Request, slug: str) -> tuple[None, int]:
    number = find_own(request, "article", THIS, slug=slug)["id"]
    run(request, "DELETE FROM article WHERE id = :number", number=number)
    return None, 204


@app.route(f"{ONE}/favorite", ["POST", "DELETE"])
@member
def favorite(request: Request, slug: str) -> JSON:
    number = find(request, "article", THIS, slug=slug)["id"]
    if request.method == "POST":
        run(request, "INSERT OR IGNORE INTO favorite VALUES (:number, :me)", number=number)
    else:
        run(request, "DELETE FROM favorite WHERE article = :number AND user = :me", number=number)
    return answer_article(request, slug)


@app.get("/api/tags")
def list_tags(request: Request) -> JSON:
    rows = run(request, "SELECT name FROM tag GROUP BY name ORDER BY count(*) DESC, name")
    return {"tags": [row["name"] for row in rows]}


# ---- Comments

COMMENTS = f"SELECT comment.id, body, created, author, {AUTHOR} FROM comment JOIN user ON user.id = author"


def show_comment(row: sqlite3.Row) -> JSON:
    shown = {"id": row["id"], "body": row["body"], "createdAt": row["created"], "updatedAt": row["created"]}
    return {**shown, "author": show_profile(row)}


@app.get(f"{ONE}/comments")
@anyone
def comments(request: Request, slug: str) -> JSON:
    number = find(request, "article", THIS, slug=slug)["id"]
    rows = run(request, f"{COMMENTS} WHERE article = :number ORDER BY comment.id", number=number)
    return {"comments": [show_comment(row) for row in rows]}


@app.post(f"{ONE}/comments")
@member
def add_comment(request: Request, slug: str) -> tuple[JSON, int]:
    on, body = find(request, "article", THIS, slug=slug)["id"], given(request, "comment", COMMENT)["body"]
    number = insert(request, "comment", body=body, created=now(), author=request.current_user, article=on)
    added = find(request, "comment", f"{COMMENTS} WHERE comment.id = :number", number=number)
    return {"comment": show_comment(added)}, 201


@app.delete(f"{ONE}/comments/<int(max=1000000000000):number>")
@member
def remove_comment(request: Request, slug: str, number: int) -> tuple[None, int]:
    on = find(request, "article", THIS, slug=slug)["id"]
    sql = "SELECT author FROM comment WHERE id = :number AND article = :on"
    find_own(request, "comment", sql, number=number, on=on)
    run(request, "DELETE FROM comment WHERE id = :number", number=number)
    return None, 204
