"""What an import brings in: dask, xarray, pandas and zarr only when they are needed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import dask.config
import numpy as np
import pytest

from storegate import StoreGate
from tests.processes import environment

HEAVY = ("asyncio", "dask", "distributed", "matplotlib", "pandas", "pyarrow", "xarray", "zarr")

USED = """
import numpy as np
gate = StoreGate("zarr", {"output_dir": sys.argv[1], "mode": "w"}, data_id="a")
gate.add_data(["x", "y"], [np.arange(10), np.zeros((10, 2))])
gate.shuffle("train", seed=1)
gate.compile()
next(iter(gate["train"]["x"].batches(5)))
gate.close()
"""
READ = """
gate = StoreGate.open(sys.argv[1], "a")
repr(gate), gate._repr_html_(), gate["train"]["x"].shape, gate["train"]["x"][:5], len(gate.history())
"""
INFO = """
from storegate.cli import main
main(["info", sys.argv[1]])
"""


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Return a store that has everything that its summary may show."""
    with StoreGate.open(tmp_path / "store", "a", mode="w") as gate:
        gate.add_data({"x": np.arange(100.0), "y": np.arange(100) % 3}, phase=(0.8, 0.1, 0.1))
        gate.shuffle("all", seed=1)
        gate.astype("x", "float32", phase="all")
        gate.onehot("y", 3, phase="all")
        gate.compile()
    return tmp_path / "store"


def run(program: str, *arguments: object, **variables: str) -> list[str]:
    """Return the last line of what a program prints, in a home without any configuration, as words."""
    clean = {name: value for name, value in environment().items() if not name.startswith("DASK_")}
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        env={**clean, "HOME": f"{arguments[0]}-home", **variables},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.splitlines()[-1].split()


@pytest.mark.parametrize(
    ("what", "heavy"),
    [
        ("from storegate import StoreGate", HEAVY),
        (
            "from storegate import StoreGate" + USED,
            ("dask", "distributed", "matplotlib", "pandas", "pyarrow", "xarray"),
        ),
        ("from storegate import StoreGate" + READ, HEAVY),
        (INFO, HEAVY),
    ],
    ids=["imported", "used on arrays", "read", "storegate info"],
)
def test_nobody_waits_for_libraries_that_are_not_used(what: str, heavy: tuple[str, ...], store: Path) -> None:
    assert run(f"import sys\n{what}\nprint('heavy:', *[name for name in {heavy!r} if name in sys.modules])", store) == [
        "heavy:"
    ]


LIMIT = "from storegate_engine.settings import memory_limit_nbytes\nprint(memory_limit_nbytes())"


@pytest.mark.parametrize("name", ["any.yaml", "OTHER.YML", "a.json"])
def test_settings_in_files_count_before_dask_is_imported(name: str, store: Path) -> None:
    directory = Path(f"{store}-home", ".config", "dask")
    directory.mkdir(parents=True)
    (directory / "empty.yaml").write_text("# nothing\n")
    default = run(LIMIT, store)
    assert int(default[0]) > 123 * 2**20
    (directory / name).write_text('{"storegate": {"memory-limit": "123MiB"}}')
    assert run(LIMIT, store) == [str(123 * 2**20)]


def test_settings_of_the_environment_count_before_dask_is_imported(store: Path, tmp_path: Path) -> None:
    assert run(LIMIT, store, DASK_STOREGATE__MEMORY_LIMIT="123MiB") == [str(123 * 2**20)]
    (tmp_path / "own.yaml").write_text("storegate:\n  memory-limit: 124MiB\n")
    assert run(LIMIT, store, DASK_CONFIG=str(tmp_path / "own.yaml")) == [str(124 * 2**20)]


def test_settings_are_looked_for_wherever_dask_looks(store: Path) -> None:
    program = (
        "import sys\nlooked = []\n"
        "sys.addaudithook(lambda event, given: event == 'os.listdir' and looked.append(str(given[0])))\n"
        f"{LIMIT}\nfound = set(looked)\nimport dask.config\n"
        "print('missed:', *[path for path in dask.config.paths if path not in found])"
    )
    assert dask.config.paths
    assert run(program, store) == ["missed:"]
