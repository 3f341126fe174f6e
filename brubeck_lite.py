"""brubeck_lite: a web microframework in one file.

Plain functions on routes return strings; a pipeline of coroutines runs them; the embedded HTTP server, Mongrel2 (over
ZeroMQ) or any WSGI server stands in front:

    from html import escape

    from brubeck_lite import Brubeck

    app = Brubeck()

    @app.route("/")
    def index(request):
        return "Take five!"

    @app.route("/hello/<name>")
    def hello(request, name):
        return f"Take five, {escape(name)}!"  # a str is sent as HTML

    if __name__ == "__main__":
        app.run()  # http://127.0.0.1:6767

Behind Mongrel2 it is `app.run(Mongrel2Connection("tcp://127.0.0.1:9999", "tcp://127.0.0.1:9998"))`, and `app` is a WSGI
application too: `gunicorn hello:app`.

The sections of this file stand in this order, each built on those above it:

    Request     what a client asked: parsed when first looked at
    Response    what a handler returns, made into status, header fields and a body
    Mongrel2    bytes -> Request, Response -> bytes; netstrings, tnetstrings, replies
    HTTP/1.1    bytes -> Request and the pieces of its body, Response -> bytes
    WebSocket   bytes -> messages, messages -> frames
    WSGI        environ -> Request
    Routes      rules and regular expressions -> a route and its arguments
    Helpers     who is signed in, passwords, templates, other origins
    Handlers    classes that are called: MessageHandler, WebMessageHandler
    Figures     what a server counts, for programs and for Prometheus
    Brubeck     the application: `handle(request) -> response`, with no input or output of its own
    Peers       one for each connection of a client; route_message -> request_handler -> result_handler; the pool
    Live        events, channels, WebSockets: for connections that live longer than an answer
    Client      a test client that needs no server
    Servers     what runs behind Mongrel2 and by HTTP; signals, the access log
    Workers     the parent of several processes, which plays Mongrel2 to them
    Command     the command line

What is above Peers opens no socket. zmq and eventlet are imported when a server starts, or a coroutine has to wait:
`import brubeck_lite` patches nothing, warns of nothing and costs little more than its router.
"""

from __future__ import annotations

import array
import ast
import atexit
import base64
import binascii
import codecs
import contextlib
import contextvars
import copy
import errno
import functools
import gc
import glob
import hashlib
import hmac
import importlib
import inspect
import io
import itertools
import json
import logging
import math
import mimetypes
import mmap
import operator
import os
import re
import secrets
import select
import shutil
import signal
import site
import socket
import stat
import struct
import subprocess
import sys
import sysconfig
import tempfile
import textwrap
import threading
import time
import traceback
import warnings
import weakref
import zlib
from calendar import timegm
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from email.utils import formatdate, parsedate_to_datetime
from encodings import normalize_encoding
from encodings.aliases import aliases
from enum import Enum
from http import HTTPStatus
from types import BuiltinFunctionType, FunctionType, MappingProxyType, SimpleNamespace
from typing import TYPE_CHECKING, Any, Concatenate, NamedTuple, NoReturn, ParamSpec, TypeVar, Union, cast, overload
from urllib.parse import quote, unquote, unquote_to_bytes, urldefrag, urlencode, urljoin, urlsplit

from werkzeug.exceptions import MethodNotAllowed, NotFound
from werkzeug.routing import BaseConverter, BuildError, Map, MapAdapter, RequestRedirect, Rule
from werkzeug.routing.converters import DEFAULT_CONVERTERS

__version__ = "1.0.0"
__all__ = ["ArgumentsMixin", "AuthMixin", "Brubeck", "Channel", "Event", "HTTPConnection", "HTTPError",
           "MessageHandler", "Mongrel2Connection", "ProtocolError", "Request", "Response", "TemplateMixin",
           "WebMessageHandler", "abort", "authenticated", "basic_auth", "bearer_auth", "check_password", "compress",
           "cors", "csrf", "event_stream", "format_netstring", "format_reply", "format_tnetstring", "hash_password",
           "jinja2_templates", "parse_mongrel2", "parse_netstring", "parse_tnetstring", "redirect", "render",
           "safe_target", "sign", "static_file", "unsign"]  # fmt: skip

logger = logging.getLogger("brubeck_lite")

T = TypeVar("T")
D = TypeVar("D")
H = TypeVar("H", bound=Callable[..., Any])  # a handler, which a decorator gives back as it was
R = TypeVar("R", bound="Callable[Concatenate[Request, ...], Returned] | type")  # a handler of a route
W = TypeVar("W", bound="Callable[Concatenate[WebSocket, ...], Any]")
E = TypeVar("E", bound="Callable[[Request, Any], Returned]")  # a handler of errors
P = ParamSpec("P")


class _Late:
    """A package that is imported when a server starts; eventlet's warning that it is in maintenance is kept back."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, name: str) -> Any:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="(?s).*Eventlet is deprecated", category=Warning)
            value = getattr(importlib.import_module(self._name), name)
        setattr(self, name, value)
        return value


if TYPE_CHECKING:
    import ssl
    from functools import cached_property as lazy
    from typing import ClassVar, Protocol

    import eventlet
    import greenlet
    import zmq

    class DataclassInstance(Protocol):
        """An object of any dataclass."""

        __dataclass_fields__: ClassVar[dict[str, Any]]

    # What handlers return (see `to_response`): a body, or (body, status), (body, headers) or (body, status, headers).
    Body = Union[str, bytes, bytearray, Mapping[Any, Any], list[Any], DataclassInstance, Iterable[Union[str, bytes]],
                 "Response", None]  # fmt: skip
    Returned = Union[Body, tuple[Body, Union[int, str]], tuple[Body, "HeaderFields"],
                     tuple[Body, Union[int, str], "HeaderFields"]]  # fmt: skip
else:
    eventlet, greenlet, ssl, zmq = _Late("eventlet"), _Late("greenlet"), _Late("ssl"), _Late("zmq")

    class lazy(functools.cached_property):
        """An attribute that is worked out when first read, without the lock that Python before 3.12 takes for it."""

        def __get__(self, instance, owner=None):
            if instance is None:
                return self
            value = instance.__dict__[self.attrname] = self.func(instance)
            return value


def _hub() -> Any:
    """Eventlet's hub of this thread; None where it has none. (`eventlet.hubs.get_hub` would make one.)"""
    return getattr(getattr(sys.modules.get("eventlet.hubs"), "_threadlocal", None), "hub", None)


def in_coroutines() -> bool:
    """Whether this runs in a coroutine of eventlet's hub, as handlers do inside `run()`: then other coroutines must go
    on meanwhile. A thread is none, nor is a coroutine of gevent's, though the program may have imported eventlet."""
    hub = _hub()
    coroutine = None if hub is None else greenlet.getcurrent().parent
    while coroutine is not None and coroutine is not hub.greenlet:
        coroutine = coroutine.parent
    return coroutine is not None


def _unpatched(name: str) -> Any:
    """A module of the standard library as it was before eventlet patched it; under gevent, as gevent has it."""
    is_patched = bool(getattr(sys.modules.get("eventlet.patcher"), "already_patched", None))
    return eventlet.patcher.original(name) if is_patched else importlib.import_module(name)


def call_soon(function: Callable[[], Any], seconds: float = 0) -> Any:
    """Have eventlet's hub call a function, which must not wait. Returns the timer, which has `cancel`."""
    return eventlet.hubs.get_hub().schedule_call_global(seconds, function)


class _CallsOfThreads:
    """Functions that other threads want called in the hub of this thread: a pair of sockets wakes the hub for them."""

    def __init__(self) -> None:
        self._functions: deque[Callable[[], Any]] = deque()
        self._ours, self._theirs = _unpatched("socket").socketpair()
        self._ours.setblocking(False)
        self._theirs.setblocking(False)
        eventlet.hubs.get_hub().add("read", self._ours.fileno(), self._call_all, self._call_all, lambda: None)

    def add(self, function: Callable[[], Any]) -> None:
        """Have the hub call a function, which must not wait: from any thread."""
        self._functions.append(function)
        with contextlib.suppress(BlockingIOError):  # the hub has so many bytes to read that it will come anyhow
            self._theirs.send(b"!")

    def _call_all(self, *_: Any) -> None:
        with contextlib.suppress(BlockingIOError):
            self._ours.recv(1 << 16)
        while self._functions:
            try:
                self._functions.popleft()()
            except Exception:
                logger.exception("a function that another thread wanted called failed")


_calls_by_hub: weakref.WeakKeyDictionary[Any, _CallsOfThreads] = weakref.WeakKeyDictionary()


def calls_of_threads() -> _CallsOfThreads:
    """What other threads want called in this thread, which has one hub."""
    hub = eventlet.hubs.get_hub()
    if hub not in _calls_by_hub:
        _calls_by_hub[hub] = _CallsOfThreads()
    return _calls_by_hub[hub]


class _Sleeper:
    """The one coroutine that waits for something, and what wakes it: other coroutines of its thread and, with `calls`,
    other threads."""

    __slots__ = ("_alarm", "_calls", "_hub", "sleeping")

    def __init__(self, calls: _CallsOfThreads | None = None) -> None:
        self._hub, self._calls = eventlet.hubs.get_hub(), calls
        self.sleeping: greenlet.greenlet | None = None
        self._alarm: Any = None  # the timer of `wake_soon`, which must not outlast this sleep and disturb the next

    def wait(self, seconds: float | None = None) -> bool:
        """Wait to be woken, for so many seconds at most: whether somebody did."""
        timer = None if seconds is None else self._hub.schedule_call_global(seconds, self.wake)
        self.sleeping = greenlet.getcurrent()
        try:
            self._hub.switch()
            return timer is None or not timer.called
        finally:
            self.sleeping = None  # whatever ended the wait, such as a Timeout of the handler's
            if timer is not None:
                timer.cancel()
            if self._alarm is not None:
                self._alarm.cancel()
                self._alarm = None

    def wake(self) -> None:
        """Wake the coroutine that waits: to be called in the hub."""
        sleeping, self.sleeping = self.sleeping, None
        if sleeping is not None:
            sleeping.switch()

    def wake_soon(self) -> None:
        """Wake the coroutine that waits: to be called in any coroutine and, with `calls`, in any thread."""
        if self._calls is not None and _hub() is not self._hub:
            self._calls.add(self.wake)
        elif self.sleeping is not None and self._alarm is None:
            self._alarm = self._hub.schedule_call_global(0, self.wake)


class _Sleepers(list[_Sleeper]):
    """Coroutines that wait for the same thing, each with a sleeper of its own."""

    __slots__ = ()

    def wait(self, seconds: float | None = None) -> bool:
        """Wait to be woken, for so many seconds at most: whether somebody did."""
        sleeper = _Sleeper()
        self.append(sleeper)
        try:
            return sleeper.wait(seconds)
        finally:
            self.remove(sleeper)

    def wake_soon(self) -> None:
        """Wake all that wait: to be called in any coroutine."""
        for sleeper in self:
            sleeper.wake_soon()


class _SleepingThread:
    """A `_Sleeper` for a thread that has no coroutines."""

    def __init__(self) -> None:
        self._event = _unpatched("threading").Event()
        self.wake_soon = self._event.set

    def wait(self, seconds: float | None = None) -> bool:
        is_woken: bool = self._event.wait(seconds)
        self._event.clear()
        return is_woken


def make_sleeper() -> _Sleeper | _SleepingThread:
    """What the present coroutine, or thread, waits with until another coroutine or thread calls its `wake_soon`, first
    having done what is waited for. It may also wake for nothing."""
    return _Sleeper(calls_of_threads()) if in_coroutines() else _SleepingThread()


TURN = 0.005  # seconds that a coroutine goes on without letting the others have their turns


def give_turn(since: float) -> float:
    """Let the other coroutines have their turns if this one has computed for longer than TURN since that time of
    `time.monotonic()`. Returns the time since which this one computes now."""
    if time.monotonic() - since < TURN:
        return since
    if in_coroutines():
        eventlet.sleep(0)
    return time.monotonic()


_STATUS_LINES = {status.value: f"{status.value} {status.phrase}" for status in HTTPStatus}


def status_line(status: int) -> str:
    """A status with its reason phrase, which RFC 9110 (15) calls optional but clients expect."""
    return _STATUS_LINES.get(status) or f"{status} Status"


class HTTPError(Exception):
    """An answer that a handler raises: its status, a sentence for the client (by default the phrase of the status, such
    as "Not Found"), and header fields (`Allow` in a 405). `members`, such as `{"errors": {"name": "is missing"}}`,
    are for clients that prefer JSON, whose answer has them too (RFC 9457, 3.2). TypeError for what is no status."""

    def __init__(self, status: int, message: str | None = None, headers: Mapping[str, str] | None = None,
                 members: Mapping[str, Any] | None = None) -> None:  # fmt: skip
        if not (isinstance(status, int) and 200 <= status <= 599):
            raise TypeError(f"write abort(404), with a status, not {status!r}")
        if isinstance(message, Mapping):
            raise TypeError('the message of an error is a sentence; write abort(400, "...", members={"errors": ...})')
        super().__init__(status, message)
        sentence = str(message) if isinstance(message, Exception) else message  # as in `except ValueError as error`
        self.status, self.message = status, sentence or status_line(status)[4:]
        self.headers: Mapping[str, str] = headers or {}
        self.members = members or {}

    def __str__(self) -> str:
        return f"{self.status} {self.message}"


class ProtocolError(HTTPError, ValueError):
    """Bytes that are no message of the protocol they came by. `status` is what an HTTP client is told."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(400, message)
        self.status = status  # of a WebSocket the code that closes it

    def __str__(self) -> str:
        return self.message


class MissingName(HTTPError, KeyError):
    """A name that a request does not have, as `without` says: 400 for the client, and a KeyError for the program."""

    __str__ = KeyError.__str__

    def __init__(self, name: object, without: str) -> None:
        super().__init__(400, f"the {without} {name!r}")
        self.args = (name,)  # as those of a KeyError


def abort(status: int, message: str | None = None, headers: Mapping[str, str] | None = None,
          members: Mapping[str, Any] | None = None) -> NoReturn:  # fmt: skip
    """End the request here: raises HTTPError. TypeError for what is no status, such as a Response."""
    raise HTTPError(status, message, headers, members)


def forget_frames(error: BaseException) -> None:
    """Drop the tracebacks of an exception that was dealt with, and of those behind it. Their frames hold the request:
    where such a frame also holds the exception, only the garbage collector would free the request."""
    errors: list[BaseException | None] = [error]
    for each in errors:
        if each is not None and each.__traceback__ is not None:
            each.__traceback__ = None
            errors += each.__cause__, each.__context__


# ---- Request ---------------------------------------------------------------------------------------------------------
# In: what a door knows of a request. Out: attributes that handlers read, each worked out when first asked for.
# Nothing here touches a socket; a body is read through the stream that the door supplies.

Secrets = Union[str, Sequence[str], None]
MIN_SECRET = 16  # bytes
CONTROLS = re.compile(r"[\x00-\x1f\x7f]")
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110, 5.6.2
_COOKIE_ESCAPE = re.compile(rb"\\(?:([0-3][0-7][0-7])|(.))", re.DOTALL)
_BAD_PATH = "the path is not UTF-8, or has a control character in it"
_IN_PATH = "!$&'()*+,/:;=@~"  # RFC 3986, 3.3: pchar and "/"
_IN_QUERY = _IN_PATH + "?%"
_HOST = re.compile(r"(?:[A-Za-z0-9._~!$&'()*+,;=%-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{0,5})?")
_HOST_RULE = re.compile(r"(\*\.)?([a-z0-9_](?:[a-z0-9_.-]*[a-z0-9_])?|\[[0-9a-f:.]+\])\.?(?::([0-9]{1,5}))?")
_ORIGIN = re.compile(r"([a-z][a-z0-9+.-]*)://([a-z0-9._~-]+|\[[0-9a-f:.]+\])(?::([0-9]{1,5}))?")
_DEFAULT_PORTS = {"http": 80, "https": 443}
# Whether this is an address, or the name, of the machine itself (RFC 1122, 3.2.1.3; RFC 4291, 2.5.3).
is_loopback = re.compile(r"127(?:\.[0-9]{1,3}){3}|\[?::1\]?|localhost").fullmatch
_IP_ADDRESS = re.compile(r"\[([^]%]*)(?:%[^]]*)?\](?::[0-9]{1,5})?|([0-9.]+)(?::[0-9]{1,5})?"
                         r"|([0-9A-Fa-f:.]+)(?:%.*)?")
_FORWARDED_PAIR = rf'[ \t]*({_TOKEN.pattern})=({_TOKEN.pattern}|"(?:[^"\\]|\\.)*")[ \t]*'  # RFC 7239, 4
_FORWARDED = re.compile(rf"(?:^|,)({_FORWARDED_PAIR}(?:;{_FORWARDED_PAIR})*)$")
_X_FORWARDED = frozenset(["x-forwarded-for", "x-forwarded-proto", "x-forwarded-host"])
_SCHEMES = {"http": "http", "https": "https", "ws": "http", "wss": "https"}  # as proxies name them; Traefik both
# A full disk, and a machine without a folder for temporary files that may be written to.
_NO_SPACE = frozenset([errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.ENOENT, errno.EROFS])
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_JSON_TYPE = re.compile(r"application/(?:[\w.-]+\+)?json")
_WEIGHT = re.compile(r"(?:^|;)[ \t]*q[ \t]*=[ \t]*(0(?:\.[0-9]*)?|1(?:\.0*)?)[ \t]*(?:;|$)")
_NO_FIELD, _NO_FILE = "form has no field", "form has no file"  # what MissingName says
_UNLIMITED = 1 << 62  # the limit of a route that leaves the limit to a mounted application


class _Named(Mapping[str, T]):
    """The base of the mappings of requests and answers: one dict, and in it what is kept for each name."""

    __slots__ = ("_kept",)

    def __init__(self, kept: dict[str, Any]) -> None:
        self._kept = kept

    def __iter__(self) -> Iterator[str]:
        return iter(self._kept)

    def __len__(self) -> int:
        return len(self._kept)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._kept!r})"


class Headers(_Named[str]):
    """The header fields of a request by name, in any case. A field that came more than once is joined with ", ". A name
    that is not there is a KeyError, and an HTTPError 400."""

    __slots__ = ()

    def __getitem__(self, name: str) -> str:
        if name not in self:
            raise MissingName(name, "request has no header")
        return cast(str, self._kept[name.lower()])

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name.lower() in self._kept

    if not TYPE_CHECKING:  # the types are those of Mapping.get, which would make an exception first

        def get(self, name, default=None):
            return self._kept.get(name.lower(), default)


class MultiDict(_Named[T]):
    """Names and values where a name may come more than once: `[name]` is the first value, `getall(name)` the list.
    A name that is not there is a KeyError, and an HTTPError 400, whose sentence begins with `without`."""

    __slots__ = ("_without",)

    def __init__(self, pairs: Iterable[tuple[str, T]], without: str) -> None:
        lists: dict[str, list[T]] = {}
        for name, value in pairs:
            lists.setdefault(name, []).append(value)
        super().__init__(lists)
        self._without = without

    def __getitem__(self, name: str) -> T:
        if name not in self._kept:
            raise MissingName(name, self._without)
        return cast(T, self._kept[name][0])

    def __contains__(self, name: object) -> bool:
        return name in self._kept

    if not TYPE_CHECKING:  # the types are those of Mapping.get, which would make an exception first

        def get(self, name, default=None):
            return self._kept[name][0] if name in self._kept else default

    def getall(self, name: str) -> list[T]:
        """Every value of the name, in order; an empty list where there is none."""
        return list(self._kept.get(name, ()))


def parse_cookies(header: str) -> MultiDict[str]:
    """A Cookie header -> its cookies, in linear time (RFC 6265, 5.4). A cookie without a name, or with a control
    character, is left out. Quoted values are read as Python's http.cookies and werkzeug write them, as UTF-8."""
    cookies = []
    for pair in header.split(";"):
        name, equals, value = pair.partition("=")
        if not equals or CONTROLS.search(pair) or not (name := name.strip(" \t")):
            continue
        octets = value.strip(" \t").encode("latin-1", "replace")
        if len(octets) > 1 and octets[:1] == octets[-1:] == b'"':
            octets = _COOKIE_ESCAPE.sub(lambda escape: escape[2] or bytes([int(escape[1], 8)]), octets[1:-1])
        cookies.append((name, octets.decode("utf-8", "replace")))
    return MultiDict(cookies, "request has no cookie")


_HOW_TO_MAKE_A_SECRET = 'make one with python -c "import secrets; print(secrets.token_hex(32))"'
_PUBLISHED_SECRETS = frozenset(["made by: python -c 'import secrets; print(secrets.token_hex(32))'",
                                "the new secret, which signs: 32 letters or more",
                                "the old secret, which still verifies",
                                "of the old program, and long", "of the new program, and long"])  # fmt: skip


def _keys(secrets: Secrets) -> list[bytes]:
    """The secrets as keys. RuntimeError for None; TypeError or ValueError for what cannot be a secret."""
    if secrets is None:
        raise RuntimeError("signing needs Brubeck(secret=...), the same in all processes and known to nobody else: "
                           + _HOW_TO_MAKE_A_SECRET)  # fmt: skip
    texts = [secrets] if isinstance(secrets, str) or not isinstance(secrets, Sequence) else list(secrets)
    if not all(isinstance(text, str) for text in texts):
        raise TypeError("a secret is a str, or a list of them with the newest first")
    keys = [text.encode() for text in texts]
    if not keys or min(map(len, keys)) < MIN_SECRET:
        raise ValueError(f"a secret has at least {MIN_SECRET} bytes: {_HOW_TO_MAKE_A_SECRET}")
    if not _PUBLISHED_SECRETS.isdisjoint(texts):
        raise ValueError(f"this secret is an example that everybody can read: {_HOW_TO_MAKE_A_SECRET}")
    return keys


def _encode64(octets: bytes) -> str:
    return base64.urlsafe_b64encode(octets).rstrip(b"=").decode()


def _signature(key: bytes, purpose: str, text: str) -> str:
    if CONTROLS.search(purpose):  # a line break ends the purpose, so there is none in it
        raise ValueError(f"the purpose of a signature has a control character in it: {purpose!r}")
    return _encode64(hmac.digest(key, f"brubeck_lite {purpose}\n{text}".encode(), "sha256"))


def sign(value: str, secrets: Secrets, purpose: str = "") -> str:
    """A value, which stays readable, with the time and a signature (HMAC-SHA256, by the first of the secrets): letters,
    digits, `-`, `_` and `.`. The signature holds for this `purpose` alone; the purpose of a signed cookie is its name.
    RuntimeError without a secret; ValueError for one under 16 bytes, and for control characters in the purpose."""
    text = f"{_encode64(value.encode())}.{int(time.time()):x}"
    return f"{text}.{_signature(_keys(secrets)[0], purpose, text)}"


def _verified(text: str, keys: list[bytes], max_age: float | None, purpose: str) -> str | None:
    signed, _, signature = text.rpartition(".")
    if len(signature) != 43 or not text.isascii():  # 32 octets: another length needs no HMAC to be refused
        return None
    if not any(hmac.compare_digest(signature, _signature(key, purpose, signed)) for key in keys):
        return None
    value, _, second = signed.partition(".")
    if max_age is not None and time.time() - int(second, 16) > max_age:
        return None
    return base64.urlsafe_b64decode(value + "===").decode()


def unsign(text: str, secrets: Secrets, max_age: float | None = None, purpose: str = "") -> str | None:
    """The value that was signed with one of these secrets, at most `max_age` seconds ago; None for any other text.
    Errors as for `sign`."""
    return _verified(text, _keys(secrets), max_age, purpose)


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"the number is too large: {text:.40}")
    return value


def _json_form(value: Any) -> Any:
    """What stands in JSON for a value that JSON has no form for, as Flask has it: a date of HTTP for a datetime (of no
    time zone: UTC) and a date, text for UUID and Decimal, the value of an Enum, a dict for a dataclass."""
    from datetime import date, datetime
    from decimal import Decimal
    from uuid import UUID

    if isinstance(value, date):
        moment = value.utctimetuple() if isinstance(value, datetime) else value.timetuple()
        return formatdate(timegm(moment), usegmt=True)
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, (UUID, Decimal)):
        return str(value)
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in fields(value)}
    raise TypeError(f"there is no JSON for an object of class {type(value).__name__}")


# JSON without NaN and the infinities, which RFC 8259 does not have: both raise ValueError for them (`int` does, for
# their names). Encoder and decoder are made once: `json.dumps` and `json.loads` with options make one for each call.
# `check_circular` stays: without it, a value that contains itself ends Python 3.13 in a thread with a small stack.
# What is read back, such as a session, takes only what JSON has a form for: it would come back as another type.
_make_encoder = functools.partial(json.JSONEncoder, allow_nan=False, separators=(",", ":"))
dump_json, _dump_plain = _make_encoder(default=_json_form).encode, _make_encoder().encode
_dump_unescaped = _make_encoder(ensure_ascii=False).encode
load_json = json.JSONDecoder(parse_constant=int, parse_float=_finite).decode


@dataclass(frozen=True)
class SessionCookie:
    """How the session's cookie is set, for `Brubeck.session_cookie`: its `name` (None: "session", which is followed by
    the prefix of the mount for a mounted application with a secret of its own), its age in seconds, `secure` (None: as
    the request's scheme is) and `samesite` as for `Response.set_cookie`. A cookie for https alone has `__Host-` before
    its name, so that neither another subdomain nor an http page can set it. ValueError for what a cookie cannot be."""

    name: str | None = None
    max_age: int = 14 * 24 * 3600
    secure: bool | None = None
    samesite: str | None = "Lax"

    def __post_init__(self) -> None:
        name = "session" if self.name is None else self.name
        Response().set_cookie(name, "", secure=self.secure, samesite=self.samesite)  # ValueError
        if not isinstance(self.max_age, int) or self.max_age < 1 or self.secure not in (True, False, None):
            raise ValueError("the cookie of a session has an age in seconds; secure is True, False or None")

    def for_request(self, request: Request, prefix: str) -> tuple[str, bool]:
        """The name of the cookie for an application whose secret begins to hold at this prefix; whether the cookie is
        for https alone. By http the cookie has another name, for anybody on the way may have set that one."""
        name = f"session{quote(prefix, safe='')}" if self.name is None else self.name
        has_prefix = name.lower().startswith(("__host-", "__secure-"))
        is_secure = has_prefix or self.samesite == "None" or self.secure
        if is_secure is None:
            is_secure = request.scheme == "https"
        return f"__Host-{name}" if is_secure and not has_prefix else name, is_secure


class Session:
    """The session of a client: of an application, and of all that is mounted in it with the same secret."""

    __slots__ = ("app", "kept", "prefix", "user", "values")
    user: Any  # who is signed in, once that is known

    def __init__(self, app: Brubeck, prefix: str = "") -> None:
        self.app, self.prefix = app, prefix  # whose settings and secret hold, and where it is mounted
        self.kept = "{}"  # the JSON that the client has; compared with it, a change at any depth is seen
        self.values: dict[str, Any] | None = None  # None until the program reads the session

    def load(self, request: Request) -> dict[str, Any]:
        """The values that the session holds."""
        if self.values is None:
            settings = self.app.session_cookie
            name, _ = settings.for_request(request, self.prefix)
            # No cookie's name has a space, so that what a program signs for a cookie is never taken for a session.
            self.kept = request.find_signed(name, f"session {name}", settings.max_age) or "{}"
            self.values = json.loads(self.kept)
        return cast("dict[str, Any]", self.values)

    def save(self, request: Request, response: Response) -> None:
        """Set or delete the cookie, if the session has changed. TypeError or ValueError for what JSON cannot hold."""
        try:
            if self.values is None or (text := _dump_plain(self.values)) == self.kept:
                return
        except (TypeError, ValueError) as error:
            raise AnswerError(f"request.session has something in it that JSON cannot hold: {error}") from error
        settings = self.app.session_cookie
        name, is_secure = settings.for_request(request, self.prefix)
        value = sign(text, self.app.secret, f"session {name}") if self.values else ""
        response.set_cookie(name, value, max_age=settings.max_age if self.values else 0, secure=is_secure,
                            samesite=settings.samesite)  # fmt: skip


def body_too_large(limit: int) -> HTTPError:
    """The 413 that names the limit."""
    return HTTPError(413, f"the body is over the limit of {limit} bytes")


class _Body(io.RawIOBase):
    """The body of a request as a file, which calls the door's `read(size)`. `length` is what the client declared, None
    where the body itself shows its end. Reading raises HTTPError: 413 beyond `limit`, 400 if it ends early."""

    def __init__(self, read: Callable[[int], bytes], length: int | None, limit: int) -> None:
        super().__init__()
        self._read, self._left, self._limit, self._seen = read, length, limit, 0
        self._turn = time.monotonic()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        piece = self._take(len(buffer))
        buffer[: len(piece)] = piece
        return len(piece)

    def readall(self) -> bytes:
        body = bytearray()  # for chunks of two bytes, a list of pieces takes 20 times as much memory
        while piece := self._take(1 << 16):
            body += piece
        return bytes(body)

    def _take(self, size: int) -> bytes:
        self._turn = give_turn(self._turn)  # for a disk never waits, and chunks may have one byte each
        wanted = size if self._left is None else min(size, self._left)
        piece = self._read(wanted) if wanted else b""
        if self._left is not None:
            if wanted and not piece:
                abort(400, "the body ended before its Content-Length")
            self._left -= len(piece)
        self._seen += len(piece)
        if self._seen > self._limit:
            raise body_too_large(self._limit)
        return piece


def parse_content_length(text: str) -> int:
    """A Content-Length, which is digits and nothing else (RFC 9110, 8.6) -> the number; ProtocolError otherwise."""
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise ProtocolError("Content-Length is not a number")
    return int(text)


def decode_path(octets: bytes) -> str:
    """The octets of a path, percent-decoded already, as strict UTF-8 without control characters (`$` in a pattern would
    let a line break pass); HTTPError 400 for any other path."""
    try:
        path = octets.decode()
    except UnicodeDecodeError:
        path = "\0"
    if not path.isprintable() and CONTROLS.search(path):  # many legal characters are not printable either
        raise HTTPError(400, _BAD_PATH)
    return path


def find_weight(parameters: str) -> float:
    """The `q` among the parameters of an element of an Accept field (RFC 9110, 12.4.2); 1 where there is none."""
    weight = _WEIGHT.search(parameters)
    return 1.0 if weight is None else float(weight[1])


def plain_address(text: str) -> str:
    """The IP address in what a proxy or a server writes for a client: `203.0.113.9:51008`, `[2001:DB8::1]:4711`,
    `fe80::1%eth0` or `::ffff:203.0.113.9` -> the address alone, an IPv6 one in its short form (RFC 5952), and IPv4 as
    such. Empty for anything else."""
    match = _IP_ADDRESS.fullmatch(text)
    address = (match[1] or match[2] or match[3] or "") if match else ""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        plain = socket.inet_ntop(family, socket.inet_pton(family, address))
    except OSError:
        return ""
    return plain.removeprefix("::ffff:") if "." in plain else plain


def parse_forwarded(text: str, number: int) -> dict[str, str]:
    """The element number `number`, counted from the end, of a Forwarded field (RFC 7239): its values by name in lower
    case; empty where there are fewer elements. The field is read from its end: a quote that a client has left open
    hides nothing of what proxies have added."""
    element = ""
    for _ in range(number):
        if (match := _FORWARDED.search(text)) is None:
            return {}
        element, text = match[1], text[: match.start()]
    return {name.lower(): re.sub(r"\\(.)", r"\1", value[1:-1]) if value[0] == '"' else value
            for name, value in re.findall(_FORWARDED_PAIR, element)}  # fmt: skip


def plain_origin(origin: str) -> str:
    """An origin as browsers write it (RFC 6454, 6.1; WHATWG URL, 4.5): in lower case, without the port that is its
    scheme's own, an IPv6 address in its short form. Empty for anything else, such as `null`."""
    match = _ORIGIN.fullmatch(origin.lower())
    if match is None:
        return ""
    scheme, host, port = match.groups()
    if host[0] == "[":
        host = f"[{plain_address(host)}]"
    is_usual = port is None or int(port) == _DEFAULT_PORTS.get(scheme)
    return f"{scheme}://{host}" if is_usual else f"{scheme}://{host}:{int(port)}"


def compile_origins(origins: str | Iterable[str] | None, *also: str) -> frozenset[str]:
    """The origins that a program names ("https://app.example"), as `plain_origin` writes them; the words in `also` are
    taken as they are. ValueError for anything else."""
    named = frozenset([origins] if isinstance(origins, str) else origins or ())
    for origin in named.difference(also):
        if not plain_origin(origin):
            others = f", or {also[0]!r} for all" if also else ""
            raise ValueError(f'an origin is like "https://app.example", without a slash at its end{others}: {origin!r}')
    return frozenset(origin if origin in also else plain_origin(origin) for origin in named)


def is_own_origin(request: Request, origin: str, also_https: bool = False) -> bool:
    """Whether a page of this origin is one of ours: whether scheme, host and port are the request's (RFC 6454, 5),
    where the scheme's usual port may be named or not. `also_https`: https will do for a request by http, as it always
    does where the Host has the port 443. The origin `null` says nothing: then the browser's Sec-Fetch-Site decides."""
    if origin == "null":
        return request.headers.get("sec-fetch-site") == "same-origin"
    schemes = {request.scheme, "https"} if also_https or request.host.endswith(":443") else {request.scheme}
    ours = [plain_origin(f"{scheme}://{request.host}") for scheme in schemes]
    return plain_origin(origin) in ours and "" not in ours


def compile_hosts(hosts: Iterable[str]) -> re.Pattern[str]:
    """Names and addresses of hosts, as a Host field has them -> the pattern of such a field in lower case, with any
    port unless one is named. `*.example.org` stands for every name below example.org, `*` for all hosts. ValueError for
    anything else."""
    patterns = []
    for host in [hosts] if isinstance(hosts, str) else hosts:
        match = _HOST_RULE.fullmatch(host.lower())
        if match is None and host != "*":
            raise ValueError(f'a host is "example.org", "*.example.org", "example.org:80" or "[::1]", not {host!r}')
        below, name, port = ("", "", "") if match is None else match.groups()
        is_below = r"[a-z0-9_.-]+\." if below else ""
        patterns.append(rf"{is_below}{re.escape(name)}\.?:{port or '[0-9]+'}" if name else ".*")
    return re.compile("|".join(patterns) or "(?!)")


_LOOPBACK_NAMES = compile_hosts(["localhost", "*.localhost", "127.0.0.1", "[::1]"])


MULTIPART = "multipart/form-data"
MAX_FORM_FIELDS, MAX_FORM_FILES = 1000, 100  # the fields also of a query
MAX_FORM_TEXT = 16 << 20  # bytes of all fields together, which are held in memory, whatever a route's max_body is
MAX_PART_HEAD = 8 << 10
SPOOLED = 512 << 10  # bytes: up to this size together, the files of a form are held in memory
_NO_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_PIECE = 16 << 10  # bytes of a long urlencoded value that are decoded in one turn
MAX_BOUNDARY = 256  # characters; RFC 2046 allows 70, of a list of characters, but clients send others
# Parameters, by how the client quotes. First as RFC 9110, 5.6.4 has it: `\"` and `\\` are escapes. Where that does not
# match, as browsers, curl and Node write: a backslash is a plain character, and a quote ends the value if the parameter
# ends behind it, or if it may begin another value.
_QUOTED = (r'(?:[^"\\]|\\.)*', r'(?:[^"]|(?<!=)"(?![ \t]*(?:;|\Z)))*')
_PARAMETER = [rf'({_TOKEN.pattern})=(?:"({quoted})"[ \t]*|([^;"]*))' for quoted in _QUOTED]
_PARAMETERS = [(re.compile(rf"(?:;[ \t]*(?:{one})?)*"), re.compile(one)) for one in _PARAMETER]
_EXTENDED = re.compile(r"(?i)(utf-8|iso-8859-1)'[^']*'((?:%[0-9a-f]{2}|[^%])*)")  # RFC 8187, 3.2
_ENCODED_WORD = re.compile(r"(?i)=\?utf-8\?b\?((?:[a-z0-9+/]{4})*(?:[a-z0-9+/]{2}(?:==|[a-z0-9+/]=))?)\?=")
_BOUNDARY = re.compile(rf"[ -~\x80-\xff]{{1,{MAX_BOUNDARY}}}")
_PART_HEAD = re.compile(rf"[ \t]*\r\n(?:{_TOKEN.pattern}:[^\x00-\x08\x0a-\x1f\x7f]*\r\n)*")
# The charsets of fields. Python would remember each name that it does not know (encodings._cache), so it is asked for
# these alone. Codecs that are no charsets are not among them, nor is UTF-7, which gives lone surrogates.
_CHARSETS = {name for name in aliases.values() if not name.endswith("_codec")} - {"mbcs", "rot_13", "utf_7"}
_CHARSETS |= {"cp720", "cp737", "cp874", "koi8_t", "koi8_u", "utf_8_sig"}  # which have no aliases
PartHead = tuple[str, Union[str, None], str]  # name, filename, content type
_UTF_8 = codecs.getincrementaldecoder("utf-8")
Form = tuple[MultiDict[str], MultiDict["UploadedFile"]]  # the fields and the files


def parse_parameters(text: str, in_form: bool = False) -> tuple[str, dict[str, str]]:
    """`form-data; name="a b"` -> value and parameters, their names in lower case (RFC 9110, 5.6.6). HTTPError 400 for
    anything else. `in_form`: %22, %0D and %0A in quotes stand for what browsers do not write there (HTML Standard,
    multipart/form-data encoding algorithm)."""
    value, semicolon, rest = text.partition(";")
    way = next((way for way in _PARAMETERS if way[0].fullmatch(semicolon + rest)), None)
    if way is None:
        abort(400, "a parameter of a header is malformed")
    parameters: dict[str, str] = {}
    for name, quoted, plain in way[1].findall(rest):
        if name.lower() in parameters:
            abort(400, "a parameter of a header is there twice")
        if "\\" in quoted and way is _PARAMETERS[0]:
            quoted = re.sub(r'\\(["\\ ])', r"\1", quoted)  # a space: aiohttp
        if "%" in quoted and in_form:
            quoted = quoted.replace("%22", '"').replace("%0D", "\r").replace("%0A", "\n")
        parameters[name.lower()] = quoted or plain.rstrip(" \t")
    return value.strip(" \t").lower(), parameters


def find_charset(label: str) -> str:
    """A charset as a client names it -> Python's name of it; HTTPError 400 for an unknown one."""
    name = normalize_encoding(label[:40].strip().lower())
    name = aliases.get(name, name)
    if name not in _CHARSETS:
        abort(400, "the charset of a form field is unknown")
    return name


def base_name(filename: str) -> str:
    """The name of a file without folders, which may come with `/` or `\\`, and without control characters."""
    name = re.split(r"/|\\(?=[^\\])", CONTROLS.sub("", filename))[-1]
    return "" if name.strip("\\") in ("", ".", "..") else name


class _Spool:
    """The files of a form, one behind the other: in memory, and above 512 KiB in one temporary file, so that a form
    takes one descriptor at most."""

    def __init__(self) -> None:
        self._file: Any = io.BytesIO()
        self.size = 0

    def write(self, piece: bytes) -> None:
        """Add to the end."""
        self.size += len(piece)
        if type(self._file) is io.BytesIO and self.size > SPOOLED:
            piece = self._file.getvalue() + piece
            self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 (it goes with the request)
        left = memoryview(piece)
        while left:  # a file may take a part of it
            left = left[self._file.write(left) :]

    def read(self, start: int, size: int) -> bytes:
        """At most so many bytes from there; ValueError once it is closed. Several threads may read."""
        if type(self._file) is io.BytesIO:
            return bytes(self._file.getbuffer()[start : start + size])
        return os.pread(self._file.fileno(), size, start)

    def close(self) -> None:
        """Free the memory, or the temporary file."""
        self._file.close()


class _Section(io.RawIOBase):
    """The bytes of a spool from `start` to its present end, as a file of their own."""

    def __init__(self, spool: _Spool, start: int) -> None:
        super().__init__()
        self._spool, self._start, self.size, self._at = spool, start, spool.size - start, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        at = offset + (0, self._at, self.size)[whence]
        if at < 0:
            raise ValueError("a file begins at 0")
        self._at = at
        return at

    def readinto(self, buffer: Any) -> int:
        size = max(0, min(len(buffer), self.size - self._at))
        piece = self._spool.read(self._start + self._at, size)
        buffer[: len(piece)] = piece
        self._at += len(piece)
        return len(piece)


class UploadedFile(io.BufferedReader):
    """A file of a form, a binary file object: `name` of its field, `filename` (without folders), `content_type` as the
    client says, `size` in bytes. It is closed when the answer is over. Above 512 KiB together, the files of a form are
    in one temporary file, which disappears then."""

    name: str = ""  # of the field, not of the temporary file

    def __init__(self, name: str, filename: str, content_type: str, pieces: Iterable[bytes],
                 spool: _Spool | None = None) -> None:  # fmt: skip
        spool = spool or _Spool()
        start = spool.size
        for piece in pieces:
            spool.write(piece)
        self.size: int = spool.size - start
        super().__init__(_Section(spool, start))
        self.name, self.filename, self.content_type = name, filename, content_type

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the whole file to `path`, in place of what is there."""
        self.seek(0)
        with open(path, "wb") as target:
            while piece := self.read(1 << 20):
                target.write(piece)
                if in_coroutines():
                    eventlet.sleep(0)


def _part_name(parameters: Mapping[str, str], kind: str) -> str | None:
    """The `name` or `filename` of a part. `filename*`, which .NET and others send, wins where it can be decoded (RFC
    6266, 4.3). .NET also sends a name beyond ASCII as an encoded word."""
    plain, others = parameters.get(kind), [name for name in parameters if name.startswith(f"{kind}*")]
    if others and others != [f"{kind}*"]:  # RFC 2231, which RFC 8187 leaves out
        abort(400, f"the {kind} of a part of a form must not be split into several parameters")
    if others:
        extended = parameters[others[0]]
        with contextlib.suppress(UnicodeError):
            if match := _EXTENDED.fullmatch(extended):
                return unquote_to_bytes(match[2]).decode(match[1])
        if plain is None:
            abort(400, f"the {kind}* of a part of a form is UTF-8'' or ISO-8859-1'', then percent-encoded text")
    if plain is not None and (word := _ENCODED_WORD.fullmatch(plain)):
        with contextlib.suppress(UnicodeError):
            return base64.b64decode(word[1]).decode()
    return plain


def parse_part_head(head: bytes) -> PartHead:
    """The header fields of a part -> name, filename (None for a field), content type; HTTPError 400 where they are
    malformed. Octets that are not UTF-8 are escaped as in PEP 383, for the form may name their charset later."""
    text = re.sub(r"\r\n[ \t]+", " ", head.decode("utf-8", "surrogateescape"))  # folded lines: RFC 9112, 5.2
    if not _PART_HEAD.fullmatch(text):
        abort(400, "a part of a form begins with lines of header fields")
    pairs = [line.partition(":") for line in text.split("\r\n")[1:-1]]
    fields = {name.lower(): value.strip(" \t") for name, _, value in pairs}
    if len(fields) < len(pairs):
        abort(400, "a part of a form has a header field twice")
    kind, parameters = parse_parameters(fields.get("content-disposition", ""), in_form=True)
    name, filename = _part_name(parameters, "name"), _part_name(parameters, "filename")
    if kind != "form-data" or name is None:
        abort(400, "a part of a form has a Content-Disposition of form-data, with a name")
    if fields.get("content-transfer-encoding", "binary").lower() not in ("7bit", "8bit", "binary"):
        abort(400, "a part of a form must not have a Content-Transfer-Encoding")
    if filename is None:
        return name, None, fields.get("content-type") or "text/plain"
    return name, base_name(filename), fields.get("content-type") or "application/octet-stream"


def read_parts(read: Callable[[int], bytes], boundary: bytes) -> Iterator[tuple[PartHead, Iterator[bytes]]]:
    """The parts of a multipart/form-data body (RFC 7578; RFC 2046, 5.1), which `read(size)` gives: for each its head
    and the pieces of its content, which are gone once the next part is asked for. HTTPError 400 if malformed."""
    delimiter = b"\r\n--" + boundary
    buffer, at = b"\r\n", 0  # so that the first boundary begins a line too
    turn = time.monotonic()

    def read_more() -> None:
        nonlocal buffer, at, turn
        turn = give_turn(turn)
        data = read(1 << 18)
        if not data:
            abort(400, "the form ended before its last boundary")
        buffer, at = buffer[at:] + data, 0

    def until_boundary(skipped: int) -> Iterator[bytes]:
        nonlocal at
        while (end := buffer.find(delimiter, at)) < 0:
            start, end = at + skipped, len(buffer) - len(delimiter) + 1  # behind this place a boundary may begin
            if end > start:
                at, skipped = end, 0
                yield buffer[start:end]
            read_more()
        start, at = at + skipped, end + len(delimiter)
        if end > start:
            yield buffer[start:end]

    pieces = until_boundary(0)  # of the preamble, which is skipped
    while True:
        for _ in pieces:
            pass
        while (end := buffer.find(b"\r\n\r\n", at, at + MAX_PART_HEAD)) < 0 and not buffer.startswith(b"--", at):
            if len(buffer) - at >= MAX_PART_HEAD:
                abort(400, f"the head of a part is over the limit of {MAX_PART_HEAD} bytes")
            read_more()
        if buffer.startswith(b"--", at):
            return
        turn = give_turn(turn)
        head, at = buffer[at : end + 2], end + 2
        pieces = until_boundary(2)  # the empty line behind the head, which may begin a boundary itself
        yield parse_part_head(head), pieces


def _decode_escaped(text: str, charset: str) -> str:
    """A text of `parse_part_head` with its escaped octets decoded: all of it in this charset, if it is not UTF-8."""
    octets = text.encode("utf-8", "surrogateescape")
    try:
        return octets.decode()
    except UnicodeDecodeError:
        return octets.decode(charset, "replace")


def _decode_in_turns(octets: bytearray, charset: str) -> str:
    """The text of a field, while other coroutines have their turns."""
    decoder, turn, texts = codecs.getincrementaldecoder(charset)("replace"), time.monotonic(), []
    for start in range(0, len(octets), 1 << 18):
        texts.append(decoder.decode(octets[start : start + (1 << 18)]))
        turn = give_turn(turn)
    return "".join([*texts, decoder.decode(b"", True)])


def _join_field(pieces: Iterable[bytes], left: int) -> bytearray:
    """The bytes of a field, of which there may be `left`, else HTTPError 413."""
    octets = bytearray()
    for piece in pieces:
        octets += piece
        if len(octets) > left:
            abort(413, f"the fields of a form are over the limit of {MAX_FORM_TEXT} bytes together")
    return octets


def read_multipart(read: Callable[[int], bytes], boundary: str, spool: _Spool | None = None) -> Form:
    """The fields and files of a multipart/form-data body, the files in a spool. A field is decoded by the charset of
    its Content-Type, else by that which a field `_charset_` names (RFC 7578, 4.6), else as UTF-8. HTTPError 400 where
    the body is malformed, 413 over the limits."""
    if not _BOUNDARY.fullmatch(boundary):
        abort(400, f"a multipart form needs a boundary of 1 to {MAX_BOUNDARY} characters, none of them a control")
    fields: list[tuple[str, bytearray, str]] = []
    files: list[UploadedFile] = []
    left, spool = MAX_FORM_TEXT, spool or _Spool()
    for (name, filename, content_type), pieces in read_parts(read, boundary.encode("latin-1")):
        if filename is None:
            fields.append((name, octets := _join_field(pieces, left), content_type))
            left -= len(octets)
        else:
            files.append(UploadedFile(name, filename, content_type, pieces, spool))
        if len(fields) > MAX_FORM_FIELDS or len(files) > MAX_FORM_FILES:
            abort(413, f"a form has at most {MAX_FORM_FIELDS} fields and {MAX_FORM_FILES} files")
    named = next((octets for name, octets, _ in fields if name == "_charset_"), None)
    default = find_charset(named[:40].decode("latin-1")) if named else "utf_8"
    texts = []
    for name, octets, content_type in fields:
        own = parse_parameters(content_type)[1].get("charset") if "charset" in content_type.lower() else ""
        text = _decode_in_turns(octets, find_charset(own) if own else default)
        texts.append((_decode_escaped(name, default), text))
    for file in files:
        file.name, file.content_type = _decode_escaped(file.name, default), _decode_escaped(file.content_type, "utf_8")
        file.filename = base_name(_decode_escaped(file.filename, default))
    # A field for which no file was chosen comes as a file without name and content.
    chosen = ((file.name, file) for file in files if file.filename or file.size)
    return MultiDict(texts, _NO_FIELD), MultiDict(chosen, _NO_FILE)


def _unescape(octets: bytes) -> bytes:
    """Urlencoded octets with `+` and percent escapes decoded. C code decodes the `=XX` of quoted-printable fastest, so
    `%` becomes `=`; before that, each `=`, and each `%` that begins no escape, is escaped."""
    octets = octets.replace(b"+", b" ")
    if b"%" not in octets:
        return octets
    return binascii.a2b_qp(_NO_ESCAPE.sub(b"%25", octets).replace(b"=", b"%3D").replace(b"%", b"="))


def parse_urlencoded(octets: bytes, status: int, place: str = "", without: str = _NO_FIELD) -> MultiDict[str]:
    """`a=1&b=%20` -> its fields, as UTF-8 (WHATWG URL, 5.1); HTTPError with this status for more than 1,000."""
    if octets.count(b"&") >= MAX_FORM_FIELDS:
        abort(status, f"there are more than {MAX_FORM_FIELDS} fields{place}")
    if len(octets) < 1024 and b"%" not in octets and b"+" not in octets:  # as most queries are
        texts = [field.partition("=") for field in octets.decode("utf-8", "replace").split("&") if field]
        return MultiDict([(name, value) for name, _, value in texts], without)
    turn = time.monotonic()

    def decode(encoded: bytes) -> str:
        nonlocal turn
        if len(encoded) < 1024:
            return _unescape(encoded).decode("utf-8", "replace")
        texts, decoder, start = [], _UTF_8("replace"), 0
        while start < len(encoded):
            end = start + _PIECE
            # No escape is cut: it has three bytes, and no percent sign behind its own.
            end -= 1 if encoded[end - 1 : end] == b"%" else 2 * (encoded[end - 2 : end - 1] == b"%")
            texts.append(decoder.decode(_unescape(encoded[start:end])))
            start, turn = end, give_turn(turn)
        return "".join([*texts, decoder.decode(b"", True)])

    pairs = [field.partition(b"=") for field in octets.split(b"&") if field]
    return MultiDict([(decode(name), decode(value)) for name, _, value in pairs], without)


class Peer:
    """Whoever sent a request, as its handler sees it through the request. This one stands for clients of which nothing
    is known but what they sent, those of WSGI servers and of tests: it is always there, and nothing is waited for. What
    stands for a client of our own servers is a ServedPeer."""

    __slots__ = ("address", "error", "keeps_error", "loopback", "scheme")

    is_cancelled = False  # what worked for this client alone was ended, for it has left
    takes_streams = True  # an answer may come in pieces

    def __init__(self, address: str = "", scheme: str = "http", loopback: str = "", keeps_error: bool = False) -> None:
        self.address, self.scheme = address, scheme  # who connected, and how
        self.loopback = loopback  # where the door listens, if that is an address of this machine alone
        self.keeps_error = keeps_error  # a test client wants the exception behind a 500
        self.error: BaseException | None = None

    def is_there(self) -> bool:
        """Whether the client has not left, as far as that is known."""
        return True

    def limited(self, seconds: float | None, cancel: bool, call: Callable[..., T], /, *arguments: Any,
                **named: Any) -> T:  # fmt: skip
        """What this call returns. Where the request has a coroutine of its own, HandlerTimeout is raised in the call
        after so many seconds and, if `cancel`, GreenletExit when the client leaves."""
        return call(*arguments, **named)

    def leave_pool(self) -> None:
        """Give the request's place in the pool back for good: a stream needs none, nor an answer that waits for its
        client."""

    def outside_pool(self) -> contextlib.AbstractContextManager[None]:
        """For a block that waits for the client: the request has no place in the pool meanwhile."""
        return contextlib.nullcontext()

    def note_error(self, error: BaseException) -> None:
        """Keep an exception for a test client. Others would be kept by it: its traceback's frames hold the request."""
        if self.keeps_error:
            self.error = error


class HandlerTimeout(BaseException):
    """A handler took longer than its route or application says. No `except Exception` of its own holds it back."""


class Request:
    """What a client asked. A door fills in the first line; the application the second; the rest follows from them.

    `method`, `path` (decoded, whole), `version` ("HTTP/1.1"), `query_string`, `headers`, `stream`
    `app`, `found`: `route` (None where none matched) and `arguments` (of the path, by name)
    `environ` (WSGI), `sender` and `conn_id` (Mongrel2): None where the door has none.
    """

    app: Brubeck
    method: str
    path: str
    version: str | lazy[str] = "HTTP/1.1"
    query_string: str | lazy[str] = ""
    found: Found | None = None
    environ: dict[str, Any] | None = None
    sender: str | None = None
    conn_id: str | None = None

    # For the sections below.
    peer: Peer | lazy[Peer] = lazy(lambda request: Peer())  # whoever asked
    has_known_host = False  # an application has it among its `hosts`
    has_credentials = False  # its client sent Authorization
    private_by: frozenset[str] | None = None  # the fields that say who asks, where the answer depends on that
    _session: Session | None = None
    _arguments: dict[str, Any] | None = None
    proxies: int | None = None  # of the outermost application, once a mounted one has the request too
    prefix = ""  # the beginning of the path that mounts and SCRIPT_NAME have taken
    content_length = 0  # as declared; 0 where it is not known
    keep_alive = True  # the client wants to use its connection for another request
    is_message = False  # a message socket's, not HTTP
    refused: Exception | None = None  # what the door or the router found wrong
    misread: Response | None = None  # the answer to what was no request at all
    inner_route: Route | None = None  # that took it in a mounted application
    last_calls: tuple[Callable[[], Any], ...] = ()  # of `when_done`

    @property
    def connected(self) -> bool:
        """False once the client is known to have left."""
        return self.peer.is_there()

    @lazy
    def headers(self) -> Headers:
        """The header fields, as Latin-1."""
        return Headers({})

    @lazy
    def stream(self) -> io.BufferedReader | io.BytesIO:
        """The body as a file object, bounded by `max_body`: reading on raises HTTPError 413."""
        return io.BytesIO()

    @property
    def route(self) -> Route | None:
        """The route that takes this request; None where there is none."""
        return None if self.found is None else self.found[0]

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments of the path, by name."""
        if self._arguments is None:
            self._arguments = {} if self.found is None else self.found[2].copy()
        return self._arguments

    @property
    def max_body(self) -> int:
        """How many bytes the body may have: as its route says, also of a mounted application, else the application."""
        limit = self.route.max_body if self.route is not None else None
        if self.route is not None and isinstance(self.route.handler, Brubeck):  # middleware of the outer one asks
            limit = self.app.body_limit(self)
        return self.app.max_body if limit is None or limit in (_UNLIMITED, -1) else limit

    @lazy
    def body(self) -> bytes:
        """The body, or what was not yet read of `stream`. RuntimeError where a multipart form was read from it."""
        if "_posted" in self.__dict__ and self._media_type() == MULTIPART:
            raise RuntimeError("the form was read as it came, and is not kept: read request.body before request.form")
        return self.stream.read()

    def _media_type(self) -> str:
        return self.headers.get("content-type", "").partition(";")[0].strip(" \t").lower()

    @lazy
    def json(self) -> Any:
        """The body as JSON, in UTF-8. HTTPError 415 unless the Content-Type says so, 400 for what is malformed, and for
        numbers and texts that no program could use: infinite ones, halves of surrogate pairs (RFC 7493, 2)."""
        if not _JSON_TYPE.fullmatch(self._media_type()):
            abort(415, "the Content-Type must be application/json")
        try:
            value = load_json(text := self.body.decode("utf-8-sig"))  # a byte order mark may be skipped (RFC 8259, 8.1)
            if _SURROGATE.search(text):
                _dump_unescaped(value).encode()  # ValueError unless each has its other half
            return value
        except (ValueError, RecursionError) as error:
            raise HTTPError(400, "the JSON is malformed, or nested too deep") from error

    def prefers_json(self) -> bool:
        """Whether the client would rather have JSON than text or HTML, by its Accept (RFC 9110, 12.5.1), where of two
        types that it wants as much the first counts; where that names none of them, whether what it sent is JSON."""
        accept, best, prefers = self.headers.get("accept", "").lower(), 0.0, False
        if "json" not in accept:
            return "text/" not in accept and _JSON_TYPE.fullmatch(self._media_type()) is not None
        for part in accept.split(",", 50)[:50]:
            kind, _, parameters = part.partition(";")
            is_json = _JSON_TYPE.fullmatch(kind.strip()) is not None
            is_either = is_json or kind.strip() in ("text/html", "text/plain", "text/*")
            if is_either and (weight := find_weight(parameters)) > best:
                best, prefers = weight, is_json
        return prefers

    @lazy
    def query(self) -> MultiDict[str]:
        """The arguments after the `?`, as UTF-8; at most 1,000 of them, else HTTPError 400."""
        octets = str(self.query_string).encode("latin-1", "replace")
        return parse_urlencoded(octets, 400, " in the query", "query has no argument")

    @lazy
    def _posted(self) -> Form | tuple[int, str | None]:
        """The form, or the status and the message of what is wrong with it, for whoever asks again."""
        kind = self._media_type()
        if kind not in (MULTIPART, "application/x-www-form-urlencoded"):
            return MultiDict((), _NO_FIELD), MultiDict((), _NO_FILE)
        try:
            read = io.BytesIO(self.body).read if "body" in self.__dict__ else self.stream.read
            if kind == MULTIPART:
                boundary = parse_parameters(self.headers["content-type"])[1].get("boundary", "")
                self.when_done((spool := _Spool()).close)
                fields, files = read_multipart(read, boundary, spool)
                self.last_calls += tuple(file.close for name in files for file in files.getall(name))
                return fields, files
            octets = read(MAX_FORM_TEXT + 1)
            if len(octets) > MAX_FORM_TEXT:
                raise body_too_large(MAX_FORM_TEXT)
            self.body = octets
            return parse_urlencoded(octets, 413), MultiDict((), _NO_FILE)
        except HTTPError as error:
            return error.status, error.message
        except OSError as error:
            if error.errno not in _NO_SPACE:
                raise
            logger.error("no space for an upload to %r: %s", self.path, error.strerror)
            return 507, "there is no space for the upload"

    def _read_form(self) -> Form:
        fields, files = self._posted
        if isinstance(fields, int):
            raise HTTPError(fields, cast("str | None", files))
        return fields, cast("MultiDict[UploadedFile]", files)

    @property
    def form(self) -> MultiDict[str]:
        """The fields of a form, urlencoded or multipart/form-data, as UTF-8; none for another Content-Type. HTTPError
        400 for what is malformed, 413 beyond the limits. Reads the body, unless `body` has it: read that first where
        you need both, of a multipart form, which is not kept."""
        return self._read_form()[0]

    @property
    def files(self) -> MultiDict[UploadedFile]:
        """The files of a multipart/form-data body, as for `form`."""
        return self._read_form()[1]

    @lazy
    def cookies(self) -> MultiDict[str]:
        """The cookies by name; of two with one name the first, which is the more specific (RFC 6265, 5.4)."""
        return parse_cookies(self.headers.get("cookie", ""))

    def keep_private(self, *fields: str) -> None:
        """Have the answer, whatever it will be, kept out of the caches that clients share: it depends on who asks, as
        these fields say, as far as that is known."""
        self.private_by = (self.private_by or frozenset()).union(fields)

    def find_signed(self, name: str, purpose: str, max_age: float | None) -> str | None:
        """The value of the first cookie of this name that was signed for this purpose: others of the name may be those
        of another subdomain or path."""
        self.keep_private("Cookie")
        keys = _keys(self.own_session().app.secret)
        found = (_verified(text, keys, max_age, purpose) for text in self.cookies.getall(name))
        return next((value for value in found if value is not None), None)

    def get_signed_cookie(self, name: str, max_age: float | None = None) -> str | None:
        """The value of a cookie that was set with `signed=True`, at most `max_age` seconds ago: of several with this
        name, the first that is. None where there is none, or somebody else made it. RuntimeError where the application
        has no secret."""
        return self.find_signed(name, name, max_age)

    @property
    def session(self) -> dict[str, Any]:
        """What this client's signed cookie holds, as JSON: change it, and it is sent again, for two weeks or as
        `Brubeck.session_cookie` says. The client can read it, but not write it. RuntimeError where the application has
        no secret."""
        return self.own_session().load(self)

    def own_session(self) -> Session:
        """The session, without looking into it."""
        if self._session is None:
            self._session = Session(self.app)
        return self._session

    def save_session(self, response: Response) -> None:
        """Set or delete the cookie of the session, if that has changed; errors as for `Session.save`."""
        if self._session is not None:
            self._session.save(self, response)

    @property
    def current_user(self) -> Any:
        """Who is signed in: `session["user"]`, unless a check such as `basic_auth` found somebody. None for nobody, and
        where the application has no secret, and thus no sessions."""
        session = self.own_session()
        if not hasattr(session, "user"):
            session.user = session.load(self).get("user") if session.app.secret else None
        return session.user

    @current_user.setter
    def current_user(self, user: Any) -> None:
        self.own_session().user = user

    def _forwarded(self, name: str) -> str:
        """What the outermost of the proxies that the application trusts has noted of its client, "for", "proto" or
        "host"; empty for none. Of fewer values than proxies none is believed: the client may have made up the first.
        Forwarded (RFC 7239) counts where no X-Forwarded-* is there, and so never for a proxy that sends one of these:
        what it says then is the client's word."""
        proxies: int = getattr(getattr(self, "app", None), "proxies", 0) if self.proxies is None else self.proxies
        if not proxies:
            return ""
        if _X_FORWARDED.isdisjoint(self.headers):
            return parse_forwarded(self.headers.get("forwarded", ""), proxies).get(name, "")
        values = self.headers.get(f"x-forwarded-{name}", "").split(",")
        return values[-proxies].strip(" \t") if proxies <= len(values) else ""

    @lazy
    def remote_addr(self) -> str:
        """The IP address of the client, as far as the proxies that are trusted know it, without a port; empty for one
        that came by a unix socket."""
        return plain_address(self._forwarded("for")) or plain_address(self.peer.address)

    @lazy
    def scheme(self) -> str:
        """ "http" or "https"."""
        return _SCHEMES.get(self._forwarded("proto").lower(), self.peer.scheme)

    @lazy
    def host(self) -> str:
        """The host that the client asked for, with its port where it named one; HTTPError 400 if it is no host."""
        host = self._forwarded("host") or self.headers.get("host", "")
        if host and not _HOST.fullmatch(host):
            abort(400, "the Host is not a host")
        return host.removesuffix(":")  # a port may be empty (RFC 3986, 3.2.3)

    @property
    def target(self) -> str:
        """The path and the query that were asked for, percent-encoded."""
        query = str(self.query_string).encode("latin-1", "replace").decode("utf-8", "replace")
        return quote(self.path, safe=_IN_PATH) + ("?" + quote(query, safe=_IN_QUERY) if query else "")

    @lazy
    def url(self) -> str:
        """The whole address that was asked for, percent-encoded."""
        return f"{self.scheme}://{self.host}{self.target}"

    @lazy
    def state(self) -> SimpleNamespace:
        """An object for the program's own attributes, from middleware to handlers."""
        return SimpleNamespace()

    @overload
    def get_argument(self, name: str, default: None = None) -> str | None: ...
    @overload
    def get_argument(self, name: str, default: T) -> str | T: ...
    @overload
    def get_argument(self, name: str, default: None = None, *, type: Callable[[Any], T]) -> T | None: ...
    @overload
    def get_argument(self, name: str, default: D, type: Callable[[Any], T]) -> T | D: ...
    def get_argument(self, name: str, default: Any = None, type: Callable[[Any], Any] = str) -> Any:
        """The argument of this name: of the path, else the first of the query, else of the form, as `type`; `default`
        where there is none. HTTPError 400, naming the argument, where `type` refuses it."""
        for source in (lambda: self.arguments, lambda: self.query, lambda: self.form):
            if name in (values := source()):
                try:
                    return type(values[name])
                except (ValueError, TypeError, ArithmeticError) as error:
                    is_named = inspect.isclass(type)  # else it is a function, whose sentence says more
                    reason = f"is not a valid {type.__name__}" if is_named else f"is not valid: {error}"
                    raise HTTPError(400, f"the argument {name!r} {reason}") from error
        return default

    def get_arguments(self, name: str) -> list[str]:
        """Every argument of this name: of the path, then of the query, then of the form."""
        own = [str(self.arguments[name])] if name in self.arguments else []
        return own + self.query.getall(name) + self.form.getall(name)

    def url_for(self, name: str, /, *, _external: bool = False, **values: Any) -> str:
        """The path of the named route as the client must write it: with the prefix of the application. `_external`: the
        whole address, with the scheme and the host that the client asked for (`Brubeck(hosts=...)` says which may)."""
        path = quote(self.prefix, safe=_IN_PATH) + self.app.url_for(name, **values)
        return f"{self.scheme}://{self.host}{path}" if _external else path

    def inside(self, app: Brubeck, prefix: str) -> Request:
        """This request as an application gets it that is mounted at `prefix`. Both are the same message and share all
        that is known of it, whoever reads or sets that first. The route, the arguments and the prefix of the new one
        are its own, and so is the session, with the user, where the application has another secret."""
        if self.proxies is None:
            self.proxies = self.app.proxies
        inner: Request = object.__new__(_mounted_class(cast(Any, type(self))))
        inner.__dict__ = self.__dict__
        inner.app, inner.found, inner._arguments, inner.prefix = app, None, None, self.prefix + prefix
        session = self.own_session()
        inner._session = session if app.own_secret in (None, session.app.secret) else Session(app, inner.prefix)
        return inner

    def when_done(self, function: Callable[[], Any]) -> None:
        """Have `function()` called when the answer is over: a stream too, also where the handler failed or the client
        left. The function that was given last is called first, as those of nested `with` blocks would be; what one
        raises is logged. The next request of the connection waits for them: `Brubeck.spawn` is for what takes long.
        TypeError for what is no function."""
        if not callable(function):
            raise TypeError(f"write request.when_done(function), with a function that takes nothing, not {function!r}")
        refuse_yield(function)
        self.last_calls += (function,)

    def end(self) -> None:
        """The answer is over: call the functions of `when_done`, which close the files of the body too."""
        while self.last_calls:
            function, self.last_calls = self.last_calls[-1], self.last_calls[:-1]
            try:
                function()
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # a Timeout of eventlet's is no Exception
                logger.exception("%s failed after the answer to %r", locate(function), self)
                forget_frames(error)

    def __repr__(self) -> str:
        return f"<Request {self.method} {self.path!r}>"


@functools.cache
def _mounted_class(kind: type[Request]) -> type[Request]:
    """The class of requests of this kind inside a mounted application: what it has slots for is kept in each of them,
    and everything else in the `__dict__`, which `inside` makes one with that of the outer request."""
    return type(kind.__name__, (kind,), {"__slots__": ("_arguments", "_session", "app", "found", "prefix")})


# ---- Response --------------------------------------------------------------------------------------------------------
# In: what a handler returned. Out: a Response; and of a Response, the header fields and the body that a door sends.
# What could break an answer on the wire raises an error where it is set.

HeaderFields = Union[Mapping[str, str], Iterable[tuple[str, str]]]
# By name, path and domain: the text of a Set-Cookie, or the function that makes that text for a request.
Cookies = Mapping[tuple[str, str, Union[str, None]], Union[str, Callable[[Request], str]]]
_COOKIE_OCTETS = re.compile(r"[\x21\x23-\x2b\x2d-\x3a\x3c-\x5b\x5d-\x7e]*")  # RFC 6265, 4.1.1
_NO_COOKIES: Cookies = MappingProxyType({})  # of all answers without cookies: nobody may write into it
HTML, TEXT = "text/html; charset=utf-8", "text/plain; charset=utf-8"
JSON, PROBLEM, EVENT_STREAM = "application/json", "application/problem+json", "text/event-stream"
_BODILESS = frozenset([204, 205, 304])  # RFC 9110, 15.3.5, 15.3.6 and 15.4.5
_ITS_LENGTH, _LENGTH_AND_TYPE = ("content-length",), ("content-length", "content-type")
_KEPT_STREAM = frozenset(["content-length", "etag", "cache-control"])  # a stream with one of these may be cached
_STATUS = re.compile("[0-9]{3}(?: .*)?")
_NO_FIELD_VALUE = re.compile(r"[^\t\x20-\x7e\x80-\xff]")
# The connection belongs to the door (RFC 9110, 7.6.1; PEP 3333 forbids these fields to applications).
_HOP_BY_HOP = frozenset(["connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "te", "trailer",
                         "trailers", "transfer-encoding", "upgrade"])  # fmt: skip


class ResponseHeaders(_Named[str], MutableMapping[str, str]):
    """The header fields of an answer: names in any case, sent as they were written; `add` repeats one. ValueError for a
    name that is no token, a value with CR, LF, NUL or anything that is not Latin-1 (RFC 9110, 5.5), and for the fields
    of the connection itself, such as Transfer-Encoding. TypeError for the values None and bytes."""

    def __init__(self, fields: HeaderFields = ()) -> None:
        super().__init__({})  # by name in lower case: a tuple of its fields, each (name, value)
        for pair in fields.items() if isinstance(fields, Mapping) else fields:
            if isinstance(pair, str):
                raise TypeError(f'header fields are like {{"X-Name": "value"}}, not {fields!r}')
            self.add(*pair)

    def __setitem__(self, name: str, value: str | int) -> None:
        if value is None or isinstance(value, bytes):
            raise TypeError(f"the value of the header {name} is a str, not {value!r}")
        text, key = str(value), name.lower()
        if not _TOKEN.fullmatch(name):
            raise ValueError(f"not a header name: {name!r}")
        if _NO_FIELD_VALUE.search(text):
            raise ValueError(f"the value of the header {name} has a character that HTTP does not allow: {text!r}")
        if key == "content-length" and not (text.isascii() and text.isdigit()):
            raise ValueError(f"a Content-Length is digits, not {text!r}")
        if key in _HOP_BY_HOP:
            raise ValueError(f"only the server sends the header {name}")
        self._kept[key] = ((name, text),)

    def add(self, name: str, value: str | int) -> None:
        """Send one more field of this name; but there is one Content-Length."""
        before = self._kept.get(name.lower(), ())
        self[name] = value
        if before and name.lower() != "content-length":
            self._kept[name.lower()] = before + self._kept[name.lower()]

    def __getitem__(self, name: str) -> str:
        return ", ".join([value for _, value in self._kept[name.lower()]])

    def __delitem__(self, name: str) -> None:
        del self._kept[name.lower()]

    __contains__ = Headers.__contains__  # in any case, too

    def __iter__(self) -> Iterator[str]:
        return (fields[0][0] for fields in self._kept.values())

    def copy(self) -> ResponseHeaders:
        """The same fields, to be changed apart from these."""
        twin = ResponseHeaders.__new__(ResponseHeaders)
        twin._kept = self._kept.copy()
        return twin

    def vary(self, name: str) -> None:
        """Have caches know that the answer depends on this field of the request (RFC 9110, 12.5.5)."""
        named = self.get("Vary", "")
        if not named:
            self["Vary"] = name
        elif {name.lower(), "*"}.isdisjoint(re.split(r"[\s,]+", named.lower())):
            self["Vary"] = f"{named}, {name}"

    def merge(self, fields: HeaderFields) -> None:
        """Take over these fields, repeated ones too, in place of those with the same names."""
        self._kept.update((fields if isinstance(fields, ResponseHeaders) else ResponseHeaders(fields))._kept)

    def pairs(self, without: Sequence[str] = ()) -> list[tuple[str, str]]:
        """Every field as (name, value), repeated ones too, but those with one of these names in lower case."""
        return [pair for key, fields in self._kept.items() if key not in without for pair in fields]


_WITH_TYPE = {kind: ResponseHeaders([("Content-Type", kind)]) for kind in (HTML, TEXT, JSON)}  # to be copied
_MOST_TYPES = 64  # in it: a client may choose some of them


def _remember_type(content_type: str) -> bool:
    """Put a Content-Type into `_WITH_TYPE`, unless that is full; whether it is there. ValueError for what no field may
    have."""
    if len(_WITH_TYPE) < _MOST_TYPES and type(content_type) is str:
        _WITH_TYPE[content_type] = ResponseHeaders([("Content-Type", content_type)])
    return content_type in _WITH_TYPE


def place_in(file: str, line: int | None) -> str:
    """A line of the program: "hello.py:12"."""
    return f"{file.removeprefix(os.path.join(os.getcwd(), ''))}:{line}"


class AnswerError(TypeError):
    """A handler returned, yielded or left in a session what cannot be sent. The message says which handler or which
    line, and what there may be; the log has only that, for the traceback would not lead to the program."""


class Pieces:
    """A streamed body: the pieces of an iterator as bytes, without the empty ones. The first is made at once, so that
    an iterator that fails before its first piece is an ordinary error."""

    def __init__(self, iterator: Iterator[str | bytes]) -> None:
        self._iterator, self._first = iterator, b""
        try:
            self._first = next(self)
        except StopIteration as end:
            if end.value is not None:
                name = getattr(self._iterator, "__qualname__", "a body")
                raise AnswerError(f"{name} has a `yield`, so that what it returns is no answer: write abort(...), or "
                                  "put the yields into a function of their own") from None  # fmt: skip
        except BaseException:
            self.close()
            raise

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        piece: str | bytes
        piece, self._first = self._first, b""
        while not piece:
            piece = next(self._iterator)
            if not isinstance(piece, (str, bytes)):
                frame = getattr(self._iterator, "gi_frame", None)  # of a generator
                place = f" ({place_in(frame.f_code.co_filename, frame.f_lineno)})" if frame else ""
                raise AnswerError(f"a piece of a streamed body is str or bytes, not {type(piece).__name__}{place}")
        return piece.encode() if isinstance(piece, str) else piece

    def check_first(self, length: str | None) -> None:
        """ValueError if the first piece is already over this Content-Length: nothing was sent, so it can be a 500."""
        if length is not None and self._known() > int(length):
            self.close()
            raise ValueError(f"the body is longer than its Content-Length of {length} bytes")

    def _known(self) -> int:
        return len(self._first)

    def close(self) -> None:
        """End the iterator, whether or not it was read to its end. An error in that is logged: the answer is out."""
        try:
            getattr(self._iterator, "close", tuple)()
        except Exception as error:
            logger.exception("the body of an answer failed to close")
            forget_frames(error)


class FilePieces(Pieces):
    """The next `left` bytes of a file as a streamed body, read when they are asked for. The file is closed at their
    end. Our servers `peek` and take what the connection accepts, so that no bytes are held for a slow client."""

    SIZE = 64 << 10  # bytes of a piece

    def __init__(self, file: io.FileIO, left: int) -> None:
        self._iterator = self.file = file
        self.left, self._end = left, file.tell() + left

    def peek(self, size: int) -> bytes:
        """The next bytes, at most so many, which stay the next. ValueError where the file has become shorter."""
        self.file.seek(self._end - self.left)
        piece = self.file.read(min(size, self.left))
        if not piece:
            raise ValueError("the file has become shorter while it was sent")
        return piece

    def __next__(self) -> bytes:
        if not self.left:
            self.file.close()
            raise StopIteration
        piece = self.peek(self.SIZE)
        self.left -= len(piece)
        return piece

    def _known(self) -> int:
        return self.left

    def __del__(self) -> None:
        self.file.close()


def _quote_cookie(value: str) -> str:
    """A cookie's value as it is where RFC 6265 allows it, else quoted with octal escapes, as http.cookies does."""
    if _COOKIE_OCTETS.fullmatch(value):
        return value
    if CONTROLS.search(value):
        raise ValueError("a cookie's value has a control character in it")
    escaped = (f"\\{octet:03o}" if octet > 126 or octet in b',;"\\' else chr(octet) for octet in value.encode())
    return f'"{"".join(escaped)}"'


def is_for_json(value: Any) -> bool:
    """Whether this is what handlers may return to be sent as JSON: a dict, a list or a dataclass."""
    return isinstance(value, (dict, list)) or (is_dataclass(value) and not isinstance(value, type))


class Response:
    """An answer: `body` (bytes, str as UTF-8, an iterator of either, which is streamed, or a dict, a list or a
    dataclass, which is sent as JSON by `Brubeck.json_dumps`), `status`, `headers` (a mapping or pairs); `content_type`
    defaults to theirs, else to application/json for JSON and to text/html in UTF-8 for the rest. TypeError or
    ValueError for what cannot be sent. Content-Length, Date and Server are added when it is sent; HEAD, 204, 205 and
    304 go without the body."""

    # `code` and `content` are `status` and `body` for what is on the path of every request: without a property's call.
    __slots__ = ("_headers", "code", "content", "cookies")

    def __init__(self, body: Any = b"", status: int = 200, headers: HeaderFields | None = None,
                 content_type: str | None = None) -> None:  # fmt: skip
        self._headers: ResponseHeaders | str = HTML  # the Content-Type alone, until somebody asks for `headers`
        if type(body) is str:
            self.content: Any = body.encode()
        elif type(body) is bytes:
            self.content = body
        else:
            self.body = body
        self.code = 200
        if status != 200:
            self.status = status
        self.cookies = _NO_COOKIES
        if headers:
            self.headers.merge(headers)
        if content_type is not None:
            if self._headers is HTML and (content_type in _WITH_TYPE or _remember_type(content_type)):
                self._headers = content_type
            else:
                self.headers["Content-Type"] = content_type

    @property
    def body(self) -> Any:
        """bytes, or the iterator that is streamed. str may be assigned, and becomes UTF-8, and a value for JSON."""
        self.dump(dump_json)
        return self.content

    @body.setter
    def body(self, body: Any) -> None:
        if isinstance(body, str):
            body = body.encode()
        elif isinstance(body, bytes):
            body = bytes(body)
        elif is_for_json(body):
            if self._headers is HTML:
                self._headers = JSON
            elif self.headers.get("Content-Type") == HTML:  # the default still, though the fields were looked at
                self.headers["Content-Type"] = JSON
        elif not hasattr(body, "__next__"):
            raise TypeError(f"a body is str, bytes, an iterator of them, or for JSON, not {type(body).__name__}")
        self.content = body

    def dump(self, json_dumps: Callable[[Any], str | bytes]) -> None:
        """Make the bytes of a body that is to be JSON. TypeError or ValueError for what has no form in JSON."""
        if type(self.content) is not bytes and is_for_json(self.content):
            text = json_dumps(self.content)
            self.content = text if isinstance(text, bytes) else text.encode()

    @property
    def status(self) -> int:
        """The status, from 200 to 599."""
        return self.code

    @status.setter
    def status(self, status: int) -> None:
        if not (isinstance(status, int) and 200 <= status <= 599):
            raise ValueError(f"not the status of an answer: {status!r}")
        self.code = status

    @property
    def headers(self) -> ResponseHeaders:
        """The header fields; may be changed."""
        if isinstance(self._headers, str):
            self._headers = _WITH_TYPE[self._headers].copy()
        return self._headers

    def set_cookie(self, name: str, value: str, *, max_age: int | None = None, path: str = "/",
                   domain: str | None = None, secure: bool | None = None, httponly: bool = True,
                   samesite: str | None = "Lax", signed: bool = False) -> None:  # fmt: skip
        """Have the client keep a cookie (RFC 6265): for `max_age` seconds, or until the browser closes. `secure=None`:
        only over https if the request came by https. `samesite`: "Lax", "Strict", "None" or None. `signed`: for
        `request.get_signed_cookie` alone; the application needs a secret. ValueError for what cannot be in a cookie, or
        not beside a name with `__Host-` or `__Secure-` (RFC 6265bis, 4.1.3)."""
        if not _TOKEN.fullmatch(name):
            raise ValueError(f"not the name of a cookie: {name!r}")
        if not isinstance(value, str):
            raise TypeError(f"the value of the cookie {name!r} is a str, not {value!r}")
        if samesite not in ("Lax", "Strict", "None", None):
            raise ValueError(f'samesite is "Lax", "Strict", "None" or None, not {samesite!r}')
        is_host = name.lower().startswith("__host-")
        if is_host or name.lower().startswith("__secure-") or samesite == "None":
            if secure is False or (is_host and (domain or path != "/")):
                raise ValueError(f"a cookie like {name!r} is for https alone{', the path / and no domain' * is_host}")
            secure = True
        value = value if signed else _quote_cookie(value)
        attributes = "" if max_age is None else f"; Max-Age={int(max_age)}"
        if max_age is not None and max_age <= 0:
            attributes += "; Expires=Thu, 01 Jan 1970 00:00:00 GMT"
        for attribute, text in (("Domain", domain or ""), ("Path", path)):
            if not text.isascii() or CONTROLS.search(text) or ";" in text:
                raise ValueError(f"not a {attribute} for a cookie: {text!r}")
            attributes += f"; {attribute}={text}" if text or attribute == "Path" else ""
        attributes += ("; HttpOnly" if httponly else "") + (f"; SameSite={samesite}" if samesite else "")

        def make_text(request: Request) -> str:
            sent = sign(value, request.own_session().app.secret, name) if signed else value
            if len(name) + len(sent) > 4096:  # RFC 6265bis, 5.7: browsers drop it
                raise ValueError(f"the cookie {name!r} is over 4,096 bytes, which no browser keeps")
            is_secure = request.scheme == "https" if secure is None else secure
            return f"{name}={sent}{attributes}{'; Secure' if is_secure else ''}"

        self.cookies = MappingProxyType({**self.cookies, (name, path, domain): make_text})

    def delete_cookie(self, name: str, path: str = "/", domain: str | None = None) -> None:
        """Have the client forget a cookie that was set with this path and domain."""
        self.set_cookie(name, "", max_age=0, path=path, domain=domain)

    def conditional(self, request: Request, etag: str | None = None) -> Response:
        """This answer with an ETag (RFC 9110, 8.8.3), by default made of its body; or, where the client has it already,
        a 304, and a 412 by If-Match. `etag` is text such as "v1", or 'W/"v1"' for one that is weak. For GET and HEAD;
        an answer to others, with another status than 200, or streamed without an `etag`, is left as it is."""
        self.dump(request.app.json_dumps)
        etag = etag or self.headers.get("ETag")
        if etag is None and type(self.content) is bytes:
            etag = hashlib.blake2b(self.content, digest_size=16).hexdigest()
        if etag is None or self.code != 200 or request.method not in ("GET", "HEAD"):
            return self
        twin = self.copy()
        twin.headers["ETag"] = etag = etag if etag.endswith('"') else f'"{etag}"'
        modified = parse_http_date(self.headers.get("Last-Modified", ""), -1)
        failed = failed_precondition(request, etag, None if modified < 0 else modified)
        if failed is not None:
            getattr(self.content, "close", tuple)()  # nobody will read a stream
            if failed == 304 and type(self.content) is bytes:
                twin.headers.setdefault("Content-Length", str(len(self.content)))  # for middleware: it is not sent
            twin.code, twin.content = failed, b""
        return twin

    def copy(self) -> Response:
        """An answer like this one, with header fields and cookies of its own."""
        twin = Response() if type(self) is Response else copy.copy(self)  # which takes ten times as long
        twin.content, twin.code, twin.cookies = self.content, self.code, self.cookies
        twin._headers = self._headers if isinstance(self._headers, str) else self._headers.copy()
        return twin

    def with_cookies(self, request: Request) -> Response:
        """This answer, its cookies as text: signed with the secret of the application in which the request stands. The
        answers of `Brubeck.handle` have them so. RuntimeError without a secret, ValueError for a cookie too long."""
        if not self.cookies:
            return self
        twin = self.copy()
        twin.cookies = {key: text if isinstance(text, str) else text(request) for key, text in self.cookies.items()}
        return twin

    def keep_private(self, fields: Iterable[str]) -> None:
        """Keep an answer that depends on who asks, as these fields of the request say, out of the caches that clients
        share (RFC 9111, 3.5 and 4.1)."""
        for name in sorted(fields):
            self.headers.vary(name)
        directives = [part.strip() for part in self.headers.get("Cache-Control", "").lower().split(",")]
        kept = [part for part in directives if part and part != "public" and not part.startswith("s-maxage")]
        self.headers["Cache-Control"] = ", ".join(kept if {"private", "no-store"} & {*kept} else ["private", *kept])

    def begin_stream(self) -> None:
        """Make the first piece of a streamed body, which is not for the caches that clients share unless it has a
        length, an ETag or a Cache-Control."""
        if not isinstance(self.content, (bytes, Pieces)):
            self.content = Pieces(self.content)
            if _KEPT_STREAM.isdisjoint(map(str.lower, self.headers)):
                self.headers["Cache-Control"] = "private"

    def cookie_fields(self) -> list[tuple[str, str]]:
        """The header fields that set the cookies, once they are text."""
        return [("Set-Cookie", cast(str, text)) for text in self.cookies.values()]

    def finish(self, request: Request) -> tuple[list[tuple[str, str]], bytes | Pieces]:
        """What a door sends in answer to `request`: the header fields, and the body or its pieces."""
        body = self.content
        is_bodiless = request.method == "HEAD" or self.code in _BODILESS
        if type(body) is bytes and type(self._headers) is str and not self.cookies and not is_bodiless:
            return [("Content-Type", self._headers), ("Content-Length", str(len(body)))], body
        if not isinstance(body, (bytes, Pieces)):  # middleware's own
            self.dump(request.app.json_dumps)
            body = self.content
            if type(body) is not bytes:
                request.peer.leave_pool()
                body = Pieces(body)
        if self.code == 205:
            fields = [*self.headers.pairs(_ITS_LENGTH), ("Content-Length", "0")]
        elif self.code in _BODILESS:
            fields = self.headers.pairs(_LENGTH_AND_TYPE)
        elif type(body) is bytes and (body or request.method != "HEAD" or "Content-Length" not in self.headers):
            fields = [*self.headers.pairs(_ITS_LENGTH), ("Content-Length", str(len(body)))]
        else:
            fields = self.headers.pairs()
            if isinstance(body, Pieces):
                body.check_first(self.headers.get("Content-Length"))
        fields += self.cookie_fields()
        if not is_bodiless:
            return fields, body
        if isinstance(body, Pieces):
            body.close()
        return fields, b""


def plain_answer(error: HTTPError) -> Response:
    """An error or a refusal as plain text: the status, and a sentence for the client where there is one."""
    line = status_line(error.status)
    text = line if error.message == line[4:] else f"{line}\n{error.message}"
    return Response(f"{text}\n".encode(errors="replace"), error.status, error.headers, TEXT)


def error_answer(request: Request, error: HTTPError) -> Response:
    """An error as plain text or, to a client that prefers JSON, as a problem (RFC 9457)."""
    try:
        if error.status < 400 or not request.prefers_json():
            return plain_answer(error)
    except HTTPError:  # the header fields of a message cannot be read, which may be the error itself
        return plain_answer(error)
    title = status_line(error.status)[4:]
    detail = {} if error.message == title else {"detail": error.message}
    dump = request.app.json_dumps if error.members else dump_json  # only the program's own values need the program's
    problem = dump({"type": "about:blank", "title": title, "status": error.status, **detail, **error.members})
    response = Response(problem, error.status, error.headers, PROBLEM)
    response.headers.vary("Accept")
    return response


def redirect(target: str, status: int = 303) -> Response:
    """Send the client to `target`: any address the program wrote (for what users sent, see `safe_target`).
    ValueError for control characters; what is not ASCII is percent-encoded (RFC 3987, 3.1)."""
    if not isinstance(target, str):
        raise TypeError(f"a redirect is to an address, not to {target!r}")
    if CONTROLS.search(target):
        raise ValueError(f"a redirect to an address with control characters: {target!r}")
    return Response(b"", status, {"Location": quote(target, safe="%/:=&?~#+!$,;'@()*[]")})


def safe_target(request: Request, url: str) -> bool:
    """Whether an address that a user sent stays on this site: it is a path that begins with one `/`, or has the scheme
    and host of the request. Browsers take `\\` for `/` and skip control characters, so an address has neither."""
    if "\\" in url or url != url.strip() or CONTROLS.search(url):
        return False
    if url.startswith("/"):
        return not url.startswith("//")
    site = re.match(r"[^:]*://[^/?#]*", url)
    ours = plain_origin(f"{request.scheme}://{request.host}")
    return site is not None and ours != "" and plain_origin(site[0]) == ours


def to_response(value: Any, json_dumps: Callable[[Any], str | bytes] = dump_json, status: int = 200) -> Response:
    """What a handler returned -> a Response, with this status unless it has its own. str, bytes: text/html. dict, list,
    dataclass: JSON. An iterator: streamed. None: empty. (body, status), (body, headers) and (body, status, headers):
    any of these, with what stands beside it; a status is a number, or a str such as "201 Created". TypeError or
    ValueError for the rest."""
    if value is None or isinstance(value, (str, bytes, bytearray)):
        return Response(bytes(value) if isinstance(value, bytearray) else value or b"", status)
    if isinstance(value, Response):
        if type(value.content) is not bytes:
            value.dump(json_dumps)
        return value
    if is_for_json(value):
        return Response(json_dumps(value), status, content_type=JSON)
    if isinstance(value, tuple) and 2 <= len(value) <= 3:
        given, headers = (None, value[1]) if isinstance(value[1], (Mapping, list)) else (value[1], None)
        response = to_response(value[0], json_dumps, status)
        if response is value[0]:
            response = response.copy()  # the handler may give it to others
        if given is not None:
            response.status = int(given[:3]) if isinstance(given, str) and _STATUS.fullmatch(given) else given
        if headers := value[2] if len(value) == 3 else headers:
            response.headers.merge(headers)
        return response
    if hasattr(value, "__next__"):
        return Response(value, status)
    if inspect.iscoroutine(value):
        value.close()  # nobody will await it
    raise TypeError(f"a body cannot be of type {type(value).__name__}")


# -- files to clients

SMALL = 64 << 10  # bytes of a file that are sent in one go
_NOT_IN_NAMES = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
_NOT_ON_WINDOWS = re.compile(r"[\\:~]")  # a folder; a drive or a stream; a short name
_ETAGS, _OPAQUE_TAGS = re.compile(r'(?:W/)?"[^"]*"'), re.compile(r'"[^"]*"')
_RANGE = re.compile(r"(?i)bytes=[ \t]*(?:([0-9]{1,18})-([0-9]{0,18})|-([0-9]{1,18}))[ \t]*")
_TYPES = {".webp": "image/webp", ".avif": "image/avif", ".woff2": "font/woff2", ".mjs": "text/javascript",
          ".js": "text/javascript", ".gz": "application/gzip", ".tgz": "application/gzip",
          ".svgz": "application/gzip", ".webmanifest": "application/manifest+json"}  # fmt: skip
_PRECOMPRESSED = {".br": "br", ".gz": "gzip"}


@functools.lru_cache(maxsize=4)
def http_date(second: int) -> str:
    """Seconds since 1970 -> `Sun, 06 Nov 1994 08:49:37 GMT` (RFC 9110, 5.6.7), whatever the locale."""
    return formatdate(second, usegmt=True)


def parse_http_date(text: str, default: int) -> int:
    """A date in any of the three formats of RFC 9110, 5.6.7 -> seconds since 1970; the default for anything else."""
    try:
        return timegm(parsedate_to_datetime(text[:64]).utctimetuple()) if text else default
    except (ValueError, TypeError, OverflowError, IndexError):
        return default


def _names_etag(field: str, etag: str) -> bool:
    """Whether a list of entity tags, or `*`, names this one, and both are strong (RFC 9110, 8.8.3.2)."""
    return field.strip() == "*" or (etag in _ETAGS.findall(field) and not etag.startswith("W/"))


def failed_precondition(request: Request, etag: str, modified: int | None) -> int | None:
    """The status, 304 or 412, that is sent instead of an answer, by the conditions of the request in their order (RFC
    9110, 13.2.2); None where the answer is sent. `modified`: seconds since 1970, None where that is not known."""
    headers, is_read = request.headers, request.method in ("GET", "HEAD")
    if "if-match" in headers:
        is_same = _names_etag(headers["if-match"], etag)
    else:
        is_same = modified is None or modified <= parse_http_date(headers.get("if-unmodified-since", ""), modified)
    if not is_same:
        return 412
    if "if-none-match" in headers:
        field, opaque = headers["if-none-match"].strip(), etag.removeprefix("W/")  # compared weakly
        is_known = field == "*" or opaque in _OPAQUE_TAGS.findall(field)
    elif is_known := is_read and modified is not None:
        is_known = modified <= parse_http_date(headers.get("if-modified-since", ""), modified - 1)
    return (304 if is_read else 412) if is_known else None


def parse_range(text: str, size: int) -> tuple[int, int] | None:
    """A Range -> where it begins and ends in a file of `size` bytes; None, which means the whole file, for anything but
    one range of bytes (RFC 9110, 14.2 allows that). HTTPError 416 for a range outside of the file."""
    match = _RANGE.fullmatch(text)
    if match is None or (match[2] and int(match[1]) > int(match[2])):
        return None
    if not size and match[3] and int(match[3]):  # the last bytes of an empty file are all of it (RFC 9110, 14.1.2)
        return None
    start = int(match[1]) if match[1] else max(0, size - int(match[3]))
    end = min(size, int(match[2]) + 1) if match[2] else size
    if start >= end:
        raise HTTPError(416, "the file has no such bytes", {"Content-Range": f"bytes */{size}"})
    return start, end


def choose_coding(header: str, codings: Iterable[str], only_if_needed: bool = False) -> str | None:
    """Of these content codings the one that an Accept-Encoding has as the best, the first of equals (RFC 9110, 12.5.3);
    None for the plain form, which is as good as what is named unless it is named itself. `only_if_needed`: None unless
    the plain form is refused."""
    weights: dict[str, float] = {}
    for part in header.lower().split(",", 50)[:50]:
        name, _, parameters = part.partition(";")
        name = "gzip" if name.strip() == "x-gzip" else name.strip()  # 8.4.1.3
        weights.setdefault(name, find_weight(parameters))
    others = weights.get("*", 0.0)
    best = max(codings, key=lambda coding: weights.get(coding, others), default="")
    weight_of_best, plain = weights.get(best, others), weights.get("identity", weights.get("*"))
    if weight_of_best == 0 or (plain or 0) > weight_of_best or (only_if_needed and plain != 0):
        return None
    return best


_FOLDER = getattr(os, "O_PATH", 0) | getattr(os, "O_DIRECTORY", 0)
_NO_LINK = getattr(os, "O_NOFOLLOW", 0)
_FILE = os.O_RDONLY | _NO_LINK | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0)  # a FIFO does not wait
_IS_LINK = frozenset([errno.ELOOP, errno.EMLINK, errno.ENOTDIR])  # what opening a link with these flags gives
_IS_SHORT = frozenset([errno.EMFILE, errno.ENFILE, errno.ENOMEM])


def _open_below(folder: str, segments: Sequence[str]) -> int:
    """The descriptor of what is below a folder at these segments; OSError where one of them is a link, or missing."""
    descriptor = os.open(folder, _FOLDER)
    for place, segment in enumerate(segments, 1):
        above = descriptor
        try:
            descriptor = os.open(segment, _FILE if place == len(segments) else _FOLDER | _NO_LINK, dir_fd=above)
        finally:
            os.close(above)
    return descriptor


def _open_real(root: str, name: str) -> int:
    """The descriptor of a file by its real path: for links, and for Windows, which opens nothing below a descriptor."""
    root, path = os.path.realpath(root), os.path.realpath(os.path.join(root, name))
    below = os.path.join(root, "")
    if not path.startswith(below):
        raise FileNotFoundError(errno.ENOENT, "a link that leads outside", name)
    return os.open(path, os.O_RDONLY) if os.name == "nt" else _open_below(root, path[len(below) :].split("/"))


def is_file_name(name: str) -> bool:
    """Whether this may be the name of a file below a folder: segments between `/`, none of which leads elsewhere."""
    is_other = _NOT_IN_NAMES.search(name) or (os.name == "nt" and _NOT_ON_WINDOWS.search(name))
    return not is_other and {"", ".", ".."}.isdisjoint(name.split("/"))


def open_file(root: str, name: str) -> io.FileIO | None:
    """The file with this name, segments between `/`, below the folder `root`; None where there is none. A name that
    cannot be is refused before the file system is asked; links must not lead outside. Whoever may write in the folder
    may replace a file by a link at any moment, so a file is opened segment by segment, following no link. Where there
    is a link, the real path is opened in that way."""
    if not is_file_name(name):
        return None
    segments, is_windows = name.split("/"), os.name == "nt"
    try:
        try:
            descriptor = _open_real(root, name) if is_windows else _open_below(root, segments)
        except OSError as error:
            if error.errno not in _IS_LINK:
                raise
            descriptor = _open_real(root, name)
    except (OSError, ValueError) as error:  # ValueError: the file system has no such characters
        if getattr(error, "errno", None) in _IS_SHORT:
            raise
        return None
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return io.FileIO(descriptor)
    os.close(descriptor)
    return None


def _open_best(request: Request, name: str, root: str, headers: ResponseHeaders) -> io.FileIO:
    """The file, or of the compressed ones beside it that which the client likes best, as the header fields then say."""
    file = open_file(root, name) or abort(404)
    path = os.path.join(root, name)
    beside = {coding: suffix for suffix, coding in _PRECOMPRESSED.items() if os.path.lexists(path + suffix)}
    if beside:
        headers.vary("Accept-Encoding")
        best = choose_coding(request.headers.get("accept-encoding", ""), beside)
        if best and "Content-Encoding" not in headers and (compressed := open_file(root, name + beside[best])):
            file.close()
            file, headers["Content-Encoding"] = compressed, best
    return file


def _content_disposition(name: str) -> str:
    """The Content-Disposition with which a browser saves an answer under this name (RFC 6266; RFC 8187 for names beyond
    ASCII); ValueError for control characters."""
    if CONTROLS.search(name):
        raise ValueError(f"not the name of a file: {name!r}")
    plain = re.sub(r"[^ !#-\[\]-~]", "_", name)
    encoded = "" if plain == name else f"; filename*=UTF-8''{quote(name, safe='')}"
    return f'attachment; filename="{plain}"{encoded}'


def static_file(request: Request, name: str, root: str | os.PathLike[str], *, download: str | bool | None = None,
                dotfiles: bool = False) -> Response:  # fmt: skip
    """The file of this name below the folder `root`: with type, ETag, Last-Modified, conditions and one range as RFC
    9110 has them, and `.br` or `.gz` beside it where the client takes that. `download`: to be saved, under its own name
    or this one. `dotfiles`: also names that begin with a dot, of files and folders; without it only `.well-known`.
    HTTPError 404 where there is no such file, whatever the name; 416 for a range outside."""
    is_hidden = not dotfiles and any(each[:1] == "." and each != ".well-known" for each in name.split("/"))
    if is_hidden or not is_file_name(name):
        abort(404)
    headers = ResponseHeaders([("Accept-Ranges", "bytes"), ("X-Content-Type-Options", "nosniff")])
    guessed, compression = mimetypes.guess_type(f"./{name}")  # which takes what is like `data:` for a URL
    extension = os.path.splitext(name)[1].lower()
    kind = _TYPES.get(extension) or (not compression and guessed) or "application/octet-stream"
    if extension == ".svgz" and not download:  # without both, browsers do not show it (SVG 1.1, appendix I)
        kind, headers["Content-Encoding"] = "image/svg+xml", "gzip"
    headers["Content-Type"] = f"{kind}; charset=utf-8" if kind.startswith("text/") else kind
    if download:
        headers["Content-Disposition"] = _content_disposition(name.rpartition("/")[2] if download is True else download)
    with contextlib.ExitStack() as unless_streamed:
        file = unless_streamed.enter_context(_open_best(request, name, os.fspath(root) or os.curdir, headers))
        found = os.fstat(file.fileno())
        size, modified = found.st_size, int(found.st_mtime)
        etag, date = f'"{found.st_mtime_ns:x}-{size:x}{headers.get("Content-Encoding", "")}"', http_date(modified)
        headers["ETag"], headers["Last-Modified"] = etag, date
        if (failed := failed_precondition(request, etag, modified)) is not None:
            if failed == 304:
                headers["Content-Length"] = str(size)  # as in `Response.conditional`
            return Response(b"", failed, headers)
        span = None
        if request.method == "GET" and request.headers.get("if-range", etag) in (etag, date):
            span = parse_range(request.headers.get("range", ""), size)
        start, end = span or (0, size)
        if span is not None:
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
        headers["Content-Length"] = str(end - start)
        wanted = 0 if request.method == "HEAD" else end - start
        file.seek(start)
        if wanted <= SMALL:
            return Response(file.read(wanted), 206 if span else 200, headers)
        unless_streamed.pop_all()
        return Response(FilePieces(file, wanted), 206 if span else 200, headers)


_CONDITIONAL = frozenset(["if-match", "if-none-match", "if-modified-since", "if-unmodified-since", "range", "if-range"])
_SETTLED = 2.0  # seconds after which another change of a file would have another time, on any file system


def _look(path: str) -> tuple[int, ...]:
    """What a file, a folder or a link is, and what is another after each change of it; nothing where there is none."""
    try:
        found = os.lstat(path)
    except (OSError, ValueError):  # ValueError: the file system has no such characters
        return ()
    return found.st_mode, found.st_ino, found.st_dev, found.st_size, found.st_mtime_ns, found.st_ctime_ns


class StaticFolder:
    """The handler of `app.static`: the files below a folder, by `static_file`. The answers with small ones are kept in
    memory, and sent again as long as `os.lstat` finds the same files below the same folders, unchanged. Where it finds
    a link nothing is kept: so nothing is sent that was not opened safely, and is still there."""

    MOST = 16 << 20  # bytes that are kept; beyond them it begins anew

    def __init__(self, root: str, dotfiles: bool) -> None:
        self._send, self._below = functools.partial(static_file, root=root, dotfiles=dotfiles), os.path.join(root, "")
        self._kept: dict[tuple[str, str | None], tuple[list[tuple[int, ...]], Response]] = {}  # by name and coding
        self._size = 0
        self.__qualname__ = static_file.__qualname__  # as `brubeck_lite routes` calls it

    def __call__(self, request: Request, name: str) -> Response:
        if request.method != "GET" or not _CONDITIONAL.isdisjoint(request.headers) or not is_file_name(name):
            return self._send(request, name)
        path = self._below + name
        looks, beside = [_look(path)], list[str]()
        for suffix, coding in _PRECOMPRESSED.items():
            looks.append(_look(path + suffix))
            if looks[-1]:
                beside.append(coding)
        key = name, choose_coding(request.headers.get("accept-encoding", ""), beside) if beside else None
        for _ in range(name.count("/")):
            path = os.path.dirname(path)
            looks.append(_look(path)[:3])  # of a folder, only that it is the same one
        known, response = self._kept.get(key, (None, None))
        if response is None or known != looks:
            response = self._send(request, name)
            self._keep(key, looks, response)
        return response.copy()

    def _keep(self, key: tuple[str, str | None], looks: list[tuple[int, ...]], response: Response) -> None:
        """Keep an answer, unless a file could change again without another time, or there is a link."""
        settled, found = (time.time() - _SETTLED) * 1e9, filter(None, looks)
        if not isinstance(response.body, bytes) or any(stat.S_ISLNK(look[0]) or look[-1] > settled for look in found):
            return
        self._size += len(response.body) + 2048  # for the fields
        if self._size > self.MOST:
            self._kept.clear()
            self._size = 0
        self._kept[key] = looks, response


# ---- Mongrel2 --------------------------------------------------------------------------------------------------------
# In: one message as bytes. Out: a Request or ProtocolError; and of an answer, the messages to send. Pure functions.
# Mongrel2 manual, chapter 5: SENDER CONN_ID PATH HEADERS_NETSTRING BODY_NETSTRING, and SENDER LEN:ID ID ID, PAYLOAD.

MAX_TARGETS = 128  # ids in one reply: Mongrel2's limits.handler_targets
_MAX_DEPTH = 50
_LENGTH = re.compile(rb"(0|[1-9][0-9]{0,8}):")
_INTEGER = re.compile(rb"-?[0-9]{1,1000}")
_FLOAT = re.compile(rb"-?(?:[0-9]{1,400}(?:\.[0-9]{0,400})?(?:e[+-]?[0-9]{1,3})?|inf|nan)")


def _read_tnetstring(data: bytes, offset: int = 0, depth: int = 0) -> tuple[Any, int]:
    """The tnetstring at `offset` -> its value, and the offset behind it."""
    length = _LENGTH.match(data, offset)
    if length is None:
        raise ProtocolError("a netstring begins with its length")
    start, end = length.end(), length.end() + int(length[1])
    if len(data) <= end:
        raise ProtocolError("a netstring is longer than what holds it")
    value, kind, offset = data[start:end], data[end : end + 1], end + 1
    if kind == b",":
        return value, offset
    if kind == b"#" and _INTEGER.fullmatch(value):
        return int(value), offset
    if kind == b"^" and _FLOAT.fullmatch(value):
        return float(value), offset
    if kind == b"!" and value in (b"true", b"false"):
        return value == b"true", offset
    if kind == b"~" and not value:
        return None, offset
    if kind in (b"]", b"}") and depth < _MAX_DEPTH:
        items, at = [], 0
        while at < len(value):
            item, at = _read_tnetstring(value, at, depth + 1)
            items.append(item)
        if kind == b"]":
            return items, offset
        if len(items) % 2 == 0 and all(isinstance(key, bytes) for key in items[::2]):
            return dict(zip(items[::2], items[1::2], strict=True)), offset
    raise ProtocolError("not a tnetstring")


def parse_tnetstring(data: bytes) -> tuple[Any, bytes]:
    """A tnetstring and more -> (value, what follows); ProtocolError for anything else. `,` bytes, `#` int, `^` float,
    `!` bool, `~` None, `]` list, `}` dict with bytes for keys, nested at most 50 deep."""
    value, offset = _read_tnetstring(data)
    return value, data[offset:]


def parse_netstring(data: bytes) -> tuple[bytes, bytes]:
    """`len:bytes,` and more -> (bytes, what follows); ProtocolError if there is no netstring at the beginning."""
    value, rest = parse_tnetstring(data)
    if not isinstance(value, bytes):
        raise ProtocolError("a netstring ends with a comma")
    return value, rest


def format_netstring(value: bytes) -> bytes:
    """bytes -> `len:bytes,`"""
    return b"%d:%b," % (len(value), value)


def format_tnetstring(value: Any) -> bytes:
    """None, bool, int, float, bytes, str (UTF-8), lists and dicts of them -> a tnetstring; TypeError for the rest."""
    if isinstance(value, (str, bytes)):
        return format_netstring(value.encode() if isinstance(value, str) else value)
    if value is None:
        text, end = b"", b"~"
    elif isinstance(value, bool):
        text, end = b"true" if value else b"false", b"!"
    elif isinstance(value, (int, float)):
        text, end = repr(value).encode(), b"#" if isinstance(value, int) else b"^"
    elif isinstance(value, (list, tuple)):
        text, end = b"".join(map(format_tnetstring, value)), b"]"
    elif isinstance(value, dict):
        text, end = b"".join(format_tnetstring(part) for item in value.items() for part in item), b"}"
    else:
        raise TypeError(f"a tnetstring cannot hold {type(value).__name__}")
    return b"%d:%b%b" % (len(text), text, end)


# Raw bytes stay raw in Mongrel2's JSON: Latin-1 is what header fields are, and control characters pass unless "strict".
_decode_json = json.JSONDecoder(strict=False).raw_decode
_HEADER_TYPES = frozenset([str, list])


def _as_latin1(value: bytes | list[bytes]) -> str | list[str]:
    return [part.decode("latin-1") for part in value] if isinstance(value, list) else value.decode("latin-1")


def _mongrel2_fields(headers: Any) -> dict[str, Any]:
    """The headers of a message, JSON or the dictionary of a tnetstring -> by name a str, or a list of them."""
    try:
        if isinstance(headers, dict):
            return {name.decode("latin-1"): _as_latin1(value) for name, value in headers.items()}
        fields, length = _decode_json(headers.decode("latin-1"))
    except (ValueError, RecursionError, AttributeError) as error:  # AttributeError: another type of a tnetstring
        raise ProtocolError("the headers are neither JSON nor a tnetstring of texts") from error
    if length != len(headers) or type(fields) is not dict or not _HEADER_TYPES.issuperset(map(type, fields.values())):
        raise ProtocolError("the headers are no dictionary of texts in JSON, and nothing else")
    return fields


_BODY_FIELDS = frozenset(["content-length", "transfer-encoding", "x-mongrel2-upload-start", "x-mongrel2-upload-done"])
# Mongrel2's own fields, behind those of the client. Where none of the latter decides what a request is, they are enough
# for most handlers, and JSON takes long. What a client sends passes for none of Mongrel2's: its names are in lower
# case, and its quotation marks have a backslash before them.
_USUAL = re.compile(rb'"METHOD":"([A-Z]+)","VERSION":"HTTP/1\.1",.*'
                    rb'"URL_SCHEME":"(https?)","REMOTE_ADDR":"([^"\\]+)"\}', re.S)  # fmt: skip


class Mongrel2Request(Request):
    """A request that came as a message of Mongrel2, or a message about a connection (`is_message`)."""

    sender: str
    conn_id: str
    upload: str | None = None  # the file of its body, as Mongrel2 names it
    upload_is_there = False
    origin: tuple[str, str]  # the address of the client, and its scheme
    is_whole = True  # its body is there, and what the fields say

    def __init__(self, sender: str, conn_id: str, path: bytes, headers: Any, body: bytes) -> None:
        self.sender, self.conn_id, self._headers, self.octets = sender, conn_id, headers, body
        self.content_length = len(body)
        usual = None
        if type(headers) is bytes and not (
            b'"content-length":' in headers or b'"transfer-encoding":' in headers
            or b'"x-mongrel2-upload-' in headers or b'"connection":' in headers
        ):  # fmt: skip
            usual = _USUAL.match(headers, headers.rfind(b'"METHOD":"'))
        if usual is not None:
            self.method, scheme, address = usual[1].decode(), usual[2].decode(), usual[3].decode("latin-1")
            self.origin = address, scheme
            if b'"authorization":' in headers:
                self.has_credentials = True
        else:
            self._read_fields()
        try:
            self.path = decode_path(unquote_to_bytes(path) if b"%" in path else path)
            if self.path[:1] != "/" and not self.is_message:
                raise HTTPError(400, "the path must begin with /")
        except HTTPError as error:
            self.path, self.refused = unquote_to_bytes(path).decode("latin-1"), error.with_traceback(None)
        if usual is None and self.text("METHOD") != "WEBSOCKET" and not _BODY_FIELDS.isdisjoint(self.fields):
            self._check_body(self.fields.get("x-mongrel2-upload-start"), self.fields.get("x-mongrel2-upload-done"))

    fields = lazy(lambda request: _mongrel2_fields(request._headers))  # by name a str, or a list of them

    def _read_fields(self) -> None:
        """Note what the fields say, but for the body."""
        fields, self.method = self.fields, self.text("METHOD")
        self.origin = self.text("REMOTE_ADDR") or self.text("x-forwarded-for"), self.text("URL_SCHEME") or "http"
        self.has_credentials = "authorization" in fields
        version = fields.get("VERSION")
        if version is None:
            # Only Mongrel2 itself leaves the version out: no client can pass for a message about a connection.
            self.is_message = self.method in ("JSON", "XML")
        elif version != "HTTP/1.1" or "connection" in fields:  # whether the client wants more (RFC 9112, 9.3)
            self.version = self.text("VERSION")
            self.keep_alive = self.version != "HTTP/1.0" and "close" not in self.text("connection").lower()
        if self.method == "WEBSOCKET_HANDSHAKE":  # a GET, with what is to be accepted for a body
            self.method, self.octets, self.content_length = "GET", b"", 0
            self.keep_alive = False  # Mongrel2 takes all that follows for frames, whatever the answer is

    def _check_body(self, start: Any, done: Any) -> None:
        """See whether the body is what the fields say, or an upload, which Mongrel2 writes to a file (manual, 5.5). A
        client may say that too, but without its body Mongrel2 hands out a request only where that is true, or to open a
        WebSocket. What is refused has its connection closed, which also ends an upload that is on its way."""
        length, coding = self.text("content-length"), self.text("transfer-encoding")
        if "content-length" not in self.fields:
            size = -1 if coding == "chunked" else 0
        else:
            size = int(length) if re.fullmatch("[0-9]{1,10}", length) else -2
        is_upload = not self.content_length and (size == -1 or 0 < size < 1 << 31)
        if self.text("METHOD") == "WEBSOCKET_HANDSHAKE":  # behind which Mongrel2 takes all that comes for frames
            if size == 0 and "transfer-encoding" not in self.fields and start is None and done is None:
                return
            refused = HTTPError(400, "a WebSocket begins with a GET that has no body")
        elif is_upload and self.refused is None and isinstance(start, str) and done in (None, start):
            self.upload, self.upload_is_there = start, done is not None
            self.content_length = max(size, 0)
            refused = HTTPError(413, "the body is over the limit for this server")  # unless a server takes it
            if size < 0:
                refused = HTTPError(411, "a body without a Content-Length is not taken here")
        elif start is not None or done is not None:
            refused = HTTPError(400, "x-mongrel2-upload is for Mongrel2 to say")
        elif size != self.content_length or coding not in ("", "chunked"):
            refused = HTTPError(400, "the body is not what Content-Length or Transfer-Encoding say")
        else:
            return
        self.refused, self.is_whole = self.refused or refused, False

    def refuse_body(self) -> None:
        """Raise the error of a body that is refused where somebody reads it: the path, and the limit of its route, are
        looked at first."""
        refused, self.refused = cast(HTTPError, self.refused), None

        def refuse(size: int) -> NoReturn:
            abort(refused.status, refused.message)  # anew: its traceback holds the request, which holds this function

        self.stream = io.BufferedReader(_Body(refuse, None, 0))

    def receive_upload(self, path: str) -> None:
        """Have the file at `path`, which is taken away, for the body. OSError where it cannot be read, or stays."""
        try:
            file = open(  # noqa: SIM115 (it goes with the request)
                path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NOFOLLOW | os.O_NONBLOCK)
            )
        finally:
            os.unlink(path)
        self.refused, self.is_whole, self.last_calls = None, True, (file.close,)
        self.content_length = os.fstat(file.fileno()).st_size
        self.stream = io.BufferedReader(_Body(file.read, self.content_length, self.content_length))

    peer: lazy[Peer] = lazy(lambda request: Peer(*request.origin))

    def text(self, name: str, separator: str = ", ") -> str:
        """The header of this name, Mongrel2's own too, as one text; empty where there is none. Mongrel2 leaves blanks
        behind a value, which are no part of it (RFC 9110, 5.5)."""
        value = self.fields.get(name, "")
        if isinstance(value, str):
            return value.strip(" \t")
        return separator.join(str(part).strip(" \t") for part in value)

    @lazy
    def headers(self) -> Headers:
        """The client's header fields, lower case; Mongrel2's own, upper case, are not among them."""
        names = [name for name in self.fields if not name.isupper() and "_" not in name]
        return Headers({name.lower(): self.text(name, "; " if name == "cookie" else ", ") for name in names})

    query_string = lazy(lambda request: request.text("QUERY"))
    stream: lazy[Any] = lazy(lambda request: io.BytesIO(request.octets))  # it came whole


def read_mongrel2(message: bytes) -> Mongrel2Request:
    """One message of Mongrel2 -> a Request, as `parse_mongrel2` does. But the fields of a usual request are parsed when
    somebody looks at them, and where they cannot be, the ProtocolError comes then."""
    parts = message.split(b" ", 3)
    if len(parts) != 4:
        raise ProtocolError("a message is SENDER CONN_ID PATH HEADERS BODY")
    sender, conn_id, path, rest = parts
    if not sender or not sender.isascii() or not conn_id.isdigit() or not path:
        raise ProtocolError("a message begins with a sender, a connection's number and a path")
    headers, offset = _read_tnetstring(rest)
    body, offset = _read_tnetstring(rest, offset)
    if type(body) is not bytes or offset != len(rest):
        raise ProtocolError("a message ends with its body")
    return Mongrel2Request(sender.decode(), conn_id.decode(), path, headers, body)


def parse_mongrel2(message: bytes) -> Mongrel2Request:
    """One message of Mongrel2, with headers in JSON or tnetstring -> a Request; ProtocolError for anything else. One
    that a client got wrong is still a Request, for it must be answered: `refused` says why."""
    request = read_mongrel2(message)
    _ = request.fields  # which may be what is wrong
    return request


def format_reply(sender: str | bytes, conn_ids: Iterable[str | bytes | int], payload: bytes, *,
                 mark: bytes = b"") -> list[bytes]:  # fmt: skip
    """The messages that take `payload` to these connections of `sender`, 128 in each. An empty payload closes."""
    ids = [conn_id if isinstance(conn_id, bytes) else str(conn_id).encode("ascii") for conn_id in conn_ids]
    targets = [mark + b" ".join(ids[start : start + MAX_TARGETS]) for start in range(0, len(ids), MAX_TARGETS)]
    octets = sender if isinstance(sender, bytes) else sender.encode("ascii")
    return [b"%b %d:%b, %b" % (octets, len(target), target, payload) for target in targets]


def format_extended_reply(sender: str | bytes, conn_ids: Iterable[str | bytes | int], name: str,
                          arguments: Any) -> list[bytes]:  # fmt: skip
    """The messages for an extended reply to these connections: `ctl`, or a filter's name (Mongrel2 manual, 5.6)."""
    return format_reply(sender, conn_ids, format_tnetstring([name, arguments]), mark=b"X ")


# ---- HTTP/1.1 --------------------------------------------------------------------------------------------------------
# In: the bytes of one connection, cut anywhere. Out: a Request, then the pieces of its body; None where more is needed;
# ProtocolError, with the status for the client, where they are no HTTP (RFC 9112). And of a Response, its head. Pure.

MAX_HEAD, MAX_FIELDS = 64 << 10, 100  # bytes of a request line and its header fields; lines of these
MAX_TARGET, MAX_LINE = 8 << 10, 9 << 10  # bytes of a target, and of a request line
MAX_CHUNK_LINE, MAX_EXTENSIONS, MAX_TRAILERS = 1 << 10, 16 << 10, 8 << 10  # bytes; extensions: of a whole body
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_REQUEST_LINE = re.compile(rf'({_TOKEN.pattern}) ([!"$-~]+) (HTTP/[0-9]\.[0-9])')
_ABSOLUTE = re.compile(r"(?i:https?)://([^/?]+)(.*)")
_FIELD_LINE = re.compile(rf"({_TOKEN.pattern}):([\t -~\x80-\xff]*)")
_CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,16})(;[\t -~\x80-\xff]*)?")
_BROKEN = re.compile(rb"(?<!\r)\n|\r[^\n]|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")  # whatever else is to come
_LONG_LINE = f"the target is over the limit of {MAX_TARGET} bytes, or the request line over {MAX_LINE}"
_BROKEN_LINE = "a line ends with CRLF and holds no control characters"
# Method, path, query, version, and the host where the target names one. The path is decoded; bytes if it is no text.
RequestLine = tuple[str, Union[str, bytes], str, str, Union[str, None]]


def parse_request_line(line: bytes) -> RequestLine:
    """`GET /a%20b?c HTTP/1.1` -> `("GET", "/a b", "c", "HTTP/1.1", None)` (RFC 9112, 3)."""
    if len(line) > MAX_LINE:
        raise ProtocolError(_LONG_LINE, 414)
    match = _REQUEST_LINE.fullmatch(line.decode("latin-1"))
    if match is None:
        raise ProtocolError("a request begins with METHOD TARGET HTTP/1.1, and the target is printable ASCII without #")
    method, target, version = match.groups()
    if version not in ("HTTP/1.1", "HTTP/1.0"):
        raise ProtocolError("this server speaks HTTP/1.1 and HTTP/1.0", 505)
    if len(target) > MAX_TARGET:
        raise ProtocolError(_LONG_LINE, 414)
    host = None
    if target[0] != "/" and (target != "*" or method != "OPTIONS"):
        absolute = _ABSOLUTE.fullmatch(target)
        if absolute is None or not _HOST.fullmatch(absolute[1]):
            raise ProtocolError("a target begins with / or is a whole address; * is for OPTIONS alone")
        host, target = absolute[1], absolute[2] if absolute[2][:1] == "/" else f"/{absolute[2]}"
    path: str | bytes
    path, _, query = target.partition("?")
    if "%" in path:
        octets = unquote_to_bytes(path)
        try:
            path = decode_path(octets)
        except HTTPError:
            path = octets
    return method, path, query, version, host


# The header fields of a request, and what they say: how long its body is (None where it comes in chunks), whether its
# connection outlives the answer, whether the client waits for `100 Continue`, and whether it sent Authorization.
Framing = tuple[dict[str, str], Union[int, None], bool, bool, bool]

# What many clients send alike is parsed once: request lines without a query, lines of header fields, and the fields of
# a whole head whose lines were all known. Only fields of these names are remembered: they say what software a client
# uses, and not who the client is. The fields of a head are looked up as if a Cookie or an Authorization in it were
# empty; its value stays with the request.
_SHORT, _MOST = 1024, 1024  # bytes of what is remembered; how many of each kind
_COMMON_FIELDS = frozenset([
    "accept", "accept-charset", "accept-encoding", "accept-language", "cache-control", "connection", "content-length",
    "content-type", "dnt", "host", "origin", "pragma", "priority", "referer", "sec-ch-ua", "sec-ch-ua-mobile",
    "sec-ch-ua-platform", "sec-fetch-dest", "sec-fetch-mode", "sec-fetch-site", "sec-fetch-user", "sec-gpc", "te",
    "transfer-encoding", "upgrade-insecure-requests", "user-agent", "x-forwarded-proto", "x-requested-with",
])  # fmt: skip
_SECRET_FIELDS = ((b"\r\nCookie: ", "cookie"), (b"\r\ncookie: ", "cookie"), (b"\r\nAuthorization: ", "authorization"))
_remembered_lines: dict[bytes, RequestLine] = {}
_remembered_fields: dict[bytes, tuple[str, str]] = {}
_remembered_heads: dict[str, dict[bytes, Framing]] = {"HTTP/1.1": {}, "HTTP/1.0": {}}


def _remember(memory: dict[bytes, T], octets: bytes, parsed: T) -> None:
    """Remember what these bytes were parsed to. A client that fills the memory makes others parse once more."""
    if len(memory) >= _MOST:
        memory.clear()
    memory[octets] = parsed


def _read_request_line(line: bytes) -> RequestLine:
    """Parse a request line, and remember it unless it has a query: queries are many, and may hold secrets."""
    parsed = parse_request_line(line)
    if len(line) < _SHORT and b"?" not in line:
        _remember(_remembered_lines, line, parsed)
    return parsed


def parse_field(line: bytes) -> tuple[str, str]:
    """`Name: value` -> the name in lower case, and the value without the blanks around it. The name is empty where it
    holds `_`, for in a WSGI environ that would pass for `-`. ProtocolError, which names the rule, for anything else
    (RFC 9112, 5.1)."""
    text = line.decode("latin-1")
    match = _FIELD_LINE.fullmatch(text)
    if match is not None:
        return "" if "_" in match[1] else match[1].lower(), match[2].strip(" \t")
    if text[:1] in (" ", "\t"):
        raise ProtocolError("a header field may not be folded")
    if ":" not in text or _TOKEN.fullmatch(text.partition(":")[0]) is None:
        raise ProtocolError("a header field begins with its name and a colon right behind it")
    raise ProtocolError(f"{_BROKEN_LINE}: there is one in a header field")


def _read_field(line: bytes) -> tuple[str, str]:
    """Parse the line of a header field, and remember it unless it may hold a secret, as the query in a Referer may."""
    field = name, value = parse_field(line)
    is_common = name in _COMMON_FIELDS and (name != "referer" or "?" not in value)
    if len(line) < _SHORT and (is_common or not value):
        _remember(_remembered_fields, line, field)
    return field


def parse_fields(block: bytes, version: str) -> tuple[Framing, bool]:
    """The lines of header fields -> Framing, and whether all of the lines were remembered. Fields whose names hold `_`
    are left out. A field that came more than once is joined."""
    lines = block.split(b"\r\n")[:-1]
    if len(lines) > MAX_FIELDS:
        raise ProtocolError(f"the header fields are more than {MAX_FIELDS}", 431)
    fields: dict[str, str] = {}
    is_known = True
    for line in lines:
        field = _remembered_fields.get(line)
        if field is None:
            field, is_known = _read_field(line), False
        name, value = field
        if name in fields:
            value = fields[name] + ("; " if name == "cookie" else ", ") + value
        fields[name] = value
    fields.pop("", None)
    return frame(fields, version), is_known


def frame(fields: dict[str, str], version: str) -> Framing:
    """Header fields -> Framing, by the rules that keep one request from passing for two: RFC 9112, 6."""
    is_new = version == "HTTP/1.1"
    if ("host" not in fields and is_new) or not _HOST.fullmatch(fields.get("host") or "-"):  # RFC 9112, 3.2
        raise ProtocolError("a request has one Host, which is empty, or a host with or without a port")
    length: int | None = 0
    if "transfer-encoding" in fields:
        if not is_new or "content-length" in fields:
            raise ProtocolError("Transfer-Encoding is for HTTP/1.1, and not beside a Content-Length")
        if fields["transfer-encoding"].lower() != "chunked":
            raise ProtocolError("the only Transfer-Encoding here is chunked", 501)
        length = None
    elif "content-length" in fields:
        length = parse_content_length(fields["content-length"])
    expects = is_new and "expect" in fields
    if expects and fields["expect"].lower() != "100-continue":
        raise ProtocolError("the only expectation that is met here is 100-continue", 417)
    connection = fields.get("connection", "").lower()
    closes = "close" in connection and "close" in [token.strip(" \t") for token in connection.split(",")]
    return fields, length, is_new and not closes, expects and length != 0, "authorization" in fields


def _cut_secret(block: bytes) -> tuple[bytes, tuple[str, str] | None]:
    """The lines of header fields -> the same lines with an empty value for a secret, and its name and value. Of several
    secrets one is cut out; none that is not plain ASCII."""
    for mark, name in _SECRET_FIELDS:
        start = block.find(mark) + len(mark)
        if start >= len(mark):
            end = block.find(b"\r\n", start)
            value = block[start:end].decode("latin-1")
            if value.isascii() and value.isprintable():
                return block[:start] + block[end:], (name, value.strip(" "))
    return block, None


def _read_fields(block: bytes, version: str) -> tuple[Framing, tuple[str, str] | None]:
    """The lines of header fields, where a whole head is not remembered -> Framing, and the name and the value of a
    secret, whose value in Framing is empty."""
    heads = _remembered_heads[version]
    common, secret = _cut_secret(block)
    framing = heads.get(common)
    if framing is None:
        framing, is_known = parse_fields(common, version)
        if secret is not None and framing[0][secret[0]]:  # this field came twice
            return parse_fields(block, version)[0], None
        if is_known and len(common) < _SHORT:
            _remember(heads, common, framing)
    return framing, secret


class HTTPRequest(Request):
    """A request that came to the embedded server."""

    peer: _HTTPPeer

    def __init__(self, line: RequestLine, framing: Framing, secret: tuple[str, str] | None = None) -> None:
        self.method, path, self.query_string, self.version, self._host = line
        self._fields, length, self.keep_alive, self.expects, self.has_credentials = framing
        self._secret = secret
        if isinstance(path, bytes):
            path, self.refused = path.decode("latin-1"), HTTPError(400, _BAD_PATH)
        self.path, self.content_length = path, length or 0

    @lazy
    def headers(self) -> Headers:
        """The header fields, as Latin-1."""
        fields = self._fields
        if self._secret is not None:
            fields = {**fields, self._secret[0]: self._secret[1]}
        if self._host is not None:  # that of the target goes before the field (RFC 9112, 3.2.2)
            fields = {**fields, "host": self._host}
        return Headers(fields)

    @lazy
    def stream(self) -> io.BufferedReader | io.BytesIO:
        """The body as a file object, bounded by `max_body`: reading on raises HTTPError 413; 400 or 408 where the
        client sends it wrong, or not at all."""
        body = self.peer.take_body(self, self.max_body)
        if body is not None:
            return io.BytesIO(body)
        read = functools.partial(self.peer.read_body, self.peer.served)
        return io.BufferedReader(_Body(read, None, self.max_body))


class HTTPParser:
    """The requests of one connection: `feed` it what was received; ask for the `next_request`, then for each
    `next_piece` of its body, to the end, before the request after it. ProtocolError is the end of the connection."""

    __slots__ = ("_at", "_buffer", "_chunked", "_extensions", "_in_trailers", "_seen", "_skipped", "body_is_over",
                 "has_input", "left")  # fmt: skip

    def __init__(self) -> None:
        self._buffer, self._at = b"", 0  # what was received, and where in it we are
        self._seen = 0  # bytes from there on that were searched for the end of the head
        self.has_input = False  # there is something that was not yet taken
        self._skipped = False  # the one empty line before a request
        self.body_is_over = True  # the end of the body of the present request was seen
        self.left = 0  # bytes that are to come of the body, or of its present chunk
        self._chunked = self._in_trailers = False
        self._extensions = 0  # their bytes

    def feed(self, data: bytes) -> None:
        """Add what was received."""
        self._buffer = self._buffer[self._at :] + data if self.has_input else data
        self._at, self.has_input = 0, True

    def take_rest(self) -> bytes:
        """What was received and belongs to no request."""
        rest, self._buffer, self._at, self.has_input = self._buffer[self._at :], b"", 0, False
        return rest

    def next_request(self) -> HTTPRequest | None:
        """The next request; None where more is needed."""
        if self._buffer[self._at : self._at + 1] in (b"\r", b"\n"):
            self._skip_empty_line()
        buffer, start = self._buffer, self._at
        end = buffer.find(b"\r\n\r\n", start + self._seen)
        if end < 0 or end + 4 - start > MAX_HEAD:
            if buffer.find(b"\r\n", start, start + MAX_LINE + 2) < 0 and len(buffer) - start > MAX_LINE + 1:
                raise ProtocolError(_LONG_LINE, 414)
            self._check_lines(MAX_HEAD, f"the head is over the limit of {MAX_HEAD} bytes", 431)
            return None
        middle = buffer.find(b"\r\n", start)
        line, fields = buffer[start:middle], buffer[middle + 2 : end + 2]
        request_line = _remembered_lines.get(line) or _read_request_line(line)
        framing, secret = _remembered_heads[request_line[3]].get(fields), None
        if framing is None:
            framing, secret = _read_fields(fields, request_line[3])
        self._seen, self._skipped = 0, False
        length, at = framing[1], end + 4
        if length is None:
            self._chunked, self._in_trailers, self._extensions = True, False, 0
            at = end + 2  # CRLF comes before every chunk
        else:
            self.left = length
        self.body_is_over = length == 0
        if at < len(buffer):
            self._at = at
        else:  # as _skip_to does, whose call would be one more for each request
            self._buffer, self._at, self.has_input = b"", 0, False
        return HTTPRequest(request_line, framing, secret)

    def _skip_to(self, offset: int) -> None:
        """Take what is before this offset. Of what was taken nothing is kept for an idle connection."""
        self._at = offset
        if offset >= len(self._buffer):
            self._buffer, self._at, self.has_input = b"", 0, False

    def _skip_empty_line(self) -> None:
        """RFC 9112, 2.2: one empty line before a request is skipped."""
        if not self._skipped and self._buffer.startswith(b"\r\n", self._at):
            self._skip_to(self._at + 2)
            self._skipped = True
        beginning = self._buffer[self._at : self._at + 2]
        if beginning[:1] in (b"\r", b"\n") and (self._skipped or beginning != b"\r"):
            raise ProtocolError("a request begins with its method, or with one empty line before it")

    def _check_lines(self, limit: int, message: str, status: int = 400) -> None:
        """Lines whose end is not there yet, or too far: see that it may still come, and that none of them is broken."""
        size = len(self._buffer) - self._at
        if size >= limit:
            raise ProtocolError(message, status)
        if _BROKEN.search(self._buffer, self._at + self._seen):
            raise ProtocolError(_BROKEN_LINE)
        self._seen = max(0, size - 3)  # which is not searched again

    def next_piece(self, size: int = 1 << 16) -> bytes | None:
        """The next bytes of the body, at most `size`; b"" at its end; None where more is needed."""
        while self._chunked and not self.left:
            if not (self._end_trailers() if self._in_trailers else self._begin_chunk()):
                return None
        if not self.left:
            self.body_is_over = True
            return b""
        piece = self._buffer[self._at : self._at + min(size, self.left)]
        self.left -= len(piece)
        self._skip_to(self._at + len(piece))
        return piece or None

    def take_body(self, most: int) -> bytes | None:
        """The whole body, where its length was declared, at most so many bytes, and all of it has come; else None."""
        if self._chunked or self.left > min(most, len(self._buffer) - self._at):
            return None
        body = self.next_piece(most)
        self.body_is_over = True
        return body

    def _begin_chunk(self) -> bool:
        """Take what stands before the data of a chunk (RFC 9112, 7.1); False where more is needed."""
        buffer, start = self._buffer, self._at + 2
        if not b"\r\n".startswith(buffer[self._at : start]):
            raise ProtocolError("the data of a chunk ends with CRLF")
        end = buffer.find(b"\r\n", start, start + MAX_CHUNK_LINE)
        if end < 0:
            if len(buffer) - start >= MAX_CHUNK_LINE or _BROKEN.search(buffer, start):
                raise ProtocolError("a chunk begins with a line, of its size and little else")
            return False
        line = _CHUNK_LINE.fullmatch(buffer, start, end)
        if line is None:
            raise ProtocolError("a chunk begins with its size, 1 to 16 hexadecimal digits")
        self._extensions += len(line[2] or b"")
        if self._extensions > MAX_EXTENSIONS:
            raise ProtocolError(f"the chunk extensions are over the limit of {MAX_EXTENSIONS} bytes")
        self.left = int(line[1], 16)
        self._in_trailers = self.left == 0
        self._skip_to(end + 2 if self.left else end)  # the line of the last chunk ends with the trailers
        return True

    def _end_trailers(self) -> bool:
        """Take, and forget, the trailer fields and the empty line behind them; False where more is needed."""
        end = self._buffer.find(b"\r\n\r\n", self._at + self._seen)
        if end < 0 or end + 2 - self._at > MAX_TRAILERS:
            self._check_lines(MAX_TRAILERS + 2, f"the trailers are over the limit of {MAX_TRAILERS} bytes")
            return False
        for line in self._buffer[self._at + 2 : end + 2].split(b"\r\n")[:-1]:
            parse_field(line)
        self._chunked, self._seen = False, 0
        self._skip_to(end + 4)
        return True


def format_head(status: int, fields: list[tuple[str, str]], keep_alive: bool) -> bytes:
    """The status line and the header fields of an HTTP/1.1 answer, with Date and Server where they are not given."""
    head = f"HTTP/1.1 {_STATUS_LINES.get(status) or status_line(status)}"
    for name, value in fields:
        head += f"\r\n{name}: {value}"
    lowered = head.lower()
    if "\r\ndate: " not in lowered:
        head += f"\r\nDate: {http_date(int(time.time()))}"
    if "\r\nserver: " not in lowered:
        head += "\r\nServer: brubeck_lite"
    if not keep_alive:
        head += "\r\nConnection: close"
    if status == 426:  # RFC 9110, 15.5.22
        head += "\r\nUpgrade: websocket\r\nConnection: Upgrade"
    return f"{head}\r\n\r\n".encode("latin-1")


# ---- WebSocket -------------------------------------------------------------------------------------------------------
# In: a request for a WebSocket, then the bytes that follow it, and what is to be said. Out: the answer 101, messages
# for the handler, and frames to be sent; as the status of a ProtocolError, the code to close with (RFC 6455, 7.4.1).
# Nothing here touches a socket or a clock.

CONTINUATION, TEXT_MESSAGE, BINARY_MESSAGE, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
_FIRST_OCTETS = frozenset(opcode | final for opcode in (0, 1, 2, 8, 9, 10) for final in (0, 0x80))
_ACCEPT_GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_WEBSOCKET_KEY = re.compile(r"[0-9A-Za-z+/]{21}[AQgw]==")  # 16 octets


def format_frame(opcode: int, payload: bytes) -> bytes:
    """A whole message, or a control frame, as a server sends it (RFC 6455, 5.2)."""
    size = len(payload)
    if size < 126:
        return b"%c%c%b" % (0x80 | opcode, size, payload)
    form, mark = ("!BBH", 126) if size < 1 << 16 else ("!BBQ", 127)
    return struct.pack(form, 0x80 | opcode, mark, size) + payload


def format_message(message: Any) -> bytes:
    """str as text, bytes as binary, a dict or a list as JSON -> a frame; TypeError for the rest."""
    if isinstance(message, (dict, list)):
        message = dump_json(message)
    if isinstance(message, str):
        return format_frame(TEXT_MESSAGE, message.encode())
    if isinstance(message, bytes):
        return format_frame(BINARY_MESSAGE, message)
    raise TypeError(f"a message is str, bytes, a dict or a list, not {type(message).__name__}")


def format_close(code: int, reason: str = "") -> bytes:
    """The frame that closes; ValueError for a code that is not for frames, or a reason over 123 bytes."""
    if not is_close_code(code) or len(reason.encode()) > 123:
        raise ValueError("a code to close with is one of RFC 6455's or 3000 to 4999, a reason has at most 123 bytes")
    return format_frame(CLOSE, struct.pack("!H", code) + reason.encode())


def is_close_code(code: int) -> bool:
    """Whether a close frame may have this code (RFC 6455, 7.4)."""
    return 1000 <= code <= 1003 or 1007 <= code <= 1014 or 3000 <= code <= 4999


def parse_close(payload: bytes) -> tuple[int, str]:
    """What a close frame holds -> code and reason; 1005 stands for none."""
    if not payload:
        return 1005, ""
    code = int.from_bytes(payload[:2], "big")
    if len(payload) < 2 or not is_close_code(code):
        raise ProtocolError("a close frame has no such code", 1002)
    return code, decode_text(payload[2:])


def decode_text(payload: bytes) -> str:
    """The text of a message, which is UTF-8."""
    try:
        return payload.decode()
    except UnicodeDecodeError:
        raise ProtocolError("a text is not UTF-8", 1007) from None


def check_opcode(first: int) -> None:
    """ProtocolError for the first octet of a frame with a reserved bit or opcode (RFC 6455, 5.2)."""
    if first not in _FIRST_OCTETS:
        raise ProtocolError("a frame has a reserved bit or opcode", 1002)


def unmask(key: bytes | bytearray, payload: bytes | bytearray) -> bytes:
    """What a client masked (RFC 6455, 5.3)."""
    size = len(payload)
    mask = int.from_bytes((key * (size // 4 + 1))[:size], "big")
    return (int.from_bytes(payload, "big") ^ mask).to_bytes(size, "big")


def parse_frame(buffer: bytes | bytearray) -> tuple[int, bytes, int]:
    """What `format_frame` made, at the beginning of a buffer -> its opcode, its payload, and the size of it all."""
    start = {126: 4, 127: 10}.get(buffer[1], 2)
    end = start + (int.from_bytes(buffer[2:start], "big") if start > 2 else buffer[1])
    return buffer[0] & 0x0F, bytes(buffer[start:end]), end


class FrameReader:
    """The frames of a client: `feed` it what was received, and ask for `next_message` until that is None. ProtocolError
    is the end of the connection: 1002 for broken framing, 1009 for a message over `limit` bytes."""

    def __init__(self, limit: int) -> None:
        self._limit, self._buffer = limit, bytearray()
        self.wanted = 0  # bytes of the present frame that have not come yet
        self._opcode, self._message = CONTINUATION, bytearray()  # of the message whose fragments are coming

    def feed(self, data: bytes) -> None:
        """Add what was received."""
        self._buffer += data

    @property
    def held(self) -> int:
        """How many bytes have come of a message, or of a frame, that has not come whole."""
        return len(self._buffer) + len(self._message) + (self._opcode != CONTINUATION)

    def next_message(self) -> tuple[int, bytes] | None:
        """The opcode and the payload of the next whole message or control frame; None where more is needed."""
        buffer = self._buffer
        while len(buffer) >= 2:
            first, size = buffer[0], buffer[1] - 0x80
            opcode, is_last, is_control = first & 0x0F, first & 0x80, first & 0x08  # RFC 6455, 5.2
            if size < 0:
                raise ProtocolError("a client masks its frames", 1002)
            check_opcode(first)
            if is_control and (size > 125 or not is_last):
                raise ProtocolError("a control frame is whole, and has at most 125 bytes", 1002)
            if not is_control and (opcode == CONTINUATION) == (self._opcode == CONTINUATION):
                raise ProtocolError("a message continues what began, and ends before the next", 1002)
            start = 6 if size < 126 else 8 if size == 126 else 14
            if len(buffer) < start:
                return None
            if size > 125:
                size = int.from_bytes(buffer[2 : start - 4], "big")
            if not is_control and len(self._message) + size > self._limit:
                raise ProtocolError(f"the message is over the limit of {self._limit} bytes", 1009)
            self.wanted = max(0, start + size - len(buffer))
            if self.wanted:
                return None
            payload = unmask(buffer[start - 4 : start], buffer[start : start + size])
            del buffer[: start + size]
            if is_control or (is_last and opcode):  # a whole message in one frame
                return opcode, payload
            self._opcode = opcode or self._opcode
            self._message += payload
            if is_last:
                message = self._opcode, bytes(self._message)
                self._opcode, self._message = CONTINUATION, bytearray()
                return message
        return None


class ConversationState(Enum):
    """Where a WebSocket stands between its opening and its end, and whose turn it is then (RFC 6455, 7.1)."""

    OPEN = "both sides may send messages"
    CLOSE_RECEIVED = "the other side has closed: our close is due, after what is still to be said"
    CLOSE_SENT = "we have closed: the other side's close is due"
    CLOSED = "neither side sends anything more"


_OPEN, _CLOSE_RECEIVED, _CLOSE_SENT, _CLOSED = ConversationState


class Conversation:
    """What may still be said on a WebSocket, as one side sees it (RFC 6455, 5.5 and 7): a value without sockets or
    clocks. `state` says whose turn it is; `closed` is None, or the code and the reason of the end.

    What the other side sends goes into `hear`. `close` and `answer_close` give the frame that closes from our side,
    which is empty where none is to be sent."""

    __slots__ = ("_limit", "_their_close", "closed", "state")

    def __init__(self, limit: int) -> None:
        self.state = _OPEN
        self.closed: tuple[int, str] | None = None
        self._limit, self._their_close = limit, b""

    @property
    def is_heard(self) -> bool:
        """Whether the other side may still say something."""
        return self.state in (_OPEN, _CLOSE_SENT)

    def hear(self, opcode: int, payload: bytes) -> tuple[str | bytes | None, bytes]:
        """A whole message or a control frame -> the message, or None, and the frame to answer with, or nothing. After a
        close `answer_close` is due. ProtocolError: its status is the code to close with, and `end` is due, for an
        answer to that is not waited for (RFC 6455, 7.1.7)."""
        if opcode < CLOSE:
            if self.state is not _OPEN:
                return None, b""
            if len(payload) > self._limit:
                raise ProtocolError(f"the message is over the limit of {self._limit} bytes", 1009)
            return decode_text(payload) if opcode == TEXT_MESSAGE else payload, b""
        if opcode == PING and self.state is _OPEN:
            return None, format_frame(PONG, payload)
        if opcode == CLOSE:
            parse_close(payload)
            if self.state is _OPEN:
                self.state, self._their_close = _CLOSE_RECEIVED, payload
            elif self.state is _CLOSE_SENT:
                self.state = _CLOSED
        return None, b""

    def close(self, code: int, reason: str = "") -> bytes:
        """Say no more. ValueError as for `format_close`."""
        frame = format_close(code, reason)
        if self.closed is not None:
            return b""
        self.closed = code, reason
        self.state = _CLOSED if self.state is _CLOSE_RECEIVED else _CLOSE_SENT
        return frame

    def answer_close(self) -> bytes:
        """Answer a close with its own code (RFC 6455, 5.5.1)."""
        if self.state is not _CLOSE_RECEIVED:
            return b""
        self.state, self.closed = _CLOSED, parse_close(self._their_close)
        return format_frame(CLOSE, self._their_close[:2])

    def end(self) -> None:
        """Nothing more comes from the other side: 1006, unless either side has closed before."""
        self.state, self.closed = _CLOSED, self.closed or (1006, "")


class Upgrade(Response):
    """The answer 101 to a request for a WebSocket, and how to go on (RFC 6455, 4.2.2)."""

    __slots__ = ("arguments", "handler", "max_message")

    def __init__(self, request: Request, handler: Handler, arguments: dict[str, Any], max_message: int) -> None:
        super().__init__()
        self.code = 101
        self.handler, self.arguments, self.max_message = handler, arguments, max_message
        key = request.headers["sec-websocket-key"] + _ACCEPT_GUID
        accept = base64.b64encode(hashlib.sha1(key.encode()).digest()).decode()
        self._headers = ResponseHeaders({"Sec-WebSocket-Accept": accept})

    def fields(self, request: Request) -> list[tuple[str, str]]:
        """The header fields to send."""
        own = [("Upgrade", "websocket"), ("Connection", "Upgrade")]
        return [*own, *self.headers.pairs(), *self.cookie_fields()]


def check_handshake(request: Request, origins: str | Iterable[str] | None) -> None:
    """HTTPError unless this is a right request for a WebSocket (RFC 6455, 4.2.1): 426 without Upgrade or for another
    version, 400 for a wrong key, 403 for a page of another origin than ours and `origins` ("*": all)."""
    headers = request.headers
    if request.method != "GET" or "transfer-encoding" in headers or headers.get("content-length", "0") != "0":
        abort(400, "a WebSocket begins with a GET that has no body")
    upgrades = [token.strip().lower() for token in headers.get("upgrade", "").split(",")]
    if "websocket" not in upgrades or "upgrade" not in headers.get("connection", "").lower():
        abort(426, "this is a WebSocket")
    if headers.get("sec-websocket-version") != "13":
        abort(426, "the version of WebSocket here is 13", {"Sec-WebSocket-Version": "13"})
    if request.version != "HTTP/1.1" or not _WEBSOCKET_KEY.fullmatch(headers.get("sec-websocket-key", "")):
        abort(400, "a WebSocket needs HTTP/1.1, and a Sec-WebSocket-Key of 16 bytes")
    origin = headers.get("origin")
    if origin is None or not {plain_origin(origin), "*"}.isdisjoint(
        [origins] if isinstance(origins, str) else origins or ()
    ):
        return
    # A proxy that we do not know of may have taken the TLS away: a page by https may also use what seems to be http.
    # One that came by http may not use what is https, for anybody on its way may have changed it.
    if not is_own_origin(request, origin, also_https=True):
        abort(403, "a page of another origin may not use this")


# ---- WSGI ------------------------------------------------------------------------------------------------------------
# In: an environ (PEP 3333). Out: a Request. `Brubeck.answer_wsgi` answers it.

StartResponse = Callable[..., Any]


def _from_environ(key: str, default: str) -> lazy[str]:
    return lazy(lambda request: str(request.environ.get(key, default)))


def _octets(text: str) -> bytes:
    """The octets of a path. One with characters beyond Latin-1 was decoded already (httpx.WSGITransport): as UTF-8."""
    return text.encode("latin-1" if max(text, default="") <= "\xff" else "utf-8", "surrogatepass")


class _InContext:
    """The pieces of a streamed body, each made in the context of its handler: a thread of the server makes those of
    other requests in between."""

    def __init__(self, context: contextvars.Context, pieces: Iterator[str | bytes]) -> None:
        self._context, self._pieces = context, pieces

    def __iter__(self) -> Iterator[str | bytes]:
        return self

    def __next__(self) -> str | bytes:
        return self._context.run(next, self._pieces)

    def close(self) -> None:
        """End the handler's iterator."""
        self._context.run(getattr(self._pieces, "close", tuple))


class _UntilClosed:
    """A body for a WSGI server, which closes it when the answer is over (PEP 3333)."""

    def __init__(self, pieces: Iterable[bytes], request: Request, context: contextvars.Context) -> None:
        self._pieces, self._request, self._context = pieces, request, context

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._pieces)

    def close(self) -> None:
        """End the handler's iterator, then the request."""
        getattr(self._pieces, "close", tuple)()
        self._context.run(self._request.end)


class WSGIRequest(Request):
    """A request that came through a WSGI server."""

    environ: dict[str, Any]

    def __init__(self, environ: dict[str, Any]) -> None:
        self.environ = environ
        self.method = environ["REQUEST_METHOD"]
        self.path = path = environ.get("PATH_INFO", "")
        prefix, length = environ.get("SCRIPT_NAME") or "", environ.get("CONTENT_LENGTH")
        self.has_credentials = "HTTP_AUTHORIZATION" in environ
        try:
            if prefix or not path or not path.isascii() or not path.isprintable():
                self.path = "/"  # in case what follows refuses the path
                # PEP 3333 hands over the octets of both as Latin-1. Together they are the whole path.
                prefix = decode_path(_octets(prefix)).rstrip("/")
                self.path = prefix + decode_path(_octets(path)) or "/"
                self.prefix = "" if prefix.startswith("//") else prefix  # such a path is never matched
            if length:
                self.content_length = parse_content_length(str(length))  # an int of requests-wsgi-adapter
        except HTTPError as error:
            self.refused = error

    @lazy
    def headers(self) -> Headers:
        """The header fields: those in HTTP_*, and the two that CGI names otherwise."""
        names = {name: name[5:] for name in self.environ if name.startswith("HTTP_")}
        names |= {name: name for name in ("CONTENT_TYPE", "CONTENT_LENGTH") if self.environ.get(name)}
        return Headers({field.replace("_", "-").lower(): self.environ[name] for name, field in names.items()})

    version = _from_environ("SERVER_PROTOCOL", "HTTP/1.1")
    query_string = _from_environ("QUERY_STRING", "")

    @lazy
    def peer(self) -> Peer:  # type: ignore[override]
        """Whoever asked the server."""
        name = str(self.environ.get("SERVER_NAME", ""))
        address, scheme = self.environ.get("REMOTE_ADDR", ""), self.environ.get("wsgi.url_scheme", "http")
        return Peer(str(address), str(scheme), name if is_loopback(name) else "")

    @lazy
    def host(self) -> str:
        """The host that the client asked for, with its port where it named one; else the server's own."""
        asked = super().host
        return asked or f"{self.environ.get('SERVER_NAME', '')}:{self.environ.get('SERVER_PORT', '')}"

    @lazy
    def stream(self) -> io.BufferedReader:
        """The body as a file object, bounded by `max_body`: reading on raises HTTPError 413. Without a Content-Length
        it is read to its end where the server says that it ends by itself; else a chunked body is refused with 411."""
        environ = self.environ
        length: int | None = self.content_length
        if not environ.get("CONTENT_LENGTH"):
            length = None if environ.get("wsgi.input_terminated") else 0
            if length == 0 and environ.get("HTTP_TRANSFER_ENCODING"):
                abort(411, "this server needs a Content-Length")
        return io.BufferedReader(_Body(environ["wsgi.input"].read, length, self.max_body))


# ---- Routes ----------------------------------------------------------------------------------------------------------
# In: a method and a path. Out: a route and its arguments, or HTTPError 404, 405 or 308. Everything about a route is
# worked out when it is registered; werkzeug matches rules, and what it found is remembered.

Handler = Callable[..., Any]
Found = tuple["Route", Sequence[Union[str, None]], dict[str, Any]]  # a route, and its arguments by position and by name

HTTP_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
_UNSUPPORTED = " UNSUPPORTED"  # no client can send it; classes take it, to answer for methods that they do not have
_NO_METHOD = " NONE"  # no client can send it, and no route takes it
_REMEMBERED = 4096


def name_handler(handler: Any) -> str:
    """The name of a handler in its program."""
    handler = handler.func if isinstance(handler, functools.partial) else handler
    return str(getattr(handler, "__qualname__", type(handler).__qualname__))


def find_source(handler: Any) -> str:
    """Where a handler is defined: "hello.py:12"; "-" where that is unknown."""
    handler = inspect.unwrap(handler)
    if isinstance(handler, functools.partial):
        handler = inspect.unwrap(handler.func)
    source = handler if hasattr(handler, "__qualname__") else type(handler)
    try:
        file, line = inspect.getsourcefile(source), inspect.getsourcelines(source)[1]
        return "-" if file is None or file == __file__ else place_in(file, line)
    except (OSError, TypeError):
        return "-"


def _is_async(function: Any) -> bool:
    while isinstance(function, functools.partial):
        function = function.func
    calls = (function, type(function).__call__)
    return any(map(inspect.iscoroutinefunction, calls)) or any(map(inspect.isasyncgenfunction, calls))


def refuse_async(handler: Any) -> None:
    """TypeError for what is written with `async def`: a function, or what is called of a class."""
    parts = [handler]
    if isinstance(handler, type):
        names = ["__call__"]
        if hasattr(handler, "taken_methods"):
            names += ["prepare", "on_finish", "message", "unsupported", *map(str.lower, handler.taken_methods())]
        parts = [getattr(handler, name, None) for name in names]
    for part in filter(_is_async, parts):
        raise TypeError(f"{name_handler(part)} is `async def`: write `def`. Each request has a coroutine of its own (a "
                        "greenlet), so that a plain function may wait while others run")  # fmt: skip


def refuse_yield(function: Any) -> None:
    """TypeError for a function with `yield` where nobody asks for what it yields, so that none of it would run."""
    if inspect.isgeneratorfunction(function):
        raise TypeError(f"{name_handler(function)} has a `yield`, which only the handler of a route may have: nothing "
                        "of it would run")  # fmt: skip


def find_misuse(function: Any, number: int) -> str | None:
    """Why this cannot be called with so many arguments; None where it can, or where that is unknown."""
    if not callable(function):
        return f"{function!r} is no function"
    try:
        signature = inspect.signature(function)
    except Exception:  # written in C; or its annotations name what is not there yet (PEP 649)
        return None
    try:
        signature.bind(*[None] * number)
    except TypeError as error:
        return f"{name_handler(function)}: {error}"
    return None


def _is_not_ours(function: Any) -> bool:
    return not hasattr(function, "__code__") or function.__code__.co_filename != __file__


def undecorated(handler: Any) -> Any:
    """The handler without the decorators of this file."""
    return inspect.unwrap(handler, stop=_is_not_ours)


def check_request(handler: Any, rule: str | re.Pattern[str]) -> None:
    """TypeError for a function without a parameter for the request, as those of Flask and Bottle are."""
    names = re.findall(r"[<:](\w+)>", rule) if isinstance(rule, str) else [*rule.groupindex]
    call = undecorated(handler)
    try:
        parameters = inspect.signature(call, follow_wrapped=False).parameters.values()
        first = [each.name for each in parameters if each.kind < each.KEYWORD_ONLY][:1]
    except Exception:  # as in `find_misuse`
        return
    if not first or first[0] in names:
        form = ", ".join(["ws" if hasattr(handler, "is_websocket") else "request", *names])
        raise TypeError(f"{name_handler(call)} takes no request: its parameters should be ({form})")


def check_function(function: Any, number: int, form: str) -> None:
    """TypeError unless this is a plain function that takes so many arguments; `form` is how it should be written."""
    refuse_async(function)
    if problem := find_misuse(function, number):
        raise TypeError(f"{problem}; it should be {form}")


def check_rule(decorator: str, rule: object, *others: object) -> None:
    """TypeError where a decorator for routes stands without parentheses, or is given the handler beside the rule."""
    functions = [each for each in (rule, *others) if callable(each)]
    if functions or not isinstance(rule, (str, re.Pattern)):
        given = name_handler(functions[0]) if functions else repr(rule)
        raise TypeError(f'write @app.{decorator}("/path") above the handler, with a rule in parentheses, not {given}')


def list_methods(methods: Iterable[str]) -> list[str]:
    """The methods that a route or a class names, in capitals. ValueError unless it has a list of methods."""
    if isinstance(methods, str):
        raise ValueError(f"methods is a list: [{methods!r}]")
    listed = [*methods]
    for method in listed:
        if not (isinstance(method, str) and _TOKEN.fullmatch(method)):
            raise ValueError(f'methods is a list such as ["GET", "POST"]: {method!r} is no method')
    return [method.upper() for method in listed]


def format_allow(methods: Iterable[str]) -> str:
    """The value of an Allow field (RFC 9110, 10.2.1) for routes that take these methods."""
    return ", ".join(sorted({"OPTIONS", *methods} - {_UNSUPPORTED}))


def _callable(handler: Handler, timeout: float | None, cancel: bool) -> Handler:
    """The function to be called with the request and the arguments of the path: the handler, made from its class where
    it is one, within the time limit of its route."""
    call = handler
    if isinstance(handler, type):

        def call(request: Request, /, *arguments: Any, **named: Any) -> Any:
            return handler(request.app, request)(*arguments, **named)

    if timeout is None and not cancel:
        return call

    def limited(request: Request, /, *arguments: Any, **named: Any) -> Any:
        try:
            return request.peer.limited(timeout, cancel, call, request, *arguments, **named)
        except HandlerTimeout:
            name = name_handler(handler)
            logger.warning("%s took over %s seconds on %s %r", name, timeout, request.method, request.path)
            raise HTTPError(503, "this took too long", {"Retry-After": "1"}) from None

    return limited


def check_syntax(rule: str) -> None:
    """ValueError for what other frameworks write in a rule, or where it could match nothing."""
    if rule[:1] not in ("/", "@", "<"):
        raise ValueError(f'the rule {rule!r} must begin with "/", or "@" or "<" for a message socket')
    if other := re.search(r"(?<=/):\w+|\{[^\W\d]\w*(?::\w+)?\}", rule):
        raise ValueError(f"the rule {rule!r} has {other[0]} in it: an argument is like <n> or <int:n>")
    if other := re.search(r"\\[dDwWsS]|/\*$", rule):
        raise ValueError(f"the rule {rule!r} has {other[0]} in it: a regular expression is re.compile({rule!r}), and "
                         "<path:name> takes all that follows")  # fmt: skip
    if re.search(r"\?\w+=", rule):
        raise ValueError(f"the rule {rule!r} has a query in it: that is for request.query")


class Route:
    """One route: `rule` (a str, or a compiled expression), `handler`, `methods` (None: all), `name`, `max_body`.
    ValueError for what cannot be."""

    __slots__ = ("accepts", "call", "handler", "is_rememberable", "is_socket", "max_body", "methods", "name", "rule")

    def __init__(self, rule: str | re.Pattern[str], handler: Handler, methods: Iterable[str] | None = None,
                 name: str | None = None, *, default: Iterable[str] | None = None, max_body: int | None = None,
                 timeout: float | None = None, cancel: bool = False, call: Handler | None = None) -> None:  # fmt: skip
        if not callable(handler) or (isinstance(handler, type) and "__call__" not in dir(handler)):
            raise ValueError(f"the handler of {rule!r} cannot be called: {handler!r} (a class is a MessageHandler, or "
                             "has __call__)")  # fmt: skip
        refuse_async(handler)
        if isinstance(rule, str):
            check_syntax(rule)
        if not isinstance(handler, type):
            check_request(handler, rule)
        for option, number in (("max_body", max_body), ("timeout", timeout)):
            if number is not None and not (isinstance(number, (int, float)) and number >= 0):
                raise ValueError(f"{option} is a number of at least 0, not {number!r}")
        if not (name is None or isinstance(name, str)):
            raise ValueError(f"the name of a route is a str, not {name!r}")
        if methods is not None and not (methods := list_methods(methods)):
            raise ValueError(f"the route {rule!r} takes no method at all: methods is a list such as ['GET', 'POST']")
        self.rule, self.handler, self.max_body = rule, handler, max_body
        self.is_socket = isinstance(rule, str) and rule[:1] != "/"
        if methods is None:
            methods = getattr(handler, "taken_methods", lambda: default)()
        self.methods = None if methods is None or self.is_socket else frozenset(methods)
        if name is None and isinstance(rule, str):
            name = getattr(handler, "__name__", type(handler).__name__)
        self.name = name if name != "<lambda>" else None
        self.call = call or _callable(handler, timeout, cancel)  # call(request, *positional, **named)
        self.is_rememberable = True  # no handler can change its arguments, so that later requests may have the same
        # The methods to be matched: HEAD follows GET, and a class answers for methods that it does not have, too.
        self.accepts: set[str] | None = None
        if self.methods is not None:
            own = {_UNSUPPORTED} if hasattr(handler, "unsupported") else set()
            self.accepts = {*self.methods, *own, *({"HEAD"} if "GET" in self.methods else ())}

    def __repr__(self) -> str:
        return f"<Route {getattr(self.rule, 'pattern', self.rule)!r} {self.name}>"


# One route for OPTIONS of all paths: answers are counted by route, and clients must not be able to make new ones.
_OPTIONS = Route(re.compile(""), lambda request, allow: Response(headers={"Allow": allow}), max_body=_UNLIMITED)


class Routes:
    """The table of routes: rules first, in werkzeug's order, then expressions in theirs; message sockets apart."""

    def __init__(self) -> None:
        self.map = Map()
        self.all: list[Route] = []
        self.named: dict[str | None, list[Route]] = {}  # by name, those with the most arguments first
        self.sockets: dict[str, Found] = {}
        self.found: dict[tuple[str, str], Found] = {}  # what was found lately, by method and path
        self._adapter = self.map.bind("routes", url_scheme="http")
        self._expressions: list[Route] = []
        self._alone: dict[Route, MapAdapter] = {}  # the rule of a route in a map of its own, once `build` needed it
        # The first route for each method (None: all methods), by what routes for the same paths have in common.
        self._declared: dict[str | re.Pattern[str], dict[str | None, Route]] = {}

    def add(self, route: Route) -> None:
        """Register a route; ValueError for what conflicts with another or cannot be understood."""
        rule, methods = route.rule, route.methods
        # Rules that differ only in the names of their arguments are for the same paths.
        paths = re.sub(r"(?:\b(?:default|string):)?\w+>", ">", rule) if isinstance(rule, str) else rule
        declared = self._declared.setdefault(paths, {})
        if isinstance(rule, str):
            for method, other in declared.items():
                if methods is None or method is None or method in methods:
                    raise ValueError(f"{route!r} has the same rule and a method in common with {other!r}")
        if not isinstance(rule, str):
            self._expressions.append(route)
        elif route.is_socket:
            self.sockets[rule] = route, (), {}
        else:
            self._add_rule(rule, route)
        for method in [None] if methods is None else methods:
            declared.setdefault(method, route)
        get, head = declared.get("GET"), declared.get("HEAD")
        if get is not None and get.accepts is not None and head not in (None, get):
            get.accepts.discard("HEAD")  # which follows GET only where no other route for these paths declares it
        self.all.append(route)
        self.found = {}

    def _add_rule(self, rule: str, route: Route) -> None:
        named = self.named.get(route.name, [])
        if any(other.handler is not route.handler for other in named):
            raise ValueError(f"there is a route named {route.name!r} already, {named[0]!r}: give name=")
        try:
            own = Rule(rule, endpoint=route, methods=route.accepts)
            own.methods = route.accepts  # the set itself: a route for HEAD may take that out of it later
            self.map.add(own)
            names = [name or "default" for name in re.findall(r"<(?:(\w+)(?=[:(]))?", rule)]
            route.is_rememberable = all(self.map.converters[name] is DEFAULT_CONVERTERS.get(name) for name in names)
        except (LookupError, ValueError, TypeError, SyntaxError, re.error) as error:
            raise ValueError(f"the rule {rule!r} cannot be understood: {error} (a rule is like /<int:n>)") from error
        if route.name is not None:
            self.named[route.name] = sorted([*named, route], key=lambda each: -str(each.rule).count("<"))

    def find(self, method: str, path: str) -> Found:
        """The route for this method of this path, and its arguments, kept in `found`. HTTPError if there is none,
        RequestRedirect where a final slash is missing or a path begins with several slashes. werkzeug would match that
        like a path with one slash, and middleware that compares the beginning of `request.path` could be passed."""
        if path.startswith("//"):
            merged = f"/{path.lstrip('/')}"
            self._match(method, merged)  # which may raise a redirect of its own
            raise RequestRedirect(quote(merged, safe=_IN_PATH)) if self.knows(method, merged) else HTTPError(404)
        found = self._match(method, path) or self._refuse(method, path)
        if len(path) <= 256 and found[0].is_rememberable and len(method) <= 16:
            if len(self.found) >= _REMEMBERED:
                self.found = {}
            self.found[method, path] = found
        return found

    def _match(self, method: str, path: str) -> Found | None:
        """What is found. None where the path has routes, but none for this method; HTTPError 404 where it has none."""
        if not path:  # RFC 3986, 6.2.3: the root of what is mounted there
            raise RequestRedirect("/")
        if path[0] != "/":
            return None
        try:
            # werkzeug would take "get" for GET; methods are case-sensitive (RFC 9110, 9.1).
            route, arguments = self._adapter.match(path, method if method.isupper() else _NO_METHOD)
            return route, (), arguments  # type: ignore[return-value]
        except NotFound:
            is_taken = False
        except MethodNotAllowed:
            is_taken = True
        for route in self._expressions:
            match = cast("re.Pattern[str]", route.rule).match(path)
            if match is not None and (route.accepts is None or method in route.accepts):
                named = match.groupdict()
                return route, () if named else match.groups(), named
            is_taken = is_taken or match is not None
        return None if is_taken else abort(404)

    def _refuse(self, method: str, path: str) -> Found:
        """What answers a method that no route takes: OPTIONS has its own route, and a class answers for itself; else
        HTTPError 404 or 405."""
        allowed = {*HTTP_METHODS} if path == "*" else self.allowed(path)  # `OPTIONS *`: RFC 9110, 9.3.7
        if not allowed:
            raise HTTPError(404)
        if method == "OPTIONS":
            return _OPTIONS, (format_allow(allowed),), {}
        found = self._match(_UNSUPPORTED, path)
        if found is None:
            raise HTTPError(405, headers={"Allow": format_allow(allowed)})
        return found

    def knows(self, method: str, path: str) -> bool:
        """Whether this path is anything but a 404, also in the application that is mounted there."""
        path = f"/{path.lstrip('/')}" if path else path
        try:
            route = (self._match(method, path) or self._refuse(method, path))[0]
        except RequestRedirect:
            return True
        except HTTPError as error:
            return error.status != 404
        inner = getattr(route.handler, "routes", None)
        return not isinstance(inner, Routes) or inner.knows(method, path[len(str(route.name)) :])

    def allowed(self, path: str) -> set[str]:
        """The methods that the routes of this path take; empty where there is no route, or one that takes all."""
        if path[:1] != "/":  # werkzeug would add one
            return set()
        allowed = {method for method in self._adapter.allowed_methods(path) if self._adapter.test(path, method)}
        for route in self._expressions:
            if route.accepts is not None and cast("re.Pattern[str]", route.rule).match(path):
                allowed |= route.accepts
        return allowed

    def build(self, name: str, values: Mapping[str, Any]) -> str:
        """The path of the named route with these values. Those that its rule has no argument for are the query, where a
        list repeats and None is left out. ValueError if there is no such route, or its rule would not match."""
        routes = self.named.get(name, [])
        if wrong := sorted({"_anchor", "_scheme"}.intersection(values)):  # which Flask's has; not meant for the query
            raise ValueError(f"url_for takes no {wrong[0]}: add it to the address")
        for route in routes:
            if route not in self._alone:
                rules = Map([Rule(str(route.rule), endpoint=route)], converters=self.map.converters)
                self._alone[route] = rules.bind("routes", url_scheme="http")
            # A rule that lacks a value, or would not match the result, leaves it to the next route of this name.
            with contextlib.suppress(BuildError, RequestRedirect, NotFound, ValueError, TypeError, ArithmeticError):
                address = quote(self._alone[route].build(cast(Any, route), values), safe=_IN_QUERY)
                path = unquote(address.partition("?")[0], errors="strict")
                self._alone[route].match(path)
                if not CONTROLS.search(path):
                    return address
        raise ValueError(f"no route named {name!r} takes the values {values!r}; of this name there are {routes}")


# ---- Helpers ---------------------------------------------------------------------------------------------------------
# What handlers use: who is signed in, passwords, templates; and middleware against pages of other origins. Plain
# functions and decorators; a decorator takes a function (whose first argument is the request) or a method of a handler.


def _guarded(handler: H, check: Callable[[Request, Any], Response | None]) -> H:
    """The handler behind a check, which is called with the request and the handler's first argument. It returns None
    where the handler may be called, else the answer. TypeError for a class, and for what is `async def`."""
    refuse_async(handler)
    if isinstance(handler, type):
        raise TypeError(f"such a decorator stands above a function or a method, not above the class {handler.__name__}")

    @functools.wraps(handler)
    def guarded(first: Any, /, *arguments: Any, **named: Any) -> Any:
        request = first if isinstance(first, Request) else first.request
        return check(request, first) or handler(first, *arguments, **named)

    cast(Any, guarded).check = check
    return cast(H, guarded)


def authenticated(handler: H) -> H:
    """Decorator: somebody must be signed in, that is, `current_user` of the request or the handler is true. Others who
    GET are sent to the route named "login", with the address they asked for in `?next=`; for other methods, and where
    there is no such route, HTTPError 401."""

    def check(request: Request, first: Any) -> Response | None:
        request.keep_private()  # `current_user` may be the program's own
        if (first if hasattr(type(first), "current_user") else request).current_user:
            return None
        with contextlib.suppress(ValueError):
            if request.method in ("GET", "HEAD"):
                return redirect(f"{request.url_for('login')}?next={quote(request.target, safe='')}")
        raise HTTPError(401, "please sign in", {"WWW-Authenticate": "Session"})

    return _guarded(handler, check)


# What knows the credentials of a client, and may take the request too.
BasicCheck = Union[Callable[[str, str], Any], Callable[[str, str, Request], Any]]
BearerCheck = Union[Callable[[str], Any], Callable[[str, Request], Any]]


def _with_request(check: Callable[..., Any], count: int, form: str) -> Callable[..., Any]:
    """A check of `count` credentials, to be called with the request before them, which it gets if it takes one more: as
    its argument `request`, or behind the credentials. TypeError, with the right `form`, for what is no such check."""
    refuse_async(check)  # a coroutine is true, whoever asks
    taken: Mapping[str, inspect.Parameter] = {}
    with contextlib.suppress(TypeError, ValueError):  # for one written in C
        taken = inspect.signature(check).parameters
    needed = [each for each in taken.values() if each.default is each.empty and each.kind <= each.POSITIONAL_OR_KEYWORD]
    is_first, is_named = [*taken][:1] == ["request"], "request" in [*taken][1:]
    is_behind = not is_named and len(needed) > count
    if find_misuse(functools.partial(check, request=None) if is_named else check, count + (is_first or is_behind)):
        raise TypeError(f"write {form}, not {check!r}")
    if is_first:
        return check
    if is_named:
        return lambda request, *credentials: check(*credentials, request=request)
    if is_behind:
        return lambda request, *credentials: check(*credentials, request)  # noqa: PLW0108 (in another order)
    return lambda request, *credentials: check(*credentials)


def _with_credentials(scheme: str, find_user: Callable[[Request, str], Any], is_optional: bool) -> Callable[[H], H]:
    """Decorator: `find_user` must know the credentials in Authorization (RFC 9110, 11.6.2), else HTTPError 401. If
    `is_optional`, they may be missing."""
    if not _TOKEN.fullmatch(scheme):
        raise ValueError(f"not an authentication scheme: {scheme!r}")

    def check(request: Request, first: Any) -> Response | None:
        request.keep_private("Authorization")
        given, _, credentials = request.headers.get("authorization", "").partition(" ")
        is_given = given.lower() == scheme.lower()
        user = find_user(request, credentials.strip(" ")) if is_given else None
        if isinstance(user, Response):  # a refusal of the program's own: it is no user
            return user
        if not user and (is_given or not is_optional):
            message = "the credentials are not valid" if is_given else f"credentials are needed: {scheme}"
            charset = ', charset="UTF-8"' * (scheme.lower() == "basic")  # RFC 7617, 2.1
            abort(401, message, {"WWW-Authenticate": f'{scheme} realm="members"{charset}'})
        request.current_user = user or None
        return None

    return lambda handler: _guarded(handler, check)


def basic_auth(check: BasicCheck, optional: bool = False) -> Callable[[H], H]:
    """Decorator: `check(name, password)`, or `check(name, password, request)`, is called with the client's Basic
    credentials (RFC 7617). If it returns something true, that is the `current_user` (for True, the name); else
    HTTPError 401. A Response that it returns is the answer. `optional`: a client that sends none is a guest, whose
    `current_user` is None. TypeError for a check that takes other arguments. An example of a check:
    `lambda name, password: check_password(password, hashes.get(name))`."""
    ask = _with_request(check, 2, "@basic_auth(check) above the handler, with check(name, password)")

    def find_user(request: Request, credentials: str) -> Any:
        if len(credentials) % 4:  # Python 3.10 takes too much padding
            return None
        try:
            name, colon, password = base64.b64decode(credentials, validate=True).decode().partition(":")
        except ValueError:
            return None
        user = ask(request, name, password) if colon else None
        return name or True if user is True else user  # `curl -u :key` has no name

    return _with_credentials("Basic", find_user, optional)


def bearer_auth(check: BearerCheck, scheme: str = "Bearer", optional: bool = False) -> Callable[[H], H]:
    """Decorator: `check(token)`, or `check(token, request)`, is called with the client's Bearer token (RFC 6750), or
    with what follows another scheme, such as "Token". If it returns something true, that is the `current_user`; else
    HTTPError 401. A Response that it returns is the answer. `optional`: a client that sends none is a guest, whose
    `current_user` is None. TypeError for a check that takes other arguments."""
    ask = _with_request(check, 1, "@bearer_auth(check) above the handler, with check(token)")
    return _with_credentials(scheme, lambda request, token: ask(request, token) if token else None, optional)


_HASHED = re.compile(r"scrypt\$([0-9]{1,9})\$([0-9]{1,9})\$([0-9]{1,9})\$([0-9A-Za-z_-]+)\$([0-9A-Za-z_-]+)")
_SCRYPT = (1 << 14, 8, 5)  # n, r, p: 16 MiB and about 0.2 s (OWASP's password storage cheat sheet)
MAX_WAITING_FOR_A_CORE = 10  # computations for each core, which are two seconds' work


def count_cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


_Task = tuple[Callable[[], Any], list[Any], Callable[[], Any]]  # a function, where its result goes, who is woken


class _Cores:
    """Threads of the operating system that compute: at most one for each core, and none while there is nothing to
    compute. A thread keeps the memory of its last computation, so the number of threads bounds that memory too."""

    def __init__(self) -> None:
        self.workers = 1  # processes that share the cores
        self._lock = _unpatched("threading").Lock()
        self._waiting: deque[_Task] = deque()
        self._threads = 0

    def compute(self, function: Callable[[], T]) -> T:
        """Call the function, which must raise nothing, in a thread. HTTPError 503 where too many wait already."""
        results: list[T] = []
        sleeper, cores = make_sleeper(), max(1, count_cores() // self.workers)
        task = function, results, sleeper.wake_soon
        with self._lock:
            if self._threads < cores:
                _unpatched("threading").Thread(target=self._work, args=[task], name="password", daemon=True).start()
                self._threads += 1
            elif len(self._waiting) < cores * MAX_WAITING_FOR_A_CORE:
                self._waiting.append(task)
            else:
                abort(503, "too many passwords are to be checked just now", {"Retry-After": "2"})
        try:
            while not results:
                sleeper.wait()
        except BaseException:  # a time limit, or the client has left
            with self._lock, contextlib.suppress(ValueError):  # a computation that has begun cannot be stopped
                self._waiting.remove(task)
            raise
        return results[0]

    def _work(self, task: _Task | None) -> None:
        while task is not None:
            function, results, wake_soon = task
            result = function()
            task = self._next()  # first: the coroutine that is woken may fork, and its child has no such thread
            results.append(result)
            wake_soon()

    def _next(self) -> _Task | None:
        with self._lock:
            if self._waiting:
                return self._waiting.popleft()
            self._threads -= 1
            return None


_cores = _Cores()  # one for all applications of a process: the cores are the machine's


def _scrypt(password: str, salt: bytes, n: int, r: int, p: int) -> str | None:
    """scrypt (RFC 7914), while other threads and coroutines go on. None where it cannot be computed."""
    octets = password.encode(errors="surrogatepass")  # JSON can hold half of a character

    def derive() -> str | None:
        try:
            return _encode64(hashlib.scrypt(octets, salt=salt, n=n, r=r, p=p, maxmem=256 * n * r, dklen=32))
        except Exception:  # ValueError, OverflowError or MemoryError, by the parameters
            return None

    return _cores.compute(derive)


def hash_password(password: str) -> str:
    """A password -> the text to keep of it: `scrypt$n$r$p$salt$hash`. Other coroutines go on meanwhile. As many hashes
    are computed at once as there are cores; HTTPError 503, with Retry-After, where too many wait for their turn."""
    if not isinstance(password, str):
        raise TypeError(f"a password is a str, not {type(password).__name__}: is the field in the form?")
    salt = secrets.token_bytes(16)
    derived = _scrypt(password, salt, *_SCRYPT)
    if derived is None:
        raise MemoryError("there is no memory for the hash of a password")
    return "$".join(["scrypt", *map(str, _SCRYPT), _encode64(salt), derived])


def check_password(password: str | None, hashed: str | None) -> bool:
    """Whether this is the password of which `hash_password` made `hashed`. For None, which stands for a name that does
    not exist, and for anything that is no such hash, the answer is False and takes as long to find: the time does not
    tell which names exist. The password None is nobody's. HTTPError 503 as for `hash_password`."""
    match, derived = _HASHED.fullmatch(hashed or "") if password is not None else None, None
    password = password or ""
    if match:
        with contextlib.suppress(ValueError):
            salt = base64.urlsafe_b64decode(match[4] + "==")
            derived = _scrypt(password, salt, *map(int, match.group(1, 2, 3)))
    if not match or derived is None:
        _scrypt(password, b"", *_SCRYPT)
        return False
    return hmac.compare_digest(derived, match[5])


def render(request: Request, name: str, /, **values: Any) -> str:
    """The page that `app.templates` makes of the template of this name and these values; it also knows `request` and
    `url_for`, which is that of the request. RuntimeError without `app.templates`."""
    if not callable(request.app.templates):
        raise RuntimeError('no templates are set: app.templates = jinja2_templates("templates"), or any callable')
    return request.app.templates(name, **{"request": request, "url_for": request.url_for, **values})


def jinja2_templates(folder: str | os.PathLike[str], filters: Mapping[str, Callable[..., Any]] | None = None,
                     globals: Mapping[str, Any] | None = None) -> Callable[..., str]:  # fmt: skip
    """For `app.templates`: the Jinja2 templates of a folder, with autoescaping, and with these filters and global names
    besides Jinja2's own. The jinja2.Environment is `app.templates.environment`. ImportError where Jinja2 is missing,
    ValueError where the folder is."""
    try:
        import jinja2
    except ImportError as error:
        raise ImportError("jinja2_templates needs Jinja2: pip install jinja2") from error
    if not os.path.isdir(folder):
        raise ValueError(f"there is no folder {os.fspath(folder)!r} for templates")
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(folder), autoescape=True)
    environment.filters.update(filters or {})
    environment.globals.update(globals or {})

    def render_template(name: str, /, **values: Any) -> str:
        return environment.get_template(name).render(**values)

    render_template.environment = environment  # type: ignore[attr-defined]
    render_template.folder = folder  # type: ignore[attr-defined]  # which --reload watches
    return render_template


Respond = Callable[[Request], Response]
Middleware = Callable[[Respond], Respond]
_SAFE_METHODS = frozenset(["GET", "HEAD", "OPTIONS", "TRACE"])  # RFC 9110, 9.2.1


def cors(origins: str | Iterable[str], *, methods: Iterable[str] = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"),
         headers: Iterable[str] = ("Content-Type", "Authorization", "X-CSRF-Token"), expose: Iterable[str] = (),
         credentials: bool = False, max_age: int = 600) -> Middleware:
    """Middleware for `app.wrap`: scripts of these origins ("https://app.example"; "*" for all) may use the application
    (WHATWG Fetch, 3.2). They may send these methods and header fields, read the fields of answers in `expose` too, and
    use cookies if `credentials` is true, which cannot be for "*". Browsers remember this for `max_age` seconds.
    ValueError for an origin that is none, and for "*" with `credentials`."""
    allowed = compile_origins(origins, "*")
    if "*" in allowed and credentials:
        raise ValueError('credentials are for origins that are named, not for "*"')
    methods, headers, expose = ([each] if isinstance(each, str) else each for each in (methods, headers, expose))
    preflight = {"Access-Control-Allow-Methods": ", ".join(methods), "Access-Control-Max-Age": str(max_age),
                 "Access-Control-Allow-Headers": ", ".join(headers)}  # fmt: skip
    common = ResponseHeaders({"Access-Control-Allow-Credentials": "true"} if credentials else {})
    if exposed := ", ".join(expose):
        common["Access-Control-Expose-Headers"] = exposed

    def answer(respond: Respond, request: Request) -> Response:
        origin = request.headers.get("origin", "")
        is_allowed = bool(origin) and not allowed.isdisjoint((origin, "*"))
        if is_allowed and request.method == "OPTIONS" and "access-control-request-method" in request.headers:
            response = Response(b"", 204, preflight)
        else:
            response = respond(request).copy()  # the handler may give the same answer to others
        if "*" not in allowed:
            response.headers.vary("Origin")
        if is_allowed:
            response.headers.merge(common)
            response.headers["Access-Control-Allow-Origin"] = "*" if "*" in allowed else origin
        return response

    return lambda respond: functools.partial(answer, respond)


def csrf_token(request: Request) -> str:
    """The token of this client's session, for a hidden field named `csrf_token` in its forms, or `X-CSRF-Token`."""
    return str(request.session.setdefault("csrf_token", secrets.token_urlsafe(16)))


def _comes_from_elsewhere(request: Request, trusted: frozenset[str]) -> bool:
    """Whether a page of another origin sends this request: by the fields of the browser (Fetch Metadata, 2; RFC 6454,
    7), else by the token, as for the Origin `null` of a page with `Referrer-Policy: no-referrer`. A client that is no
    browser sends neither these fields nor a cookie that its user did not mean to send."""
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
    if origin is not None and plain_origin(origin) in trusted:
        return False
    if site is not None:
        return site not in ("same-origin", "none")
    if origin not in (None, "null"):
        return not is_own_origin(request, origin)
    if "cookie" not in request.headers or not request.own_session().app.secret:
        return "cookie" in request.headers or origin is not None
    token = request.headers.get("x-csrf-token") or request.form.get("csrf_token", "")
    expected = str(request.session.get("csrf_token", ""))
    return not (expected and hmac.compare_digest(token.encode(), expected.encode()))


def csrf(origins: Iterable[str] = ()) -> Middleware:
    """Middleware for `app.wrap`: requests with any method but GET, HEAD, OPTIONS and TRACE must come from pages of this
    site or of these origins, else the answer is 403. Browsers that send neither Sec-Fetch-Site nor Origin need the
    `csrf_token`."""
    trusted = compile_origins(origins)

    def answer(respond: Respond, request: Request) -> Response:
        if request.method not in _SAFE_METHODS and _comes_from_elsewhere(request, trusted):
            return request.app.answer_error(request, HTTPError(403, "this must come from a page of this site"))
        return respond(request)

    return lambda respond: functools.partial(answer, respond)


COMPRESSIBLE = ("text/*", "*/*+json", "*/*+xml", "application/json", "application/javascript", "application/xml",
                "application/x-ndjson", "application/wasm", "font/ttf", "font/otf", "image/bmp")  # fmt: skip
_UNCODED = frozenset([101, 204, 205])  # statuses without a body; that of a 304 is another answer's
# What says that a body is in a coding already, or has a digest that holds for these bytes alone (RFC 9530).
_AS_IT_IS = frozenset(["content-encoding", "content-digest", "repr-digest", "digest", "content-md5"])
_IN_ONE_GO = 1 << 20  # bytes of a body that are compressed at once: other coroutines wait meanwhile, some 20 ms
_WINDOW = 16  # bits: by default a stream of br or zstd holds over 2 MB for as long as it lasts, so it is 0.1 MB

# (the next piece of a body, whether it is the last) -> bytes that can be read without those of later pieces.
Encoder = Callable[[bytes, bool], bytes]


def _find_encoders(level: int) -> dict[str, Callable[[], Encoder]]:
    """By name the content codings that this Python has, the one that makes the least bytes first."""
    encoders: dict[str, Callable[[], Encoder]] = {}
    with contextlib.suppress(ImportError, AttributeError):  # the latter for a mere folder of this name
        br_packer = importlib.import_module("brotli").Compressor

        def make_br() -> Encoder:
            packer = br_packer(quality=level, lgwin=_WINDOW)
            return lambda piece, is_last: packer.process(piece) + (packer.finish() if is_last else packer.flush())

        encoders["br"] = make_br
    with contextlib.suppress(ImportError):
        zstd = importlib.import_module("compression.zstd")
        names = zstd.CompressionParameter
        options = {names.compression_level: level, names.window_log: _WINDOW, names.hash_log: 14, names.chain_log: 14}

        def make_zstd() -> Encoder:
            packer = zstd.ZstdCompressor(options=options)
            return lambda piece, is_last: packer.compress(piece, packer.FLUSH_FRAME if is_last else packer.FLUSH_BLOCK)

        encoders["zstd"] = make_zstd

    def make_gzip() -> Encoder:
        packer = zlib.compressobj(level, wbits=31)  # with the head and the end of gzip (RFC 1952)
        ends = zlib.Z_SYNC_FLUSH, zlib.Z_FINISH
        return lambda piece, is_last: packer.compress(piece) + packer.flush(ends[is_last])

    return {**encoders, "gzip": make_gzip}


def _stays_as_it_is(headers: ResponseHeaders) -> bool:
    """Whether these fields say that a body is not to be changed."""
    is_bound = not _AS_IT_IS.isdisjoint(map(str.lower, headers))
    return is_bound or "no-transform" in headers.get("Cache-Control", "").lower()


def _encode_pieces(pieces: Iterable[str | bytes], encode: Encoder, declared: str | None) -> Iterator[bytes]:
    """A streamed body in a content coding, each piece as soon as it is there. ValueError at the end of one that was not
    as long as its Content-Length said, which the coded one has not: its client must not take it for the whole."""
    size = 0
    try:
        for piece in pieces:
            octets = piece.encode() if isinstance(piece, str) else piece
            size += len(octets)
            for start in range(0, len(octets), SMALL):
                yield encode(octets[start : start + SMALL], False)
        if declared is not None and int(declared) != size:
            raise ValueError(f"the body has {size} bytes, and a Content-Length of {declared}")
        yield encode(b"", True)
    finally:
        getattr(pieces, "close", tuple)()


def _encode_body(request: Request, response: Response, coding: str, encode: Encoder) -> None:
    """Put an answer into a content coding. An ETag that stood for its bytes stands for what they mean (RFC 9110,
    8.8.1); ranges of it cannot be had. What HEAD gets has the fields of GET, but a length only where that is known."""
    headers, body = response.headers, response.body
    if headers.get("ETag", "").startswith('"'):
        headers["ETag"] = f"W/{headers['ETag']}"
    if response.status == 304:
        return
    headers["Content-Encoding"] = coding
    headers.pop("Accept-Ranges", None)
    declared = headers.pop("Content-Length", None)
    if isinstance(body, bytes) and len(body) <= _IN_ONE_GO and (body or request.method != "HEAD"):
        response.body = encode(body, True)
        return
    if isinstance(body, bytes):
        body, declared = iter([body]), None
    response.body = body if request.method == "HEAD" else _encode_pieces(body, encode, declared)


def compress(level: int = 6, minimum: int = 500, types: Iterable[str] = COMPRESSIBLE) -> Middleware:
    """Middleware for `app.wrap` that compresses answers: by gzip, by br where the package `brotli` is installed, and by
    zstd from Python 3.14 on, as the client's Accept-Encoding has it (RFC 9110, 12.5.3). `level`: 1 to 9. Bodies below
    `minimum` bytes are left as they are; streams are compressed piece by piece. `types`: media types like "text/css",
    "text/*" or "*/*+json"; streams of events only where "text/event-stream" itself is named. What is compressed
    already, a part of a file (206) and what has `Cache-Control: no-transform` are left alone. Strong ETags become weak.
    ValueError for a level or a type that is none.

    The length of a compressed page tells which texts in it are alike. Where a page holds both a secret, like a
    `csrf_token`, and a text that came with the request, an attacker who makes the user's browser ask for it many times
    can find out the secret (BREACH, CVE-2013-3587): do not compress such pages."""
    if not (isinstance(level, int) and 1 <= level <= 9 and isinstance(minimum, int)):
        raise ValueError(f"a level is 1 to 9, a minimum a number of bytes, not {level!r} and {minimum!r}")
    types = [each.lower() for each in ([types] if isinstance(types, str) else types)]
    if wrong := [each for each in types if not re.fullmatch(r"[^\s/;]+/[^\s/;]+", each)]:
        raise ValueError(f'a type is like "text/css" or "text/*", not {wrong[0]!r}')
    patterns = "|".join(re.escape(each).replace(r"\*", "[^;]*") for each in types)
    unless = "" if EVENT_STREAM in types else f"(?!{EVENT_STREAM})"
    is_taken = re.compile(rf"(?i){unless}(?:{patterns})[ \t]*(?:;|$)").match
    encoders = _find_encoders(level)

    def answer(respond: Respond, request: Request) -> Response:
        response = respond(request)
        fields = response._headers  # where that is the type alone, there is no other field, and need be none
        kind = fields if isinstance(fields, str) else fields.get("Content-Type", "")
        if request.is_message or response.status in _UNCODED or not is_taken(kind):
            return response
        if not isinstance(fields, str) and _stays_as_it_is(fields):
            return response
        response = response.copy()  # the handler may give the same answer to others
        response.dump(request.app.json_dumps)
        headers, body, accepted = response.headers, response.body, request.headers.get("accept-encoding")
        headers.vary("Accept-Encoding")
        # A part of a body is sent as it is, and says only what the whole would vary by (15.3.7).
        if accepted is None or response.status == 206 or "Content-Range" in headers:
            return response
        is_whole = isinstance(body, bytes)
        unknown = 0 if is_whole and response.status != 304 else math.inf
        size = (len(body) if is_whole else 0) or float(headers.get("Content-Length", unknown))
        # For HEAD, a file has no body, and the length of what GET would stream.
        can_be_coded = request.peer.takes_streams or (is_whole and size <= (_IN_ONE_GO if body else SMALL))
        if can_be_coded and (coding := choose_coding(accepted, encoders, size < minimum)) is not None:
            _encode_body(request, response, coding, encoders[coding]())
        return response

    return lambda respond: functools.partial(answer, respond)


# ---- Handlers --------------------------------------------------------------------------------------------------------
# Classes whose instances are called: `cls(app, request)` for each message, then the instance with the path's arguments.


class MessageHandler:
    """A class with a method for each HTTP method that it takes: `get`, `post`, `put`, `patch`, `delete`, `head`,
    `options`; others only where `methods = ("REPORT",)` lists them. `message()` takes the messages of a message socket.
    What they return is the body of a plain answer to HTTP, and the bare payload for a message socket."""

    methods: Sequence[str] = ()

    def __init__(self, app: Brubeck, request: Request) -> None:
        self.app, self.request = app, request

    @classmethod
    @functools.cache
    def taken_methods(cls) -> frozenset[str]:
        """The methods that this class takes: worked out once, when its route is registered."""
        listed = [*HTTP_METHODS, *list_methods(cls.methods)]
        return frozenset(method for method in listed if hasattr(cls, method.lower()))

    def prepare(self) -> Any:
        """Called before the method. Anything it returns but None is the answer, and the method is not called."""

    def on_finish(self) -> None:
        """Called after the method, also when the method has raised an exception."""

    def unsupported(self) -> Any:
        """Answers a method that the class does not take: 405, with Allow."""
        path = self.request.path[len(self.request.prefix) :]
        abort(405, headers={"Allow": format_allow(self.app.routes.allowed(path) or self.taken_methods())})

    def _method(self) -> Callable[..., Any] | None:
        if self.request.is_message:
            return getattr(self, "message", None)
        taken, route = self.taken_methods(), self.request.route
        declared = taken if route is None or route.methods is None else route.methods
        for name in ("HEAD", "GET") if self.request.method == "HEAD" else (self.request.method,):
            if name in taken and name in declared:
                return cast("Callable[..., Any]", getattr(self, name.lower()))
        return None

    def __call__(self, /, *arguments: Any, **named: Any) -> Any:
        try:
            answer = self.prepare()
            if answer is not None:
                return answer
            method = self._method()
            return self.unsupported() if method is None else method(*arguments, **named)
        finally:
            self.on_finish()


class WebMessageHandler(MessageHandler):
    """A MessageHandler for the web: `set_status`, `headers` and `set_cookie` apply to what its method returns."""

    def __init__(self, app: Brubeck, request: Request) -> None:
        super().__init__(app, request)
        self.headers = ResponseHeaders()
        self._status: int | None = None
        self._cookies: Response | None = None  # one that has the cookies

    def set_status(self, code: int) -> None:
        """Answer with this status. ValueError for what is none."""
        self._status = Response(status=code).status

    def set_cookie(self, name: str, value: str, **attributes: Any) -> None:
        """Set a cookie, with the attributes of `Response.set_cookie`."""
        self._cookies = self._cookies or Response()
        self._cookies.set_cookie(name, value, **attributes)

    def redirect(self, target: str, status: int = 303) -> Response:
        """The answer that sends the client to `target`: return it."""
        self._status = None
        return redirect(target, status)

    def render_error(self, status: int, message: str | None = None) -> NoReturn:
        """End here, with the application's page for this status."""
        abort(status, message)

    def __call__(self, /, *arguments: Any, **named: Any) -> Response:
        response = self.app.make_response(self.request, super().__call__(*arguments, **named), type(self))
        if self._status is None and self._cookies is None and not self.headers:
            return response
        response = response.copy()  # the method may give the same answer to others
        if self._status is not None:
            response.status = self._status
        response.headers.merge(self.headers)
        if self._cookies is not None:
            response.cookies = {**response.cookies, **self._cookies.cookies}
        return response


class ArgumentsMixin:
    """For a MessageHandler: `get_argument` and `get_arguments`, which are those of its request."""

    get_argument = property(lambda self: self.request.get_argument)
    get_arguments = property(lambda self: self.request.get_arguments)


class AuthMixin:
    """For a MessageHandler: `current_user`, for methods with `@authenticated` above them."""

    def get_current_user(self: Any) -> Any:
        """Who is signed in, None for nobody. Programs may define it; by default it is `Request.current_user`."""
        return self.request.current_user

    @lazy
    def current_user(self: Any) -> Any:
        """What `get_current_user` found."""
        self.request.keep_private()
        return self.get_current_user()


class TemplateMixin:
    """For a MessageHandler: pages from the templates of the application."""

    def render(self: Any, name: str, /, **values: Any) -> str:
        """As `render`."""
        return render(self.request, name, **values)


# ---- Figures ---------------------------------------------------------------------------------------------------------
# What a server has done and holds, as numbers, and as dicts of them by label: for programs, JSON and Prometheus.

Stats = dict[str, Any]
FIGURES: dict[str, tuple[str, str, tuple[str, ...], str]] = {  # name, type and labels for Prometheus, help text
    "requests": ("requests_total", "counter", ("route", "status"), "Requests answered."),
    "seconds": ("request_seconds_total", "counter", ("route",), "Seconds spent answering, WebSockets excluded."),
    "handling": ("requests_in_progress", "gauge", (), "Requests being handled now."),
    "waiting": ("requests_waiting", "gauge", (), "Requests waiting for a place in the pool."),
    "coroutines": ("coroutines", "gauge", (), "Coroutines that serve connections and messages."),
    "connections": ("connections", "gauge", (), "Open connections of clients, WebSockets included."),
    "websockets": ("websockets", "gauge", (), "Open WebSockets."),
    "queues": ("queue_length", "gauge", ("queue",), "Entries in the other queues of the server."),
    "dropped": ("dropped_answers_total", "counter", (), "Answers dropped because their Mongrel2 had gone."),
    "workers": ("workers", "gauge", (), "Processes that serve requests."),
    "restarts": ("worker_restarts_total", "counter", (), "Worker processes that were replaced."),
}
PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"


def merge_stats(each: Iterable[Stats]) -> Stats:
    """The figures of several processes as those of one. All figures are counts, so each is the sum."""
    merged: Stats = {}
    for stats in each:
        for name, value in stats.items():
            if isinstance(value, dict):
                merged[name] = merge_stats([merged.get(name, {}), value])
            else:
                merged[name] = merged.get(name, 0) + value
    return merged


def _samples(value: Any, labels: Sequence[str], given: Sequence[str] = ()) -> Iterator[str]:
    if not labels:
        yield ("{" + ",".join(given) + "} " if given else " ") + str(value)
        return
    for text, inner in sorted(value.items()):
        escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
        yield from _samples(inner, labels[1:], [*given, f'{labels[0]}="{escaped}"'])


def format_stats(stats: Stats) -> str:
    """Figures as Prometheus reads them (its text format 0.0.4)."""
    lines = []
    for name, (metric, kind, labels, meaning) in FIGURES.items():
        metric = f"brubeck_lite_{metric}"
        lines += [f"# HELP {metric} {meaning}", f"# TYPE {metric} {kind}"]
        lines += [metric + sample for sample in _samples(stats.get(name, {} if labels else 0), labels)]
    return "\n".join(lines) + "\n"


# ---- Brubeck ---------------------------------------------------------------------------------------------------------
# The application: routes in, `handle(request) -> response` out. It opens no socket; WSGI servers call it themselves.


def _talk(request: Request, handler: Handler, positional: Sequence[Any], ws: Any, /, **arguments: Any) -> None:
    """Have a WebSocket's handler talk. Its request is that of the application that the handler belongs to."""
    ws.request = request
    handler(ws, *positional, **arguments)


_ANSWERS = ("a handler returns a str, bytes, a dict, a list, an iterator, None or a Response, or one of them in (body, "
            "status), (body, headers) or (body, status, headers)")  # fmt: skip
_WRAPPER = "`def middleware(respond):`, which returns a function `answer(request)` that returns a Response"


def locate(handler: Any) -> str:
    """The name of a handler, and where it is: "index (hello.py:12)"."""
    place = find_source(handler)
    return name_handler(handler) + ("" if place == "-" else f" ({place})")


class Brubeck:
    """An application: routes, and what is common to them.

    `msg_conn`: the connection, or a list of connections, for `run()`. `handler_tuples`: (pattern, handler) or (pattern,
    handler, methods), where a pattern is a regular expression. `pool_size`: how many requests are handled at once;
    `max_waiting`: how many more may wait until one of those is done; the rest are answered with 503. `max_body`: bytes
    of a request's body; `timeout`: seconds until a handler is ended and 503 is the answer; a route may have its own.
    `secret`: signs cookies, 16 bytes or more; of a list the first signs and all verify. `proxies`: how many proxies
    stand in front: what these say about the client's address, scheme and host is trusted. `upload_store`: the folder of
    Mongrel2's `upload.temp_store`, as this process sees it. `debug=True` shows tracebacks in pages. `hosts`: the names
    and addresses that requests may be for, such as `["example.org", "*.example.org"]`, with any port unless one is
    named; requests for other hosts are answered with 400. Without `hosts` every host is served (with `debug` at a
    loopback address: the names of this machine). ValueError for an invalid route or host, and for a secret that anybody
    can guess; TypeError for a `debug` that is no bool.

    Attributes that a program may set: before the routes `converters` of rules by name (werkzeug.routing.BaseConverter);
    at any time `hosts`, `templates`, which `render` calls, `json_dumps`, which makes JSON of what handlers return, and
    `session_cookie`, a SessionCookie."""

    def __init__(self, msg_conn: Connection | Sequence[Connection] | None = None,
                 handler_tuples: Iterable[tuple[Any, ...]] = (), *, pool_size: int = 10_000, max_waiting: int = 10_000,
                 max_body: int = 1 << 20, timeout: float | None = None, secret: Secrets = None, proxies: int = 0,
                 upload_store: str | os.PathLike[str] | None = None, debug: bool = False,
                 hosts: Iterable[str] | None = None) -> None:  # fmt: skip
        if pool_size < 1 or min(max_waiting, max_body, proxies, timeout or 0) < 0:
            raise ValueError("pool_size is at least 1; max_waiting, max_body, proxies and timeout are at least 0")
        if not isinstance(debug, bool):  # "false" would show tracebacks to everybody
            raise TypeError(f"debug is True or False, not {debug!r}")
        if isinstance(msg_conn, (str, bytes)):
            raise TypeError(f"Brubeck(...) is given a connection, or nothing: {msg_conn!r} is not needed")
        if isinstance(msg_conn, (list, tuple)) and any(isinstance(each, tuple) for each in msg_conn):
            raise TypeError("write Brubeck(handler_tuples=[(pattern, handler)]): what comes first is a connection")
        self.msg_conn, self.pool_size, self.max_waiting, self.max_body = msg_conn, pool_size, max_waiting, max_body
        self.timeout, self.secret, self.proxies, self.upload_store = timeout, secret, proxies, upload_store
        self.debug, self.session_cookie = debug, SessionCookie()
        self.hosts = hosts
        self.templates: Callable[..., str] | None = None
        self.json_dumps: Callable[[Any], str | bytes] = dump_json
        self.converters: dict[str, type[BaseConverter]] = {**DEFAULT_CONVERTERS}
        self.routes = Routes()
        self._error_handlers: dict[int | type[BaseException], Handler] = {}
        self._middleware: list[Middleware] = []
        self._respond: Respond = self._call_handler  # inside all middleware
        self._mounted: list[Brubeck] = []
        self._outer: Brubeck | None = None  # in which it was mounted last: a function may make a new one for each test
        self._on_start: list[Callable[[], Any]] = []
        self._on_stop: list[Callable[[], Any]] = []
        self._started, self._starting = False, threading.Lock()
        self._servers: set[object] = set()  # that serve it, in this process
        self.spawned: set[object] = set()  # the calls of `spawn` that are not done
        self.own_stats: Callable[[], Stats] = dict  # of this process, when it serves
        self.other_stats: Stats = {}  # of the other workers
        for pattern, handler, *methods in handler_tuples:  # a function takes every method unless `methods` are given
            try:
                rule = re.compile(pattern) if isinstance(pattern, str) and pattern[:1] not in ("@", "<") else pattern
            except re.error as error:
                raise ValueError(f"the pattern {pattern!r} is no regular expression: {error}") from error
            self.routes.add(Route(rule, handler, *methods, timeout=timeout))

    # -- what a program says before it runs

    @property
    def secret(self) -> Secrets:
        """What signs cookies: its own, else that of the application in which it is mounted."""
        return self._outer.secret if self.own_secret is None and self._outer is not None else self.own_secret

    @secret.setter
    def secret(self, secret: Secrets) -> None:
        if secret is not None:
            _keys(secret)
        self.own_secret = secret

    @property
    def hosts(self) -> re.Pattern[str] | None:
        """The pattern of the hosts that are served, made of their names when these are set; None for all hosts."""
        return self._hosts

    @hosts.setter
    def hosts(self, hosts: Iterable[str] | None) -> None:
        self._hosts = None if hosts is None else compile_hosts(hosts)

    def route(self, rule: str | re.Pattern[str], methods: Iterable[str] | None = None, name: str | None = None, *,
              max_body: int | None = None, timeout: float | None = None, cancel: bool = False) -> Callable[[R], R]:
        """Decorator: the function or class answers requests for this rule: `/hello/<name>` (in werkzeug's syntax, with
        converters as in `<int:id>`), `@chat` or `<chat` for a message socket, or a compiled regular expression.
        `methods`: by default GET for a function, and for a class those it defines. `name`: for `url_for`, by default
        the handler's. `max_body` (bytes) and `timeout` (seconds) replace the application's. `cancel`: the handler is
        ended when its client leaves. ValueError for an invalid rule, and for one that conflicts with another route;
        TypeError for a handler that is `async def`, or has no parameter for the request."""
        check_rule("route", rule, methods, name)

        def register(handler: R) -> R:
            if isinstance(handler, Brubeck):
                raise TypeError('write app.mount("/prefix", other): an application is no handler of a route')
            self.routes.map.converters.update(self.converters)
            self.routes.add(Route(rule, handler, methods, name, default=["GET"], max_body=max_body,
                                  timeout=self.timeout if timeout is None else timeout, cancel=cancel))  # fmt: skip
            return handler

        return register

    def _route_for(self, method: str, rule: str | re.Pattern[str], name: str | None, *options: Any) -> Callable[[R], R]:
        check_rule(method.lower(), rule, name)
        max_body, timeout, cancel = options
        return self.route(rule, [method], name, max_body=max_body, timeout=timeout, cancel=cancel)

    def get(self, rule: str | re.Pattern[str], name: str | None = None, *, max_body: int | None = None,
            timeout: float | None = None, cancel: bool = False) -> Callable[[R], R]:  # fmt: skip
        """`route` for GET."""
        return self._route_for("GET", rule, name, max_body, timeout, cancel)

    def post(self, rule: str | re.Pattern[str], name: str | None = None, *, max_body: int | None = None,
             timeout: float | None = None, cancel: bool = False) -> Callable[[R], R]:  # fmt: skip
        """`route` for POST."""
        return self._route_for("POST", rule, name, max_body, timeout, cancel)

    def put(self, rule: str | re.Pattern[str], name: str | None = None, *, max_body: int | None = None,
            timeout: float | None = None, cancel: bool = False) -> Callable[[R], R]:  # fmt: skip
        """`route` for PUT."""
        return self._route_for("PUT", rule, name, max_body, timeout, cancel)

    def patch(self, rule: str | re.Pattern[str], name: str | None = None, *, max_body: int | None = None,
              timeout: float | None = None, cancel: bool = False) -> Callable[[R], R]:  # fmt: skip
        """`route` for PATCH."""
        return self._route_for("PATCH", rule, name, max_body, timeout, cancel)

    def delete(self, rule: str | re.Pattern[str], name: str | None = None, *, max_body: int | None = None,
               timeout: float | None = None, cancel: bool = False) -> Callable[[R], R]:  # fmt: skip
        """`route` for DELETE."""
        return self._route_for("DELETE", rule, name, max_body, timeout, cancel)

    def websocket(self, rule: str | re.Pattern[str], name: str | None = None, *,
                  origins: str | Iterable[str] | None = None, subprotocols: Sequence[str] = (),
                  max_message: int = 1 << 20, max_body: int | None = None, timeout: float | None = None,
                  cancel: bool = False) -> Callable[[W], W]:  # fmt: skip
        """Decorator: `handler(ws, **arguments)` talks with clients that open a WebSocket here (RFC 6455). Pages of this
        host may open one, those of `origins`, and with "*" all pages. Of `subprotocols` the first that the client knows
        is used. `max_message`: bytes of a message. When the handler returns, the WebSocket is closed with 1000, when it
        raises an exception, with 1011, and with 1008 for an HTTPError below 500, with its sentence."""
        check_rule("websocket", rule, name)
        allowed = compile_origins(origins, "*")
        spoken_here = [subprotocols] if isinstance(subprotocols, str) else [*subprotocols]

        def register(handler: W) -> W:
            refuse_async(handler)
            checks, talking = list[Callable[[Request, Request], Union[Response, None]]](), cast(Any, handler)
            while hasattr(talking, "check") and not _is_not_ours(talking):  # `_guarded`: asked before the answer is 101
                checks.append(talking.check)
                talking = talking.__wrapped__
            refuse_yield(talking)

            @functools.wraps(handler)
            def upgrade(request: Request, /, *positional: Any, **arguments: Any) -> Response:
                check_handshake(request, allowed)
                for check in checks:
                    if refusal := check(request, request):
                        return refusal
                talk = functools.partial(_talk, request, talking, positional)
                response = Upgrade(request, talk, arguments, max_message)
                offered = re.split(r"[\s,]+", request.headers.get("sec-websocket-protocol", ""))
                if spoken := next((protocol for protocol in spoken_here if protocol in offered), None):
                    response.headers["Sec-WebSocket-Protocol"] = spoken
                return response

            cast(Any, upgrade).is_websocket = True
            self.route(rule, ["GET"], name, max_body=max_body, timeout=timeout, cancel=cancel)(upgrade)
            return handler

        return register

    def static(self, prefix: str, root: str | os.PathLike[str], *, dotfiles: bool = False) -> None:
        """Serve the files below the folder `root` under this prefix, by `static_file`; with `dotfiles` also those whose
        names begin with a dot. The first such route is named "static": `url_for("static", name="style.css")`; the names
        of others are their prefixes. ValueError as for `mount`, and where there is no such folder."""
        if not re.fullmatch(r"(?:/[^/<>]+)+", prefix):
            raise ValueError(f'a prefix is like "/static", not {prefix!r}')
        if not os.path.isdir(root):
            raise ValueError(f"there is no folder {os.path.abspath(root)!r} for static files")
        handler = StaticFolder(os.path.abspath(root), dotfiles)
        self.route(f"{prefix}/<path:name>", name=prefix if "static" in self.routes.named else "static")(handler)

    def mount(self, prefix: str, other: Brubeck) -> None:
        """Have another application answer every path below `prefix` that no rule of this application takes. The other
        one keeps its own error handlers and middleware, and where it has another secret, a session of its own.
        ValueError unless the prefix is like "/admin", and where what was mounted before answers all of it."""
        if not isinstance(other, Brubeck):
            raise TypeError(f"a Brubeck can be mounted, not {other!r}")
        if not re.fullmatch(r"(?:/[^/<>]+)+", prefix):
            raise ValueError(f'a prefix is like "/admin", not {prefix!r}')
        inside = [other]
        for app in inside:
            inside += app._mounted
        if self in inside:
            raise ValueError("an application cannot be mounted in itself")
        for route in self.routes.all:
            if isinstance(route.handler, Brubeck) and f"{prefix}/".startswith(f"{route.name}/"):
                raise ValueError(f"nothing would reach {prefix!r}: what is mounted at {route.name!r} answers all below "
                                 "it. Of two such prefixes the longer one is mounted first")  # fmt: skip

        def mounted(request: Request) -> Response:
            inner = request.inside(other, prefix)
            response = other.handle(inner)
            request.inner_route = request.inner_route or inner.route
            return response

        other._outer = self
        self._mounted.append(other)
        rule = re.compile(re.escape(prefix) + r"(?![^/])")
        self.routes.add(Route(rule, other, name=prefix, call=mounted, max_body=_UNLIMITED))

    def error(self, what: int | type[BaseException]) -> Callable[[E], E]:
        """Decorator: `handler(request, error)` answers errors of this status, or exceptions of this class. The nearest
        class wins; a status stands between HTTPError and its subclasses. The handler of 500 answers exceptions that no
        other handler takes, which are logged all the same. Its answer keeps the error's status unless it gives one.
        TypeError for what is no status or class, and for a handler that does not take two arguments."""
        is_class = isinstance(what, type) and issubclass(what, BaseException)
        if not is_class and not (isinstance(what, int) and 200 <= what <= 599):
            raise TypeError(f"@app.error(404) is given a status, or a class of exceptions, not {what!r}")

        def register(handler: E) -> E:
            check_function(handler, 2, "`def handler(request, error):`")
            self._error_handlers[what] = handler
            return handler

        return register

    def wrap(self, middleware: Middleware) -> Middleware:
        """Add middleware: a function that takes `respond(request) -> Response`, which answers requests, and returns a
        function of the same shape, which is called instead. The middleware that was added first is the outermost. When
        it is called, routing is done (`request.route` is None where no route matched), and what `respond` returns for
        an error is a Response too. Each call of `wrap` calls all middleware anew. TypeError for a function of another
        shape."""
        if cast(Any, middleware) in (compress, cors, csrf):
            raise TypeError(f"write app.wrap({name_handler(middleware)}(...)): middleware is {_WRAPPER}")
        check_function(middleware, 1, _WRAPPER)
        respond: Respond = self._call_handler
        try:
            for each in reversed([*self._middleware, middleware]):
                respond = each(respond)
                check_function(respond, 1, "a function of the request")
        except (AttributeError, TypeError) as error:
            raise TypeError(f"{locate(middleware)}: {error}; middleware is {_WRAPPER}") from error
        self._middleware.append(middleware)
        self._respond = respond
        return middleware

    def on_start(self, function: Callable[[], T]) -> Callable[[], T]:
        """Call `function()` in each process before its first request."""
        check_function(function, 0, "`def start():`, with @app.on_start above it")
        refuse_yield(function)
        self._on_start.append(function)
        return function

    def on_stop(self, function: Callable[[], T]) -> Callable[[], T]:
        """Call `function()` in each process after its last request."""
        check_function(function, 0, "`def stop():`, with @app.on_stop above it")
        refuse_yield(function)
        self._on_stop.append(function)
        return function

    def url_for(self, name: str, /, *, _external: bool = False, **values: Any) -> str:
        """The path of the route of this name with these arguments. Those that its rule does not take become the query;
        a list is repeated there. ValueError if there is no such route, for a value that its rule would not match, and
        for `_external`, which needs a request: `request.url_for`."""
        if _external:
            raise ValueError("the host is known by its requests: request.url_for(..., _external=True)")
        return self.routes.build(name, values)

    # -- the life of a request

    def handle(self, request: Request) -> Response:
        """Answer a request: find its route, call its handler inside the middleware, make a Response of what the handler
        returned. Whatever is raised becomes a Response too, except for KeyboardInterrupt, which is the operator's."""
        request.app = self
        if (self.debug or self.hosts is not None) and not self._serves_host(request):
            request.refused = None  # the frames of its traceback hold the request
            return self.answer_error(request, HTTPError(400, "this Host is not served here (see hosts=...)"))
        path = request.path[len(request.prefix) :] if request.prefix else request.path
        is_plain = request.refused is None and not request.is_message
        try:
            request.found = (is_plain and self.routes.found.get((request.method, path))) or self._find(request, path)
        except Exception as error:
            request.found, request.refused = None, error
        try:
            response = self._respond(request)
            if type(response) is not Response and not isinstance(response, Response):
                raise AnswerError(f"{locate(self._respond)}, or middleware inside it, returned a value of type "
                                  f"{type(response).__name__}: it should be a Response")  # fmt: skip
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # raised by middleware
            response = self.answer_error(request, error)
        if request.refused is not None:
            request.refused = None
        if request.private_by is not None or request.has_credentials or response.cookies or response.code == 401:
            return self._complete(request, response)
        return response

    def _serves_host(self, request: Request) -> bool:
        """Whether requests for this host are served. A page whose name was made to resolve to our address (DNS
        rebinding) has our own origin for the browser and for all checks of origins: only the name of the host shows
        that it is another's. The outermost application that has `hosts` decides."""
        if request.is_message or request.has_known_host:
            return True
        try:
            host = request.host.lower()
        except HTTPError:
            return False
        if self.hosts is not None:
            hosts, request.has_known_host = self.hosts, True
        elif request.peer.loopback and host:  # without a host it is no browser
            if re.sub(r"\.?(?::[0-9]+)?$", "", host) == request.peer.loopback.lower():
                return True
            hosts = _LOOPBACK_NAMES
        else:
            return True
        return any(hosts.fullmatch(host + port) for port in ("", ":443" if request.scheme == "https" else ":80"))

    def _find(self, request: Request, path: str) -> Found:
        """The route for this path below the prefix, and its arguments; an HTTPError where there is none, or where the
        request was refused before it came here."""
        if request.refused is not None:
            raise request.refused
        if request.is_message:
            return self.routes.sockets.get(request.path) or abort(404)
        try:
            return self.routes.find(request.method, path)
        except RequestRedirect as redirect:
            _, mark, query = request.target.partition("?")
            location = f"{quote(request.prefix, safe=_IN_PATH)}/{urlsplit(redirect.new_url).path.lstrip('/')}"
            raise HTTPError(308, headers={"Location": location + mark + query}) from None

    def body_limit(self, request: Request) -> int:
        """How many bytes the body of this request may have, by the route that takes it, also of a mounted application;
        -1 where no route does."""
        request.app = self
        try:
            request.found = self._find(request, request.path[len(request.prefix) :])
        except Exception:  # `handle` will answer it
            return -1
        route = request.found[0]
        if isinstance(route.handler, Brubeck):
            return route.handler.body_limit(request.inside(route.handler, str(route.name)))
        return request.max_body

    def _call_handler(self, request: Request) -> Response:
        """The innermost step: what the handler returned, or the answer to what it raised, as a Response."""
        try:
            if request.found is None:
                raise cast(Exception, request.refused)
            route, positional, named = request.found
            if request.content_length and route.max_body != _UNLIMITED and request.content_length > request.max_body:
                raise body_too_large(request.max_body)
            if positional:
                value = route.call(request, *positional)
            else:
                value = route.call(request, **named) if named else route.call(request)
            return Response(value) if type(value) is str else self.make_response(request, value, route.handler)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # SystemExit, and eventlet's Timeout and GreenletExit, are no Exceptions
            return self.answer_error(request, error)

    def make_response(self, request: Request, value: Any, handler: Any, status: int = 200) -> Response:
        """What a handler returned, as a Response, with this status unless it has its own; AnswerError where it is no
        answer. The first piece of a stream may take its time: it is made outside the pool, and only as long as its
        client is there."""
        try:
            response = to_response(value, self.json_dumps, status)
        except (TypeError, ValueError) as error:
            what = f"a value of type {type(value).__name__}, which is no answer ({error})"
            raise AnswerError(f"{locate(handler)} returned {what}: {_ANSWERS}") from error
        if response is value and self._middleware:
            response = response.copy()  # the handler may give it to others: what middleware adds is for this client
        if type(response.content) is not bytes:
            request.peer.leave_pool()
            request.peer.limited(None, True, response.begin_stream)
        return response

    def _complete(self, request: Request, response: Response) -> Response:
        """A copy, for the handler may give the same answer to others: with its cookies as text, kept from shared caches
        if it is private, and with the session if that changed. Caches should know by themselves that the answer to a
        request with Authorization is for its client alone, unless it allows more (RFC 9111, 3.5); nginx does not."""
        try:
            response = response.copy()
            if request.private_by is not None:
                response.keep_private(request.private_by)
            elif (request.has_credentials or response.code == 401) and not re.search(
                r"(?i)\b(?:public|s-maxage)\b", response.headers.get("Cache-Control", "")
            ):
                response.keep_private(["Authorization"])
            request.save_session(response)
            return response.with_cookies(request)
        except Exception as error:  # what JSON cannot hold, or a cookie that cannot be signed
            return self.answer_error(request, error)

    def answer_error(self, request: Request, error: BaseException, *, failed: Any = None) -> Response:
        """The answer to an exception: by the error handler for its nearest class (a status stands before HTTPError),
        else by the handler for 500, else a plain one. An exception that is no HTTPError, and has no handler for its
        class, is logged. `failed`: the error handler that has raised it; then the plain 500 is the answer."""
        is_last = failed is not None
        if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
            logger.error("too many files are open for %s %r: %s", request.method, request.path, error)
            forget_frames(error)
            error = HTTPError(503, "too many files are open", {"Retry-After": "1"})
        told = HTTPError(499 if request.peer.is_cancelled else 500)  # what the client is told
        if isinstance(error, HTTPError) and not is_last:
            told = error
        handlers = {} if is_last else self._error_handlers
        kinds: list[Any] = [*type(error).__mro__]
        if told is error:
            kinds.insert(kinds.index(HTTPError), told.status)
        handler = next((handlers[kind] for kind in kinds if kind in handlers), None)
        try:
            if handler is None and told is not error:
                handler = handlers.get(500)
                self._log_error(request, error, failed)
            if handler is None:
                if self._is_debugged() and told is not error:
                    lines = [str(error)] if isinstance(error, AnswerError) else traceback.format_exception(error)
                    told = HTTPError(told.status, "".join(lines).encode(errors="backslashreplace").decode())
                return error_answer(request, told)
            response = self.make_response(request, handler(request, error), handler, told.status)
            response = response.copy()  # the handler may give the same answer to others
            for field, text in told.headers.items():
                response.headers.setdefault(field, text)
            return response.with_cookies(request)
        except KeyboardInterrupt:
            raise
        except BaseException as failure:
            if handler is not None and told is error:  # a 404, say: where it was raised has nothing to do with it
                failure.__suppress_context__ = True
            failed = handler or error_answer
            return plain_answer(HTTPError(500)) if is_last else self.answer_error(request, failure, failed=failed)
        finally:
            if not request.peer.keeps_error:
                forget_frames(error)
            del error, told  # which a test client may keep, with a traceback that holds this frame

    def _is_debugged(self) -> bool:
        return self.debug or (self._outer is not None and self._outer._is_debugged())

    @staticmethod
    def _log_error(request: Request, error: BaseException, failed: Any) -> None:
        if not request.peer.is_cancelled:
            request.peer.note_error(error)
            if isinstance(error, AnswerError):
                logger.error("%s %r: %s", request.method, request.path, error)
                return
            name = name_handler(request.route.handler) if request.route else "middleware"
            name = name if failed is None else f"the error handler {locate(failed)}"
            logger.error("%s failed on %s %r", name, request.method, request.path, exc_info=error)

    # -- what lives longer than a request; WSGI and tests, which need no server of ours; and the server

    def spawn(self, function: Callable[..., Any], *arguments: Any) -> None:
        """Call `function(*arguments)` beside the requests, for work that a client need not wait for: inside `run()` in
        a coroutine, which begins once the handler has answered, or waits; elsewhere in a thread. What it raises is
        logged. At the end of the process it has the time that requests have, 9 seconds; the test client waits for it.
        The number of such calls at once is not limited. TypeError for a function that is `async def`, or does not take
        these arguments."""
        check_function(function, len(arguments), "app.spawn(function, *arguments)")
        refuse_yield(function)
        if self._outer is not None:
            self._outer.spawn(function, *arguments)
            return
        task = object()

        def call() -> None:
            try:
                function(*arguments)
            except BaseException as error:  # nobody else would see it
                logger.exception("%s failed, a function of app.spawn", locate(function))
                forget_frames(error)
            finally:
                self.spawned.discard(task)

        run = functools.partial(contextvars.copy_context().run, call)
        self.spawned.add(task)
        if in_coroutines() or (self._servers and _hub() is not None):  # a handler, or a function of `on_start`
            eventlet.spawn_n(run)
        else:
            _unpatched("threading").Thread(target=run, daemon=True).start()

    def await_spawned(self, seconds: float, but: Iterable[object] = ()) -> bool:
        """Wait for the calls of `spawn`, except those in `but`; whether they end in so many seconds."""
        deadline, sleep = time.monotonic() + seconds, time.sleep if _hub() is None else eventlet.sleep
        while self.spawned.difference(but):
            if time.monotonic() >= deadline:
                return False
            sleep(0.005)
        return True

    def call_on_start(self, server: object = None) -> None:
        """Call the functions of `on_start`, once in a process: before the first request that any server gets."""
        with self._starting:
            self._servers.update(() if server is None else (server,))
            if not self._started:
                with contextlib.suppress(OSError):
                    tempfile.gettempdir()  # it looks for a folder once, and finds none when too many files are open
                for function in [*self._on_start, *(app.call_on_start for app in self._mounted)]:
                    function()
                logger.disabled = False  # logging.config disables the loggers that its settings do not name
                self._started = True

    def call_on_stop(self, server: object = None) -> None:
        """Call the functions of `on_stop`, if those of `on_start` were called and no other server serves this; what
        they raise is logged."""
        with self._starting:
            self._servers.discard(server)
            is_over = self._started and not self._servers
            self._started = self._started and not is_over
        for function in [*(app.call_on_stop for app in self._mounted), *self._on_stop] if is_over else ():
            try:
                function()
            except Exception:
                logger.exception("a function of on_stop failed")

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        """The application by WSGI (PEP 3333)."""
        if not self._started:
            self.call_on_start()
            atexit.register(self.call_on_stop)
            atexit.register(self.await_spawned, Ending.DEADLINE)  # first, for what is registered last is called first
        request, context = WSGIRequest(environ), contextvars.copy_context()
        return self.answer_wsgi(request, context.run(self.handle, request), start_response, context)

    def answer_wsgi(self, request: WSGIRequest, response: Response, start_response: StartResponse,
                    context: contextvars.Context) -> Iterable[bytes]:  # fmt: skip
        """Send the answer: status and fields by `start_response`, the body as what is returned. A streamed body is made
        in the context of its handler, which is not that of other requests in the same thread."""
        if response.code == 101:
            response = plain_answer(HTTPError(501, "WebSockets are not for WSGI servers"))
        try:
            fields, body = context.run(response.finish, request)
        except Exception as error:  # middleware has left something in the answer that cannot be sent
            response = context.run(self.answer_error, request, error)
            fields, body = context.run(response.finish, request)
        start_response(_STATUS_LINES.get(response.code) or status_line(response.code), fields)
        if type(body) is bytes:
            # Of a list wsgiref and waitress know the length: they would say `Content-Length: 0` in the answer to HEAD
            # for a stream. No piece at all would be a 500 under hypercorn.
            has_length = body or any(name.lower() == "content-length" for name, _ in fields)
            plain = [body] if has_length else iter([body])
            return _UntilClosed(plain, request, context) if request.last_calls else plain
        request.environ["eventlet.minimum_write_chunk_size"] = 0  # eventlet.wsgi would hold back less than 4 KiB
        return _UntilClosed(Pieces(_InContext(context, cast("Iterator[bytes]", body))), request, context)

    def test(self, raise_errors: bool = False, **options: Any) -> Client:
        """A test client, in process and without a server. `raise_errors=True`: exceptions of handlers are raised in the
        test. `options`: as for Client."""
        return Client(self, raise_errors, **options)

    def stats(self) -> Stats:
        """The figures of `run()`, of all workers together, as numbers, and dicts of them. By the route's name (else its
        expression; "" where no route matched) `requests`, by status, and the `seconds` that they took. Requests that
        are handled now (`handling`), and that wait for a place in the pool (`waiting`); `coroutines`; `connections`,
        and the `websockets` among them. `queues`: lines of the `access_log`; answers behind Mongrel2 that wait for
        `credit`, until the client has read; `replies` that Mongrel2 cannot take yet; connections to Mongrel2 for which
        a worker has requests to answer (`dealt`). `dropped`: answers whose Mongrel2 had gone. `workers`, and their
        `restarts`."""
        return merge_stats([{name: {} if each[2] else 0 for name, each in FIGURES.items()},
                            self.own_stats(), self.other_stats])  # fmt: skip

    def running(self, bind: str = "127.0.0.1:0") -> contextlib.AbstractContextManager[Listener]:
        """For tests, notebooks, and programs that do something else: `with app.running() as server:` serves by HTTP, in
        a thread of its own, until the end of the block; `server.url` and `server.port` say where. Functions of
        `on_start` and `on_stop` are called in that thread. Nothing is patched: a handler that blocks, by `time.sleep`
        or a database's driver, holds up the other requests of this server. ValueError where `bind` is no address,
        RuntimeError where the server cannot start."""
        refuse_windows()
        return serve_in_thread(self, bind)

    def run(self, connection: Connection | Address | Sequence[Connection | Address] | None = None,
            port: int | None = None, *, bind: str = "127.0.0.1:6767", workers: int | str = 1, patch: bool = True,
            host: str | None = None, debug: bool | None = None, reload: bool = False,
            tls: TLSFiles | None = None) -> None:  # fmt: skip
        """Serve until SIGINT or SIGTERM arrives; then requests may take up to 9 seconds more, or until a second signal.

        `connection`: one connection or several, or the address of an HTTPConnection ("127.0.0.1:8000", or a port of
        127.0.0.1); by default `msg_conn`, else an HTTPConnection at `bind`, or for the sockets that systemd passes
        where `bind` is not given (sd_listen_fds(3)). `host` and `port` may stand in its place, also as in
        `run("0.0.0.0", 8000)`. `tls`, the names of the PEM files of a certificate and its key: by HTTPS there. `debug`
        replaces that of the application. `reload`: the program is started again when one of its files changes.
        `workers`: the number of worker processes ("auto": one for each core that this process may use); each starts
        this program anew, and their parent replaces a worker that dies, and all of them on SIGHUP. `patch=True` lets
        eventlet replace the blocking functions of the standard library, so that a handler that waits does not stop the
        others. What the program imported, created or started before `run` (`from socket import socket`, an SSLContext
        for clients, a thread) is not replaced: it blocks or fails, and a warning names it. The command line patches
        first and has no such problem, nor has a program that calls `eventlet.monkey_patch()` above all other imports.
        Another warning says what is surely wrong with the program, as `brubeck_lite check` does.

        ValueError where something is no address, and for `tls` beside a connection. SystemExit 2 where the server
        cannot start, 0 where a signal ends the start. RuntimeError outside of the main thread. In a worker `run` does
        not return."""
        refuse_windows()
        if threading.main_thread().ident != _unpatched("_thread").get_ident():
            raise RuntimeError("run() needs the main thread, which alone gets signals: in other threads, serve by "
                               "`with app.running(bind=...) as server:`")  # fmt: skip
        if isinstance(connection, str) and not (":" in connection or connection.isdigit()) and host is None:
            host, connection = connection, None
        if host is not None or port is not None:
            if connection is not None:
                raise ValueError('either app.run("127.0.0.1:8000"), or app.run(host="127.0.0.1", port=8000)')
            connection = join_address(host, port)
        own = list_connections(connection, tls) or list_connections(self.msg_conn, tls)
        self.debug = self.debug if debug is None else debug
        count, parent = count_workers(workers), parent_of_worker()
        if (count > 1 or reload) and parent is None:
            configure_logging()
            Parent(*same_command(), count, timeout=worker_patience(reload or self.debug), reload=reload).run()
            return
        ending = Ending(is_worker=parent is not None)
        try:
            given = None if bind == DEFAULT_ADDRESS else bind
            serve(self, own or default_connections(given, tls, parent), ending, patch=patch, parent=parent)
        finally:
            if parent is None:
                ending.close()
        if parent is not None:
            raise SystemExit(0)  # only the parent goes on with what the program does after `run`


# ---- Peers and pipeline ----------------------------------------------------------------------------------------------
# A peer is our object for one client's connection. Here are the three steps of every request, the one function that
# sends answers, the pool of requests that are handled at once, and the coroutines in which all of this runs.

Connection = Union["Mongrel2Connection", "HTTPConnection"]
Address = Union[str, int]  # of an HTTPConnection, or a port of 127.0.0.1
STREAM_TURN = 0.001  # seconds that a stream goes on without letting other coroutines have their turns


class ServedPeer(Peer):
    """One client's connection to a server of our own: the request that is handled, and whether the client is there.

    The HTTP server and Mongrel2's have peers of their own, derived from this class, which know how bytes are sent.
    `keep_open(request)`, called once for each answer, decides whether the connection outlives it. `send(data)` and
    `send_file(pieces)` wait where the client is slow, and return False once it is gone; `send_answer(head, body)` does
    the same for a whole answer. `send_message(body)` answers a message socket. `abort()` shows the client that its
    answer is not whole. `open_websocket(request, response)` sends the answer 101, and has the handler talk.
    `next_request()` returns the request that comes after the present one, which is over; None where none has come."""

    __slots__ = ("began", "coroutine", "is_cancelled", "is_chunked", "is_endless", "is_gone", "is_handled",
                 "is_outside", "is_within_piece", "load", "request", "sent")  # fmt: skip

    def __init__(self, load: Load, address: str = "", scheme: str = "http", loopback: str = "") -> None:
        self.address, self.scheme, self.loopback = address, scheme, loopback
        self.keeps_error, self.error = False, None  # as in Peer, whose own call would be one more for each request
        self.load = load
        self.request: Any = None  # the one that is handled
        self.began = 0.0  # when its handling did
        self.coroutine: greenlet.greenlet | None = None  # what is ended when the client leaves
        self.is_gone = False  # the client has left, or its connection is of no more use
        self.is_cancelled = False
        self.is_handled = False  # the pool handles the request
        self.is_outside = True  # the request takes no place in the pool
        self.is_endless = False  # its answer is a stream of events, which has no end of its own
        self.is_chunked = False  # its answer goes in chunks, and the last one has not gone yet
        self.is_within_piece = False  # a part of a piece was perhaps sent, and not all of it
        self.sent = 0  # bytes of the body of a streamed answer

    if TYPE_CHECKING:

        def keep_open(self, request: Any) -> bool: ...
        def send(self, data: bytes) -> bool: ...
        def send_file(self, pieces: FilePieces) -> bool: ...
        def send_answer(self, head: bytes, body: bytes) -> bool: ...
        def send_message(self, body: bytes | Pieces) -> int: ...
        def abort(self) -> None: ...
        def open_websocket(self, request: Any, response: Upgrade) -> int: ...
        def next_request(self) -> Any: ...

    def is_there(self) -> bool:
        return not self.is_gone

    def stop_holding(self) -> None:
        """The coroutine that handles the request waits: send now what was held back to leave with its answer."""

    def allow_stream(self) -> None:
        """RuntimeError, which says what to do, where no stream can be sent to this client."""

    def limited(self, seconds: float | None, cancel: bool, call: Callable[..., T], /, *arguments: Any,
                **named: Any) -> T:  # fmt: skip
        current = greenlet.getcurrent()
        timer = seconds and eventlet.hubs.get_hub().schedule_call_global(seconds, current.throw, HandlerTimeout)
        self.coroutine = current if cancel else None
        try:
            if cancel and self.is_gone:
                self.is_cancelled = True
                raise greenlet.GreenletExit
            return call(*arguments, **named)
        finally:
            self.coroutine = None
            if timer:
                timer.cancel()

    def end_coroutine(self) -> None:
        """The client has left: end what works for it alone. To be called in eventlet's hub."""
        coroutine, self.coroutine = self.coroutine, None
        if coroutine is not None:
            self.is_cancelled = True
            coroutine.throw(greenlet.GreenletExit)

    def leave_pool(self) -> None:
        if not self.is_outside:
            self.is_outside = True
            self.load.outside += 1
            self.load.admit()

    @contextlib.contextmanager
    def outside_pool(self) -> Iterator[None]:
        """Give the place in the pool back while this block waits for the client. Afterwards the handler goes on at
        once, even where the pool is full: if it had to wait for a place, it could wait for requests that wait for it.
        """
        request, had_place = self.request, not self.is_outside
        self.leave_pool()
        try:
            yield
        finally:
            # Else the request is over: another coroutine of its handler has waited here.
            if had_place and self.is_handled and self.request is request:
                self.is_outside = False
                self.load.outside -= 1


def route_message(load: Load, peer: ServedPeer, request: Request) -> None:
    """Find out what answers this request, and pass both on; call the functions of `when_done` when it is over."""
    misread = request.misread
    try:
        request_handler(load, peer, request, load.app.handle if misread is None else lambda _: misread)
    finally:
        if request.last_calls:
            request.end()


def request_handler(load: Load, peer: ServedPeer, request: Request, respond: Respond) -> None:
    """Have the request answered, and pass its Response on."""
    peer.began = time.monotonic()
    try:
        response = respond(request)
    except KeyboardInterrupt as error:  # a handler's: the operator's is a signal to the server
        response = load.app.answer_error(request, error)
    result_handler(load, peer, request, response)


def result_handler(load: Load, peer: ServedPeer, request: Request, response: Response) -> None:
    """Send the answer, or a 500 where the answer cannot be sent. Then count and log the request."""
    began = peer.began  # which a WebSocket sets anew
    try:
        size = answer(peer, request, response)
    except Exception as error:
        response = load.app.answer_error(request, error)
        size = answer(peer, request, response)
    load.count(request, response.code, peer.began)
    if load.access_log is not None and not request.is_message:
        load.access_log.add(request, response.code, size, time.monotonic() - began)


def answer(peer: ServedPeer, request: Request, response: Response) -> int:
    """Send the answer to a request; to a message socket its body alone. What it raises, it raises before anything is
    sent. Returns how many bytes the body had."""
    if isinstance(response, Upgrade):
        return peer.open_websocket(request, response)
    fields, body = response.finish(request)
    if request.is_message:
        return peer.send_message(body)
    if type(body) is bytes:
        peer.send_answer(format_head(response.code, fields, peer.keep_open(request)), body)
        return len(body)
    if not isinstance(body, FilePieces):
        peer.allow_stream()
    return send_stream(peer, request, response.code, fields, cast(Pieces, body))


def send_stream(peer: ServedPeer, request: Request, status: int, fields: list[tuple[str, str]], pieces: Pieces) -> int:
    """Send the pieces of a body as they are made: in chunks, unless the handler gave a Content-Length, and until the
    connection closes for HTTP/1.0. What cannot be sent whole is logged and ends in `abort`. Returns how many bytes
    were sent."""
    declared = next((int(value) for name, value in fields if name.lower() == "content-length"), None)
    peer.is_chunked = is_chunked = declared is None and request.version == "HTTP/1.1"
    if is_chunked:
        fields.append(("Transfer-Encoding", "chunked"))
    peer.is_endless = any(value.startswith(EVENT_STREAM) for _, value in fields)
    peer.coroutine, peer.sent = greenlet.getcurrent(), 0
    peer.leave_pool()
    try:
        _send_pieces(peer, format_head(status, fields, peer.keep_open(request)), pieces, declared)
    except BaseException as error:
        if not peer.is_cancelled:
            # An HTTPError is the client's: the handler reads the body, and that does not come as it should.
            level = logging.INFO if isinstance(error, HTTPError) else logging.ERROR
            has_trace = not isinstance(error, (HTTPError, AnswerError))
            logger.log(level, "the stream of %r failed: %s", request, error, exc_info=has_trace)
        forget_frames(error)
        is_between = peer.is_cancelled and peer.is_endless and is_chunked and not peer.is_within_piece
        if is_between and peer.send(b"0\r\n\r\n"):
            return peer.sent
        peer.abort()
    finally:
        peer.coroutine, peer.is_chunked, peer.is_endless, peer.is_within_piece = None, False, False, False
        pieces.close()
    return peer.sent


def _send_pieces(peer: ServedPeer, unsent: bytes, pieces: Pieces, declared: int | None) -> None:
    """Send the pieces of a body behind `unsent`, its head, unless the client leaves. ValueError where the body is not
    as long as was declared."""
    if isinstance(pieces, FilePieces) and declared == pieces.left:
        if peer.send(unsent):
            peer.send_file(pieces)
        peer.sent = declared - pieces.left
        return
    turn = time.monotonic()
    for piece in pieces:
        if time.monotonic() - turn > STREAM_TURN:
            eventlet.sleep(0)
            turn = time.monotonic()
        peer.sent += len(piece)
        if declared is not None and peer.sent > declared:
            raise ValueError(f"the body is longer than its Content-Length of {declared} bytes")
        peer.is_within_piece = True
        if not peer.send(unsent + (b"%x\r\n%b\r\n" % (len(piece), piece) if peer.is_chunked else piece)):
            return
        peer.is_within_piece = False
        unsent = b""
    if declared is not None and peer.sent < declared:
        raise ValueError(f"the body is shorter than its Content-Length of {declared} bytes")
    peer.send(unsent + b"0\r\n\r\n" if peer.is_chunked else unsent)


def converse(websocket: WebSocket, response: Upgrade) -> None:
    """Have the handler of a WebSocket talk. A WebSocket may last for hours: it takes no place in the pool, is not
    counted among the requests in progress, and the figures do not have its time."""
    peer = cast(ServedPeer, websocket.request.peer)
    peer.leave_pool()
    peer.load.busy, peer.load.outside = peer.load.busy - 1, peer.load.outside - 1
    try:
        websocket.converse(response.handler, response.arguments)
    finally:
        peer.load.busy, peer.load.outside = peer.load.busy + 1, peer.load.outside + 1
        peer.began = time.monotonic()


def say_goodbye(websockets: Iterable[WebSocket], peers: Iterable[ServedPeer]) -> None:
    """The server stops: close WebSockets, and end streams that have no end of their own. To be called again until it
    has stopped: their clients come back at once, and may still find it there."""
    for websocket in [*websockets]:
        websocket.close(1001, "going away")
    for peer in peers:
        if peer.is_endless:
            call_soon(peer.end_coroutine)


class Survivor:
    """Calls functions that a server calls again and again. An error in one does not end the server, and is logged only
    the first time that it comes from the same line."""

    def __init__(self) -> None:
        self._logged: set[tuple[type, str, int]] = set()

    def __call__(self, function: Callable[..., object], *arguments: Any) -> bool:
        """Call a function; whether it raised nothing."""
        try:
            function(*arguments)
        except Exception as error:
            self.tell(error, f"{name_handler(function)} failed, and the server goes on: please report it")
            return False
        return True

    def tell(self, error: BaseException, message: str) -> None:
        """Log an error, with `message`, unless that was done before."""
        *_, (frame, line) = traceback.walk_tb(error.__traceback__)
        place = type(error), frame.f_code.co_filename, line
        if place not in self._logged:
            self._logged.add(place)
            logger.error(message, exc_info=error)


class Load:
    """The pool of requests that are handled at once, by all connections of a process together; the queue of those that
    wait for a place in it; and the figures of what was answered."""

    def __init__(self, app: Brubeck, access_log: AccessLog | None = None) -> None:
        self.app, self.access_log = app, access_log
        self.busy = self.outside = 0  # requests that are handled; those of them that take no place in the pool
        self.servers = 1  # HTTPConnections of this process, which share its descriptors
        self.waiting: deque[tuple[ServedPeer, Any]] = deque()
        self.counted: dict[tuple[Route | None, int], list[float]] = {}  # by status: answers, and seconds they took

    def count(self, request: Request, status: int, began: float) -> None:
        """Note that a request was answered."""
        found = request.found
        key = request.inner_route or (found and found[0]), status
        try:
            counted = self.counted[key]
        except KeyError:
            counted = self.counted[key] = [0, 0.0]
        counted[0] += 1
        counted[1] += time.monotonic() - began

    def stats(self) -> Stats:
        """The figures of the requests that were answered, are handled, or wait. Any thread may call it."""
        each: list[Stats] = [{"requests": {}, "seconds": {}}]
        for (route, status), (number, taken) in [*self.counted.items()]:
            name = "" if route is None else route.name or str(getattr(route.rule, "pattern", route.rule))
            each.append({"requests": {name: {str(status): int(number)}}, "seconds": {name: taken}})
        return merge_stats([*each, {"handling": self.busy, "waiting": len(self.waiting), "workers": 1}])

    def serve(self, peer: ServedPeer, request: Request | None) -> None:
        """Answer a request of a client, and those that have come behind it on the connection, in this coroutine. Where
        the pool is full, or others wait for a place in it, the request joins the queue; where that is full too, it is
        answered with 503."""
        turn = 0.0
        while request is not None:
            peer.request = request
            if not self.waiting and self.busy - self.outside < self.app.pool_size:
                self.take(peer, request)
            elif len(self.waiting) < self.app.max_waiting:
                self.waiting.append((peer, request))
                peer.stop_holding()
                return
            else:
                refusal = error_answer(request, HTTPError(503, headers={"Retry-After": "1"}))
                request_handler(self, peer, request, lambda _, refusal=refusal: refusal)  # type: ignore[misc]
            request = peer.next_request()
            if request is not None:
                turn = give_turn(turn or peer.began)
        peer.request = None  # each would keep the other

    def serve_waiting(self) -> None:
        """Handle, in this coroutine, the requests that had to wait for a place in the pool."""
        while self.waiting and self.busy - self.outside < self.app.pool_size:
            peer, request = self.waiting.popleft()
            self.take(peer, request)
            self.serve(peer, peer.next_request())

    def admit(self) -> None:
        """There may be places in the pool: have requests that wait for one go on."""
        if self.waiting:
            eventlet.spawn_n(self.serve_waiting)

    def take(self, peer: ServedPeer, request: Request) -> None:
        """Handle a request in this coroutine."""
        self.busy += 1
        peer.is_outside, peer.is_handled = False, True
        try:
            route_message(self, peer, request)
        except Exception:
            logger.exception("no answer could be sent to %r", request)
            peer.abort()
        except BaseException:  # such as a Timeout that a handler has left behind
            peer.abort()
            peer.next_request()  # which lets go of the connection
            raise
        finally:
            self.busy -= 1
            if peer.is_outside:
                self.outside -= 1
            peer.is_outside, peer.is_handled, peer.is_cancelled = True, False, False
            greenlet.getcurrent().gr_context = None  # the next request of this coroutine finds no context variable set


class Receivers:
    """The coroutines that take turns at receiving from one connection, whose `receive` returns the next request with
    its peer, or None where what came was no request.

    The coroutine that receives a request handles it too: making another costs more than most handlers do. Before it
    starts, a zero-delay timer stands ready in eventlet's hub. A handler that never waits never lets the hub run, and
    nothing was spawned; one that waits does, and the timer gives receiving to another coroutine: one that is done with
    its request and parked, else a new one. So each request that waits has a coroutine, and receiving never stops."""

    MAX_PARKED = 500

    def __init__(self, receive: Callable[[], Request | None], load: Load) -> None:
        self._receive_request, self._load, self._hub = receive, load, eventlet.hubs.get_hub()
        self._receiver: greenlet.greenlet | None = None
        self._parked: list[greenlet.greenlet] = []
        self._handling = True  # the receiver is inside a handler, not waiting for a request
        self._peer: ServedPeer | None = None  # whose request it handles
        self._timer_since: float | None = None  # when the pending timer was set
        self._survive = Survivor()
        self.ended = False  # the connection gives no more
        self.coroutines = 0
        self._set_timer()

    def _set_timer(self) -> None:
        self._timer_since = time.monotonic()
        self._hub.schedule_call_global(0, self._hand_over)

    def _hand_over(self) -> None:
        """Runs in the hub: whoever was receiving waits. If it does so inside a handler, another receives."""
        self._timer_since = None
        if self._handling:
            self._handling = False
            if self._peer is not None:
                self._peer.stop_holding()
            self._receiver = self._parked.pop() if self._parked else greenlet.greenlet(self._live, self._hub.greenlet)
            self._receiver.switch()

    def _live(self) -> None:
        """The life of a coroutine: receive and handle, until another receives; then park, and receive again."""
        current = greenlet.getcurrent()
        self.coroutines += 1
        try:
            while not self.ended and self._receive(current):
                if self._receiver is current:
                    continue
                if len(self._parked) >= self.MAX_PARKED:
                    return
                self._parked.append(current)
                self._hub.switch()
        except greenlet.GreenletExit:  # it is not needed any more
            raise
        except BaseException as error:  # such as a Timeout that a handler has left behind
            logger.error("a coroutine was ended", exc_info=error)
            if current in self._parked:
                self._parked.remove(current)
            if self._receiver is current:
                self._handling = True
                if self._timer_since is None:
                    self._set_timer()
        finally:
            self.coroutines -= 1

    def _receive(self, current: greenlet.greenlet) -> bool:
        """One request. False once the connection gives no more."""
        if self._timer_since is not None and time.monotonic() - self._timer_since > TURN:
            eventlet.sleep(0)
        try:
            request = self._receive_request()
        except EOFError:
            self.ended = True
            while self._parked:  # they end as well: their thread may end before the process
                self._hub.schedule_call_global(0, self._parked.pop().switch)
            return False
        except Exception as error:
            self._survive.tell(error, "receiving failed; trying again")
            eventlet.sleep(0.1)
            return True
        if request is not None:
            self._handling, self._peer = True, cast(ServedPeer, request.peer)
            if self._timer_since is None:  # as _set_timer does, whose call would be one more for each request
                self._timer_since = time.monotonic()
                self._hub.schedule_call_global(0, self._hand_over)
            self._load.serve(self._peer, request)
            if self._load.waiting:
                self._load.serve_waiting()
            if self._receiver is current:
                self._handling = False
        elif self._timer_since is None:
            self._set_timer()
        return True


# ---- Live ------------------------------------------------------------------------------------------------------------
# Connections that live longer than an answer: streams of events, WebSockets, and the channels that feed many of them.
# What comes for a coroutine, or a thread, waits in a mailbox.


class _Pace:
    """Whether a client sends, or reads, as fast as it must: SLOWEST bytes a second, over each `seconds` (30 s of a
    server) in which it is waited for."""

    SLOWEST = 1 << 10

    __slots__ = ("_seconds", "_size", "left")

    def __init__(self, seconds: float) -> None:
        self._seconds, self._size = seconds, 0
        self.left = seconds  # to wait for the rest of the bytes

    def is_too_slow(self, began: float, size: int) -> bool:
        """The client was waited for since `began`, and so many bytes have come or gone: whether that is too slow."""
        self._size += size
        self.left -= time.monotonic() - began
        if self._size >= self.SLOWEST * self._seconds:
            self.left, self._size = self._seconds, 0
        return self.left <= 0


class _Closing:
    """What is closed at the end of its `with` block."""

    __slots__ = ()

    def __enter__(self: T) -> T:
        return self

    def __exit__(self, *exception: object) -> None:
        del exception  # what `close` raises holds this frame
        cast(Any, self).close()


class Mailbox(_Closing):
    """Messages for the one coroutine, or thread, that waits for them with this sleeper, or with one that it makes when
    it first waits. Their number is bounded where they come from: a channel drops a slow subscriber, `read_ahead` waits,
    a WebSocket receives no more."""

    MAX_VAIN = 100  # times that it is asked for more where no more come, before that is an error

    __slots__ = ("_in_vain", "_sleeper", "is_over", "messages")

    def __init__(self, sleeper: _Sleeper | _SleepingThread | None = None) -> None:
        self._sleeper = sleeper
        self.messages: deque[Any] = deque()
        self.is_over = False  # no more messages come
        self._in_vain = 0

    def put(self, message: Any) -> None:
        """Have a message wait."""
        self.messages.append(message)
        if self._sleeper is not None:
            self._sleeper.wake_soon()

    def get(self, timeout: float | None = None) -> Any:
        """The next message; None when there is none in time, or no more. RuntimeError for whoever asks on and on."""
        while not self.messages:
            if self._sleeper is None:
                self._sleeper = make_sleeper()
            elif self.is_over:
                self._in_vain += 1
                if self._in_vain > self.MAX_VAIN:  # a loop that never ends, and in which nothing is waited for
                    raise RuntimeError("no more messages come: leave the loop when this is None and the WebSocket is "
                                       "`closed`, or the subscription `is_over`; or write `for message in ...`")
                return None
            elif not self._sleeper.wait(timeout):
                return None
        return self.messages.popleft()

    def close(self) -> None:
        """Take no more messages."""
        self.is_over = True
        if self._sleeper is not None:
            self._sleeper.wake_soon()


def read_ahead(items: Iterator[Any], patience: float, size: int = 1) -> Generator[Any, None, None]:
    """The items of an iterator that runs in a coroutine of its own, `size` items ahead, so that the wait for an item
    has a limit: after each `patience` seconds without an item comes None. It must be closed: this ends the iterator
    wherever it stands, waits for its end, and raises what it raises then."""
    mailbox, space = Mailbox(_Sleeper()), _Sleeper()
    failures: list[BaseException] = []

    def run() -> None:
        try:
            for item in items:
                mailbox.put(item)
                while len(mailbox.messages) > size:
                    space.wait()
        except greenlet.GreenletExit:
            pass  # it was ended here: kept, the exception would keep its own frames
        except BaseException as error:
            failures.append(error)
        finally:
            mailbox.close()

    coroutine: Any = eventlet.spawn_n(contextvars.copy_context().run, run)
    try:
        while (item := mailbox.get(patience)) is not None or not mailbox.is_over:
            space.wake_soon()
            yield item
        if failures:
            raise failures.pop()
    finally:
        failures.clear()
        eventlet.kill(coroutine)
        while not coroutine.dead:  # the iterator waits for something as it ends, or goes on nevertheless
            mailbox.get()
            space.wake_soon()
        getattr(items, "close", tuple)()
        if failures:
            raise failures.pop()


class Event(NamedTuple):
    """A server-sent event: `data` (str; a dict or a list goes as JSON), `event` (its type), `id` (comes back as
    Last-Event-ID), `retry` (milliseconds until the client connects again)."""

    data: Any
    event: str | None = None
    id: str | None = None
    retry: int | None = None

    def encode(self) -> bytes:
        """The lines that are sent (HTML Standard, 9.2). ValueError for a control character in `event` or `id`, and for
        an `id` that would not come back as it is: beyond ASCII, or with blanks around."""
        lines = []
        for name, value in (("event", self.event), ("id", self.id), ("retry", self.retry)):
            if value is None:
                continue
            text = str(value)
            if CONTROLS.search(text):
                raise ValueError(f"the {name} of an event has a control character in it: {value!r}")
            if name == "id" and (not text.isascii() or text != text.strip(" ")):
                raise ValueError(f"the id of an event, a header field later, is ASCII without blanks around: {value!r}")
            lines.append(f"{name}: {text}\n")
        text = self.data if isinstance(self.data, str) else dump_json(self.data)
        lines += [f"data: {line}\n" for line in re.split(r"\r\n|\r|\n", text)]
        return ("".join(lines) + "\n").encode()


def encode_event(message: Any) -> bytes:
    """An Event, or what is to be the data of one, as it is sent; None: a comment, which no page sees."""
    if message is None:
        return b":\n\n"
    return (message if isinstance(message, Event) else Event(message)).encode()


class Subscription(Mailbox):
    """What a channel publishes from now on: iterate over it, in a `with` block or until `close`. A subscriber that
    leaves too many messages unread is dropped: then the messages end, and `was_dropped` is True."""

    def __init__(self, channel: Channel) -> None:
        super().__init__()  # `on_start` may subscribe, and a coroutine wait
        self._channel, self.was_dropped = channel, False
        channel.subscriptions.add(self)

    def put(self, message: Any) -> None:
        """Have a message wait. Where too many wait already, the subscription ends."""
        if len(self.messages) < self._channel.size:
            super().put(message)
        else:
            logger.warning("a subscriber of %r was too slow: dropped", self._channel)
            self.was_dropped = True
            self.close()

    def close(self) -> None:
        """Take no more messages."""
        self._channel.subscriptions.discard(self)
        super().close()

    def __iter__(self) -> Iterator[Any]:
        while self.messages or not self.is_over:
            if (message := self.get()) is not None:
                yield message


class Channel:
    """Delivers messages within this process: `publish` gives one to every subscription, and to every WebSocket that
    follows the channel. `size`: how many messages may wait for a subscriber; one that leaves more unread is dropped."""

    def __init__(self, size: int = 100) -> None:
        if not isinstance(size, int):
            raise TypeError(f"a Channel has a size, a number of messages, and no name: {size!r}")
        self.size = size
        self.subscriptions: set[Subscription] = set()
        self.followers: set[WebSocket] = set()

    def publish(self, message: Any) -> None:
        """Give a message (str, bytes, dict, list; Event for streams of events) to all, without waiting for any of them.
        Any thread may call it."""
        for subscription in [*self.subscriptions]:
            subscription.put(message)
        if self.followers:
            frame, hub = format_message(message.data if isinstance(message, Event) else message), _hub()
            groups: dict[Any, list[WebSocket]] = {}
            for follower in [*self.followers]:
                groups.setdefault((follower.push_to_many, follower.hub), []).append(follower)
            for (push_to_many, their_hub), followers in groups.items():
                if their_hub is hub:
                    push_to_many(followers, frame)
                else:
                    _calls_by_hub[their_hub].add(functools.partial(push_to_many, followers, frame))

    def subscribe(self) -> Subscription:
        """What is published from now on, to iterate over."""
        return Subscription(self)


def event_stream(source: Iterable[Any] | Channel, heartbeat: float = 15) -> Response:
    """The answer with a stream of server-sent events (HTML Standard, 9.2): those of an iterable or a channel, each an
    Event, or the data of one. After every `heartbeat` seconds of silence a comment shows proxies and clients that the
    stream lives (not under a foreign WSGI server). A client that is too slow for a channel gets an event "dropped", and
    the stream ends. The last event that a client saw is `request.headers.get("Last-Event-ID")`. TypeError for a source
    that is none."""
    if isinstance(source, (str, bytes, Mapping, Event)) or not isinstance(source, (Channel, Iterable)):
        raise TypeError(f"event_stream is given a list or an iterator of events, or a Channel, not {source!r}")
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return Response(_events(source, heartbeat), 200, headers, f"{EVENT_STREAM}; charset=utf-8")


def _events(source: Iterable[Any] | Channel, heartbeat: float) -> Iterator[bytes]:
    opening = encode_event(None)  # by which the head goes out, and the client knows that it is connected
    if isinstance(source, Channel):
        with source.subscribe() as subscription:  # before the client knows, for it may publish at once
            yield opening
            while not subscription.is_over:
                yield encode_event(subscription.get(heartbeat))
            if subscription.was_dropped:
                yield Event("too slow", "dropped").encode()
        return
    yield opening
    if in_coroutines():
        with contextlib.closing(read_ahead(iter(source), heartbeat)) as messages:
            yield from map(encode_event, messages)
    else:
        yield from map(encode_event, source)


def _push_to_each(websockets: Sequence[WebSocket], frame: bytes) -> None:
    for websocket in websockets:
        websocket.push(frame)


class WebSocket:
    """A WebSocket for the handler of `app.websocket`: iterate over it, or `receive`; `send`; `close`. `closed` is None,
    or the code and the reason with which it ended (1006: its client vanished). `request`: the one that opened it.

    A handler that is not receiving when its client leaves is ended a second later, and sees GreenletExit. A client that
    reads too slowly for what a channel publishes is closed with 1013; `send` waits for 30 seconds before it does so.
    """

    IDLE = 30.0  # seconds of silence until a ping is sent; after as many more the client has vanished
    PATIENCE = 30.0  # seconds that `send` waits for a slow client to read something
    MAX_UNSENT = 256 << 10  # bytes that wait for a client
    MAX_UNREAD = 64 << 10  # bytes of messages that wait for the handler, before no more are received
    _LEAST = 64  # bytes that each message counts for at least: else a client could send empty ones without end
    FAREWELL = 2.0  # seconds that the client has to answer a close

    def __init__(self, request: Request, limit: int) -> None:
        self.request = request
        self.closed: tuple[int, str] | None = None
        self.heard = time.monotonic()
        self.push_to_many: Callable[[Sequence[Any], bytes], None] = _push_to_each  # followers that share it
        self.hub: Any = eventlet.hubs.get_hub()
        self._limit, self._conversation = limit, Conversation(limit)
        self._reader, self._writer = _Sleeper(), _Sleepers()
        self._inbox, self._unread = Mailbox(self._reader), 0  # messages for the handler, and their bytes
        self._outbox = bytearray()  # what is to be sent
        self._pinged = 0.0
        self._pong = b""  # the answer to a ping that is still to be sent
        self._coroutine: greenlet.greenlet | None = None  # the handler's, until it knows of the end
        self._followed: list[Channel] = []

    # -- for handlers

    def receive(self, timeout: float | None = None) -> str | bytes | None:
        """The next message: str for a text, bytes for binary; None after `timeout` seconds, and once it is closed.
        RuntimeError for a loop that asks on and on then, and would hold up all other clients for ever."""
        if not self._inbox.messages and self._conversation.state is _CLOSE_RECEIVED:
            self._answer_close()
        message: str | bytes | None = self._inbox.get(timeout)
        if message is not None:
            self._unread -= max(len(message), self._LEAST)
            self._pace()
        elif self._inbox.is_over:
            self._learn_of_end()
        return message

    def __iter__(self) -> Iterator[str | bytes]:
        while (message := self.receive()) is not None:
            yield message

    def send(self, message: str | bytes | dict[str, Any] | list[Any]) -> None:
        """Send text, binary, or JSON as text. Waits where the client is slow; ConnectionError once it is closed."""
        frame = format_message(message) if self.closed is None else b""
        while len(self._outbox) > self.MAX_UNSENT and self.closed is None:
            if not self._writer.wait(self.PATIENCE):
                self.close(1013, "too slow")
        if self.closed is not None:
            self._learn_of_end()
            raise ConnectionError(f"the WebSocket is closed: {self.closed}")
        self._write(frame)

    def ping(self, payload: bytes = b"") -> None:
        """Ask the client for a sign of life. (The server does so by itself after 30 seconds of silence.)"""
        if len(payload) > 125:
            raise ValueError("the payload of a ping has at most 125 bytes")
        if self.closed is None:
            self._write(format_frame(PING, payload))

    def close(self, code: int = 1000, reason: str = "") -> None:
        """Close it with this code (RFC 6455, 7.4) and reason. ValueError for a code that may not be sent."""
        self._finish(self._conversation.close(code, reason))

    def follow(self, channel: Channel) -> None:
        """Send the client whatever the channel publishes, until the WebSocket is closed."""
        if self.closed is None:
            calls_of_threads()  # by which other threads publish to it
            self._followed.append(channel)
            channel.followers.add(self)

    # -- for channels and servers. A Conversation decides what may be said. Each server derives its WebSockets from this
    # class: they `take` what the client sends, `flush` the outbox, and by `_pace` receive no more while too much
    # is unread.

    def push(self, frame: bytes) -> None:
        """Send a frame without waiting: a client that has too much unread is closed."""
        if len(self._outbox) > self.MAX_UNSENT:
            self.close(1013, "too slow")
        elif self.closed is None:
            self._write(frame)

    def take(self, opcode: int, payload: bytes) -> None:
        """What the client sent: a whole message, or a control frame. ProtocolError as for `Conversation.hear`."""
        message, answer = self._conversation.hear(opcode, payload)
        if message is not None:
            self._inbox.put(message)
            self._unread += max(len(message), self._LEAST)
            self._pace()
        elif answer:
            self._pong = answer
            self._send_pong()
        elif opcode == CLOSE:
            if self._inbox.messages:  # which the handler may still want to answer
                call_soon(functools.partial(eventlet.spawn_n, self._answer_close), 1.0)  # it may wait for Mongrel2
            else:
                self._answer_close()
            self._writer.wake_soon()

    def refuse(self, code: int, reason: str) -> None:
        """Close it because its client broke a rule. Nothing more is expected from the client."""
        frame = self._conversation.close(code, reason)
        self._conversation.end()
        self._finish(frame)

    def resume(self) -> None:
        """The client can take more. Where something waits for it, that is a sign of life: it has read what was before,
        and answers a ping only when it has read the rest, too."""
        if self._outbox:
            self.heard = time.monotonic()
        self.flush()
        self._send_pong()

    def check(self, now: float) -> None:
        """Ask for a sign of life, or note that there was none: called once a second."""
        if self._unread >= self.MAX_UNREAD:
            self.heard = now  # it is we who do not listen
        silence = now - self.heard
        if self.closed is not None or silence < self.IDLE:
            return
        if silence > 2 * self.IDLE:
            self.vanish()
        elif self._pinged < self.heard:
            self._pinged = now
            self.ping()

    def vanish(self) -> None:
        """The client is gone, and has sent no close frame."""
        self._conversation.end()
        self.let_go()
        self._finish(b"")

    def converse(self, handler: Callable[..., Any], arguments: dict[str, Any]) -> None:
        """Have the handler talk, then close."""
        self._coroutine, code, reason = greenlet.getcurrent(), 1000, ""
        self._pace()
        try:
            if self.closed is None:
                handler(self, **arguments)
        except BaseException as error:
            if isinstance(error, HTTPError) and error.status < 500:  # what the client said, or left out
                code, reason = 1008, str(error.message).encode(errors="replace")[:123].decode(errors="ignore")
            elif self.closed is None or not isinstance(error, (ConnectionError, greenlet.GreenletExit)):
                code = 1011
                self.request.peer.note_error(error)
                logger.error("the WebSocket of %r failed", self.request, exc_info=error)
            if not self.request.peer.keeps_error:
                forget_frames(error)
        self._coroutine = None
        self.close(code, reason)
        self._inbox.messages.clear()
        self._unread = 0
        self._pace()
        self._await_farewell()

    def _await_farewell(self) -> None:
        """Wait until the client has got all that was sent, as long as it reads, and then for its answer to our close.
        One that was too slow already is not waited for as long, nor one that keeps the server from its end."""
        has_less = self.closed is not None and self.closed[0] in (1001, 1013)
        pace = _Pace(self.FAREWELL if has_less else self.PATIENCE)
        while self._outbox:
            began, unsent = time.monotonic(), len(self._outbox)
            self._writer.wait(pace.left)
            if self._outbox and pace.is_too_slow(began, unsent - len(self._outbox)):
                return
        deadline = time.monotonic() + self.FAREWELL
        while self._conversation.is_heard and time.monotonic() < deadline:
            self._writer.wait(self.FAREWELL)

    def _answer_close(self) -> None:
        if self._conversation.state is _CLOSE_RECEIVED:
            self._finish(self._conversation.answer_close())

    def _finish(self, frame: bytes) -> None:
        """The conversation is closed: send the frame that says so, if there is one, and have all who wait know."""
        self.closed = self._conversation.closed
        if frame:
            self._write(frame)
        self._writer.wake_soon()
        if self._inbox.is_over:
            return
        for channel in self._followed:
            channel.followers.discard(self)
        self._learn_of_end()
        if self._reader.sleeping is self._coroutine:  # the handler receives, and is about to hear of the end
            self._coroutine = None
        elif self._coroutine is not None:
            call_soon(self._end_coroutine, 1.0)
        self._inbox.close()

    def _learn_of_end(self) -> None:
        """The present coroutine knows of the end: where it is the handler's, it need not be ended."""
        if self._coroutine is greenlet.getcurrent():
            self._coroutine = None

    def _end_coroutine(self) -> None:
        if self._coroutine is not None:
            self._coroutine.throw(greenlet.GreenletExit)

    def let_go(self) -> None:
        """Neither send nor receive any more."""
        self._outbox.clear()

    def _send_pong(self) -> None:
        """Answer a ping, unless too much waits for the client: of several, then only the latest (RFC 6455, 5.5.3)."""
        if self._pong and len(self._outbox) <= self.MAX_UNSENT and self.closed is None:
            pong, self._pong = self._pong, b""
            self._write(pong)

    def _write(self, frame: bytes) -> None:
        is_first = not self._outbox
        self._outbox += frame
        if is_first:
            self.flush()

    def flush(self) -> None:
        """Send as much as the client takes."""
        raise NotImplementedError

    def _pace(self) -> None:
        """Receive only as long as not too much is unread."""
        raise NotImplementedError


# ---- Client ----------------------------------------------------------------------------------------------------------
# Tests without a server: a request becomes an environ, and what comes back is read as a client would. An answer that is
# read whole is made where the test runs, streams and WebSockets in a coroutine beside it. Nothing is patched.

_URL = re.compile(r"(https?)://([^/?#]+)((?:[/?].*)?)", re.DOTALL)


class Answer(_Closing):
    """What a test client got: `status`, `headers`, `body` (bytes), `text`, `json`; and the `request` as it was seen.
    With `stream=True` the body is still to come: iterate over its pieces, or its `events`; `close`, or the end of a
    `with` block, ends the handler's iterator as a client that leaves does. `response`: what the application returned.
    """

    def __init__(self, request: Request, pieces: Any, timeout: float) -> None:
        self.request, self._pieces, self._timeout = request, pieces, timeout
        self.response, status, fields = self._on_time(next(pieces))
        self.status, self.headers = int(status[:3]), ResponseHeaders(fields)

    @lazy
    def body(self) -> bytes:
        """The whole body, or what was not yet read of it."""
        return b"".join(self)

    @property
    def text(self) -> str:
        """The body as UTF-8."""
        return self.body.decode()

    @property
    def json(self) -> Any:
        """The body as JSON; ValueError if it is none."""
        return json.loads(self.body)

    def __iter__(self) -> Iterator[bytes]:
        return iter([self.body]) if "body" in self.__dict__ else map(self._on_time, self._pieces)

    def _on_time(self, piece: Any) -> Any:
        if piece is None:
            raise TimeoutError(f"the answer did not go on for {self._timeout} seconds")
        return piece

    def events(self) -> Iterator[Event]:
        """The server-sent events of the body, without its comments (HTML Standard, 9.2.6)."""
        unread = b""
        for piece in self:
            *blocks, unread = re.split(rb"\r\n\r\n|\n\n|\r\r", unread + piece)
            for block in blocks:
                lines = [line.partition(":") for line in re.split(r"\r\n|\n|\r", block.decode())]
                pairs = [(name, value.removeprefix(" ")) for name, _, value in lines]
                last, retry = dict(pairs), dict(pairs).get("retry", "")
                if "data" in last:
                    data = "\n".join(value for name, value in pairs if name == "data")
                    yield Event(data, last.get("event"), last.get("id"), int(retry) if retry.isdigit() else None)

    def raise_error(self) -> None:
        """Raise the exception behind a 500, if there is one."""
        error, self.request.peer.error = self.request.peer.error, None  # or each would keep the other
        try:
            if error is not None:
                raise error
        finally:
            del error

    def close(self) -> None:
        """Read no more."""
        self._pieces.close()

    def __repr__(self) -> str:
        return f"<Answer {self.status} to {self.request!r}>"


class _LocalWebSocket(WebSocket):
    """One of two ends in this process: the other takes what this one sends, unless it has too much unread."""

    other: _LocalWebSocket

    def flush(self) -> None:
        while self._outbox and self.other._unread < self.other.MAX_UNREAD:
            opcode, payload, size = parse_frame(self._outbox)
            del self._outbox[:size]
            try:
                self.other.take(opcode, payload)
            except ProtocolError as error:
                self.other.refuse(error.status, error.message)
        self._writer.wake_soon()

    def _pace(self) -> None:
        if self.other._outbox:
            call_soon(self.other.resume)


class WebSocketClient(_Closing):
    """A test's end of a WebSocket, in a `with` block that closes it: `send`, `receive`, iterate, `close`. `answer` is
    the 101, or what refused it."""

    def __init__(self, answer: Answer) -> None:
        response, self.answer = answer.response, answer
        self._end = _LocalWebSocket(answer.request, sys.maxsize)
        self._end.other = self._handler = _LocalWebSocket(answer.request, getattr(response, "max_message", 0))
        self._handler.other, self._handler.MAX_UNREAD = self._end, sys.maxsize
        if isinstance(response, Upgrade):
            self._coroutine = eventlet.spawn(self._handler.converse, response.handler, response.arguments)
            eventlet.sleep(0)  # the handler begins
        else:
            self.close(1006)

    @property
    def closed(self) -> tuple[int, str] | None:
        """None, or the code and the reason with which it ended: 1006 where it was refused."""
        return self._handler.closed

    def send(self, message: str | bytes | dict[str, Any] | list[Any]) -> None:
        """Send text, binary, or JSON as text, and let the handler go on. ConnectionError once it is closed."""
        if self.closed is not None:
            raise ConnectionError(f"the WebSocket is closed: {self.closed}, {self.answer!r}")
        self._end.send(message)
        eventlet.sleep(0)

    def receive(self, timeout: float = 10) -> str | bytes | None:
        """The next message; None once it is closed. TimeoutError after so many seconds."""
        message = self._end.receive(timeout)
        if message is None:
            if self._end.closed is None:
                raise TimeoutError(f"no message came in {timeout} seconds")
            self.answer.raise_error()
        return message

    def __iter__(self) -> Iterator[str | bytes]:
        while (message := self.receive()) is not None:
            yield message

    def close(self, code: int = 1000, reason: str = "") -> None:
        """Close it (with 1006: vanish without a close frame), and wait for the end of the handler."""
        if code == 1006:
            self._handler.vanish()
            self._end.vanish()
        else:
            self._end.close(code, reason)
        deque(self._end, 0)  # what was not received
        if self.answer.status == 101:
            self._coroutine.wait()
            self.answer.request.end()
            self.answer.request.app.await_spawned(10)
        self.answer.raise_error()


def _each(named: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """The pairs of a mapping, where a list stands for several with one name."""
    return [(name, each) for name, value in named.items() for each in (value if isinstance(value, list) else [value])]


def _environ_fields(headers: HeaderFields) -> dict[str, str]:
    """Header fields as an environ has them; without names with "_", as every server drops them."""
    fields: dict[str, str] = {}
    for name, value in headers.items() if isinstance(headers, Mapping) else headers:
        key = name.upper().replace("-", "_")
        key = key if key in ("CONTENT_TYPE", "CONTENT_LENGTH") else f"HTTP_{key}"
        if "_" not in name:
            fields[key] = f"{fields[key]}, {value}" if key in fields else str(value)
    return fields


def _with_method(
    request: Callable[Concatenate[Client, str, P], Answer], method: str
) -> Callable[Concatenate[Client, P], Answer]:
    """`Client.request` with this method. (From functools.partialmethod mypy learns neither arguments nor answer.)"""

    def wrapped(client: Client, /, *arguments: P.args, **named: P.kwargs) -> Answer:
        return request(client, method, *arguments, **named)

    return wrapped


class Client:
    """Asks an application in process: `client.get("/path")`, `client.post("/path", json={...})`, and so on; and talks
    with `client.websocket("/path")`. `cookies` are kept. `base_url`: the scheme and host of paths; `remote_addr`: the
    address it asks from; `timeout`: seconds until the next piece of a stream must have come, else TimeoutError."""

    BOUNDARY = "take-five-0f1e2d3c4b5a"
    MAX_REDIRECTS = 20

    def __init__(self, app: Brubeck, raise_errors: bool = False, base_url: str = "http://localhost",
                 remote_addr: str = "127.0.0.1", timeout: float = 10) -> None:  # fmt: skip
        self.app, self.raise_errors, self.base_url = app, raise_errors, base_url
        self.remote_addr, self.timeout = remote_addr, timeout
        self.cookies: dict[str, str] = {}

    def request(self, method: str, path: str, headers: HeaderFields = (), *, query: Mapping[str, Any] | None = None,
                data: bytes | str | Mapping[str, Any] = b"", json: Any = None, files: Mapping[str, Any] | None = None,
                follow: bool = False, stream: bool = False, raise_errors: bool | None = None) -> Answer:
        """Send one request. `path` may have a query, or be a whole address; `query` is added to it. `data` is the body,
        or the fields of a form; `json` a value to send as JSON; `files` by field: what is in each (bytes or a file
        object), or (filename, what is in it), or these and its content type. A list is several of one name. `follow`:
        go where redirects lead on this host. `stream`: return once the head has come, with the body to be read.
        `raise_errors=True`: the exception behind a 500 is raised here. RuntimeError after 20 redirects."""
        fields = _environ_fields(headers)
        body = self._encode(fields, data, json, files)
        path, _, _ = path.partition("#")  # no client sends a fragment
        url = path if _URL.fullmatch(path) else f"{self.base_url}/{path.removeprefix('/')}"
        if query:
            url += ("&" if "?" in url else "?") + urlencode(_each(query))
        for _ in range(self.MAX_REDIRECTS + 1):
            request = self._request(method, url, fields, body)
            request.peer.keeps_error = self.raise_errors if raise_errors is None else raise_errors
            answer = self._ask(request, stream)
            answer.raise_error()
            status, location = answer.status, answer.headers.get("Location")
            if not follow or location is None or status not in (301, 302, 303, 307, 308):
                return answer
            url = urldefrag(urljoin(answer.request.url, location)).url
            if urlsplit(url).netloc != answer.request.host:
                return answer
            answer.close()
            if (status == 303 and method != "HEAD") or (status < 303 and method == "POST"):  # WHATWG Fetch, 4.4
                method, body = "GET", b""
                fields.pop("CONTENT_TYPE", None)
        raise RuntimeError(f"more than {self.MAX_REDIRECTS} redirects, the last to {url}")

    get = _with_method(request, "GET")  # `request` with this method, as those of the names that follow
    head = _with_method(request, "HEAD")
    post = _with_method(request, "POST")
    put = _with_method(request, "PUT")
    patch = _with_method(request, "PATCH")
    delete = _with_method(request, "DELETE")
    options = _with_method(request, "OPTIONS")

    def websocket(self, path: str, headers: HeaderFields = (), *, raise_errors: bool | None = None) -> WebSocketClient:
        """Open a WebSocket, and let its handler begin. `headers` may have an Origin, and a Sec-WebSocket-Protocol.
        `raise_errors=True`: what the handler raised, but for an HTTPError below 500, is raised where the test receives
        the end."""
        handshake = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13",
                     "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="}  # fmt: skip
        path = re.sub(r"^ws(s?://)", r"http\1", path)
        return WebSocketClient(self.get(path, {**handshake, **dict(headers)}, raise_errors=raise_errors))

    def _encode(self, fields: dict[str, str], data: Any, json: Any, files: Mapping[str, Any] | None) -> bytes:
        """The body of a request, whose Content-Type is put into its fields."""
        if files is not None:
            fields["CONTENT_TYPE"] = f"multipart/form-data; boundary={self.BOUNDARY}"
            data = self._multipart(data if isinstance(data, Mapping) else {}, files)
        if isinstance(data, Mapping):
            fields.setdefault("CONTENT_TYPE", "application/x-www-form-urlencoded")
            data = urlencode(_each(data))
        if json is not None:
            fields.setdefault("CONTENT_TYPE", JSON)
            data = dump_json(json)
        return data.encode() if isinstance(data, str) else bytes(data)

    def _multipart(self, fields: Mapping[str, Any], files: Mapping[str, Any]) -> bytes:
        def quoted(name: str) -> str:  # as browsers do (HTML Standard, multipart/form-data encoding algorithm)
            return '"' + re.sub(r'["\r\n]', lambda character: quote(character[0]), name) + '"'

        form = [(quoted(name), value if isinstance(value, bytes) else str(value).encode())
                for name, value in _each(fields)]  # fmt: skip
        for name, file in _each(files):
            own_name = os.path.basename(getattr(file, "name", name))
            filename, content, *kind = file if isinstance(file, tuple) else (own_name, file)
            more = f"\r\nContent-Type: {kind[0]}" if kind else ""
            content = content.read() if hasattr(content, "read") else content
            if not (isinstance(filename, str) and isinstance(content, (bytes, bytearray, memoryview))):
                form_of_it = "bytes or a binary file, or (filename, one of these)"
                raise TypeError(f"the file {name!r} is {form_of_it}, not {file!r}")
            form.append((f"{quoted(name)}; filename={quoted(filename)}{more}", bytes(content)))
        begin = f"--{self.BOUNDARY}\r\nContent-Disposition: form-data; name="
        parts = [f"{begin}{head}\r\n\r\n".encode() + content for head, content in form]
        return b"\r\n".join([*parts, f"--{self.BOUNDARY}--\r\n".encode()])

    def _request(self, method: str, url: str, fields: dict[str, str], body: bytes) -> WSGIRequest:
        scheme, host, target = cast("re.Match[str]", _URL.fullmatch(url)).groups()
        path, _, query = target.partition("?")
        environ = {
            "REQUEST_METHOD": method.upper(), "SCRIPT_NAME": "", "PATH_INFO": unquote_to_bytes(path).decode("latin-1"),
            "QUERY_STRING": query.encode().decode("latin-1"), "SERVER_PROTOCOL": "HTTP/1.1",
            "SERVER_NAME": "localhost", "SERVER_PORT": "80", "HTTP_HOST": host, "REMOTE_ADDR": self.remote_addr,
            "CONTENT_LENGTH": str(len(body)) if body else "", "wsgi.input": io.BytesIO(body),
            "wsgi.errors": sys.stderr, "wsgi.version": (1, 0), "wsgi.url_scheme": scheme,
            "wsgi.multithread": False, "wsgi.multiprocess": False, "wsgi.run_once": False,
        }  # fmt: skip
        if self.cookies:
            environ["HTTP_COOKIE"] = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        request = WSGIRequest({**environ, **fields})
        request.peer.loopback = ""  # no network leads here
        return request

    def _ask(self, request: WSGIRequest, stream: bool) -> Answer:
        self.app.call_on_start()
        exchange = self._exchange(request)
        answer = Answer(request, read_ahead(exchange, self.timeout, 2) if stream else exchange, self.timeout)
        if not stream:
            with answer:
                answer.body = b"".join(answer)
        for cookie in [value for name, value in answer.headers.pairs() if name.lower() == "set-cookie"]:
            name, _, value = cookie.partition(";")[0].partition("=")
            if re.search("(?i);[ \t]*max-age=[0-]", cookie):
                self.cookies.pop(name, None)
            else:
                self.cookies[name] = value
        return answer

    def _exchange(self, request: WSGIRequest) -> Iterator[Any]:
        """The Response with the status and the fields that are sent, then the pieces of the body."""
        context, spawned = contextvars.copy_context(), {*self.app.spawned}
        response = context.run(self.app.handle, request)
        if isinstance(response, Upgrade):
            response.handler = functools.partial(context.run, response.handler)
            yield response, "101", response.fields(request)[2:]  # without Upgrade and Connection
            return
        head: list[Any] = [response]
        pieces = self.app.answer_wsgi(request, response, lambda *given: head.extend(given), context)
        try:
            yield head
            yield from pieces
        finally:
            getattr(pieces, "close", tuple)()
            if not self.app.await_spawned(self.timeout, spawned):
                raise TimeoutError(f"what the request has spawned did not end in {self.timeout} seconds")


# ---- Servers ---------------------------------------------------------------------------------------------------------
# The sockets, inside run(): connections to Mongrel2, the HTTP server, and what a process does around them. Eventlet's
# hub watches the descriptors of both; what waits for one is a coroutine.


def fail(message: str) -> NoReturn:
    """End a program that cannot start: one line that says what to do, exit status 2."""
    print(f"brubeck_lite: {message}", file=sys.stderr)
    raise SystemExit(2)


def refuse_windows() -> None:
    """SystemExit 2 on Windows, which lacks most of what the servers need, after a line that says what to do."""
    if os.name == "nt":
        fail("the servers do not run on Windows: use WSL, or a WSGI server like waitress (waitress-serve MODULE:app)")


class Ending:
    """What SIGTERM and SIGINT do in this process from now on, until `close`. While the process starts, a signal ends it
    at once (SystemExit 0 in the main thread). Later the first signal sets `is_asked`, and a second one ends the process
    at once.

    A thread of its own ends the process DEADLINE seconds after the first signal, whatever the main thread waits for: a
    handler that computes, a C call, a function of `on_stop`, or the interpreter's exit, which joins threads and pools
    of processes.
    """

    DEADLINE = 10.0  # seconds for everything; a worker has half a second less, so that its parent need not kill it
    START = 1.0  # seconds for the same while the process starts
    SIGNALS = (signal.SIGTERM, signal.SIGINT)

    def __init__(self, is_worker: bool = False) -> None:
        self.is_starting, self.is_worker = True, is_worker
        self.last_acts: list[Callable[[], object]] = []  # called before the process is ended from the thread
        self.deadline = math.inf  # until a signal comes
        self._before = {number: signal.signal(number, self._on_signal) for number in self.SIGNALS}
        if is_worker:
            # A terminal sends its signals to all processes of a group. The parent decides when a worker ends, and then
            # sends it SIGTERM.
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
        reading, self._writing = os.pipe()
        os.set_blocking(self._writing, False)
        self._wakeup = signal.set_wakeup_fd(self._writing, warn_on_full_buffer=False)
        self._is_open, self._mask = True, set[int | signal.Signals]()
        self._exit_began = _unpatched("threading").Event()
        os.register_at_fork(before=self._hold, after_in_parent=self._let_go, after_in_child=self._leave_to_parent)
        # The thread must not look for `poll` while the main thread imports eventlet. It is not one of the module
        # `threading`, which forgets its threads when eventlet patches it.
        self._poll = _unpatched("select").poll
        _unpatched("_thread").start_new_thread(self._watch, (reading,))

    @property
    def is_asked(self) -> bool:
        """Whether the process is to end."""
        return self.deadline < math.inf

    def _ask(self) -> None:
        if not self.is_asked:
            seconds = self.START if self.is_starting else self.DEADLINE
            self.deadline = time.monotonic() + seconds - (0.5 if self.is_worker else 0.0)

    def _on_signal(self, number: int, frame: Any) -> None:
        self._ask()
        if self.is_starting:
            raise SystemExit(0)

    def complete(self, function: Callable[[], object]) -> None:
        """Call a function of the start that a signal must not interrupt: SystemExit 0 comes after it instead."""
        self.is_starting = False
        function()
        self.is_starting = True
        if self.is_asked:
            raise SystemExit(0)

    def _watch(self, reading: int) -> None:
        """Learn of signals by the bytes that Python writes for them, for the main thread may not run meanwhile."""
        poll, count = self._poll(), 0
        poll.register(reading, select.POLLIN)
        while poll.poll(max(0.0, self.deadline - time.monotonic()) * 1000 if self.is_asked else None):
            try:
                numbers = os.read(reading, 100)
            except OSError:
                return  # the program has closed all descriptors
            if not numbers:  # `close`
                poll.unregister(reading)
                os.close(reading)
                if not self.is_asked:
                    return
            count += sum(number in self.SIGNALS for number in numbers)
            if count > 1 and not self.is_worker:
                self.end_now()
            if count:
                self._ask()
        if self._is_open or self._exit_began.is_set():
            self._end_late()

    def _end_late(self) -> NoReturn:
        poll = self._poll()
        poll.register(2, select.POLLOUT)
        if poll.poll(0):  # this thread must neither use `logging`, which eventlet has patched, nor wait
            with contextlib.suppress(OSError):
                os.write(2, b"brubeck_lite: the process did not end in time after a signal: ended by force\n")
        self.end_now()

    def end_now(self) -> NoReturn:
        """End the process with status 0, and the processes of its pools, which would stay for ever."""
        try:
            for act in self.last_acts:
                act()
            if "multiprocessing" in sys.modules:
                for child in sys.modules["multiprocessing"].active_children():
                    child.kill()
        finally:
            os._exit(0)

    def close(self) -> None:
        """Have signals do what they did before. Where one has come, the process still ends by the deadline if the
        interpreter's exit begins before it."""
        self._is_open = False
        signal.set_wakeup_fd(self._wakeup)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self.is_asked:
            # The interpreter's exit calls this before it joins threads and pools, and before `atexit`. Eventlet has put
            # that of its own copy of `threading` here, which knows nothing of what is registered with this one.
            own: Any = threading
            shutdown = own._shutdown
            own._shutdown = lambda: (self._exit_began.set(), shutdown())
        with contextlib.suppress(OSError):
            os.close(self._writing)

    # A forked process, such as the child of a pool, begins with the signal handlers and descriptors of this one, where
    # a signal to it would count as one to the server. Signals are held back until the child has its own handlers:
    # SIGTERM ends it, and Ctrl-C is ignored, for it is the server that ends, and its handlers may need the child.

    def _hold(self) -> None:
        self._mask = signal.pthread_sigmask(signal.SIG_BLOCK, self.SIGNALS)

    def _let_go(self) -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)

    def _leave_to_parent(self) -> None:
        if self._is_open:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            self._is_open = False
        self._let_go()


class _Bell(_Sleeper):
    """Wakes the one coroutine that waits to read from a descriptor. The hub's listener stays from one wait to the next,
    for registering one costs more than most handlers do."""

    __slots__ = ("_descriptor", "_listener")

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._listener: Any = None

    def wait(self, seconds: float | None = None) -> bool:
        """Wait for something to read. A ZeroMQ descriptor tells of news once: its socket must have answered EAGAIN just
        before (ZMQ_FD)."""
        if self._listener is None:
            self._listener = self._hub.add("read", self._descriptor, self._ring, self._ring, lambda: None)
        return super().wait(seconds)

    def _ring(self, *_: Any) -> None:
        sleeping, self.sleeping = self.sleeping, None
        if sleeping is None:
            self.close()  # nobody reads for now, and the hub would ring for ever
            return
        try:
            sleeping.switch()
        except BaseException:  # of the coroutine: the hub lets go of a descriptor whose function raises
            self.close()
            raise

    def close(self) -> None:
        """Take the listener away: always before the descriptor is closed."""
        if self._listener is not None:
            with contextlib.suppress(KeyError):  # the hub has let go of it: the program closed the descriptor
                self._hub.remove(self._listener)
            self._listener = None


# -- Mongrel2: a pair of sockets for each of its lives, what seeks and leaves it, its peers, and what serves them. A
# life lasts from the moment when Mongrel2 and we are connected until either of us ends.

_ADDRESS = re.compile(r"tcp://(?:\[[0-9A-Fa-f:.]+\]|[0-9A-Za-z_][0-9A-Za-z_.-]*):([0-9]{1,5})|ipc://(\S.*)|inproc://\S+")
_NOTICE = re.compile(rb"\S+ (2[0-9]{9}) @\* ")  # that a connection with an id beyond all real ones has left

# The one addition to Mongrel2's protocol, between the workers of a parent and the parent, which plays Mongrel2 to them.
# A worker puts MARK before its last reply to each request, so that the parent knows which requests have no answer yet.
# Where a request gets no reply, or the worker did not know that a reply was the last, the worker puts MARK before an
# extended reply without arguments, `SENDER LEN:X ID, `, which the parent does not pass on. There is one MARK for every
# message of Mongrel2, except for frames of WebSockets and for Mongrel2's notices about a connection ("@*").
MARK = b"\1"


def _is_readable(socket: zmq.Socket[Any]) -> bool:
    return bool(int(socket.getsockopt(zmq.EVENTS)) & zmq.POLLIN)


class _Monitor:
    """Follows the one connection of a ZeroMQ socket: whether it stands, and whether it has ended (zmq_socket_monitor).
    """

    def __init__(self, own: zmq.Socket[Any]) -> None:
        self.descriptor: int | None = None  # of the TCP connection, once that stands
        self.is_ready = self.is_over = False  # ZMTP's handshake is done; the connection has ended, or cannot be made
        self._own = own
        self._events = own.get_monitor_socket(
            zmq.EVENT_CONNECTED | zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_CONNECT_RETRIED | zmq.EVENT_CLOSED
            | zmq.EVENT_DISCONNECTED | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
            | zmq.EVENT_HANDSHAKE_FAILED_AUTH)  # fmt: skip

    def look(self) -> _Monitor:
        """Take in what has happened."""
        while not self.is_over and _is_readable(self._events):
            event, value = struct.unpack("=HI", self._events.recv_multipart()[0])
            if event == zmq.EVENT_CONNECTED:
                self.descriptor = value
            elif event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                self.is_ready = True
            else:
                self.is_over = True
        return self

    def close(self) -> None:
        self._own.disable_monitor()
        self._events.close(0)


class _Notices:
    """Mongrel2's notices for a message that we send to 128 ids which no connection has. For each of these ids Mongrel2
    sends its handlers, in turn, a notice that the connection has left. Mongrel2's only thread does nothing else
    meanwhile, and before each notice it parses the message's arguments again. These are a list of empty dicts, which
    takes more time than anything else of that length."""

    DICTS = 2000  # in the arguments: the notices take a tenth of a second
    FASTEST = 0.2e-6  # seconds that Mongrel2 needs to parse a dict, at the least

    def __init__(self) -> None:
        self.first_id = 2_000_000_000 + secrets.randbelow(1_000_000) * MAX_TARGETS  # real ones count from 1
        self.heard: list[tuple[int, float]] = []  # the notices that came here: their numbers, and when they came
        self.sent = time.monotonic()

    def take(self, message: bytes, now: float) -> bool:
        """Whether a message is one of these notices."""
        match = _NOTICE.match(message)
        number = -1 if match is None else int(match[1]) - self.first_id
        if 0 <= number < MAX_TARGETS:
            self.heard.append((number, now))
        return 0 <= number < MAX_TARGETS

    def delay(self) -> float:
        """Seconds until the first notice came, behind all that was on its way before it."""
        return self.heard[0][1] - self.sent

    def are_over(self) -> bool:
        """Whether no more notices come here: the number of the next would be too high, or it does not come in time."""
        if len(self.heard) > 1 and 2 * self.heard[-1][0] - self.heard[-2][0] >= MAX_TARGETS:
            return True
        return bool(self.heard) and time.monotonic() > self.heard[-1][1] + 0.2

    def dict_time(self) -> float:
        """Seconds that Mongrel2 needs to parse a dict of the arguments 128 times. The notices show that by their times,
        unless all came at once because a thread of ZeroMQ, which carries them, had to wait for its turn."""
        (first, began), (last, ended) = self.heard[0], self.heard[-1]
        is_known = len({at for _, at in self.heard}) >= 4
        each = (ended - began) / (last - first) / self.DICTS if is_known else 0.0
        return MAX_TARGETS * max(each, self.FASTEST)


class _Life:
    """One pair of sockets, from the subscription of a Mongrel2 until either end is gone. It never reconnects: in a new
    Mongrel2 the ids begin at 1 again, and an answer of one life must not reach a client of the next."""

    CREDIT = 102_400  # bytes: the credit of each client, in all versions of Mongrel2
    CONNECTING = 5.0  # seconds for a TCP connection to stand
    SUBSCRIPTION = 0.25  # seconds that Mongrel2 has to subscribe, before it gets the PULL nevertheless
    LEAVING = 4.0  # seconds to leave in
    DICTS = 6000  # dicts whose parsing keeps Mongrel2 busy while we leave: for 0.3 seconds or more
    PAUSE = 0.1  # seconds that it must be busy at the least, beside twice the delay of what it sends
    MARGIN = 0.05  # seconds until Mongrel2 surely knows that our connection has ended

    def __init__(self, mongrel2: _Mongrel2) -> None:
        self.mongrel2, self.alive = mongrel2, True
        self.last_mark = MARK if mongrel2.is_played else b""  # stands before the last reply to each request
        self.peers: MutableMapping[bytes, _Mongrel2Peer] = {}  # by connection id
        self.credit: float = self.CREDIT  # bytes that may be on their way to each client: without flow control no limit
        self.has_credits: bool | None = None  # whether Mongrel2 has flow control; None: it has not shown that yet
        self.bell: _Bell | None = None  # what waits for messages in a coroutine
        self.senders: set[bytes] = set()  # whose requests came: `check_sender` has looked at them
        self.left: deque[bytes] | None = None  # once Mongrel2 was left: its messages that are still to be handled
        self._prefixes: set[bytes] = set()  # of senders to which Mongrel2 takes replies
        self._since = time.monotonic()  # when the latest of the connections was begun
        self._pull_at = math.inf  # when to begin that of the PULL, whether Mongrel2 has subscribed or not
        self._has_pull = False  # that is done
        context = mongrel2.context
        self.pub, self.pull = context.socket(zmq.XPUB), context.socket(zmq.PULL)
        # With these options the XPUB receives the end of the subscription when Mongrel2 goes, and a full queue raises
        # EAGAIN where it would lose a reply. A Mongrel2 that ends closes its connections. A Mongrel2 or a network that
        # hangs is given up after a minute; a parent is never given up while its process is there.
        own = {zmq.IMMEDIATE: 1, zmq.XPUB_VERBOSER: 1, zmq.XPUB_NODROP: 1, zmq.RECONNECT_IVL: -1}
        if not mongrel2.is_played:
            own |= {zmq.HEARTBEAT_IVL: 10_000, zmq.HEARTBEAT_TIMEOUT: 60_000}
        # The PULL waits 12 days before it reconnects. With -1, for never, it would throw away the messages that are not
        # read yet when its connection ends. It has no heartbeat, for that would end the connection once we have closed
        # our half of it; probes of TCP find out whether the other end is there.
        theirs = {zmq.RECONNECT_IVL: 1 << 30, zmq.TCP_KEEPALIVE: 1, zmq.TCP_KEEPALIVE_IDLE: 30,
                  zmq.TCP_KEEPALIVE_INTVL: 10, zmq.TCP_KEEPALIVE_CNT: 6}  # fmt: skip
        for each, options in ((self.pub, own), (self.pull, theirs)):
            for option, value in {**options, zmq.LINGER: 0, zmq.IPV6: 1}.items():
                each.setsockopt(option, value)
            if mongrel2.identity is not None:
                each.setsockopt_string(zmq.IDENTITY, mongrel2.identity)
        self._pub_monitor, self._pull_monitor = _Monitor(self.pub), _Monitor(self.pull)
        self.pub.connect(mongrel2.pub)

    def begin(self) -> bool:
        """Whether Mongrel2 has subscribed and both connections stand. The PULL is connected after the subscription, so
        that no reply is sent before it. But a Mongrel2 that has a message and no handler waits for a PULL before it
        subscribes: so the PULL is connected a quarter of a second after the XPUB's connection stands in any case."""
        now = time.monotonic()
        self._read_subscriptions()
        if self._pub_monitor.look().is_ready:
            self._pull_at = min(self._pull_at, now + self.SUBSCRIPTION)
        if not self._has_pull and (self._prefixes or now >= self._pull_at):
            self._has_pull, self._since = True, now
            self.pull.connect(self.mongrel2.pull)
        return bool(self._prefixes) and self._pull_monitor.look().is_ready

    def has_failed(self) -> bool:
        """Whether it cannot begin: a connection has ended, or does not stand in time. A connection that stands is not
        given up, for the PULL's may have brought requests; ZeroMQ itself ends it where the handshake takes 30 seconds.
        """
        latest = self._pull_monitor if self._has_pull else self._pub_monitor
        is_late = latest.descriptor is None and time.monotonic() > self._since + self.CONNECTING
        return is_late or self._pub_monitor.is_over or self._pull_monitor.is_over

    def may_hold_requests(self) -> bool:
        """Whether Mongrel2 may have dealt something to it."""
        return self._pull_monitor.look().descriptor is not None

    def _read_subscriptions(self) -> None:
        while _is_readable(self.pub):
            notice = self.pub.recv()
            (self._prefixes.add if notice[:1] == b"\x01" else self._prefixes.discard)(notice[1:])

    def has_ended(self) -> bool:
        """Whether Mongrel2 took its subscription back or, unless we have left it, let go of the PULL."""
        self._read_subscriptions()
        return not self._prefixes or (self.left is None and self._pull_monitor.look().is_over)

    def leave(self) -> None:
        """Have Mongrel2 deal nothing more to this pair of sockets. The messages that it has dealt are in `left` then;
        the XPUB stays, for their answers. This call blocks the process for about half a second, and for LEAVING at
        most.

        No message tells a PUSH to stop. When we end our half of its connection, the PUSH drops the messages that it has
        not yet written, and deals more into the dying connection until it looks at its mailbox. So there must be a time
        in which Mongrel2 sends nothing: it begins when all that Mongrel2 sent before has arrived, we end our half in
        it, and it lasts until some time after Mongrel2's half has ended."""
        self.left, deadline = deque(), time.monotonic() + self.LEAVING
        notices, quiet_until = self._begin_pause(deadline)
        has_gone, descriptor = self._pull_monitor.look().is_over, self._pull_monitor.descriptor
        if not has_gone and descriptor is not None:
            with contextlib.suppress(OSError), socket.socket(fileno=os.dup(descriptor)) as connection:
                connection.shutdown(socket.SHUT_WR)
        is_quiet = True
        while not self._pull_monitor.look().is_over and time.monotonic() < deadline:
            is_quiet = self._read_ahead(notices) and is_quiet
        is_late = time.monotonic() + self.MARGIN > quiet_until
        if not (self._read_ahead(notices) and is_quiet) or (is_late and not has_gone):
            logger.warning("could not pause Mongrel2 at %s while this process left it: requests that came in this "
                           "moment may be lost", self.mongrel2.pull)  # fmt: skip

    def _begin_pause(self, deadline: float) -> tuple[_Notices, float]:
        """Keep Mongrel2 busy, so that it sends nothing. Returns the notices, and the time at which that ends: 0 where
        it cannot be done before the deadline.

        Two messages are sent. The notices for the first show when all that Mongrel2 sent before has arrived, and how
        fast Mongrel2 works. The second has arrived by the last of these notices: for the time that follows from its
        length Mongrel2 works on it, and sends no notice. From the first notice on Mongrel2 sends nothing else."""
        dicts, delay = self.DICTS, math.inf
        while True:
            notices, is_quiet = _Notices(), True
            self._reply_to_nobody(notices, {"": [{}] * notices.DICTS}, deadline)
            self._reply_to_nobody(notices, {"cancel": 1, "": [{}] * dicts}, deadline)
            while not notices.are_over():
                is_quiet = self._read_ahead(notices) and is_quiet
                if time.monotonic() > deadline or self._pull_monitor.look().is_over:
                    return notices, 0.0
            seconds, delay = dicts * notices.dict_time(), min(delay, notices.delay())
            if is_quiet and seconds >= self.PAUSE + 2 * delay:
                return notices, notices.heard[-1][1] + seconds
            if seconds < self.PAUSE + 2 * delay:
                dicts = min(2 * dicts, 8 * self.DICTS)

    def _read_ahead(self, notices: _Notices) -> bool:
        """Wait two milliseconds for messages, and put them into `left`. Whether none came behind the first notice."""
        if not self.pull.poll(2):
            return True
        is_quiet, now = True, time.monotonic()
        with contextlib.suppress(zmq.Again):
            for _ in range(10_000):
                message = self.pull.recv(zmq.NOBLOCK)
                if not notices.take(message, now):
                    cast("deque[bytes]", self.left).append(message)
                    is_quiet = is_quiet and not notices.heard
        return is_quiet

    def _reply_to_nobody(self, notices: _Notices, arguments: Any, deadline: float) -> None:
        ids = range(notices.first_id, notices.first_id + MAX_TARGETS)
        (message,) = format_extended_reply(min(self._prefixes, default=b"") or b"0", ids, "ctl", arguments)
        while time.monotonic() < deadline:
            try:
                self.pub.send(message, zmq.NOBLOCK)
                return
            except zmq.Again:  # Mongrel2 is behind
                self._read_ahead(notices)

    def hear_credit(self, request: Mongrel2Request) -> None:
        """Note the credit that the first request of a connection tells."""
        if (credit := request.text("DOWNLOAD_CREDITS")).isdigit():
            self.set_credit(int(credit))

    def set_credit(self, credit: float) -> None:
        """Note how many bytes may be on their way to each client; infinity where Mongrel2 has no flow control."""
        self.credit, self.has_credits = credit, credit < math.inf
        for peer in self.peers.values():
            peer.credit = min(peer.credit, credit) if self.has_credits else credit

    def check_sender(self, sender: bytes) -> None:
        """Log an error where Mongrel2 will not receive the replies to requests of this sender."""
        if not sender.startswith(tuple(self._prefixes)):
            name, *prefixes = (repr(each.decode("latin-1")) for each in (sender, *sorted(self._prefixes)))
            heard = ", ".join(prefixes)
            logger.error("no reply will arrive: Mongrel2 sends requests as %s but listens at %s for replies to %s "
                         "only; set recv_ident='' in its Handler", name, self.mongrel2.pub, heard)  # fmt: skip
        if len(self.senders) < 1000:
            self.senders.add(sender)

    def send(self, message: bytes) -> bool:
        """Send a reply; wait while Mongrel2 cannot take it. False where Mongrel2 is gone, and the client with it: then
        the reply is dropped and counted."""
        while self.alive:
            try:
                self.pub.send(message, zmq.NOBLOCK)
                return True
            except zmq.Again:
                self.mongrel2.sleep(0.005)
                if self.alive and self.has_ended():
                    break
        self.mongrel2.dropped += 1
        return False

    def mark(self, sender: bytes, conn_id: bytes) -> None:
        """Tell the parent of this worker, if it has one, that no more replies come to a request of this connection."""
        if self.last_mark:
            self.send(b"%b%b %d:X %b, " % (MARK, sender, len(conn_id) + 2, conn_id))

    def close(self, linger: int) -> None:
        """Drop both sockets with all that they hold; replies still have `linger` milliseconds to be sent."""
        self.alive = False
        for peer in [*self.peers.values()]:
            peer.forget()
        if self.bell is not None:
            self.bell.wake_soon()
            self.bell.close()
        for monitor in (self._pull_monitor, self._pub_monitor):
            monitor.close()
        self.pull.close(0)
        self.pub.close(linger)


class _Mongrel2:
    """The Mongrel2 at a pair of addresses: connects to it, again after each of its ends, and leaves it. A server, a
    script and the parent of workers each have one. `is_played`: it is a parent that plays Mongrel2."""

    SILENCE = 0.5  # seconds until the log says that we wait

    def __init__(self, context: zmq.Context[Any], pull: str, pub: str, identity: str | None,
                 sleep: Callable[[float], None] = time.sleep, is_played: bool = False) -> None:  # fmt: skip
        self.context, self.pull, self.pub, self.identity = context, pull, pub, identity
        self.sleep, self.is_played = sleep, is_played
        self.life: _Life | None = None  # the present one
        self.dropped = 0  # replies to clients of lives that had ended
        self.coming: _Life | None = None  # the next one, whose connections do not stand yet
        self._since: float | None = None  # when it was first sought
        self._has_complained = False

    def move(self, pull: str, pub: str) -> None:
        """In a worker: its parent plays Mongrel2 at these addresses from now on. Answers of handlers that began in a
        former life are still counted here."""
        self.pull, self.pub, self.identity, self.is_played = pull, pub, None, True

    def seek(self) -> _Life | None:
        """Connect to Mongrel2: the life that begins just now, or None. To be called again and again."""
        now = time.monotonic()
        self._since = self._since or now
        try:
            coming = self.coming = self.coming or _Life(self)
        except zmq.ZMQError as error:  # too many files are open
            self._complain(logging.ERROR, "cannot connect to Mongrel2 at %s and %s for now: %s", error)
            return None
        if coming.begin():
            if not self.is_played:
                logger.info("connected to Mongrel2: requests from %s, replies to %s", self.pull, self.pub)
            self.life, self.coming, self._since, self._has_complained = coming, None, None, False
            return coming
        if coming.has_failed():
            self.close()
        if now > self._since + self.SILENCE and not self.is_played:
            self._complain(logging.INFO, "waiting for Mongrel2 at %s and %s")
        return None

    def _complain(self, level: int, message: str, *arguments: Any) -> None:
        if not self._has_complained:
            self._has_complained = True
            logger.log(level, message, self.pull, self.pub, *arguments)

    def lose(self) -> None:
        """The present life has ended: drop its sockets with all they hold."""
        if not self.is_played:
            logger.warning("Mongrel2 at %s is gone", self.pull)
        self.close()

    def leave(self, is_heard: Callable[[], bool], deadline: float) -> bool:
        """Have Mongrel2 deal nothing more, as soon as no answer that has begun needs its messages (`is_heard`), and at
        the deadline in any case. Whether that is done, and all that it has dealt was received."""
        is_late = time.monotonic() >= deadline
        if self.life is None:
            if self.coming is not None and self.coming.may_hold_requests() and not is_late:
                return False  # it may begin, and then what it holds is to be answered
            self.close()
            return True
        if self.life.left is None:
            if not is_late and is_heard():
                return False
            self.life.leave()
        return not self.life.left

    def close(self, linger: int = 0) -> None:
        """Drop the present life, and the next one. `linger`: see `_Life.close`."""
        lives, self.life, self.coming = (self.life, self.coming), None, None
        for life in lives:
            if life is not None:
                life.close(linger)


def check_upload_store(folder: str | os.PathLike[str], name: str = "") -> None:
    """OSError where files cannot be taken away from the folder of Mongrel2's uploads, or this one cannot be read."""
    if not os.path.isdir(folder):
        raise FileNotFoundError(errno.ENOENT, "there is no such folder", os.fspath(folder))
    path = os.path.join(folder, name)
    for each, mode in ((folder, os.W_OK | os.X_OK), (path, os.R_OK)):
        if os.path.lexists(each) and not os.access(each, mode):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), os.fspath(each))


# What to do where the above fails.
UPLOAD_ADVICE = ("upload_store names the folder of its upload.temp_store; where it runs as another user, set its "
                 "'upload.temp_store_mode': '0660', and give the folder a group of both: chgrp GROUP, chmod 2770")


def find_upload_problems(app: Brubeck) -> Iterator[str]:
    """Why no upload can be taken from the folder that the application names for them."""
    try:
        if app.upload_store is not None:
            check_upload_store(app.upload_store)
    except OSError as error:
        yield f"{error}: {UPLOAD_ADVICE}"


class _Upload:
    """A body that Mongrel2 is writing to a file."""

    __slots__ = ("_limit", "_pace", "_seen", "path", "request")

    def __init__(self, request: Mongrel2Request, path: str, limit: int, patience: float) -> None:
        self.request, self.path = request, path
        self._limit, self._pace = limit, _Pace(patience)
        self._seen: tuple[int, float] | None = None  # how many bytes there were, and when that was

    def has_failed(self) -> bool:
        """Whether it comes too slowly, or is too large (the size of a chunked body is not known before): then the
        request has the refusal. OSError where its file is gone: another handler got the file, or heard that the client
        has left."""
        size, now = os.path.getsize(self.path), time.monotonic()
        before, since = self._seen or (size, now)
        self._seen = size, now
        if self._pace.is_too_slow(since, size - before):
            self.request.refused = HTTPError(408, "the body comes too slowly")
        elif size > self._limit:
            self.request.content_length = size  # by which it is over the limit
        else:
            return False
        return True

    def remove(self) -> None:
        with contextlib.suppress(OSError):
            os.unlink(self.path)


class _Mongrel2Peer(ServedPeer):
    """A client's connection to one life of a Mongrel2, as long as something on it is outstanding: requests, which are
    handled one after the other, an upload that is on its way, or a WebSocket. Nothing is kept between two requests: a
    client that asks again has read the last answer, so its credit is full.

    With `download.flow_control`, the first request of a connection says how many bytes may be on their way to the
    client: its credit. Mongrel2 ends a connection to which more are sent. When the client has read, Mongrel2 sends a
    notice that gives the bytes back."""

    FILE_PIECE = 256 << 10  # bytes of a file in one message
    PROBE = 1000  # bytes of an answer that are sent first where it is not known whether Mongrel2 has flow control
    MAX_JOINED = 64 << 20  # bytes of what goes in one message: to a message socket, and files without flow control
    # Requests that wait for the answer to the first, the bytes of their bodies beside one body, and as how many bytes
    # an upload counts, for its file is open.
    MAX_PIPELINED, MAX_WAITING, UPLOADED = 100, 4 << 20, 1 << 20

    __slots__ = ("__weakref__", "_spent", "_target", "conn_id", "credit", "is_closing", "is_marked", "life", "requests",
                 "sender", "server", "sleeper", "upload", "websocket")  # fmt: skip

    def __init__(self, server: Any, life: _Life, sender: bytes, conn_id: bytes, request: Mongrel2Request) -> None:
        super().__init__(server.load, *request.origin)
        self.server, self.life, self.sender, self.conn_id = server, life, sender, conn_id
        self._target = b"%b %d:%b, " % (sender, len(conn_id), conn_id)  # before each reply
        self.requests: deque[Mongrel2Request] = deque()  # that have no answer yet, the present one first
        self.upload: _Upload | None = None  # of the request that comes next
        self.websocket: _Mongrel2WebSocket | None = None
        self.credit = life.credit  # bytes that may be sent; -1 once the client is gone
        self._spent = 0  # bytes that were sent to the present request by pieces
        self.sleeper: _Sleeper | None = None  # what waits for credit
        self.is_closing = False  # the connection ends with the present answer
        self.is_marked = False  # the parent of this worker was told that the present request is answered

    # -- what comes from Mongrel2

    def hear(self, notice: Mongrel2Request) -> None:
        """Take a notice of Mongrel2 about this connection."""
        if b'"disconnect"' in notice.body:
            self.forget()
        elif (credit := notice.text("DOWNLOAD_CREDITS")).isdigit() and not self.is_gone:
            self.credit = min(self.credit + int(credit), self.life.credit)  # some is of an answer before this peer
            if self.sleeper is not None:
                self.sleeper.wake_soon()
            if self.websocket is not None:
                self.websocket.resume()

    def take_frame(self, frame: Mongrel2Request) -> None:
        """Give a frame to the WebSocket; where there is none, the connection is closed."""
        flags = frame.text("FLAGS")
        if self.websocket is None or not re.fullmatch("0x[0-9A-Fa-f]{1,2}", flags):
            self.close()
            return
        self.websocket.heard = time.monotonic()
        try:
            first = int(flags, 16)
            check_opcode(first)
            self.websocket.take(first & 0x0F, frame.body)
        except ProtocolError as error:
            self.websocket.refuse(error.status, str(error))

    def forget(self) -> None:
        """The client is gone: end the coroutine, the WebSocket and the upload that are for it alone."""
        self.life.peers.pop(self.conn_id, None)
        self.requests.clear()
        self.is_gone, self.credit = True, -1
        if self.coroutine is not None:
            call_soon(self.end_coroutine)
        if self.websocket is not None:
            self.websocket.vanish()
        if self.upload is not None:
            self.upload.remove()
        if self.sleeper is not None:
            self.sleeper.wake_soon()

    def holds_too_much(self) -> bool:
        """Whether too many requests, or too large ones, wait for the answer to the first: as its answer may have no
        end, so may their wait."""
        waiting = itertools.islice(self.requests, 1, len(self.requests) - 1)
        held = sum(self.UPLOADED if each.upload else len(each.octets) for each in waiting)
        return held > self.MAX_WAITING or len(self.requests) > self.MAX_PIPELINED + 1

    def needs_news(self) -> bool:
        """Whether something is under way that needs messages of Mongrel2: a WebSocket, an upload, or an answer of which
        a part is sent."""
        return self.websocket is not None or self.upload is not None or self.credit != self.life.credit

    # -- what goes to Mongrel2

    def reply(self, payload: bytes) -> bool:
        """Send a payload to the client as it is; an empty one closes the connection. False where Mongrel2 is gone."""
        return self.life.send(self._target + payload)

    def skip(self) -> None:
        """Give a request no answer."""
        self.life.mark(self.sender, self.conn_id)
        if not self.requests and self.upload is None:
            self.life.peers.pop(self.conn_id, None)

    def close(self) -> None:
        """Have Mongrel2 close the connection; the requests that are outstanding on it get no answer."""
        outstanding = len(self.requests) - self.is_marked + (self.upload is not None)
        self.forget()
        self.reply(b"")
        for _ in range(outstanding):
            self.life.mark(self.sender, self.conn_id)

    def next_request(self) -> Mongrel2Request | None:
        if self._spent > self.life.credit:
            self._await_end()
        self.request = None  # its peer is this object: such a circle would wait for the garbage collector
        if self.life.peers.get(self.conn_id) is not self:
            return None  # the client is gone
        if self.is_closing:
            self.close()
            return None
        if not self.is_marked:
            self.life.mark(self.sender, self.conn_id)  # which waits where the parent is behind
            if self.is_gone:
                return None
        self.is_marked, self._spent = False, 0
        requests = self.requests
        requests.popleft()
        if requests:
            return requests[0]
        if self.upload is None:
            del self.life.peers[self.conn_id]
        return None

    def keep_open(self, request: Mongrel2Request) -> bool:
        self.is_closing = self.is_closing or not (request.keep_alive and request.is_whole)
        return not self.is_closing

    @property
    def takes_streams(self) -> bool:  # type: ignore[override]
        return bool(self.life.has_credits)

    def allow_stream(self) -> None:
        if self.life.has_credits is None and self.request.version == "HTTP/1.1":
            self.reply(b"HTTP/1.1 100 Continue\r\n\r\n")
            self._find_credit()
        if not self.life.has_credits and not self.is_gone:
            raise RuntimeError(f"Mongrel2 at {self.life.mongrel2.pull} does not say how much its clients take, which "
                               "streams need: set 'download.flow_control': 1 in its settings")  # fmt: skip

    def send_answer(self, head: bytes, body: bytes) -> bool:
        if len(head) > self.server.LARGE_COOKIES:
            self.server.warn_of_cookies(head)
        payload = head + body
        size = len(payload)
        if size > self.credit:
            return self.send(payload)
        self.credit -= size
        self.is_marked = not self.is_closing
        mark = self.life.last_mark if self.is_marked else b""
        return self.life.send(b"%b%b%b" % (mark, self._target, payload))

    def send_message(self, body: bytes | Pieces) -> int:
        payload = body if isinstance(body, bytes) else self._joined(body)
        if payload:
            self.reply(payload)
        return len(payload)

    def _joined(self, pieces: Pieces) -> bytes:
        """The pieces of a streamed body as one; ValueError beyond MAX_JOINED, for an answer is never cut."""
        joined = bytearray()
        with contextlib.closing(pieces):
            for piece in pieces:
                joined += piece
                if len(joined) > self.MAX_JOINED:
                    raise ValueError(f"an answer to a message socket has at most {self.MAX_JOINED} bytes")
        return bytes(joined)

    def send(self, data: bytes) -> bool:
        return self._send_all(len(data), io.BytesIO(data).read)

    def send_file(self, pieces: FilePieces) -> bool:
        def read(size: int) -> bytes:
            piece = pieces.peek(min(size, self.FILE_PIECE if self.life.credit < math.inf else self.MAX_JOINED))
            pieces.left -= len(piece)
            return piece

        return self._send_all(pieces.left, read)

    def _send_all(self, size: int, read: Callable[[int], bytes]) -> bool:
        """Send so many bytes, which `read` gives, as the client gets credit for them. False where the client is gone,
        or reads too slowly: then its connection is closed."""
        if not self.life.alive:
            self.life.mongrel2.dropped += 1
        pace = None
        if size > self.credit and self.life.has_credits is None:
            size -= self.send_some(self.PROBE, read)
            self._find_credit()
        while size and not self.is_gone:
            began = time.monotonic()
            count = self.send_some(size, read)
            size -= count
            if not size:
                break
            pace = pace or _Pace(self.server.PATIENCE)
            if not count:
                self._await_credit(pace.left)
            if pace.is_too_slow(began, count) and not self.is_gone:
                logger.warning("the client of %r reads too slowly: closed", self.request)
                self.abort()
        return not self.is_gone

    def send_some(self, size: int, read: Callable[[int], bytes]) -> int:
        """Send as many bytes as there is credit for, which `read` gives; how many that is."""
        size = int(max(0, min(size, self.credit)))
        if not size:
            return 0
        piece = read(size)
        self.credit -= len(piece)
        self._spent += len(piece)
        self.reply(piece)
        return len(piece)

    def _find_credit(self) -> None:
        """Find out whether Mongrel2 has flow control. It says so in the first request of each connection, but that may
        have come to a handler before this one. Something was sent just now: with flow control, a notice comes that
        gives its bytes back."""
        deadline = time.monotonic() + 1
        while self.life.has_credits is None and not self.is_gone and (left := deadline - time.monotonic()) > 0:
            self._await_credit(left)
        if self.life.has_credits is None and not self.is_gone:
            self.life.set_credit(math.inf)

    def _await_credit(self, seconds: float) -> None:
        """Wait until the client gets credit, or has left, for so many seconds at most: Mongrel2 may have sent that
        notice to another handler."""
        self.leave_pool()
        self.sleeper = _Sleeper()
        try:
            self.sleeper.wait(seconds)
        finally:
            self.sleeper = None

    def _await_end(self) -> None:
        """Wait until the client has read all, or reads too slowly. Mongrel2 goes on from one part to the next only
        while there is a handler to which it can send the credit."""
        pace = _Pace(self.server.PATIENCE)
        while not self.is_gone and (before := self.credit) < self.life.credit:
            began = time.monotonic()
            self._await_credit(pace.left)
            if pace.is_too_slow(began, int(self.credit - before)):
                break

    def abort(self) -> None:
        self.is_gone, self.is_closing, self.credit = True, True, -1

    def open_websocket(self, request: Mongrel2Request, response: Upgrade) -> int:
        if self.server.is_stopping:  # it would go on for as long as clients come back at once
            raise HTTPError(503, headers={"Retry-After": "1"})
        self.websocket, self.is_closing = _Mongrel2WebSocket(self, request, response.max_message), True
        try:
            if self.send(format_head(101, response.fields(request), True)):
                self._find_credit()
                converse(self.websocket, response)
        finally:
            self.websocket, self._spent = None, 0  # `next_request` is not to wait until the client has read all
        return 0


class _Mongrel2WebSocket(WebSocket):
    """A WebSocket behind Mongrel2, which unmasks and joins the frames, and sends each message to us in one."""

    MAX_LEFT = 4 << 20  # bytes of messages, beside one message, that may wait: no message tells Mongrel2 to stop

    def __init__(self, peer: _Mongrel2Peer, request: Mongrel2Request, limit: int) -> None:
        super().__init__(request, limit)
        self.peer, self._is_flushing = peer, False
        self.push_to_many = _push_by_mongrel2

    def can_spend(self, size: int) -> bool:
        """Take so many bytes from the client's credit, to send them; False where it has not as many."""
        if self._outbox or self.peer.credit < size:
            return False
        self.peer.credit -= size
        return True

    def flush(self) -> None:
        if self._is_flushing:  # another coroutine waits until Mongrel2 takes it, and goes on with the rest
            return
        outbox, self._is_flushing = self._outbox, True
        try:
            while outbox and (size := self.peer.send_some(len(outbox), lambda size: bytes(outbox[:size]))):
                del outbox[:size]
                self._writer.wake_soon()
        finally:
            self._is_flushing = False

    def _pace(self) -> None:
        if self._unread > self.MAX_LEFT + self._limit:
            self.close(1013, "too much is unread")


def _deliver(targets: Iterable[tuple[_Life, str | bytes, str | bytes]], form: Callable[..., list[bytes]]) -> int:
    """Send the messages that `form(sender, conn_ids)` makes to connections, each given as its life, sender and id; one
    message is for 128 of them. Returns how many messages were dropped, because their Mongrel2 is gone."""
    together: dict[tuple[_Life, str | bytes], list[str | bytes]] = {}
    for life, sender, conn_id in targets:
        together.setdefault((life, sender), []).append(conn_id)
    sent = [life.send(each) for (life, sender), conn_ids in together.items() for each in form(sender, conn_ids)]
    return sent.count(False)


def _push_by_mongrel2(websockets: Sequence[_Mongrel2WebSocket], frame: bytes) -> None:
    """Send a frame to many WebSockets without waiting: one message for 128 of them, and others for those whose clients
    have no credit."""
    ready = []
    for websocket in websockets:
        if websocket.can_spend(len(frame)):
            ready.append((websocket.peer.life, websocket.peer.sender, websocket.peer.conn_id))
        else:
            websocket.push(frame)
    _deliver(ready, lambda sender, conn_ids: format_reply(sender, conn_ids, frame))


class Mongrel2Server:
    """Serves the clients of one Mongrel2, or in a worker what its parent deals of it, for one `run()`."""

    CHECK = 0.1  # seconds between looks at whether Mongrel2 is still there
    PING = 1.0  # seconds between messages by which Mongrel2 keeps connections that wait
    LARGE_HEAD, LARGE_COOKIES = 3500, 2500  # bytes of a head; of cookies, with which a browser's head is as large

    def __init__(self, connection: Mongrel2Connection) -> None:
        self.PATIENCE = connection.PATIENCE
        self._addresses = connection.pull, connection.pub, connection.identity
        self._context: zmq.Context[Any] = zmq.Context()
        self._mongrel2 = _Mongrel2(self._context, *self._addresses)  # in a worker, until the parent has named another
        self.load: Load = cast(Load, None)  # until `start`
        self.is_shared = False  # with other workers, by a parent
        self.is_stopping = False
        self._deadline: float | None = None  # when to stop receiving
        self._early = set[_Mongrel2Peer]()  # with requests that came before the stop: their answers may be large
        self._receivers: Receivers | None = None
        self._told: set[str] = set()  # warnings
        self._is_checking, self._survive = False, Survivor()
        self._next_check = self._next_ping = self._turn = 0.0

    # -- receiving

    def receive(self) -> Mongrel2Request | None:
        """The next request to be handled, with its peer; None where another message came. Waits for messages; EOFError
        where no more will come."""
        while True:
            life = self._mongrel2.life or self._begin_life()
            if self._deadline is not None:
                self._leave(life, self._deadline)
            try:
                message = life.left.popleft() if life.left else life.pull.recv(zmq.NOBLOCK)
            except zmq.Again:
                self._idle(life)
                continue
            parts = message.split(b" ", 3)
            is_notice = parts[2:3] == [b"@*"]
            try:
                if not is_notice:
                    return self._take(life, parts, read_mongrel2(message))
                if not life.has_credits and b"DOWNLOAD_CREDITS" in message:
                    life.set_credit(life.CREDIT)
                if peer := life.peers.get(parts[1]):  # none after most answers, when the credits for them come
                    peer.hear(parse_mongrel2(message))
            except ProtocolError as error:
                logger.warning("%s sent a message that is no request (%s): %.100r", self._addresses[0], error, message)
                if len(parts) == 4 and not is_notice:
                    life.mark(parts[0], parts[1])

    def _take(self, life: _Life, parts: Sequence[bytes], request: Mongrel2Request) -> Mongrel2Request | None:
        """Give a message to its peer. Returns the request where it can be handled now: another request of the
        connection comes first, and so does the rest of an upload."""
        sender, conn_id, _, rest = parts
        if sender not in life.senders:
            life.check_sender(sender)
        if len(rest) > self.LARGE_HEAD and (size := len(rest) - len(request.octets)) > self.LARGE_HEAD:
            self._warn_of_heads("a head", size)
        if (peer := life.peers.get(conn_id)) is None:
            if not life.has_credits and b"DOWNLOAD_CREDITS" in rest:  # as in the first request of each connection
                life.hear_credit(request)
            peer = life.peers[conn_id] = _Mongrel2Peer(self, life, sender, conn_id, request)
        if request.method == "WEBSOCKET":
            peer.take_frame(request)
            self._turn = give_turn(self._turn)
        elif request.upload is None or self._take_upload(peer, request):
            request.peer = peer
            peer.requests.append(request)
            if len(peer.requests) == 1:
                return request
            if peer.holds_too_much():
                logger.warning("more than %d requests wait on one connection, or %d bytes of bodies: closed",
                               peer.MAX_PIPELINED, peer.MAX_WAITING)  # fmt: skip
                peer.close()
        return None

    def _begin_life(self) -> _Life:
        """The next life of Mongrel2, as soon as that is there, or a parent has named one."""
        while (life := self._mongrel2.seek()) is None:
            if self._deadline is not None and (
                self.is_shared or self._mongrel2.leave(lambda: False, self._deadline)
            ):
                raise EOFError("the connection is closed")
            eventlet.sleep(0.01 if self._mongrel2.coming else self.CHECK)
        return life

    def _idle(self, life: _Life) -> None:
        """There is no message now: see whether Mongrel2 is still there, and wait for one."""
        now = time.monotonic()
        if now >= self._next_check:
            self._next_check = now + self.CHECK
            if life.has_ended():
                life.mongrel2.lose()
                return
        if life.bell is None:
            life.bell = _Bell(cast(int, life.pull.getsockopt(zmq.FD)))
        life.bell.wait()

    def _leave(self, life: _Life, deadline: float) -> None:
        """Leave Mongrel2 as soon as no peer needs its messages, nor may need them for an answer to an early request;
        EOFError once all its messages were taken."""
        if life.left is None and not self.is_shared:
            eventlet.sleep(0)  # a peer that was just given credit sends more of its answer
        is_soon = time.monotonic() < deadline - Server.DRAIN / 2
        is_heard = lambda: any(peer.needs_news() or (is_soon and peer in self._early)  # noqa: E731
                               for peer in life.peers.values())  # fmt: skip
        if self.is_shared or life.mongrel2.leave(is_heard, deadline):
            if life.bell is not None:
                life.bell.close()  # what is not received would ring it for ever
            raise EOFError("the connection is closed")

    # -- uploads

    def _take_upload(self, peer: _Mongrel2Peer, request: Mongrel2Request) -> bool:
        """Whether to handle now a request whose body goes to a file: the body is there, or is refused."""
        app = self.load.app
        if app.upload_store is None:
            self._tell_once("refused the body of %r: Mongrel2 writes chunked bodies, and those over its "
                            "limits.content_length, to files, which stay until you name the folder of its "
                            "upload.temp_store by --upload-store or Brubeck(upload_store=)", request)  # fmt: skip
            request.refuse_body()
            if request.upload_is_there:  # it was answered already, when the upload began
                peer.skip()
            return not request.upload_is_there
        name = os.path.basename(cast(str, request.upload))
        path = os.path.join(app.upload_store, name)
        try:
            if request.upload_is_there:
                if peer.upload is not None:
                    peer.upload = None
                    peer.life.mark(peer.sender, peer.conn_id)  # for the message with which the upload began
                request.receive_upload(path)
                return True
            request.refused = None
            limit = app.body_limit(request)
            if request.content_length > limit:
                return True
            check_upload_store(app.upload_store, name)
        except OSError as error:
            self._refuse_upload(request, error, path)
            return True
        peer.upload = _Upload(request, path, limit, self.PATIENCE)
        return False

    def _refuse_upload(self, request: Mongrel2Request, error: OSError, path: str) -> None:
        """Answer 500 where the file of an upload cannot be used. Mongrel2 itself removes a file that is not whole."""
        request.refused, request.is_whole = error.with_traceback(None), False
        if isinstance(error, (FileNotFoundError, PermissionError)):
            is_lost = isinstance(error, FileNotFoundError)  # also where this Mongrel2 was given up meanwhile
            request.refused = HTTPError(503, "the body was lost") if is_lost else HTTPError(500, "it cannot be read")
            self._tell_once("cannot take the file of an upload from Mongrel2: %s: %s", error, UPLOAD_ADVICE)
            if request.upload_is_there and os.path.lexists(path):
                self._tell_once("files of uploads stay in %s: this process may not remove them", os.path.dirname(path))

    def _check_upload(self, peer: _Mongrel2Peer, upload: _Upload) -> None:
        """End an upload that is not as it should be, and forget one whose file is gone."""
        try:
            has_failed = upload.has_failed()
        except OSError:
            peer.upload = None
            peer.skip()
            return
        if has_failed and peer.requests:
            peer.close()  # their answers come before the refusal (RFC 9112, 9.3.2), and the file would grow until then
        elif has_failed:
            peer.upload, upload.request.peer = None, peer
            peer.requests.append(upload.request)
            eventlet.spawn_n(self.load.serve, peer, upload.request)

    # -- warnings

    def warn_of_cookies(self, head: bytes) -> None:
        """Log a warning where an answer sets cookies that will make the next head of a browser large."""
        size = sum(len(cookie.partition(b";")[0]) for cookie in re.findall(rb"\r\nSet-Cookie: (.*)", head))
        if size > self.LARGE_COOKIES:
            self._warn_of_heads("cookies", size)

    def _warn_of_heads(self, what: str, size: int) -> None:
        """Log what happens to heads that are larger still: Mongrel2 answers them with 400, and no handler gets them."""
        self._tell_once("%s of %d bytes: Mongrel2 answers heads over 4,096 bytes with 400, unless its "
                        "limits.buffer_size is larger, as in --print-mongrel2-config", what, size)  # fmt: skip

    def _tell_once(self, message: str, *arguments: Any) -> None:
        """Log a warning, the first time that it comes up."""
        if message not in self._told:
            self._told.add(message)
            logger.warning(message, *arguments)

    # -- inside run()

    def adopt(self, addresses: Sequence[str] | None) -> None:
        """Take the messages that the parent of this worker deals. `addresses`: those of the Mongrel2 that the parent
        plays, for one life of the real one; None: no more messages will come."""
        self.is_shared = True
        if addresses is None:
            self._deadline = 0.0
            self._wake()
            return
        self._mongrel2.close()
        self._mongrel2.move(*addresses)
        deadline = time.monotonic() + 2
        while self._receivers is None and self._mongrel2.seek() is None and time.monotonic() < deadline:
            eventlet.sleep(0.005)  # while the process starts: it is connected when it says that it is ready

    def _wake(self) -> None:
        """Wake the coroutine that receives, so that it looks again."""
        if (life := self._mongrel2.life) is not None and life.bell is not None:
            life.bell.wake_soon()

    def open(self) -> None:
        """Nothing to do before the application starts: the coroutine that receives connects to Mongrel2."""

    def start(self, load: Load) -> None:
        """Receive, in coroutines, and answer."""
        self.load = load
        self._mongrel2.sleep = eventlet.sleep
        self._receivers = Receivers(self.receive, load)
        for problem in find_upload_problems(load.app):
            logger.warning("uploads from Mongrel2 will fail: %s", problem)

    def _peers(self) -> list[_Mongrel2Peer]:
        life = self._mongrel2.life
        return [] if life is None else [*life.peers.values()]

    def stats(self) -> Stats:
        """The figures of this connection. Any thread may call it."""
        peers = self._peers()
        return {"dropped": self._mongrel2.dropped,
                "coroutines": 0 if self._receivers is None else self._receivers.coroutines,
                "websockets": sum(peer.websocket is not None for peer in peers), "connections": len(peers),
                "queues": {"credit": sum(peer.sleeper is not None for peer in peers)}}  # fmt: skip

    def has_ended(self) -> bool:
        """Whether no more requests will come from it."""
        return self._receivers is None or self._receivers.ended

    def check(self) -> None:
        """Ten times a second: have the coroutine that receives see whether Mongrel2 is still there. Look after the
        peers in another coroutine, which waits while Mongrel2 is behind."""
        self._wake()
        if not self._is_checking:
            self._is_checking = True
            eventlet.spawn_n(self._look_after)

    def _look_after(self) -> None:
        self._survive(self._check_peers)
        self._is_checking = False

    def _check_peers(self) -> None:
        """Look after uploads and WebSockets, and have Mongrel2 keep the connections that wait for an answer."""
        peers, now = self._peers(), time.monotonic()
        for peer in peers:
            if peer.upload is not None:
                self._check_upload(peer, peer.upload)
        if self.is_stopping:
            say_goodbye([peer.websocket for peer in peers if peer.websocket is not None], peers)
        if now < self._next_ping:
            return
        self._next_ping = now + self.PING
        # Mongrel2 ends connections on which nothing happens for long, unless it gets this message.
        wanted = [(peer.life, peer.sender, peer.conn_id) for peer in peers if peer.requests]
        _deliver(wanted, functools.partial(format_extended_reply, name="ctl", arguments={"keep-alive": 1}))
        for peer in peers:
            if peer.websocket is not None:
                peer.websocket.check(now)

    def finish_receiving(self, seconds: float) -> None:
        """Leave Mongrel2 as soon as no peer needs its messages, after `seconds` at the latest. `receive` gives out what
        Mongrel2 has dealt until then, and after that raises EOFError."""
        if not self.is_shared:
            self._deadline = time.monotonic() + seconds  # a parent says by itself when no more messages come
        self._early = {*self._peers()}
        self.is_stopping = True
        self.check()

    def close(self) -> None:
        """Close the sockets. Replies that are not sent yet have a second for that."""
        for peer in self._peers():
            peer.upload = None  # Mongrel2 goes on with it, and another process gets its end
            if peer.requests:
                peer.close()
            else:
                peer.skip()
        if self._receivers is not None:
            self._receivers.ended = True
        self._mongrel2.close(1000)
        self._context.destroy(1000)


class Mongrel2Connection:
    """A Mongrel2 with `pull` for its `send_spec` and `pub` for its `recv_spec` (like tcp://127.0.0.1:9999).

    Mongrel2 may start later, end, and come back. In a script `recv()` blocks the thread, as pyzmq does; inside `run()`
    only a coroutine waits. Only one thread may use it. `identity`: the ZeroMQ identity of the sockets. ValueError where
    something is no address.
    """

    PATIENCE = 30.0  # seconds for a client to read more of its answer, or to send more of its upload
    load: Any = None  # only a server has one

    def __init__(self, pull: str, pub: str, identity: str | None = None) -> None:
        for address in (pull, pub):
            match = _ADDRESS.fullmatch(address)
            if match is None or int(match[1] or 0) > 65535 or len((match[2] or "").encode()) > 107:  # sun_path, unix(7)
                raise ValueError(f"not an address: {address!r} (it is like tcp://127.0.0.1:9999 or ipc://run/requests, "
                                 "whose path has at most 107 bytes)")  # fmt: skip
        self.pull, self.pub, self.identity = pull, pub, identity
        self.dropped = 0  # replies to clients of a Mongrel2 that is gone
        self._mongrel2: _Mongrel2 | None = None  # of a script that receives by itself
        self._is_closed = False

    def make_server(self) -> Mongrel2Server:
        """The server for one `run()`, with these settings."""
        return Mongrel2Server(self)

    def recv(self) -> Mongrel2Request:
        """The next request, or Mongrel2's next notice about a connection (path "@*"). Messages that are not Mongrel2's
        protocol are logged and left out. EOFError once the connection was closed."""
        while not self._is_closed:
            if self._mongrel2 is None:
                self._mongrel2 = _Mongrel2(zmq.Context(), self.pull, self.pub, self.identity)
            mongrel2 = self._mongrel2
            if (life := mongrel2.life) is None:
                if (life := mongrel2.seek()) is None:
                    time.sleep(0.01 if mongrel2.coming else 0.1)
                    continue
                life.peers = weakref.WeakValueDictionary()  # a script does not say when it is done with a request
            try:
                message = life.pull.recv(zmq.NOBLOCK)
                request = parse_mongrel2(message)
            except zmq.Again:
                if life.has_ended():
                    mongrel2.lose()
                else:
                    life.pull.poll(100)
            except ProtocolError as error:
                logger.warning("%s sent a message that is no request (%s): %.100r", self.pull, error, message)
            else:
                self._note(life, request)
                return request
        raise EOFError("the connection is closed")

    def _note(self, life: _Life, request: Mongrel2Request) -> None:
        """Give a request its peer, and a notice of Mongrel2 to its peer."""
        sender, conn_id = request.sender.encode(), request.conn_id.encode()
        if sender not in life.senders:
            life.check_sender(sender)
        peer = life.peers.get(conn_id)
        if request.is_message and request.path == "@*":
            if peer is not None:
                peer.hear(request)
        elif peer is None:
            peer = life.peers[conn_id] = _Mongrel2Peer(self, life, sender, conn_id, request)
        if peer is not None:
            request.peer = peer

    def reply(self, request: Mongrel2Request, payload: bytes) -> None:
        """Send `payload` as it is to the client of this request, by the sockets that the request came from. If that
        Mongrel2 is gone, its client is gone, too: the reply is dropped and counted. An empty payload closes the
        connection."""
        self.deliver([request], payload)

    def deliver(self, requests: Iterable[Mongrel2Request], payload: bytes) -> None:
        """Send `payload` to the clients of all these requests, 128 in one message."""
        targets = []
        for request in requests:
            if isinstance(peer := request.peer, _Mongrel2Peer):
                targets.append((peer.life, request.sender, request.conn_id))
            elif self._mongrel2 is not None and self._mongrel2.life is not None:  # it was made by hand
                targets.append((self._mongrel2.life, request.sender, request.conn_id))
            else:
                self.dropped += 1
        self.dropped += _deliver(targets, lambda sender, conn_ids: format_reply(sender, conn_ids, payload))

    def close_client(self, request: Mongrel2Request) -> None:
        """Have Mongrel2 close the connection of this client, once it has sent what it holds for it."""
        self.reply(request, b"")

    def close(self) -> None:
        """Close the sockets. Replies that are not sent yet have a second for that."""
        self._is_closed = True
        if self._mongrel2 is not None:
            self._mongrel2.close(1000)
            self._mongrel2.context.destroy(1000)
            self._mongrel2 = None


# -- the HTTP server: one poller for all connections; workers share the listening socket

# Linux, socket(7): a program of the classic BPF that drops packets of TCP with SYN and without ACK (RFC 9293, 3.1).
SO_ATTACH_FILTER = 26
_NO_SYN = ((0x30, 0, 0, 13), (0x54, 0, 0, 0x12), (0x15, 0, 1, 0x02), (0x06, 0, 0, 0), (0x06, 0, 0, 0xFFFFFFFF))
_BIND = re.compile(r"unix:(.+)|fd:([0-9]{1,9})|(?:(\[[^\s\]]+\]|[^\s:/\[\]]*):)?([0-9]{1,5})")


class Listener:
    """A socket that accepts connections, at "HOST:PORT", "[IPV6]:PORT", ":PORT" or "PORT" (both at every IPv4 address;
    [::] is every address), or at "unix:PATH", whose file gets the permissions `mode`; or "fd:NUMBER", a socket that
    listens already, by its descriptor. `option` is named in the line that says why it cannot listen. ValueError for an
    invalid address or mode. Eventlet has not patched the socket."""

    BACKLOG = 2048

    def __init__(self, address: str, mode: int = 0o666, option: str = "--bind or run(bind=...)",
                 scheme: str = "http") -> None:  # fmt: skip
        match = _BIND.fullmatch(address) if isinstance(address, str) else None
        if match is None or int(match[4] or 0) > 65535:
            raise ValueError(f"not an address: {address!r} (it is like 127.0.0.1:80, [::1]:80, :80, unix:/run/hello or "
                             "fd:3)")  # fmt: skip
        if not 0 <= mode <= 0o777:
            raise ValueError(f"the mode of a unix socket is like 0o666 or 0o600, not {mode:#o}")
        self.address, self.mode, self._option, self._scheme = address, mode, option, scheme
        self.path, self.host, self.port = match[1], (match[3] or "0.0.0.0").strip("[]"), int(match[4] or 0)
        self._descriptor = int(match[2]) if match[2] else None  # of a socket that other processes may have, too
        self.socket: Any = None  # while it is open
        self.url = address  # once it is open: http://HOST:PORT, or https, or unix:PATH
        self.loopback = ""  # once it is open: the host of its address, if that is this machine alone
        self.is_shared = False  # with other workers, by a parent, which closes it for all
        self._own_path: str | None = None  # the file that it has made, until that is removed

    def open(self) -> None:
        """Listen, unless it does; SystemExit 2, after a line that says why, where that cannot be."""
        if self.socket is not None:
            return
        try:
            if self._descriptor is not None:
                self._use(self._listen_by(self._descriptor))
            else:
                self._use(self._listen_at_port() if self.path is None else self._listen_at_path(self.path))
        except OSError as error:
            fail(f"cannot listen at {self.address}: {error.strerror or error} ({self._option} names another address)")

    def _use(self, listening: Any) -> None:
        listening.setblocking(False)
        self.socket = listening
        if listening.family != socket.AF_UNIX:
            host, self.port = listening.getsockname()[:2]
            self.host = self.host if self._descriptor is None else host
            url_host = f"[{self.host}]" if ":" in self.host else self.host
            self.url = f"{self._scheme}://{url_host}:{self.port}"
            self.loopback = url_host if is_loopback(host) else ""

    def _listen_at_port(self) -> Any:
        """Listen by TCP."""
        unpatched, family = _unpatched("socket"), socket.AF_INET6 if ":" in self.host else socket.AF_INET
        takes_both = family == socket.AF_INET6 and unpatched.has_dualstack_ipv6()  # as Linux's default, ipv6(7)
        listening = unpatched.create_server((self.host, self.port), family=family, backlog=self.BACKLOG,
                                            dualstack_ipv6=takes_both)  # fmt: skip
        self._set_options(listening)
        return listening

    def _listen_by(self, descriptor: int) -> Any:
        """Accept from a socket that listens, and leave it open for the next run; OSError where there is none. Processes
        that the program starts do not inherit it."""
        os.set_inheritable(descriptor, False)
        listening = _unpatched("socket").socket(fileno=os.dup(descriptor))
        is_stream = listening.type == socket.SOCK_STREAM
        if not (is_stream and listening.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)):
            listening.close()
            raise OSError(errno.EINVAL, "it is no socket that listens")
        if listening.family != socket.AF_UNIX:
            self._set_options(listening)
        return listening

    def _set_options(self, listening: Any) -> None:
        """What is set here holds for the accepted connections. Keep-alive probes find the clients that have vanished,
        and those that have closed while nothing could be sent: their system forgets them in a minute."""
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in (("TCP_KEEPIDLE", 45), ("TCP_KEEPINTVL", 15), ("TCP_KEEPCNT", 4)):
            if hasattr(socket, name):  # else two hours (RFC 1122, 4.2.3.6)
                listening.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)

    def _listen_at_path(self, path: str) -> Any:
        """Listen at a path. The socket of a server that has ended is removed first; OSError where a server listens."""
        unpatched = _unpatched("socket")
        with contextlib.suppress(FileNotFoundError, ConnectionRefusedError), unpatched.socket(socket.AF_UNIX) as probe:
            probe.settimeout(1)
            probe.connect(path)
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
        with contextlib.suppress(FileNotFoundError):
            if not stat.S_ISSOCK(os.stat(path).st_mode):
                raise OSError(errno.EEXIST, "there is a file, and it is no socket")
            os.unlink(path)
        listening, umask = unpatched.socket(socket.AF_UNIX), os.umask(0o777 & ~self.mode)
        try:
            listening.bind(path)  # with its mode at once: a later chmod could meet another's file
        finally:
            os.umask(umask)
        listening.listen(self.BACKLOG)
        self._own_path = path
        return listening

    def adopt(self, descriptor: int) -> None:
        """Accept from a socket that another process listens with, instead of one of its own."""
        self._use(_unpatched("socket").socket(fileno=descriptor))
        self.is_shared = True

    def remove_path(self) -> None:
        """Remove the file of a unix socket, once: the next server may have its own there. A worker leaves it to the
        parent, and where that has ended to the next server."""
        path, self._own_path = self._own_path, None
        if path is not None:
            with contextlib.suppress(OSError):
                os.unlink(path)

    def refuse_new(self) -> None:
        """Let no new connection begin. So those that have begun can be accepted before the socket is closed: closing it
        resets all others. Linux then drops the packet that begins a connection: the client repeats it a second later,
        and is refused, or reaches the next server. Other systems have no such filter. Nothing is done to a socket
        "fd:NUMBER", with which other processes may listen."""
        if self.socket is None or self.is_shared or self._descriptor is not None:
            return
        self.remove_path()
        if self.path is None and sys.platform == "linux":
            with contextlib.suppress(OSError):
                program = array.array("B", b"".join(struct.pack("HBBI", *step) for step in _NO_SYN))
                fprog = struct.pack("HP", len(_NO_SYN), program.buffer_info()[0])
                self.socket.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, fprog)

    def close(self) -> None:
        """Stop listening."""
        self.refuse_new()
        if self.socket is not None:
            self.socket.close()
            self.socket = None


# The events for which a descriptor is watched, with the values of Linux (epoll_ctl(2)): bytes have come, bytes can be
# sent, the client sends no more. A failure of the connection is always reported.
READABLE, WRITABLE, HAS_ENDED = 0x1, 0x4, 0x2000


class _Epoll:
    """Watches many descriptors for the one coroutine that receives. Eventlet's hub watches only the descriptor of the
    epoll: all that is ready comes in one call, in a fraction of the time that the hub needs for each event."""

    MOST = 256  # descriptors that are told of in one go
    tells_of_ends = True  # HAS_ENDED is told

    def __init__(self) -> None:
        self._epoll = _unpatched("select").epoll()
        self._bell = _Bell(self._epoll.fileno())
        self.wait, self.wake_soon = self._bell.wait, self._bell.wake_soon
        # The descriptors that are ready, and for what: without waiting.
        self.poll: Callable[[], list[tuple[int, int]]] = functools.partial(self._epoll.poll, 0, self.MOST)

    def watch(self, descriptor: int, before: int, events: int) -> None:
        """Watch a descriptor for these events from now on, where it was watched for those `before`; 0 for none."""
        if not before:
            self._epoll.register(descriptor, events)
        elif events:
            self._epoll.modify(descriptor, events)
        else:
            with contextlib.suppress(OSError):  # the program has closed it
                self._epoll.unregister(descriptor)

    def close(self) -> None:
        self._bell.close()
        self._epoll.close()


class _HubPoll(_Sleeper):
    """The same where there is no epoll: eventlet's hub watches each descriptor."""

    __slots__ = ("_ready", "_watched")
    tells_of_ends = False

    def __init__(self) -> None:
        super().__init__()
        self._ready: dict[int, int] = {}
        self._watched: dict[tuple[int, int], Any] = {}

    def watch(self, descriptor: int, before: int, events: int) -> None:
        for event, kind in ((READABLE, "read"), (WRITABLE, "write")):
            if events & ~before & event:
                note = functools.partial(self._note, descriptor, event)
                listener = self._hub.add(kind, descriptor, note, note, lambda: None)
                self._watched[descriptor, event] = listener
            elif before & ~events & event:
                with contextlib.suppress(KeyError):  # the program has closed it
                    self._hub.remove(self._watched.pop((descriptor, event)))

    def _note(self, descriptor: int, event: int, *_: Any) -> None:
        self._ready[descriptor] = self._ready.get(descriptor, 0) | event
        self.wake_soon()

    def poll(self) -> list[tuple[int, int]]:
        ready, self._ready = self._ready, {}
        return [*ready.items()]

    def close(self) -> None:
        for listener in self._watched.values():
            self._hub.remove(listener)


_IS_OVER = "the request is over: its body can no longer be read"


class _HTTPPeer(ServedPeer):
    """A client's connection to the embedded server. While it sends a head, or nothing, it has no coroutine: `on_event`
    takes what comes. From a request to its answer the coroutine of that request waits for its socket."""

    DRAINED = 64 << 10  # bytes of an unread body that are read for the sake of the next request
    # Seconds after the last answer in which what a client still sends is thrown away, so that it gets to read that
    # answer: since its latest bytes, and in all.
    LINGER, LONGEST_LINGER = 2.0, 30.0
    LARGE = 64 << 10  # bytes of a body that is not copied to stand behind its head
    MOST_HELD = 256 << 10  # bytes of answers to pipelined requests that leave together
    FILE_PIECE = 16 << 10, 256 << 10  # bytes that are read of a file at least, and at most, to be sent
    IDLE = READABLE | HAS_ENDED

    __slots__ = ("_failure", "_has_begun", "_held", "_is_blocked", "_is_idle", "_is_probed", "_lingers_until",
                 "_may_hold", "_pace", "_server", "_sleepers", "_watched", "deadline", "expects",
                 "has_ended", "keep_alive", "parser", "served", "socket", "websocket")  # fmt: skip

    def __init__(self, server: HTTPServer, accepted: socket.socket, address: str) -> None:
        super().__init__(server.load, address, server.scheme, server.loopback)
        self._server, self.socket = server, accepted
        self.parser = HTTPParser()
        self.deadline = time.monotonic() + server.head_timeout  # of the head, or of what the client does between heads
        self.served = 0  # requests; the number of the present one
        self.websocket: _HTTPWebSocket | None = None
        self.keep_alive = self.has_ended = self.expects = False  # has_ended: the client sends no more
        self._is_idle = False  # no byte of the next head has come
        self._lingers_until = 0.0  # above 0: the last answer was sent, and the connection is as good as closed
        self._watched = 0
        self._sleepers = _Sleepers()  # the coroutines that wait for the socket
        self._held, self._may_hold = b"", False  # answers that leave together with the next one
        self._has_begun = False  # something of the present answer was sent
        self._is_blocked = False  # the client must read before the rest can be sent
        self._is_probed = False  # an octet of what comes next was sent ahead
        self._failure: HTTPError | None = None  # what was wrong with the body
        self._pace: _Pace | None = None  # of the present body
        self.watch(self.IDLE)

    def watch(self, events: int) -> None:
        """Be told of these events on the socket, from now on."""
        if events != self._watched:
            self._server.poller.watch(self.socket.fileno(), self._watched, events)
            self._watched = events

    # -- from one request to the next: without a coroutine

    def on_event(self, events: int) -> HTTPRequest | None:
        """Something has happened on the socket; the request whose head is now there whole, if any."""
        if self.request is not None:
            self._tell_coroutine(events)
            return None
        try:
            data = self.socket.recv(1 << 16)
        except BlockingIOError:
            return None
        except OSError:
            data = b""
        if not data:
            self.close()
            return None
        if self._lingers_until:
            if not self._server.is_stopping:
                self.deadline = min(time.monotonic() + self.LINGER, self._lingers_until)
            return None
        self.parser.feed(data)
        request = self._parse()
        self._may_hold = self.parser.has_input
        return request

    def _parse(self) -> HTTPRequest | None:
        """The request whose head is there whole, or what refuses a broken one; None where more is needed."""
        try:
            request = self.parser.next_request()
        except ProtocolError as error:
            return self._refuse(error)
        if request is not None:
            request.peer, self.request, self.expects = self, request, request.expects
        elif self._is_idle:
            self._is_idle, self.deadline = False, time.monotonic() + self._server.head_timeout
        return request

    def _refuse(self, error: HTTPError) -> HTTPRequest:
        request = HTTPRequest(("-", "-", "", "HTTP/1.1", None), ({}, 0, False, False, False))
        request.misread = plain_answer(error)
        request.peer, self.request, self.expects = self, request, False
        return request

    def next_request(self) -> HTTPRequest | None:
        """The present request is over: the next one where it has come already. The connection is closed where it cannot
        be used again."""
        if self.is_gone:
            self.close()
            return None
        if not (self.keep_alive and self._failure is None and (self.parser.body_is_over or self._drain())):
            self._linger()
            return None
        self.served += 1
        self.request = self._pace = None
        request = self._parse() if self.parser.has_input else None
        if request is None:
            if self._held:
                self.send(b"")
            self._is_idle = not self.parser.has_input
            self.deadline = time.monotonic() + (self._server.keep_alive if self._is_idle else self._server.head_timeout)
            if self._watched != self.IDLE:
                self.watch(self.IDLE)
        self._has_begun = self._is_probed = False
        return request

    def _drain(self) -> bool:
        """Read what the handler left of a body; False where that is too much, or does not come."""
        left = self.DRAINED
        with contextlib.suppress(HTTPError):
            while left > 0:
                if not (piece := self.read_body(self.served, left)):
                    return True
                left -= len(piece)
        return False

    def _linger(self) -> None:
        """Half-close, and drop what still comes, lest a reset takes the answer from the client (RFC 9112, 9.6)."""
        try:
            if not self._held or self.send(b""):
                self.end_sending()
        except OSError:
            self.is_gone = True
        if self.is_gone:
            self.close()
            return
        now = time.monotonic()
        self.request, self.deadline, self._lingers_until = None, now + self.LINGER, now + self.LONGEST_LINGER
        self.served += 1
        self.watch(self.IDLE)

    def end_sending(self) -> None:
        """Tell the client that nothing more comes."""
        self.socket.shutdown(socket.SHUT_WR)

    def expire(self) -> HTTPRequest | None:
        """The deadline has passed: the connection is closed, unless the client is to be told why."""
        if self._lingers_until or not self.parser.has_input:
            self.close()
            return None
        return self._refuse(HTTPError(408, f"the head took over {self._server.head_timeout} seconds"))

    # -- while a request is handled: in its coroutine

    def _tell_coroutine(self, events: int) -> None:
        """Wake what waits for an event on the socket, and be told of it no more until somebody waits again."""
        if self.websocket is not None:
            self.websocket.on_event(events)
            return
        if events & ~(READABLE | WRITABLE):
            self.has_ended = True
            self.watch(0)
        else:
            self.watch(self._watched & ~events)
        self._sleepers.wake_soon()

    def receive(self, seconds: float) -> bytes:
        """Wait for bytes; b"" at their end, TimeoutError after so many seconds."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                return self.socket.recv(1 << 16)
            except BlockingIOError:
                if (left := deadline - time.monotonic()) <= 0:
                    raise TimeoutError from None
            self._wait(READABLE, left)

    def _wait(self, event: int, seconds: float) -> None:
        """Wait for an event on the socket, for so many seconds at most; other events end the wait, too."""
        self.watch(self._watched | event)
        self._sleepers.wait(seconds)

    def take_body(self, request: HTTPRequest, most: int) -> bytes | None:
        """The whole body of this request, where it needs no waiting (HTTPParser.take_body). ValueError once it was
        answered."""
        if self.request is None or vars(self.request) is not vars(request):  # that of a mounted application is the same
            raise ValueError(_IS_OVER)
        body = self.parser.take_body(most) if self._failure is None else None
        self.expects = self.expects and body is None
        return body

    def read_body(self, number: int, size: int) -> bytes:
        """The next bytes of the body of the request with this number, at most `size`; b"" at its end. HTTPError where
        it does not come as it should, after which the connection is closed; ValueError once it was answered."""
        if self.request is None or number != self.served:
            raise ValueError(_IS_OVER)
        try:
            if self._failure is None:
                while (piece := self.parser.next_piece(size)) is None:
                    self._receive_body()
                self.expects = False
                return piece
        except ProtocolError as error:
            self._failure = HTTPError(error.status, error.message)
        except TimeoutError:
            self._failure = HTTPError(408, "the body comes too slowly")
        except OSError:
            self._failure = HTTPError(400, "the body ended early")
        raise self._failure

    def _receive_body(self) -> None:
        pace = self._pace = self._pace or _Pace(self._server.io_timeout)
        with self.outside_pool():
            if self.expects:
                self.expects = False
                if not self._has_begun:  # the answer: nothing may come amid that
                    self.send(CONTINUE)
            began = time.monotonic()
            data = self.receive(pace.left)
        if not data:
            raise ConnectionError
        if pace.is_too_slow(began, len(data)):
            raise TimeoutError
        self.parser.feed(data)

    def keep_open(self, request: HTTPRequest) -> bool:
        self.keep_alive = (request.keep_alive and not self._server.is_stopping and self._failure is None
                           and not self.expects and self.parser.left <= self.DRAINED)  # fmt: skip
        return self.keep_alive

    def send_answer(self, head: bytes, body: bytes) -> bool:
        if len(body) >= self.LARGE:
            return self.send(head) and self.send(body)
        may_hold = self._may_hold and not self._is_probed
        if may_hold and self.parser.has_input and len(self._held) < self.MOST_HELD:
            self._held += head + body
            self._has_begun = True
            return True
        return self.send(head + body)

    def stop_holding(self) -> None:
        """The coroutine that handles the request waits: the answers to the requests before it go at once. To be called
        in eventlet's hub."""
        self._may_hold = False
        with contextlib.suppress(OSError):  # the rest goes with what comes next, which also sees what is wrong
            while self._held and not self.is_gone:  # TLS takes a record at a time
                self._held = self._held[self.socket.send(self._held) :]

    def send(self, data: bytes) -> bool:
        if self.is_gone:
            return False
        if self._held:
            data, self._held = self._held + data, b""
        if not self._has_begun:
            data, self._has_begun = data[self._is_probed :], True
        self._is_probed = False
        try:
            sent = self.socket.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            self.is_gone = True
            return False
        if sent < len(data):
            view = memoryview(data)
            self._send_rest(lambda sent: self.socket.send(view[sent:]), sent, len(data))
        return not self.is_gone

    def send_file(self, pieces: FilePieces) -> bool:
        """Send a file. What the client does not take at once is read again when it does, so that nothing is held for it
        meanwhile."""
        least, most = self.FILE_PIECE
        expected = most // 4  # bytes that the client takes in one go

        def send(_: int) -> int:
            nonlocal expected
            count = self.socket.send(pieces.peek(expected))
            pieces.left -= count
            expected = min(max(2 * count, least), most)
            return count

        self._send_rest(send, 0, pieces.left)
        return not self.is_gone

    def _send_rest(self, send: Callable[[int], int], sent: int, size: int) -> None:
        """Send on, from `sent` to `size`, as fast as the client reads: `send` sends from an offset, and returns the
        number of bytes that it sent."""
        pace, turn, is_ready = _Pace(self._server.io_timeout), time.monotonic(), True
        self.leave_pool()
        self._is_blocked = True
        while sent < size:
            if time.monotonic() - turn > STREAM_TURN:
                eventlet.sleep(0)
                turn = time.monotonic()
            began, count = time.monotonic(), 0
            try:
                if not is_ready:
                    self._wait(WRITABLE, pace.left)
                    turn, is_ready = time.monotonic(), True
                count = send(sent)
                sent += count
            except BlockingIOError:
                is_ready = False
            except OSError:
                self.abort()
                break
            if sent < size and pace.is_too_slow(began, count):
                self.abort()
                break
        self._is_blocked = False

    def send_message(self, body: bytes | Pieces) -> NoReturn:
        raise NotImplementedError  # there are no message sockets in HTTP

    def open_websocket(self, request: HTTPRequest, response: Upgrade) -> int:
        head = format_head(101, response.fields(request), True)
        self.keep_alive = False
        websocket = _HTTPWebSocket(self._server, self, request, response.max_message)
        try:
            if self.send(head):
                self.websocket = websocket
                self._server.websockets.add(websocket)
                websocket.feed(self.parser.take_rest())
                converse(websocket, response)
        finally:
            self._server.websockets.discard(websocket)
            self.websocket = None
            websocket.let_go()
        return 0

    # -- whether the client is there

    def probe(self) -> bool:
        """Whether a client that sends no more still reads, as it may (RFC 9112, 9.6). One that has closed looks the
        same until it is sent something, which it answers with a reset. So an octet is sent ahead of what comes next in
        any case: the H of the head, or a zero before the size of the next chunk (RFC 9112, 7.1). Where there is none,
        only a reset that has come is seen."""
        octet = b""
        if not (self._is_probed or self._is_blocked or self._held):
            octet = (b"0" if self.is_chunked else b"") if self._has_begun else b"H"
        try:
            if self.socket.send(octet):  # b"" is the least that raises what has happened to the connection
                self._is_probed = True
        except BlockingIOError:
            pass
        except OSError:
            self.is_gone = True
        return not self.is_gone

    def is_there(self) -> bool:
        """False once the client has left. One that has only said that it sends no more still waits for its answer."""
        try:
            return not self.is_gone and (bool(self.socket.recv(1, socket.MSG_PEEK)) or self.probe())
        except OSError as error:
            return isinstance(error, BlockingIOError)

    def has_left(self) -> bool:
        """Whether the client has left while something works for it that ends then, and writes nothing by which one
        would see it."""
        if self.coroutine is None or self.websocket is not None:
            return False
        return not (self.probe() if self.has_ended else self._server.poller.tells_of_ends or self.is_there())

    def abort(self) -> None:
        """Have the connection reset when it is closed: the client must not take what it has for the whole. The answers
        to the requests before go first."""
        self.stop_holding()
        self.is_gone = True
        with contextlib.suppress(OSError):
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def close(self) -> None:
        """Close the connection."""
        self.is_gone = True
        descriptor = self.socket.fileno()
        if descriptor >= 0:
            self.watch(0)
            self.socket.close()
            self._server.forget(self, descriptor)
        self.request = self._failure = None


class _EncryptedSocket:
    """An accepted socket behind TLS, with the methods of a socket that _HTTPPeer uses. All that was received is
    decrypted at once, for the poller does not report what is left in here. A `send` that raised BlockingIOError goes on
    when it is called again, with the same bytes in front."""

    RECORD = 1 << 14  # bytes in a record at most (RFC 8446, 5.1): no connection keeps more memory than for one each way

    __slots__ = ("_incoming", "_outgoing", "_tls", "close", "fileno", "has_ended", "is_ready", "raw", "setsockopt",
                 "taken", "unsent")  # fmt: skip

    def __init__(self, accepted: socket.socket, context: ssl.SSLContext) -> None:
        self.raw = accepted
        self.fileno, self.setsockopt, self.close = accepted.fileno, accepted.setsockopt, accepted.close
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)  # which eventlet has not patched
        self.unsent = b""  # what is encrypted, and does not fit into the socket yet
        self.taken = 0  # bytes from which that was made, as long as `send` has not said that they are sent
        self.is_ready = self.has_ended = False  # the handshake is over; the client has said that it sends no more

    def recv(self, size: int) -> bytes:
        """What has come, decrypted; b"" at the end. BlockingIOError where there is nothing whole."""
        octets = b"" if self.has_ended else self.raw.recv(min(size, self.RECORD + 512))
        self._incoming.write(octets)
        received = b""
        try:
            if not self.is_ready:
                self._tls.do_handshake()
                self.is_ready = True
            while self._incoming.pending and not self.has_ended:
                piece = self._tls.read(self.RECORD)
                self.has_ended = not piece
                received += piece
        except ssl.SSLWantReadError:
            pass
        finally:
            if self._outgoing.pending:  # a part of the handshake, new keys, or why it has failed
                with contextlib.suppress(OSError):
                    self.flush()
        if len(self.unsent) > 4 * self.RECORD:
            raise ConnectionAbortedError("the client asks for new keys again and again, and reads none")
        if octets and not received and not self.has_ended:
            raise BlockingIOError
        return received

    def send(self, data: Any) -> int:
        """Send so many of these bytes; BlockingIOError where the client must read first."""
        if not data:
            return self.raw.send(data)
        if not self.taken:
            self.taken = self._tls.write(data if len(data) <= self.RECORD else memoryview(data)[: self.RECORD])
        self.flush()
        taken, self.taken = min(self.taken, len(data)), 0
        return taken

    def flush(self) -> None:
        """Send what is encrypted; BlockingIOError as long as there is more of it."""
        self.unsent += self._outgoing.read()
        while self.unsent:
            self.unsent = self.unsent[self.raw.send(self.unsent) :]

    def send_end(self, _: int = 0) -> int:
        """Tell the client that nothing more comes (close_notify; RFC 8446, 6.1). BlockingIOError as for `send`."""
        with contextlib.suppress(ssl.SSLError):  # it does not wait for the client to say the same
            self._tls.unwrap()
        self.flush()
        return 1


class _HTTPSPeer(_HTTPPeer):
    """A client's connection by TLS; by a plain socket once nothing more is to be encrypted."""

    FILE_PIECE = _EncryptedSocket.RECORD, _EncryptedSocket.RECORD

    __slots__ = ("_is_new", "_tls")

    def __init__(self, server: HTTPServer, accepted: socket.socket, address: str) -> None:
        self._tls: _EncryptedSocket | None = _EncryptedSocket(accepted, cast("ssl.SSLContext", server.tls))
        self._is_new = True  # nothing has come
        super().__init__(server, cast(Any, self._tls), address)

    def on_event(self, events: int) -> HTTPRequest | None:
        tls = self._tls
        if tls is None or tls.is_ready:
            return super().on_event(events)
        if not self._server.handshakes:
            return None  # the poller will tell of it again
        self._server.handshakes -= 1
        with contextlib.suppress(OSError):
            tls.flush()
            # A record of the handshake begins with 22 (RFC 8446, 5.1), a plain request with a letter.
            if self._is_new and tls.raw.recv(1, socket.MSG_PEEK).isalpha():
                self.socket, self._tls = tls.raw, None
                return self._refuse(HTTPError(400, "this address is for HTTPS: begin it with https://"))
            self._is_new = False
        request = super().on_event(events)
        if not self.is_gone:
            self.watch(self.IDLE | (WRITABLE if tls.unsent else 0))
            if tls.is_ready and request is None:
                self.deadline = time.monotonic() + self._server.head_timeout
        return request

    def keep_open(self, request: HTTPRequest) -> bool:
        has_ended = self._tls is not None and self._tls.has_ended  # of which the poller tells nobody
        self.keep_alive = super().keep_open(request) and (self.parser.has_input or not has_ended)
        return self.keep_alive

    def end_sending(self) -> None:
        if self._tls is not None:
            self._send_rest(self._tls.send_end, 0, 1)
            self.socket, self._tls = self._tls.raw, None
        super().end_sending()

    def probe(self) -> bool:
        sends = not (self._is_blocked or self._held or self.websocket)
        is_there = super().probe()
        if sends and self._tls is not None and self._tls.taken:  # the octet leaves before all else
            self._tls.taken, self._is_probed = 0, True
        return is_there

    def is_there(self) -> bool:
        """As for others; but what is unread may be a close_notify, so it is the system that knows whether the client
        has ended. Only the hub's thread may use the connection."""
        if self.is_gone or _hub() is None:
            return not self.is_gone
        poll = _unpatched("select").poll()
        # Where the system does not tell of the end alone, whatever has come may be the end.
        poll.register(self.socket, getattr(select, "POLLRDHUP", select.POLLIN))
        return not poll.poll(0) or self.probe()

    def close(self) -> None:
        if self._tls is not None and not self.is_gone:  # else an answer may not be whole
            with contextlib.suppress(OSError):
                self._tls.send_end()
        super().close()


class _HTTPWebSocket(WebSocket):
    """A WebSocket of the embedded server. What the client sends is taken when it comes, so that pings are answered
    while the handler does something else; what the client cannot take at once is sent later, while the handler goes on.
    """

    MAX_HALF = 64 << 20  # bytes of messages that have not come whole, of all WebSockets of a server together

    def __init__(self, server: HTTPServer, peer: _HTTPPeer, request: HTTPRequest, limit: int) -> None:
        super().__init__(request, limit)
        self._server, self._peer = server, peer
        self._frames, self.held = FrameReader(limit), 0  # bytes of a message that has not come whole
        self._late: _Pace | None = None  # how fast it comes
        self._since = 0.0  # when its last bytes came

    def feed(self, data: bytes) -> None:
        try:
            self._frames.feed(data)
            while (message := self._frames.next_message()) is not None:
                if message[0] < CLOSE:
                    self._late = None  # what is left begins the next
                self.take(*message)
        except ProtocolError as error:
            self.refuse(error.status, error.message)
        else:
            self._note_held(self._frames.held)

    def _note_held(self, held: int) -> None:
        """Note how many bytes are held of a message that has not come whole. Where all WebSockets together hold too
        many, the one that holds the most is closed."""
        if held == self.held == 0:
            return
        grown, self.held = held - self.held, held
        self._server.half += grown
        if not held:
            self._late = None
            return
        if self._late is None:
            self._late = _Pace(self._server.io_timeout)
        else:
            self._late.is_too_slow(self._since, max(grown, 0))  # which `check` sees
        self._since = time.monotonic()
        if self._server.half > self.MAX_HALF + self._limit:
            self._server.end_largest()

    def refuse(self, code: int, reason: str) -> None:
        super().refuse(code, reason)
        self._frames = FrameReader(self._limit)
        self._note_held(0)
        self._pace()

    def end_message(self) -> None:
        """Too much is held of messages that have not come whole, and of this one the most."""
        self.refuse(1013, "too many messages have not come whole")

    def check(self, now: float) -> None:
        if self._unread >= self.MAX_UNREAD:
            self._since = now  # it is we who do not listen
        if self._late is not None and now - self._since > self._late.left and self.closed is None:
            self.refuse(1008, "the message comes too slowly")
        super().check(now)

    def _pace(self) -> None:
        if self._peer.websocket is self:
            listens = self._unread < self.MAX_UNREAD and self._conversation.is_heard
            self._peer.watch((READABLE if listens else 0) | (WRITABLE if self._outbox else 0))

    def on_event(self, events: int) -> None:
        """Something has happened on the socket."""
        if events & ~(READABLE | WRITABLE):  # the connection has failed
            self._end()
            return
        if events & WRITABLE:
            self.resume()
        if not events & READABLE:
            return
        try:  # tiny frames take their time: others have their turn after a few hundred of them
            data = self._peer.socket.recv(min(max(self._frames.wanted, 1 << 12), 1 << 16))
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            self.heard = time.monotonic()
            self.feed(data)
        else:
            self._end()

    def _end(self) -> None:
        """The end of its connection is the end of a WebSocket, in both directions (RFC 6455, 7.1.4)."""
        self._peer.is_gone = True
        self.vanish()

    def flush(self) -> None:
        try:
            del self._outbox[: self._peer.socket.send(self._outbox)]
            self._writer.wake_soon()
        except BlockingIOError:
            pass
        except OSError:
            self.vanish()
        self._pace()

    def let_go(self) -> None:
        super().let_go()
        self._note_held(0)
        self._pace()


class _Board:
    """How many connections each worker has at one listening socket, in memory that all workers share, so that none of
    them accepts more than its part. The memory is an anonymous file, known by its descriptor: a program that cleans
    folders cannot remove it."""

    ABSENT = 0xFFFFFFFF  # the worker does not accept, or is not there

    def __init__(self, descriptor: int, slot: int = 0) -> None:
        self.descriptor, self._slot = descriptor, slot
        self._counts = memoryview(mmap.mmap(descriptor, 0)).cast("I")

    @classmethod
    def create(cls, slots: int) -> _Board:
        """A new one without workers."""
        if hasattr(os, "memfd_create"):
            descriptor = os.memfd_create("brubeck_lite")
        else:
            with tempfile.TemporaryFile() as file:  # which has no name, or loses it at once
                descriptor = os.dup(file.fileno())
        os.write(descriptor, cls.ABSENT.to_bytes(4, sys.byteorder) * slots)
        return cls(descriptor)

    def release(self, slot: int) -> None:
        """The worker with this slot is no more."""
        self._counts[slot] = self.ABSENT

    def note(self, count: int) -> None:
        """So many connections there are in this worker."""
        self._counts[self._slot] = count

    def lead(self, count: int) -> int:
        """By how many `count` is above the number that another worker has, and an eighth of it; 0 where it is not."""
        least = min(self._counts)
        return max(count - least - least // 8, 0)

    def close(self) -> None:
        """Close the descriptor; the memory is freed when the last process has done so."""
        os.close(self.descriptor)


TLSFiles = tuple[str | os.PathLike[str], str | os.PathLike[str]]  # of a certificate, and of its key


def load_tls(certificate: str | os.PathLike[str], key: str | os.PathLike[str]) -> ssl.SSLContext:
    """The context for TLS 1.2 and newer, with the files of a certificate (followed by its intermediate certificates)
    and of its key; SystemExit 2, after a line that says why, where they cannot be used."""
    context: ssl.SSLContext = _unpatched("ssl").SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_ciphers("ECDHE+AESGCM:ECDHE+CHACHA20")  # of TLS 1.2 (RFC 9325, 4.2)
    context.set_alpn_protocols(["http/1.1"])
    try:
        for name in (certificate, key):
            open(name, "rb").close()  # whose error names the file
        context.load_cert_chain(certificate, key, password="")  # else OpenSSL would ask the terminal for one
    except ssl.SSLError as error:
        reason = "they must be PEM files, the key without a passphrase"
        if str(error.reason).endswith(("MISMATCH", "NO_CERTIFICATE_ASSIGNED")):  # the latter for a key's kind
            reason = "the key is of another one"
        elif "_TOO_" in str(error.reason):
            reason = "they are too weak for this OpenSSL"
        fail(f"cannot use the certificate {certificate} with the key {key}: {reason} ({error})")
    except (OSError, ValueError) as error:
        fail(f"cannot read the certificate {certificate} and the key {key}: {error}")
    return context


class HTTPServer:
    """The embedded HTTP server while it runs, with the settings of an HTTPConnection, for one `run()`."""

    PATIENCE = 0.002  # seconds in which a worker with fewer connections may accept
    BRIEF_LEAD = 16  # connections that a worker may have more than another while they are for one request each
    BRIEF = 0.1  # seconds since the last of those ended
    SWEEP = 0.5  # seconds between looks at the deadlines
    LATE = 1.0  # seconds without a look after which a handler has computed, or the process stood still
    SILENCE = 60.0  # seconds between lines in the log about open files
    GRACE = 0.5  # seconds for a request that is on its way when the server stops
    QUIET = 0.1  # seconds in which the handshake of a connection that began before that ends
    HANDSHAKES = 8  # steps of TLS handshakes, each perhaps a ms of computing, between two looks at all connections
    load: Load
    poller: _Epoll | _HubPoll
    loopback: str
    _receivers: Receivers

    def __init__(self, settings: HTTPConnection) -> None:
        self.tls = load_tls(*settings.tls) if isinstance(settings.tls, (tuple, list)) else settings.tls
        self.scheme, self._peer_class = settings.scheme, _HTTPPeer if self.tls is None else _HTTPSPeer
        self.listener = Listener(settings.address, settings.mode, scheme=self.scheme)
        self.head_timeout, self.io_timeout, self.keep_alive = (
            settings.head_timeout, settings.io_timeout, settings.keep_alive)  # fmt: skip
        self.max_connections = settings.max_connections
        self.peers: dict[int, _HTTPPeer] = {}  # by descriptor
        self.websockets: set[_HTTPWebSocket] = set()
        self.half = 0  # bytes of their messages that have not come whole
        self.is_stopping = False
        self._is_over = self._is_short = False
        self.handshakes = 0  # steps that may be taken now
        self._next_sweep = self._next_complaint = self._accepted_at = self._brief_until = 0.0
        self._checked = math.inf  # when `check` was called last
        self._board: _Board | None = None
        self._patience: Any = None  # the timer, while workers with fewer connections may accept
        self._events: list[tuple[int, int]] = []  # that were told of and not yet looked at
        self._accepts = 0  # what the listening socket is watched for

    def open(self) -> None:
        """Listen; SystemExit 2, after a line that says why, where that cannot be."""
        self.listener.open()

    def adopt(self, descriptor: int, board: _Board) -> None:
        """Accept from a socket that the parent of this worker listens with, instead of one of its own, and note on the
        board how many connections of it there are in this worker."""
        self.listener.adopt(descriptor)
        self._board = board

    def start(self, load: Load) -> None:
        """Accept connections, and have their requests handled."""
        self.load, self.loopback = load, self.listener.loopback
        if not self.listener.is_shared:
            logger.info("serving %s", self.listener.url)
        self._leave_reserve(load.servers)
        self.poller = _Epoll() if hasattr(_unpatched("select"), "epoll") else _HubPoll()
        self._receivers = Receivers(self.receive, load)
        self._listen()

    def _leave_reserve(self, servers: int) -> None:
        """Have connections leave descriptors for files: a quarter of those that the process may have."""
        resource = importlib.import_module("resource")  # which Windows has not
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        most = max(1, (limit - max(limit // 4, min(64, limit // 2))) // servers)
        if limit != resource.RLIM_INFINITY:
            self.max_connections = min(self.max_connections, most)

    def receive(self) -> HTTPRequest | None:
        """The next request whose head has come; None where something else happened. EOFError once the server is closed.
        """
        while not self._events:
            self._events, self.handshakes = self.poller.poll(), self.HANDSHAKES
            if not self._events:
                if self._is_over:
                    self.poller.close()
                    raise EOFError
                self.poller.wait()
        descriptor, events = self._events.pop()
        peer = self.peers.get(descriptor)
        if peer is not None:
            try:
                return peer.on_event(events)
            except Exception:
                peer.abort()  # or the same would happen again and again
                peer.close()
                raise
        if self.listener.socket is not None and descriptor == self.listener.socket.fileno():
            self._accept()
        return None

    # -- accepting

    def _complain(self, reason: object) -> None:
        """Log, once a minute, that connections have to wait."""
        if time.monotonic() >= self._next_complaint:
            self._next_complaint = time.monotonic() + self.SILENCE
            logger.warning("cannot accept connections for now: %s", reason)

    def _listen(self) -> None:
        """Watch the listening socket as long as the server may accept more connections."""
        if self.listener.socket is None:
            return
        if is_full := len(self.peers) >= self.max_connections:
            self._complain(f"there are {self.max_connections} (see max_connections, and ulimit -n)")
        takes = not (self.is_stopping or self._is_short or is_full)
        if self._board is not None:
            self._board.note(len(self.peers) if takes else _Board.ABSENT)
        if self._patience is not None and not self._lead():  # its own connections have ended meanwhile
            self._patience.cancel()
            self._patience = None
        before, self._accepts = self._accepts, READABLE if takes and self._patience is None else 0
        if before != self._accepts:
            self.poller.watch(self.listener.socket.fileno(), before, self._accepts)

    def _tolerance(self) -> int:
        """How many connections more than another worker this one may have. Connections for one request each end soon:
        while such connections come, waiting for another worker would cost more than it evens out."""
        return self.BRIEF_LEAD if time.monotonic() < self._brief_until else 0

    def _lead(self) -> int:
        """By how many connections this worker has too many."""
        return 0 if self._board is None else max(self._board.lead(len(self.peers)) - self._tolerance(), 0)

    def _accept(self) -> None:
        """Take connections that wait to be accepted. A worker with more of them than another lets that one go first."""
        if self._board is None:
            self._take_in(64)
        elif not self._lead():
            self._take_in(self._tolerance() // 4 or 1)  # the rest is for workers that are idle meanwhile
        else:
            self._patience = call_soon(self._end_patience, self.PATIENCE)
            self._listen()

    def _end_patience(self) -> None:
        """No other worker has accepted in time: accept, and more of them the further this worker is ahead, for the
        others may be computing."""
        self._patience = None
        self._take_in(min(max(self._lead() // 4, 1), 64))

    def _take_in(self, most: int) -> None:
        """Accept so many at most."""
        for _ in range(min(most, self.max_connections - len(self.peers)) if self.listener.socket is not None else 0):
            try:
                accepted, address = self.listener.socket.accept()
                accepted.setblocking(False)
                # An IPv4 client of [::] is ::ffff:192.0.2.1 (RFC 4291, 2.5.5.2).
                own = address[0].removeprefix("::ffff:") if isinstance(address, tuple) else ""
                self.peers[accepted.fileno()] = self._peer_class(self, accepted, own)
            except ConnectionError:
                continue  # it left already
            except BlockingIOError:
                break
            except Exception as error:
                self._is_short = True  # of open files, mostly: `check` tries again
                self._complain(error)
                break
            self._accepted_at = time.monotonic()
        self._listen()

    def forget(self, peer: _HTTPPeer, descriptor: int) -> None:
        """A connection was closed: another one may be accepted. It was brief if it was for one request."""
        self.peers.pop(descriptor, None)
        if self._board is not None and peer.served + (peer.request is not None) == 1:
            self._brief_until = time.monotonic() + self.BRIEF
        self._listen()

    # -- ten times a second

    def check(self) -> None:
        """End the connections whose deadline is over, and accept again where that failed before."""
        now = time.monotonic()
        if (late := now - self._checked) > self.LATE:  # what came meanwhile in time was not read
            for peer in self.peers.values():
                peer.deadline += late
        self._checked = now
        if now < self._next_sweep and not self.is_stopping:
            return
        self._next_sweep = now + self.SWEEP
        self._is_short = False
        self._listen()
        for peer in [*self.peers.values()]:
            if peer.request is not None:
                if peer.has_left():
                    call_soon(peer.end_coroutine)
            elif peer.deadline <= now and (refusal := peer.expire()) is not None:
                eventlet.spawn_n(self.load.serve, peer, refusal)
        for websocket in [*self.websockets]:
            websocket.check(now)
        if self.is_stopping:
            say_goodbye(self.websockets, self.peers.values())

    def end_largest(self) -> None:
        """Close the WebSocket that holds the most of a message that has not come whole."""
        max(self.websockets, key=operator.attrgetter("held")).end_message()

    def stats(self) -> Stats:
        """The figures of this server. Any thread may call it."""
        receivers = getattr(self, "_receivers", None)
        return {"coroutines": 0 if receivers is None else receivers.coroutines, "connections": len(self.peers),
                "websockets": len(self.websockets)}  # fmt: skip

    # -- ending

    def finish_receiving(self, seconds: float) -> None:
        """Accept the connections that have begun, then no more; close the idle ones, and let the others finish."""
        self._accept_last()
        self._end_listening()
        self.head_timeout = self.keep_alive = self.GRACE
        deadline = time.monotonic() + self.GRACE
        for peer in self.peers.values():
            peer.deadline = min(peer.deadline, deadline)

    def _accept_last(self) -> None:
        """Accept until no connection has come for a moment: the handshakes that are under way end in it."""
        self.listener.refuse_new()
        self._accepted_at = began = time.monotonic()
        while time.monotonic() < min(self._accepted_at + self.QUIET, began + self.GRACE):
            eventlet.sleep(self.QUIET / 10)
        for _ in range(Listener.BACKLOG // 64):
            self._take_in(64)

    def _end_listening(self) -> None:
        self.is_stopping = True
        self._listen()
        self.listener.close()

    def has_ended(self) -> bool:
        """Whether it stopped, and its last client is gone."""
        return self.is_stopping and not self.peers

    def close(self) -> None:
        """Close the listening socket and all connections."""
        if hasattr(self, "poller"):
            self._end_listening()
            for peer in [*self.peers.values()]:
                peer.abort()
                peer.close()
            self._is_over = True
            self.poller.wake_soon()
        else:
            self.listener.close()


class HTTPConnection:
    """The embedded HTTP/1.1 server at an address: "127.0.0.1:6767", "[::1]:6767", "unix:/run/hello", or ":6767" and
    "6767" for every IPv4 address; "[::]:6767" is every address; "fd:3" is a socket that listens already, which the
    process inherited. `mode`: the permissions of a unix socket, by default for all users of the machine who may enter
    its folder. `tls`: for HTTPS, the names of two PEM files, of a certificate (followed by its intermediate
    certificates) and of its key, for TLS 1.2 and newer; or an ssl.SSLContext for servers, which is used as it is.

    In seconds: `head_timeout` for a whole head; `io_timeout` for each wait for a body, or for a client to read its
    answer, in which 1 KiB a second must come or go; `keep_alive` between requests. Connections beyond `max_connections`
    wait to be accepted; there are fewer where the process may not open as many files, of which a quarter is kept for
    other files. ValueError for an invalid address or mode, and for a context that is not for servers.
    """

    def __init__(self, address: str, *, head_timeout: float = 10, io_timeout: float = 30, keep_alive: float = 15,
                 max_connections: int = 20_000, mode: int = 0o666, tls: ssl.SSLContext | TLSFiles | None = None,
                 ) -> None:  # fmt: skip
        Listener(address, mode)  # ValueError
        self.scheme = "http" if tls is None else "https"
        try:
            if isinstance(tls, (tuple, list)):
                _, _ = [os.fspath(each) for each in tls]
            elif tls is not None:
                tls.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_side=True)
        except (AttributeError, TypeError, ValueError, OSError):
            raise ValueError("tls is (certificate, key), two names of files, or an ssl.SSLContext for servers, such as "
                             "ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)") from None  # fmt: skip
        if min(head_timeout, io_timeout, keep_alive) <= 0 or max_connections < 1:
            raise ValueError("timeouts are above 0 seconds, max_connections at least 1")
        self.address, self.mode, self.tls = address, mode, tls
        self.head_timeout, self.io_timeout, self.keep_alive = head_timeout, io_timeout, keep_alive
        self.max_connections = max_connections

    def make_server(self) -> HTTPServer:
        """The server for one `run()`, with these settings."""
        return HTTPServer(self)


# -- the process: its logs and figures, its parent, and the server that runs an application until a signal ends it


def patch_standard_library() -> None:
    """Have eventlet replace what blocks in the standard library, once."""
    if not eventlet.patcher.is_monkey_patched("socket"):
        eventlet.monkey_patch()


@functools.cache
def _installed_folders() -> tuple[str, ...]:
    paths = sysconfig.get_paths()  # not its "data": Debian's is /usr/local, and programs may be below that
    folders = [*map(paths.get, ("stdlib", "platstdlib", "purelib", "platlib")), *site.getsitepackages()]
    return tuple(os.path.join(str(folder), "") for folder in folders)


def is_installed(file: str) -> bool:
    """Whether a file belongs to Python itself or to an installed package, not to the program."""
    return os.path.abspath(file).startswith(_installed_folders())


_BLOCKING = {  # by module: functions and classes that eventlet replaces there, but not where they were imported before
    "time": "sleep", "socket": "socket getaddrinfo", "_socket": "gethostbyname", "ssl": "SSLContext",
    "select": "select poll epoll", "selectors": "SelectSelector PollSelector EpollSelector KqueueSelector",
    "_queue": "SimpleQueue", "subprocess": "Popen",
}  # fmt: skip
_BLOCKING_OBJECTS = "<class '_thread.lock'>", "<class '_thread._local'>"  # in packages these do no harm
_UNHARMED = sys.stdlib_module_names | {"brubeck_lite", "eventlet", "greenlet", "dns", "zmq"}  # packages
_COPIES = "__original_module_", "__patched_module_"  # eventlet's, of the standard library


def _is_early(value: Any) -> bool:
    """Whether this is a blocking function or class, and eventlet has put another in its place."""
    if not issubclass(type(value), (type, FunctionType, BuiltinFunctionType)):
        return False
    module, name = value.__module__, value.__name__
    if name not in _BLOCKING.get(module, "").split():
        return False
    return getattr(sys.modules[module.lstrip("_")], name, None) is not value


def find_early(objects: Sequence[Any], threads: Iterable[threading.Thread], harmless: Iterable[Any] = ()) -> list[str]:
    """What the program imported, made or started before eventlet patched the standard library. Such things block all
    coroutines, fail (an SSLContext raises RecursionError) or lose what they are given. They are names in modules, those
    of `objects` that are not `harmless`, and `threads`."""
    kept = {*map(id, harmless)}
    found: dict[Any, str] = {}  # the first of each kind in each package
    for name, module in [*sys.modules.items()]:
        package, names = name.partition(".")[0], {**getattr(module, "__dict__", {})}
        if package in _UNHARMED or "asyncio" in name or name.startswith(_COPIES):
            continue
        is_own = not is_installed(str(names.get("__file__") or ""))
        for key, value in names.items():
            if _is_early(value) or (is_own and str(type(value)) in _BLOCKING_OBJECTS):
                found.setdefault((package, key), f"{name}.{key}")
    early = {kind for kind in {*map(type, objects)} if kind.__name__ != "Popen" and _is_early(kind)}
    for made in objects:  # a unix socket may be the one to the parent of a worker
        if type(made) in early and id(made) not in kept and getattr(made, "family", None) != socket.AF_UNIX:
            found[type(made)] = f"an object of class {type(made).__name__}"
    return [*found.values(), *(f"the thread {thread.name!r}" for thread in threads)]


def configure_logging(level: int = logging.INFO) -> None:
    """Log on standard error, unless the program has chosen otherwise: to be called once the program is imported."""
    if not logger.hasHandlers():
        logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(message)s")


def patch_program(harmless: Iterable[Any] = ()) -> None:
    """Patch the standard library under a program that was imported before. Where that is too late for something, except
    for the objects that are `harmless`, log a warning that says what to do."""
    objects, threads = list[Any](), list[threading.Thread]()
    if not eventlet.patcher.is_monkey_patched("socket"):  # else eventlet's own objects have originals inside them
        threads = [thread for thread in threading.enumerate() if thread is not threading.main_thread()]
        patch_standard_library()
        objects = gc.get_objects()
    if early := find_early(objects, threads, harmless):
        logger.warning("the program imported, made or started this before eventlet patched the standard library, so it "
                       'blocks all requests or fails: %s. Put "import eventlet; eventlet.monkey_patch()" above all '
                       "other lines of the program, or start it by the command line: brubeck_lite MODULE:APP",
                       ", ".join(early[:5]) + f" and {len(early) - 5} more" * (len(early) > 5))  # fmt: skip


_PIPE_BUF = getattr(select, "PIPE_BUF", 512)  # bytes that are written to a pipe in one piece: 4096 on Linux (pipe(7))
_LOGGED = (_PIPE_BUF - 96) // 5  # characters of each of the five texts in a line of the access log
_NOT_LOGGED = re.compile(r"[^ !#-\[\]-~]")  # characters that are written as \xHH


def _escape_for_log(text: str) -> str:
    """A client's text as printable ASCII without quotes and backslashes, so that it cannot pass for another field; cut,
    so that a line is shorter than PIPE_BUF."""
    return _NOT_LOGGED.sub(lambda match: f"\\x{ord(match[0]):02x}", text[:_LOGGED])[:_LOGGED]


def format_access_line(when: float, request: Request, status: int, size: int, taken: float = 0.0) -> bytes:
    """`address - - [date] "METHOD target VERSION" status bytes "referer" "agent" seconds` and a line's end."""
    _, day, month, year, clock, _ = http_date(int(when)).split()
    query, headers, address = "", Headers({}), ""
    with contextlib.suppress(HTTPError):  # the fields of a message of Mongrel2 may be unreadable
        query, headers, address = request.query_string, request.headers, request.remote_addr
    target = quote(request.path, safe=_IN_PATH) + (f"?{query}" if query else "")
    asked = " ".join([_escape_for_log(part) for part in (request.method, target, request.version)])
    referer, agent = (_escape_for_log(headers.get(name, "-")) for name in ("referer", "user-agent"))
    address = _escape_for_log(address).replace(" ", "") or "-"
    date = f"{day}/{month}/{year}:{clock} +0000"
    return f'{address} - - [{date}] "{asked}" {status} {size} "{referer}" "{agent}" {taken:.6f}\n'.encode()


class AccessLog:
    """A line for each answer in the combined format, with the seconds that it took, on standard output, or at the end
    of a file. Where the file was moved away, a new one is begun. `add` notes an answer. `write` writes many lines at
    once, as many as a pipe takes without waiting and without mixing them with the lines of other processes (pipe(7),
    PIPE_BUF). OSError where the file cannot be opened."""

    HELD = 200  # answers that are noted before their lines are written
    MOST = 10_000  # lines that wait to be read
    SILENCE = 60.0  # seconds between two complaints in the log

    def __init__(self, descriptor: int = 1, path: str | None = None) -> None:
        self.noted: list[tuple[float, Request, int, int, float]] = []
        self.lines: deque[bytes] = deque()
        self._path = path and os.path.abspath(path)
        if self._path:
            descriptor = self._open()
        self._descriptor, self._write, self._poll = descriptor, _unpatched("os").write, _unpatched("select").poll()
        self._poll.register(descriptor, select.POLLOUT)
        self._is_torn = False  # the last line was written in part
        self._next_complaint = 0.0

    def _open(self) -> int:
        return os.open(str(self._path), os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK, 0o644)

    def _follow(self) -> None:
        """Go on in a new file where the old one was moved away, or removed."""
        if not self._path or not self.lines:
            return
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.stat(self._path), os.fstat(self._descriptor)):
                return
        new = self._open()
        os.dup2(new, self._descriptor, inheritable=False)
        os.close(new)
        self._is_torn = False

    def add(self, request: Request, status: int, size: int, taken: float = 0.0) -> None:
        """Note an answer of `size` bytes, which took so many seconds."""
        self.noted.append((time.time(), request, status, size, taken))
        if len(self.noted) >= self.HELD:
            self.write()

    def write(self, seconds: float = 0.0) -> None:
        """Write what is read within so many seconds. Lines beyond MOST, and lines that cannot be written, are lost."""
        noted, self.noted = self.noted, []
        deadline = time.monotonic() + seconds
        try:
            self.lines += [format_access_line(*each) for each in noted]
            self._follow()
            while self.lines and self._poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
                self._write_some()
            if len(self.lines) > self.MOST:
                raise BlockingIOError(errno.EAGAIN, "nobody reads it")
        except Exception as error:  # mostly OSError
            self.lines.clear()
            if time.monotonic() >= self._next_complaint:
                self._next_complaint = time.monotonic() + self.SILENCE
                logger.warning("the access log cannot be written: %s", getattr(error, "strerror", None) or error)

    def _write_some(self) -> None:
        data = b"\n" if self._is_torn else self.lines.popleft()
        while self.lines and len(data) + len(self.lines[0]) <= _PIPE_BUF:
            data += self.lines.popleft()
        written = self._write(self._descriptor, data)
        self._is_torn = data[written - 1] != 0x0A
        if written < len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class StatsServer:
    """Serves the figures for Prometheus, at / and /metrics of an address like that of an HTTPConnection, except unix
    sockets. A thread of the operating system answers, also while a handler computes: one client after the other, each
    for PATIENCE seconds at most, for it is made for a monitor, not for the public. SystemExit 2, after a line that says
    why, where it cannot listen."""

    PATIENCE = 2.0

    def __init__(self, address: str, get_stats: Callable[[], Stats]) -> None:
        try:
            self._listener = Listener("" if address.startswith(("unix:", "fd:")) else address, option="--stats")
        except ValueError:
            fail(f"--stats: not an address: {address!r} (it is like 127.0.0.1:9100, [::1]:9100 or :9100)")
        self._get_stats = get_stats

    def start(self) -> StatsServer:
        """Listen, and answer from now on."""
        self._listener.open()
        self._listener.socket.setblocking(True)
        self.port = self._listener.port
        _unpatched("threading").Thread(target=self._run, name="stats", daemon=True).start()
        return self

    def _run(self) -> None:
        sleep = _unpatched("time").sleep
        while (listening := self._listener.socket) is not None:
            try:
                accepted, _ = listening.accept()
                with accepted:
                    self._answer(accepted, time.monotonic() + self.PATIENCE)
            except Exception:  # the client left or sent no HTTP, or too many files are open: a thread does not log that
                sleep(0.05)

    def _answer(self, accepted: Any, deadline: float) -> None:
        parser, request = HTTPParser(), None
        while request is None:
            accepted.settimeout(max(deadline - time.monotonic(), 0.001))
            if not (data := accepted.recv(1 << 12)):
                return
            parser.feed(data)
            request = parser.next_request()
        if request.method in ("GET", "HEAD") and request.path in ("/", "/metrics"):
            response = Response(format_stats(self._get_stats()), content_type=PROMETHEUS)
        else:
            response = plain_answer(HTTPError(404))
        fields, body = response.finish(request)
        accepted.sendall(format_head(response.status, fields, False) + cast(bytes, body))

    def close(self) -> None:
        """Stop listening."""
        with contextlib.suppress(OSError):
            self._listener.socket.shutdown(socket.SHUT_RDWR)  # without it `accept` would go on waiting
        self._listener.close()


DEFAULT_ADDRESS = "127.0.0.1:6767"
WORKER = "BRUBECK_LITE_WORKER"  # in a worker's environment: the descriptor of its end of the pair of sockets

# What they tell each other by that pair: JSON objects, one in a line, with these names.
#
#   of a worker:  connections  first of all, a list: [address, mode, scheme] for HTTP, else [pull, pub, identity]
#                 ready        true: it serves
#                 stats        its figures, every second: a sign of life
#                 files        the files that `--reload` watches; with `stats`, or because the import failed
#                 leaving      true: it was asked to end, takes nothing new, and finishes what it has
#   of a parent:  lives        answers `connections`, and begins each later life: for each Mongrel2 its number among
#                              those of the worker, and the addresses of the Mongrel2 that the parent plays; null in
#                              their place: no more messages will come. With the answer come two descriptors for each
#                              HTTP address: socket and board
#                 slot         in the same line: the worker's place on the boards
#                 watched      in the same line: whether to send `files`
#                 workers      in the same line: how many workers there are to be
#                 others       answers `stats`: the figures of all other processes, those that have ended too


class _Lines:
    """One end of the pair of sockets between a parent and a worker: dicts as lines of JSON."""

    MOST = 1 << 20  # bytes that wait to be sent, beyond which no more are added

    def __init__(self, end: socket.socket) -> None:
        self._socket, self._received, self._unsent = end, b"", b""

    def fileno(self) -> int:
        return self._socket.fileno()

    def say(self, descriptors: Sequence[int] = (), **values: Any) -> None:
        """Send these values, behind what the socket could not take before. Nothing happens where the other process has
        ended."""
        if len(self._unsent) < self.MOST:
            self._unsent += json.dumps(values).encode() + b"\n"
        with contextlib.suppress(OSError):
            self._unsent = self._unsent[socket.send_fds(self._socket, [self._unsent], descriptors) :]

    def hear(self) -> list[dict[str, Any]] | None:
        """What the other process has said since; None once it has ended, and its last words were heard."""
        has_ended = True
        try:
            while data := self._socket.recv(1 << 16):
                self._received += data
        except BlockingIOError:
            has_ended = False
        except ConnectionError:  # it ended without reading all (unix(7))
            pass
        *lines, self._received = self._received.split(b"\n")
        return None if has_ended and not lines else [json.loads(line) for line in lines]

    def close(self) -> None:
        self._socket.close()


def program_files(app: Brubeck | None, error: BaseException | None = None) -> list[str]:
    """What `--reload` watches: the modules of the program, but not Python's own and installed packages, the files that
    an error comes from, and the templates."""
    # Not by getattr: what stands in sys.modules for a module may do anything when asked for an attribute.
    modules = {str(getattr(module, "__dict__", {}).get("__file__") or "") for module in [*sys.modules.values()]}
    if error is not None:
        modules.update(frame.f_code.co_filename for frame, _ in traceback.walk_tb(error.__traceback__))
        modules.add(getattr(error, "filename", None) or "")
    files = [name for name in modules if os.path.isfile(name) and not is_installed(name)]
    for folder, _, names in os.walk(getattr(getattr(app, "templates", None), "folder", os.devnull)):
        files += [os.path.join(folder, name) for name in names]
    return files


class _Parent(_Lines):
    """A worker's parent, as the worker sees it."""

    BEAT = 1.0  # seconds between signs of life

    def __init__(self, descriptor: int) -> None:
        os.set_inheritable(descriptor, False)
        super().__init__(_unpatched("socket").socket(fileno=descriptor))
        self._next_beat, self._is_watched, self.is_gone = 0.0, False, False
        self.is_first = True  # of its workers this one says what concerns the program
        self._mongrel2s: list[Mongrel2Server] = []

    def share(self, connections: Sequence[Connection], servers: Sequence[Any]) -> None:
        """Tell the parent which connections there are, and have each use what the parent opened for it."""
        self.say(connections=[[each.address, each.mode, each.scheme] if isinstance(each, HTTPConnection) else
                              [each.pull, each.pub, each.identity] for each in connections])  # fmt: skip
        self._socket.setblocking(True)  # in a program that has eventlet's sockets, the parent made this one with them
        data, descriptors, _, _ = socket.recv_fds(self._socket, 1 << 16, 2 * len(connections))
        for descriptor in descriptors:  # or what a handler starts by os.system would keep the port after our end
            os.set_inheritable(descriptor, False)
        if not data:
            raise SystemExit(2)  # the parent has said why
        answer = json.loads(data)
        self._is_watched, _cores.workers = answer["watched"], answer.get("workers", 1)
        self.is_first = answer["slot"] == 0
        self._mongrel2s = [each for each in servers if isinstance(each, Mongrel2Server)]
        for server in servers:
            if isinstance(server, HTTPServer):
                server.adopt(descriptors.pop(0), _Board(descriptors.pop(0), answer["slot"]))
        self._adopt(answer["lives"])
        if self._is_watched:
            self.say(files=program_files(None))  # before a function of `on_start` fails
        self._socket.setblocking(False)
        _unpatched("threading").Thread(target=self._outlive, daemon=True).start()

    def talk(self, app: Brubeck) -> None:
        """Once a second, send the figures of this process, and get those of all others."""
        if time.monotonic() >= self._next_beat:
            self._next_beat = time.monotonic() + self.BEAT
            self.say(stats=app.own_stats(), files=program_files(app) if self._is_watched else [])
        for values in self.hear() or ():
            app.other_stats = values.get("others", app.other_stats)
            self._adopt(values.get("lives", ()))

    def _adopt(self, lives: Iterable[tuple[int, Sequence[str] | None]]) -> None:
        """Connect to the Mongrel2s that the parent plays: each by its number, and the addresses of its next life."""
        for number, addresses in lives:
            self._mongrel2s[number].adopt(addresses)

    def _outlive(self) -> None:
        """End this worker when its parent has ended: in a thread that eventlet has not replaced, for it may hang."""
        poll, parent = _unpatched("select").poll(), os.getppid()
        poll.register(self.fileno(), 0)  # no events: `poll` returns when the other end is closed, except on macOS
        while not poll.poll(1000) and os.getppid() == parent:
            pass
        self.is_gone = True
        os.kill(os.getpid(), signal.SIGTERM)
        _unpatched("time").sleep(Ending.DEADLINE + 2)  # where the program ignores the signal
        os._exit(1)


class Server:
    """Runs an application on its connections until a signal ends it."""

    DRAIN = 8.0  # seconds for WebSockets, uploads and large answers behind Mongrel2, which need to hear from it
    DEADLINE = 9.0  # seconds for requests to finish; the rest of what `Ending` gives is for functions of `on_stop`

    def __init__(self, app: Brubeck, connections: Sequence[Connection], ending: Ending, parent: _Parent | None = None,
                 access_log: AccessLog | None = None) -> None:  # fmt: skip
        self._app, self._ending, self._parent = app, ending, parent
        self._connections, self._servers = connections, [each.make_server() for each in connections]
        self._load = Load(app, access_log)
        self._survive = Survivor()
        # What a parent may share with other workers:
        self._shared = [each.listener if isinstance(each, HTTPServer) else each for each in self._servers]
        self.listeners = [each for each in self._shared if isinstance(each, Listener)]
        self._load.servers = len(self.listeners)
        app.own_stats = self.stats

    def stats(self) -> Stats:
        """The figures of this process. Any thread may call it."""
        log = self._load.access_log
        own = {} if log is None else {"queues": {"access_log": len(log.noted) + len(log.lines)}}
        return merge_stats([self._load.stats(), own, *(each.stats() for each in self._servers)])

    def run(self) -> None:
        """Serve, and return after SIGINT or SIGTERM; SystemExit 0 where a signal ends the start."""
        self._ending.last_acts += [each.remove_path for each in self.listeners]
        try:
            if self._parent is not None:
                self._parent.share(self._connections, self._servers)
            for connection in self._servers:
                connection.open()
            eventlet.hubs.get_hub()  # which tells `spawn` that this thread has coroutines
            if self._parent is None or self._parent.is_first:
                for problem in find_problems(self._app):
                    logger.warning("%s", problem)
            self._app.call_on_start(self)
            self._ending.is_starting = False
            for connection in self._servers:
                connection.start(self._load)
            if self._parent is not None:
                self._parent.say(ready=True)
            while not self._ending.is_asked:
                self._tick()
                eventlet.sleep(0.1)
            self._finish()
        finally:
            for connection in self._servers:
                connection.close()
            if self._parent is not None:
                self._parent.say(stats=self.stats())  # with what was answered since the last second
            self._app.call_on_stop(self)
            if self._load.access_log is not None:
                self._load.access_log.write(1.0)
            with contextlib.suppress(Exception):
                sys.stdout.flush()  # what is not flushed when the deadline comes is lost

    def _finish(self) -> None:
        logger.info("stopping: %d requests are to be finished", self._load.busy + len(self._load.waiting))
        if self._parent is not None:
            self._parent.say(leaving=True)
            for each in self._shared:
                each.is_shared = not self._parent.is_gone  # without a parent, this process refuses new connections
        for connection in self._servers:
            connection.finish_receiving(self.DRAIN)
        deadline = time.monotonic() + self.DEADLINE
        while self._load.busy or self._load.waiting or self._app.spawned or not all(
            each.has_ended() for each in self._servers
        ):
            if time.monotonic() >= deadline:
                logger.warning("%d requests, and %d calls of app.spawn, were not finished in time",
                               self._load.busy + len(self._load.waiting), len(self._app.spawned))  # fmt: skip
                return
            self._tick()
            eventlet.sleep(0.02)

    def _tick(self) -> None:
        if self._parent is not None:
            self._survive(self._parent.talk, self._app)
        for connection in self._servers:
            self._survive(connection.check)
        self._load.admit()  # the coroutine that would go on with those that wait may have ended
        if self._load.access_log is not None:
            self._survive(self._load.access_log.write)


@contextlib.contextmanager
def serve_in_thread(app: Brubeck, bind: str) -> Iterator[Listener]:
    """Serve an application by HTTP in a thread of its own, while the block lasts: what `Brubeck.running` does."""
    ending: Any = SimpleNamespace(is_starting=True, is_asked=False, last_acts=[])  # no signal comes here
    server, errors = Server(app, [HTTPConnection(bind)], ending), list[BaseException]()
    # Imported here, for the thread that imports it first never ends for who joins it (Python before 3.13): the copy of
    # `threading` that eventlet makes takes that thread for the main thread.
    hubs = eventlet.hubs

    def run() -> None:
        try:
            server.run()
        except BaseException as error:
            errors.append(error)
        for _ in range(2):  # the coroutine that receives ends, then those that are parked
            eventlet.sleep(0)
        hubs.get_hub().abort(wait=True)

    thread = _unpatched("threading").Thread(target=run, daemon=True)
    thread.start()
    while ending.is_starting and thread.is_alive():
        thread.join(0.005)
    if errors:
        raise RuntimeError("the server cannot start: see the error above, or on standard error") from errors[0]
    try:
        yield server.listeners[0]
    finally:
        ending.is_asked = True
        thread.join(Ending.DEADLINE)
        if thread.is_alive():
            logger.warning("the server at %s goes on after the end of its block: a handler blocks it", bind)


# ---- Workers ---------------------------------------------------------------------------------------------------------
# A parent, which never imports the program, and its workers: the same command, started again. They talk to each other
# in lines of JSON, over a pair of sockets. By HTTP all workers accept from the socket with which the parent listens.
# Behind Mongrel2 only the parent is connected to Mongrel2, and deals its messages to the workers.

BAD_GATEWAY = (b"HTTP/1.1 502 Bad Gateway\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: 16\r\n"
               b"Connection: close\r\n\r\n502 Bad Gateway\n")  # fmt: skip


def modified_at(name: str) -> float | None:
    """When a file was changed; None where it is not there."""
    try:
        return os.stat(name).st_mtime
    except OSError:
        return None


def check_spare_descriptors(count: int) -> None:
    """OSError where this process cannot open so many more files."""
    with contextlib.ExitStack() as stack:
        for _ in range(count):
            stack.callback(os.close, os.open(os.devnull, os.O_RDONLY))


class _Worker:
    """A worker process, as its parent sees it."""

    def __init__(self, command: Sequence[str], folder: str | None) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            environment = {**os.environ, WORKER: str(theirs.fileno())}
            # A terminal sends SIGINT to the worker too: it is blocked there until the worker ignores it. Standard input
            # is that of the parent: a debugger in a worker reads from the terminal.
            before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
            try:
                self.process = subprocess.Popen(command, cwd=folder, env=environment, pass_fds=[theirs.fileno()])
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
        ours.setblocking(False)
        self.began = time.time()
        self.line = _Lines(ours)
        self.stats: Stats = {}
        self.is_ready = self.is_retiring = False
        self.deadline = math.inf  # by which it must have ended, once it retires
        self.heard = time.monotonic()  # when it gave the last sign of life
        self.ended: float | None = None  # when that was seen
        self.slot: int | None = None  # on the boards
        self.addresses = set[Any]()  # keys of what the parent opened for it

    def retire(self) -> None:
        """Have it finish what it was given, and end: at once where it has not started yet."""
        if not self.is_retiring:
            self.is_retiring = True
            self.deadline = time.monotonic() + (Server.DEADLINE if self.is_ready else Ending.START) + 2
            self.process.send_signal(signal.SIGTERM)

    def count(self) -> int:
        """How many requests it has answered."""
        return sum(sum(by_status.values()) for by_status in self.stats.get("requests", {}).values())

    def takes(self) -> bool:
        """Whether it takes new requests."""
        return self.is_alive() and not self.is_retiring

    def is_alive(self) -> bool:
        """Whether it serves, or finishes what it was given."""
        return self.is_ready and self.ended is None

    def __str__(self) -> str:
        return f"worker {self.process.pid}"


class _Link:
    """A Mongrel2 that the parent plays to one worker: a PUSH for requests and a SUB for replies, as the real Mongrel2
    has them. Each life of the real one is a life of the played one, with new sockets, so that no message of a former
    life can be taken for one of the present life."""

    LONGEST = 60  # bytes of the name of a folder in which a socket can be: with its own name, 104 at most (macOS)
    MOST = 20_000  # messages on their way from the parent to a worker

    __slots__ = ("_context", "_folder", "is_over", "is_there", "number", "outstanding", "push", "sub", "worker")

    def __init__(self, context: zmq.Context[Any], worker: _Worker, number: int) -> None:
        self._context, self.worker, self.number = context, worker, number  # of this Mongrel2 among those of the worker
        self._folder: str | None = None
        self.push: zmq.Socket[Any] | None = None
        self.sub: zmq.Socket[Any] | None = None
        self.outstanding = 0  # requests that the worker has not answered
        self.is_there = False  # the worker is connected
        self.is_over = False  # it was told that no more will come

    def open(self) -> list[str]:
        """Make the sockets of a new life; returns their addresses. These are in a folder that only our user may enter,
        and which is removed when the worker is connected: a connection goes on without the names of its sockets, and
        another program may clean /tmp."""
        check_spare_descriptors(8)  # where libzmq 4.3.5 has none left to accept with, it ends the process
        folder = tempfile.gettempdir()
        if len(os.fsencode(folder)) > self.LONGEST or not os.path.isdir(folder):
            folder = "/tmp"
        self._folder = tempfile.mkdtemp(prefix="brubeck_lite-", dir=folder)
        addresses = [f"ipc://{self._folder}/{name}" for name in ("push", "sub")]
        self.push = self._context.socket(zmq.PUSH)
        self.push.setsockopt(zmq.SNDHWM, self.MOST)
        self.sub = self._context.socket(zmq.SUB)
        self.sub.subscribe(b"")
        for own, address in zip((self.push, self.sub), addresses, strict=True):
            own.setsockopt(zmq.LINGER, 0)
            own.bind(address)
        return addresses

    def look(self) -> None:
        """See whether the worker is connected: its PULL is, after its XPUB."""
        if not self.is_there and self.push is not None and int(self.push.getsockopt(zmq.EVENTS)) & zmq.POLLOUT:
            self.is_there = True
            self.remove_folder()

    def remove_folder(self) -> None:
        """Remove the folder of the sockets, if it is still there."""
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def tell(self, addresses: list[str] | None) -> None:
        """Tell the worker where the next life is; None: no more will come."""
        self.is_over = addresses is None
        self.worker.line.say(lives=[[self.number, addresses]])

    def send(self, message: bytes) -> bool:
        """Deal a message to the worker; False where it takes none: it has died, or is full."""
        try:
            cast("zmq.Socket[Any]", self.push).send(message, zmq.NOBLOCK)
        except zmq.Again:
            return False
        return True

    def close(self) -> None:
        """This life has ended, or the worker has."""
        for own in (self.push, self.sub):
            if own is not None:
                own.close()
        self.push = self.sub = None
        self.outstanding, self.is_there = 0, False
        self.remove_folder()


class _DealtClient:
    """A client's connection to Mongrel2 with requests that a worker has not answered: how many these are, whether a
    part of the answer was sent, whether the body of the latest is still to come, and whether the client speaks HTTP."""

    __slots__ = ("has_begun", "is_http", "is_uploading", "link", "outstanding", "sender")

    def __init__(self, link: _Link, sender: bytes, is_http: bool) -> None:
        self.link, self.sender, self.is_http = link, sender, is_http
        self.outstanding, self.has_begun, self.is_uploading = 0, False, False

    def add(self, rest: bytes) -> None:
        """Note a request that was dealt; `rest` is what follows the path in its message."""
        self.outstanding += 1
        self.link.outstanding += 1
        self.is_uploading = b"x-mongrel2-upload-start" in rest and b"x-mongrel2-upload-done" not in rest


# The type of `Parent._watch`: call a function whenever a socket is readable; with None, no longer.
Watch = Callable[[Any, Union[Callable[[], Any], None]], None]
_OUTSTANDING = operator.attrgetter("outstanding")


def _is_frame(message: bytes, rest: bytes) -> bool:
    """Whether a message of Mongrel2 is a frame of a WebSocket, no request; `rest` is what follows its path."""
    if b"WEBSOCKET" not in rest:
        return False
    size, _, headers = rest.partition(b":")
    if headers[:1] == b"{":  # JSON, where a client's own quotation marks are escaped
        return b'"METHOD":"WEBSOCKET"' in headers[: int(size)]
    return parse_mongrel2(message).method == "WEBSOCKET"


class _Dealer:
    """Deals one Mongrel2's messages to workers: to the one that serves the connection already, else to the one with
    the fewest outstanding."""

    TURN = 200  # messages until other sockets have their turn

    def __init__(self, context: zmq.Context[Any], watch: Watch, pull: str, pub: str, identity: str | None) -> None:
        self._watch, self.address = watch, (pull, pub, identity)
        self.mongrel2 = _Mongrel2(context, pull, pub, identity)
        self.clients: dict[bytes, _DealtClient] = {}  # by connection id, while requests of them are outstanding
        self.held: deque[bytes] = deque()  # replies, while Mongrel2 is behind
        self._links: list[_Link] = []
        self._undealt: bytes | None = None  # a message that no worker could take
        self._leaving_since: float | None = None
        self._early = set[_DealtClient]()  # with requests that came before that: their answers may be large
        self._has_left = False

    # -- lives and links

    def look(self) -> None:
        """See whether Mongrel2 and the workers are there; send the replies that are held."""
        self.flush()  # for no other reply may come, with which they would be sent
        life = self.mongrel2.life
        if life is not None and life.has_ended():
            self._end_life(life)
        elif life is None and not self._has_left and any(link.worker.is_ready for link in self._links):
            self.mongrel2.seek()
        if (life := self.mongrel2.life) is not None and life.left is None:
            # While no worker can take them, messages wait in Mongrel2.
            self._watch(life.pull, self._take_messages if self._takers() else None)
            if self._undealt is not None:
                self._take_messages()
        for link in self._links:
            link.look()
        for link in self._links:
            if link.push is None:  # the life before this one has ended
                link.tell(self._open(link))

    def _end_life(self, life: _Life) -> None:
        self._watch(life.pull, None)
        self.mongrel2.lose()
        self.mongrel2.dropped += len(self.held)
        self.held.clear()
        self.clients.clear()
        self._undealt = None
        for link in self._links:
            self._watch(link.sub, None)
            link.close()

    def _open(self, link: _Link) -> list[str]:
        try:
            addresses = link.open()
        except (OSError, zmq.ZMQError):
            link.close()
            raise
        self._watch(link.sub, functools.partial(self._take_answers, link))
        return addresses

    def link(self, worker: _Worker, number: int) -> list[str]:
        """Deal to this worker too, once it is ready. Returns the addresses for the worker."""
        link = _Link(self.mongrel2.context, worker, number)
        addresses = self._open(link)
        self._links.append(link)
        return addresses

    def unlink(self, worker: _Worker) -> None:
        """A worker has ended: its clients get 502, or, where a part of the answer was sent, their connection ends."""
        for link in [link for link in self._links if link.worker is worker]:
            self._watch(link.sub, None)
            while link.sub is not None and _is_readable(link.sub):
                self._take_answer(link, link.sub.recv())
            for conn_id in [conn_id for conn_id, client in self.clients.items() if client.link is link]:
                self._refuse(conn_id, self.clients.pop(conn_id))
            self._links.remove(link)
            link.close()

    def leave(self, now: float) -> None:
        """Leave Mongrel2 as soon as no upload and no answer has begun that needs its messages, nor may begin for an
        early request, after `Server.DRAIN` seconds at the latest, and give the workers all messages that it has dealt.
        """
        if self._leaving_since is None:
            self._leaving_since, self._early = now, {*self.clients.values()}
        is_soon = now < self._leaving_since + Server.DRAIN / 2
        is_heard = lambda: any(each.has_begun or each.is_uploading or (is_soon and each in self._early)  # noqa: E731
                               for each in self.clients.values())  # fmt: skip
        is_done = self.mongrel2.leave(is_heard, self._leaving_since + Server.DRAIN)
        if (life := self.mongrel2.life) is not None and life.left is not None:
            self._watch(life.pull, None)
            while (life.left or self._undealt is not None) and self._take_messages():
                pass
            is_done = not life.left and self._undealt is None
        self._has_left = is_done

    def release(self) -> None:
        """Tell workers that retire, and have no requests to answer, that no more messages will come."""
        for link in self._links:
            if link.worker.is_retiring and not (link.outstanding or link.is_over or self._is_leaving()):
                link.tell(None)

    def remove_folders(self) -> None:
        """Remove the folders of the sockets to which no worker is connected yet."""
        for link in [*self._links]:
            link.remove_folder()

    def has_links(self) -> bool:
        """Whether a worker that has not ended has messages from here."""
        return bool(self._links)

    def is_former(self) -> bool:
        """Whether it leaves its Mongrel2, or has left it: a program that comes back there gets another dealer."""
        return self._leaving_since is not None

    def close(self) -> None:
        """Leave Mongrel2. Requests that no worker is left to take get 502."""
        self.leave(time.monotonic())
        life, undealt = self.mongrel2.life, [] if self._undealt is None else [self._undealt]
        for message in [*undealt, *((life and life.left) or ())]:
            with contextlib.suppress(ValueError):  # it is not Mongrel2's protocol
                sender, conn_id, path, _ = message.split(b" ", 3)
                if path != b"@*":
                    self._refuse(conn_id, _DealtClient(cast(_Link, None), sender, path[:1] == b"/"))
        self.flush(1.0)
        self.mongrel2.close(1000)
        for link in self._links:
            link.close()

    # -- requests

    def _takers(self) -> list[_Link]:
        """The links to which messages may be dealt."""
        can_take = _Worker.is_alive if self._is_leaving() else _Worker.takes  # leaving, all retire, and take the rest
        return [link for link in self._links if link.is_there and not link.is_over and can_take(link.worker)]

    def _is_leaving(self) -> bool:
        return self._leaving_since is not None and not self._has_left

    def _take_messages(self) -> bool:
        """Deal the messages that have come. False where no worker can take more: then messages wait in Mongrel2 until
        `look` finds a worker that can."""
        takers, life = self._takers(), cast(_Life, self.mongrel2.life)
        for _ in range(self.TURN):
            if not takers:
                self._watch(life.pull, None)
                return False
            message, self._undealt = self._undealt, None
            try:
                if message is None:
                    message = life.left.popleft() if life.left else life.pull.recv(zmq.NOBLOCK)
                self._deal(takers, life, message)
            except zmq.Again:
                break
            except ValueError as error:
                logger.warning("%s sent a message that is no request (%s): %.100r", self.mongrel2.pull, error, message)
        return True

    def _deal(self, takers: list[_Link], life: _Life, message: bytes) -> None:
        """Give a message to the worker that serves its connection; else to one of `takers`, from which those that
        cannot take it are removed. ValueError where the message is not Mongrel2's protocol."""
        sender, conn_id, path, rest = message.split(b" ", 3)
        client = self.clients.get(conn_id)
        if path == b"@*":
            if client is not None:
                client.link.send(message)
                if b'"disconnect"' in rest:
                    del self.clients[conn_id]
                    client.link.outstanding -= client.outstanding
        elif client is None:
            if sender not in life.senders:
                life.check_sender(sender)
            if not conn_id.isdigit():
                raise ValueError("the connection has no number")
            if b"WEBSOCKET" in rest and _is_frame(message, rest):
                self._send(format_reply(sender, [conn_id], b"")[0])  # its WebSocket has ended
                return
            link = self._deal_new(takers, message)
            if link is None:
                self._undealt = message
            else:
                self.clients[conn_id] = client = _DealtClient(link, sender, path[:1] == b"/")
                client.add(rest)
        elif not client.link.send(message):
            self._refuse(conn_id, client)  # the worker is dead, or its queue is full: the answer would not be whole
        elif not (b"WEBSOCKET" in rest and _is_frame(message, rest)):
            client.add(rest)

    def _deal_new(self, takers: list[_Link], message: bytes) -> _Link | None:
        """Deal the message of a connection that no worker serves now. Returns the link of the worker that took it."""
        while takers:
            link = min(takers, key=_OUTSTANDING)
            if link.send(message):
                return link
            takers.remove(link)
        return None

    # -- replies

    def _take_answers(self, link: _Link) -> None:
        """Send the replies of a worker on to Mongrel2, but not while Mongrel2 cannot take them."""
        receive = cast("zmq.Socket[Any]", link.sub).recv
        with contextlib.suppress(zmq.Again):
            for _ in range(self.TURN):
                if self.held and not self.flush(0.001):
                    return
                self._take_answer(link, receive(zmq.NOBLOCK))

    def _take_answer(self, link: _Link, message: bytes) -> None:
        """Send a reply on if one of its clients is still there, and note the requests that are answered (see MARK)."""
        is_last = message[:1] == MARK
        if is_last:
            message = message[1:]
        start = message.find(b" ") + 1
        colon = message.find(b":", start)
        end = message.find(b", ", colon)
        if not (0 < start < colon < end and message[start:colon].isdigit()):
            logger.error("%s: dropped a message of a worker that is no reply: %.100r", self.mongrel2.pub, message)
            return
        conn_ids = message[colon + 1 : end].split(b" ")
        is_extended = conn_ids[0] == b"X"
        is_for_us = is_extended and len(message) == end + 2
        is_wanted = False
        for conn_id in conn_ids:
            client = self.clients.get(conn_id)
            if client is None:
                continue
            is_wanted = True
            client.has_begun = client.has_begun or not is_extended
            if is_last and client.link is link:
                link.outstanding -= 1
                client.outstanding -= 1
                if not client.outstanding:
                    del self.clients[conn_id]
        if is_wanted and not is_for_us:
            self._send(message)

    def _refuse(self, conn_id: bytes, client: _DealtClient) -> None:
        """Close a connection; first send a 502 where no part of the answer was sent."""
        if client.is_http and not client.has_begun:
            client.has_begun = True
            self._send(format_reply(client.sender, [conn_id], BAD_GATEWAY)[0])
        self._send(format_reply(client.sender, [conn_id], b"")[0])

    def _send(self, reply: bytes) -> None:
        if not self.held:
            try:
                cast(_Life, self.mongrel2.life).pub.send(reply, zmq.NOBLOCK)
                return
            except zmq.Again:  # Mongrel2 is behind
                pass
        self.held.append(reply)

    def flush(self, patience: float = 0) -> bool:
        """Send the replies that are held, with `patience` seconds for Mongrel2 to take them; whether none is left."""
        deadline, life = time.monotonic() + patience, self.mongrel2.life
        while self.held and life is not None:
            try:
                life.pub.send(self.held[0], zmq.NOBLOCK)
                self.held.popleft()
            except zmq.Again:
                if time.monotonic() >= deadline:
                    break
                life.pub.poll(1, zmq.POLLOUT)
        return not self.held


class Parent:
    """The parent of worker processes: starts `command` in `folder` for each of them, again for those that end, and anew
    for all on SIGHUP.

    `timeout`: seconds without a sign of life after which a worker is killed, 0 for never. `max_requests`: a worker is
    replaced after so many requests, 0 for never. `reload`: all workers are replaced when a file of the program changes.
    `stats`: the HOST:PORT at which the figures of all processes are served for Prometheus. SIGTERM and SIGINT end the
    parent when all requests are finished.
    """

    LONGEST_DELAY = 30.0  # seconds between starts of workers that do not live
    BIRTH = 60.0  # seconds to import the program in, before `timeout`
    LAST_WORDS = 0.05  # seconds for replies that a worker sent before it died
    LEAVE = 5.0  # seconds for a worker to end, once it has closed its end of the pair of sockets

    def __init__(self, command: Sequence[str], folder: str, workers: int, *, timeout: float = 30,
                 max_requests: int = 0, reload: bool = False, stats: str | None = None) -> None:  # fmt: skip
        self._command, self._folder, self._count = command, folder, workers
        self._timeout, self._max_requests, self._reload, self._stats_address = timeout, max_requests, reload, stats
        self._files: dict[str, float | None] = {}  # when each was changed, for `reload`
        self._workers: list[_Worker] = []
        self._outdated: list[_Worker] = []  # to be replaced
        self._listening: dict[str, tuple[Listener, _Board]] = {}
        self._dealers: list[_Dealer] = []
        self._context: zmq.Context[Any] = zmq.Context()
        self._readers: dict[Any, Callable[[], Any]] = {}  # by descriptor, or socket of ZeroMQ
        self._poller = zmq.Poller()
        self._failures = 0  # since one was ready
        self._next_birth = 0.0
        self._has_served = self._hangup = False
        self._survive = Survivor()
        self._former: Stats = {"restarts": 0}  # the counters of workers that have ended

    def stats(self, but: _Worker | None = None) -> Stats:
        """The figures of all workers, those that have ended too, and of the parent; without those of one worker."""
        dealers = [*self._dealers]
        own = {"dropped": sum(dealer.mongrel2.dropped for dealer in dealers),
               "queues": {"replies": sum(len(dealer.held) for dealer in dealers),
                          "dealt": sum(len(dealer.clients) for dealer in dealers)}} if dealers else {}
        return merge_stats([self._former, own, *(worker.stats for worker in [*self._workers] if worker is not but)])

    def run(self) -> None:
        """Serve until a signal ends it. SystemExit 2 where the first worker cannot start."""
        before, telling = signal.signal(signal.SIGHUP, self._on_hangup), None
        with contextlib.closing(Ending()) as ending:
            ending.is_starting, self._ending = False, ending  # workers in their start are ended at once
            ending.last_acts += [self._kill_all, self._remove_paths]
            try:
                if self._stats_address is not None:
                    telling = StatsServer(self._stats_address, self.stats).start()
                self._serve(ending)
            finally:
                signal.signal(signal.SIGHUP, before)
                if telling is not None:
                    telling.close()
                self._close()

    def _serve(self, ending: Ending) -> None:
        next_tick = 0.0
        while self._workers or not ending.is_asked:
            if not self._survive(self._listen_to_all):
                time.sleep(0.1)
            if time.monotonic() >= next_tick:
                next_tick = time.monotonic() + 0.1
                self._tick(time.monotonic())

    def _listen_to_all(self) -> None:
        """Wait for messages, a tenth of a second at most, and call the functions that take them."""
        if not self._readers:
            time.sleep(0.1)  # for a poller of pyzmq does not wait while no socket is registered
        for ready, _ in self._poller.poll(100):
            self._survive(self._readers.get(ready, list))

    def _on_hangup(self, number: int, frame: Any) -> None:
        self._hangup = True

    def _kill_all(self) -> None:
        for worker in self._workers:
            with contextlib.suppress(OSError):
                worker.process.kill()

    def _remove_paths(self) -> None:
        for listening, _ in [*self._listening.values()]:
            listening.remove_path()
        for dealer in [*self._dealers]:
            dealer.remove_folders()

    def _close(self) -> None:
        self._kill_all()
        for worker in self._workers:
            worker.process.wait()
        for listening, board in self._listening.values():
            listening.close()
            board.close()
        for dealer in self._dealers:
            dealer.close()
        self._context.term()

    def _watch(self, ready: Any, function: Callable[[], Any] | None) -> None:
        """Call a function whenever a descriptor, or a socket of ZeroMQ, is readable; with None, no longer."""
        if function is not None:
            self._readers[ready] = function
            self._poller.register(ready, zmq.POLLIN)
        elif self._readers.pop(ready, None) is not None:
            self._poller.unregister(ready)

    def _tick(self, now: float) -> None:
        """Ten times a second: look after Mongrel2 and the workers."""
        for dealer in self._dealers:
            self._survive(dealer.look)
            self._survive(dealer.release)
        for worker in [*self._workers]:
            self._survive(self._see, worker, now)
        self._survive(self._stop if self._ending.is_asked else self._renew, now)
        self._survive(self._leave_unused, now)

    def _see(self, worker: _Worker, now: float) -> None:
        """See whether a worker is there, and gives signs of life."""
        limit = max(self._timeout, 3 * _Parent.BEAT) + (0 if worker.is_ready else self.BIRTH)
        if worker.ended is not None or worker.process.poll() is not None:
            self._bury(worker, now)
        elif now > worker.deadline or (self._timeout and now - worker.heard > limit):
            silence = f"gave no sign of life for {now - worker.heard:.0f} seconds"
            reason = "did not end in time" if now > worker.deadline else silence
            logger.error("%s %s: killed (for a debugger: --debug)", worker, reason)
            worker.process.kill()

    def _renew(self, now: float) -> None:
        """Start the workers that are missing, and replace one by one those that are outdated."""
        if self._reload and self._files != (files := self._look()):
            self._files, self._next_birth = files, now
            logger.info("the program has changed")
            for worker in self._workers:
                worker.retire()
        serving = [worker for worker in self._workers if not worker.is_retiring]
        self._outdated = [worker for worker in self._outdated if worker in serving]  # others have ended by themselves
        if self._hangup:
            self._hangup, self._outdated = False, serving[:]
            logger.info("replacing %d workers", len(serving))
        elif self._max_requests:
            self._outdated += [worker for worker in serving if worker not in self._outdated
                               and worker.count() >= self._max_requests]  # fmt: skip
        if self._outdated and len(serving) > self._count and all(worker.is_ready for worker in serving):
            serving.remove(self._outdated[0])
            self._outdated.pop(0).retire()
        wanted = self._count + bool(self._outdated) if self._has_served else 1
        while len(serving) < wanted and now >= self._next_birth:
            try:
                # By its name, for the folder may have been replaced. Where it is gone, the worker says so.
                worker = _Worker(self._command, self._folder if os.path.isdir(self._folder) else None)
            except OSError as error:
                self._next_birth = now + self._delay()
                self._outdated.clear()  # the workers that serve go on
                logger.error("no worker can be started for now: %s", error)
                return
            serving.append(worker)
            self._workers.append(worker)
            self._watch(worker.line.fileno(), functools.partial(self._hear, worker))

    def _look(self) -> dict[str, float | None]:
        """When each file that `reload` watches was changed. While we wait for the program to change, so are the modules
        beside these files: a script that fails before `run` does not say which file that comes from, and the file may
        not be there yet."""
        names = {*self._files}
        if self._next_birth == math.inf:
            folders = {os.path.dirname(name) for name in names}
            names.update(*(glob.iglob(os.path.join(glob.escape(folder), "*.py")) for folder in folders))
        return {name: modified_at(name) for name in names}

    def _delay(self) -> float:
        """Seconds until the next start, which grow while none succeeds."""
        self._failures += 1
        return min(self.LONGEST_DELAY, 0.25 * 2.0**self._failures)

    def _equip(self, worker: _Worker, connections: list[Any]) -> None:
        """Open the sockets that a worker needs. The program ends where the first worker cannot have them."""
        try:
            self._share(worker, connections)
        except (OSError, zmq.ZMQError, SystemExit) as error:  # for SystemExit a line has said why
            if not isinstance(error, SystemExit):
                logger.error("cannot open the sockets that %s needs: %s", worker, error)
            if not self._has_served:
                raise SystemExit(2) from error
            worker.process.kill()

    def _hear(self, worker: _Worker) -> None:
        """What a worker says: which connections it has, that it is ready, its figures; or that it is gone."""
        heard = worker.line.hear()
        worker.heard = time.monotonic()
        if heard is None:
            worker.ended = time.monotonic()
            self._watch(worker.line.fileno(), None)
            return
        for values in heard:
            if "connections" in values and not self._ending.is_asked:
                self._equip(worker, values["connections"])
            for name in values.get("files", ()):  # a file saved since the worker began may not be what it has read
                saved = modified_at(name)
                self._files.setdefault(name, None if saved is not None and saved > worker.began else saved)
            if "leaving" in values:
                worker.retire()
            if "ready" in values:
                worker.is_ready = self._has_served = True
                self._failures = 0
                logger.info("%s is ready", worker)
            if "stats" in values:
                worker.stats = values["stats"]
                worker.line.say(others=self.stats(but=worker))

    def _share(self, worker: _Worker, connections: Sequence[Any]) -> None:
        """Open the sockets that a worker needs, unless they are open already, and tell it of them."""
        descriptors: list[int] = []
        lives: list[Any] = []
        for each in connections:
            worker.addresses.add(each[0] if isinstance(each[1], int) else tuple(each))
            if isinstance(each[1], int):  # an HTTP address; else a Mongrel2's
                listening, board = self._listen(*each)
                descriptors += [listening.socket.fileno(), board.descriptor]
            else:
                dealer = self._find_dealer(*each)
                lives.append([len(lives), dealer.link(worker, len(lives))])
        taken = {other.slot for other in self._workers}
        worker.slot = next((slot for slot in range(self._slots()) if slot not in taken), 0)
        worker.line.say(descriptors, lives=lives, slot=worker.slot, watched=self._reload, workers=self._count)

    def _find_dealer(self, *address: Any) -> _Dealer:
        """What deals the messages of the Mongrel2 at this address."""
        for dealer in self._dealers:
            if dealer.address == address and not dealer.is_former():
                return dealer
        self._dealers.append(_Dealer(self._context, self._watch, *address))
        return self._dealers[-1]

    def _slots(self) -> int:
        """How many slots a board has: for all workers, those that retire, and some more. Then workers share one."""
        return 2 * self._count + 16

    def _listen(self, address: str, mode: int, scheme: str) -> tuple[Listener, _Board]:
        if address not in self._listening:
            listening = Listener(address, mode, scheme=scheme)
            listening.open()
            logger.info("serving %s", listening.url)
            self._listening[address] = listening, _Board.create(self._slots())
        return self._listening[address]

    def _bury(self, worker: _Worker, now: float) -> None:
        """A worker has ended: answer its requests, and have another worker start."""
        worker.ended = worker.ended or now
        if now - worker.ended < self.LAST_WORDS:
            return
        if worker.process.poll() is None:
            if now - worker.ended > self.LEAVE:
                worker.process.kill()
            return
        self._watch(worker.line.fileno(), None)
        worker.line.close()
        for dealer in self._dealers:
            dealer.unlink(worker)
        if worker.slot is not None:
            for _, board in self._listening.values():
                board.release(worker.slot)
        self._workers.remove(worker)
        known = worker.stats.keys() & FIGURES.keys()  # the worker may be of a newer version
        counted = {name: worker.stats[name] for name in known if FIGURES[name][1] == "counter"}
        self._former = merge_stats([self._former, counted])
        status = worker.process.returncode
        if worker.is_retiring or self._ending.is_asked:
            logger.info("%s has ended", worker)
            return
        how = f"was ended by {signal.Signals(-status).name}" if status < 0 else f"ended with exit status {status}"
        if worker.is_ready:
            logger.error("%s %s", worker, how)
            self._former["restarts"] += 1
            return
        if status == 2 and not self._has_served:
            raise SystemExit(2)  # it has said why
        if self._reload and self._files:
            self._next_birth = math.inf
            self._files = {**self._look(), **self._files}
            logger.error("%s %s: waiting for the program to change", worker, how)
            return
        self._next_birth = now + (delay := self._delay())
        logger.error("%s %s before it was ready; another starts after %.1f seconds", worker, how, delay)
        if worker not in self._outdated:  # else it was started before the last SIGHUP
            self._outdated.clear()  # the workers that serve go on with the program as it was

    def _leave_unused(self, now: float) -> None:
        """Leave the addresses that the program had until the last SIGHUP, once it is served at others by all workers.
        Those that retire finish what came by them."""
        serving = [worker for worker in self._workers if worker.takes()]
        if len(serving) < self._count:
            return
        used = set[Any]().union(*(worker.addresses for worker in self._workers if not worker.is_retiring))
        for address in self._listening.keys() - used:
            listening, board = self._listening.pop(address)
            listening.close()
            board.close()
        for dealer in [*self._dealers]:
            if dealer.is_former() or dealer.address not in used:
                dealer.leave(now)
                if not dealer.has_links():
                    dealer.close()
                    self._dealers.remove(dealer)
                    self._former = merge_stats([self._former, {"dropped": dealer.mongrel2.dropped}])

    def _stop(self, now: float) -> None:
        """Have the workers finish their requests, and leave every Mongrel2."""
        for listening, _ in self._listening.values():
            listening.close()  # no new connection begins: the workers accept those that have begun
        for worker in self._workers:
            worker.retire()
        for dealer in self._dealers:
            dealer.leave(now)


def current_folder() -> str:
    """The folder that this process runs in; SystemExit 2, after a line that says why, where it was removed."""
    try:
        return os.getcwd()
    except FileNotFoundError:
        fail("the folder that this was started in was removed: start it in another one, or name one by --chdir")


def same_command() -> tuple[list[str], str]:
    """What starts this program again, and the folder to start it in, by the name that the shell had for it ($PWD):
    where that is a symbolic link to a release, the program is then started from the release that it leads to by now.
    SystemExit 2, after a line that says why, where the program is not in a file."""
    script = str(getattr(sys.modules["__main__"], "__file__", ""))
    if script in ("", "<stdin>") and sys.argv[0] != "-c":  # a notebook, a prompt, or a pipe, which can be read once
        fail("workers and reload start the program again: put it into a file")
    started = script.removesuffix(sys.argv[0])  # a script may have changed its folder since
    folder, named = started if os.path.isdir(started) else current_folder(), os.environ.get("PWD", "")
    if os.path.isabs(named) and os.path.isdir(named) and os.path.samefile(named, folder):
        folder = named
    python = sys.orig_argv[0]  # where it is below the folder, links are resolved in sys.executable
    is_below = os.sep in python and os.pardir not in python.split(os.sep)
    python = os.path.join(folder, python) if is_below else os.path.abspath(sys.executable)
    return [python, *sys.orig_argv[1:]], folder


def count_workers(workers: int | str) -> int:
    """The number of workers; "auto" is one for each core that this process may use. ValueError for less than one."""
    count = count_cores() if workers == "auto" else int(workers)
    if count < 1:
        raise ValueError("there must be at least one worker")
    return count


def parent_of_worker() -> _Parent | None:
    """The parent, where this process is a worker; SystemExit 2, after a line that says why, where WORKER is set by
    accident."""
    if (descriptor := os.environ.pop(WORKER, None)) is None:
        return None
    try:
        return _Parent(int(descriptor))
    except (ValueError, OSError, OverflowError):
        fail(f"{WORKER} is set to {descriptor!r}: unset it, for only a parent sets it, for its workers")


def default_connections(bind: str | None, tls: TLSFiles | None, parent: _Parent | None) -> list[HTTPConnection]:
    """The connections of a program that names none: at `bind`; if that is None, at the sockets with which systemd
    listens for this process, or for the parent of this worker (sd_listen_fds(3)); else at DEFAULT_ADDRESS."""
    process, count = os.getpid() if parent is None else os.getppid(), "0"
    if bind is None and os.environ.get("LISTEN_PID") == str(process):
        count = os.environ.get("LISTEN_FDS", "0")
        if re.fullmatch("[0-9]{1,4}", count) is None:
            fail(f"LISTEN_FDS is set to {count!r}: it is a number of descriptors, or unset")
    addresses = [f"fd:{3 + number}" for number in range(int(count))] or [bind or DEFAULT_ADDRESS]
    return [HTTPConnection(address, tls=tls) for address in addresses]


def join_address(host: str | None, port: int | str | None) -> str:
    """The address of a host (by default 127.0.0.1) and a port (by default 6767)."""
    default_host, default_port = DEFAULT_ADDRESS.split(":")
    name = default_host if host is None else f"[{host}]" if ":" in host and host[0] != "[" else host
    return f"{name}:{default_port if port is None else port}"


def list_connections(connection: Connection | Address | Sequence[Connection | Address] | None,
                     tls: TLSFiles | None = None) -> list[Connection]:  # fmt: skip
    """One connection or address, several or none, as a list of connections. `tls`: for HTTPS at the addresses.
    ValueError for an invalid address, and for `tls` beside a connection."""
    several = [connection] if isinstance(connection, (Mongrel2Connection, HTTPConnection, str, int)) else connection
    addresses = [join_address(None, each) if isinstance(each, int) else each for each in several or ()]
    if tls is not None and not all(isinstance(each, str) for each in addresses):
        raise ValueError("run(tls=...) is for an address; a connection has its own: HTTPConnection(..., tls=...)")
    return [HTTPConnection(each, tls=tls) if isinstance(each, str) else each for each in addresses]


def worker_patience(is_debugged: bool) -> float:
    """Seconds without a sign of life after which a worker is killed; 0 for never, as a debugger takes its time."""
    return 0.0 if is_debugged else 30.0


def serve(app: Brubeck, connections: Sequence[Connection], ending: Ending, *, patch: bool = True,
          access_log: str | None = None, stats: str | None = None, parent: _Parent | None = None) -> None:  # fmt: skip
    """Serve an application on one connection or several: what `Brubeck.run` and the command line do. `access_log`: the
    file that gets a line for each answer, "" for standard output. `stats`: the HOST:PORT at which its figures are
    served for Prometheus."""
    configure_logging()
    if patch:
        contexts = [each.tls for each in connections if isinstance(each, HTTPConnection)]
        ending.complete(lambda: patch_program(contexts))  # eventlet would log and forget a SystemExit
    if access_log == "" and sys.stdout is None:
        fail("--access-log: standard output is closed")
    try:
        log = None if access_log is None else AccessLog(path=access_log)
    except OSError as error:
        fail(f"--access-log: cannot write to {access_log!r}: {error.strerror}")
    server = Server(app, connections, ending, parent, log)
    with contextlib.ExitStack() as stack:
        if stats is not None and parent is None:
            stack.enter_context(contextlib.closing(StatsServer(stats, app.stats).start()))
        server.run()


# ---- Command ---------------------------------------------------------------------------------------------------------
# brubeck_lite MODULE:APP [options] serves a program. Without serving, the command prints a program's routes, what is
# wrong with it, or a configuration for its Mongrel2.


def _run_on_import(*arguments: Any, **options: Any) -> NoReturn:
    raise ValueError('run() is called while the program is imported: put it below `if __name__ == "__main__":`')


def _is_importing(file: str) -> bool:
    """Whether a file of a traceback is this one, or belongs to the import system."""
    return file in (__file__, importlib.__file__) or file.startswith("<frozen importlib")


def _last_place(error: BaseException) -> str:
    """The line of the program, or of what it imports, at which it failed."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not _is_importing(frame.filename)]
    return place_in(frames[-1].filename, frames[-1].lineno) if frames else "brubeck_lite"


def import_program(module_name: str, attribute: str) -> Any:
    """The value of this attribute of a program's module, or, for a function, what it returns; None where there is none.
    SystemExit 2, after a line that says where, if there is no such module, if the program imports one that is not
    installed, and if brubeck_lite raises a ValueError or TypeError for something that the program says, such as two
    routes that conflict; SystemExit 1, after the traceback of the program, for another exception."""
    sys.path.insert(0, current_folder())
    run, Brubeck.run = Brubeck.run, _run_on_import  # type: ignore[method-assign]
    try:
        found: Any = getattr(importlib.import_module(module_name), attribute, None)
        makes_one = not isinstance(found, Brubeck) and find_misuse(found, 0) is None
        return (found() or found) if makes_one else found
    except ModuleNotFoundError as error:
        if error.name is not None and f"{module_name}.".startswith(f"{error.name}."):
            fail(f"there is no module {module_name!r} here: name it as in an import, like hello:app")
        fail(f"{_last_place(error)}: {error}: install it for {sys.executable}")
    except Exception as error:
        (*_, (frame, _)) = traceback.walk_tb(error.__traceback__)
        if isinstance(error, (ValueError, TypeError)) and frame.f_code.co_filename == __file__:
            fail(f"{_last_place(error)}: {error}")
        trace = error.__traceback__
        while trace is not None and _is_importing(trace.tb_frame.f_code.co_filename):
            trace = trace.tb_next
        traceback.print_exception(type(error), error, trace)
        raise SystemExit(1) from None
    finally:
        Brubeck.run = run  # type: ignore[method-assign]


def load_program(name: str) -> Brubeck:
    """ "module:attribute" (the attribute is "app" unless named; a function, also as "module:create_app()", is called)
    -> the application; SystemExit 2 if there is none."""
    if re.fullmatch(r"\w+(?:\.\w+)*(?::(?:\w+(?:\(\))?)?)?", name) is None:
        fail(f"{name!r} is no MODULE:APP, like hello:app")
    module_name, _, attribute = name.partition(":")
    attribute = attribute.removesuffix("()") or "app"
    app = import_program(module_name, attribute)
    if not isinstance(app, Brubeck):
        what = "is no Brubeck" if app is not None else "is not there"
        file = getattr(sys.modules.get(module_name), "__file__", None)  # perhaps not the program's: email.py, queue.py
        fail(f"{attribute!r} {what} in the module {module_name!r} ({file}): name the application, like hello:app, or "
             "a function without arguments that makes it")  # fmt: skip
    return app


def all_routes(app: Brubeck, prefix: str = "") -> Iterator[tuple[str, Brubeck, Route]]:
    """The routes of an application and of what is mounted in it, each with its prefix and its application."""
    for route in app.routes.all:
        if isinstance(route.handler, Brubeck):
            yield from all_routes(route.handler, f"{prefix}{route.name}")
        else:
            yield prefix, app, route


def describe_route(prefix: str, route: Route) -> tuple[str, ...]:
    """Rule, methods, name, handler and place of a route, for people."""
    rule = f"{prefix}{route.rule}"
    methods = "any" if route.methods is None else ",".join(sorted(route.methods))
    if isinstance(route.rule, re.Pattern):
        rule = f"{prefix} r'{' '.join(route.rule.pattern.split())}'".lstrip()
    elif route.is_socket:
        methods = "MESSAGE"
    elif hasattr(route.handler, "is_websocket"):
        methods = "WEBSOCKET"
    return rule, methods, route.name or "-", name_handler(route.handler), find_source(route.handler)


def list_routes(name: str, app: Brubeck) -> int:
    """Print a table of the routes, in the order of the program; returns the exit status."""
    routes = (describe_route(prefix, route) for prefix, _, route in all_routes(app))
    rows = [("RULE", "METHODS", "NAME", "HANDLER", "WHERE"), *routes]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(map(str.ljust, row, widths)).rstrip())
    return 0


def find_misfit(app: Brubeck, route: Route) -> str | None:
    """Why a handler cannot be called with the arguments of its route; None where it can, or where that is unknown."""
    positional, named = 0, set[str]()
    if isinstance(route.rule, re.Pattern):
        named = {*route.rule.groupindex}
        positional = 0 if named else route.rule.groups
    elif not route.is_socket:
        named = named.union(*(rule.arguments for rule in app.routes.map.iter_rules(cast(Any, route))))
    calls = [undecorated(route.handler)]
    if isinstance(route.handler, type):
        if problem := find_misuse(route.handler, 2):
            return f"{problem}; it is made with (app, request)"
        is_plain = route.handler.__call__ in (MessageHandler.__call__, WebMessageHandler.__call__)
        names = map(str.lower, route.methods or ()) if is_plain else ["__call__"]
        calls = [getattr(route.handler, name) for name in names if hasattr(route.handler, name)]
    for call in calls:
        try:
            inspect.signature(call, follow_wrapped=False).bind(None, *[None] * positional, **dict.fromkeys(named))
        except ValueError:  # a function written in C has no signature
            continue
        except TypeError as error:
            return f"{name_handler(call)} cannot be called with the arguments of its route: {error}"
    return None


def find_unused_guard(app: Brubeck, handler: Any) -> str | None:
    """That a check such as @authenticated stands above the decorator of the route, which has the handler without it."""
    own = undecorated(handler)
    above = getattr(own, "__globals__", {}).get(getattr(own, "__name__", None))
    if above is None or _is_not_ours(above) or undecorated(above) is not own:
        return None
    # The guarded function is the handler of this route, or of another one (that of a WebSocket is wrapped).
    if any(above in (route.handler, getattr(route.handler, "__wrapped__", None)) for _, _, route in all_routes(app)):
        return None
    return f"{name_handler(handler)} is not guarded: a check such as @authenticated stands below the route's decorator"


def find_lost_answer(handler: Any) -> str | None:
    """That a function makes an answer and does not return it, so that its client gets an empty page: in Bottle and
    others `redirect` raises an exception."""
    own = undecorated(handler)
    known = {name for name in getattr(getattr(own, "__code__", None), "co_names", ())
             if own.__globals__.get(name) in (redirect, render, static_file)}  # fmt: skip
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(own)) if known else "")
    except (OSError, SyntaxError, TypeError):  # without the source nothing is known
        return None
    statements = (node.value for node in ast.walk(tree) if isinstance(node, ast.Expr))
    names = (getattr(each.func, "id", None) for each in statements if isinstance(each, ast.Call))
    name = next((name for name in names if name in known), None)
    return name and f"{name_handler(handler)} does not return what it makes: write return {name}(...)"


def find_problems(app: Brubeck) -> Iterator[str]:
    """What is surely wrong with a program that could be imported: a line for each mistake."""
    for prefix, inner, route in all_routes(app):
        handler = route.handler
        problem = find_misfit(inner, route) or find_unused_guard(app, handler) or find_lost_answer(handler)
        if prefix and route.is_socket:
            problem = "never called, for message sockets of a mounted application are not served"
        if problem is not None:
            rule, _, _, _, where = describe_route(prefix, route)
            yield f"{where}: {rule}: {problem}".removeprefix("-: ")


def check_program(name: str, app: Brubeck) -> int:
    """Print what is wrong with a program, or that nothing is; returns the exit status, 1 or 0."""
    problems = [*find_problems(app), *(f"upload_store: {problem}" for problem in find_upload_problems(app))]
    print(*problems or [f"{name}: no conflicts"], sep="\n")
    return 1 if problems else 0


MONGREL2_CONFIG = """\
# Mongrel2 in front of brubeck_lite. In {folder} with run/, logs/ and {upload}/:
#     m2sh load -config mongrel2.conf -db config.sqlite && m2sh start -db config.sqlite -name main
{servers}
settings = {{'zeromq.threads': 1, 'download.flow_control': 1, 'limits.content_length': {limit},
            # Larger bodies, and chunked ones of any size, are handed over as files{store}.
            'upload.temp_store': '{upload}/upload.XXXXXX',
            # By default (0600) a handler that runs as another user can neither read nor remove them. With 0660 every
            # user of the folder's group can: chgrp GROUP {upload} && chmod 2770 {upload}
            'upload.temp_store_mode': '0660',
            # Bytes of the largest head: 4096 by default, which one large cookie fills. Takes 6 KiB more a connection.
            'limits.buffer_size': 65536,
            # Packets in which a head may arrive: the default, 5, allows three. (A slow client is kept for longer.)
            'limits.client_read_retries': 1000,
            # Connections beyond superpoll.max_fd / hot_dividend (10240 / 4) take the place of the handlers' sockets.
            'superpoll.hot_dividend': 2}}

servers = [{names}]
"""

MONGREL2_SERVER = """
web{n} = Handler(send_spec='{pull}', send_ident='34f9ceee-cd52-4b7f-b197-88bf2f0ec{id:03}',
              recv_spec='{pub}', recv_ident='')

main{n} = Server(uuid='f400bf85-4538-4f7a-8908-67e313d51{id:03}', name='main{n}', bind_addr='{host}', port={port},
              {chroot}access_log='{root}logs/access{n}.log', error_log='{root}logs/error{n}.log',
              pid_file='{root}run/mongrel2{n}.pid', control_port='ipc://run/control{n}',
              default_host='localhost', hosts=[Host(name='localhost', routes={{{routes}}})])
"""


def mongrel2_config(app: Brubeck, addresses: Sequence[Sequence[str]], bind: str) -> str:
    """A configuration that fits an application: its message sockets, its bodies, its `upload_store`. There is a
    Mongrel2 for each pair of `addresses`; the first listens at `bind`, the others at the ports after that. Each of them
    stays in its folder (chroot), unless an address is outside. ValueError where Mongrel2 cannot do what is asked."""
    listener = Listener(bind)
    host, port = listener.host.replace("localhost", "127.0.0.1"), listener.port
    if not port or not re.fullmatch(r"[0-9.]+|[0-9A-Fa-f.]*:[0-9A-Fa-f:.]+", host):
        raise ValueError(f"Mongrel2 listens at a numeric address and a port, not at {bind}")
    rules = ["/", *sorted(str(route.rule) for route in app.routes.all if route.is_socket)]
    specs = [*itertools.chain(*addresses)]
    store = "" if app.upload_store is None else os.path.abspath(os.fsdecode(app.upload_store))
    for text in [*specs, *rules, store]:
        if not text.isprintable() or set("'\"\\([ ") & set(text):
            raise ValueError(f"{text!r} cannot be said in a configuration of Mongrel2: call it something else")
    root, chroot = "/", "chroot='./', "
    folder, upload = os.path.split(store) if store else ("a folder", "tmp")
    if any(spec.startswith("ipc:///") for spec in specs):
        root, chroot, folder, upload = "", "", "a folder", store or "tmp"
    servers, names = "", []
    for at, (pull, pub) in enumerate(addresses):
        n = str(at + 1) if at else ""
        names.append(f"main{n}")
        routes = ", ".join(f"'{rule}': web{n}" for rule in rules)
        servers += MONGREL2_SERVER.format(n=n, id=at, pull=pull, pub=pub, host=host, port=port + at, root=root,
                                          chroot=chroot, routes=routes)  # fmt: skip
    # In memory Mongrel2 holds bodies up to the largest of our limits; up to 1 MiB where others go to a folder.
    bodies = [inner.max_body if route.max_body is None else route.max_body for _, inner, route in all_routes(app)]
    limit = min(max([app.max_body, *bodies]), 1 << 20 if store else (1 << 31) - 1)
    option = "" if store else f",\n            # if the handler is started with --upload-store FOLDER/{upload}"
    return MONGREL2_CONFIG.format(folder=folder, upload=upload, servers=servers, names=", ".join(names), limit=limit,
                                  store=option)  # fmt: skip


_USAGE = """brubeck_lite MODULE:APP [options]
       brubeck_lite routes MODULE:APP
       brubeck_lite check MODULE:APP"""
_PURPOSE = ("Serve an application by HTTP or behind Mongrel2. The command routes prints a table of its routes; check "
            "prints the routes that conflict and the handlers that do not take the arguments of their routes. Exit "
            "status: 0 after Ctrl-C or SIGTERM, 1 if check found something, 2 if it cannot start.")  # fmt: skip
_TELL = {"routes": list_routes, "check": check_program}  # by the first word of the command line


def _at_least(least: int, *words: str) -> Callable[[str], int | str]:
    """What reads the number of an option, for argparse; it also takes one of these words."""

    def read(text: str) -> int | str:
        if text in words:
            return text
        if re.fullmatch("[0-9]{1,18}", text) is None or int(text) < least:
            import argparse

            expected = ", nor ".join([f"a number of at least {least}", *words])
            raise argparse.ArgumentTypeError(f"{text!r} is not {expected}")
        return int(text)

    return read


def _seconds(text: str) -> float:
    """The seconds of an option, for argparse."""
    with contextlib.suppress(ValueError):
        if (seconds := float(text)) >= 0:  # it may be NaN
            return seconds
    import argparse

    raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds")


def _add_options(add: Callable[..., Any]) -> None:
    """The options for serving, by argparse's `add_argument`."""
    add("--bind", metavar="ADDRESS", help="the address of the HTTP server: HOST:PORT, [IPV6]:PORT, PORT (at every "
        "IPv4 address), unix:PATH, or fd:NUMBER for a socket that listens already (default: the sockets that systemd "
        f"passes, else {DEFAULT_ADDRESS})")  # fmt: skip
    add("--host", metavar="HOST", help="the host of the HTTP server, in place of --bind (default: 127.0.0.1)")
    add("--port", metavar="PORT", type=_at_least(0), help="the port, in place of --bind (default: 6767)")
    add("--tls", metavar=("CERTIFICATE", "KEY"), nargs=2,
        help="serve HTTPS in place of HTTP, with the certificate and the key in these PEM files")
    add("--mongrel2", metavar=("PULL", "PUB"), nargs=2, action="append", default=[],
        help="serve behind the Mongrel2 with this send_spec and recv_spec; may be repeated")
    add("--workers", metavar="N", type=_at_least(1, "auto"), help="the number of worker processes, or auto: one for "
        "each processor core that this process may use (default: a single process, without a parent)")  # fmt: skip
    add("--worker-timeout", metavar="SECONDS", type=_seconds, help="replace a worker that gives no sign of life for "
        "this many seconds; 0: never (default: 30; with --reload or --debug 0)")  # fmt: skip
    add("--max-requests", metavar="N", type=_at_least(0), default=0,
        help="replace a worker after this many requests; 0: never (default)")
    add("--pool-size", metavar="N", type=_at_least(1),
        help="how many requests are handled at once (default: 10000)")
    add("--max-body", metavar="BYTES", type=_at_least(0), help="the largest body of a request (default: 1048576)")
    add("--upload-store", metavar="FOLDER", help="the folder of Mongrel2's upload.temp_store: for "
        "large and chunked bodies")  # fmt: skip
    add("--stats", metavar="HOST:PORT", help="serve figures for Prometheus at this address, as /metrics")
    add("--access-log", metavar="FILE", nargs="?", const="", help="write a line for each answer to this file, and to "
        "a new one of the same name when the file was moved away (default: to standard output)")  # fmt: skip
    add("--reload", action="store_true", help="restart when a file of the program or a template changes")
    add("--debug", action="store_true", help="show tracebacks in error pages")
    add("--quiet", action="store_true", help="log only warnings and errors")
    add("--print-mongrel2-config", action="store_true",
        help="print a configuration for a Mongrel2 that listens at --bind and has this program as handler, and exit")
    add("--version", action="version", version=f"brubeck_lite {__version__}")


def parse_arguments(given: Sequence[str]) -> Any:
    """The options of a command line, and as `tell` the function of `routes` or `check`; SystemExit 2 for wrong ones."""
    import argparse

    tell = _TELL.get(given[0]) if given else None
    parser = argparse.ArgumentParser("brubeck_lite", _USAGE, _PURPOSE, allow_abbrev=False)
    parser.error = lambda message: fail(f"{message} (--help tells more)")  # type: ignore[method-assign]
    parser.set_defaults(tell=tell)
    parser.add_argument("app", metavar="MODULE:APP", help="the module and its application, like hello:app")
    parser.add_argument("--chdir", metavar="DIR", help="go to this folder before all else")
    if tell is not None:
        return parser.parse_args(given[1:])
    _add_options(parser.add_argument)
    for place, (before, after) in enumerate(itertools.pairwise(given)):
        if before == "--access-log" and re.fullmatch(r"[\w.]+:[\w()]*", after):  # it is the program, and no file
            given = [*given[:place], after, before, *given[place + 2 :]]
    options = parser.parse_args(given)
    if options.host is not None or options.port is not None:
        if options.bind is not None:
            parser.error("--bind is a whole address: give it, or --host and --port")
        options.bind = join_address(options.host, options.port)
    if options.worker_timeout is None:
        options.worker_timeout = worker_patience(options.reload or options.debug)
    return options


def enter_folder(name: str | None) -> None:
    """Change to the folder of `--chdir`, if that is given; SystemExit 2, after a line that says why, where it fails."""
    try:
        if name is not None:
            os.chdir(name)
    except OSError as error:
        fail(f"--chdir: cannot go to {name!r}: {error.strerror}")


def load_with_options(options: Any, parent: _Parent | None) -> Brubeck:
    """The application, with the settings of the command line. Where it cannot be imported, the parent is told which
    files to watch for `--reload`."""
    try:
        app = load_program(options.app)
    except BaseException as error:
        if parent is not None:
            parent.say(files=program_files(None, error))
        raise
    app.pool_size = app.pool_size if options.pool_size is None else options.pool_size
    app.max_body = app.max_body if options.max_body is None else options.max_body
    app.upload_store = app.upload_store if options.upload_store is None else os.path.abspath(options.upload_store)
    app.debug = app.debug or options.debug
    return app


def run_program(options: Any, parent: _Parent | None, level: int) -> None:
    """Serve in this process, alone or as a worker of this parent; or print the configuration of a Mongrel2."""
    ending = Ending(is_worker=parent is not None)  # never closed: the interpreter's exit is to end in time too
    enter_folder(options.chdir)
    ending.complete(patch_standard_library)
    app = load_with_options(options, parent)
    own = list_connections(app.msg_conn)
    try:
        connections: list[Connection] = [Mongrel2Connection(pull, pub) for pull, pub in options.mongrel2]
        if options.print_mongrel2_config:
            pairs = [(each.pull, each.pub) for each in connections or own if isinstance(each, Mongrel2Connection)]
            pairs = pairs or [("tcp://127.0.0.1:9999", "tcp://127.0.0.1:9998")]
            print(mongrel2_config(app, pairs, options.bind or DEFAULT_ADDRESS), end="")
            return
        served = default_connections(options.bind, options.tls, parent)
        if options.bind or options.tls or served[0].address != DEFAULT_ADDRESS:
            connections += served
    except ValueError as error:
        fail(str(error))
    configure_logging(level)
    if options.quiet:
        logger.setLevel(level)
    serve(app, connections or own or served, ending, patch=False,
          access_log=options.access_log, stats=options.stats, parent=parent)  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    """The command `brubeck_lite`, with these arguments, or those of the command line. A script that calls
    `main(["hello:app"])` above its other imports is served as by `brubeck_lite hello:app`: it is imported anew, once
    eventlet has replaced what waits in the standard library."""
    options = parse_arguments(sys.argv[1:] if arguments is None else arguments)
    if options.tell is not None:
        enter_folder(options.chdir)
        patch_standard_library()
        raise SystemExit(options.tell(options.app, load_program(options.app)))
    refuse_windows()
    parent, level = parent_of_worker(), logging.WARNING if options.quiet else logging.INFO
    needs_parent = options.workers or options.max_requests or options.reload
    if parent is not None or not needs_parent or options.print_mongrel2_config:
        run_program(options, parent, level)
        return
    configure_logging(level)
    command, folder = same_command()
    enter_folder(options.chdir)  # a relative address means the same as without workers
    Parent(command, folder, count_workers(options.workers or 1), timeout=options.worker_timeout, stats=options.stats,
           max_requests=options.max_requests, reload=options.reload).run()  # fmt: skip


if __name__ == "__main__":
    # `python -m brubeck_lite` must not make a second copy of this module: programs import it by its name.
    import brubeck_lite

    brubeck_lite.main()
