"""Parts of the page: groups that join what isn't told apart, escaping, breaking, colors, LaTeX."""

import itertools
import math
import re
from types import SimpleNamespace

import numpy as np
import pytest

from eval.frame.board import data_names
from faithfulness.core.comparison import MOST_GROUPS, joined_groups, mean_of_defined, ranks_of
from faithfulness.report import accuracy_figure
from faithfulness.report.page import about_picture, about_protocol, latex_tables
from faithfulness.report.page.render import SHADES, aligned, breakable, exact, shade
from faithfulness.report.page.typeset import escape_latex

HOSTILE = "<script>alert(1)</script>\"'&{{ 7*7 }}"


def slow_groups(separated):
    """All largest sets of which no two are separated, by trying every set."""
    things = range(len(separated))
    fitting = [
        set(each)
        for size in range(1, len(separated) + 1)
        for each in itertools.combinations(things, size)
        if not any(separated[a, b] for a, b in itertools.combinations(each, 2))
    ]
    return sorted(tuple(sorted(each)) for each in fitting if not any(each < other for other in fitting))


@pytest.mark.parametrize("seed", range(20))
def test_two_share_a_group_only_if_they_are_not_told_apart(seed):
    generator = np.random.default_rng(seed)
    size = int(generator.integers(1, 8))
    separated = np.triu(generator.random((size, size)) < generator.random(), 1)
    separated |= separated.T
    assert joined_groups(separated) == slow_groups(separated)


def test_too_many_groups_are_none_at_all():
    pairs = np.zeros((40, 40), dtype=bool)
    for first in range(0, 40, 2):  # 20 separated pairs: 2^20 largest groups
        pairs[first, first + 1] = pairs[first + 1, first] = True
    assert joined_groups(pairs) is None
    assert joined_groups(np.zeros((0, 0), dtype=bool)) == []
    assert len(joined_groups(~np.eye(MOST_GROUPS, dtype=bool))) == MOST_GROUPS
    assert joined_groups(~np.eye(MOST_GROUPS + 1, dtype=bool)) is None


def test_ranks_are_those_of_the_defined():
    means = np.array([0.5, math.nan, 0.7, 0.5, -1])
    np.testing.assert_array_equal(ranks_of(means, True), [2, math.nan, 1, 2, 4])
    np.testing.assert_array_equal(ranks_of(means, False), [2, math.nan, 4, 2, 1])
    assert mean_of_defined(ranks_of(means, True)) == 2.25
    assert math.isnan(mean_of_defined(np.array([math.nan])))


def test_labels_are_escaped_and_broken_behind_marks_only():
    assert breakable("gradcam@final") == "gradcam@<wbr>final"
    assert breakable("mine.py:explain") == "mine.py:<wbr>explain"
    shown = breakable(HOSTILE)
    assert "<script" not in shown.replace("<wbr>", "")
    assert "&lt;script&gt;" in shown.replace("<wbr>", "")


def test_letters_stand_under_one_another():
    assert aligned("bd") == "\xa0b\xa0d"
    assert aligned("") == ""
    assert aligned("aA") == "aA"


@pytest.mark.parametrize(
    ("value", "higher", "step"),
    [(0, True, 0), (1, True, SHADES - 1), (1, False, 0), (0.5, True, 3), (math.nan, True, 0)],
)
def test_the_best_has_the_last_color(value, higher, step):
    assert shade(value, 0, 1, higher) == step
    assert shade(value, 1, 1, higher) == 0


def test_scripts_sort_by_all_digits():
    assert [exact(value) for value in (0.1 + 0.2, math.nan, math.inf)] == ["0.30000000000000004", "", ""]


def test_latex_is_escaped():
    assert escape_latex(r"a_b%\$#&{}~^<|>") == (
        r"a\_b\%\textbackslash{}\$\#\&\{\}\textasciitilde{}\textasciicircum{}"
        r"\textless{}\textbar{}\textgreater{}"
    )
    assert escape_latex("a\n\nb") == "a b"
    assert escape_latex("a--[b]* ``c\x00''") == "a-{}-{[}b{]}{*} `{}`c'{}'"


NAMES = [*"_%&#$~^{}\\[]*|<>`'?!", "a -- b", "``x''", "[0.5em]", "*", r"\input{x}", "%", "{", "a\x00b", "  ", "ß × é"]
COMMANDS = {
    *("begin", "end", "caption", "hline", "textbf", "textsuperscript", "tiny", "ldots", "times", "cdot"),
    *("textbackslash", "textasciitilde", "textasciicircum", "textless", "textgreater", "textbar", "\\", ","),
    *"{}&%$#_",
}


