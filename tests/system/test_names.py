"""Which names are safe to store."""

from __future__ import annotations

import unicodedata

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from storegate_engine.errors import InvalidNameError
from storegate_engine.names import MAX_NAME_NBYTES, validate_name

SIGNS = "_-+.:()[] @%"


@pytest.mark.parametrize(
    "name",
    [
        "x",
        "0",
        "jet_pt [GeV]",
        "a-b+c.d:e(f)g h@i%",
        "active",
        "Größe",
        "東京",
        "масса",
        "كتلة",
        "क्षेत्र",  # marks that NFC keeps
        "नि१२",
        "x.zarr.json",
        "zarr",
        "-",
        " ",
        "x ",
        "x.",
        "a" * 255,
        "é" * 127,
    ],
)
def test_good_names_come_back(name: str) -> None:
    assert validate_name(name) == name
    assert type(validate_name(np.str_(name))) is str


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("", "it is empty"),
        (".", "starts with a dot"),
        ("..", "starts with a dot"),
        (".hidden", "starts with a dot"),
        ("a/b", r"'/' \(U\+002F SOLIDUS\) at position 1"),
        ("../x", r"'/' \(U\+002F SOLIDUS\) at position 2"),
        ("a\\b", r"\(U\+005C REVERSE SOLIDUS\) at position 1"),
        ("ab\x00", r"\(U\+0000 unnamed\) at position 2"),
        ("a\nb", r"\(U\+000A unnamed\) at position 1"),
        ("a\tb", "at position 1"),
        ("a\x7f", "at position 1"),
        ("a\u00a0b", r"\(U\+00A0 NO-BREAK SPACE\) at position 1"),
        ("a\u200bb", "U\\+200B"),
        ("a\u202eb", "U\\+202E"),
        ("a\u2215b", r"U\+2215 DIVISION SLASH"),
        ("a\uff0fb", "U\\+FF0F"),
        ("a\ud800", "U\\+D800"),
        ("a*", "at position 1"),
        ("a?", "at position 1"),
        ("a|b", "at position 1"),
        ("a'b", "at position 1"),
        ("x²", "at position 1"),
        ("😀", "at position 0"),
        ("\u0301a", "at position 0 is a mark that does not follow a letter"),
        ("1\u0301", "at position 1 is a mark that does not follow a letter"),
        ("e\u0301", r"composed form \(NFC\) from position 0"),
        ("abe\u0301", r"composed form \(NFC\) from position 2"),
        ("\u212b", r"composed form \(NFC\)"),
        ("a" * 256, "256 bytes"),
        ("é" * 128, "256 bytes"),
        ("zarr.json", "metadata"),
        ("Zarr.JSON", "metadata"),
        ("storegate.json", "metadata"),
    ],
)
def test_bad_names_say_why(name: str, why: str) -> None:
    with pytest.raises(InvalidNameError, match=why) as info:
        validate_name(name, "data_id")
    assert "cannot name a data_id" in str(info.value)
    assert isinstance(info.value, ValueError)
    assert len(str(info.value)) < 400


@pytest.mark.parametrize("name", [None, 3, b"x", ["x"], ("x",), np.array("x")])
def test_other_types_are_no_names(name: object) -> None:
    with pytest.raises(InvalidNameError, match=f"not {type(name).__name__}"):
        validate_name(name)


@given(st.text())
def test_any_text_is_valid_as_the_rules_say(text: str) -> None:
    def follows_letter(position: int) -> bool:
        while position >= 0 and unicodedata.category(text[position])[0] == "M":
            position -= 1
        return position >= 0 and unicodedata.category(text[position])[0] == "L"

    expected = (
        0 < len(text.encode("utf-8", "surrogatepass")) <= MAX_NAME_NBYTES
        and text[0] != "."
        and unicodedata.is_normalized("NFC", text)
        and text.lower() not in ("zarr.json", "storegate.json")
        and all(
            char in SIGNS
            or char.isalpha()
            or char.isdecimal()
            or (unicodedata.category(char)[0] == "M" and follows_letter(position))
            for position, char in enumerate(text)
        )
    )
    try:
        assert validate_name(text) == text
    except InvalidNameError:
        assert not expected
    else:
        assert expected


@given(st.text(st.characters(categories=["L", "Nd"], include_characters=SIGNS), min_size=1, max_size=40))
def test_allowed_characters_make_names(text: str) -> None:
    name = unicodedata.normalize("NFC", text).lstrip(".")[:40] or "x"
    if unicodedata.is_normalized("NFC", name) and len(name.encode()) <= MAX_NAME_NBYTES:
        assert validate_name(name) == name
