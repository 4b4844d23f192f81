"""Video, sound and a label into one set of latents, and all three out again."""

from __future__ import annotations

from ..attention import Gelu
from ..checks import check_positive
from ..decoders import Decoder
from ..encoders import Encoder
from ..errors import AssemblyError
from ..inputs import AudioPatches, Inputs, OneHot, Patches
from ..model import PerceiverIO
from ..outputs import Classify, Outputs, ToPixels, ToWaveform
from ..positions import Fourier
from ..queries import LearnedQuery, PositionQuery, Queries
from ..registry import register
from .common import ORIGINAL, PAPER, REFERENCE, height_width

COLAB = f"{ORIGINAL}, colabs/video_autoencoding.ipynb"


@register(
    "recipes",
    tiny=dict(
        num_frames=4,
        image_size=32,
        num_labels=4,
        num_latents=64,
        latent_dim=64,
        layers=2,
        image_bands=16,
        audio_bands=48,
        label_channels=64,
        out_channels=64,
    ),
    sources=dict(
        num_frames=f"{PAPER}, appendix F: 16 frames of 224 × 224",
        image_size=f"{PAPER}, appendix F",
        num_labels="Kinetics-700",
        audio_samples="1,920 a frame: 48 kHz at 25 frames a second",
        patch_size=f"{COLAB}: 4 × 4 patches of each frame",
        samples_per_patch=f"{COLAB}: 16 samples a row",
        image_bands=f"{COLAB}: 32 bands for (t, h, w)",
        audio_bands=f"{COLAB}: 192 bands",
        label_channels=f"{COLAB}: label query of 1,024",
        num_latents=f"{COLAB}: 28 × 28",
        latent_dim=COLAB,
        layers=f"{COLAB}: 8 self-attends in 1 block",
        blocks=COLAB,
        cross_heads=COLAB,
        self_heads=COLAB,
        qk_channels=f"{REFERENCE}: the width of what is attended to",
        v_channels=f"{REFERENCE}: as qk_channels",
        cross_widening=COLAB,
        self_widening=COLAB,
        query_residual=f"{REFERENCE}: of the encoder",
        out_channels=f"{COLAB}: output width of the decoder",
        gelu=f"{REFERENCE}: exact; the original computes jax's tanh approximation",
        hide_label="training: half (a published re-training); evaluation: always, as both references",
        dropout=f"{COLAB}: none",
    ),
)
def multimodal_autoencoding(
    *,
    num_frames: int = 16,
    image_size: int | tuple[int, int] = 224,
    num_labels: int = 700,
    audio_samples: int | None = None,
    patch_size: int = 4,
    samples_per_patch: int = 16,
    image_bands: int = 32,
    audio_bands: int = 192,
    label_channels: int = 1024,
    num_latents: int = 784,
    latent_dim: int = 512,
    layers: int = 8,
    blocks: int = 1,
    cross_heads: int = 1,
    self_heads: int = 8,
    qk_channels: int | None = None,
    v_channels: int | None = None,
    cross_widening: int = 1,
    self_widening: int = 1,
    query_residual: bool = True,
    out_channels: int = 512,
    hide_label: tuple[float, float] = (0.5, 1.0),
    dropout: float = 0.0,
    gelu: Gelu = "exact",
) -> PerceiverIO:
    """Autoencoding of video with sound and a label (Perceiver IO, section 4.3); a video classifier by hiding the label.

    Takes image (b, t, 3, h, w), audio (b, samples) and label (b, classes), all float; returns the same three, the
    label as logits. Any of them may be left out: its mask token stands in. The label is hidden with a probability
    (in training, in evaluation), so that asking for it is classifying.

    Queries run over a half-open grid, whether all or some are decoded: the published weights have seen nothing else.

    >>> model = build("multimodal_autoencoding", preset="tiny")
    >>> clip = {"image": torch.rand(2, 4, 3, 32, 32), "audio": torch.rand(2, 7680)}
    >>> {name: tuple(value.shape) for name, value in model(clip).items()}
    {'audio': (2, 7680), 'image': (2, 4, 3, 32, 32), 'label': (2, 4)}
    """
    recipe = "multimodal_autoencoding"
    check_positive(recipe, num_frames=num_frames, patch_size=patch_size, samples_per_patch=samples_per_patch)
    height, width = height_width(recipe, image_size)
    if height % patch_size or width % patch_size:
        raise AssemblyError(f"{recipe}: image_size {(height, width)} must be divisible by patch_size {patch_size}")
    audio_samples = num_frames * 1920 if audio_samples is None else audio_samples
    check_positive(recipe, audio_samples=audio_samples)
    if audio_samples % samples_per_patch:
        raise AssemblyError(
            f"{recipe}: audio_samples {audio_samples} must be divisible by samples_per_patch {samples_per_patch}"
        )
    patches = (num_frames, height // patch_size, width // patch_size)
    audio_patches = (audio_samples // samples_per_patch,)
    # The resolution of the audio's Fourier features is its number of samples, although rows are patches.
    image = dict(bands=image_bands, max_resolution=patches)
    audio = dict(bands=audio_bands, max_resolution=(audio_samples,))

    inputs = Inputs(
        audio=AudioPatches(samples_per_patch, grid=audio_patches, positions=Fourier(**audio)),
        image=Patches((1, patch_size, patch_size), grid=patches, positions=Fourier(**image)),
        label=OneHot(num_labels),
        hide=dict(audio=0.0, image=0.0, label=hide_label),
        min_padding=4,
    )
    encoder = Encoder(
        inputs.channels,
        num_latents=num_latents,
        latent_dim=latent_dim,
        layers=layers,
        blocks=blocks,
        cross_heads=cross_heads,
        self_heads=self_heads,
        qk_channels=qk_channels,
        v_channels=v_channels,
        cross_widening=cross_widening,
        self_widening=self_widening,
        query_residual=query_residual,
        dropout=dropout,
        gelu=gelu,
    )
    queries = Queries(
        audio=PositionQuery(Fourier(**audio, ends="half_open"), size=audio_patches),
        image=PositionQuery(Fourier(**image, ends="half_open"), size=(num_frames, height, width)),
        label=LearnedQuery(1, label_channels),
        min_padding=2,
    )
    decoder = Decoder(queries.channels, latent_dim, out_channels=out_channels, dropout=dropout, gelu=gelu)
    outputs = Outputs(
        audio=ToWaveform(out_channels, samples_per_patch),
        image=ToPixels(out_channels, 3),
        label=Classify(out_channels, num_labels),
    )
    return PerceiverIO(inputs, encoder, queries, decoder, outputs)
