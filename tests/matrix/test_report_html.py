"""The HTML page, as text and in a real browser."""

from __future__ import annotations

import html
import json
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from matrix.report import Report, changes, render_changes_html, render_html
from matrix.report.payload import SIGNS, version_of
from tests.matrix.reporting import MODES, PAIRS, everything, failing, line, release, written

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

HOSTILE = "</script><script>document.title='taken'</script><img src=x onerror=alert(1)> <!-- & \u202e\x00\ud800"
FAILED = "roundtrip:torch-zip:torch>torch:full:content-14"


def report_of(path: Path, cells: list[Any] | None = None) -> Report:
    return Report.read(written(path / "report.jsonl", everything() if cells is None else cells))


def payload_of(page: str) -> Any:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, flags=re.DOTALL)
    assert found
    return json.loads(found[1])


# The page as text


def test_the_page_needs_nothing_but_itself(tmp_path: Path) -> None:
    page = render_html(report_of(tmp_path))
    assert not re.search(r"""(?:src|action|srcset)\s*=|<link|@import|url\(""", page)
    assert set(re.findall(r'href="(?!#)([^"]*)"', page)) == {"https://example.org/known"}
    assert "default-src 'none'; style-src 'sha256-" in html.unescape(page)
    assert page.count("<script>") == page.count("<style>") == 1
    assert not re.search(r'\s(?:on\w+|style)="', page), "the policy admits no inline handlers and styles"


def test_the_page_holds_every_cell_once_with_its_verdict(tmp_path: Path) -> None:
    report = report_of(tmp_path)
    data = payload_of(render_html(report))
    assert [(cell["id"], cell["v"]) for cell in data["cells"]] == [(c.id, c.verdict) for c in report.cells]
    assert set(data["verdicts"]) == set(SIGNS)
    assert len(set(SIGNS.values())) == len(SIGNS), "no two verdicts share a sign"
    for shown, cell in zip(data["cells"], report.cells, strict=True):
        name, writer, reader = data["rows"][shown["r"]]
        assert [name, writer, reader] == [cell.axes[axis] for axis in ("format", "writer", "reader")]
        assert dict(data["settings"][place] for place in shown["x"]) == cell.axes
        assert data["versions"][shown["t"]] == "2.13.0"
    assert data["rerun"] == " --seed 5"


def test_what_a_file_names_is_no_markup(tmp_path: Path) -> None:
    page = render_html(report_of(tmp_path, [failing(0, HOSTILE)]))
    assert page.count("<script") == 2
    assert page.count("</script>") == 2
    assert "<img" not in page
    assert "\x00" not in page
    assert "\u202e" not in page
    seen = payload_of(page)["seen"][0]["text"]
    assert seen.startswith("mismatch at compare: </script><script>")
    assert seen.endswith("& \\u202e\\x00\\ud800")


def test_the_same_report_is_the_same_page(tmp_path: Path) -> None:
    report = report_of(tmp_path)
    assert render_html(report) == render_html(report)


def test_many_failures_are_folded_and_then_counted(tmp_path: Path) -> None:
    page = render_html(report_of(tmp_path, [failing(number) for number in range(130)]))
    assert page.count('<article class="story"') == 100
    assert "<summary>95 more</summary>" in page
    assert "… and 30 more, in the list of cells." in page


def test_the_version_of_a_cell_is_the_run_s_or_that_of_who_wrote_and_read() -> None:
    header = {"versions": {"torch": "2.13.0"}}
    assert version_of({"writer": "torch", "reader": "compat"}, header) == "2.13.0"
    assert version_of(release("1.4.0", "2.6.0").axes, header) == "1.4.0 → 2.6.0"
    assert version_of({}, {}) == "unknown"


# The page in a browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        pytest.skip("no Chromium is installed")
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with api.sync_playwright() as driver:
        # A container's root may not use the sandbox; the page is our own.
        made = driver.chromium.launch(
            executable_path=program, args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        )
        yield made
        made.close()


