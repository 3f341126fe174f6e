"""The example work_queue.py with jobs of three steps, each of which waits until the test lets it go on, less
patience and fewer tries. As a program it is a worker."""

from __future__ import annotations

import logging
import time

import work_queue

app = work_queue.app
work_queue.PATIENCE = 1
work_queue.STEPS = 3
work_queue.TRIES = 2


def wait_for_permission(start: int, end: int) -> int:
    """A step, which says that it is alive, for a test may take its time."""
    while not work_queue.redis.lpop("permissions"):
        for number in work_queue.redis.smembers(work_queue.OPEN):
            mine = work_queue.redis.hget(work_queue.key(number), "worker") == work_queue.NAME
            if mine:
                work_queue.is_alive(number, work_queue.NAME)
        time.sleep(0.02)
    return end - start


work_queue.count_primes = wait_for_permission

if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    work_queue.work()
