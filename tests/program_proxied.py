"""An application that stands behind a proxy, whose answers depend on who asks."""

from __future__ import annotations

from collections.abc import Iterator

from brubeck_lite import Brubeck, Request, WebSocket, basic_auth, csrf

app, inner = Brubeck(proxies=1), Brubeck()

for each in (app, inner):

    @each.get("/seen")
    def seen(request: Request) -> list[str]:
        return [request.remote_addr, request.scheme, request.host]

    @each.get("/mine")
    @basic_auth(lambda name, password: True)
    def mine(request: Request) -> str:
        return f"for {request.current_user}"

    @each.get("/read")
    def read(request: Request) -> str:
        return f"for {request.headers.get('Authorization')}"

    @each.get("/stream")
    def stream(request: Request) -> Iterator[str]:
        yield "piece"

    @each.post("/change")
    def change(request: Request) -> str:
        return "changed"

    @each.websocket("/talk", origins="https://friend.example:443")
    def talk(ws: WebSocket) -> None:
        ws.send("here")


app.wrap(csrf())
app.mount("/inner", inner)
