"""The page in a browser: everybody can read it, light and dark, on phones and screens; it asks no host for anything."""

from __future__ import annotations

import os
import re
import struct
import zlib
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from storegate import StoreGate
from storegate.report.pictures import pixels_of, png
from storegate_engine.errors import ArgumentError

HOSTILE = [
    "<script>document.title='ran'</script>",
    "\"' onmouseover=\"document.title='ran'\" x='",
    "</style></title></svg><img src=https://example.org/x onerror=\"document.title='ran'\">",
    "&lt;b&gt;&amp;",
    "\x1b[31mred\x07",
    "漢字" * 40,
    "long" * 60,
]


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """A report in which every text is hostile."""
    gate = StoreGate.open(tmp_path_factory.mktemp("a") / "<i>'\"&amp;.zarr", "漢字" * 20, mode="w")
    texts = (HOSTILE * 10)[:60]
    gate.add_data({"text": texts, "kind": pd.Categorical(texts)}, phase=(0.5, 0.3, 0.2))
    gate.add_data({"漢字" * 40: np.arange(60.0), "long" * 60: np.arange(60)}, phase=(0.5, 0.3, 0.2))
    return gate.report(check=True)


def opened(browser, path: Path, width: int = 900, *, dark: bool = False):
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False},
    )
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": [scheme]})
    browser.get(path.as_uri())
    return browser


@pytest.fixture(scope="module")
def pages(found, hostile, tmp_path_factory):
    paths = {}
    for name, report in (("full", found), ("hostile", hostile)):
        paths[name] = tmp_path_factory.mktemp("page") / "report.html"
        report.save(paths[name])
    return paths


def axe() -> str:
    """Return the program that looks for what some people cannot read."""
    path = Path(os.environ.get("STOREGATE_AXE", Path(__file__).parents[2] / "node_modules/axe-core/axe.min.js"))
    if not path.exists() and "STOREGATE_CI" not in os.environ:  # .ci/run must not skip these
        pytest.skip("axe-core is not installed; npm install --no-save axe-core")
    return path.read_text("utf-8")


AXE = """
const done = arguments[arguments.length - 1];
const said = one => one.id + ': ' + one.help + ' ' + one.nodes.map(node => node.html.slice(0, 200)).join(' | ');
axe.run().then(
  found => done([found.passes.length, found.violations.map(said)]), err => done([0, [String(err)]]));
"""


@pytest.mark.slow
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [400, 900])
@pytest.mark.parametrize("page", ["full", "hostile"])
def test_everybody_can_read_it(browser, pages, page, width, dark):
    program = axe()
    opened(browser, pages[page], width, dark=dark)
    browser.execute_script("document.querySelectorAll('details').forEach(one => one.open = true)")
    # rows of a table are alike, and each takes time
    browser.execute_script("document.querySelectorAll('tbody tr:nth-child(n + 4)').forEach(one => one.remove())")
    browser.set_script_timeout(120)
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})  # axe waits for promises
    try:
        browser.execute_script(program)
        n_passed, violations = browser.execute_async_script(AXE)
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    assert violations == []
    assert n_passed > 30


@pytest.mark.parametrize("page", ["full", "hostile"])
@pytest.mark.parametrize("width", [400, 900])
def test_nothing_runs_out_of_the_page(browser, pages, page, width):
    opened(browser, pages[page], width)
    browser.execute_script("document.querySelectorAll('details').forEach(one => one.open = true)")
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    outside = browser.execute_script(
        "return [...document.querySelectorAll('body *')].filter(one => one.checkVisibility() && "
        "!one.closest('table, .hidden, svg') && one.getBoundingClientRect().right > innerWidth + 1)"
        ".map(one => one.outerHTML.slice(0, 200))"
    )
    assert outside == []


def test_it_is_dark_where_people_like_it_dark(browser, pages):
    colours = []
    for dark in (False, True):
        opened(browser, pages["full"], dark=dark)
        colours.append(browser.execute_script("return getComputedStyle(document.body).backgroundColor"))
    assert colours == ["rgb(255, 255, 255)", "rgb(20, 24, 28)"]


@pytest.mark.parametrize("page", ["full", "hostile"])
def test_nothing_is_loaded_and_nothing_runs(browser, pages, page):
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
    try:
        opened(browser, pages[page])
        loaded = browser.execute_script("return performance.getEntriesByType('resource').map(one => one.name)")
        assert [name for name in loaded if not name.startswith("data:")] == []
        assert browser.title != "ran"
        assert browser.get_log("browser") == []
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})


