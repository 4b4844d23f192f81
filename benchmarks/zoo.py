"""`make zoo`: pack trained models of docs/results.json into the package, each with a card.

A model is seed 0 of a run of `benchmarks.rows`, which is trained where results/ lacks it. Its weights are stored as
float16. The card takes its figures from the rows of the run, and holds the metrics of the packed model on a share of
the held-out data, which a test measures again. `NAMES="clip flow"` picks some; packed models are kept, unless named.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch.utils.data import Subset

import perceiver_kit as kit
from perceiver_kit.data.sampling import generator
from perceiver_kit.data.task import Task
from perceiver_kit.data.tasks import open_task
from perceiver_kit.hub.files import write_atomically
from perceiver_kit.hub.zoo import CARD, card_text

from .results import saved
from .rows.videos import CLIP
from .training import ROOT, directory

ZOO = ROOT / "perceiver_kit" / "zoo"
SEED = 0
MAX_BYTES = 3_000_000

PUBLIC = "The data are in the public domain."
CREDITED = "CC BY 3.0 allows adaptations that credit the source, as this card does."
DIGITS = (
    "The package names no licence for the digits. They come from NIST's databases, works of the United States "
    "government, and are distributed freely; the weights hold no picture of them."
)
PHOTOS = "The photos are free to use: public domain, CC0 or no known restrictions."
APACHE = "Apache-2.0 allows derived works."
MADE = "The shapes are computed; there is no licence to keep."
SCANNED = "Centred white digits on black, 28 × 28. Photos of digits, other sizes and other signs are not in the data."
SCENES = "Up to five upright MNIST digits on a black square of 96 pixels. Nothing else is in the data."


@dataclass(frozen=True)
class Entry:
    """A model of the zoo.

    Args:
        title: what it is about.
        run: of ``benchmarks.rows``.
        data: the name of the data, as of ``kit.evaluate``.
        licence: why the licence of the data allows to ship the model.
        limits: what it is not good for.
        share: held-out samples that the test measures.
        options: of the data's loader.
    """

    title: str
    run: str
    data: str
    licence: str
    limits: str
    share: int = 100
    options: dict[str, Any] = field(default_factory=dict)


ENTRIES = {
    "bible_answers": Entry(
        "Names left out of the Bible",
        "bible_cloze_small",
        "bible_cloze",
        PUBLIC,
        "Questions are verses of the King James Bible with one name left out, after six verses of context. It answers "
        "no other questions.",
        share=16,
    ),
    "bible_masks": Entry(
        "Masked bytes of the Bible",
        "masked_bytes_small",
        "bible",
        PUBLIC,
        "English of 1611 in windows of 64 bytes. Modern words, and masks next to masks, are filled badly.",
        share=400,
    ),
    "bible_next": Entry(
        "Next bytes of the Bible",
        "next_bytes_small",
        "bible_next",
        PUBLIC,
        "It imitates the words of the King James Bible; sentences make no sense, and it knows nothing else.",
        share=24,
    ),
    "clip": Entry(
        "A clip of video and sound",
        "clip_quick",
        "clip",
        CREDITED,
        "Trained on five seconds of one film: windows of four frames of 32 × 32 pixels. It reconstructs this scene; "
        "other videos come out in its colours. The class is the quarter of the scene.",
        share=20,
        options=CLIP["quick"],
    ),
    "co2": Entry(
        "CO2 in the air, a year ahead",
        "forecasting_co2",
        "co2",
        PUBLIC,
        "Weekly readings with a yearly season and a steady rise. Other series need training.",
        share=64,
    ),
    "digit_masks": Entry("The class of each pixel", "digit_masks", "digits", DIGITS, SCENES, share=16),
    "digit_objects": Entry("Boxes of digits", "digit_objects", "digits", DIGITS, SCENES, share=16),
    "digits": Entry("Written digits", "mnist_image_classification_fourier_quick", "mnist", DIGITS, SCANNED, share=60),
    "film_speed": Entry(
        "The speed of a film's sound",
        "sound_speed",
        "sound_speed",
        CREDITED,
        "It tells three speeds of the sound of one film. It knows no words, instruments or other sounds.",
    ),
    "flow": Entry(
        "Motion between two pictures",
        "flow_quick",
        "flow",
        PHOTOS,
        "Smooth motion of up to about 8 pixels between frames of 48 × 64 pixels. Objects that move apart, "
        "occlusions and large motion are not in the data; larger pictures are read in tiles.",
        share=16,
    ),
    "hidden_digits": Entry("Hidden parts of digits", "masked_digits", "masked_digits", DIGITS, SCANNED),
    "hidden_clip": Entry(
        "Hidden parts of a film",
        "masked_clip",
        "masked_clip",
        CREDITED,
        "Trained on frames of one film: it completes hidden parts of this scene, not of other pictures.",
    ),
    "molecules": Entry(
        "Solubility of molecules",
        "molecules",
        "molecules",
        APACHE,
        "Classes of solubility of small organic molecules, from 1,025 of them, and which atoms are in rings. No basis "
        "for decisions in chemistry.",
    ),
    "sea": Entry(
        "Temperature of the sea, a year ahead",
        "forecasting_elnino",
        "elnino",
        PUBLIC,
        "Monthly temperatures of one part of the Pacific. Other series need training.",
        share=64,
    ),
    "shapes": Entry(
        "Shapes of point clouds",
        "points_shapes",
        "shapes",
        MADE,
        "Clean points of eight geometric bodies. Scans of real objects have noise and gaps that it has not seen.",
        share=60,
    ),
    "turkish_tags": Entry(
        "Parts of speech in Turkish",
        "turkish_tags_small",
        "treebank",
        APACHE,
        "Parts of speech of Turkish sentences from Wikipedia and the web. Other languages are not in the data.",
        share=60,
    ),
}


# By model: what it reads, and a command to try.
USES = {
    "bible_answers": (
        "A question and its context, a tuple: a verse with ____ for one name, and the verses before it.",
        "perceiver-kit predict zoo:bible_answers 'And the LORD said unto ____, Go in unto Pharaoh' "
        "'And Aaron stood by. And the LORD spake unto Moses in the wilderness.'",
    ),
    "bible_masks": (
        "A text with [MASK] for each byte to fill.",
        "perceiver-kit predict zoo:bible_masks 'If God be f[MASK]r us, who can be ag[MASK]inst us?'",
    ),
    "bible_next": (
        "The beginning of a text.",
        "perceiver-kit generate zoo:bible_next 'And the king said unto '",
    ),
    "clip": (
        "A video, of which the first four frames are read with their sound.",
        "perceiver-kit predict zoo:clip film.mp4 --out decoded",
    ),
    "co2": (
        "A CSV file with the columns time (dates) and co2 (parts per million), a row a week, of which the last 104 are "
        "read.",
        "perceiver-kit predict zoo:co2 co2.csv",
    ),
    "digit_masks": (
        "A picture, read at 96 × 96 pixels.",
        "perceiver-kit predict zoo:digit_masks digits.png --out masks",
    ),
    "digit_objects": (
        "A picture, read at 96 × 96 pixels.",
        "perceiver-kit predict zoo:digit_objects digits.png --out boxes",
    ),
    "digits": (
        "A picture, read in grey at 28 × 28 pixels.",
        "perceiver-kit predict zoo:digits digit.png",
    ),
    "film_speed": (
        "A sound, or a video with sound; windows of all of it are read.",
        "perceiver-kit predict zoo:film_speed film.mp4",
    ),
    "flow": (
        "Two pictures of one size.",
        "perceiver-kit predict zoo:flow left.png right.png --out flow",
    ),
    "hidden_digits": (
        "A picture, read in grey at 28 × 28 pixels, of which 85 % are hidden.",
        "perceiver-kit predict zoo:hidden_digits digit.png",
    ),
    "hidden_clip": (
        "Arrays: image (4, 3, 32, 32) with pixels in [-1, 1], audio (480, 16).",
        'kit.predict(kit.load("zoo:hidden_clip"), {"image": frames, "audio": sound})',
    ),
    "molecules": (
        "A CSV file with a row for each atom: nine columns of 0 and 1 for the element (C, O, N, Cl, S, F, Br, P, I), "
        "then its bonds, the sum of their orders, and the number of atoms of the molecule.",
        "perceiver-kit predict zoo:molecules atoms.csv",
    ),
    "sea": (
        "A CSV file with the columns time (in years) and temperature (°C), a row a month, of which the last 48 are "
        "read.",
        "perceiver-kit predict zoo:sea sea.csv",
    ),
    "shapes": (
        "A file of points with x, y and z: .npy, .csv, .ply, .obj or .off.",
        "perceiver-kit predict zoo:shapes points.ply",
    ),
    "turkish_tags": (
        "A text of any length.",
        "perceiver-kit predict zoo:turkish_tags 'Kedi bahçede uyuyor.'",
    ),
}


def share(model: Any, data: str, options: dict[str, Any], samples: int) -> Task:
    """The data of a model with so many of the held-out samples, chosen by the seed."""
    note = model.recipe
    task = open_task(data, recipe=note["name"], parameters=note["parameters"], seed=SEED, **options)
    count = len(task.held_out)  # type: ignore[arg-type]
    chosen = torch.randperm(count, generator=generator(SEED))[:samples].tolist()
    return replace(task, held_out=Subset(task.held_out, chosen))


def pack(name: str) -> None:
    """Train the model of an entry where that is missing, and write its directory."""
    entry = ENTRIES[name]
    if not saved(entry.run, SEED).exists():
        command = [sys.executable, "-m", "benchmarks.results", entry.run, "--seeds", str(SEED)]
        subprocess.run(command, check=True, cwd=ROOT)
    rows = json.loads(saved(entry.run, SEED).read_text())
    model: Any = kit.load(directory(entry.run, SEED))
    task = share(model, entry.data, entry.options, entry.share)
    model.processor = task.processor
    before = kit.evaluate(model, task, batch=8, progress=False)
    kit.save(model.half(), ZOO / name)
    packed: Any = kit.load(ZOO / name).float()
    after = kit.evaluate(packed, task, batch=8, progress=False)
    card = dict(
        name=name,
        title=entry.title,
        recipe=model.recipe["name"],
        preset=model.recipe["preset"],
        parameters=sum(parameter.numel() for parameter in packed.parameters()),
        figures=[
            {"task": row["task"].split(", `")[0]} | {key: row[key] for key in ("metric", "ours", "baselines")}
            for row in rows
        ],
        data=entry.data,
        options=entry.options,
        held_out=dict(samples=len(task.held_out), batch=8) | {key: round(value, 5) for key, value in after.items()},  # type: ignore[arg-type]
        source=task.source,
        licence=entry.licence,
        command=f"python -m benchmarks.results {entry.run} --seeds {SEED}",
        seed=SEED,
        steps=rows[0]["steps"],
        batch=rows[0]["batch"],
        processor_seconds=round(rows[0]["processor_seconds"]),
        reads=USES[name][0],
        example=USES[name][1],
        limits=entry.limits,
    )
    write_atomically({ZOO / name / CARD: (json.dumps(card, indent=1, ensure_ascii=False) + "\n").encode()})
    size = (ZOO / name / "model.safetensors").stat().st_size
    print(f"{card_text(card)}\n\n{size:,} bytes; float32 {before}, float16 {after}\n")
    if size > MAX_BYTES:
        raise SystemExit(f"{name} has {size:,} bytes, more than {MAX_BYTES:,}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help=f"some of: {', '.join(ENTRIES)}")
    parser.add_argument("--trained", action="store_true", help="only those that results/ holds")
    arguments = parser.parse_args()
    if unknown := {*arguments.names} - ENTRIES.keys():
        parser.error(f"no model {', '.join(sorted(unknown))}; there are: {', '.join(ENTRIES)}")
    for name in arguments.names or ENTRIES:
        there = (ZOO / name / CARD).exists() and name not in arguments.names
        if not there and (saved(ENTRIES[name].run, SEED).exists() or not arguments.trained):
            pack(name)


if __name__ == "__main__":
    main()
