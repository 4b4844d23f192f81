"""Features of a frozen backbone: latents of a trained model are computed once; a small model reads only them."""

import tempfile

import torch
from sklearn.datasets import load_digits

import perceiver_kit as kit
from perceiver_kit.inputs import Features, Patches
from perceiver_kit.objectives import Classification
from perceiver_kit.outputs import Classify
from perceiver_kit.positions import Fourier
from perceiver_kit.training import Data, Training, fit

torch.manual_seed(0)
digits, base = load_digits(), tempfile.mkdtemp()
images, labels = torch.tensor(digits.images).float()[:, None] / 16, torch.tensor(digits.target)
sizes = dict(num_latents=8, latent_dim=32, layers=1, self_heads=4)


def train(model, name, raw, labels, directory, steps):
    """Train on all but the last 300 samples; held-out metrics of these."""
    samples = [{"inputs": {name: x}, "targets": {"label": y}} for x, y in zip(raw, labels, strict=True)]
    data = Data(samples[:-300], samples[-300:], batch=32, steps=steps)
    return fit(Training(model, Classification(), steps=steps, rate=5e-3), data, directory, progress=False)


patches = Patches((2, 2), channels=1, positions=Fourier(bands=4))
backbone = kit.assemble(inputs=dict(image=patches), outputs=dict(label=Classify(10)), **sizes)
train(backbone, "image", images, labels, base, steps=300)

with torch.no_grad():
    latents = kit.load(base).encode({"image": images}).latents  # (1797, 8, 32)
head = kit.assemble(inputs=dict(latents=Features(32)), outputs=dict(label=Classify(2)), **sizes)
results = train(head, "latents", latents[-500:], labels[-500:] % 2, tempfile.mkdtemp(), steps=100)
trivial = (labels[-300:] % 2).bincount().max().item() / 300
print(f"even digits from frozen latents: accuracy {results['accuracy']:.2f}, the more frequent answer {trivial:.2f}")