class Visit:
    """A page that was opened, and everything it complained of."""

    def __init__(self, browser: Browser, path: Path, **options: Any) -> None:
        context = browser.new_context(reduced_motion="reduce", **options)
        self.page: Page = context.new_page()
        self.complaints: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.path = path

    def open(self, place: str = "") -> Page:
        self.page.goto("about:blank")
        self.page.goto(self.path.as_uri() + place)
        return self.page

    def ids(self) -> list[str]:
        return self.page.locator("#list .id").all_text_contents()


@pytest.fixture
def visit(browser: Browser, tmp_path: Path) -> Iterator[Visit]:
    path = tmp_path / "report.html"
    path.write_text(render_html(report_of(tmp_path)), encoding="utf-8")
    made = Visit(browser, path)
    yield made
    made.page.context.close()
    assert made.complaints == []
    assert {url.partition("#")[0] for url in made.asked} <= {"about:blank", path.as_uri()}, "it loads nothing else"


def test_the_list_shows_failures_first_and_all_cells(visit: Visit) -> None:
    page = visit.open()
    assert page.title().startswith("compat-matrix: 23 cells, 69 examples: 1 broken")
    assert visit.ids()[0] == FAILED
    assert len(visit.ids()) == 23
    assert page.locator("#count").text_content() == "All 23 cells"
    assert page.locator("#list li").first.text_content() == (
        f"✗ broken{FAILED}3 examples, 250 msmismatch at compare: ['a'] dtype: float16, expected bfloat16"
    )


def test_filters_narrow_the_list_and_stay_in_the_address(visit: Visit) -> None:
    page = visit.open()
    page.select_option("#by-verdict", "known")
    assert page.locator("#count").text_content() == "2 of 23 cells"
    assert page.evaluate("location.hash") == "#?verdict=known"
    page.select_option("#by-verdict", "")
    page.select_option("#by-format", "safetensors")
    assert len(visit.ids()) == len(MODES)
    page.select_option("#by-mode", "mmap")
    page.select_option("#by-who", "safetensors → safetensors")
    page.select_option("#by-check", "roundtrip")
    page.select_option("#by-version", "2.13.0")
    assert visit.ids() == ["roundtrip:safetensors:safetensors>safetensors:wo:mmap:content-0"]
    address = page.evaluate("location.hash")
    page = visit.open(address)
    assert len(visit.ids()) == 1
    assert page.input_value("#by-mode") == "mmap"
    page.click("text=Clear")
    page.locator("#list li").nth(22).wait_for(state="attached")


def test_a_filter_offers_only_what_leads_somewhere(visit: Visit) -> None:
    page = visit.open()
    page.select_option("#by-format", "safetensors")
    assert page.locator("#by-verdict option").all_text_contents() == ["all", "✓ as-expected (6)"]
    assert page.locator("#by-who option").all_text_contents() == ["all", "safetensors → safetensors (6)"]


def test_search_takes_words_in_any_order_and_shows_where(visit: Visit) -> None:
    page = visit.open()
    page.keyboard.press("/")
    page.keyboard.type("BFLOAT16 zip")
    assert visit.ids() == [FAILED]
    assert page.locator("#list mark").all_text_contents() == ["zip", "bfloat16"]
    page.fill("#search", "nothing that is there")
    assert visit.ids() == []
    assert "No cell of 23 matches" in str(page.locator("#count").text_content())
    page.fill("#search", "torch loses it")
    assert len(visit.ids()) == 2, "reasons of known differences are searched"


def test_a_square_and_a_total_show_their_cells(visit: Visit) -> None:
    page = visit.open()
    square = page.get_by_role("button", name="torch-zip, torch → torch, full: 1 as-expected, 1 broken")
    square.click()
    assert [name.split(":")[3] for name in visit.ids()] == ["full", "full"]
    assert square.get_attribute("aria-pressed") == "true"
    total = page.get_by_role("button", name="2 known", exact=True)
    total.click()
    assert len(visit.ids()) == 2
    total.click()
    assert len(visit.ids()) == 23


