"""Commands for one data_id: what they print and change, and what they refuse in one line."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys

import h5py
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from storegate import StoreGate
from storegate.cli import main
from tests.processes import environment

N = 100


@pytest.fixture
def store(tmp_path):
    with StoreGate("zarr", {"output_dir": tmp_path / "store"}, data_id="a") as gate:
        gate.add_data({"x": np.arange(N), "y": np.arange(N) % 3, "name": [f"row {one}" for one in range(N)]})
    return str(tmp_path / "store")


def sizes(store):
    with StoreGate.open(store) as gate:
        return gate.sizes


def test_ls_head_and_describe(store, capsys):
    assert main(["ls", store]) == 0
    assert "train  x     int64" in capsys.readouterr().out
    assert main(["ls", store, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found[0] == {"phase": "train", "name": "x", "dtype": "int64", "shape": [N], "nbytes": 8 * N}
    assert main(["head", store, "-n", "2", "--variables", "x,name", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [{"x": 0, "name": "row 0"}, {"x": 1, "name": "row 1"}]
    assert main(["head", store]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 6
    assert main(["describe", store]) == 0
    assert "49.5" in capsys.readouterr().out
    assert main(["describe", store, "--json"]) == 0
    x, _, name = json.loads(capsys.readouterr().out)
    assert (x["name"], x["mean"], x["min"], x["max"], x["shape"]) == ("x", 49.5, 0, N - 1, [N])
    assert (name["name"], name["mean"], name["min"]) == ("name", None, None)
    assert main(["explain", store]) == 0
    assert "x" in capsys.readouterr().out


def test_changes_are_versions(store, capsys):
    assert main(["split", store, "0.6", "0.2", "0.2", "--stratify", "y", "--seed", "3"]) == 0
    assert capsys.readouterr().out == "version 2: train 60, valid 20, test 20\n"
    assert main(["shuffle", store, "--phase", "train", "--seed", "5"]) == 0
    with StoreGate.open(store) as gate:
        before = gate["train"]["x"][:]
    assert main(["compact", store]) == 0
    with StoreGate.open(store) as gate:
        np.testing.assert_array_equal(gate["train"]["x"][:], before)
    assert main(["diff", store, "1", "2"]) == 0
    assert main(["undo", store]) == 0
    assert main(["rollback", store, "1"]) == 0
    assert sizes(store) == {"train": N}
    assert main(["split", store, "50", "30", "20", "--by", "x", "--purge", "0"]) == 0
    assert sizes(store) == {"train": 50, "valid": 30, "test": 20}


def test_files_in_and_out(store, tmp_path, capsys):
    assert main(["export", store, str(tmp_path / "x.h5")]) == 0
    assert main(["export", store, str(tmp_path / "some.h5"), "--variables", "x,name"]) == 0
    with h5py.File(tmp_path / "some.h5") as file:
        assert set(file) == {"x", "name"}
    new = str(tmp_path / "new")
    files = str(tmp_path / "x.h5")
    assert main(["read", new, files, "--data-id", "b", "--phase", "0.5,0.3,0.2", "--seed", "1"]) == 0
    assert sizes(new) == {"train": 50, "valid": 30, "test": 20}
    assert main(["read", new, files, "--variables", "x,y,name", "--phase", "test"]) == 0
    assert sizes(new)["test"] == 120
    with h5py.File(tmp_path / "y.h5", "w") as file:
        file["z"] = np.arange(7.0)
    attached = str(tmp_path / "attached")
    assert main(["attach", attached, str(tmp_path / "y.h5"), "--variables", "z", "--data-id", "c"]) == 0
    assert sizes(attached) == {"train": 7}
    capsys.readouterr()


def test_check_has_an_exit_status(store, capsys):
    main(["split", store, "0.6", "0.2", "0.2"])
    assert main(["check", store]) == 0
    assert "nothing is shared" in capsys.readouterr().out
    assert main(["check", store, "--groups", "y"]) == 1
    assert "share what they should not" in capsys.readouterr().out


def test_a_report_is_a_page_or_json(store, tmp_path, capsys):
    page = tmp_path / "report.html"
    assert main(["report", store, "-o", str(page), "--check"]) == 0
    assert capsys.readouterr().out == ""
    first = page.read_text("utf-8")
    assert first.startswith("<!doctype html>")
    assert main(["report", store, "-o", str(page), "--json"]) == 0
    assert "Not looked for" in page.read_text("utf-8")
    document = json.loads(capsys.readouterr().out)
    assert [of["name"] for of in document["variables"]] == ["x", "y", "name"]
    assert document["variables"][1]["bars"]["counts"] == {"train": [34, 33, 33]}
    assert sorted(file.name for file in tmp_path.iterdir()) == ["report.html", "store"]


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["rep"], {"repair", "report"}),
        (["report", "store", "--ch"], {"--check"}),
        (["head", "store", "--phase", "v"], {"valid"}),
        (["head", "sto"], {"store"}),
    ],
)
def test_bash_completes(store, tmp_path, capsys, words, found):
    assert main(["completion", "bash"]) == 0
    (tmp_path / "script").write_text(capsys.readouterr().out)
    typed, before = " ".join(["storegate", *words]), ["storegate", *words][-2]
    program = (
        f"source ./script; COMP_WORDS=({typed}); COMP_CWORD={len(words)}; "
        f'_shtab_storegate storegate {words[-1]} {before}; echo "${{COMPREPLY[@]}}"'
    )
    done = subprocess.run(["bash", "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) == found


@pytest.mark.parametrize("shell", ["zsh", "tcsh"])
def test_other_shells_have_a_script(shell, capsys):
    assert main(["completion", shell]) == 0
    assert "rollback" in capsys.readouterr().out


def test_completion_names_its_extra(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert main(["completion", "bash"]) == 2
    assert "storegate[completion]" in capsys.readouterr().err


EVERY_KIND = {
    "f": np.array([0.1, np.inf, np.nan], "f4"),
    "half": np.array([0.1, 1, 2], "f2"),
    "d": np.array([1 / 3, 1e300, -0.0]),
    "u": np.array([2**64 - 1, 0, 1], "u8"),
    "when": np.array(["2020-01-01T00:00:00.000000001", "NaT", "1700-01-01"], "M8[ns]"),
    "took": np.array([1, 2, 3], "m8[s]"),
    "text": np.array(["a", "é\u202e", ""]),
    "bytes": np.array([b"a", b"\xff", b""]),
    "z": np.array([1 + 2j, 0, 1]),
    "rows": np.arange(6).reshape(3, 2),
    "lists": [[1, 2], [], [3]],
    "label": pd.Categorical(["no", "yes", "no"]),
    "matrix": sparse.csr_array(np.eye(3)),
}


@pytest.fixture
def odd(tmp_path):
    with StoreGate("zarr", {"output_dir": tmp_path / "odd"}, data_id="a") as gate:
        gate.add_data(EVERY_KIND, phase="test")
        gate.compile()
    return str(tmp_path / "odd")


def printed(capsys, *arguments):
    """Run a command; return the one JSON document that it prints."""
    assert main([*arguments, "--json"]) in (0, 1)
    return json.loads(capsys.readouterr().out, parse_constant=pytest.fail)


def test_first_rows_as_json_are_those_of_the_store(odd, capsys):
    rows = printed(capsys, "head", odd)
    assert [list(row) for row in rows] == [list(EVERY_KIND)] * 3
    for name in ("f", "d", "u", "rows"):
        found = np.array([row[name] for row in rows], dtype=EVERY_KIND[name].dtype)
        np.testing.assert_array_equal(found, EVERY_KIND[name])
    assert [row["f"] for row in rows][1:] == ["inf", "nan"]
    assert [row["when"] for row in rows] == EVERY_KIND["when"].astype(str).tolist()
    assert [row["lists"] for row in rows] == EVERY_KIND["lists"]
    assert [row["matrix"] for row in rows] == np.eye(3).tolist()
    assert [row["label"] for row in rows] == ["no", "yes", "no"]
    assert rows[1]["bytes"] == "\xff"


def test_every_command_that_prints_facts_has_json(store, capsys, tmp_path):
    with h5py.File(tmp_path / "more.h5", "w") as file:
        file["x"], file["y"], file["name"] = np.arange(3), np.arange(3), ["a", "b", "c"]
    assert printed(capsys, "read", store, str(tmp_path / "more.h5")) == {"version": 2, "sizes": {"train": N + 3}}
    assert printed(capsys, "split", store, "5e-1", "0.3", "0.2") == {
        "version": 3,
        "sizes": {"train": 51, "valid": 31, "test": 21},
    }
    assert printed(capsys, "undo", store)["sizes"] == {"train": N + 3}
    assert printed(capsys, "rollback", store, "3")["sizes"] == {"train": 51, "valid": 31, "test": 21}
    changed = {of["name"]: of["what"] for of in printed(capsys, "diff", store, "1", "2")}
    assert "rows" in changed["x"]
    (info,) = printed(capsys, "info", store)
    assert (info["data_id"], info["phases"]["train"]["x"]["rows"]) == ("a", 51)
    (history,) = printed(capsys, "history", store)
    assert [of["operation"] for of in history["versions"]][:3] == ["add_data", "read", "split"]
    (verify,) = printed(capsys, "verify", store)
    assert (verify["checked"] > 3, verify["problems"]) == (True, [])
    (vacuum,) = printed(capsys, "vacuum", store)
    assert (vacuum["dry_run"], vacuum["versions"]) == (True, [])
    assert printed(capsys, "repair", store) == [{"data_id": "a", "restored_version": None}]
    plans = printed(capsys, "explain", store)
    assert [(of["name"], of["pass"]) for of in plans][:2] == [("x", "full pass"), ("x", "256 rows")]
    assert plans[0]["plan"]["kind"] == "gather"
    check = printed(capsys, "check", store, "--groups", "y")
    assert (check["ok"], check["pairs"][0]["phases"], check["pairs"][0]["shared_groups"]) == (
        False,
        ["train", "valid"],
        [0, 1, 2],
    )


def test_commands_take_the_first_phase_with_rows_and_leave_no_variable_out(odd, capsys):
    assert main(["head", odd, "--variables", "rows"]) == 0
    assert "[4, 5]" in capsys.readouterr().out
    assert main(["explain", odd]) == 0
    assert {line.split()[0] for line in capsys.readouterr().out.splitlines()} == set(EVERY_KIND)
    assert printed(capsys, "describe", odd)[0]["phase"] == "test"


def test_a_store_without_data_says_so(tmp_path, capsys):
    StoreGate("zarr", {"output_dir": tmp_path / "s"}).close()
    store = str(tmp_path / "s")
    assert main(["info", store]) == 0
    assert "no data_id yet" in capsys.readouterr().out
    assert printed(capsys, "info", store) == []


@pytest.mark.parametrize("place", ["new", "deep/er/new"])
def test_a_read_that_fails_leaves_no_new_store(tmp_path, capsys, place):
    (tmp_path / "x.csv").write_text("a,b\n1,2\n", "utf-8")
    store = str(tmp_path / place)
    for arguments in (["nofile.csv"], [str(tmp_path / "x.csv"), "--variables", "c"]):
        assert main(["read", store, *arguments, "--data-id", "r"]) == 2
        assert [path.name for path in tmp_path.iterdir()] == ["x.csv"]
    (tmp_path / "x.csv").rename(tmp_path / "table")
    assert main(["read", store, str(tmp_path / "table"), "--data-id", "r"]) == 2
    assert "give --format" in capsys.readouterr().err
    assert main(["read", store, str(tmp_path / "table"), "--data-id", "r", "--format", "csv"]) == 0
    assert sizes(store) == {"train": 1}


@pytest.mark.skipif(os.name == "nt", reason="no pseudo-terminals")
@pytest.mark.parametrize(
    "command",
    [
        "head",
        "describe",
        "explain",
        *(pytest.param(name, marks=pytest.mark.slow) for name in "info ls history".split()),
    ],
)
def test_lines_fit_a_terminal(odd, command):
    import pty

    with StoreGate.open(odd, mode="a") as gate:
        gate.add_data("a_name_that_is_much_longer_than_others_" * 3, np.arange(3.0) * 1e307, phase="test")
        gate.compile()
    mine, theirs = pty.openpty()
    environ = {**environment(), "COLUMNS": "80", "TERM": "dumb"}
    arguments = [sys.executable, "-m", "storegate", command, odd]
    with subprocess.Popen(arguments, stdout=theirs, stderr=subprocess.PIPE, env=environ) as process:
        os.close(theirs)
        parts = []
        with contextlib.suppress(OSError):  # how a terminal ends
            while part := os.read(mine, 2**16):
                parts.append(part)
        assert process.stderr.read() == b""
    os.close(mine)
    assert process.returncode == 0
    lines = b"".join(parts).decode().splitlines()
    assert lines
    assert max(map(len, lines)) <= 80, lines


def test_what_an_encoding_lacks_is_escaped(odd):
    environ = {**environment(), "PYTHONIOENCODING": "ascii"}
    arguments = [sys.executable, "-m", "storegate", "head", odd, "--variables", "text"]
    done = subprocess.run(arguments, env=environ, capture_output=True, text=True, check=True)
    assert "\\xe9" in done.stdout
    assert done.stderr == ""


REFUSED = [
    (["split", "{store}", "--data-id", "b", "0.5", "0.3", "0.2"], "no data_id 'b'"),
    (["export", "{store}", "x.foo"], "give --format, one of"),
    (["ls", "{store}", "--data-id", "b"], "no data_id 'b'"),
    (["ls", "{store}/none"], "no store"),
    (["head", "{store}", "--variables", "z"], "no variable 'z'"),
    (["split", "{store}", "0.5", "0.2", "0.2"], "must sum to 1"),
    (["split", "{store}", "0.5", "0.3", "0.2", "--by", "z"], "no variable 'z'"),
    (["read", "{store}", "/nowhere/*.h5"], "nowhere"),
    (["read", "{store}-new", "x.h5"], "give --data-id"),
    (["rollback", "{store}", "99"], "99"),
    (["compact", "{store}", "--phase", "tran"], "did you mean 'train'"),
    (["report", "{store}"], "-o report.html"),
    (["report", "{store}", "-o", "{store}"], "is a folder"),
    (["report", "{store}", "-o", "{store}/none/x.html"], "make it"),
    (["report", "{store}", "-o", "s3://bucket/x.html"], "is a URL"),
]


@pytest.mark.parametrize(("arguments", "message"), REFUSED)
def test_an_error_is_one_line_with_the_remedy(store, arguments, message, capsys):
    assert main([part.format(store=store) for part in arguments]) == 2
    err = capsys.readouterr().err
    assert err.startswith("storegate: error: ")
    assert message in err
    assert len(err.splitlines()) == 1
    assert sizes(store) == {"train": N}


@pytest.mark.parametrize(
    "command", [["split", "0.5", "0.2", "0.2"], ["info", "--data-id", "b"], ["verify"], ["vacuum"]]
)
def test_debug_shows_where_it_came_from(store, command):
    from storegate.cli import CommandError

    name, *arguments = command
    place = store if name in ("split", "info") else f"{store}/none"
    with pytest.raises(CommandError):
        main([name, place, *arguments, "--debug"])


def test_a_share_that_is_no_number_is_said_in_words(store, capsys):
    with pytest.raises(SystemExit):
        main(["split", store, "half", "0.5", "0"])
    assert "'half' is neither a fraction nor a number of rows" in capsys.readouterr().err


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_ctrl_c_leaves_the_store_as_it_was(store, tmp_path):
    code = (
        "import sys, storegate.gate\n"
        "def wait(*args, **options):\n"
        "    print('begun', flush=True)\n"
        "    while True: pass\n"
        "storegate.gate.StoreGate.compact = wait\n"
        "from storegate.cli import main\n"
        f"sys.exit(main(['compact', {store!r}]))\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()
    ) as process:
        assert process.stdout.readline() == "begun\n"
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err == "storegate: interrupted; the store is as it was\n"
    assert sizes(store) == {"train": N}


def test_names_cannot_move_the_cursor(tmp_path, capsys):
    with StoreGate("zarr", {"output_dir": tmp_path / "s"}, data_id="a") as gate:
        gate.add_data("x", np.array(["\x1b[2J"]))
    assert main(["head", str(tmp_path / "s")]) == 0
    assert "\x1b" not in capsys.readouterr().out
