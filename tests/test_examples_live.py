"""The examples chat.py, clock.py and longpoll.py behind both doors, as people have them: in Chromium."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect
from support import Mongrel2, behind_http, behind_mongrel2, free_port, listens, process, wait_for

pytest_plugins = ["browser"]

Visit = Callable[[int], Page]


@contextlib.contextmanager
def behind(door: str, program: str) -> Iterator[int]:
    """This program behind the embedded server or Mongrel2: the port."""
    if door == "mongrel2":
        with Mongrel2() as mongrel2, behind_mongrel2(program, mongrel2):
            yield mongrel2.port
    else:
        with behind_http(program) as (_, port):
            yield port


@pytest.fixture(scope="module", params=["http", "mongrel2"])
def door(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def visit(browser: Browser) -> Iterator[Visit]:
    """Opens the first page of a port in a browser of its own; an error in a script fails the test."""
    contexts, errors = [], list[str]()

    def open_page(port: int) -> Page:
        context = browser.new_context(viewport={"width": 1280, "height": 800})
        context.set_default_timeout(60_000)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(f"http://127.0.0.1:{port}/")
        return page

    expect.set_options(timeout=60_000)
    yield open_page
    for context in contexts:
        context.close()
    expect.set_options(timeout=5_000)
    assert errors == []


def fits(page: Page) -> bool:
    """Whether the page is styled, and needs no scrolling to the side on a phone."""
    page.set_viewport_size({"width": 390, "height": 800})
    styled = page.evaluate("document.styleSheets[0].cssRules.length > 20")
    return bool(styled and page.evaluate("document.documentElement.scrollWidth <= innerWidth"))


def ask(port: int, method: str, path: str, value: Any = None) -> tuple[int, Any]:
    """The status of an answer, and its JSON."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    with contextlib.closing(connection):
        body = None if value is None else json.dumps(value)
        connection.request(method, path, body, {"Content-Type": "application/json"} if body else {})
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())


# ---- chat.py


@pytest.fixture(scope="module")
def chat(door: str) -> Iterator[int]:
    with behind(door, "chat:app") as port:
        yield port


def enter(page: Page, name: str, room: str = "birdland") -> Page:
    if room != "birdland":
        page.evaluate("room => { location.hash = room; }", room)
    page.get_by_label("Your name").fill(name)
    page.get_by_role("button", name="Enter").click()
    expect(page.get_by_role("list", name="Who is here")).to_contain_text(name)
    return page


def say(page: Page, text: str) -> None:
    page.get_by_role("textbox", name="Message").fill(text)
    page.get_by_role("button", name="Send").click()


def last_line(page: Page) -> Any:
    return page.get_by_role("list", name="What was said").get_by_role("listitem").last


def names(page: Page) -> Any:
    return page.get_by_role("list", name="Who is here").get_by_role("listitem")


def test_chat_what_one_says_all_in_the_room_see_as_text_whatever_it_is(chat: int, visit: Visit) -> None:
    dave, paul = enter(visit(chat), "Dave"), enter(visit(chat), "Paul")
    say(dave, "<img src=x> in five?")
    for page in (dave, paul):
        expect(last_line(page)).to_have_text(re.compile(r"^Dave .*\n<img src=x> in five\?$"))
    say(paul, "In five, näturlich 🎷")
    for page in (dave, paul):
        expect(last_line(page)).to_have_text(re.compile(r"^Paul .*\nIn five, näturlich 🎷$"))
    expect(dave.get_by_role("textbox", name="Message")).to_have_value("")


def test_chat_a_room_hears_nothing_of_another(chat: int, visit: Visit) -> None:
    dave, paul = enter(visit(chat), "Dave", "storyville"), enter(visit(chat), "Paul", "blackhawk")
    say(dave, "only for Storyville")
    expect(last_line(dave)).to_contain_text("only for Storyville")
    say(paul, "only for the Blackhawk")
    expect(last_line(paul)).to_contain_text("only for the Blackhawk")
    assert "only for Storyville" not in paul.content()
    dave.get_by_role("link", name="blackhawk").click()
    expect(names(paul)).to_have_text(["Dave", "Paul"])
    expect(last_line(dave)).to_contain_text("only for the Blackhawk")
    assert "only for Storyville" not in dave.content()


