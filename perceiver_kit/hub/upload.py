"""Upload of a checkpoint to Hugging Face's hub."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch import nn

from ..checking import describe_value
from ..errors import CheckpointError
from ..flags import checked_flags
from .cards import CARD, model_card
from .checkpoint import save
from .huggingface import REPOSITORY


@checked_flags
def push_to_hub(
    model: nn.Module,
    repo_id: str,
    *,
    card: Mapping[str, Any] | None = None,
    private: bool = False,
    token: str | None = None,
    message: str = "Upload a model of perceiver-kit",
) -> str:
    """Upload a model to the hub repository ``owner/name``, created if missing; ``kit.load(repo_id)`` loads it.

    All files are one commit: a failed upload leaves the repository unchanged. ``card`` is as in ``kit.save``; None
    keeps the README.md of the repository. ``private`` applies to a new repository only. ``token`` must allow writing;
    by default it is the variable HF_TOKEN or the token of ``hf auth login``.

    Returns the URL of the commit. Raises the errors of ``kit.save``, and CheckpointError if there is no token, if the
    hub refuses the upload, or if it cannot be reached.
    """
    from huggingface_hub import HfApi, get_token
    from huggingface_hub.errors import HfHubHTTPError

    if not isinstance(repo_id, str) or not REPOSITORY.fullmatch(repo_id):
        raise CheckpointError(f"push_to_hub: repo_id must be owner/name, got {describe_value(repo_id)}")
    if not (token or get_token()):
        raise CheckpointError(
            "push_to_hub: it needs a token that may write: run `hf auth login`, set HF_TOKEN, or give token=…"
        )
    with TemporaryDirectory() as folder:
        save(model, folder)
        if card is not None:
            (Path(folder) / CARD).write_bytes(model_card(model, repo_id, card))
        try:
            api = HfApi(token=token)
            api.create_repo(repo_id, private=private, exist_ok=True)
            return api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message=message).commit_url
        except HfHubHTTPError as error:
            raise CheckpointError(f"push_to_hub: the hub refuses {repo_id!r}: {_in_one_line(error)}") from None
        except Exception as error:  # its type depends on the HTTP client of the installed huggingface_hub
            raise CheckpointError(f"push_to_hub: no upload to {repo_id!r}: {_in_one_line(error)}") from None


def _in_one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
