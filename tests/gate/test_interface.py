"""The documented interface: shapes, phases and shuffles; every method, option, default, return shape and error."""

from __future__ import annotations

import numpy as np
import pytest

from tests.gate.interface_cases import filled


class TestDocumentedExamples:
    def test_class_example_works_as_printed(self, gate):
        var_names = ["var0", "var1", "var2"]
        data = [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10, 11]]
        with pytest.warns(UserWarning, match="tuple of names"):
            gate.add_data(var_names=var_names, data=data, phase=(0.5, 0.25, 0.25))
        found = gate.get_data(var_names=var_names, phase="train")
        np.testing.assert_array_equal(found, [[0, 3], [1, 4], [2, 5]])
        assert gate["train"][var_names][0] == [0, 1, 2]

    def test_method_examples(self, gate):
        gate.add_data(var_names="var0", data=np.array([0, 1, 2]), phase="train")
        gate.update_data(var_names="var0", data=[1], phase="train", index=1)
        assert gate.get_data(var_names="var0", phase="train", index=1) == 1
        assert [int(row) for row in gate["train"]["var0"]] == [0, 1, 2]
        gate["train"]["var0"][:] = [5, 6, 7]
        gate["train"]["var0"][0:2] = [8, 9]
        np.testing.assert_array_equal(gate["train"]["var0"][:], [8, 9, 7])
        assert "var0" in gate["train"]
        assert "var1" not in gate["train"]
        assert len(gate["train"]) == 3
        del gate["train"]["var0"]
        assert "var0" not in gate["train"]


class TestShapes:
    """The table of return shapes, and the forms of var_names and index."""

    def test_documented_shapes(self, gate):
        x = np.arange(24.0).reshape(6, 4)
        gate.add_data(("a", "b"), np.stack([x, -x], axis=1))
        assert gate.get_data("a", index=2).shape == (4,)
        assert gate.get_data(("a", "b"), index=2).shape == (2, 4)
        assert gate.get_data("a").shape == (6, 4)
        assert gate.get_data(("a", "b")).shape == (6, 2, 4)
        assert [part.shape for part in gate.get_data(["a", "b"], index=(1, 3))] == [(2, 4), (2, 4)]

    def test_list_allows_different_shapes(self, gate):
        gate.add_data(["a", "b"], [np.zeros((3, 2)), np.ones(3)])
        assert gate.get_var_shapes(["a", "b"]) == [(2,), ()]
        assert gate.get_var_shapes("a") == (2,)
        assert gate.get_var_shapes("missing") is None

    def test_tuple_combines_dtypes_as_numpy(self, gate):
        gate.add_data(["a", "b"], [np.arange(3, dtype="i4"), np.arange(3, dtype="f4")])
        assert gate.get_data(("a", "b")).dtype == np.float64

    def test_one_row_of_scalars_is_a_numpy_scalar(self, gate):
        gate.add_data("y", [1, 2, 3])
        assert isinstance(gate.get_data("y", index=0), np.int64)
        assert isinstance(gate["train"]["y"][-1], np.int64)

    @pytest.mark.parametrize(
        "index", [slice(1, 5, 2), [3, 0, 3], np.array([5, -1]), np.arange(6) % 2 == 0, np.uint8([4]), []]
    )
    def test_rows_are_picked_as_numpy_does(self, gate, index):
        x = np.arange(12).reshape(6, 2)
        gate.add_data("x", x)
        expected = x[np.asarray(index, dtype=int)] if isinstance(index, list) else x[index]
        np.testing.assert_array_equal(gate.get_data("x", index=index), expected)
        np.testing.assert_array_equal(gate["train"]["x"][index], expected)
        np.testing.assert_array_equal(gate.get_data("x", index=index, compute=False).compute(), expected)

    def test_negative_index(self, gate):
        gate.add_data("x", np.arange(6))
        np.testing.assert_array_equal(gate.get_data("x", index=-1), np.arange(6))
        assert gate.get_data("x", index=-2) == 4
        assert gate["train"]["x"][-1] == 5

    @pytest.mark.parametrize(
        "index", [6, -7, (4, 2), (1.0, 2), (1, 2, 3), (True, 3), [0, 6], np.zeros(5, bool), [0.5], [[0]]]
    )
    def test_rows_that_are_not_there(self, gate, index):
        gate.add_data("x", np.arange(6))
        with pytest.raises(IndexError):
            gate.get_data("x", index=index)

    def test_index_arrays_stay_as_they_are(self, gate):
        gate.add_data("x", np.arange(6))
        index = np.array([-1, 2])
        gate.get_data("x", index=index)
        np.testing.assert_array_equal(index, [-1, 2])

    def test_results_are_writable_and_no_part_of_the_store(self, gate):
        x, _ = filled(gate)
        view = gate["train"]["x"]
        for found in (gate.get_data("x"), view[0], view[[1, 2]], next(iter(view))):
            found[...] = -1
        np.testing.assert_array_equal(gate.get_data("x"), x[:6])