def test_chat_the_list_says_who_is_here_until_they_leave(chat: int, visit: Visit) -> None:
    dave = enter(visit(chat), "Dave", "storyville")
    expect(names(dave)).to_have_text(["Dave"])
    paul = enter(visit(chat), "Paul", "storyville")
    expect(names(dave)).to_have_text(["Dave", "Paul"])
    rooms = dave.get_by_role("list", name="Rooms").get_by_role("listitem")
    expect(rooms).to_have_text(["birdland0", "blackhawk0", "storyville2"])
    paul.context.close()
    expect(names(dave)).to_have_text(["Dave"])


def test_chat_who_comes_later_sees_what_was_said(chat: int, visit: Visit) -> None:
    dave = enter(visit(chat), "Dave")
    say(dave, "first words")
    say(dave, "second words")
    expect(last_line(dave)).to_contain_text("second words")
    paul = enter(visit(chat), "Paul")
    expect(paul.get_by_role("listitem").filter(has_text="first words")).to_be_visible()
    expect(last_line(paul)).to_contain_text("second words")


def test_chat_who_is_refused_reads_why(chat: int, visit: Visit) -> None:
    page = visit(chat)
    page.get_by_label("Your name").fill("  ")
    page.get_by_role("button", name="Enter").click()
    expect(page.get_by_role("alert")).to_have_text("one needs a name here")
    page.goto(f"http://127.0.0.1:{chat}/#cottonclub")
    page.get_by_label("Your name").fill("Dave")
    page.get_by_role("button", name="Enter").click()
    expect(page.get_by_role("alert")).to_have_text("that room does not exist")


def test_chat_what_is_no_message_is_not_said_and_does_no_harm(chat: int, visit: Visit) -> None:
    dave = enter(visit(chat), "Dave")
    visit(chat).evaluate(
        """() => new Promise((resolve, reject) => {
            const socket = new WebSocket(`ws://${location.host}/rooms/birdland?name=Odd`);
            const odd = ["{", "5", "[]", "{}", '{"text": 5}', '{"text": " "}', "[".repeat(9000), new Uint8Array([255])];
            socket.onopen = () => [...odd, '{"text": "half \\\\ud83d"}'].forEach((message) => socket.send(message));
            socket.onmessage = ({data}) => data.includes("half") && resolve();
            socket.onclose = ({code}) => reject(new Error(`closed with ${code}`));
        })"""
    )
    expect(last_line(dave)).to_contain_text("half")
    assert dave.get_by_role("listitem").filter(has_text=re.compile("^Odd .*\n")).count() == 1


def test_chat_its_page_fits_a_phone(chat: int, visit: Visit) -> None:
    page = visit(chat)
    assert fits(page)
    enter(page, "D" * 30)
    say(page, "Supercalifragilistic" * 20)
    expect(last_line(page)).to_contain_text("Supercali")
    assert fits(page)


def test_chat_after_a_restart_of_the_server_the_browsers_come_back(visit: Visit) -> None:
    port = free_port()
    command = [sys.executable, "-m", "brubeck_lite", "chat:app", "--bind", f"127.0.0.1:{port}"]
    with process(command):
        wait_for(lambda: listens(port))
        dave, paul = enter(visit(port), "Dave"), enter(visit(port), "Paul")
    expect(dave.get_by_role("status")).to_have_text("connecting …")
    say(dave, "are you back?")  # which stays, as it cannot be sent
    expect(dave.get_by_role("textbox", name="Message")).to_have_value("are you back?")
    with process(command):
        for page in (dave, paul):
            expect(names(page)).to_have_text(["Dave", "Paul"])
            expect(page.get_by_role("status")).to_have_text("connected")
        dave.get_by_role("button", name="Send").click()
        expect(last_line(paul)).to_contain_text("are you back?")
        for page in (dave, paul):
            page.context.close()


