"""`wds`: WebDataset shards, which can't be what the suite calls data."""

from __future__ import annotations

from faithfulness.core.errors import InputError
from faithfulness.data.base import DATA, ImageData


@DATA.decorator("wds")
def open_wds(path: str | None, **unused: object) -> ImageData:
    """Refused: a shard is a stream, and a picture in it has no index that order and randomness could be keyed by."""
    raise InputError(
        f"wds:{path or ''} can't be read: shards are streams, whose order depends on workers and devices, and results "
        "are keyed by an image's index; use hfds:ORG/NAME (parquet), or unpack the shards for imagefolder:PATH"
    )