class TestPhases:
    def test_all_concatenates_and_needs_compile(self, gate):
        x = np.arange(10)
        gate.add_data("x", x, phase=(0.5, 0.3, 0.2))
        for phase in ("all", None, "auto"):
            with pytest.raises(ValueError, match="compile"):
                gate.get_data("x", phase=phase)
        gate.compile()
        for phase in ("all", None, "auto"):
            np.testing.assert_array_equal(gate.get_data("x", phase=phase), x)
        assert gate.get_data("x", "all", 7) == 7
        np.testing.assert_array_equal(gate.get_data("x", "all", [9, 0, 5]), [9, 0, 5])
        np.testing.assert_array_equal(gate["all"]["x"][3:7], x[3:7])

    def test_add_to_all_splits_by_the_compiled_sizes(self, gate):
        filled(gate)
        gate.add_data("z", np.arange(10), phase="auto")
        np.testing.assert_array_equal(gate.get_data("z", "valid"), [6, 7])
        gate.compile()
        with pytest.raises(ValueError, match="9 rows"):
            gate.add_data("w", np.arange(9), phase="all")

    def test_update_of_all(self, gate):
        filled(gate)
        gate.update_data("y", np.arange(10) + 100, phase="all")
        np.testing.assert_array_equal(gate.get_data("y", "test"), [108, 109])
        gate.update_data("y", [1, 2, 3], phase="all", index=(5, 8))
        np.testing.assert_array_equal(gate.get_data("y", "all"), [100, 101, 102, 103, 104, 1, 2, 3, 108, 109])
        gate["all"]["y"][[9, 0]] = [7, 8]
        np.testing.assert_array_equal(gate.get_data("y", "all", [0, 9]), [8, 7])

    def test_update_with_a_split(self, gate):
        filled(gate)
        gate.update_data("y", np.arange(10) * 2, phase=(6, 2, 2))
        np.testing.assert_array_equal(gate.get_data("y", "valid"), [12, 14])

    @pytest.mark.parametrize(
        ("split", "sizes"),
        [
            ((0.29, 0.3, 0.41), (29, 30, 41)),
            ((0.8, 0.1, 0.1), (80, 10, 10)),
            ([50, 25, 25], (50, 25, 25)),
            ((np.int64(99), 1, 0), (99, 1, 0)),
            ((1 / 3, 1 / 3, 1 / 3), (33, 33, 34)),
        ],
    )
    def test_splits(self, gate, split, sizes):
        gate.add_data("x", np.arange(100), phase=split, do_compile=True)
        assert gate.get_metadata()["total_events"] == list(sizes)
        assert ("x" in gate["test"]) == bool(sizes[2])

    @pytest.mark.parametrize("split", [(50, 25, 24), (0.5, 0.2, 0.2), (-1, 51, 50), (0.5, 0.5), (1.5, -0.5, 0.0)])
    def test_splits_that_do_not_fit(self, gate, split):
        with pytest.raises(ValueError, match=r"sum|negative|three"):
            gate.add_data("x", np.arange(100), phase=split)
        assert gate.get_var_names("train") == []

    @pytest.mark.parametrize("phase", ["tran", None, 3, object(), ("a", "b", "c")])
    def test_unknown_phase_is_one_error(self, gate, phase):
        for kind in (ValueError, KeyError):
            with pytest.raises(kind, match="train"):
                gate.add_data("x", [1], phase=phase)

    def test_var_names_of_all(self, gate):
        filled(gate)
        gate.add_data("extra", np.arange(6))
        assert gate.get_var_names() == ["x", "y", "extra"]
        assert gate.get_var_names("all") == ["x", "y"]
        assert "extra" not in gate["all"]
        assert "x" in gate


class TestShuffle:
    @pytest.mark.parametrize("n", [1, 2, 7, 100, 65_537])
    @pytest.mark.parametrize(("dtype", "row_shape"), [("i8", ()), ("f4", (3,)), ("U4", ()), ("u1", (2, 2))])
    def test_same_rows_as_the_predecessor(self, gate, n, dtype, row_shape):
        x = np.arange(n * int(np.prod(row_shape))).reshape(n, *row_shape).astype(dtype)
        before, state = x.copy(), np.random.get_state()[1].copy()
        gate.add_data("x", x, shuffle=5)
        expected = x[np.random.RandomState(5).permutation(n)]
        np.testing.assert_array_equal(gate.get_data("x"), expected)
        gate.shuffle(seed=0)
        expected = expected[np.random.RandomState(0).permutation(n)]
        gate.shuffle("train", seed=2**32 - 1)
        expected = expected[np.random.RandomState(2**32 - 1).permutation(n)]
        np.testing.assert_array_equal(gate.get_data("x"), expected)
        np.testing.assert_array_equal(x, before)
        np.testing.assert_array_equal(np.random.get_state()[1], state)

    def test_rows_are_shuffled_before_they_are_split(self, gate):
        x = np.arange(100)
        gate.add_data("x", x, phase=(0.5, 0.25, 0.25), shuffle=True, do_compile=True)
        np.testing.assert_array_equal(gate.get_data("x", "all"), x[np.random.RandomState(1).permutation(100)])

    def test_seed_zero_is_a_seed_and_false_is_none(self, gate):
        gate.add_data(["a", "b"], [np.arange(20), np.arange(20)], shuffle=0)
        np.testing.assert_array_equal(gate.get_data("a"), np.random.RandomState(0).permutation(20))
        gate.add_data("c", np.arange(20), shuffle=False)
        np.testing.assert_array_equal(gate.get_data("c"), np.arange(20))

    def test_variables_stay_aligned_and_compiled(self, gate):
        gate.add_data(["a", "b"], [np.arange(30), np.arange(30) * 2], phase=(10, 10, 10), do_compile=True)
        gate.shuffle(seed=3)
        a, b = gate.get_data(["a", "b"], "all")
        np.testing.assert_array_equal(a * 2, b)
        np.testing.assert_array_equal(a[:10], np.random.RandomState(3).permutation(10))

    @pytest.mark.parametrize("seed", [-1, 2**32, 0.5, "1"])
    def test_seeds_that_are_none(self, gate, seed):
        with pytest.raises((ValueError, TypeError)):
            gate.add_data("x", [1, 2], shuffle=seed)
        assert gate.get_var_names() == []
