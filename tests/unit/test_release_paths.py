"""Local paths in whatever is released: found and replaced, by form and by role."""

import pytest

from checkpoints.release_card import dataset_of
from checkpoints.results import texts_in, write_table
from checkpoints.scrub import Scrubber, left_over, stand_in


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("imagefolder:/data/birds", "imagefolder:PATH"),
        ("voc:relative/folder", "voc:PATH"),
        ("hfds:org/name", "hfds:PATH"),
        ("hfds:/data/parquet", "hfds:PATH"),
        ("/Users/me/net.py:make", "PATH/net.py:make"),
        ("method.py:f(steps=3)|abs", "PATH/method.py:f(steps=3)|abs"),
        ("~/runs/x", "PATH/x"),
        ("../runs/x/", "PATH/x"),
        ("C:\\runs\\x", "PATH/x"),
        ("digits", None),
        ("timm:resnet18", None),
        ("hf-hub:org/name", None),
        ("images/s", None),
        ("https://huggingface.co/a/b", None),
        ("12 images: too few, or 3/4 of them", None),
    ],
)
def test_what_stands_for_a_local_path(text, expected):
    assert stand_in(text) == expected
    assert stand_in(expected or text) in (None, expected)
    assert left_over([expected or text], []) is None


def test_commands_and_texts_are_cleaned_alike(tmp_path):
    (tmp_path / "base").mkdir()
    scrubber = Scrubber({"/w/runs/net": "net", "runs/net": "net"})
    line = (
        f"python -m eval.idsds --model /w/runs/net --baseline={tmp_path / 'base'} --data 'imagefolder:/a b/c' --limit 3"
    )
    made = scrubber.command(line)
    assert made == "python -m eval.idsds --model net --baseline=PATH/base --data imagefolder:PATH --limit 3"
    short = f"{tmp_path.name}/base"
    content = {
        "name": "runs/net",
        "evidence": [{"name": short}],
        "text": f"{short} beats runs/net in /w/x/y.txt",
        "n": 3,
    }
    cleaned = {"name": "net", "evidence": [{"name": "base"}], "text": "base beats net in PATH/y.txt", "n": 3}
    assert scrubber.clean(content) == cleaned
    assert scrubber.clean(cleaned) == cleaned


@pytest.mark.parametrize(
    ("text", "found"),
    [("see /Users/me/x.txt", "/Users/me/x.txt"), ("data=imagefolder:/a/b", "/a/b"), ("in /mnt/secret", "/mnt/secret")],
)
def test_left_over_paths_are_found(text, found):
    assert left_over(["fine", text], ["/mnt/secret"]) == found


@pytest.mark.parametrize(
    "path",
    [
        *(
            "file:///Users/me/x",
            "[/Users/me/x]",
            "{/Users/me}",
            "</Users/me/x>",
            "|/Users/me",
            ";/Users/me",
            "-I/Users/me",
        ),
        *(
            "@/Users/me/x",
            "~me/x",
            "~/x",
            "\\\\srv\\share\\me",
            "/data",
            "'/Users/me/my data/x'",
            "/Users/me/my old data/x",
        ),
        *("C:/me/x", "-L/Users/me", "cc -I/Users/me"),
    ],
)
@pytest.mark.parametrize("before", ["", "see "])
def test_no_spelling_of_a_path_is_missed(path, before):
    text = before + path
    assert left_over([text], []) is not None
    cleaned = Scrubber({}).clean({"text": text})["text"]
    assert left_over([cleaned], []) is None
    assert not [part for part in ("home", "me/", "srv", "old", "my ") if part in cleaned], cleaned
    assert Scrubber({}).clean(cleaned) == cleaned


@pytest.mark.parametrize(
    "text", ["and/or", "a / b", "1 /2", "https://a.b/c/d", "10.1/x", "~3/4", "images/s", "</b>", "x //y", "(n/a)"]
)
def test_what_is_no_path_stays(text):
    assert left_over([text], []) is None
    assert Scrubber({}).text(text) == text


def test_paths_are_known_by_their_role_and_not_by_the_disk():
    """Released from another folder than the one that the relative paths are of."""
    scrubber = Scrubber({"runs/client-x/tuned": "demo", "client-x/tuned": "demo"})
    line = scrubber.command("python -m eval.idsds --model runs/client-x/tuned --baseline runs/client-x/base --quiet")
    assert line == "python -m eval.idsds --model demo --baseline PATH/base --quiet"
    content = {
        **{"evidence": {"baseline": {"name": "client-x/base"}}, "text": "client-x/base is better"},
        **{"choose_with": ["nets/client-y/a"], "compositions": "out/client-y/c", "arch": "my client/net.py:make"},
        "model": {"name": "client-z/b", "path": "runs/client-z/b"},
    }
    assert "client" not in str(Scrubber({}).clean(content)["choose_with"])
    assert "client-y" not in str(scrubber.clean(content))
    assert "client-x" not in str(scrubber.clean(content))
    assert "client-z" not in str(scrubber.clean(content))
    assert scrubber.word("my client/net.py:make", "arch") == "PATH/net.py:make"
    assert scrubber.clean({"t": "data/birds"}) == {"t": "data/birds"}
    assert scrubber.word("imagefolder:data/birds", "data") == "imagefolder:PATH"
    assert scrubber.clean({"t": "no data/birds/x"}) == {"t": "no PATH/x"}


def test_a_model_called_by_an_everyday_word_changes_nothing_else():
    scrubber = Scrubber({"digits": "demo", "a/idsds": "demo"})
    content = {"command": "python -m eval.idsds --model digits --data digits", "data": {"name": "digits"}}
    cleaned = scrubber.clean(content)
    assert cleaned == {"command": "python -m eval.idsds --model demo --data digits", "data": {"name": "digits"}}
    assert scrubber.text("a/idsdsx, a/idsds") == "a/idsdsx, demo"


@pytest.mark.parametrize("name", ["mnist", "org/name", "org/name@main", "org/name/folder@refs/x"])
def test_names_on_the_hub_stay_where_they_are_told(name):
    told = "/".join(name.partition("@")[0].split("/")[:2])
    assert Scrubber({}).text(f"hfds:{name}") == "hfds:PATH"
    assert Scrubber({}, [told]).clean({"name": f"hfds:{name}"}) == {"name": f"hfds:{name}"}
    assert Scrubber({}, [told]).word(f"hfds:{name}", "data") == f"hfds:{name}"
    assert dataset_of(f"hfds:{name}") == told
    assert Scrubber({}, ["other"]).text(f"hfds:{name}") == "hfds:PATH"


def test_tables_are_cleaned_in_lists_and_notes_too(tmp_path):
    import pandas as pd

    table = pd.DataFrame({"value": [0.5, 1.0], "files": [["/Users/me/a"], ["x", "/Users/me/b"]], "n": ["a", None]})
    table.attrs = {"from": "/Users/me/c"}
    table.to_parquet(tmp_path / "a.parquet")
    assert "/Users/me/a" in set(texts_in(tmp_path / "a.parquet"))
    assert "/Users/me/c" in set(texts_in(tmp_path / "a.parquet"))
    write_table(tmp_path / "a.parquet", tmp_path / "b.parquet", Scrubber({}))
    assert "home" not in str(list(texts_in(tmp_path / "b.parquet")))
    assert b"/Users/me" not in (tmp_path / "b.parquet").read_bytes()
    again = pd.read_parquet(tmp_path / "b.parquet")
    assert [list(files) for files in again["files"]] == [["PATH/a"], ["x", "PATH/b"]]
    assert again["n"].isna().tolist() == [False, True]