def test_a_cell_opens_by_keyboard_and_gives_the_focus_back(visit: Visit) -> None:
    page = visit.open()
    page.locator("#list a").first.focus()
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog", name=FAILED)
    dialog.wait_for()
    text = dialog.inner_text()
    for part in (
        "broken: something is wrong that no one recorded",
        "mismatch at compare: ['a'] dtype: float16, expected bfloat16",
        "dtype",
        "3 examples in 250 ms",
        "Smallest failing example",
        f'cells = ["{FAILED}"]',
        "python matrix-report/reproducers/",
        f"matrix run --cells '{FAILED}' --seed 5",
        "what is written and read back is what was there",
        "weights_only=False: yes, as the user asked for in so many words",
    ):
        assert part in text, part
    page.keyboard.press("Escape")
    dialog.wait_for(state="hidden")
    assert page.evaluate("document.activeElement.querySelector('.id').textContent") == FAILED


def test_a_link_leads_to_a_cell(visit: Visit) -> None:
    from urllib.parse import quote

    page = visit.open("#" + quote(FAILED, safe=":>"))
    page.get_by_role("dialog", name=FAILED).wait_for()
    assert page.locator(".place").text_content() == "1 of 23"
    page.get_by_role("button", name="next cell").click()
    second = page.locator("#cell-title").text_content()
    assert second != FAILED
    assert quote(str(second), safe=":") in page.evaluate("location.hash").replace("%3A", ":")
    page.get_by_role("button", name="Close").click()
    known = visit.open("#" + quote("roundtrip:torch-zip:torch>torch:wo:content-10"))
    assert known.get_by_role("link", name="https://example.org/known").last.get_attribute("rel") == "noreferrer"


@pytest.mark.parametrize("place", ["#no-such-cell", "#%E0%A4%A", "#?order=__proto__&verdict=no", "#?q=%00"])
def test_an_address_that_leads_nowhere_does_no_harm(visit: Visit, place: str) -> None:
    page = visit.open(place)
    assert page.locator("#cell").get_attribute("open") is None
    assert page.locator("#count").text_content()


def test_the_theme_is_the_system_s_until_it_is_chosen(visit: Visit) -> None:
    page = visit.open()
    background = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(background)
    page.emulate_media(color_scheme="dark")
    dark = page.evaluate(background)
    assert light != dark
    page.click("#theme")
    assert page.evaluate(background) == light
    page.click("#theme")
    page.emulate_media(color_scheme="light")
    assert page.evaluate(background) == dark


def test_paper_shows_everything_but_the_controls(visit: Visit) -> None:
    page = visit.open()
    page.emulate_media(media="print")
    assert not page.locator(".filters").is_visible()
    assert not page.locator("#theme").is_visible()
    assert page.locator(".story").first.is_visible()
    assert page.locator(".grid").is_visible()
    assert page.evaluate("getComputedStyle(document.querySelector('.scroller')).maxHeight") == "none"


def test_everything_that_can_be_used_has_a_name_and_nothing_is_a_colour_alone(visit: Visit) -> None:
    page = visit.open()
    for element in page.locator("button:visible, a:visible, select, input, [role=region]").all():
        name = element.evaluate(
            "e => e.getAttribute('aria-label') || e.closest('label')?.textContent || e.textContent"
            " || document.getElementById(e.getAttribute('aria-labelledby'))?.textContent"
        )
        assert name, element.evaluate("e => e.outerHTML")
    verdicts = Counter(page.locator("#list .verdict").all_text_contents())
    assert verdicts["✗ broken"] == 1
    assert verdicts["≈ known"] == 2
    assert page.locator(".square.failed .fails").text_content() == "✗ 1 FAIL"


@pytest.mark.parametrize("width", [375, 1024, 1600])
def test_no_width_scrolls_the_page_sideways(browser: Browser, tmp_path: Path, width: int) -> None:
    path = tmp_path / "report.html"
    path.write_text(render_html(report_of(tmp_path)), encoding="utf-8")
    visited = Visit(browser, path, viewport={"width": width, "height": 800})
    page = visited.open("#" + FAILED)
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert page.evaluate("document.querySelector('dialog').getBoundingClientRect().width") <= width
    page.context.close()
    assert visited.complaints == []


