"""Short runs of `eval.idsds` into folders, in this process."""

from eval import idsds
from tests.reference.results import content

FAST = ["ixg", "gradcam", "ixg-sg(samples=2)"]
RUN = ["--limit", "6", "--batch-size", "2", "--quiet"]


def runs_below(checkpoint, folder, capsys):
    """What runs the command into `folder/NAME`, and gives its status and what it said on stderr."""

    def call(*words, name="run", methods=FAST):
        where = ["--model", str(checkpoint), "--out", str(folder / name), "--attributions", *methods]
        status = idsds.main([*where, *RUN, *map(str, words)])
        return status, capsys.readouterr().err

    return call


def whole_result(checkpoint, folder):
    """The result of a run that nothing stopped."""
    assert idsds.main(["--model", str(checkpoint), "--out", str(folder), "--attributions", *FAST, *RUN]) == 0
    return content(folder)