def cells_of(text):
    """Rows of the cells of each tabular of a LaTeX text, read by a small strict grammar."""
    tables, groups, place = [], [], 0
    pattern = re.compile(r"\\([a-zA-Z]+|.|\n)|%[^\n]*\n|(\{)|(\})|(&)|(\$)|([~^#_])|([^\\%{}&$~^#_]+)", re.DOTALL)
    while place < len(text):
        found = pattern.match(text, place)
        assert found, text[place : place + 20]
        place = found.end()
        command, opens, closes, tab, dollar, raw, _ = found.groups()
        assert raw is None, f"{raw} is not escaped: {text[place - 20 : place]}"
        assert command is None or command in COMMANDS, command
        if command in ("begin", "end"):
            name = re.compile(r"\{(table|tabular)\}").match(text, place)
            place = name.end()
            groups.append(name[1]) if command == "begin" else None
            assert command == "begin" or groups.pop() == name[1]
            if (command, name[1]) == ("begin", "tabular"):
                columns = re.compile(r"\{(lr+)\}").match(text, place)
                place = columns.end()
                tables.append((len(columns[1]), [[""]]))
            continue
        groups += ["{"] if opens else []
        assert not closes or groups.pop() == "{"
        groups = (groups[:-1] if groups[-1:] == ["$"] else [*groups, "$"]) if dollar else groups
        if not tables or "tabular" not in groups:
            continue
        rows = tables[-1][1]
        if tab or command == "\\":
            assert groups[-1] == "tabular", "a cell or a row ends inside a group"
            assert tab or not re.compile(r"\s*[*\[]").match(text, place), "an argument of the end of a row"
            rows.append([""]) if command else rows[-1].append("")
        elif command != "hline":
            rows[-1][-1] += found[0]
    assert groups == []
    return tables


def test_latex_has_as_many_cells_as_columns_whatever_the_names():
    """There is no LaTeX where the tests run, so a strict small grammar stands for it."""
    column = SimpleNamespace(title="a_b \\", kind="{%")
    best = SimpleNamespace(mean=0.5, low=-0.25, high=0.75, rank=1.0, letters="ab")
    cells = [best, None, *[SimpleNamespace(**{**vars(best), "mean": math.nan})] * (len(NAMES) - 2)]
    standings = [SimpleNamespace(label=name, cells=cells, mean_rank=math.nan) for name in NAMES]
    matrix = SimpleNamespace(column=column, higher_is_better=True, subjects=NAMES, standings=standings)
    tables = cells_of(latex_tables([matrix, matrix]))
    assert len(tables) == 2
    for count, rows in tables:
        assert count == len(NAMES) + 2
        assert [len(row) for row in rows] == [count] * (len(NAMES) + 1) + [1]  # what is behind the last end is no row
        assert not rows[-1][0].strip()


@pytest.mark.parametrize(
    "wrong",
    [
        r"\begin{tabular}{lr}a_b & c \\ \end{tabular}",
        r"\begin{table}{",
        r"\begin{tabular}{lr}a \\ [b] \end{tabular}",
        "a^",
    ],
)
def test_the_grammar_sees_what_is_wrong(wrong):
    with pytest.raises(AssertionError):
        cells_of(wrong)


def test_a_table_for_papers_has_the_best_in_bold():
    column = SimpleNamespace(title="IDSDS", kind="idsds")
    best = SimpleNamespace(mean=0.5, low=-0.25, high=0.75, rank=1.0, letters="ab")
    standings = [SimpleNamespace(label="a_b", cells=[best, None], mean_rank=1.0)]
    matrix = SimpleNamespace(column=column, higher_is_better=True, subjects=["net_1", "net"], standings=standings)
    text = latex_tables([matrix])
    assert r"a\_b & \textbf{0.500} {\tiny [$-$0.250, 0.750]}\,\textsuperscript{ab} & -- & 1.0 \\" in text
    assert r"method & net\_1 & net & mean rank \\" in text


def test_what_is_not_known_goes_by_its_own_name():
    assert about_protocol("mine") == ("mine", "")
    assert about_picture("brand_new") == "brand new"
    assert about_picture("curve_off_target") == "what happens off target while pixels go"
    assert about_picture("localization").startswith("mean localization")
    assert about_picture("localization-difull-2x2") == "localization, a box per method (difull-2x2)"
    assert about_picture("examples-difull-2x2-input-ixg").startswith("example sheet")


def test_models_with_nearly_one_accuracy_are_named_apart():
    models = {f"$net_{{{number}": 0.7 + number * 1e-6 for number in range(20)}
    points = [(accuracy, 0.5, 0.4, 0.6) for accuracy in models.values()]
    figure = accuracy_figure({"ixg": points, "$mine_{$": [(math.nan,) * 4]}, models, label="IDSDS", title="digits")
    figure.draw_without_rendering()
    notes = [text for text in figure.axes[0].texts if "net" in text.get_text()]
    places = sorted(note.get_position()[0] for note in notes)
    assert len(places) == 20
    assert np.diff(places).min() > 0.015
    assert max(places) <= 1


def test_data_of_one_name_are_told_apart_by_their_fingerprint():
    """As of two seeds: what stands in one column must be comparable."""
    keys = [("digits", "val", "0123456789"), ("digits", "val", "9876543210"), ("other", "val", "0123456789")]
    assert list(data_names(keys).values()) == [
        "digits (val), data 012345",
        "digits (val), data 987654",
        "other (val)",
    ]
