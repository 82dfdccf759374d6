"""The demo, run as a user runs it, on the real data."""

from __future__ import annotations

import contextlib
import io
import re
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from storegate import StoreGate
from storegate.cli import main
from storegate.demo import BUDGET, SEED, PeakMemory, check, peak_nbytes, read_batches
from storegate.views import View
from storegate_engine.budget import parse_nbytes


@dataclass(frozen=True)
class Run:
    directory: str
    out: str


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Run the demo once for all tests."""
    directory = str(tmp_path_factory.mktemp("demo") / "store")
    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert main(["demo", "--directory", directory]) == 0
    return Run(directory, out.getvalue())


@pytest.mark.slow
def test_demo_says_what_it_did(demo: Run) -> None:
    assert demo.directory in demo.out
    assert "Aligned: all 13 columns of all 59,360 rows are those of the file." in demo.out
    assert "Aligned: all 6 columns of all 2,228,941 rows are those of the file." in demo.out
    assert demo.out.count("<view of ") == 2
    assert demo.out.count("One pass: ") == 2


@pytest.mark.slow
def test_demo_fits_a_terminal(demo: Run) -> None:
    lines = demo.out.replace(demo.directory, "/tmp/storegate-12345678/demo.zarr").splitlines()  # the default place
    assert len(lines) <= 40
    assert max(map(len, lines)) <= 80


@pytest.mark.slow
def test_demo_reads_by_batches_of_a_stream(demo: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    with StoreGate("zarr", {"output_dir": demo.directory, "mode": "r"}, data_id="events") as gate:
        asked = []
        monkeypatch.setattr(View, "batches", lambda *_, **options: asked.append(options) or [[np.zeros(3)] * 3])
        read_batches(gate, ["E_reco_bin_center", "W"], label="AnaClass", batch_rows=1024)
    assert asked == [{"seed": SEED}]


@pytest.mark.slow
def test_demo_says_what_the_budget_covers(demo: Run) -> None:
    assert f"The budget of {BUDGET} covers what each call of StoreGate holds while it runs." in demo.out
    assert "does not cover Python and its libraries" in demo.out
    added = re.search(r"Each step added at most:\n.* means (\d+) MiB, check (\d+) MiB, batches (\d+) MiB", demo.out)
    assert added is not None
    if sys.platform == "linux":  # elsewhere the peak of one step is not known
        assert max(map(int, added.groups())) <= parse_nbytes(BUDGET) / 2**20


@pytest.mark.slow
def test_demo_splits_as_numpy_would(demo: Run) -> None:
    with StoreGate("zarr", {"output_dir": demo.directory, "mode": "r"}, data_id="hits") as gate:
        assert gate.get_metadata()["sizes"] == {
            "train": 1_783_152,
            "valid": 222_894,
            "test": 222_895,
            "all": 2_228_941,
        }


@pytest.mark.slow
def test_printed_means_are_those_of_the_rows(demo: Run) -> None:
    with StoreGate("zarr", {"output_dir": demo.directory, "mode": "r"}, data_id="hits") as gate:
        triggered = gate["train"]["triggered"][:].argmax(axis=1) == 1
        tot = gate["train"]["tot"][:]
    printed = re.search(r"^mean of tot +([\d.]+) +([\d.]+)$", demo.out, flags=re.MULTILINE)
    assert printed is not None
    expected = [tot[~triggered].mean(dtype="f8"), tot[triggered].mean(dtype="f8")]
    assert [float(mean) for mean in printed.groups()] == pytest.approx(expected, abs=1e-3)


@pytest.mark.slow
def test_demo_has_a_budget_below_the_data(demo: Run) -> None:
    decoded = re.search(r"In memory the data would take (\d+) MiB", demo.out)
    assert decoded is not None
    assert parse_nbytes(BUDGET) < int(decoded[1]) * 2**20


@pytest.mark.slow
def test_info_opens_what_the_demo_left(demo: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", demo.directory]) == 0
    both = capsys.readouterr().out
    assert "AnaClass" in both
    assert "triggered" in both
    assert main(["info", demo.directory, "--data-id", "hits"]) == 0
    assert "AnaClass" not in capsys.readouterr().out


@pytest.mark.slow
def test_info_names_what_is_there(demo: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", demo.directory, "--data-id", "event"]) == 2
    err = capsys.readouterr().err
    assert "did you mean 'events'?" in err
    assert err.count("\n") == 1
    assert main(["info", str(tmp_path / "nothing")]) == 2
    err = capsys.readouterr().err
    assert err.startswith("storegate: error: ")
    assert not (tmp_path / "nothing").exists()


def test_demo_leaves_a_strange_directory_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    assert main(["demo", "--directory", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("storegate: error: ")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_check_finds_a_row_out_of_line() -> None:
    values = np.arange(10.0)
    gate = StoreGate("numpy", data_id="a")
    gate.add_data(["x", "row"], [values, np.arange(10)], phase=(0.8, 0.1, 0.1), shuffle=3)
    gate.compile()
    check(gate, ["x"], lambda name: values)
    gate["train"]["x"][0] = -1.0
    with pytest.raises(RuntimeError, match="'x' in 'train' is out of line"):
        check(gate, ["x"], lambda name: values)


def test_peak_memory_counts_what_was_freed() -> None:
    memory = PeakMemory()
    memory.end_of_step("small")
    np.ones(2**26, dtype=np.uint8).sum()
    memory.end_of_step("large")
    if peak_nbytes() is None:
        pytest.skip("this system does not tell the peak of resident memory")
    added = re.search(r"small (\d+) MiB, large (\d+) MiB", memory.report())
    assert added is not None
    assert int(added[2]) >= 50
    if sys.platform == "linux":
        assert int(added[1]) <= 10
