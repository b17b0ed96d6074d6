"""The page of `eval.report` in a real browser; skipped where there is no Chromium with its driver, or no selenium."""

import json
import shutil
import time

import pytest

from eval.report import write_report
from tests.reference.report_folders import HOSTILE, write_many, write_some

webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium, of the extra `test`")
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.ui import Select  # noqa: E402

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
OPENS_IN = 2.0
"""Seconds, for 30 methods on 20 models."""


@pytest.fixture(scope="module")
def browser():
    """A Chromium without windows that records its console and its requests."""
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    driver = shutil.which("chromedriver")
    if program is None or driver is None:
        pytest.skip("needs Chromium and chromedriver, as of Debian's packages chromium and chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    opened = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield opened
    opened.quit()


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """A page over results of all kinds with names that mean harm, and one over 30 methods on 20 models."""
    folder = tmp_path_factory.mktemp("pages")
    write_some(folder / "some")
    write_many(folder / "many")
    return {name: write_report([folder / name], folder / f"{name}-page") for name in ("some", "many")}


@pytest.fixture
def some(browser, pages):
    """The browser with the first page, opened anew."""
    browser.get(pages["some"].as_uri())
    return browser


def said(browser):
    """What the console says, and which addresses were asked for, since the last call."""
    console = [entry["message"] for entry in browser.get_log("browser")]
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [each["params"]["request"]["url"] for each in events if each["method"] == "Network.requestWillBeSent"]
    return console, asked


def shown_rows(browser):
    return [row for row in browser.find_elements(By.CSS_SELECTOR, "#board tbody tr") if row.is_displayed()]


def column(browser, place):
    """The values of a column of the rows that are shown, by which it is sorted."""
    script = """return [...document.querySelectorAll('#board tbody tr')].filter(row => !row.hidden)
                .map(row => row.cells[arguments[0]].dataset.value)"""
    return browser.execute_script(script, place)


def head(browser, words):
    """The place of a column, and its button."""
    heads = browser.find_elements(By.CSS_SELECTOR, "#board thead th")
    place = next(i for i, each in enumerate(heads) if words in each.get_attribute("textContent"))
    return place, heads[place], heads[place].find_element(By.TAG_NAME, "button")


def test_nothing_is_wrong_and_nothing_leaves_the_page(some, pages):
    said(some)
    some.get(pages["some"].as_uri())
    for link in some.find_elements(By.CSS_SELECTOR, "figure.sheet a.opens"):
        some.execute_script("arguments[0].closest('details').open = true", link)
        link.click()
        some.find_element(By.ID, "viewer-close").click()
    some.execute_script("for (const image of document.images) image.loading = 'eager'")
    some.execute_script("window.scrollTo(0, document.body.scrollHeight)")
    time.sleep(0.3)
    console, asked = said(some)
    assert console == []
    folder = pages["some"].parent.as_uri()
    assert len(asked) > 3
    assert [address for address in asked if not address.startswith((folder, "data:"))] == []
    broken = "return [...document.images].filter(each => each.getAttribute('src') && !each.naturalWidth).length"
    assert some.execute_script(broken) == 0


def test_columns_sort_both_ways_and_what_has_no_value_is_last(some):
    Select(some.find_element(By.ID, "kind")).select_by_value("idsds")
    place, cell, button = head(some, "IDSDS")
    numbers = [float(value) for value in column(some, place) if value]
    assert cell.get_attribute("aria-sort") == "descending"  # the best first
    assert numbers == sorted(numbers, reverse=True)
    assert len(numbers) > 5
    assert column(some, place)[-1] in (None, "")
    button.click()
    assert cell.get_attribute("aria-sort") == "ascending"
    assert [float(value) for value in column(some, place) if value] == sorted(numbers)
    assert column(some, place)[-1] in (None, "")


def test_the_keyboard_is_enough(some):
    _, cell, button = head(some, "method")
    some.execute_script("arguments[0].focus()", button)
    button.send_keys(Keys.ENTER)
    names = [row.find_element(By.TAG_NAME, "th").text for row in shown_rows(some)]
    assert cell.get_attribute("aria-sort")
    assert names == sorted(names, reverse=cell.get_attribute("aria-sort") == "descending", key=str.lower)
    link = next(each for each in some.find_elements(By.CSS_SELECTOR, "#board a.opens") if each.is_displayed())
    link.send_keys(Keys.ENTER)
    assert some.find_element(By.ID, "viewer").is_displayed()
    some.switch_to.active_element.send_keys(Keys.ESCAPE)
    assert not some.find_element(By.ID, "viewer").is_displayed()
    assert some.switch_to.active_element == link
    some.find_element(By.TAG_NAME, "body").send_keys(Keys.HOME)
    stops = some.execute_script(
        "return [...document.querySelectorAll('.scroll')].every(each => each.tabIndex === 0 && each.ariaLabel)"
    )
    assert stops


def test_rows_are_filtered_by_method_model_and_protocol(some):
    Select(some.find_element(By.ID, "kind")).select_by_value("")
    total = len(shown_rows(some))
    box = some.find_element(By.ID, "method")
    box.send_keys("GRADCAM")
    rows = shown_rows(some)
    assert 0 < len(rows) < total
    assert all("gradcam" in row.text for row in rows)
    assert some.find_element(By.ID, "count").text == f"{len(rows)} of {total} rows"
    Select(some.find_element(By.ID, "model")).select_by_value("resnet50")
    assert [row.get_attribute("data-model") for row in shown_rows(some)] == ["resnet50"]
    box.clear()
    box.send_keys("gpa")
    assert shown_rows(some) == []
    Select(some.find_element(By.ID, "model")).select_by_value("")
    assert len(shown_rows(some)) == 1
    Select(some.find_element(By.ID, "kind")).select_by_value("idsds")  # gpa has no number there
    assert shown_rows(some) == []


def test_methods_that_are_not_told_apart_are_shown_joined(some):
    Select(some.find_element(By.ID, "kind")).select_by_value("idsds")
    Select(some.find_element(By.ID, "model")).select_by_value("resnet10t")
    place = head(some, "IDSDS")[0]
    rows = {row.find_element(By.TAG_NAME, "th").text: row for row in shown_rows(some)}

    def joined(name):
        rows[name].find_elements(By.TAG_NAME, "td")[place - 1].find_element(By.CSS_SELECTOR, ".letters").click()
        return {name for name, row in rows.items() if row.find_elements(By.CSS_SELECTOR, "td.joined")}

    best, middle, worst = "gradcam@final", "ig", "ixg"  # see `close`
    assert joined(best) == {best, middle}
    assert joined(middle) == {best, middle, worst}
    assert worst in some.find_element(By.ID, "told").text
    assert joined(worst) == {middle, worst}
    assert joined(worst) == set()  # pressed again


def test_examples_open_on_click(some):
    link = next(each for each in some.find_elements(By.CSS_SELECTOR, "#board a.opens") if each.is_displayed())
    assert not some.find_element(By.ID, "viewer").is_displayed()
    link.click()
    picture = some.find_element(By.ID, "viewer-picture")
    time.sleep(0.2)
    assert picture.is_displayed()
    assert some.execute_script("return arguments[0].naturalWidth", picture) > 0
    assert picture.get_attribute("alt")
    assert "example sheet" in some.find_element(By.ID, "viewer-caption").text
    some.find_element(By.ID, "viewer-close").click()
    assert not picture.is_displayed()


def test_names_that_mean_harm_are_shown_as_they_are(some):
    assert some.execute_script("return window.hacked") is None
    titles = [each.get_attribute("title") for each in some.find_elements(By.CSS_SELECTOR, "#board tbody th")]
    assert HOSTILE["method"] in titles
    codes = [each.get_attribute("textContent") for each in some.find_elements(By.TAG_NAME, "code")]
    assert HOSTILE["command"] in codes
    Select(some.find_element(By.ID, "kind")).select_by_value("")
    Select(some.find_element(By.ID, "model")).select_by_value(HOSTILE["model"])
    assert len(shown_rows(some)) == 2


def test_one_metric_is_shown_as_method_by_model(some):
    choice = Select(some.find_element(By.ID, "metric"))
    for option in [each.get_attribute("value") for each in choice.options]:
        choice.select_by_value(option)
        shown = [each for each in some.find_elements(By.CSS_SELECTOR, ".matrix") if each.is_displayed()]
        assert [each.get_attribute("id") for each in shown] == [option]


def test_every_link_inside_leads_somewhere(some):
    missing = """const ids = [...document.querySelectorAll('[id]')].map(each => each.id);
        const links = [...document.querySelectorAll('a[href^="#"]')].filter(each => each.id !== 'viewer-alone');
        return [ids.length - new Set(ids).size, links.filter(each => !ids.includes(each.hash.slice(1))).length]"""
    assert some.execute_script(missing) == [0, 0]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 400, 1600])
