"""What a release is made of says the same as the package."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

import storegate

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
CONDA_NAMES = {"dask[array]": "dask-core"}


@pytest.fixture(scope="module")
def recipe():
    text = (ROOT / "recipe" / "recipe.yaml").read_text("utf-8")
    python_min = re.search(r'python_min: "(.+)"', text)[1]
    return yaml.safe_load(text.replace("${{ python_min }}", python_min))


def in_words_of_conda(requirements):
    pairs = (re.fullmatch(r"([^<>=~!]+)(.*)", requirement).groups() for requirement in requirements)
    return {f"{CONDA_NAMES.get(name, name)} {version}" for name, version in pairs}


def test_the_recipe_requires_what_the_package_requires(recipe):
    python = f"python {PROJECT['project']['requires-python']}"
    assert set(recipe["requirements"]["run"]) == {python, *in_words_of_conda(PROJECT["project"]["dependencies"])}
    assert in_words_of_conda(PROJECT["build-system"]["requires"]) <= set(recipe["requirements"]["host"])


def test_the_recipe_describes_the_package(recipe):
    project = PROJECT["project"]
    about = recipe["about"]
    assert (about["summary"], about["license"]) == (project["description"], project["license"])
    assert [about["license_file"]] == project["license-files"]
    scripts = [f"{name} = {target}" for name, target in project["scripts"].items()]
    assert recipe["build"]["python"]["entry_points"] == scripts


def test_classifiers_name_the_interpreters_from_the_lowest_one():
    prefix = "Programming Language :: Python :: 3."
    minors = [int(line.removeprefix(prefix)) for line in PROJECT["project"]["classifiers"] if line.startswith(prefix)]
    assert PROJECT["project"]["requires-python"] == f">=3.{minors[0]}"
    assert minors == list(range(minors[0], minors[-1] + 1))


def test_the_version_is_that_of_the_installed_package():
    assert re.match(r"\d+(\.\d+)*|0\+unknown$", storegate.__version__)


def test_the_version_is_known_to_who_asks_and_costs_nobody_else():
    program = "import sys, storegate; print('importlib.metadata' in sys.modules, bool(storegate.__version__))"
    run = subprocess.run([sys.executable, "-S", "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["False", "True"]
