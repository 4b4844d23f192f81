"""A ragged set: handwritten digits as sets of inked points, each of another size, to their class.

Held-out accuracy 0.81 after 300 steps; the most frequent digit gives 0.10.
"""

import tempfile

import torch
from sklearn.datasets import load_digits

import perceiver_kit as kit
from perceiver_kit import inputs, outputs, positions, queries
from perceiver_kit.training import Data, Training, fit

torch.manual_seed(0)
digits = load_digits()  # 8 × 8 pictures of handwriting
samples = []
for image, label in zip(torch.tensor(digits.images, dtype=torch.float32), digits.target.tolist(), strict=True):
    inked = image.nonzero()  # a set of 15 to 50 points (y, x), each with its ink
    points = torch.cat([inked / 7.0, image[inked.unbind(1)][:, None] / 16], 1)
    samples.append({"inputs": {"points": points}, "targets": {"digit": torch.tensor(label)}})
train, held_out = samples[:1500], samples[1500:]

places = positions.Fourier(bands=4, max_resolution=(8, 8), ranges=((0.0, 1.0), (0.0, 1.0)))
read = kit.Inputs(points=inputs.Points(2, channels=1, positions=places))
encoder = kit.Encoder(read.channels, num_latents=8, latent_dim=32, layers=1, self_heads=4)
ask = kit.Queries(digit=queries.LearnedQuery(1, 32))
model = kit.PerceiverIO(
    read, encoder, ask, kit.Decoder(32, 32), kit.Outputs(digit=outputs.Classify(10, in_channels=32))
)

objective = kit.objectives.Classification("digit")
data = Data(train, None, batch=32, steps=300, collate=kit.pad)
fit(Training(model, objective, steps=300, rate=5e-3), data, tempfile.mkdtemp(), progress=False)

batch = kit.pad(held_out)
with torch.no_grad():
    found = model.eval()(batch["inputs"], mask=batch["mask"])["digit"].argmax(-1)
print("held-out accuracy", (found == batch["targets"]["digit"]).float().mean().item())
most = torch.tensor(digits.target[:1500]).mode()[0]
print("most frequent digit", (batch["targets"]["digit"] == most).float().mean().item())
