"""A tag for each byte: where words end in English written without spaces."""

import re
import tempfile

import torch

import perceiver_kit as kit
from perceiver_kit.data.corpora import bible_text
from perceiver_kit.inputs import TextTokens
from perceiver_kit.objectives import Classification
from perceiver_kit.outputs import Project
from perceiver_kit.queries import InputQuery
from perceiver_kit.training import Data, Training, fit

torch.manual_seed(0)


def samples(text, count, length=64):
    """Windows of a text without spaces, and where its words end."""
    words = re.findall("[a-z]+", text.decode().lower())[: count * length]  # more than enough
    tokens = torch.tensor(kit.ByteTokenizer(max_length=None).encode("".join(words), special=False))
    ends = torch.zeros(len(tokens), dtype=torch.int64)
    ends[torch.tensor([len(word) for word in words]).cumsum(0) - 1] = 1
    parts = [slice(start, start + length) for start in range(0, count * length, length)]
    return [{"inputs": {"text": tokens[part]}, "targets": {"ends": ends[part]}} for part in parts]


train, held_out = (samples(text, count) for text, count in zip(bible_text(), (4000, 200), strict=True))
model = kit.assemble(
    inputs=dict(text=TextTokens(262, 48, ngrams=(3, 5), buckets=4096, convolutions=2)),
    outputs=dict(ends=Project(2)),
    queries=dict(ends=InputQuery("text")),
    decoder=kit.Decoder(query_residual=True),  # a tag depends most on the byte itself and its neighbours
    **dict(num_latents=8, latent_dim=48, layers=1, self_heads=4),
)
data = Data(train, held_out, batch=32, steps=200)
results = fit(Training(model, Classification("ends"), steps=200, rate=3e-3), data, tempfile.mkdtemp(), progress=False)
never = 1 - sum(sample["targets"]["ends"].float().mean() for sample in held_out) / len(held_out)
print(f"word ends: accuracy {results['accuracy']:.2f}, never an end {never:.2f}")
