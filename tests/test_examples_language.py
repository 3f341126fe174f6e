"""The example language.py with its two programs in C, compiled as it says, and a real Mongrel2."""

from __future__ import annotations

import contextlib
import http.client
import json
import random
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq
from playwright.sync_api import Page, expect
from support import ROOT, Mongrel2, environment, free_port, output, process, wait_for

pytest_plugins = ["browser"]

EXAMPLES = ROOT / "examples"
COMPILE = re.findall(r"^ +(gcc .*-lzmq)", (EXAMPLES / "language.py").read_text(), re.MULTILINE)
SANITIZE = "gcc -fsanitize=address,undefined -fno-sanitize-recover=all"


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with both programs, and with a handler that ends at the first access out of bounds."""
    folder = tmp_path_factory.mktemp("language")
    shutil.copytree(EXAMPLES / "language", folder / "language")
    checked = COMPILE[0].replace("gcc", SANITIZE).replace("-o language/handler", "-o language/checked")
    for command in [*COMPILE, checked]:
        done = subprocess.run(command.split(), cwd=folder, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
    return folder / "language"


class Both:
    """A Mongrel2 configured as the example says, but for its ports; with both programs behind it."""

    def __init__(self, stack: contextlib.ExitStack, programs: Path) -> None:
        ports = {name: str(free_port()) for name in ("9999", "9998", "9989", "9988", "9997", "9996")}
        self.spec = {name: f"tcp://127.0.0.1:{port}" for name, port in ports.items()}
        self.mongrel2 = Mongrel2()
        config = (EXAMPLES / "language" / "mongrel2.conf").read_text()
        config = config.replace("port=6767,", f"port={self.mongrel2.port}, bind_addr='127.0.0.1',")
        for name, port in ports.items():
            config = config.replace(f":{name}'", f":{port}'")
        self.mongrel2.configure(config, *(int(port) for port in ports.values() if f":{port}'" in config))
        self.handler = stack.enter_context(process([str(programs / "checked"), self.spec["9989"], self.spec["9988"]]))
        pairs = [word for pair in (("9999", "9998"), ("9997", "9996")) for word in ("--mongrel2", *pair)]
        options = [self.spec.get(word, word) for word in pairs]
        self.ours = stack.enter_context(process([sys.executable, "-m", "brubeck_lite", "language:app", *options]))
        stack.enter_context(self.mongrel2)
        self.wait_until_connected(1)
        self.port = self.mongrel2.port

    def wait_until_connected(self, times: int) -> None:
        def are_connected() -> bool:
            lines = output(self.ours).count(f"connected to Mongrel2: requests from {self.spec['9999']}")
            return lines >= times and output(self.handler).count("connected to Mongrel2") >= times

        wait_for(are_connected, what="both")

    def ask(self, path: str, method: str = "GET") -> tuple[int, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        with contextlib.closing(connection):
            connection.request(method, path)
            answer = connection.getresponse()
            text = answer.read().decode()
            return answer.status, json.loads(text) if text else None


@pytest.fixture(scope="module")
def both(programs: Path) -> Iterator[Both]:
    with contextlib.ExitStack() as stack:
        yield Both(stack, programs)


def test_two_languages_behind_one_mongrel2_count_alike(page: Page, both: Both) -> None:
    page.goto(f"http://127.0.0.1:{both.port}/")
    page.get_by_label("Below").fill("20000")
    page.get_by_role("button", name="Count").click()
    rows = page.locator("tbody").get_by_role("row")
    expect(rows).to_have_text([re.compile(r"^Python2,262\d+$"), re.compile(r"^C2,262\d+$")])
    page.set_viewport_size({"width": 390, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


@pytest.mark.parametrize("below", [0, 1, 2, 3, 4, 5, 9, 10, 26, 200_000])
def test_they_agree_on_every_number(both: Both, below: int) -> None:
    (status, in_c), (_, in_python) = both.ask(f"/c/primes/{below}"), both.ask(f"/python/primes/{below}")
    assert status == 200
    assert in_c == {**in_python, "language": "C"}


def test_what_the_handler_in_c_does_not_have_it_says_so(both: Both) -> None:
    for path in ("/c/", "/c/primes/", "/c/primes/-1", "/c/primes/200001", "/c/primes/5x", "/c/primes/" + 500 * "9"):
        assert both.ask(path) == (404, {"error": "there are numbers from 0 to 200000 here"})
    assert both.ask("/c/primes/5", "POST") == (405, {"error": "this is only to be read"})
    assert both.ask("/c/primes/5", "HEAD") == (200, None)


def test_both_come_back_to_a_mongrel2_that_was_restarted(both: Both) -> None:
    connected = output(both.handler).count("connected to Mongrel2")
    both.mongrel2.kill()
    both.mongrel2.start()
    both.wait_until_connected(connected + 1)
    assert both.ask("/c/primes/10") == (200, {"language": "C", "below": 10, "count": 4})
    assert both.ask("/words?text=a+b+a") == (200, {"a": 2, "b": 1})


def ask_by_zeromq(both: Both, programs: Path, route: str, text: str) -> subprocess.CompletedProcess[str]:
    command = [str(programs / "peer"), both.spec["9997"], both.spec["9996"], route]
    return subprocess.run(command, input=text, capture_output=True, text=True, timeout=60, check=False)


def test_a_program_in_c_asks_a_message_handler_and_may_come_again(both: Both, programs: Path) -> None:
    for _ in range(2):
        done = ask_by_zeromq(both, programs, "@words", "to be or not to be\n\nnäturlich\n")
        answers = [json.loads(line) for line in done.stdout.splitlines()]
        assert answers == [{"to": 2, "be": 2, "or": 1, "not": 1}, {}, {"näturlich": 1}], done.stderr


def test_an_error_is_an_answer_to_it_too(both: Both, programs: Path) -> None:
    assert ask_by_zeromq(both, programs, "@nowhere", "hello\n").stdout.startswith("404 Not Found")


def test_hostile_messages_do_no_harm_to_the_handler_in_c(programs: Path) -> None:
    """As Mongrel2 would send none: cut, lengthened and changed ones, with a good one after all of them."""
    headers = b'{"PATH":"/c/primes/5","METHOD":"GET","VERSION":"HTTP/1.1"}'
    good = b"sender 7 /c/primes/5 %d:%b,0:," % (len(headers), headers)
    chance = random.Random(5)
    bad = [good[:length] for length in range(len(good))]
    bad += [good.replace(b"%d:" % len(headers), length) for length in (b"-1:", b"99:", b"9" * 40 + b":", b":", b"x:")]
    bad += [b"s" * 11000 + good, b"sender " + b"7" * 9999 + good, b"", b"\0", b" " * 50]
    for _ in range(2000):
        changed = bytearray(good)
        for _ in range(chance.randrange(1, 6)):
            changed[chance.randrange(len(changed))] = chance.randrange(256)
        bad.append(bytes(changed))
    with zmq.Context() as context, context.socket(zmq.PUSH) as push, context.socket(zmq.SUB) as sub:
        push.linger = 0
        push.sndtimeo = sub.rcvtimeo = 60_000
        specs = [f"tcp://127.0.0.1:{end.bind_to_random_port('tcp://127.0.0.1')}" for end in (push, sub)]
        sub.subscribe(b"")
        with process([str(programs / "checked"), *specs], env=environment(False)) as child:
            while not push.poll(50, zmq.POLLOUT):
                sub.poll(0)  # a SUB subscribes while somebody looks at it
            for message in [*bad, good.replace(b" 7 ", b" 4711 ")]:
                push.send(message)
            while not (answer := sub.recv()).startswith(b"sender 4:4711, "):
                pass
            assert answer.endswith(b'\r\n\r\n{"language":"C","below":5,"count":2}')
            assert child.poll() is None, output(child)


def test_the_handler_in_c_drops_no_answer(programs: Path) -> None:
    """While Mongrel2 does not read, more answers wait than the queue of a socket takes."""
    headers = b'{"PATH":"/c/primes/5","METHOD":"GET","VERSION":"HTTP/1.1"}'
    with zmq.Context() as context, context.socket(zmq.PUSH) as push, context.socket(zmq.SUB) as sub:
        push.linger = push.sndhwm = 0
        push.sndtimeo = sub.rcvtimeo = 60_000
        sub.rcvhwm, sub.rcvbuf = 1, 4096
        specs = [f"tcp://127.0.0.1:{end.bind_to_random_port('tcp://127.0.0.1')}" for end in (push, sub)]
        sub.subscribe(b"")
        with process([str(programs / "checked"), *specs], env=environment(False)):
            while not push.poll(50, zmq.POLLOUT):
                sub.poll(0)  # a SUB subscribes while somebody looks at it
            for number in range(1000, 9000):
                push.send(b"sender %d /c/primes/5 %d:%b,0:," % (number, len(headers), headers))
            time.sleep(1)  # now it has met the end of its queue, if it is ever to do so
            for number in range(1000, 9000):
                answer, end = sub.recv(), sub.recv()
                assert answer.startswith(b"sender 4:%d, HTTP/1.1 200 " % number) and end == b"sender 4:%d, " % number
