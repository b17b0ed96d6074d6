"""The table of methods and that of the presets: whole, and as wide as a terminal."""

import re

import pytest

from faithfulness.attribution import (
    ATTRIBUTIONS,
    attribution_table,
    describe_attributions,
    list_attributions,
    published_table,
    register_attribution,
)
from faithfulness.attribution.describe import COMMON
from faithfulness.attribution.plugins import attribution_factory
from faithfulness.attribution.published import PUBLICATIONS, PUBLISHED
from faithfulness.attribution.spec import parameters_of
from faithfulness.core.tables import format_table, wrap

SOURCE = re.compile(r"none: a control.*|[A-Z]\w+ (et al\.|and [A-Z]\w+) (19|20)\d\d")


def entries(table):
    """What the table says of each method: its row and the indented lines below, by name."""
    found, name = {}, ""
    for line in table.partition("\n\n")[0].splitlines()[2:]:
        if line[0] != " ":
            name = line.split()[0]
        found[name] = found.get(name, "") + " " + line.strip()
    return found


@pytest.mark.parametrize("table", [attribution_table, published_table])
def test_tables_fit_a_terminal(table):
    assert max(map(len, table().splitlines())) <= 100


def test_the_table_of_methods_says_all_of_each():
    found = entries(attribution_table())
    assert list(found) == list_attributions()
    for row in describe_attributions():
        text = found[row.name]
        for part in (*row.aliases, row.paper, row.layer, row.needs):
            assert part in text
        for name in set(parameters_of(row.name)) - set(COMMON):
            assert f" {name}={parameters_of(row.name)[name].default}" in text


@pytest.mark.parametrize("name", list_attributions())
def test_every_method_names_its_own_paper(name):
    factory = attribution_factory(name)
    assert "paper" in vars(factory), f"{factory.__name__} would be listed under the paper of the method it extends"
    assert all(SOURCE.match(source) for source in factory.paper.split(", "))


def test_a_method_that_says_nothing_and_has_a_long_name_is_listed_all_the_same(monkeypatch):
    for part in ("_entries", "_spellings", "_aliases"):
        monkeypatch.setattr(ATTRIBUTIONS, part, dict(getattr(ATTRIBUTIONS, part)))
    extended = type("Mine", (attribution_factory("grad"),), {"__doc__": "Mine."})
    register_attribution("mine-with-a-name-that-is-longer-than-its-column")(extended)
    table = attribution_table()
    assert max(map(len, table.splitlines())) <= 100
    assert re.search(r"^mine-with-a-name-t +– ", table, re.MULTILINE)


def test_the_presets_table_has_every_method_and_value():
    table = published_table()
    for preset, setups in PUBLISHED.items():
        assert f"{preset} ({PUBLICATIONS[preset]})" in table
        for name, setup in setups.items():
            assert re.search(rf"^{name} ", table, re.MULTILINE)
            assert all(f"{key}={value}" in table for key, value in (setup.parameters | setup.inside).items())


def test_columns_of_several_lines_are_laid_out_by_hand():
    rows = [("a\nbb", "1"), ("c", "22\n3\n4")]
    expected = """\
x   y
--  --
a   1
bb
 first
c   22
    3
    4"""
    assert format_table(("x", "y"), rows, "<<", [" first", ""]) == expected
    assert format_table(("x", "y"), [("a", "1")]) == "x  y\n-  -\na  1"
    assert wrap("one two three-four", 9, " ") == " one two\n three-fo\n ur"
