"""Applications that answer to some hosts only."""

from __future__ import annotations

from brubeck_lite import Brubeck, Request, WebSocket

HOSTS = ["a.example", "*.b.example", "c.example:8000", "[2001:db8::1]"]

named, debugged, told, plain = Brubeck(hosts=HOSTS), Brubeck(debug=True), Brubeck(debug=True, hosts="*"), Brubeck()
inner = Brubeck(debug=True)

for app in (named, debugged, told, plain, inner):

    @app.route("/")
    def index(request: Request) -> str:
        return "here"

    @app.websocket("/talk")
    def talk(ws: WebSocket) -> None:
        ws.send("here")


for app in (named, debugged, told, plain):
    app.mount("/inner", inner)
