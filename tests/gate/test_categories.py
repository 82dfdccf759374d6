"""Categories are stored as codes that mean the same in every phase, and stay with their variable."""

from __future__ import annotations

import datetime

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storegate import StoreGate, errors
from tests.examples import examples


@pytest.fixture(params=["numpy", "zarr"])
def gate(request, tmp_path):
    args = {} if request.param == "numpy" else {"output_dir": tmp_path / "store"}
    with StoreGate(request.param, args, data_id="a") as gate:
        yield gate


CATEGORICAL = {
    "pandas": lambda values: pd.DataFrame({"c": pd.Categorical(values)}),
    "pyarrow": lambda values: pa.table({"c": pa.array(values).dictionary_encode()}),
    "polars": lambda values: pl.DataFrame({"c": pl.Series(values, dtype=pl.Categorical)}),
}


COLUMNS = {
    "pandas Series": lambda values: pd.Series(values, dtype="category"),
    "pandas Categorical": pd.Categorical,
    "pandas CategoricalIndex": pd.CategoricalIndex,
    "pyarrow Array": lambda values: pa.array(values).dictionary_encode(),
    "pyarrow ChunkedArray": lambda values: pa.chunked_array([pa.array([one]).dictionary_encode() for one in values]),
    "polars Categorical": lambda values: pl.Series(values, dtype=pl.Categorical),
    "polars Enum": lambda values: pl.Series(values, dtype=pl.Enum(sorted(set(values)))),
}


@pytest.mark.parametrize("kind", COLUMNS)
class TestColumnsByThemselves:
    """The same as columns of tables: codes, with their categories."""

    def test_they_are_codes(self, gate, kind):
        values = ["b", "a", "b", "c"]
        gate.add_data("c", COLUMNS[kind](values))
        gate.add_data(["d", "e"], [COLUMNS[kind](values), [1, 2, 3, 4]])
        for name in "cd":
            categories, codes = gate.table["train"][name].about.categories, gate["train"][name][:]
            assert codes.dtype == np.int32
            assert [categories[code] for code in codes] == values
        assert gate["train"].to_pandas()["c"].tolist() == values

    def test_they_go_on(self, gate, kind):
        gate.add_data("c", COLUMNS[kind](["b", "a"]))
        if "Enum" not in kind:  # ordered categories must stay the same
            gate.add_data(pd.DataFrame({"c": pd.Categorical(["d", "b"])}))
            assert gate["train"].to_pandas()["c"].tolist() == ["b", "a", "d", "b"]
        gate["train"]["c"][0:1] = COLUMNS[kind](["a"]) if "Enum" not in kind else COLUMNS[kind](["a", "b"])[:1]
        assert gate["train"].to_pandas()["c"][0] == "a"
        with pytest.raises(errors.DtypeError, match="plain values; make them categories"):
            gate.add_data("c", ["a"])

    def test_missing_ones_are_refused(self, gate, kind):
        if kind == "polars Enum":
            column = pl.Series(["a", None], dtype=pl.Enum(["a"]))
        elif kind == "pyarrow ChunkedArray":
            column = pa.chunked_array([pa.array(["a", None]).dictionary_encode()])
        else:
            column = COLUMNS[kind](["a", None])
        with pytest.raises(errors.MissingValueError, match="'c'"):
            gate.add_data("c", column)


