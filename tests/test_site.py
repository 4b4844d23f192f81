"""The site builds strictly, has no broken links, loads nothing from the network and documents every public name."""

from __future__ import annotations

import base64
import importlib
import importlib.util
import inspect
import json
import os
import re
import subprocess
import sys
import types
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

import perceiver_kit as kit
from perceiver_kit.diagrams import shapes

from .test_pages import GOALS

ROOT = Path(__file__).parent.parent
MODULES = [
    "inputs",
    "positions",
    "encoders",
    "queries",
    "decoders",
    "outputs",
    "objectives",
    "training",
    "recipes",
    "data",
    "data.tasks",
    "data.images",
    "data.texts",
    "data.corpora",
    "data.video",
    "data.clips",
    "data.media",
    "data.warps",
    "data.folders",
    "data.sampling",
    "plots",
    "processors",
    "processors.recipes",
]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as by ``make docs``."""
    site = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(site)]
    env = os.environ | {"NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return site


def loaded(path: str) -> types.ModuleType:
    """A script of docs/ as a module."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def public(path: str) -> dict[str, object]:
    """Names in a module's ``__all__``, otherwise its own classes and functions without an underscore."""
    module = importlib.import_module(f"perceiver_kit.{path}")
    names = getattr(module, "__all__", None) or [
        name
        for name, value in vars(module).items()
        if not name.startswith("_")
        and (inspect.isclass(value) or inspect.isfunction(value))
        and value.__module__ == module.__name__
    ]
    return {name: getattr(module, name) for name in names}


NAMES = {f"perceiver_kit.{name}": getattr(kit, name) for name in kit.__all__}
NAMES |= {f"perceiver_kit.{path}.{name}": value for path in MODULES for name, value in public(path).items()}
NAMES = {name: value for name, value in NAMES.items() if not isinstance(value, types.ModuleType)}


def test_the_reference_has_every_public_name_and_no_broken_links(site: Path) -> None:
    links = loaded("docs/links.py")
    anchors = set()
    for path in site.rglob("*.html"):
        anchors |= links.Page(path.read_text(encoding="utf-8")).anchors
    documented = {id(value) for name, value in NAMES.items() if name in anchors}

    def home(value: object) -> str:
        return f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', '')}"

    # An object may have several names, such as kit.Inputs and kit.inputs.Inputs, or be documented under its module.
    missing = [name for name, v in NAMES.items() if id(v) not in documented and home(v) not in anchors]
    assert not missing, missing
    assert links.broken(site) == []


def test_each_page_names_the_version(site: Path) -> None:
    for page in site.rglob("*.html"):
        assert f"perceiver_kit {version('perceiver-kit')}" in page.read_text(encoding="utf-8"), page


def test_search_finds_each_task(site: Path) -> None:
    """On the page of tasks; search ignores case and marks."""
    index = json.loads((site / "search" / "search_index.json").read_text(encoding="utf-8"))
    page = [entry for entry in index["docs"] if entry["location"].startswith("tasks")]
    words = " ".join(f"{entry['title']} {re.sub('<[^>]+>', '', entry['text'])}" for entry in page)
    assert not [goal for goal in GOALS if goal not in words]


def test_broken_links_are_found(tmp_path: Path) -> None:
    links = loaded("docs/links.py")
    (tmp_path / "a.html").write_text(
        '<h1 id="here">A</h1><a href="b.html#there"></a><a href="#here"></a><a href="#gone"></a>'
        '<a href="https://example.org"></a><img src="https://example.org/a.png"><img src="none.png">'
    )
    (tmp_path / "b.html").write_text('<p id="there">B</p><a href="a.html#here"></a><a href="c.html"></a>')
    assert links.broken(tmp_path) == [
        "a.html: #gone has no such anchor",
        "a.html: https://example.org/a.png is loaded from the network",
        "a.html: none.png is not there",
        "b.html: c.html is not there",
    ]
    assert links.main([str(tmp_path)]) == 1


def test_every_recipe_has_a_page_with_its_picture_shapes_and_sources(site: Path) -> None:
    for name in kit.list():
        page = (site / "recipes" / f"{name}.html").read_text(encoding="utf-8")
        assert (site / "recipes" / f"{name}.svg").is_file()
        with torch.device("meta"):
            raw, whole = shapes(kit.build(name))
        assert all(shape in page for shape in (*raw.values(), *whole.values()))
        assert "deepmind" in page.lower() or "Perceiver IO" in page


def test_the_search_index_has_tutorials_recipes_and_pages(site: Path) -> None:
    index = (site / "search" / "search_index.js").read_text(encoding="utf-8")
    found = json.loads(index[index.index("{") : index.rindex("}") + 1])
    places = {entry["location"] for entry in found["docs"]}
    assert {"recipes/optical_flow.html", "concepts.html", "api/blocks.html"} <= places
    for notebook in (ROOT / "tutorials").glob("*.ipynb"):
        assert f"tutorials/{notebook.stem}.html" in places


def test_notebooks_become_pages_with_pictures(tmp_path: Path) -> None:
    hooks = loaded("docs/hooks.py")
    png = b"\x89PNG not really"
    cells = [
        {"cell_type": "markdown", "source": ["# Title\n", "\n", "See [the concepts](../docs/concepts.md#masks)."]},
        {
            "cell_type": "code",
            "source": "print('```')",
            "outputs": [
                {"output_type": "stream", "text": ["```\n"]},
                {
                    "output_type": "execute_result",
                    "data": {"image/png": base64.b64encode(png).decode(), "text/plain": "x"},
                },
                {"output_type": "execute_result", "data": {"text/html": ["<b>", "bold</b>"], "text/plain": "y"}},
                {"output_type": "execute_result", "data": {"text/plain": ["42"]}},
            ],
        },
        {"cell_type": "code", "source": "", "outputs": []},
    ]
    (tmp_path / "00_name.ipynb").write_text(json.dumps({"cells": cells}))
    files = dict(hooks.tutorial(tmp_path / "00_name.ipynb"))
    assert files["tutorials/00_name_0.png"] == png
    page = files["tutorials/00_name.md"]
    assert "[the concepts](../concepts.md#masks)" in page
    assert "```` { .python }\nprint('```')\n````" in page
    assert "```` { .text .output }\n```\n````" in page
    assert "<b>bold</b>" in page
    assert "``` { .text .output }\n42\n```" in page
    assert "`make lab`" in page
    assert "`00_name.ipynb`" in page
    order = ["# Title", "make lab", "See [the", "print", "00_name_0.png", "bold"]
    assert order == sorted(order, key=page.index)


def test_formulas_become_mathml(site: Path) -> None:
    hooks = loaded("docs/hooks.py")
    done = hooks.on_page_content(r'<p><span class="arithmatex">\(a_1 &lt; \sqrt{b}\)</span></p>', None, None, None)
    assert done.startswith("<p><math")
    assert "<msqrt>" in done
    assert "<mo>&#x0003C;</mo>" in done, "HTML escapes are not decoded"
    for page in site.rglob("*.html"):
        assert 'class="arithmatex"' not in page.read_text(encoding="utf-8"), page
