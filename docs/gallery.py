"""What the models of the zoo do: the page docs/gallery.md, made by each build, and the picture of the front page.

`python docs/gallery.py` draws docs/assets/zoo.png again, which `make zoo` does; the picture names the models that it
shows by their digests, so that a test finds a stale one.
"""

from __future__ import annotations

import hashlib
import re
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from einops import rearrange
from PIL import Image

import perceiver_kit as kit
from perceiver_kit.data import cloze, tags, warps
from perceiver_kit.data.tasks import open_task
from perceiver_kit.data.video import sample_clip
from perceiver_kit.hub.zoo import card, figure_text, place
from perceiver_kit.plots.style import COLOURS, INK, MUTED, bare, figure, pixels, title
from perceiver_kit.processors.base import png

FRONT = Path(__file__).parent / "assets" / "zoo.png"
MASKED = "If God be f[MASK]r us, who can be ag[MASK]inst us?"
PROMPT = "And the king said unto "
GROUPS = {
    "Pictures, video and sound": ("digits", "digit_objects", "digit_masks", "hidden_digits", "flow", "clip",
                                  "hidden_clip", "film_speed"),
    "Text": ("bible_masks", "bible_next", "bible_answers", "turkish_tags"),
    "Points, sets and series": ("shapes", "molecules", "co2", "sea"),
}  # fmt: skip


def held_out(name: str, index: int = 0) -> Any:
    """A held-out item of a model's data."""
    content, model_ = card(f"zoo:{name}"), cast(Any, kit.load(f"zoo:{name}"))
    note = model_.recipe
    task = open_task(content["data"], recipe=note["name"], parameters=note["parameters"], **content["options"])
    return task.held_out if index < 0 else task.held_out[index]


def picture(name: str, index: int) -> Any:
    """A held-out picture, in [0, 1]."""
    return (held_out(name, index)["inputs"]["image"] + 1) / 2


def pair() -> tuple[Any, Any]:
    """The two pictures of Middlebury's pair, uint8 arrays."""
    frames = warps.middlebury(scale=0.125)["inputs"]["frames"]
    first, second = (pixels(frame, True) for frame in frames)
    return first, second


def readings(name: str) -> Any:
    """A held-out recording up to a year before its end."""
    parts = held_out(name, -1)
    one, horizon = parts.recordings[0], parts.horizon
    return replace(one, times=one.times[:-horizon], values=one.values[:-horizon])


def question() -> tuple[str, str]:
    """A held-out question and its context."""
    one = cloze.cloze_questions()[1][3]
    return one.question, one.context


# By model: its source, as code of a user, and what makes it here.
SOURCES: dict[str, tuple[str, Callable[[], Any]]] = {
    "digits": ('"digit.png"', lambda: picture("digits", 7)),
    "digit_objects": ('"digits.png"', lambda: picture("digit_objects", 2)),
    "digit_masks": ('"digits.png"', lambda: picture("digit_masks", 2)),
    "hidden_digits": ('"digit.png"', lambda: picture("hidden_digits", 3)),
    "hidden_clip": ('{"image": frames, "audio": sound}', lambda: dict(held_out("hidden_clip", 3)["inputs"])),
    "flow": ('("left.png", "right.png")', pair),
    "clip": ('"film.mp4"', sample_clip),
    "film_speed": ('"film.mp4"', sample_clip),
    "bible_masks": (f'"{MASKED}"', lambda: MASKED),
    "bible_answers": ("(question, context)", question),
    "turkish_tags": ('"…"', lambda: tags.treebank_texts()[1][11].text),
    "shapes": ('"points.ply"', lambda: held_out("shapes", 5)["inputs"]["points"]),
    "molecules": ('"atoms.csv"', lambda: held_out("molecules", -1).sets[7]),
    "co2": ('"co2.csv"', lambda: readings("co2")),
    "sea": ('"sea.csv"', lambda: readings("sea")),
}

# Of models whose source above was trained on.
NOTES = dict.fromkeys(("clip", "film_speed"), "The film is the one of which training read most.")
# Data of the results whose models are not shipped, and why.
LEFT_OUT = {
    "reviews of IMDb users (`reviews`, `text_tasks`)": "no licence is named for the texts",
    "chorales of Bach (`chorales`)": "some editions in the corpus restrict commercial use",
    "recordings of instruments (`instruments`)": "GPL-2: whether weights are a derived work is unsettled",
    "telephone prompts (`prompts`)": "CC BY-SA 3.0: whether weights must keep that licence is unsettled",
    "a man in a car (`playback`)": "the origin of the clip is not stated",
}


