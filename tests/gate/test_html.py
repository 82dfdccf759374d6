"""Gates, views and versions in notebooks, looked at in a browser: legible, nothing runs out of the page, no scripts."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from storegate import StoreGate
from storegate.display.html import outline_html
from storegate.display.outline import Outline, PhaseLine, VariableLine

JUPYTER_LIGHT = """
:root { --jp-content-font-color0: rgba(0, 0, 0, 1); --jp-content-font-color2: rgba(0, 0, 0, 0.54);
  --jp-border-color2: #e0e0e0; --jp-layout-color0: white; --jp-layout-color1: white; --jp-layout-color2: #eee;
  --jp-content-font-family: system-ui, sans-serif; --jp-code-font-family: monospace; }
"""
JUPYTER_DARK = """
:root { --jp-content-font-color0: rgba(255, 255, 255, 1); --jp-content-font-color2: rgba(255, 255, 255, 0.7);
  --jp-border-color2: #424242; --jp-layout-color0: #111; --jp-layout-color1: #212121; --jp-layout-color2: #424242; }
body { background: #111; }
"""
PAGES = {
    "plain": ("<html>", ""),
    "the page's own dark": ("<html>", ":root { color-scheme: dark; }"),
    "a dark theme": ("<html data-theme='dark'>", "body { background: #111; }"),
    "jupyter": ("<html>", JUPYTER_LIGHT),
    "jupyter, dark": ("<html theme='dark'>", JUPYTER_DARK),
    "beside a Dataset": ("<html>", ""),
    "beside a Dataset, dark": ("<html theme='dark'>", "body { background: #111; }"),
    "beside a Dataset in jupyter": ("<html>", JUPYTER_LIGHT),
    "beside a Dataset in jupyter, dark": ("<html theme='dark'>", JUPYTER_DARK),
}
HOSTILE = [
    "<script>document.title='ran'</script>",
    "\"' onmouseover=\"document.title='ran'\" x='",
    "</style></pre></details><img src=x onerror=\"document.title='ran'\">",
    "&lt;b&gt;&amp;",
    "a\nb\tc",
    "\x1b[31mred\x07",
    "\u202eright to left\u2066",
    "漢字" * 40,
    "long" * 60,
]


@pytest.fixture(scope="module")
def gate(tmp_path_factory):
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("store") / "events.zarr"
    with StoreGate.open(path, "run1", mode="w") as gate:
        gate.add_data({"x": rng.normal(size=(10_000, 4)), "y": rng.integers(0, 3, 10_000)}, phase=(0.8, 0.1, 0.1))
        gate.shuffle("all", seed=7)
        gate.astype("x", "float32", phase="all")
        gate.onehot("y", num_classes=3, phase="all")
        colours = pd.Categorical(rng.choice(["red", "green", "blue", "a colour with a long name", "<b>"], 10_000))
        gate.add_data({"colour": colours, "text": ["word"] * 10_000}, phase=(0.8, 0.1, 0.1))
        gate.compile()
        yield gate


def many(tmp_path: Path) -> StoreGate:
    """Return a gate with long names and values that are markup, orders and transforms."""
    gate = StoreGate.open(tmp_path / "<i>'\"&amp;.zarr", "漢字" * 20, mode="w")
    gate.add_data("image", np.zeros((30, 3, 128, 128), np.uint8))
    gate.add_data("漢字" * 40, np.zeros(30))
    gate.add_data("long" * 60, np.zeros(30, "datetime64[ns]"))
    for seed in range(4):
        gate.shuffle("train", seed=seed)
    for dtype in ("int64", "float32", "int16"):
        gate.astype("image", dtype)
    gate.add_data({f"v{at}": pd.Categorical((HOSTILE * 4)[:30]) for at in range(40)})
    return gate


def hostile_outline() -> Outline:
    """Return an outline in which every text is hostile."""
    lines = tuple(
        VariableLine(text, text, text, text, ((text, "30", "100%", "240 B", text),), text) for text in HOSTILE
    )
    return Outline(tuple(HOSTILE), tuple(PhaseLine(text, "30", text) for text in HOSTILE), HOSTILE[0], lines, 3)


def opened(browser, tmp_path: Path, page: str, html: str, width: int = 900):
    start, style = PAGES[page]
    path = tmp_path / "page.html"
    path.write_text(f"<!doctype html>{start}<meta charset=utf-8><style>{style}</style><body>{html}", encoding="utf-8")
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False},
    )
    browser.get(path.as_uri())
    assert browser.execute_script("return innerWidth") == width
    return browser


def open_all(browser) -> None:
    browser.execute_script("document.querySelectorAll('details').forEach(one => one.open = true)")


CONTRASTS = """
const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
const known = new Map();
const parsed = text => {
  if (!known.has(text)) {
    canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = text; canvas.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
    known.set(text, [r, g, b, a / 255]);
  }
  return known.get(text);
};
const over = (top, below) => [0, 1, 2].map(at => top[at] * top[3] + below[at] * (1 - top[3])).concat(1);
const luminance = colour => {
  const [r, g, b] = colour.map(c => c / 255).map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const behind = element => {
  const layers = [];
  for (let at = element; at; at = at.parentElement) layers.push(parsed(getComputedStyle(at).backgroundColor));
  return layers.reverse().reduce((below, top) => over(top, below), [255, 255, 255, 1]);
};
const found = [];
document.querySelectorAll('.storegate, .storegate *').forEach(element => {
  const own = [...element.childNodes].some(node => node.nodeType === 3 && node.data.trim());
  if (!own || !element.checkVisibility()) return;
  for (const pseudo of [null, '::before']) {
    const below = behind(element);
    const text = over(parsed(getComputedStyle(element, pseudo).color), below);
    const [light, dark] = [luminance(text), luminance(below)].sort((a, b) => b - a);
    found.push([(light + 0.05) / (dark + 0.05), element.tagName + ' ' + element.className + ' ' + element.textContent]);
  }
});
return found;
"""


@pytest.mark.parametrize("page", PAGES)
def test_text_is_legible(browser, gate, tmp_path, page) -> None:
    beside = xr.Dataset({"a": 1})._repr_html_() if "Dataset" in page else ""
    opened(browser, tmp_path, page, gate._repr_html_() + gate.history()._repr_html_() + beside)
    open_all(browser)
    found = browser.execute_script(CONTRASTS)
    assert len(found) > 40
    assert min(found)[0] >= 4.5, min(found)
    is_dark = browser.execute_script(
        "const c = getComputedStyle(document.querySelector('.storegate')).color; return /255, 255, 255|1 1 1/.test(c)"
    )
    assert is_dark == ("dark" in page)


@pytest.mark.parametrize("width", [400, 900])
@pytest.mark.parametrize("are_open", [False, True], ids=["closed", "open"])
def test_nothing_runs_out_of_the_page(browser, gate, tmp_path, width, are_open) -> None:
    hostile = many(tmp_path)
    shown = [gate, gate["train"], gate["x"], gate["train"].subset([1, 2]), gate.history(), hostile, hostile["train"]]
    html = "".join(one._repr_html_() for one in shown) + outline_html(hostile_outline(), "")
    opened(browser, tmp_path, "jupyter", html, width)
    if are_open:
        open_all(browser)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    outside = browser.execute_script(
        "return [...document.querySelectorAll('.storegate *')].filter(one => one.checkVisibility() && "
        "!one.closest('table *') && one.getBoundingClientRect().right > innerWidth).map(one => one.outerHTML)"
    )
    assert outside == []


def test_sections_and_variables_open_and_close_without_scripts(browser, gate, tmp_path) -> None:
    opened(browser, tmp_path, "plain", gate._repr_html_() + "<script>document.title = 'ran'</script>")
    assert browser.title != "ran"
    sections = browser.find_elements("css selector", ".sg-section")
    assert [section.get_attribute("open") for section in sections] == ["true", "true"]
    variable = browser.find_element("css selector", ".sg-variable")
    table = variable.find_element("css selector", "table")
    assert not table.is_displayed()
    variable.find_element("css selector", "summary").click()
    assert table.is_displayed()
    assert "8,000" in table.text
    variable.find_element("css selector", "summary").click()
    assert not table.is_displayed()
    sections[1].find_element("css selector", "summary").click()
    assert not variable.is_displayed()


def test_hostile_texts_are_text(browser, tmp_path) -> None:
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})  # any that are there may run
    try:
        opened(browser, tmp_path, "plain", outline_html(hostile_outline(), HOSTILE[0]))
        open_all(browser)
        names = [one.text for one in browser.find_elements("css selector", "code.sg-name")]
        assert browser.title in ("", "page.html")
        assert browser.find_elements("css selector", "script, img, .storegate i") == []
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    expected = [text if text.isprintable() else text.encode("unicode_escape").decode() for text in HOSTILE]
    assert names == expected


def test_the_words_are_those_of_the_text(browser, gate, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    opened(browser, tmp_path, "plain", gate._repr_html_())
    text = browser.find_element("css selector", ".storegate").text
    for line in repr(gate).strip("<>").splitlines():
        for words in filter(None, (part.strip(" >") for part in line.replace("·", "   ").split("   "))):
            assert words in text
    plain = browser.find_element("css selector", "pre")
    assert plain.get_attribute("textContent") == repr(gate)
    assert not plain.is_displayed()


def test_the_plain_text_is_shown_where_styles_are_removed(browser, gate, tmp_path) -> None:
    html = gate._repr_html_()
    style = html[html.index("<style>") : html.index("</style>")]
    opened(browser, tmp_path, "plain", html.replace(style, "<style>"))
    assert browser.find_element("css selector", "pre").is_displayed()
    assert not browser.find_element("css selector", ".storegate").is_displayed()


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: set[str] = set()
        self.attributes: set[str] = set()
        self.open: list[str] = []

    def handle_starttag(self, tag, attrs) -> None:
        self.found.add(tag)
        self.attributes.update(name for name, _ in attrs)
        self.open.append(tag)

    def handle_endtag(self, tag) -> None:
        assert self.open.pop() == tag


def test_markup_holds_no_scripts_and_is_closed(tmp_path) -> None:
    gate = many(tmp_path)
    shown = [gate, gate["train"], gate["train"]["image"], gate.history()]
    for html in [*(one._repr_html_() for one in shown), outline_html(hostile_outline(), HOSTILE[2])]:
        tags = Tags()
        tags.feed(html)
        tags.close()
        assert tags.open == []
        assert not tags.found & {"script", "img", "i"}
        assert not any(attribute.startswith("on") for attribute in tags.attributes)


def test_a_gate_without_a_data_id() -> None:
    assert "no data_id" in StoreGate()._repr_html_()
    gate = StoreGate(data_id="a")
    assert "0 samples" in gate._repr_html_()
    gate.add_data({f"v{at}": [0] for at in range(100)})
    assert "... and 60 more variables" in gate._repr_html_()
