"""The example work_queue.py with a real Redis, and workers that come, go, die and freeze."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Page, expect
from redis import Redis
from servers import redis
from support import ROOT, environment, free_port, listens, output, process, wait_for

pytest_plugins = ["browser"]

Worker = subprocess.Popen[str]


class Queue:
    """The example on a port, with a Redis of its own; jobs wait for permission, three times each."""

    def __init__(self, stack: contextlib.ExitStack, module: str) -> None:
        self.stack, self.module, self.port, self.redis_port = stack, module, free_port(), free_port()
        url = f"redis://127.0.0.1:{self.redis_port}/0"
        self.variables = {**environment(), "REDIS_URL": url, "JOBS": f"tcp://127.0.0.1:{free_port()}"}
        self.redis = Redis.from_url(url, decode_responses=True)

    def start(self) -> subprocess.Popen[str]:
        """Start the server."""
        command = [sys.executable, "-m", "brubeck_lite", f"{self.module}:app", "--bind", f"127.0.0.1:{self.port}"]
        child = self.stack.enter_context(process(command, env=self.variables))
        wait_for(lambda: listens(self.port) or child.poll() is not None, what="the server")
        assert child.poll() is None, output(child)
        return child

    def worker(self) -> Worker:
        """A worker, which has started."""
        real = [str(ROOT / "examples" / "work_queue.py"), "--worker"]
        program = real if self.module == "work_queue" else [str(ROOT / "tests" / "program_work_queue.py")]
        child = self.stack.enter_context(process([sys.executable, *program], env=self.variables))
        wait_for(lambda: "takes jobs from" in output(child) or child.poll() is not None, what="the worker")
        return child

    def workers(self, count: int) -> list[Worker]:
        """So many workers, each of which has done a job: jobs are dealt to those that are connected by then."""
        workers = [self.worker() for _ in range(count)]
        seen: set[str] = set()
        while seen != {name(worker) for worker in workers}:
            self.allow(30)
            seen.add(self.until(self.add(), state="done")["worker"])
        self.redis.delete("permissions")
        return workers

    def ask(self, method: str, path: str, value: Any = None) -> tuple[int, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        with contextlib.closing(connection):
            connection.request(method, path, json.dumps(value), {"Content-Type": "application/json"})
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())

    def add(self, below: int = 300) -> int:
        """Its number."""
        status, job = self.ask("POST", "/jobs", {"below": below})
        assert status == 201, job
        return int(job["number"])

    def job(self, number: int) -> dict[str, str]:
        """A job as a browser sees it that comes now."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        with contextlib.closing(connection):
            connection.request("GET", "/events")
            answer = connection.getresponse()
            while not (line := answer.readline()).startswith(b"data: "):
                assert line, "the stream ended"
            return next((job for job in json.loads(line[6:]) if job["number"] == number), {})

    def allow(self, steps: int) -> None:
        """Let the workers do so many steps. On a busy machine a job may be begun again, which takes more of them."""
        self.redis.rpush("permissions", *["yes"] * steps)

    def until(self, number: int, **expected: str) -> dict[str, str]:
        """The job, as soon as it is like this."""
        wait_for(lambda: expected.items() <= self.job(number).items(), what=f"{expected} of job {number}")
        return self.job(number)


@pytest.fixture(scope="module")
def running() -> Iterator[Queue]:
    with contextlib.ExitStack() as stack:
        queue = Queue(stack, "program_work_queue")
        stack.enter_context(redis(queue.redis_port))
        queue.start()
        yield queue


@pytest.fixture
def queue(running: Queue) -> Iterator[Queue]:
    """The queue with no jobs; its workers go with the test."""
    running.redis.flushall()
    before = running.stack
    with contextlib.ExitStack() as running.stack:
        yield running
    running.stack = before


def name(worker: Worker) -> str:
    return f"worker {worker.pid}"


def the_one_with(queue: Queue, number: int, workers: list[Worker]) -> Worker:
    """The worker that does this job."""
    job = queue.until(number, state="working")
    return next(worker for worker in workers if name(worker) == job["worker"])


