"""The pages on clusters are a transcript: their files, shell and Python give what they show, on this machine."""

from __future__ import annotations

import contextlib
import doctest
import fcntl
import gc
import io
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import psutil
import pytest

from storegate_engine.clusters import WorkerLimits, worker_limits
from tests.system.test_readme import CLUSTERS, ROOT, fenced

SECTIONS = {
    title: section
    for page in CLUSTERS
    for title, section in re.findall(r"^## (.+)\n((?s:.*?))(?=^## |\Z)", page.read_text("utf-8"), flags=re.MULTILINE)
}
ROWS, SLURM = "Rows to try it with", "Jobs from a login node"
LOOPBACK = next(
    name for name, addresses in psutil.net_if_addrs().items() if "127.0.0.1" in [each.address for each in addresses]
)

# What a site puts in for itself, and this machine too: nothing else on the page is replaced.
SITE = {
    "cores=8,": "cores=2,",
    "processes=8,": "processes=2,",
    'memory="128GB"': 'memory="1GiB"',
    'interface="ib0"': f'interface="{LOOPBACK}"',
    'local_directory="/tmp"': 'local_directory="node"',
    "scale(jobs=10)": "scale(jobs=2)",
}

SBATCH = """\
import fcntl, os, shutil, subprocess, sys
state = os.path.dirname(__file__)
script = shutil.copy(sys.argv[1], state)  # the one that was submitted goes
waits = "import fcntl, os, sys; fcntl.flock(open(sys.argv[1]), fcntl.LOCK_SH); os.execvp('bash', ['bash', sys.argv[2]])"
with open(script + ".log", "wb") as log:
    command = [sys.executable, "-SE", "-c", waits, os.path.join(state, "queue"), script]
    job = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
open(os.path.join(state, f"{job.pid}.job"), "x").close()
print("Submitted batch job", job.pid)
"""
SCANCEL = "import os, signal, sys; os.killpg(int(sys.argv[1]), signal.SIGTERM)\n"


@pytest.fixture
def environment(tmp_path, monkeypatch):
    """An empty working directory and home, a PATH with this Python's programs, and stand-ins for those of SLURM."""
    (tmp_path / "bin").mkdir()
    for name, program in (("sbatch", SBATCH), ("scancel", SCANCEL)):
        (tmp_path / "bin" / name).write_text(f"#!{sys.executable} -SE\n{program}")
        (tmp_path / "bin" / name).chmod(0o755)
    for name in ("work", "home"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "work")
    programs = (tmp_path / "bin", Path(sys.executable).parent)
    monkeypatch.setenv("PATH", os.pathsep.join([*map(str, programs), os.environ["PATH"]]))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, (ROOT, ROOT / "engine"))))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("DASK_TEMPORARY_DIRECTORY", str(tmp_path / "dask"))
    monkeypatch.delenv("DASK_CONFIG", raising=False)
    return tmp_path


@pytest.fixture
def shell(environment):
    with contextlib.closing(Shell()) as running:
        yield running