def test_it_fits_every_width_and_can_be_read_in_both_schemes(some, width, scheme):
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    some.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    some.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    try:
        assert some.execute_script("return document.documentElement.scrollWidth") <= width
        assert some.execute_script(CONTRASTS) == []
    finally:
        some.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        some.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


CONTRASTS = """
const channel = (c) => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
const light = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
const numbers = (text) => text.match(/[0-9.]+/g).map(Number);
const behind = (node) => {
  for (; node; node = node.parentElement) {
    const color = numbers(getComputedStyle(node).backgroundColor);
    if (color.length === 3 || color[3] > 0) return color;
  }
};
const poor = [];
for (const node of document.querySelectorAll('main *')) {
  if (![...node.childNodes].some(each => each.nodeType === 3 && each.data.trim()) || !node.checkVisibility()) continue;
  const [a, b] = [light(numbers(getComputedStyle(node).color)), light(behind(node))];
  const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  if (contrast < 4.5) poor.push(node.tagName + ' ' + node.className + ' ' + contrast.toFixed(2));
}
return [...new Set(poor)];
"""
"""Elements whose text has less contrast than WCAG's AA asks for."""


def test_many_methods_on_many_models_open_at_once(browser, pages):
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        browser.get(pages["many"].as_uri())
        assert browser.execute_script("return document.querySelector('[aria-sort]') !== null")
        seconds.append(time.perf_counter() - start)
    assert len(browser.find_elements(By.CSS_SELECTOR, "#board tbody tr")) == 600
    assert min(seconds) < OPENS_IN
    start = time.perf_counter()
    head(browser, "IDSDS")[2].click()
    assert column(browser, 2)[0]
    assert time.perf_counter() - start < 1
