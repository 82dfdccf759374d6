"""Texts that stand in what is stored: one codec of dtypes, one check of identifiers, and both as they always were."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from storegate_engine import testing
from storegate_engine.dtypes import TEXT, dtype_from_text, dtype_to_text
from storegate_engine.encodings import encoding_of
from storegate_engine.errors import CorruptStoreError
from storegate_engine.identifiers import HEX_ID, hex_id_of, is_hex

AS_STORED = {
    "manifest": {
        "b1": "?",
        "i2": "<i2",
        "f4": ">f4",
        "c16": "c16",
        "U7": "<U7",
        "S3": "S3",
        "M8[ns]": "M8[ns]",
        "T": TEXT,
    },
    "cast": {
        "|b1": "?",
        "<i2": "<i2",
        ">f4": ">f4",
        "<U0": "U",
        "|S3": "S3",
        "<M8": "M8",
        "<m8[s]": "m8[s]",
        "string": TEXT,
    },
    "zarr": {"bool": "?", "int16": "<i2", "float32": "f4", "complex128": "c16", "string": TEXT},
}


@pytest.mark.parametrize(("form", "text"), [(form, text) for form, texts in AS_STORED.items() for text in texts])
def test_dtypes_have_the_texts_that_stores_have(form, text):
    dtype = np.dtype(AS_STORED[form][text])
    assert dtype_to_text(dtype, form) == text
    back = dtype_from_text(text, form)
    assert back == (dtype if form == "cast" or dtype.kind == "T" else dtype.newbyteorder("="))


@given(testing.dtypes())
def test_dtypes_come_back_from_their_texts(dtype):
    assert dtype_from_text(dtype_to_text(dtype)) == dtype
    assert dtype_from_text(dtype_to_text(dtype, "cast"), "cast") == dtype
    stored = encoding_of(dtype).stored
    assert dtype_from_text(dtype_to_text(stored, "zarr"), "zarr") == stored


@pytest.mark.parametrize("form", AS_STORED)
@given(
    st.one_of(
        st.text(max_size=8), st.none(), st.integers(), st.from_regex(r"[<>|=]?[a-zA-Z?][0-9]{0,3}", fullmatch=True)
    )
)
def test_no_text_is_read_that_is_not_written(form, text):
    try:
        dtype = dtype_from_text(text, form)
    except CorruptStoreError:
        return
    assert dtype_to_text(dtype, form) == text


@given(st.one_of(st.text("0123456789abcdefABCDEFg\n", min_size=31, max_size=33), st.binary(max_size=32), st.none()))
def test_an_identifier_is_32_small_hexadecimal_digits(text):
    expected = isinstance(text, str) and len(text) == 32 and set(text) <= set("0123456789abcdef")
    assert is_hex(text) == expected
    assert not isinstance(text, str) or expected == (re.fullmatch(HEX_ID, text) is not None)


@given(st.binary(max_size=100))
def test_content_has_an_identifier(content):
    assert is_hex(hex_id_of(content))
    assert hex_id_of(content) == hex_id_of(bytes(bytearray(content)))
