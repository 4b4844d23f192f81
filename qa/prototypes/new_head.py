"""A new head on a loaded encoder: a model that knows digits learns, with a frozen encoder, whether they are even."""

import tempfile

import torch
from sklearn.datasets import load_digits

import perceiver_kit as kit
from perceiver_kit.inputs import Patches
from perceiver_kit.objectives import Classification
from perceiver_kit.outputs import Classify
from perceiver_kit.positions import Fourier
from perceiver_kit.training import Data, Training, fit

torch.manual_seed(0)
digits, base = load_digits(), tempfile.mkdtemp()
images, labels = torch.tensor(digits.images).float()[:, None] / 16, torch.tensor(digits.target)


def train(model, images, labels, directory, steps):
    """Train on all but the last 300 samples; held-out metrics of these."""
    samples = [{"inputs": {"image": x}, "targets": {"label": y}} for x, y in zip(images, labels, strict=True)]
    data = Data(samples[:-300], samples[-300:], batch=32, steps=steps)
    return fit(Training(model, Classification(), steps=steps, rate=5e-3), data, directory, progress=False)


model = kit.assemble(
    inputs=dict(image=Patches((2, 2), channels=1, positions=Fourier(bands=4))),
    outputs=dict(label=Classify(10)),
    **dict(num_latents=8, latent_dim=32, layers=1, self_heads=4),
)
train(model, images, labels, base, steps=300)

model = kit.freeze(kit.load(base, num_labels=2), "inputs", "encoder")
results = train(model, images[-500:], labels[-500:] % 2, tempfile.mkdtemp(), steps=100)  # 200 samples to learn from
trivial = (labels[-300:] % 2).bincount().max().item() / 300
print(f"even digits by a new head: accuracy {results['accuracy']:.2f}, the more frequent answer {trivial:.2f}")