def test_chat_after_a_restart_of_mongrel2_they_come_back_to_what_was_said(visit: Visit) -> None:
    with Mongrel2() as mongrel2, behind_mongrel2("chat:app", mongrel2):
        dave, paul = enter(visit(mongrel2.port), "Dave"), enter(visit(mongrel2.port), "Paul")
        say(dave, "before")
        expect(last_line(paul)).to_contain_text("before")
        mongrel2.kill()
        expect(paul.get_by_role("status")).to_have_text("connecting …")
        mongrel2.start()
        for page in (dave, paul):
            expect(page.get_by_role("status")).to_have_text("connected")
            expect(names(page)).to_have_text(["Dave", "Paul"])
        say(paul, "after")
        lines = dave.get_by_role("list", name="What was said").get_by_role("listitem")
        expect(lines).to_have_text([re.compile("before$"), re.compile("after$")])


# ---- clock.py


@pytest.fixture(scope="module")
def clock(door: str) -> Iterator[int]:
    with behind(door, "clock:app") as port:
        yield port


def ticks(port: int, number: int, last_id: str = "") -> list[str]:
    """The ids of so many ticks, from the one after `last_id`."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    with contextlib.closing(connection):
        connection.request("GET", "/ticks", headers={"Last-Event-ID": last_id} if last_id else {})
        answer = connection.getresponse()
        assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
        ids: list[str] = []
        while len(ids) < number:
            line = answer.readline().decode()
            assert line, "the stream ended"
            if line.startswith("id: "):
                ids.append(line[4:].strip())
        return ids


def test_clock_the_time_and_the_chart_move(clock: int, visit: Visit) -> None:
    page = visit(clock)
    chart, time = page.locator("#chart polyline"), page.get_by_role("timer")
    expect(time).to_have_text(re.compile(r"^\d\d:\d\d:\d\d$"))
    expect(chart).to_have_attribute("points", re.compile(r"^\d+,\d+"))
    before, points = time.inner_text(), chart.get_attribute("points") or ""
    expect(time).not_to_have_text(before)
    expect(chart).not_to_have_attribute("points", points)
    height = chart.evaluate("line => line.getBoundingClientRect().height")
    assert 0 < height <= page.locator("#chart").evaluate("chart => chart.getBoundingClientRect().height + 2")


def test_clock_it_says_how_many_watch_until_they_leave(clock: int, visit: Visit) -> None:
    one, two = visit(clock), visit(clock)
    expect(one.locator("#watching")).to_have_text("2")
    two.context.close()
    expect(one.locator("#watching")).to_have_text("1")


def test_clock_who_comes_back_gets_what_it_missed_and_nothing_twice(clock: int) -> None:
    first = ticks(clock, 6)
    assert first == sorted(set(first))
    assert ticks(clock, 5, first[0])[:5] == first[1:]


def test_clock_its_page_fits_a_phone(clock: int, visit: Visit) -> None:
    page = visit(clock)
    expect(page.get_by_role("status")).to_have_text("connected")
    assert fits(page)


def test_clock_a_restart_of_mongrel2_leaves_no_gap_in_the_chart(browser: Browser, visit: Visit) -> None:
    with Mongrel2() as mongrel2, behind_mongrel2("clock:app", mongrel2):
        page = visit(mongrel2.port)
        page.context.add_init_script(
            """window.seen = [];
            window.EventSource = class extends EventSource {
                constructor(...given) {
                    super(...given);
                    this.addEventListener("message", (event) => window.seen.push(event.lastEventId));
                }
            };"""
        )
        page.reload()
        page.wait_for_function("seen.length > 0")
        mongrel2.kill()
        expect(page.get_by_role("status")).to_have_text("connecting …")
        mongrel2.start()
        expect(page.get_by_role("status")).to_have_text("connected")
        before = page.evaluate("seen.length")
        page.wait_for_function("before => seen.length > before + 1", arg=before)
        seen = page.evaluate("seen")
        all_ticks = ticks(mongrel2.port, len(seen))
        assert seen == all_ticks[all_ticks.index(seen[0]) :][: len(seen)]
        page.context.close()


# ---- longpoll.py


@pytest.fixture(scope="module")
def longpoll(door: str) -> Iterator[int]:
    with behind(door, "longpoll:app") as port:
        yield port


def are_waiting(port: int, number: int) -> None:
    wait_for(lambda: ask(port, "GET", "/waiting") == (200, {"waiting": number}), what=f"{number} that wait")


def post(page: Page, text: str) -> None:
    page.get_by_role("textbox", name="Message").fill(text)
    page.get_by_role("button", name="Post").click()


def messages(page: Page) -> Any:
    return page.get_by_role("list", name="Messages").get_by_role("listitem")


def test_longpoll_all_who_wait_get_what_one_posts(longpoll: int, visit: Visit) -> None:
    one, two = visit(longpoll), visit(longpoll)
    are_waiting(longpoll, 2)
    expect(one.get_by_role("status")).to_have_text("2 waiting")
    post(one, "<b>Take Five</b>")
    for page in (one, two):
        expect(messages(page).first).to_have_text("<b>Take Five</b>2 waited")
    are_waiting(longpoll, 2)
    post(two, "Unsquare Dance")
    for page in (one, two):
        expect(messages(page).first).to_have_text("Unsquare Dance2 waited")


def test_longpoll_who_has_left_is_not_counted(longpoll: int, visit: Visit) -> None:
    one, two = visit(longpoll), visit(longpoll)
    are_waiting(longpoll, 2)
    two.context.close()
    are_waiting(longpoll, 1)
    expect(one.get_by_role("status")).to_have_text("1 waiting")


def test_longpoll_nothing_is_lost_between_two_polls(longpoll: int, visit: Visit) -> None:
    one, two = visit(longpoll), visit(longpoll)
    are_waiting(longpoll, 2)
    for count in range(30):
        assert ask(longpoll, "POST", "/messages", {"text": f"number {count}."})[0] == 201
    expected = [re.compile(rf"^number {count}\.") for count in reversed(range(30))]
    for page in (one, two):
        expect(messages(page).filter(has_text=re.compile(r"^number \d+\."))).to_have_text(expected)


def test_longpoll_a_refusal_is_shown_and_what_was_typed_is_kept(longpoll: int, visit: Visit) -> None:
    page = visit(longpoll)
    post(page, "   ")
    expect(page.get_by_role("alert")).to_have_text("a message is a text of 1 to 500 characters")
    expect(page.get_by_role("textbox", name="Message")).to_have_value("   ")
    post(page, "Kathy's Waltz")
    expect(page.get_by_role("alert")).to_be_hidden()


def test_longpoll_a_poll_gets_at_once_what_is_newer_than_its_number(longpoll: int) -> None:
    first, second = (ask(longpoll, "POST", "/messages", {"text": text})[1] for text in ("one", "two"))
    assert ask(longpoll, "GET", f"/messages?after={first['number']}") == (200, [second])
    status, everything = ask(longpoll, "GET", f"/messages?after={second['number'] + 1000}")
    assert (status, everything[-2:]) == (200, [first, second])
    assert ask(longpoll, "GET", "/messages?after=x")[0] == 400


def test_longpoll_its_page_fits_a_phone(longpoll: int, visit: Visit) -> None:
    page = visit(longpoll)
    post(page, "Supercalifragilistic" * 20)
    expect(messages(page).first).to_contain_text("Supercali")
    assert fits(page)
