"""The command line, as a user starts it: in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

import storegate
from storegate.cli import main

HEAVY = ("numpy", "zarr", "xarray", "dask", "numcodecs", "h5py", "uproot")
CALL = "from storegate.cli import main\ntry: main({})\nexcept SystemExit as end: assert end.code == 0"


def run(code: str) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh interpreter that finds packages where this one does."""
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize(
    "code",
    [
        "import storegate",
        "import storegate; dir(storegate)",
        "from storegate import errors",
        CALL.format(["--help"]),
        CALL.format(["demo", "--help"]),
    ],
)
def test_light_imports(code: str) -> None:
    loaded = run(f"{code}\nimport sys; print([name for name in {HEAVY!r} if name in sys.modules])")
    assert loaded.returncode == 0, loaded.stderr
    assert loaded.stdout.splitlines()[-1] == "[]"


def test_light_import_check_can_fail() -> None:
    assert "numpy" in run(f"import numpy, sys; print([m for m in {HEAVY!r} if m in sys.modules])").stdout


def test_public_names() -> None:
    assert set(storegate.__all__) <= set(dir(storegate))
    assert all(getattr(storegate, name) is not None for name in storegate.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Storegate'"):
        storegate.Storegate  # noqa: B018


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["--version"])
    assert end.value.code == 0
    assert capsys.readouterr().out == f"storegate {storegate.__version__}\n"


def test_help_names_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["--help"])
    assert end.value.code == 0
    out = capsys.readouterr().out
    assert "demo" in out
    assert "info" in out


@pytest.mark.parametrize("arguments", [[], ["fly"], ["info"], ["demo", "--speed", "9"]])
def test_wrong_usage_is_status_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
    assert "usage: storegate" in capsys.readouterr().err


@pytest.mark.slow
def test_demo_without_its_packages_names_the_extra() -> None:
    """One after the other in a process, each as if it were not imported yet."""
    packages = ["uproot", "h5py", "km3net_testdata"]
    done = run(
        "import sys\nmissing = None\n"
        "class Block:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == missing:\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Block())\n"
        "from storegate.cli import main\n"
        f"for missing in {packages!r}:\n"
        "    sys.modules.pop(missing, None)\n"
        "    assert main(['demo']) == 2\n"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert done.stderr.splitlines() == [
        f"storegate: error: the demo needs the package {missing!r}; install it with: "
        'python -m pip install "storegate[demo]"'
        for missing in packages
    ]


def test_a_missing_core_package_is_no_matter_of_extras() -> None:
    done = run("import sys; sys.modules['xarray'] = None\nfrom storegate.cli import main\nsys.exit(main(['demo']))")
    assert done.returncode == 1
    assert "ModuleNotFoundError" in done.stderr
    assert "storegate[demo]" not in done.stderr


class TestStores:
    @pytest.fixture
    def store(self, tmp_path):
        import numpy as np

        for data_id in ("a", "b"):
            with storegate.StoreGate("zarr", {"output_dir": tmp_path / "store"}, data_id) as gate:
                gate.add_data("x", np.arange(10.0))
                gate.add_data("x", np.arange(5.0))
                gate.compact()
        return tmp_path / "store"

    def test_history(self, store, capsys):
        assert main(["history", str(store), "--data-id", "b"]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[0] == "StoreGate data_id : b"
        assert [line.split()[3] for line in lines[3:]] == ["add_data", "add_data", "compact"]

    def test_verify_has_an_exit_status(self, store, capsys):
        assert main(["verify", str(store)]) == 0
        assert "a, 6 checked, 0 problems" in capsys.readouterr().out
        shard = next(path for path in store.glob("b/segments/*/x/c/*"))
        shard.write_bytes(shard.read_bytes()[:-1])
        assert main(["verify", str(store)]) == 1
        out = capsys.readouterr().out
        assert "b, 6 checked, 1 problems" in out
        assert "x/c/0" in out
        assert main(["verify", str(store), "--data-id", "c"]) == 2
        assert "no data_id 'c'" in capsys.readouterr().err

    def test_vacuum_is_a_dry_run_unless_told(self, store, capsys):
        def files():
            return sorted(path for path in store.rglob("*") if path.is_file())

        before = files()
        assert main(["vacuum", str(store), "--older-than", "0"]) == 0
        out = capsys.readouterr().out
        assert "a, would free" in out
        assert "2 versions, 2 segments" in out
        assert max(map(len, out.splitlines())) <= 80
        assert "--apply" in out
        assert files() == before
        assert main(["vacuum", str(store), "--older-than", "0", "--apply", "--data-id", "a"]) == 0
        assert "a, freed" in capsys.readouterr().out
        assert len(list(store.glob("a/segments/*/x"))) == 1
        assert len(list(store.glob("b/segments/*/x"))) == 3
        assert main(["vacuum", str(store), "--older-than", "soon"]) == 2
        assert "not an age" in capsys.readouterr().err

    def test_a_store_that_is_not_there_is_not_made(self, tmp_path, capsys):
        for command in (["info"], ["history"], ["verify"], ["vacuum", "--apply"]):
            assert main([command[0], str(tmp_path / "none"), *command[1:]]) == 2
            assert "no store" in capsys.readouterr().err
        assert not (tmp_path / "none").exists()