def test_headers_stay_while_the_grid_scrolls(browser: Browser, tmp_path: Path) -> None:
    pairs = [(f"format-{number:02}", "torch", "torch") for number in range(40)]
    cells = [line(n, pair=pair, mode=mode) for n, pair in enumerate(pairs) for mode in MODES.values()]
    path = tmp_path / "report.html"
    path.write_text(render_html(report_of(tmp_path, cells)), encoding="utf-8")
    visited = Visit(browser, path, viewport={"width": 375, "height": 600})
    page = visited.open()
    moved = page.evaluate("""() => {
        const box = document.querySelector('.scroller');
        box.scrollTo(200, 300);
        const at = (element) => element.getBoundingClientRect();
        const rows = [...document.querySelectorAll('.grid th[scope=row]')];
        return [box.scrollTop, box.scrollLeft,
            at(document.querySelectorAll('.grid thead th')[3]).top - at(box).top,
            Math.max(...rows.map((row) => at(row).left - at(box).left))];
    }""")
    assert moved[0] == 300
    assert moved[1] > 0
    assert moved[2] <= 2
    assert moved[3] <= 2
    page.context.close()


def test_what_a_file_names_stays_text_in_the_browser(browser: Browser, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text(render_html(report_of(tmp_path, [failing(0, HOSTILE)])), encoding="utf-8")
    visited = Visit(browser, path)
    page = visited.open("#roundtrip:torch-zip:torch>torch:full:content-0")
    assert "</script><script>" in page.locator("#cell").inner_text()
    assert page.title().startswith("compat-matrix")
    assert page.locator("img").count() == 0
    page.context.close()
    assert visited.complaints == []


def test_eight_thousand_cells_open_in_under_a_second(browser: Browser, tmp_path: Path) -> None:
    modes = [*MODES.values()]
    cells = [line(number, pair=PAIRS[number % 3], mode=modes[number % len(modes)]) for number in range(8000)]
    path = tmp_path / "report.html"
    path.write_text(render_html(report_of(tmp_path, cells)), encoding="utf-8")
    visited = Visit(browser, path)
    page = visited.open()
    took = []
    for _ in range(3):
        page.reload()
        took.append(page.evaluate("performance.getEntriesByType('navigation')[0].domComplete"))
    assert min(took) < 1000, took
    assert page.locator("#list li").count() < 1000, "rows are made when they are scrolled to"
    page.locator("#more").scroll_into_view_if_needed()
    page.locator("#list li").nth(150).wait_for(state="attached")
    page.context.close()
    assert visited.complaints == []


def test_a_square_of_releases_shows_its_cells(browser: Browser, tmp_path: Path) -> None:
    pairs = [("1.4.0", "2.6.0"), ("1.4.0", "compat"), ("1.13.1", "2.6.0")]
    cells = [line(0), *(release(*pair) for pair in pairs), release("2.6.0", "1.4.0", "broken")]
    path = tmp_path / "report.html"
    path.write_text(render_html(report_of(tmp_path, cells)), encoding="utf-8")
    visited = Visit(browser, path)
    page = visited.open()
    table = page.get_by_role("region", name="Releases")
    assert table.locator("thead th").all_text_contents() == ["writer ↓ reader →", "1.4.0", "2.6.0", "compat"]
    assert table.locator("tbody th").all_text_contents() == ["1.4.0", "1.13.1", "2.6.0"]
    page.get_by_role("button", name="2.6.0 → 1.4.0, version: 1 broken").click()
    assert visited.ids() == ["version:torch-zip:2.6.0>1.4.0:wo:views"]
    page.click("text=Clear")
    page.locator("#list li").nth(4).wait_for(state="attached")
    page.select_option("#by-version", "1.4.0 → compat")
    assert visited.ids() == ["version:torch-zip:1.4.0>compat:wo:views"]
    page.context.close()
    assert visited.complaints == []


def test_the_page_of_changes_is_a_page_too(browser: Browser, tmp_path: Path) -> None:
    old = report_of(tmp_path, [line(number) for number in range(3)])
    new = report_of(tmp_path, [line(0), failing(1, HOSTILE), line(4)])
    path = tmp_path / "changes.html"
    path.write_text(render_changes_html(changes(old, new)), encoding="utf-8")
    visited = Visit(browser, path, viewport={"width": 375, "height": 800})
    page = visited.open()
    assert page.locator("h1").text_content() == "1 cell is newly broken"
    assert page.locator("section[aria-labelledby=broken] li").count() == 1
    assert page.evaluate("document.documentElement.scrollWidth") == 375
    page.context.close()
    assert visited.complaints == []
