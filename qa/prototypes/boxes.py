"""Boxes: the digits on a canvas, from left to right, each with its kind and its box (y, x, height, width)."""

import tempfile

import torch
from sklearn.datasets import load_digits

import perceiver_kit as kit
from perceiver_kit.decoders import SetDecoder
from perceiver_kit.inputs import Patches
from perceiver_kit.objectives import Classification, Regression, Weighted
from perceiver_kit.outputs import Outputs, Project
from perceiver_kit.positions import Fourier
from perceiver_kit.training import Data, Training, fit

torch.manual_seed(0)
digits = load_digits()
images, labels = torch.tensor(digits.images).float() / 16, torch.tensor(digits.target)


def canvas(chosen):
    """Two digits of 8 × 8 on 16 × 24, where one third has none: its kind is 10 and its box is missing."""
    image, kind, box = torch.zeros(1, 16, 24), torch.full((3,), 10), torch.full((3, 4), torch.nan)
    for place, i in zip(torch.randperm(3)[:2].sort()[0].tolist(), chosen, strict=True):
        y, x = int(torch.randint(9, ())), 8 * place
        image[0, y : y + 8, x : x + 8] = images[i]
        inked = images[i].nonzero()
        low, high = inked.amin(0), inked.amax(0) + 1
        kind[place], box[place] = labels[i], torch.cat([low + torch.tensor([y, x]), high - low]) / 8
    return {"inputs": {"image": image}, "targets": {"kind": kind, "box": box}}


train = [canvas(torch.randint(1500, (2,)).tolist()) for _ in range(3000)]
held_out = [canvas(torch.randint(1500, 1797, (2,)).tolist()) for _ in range(300)]

model = kit.assemble(
    inputs=dict(image=Patches((2, 2), channels=1, positions=Fourier(bands=6))),
    outputs=Outputs(kind=Project(11, size=(3,)), box=Project(4, size=(3,)), of=dict(kind="objects", box="objects")),
    decoder=SetDecoder(layers=1, heads=4),
    **dict(num_latents=24, latent_dim=48, layers=1, self_heads=4),
)
objective = Weighted(dict(kind=Classification("kind"), box=Regression("box")))
data = Data(train, held_out, batch=32, steps=500)
results = fit(Training(model, objective, steps=500, rate=3e-3), data, tempfile.mkdtemp(), progress=False)
boxes = [torch.stack([sample["targets"]["box"] for sample in part]) for part in (train, held_out)]
constant = (boxes[1] - boxes[0].nanmean(0)).square().nanmean()
print(f"kind of objects: accuracy {results['kind_accuracy']:.2f}, none everywhere 0.33")
print(f"box of objects: squared error {results['box_mse']:.3f}, mean box of each place {constant:.3f}")
