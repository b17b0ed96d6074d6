"""The files of a result, to be held against another's."""

import json

CLOCK = ("seconds", "seconds_per_map")


def without_clock(value):
    """JSON without what a clock says."""
    if isinstance(value, dict):
        return {key: without_clock(entry) for key, entry in value.items() if key not in CLOCK}
    if isinstance(value, list):
        return [
            without_clock(entry) for entry in value if not (isinstance(entry, dict) and entry.get("metric") in CLOCK)
        ]
    return value


def content(out):
    """Name -> bytes of a result's files but its parts; of the summary no times, and not how it was started."""
    files = {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*") if path.is_file()}
    files = {name: text for name, text in files.items() if not name.startswith("parts/")}
    summary = without_clock(json.loads(files["summary.json"]))
    return files | {"summary.json": {key: value for key, value in summary.items() if key != "command"}}
