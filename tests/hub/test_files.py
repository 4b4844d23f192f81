"""Models are saved where the system has no locks too, as Windows has none of this kind."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

SCRIPT = """
    import sys
    from pathlib import Path

    import safetensors.torch, torch

    sys.modules["fcntl"] = None  # from here on there is none
    import perceiver_kit as kit
    from perceiver_kit.hub import files

    assert files.fcntl is None
    folder = Path(sys.argv[1])
    left = folder / f".model.safetensors.abcd1234{files.SUFFIX}"
    left.write_bytes(b"half")
    for seed in range(2):
        torch.manual_seed(seed)
        model = kit.build("sequence_classification", preset="tiny")
        kit.save(model, folder)
        loaded = kit.load(folder)
        assert all(map(torch.equal, loaded.state_dict().values(), model.state_dict().values()))
    print(*sorted(path.name for path in folder.iterdir()))
"""


def test_without_locks_models_are_saved_and_what_may_be_another_process_s_is_left_alone(tmp_path: Path) -> None:
    """Nobody can tell there whether its writer lives."""
    script = [sys.executable, "-c", textwrap.dedent(SCRIPT), str(tmp_path)]
    done = subprocess.run(script, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [".model.safetensors.abcd1234.saving", "config.json", "model.safetensors"]
