"""Workers are killed when they stall, replaced when they die, and lose nothing else."""

import itertools
import os
import signal
import time

import numpy as np

from jaxsnn.sat.spec import Dense, IntegerNetwork
from jaxsnn.sat.workers import Kind, Pool

NETWORK = IntegerNetwork((Dense(np.array([[1], [2]]), np.array([0, 0])),), num_steps=4)


def count(network, number):
    yield from range(number * network.num_classes)


def stall(network):
    yield "first"
    time.sleep(60)


def fail(network):
    yield "first"
    raise ValueError("no good")


def die(network):
    yield "first"
    os._exit(3)


def deaf(network):
    yield "first"
    sum(range(10**15))  # holds the lock and hears no signal


def allocate(network):
    yield len(bytearray(10**10))


def collect(pool):
    events = {}
    for event in pool.events(wait=True):
        events.setdefault(event.task, []).append((event.kind, event.value))
    return events


def test_items_arrive_in_order_and_bad_tasks_harm_only_themselves():
    started = time.monotonic()
    with Pool(NETWORK, num_workers=2, limit_seconds=4.0) as pool:
        pool.submit("stall", stall)
        pool.submit("die", die)
        pool.submit("fail", fail)
        for number in (1, 2, 3):
            pool.submit(number, count, number)
        events = collect(pool)
    assert events["stall"] == [(Kind.ITEM, "first"), (Kind.STALLED, None)]
    assert events["fail"] == [
        (Kind.ITEM, "first"),
        (Kind.FAILED, "ValueError: no good"),
    ]
    assert events["die"][0] == (Kind.ITEM, "first")
    assert events["die"][1][0] is Kind.FAILED
    assert "code 3" in events["die"][1][1]
    for number in (1, 2, 3):
        items = [(Kind.ITEM, k) for k in range(2 * number)]
        assert events[number] == [*items, (Kind.DONE, None)]
    assert time.monotonic() - started < 50


def test_memory_is_limited():
    with Pool(NETWORK, 1, limit_seconds=30.0, memory_bytes=4 * 10**9) as pool:
        pool.submit("allocate", allocate)
        ((kind, value),) = collect(pool)["allocate"]
    assert kind is Kind.FAILED
    assert "MemoryError" in value


def test_events_without_waiting_return_at_once():
    with Pool(NETWORK, 1, limit_seconds=30.0) as pool:
        assert list(pool.events()) == []
        pool.submit("stall", stall)
        started = time.monotonic()
        list(pool.events())
        assert time.monotonic() - started < 5


def test_the_kernel_kills_what_overruns_while_nobody_looks():
    with Pool(NETWORK, 1, limit_seconds=1.0) as pool:
        pool.submit("deaf", deaf)
        (first,) = itertools.islice(pool.events(wait=True), 1)
        assert first.value == "first"
        (worker,) = pool._workers
        worker.process.join(timeout=20.0)  # this end does nothing more
        assert worker.process.exitcode == -signal.SIGALRM
        assert collect(pool) == {"deaf": [(Kind.STALLED, None)]}


def test_a_moment_to_be_killed_at_holds_over_the_limit():
    started = time.monotonic()
    with Pool(NETWORK, 1, limit_seconds=600.0) as pool:
        pool.submit("stall", stall, kill_at=started + 3.0)
        events = collect(pool)
    assert events["stall"][-1] == (Kind.STALLED, None)
    assert time.monotonic() - started < 30


def test_the_alarm_ends_with_its_task():
    with Pool(NETWORK, 1, limit_seconds=1.0) as pool:
        pool.submit(1, count, 1)
        collect(pool)
        time.sleep(1.5)
        pool.submit(2, count, 1)
        assert collect(pool) == {2: [(Kind.ITEM, 0), (Kind.ITEM, 1), (Kind.DONE, None)]}


def environment(network):
    yield os.environ.get("OMP_NUM_THREADS")


def test_workers_keep_to_one_thread_and_nobody_else_does(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    with Pool(NETWORK, 1, limit_seconds=30.0) as pool:
        pool.submit("environment", environment)
        assert "OMP_NUM_THREADS" not in os.environ
        assert collect(pool)["environment"][0] == (Kind.ITEM, "1")
