"""The documented interface: what changes rows; every method, option, default, return shape and error."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pandas as pd
import pytest

from storegate import StoreGate, errors
from tests import unchecked
from tests.gate.interface_cases import filled


class TestAppendAndUpdate:
    def test_append_combines_dtypes_and_cuts_nothing(self, gate):
        gate.add_data("x", np.arange(3))
        gate.add_data("x", [0.5])
        np.testing.assert_array_equal(gate.get_data("x"), [0, 1, 2, 0.5])
        gate.add_data("s", np.array(["a"]))
        gate.add_data("s", np.array(["longer"]))
        np.testing.assert_array_equal(gate.get_data("s"), ["a", "longer"])

    def test_append_of_another_sample_shape(self, gate):
        gate.add_data("x", np.zeros((3, 2)))
        with pytest.raises(ValueError, match=r"\(2,\).*\(3,\)"):
            gate.add_data("x", np.zeros((1, 3)))
        assert gate.get_data("x").shape == (3, 2)

    @pytest.mark.parametrize("index", [slice(None, None, 2), slice(3, 9), slice(None, None, -1), [], np.zeros(0, bool)])
    def test_what_picks_nothing_of_no_rows_replaces_nothing(self, gate, index):
        gate.add_data("x", np.zeros(2, "i2"))
        gate.sample(0)
        gate["train"]["x"][index] = np.zeros(0, "f8")
        assert gate["train"]["x"].dtype == "i2"
        gate["train"]["x"][:] = np.zeros(0, "f8")  # the variable, whatever its rows
        assert gate["train"]["x"].dtype == "f8"

    def test_list_is_all_or_nothing(self, gate):
        with pytest.raises(ValueError, match="different numbers"):
            gate.add_data(["a", "b"], [[1, 2], [1, 2, 3]])
        with pytest.raises(TypeError, match="object"):
            gate.add_data(["a", "b"], [np.arange(2), np.array([{}, {}], dtype=object)])
        with pytest.raises(ValueError, match="3 names"):
            gate.add_data(["a", "b", "c"], [[1], [2]])
        assert gate.get_var_names() == []

    def test_update_keeps_a_dtype_that_can_hold_the_values(self, gate):
        gate.add_data(["f", "i"], [np.zeros(3, "f4"), np.arange(3, dtype="i4")])
        gate["train"]["f"][0] = np.float64(0.5)
        assert gate.get_data("f").dtype == np.float32
        gate["train"]["i"][0] = np.int64(7)
        assert gate.get_data("i").dtype == np.int32
        gate["train"]["i"][0] = 0.5
        np.testing.assert_array_equal(gate.get_data("i"), [0.5, 1, 2])
        gate.update_data("f", np.zeros((3, 2)), index=-1)
        assert gate.get_data("f").shape == (3, 2)

    def test_update_never_wraps_integers(self, gate):
        gate.add_data("i", np.zeros(3, "i1"))
        gate["train"]["i"][1] = 300
        np.testing.assert_array_equal(gate.get_data("i"), [0, 300, 0])

    @pytest.mark.parametrize(
        ("index", "data"),
        [(1, [[1, 2], [3, 4]]), ((0, 2), [[1, 2]]), (-1, [[1, 2]]), ([0, 1], [[1, 2]]), (0, [1, 2, 3])],
    )
    def test_update_of_the_wrong_size(self, gate, index, data):
        gate.add_data("x", np.zeros((4, 2), int))
        version = gate.repository().version
        with pytest.raises(ValueError, match=r"rows|shape"):
            gate.update_data("x", data, index=index)
        assert gate.repository().version == version

    def test_update_of_an_unknown_variable_adds_it_whole(self, gate):
        gate.update_data("x", [1, 2, 3])
        np.testing.assert_array_equal(gate.get_data("x"), [1, 2, 3])
        with pytest.raises(KeyError, match="no variable 'z'"):
            gate.update_data("z", [1], index=0)

    def test_update_of_many_scattered_rows(self, gate):
        x = np.arange(3000)
        gate.add_data("x", x)
        rows = np.arange(0, 3000, 3)
        gate["train"]["x"][rows] = -rows
        expected = x.copy()
        expected[rows] = -rows
        np.testing.assert_array_equal(gate.get_data("x"), expected)
        gate["train"]["x"][[5, 5, 2]] = [1, 2, 3]
        expected[[5, 5, 2]] = [1, 2, 3]
        np.testing.assert_array_equal(gate.get_data("x"), expected)

    def test_update_of_one_row_of_several_variables(self, gate):
        gate.add_data(("a", "b"), np.zeros((3, 2, 2)))
        gate.update_data(("a", "b"), [[1.0, 2.0], [3.0, 4.0]], index=1)
        np.testing.assert_array_equal(gate.get_data(("a", "b"), index=1), [[1, 2], [3, 4]])
        gate.update_data(["a", "b"], [[5.0, 6.0], [7.0, 8.0]], index=2)
        np.testing.assert_array_equal(gate.get_data("b", index=2), [7, 8])

    @pytest.mark.parametrize("data", [5, 0.5, "text", None, np.float32(1)])
    def test_scalars_are_no_data(self, gate, data):
        with pytest.raises(TypeError, match="sample axis"):
            gate.add_data("x", data)
        assert gate.get_var_names() == []

    def test_objects_are_refused_with_the_remedy(self, gate):
        with pytest.raises(TypeError, match="pickle"):
            gate.add_data("x", np.array([{}, []], dtype=object))
        with pytest.raises(TypeError, match="each field"):
            gate.add_data("x", np.zeros(2, [("a", "i4"), ("b", "f4")]))

    def test_compiled_flag_follows_the_changes(self, gate):
        filled(gate)
        gate.add_data("z", np.arange(10), phase=(6, 2, 2))
        with pytest.raises(ValueError, match="compile"):
            gate.get_metadata()
        gate.update_data("z", [5], index=0)
        assert gate.get_metadata()["compiled"]
        gate.delete_data("z", "all", do_compile=False)
        with pytest.raises(ValueError, match="compile"):
            gate.get_metadata()
        gate.compile()
        gate.shuffle()
        gate.astype("x", "f8")
        assert gate.get_metadata()["compiled"]


class TestTransforms:
    def test_astype_onehot_argmax(self, gate):
        x, y = filled(gate)
        gate.astype(["x", "y"], "i2", phase="all")
        assert gate.get_data("x", "test").dtype == np.int16
        gate.onehot("y", 3, phase="all")
        np.testing.assert_array_equal(gate.get_data("y", "all"), np.identity(3)[y])
        gate.argmax(("y",), axis=1, phase="all")
        np.testing.assert_array_equal(gate.get_data("y", "all"), y)
        assert gate.get_data("y").dtype == np.int64

    @pytest.mark.parametrize("label", [-1, 3])
    def test_bad_labels_are_found_at_the_call_and_on_compute_and_named(self, gate, label):
        labels = np.zeros(100, int)
        labels[41] = label
        gate.add_data("y", labels, shuffle=3)
        row = int(np.flatnonzero(np.random.RandomState(3).permutation(100) == 41)[0])
        with pytest.raises(ValueError, match=rf"row {row}\b.*{label}"):
            gate.onehot("y", 3)
        unchecked.onehot(gate, "y", 3)
        with pytest.raises(ValueError, match=rf"row {row}\b.*{label}"):
            gate.get_data("y")
        with pytest.raises(ValueError, match=rf"row {row}\b"):
            gate["train"]["y"].data.compute()

    def test_transforms_that_cannot_be(self, gate):
        filled(gate)
        with pytest.raises(ValueError, match="sample"):
            gate.argmax("x", axis=0)
        with pytest.raises(TypeError):
            gate.onehot("x", 3)
        with pytest.raises(KeyError, match="did you mean 'x'|no variable"):
            gate.astype(["x", "missing"], "f8")
        assert gate.get_data("x").dtype == np.float32


class TestOther:
    def test_unknown_variable_is_one_error(self, gate):
        gate.add_data("jet_pt", [1.0])
        for kind in (KeyError, ValueError):
            with pytest.raises(kind, match="did you mean 'jet_pt'"):
                gate.get_data("jet_p")
            with pytest.raises(kind, match="did you mean 'jet_pt'"):
                gate["train"]["jet_p"][0]

    def test_index_needs_phase_and_names(self, gate):
        filled(gate)
        for bad in (lambda: gate[0], lambda: gate["x"][0], lambda: gate[:2]):
            with pytest.raises((ValueError, KeyError), match="needs"):
                bad()
        gate.clear_data()
        with pytest.raises((ValueError, KeyError), match="needs"):
            gate["train"][0]

    @pytest.mark.parametrize(
        "index", [0, -1, slice(1, 4), slice(None), ..., [2, 0], np.array([True, False] * 3), slice(4, 0, -2)]
    )
    def test_an_index_of_a_phase_gives_rows_of_all_variables_by_name(self, gate, index):
        x, y = filled(gate)
        found = gate["train"][index]
        assert list(found) == ["x", "y"]
        np.testing.assert_array_equal(found["x"], x[:6][index])
        np.testing.assert_array_equal(found["y"], y[:6][index])
        chosen = gate["train"].subset([5, 0, 3])[1:]
        np.testing.assert_array_equal(chosen["x"], x[[0, 3]])
        with pytest.raises(IndexError):
            gate["train"][6]

    def test_a_phase_is_no_array_but_a_table(self, gate):
        filled(gate)
        for make in (np.asarray, pd.DataFrame):
            with pytest.raises(KeyError, match=r"name one, as in gate\[phase\]\[var_name\], or .* to_pandas\(\)"):
                make(gate["train"])
        assert list(gate["train"].to_pandas()) == ["x", "y"]

    def test_order_of_phase_and_names_is_free(self, gate):
        x, _ = filled(gate)
        np.testing.assert_array_equal(gate["x"]["train"][:], x[:6])

    def test_views_are_immutable(self, gate):
        filled(gate)
        a, b = gate["train"], gate["test"]
        assert (len(a), len(b)) == (6, 2)
        ax, by = a["x"], a["y"]
        assert ax[0].shape == (2,)
        assert by[0].shape == ()
        with pytest.raises(AttributeError):
            a.phase = "test"

    def test_views_iterate_over_rows(self, gate):
        x, y = filled(gate)
        np.testing.assert_array_equal(list(gate["train"]["x"]), x[:6])
        first = next(iter(gate["train"][["x", "y"]]))
        assert first[0].shape == (2,)
        assert next(iter(gate["train"][("y", "y")])).shape == (2,)
        np.testing.assert_array_equal(np.asarray(gate["test"]["y"]), y[8:])
        assert np.asarray(gate["test"]["y"], dtype="f4").dtype == np.float32

    def test_truth_and_length(self, gate):
        assert gate
        assert gate["train"]
        with pytest.raises(ValueError, match="compile"):
            len(gate["train"])
        filled(gate)
        assert len(gate) == 10
        assert (len(gate["train"]), len(gate["all"])) == (6, 10)

    def test_metadata_is_a_copy(self, gate):
        filled(gate)
        expected = {
            "compiled": True,
            "total_events": [6, 2, 2],
            "sizes": {"train": 6, "valid": 2, "test": 2, "all": 10},
            "valid_phases": ["train", "valid", "test"],
        }
        found = gate.get_metadata()
        assert found == expected
        found["sizes"]["train"] = 0
        assert gate.get_metadata() == expected

    def test_compile(self, gate):
        gate.add_data("a", [1, 2])
        gate.add_data("b", [1, 2, 3])
        with pytest.raises(ValueError, match="a: 2, b: 3"):
            gate.compile()
        gate.delete_data("b")
        gate.add_data("active", [0.5])
        gate.compile(reset=True)
        np.testing.assert_array_equal(gate.get_data("active"), [1, 1])
        assert gate.get_data("active").dtype == np.int64

    def test_show_info_prints_the_table(self, gate, capsys):
        filled(gate)
        gate.compile(show_info=True)
        printed = capsys.readouterr().out
        for word in ("train", "x", "float32", "int64", "(2,)", "6"):
            assert word in printed

    def test_reprs_read_no_data(self, gate, counted_reads):
        filled(gate)
        gate.shuffle()
        gate.onehot("y", 3)
        counted_reads.clear()
        for shown in (repr(gate), gate._repr_html_(), repr(gate["train"]), gate["train"]["y"]._repr_html_()):
            for word in ("train", "y", "float64"):
                assert word in shown
        assert "60%" in gate._repr_html_()
        assert "one-hot of int64, 3 classes" in repr(gate)
        assert counted_reads == []

    def test_create_empty(self, gate):
        gate.create_empty("x", (5, 2))
        np.testing.assert_array_equal(gate.get_data("x"), np.zeros((5, 2), "f4"))
        assert gate.get_data("x").dtype == np.float32
        gate.create_empty(["s", "i"], (4,), phase=(2, 1, 1), dtype="U3")
        assert gate.get_data("s").tolist() == ["", ""]
        with pytest.raises(ValueError, match="exists"):
            gate.create_empty("x", (5, 2))
        gate.update_data("x", [1, 2], index=2, do_compile=False)
        np.testing.assert_array_equal(gate.get_data("x", index=2), [1, 2])

    def test_data_ids(self, gate):
        filled(gate)
        gate.set_data_id("other")
        assert gate.get_var_names() == []
        gate.add_data("z", [1])
        assert gate.get_data_ids() == ["other", "test_id"]
        with pytest.raises(ValueError, match="data_id"):
            gate.set_data_id("a/b")
        assert gate.data_id == "other"
        gate.set_data_id("test_id")
        assert gate.get_var_names() == ["x", "y"]
        assert gate.get_metadata()["compiled"]

    def test_no_data_id(self, backend):
        with StoreGate(backend) as gate:
            for call in (gate.compile, gate.clear_data, gate.show_info, lambda: gate.add_data("x", [1])):
                with pytest.raises(ValueError, match="please set default data_id"):
                    call()
            assert gate.data_id is None

    def test_clear_and_delete(self, gate):
        filled(gate)
        gate.delete_data("missing")
        gate.delete_data(["x"], phase="all")
        assert gate.get_var_names("test") == ["y"]
        gate.clear_data()
        assert gate.get_var_names() == []

    def test_backend_is_what_was_asked(self, gate, backend):
        assert gate.backend == backend

    def test_unknown_backends_and_arguments(self, tmp_path):
        for kind in (ValueError, NotImplementedError):
            with pytest.raises(kind, match="did you mean 'zarr'"):
                StoreGate("zar")
        with pytest.raises(TypeError, match="did you mean 'output_dir'"):
            StoreGate("zarr", {"output_dirr": tmp_path})
        with pytest.raises(ValueError, match="mode"):
            StoreGate("zarr", {"mode": "rw"})
        with pytest.raises(ValueError, match="chunk"):
            StoreGate("zarr", {"chunk": 0})
        with pytest.raises(ValueError, match="zarr v3"):
            StoreGate("zarr", {"compressor": "rar"})
        with pytest.raises(ValueError, match="number of bytes"):
            StoreGate("zarr", {"budget": "much"})

    def test_gates_travel(self, gate):
        x, _ = filled(gate)
        gate.shuffle("train", 3)
        for other in (pickle.loads(pickle.dumps(gate)), copy.deepcopy(gate)):
            np.testing.assert_array_equal(other.get_data("x"), gate.get_data("x"))
            assert other.get_metadata() == gate.get_metadata()
        other = copy.deepcopy(gate)
        other.delete_data("x")
        assert ("x" in gate["train"]) == (gate.backend == "numpy")

    def test_view_to_list_is_kept(self):
        data = np.arange(6).reshape(3, 2)
        for names in (["a", "b"], ("a", "b")):
            for given in (data, data.tolist()):
                found, columns = StoreGate._view_to_list(names, given)
                assert found == names
                assert type(found) is type(names)
                assert [column.tolist() for column in columns] == [[0, 2, 4], [1, 3, 5]]
        names, (column,) = StoreGate._view_to_list("a", data)
        assert names == ["a"]
        assert column is data
        for bad_names, bad_data in (
            (["a"], data),
            (["a", "b"], [1, 2]),
            ({"a", "b"}, data),
            (["a", 1], data),
            (3, data),
        ):
            with pytest.raises(ValueError, match="names"):
                StoreGate._view_to_list(bad_names, bad_data)

    def test_errors_are_public(self):
        assert issubclass(errors.PhaseNotFoundError, ValueError)


def test_copy_false_keeps_the_array():
    x = np.arange(5)
    gate = StoreGate("numpy", {"copy": False}, data_id="a")
    gate.add_data("x", x)
    x[0] = 9
    assert gate.get_data("x", index=0) == 9
    gate = StoreGate("numpy", data_id="a")
    gate.add_data("x", x)
    x[0] = 1
    assert gate.get_data("x", index=0) == 9


@pytest.mark.parametrize("seed", [1.9, 1.0, "7", True, np.True_, None, [3], -1, 2**32])
def test_a_seed_that_is_no_integer_of_32_bits_is_refused(gate, seed):
    gate.add_data("x", [1, 2, 3])
    with pytest.raises((TypeError, ValueError), match="seed"):
        gate.shuffle("train", seed=seed)
    assert gate.get_data("x").tolist() == [1, 2, 3]


@pytest.mark.parametrize("seed", [0, np.int64(7), np.uint8(200), 2**32 - 1])
def test_integers_of_any_type_are_seeds(gate, seed):
    gate.add_data("x", np.arange(20))
    gate.shuffle("train", seed=seed)
    np.testing.assert_array_equal(gate.get_data("x"), np.random.RandomState(seed).permutation(20))
