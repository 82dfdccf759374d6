"""How Sphinx builds the site: ``sphinx-build -W docs docs/_build`` with ``storegate[docs]``."""

from __future__ import annotations

import os

from storegate import __version__

os.environ["DASK_STOREGATE__PROGRESS"] = "false"  # notebooks run in the build: bars would show how fast it was

project = "StoreGate"
author = "StoreGate developers"
copyright = author
release = version = __version__

extensions = [
    "myst_nb",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.intersphinx",
]
exclude_patterns = ["_build"]
html_theme = "pydata_sphinx_theme"
html_title = "StoreGate"
html_theme_options = {
    "show_toc_level": 2,
    "navigation_with_keys": False,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
}

# Notebooks run in the build; one that fails, fails it.
nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_timeout = 120
nb_execution_in_temp = True
nb_merge_streams = True
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3

autosummary_generate = True
autodoc_typehints = "none"  # docstrings say them in words
autodoc_member_order = "groupwise"
autodoc_mock_imports = [
    "jax",
    "keras",
    "lightning",
    "sklearn",
    "torch",
]  # which adapters import, and the build does not need
numpydoc_show_class_members = False
numpydoc_class_members_toctree = False
intersphinx_mapping: dict[str, tuple[str, None]] = {}  # the build asks no other site
