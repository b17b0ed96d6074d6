"""Where a network's weights come from, and under which license: carried through every fine-tuning.

`license` is a Hub identifier; None where the weights began as random numbers, so that whoever trained them decides;
`unknown` where nothing says it. `base_model` is what training began from:

name        Hub id, torchvision:NAME, or the architecture of a checkpoint folder; None for a folder that says none
hub         whether the name is a Hub id
sha256      digest of the parent's weights; None for weights by name
license     the parent's
command     how the parent was trained; converted_from, which file it was made from
base_model  the parent's own
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from faithfulness.core.plugin_files import is_in_file

UNKNOWN = "unknown"


def lineage(checkpoint: Any, pretrained: bool) -> dict[str, Any]:
    """`license` and `base_model` of what is trained from a loaded network, as `training.json` has them.

    Args:
        checkpoint: as `load_model` gives it.
        pretrained: whether a network by name was loaded with its published weights.
    """
    text = checkpoint.path
    if text is None or is_in_file(text):  # a module, or code: whatever is in it
        return {"license": UNKNOWN, "base_model": _parent(checkpoint.architecture, UNKNOWN)}
    path = Path(text).expanduser()
    if text.startswith("hf-hub:"):
        name = text.removeprefix("hf-hub:")
        # What a stranger's record leaves open, or says otherwise, can't be more than the card that they publish.
        return _of_checkpoint(checkpoint, name, _card_license(name) or UNKNOWN, hub=True)
    if path.is_dir():
        found = None if _from_scratch(checkpoint) else license_of(checkpoint) or UNKNOWN
        return _of_checkpoint(checkpoint, checkpoint.architecture, found)
    if path.is_file():
        found = _parent(checkpoint.architecture, UNKNOWN, checkpoint.sha256)
        return {"license": UNKNOWN, "base_model": found}
    if not pretrained:
        return {"license": None, "base_model": None}
    name, license, hub = _published(checkpoint)
    return {"license": license, "base_model": _parent(name, license, hub=hub)}


def license_of(checkpoint: Any) -> str | None:
    """What a checkpoint folder says of its license: in its record, else in its config; None if nothing."""
    recorded = (checkpoint.training or {}).get("license")
    told = (getattr(checkpoint.model, "pretrained_cfg", None) or {}).get("license")
    return next((text for text in (recorded, told) if isinstance(text, str) and text), None)


def chain(record: dict[str, Any]) -> list[dict[str, Any]]:
    """What a network was trained from, the nearest first, as its record says."""
    found: list[dict[str, Any]] = []
    base = record.get("base_model")
    while isinstance(base, dict) and len(found) < 100:
        found.append(base)
        base = base.get("base_model")
    return found


def _from_scratch(checkpoint: Any) -> bool:
    """Whether a folder's record says that its weights began as random numbers, and no license is chosen yet."""
    record = checkpoint.training or {}
    return "license" in record and record["license"] is None


def _of_checkpoint(checkpoint: Any, name: str, license: str | None, hub: bool = False) -> dict[str, Any]:
    record = checkpoint.training or {}
    parent = _parent(name, license, checkpoint.sha256, hub=hub)
    own = {key: record[key] for key in ("command", "converted_from", "base_model") if record.get(key)}
    return {"license": license, "base_model": parent | own}


def _parent(name: str, license: str | None, sha256: str | None = None, hub: bool = False) -> dict[str, Any]:
    return {"name": name or None, "hub": hub, "sha256": sha256, "license": license}


def _published(checkpoint: Any) -> tuple[str, str, bool]:
    """Name, license and whether the Hub has it, of weights that were loaded by a network's name."""
    model = checkpoint.model
    config = getattr(model, "pretrained_cfg", None) or getattr(getattr(model, "encoder", None), "pretrained_cfg", None)
    if not isinstance(config, dict) or not config:
        return checkpoint.path or checkpoint.name, UNKNOWN, False  # torchvision, which names no license of its weights
    hub = config.get("hf_hub_id")
    tag = config.get("tag")
    plain = f"{config.get('architecture') or checkpoint.architecture}{f'.{tag}' if tag else ''}"
    return (str(hub or plain), str(config.get("license") or UNKNOWN), bool(hub))


def _card_license(name: str) -> str | None:
    """The license in the card of a checkpoint on the Hub, which has been fetched with it."""
    from huggingface_hub import ModelCard, try_to_load_from_cache

    card = try_to_load_from_cache(name, "README.md")
    if not isinstance(card, str):
        return None
    try:
        told = ModelCard.load(card, ignore_metadata_errors=True).data
    except (OSError, ValueError):
        return None
    found = told.get("license_name") if told.get("license") == "other" else told.get("license")
    return found if isinstance(found, str) else None
