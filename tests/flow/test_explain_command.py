"""`eval.explain`: pictures of one's own, under every method."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from checkpoints import load_model
from eval import explain
from eval.explain import explain as explained
from faithfulness import InputError, PatchGrid, create_attribution
from faithfulness.data import evaluation_transform, normalize
from idsds import output_drops
from tests.reference.checkpoints import save_resnet

METHODS = ["ixg", "gradcam@middle", "edge"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save_resnet(tmp_path_factory.mktemp("model") / "resnet")


@pytest.fixture(scope="module")
def pixels():
    return np.random.default_rng(0).integers(0, 256, (70, 90, 3), dtype=np.uint8)


def run(*words):
    return explain.main([*map(str, words), "--quiet"])


@pytest.fixture(scope="module")
def done(checkpoint, pixels, tmp_path_factory):
    """Two pictures of one name; the second lies on its side, and its file says so."""
    folder = tmp_path_factory.mktemp("pictures")
    (folder / "other").mkdir()
    Image.fromarray(pixels).save(folder / "mine.png")
    turned = Image.fromarray(pixels).transpose(Image.Transpose.ROTATE_90)
    note = turned.getexif()
    note[0x0112] = 6
    turned.save(folder / "other" / "mine.png", exif=note)
    files = [folder / "mine.png", folder / "other" / "mine.png"]
    words = ["--model", checkpoint, "--image", *files, "--attributions", *METHODS, "--format", "png", "svg"]
    assert run(*words, "--out", folder / "out") == 0
    return folder, json.loads((folder / "out" / "explain.json").read_text())


def test_maps_sums_and_drops_are_those_of_the_library(done, checkpoint, pixels):
    folder, summary = done
    model = load_model(checkpoint).model.eval()
    image = normalize(evaluation_transform(model.data_config)(Image.fromarray(pixels))[None], model.data_config)
    logits = model(image)[0].double()
    entry = summary["images"][0]
    likely = logits.softmax(dim=0).detach()
    assert entry["predicted"] == entry["explained"] == entry["likely"][0]["class"]
    assert entry["likely"][0]["index"] == int(likely.argmax())
    assert [each["probability"] for each in entry["likely"]] == pytest.approx(sorted(likely.tolist())[:-6:-1])
    target, grid = likely.argmax()[None], PatchGrid(4, 4)
    assert entry["drops"] == pytest.approx(output_drops(model, image, target, grid)[0].tolist(), abs=1e-5)
    with np.load(folder / "out" / "maps" / "mine.npz") as maps:
        assert set(maps) == {"image", "ixg@input", "gradcam@middle", "edge@input"}
        for name, layer, each in (("ixg", "input", entry["maps"][0]), ("gradcam", "middle", entry["maps"][1])):
            expected = create_attribution(name, model, layer)(image, target)
            np.testing.assert_allclose(maps[f"{name}@{layer}"], expected[0].sum(dim=0), atol=1e-6)
            size = tuple(image.shape[-2:])
            assert each["cell_sums"] == pytest.approx(grid.sum(expected, size)[0].tolist(), abs=1e-5)
            assert (each["layer"], each["shape"]) == (layer, list(expected.shape[-2:]))


def test_a_picture_is_turned_upright_and_named_apart(done):
    folder, summary = done
    first, second = summary["images"]
    assert (first["name"], second["name"]) == ("mine", "mine-2")
    assert first["maps"] == second["maps"]
    found = sorted(path.name for path in (folder / "out" / "pictures").iterdir())
    assert found == ["mine-2.png", "mine-2.svg", "mine.png", "mine.svg"]
    with Image.open(folder / "out" / "pictures" / "mine.png") as picture:
        assert min(picture.size) > 300


def test_another_class_is_explained_and_a_run_replaces_its_own_kind_only(done, checkpoint, capsys):
    folder, summary = done
    out, mine = folder / "again", folder / "mine.png"
    words = ["--model", checkpoint, "--image", mine, "--attributions", "ixg", "--out", out]
    other = next(str(number) for number in range(10) if str(number) != summary["images"][0]["predicted"])
    assert run(*words, "--format", "pdf") == 0
    assert run(*words, "--target", other) == 2
    assert "pass --overwrite" in capsys.readouterr().err
    assert run(*words, "--target", other, "--overwrite") == 0
    entry = json.loads((out / "explain.json").read_text())["images"][0]
    assert entry["explained"] == other != entry["predicted"]
    assert entry["maps"][0]["cell_sums"] != summary["images"][0]["maps"][0]["cell_sums"]
    assert [path.name for path in (out / "pictures").iterdir()] == ["mine.png"]
    for name in ("notes.txt", "pictures/holiday.png", "maps/own.npz"):
        (out / name).write_text("mine")
        assert run(*words, "--overwrite") == 2
        assert f"holds {name}, which no run wrote" in capsys.readouterr().err
        assert (out / name).read_text() == "mine"
        (out / name).unlink()


def test_untrained_names_and_other_grids_work_and_say_so(done, tmp_path, capsys):
    words = ["--model", "timm:test_convnext", "--image", done[0] / "mine.png", "--attributions", "ixg"]
    assert run(*words, "--grid", "2", "--fill", "mean", "--out", tmp_path / "out") == 0
    summary = json.loads((tmp_path / "out" / "explain.json").read_text())
    assert summary["settings"]["grid"] == [2, 2]
    assert summary["settings"]["in_domain"] is False
    assert len(summary["images"][0]["drops"]) == 4
    (caution,) = summary["cautions"]
    assert caution == "the model wasn't trained with deleted cells, so the drops are out of its domain"
    assert f"caution: {caution}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--image", "nowhere.png"], "--image nowhere.png: expected a picture file, there is none"),
        (["--image", "."], "--image .: expected a picture file, got a folder"),
        ([], "--image is needed"),
        (["--image", __file__], "as a picture (cannot identify"),
        (["--image", "MINE", "--target", "zebra"], "unknown --target 'zebra'"),
        (["--image", "MINE", "--format", "gif"], "unknown --format 'gif'"),
        (["--image", "MINE", "--format"], "--format"),
        (["--image", "MINE", "--grid", "7"], "7×7 grid does not divide"),
        (["--image", "MINE", "--data", "digits"], "--data"),
        (["--image", "MINE", "--input-size", "0"], "--input-size must be at least 1, got 0"),
    ],
)
def test_a_mistake_is_one_line(done, checkpoint, tmp_path, words, message, capsys):
    words = [str(done[0] / "mine.png") if word == "MINE" else word for word in words]
    assert run("--model", checkpoint, "--attributions", "ixg", "--out", tmp_path / "out", *words) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_the_random_state_is_the_callers(done, checkpoint, tmp_path):
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    assert (
        run("--model", checkpoint, "--image", done[0] / "mine.png", "--attributions", "random", "--out", tmp_path / "o")
        == 0
    )
    assert torch.equal(torch.random.get_rng_state(), before)


def test_from_python_pictures_come_as_files_or_from_memory(done, checkpoint, pixels):
    folder, summary = done
    memory = [Image.fromarray(pixels), pixels.transpose(2, 0, 1), torch.from_numpy(pixels).permute(2, 0, 1)]
    found = explained(checkpoint, [folder / "mine.png", *memory], attributions=["ixg", lambda images, targets: images])
    assert [entry["name"] for entry in found.found] == ["mine", "picture-2", "picture-3", "picture-4"]
    sums = [entry["maps"][0]["cell_sums"] for entry in found.summary["images"]]
    assert sums == [summary["images"][0]["maps"][0]["cell_sums"]] * 4
    assert list(found.scores["attribution"][:2]) == ["ixg", "<lambda>"]
    np.testing.assert_array_equal(found.maps["mine"]["ixg@input"], found.maps["picture-4"]["ixg@input"])
    assert repr(found).startswith("<explained: 4 pictures by ")
    assert "picture-2" in str(found)
    assert found.plot("picture-3")._repr_png_().startswith(b"\x89PNG")
    assert found.path is None
    with pytest.raises(InputError, match="expected a picture, one of mine, "):
        found.plot(4)
    for wrong in (pixels, pixels.astype(float).transpose(2, 0, 1), 5):
        with pytest.raises(InputError, match=r"uint8 \(3, H, W\), got"):
            explained(checkpoint, wrong)


def test_a_name_that_would_be_a_formula_is_a_name(done, checkpoint, tmp_path):
    odd = tmp_path / "a $x^$ b.png"
    odd.write_bytes((done[0] / "mine.png").read_bytes())
    assert run("--model", checkpoint, "--image", odd, "--attributions", "ixg", "--out", tmp_path / "out") == 0
    assert (tmp_path / "out" / "pictures" / "a $x^$ b.png").is_file()


@pytest.mark.parametrize("moment", ["before", "while the old goes"])
def test_the_next_call_goes_on_where_one_was_killed(done, checkpoint, tmp_path, monkeypatch, moment):
    """As SIGKILL would leave the folder: nothing is cleaned up."""
    out = tmp_path / "out"
    words = ["--model", checkpoint, "--image", done[0] / "mine.png", "--attributions", "ixg", "--out", out]
    if moment != "before":
        assert run(*words) == 0
        content = json.loads((out / "explain.json").read_text())
        (out / "explain.json").write_text(json.dumps(content | {"finished": False}))
        (out / "pictures" / "mine.png").unlink()
    out.mkdir(exist_ok=True)
    (out / ".lock").touch()
    (out / ".explain.json.a0b1c2d3").touch()
    (out / ".new" / "pictures").mkdir(parents=True)
    (out / ".new" / "pictures" / ".x.png.a0b1c2d3").touch()
    assert run(*words) == 0
    files = sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())
    assert files == ["explain.json", "maps/mine.npz", "pictures/mine.png"]
    assert json.loads((out / "explain.json").read_text())["files"] == files