class Shell:
    """One bash for all commands of a test, so that jobs in the background are there for the next one."""

    END = "-- that was all --"

    def __init__(self):
        self.bash = subprocess.Popen(
            ["bash"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.listened = 0
        self.watchdog = threading.Timer(300, self.kill)
        self.watchdog.start()

    def run(self, command):
        """Return what a command prints, on either stream."""
        self.bash.stdin.write(f"{command}\nprintf '\\n%s\\n' '{self.END}'\n")
        self.bash.stdin.flush()
        lines = []
        while (line := self.bash.stdout.readline()) != f"{self.END}\n":
            assert line, f"the shell ended in {command}, after {lines}"
            lines.append(line)
        self.listened += listening(psutil.Process(self.bash.pid).children(recursive=True))
        return "".join(lines).rstrip("\n")

    def kill(self):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.bash.pid, signal.SIGKILL)  # with all that it has started

    def close(self):
        self.watchdog.cancel()
        self.kill()
        self.bash.communicate()


def listening(processes):
    """Return at how many ports some processes listen; others than those of the loopback interface fail."""
    found = []
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
            found += [
                connection.laddr.ip
                for connection in process.net_connections("inet")
                if connection.status == psutil.CONN_LISTEN
            ]
    assert set(found) <= {"127.0.0.1", "::1"}, found
    return len(found)


def commands(block):
    """Return the commands of a transcript, each with what it is said to print; a backslash goes on in the next line."""
    found = re.findall(r"^\$ ((?:.*\\\n)*.*\n)((?:(?!\$ ).*\n)*)", block, flags=re.MULTILINE)
    assert "".join(f"$ {command}{output}" for command, output in found) == block
    return found


def check_output(where, expected, found):
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    shown = f"{where}\nshown:\n{expected}\nfound:\n{found}"
    assert doctest.OutputChecker().check_output(expected.strip(), found.strip(), flags), shown


def follow(section, shell):
    """Do what a section says in a shell: write its files, run its commands. Return its other Python, with outputs."""
    python = []
    for language, block in fenced(section):
        name = re.match(r"# (\S+\.(?:py|yaml))\n", block)
        if name:
            Path(name[1]).parent.mkdir(exist_ok=True)
            Path(name[1]).write_text(block)
        elif language == "python":
            python.append((block, ""))
        elif language == "text":
            python[-1] = (python[-1][0], block)
        else:
            assert language == "bash"
            for command, expected in commands(block):
                if command.startswith("openssl") and shutil.which("openssl") is None:
                    pytest.skip("the section on TLS needs openssl")
                check_output(command, expected, shell.run(command))
    return python


def spilled():
    return list(Path("events.zarr").rglob("scratch/*"))


@pytest.mark.slow
def test_shell_and_files_give_what_the_pages_show(shell):
    for title, section in SECTIONS.items():
        if title != SLURM:
            assert follow(section, shell) == []
            assert spilled() == [], title
    assert shell.listened > 8
    assert listening(psutil.Process(shell.bash.pid).children(recursive=True)) == 0  # all were stopped


@contextlib.contextmanager
def held_queue(state):
    """A queue in which jobs wait, until what is given is closed; those that were not cancelled end with it."""
    with open(state / "queue", "w") as queue:
        fcntl.flock(queue, fcntl.LOCK_EX)
        try:
            yield queue
        finally:
            for job in jobs(state):
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(job, signal.SIGKILL)


def jobs(state):
    return [int(path.stem) for path in state.glob("*.job")]


def of_this_site(block):
    for ours, here in SITE.items():
        block = block.replace(ours, here)
    return block


def run_python(block, expected, namespace):
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(of_this_site(block), CLUSTERS[-1].name, "exec"), namespace)
    check_output(block, expected, printed.getvalue())


def test_the_site_is_all_that_is_replaced():
    assert [text for text in SITE if SECTIONS[SLURM].count(text) != 1] == []


@pytest.mark.slow
def test_jobs_of_the_page_are_planned_for_before_they_run(shell, environment):
    """The jobscript of dask-jobqueue runs here, through programs that stand in for SLURM's."""
    follow(SECTIONS[ROWS], shell)
    rows = np.random.default_rng(0).random((100_000, 64), dtype="f4")
    expected = rows[np.random.RandomState(7).permutation(len(rows))]
    plan, compute, end = follow(SECTIONS[SLURM], shell)
    namespace = {"__name__": "page"}
    state = environment / "bin"
    with held_queue(state) as queue, contextlib.ExitStack() as opened:
        run_python(*plan, namespace)
        client, cluster, ds = (namespace[name] for name in ("client", "cluster", "ds"))
        for certificate in ("_job_ca_file", "_job_cert", "_job_key"):  # dask-jobqueue leaves them to the collector
            opened.callback(getattr(cluster, certificate).close)
        opened.callback(cluster.close)
        opened.callback(client.close)

        promised = [WorkerLimits(512 * 2**20, 1)]
        assert client.scheduler_info()["workers"] == {}
        assert worker_limits(client) == promised * 2  # of two jobs
        queue.close()  # the jobs run
        run_python(*compute, namespace)
        client.wait_for_workers(4, timeout=120)
        assert worker_limits(client) == promised * 6  # of the four workers that came, too
        np.testing.assert_array_equal(ds["x"].values, expected)
        assert client.scheduler.address.startswith("tls://127.0.0.1:")
        running = [psutil.Process(job) for job in jobs(state)]
        assert listening([each for job in running for each in (job, *job.children(recursive=True))]) >= 4
        assert listening([psutil.Process()]) >= 2
        run_python(*end, namespace)
        assert len(running) == 2
        assert psutil.wait_procs(running, timeout=60)[1] == []
    assert spilled() != []  # for another full pass
    namespace.clear()
    del ds
    gc.collect()
    assert spilled() == []
