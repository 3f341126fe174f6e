"""A program that checks passwords, and answers others meanwhile."""

from __future__ import annotations

from brubeck_lite import Brubeck, Request, check_password, hash_password

app = Brubeck()


@app.route("/")
def quick(request: Request) -> str:
    return "quick"


@app.route("/passwords")
def passwords(request: Request) -> str:
    hashed = hash_password("secret")
    return "".join(str(check_password("secret", hashed)) for _ in range(6))
