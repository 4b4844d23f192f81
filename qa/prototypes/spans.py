"""Span answers: the first and the last byte of the first name in a passage, written in small letters."""

import re
import tempfile

import torch

import perceiver_kit as kit
from perceiver_kit.data.corpora import bible_text
from perceiver_kit.inputs import TextTokens
from perceiver_kit.objectives import Classification, Weighted
from perceiver_kit.outputs import Choose
from perceiver_kit.positions import Fourier
from perceiver_kit.queries import InputQuery
from perceiver_kit.training import Data, Training, fit

torch.manual_seed(0)
tokens = kit.ByteTokenizer(max_length=96)


def samples(text, count):
    """Passages with a name, and where it stands."""
    found = []
    for line in text.decode().splitlines():
        name = re.search(r"(?<=[a-z,] )[A-Z][a-z]{3,}", line[:96])
        if name is not None and len(found) < count and line.isascii():
            ids = tokens(line[:96].lower(), pad_to=96, special=False).ids[0]
            ends = {"start": torch.tensor(name.start()), "end": torch.tensor(name.end() - 1)}
            longest = max(re.finditer(r"\w+", line[:96]), key=lambda word: len(word[0]))
            found.append({"inputs": {"text": ids}, "targets": ends, "trivial": longest.start() == name.start()})
    return found


train, held_out = (samples(text, count) for text, count in zip(bible_text(), (6000, 300), strict=True))
model = kit.assemble(
    inputs=dict(
        text=TextTokens(
            262, 48, ngrams=(3, 5), buckets=4096, convolutions=2, positions=Fourier(bands=16), combine="concat"
        )
    ),
    outputs=dict(start=Choose(), end=Choose()),
    queries=dict(start=InputQuery("text"), end=InputQuery("text")),
    **dict(num_latents=8, latent_dim=48, layers=1, self_heads=4),
)
objective = Weighted(dict(start=Classification("start"), end=Classification("end")))
data = Data(train, held_out, batch=32, steps=200)
results = fit(Training(model, objective, steps=200, rate=5e-3), data, tempfile.mkdtemp(), progress=False)
trivial = sum(sample["trivial"] for sample in held_out) / len(held_out)
print(f"first byte of a name: accuracy {results['start_accuracy']:.2f}, of the longest word {trivial:.2f}")
print(f"last byte of a name: accuracy {results['end_accuracy']:.2f}")
