"""A queue of work: browsers ask for it, worker processes do it, and everybody watches how far they are.

    pip install redis                   (and a Redis server, at REDIS_URL)
    python work_queue.py                (http://127.0.0.1:6767)
    python work_queue.py --worker       (as often as there are processors)
    brubeck_lite work_queue:app --bind 0.0.0.0:8000
    REDIS_URL=redis://host:6379/0 JOBS=tcp://host:9995 python work_queue.py --worker

                    job, by ZeroMQ (PUSH to PULL)
    browser --> server ---------------------------> worker, worker, ...
       ^          |  ^                                |
       | events   |  +----- "number 7 has changed" ---+  by Redis (publish, subscribe),
       +----------+                                      which also keeps the jobs

ZeroMQ deals the jobs out in turn, and knows nothing of what becomes of them. That is in Redis: a worker writes there
how far it is, and that it is alive, which is forgotten after PATIENCE seconds. A job that nobody is alive for is handed
out again: one that waited behind a longer one, and one whose worker died, up to TRIES times. So work must bear to be
begun again. The server is one process, for it is what the workers connect to; as it keeps nothing, it may be restarted.
"""

import contextlib
import json
import logging
import math
import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import zmq
from redis import Redis, RedisError
from redis.backoff import NoBackoff
from redis.retry import Retry

from brubeck_lite import Brubeck, Channel, Event, HTTPError, Request, Response, abort, event_stream, static_file

REDIS_URL = os.environ.get("REDIS_URL", "redis://127.0.0.1:6379/0")
JOBS = os.environ.get("JOBS", "tcp://127.0.0.1:9995")  # where the server hands out jobs
PATIENCE = 5  # seconds without a sign of life until a job is handed out again; longer than any step of it
TRIES = 3
STEPS = 50  # of a job; after each one the worker says how far it is
LIMIT = 5_000_000
A_DAY = 24 * 60 * 60  # seconds that a job is kept when it is done
MOST = 100  # jobs that are not done yet
STATIC = Path(__file__).parent / "static"

OPEN, NEWEST, CHANGES = "work_queue:open", "work_queue:newest", "work_queue:changes"  # names in Redis

# (Its types do not know that decode_responses makes all answers texts.)
once = Retry(NoBackoff(), 1)  # at once, as Redis may have been restarted since a connection was used last
redis: Any = Redis.from_url(REDIS_URL, decode_responses=True, socket_timeout=5, health_check_interval=5, retry=once)


# ---- What both know: a job is a hash in Redis, with its parts as texts


def key(number: int) -> str:
    return f"work_queue:{number}"


def change(number: int, **values: str | int) -> None:
    """Set parts of a job, and say that it has changed."""
    redis.hset(key(number), mapping=values)
    if values.get("state") in ("done", "failed"):
        redis.srem(OPEN, number)
        redis.expire(key(number), A_DAY)
    redis.publish(CHANGES, number)


def is_alive(number: int, who: str) -> None:
    """Note that somebody has this job, which is forgotten after a while."""
    redis.set(f"{key(number)}:alive", who, ex=PATIENCE)


# ---- The worker

NAME = f"worker {os.getpid()}"


def count_primes(start: int, end: int) -> int:
    """How many prime numbers there are from start up to, and without, end."""
    numbers = range(max(2, start), end)
    return sum(all(number % divisor for divisor in range(2, math.isqrt(number) + 1)) for number in numbers)


def do(number: int, attempt: int) -> None:
    """Do a job, if nobody else does: what is handed out again may reach two workers."""
    if redis.hget(key(number), "attempt") != str(attempt) or not redis.hsetnx(key(number), f"worker {attempt}", NAME):
        return
    below, count = int(redis.hget(key(number), "below") or 0), 0
    for step in range(STEPS):
        is_alive(number, NAME)
        change(number, state="working", worker=NAME, progress=100 * step // STEPS)
        count += count_primes(below * step // STEPS, below * (step + 1) // STEPS)
        if redis.hget(key(number), "attempt") != str(attempt):
            return  # we were thought to be dead, and another does it
    change(number, state="done", progress=100, result=count)


def work() -> None:
    """Take jobs and do them, one after the other, for ever. Server and Redis may be started later, and come back."""
    pull: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.PULL)
    pull.connect(JOBS)
    logging.info("%s takes jobs from %s", NAME, JOBS)
    while True:
        number, attempt = json.loads(pull.recv())
        try:
            do(number, attempt)
        except RedisError as error:  # the job will be handed out again
            logging.warning("job %s is left, for Redis cannot be reached: %s", number, error)
        except Exception as error:
            logging.exception("job %s failed", number)
            with contextlib.suppress(RedisError):
                change(number, state="failed", reason=f"{type(error).__name__}: {error}")


# ---- The server

app = Brubeck()
app.static("/static", STATIC)
channel = Channel()
push: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.PUSH)