class TestCategories:
    @settings(max_examples=examples(100), deadline=None)
    @given(st.sampled_from(sorted(CATEGORICAL)), st.lists(st.lists(st.sampled_from("abcdé"), min_size=1), min_size=1))
    def test_they_become_codes_that_go_on(self, kind, parts):
        """Phases and appends with other categories, in another order, share one list of categories."""
        gate = StoreGate(data_id="a")
        for number, values in enumerate(parts):
            gate.add_data(CATEGORICAL[kind](values), phase=("train", "test")[number % 2])
        for phase, mine in (("train", parts[::2]), ("test", parts[1::2])):
            if not mine:
                continue
            categories = gate.table[phase]["c"].about.categories
            codes = gate[phase]["c"][:]
            assert codes.dtype == np.int32
            assert [categories[code] for code in codes] == [value for values in mine for value in values]
        known = [gate.table[phase]["c"].about.categories for phase in gate.phases]
        assert min(known, key=len) == max(known, key=len)[: len(min(known, key=len))]

    def test_batches_of_a_stream_may_have_dictionaries_of_their_own(self, gate):
        batches = [
            pa.record_batch({"c": pa.array(values).dictionary_encode()})
            for values in (["a", "b"], ["b", "z"], ["z", "a"])
        ]
        gate.add_data(pa.RecordBatchReader.from_batches(batches[0].schema, batches))
        assert gate.table["train"]["c"].about.categories == ("a", "b", "z")
        assert gate["train"]["c"][:].tolist() == [0, 1, 1, 2, 2, 0]

    def test_they_stay_with_the_variable(self, tmp_path):
        path = tmp_path / "store"
        with StoreGate.open(path, "a", mode="w") as gate:
            gate.add_data(pd.DataFrame({"c": pd.Categorical(["x", "y", "x"]), "n": pd.Categorical([1, 5, 1])}))
            gate.shuffle("train", seed=1)
            gate.compact("train")
            gate.astype("c", "int64")
        with StoreGate.open(path, mode="a") as gate:
            about = gate.table["train"]["c"].about
            assert about.categories == ("x", "y")
            assert gate.table["train"]["n"].about.categories == (1, 5)
            gate.onehot("c", 2)
            assert gate.table["train"]["c"].about.categories is None

    def test_an_update_brings_new_ones(self, gate):
        gate.add_data(pd.DataFrame({"c": pd.Categorical(["x", "y", "x"])}))
        gate.update_data(["c"], pd.DataFrame({"c": pd.Categorical(["z", "x"])}), index=(1, 3))
        categories = gate.table["train"]["c"].about.categories
        assert [categories[code] for code in gate["train"]["c"][:]] == ["x", "z", "x"]

    def test_they_move_between_memory_and_storage(self, tmp_path):
        with StoreGate("hybrid", {"output_dir": tmp_path / "store"}, data_id="a") as gate:
            gate.add_data(pd.DataFrame({"c": pd.Categorical(["x", "y", "x"], ordered=True)}))
            gate.to_memory("c")
            gate.set_mode("numpy")
            assert gate["train"].to_pandas()["c"].tolist() == ["x", "y", "x"]
            gate.to_storage("c", output_var_names="d")
            gate.set_mode("zarr")
            assert gate["train"].to_pandas()["d"].cat.ordered

    def test_stored_codes_of_another_variable_keep_their_meaning(self, tmp_path):
        with StoreGate("zarr", {"output_dir": tmp_path / "store"}, data_id="a") as gate:
            gate.add_data(pd.DataFrame({"c": pd.Categorical(["x", "y"]), "d": pd.Categorical(["y", "x"], ["y", "x"])}))
            gate.add_data("e", gate["train"]["c"].data)
            assert gate["train"].to_pandas()["e"].tolist() == ["x", "y"]
            gate.add_data("c", gate["train"]["d"].data)
            gate.add_data("c", gate["train"]["d"])
            assert gate["train"][["c"]].to_pandas()["c"].tolist() == ["x", "y", "y", "x", "y", "x"]

    def test_a_replaced_phase_has_the_codes_of_the_others(self, gate):
        gate.add_data(pd.DataFrame({"c": pd.Categorical(["x", "y"])}), phase="train")
        gate.add_data(pd.DataFrame({"c": pd.Categorical(["x", "x"])}), phase="valid")
        gate.update_data(["c"], pd.DataFrame({"c": pd.Categorical(["y", "z"])}), phase="valid")
        assert gate["valid"]["c"][:].tolist() == [1, 2]
        assert gate["valid"].to_pandas()["c"].tolist() == ["y", "z"]

    def test_plain_values_and_categories_do_not_mix(self, gate):
        gate.add_data({"c": np.arange(3)})
        with pytest.raises(errors.DtypeError, match="holds int64 values, and the new rows are categories"):
            gate.add_data(pd.DataFrame({"c": pd.Categorical(["a"])}))
        assert len(gate["train"]["c"][:]) == 3

    @pytest.mark.parametrize("kind", CATEGORICAL)
    def test_a_missing_one_is_refused(self, gate, kind):
        with pytest.raises(errors.MissingValueError, match="null"):
            gate.add_data(CATEGORICAL[kind](["a", None, "b"]))
        assert gate.variables == ()

    def test_times_are_no_categories(self, gate):
        with pytest.raises(errors.DtypeError, match="categories are texts, numbers or bools"):
            gate.add_data(pd.DataFrame({"c": pd.Categorical([datetime.datetime(2020, 1, 1)])}))


