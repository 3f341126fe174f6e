"""Serve MODULE:APP on a port with wsgiref, under its validator: python serve_wsgiref.py MODULE:APP PORT"""

import importlib
import socketserver
import sys
from wsgiref.simple_server import WSGIServer, make_server
from wsgiref.validate import validator


class ThreadedServer(socketserver.ThreadingMixIn, WSGIServer):
    daemon_threads = True


module, _, attribute = sys.argv[1].partition(":")
app = getattr(importlib.import_module(module), attribute)
make_server("127.0.0.1", int(sys.argv[2]), validator(app), ThreadedServer).serve_forever()
