"""Commands for one data_id: what they print and change, and what they refuse in one line."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys

import h5py
import numpy as np
import pytest

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
    assert json.loads(capsys.readouterr().out)["variables"]["x"]["mean"] == "49.5"
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


REFUSED = [
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


def test_debug_shows_where_it_came_from(store):
    from storegate.cli import CommandError

    with pytest.raises(CommandError):
        main(["split", store, "0.5", "0.2", "0.2", "--debug"])


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