class TestAllPhases:
    def test_categories_of_all_phases_are_read_together(self, gate):
        for phase, values in (("train", ["a", "b"]), ("valid", ["b", "c"]), ("test", ["c", "a", "d"])):
            gate.add_data(pd.DataFrame({"c": pd.Categorical(values)}), phase=phase)
        gate.compile()
        assert gate["all"].to_pandas()["c"].tolist() == ["a", "b", "b", "c", "c", "a", "d"]

    def test_plain_values_and_categories_do_not_mix_over_phases(self, gate):
        gate.add_data(pd.DataFrame({"c": pd.Categorical(["a"])}))
        for values in ([0], [1.5], ["a"]):
            with pytest.raises(errors.DtypeError, match="has categories .* plain values"):
                gate.add_data({"c": values}, phase="valid")
        gate.add_data({"p": [1]})
        with pytest.raises(errors.DtypeError, match="holds int64 values, and the new rows are categories"):
            gate.add_data(pd.DataFrame({"p": pd.Categorical(["a"])}), phase="valid")
        gate["train"]["c"][0] = 0  # codes themselves may be assigned

    @pytest.mark.parametrize(("first", "second"), [([1, 2], [1.0, 2.5]), ([1, 0], [True, False]), ([1], ["1"])])
    def test_categories_are_of_one_type(self, gate, first, second):
        gate.add_data(pd.DataFrame({"c": pd.Categorical(first)}))
        with pytest.raises(errors.DtypeError, match="convert them to one type"):
            gate.add_data(pd.DataFrame({"c": pd.Categorical(second)}))
        assert gate["train"].to_pandas()["c"].tolist() == first

    def test_two_writers_do_not_give_one_code_to_two_categories(self, tmp_path):
        def batches(other: StoreGate):
            yield pa.record_batch({"c": pa.array(["a"]).dictionary_encode()})
            other.add_data(pd.DataFrame({"c": pd.Categorical(["y"])}), phase="valid")
            yield pa.record_batch({"c": pa.array(["x"]).dictionary_encode()})

        with (
            StoreGate.open(tmp_path / "store", "a", mode="w") as gate,
            StoreGate.open(tmp_path / "store", "a", "r+") as other,
        ):
            gate.add_data(pd.DataFrame({"c": pd.Categorical(["a"])}))
            gate.add_data(pd.DataFrame({"c": pd.Categorical(["a"])}), phase="valid")
            schema = pa.schema({"c": pa.dictionary(pa.int32(), pa.string())})
            with pytest.raises(errors.ConflictError, match="categories of variable 'c' of phase 'valid'"):
                gate.add_data(pa.RecordBatchReader.from_batches(schema, batches(other)))
            assert gate["train"].to_pandas()["c"].tolist() == ["a"]

    def test_moves_give_new_codes_where_these_mean_something_else(self, tmp_path):
        with StoreGate("hybrid", {"output_dir": tmp_path / "store"}, data_id="a") as gate:
            for phase in ("train", "valid"):
                gate.add_data(pd.DataFrame({"c": pd.Categorical(["a", "b"])}), phase=phase)
            gate.set_mode("numpy")
            gate.add_data(pd.DataFrame({"c": pd.Categorical(["z", "b"])}), phase="train")
            gate.to_storage("c", phase="train")
            gate.set_mode("zarr")
            assert gate["all"].to_pandas()["c"].tolist() == ["z", "b", "a", "b"]

    @pytest.mark.parametrize("code", [7, -1])
    def test_a_code_without_a_category_is_not_passed_on(self, gate, code):
        gate.add_data(pd.DataFrame({"c": pd.Categorical(["a", "b"])}))
        gate["train"]["c"][0] = code
        other = StoreGate(data_id="b")
        with pytest.raises((errors.DtypeError, errors.MissingValueError), match="2 categories|are null"):
            other.add_data(gate["train"])
        assert other.variables == ()
