"""The pages in a real browser: every control does what it says, on a phone and a wide screen, light and dark."""

from __future__ import annotations

import pytest
from browser import CHROMIUM, Browser

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (chromium or google-chrome on PATH)")

# What stands outside the screen, but for what scrolls by itself.
OVERFLOWING = """[...document.querySelectorAll("body *")]
  .filter(one => one.getBoundingClientRect().right > innerWidth + 1 && !one.closest(".scroll, .stage"))
  .map(one => one.outerHTML.slice(0, 100))"""
SMALLEST_TEXT = """Math.min(...[...document.querySelectorAll(".charts text, .strips span")].map(one => {
  const scale = one.getScreenCTM?.();
  return parseFloat(getComputedStyle(one).fontSize) * (scale ? Math.hypot(scale.a, scale.b) : 1);
}))"""
READY = "document.getElementById('picture')?.dataset.ready"
CURVES = """[...document.querySelectorAll('[data-part^="run-"]')].filter(one => !one.hasAttribute("display"))
  .map(one => one.dataset.part)"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    opened = Browser(tmp_path_factory.mktemp("browser") / "profile")
    yield opened
    opened.close()


@pytest.mark.parametrize(("width", "dark"), [(400, True), (1400, False)])
@pytest.mark.parametrize("page", ["html", "viewer", "table_html"])
def test_a_page_fits_the_screen_and_names_stay_text(browser, large, page, width, dark):
    browser.open(large[page].as_uri(), width=width, dark=dark)
    assert browser.run("[innerWidth, document.documentElement.scrollWidth]") == [width, width]
    assert browser.run(OVERFLOWING) == []
    if page == "html":
        assert browser.run(SMALLEST_TEXT) > 9, "pixels"
    assert browser.errors == []
    assert browser.run("document.title").startswith(("Report <img", "Videos: Report <img"))
    assert browser.run("document.querySelectorAll('img[src=x], b').length") == 0
    ground = browser.run("getComputedStyle(document.body).backgroundColor")
    assert ground == ("rgb(21, 24, 28)" if dark else "rgb(255, 255, 255)")


def test_scores_are_sorted_and_filtered(browser, large):
    browser.open(large["html"].as_uri())
    figures = "table.scores tbody td:nth-child(3)"
    for order in (-1, 1):  # first the best, then the worst
        browser.click("table.scores th:nth-child(3)")
        found = [text.split()[0] for text in browser.texts(figures)]
        known = [float(text) for text in found[:40]]
        assert known == sorted(known, key=lambda value: order * value)
        assert found[40:] == ["\u2013"] * 11, "rows that were not run stay last"
    browser.press("Enter", "table.scores th:nth-child(3)")
    assert browser.run("document.querySelector('table.scores th:nth-child(3)').ariaSort") == "descending"

    headline = ["mIoU", "mmseg mIoU", "video mIoU", "VC8", "paper val", "paper test1", "paper test"]
    assert browser.texts("table.scores thead th")[2:] == headline
    browser.enter("select.convention", "strict")
    assert browser.texts("table.scores thead th")[2:] == ["strict VC8", "correct VC8"]
    browser.enter("select.convention", "*")
    assert {*headline, "fwIoU", "mBIoU"} <= set(browser.texts("table.scores thead th"))
    browser.enter("select.convention", "")
    assert browser.texts("table.scores thead th")[2:] == headline

    browser.enter("input.search", "copy7 ")
    (row,) = browser.texts("table.scores tbody tr")
    assert "copy7 <img src=x" in row
    assert browser.errors == []


def test_two_predictions_are_compared_class_by_class(browser, written):
    browser.open(written["html"].as_uri())

    def column(number):
        return browser.texts(f"#class-by-class tbody > tr > :nth-child({number})")

    before = dict(zip(column(1), zip(column(3), column(4), strict=True), strict=True))
    assert {"wall", "ceiling", "door", "stair"} <= before.keys()
    browser.enter("#second", "2")
    after = dict(zip(column(1), zip(column(3), column(4), strict=True), strict=True))
    assert all(after[name][0] == figures[0] for name, figures in before.items() if name in after)
    assert after["wall"][1] != before["wall"][1]
    browser.enter("#classes-with", "ceil")
    assert column(1) == ["ceiling"]
    assert browser.errors == []


def test_a_confusion_leads_to_a_frame_that_has_it(browser, written):
    browser.open(written["html"].as_uri())
    pixels = [int(text.replace(",", "")) for text in browser.texts("#what-for-what td:nth-child(3)")]
    assert len(pixels) == 4 and pixels == sorted(pixels, reverse=True), "each class of the truth is taken for one"
    name = browser.texts("#what-for-what tbody th")[0]
    browser.open(browser.run("document.querySelector('#what-for-what a').href"))
    browser.wait_for(READY)
    assert browser.texts("#legend [aria-pressed=true]") == [name]
    assert browser.run("document.getElementById('right').value") == "errors-1"
    assert browser.errors == []


def test_the_matrix_leads_to_frames_by_keys_and_by_pointer(browser, written):
    browser.open(written["html"].as_uri())
    most = browser.texts("#what-for-what td:nth-child(3)")[0]
    browser.tab_to("#matrix")
    assert browser.texts("#matrix-cell")[0].endswith("shows it in the videos"), "the first cell that leads to a frame"
    browser.run("pointAt(0, 0)")
    for column in range(len(browser.run("matrix.columns"))):
        browser.press("ArrowRight" if column else "ArrowUp", "#matrix")
        if f"{most} pixels" in (cell := browser.texts("#matrix-cell")[0]):
            break
    assert "taken for" in cell and cell.endswith("shows it in the videos")
    place = set(browser.run("matrixPlace()").split("&"))
    browser.press("Enter", "#matrix")
    browser.wait_for(READY)
    assert place <= set(browser.run("location.hash").strip("#").split("&"))

    browser.open(written["html"].as_uri())
    browser.point("#matrix", f"matrix.room + matrix.side * ({column} + .5)", "matrix.room + matrix.side * .5")
    browser.wait_for(READY)
    assert place <= set(browser.run("location.hash").strip("#").split("&"))
    assert browser.errors == []


def test_a_screen_reader_is_given_the_matrix_as_a_table(browser, written):
    browser.open(written["html"].as_uri())
    ((role, name),) = browser.accessible("#matrix")
    assert role == "application" and "arrow keys" in name
    browser.click("#matrix-text summary")
    browser.wait_for("document.querySelector('#matrix-text tbody td') !== null")
    found = browser.accessible("#matrix-text table")
    roles = [role for role, _ in found]
    rows, columns = browser.run("[matrix.rows.length, matrix.columns.length]")
    assert [roles.count(role) for role in ("row", "rowheader", "columnheader")] == [rows + 1, rows, columns]
    assert ("columnheader", "no class") not in found and ("rowheader", "wall") in found
    shares = [name for role, name in found if role == "link"]
    assert shares and all(0 <= float(share) <= 100 for share in shares)


def test_curves_are_smoothed_and_chosen(browser, written):
    browser.open(written["html"].as_uri())
    assert sorted(browser.run(CURVES)) == ["run-0 smooth-medium", "run-1 smooth-medium"], "no learning rate was logged"
    browser.enter("#smoothing", "none")
    assert sorted(browser.run(CURVES)) == ["run-0 smooth-none", "run-1 smooth-none"]
    browser.click("input[data-run='0']")
    assert browser.run(CURVES) == ["run-1 smooth-none"]


def test_a_dot_has_its_name(browser, written):
    browser.open(written["html"].as_uri())
    assert browser.run("document.querySelector('[data-part=dot-0] title').textContent") == "1. Net, one | two + SSA"
    browser.run("document.querySelector('.dots li').dispatchEvent(new PointerEvent('pointerenter'))")
    assert browser.run("document.querySelectorAll('[data-part=dot-0].marked').length") > 0


def test_the_lists_of_the_viewer_lead_to_frames_and_classes(browser, written):
    browser.open(written["viewer"].as_uri())
    browser.wait_for(READY)
    for name in ("worst", "flicker"):
        frame = browser.texts(f"#{name} button")[-1].split(":")[0]
        browser.click(f"#{name} li:last-child button")
        browser.wait_for(f"document.getElementById('place').textContent.startsWith('{frame},')")
    label = browser.texts("#classes button")[0].split(":")[0]
    browser.click("#classes button")
    browser.wait_for("document.querySelector('#legend [aria-pressed=true]') !== null")
    assert browser.texts("#legend [aria-pressed=true]") == [label]
    assert browser.errors == []


def test_the_viewer_does_what_its_controls_say(browser, written):
    browser.open(written["viewer"].as_uri())
    browser.wait_for(READY)
    last = browser.run("Number(document.getElementById('frame').max)")
    for key, frame in (("ArrowRight", 1), ("End", last), ("ArrowLeft", last - 1), ("Home", 0)):
        browser.press(key)
        browser.wait_for(f"document.getElementById('frame').value === '{frame}'")
    browser.click("#play")
    assert browser.texts("#play") == ["Pause"]
    browser.wait_for("Number(document.getElementById('frame').value) > 1")
    browser.press(" ")
    assert browser.texts("#play") == ["Play"]
    browser.press("+")
    browser.wait_for("document.getElementById('view').style.width === '200%'")
    for selector, value, shown in (
        ("#left", "image", "left=image"),
        ("#right", "errors-0", "right=errors-0"),
        ("#right", "difference", "right=difference"),
        ("#first", "1", "first=1"),
        ("#alpha", "20", "alpha=20"),
        ("#split", "25", "split=25"),
    ):
        browser.enter(selector, value)
        browser.wait_for(f"location.hash.includes('{shown}')")
    assert browser.run("document.getElementById('line').style.left") == "25%"
    browser.enter("#video", "1")
    browser.wait_for("document.getElementById('picture').dataset.ready === '1/0'")
    assert browser.errors == []
