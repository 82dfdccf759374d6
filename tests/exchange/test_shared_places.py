"""Spill directories that the processes of a host share: one for all, tasks done once, gone with the last of them."""

from __future__ import annotations

import os
import signal
import threading
import warnings

import pytest

from storegate_engine import holds
from storegate_engine import scratch as spill
from tests.exchange.spill_cases import PLAN
from tests.exchange.test_spill_places import python

pytestmark = pytest.mark.skipif(os.name == "nt", reason="locks cannot be shared there: each process has its own")
N_PROCESSES = 6


def join(directory, barrier, seen):
    barrier.wait(60)
    mine = spill.open_spill(directory, PLAN, shared=True)
    (mine.path / f"map-{os.getpid()}").write_bytes(b"rows")
    barrier.wait(60)
    seen.put((str(mine.path), len(list(mine.path.glob("map-*")))))
    barrier.wait(60)
    del mine


def run(processes, target, *args):
    running = [processes.Process(target=target, args=args) for _ in range(N_PROCESSES)]
    for process in running:
        process.start()
    return running


def ended(running):
    for process in running:
        process.join(60)
    return [process.exitcode for process in running] == [0] * N_PROCESSES


@pytest.mark.parametrize("left", [False, True])
def test_all_processes_have_the_same_one_and_the_last_removes_it(tmp_path, processes, left):
    place = tmp_path / "scratch"
    if left:
        mine = spill.open_spill(place, PLAN, shared=True)
        (mine.path / "map-left").write_bytes(b"rows")
        mine.leave_behind()
        del mine
    barrier, seen = processes.Barrier(N_PROCESSES), processes.Queue()
    running = run(processes, join, place, barrier, seen)
    found = {seen.get(timeout=120) for _ in running}
    assert ended(running)
    ((_, n_files),) = found
    assert n_files == N_PROCESSES + left
    assert not place.exists()


def come_and_go(directory, barrier, seen):
    barrier.wait(60)
    for _ in range(50):
        mine = spill.open_spill(directory, PLAN, shared=True)
        with mine.claimed("task"):
            path = mine.path / "count"
            path.write_text(str(int(path.read_text()) + 1 if path.exists() else 1))
        assert path.exists(), "nobody removes it meanwhile"
        del mine


def test_processes_that_come_and_go_find_it_whole_or_not_at_all(tmp_path, processes):
    barrier = processes.Barrier(N_PROCESSES)
    assert ended(run(processes, come_and_go, tmp_path / "scratch", barrier, None))
    assert not (tmp_path / "scratch").exists()


def hand_down(directory, barrier, seen):
    barrier.wait(60)
    for _ in range(50):
        mine, heir = (spill.open_spill(directory, plan, shared=True) for plan in (PLAN, "1" * 32))
        path = mine.path / f"map-{os.getpid()}"
        path.write_bytes(b"rows")
        assert path.read_bytes() == b"rows", "nobody removes it meanwhile, or hands it down"
        mine.leave_to(heir)
        del mine, heir


def test_processes_that_hand_it_down_while_others_come_leave_them_theirs(tmp_path, processes):
    barrier = processes.Barrier(N_PROCESSES)
    assert ended(run(processes, hand_down, tmp_path / "scratch", barrier, None))
    assert not (tmp_path / "scratch").exists()


def test_who_no_longer_holds_it_does_not_remove_that_of_others(tmp_path):
    place = tmp_path / "scratch"
    first, second = holds.joined(place, PLAN), holds.joined(place, PLAN)
    assert not first.is_last()
    second.remove()
    third = holds.joined(place, PLAN)
    first.remove()
    assert third.path.is_dir()
    third.remove()
    assert list(place.iterdir()) == []


def count(directory, barrier, seen):
    mine = spill.open_spill(directory, PLAN, shared=True)
    barrier.wait(60)

    def work():
        for _ in range(50):
            with mine.claimed("task"):
                path = mine.path / "count"
                path.write_text(str(int(path.read_text()) + 1 if path.exists() else 1))

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    barrier.wait(60)
    seen.put(int((mine.path / "count").read_text()))


def test_a_task_is_claimed_by_one_thread_of_one_process_at_a_time(tmp_path, processes):
    barrier, seen = processes.Barrier(N_PROCESSES), processes.Queue()
    running = run(processes, count, tmp_path / "scratch", barrier, seen)
    assert {seen.get(timeout=120) for _ in running} == {N_PROCESSES * 2 * 50}
    assert ended(running)


