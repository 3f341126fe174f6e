"""The ten lines: serve them with

brubeck_lite hello:app --mongrel2 tcp://127.0.0.1:9999 tcp://127.0.0.1:9998
gunicorn hello:app
python hello.py                     (behind a Mongrel2 that runs with mongrel2.conf)
"""

from brubeck_lite import Brubeck, Mongrel2Connection, Request

app = Brubeck()


@app.route("/")
def index(request: Request) -> str:
    return "Take five!"


@app.route("/hello/<name>")
def hello(request: Request, name: str) -> str:
    return f"Take five, {name}!"


if __name__ == "__main__":
    app.run(Mongrel2Connection("tcp://127.0.0.1:9999", "tcp://127.0.0.1:9998"))