def test_everybody_sees_how_far_the_workers_are(page: Page) -> None:
    with contextlib.ExitStack() as stack:
        queue = Queue(stack, "work_queue")
        stack.enter_context(redis(queue.redis_port))
        queue.start()
        other = page.context.new_page()
        for each in (page, other):
            each.goto(f"http://127.0.0.1:{queue.port}/")
            expect(each.get_by_role("status")).to_have_text("connected")
        page.get_by_label("Below").fill("1")
        page.get_by_role("button", name="Count").click()
        expect(page.get_by_role("alert")).to_have_text("below is a number from 2 to 5,000,000")
        for below in ("200000", "2000000"):
            page.get_by_label("Below").fill(below)
            page.get_by_role("button", name="Count").click()
            job = other.get_by_role("list", name="Jobs").get_by_role("listitem").first
            expect(job).to_have_text(re.compile(f"Below {int(below):,}.*waiting"))
        expect(page.get_by_role("alert")).to_be_hidden()
        for _ in range(2):
            queue.worker()
        jobs = other.get_by_role("list", name="Jobs").get_by_role("listitem")
        expect(jobs.first).to_have_text(re.compile(r"\d%, worker \d+"))
        expect(jobs.last).to_have_text(re.compile(r"17,984 prime numbers, counted by worker \d+"), timeout=60_000)
        other.set_viewport_size({"width": 390, "height": 800})
        assert other.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_two_workers_do_two_jobs_at_once(queue: Queue) -> None:
    workers = queue.workers(2)
    jobs = [queue.add() for _ in range(2)]
    assert {the_one_with(queue, job, workers).pid for job in jobs} == {worker.pid for worker in workers}
    queue.allow(30)
    for job in jobs:
        assert queue.until(job, state="done")["result"] == "300"


def test_a_job_is_done_by_another_when_its_worker_dies_and_so_are_those_that_waited_for_it(queue: Queue) -> None:
    workers = queue.workers(2)
    jobs = [queue.add() for _ in range(4)]
    queue.until(jobs[1], state="working")
    doomed = the_one_with(queue, jobs[0], workers)
    queue.allow(1)
    doomed.kill()
    queue.allow(30)
    for job in jobs:
        queue.until(job, state="done", progress="100", result="300")
    assert (queue.job(jobs[0])["attempt"], queue.job(jobs[0])["reason"]) == ("2", f"{name(doomed)} was lost over it")
    assert not queue.redis.exists("work_queue:open")


def test_a_job_that_workers_died_over_again_and_again_has_failed(queue: Queue) -> None:
    job = queue.add()
    for attempt in range(1, 3):
        worker = queue.worker()
        queue.until(job, state="working", attempt=str(attempt))
        worker.kill()
    assert queue.until(job, state="failed")["reason"] == "2 workers were lost over it"


def test_a_worker_that_wakes_up_late_leaves_its_job_to_the_next(queue: Queue) -> None:
    first = queue.worker()
    job = queue.add()
    queue.until(job, state="working", worker=name(first))
    first.send_signal(signal.SIGSTOP)
    second = queue.worker()
    queue.until(job, state="working", worker=name(second))
    first.send_signal(signal.SIGCONT)
    queue.allow(30)
    assert queue.until(job, state="done")["worker"] == name(second)


def test_when_redis_is_away_the_answer_is_503_and_when_it_is_back_all_is_well() -> None:
    with contextlib.ExitStack() as stack:
        queue = Queue(stack, "program_work_queue")
        with redis(queue.redis_port):
            queue.start()
            worker = queue.worker()
            queue.until(queue.add(), state="working")
        assert queue.ask("POST", "/jobs", {"below": 300}) == (503, {"error": "the queue cannot be reached just now"})
        stack.enter_context(redis(queue.redis_port))
        queue.allow(30)  # the worker may have gone on with the job that Redis has forgotten
        job = queue.add()
        assert queue.until(job, state="done")["worker"] == name(worker)


def test_what_is_no_job_is_refused(queue: Queue) -> None:
    for value in (None, [], {}, {"below": "5"}, {"below": True}, {"below": 1}, {"below": 5_000_001}):
        assert queue.ask("POST", "/jobs", value) == (400, {"error": "below is a number from 2 to 5,000,000"})
    assert not queue.redis.exists("work_queue:newest")


def test_where_no_jobs_can_be_handed_out_it_says_so_in_one_line(queue: Queue) -> None:
    command = [sys.executable, "-m", "brubeck_lite", "work_queue:app", "--bind", f"127.0.0.1:{free_port()}", "--quiet"]
    with process(command, env=queue.variables) as child:
        assert child.wait(60) == 2
        place = queue.variables["JOBS"]
        assert output(child) == f"work_queue.py: cannot hand out jobs: Address already in use (addr={place!r})\n"


def test_the_server_may_be_restarted_in_the_middle_of_a_job() -> None:
    with contextlib.ExitStack() as stack:
        queue = Queue(stack, "program_work_queue")
        stack.enter_context(redis(queue.redis_port))
        server, worker = queue.start(), queue.worker()
        jobs = [queue.add() for _ in range(2)]
        queue.until(jobs[0], state="working")
        server.kill()
        server.wait()
        queue.start()
        queue.allow(30)
        for job in jobs:
            assert queue.until(job, state="done")["worker"] == name(worker)
