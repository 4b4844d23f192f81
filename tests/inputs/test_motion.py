"""Motion of patches: its size and sign, and time reversed."""

from __future__ import annotations

import pytest
import torch

from perceiver_kit import inputs
from perceiver_kit.errors import InputError

pytestmark = pytest.mark.usefixtures("checked")


def waves(shift: float, across: bool) -> torch.Tensor:
    """Three frames (1, 3, 3, 16, 16) of stripes that move by ``shift`` pixels a frame."""
    place = torch.arange(16.0).expand(16, 16)
    place = place if across else place.T
    frames = torch.stack([torch.sin((place - shift * t) * 2 * torch.pi / 8) for t in range(3)])
    return frames[None, :, None].expand(1, 3, 3, 16, 16)


@pytest.mark.parametrize("across", [True, False])
@pytest.mark.parametrize("shift", [-0.5, 0.25, 1.0])
def test_motion_is_in_eighths_of_a_pixel(shift: float, across: bool) -> None:
    found = inputs.MovingPatches(8).embed(waves(shift, across), "video")
    assert found.shape == (1, 2, 2, 2, 5)
    moved, still = found[..., 3:].unbind(-1) if across else found[..., 3:].flip(-1).unbind(-1)
    torch.testing.assert_close(moved / 8, torch.full_like(moved, shift), rtol=0.3, atol=0)
    assert still.abs().max() < 8e-3


def test_reversed_time_keeps_colours_and_turns_motion() -> None:
    video = torch.randn(2, 6, 3, 8, 12)
    one, other = (inputs.MovingPatches(4).embed(x, "video") for x in (video, video.flip(1)))
    torch.testing.assert_close(other.flip(1)[..., :3], one[..., :3])
    torch.testing.assert_close(other.flip(1)[..., 3:], -one[..., 3:])
    still = inputs.MovingPatches(4).embed(video[:, :1].expand(-1, 6, -1, -1, -1), "video")
    assert not still[..., 3:].any()
    torch.testing.assert_close(still[0, 0, 0, 0, :3], 0.1 * video[0, 0, :, :4, :4].mean((1, 2)))


@pytest.mark.parametrize("shape", [(1, 1, 3, 8, 8), (1, 2, 3, 8, 6)])
def test_one_frame_or_odd_sizes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"at least two frames, and height and width divisible by 4"):
        inputs.MovingPatches(4)(torch.zeros(shape))