def pages() -> Iterator[tuple[str, str | bytes]]:
    """The page of the gallery and its pictures."""
    there = kit.list("zoo")
    lines = ["# Gallery", "", INTRODUCTION, ""]
    lines += ["| model | task | held out (baseline) | size |", "|---|---|---|---|"]
    for name in (name for group in GROUPS.values() for name in group if name in there):
        content, size = card(f"zoo:{name}"), (place(f"zoo:{name}") / "model.safetensors").stat().st_size
        first = figure_text(content["figures"][0]).partition(": ")[2]
        lines.append(f"| [`{name}`](#{name}) | {content['title']} | {first} | {size / 1e6:.1f} MB |")
    for heading, names in GROUPS.items():
        lines += ["", f"## {heading}"]
        for name in (name for name in names if name in there):
            section, files = model(name)
            lines += ["", *section]
            yield from files
    lines += ["", "## Not shipped", "", "Models of these data are trained by `make results` only:", ""]
    lines += [f"- {data}: {why}." for data, why in LEFT_OUT.items()]
    yield "gallery.md", "\n".join(lines) + "\n"


INTRODUCTION = """\
The package holds small trained models: `kit.list("zoo")` names them, `kit.load("zoo:NAME")` opens one, and the command
line takes `zoo:NAME` wherever it takes a model. Each learned in minutes on one processor core from little data, so each
does its own task and no other. `make zoo` trains them again. The pictures below are answers of `kit.predict` to sources
that were not trained on, unless the text says otherwise."""


def model(name: str) -> tuple[list[str], list[tuple[str, str | bytes]]]:
    """The section of a model, and its pictures."""
    content, files = card(f"zoo:{name}"), []
    lines = [f"### {content['title']} {{ #{name} }}", ""]
    if name == "bible_next":
        text = kit.generate(kit.load("zoo:bible_next"), PROMPT, length=300, temperature=0.7, seed=0)
        lines += ["```python", f'kit.generate(kit.load("zoo:{name}"), "{PROMPT}", length=300, temperature=0.7, seed=0)']
        lines += ["```", "", f"> **{PROMPT}**{' '.join(str(text).removeprefix(PROMPT).split())}"]
    else:
        code, source = SOURCES[name]
        answer = kit.predict(kit.load(f"zoo:{name}"), source())
        lines += ["```python", f'answer = kit.predict(kit.load("zoo:{name}"), {code})', "```", ""]
        shown = hidden_frames(answer) if name == "hidden_clip" else answer.figure()
        if shown is None:
            lines += ['<div class="output" markdown="0">', answer._repr_html_(), "</div>"]
        else:
            files.append((f"gallery/{name}.png", png(shown)))
            lines += [f"![Answer of the model {name}](gallery/{name}.png){{ .output }}"]
            lines += ["", f"`{answer.text()}`"]
    lines += ["", NOTES[name]] if name in NOTES else []
    lines += ["", f"- Reads: {content['reads']} Try: `{content['example']}`"]
    lines += [*(f"- Held out: {figure_text(one)}" for one in content["figures"])]
    lines += [
        f"- Recipe [`{content['recipe']}`](recipes/{content['recipe']}.md), preset `{content['preset']}`, "
        f"{content['parameters']:,} parameters, {content['steps']} steps of {content['batch']}.",
        f"- Data: {content['source']}. {content['licence']}",
        f"- Limits: {content['limits']}",
        f"- Made by `{content['command']}`.",
    ]
    return lines, files


def hidden_frames(answer: Any) -> Any:
    """Frames, the part of them that was read, and what the model makes of it."""
    source, decoded = (frames["image"] for frames in (answer.source, answer.best))
    read = torch.where(rearrange(answer.mask["image"], "t h w -> t 1 h w"), source, 0.0)
    return kit.plots.reconstructions({"source": source, "read": read, "decoded": decoded})


# ---- the picture of the front page


def digest(name: str) -> str:
    """The start of the digest of a model's weights."""
    return hashlib.sha256((place(f"zoo:{name}") / "model.safetensors").read_bytes()).hexdigest()[:16]


def shown() -> dict[str, str]:
    """The models of the front picture that the zoo has, with their digests."""
    return {name: digest(name) for name in ("clip", "flow", "bible_masks", "bible_next") if name in kit.list("zoo")}


