"""Upload of a release to the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from faithfulness.core.errors import InputError


def check_name(repository: str) -> None:
    """Raise InputError unless a text is ORG/NAME as the Hub has them."""
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        raise InputError(f"--push: {str(error).splitlines()[0]}") from error
    if repository.count("/") != 1:
        raise InputError(f"--push: expected ORG/NAME, got {repository}")


def push(folder: Path, repository: str, pull_request: bool) -> str:
    """Upload all files of a release in one commit; returns where it can be seen.

    The repository then holds the release and nothing else, so that a copy of it verifies. A pull request needs a
    repository that is there already.

    Raises:
        InputError: no permission, no such repository, no network.
    """
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError

    api = huggingface_hub.HfApi()
    http_error: Any = HfHubHTTPError.__mro__[1]  # of the library that carries it: lost connections too
    try:
        if not pull_request:
            api.create_repo(repository, repo_type="model", exist_ok=True)
        found = api.upload_folder(
            repo_id=repository,
            repo_type="model",
            folder_path=folder,
            commit_message=f"Release {folder.name}",
            create_pr=pull_request,
            delete_patterns=["*"],  # upload_folder spares what it uploads, and .gitattributes
        )
    except (OSError, http_error) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"can't push to {repository}: {reason}; {folder} is complete, and can be pushed again"
        ) from error
    return str(found.pr_url if pull_request else found.commit_url)