def test_pictures_are_shown(browser, pages):
    opened(browser, pages["full"])
    sizes = browser.execute_script(
        "return [...document.images].map(one => [one.complete, one.naturalWidth, one.naturalHeight])"
    )
    assert sizes == [[True, 10, 12]] * 6


# ------------------------------------------------------------------------------------------ without a browser


class Tags(HTMLParser):
    """What a page consists of."""

    def __init__(self):
        super().__init__()
        self.open, self.found, self.attributes, self.ids = [], [], [], []

    def handle_starttag(self, tag, attrs):
        self.found.append(tag)
        self.attributes += attrs
        self.ids += [value for name, value in attrs if name == "id"]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.found.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.mark.parametrize("which", ["found", "hostile"])
def test_markup_is_closed_and_harmless(which, request):
    html = request.getfixturevalue(which).to_html()
    tags = Tags()
    tags.feed(html)
    tags.close()
    assert tags.open == []
    assert not {"script", "link", "iframe", "i", "b"} & set(tags.found)
    assert not [name for name, _ in tags.attributes if name.startswith("on")]
    sources = [value for name, value in tags.attributes if name in ("src", "href", "srcset")]
    assert all(value.startswith(("data:image/png;base64,", "#")) for value in sources)
    assert len(tags.ids) == len(set(tags.ids))
    assert "default-src 'none'" in html
    assert len(html) < 5 * 2**20
    assert not re.search("[\x00-\x08\x0b-\x1f]", html)


def test_every_figure_has_its_numbers(found):
    html = found.to_html()
    for of in found.facts.variables:
        if of.bars is not None:
            card = html[html.index(f"<h3>{of.name}</h3>") :].partition("</article>")[0]
            for counts in of.bars.counts.values():
                assert all(f">{count:,}</td>" in card for count in counts)


def test_notebooks_show_it_apart(hostile):
    html = hostile._repr_html_()
    tags = Tags()
    tags.feed(html)
    assert tags.found == ["iframe"]
    assert dict(tags.attributes)["srcdoc"] == hostile.to_html()
    assert dict(tags.attributes)["sandbox"] is None


def test_a_page_is_saved_whole_or_not_at_all(tmp_path, monkeypatch):
    gate = StoreGate(data_id="a")
    gate.add_data("x", [1.0, 2.0])
    report = gate.report()
    (tmp_path / "r.html").write_text("an earlier one")
    for place in (tmp_path, tmp_path / "none" / "r.html", "https://example.org/r.html"):
        with pytest.raises(ArgumentError):
            report.save(place)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", lambda *args: (_ for _ in ()).throw(OSError("full")))
        with pytest.raises(OSError, match="full"):
            report.save(tmp_path / "r.html")
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("r.html", "an earlier one")]
    report.save(tmp_path / "r.html")
    assert (tmp_path / "r.html").read_text("utf-8") == report.to_html()


@pytest.mark.parametrize("shape", [(9, 12), (9, 12, 3), (9, 12, 4)])
def test_png_is_read_back(shape):
    pixels = np.random.default_rng(0).integers(0, 256, shape).astype("u1")
    content = png(pixels)
    at, parts = 8, {}
    while at < len(content):
        size, kind = struct.unpack(">I4s", content[at : at + 8])
        body = content[at + 8 : at + 8 + size]
        assert struct.unpack(">I", content[at + 8 + size : at + 12 + size])[0] == zlib.crc32(kind + body)
        parts[kind] = body
        at += 12 + size
    lines = np.frombuffer(zlib.decompress(parts[b"IDAT"]), "u1").reshape(shape[0], -1)
    assert not lines[:, 0].any()
    np.testing.assert_array_equal(lines[:, 1:].reshape(shape), pixels)


def test_pixels_of_images():
    grey = np.array([[[-1.0, 0.0], [1.0, np.nan]]])
    np.testing.assert_array_equal(pixels_of(grey), [[[0, 128], [255, 0]]])
    first = np.arange(2 * 3 * 8 * 9, dtype="u1").reshape(2, 3, 8, 9)
    np.testing.assert_array_equal(pixels_of(first), np.moveaxis(first, 1, -1))
    assert pixels_of(np.zeros((1, 500, 300, 1))).shape == (1, 84, 75)
    assert pixels_of(np.full((1, 8, 8), np.nan)).max() == 0
