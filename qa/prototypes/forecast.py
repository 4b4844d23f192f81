"""Forecasting at given times: a sea in 32 months of four years, to its temperature in 6 months of the next year."""

import tempfile

import torch
from statsmodels.datasets import elnino

import perceiver_kit as kit
from perceiver_kit.inputs import Points
from perceiver_kit.objectives import Regression
from perceiver_kit.outputs import Project
from perceiver_kit.positions import Fourier
from perceiver_kit.queries import CoordinateQuery
from perceiver_kit.training import Data, Training, fit

torch.manual_seed(0)
months = torch.tensor(elnino.load_pandas().data.drop(columns="YEAR").to_numpy()).flatten().float()  # 1950 to 2010
months = (months - months.mean()) / months.std()


def sample(start):
    """Months of five years: those known, and later ones."""
    part, past, future = months[start : start + 60], torch.randperm(48)[:32].sort()[0], 48 + torch.randperm(12)[:6]
    return {
        "inputs": {"past": torch.stack([past.float(), part[past]], 1)},  # (time, value)
        "queries": {"future": future[:, None].float()},
        "targets": {"future": part[future][:, None]},
    }


train = [sample(start) for start in torch.randint(540, (3000,)).tolist()]  # until 1999
held_out = [sample(start) for start in torch.randint(600, len(months) - 60, (300,)).tolist()]  # from 2000
clock = Fourier(bands=30, max_resolution=(60,), ranges=((0.0, 60.0),))  # of the past and of the future
model = kit.assemble(
    inputs=dict(past=Points(1, channels=1, positions=clock)),
    outputs=dict(future=Project(1)),
    queries=dict(future=CoordinateQuery(clock)),
    **dict(num_latents=16, latent_dim=48, layers=2, self_heads=4),
)
data = Data(train, held_out, batch=32, steps=200)
results = fit(Training(model, Regression("future"), steps=200, rate=3e-3), data, tempfile.mkdtemp(), progress=False)
last = torch.stack([(s["targets"]["future"] - s["inputs"]["past"][-1, 1]).square().mean() for s in held_out]).mean()
mean = torch.stack([s["targets"]["future"].square().mean() for s in held_out]).mean()
print(f"later temperatures: squared error {results['mse']:.2f}, last known {last:.2f}, mean {mean:.2f}")
