"""Two text tasks with missing labels: the sentiment of reviews, and which third of the Bible a passage is from."""

import tempfile

import torch

import perceiver_kit as kit
from perceiver_kit.data.corpora import bible_text, review_texts
from perceiver_kit.inputs import TextTokens
from perceiver_kit.objectives import Classification, Weighted
from perceiver_kit.outputs import Classify
from perceiver_kit.training import Data, Training, fit

torch.manual_seed(0)
MISSING = -100
tokens = kit.ByteTokenizer(max_length=192)


def sample(text, sentiment, part):
    """A text with one known label, and one missing."""
    text = tokens(text, pad_to=192)
    targets = {"sentiment": torch.tensor(sentiment), "part": torch.tensor(part)}
    return {"inputs": {"text": text.ids[0]}, "mask": {"text": text.keep[0]}, "targets": targets}


lines = bible_text()[0].decode().splitlines()
lines = [line for line in lines if len(line) > 60]
bible = [sample(lines[i], MISSING, 3 * i // len(lines)) for i in range(0, len(lines), 5)]
reviews = [
    [sample(text, label, MISSING) for text, label in zip(*part, strict=True)]
    for part in review_texts(train=4000, held_out=400)
]
order = torch.randperm(len(bible)).tolist()
train = [bible[i] for i in order[400:]] + reviews[0]
held_out = [bible[i] for i in order[:400]] + reviews[1]

model = kit.assemble(
    inputs=dict(text=TextTokens(262, 32, ngrams=(4, 6), buckets=8192, stride=4)),
    outputs=dict(sentiment=Classify(2), part=Classify(3)),
    **dict(num_latents=8, latent_dim=32, layers=1, self_heads=4),
)
objective = Weighted({name: Classification(name) for name in ("sentiment", "part")})
data = Data(train, held_out, batch=32, steps=400)
results = fit(Training(model, objective, steps=400, rate=5e-3), data, tempfile.mkdtemp(), progress=False)
trivial = torch.stack([s["targets"]["part"] for s in held_out[:400]]).bincount().max().item() / 400
print(f"sentiment of reviews: accuracy {results['sentiment_accuracy']:.2f}, either 0.50")
print(f"third of the Bible: accuracy {results['part_accuracy']:.2f}, most frequent third {trivial:.2f}")
