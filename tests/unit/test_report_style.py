"""A look of its own for every method, which color-blind people can read; labels and tables; files that are whole."""

from itertools import combinations

import numpy as np
import pytest

from faithfulness import list_attributions, report
from faithfulness.attribution.plugins import FILE
from faithfulness.core import InputError
from faithfulness.core.tables import format_table
from faithfulness.report import Style, method_label, method_style, short_label
from faithfulness.report.style import FAMILIES, OTHER, OTHER_COLOR, method_family, text_color, wrap_label

VISION = {
    "usual": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
"""Linear RGB as it is seen: Machado, Oliveira, Fernandes, A Physiologically-based Model for Simulation of Color Vision
Deficiency (IEEE TVCG 2009), severity 1."""
TO_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)


def linear(color):
    rgb = np.array([int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def lab(color, vision):
    """CIELAB of a color as someone sees it."""
    xyz = TO_XYZ @ np.clip(np.asarray(VISION[vision]) @ linear(color), 0, 1) / TO_XYZ.sum(axis=1)
    f = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def test_no_two_registered_methods_look_alike():
    looks = {}
    for name in list_attributions():
        other = looks.setdefault(method_style(name), name)
        assert other == name, f"{name} looks like {other}: name it in FAMILIES of faithfulness/report/style.py"


def test_every_method_named_in_a_family_exists_and_stands_in_one():
    named = [name for _, members in FAMILIES.values() for name in members]
    assert len(named) == len(set(named))
    assert set(named) <= set(list_attributions())


@pytest.mark.parametrize("vision", VISION)
def test_families_differ_for_everyone(vision):
    colors = {family: colors for family, (colors, _) in FAMILIES.items()} | {OTHER: (OTHER_COLOR,)}
    for (family, own), (other, theirs) in combinations(colors.items(), 2):
        for a in own:
            for b in theirs:
                distance = np.linalg.norm(lab(a, vision) - lab(b, vision))
                assert distance > 15, (family, other, a, b, distance)  # 2.3 is just noticeable


def test_colors_stand_out_from_white_and_shades_from_each_other():
    for colors, _ in FAMILIES.values():
        for color in colors:
            assert 1.05 / (TO_XYZ[1] @ linear(color) + 0.05) > 2.2
        for a, b in combinations(colors, 2):
            assert min(np.linalg.norm(lab(a, vision) - lab(b, vision)) for vision in VISION) > 25


def test_a_look_depends_on_the_label_alone():
    assert method_style("ixg") == Style("#0072B2", "o", "-")  # pinned: as in pictures made before
    assert method_style("gradcam") == Style("#D55E00", "^", "-")
    assert method_style("mine") == Style("#000000", "<", "-")
    assert method_family("mine") == OTHER


@pytest.mark.parametrize("base", ["ig", "mine", "folder/methods.py:explain"])
def test_variants_keep_color_and_marker_and_change_the_line(base):
    plain = method_style(base)
    variants = ["(steps=20)", "|abs", "|relu", "+smooth(9)", "@middle", "@final", "(steps=20)|abs@final"]
    looks = [method_style(base + variant) for variant in variants]
    assert {(look.color, look.marker) for look in looks} == {(plain.color, plain.marker)}
    assert plain.linestyle not in {look.linestyle for look in looks}
    assert len({method_style(base + variant) for variant in ("", "@middle", "@final", "|abs", "|relu")}) == 5
    assert method_style("other/folder/methods.py:explain") == method_style("folder/methods.py:explain")


def test_labels():
    assert method_label("ixg", "input") == "ixg"
    assert method_label("ixg|abs", "final") == "ixg|abs@final"
    assert method_label("gradcam", "final", "final") == "gradcam"
    assert method_label("gradcam", "input", "final") == "gradcam@input"
    file = "some folder/more/methods.py:explain"
    assert FILE.fullmatch(file)
    assert short_label(f"{file}(path='a/b')|abs@final") == "methods.py:explain(path='a/b')|abs@final"
    assert short_label("C:\\users\\me\\methods.py:explain") == "methods.py:explain"
    for label in ("ig(steps=20)|abs+smooth(9)", "methods.py:explain", "sg-cam++", "ig(path='x/y.py:z')"):
        assert short_label(label) == label


def test_files_of_one_name_are_told_apart_by_their_folders():
    labels = ["a.py:maps", "b/a.py:maps|abs", "c/b/a.py:maps", "x/b.py:maps(k=1)", "ig(path='x/a.py:maps')"]
    short = ["a.py:maps", "b/a.py:maps|abs", "c/b/a.py:maps", "b.py:maps(k=1)", "ig(path='x/a.py:maps')"]
    assert report.short_labels(labels) == dict(zip(labels, short, strict=True))
    axes = report.plot_curves({name: np.eye(2) + i for i, name in enumerate(labels[::2])}, (0.1, 0.2), label="y").axes[
        0
    ]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["a.py:maps", "b/a.py:maps", labels[4]]
    assert len({(line.get_marker(), line.get_color(), line.get_linestyle()) for line in axes.lines}) == 3
    rows = report.distributions(dict.fromkeys(labels, np.ones(2)), "idsds").axes[0].get_yticklabels()
    assert [row.get_text().replace("\n", "") for row in rows] == short


def test_a_place_behind_a_label_leaves_the_method_its_color():
    assert method_style("ixg@final · difull 2×2").color == method_style("ixg").color


def test_names_with_dollars_are_names(tmp_path):
    figure = report.plot_scatter({"$x^$": (2.0, 0.1)}, x_label="$^", log_x=True, title="a $x^$ b")
    assert report.save_figure(figure, tmp_path / "a.png").is_file()
    assert figure.axes[0].texts[0].get_text() == "$x^$"
    assert not any("$" in text.get_text() for text in figure.axes[0].get_xticklabels())


def test_long_labels_break_behind_marks():
    text = "ig-sg(samples=32, steps=16)|abs+smooth(65)@final"
    lines = wrap_label(text, 18).splitlines()
    assert max(map(len, lines)) <= 18
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    assert wrap_label("x" * 25, 10).splitlines() == ["x" * 10, "x" * 10, "x" * 5]
    assert wrap_label("ixg", 10) == "ixg"


def test_metric_names_say_which_way_is_better():
    assert report.metric_name("idsds", True) == "IDSDS (higher is better)"
    assert report.metric_name("off_target_mass", False) == "off-target mass (lower is better)"
    assert report.metric_name("single_deletion") == "single deletion"


def test_numbers_and_tables():
    assert [report.number(value) for value in (0.12345, None, float("nan"))] == ["0.123", "–", "–"]
    assert report.number(2.0, 0) == "2"
    table = format_table(("name", "value"), [("ixg", "0.5"), ("gradcam", "–")])
    assert table.splitlines() == ["name     value", "-------  -----", "ixg        0.5", "gradcam      –"]


def test_text_is_read_on_any_color():
    assert [text_color(color) for color in ((0, 0, 0), (1, 1, 1), (0, 0, 1), (1, 1, 0))] == [
        "white",
        "black",
        "white",
        "black",
    ]


def simple():
    return report.plot_scatter({"ixg": (0.5, 0.5)}, x_label="x", title="m on d")


@pytest.mark.parametrize(("name", "start"), [("a.png", b"\x89PNG"), ("a.pdf", b"%PDF"), ("a.svg", b"<?xml")])
def test_the_suffix_decides_the_kind_and_the_bytes_are_always_the_same(tmp_path, name, start):
    path = report.save_figure(simple(), tmp_path / "plots" / name)
    first = path.read_bytes()
    assert first.startswith(start)
    assert report.save_figure(simple(), str(path)).read_bytes() == first


def test_png_is_the_default_and_another_kind_is_refused(tmp_path):
    assert report.save_figure(simple(), tmp_path / "a") == tmp_path / "a.png"
    with pytest.raises(InputError, match=r"\.png, \.pdf or \.svg, got b\.gif"):
        report.save_figure(simple(), tmp_path / "b.gif")
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_a_figure_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    path = report.save_figure(simple(), tmp_path / "a.png")
    before, figure = path.read_bytes(), simple()

    def fail(to, **_):
        to.write_bytes(b"half")
        raise OSError("no space")

    monkeypatch.setattr(figure, "savefig", fail)
    with pytest.raises(OSError, match="no space"):
        report.save_figure(figure, path)
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("a.png", before)]
