"""The program of the tests of live connections, as gevent serves it: it imports eventlet, but does not run on that."""

import eventlet  # noqa: F401
from program_live import app

from brubeck_lite import hash_password

app.get("/hash")(lambda request: hash_password("take five"))
