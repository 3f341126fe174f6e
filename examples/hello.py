"""The ten lines: serve them with

python hello.py                     (http://127.0.0.1:6767)
brubeck_lite hello:app --bind 0.0.0.0:8000
brubeck_lite hello:app --mongrel2 tcp://127.0.0.1:9999 tcp://127.0.0.1:9998
gunicorn hello:app
"""

from html import escape

from brubeck_lite import Brubeck, Request

app = Brubeck()


@app.route("/")
def index(request: Request) -> str:
    return "Take five!"


@app.route("/hello/<name>")
def hello(request: Request, name: str) -> str:
    return f"Take five, {escape(name)}!"  # a str is sent as HTML


if __name__ == "__main__":
    app.run()