def find(number: int) -> dict[str, Any]:
    """A job, as pages have it."""
    parts = redis.hgetall(key(number))
    names = ("below", "state", "worker", "progress", "attempt", "result", "reason")
    return {"number": number, **{name: parts[name] for name in names if name in parts}}


def newest() -> Event:
    """The newest jobs, all at once."""
    jobs = [find(int(number)) for number in redis.lrange(NEWEST, 0, -1)]
    return Event([job for job in jobs if "state" in job], "jobs")


def hand_out(number: int, attempt: int) -> None:
    """Give a job to a worker; where there is none, it stays open, and its turn comes again."""
    with contextlib.suppress(zmq.Again):
        push.send(json.dumps([number, attempt]).encode(), zmq.NOBLOCK)
        is_alive(number, "on its way")


def care_for(number: int) -> None:
    """See whether somebody has this job; hand it out again if not."""
    if redis.exists(f"{key(number)}:alive"):
        return
    attempt = int(redis.hget(key(number), "attempt") or TRIES)
    worker = redis.hget(key(number), f"worker {attempt}")
    if worker is not None:  # it had the job, but has not been heard of for PATIENCE seconds
        if attempt == TRIES:
            change(number, state="failed", reason=f"{TRIES} workers were lost over it")
            return
        attempt += 1
        change(number, attempt=attempt, state="waiting", progress=0, reason=f"{worker} was lost over it")
    hand_out(number, attempt)


def watch() -> None:
    """Care for all that is not done yet, once a second."""
    while True:
        with contextlib.suppress(RedisError):
            for number in sorted(map(int, redis.smembers(OPEN))):
                care_for(number)
        time.sleep(1)


def listen() -> None:
    """Tell the browsers what the workers say has changed."""
    while True:
        try:
            with redis.pubsub() as subscription:
                subscription.subscribe(CHANGES)
                while True:
                    message: dict[str, Any] = subscription.get_message(timeout=1) or {"type": None}
                    if message["type"] == "subscribe":  # also after Redis was away, and who knows what we missed
                        channel.publish(newest())
                    elif message["type"] == "message":
                        channel.publish(Event(find(int(message["data"])), "job"))
        except RedisError as error:
            logging.warning("Redis cannot be reached: %s", error)
            time.sleep(1)


@app.on_start
def start() -> None:
    try:
        push.bind(JOBS)
    except zmq.ZMQError as error:
        print(f"work_queue.py: cannot hand out jobs: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    for task in (watch, listen):  # threads are coroutines here, as eventlet has replaced them by now
        threading.Thread(target=task, daemon=True).start()


@app.on_stop
def stop() -> None:
    push.close(0)


@app.post("/jobs")
def add(request: Request) -> tuple[dict[str, Any], int]:
    """Take a job, and hand it out."""
    below = request.json.get("below") if isinstance(request.json, dict) else None
    if type(below) is not int or not 2 <= below <= LIMIT:
        abort(400, f"below is a number from 2 to {LIMIT:,}")
    if redis.scard(OPEN) >= MOST:
        abort(503, "there is enough to do already", {"Retry-After": "10"})
    number = redis.incr("work_queue:number")
    with redis.pipeline() as together:  # all of it or nothing
        together.hset(key(number), mapping={"below": below, "state": "waiting", "progress": 0, "attempt": 1})
        together.sadd(OPEN, number)
        together.lpush(NEWEST, number)
        together.ltrim(NEWEST, 0, MOST - 1)
        together.execute()
    hand_out(number, 1)
    redis.publish(CHANGES, number)
    return find(number), 201


def events() -> Iterator[Event]:
    """All jobs, then each that changes."""
    with channel.subscribe() as subscription:
        yield newest()
        yield from subscription


@app.get("/events")
def follow(request: Request) -> Response:
    return event_stream(events())


@app.error(HTTPError)
def explain(request: Request, error: HTTPError) -> dict[str, Any]:
    return {"error": error.message}


@app.error(RedisError)
def unavailable(request: Request, error: RedisError) -> tuple[dict[str, Any], int, dict[str, str]]:
    return {"error": "the queue cannot be reached just now"}, 503, {"Retry-After": "5"}


@app.get("/")
def index(request: Request) -> Response:
    return static_file(request, "work_queue.html", STATIC)


if __name__ == "__main__":
    if sys.argv[1:] == ["--worker"]:
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
        with contextlib.suppress(KeyboardInterrupt):
            work()
    else:
        app.run()
