"""Serve MODULE:APP on a port with eventlet.wsgi, all patched: python serve_eventlet.py MODULE:APP PORT"""

import eventlet

eventlet.monkey_patch()

import importlib  # noqa: E402
import sys  # noqa: E402

import eventlet.wsgi  # noqa: E402

module, _, attribute = sys.argv[1].partition(":")
app = getattr(importlib.import_module(module), attribute)
eventlet.wsgi.server(eventlet.listen(("127.0.0.1", int(sys.argv[2]))), app)