def front() -> None:
    """A clip beside its reconstruction, flow of a real pair, a text with masks filled, a generated line."""
    models = shown()
    texts = models.keys() & {"bible_masks", "bible_next"}
    drawers = [draw for name, draw in (("clip", draw_clip), ("flow", draw_flow)) if name in models]
    page = figure(4.1 * len(drawers), 4.6 if texts else 3.0)
    upper, *lower = page.subfigures(2, 1, height_ratios=(2.6, 1.5)) if texts else [page.subfigures()]
    for part, draw in zip(upper.subfigures(1, len(drawers), squeeze=False)[0], drawers, strict=True):
        draw(part)
    for part in lower:
        draw_texts(part, models)
    metadata = {"Models": " ".join(f"{name}:{value}" for name, value in models.items())}
    page.savefig(FRONT, dpi=150, metadata=metadata)
    image = Image.open(FRONT)
    print(f"{FRONT}: {image.size}, {FRONT.stat().st_size:,} bytes, {metadata['Models']}")


def draw_clip(part: Any) -> None:
    """Held-out frames and sound, beside what the model decodes."""
    model_, parts = kit.load("zoo:clip"), held_out("clip", -1)
    windows = [parts[i]["inputs"] for i in (2, 7, 12, 17)]
    raw = {name: torch.stack([window[name] for window in windows]) for name in ("image", "audio")}
    with torch.no_grad():
        out = model_(raw)
    grid = part.subplots(3, 4, height_ratios=(1, 1, 0.5))
    for i in range(4):
        for axes, images in zip(grid[:, i], (raw["image"], out["image"]), strict=False):
            axes.imshow(pixels(images[i, 0], True), interpolation="nearest")
            bare(axes)
        source, decoded = raw["audio"][i, :200], out["audio"][i, :200]  # 25 ms
        loudest = source.abs().max()
        grid[2, i].plot(source / loudest, color=MUTED, linewidth=1.6)
        grid[2, i].plot(decoded / loudest, color=COLOURS[1], linewidth=0.7)
        grid[2, i].set_ylim(-1.3, 1.3)
        bare(grid[2, i])
    for axes, name in zip(grid[:, 0], ("held out", "decoded", "sound"), strict=True):
        axes.set_ylabel(name, fontsize=8, color=INK)
    part.suptitle("Video with sound, through 84 latents and out again", fontsize=9, color=INK)


def draw_flow(part: Any) -> None:
    """A real pair, the model's flow and the measured one."""
    item = warps.middlebury(scale=0.125)
    answer = kit.predict(kit.load("zoo:flow"), pair())
    truth, valid = item["targets"]["flow"], item["targets"]["valid"]
    largest = float(truth.norm(dim=0).max())
    colours = {
        "the flow that the model finds": kit.plots.flow_to_rgb(answer.best, largest=largest),
        "the measured flow": torch.where(valid, kit.plots.flow_to_rgb(truth, largest=largest), 1.0),
    }
    frames = dict(zip(("first frame", "second frame"), item["inputs"]["frames"], strict=True))
    for axes, (name, image) in zip(part.subplots(2, 2).flat, (frames | colours).items(), strict=True):
        axes.imshow(pixels(image, name in frames), interpolation="nearest")
        bare(axes)
        title(axes, name)
    part.suptitle("Motion between two photos, never trained on", fontsize=9, color=INK)


def draw_texts(part: Any, models: dict[str, str]) -> None:
    """A text before and after its masks are filled, and a generated line."""
    axes = part.subplots()
    axes.set_axis_off()
    axes.set(xlim=(0, 1), ylim=(0, 1))
    height = 0.95

    def say(text: str, colour: str = INK, **options: Any) -> None:
        nonlocal height
        for line in textwrap.wrap(text, 104 if "flow" in models else 57):  # beside the clip the picture is wider
            axes.text(0.01, height, line, fontsize=8.5, color=colour, family="DejaVu Sans Mono", va="top", **options)
            height -= 0.145

    if "bible_masks" in models:
        answer = kit.predict(kit.load("zoo:bible_masks"), MASKED)
        say(re.sub(r"\[MASK\]", "▢", MASKED), MUTED)
        say("".join(text for text, _ in answer.parts))
        height -= 0.06
    if "bible_next" in models:
        text = kit.generate(kit.load("zoo:bible_next"), PROMPT, length=230, temperature=0.7, seed=0)
        say(f"{PROMPT}…", MUTED)
        say(" ".join(str(text).split()))


if __name__ == "__main__":
    front()
