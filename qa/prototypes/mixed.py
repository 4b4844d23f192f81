"""A table, a series and an image → a class and a value: a digit of which each modality shows another part."""

import tempfile

import torch
from sklearn.datasets import load_digits

import perceiver_kit as kit
from perceiver_kit.inputs import Features, Patches, Table
from perceiver_kit.objectives import Classification, Regression, Weighted
from perceiver_kit.outputs import Classify
from perceiver_kit.positions import Fourier
from perceiver_kit.training import Data, Training, fit

torch.manual_seed(0)
digits, samples = load_digits(), []
for image, label in zip(torch.tensor(digits.images).float() / 16, torch.tensor(digits.target), strict=True):
    quadrant = image.unflatten(0, (2, 4)).unflatten(2, (2, 4)).sum((1, 3)).argmax()  # with most ink
    table = torch.stack([image.std(), image[4:].mean(), quadrant])
    table[:2] = torch.where(torch.rand(2) < 0.2, torch.nan, table[:2])  # some values are missing
    parts = {"image": image[None, :4], "series": image[4:].sum(0)[:, None], "table": table}
    samples.append({"inputs": parts, "targets": {"label": label, "ink": image.mean()[None] * 10}})

model = kit.assemble(
    inputs=dict(
        image=Patches((1, 1), channels=1, positions=Fourier(bands=4)),
        series=Features(1, positions=Fourier(bands=4)),
        table=Table(2, categories=(4,), channels=16),
    ),
    outputs=dict(label=Classify(10), ink=Classify(1, problem_type="regression")),
    **dict(num_latents=8, latent_dim=32, layers=1, self_heads=4),
)
objective = Weighted(dict(label=Classification(), ink=Regression("ink")))
data = Data(samples[:1500], samples[1500:], batch=32, steps=500, missing=["table"])
results = fit(Training(model, objective, steps=500, rate=5e-3), data, tempfile.mkdtemp(), progress=False)
trivial = torch.tensor(digits.target[1500:]).bincount().max().item() / len(samples[1500:])
ink = torch.stack([sample["targets"]["ink"] for sample in samples])
print(f"digit of three modalities: accuracy {results['label_accuracy']:.2f}, most frequent digit {trivial:.2f}")
print(
    f"its ink: squared error {results['ink_mse']:.3f}, mean ink {(ink[1500:] - ink[:1500].mean()).square().mean():.3f}"
)