def test_what_a_killed_process_has_claimed_and_held_is_free(tmp_path):
    place = tmp_path / "scratch"
    other = python(
        "import signal",
        f"mine = spill.open_spill(pathlib.Path({str(place)!r}), {PLAN!r}, shared=True)",
        "(mine.path / 'map-000000').write_bytes(b'rows')",
        "with mine.claimed('task'):",
        "    print(mine.path, flush=True)",
        "    signal.pause()",
    )
    with other as process:
        assert process.stdout.readline()
        mine = spill.open_spill(place, PLAN, shared=True)
        assert holds.orphans(place) == []
        process.kill()
    with mine.claimed("task"):
        assert (mine.path / "map-000000").read_bytes() == b"rows"
    del mine
    assert not place.exists()


def test_what_killed_processes_leave_goes_with_another_plan_unless_it_was_left_on_purpose(tmp_path):
    place = tmp_path / "scratch"
    for way in ("os.kill(os.getpid(), 9)", "mine.leave_behind(); del mine"):
        lines = [f"mine = spill.open_spill(pathlib.Path({str(place)!r}), {PLAN!r}, shared=True)", "import os"]
        with python(*lines, "(mine.path / 'map-000000').write_bytes(b'rows')", way) as process:
            process.wait(60)
        (left,) = place.iterdir()
        assert holds.orphans(place) == [left]
        other = spill.open_spill(place, "1" * 32)
        del other
        assert place.exists() == ("leave" in way)


def test_a_forked_child_keeps_neither_the_claims_nor_the_directory_of_its_parent(tmp_path):
    place = tmp_path / "scratch"
    mine = spill.open_spill(place, PLAN, shared=True)
    reading, writing = os.pipe()
    with mine.claimed("task"), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python's own: threads and fork
        child = os.fork()
        if not child:
            os.close(writing)
            os.read(reading, 1)
            os._exit(0)
    try:
        entered, claim = threading.Event(), mine.claimed("task")

        def enter():
            with claim:
                entered.set()

        threading.Thread(target=enter, daemon=True).start()
        assert entered.wait(60)
        del mine
        assert not place.exists()
    finally:
        os.close(writing)
        os.close(reading)
        assert os.waitpid(child, 0)[1] == 0


def test_a_forked_child_that_uses_it_shares_it(tmp_path):
    place = tmp_path / "scratch"
    mine = spill.open_spill(place, PLAN, shared=True)
    (mine.path / "map-000000").write_bytes(b"rows")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python's own: threads and fork
        child = os.fork()
    if not child:
        shares = (mine.path / "map-000000").exists() and not mine.is_inherited
        del mine
        os._exit(0 if shares else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert (mine.path / "map-000000").exists(), "the child is not the last one"
    del mine
    assert not place.exists()


@pytest.mark.parametrize("why", ["no locks", "others can write", "link"])
def test_where_it_cannot_be_shared_each_process_has_its_own(tmp_path, monkeypatch, why):
    place = tmp_path / "scratch"
    mine = spill.open_spill(place, PLAN, shared=True)
    path = mine.path
    if why == "no locks":
        del mine
        monkeypatch.setattr(holds, "take_lock", lambda descriptor, **how: None)
    elif why == "others can write":
        path.chmod(0o770)
    else:
        os.rename(path, tmp_path / "elsewhere")
        path.symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    other = python(
        *["holds.take_lock = lambda descriptor, **how: None"] * (why == "no locks"),
        f"mine = spill.open_spill(pathlib.Path({str(place)!r}), {PLAN!r}, shared=True)",
        "print(mine.path, flush=True)",
    )
    with other as process:
        assert process.stdout.readline().strip() not in ("", str(path))
        assert process.wait(60) == 0


def test_a_directory_of_a_user_ends_with_a_signal(tmp_path):
    place = tmp_path / "scratch"
    other = python(
        "import signal",
        f"mine = spill.open_spill(pathlib.Path({str(place)!r}), {PLAN!r}, shared=True)",
        "print(mine.path, flush=True)",
        "signal.pause()",
    )
    with other as process:
        assert process.stdout.readline()
        process.send_signal(signal.SIGTERM)
    assert not place.exists()
