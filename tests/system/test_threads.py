"""Threads: what they return and raise, in order, and that an interrupt at any moment leaves nobody waiting."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
import weakref
from concurrent.futures import CancelledError
from functools import partial
from queue import SimpleQueue

import pytest

from storegate_engine import threads
from storegate_engine.threads import ThreadPool
from tests.processes import environment


def n_alive():
    return len([thread for thread in threading.enumerate() if thread.name.startswith("storegate-test")])


def test_results_come_as_they_are_asked_for():
    pool = ThreadPool(2, "storegate-test")
    pending = [pool.submit(partial(pow, 2, n)) for n in range(100)]
    assert [one.result() for one in pending] == [2**n for n in range(100)]
    assert all(one.done() for one in pending)
    assert 1 <= n_alive() <= 2
    pool.close()
    assert not n_alive()


def test_a_thread_starts_for_a_task_that_no_other_is_free_for():
    pool = ThreadPool(8, "storegate-test")
    for _ in range(50):
        pool.submit(int).wait()
    assert n_alive() <= 2  # one had returned, and had not yet been counted
    for n_together in (3, 8):
        meeting = threading.Barrier(n_together, timeout=60)
        for one in [pool.submit(meeting.wait) for _ in range(n_together)]:
            one.result()
    assert n_alive() == 8
    for one in [pool.submit(int) for _ in range(100)]:
        one.result()
    assert n_alive() == 8
    pool.close()


class LateQueue:
    """A queue to which one thread comes later with a task than another."""

    def __init__(self, late, other_came):
        self.late = late
        self.other_came = other_came
        self.queue = SimpleQueue()
        self.get, self.get_nowait = self.queue.get, self.queue.get_nowait

    def put(self, item):
        if threading.current_thread().name == self.late:
            self.other_came.wait(60)
        self.queue.put(item)
        if isinstance(item, tuple):
            self.other_came.set()


@pytest.mark.parametrize("late", ["first", "second"])
def test_tasks_of_two_threads_at_the_same_time_have_a_thread_each(late, monkeypatch):
    monkeypatch.setattr(threads, "SimpleQueue", partial(LateQueue, late, threading.Event()))
    pool, meeting = ThreadPool(8, "storegate-test"), threading.Barrier(2, timeout=60)
    names = ("first", "second")
    callers = [threading.Thread(target=lambda: pool.submit(meeting.wait).result(), name=name) for name in names]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert not meeting.broken
    pool.close()


def test_an_error_is_raised_where_the_result_is_asked_for():
    pool = ThreadPool(1, "storegate-test")
    failing, after = pool.submit(partial(int, "x")), pool.submit(partial(int, "7"))
    assert after.result() == 7
    for _ in range(2):
        with pytest.raises(ValueError, match="invalid literal"):
            failing.result()
    pool.close()


def test_an_error_goes_with_who_waits_for_it():
    """By counting references: with a circle, what the frames of the error hold would stay until a collection."""
    pool = ThreadPool(1, "storegate-test")
    gc.disable()
    try:
        for task in (partial(int, "x"), int):
            pending = pool.submit(task)
            pending.wait()
            pool.submit(int).result()  # the thread is done with the task before
            gone = weakref.ref(pending)
            del pending
            assert gone() is None
    finally:
        gc.enable()
        pool.close()


def test_what_was_not_begun_is_cancelled_and_what_runs_is_waited_for():
    pool = ThreadPool(1, "storegate-test")
    begun, go_on = threading.Event(), threading.Event()
    running = pool.submit(lambda: begun.set() or go_on.wait())
    waiting = pool.submit(int)
    begun.wait()
    pool.close(wait=False)
    with pytest.raises(CancelledError):
        waiting.result()
    with pytest.raises(CancelledError):
        pool.submit(int).result()
    go_on.set()
    assert running.result()
    pool.close()


def test_threads_end_with_their_pool():
    pool = ThreadPool(1, "storegate-test")
    pool.submit(int).result()
    (thread,) = [thread for thread in threading.enumerate() if thread.name.startswith("storegate-test")]
    del pool
    thread.join(60)
    assert not thread.is_alive()


@pytest.mark.parametrize("ahead", [1, 3, 100])
def test_all_tasks_are_run_and_at_most_so_many_ahead(ahead):
    pool = ThreadPool(2, "storegate-test")
    begun = []

    def tasks():
        for n in range(20):
            begun.append(n)
            yield partial(pow, 2, n)

    found = []
    for result in pool.run(tasks(), ahead):
        found.append(result)
        assert len(begun) <= len(found) + ahead
    assert sorted(found) == [2**n for n in range(20)]
    with pytest.raises(ValueError, match="invalid literal"):
        list(pool.run(iter([int, partial(int, "x"), int]), ahead))
    pool.close()


INTERRUPTED = """
import faulthandler, random, signal, sys
from collections import deque
from storegate_engine import threads
from storegate_engine.threads import ThreadPool

class Interrupt(BaseException):
    pass

def interrupt(*_):
    raise Interrupt

faulthandler.dump_traceback_later(100, exit=True)
signal.signal(signal.SIGALRM, interrupt)
moments = random.Random(0)
for _ in range(700):
    pool = ThreadPool(2, "storegate-test")
    for task in range(2):
        pool.submit(int).result()
    running = deque()
    try:
        signal.setitimer(signal.ITIMER_REAL, moments.uniform(0.0001, 0.003))
        while True:
            running.append(pool.submit(int))
            if len(running) > 2:
                running[0].result()
                running.popleft()
    except Interrupt:
        pass
    signal.setitimer(signal.ITIMER_REAL, 0)
    for pending in running:
        pending.wait()  # again, where the wait for it was interrupted
    pool.close()
print("done")
"""


@pytest.mark.skipif(not hasattr(__import__("signal"), "setitimer"), reason="interrupts at random moments need a timer")
def test_an_interrupt_at_any_moment_leaves_nobody_waiting():
    """A pool of `concurrent.futures` fails here: an interrupt leaves a lock taken for which its threads wait."""
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED], env=environment(), capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "done\n"


def test_a_loop_that_was_left_does_not_keep_its_process(tmp_path):
    """It is closed when the interpreter ends, whose threads are stopped by then: nobody waits for them."""
    program = """
import builtins
from storegate_engine import threads
from storegate_engine.threads import ThreadPool

def loop():
    pool = ThreadPool(2, "left")
    try:
        pool.submit(int).result()
        yield
    finally:
        pool.close()

builtins.left = loop()
next(builtins.left)
"""
    done = subprocess.run([sys.executable, "-c", program], env=environment(), timeout=60)
    assert done.returncode == 0
