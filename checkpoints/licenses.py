"""Licenses by their identifiers on the Hub, and which of them a derivative may have."""

from __future__ import annotations

import re

from checkpoints.lineage import UNKNOWN
from faithfulness.core.errors import InputError, unknown_name

_PERMISSIVE = """
afl-3.0 apache-2.0 artistic-2.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear bsl-1.0 cc-by-2.0 cc-by-2.5
cc-by-3.0 cc-by-4.0 cc0-1.0 cdla-permissive-1.0 cdla-permissive-2.0 ecl-2.0 etalab-2.0 isc mit ncsa odc-by
openmdw-1.0 pddl postgresql unlicense wtfpl zlib
"""
PERMISSIVE = frozenset(_PERMISSIVE.split())
"""They let a derivative have another license; what they ask for, to name the source, the card does."""
_OTHERS = """
agpl-3.0 apple-amlr apple-ascl bigcode-openrail-m bigscience-bloom-rail-1.0 bigscience-openrail-m c-uda cc
cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0
cc-by-nc-sa-4.0 cc-by-nd-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cdla-sharing-1.0 creativeml-openrail-m
deepfloyd-if-license epl-1.0 epl-2.0 eupl-1.1 eupl-1.2 fair-noncommercial-research-license gemma gfdl gpl gpl-2.0
gpl-3.0 grok2-community h-research intel-research lgpl lgpl-2.1 lgpl-3.0 lgpl-lr llama2 llama3 llama3.1 llama3.2
llama3.3 llama4 lppl-1.3c mpl-2.0 ms-pl odbl ofl-1.1 openrail openrail++ osl-3.0
"""
OTHERS = frozenset(_OTHERS.split())
"""They restrict what may be done with a derivative, or under which license it may stand."""
OTHER = "other"
"""What the Hub calls a license that it has no identifier for."""
NONE = "none"
"""What `--parent-license` calls weights that began as random numbers."""


def chosen_license(parent: str | None, asked: str | None, stated: str | None) -> tuple[str, str | None]:
    """The license of a release, and that of the weights it derives from, which is None for none.

    Args:
        parent: what the training record says; `unknown` if nothing.
        asked: `--license`.
        stated: `--parent-license`, by which whoever releases says what the record doesn't.
    Raises:
        InputError: no license, none that the Hub knows, or one that the parent's doesn't allow.
    """
    parent = parent.lower() if parent else parent
    if parent not in (None, UNKNOWN, OTHER):
        parent = known_license(parent, "of the training record")
    if parent == UNKNOWN and stated is None:
        raise InputError(
            "nothing says under which license the weights are that this network was trained from; state it with "
            f"--parent-license ({NONE} if it began from random weights)"
        )
    if parent != UNKNOWN and stated not in (None, parent or NONE):
        raise InputError(
            f"--parent-license {stated}: the training record says {parent or f'{NONE}, random weights'} already"
        )
    if parent == UNKNOWN:
        parent = None if stated == NONE else known_license(stated or "", "--parent-license")
    if parent is None:
        if asked is None:
            raise InputError("--license is needed: the network began from random weights, so whoever releases decides")
        return known_license(asked, "--license"), None
    asked = parent if asked in (None, parent) else known_license(asked, "--license")
    if asked != parent and parent not in PERMISSIVE:
        raise InputError(
            f"--license {asked}: the network derives from weights under {parent}, which a derivative can't leave; "
            f"release it under {parent}"
        )
    return asked, parent


def known_license(license: str, flag: str) -> str:
    """An identifier of the Hub's, or a name that its `license_name` can hold; InputError with its neighbors else."""
    if license in PERMISSIVE | OTHERS:
        return license
    if license in (UNKNOWN, NONE, OTHER) or not re.fullmatch(r"[a-z0-9][a-z0-9.+-]*-license", license):
        raise unknown_name(f"license ({flag})", license, PERMISSIVE | OTHERS)
    return license


def license_fields(license: str) -> dict[str, str]:
    """The card's metadata: what the Hub has no identifier for is `other`, with its name."""
    known = license in PERMISSIVE | OTHERS
    return {"license": license} if known or license == "other" else {"license": "other", "license_name": license}
