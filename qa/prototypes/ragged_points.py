"""A ragged set: handwritten digits as sets of inked points, each of another size, to their class."""

import tempfile

import torch
from sklearn.datasets import load_digits

import perceiver_kit as kit
from perceiver_kit.inputs import Points
from perceiver_kit.objectives import Classification
from perceiver_kit.outputs import Classify
from perceiver_kit.positions import Fourier
from perceiver_kit.training import Data, Training, fit

torch.manual_seed(0)
samples, digits = [], load_digits()  # 8 × 8 pictures of handwriting
for image, label in zip(torch.tensor(digits.images).float(), torch.tensor(digits.target), strict=True):
    inked = image.nonzero()  # 15 to 50 points (y, x), each with its ink
    points = torch.cat([inked / 7, image[inked.unbind(1)][:, None] / 16], 1)
    samples.append({"inputs": {"points": points}, "targets": {"label": label}})

model = kit.assemble(
    inputs=dict(points=Points(2, channels=1, positions=Fourier(bands=4, ranges=((0, 1), (0, 1))))),
    outputs=dict(label=Classify(10)),
    **dict(num_latents=8, latent_dim=32, layers=1, self_heads=4),
)
data = Data(samples[:1500], samples[1500:], batch=32, steps=300, collate=kit.pad)
results = fit(Training(model, Classification(), steps=300, rate=5e-3), data, tempfile.mkdtemp(), progress=False)
trivial = torch.tensor(digits.target[1500:]).bincount().max().item() / len(samples[1500:])
print(f"digit of a ragged set: accuracy {results['accuracy']:.2f}, most frequent digit {trivial:.2f}")
