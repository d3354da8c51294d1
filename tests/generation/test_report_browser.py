"""The report page in a real browser: it opens without a word on the console, filters, and stays quick."""

import os
import shutil
from pathlib import Path

import pytest
import test_hostile
from hostile import PAYLOADS
from test_report import make, row

from vigc.jobs import ledger

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright, which vigc[dev] brings")

# The browser of the system: playwright's own would have to be downloaded.
NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = os.environ.get("VIGC_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)

coco, made = test_hostile.coco, test_hostile.made

pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium: apt-get install chromium, or name one in VIGC_CHROMIUM"
)

QUIET = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield started
        started.close()


@pytest.fixture
def visit(browser):
    """Opens a page and collects what it should not do: speak on the console, fail, ask for anything."""
    opened = []

    def open_(path, **settings):
        context = browser.new_context(viewport={"width": 1280, "height": 1000}, **settings)
        page, noise = context.new_page(), []
        page.on("console", lambda message: noise.append(message.text))
        page.on("pageerror", lambda error: noise.append(str(error)))
        page.on("dialog", lambda dialog: (noise.append(dialog.message), dialog.dismiss()))
        page.on("request", lambda request: request.url.startswith(("file:", "data:")) or noise.append(request.url))
        page.expose_function("caught", lambda *arguments: noise.append("a text of the dataset ran"))
        page.goto(Path(path).as_uri())
        opened.append((context, noise))
        return page

    yield open_
    for context, noise in opened:
        context.close()
        assert noise == []


def shown(page):
    return page.locator(".row:visible").count(), page.inner_text("#count")


def scored(index, kind, before, after, visual=None, **more):
    scores = {"draft_logprob": before, "answer_logprob": after, "visual_dependency": visual}
    return row(index, kind, scores=scores, **more)


KEPT = {"draft": "Nothing is new.", "answer": "Nothing is new."}


@pytest.fixture
def small(tmp_path):
    rows = [scored(index, "detail", -1.0, -index / 4) for index in range(4)]
    rows += [scored(index, "complex", -0.5, -0.25, index, **KEPT) for index in range(3)]
    records = [{"kind": "image", "path": "a.jpg", "reason": "is empty: get the file again"}]
    make(tmp_path / "set", rows, records=records)
    return tmp_path / "set" / ledger.REPORT


def test_filters(visit, small):
    page = visit(small)
    assert shown(page) == (7, "7 rows")
    page.click("[data-value=complex]")
    assert shown(page) == (3, "3 of 7 rows")
    page.click("[data-value='1']")
    assert shown(page) == (0, "0 of 7 rows") and page.is_visible("#nothing")
    page.click("[data-value='0']")
    assert shown(page) == (3, "3 of 7 rows") and not page.is_visible("#nothing")
    assert page.get_attribute("[data-value='1']", "aria-pressed") == "false"
    page.click("[data-value='0']")
    page.click("[data-filter=type][data-value='']")
    assert shown(page) == (7, "7 rows")
    page.fill("#words", "NOTHING new")
    playwright.expect(page.locator("#count")).to_have_text("3 of 7 rows")
    page.fill("#words", "")
    playwright.expect(page.locator("#count")).to_have_text("7 rows")


def test_scores_are_filtered_by_range(visit, small):
    page = visit(small)

    def slide(end, share):
        page.evaluate(
            "([id, value]) => { const e = document.getElementById(id); e.value = value; "
            "e.dispatchEvent(new Event('input')); }",
            [f"score-{end}", share * 200],
        )

    assert page.inner_text("#score-text") == "any"
    slide("high", 0.5)  # the answers' log-probabilities are -0.75, -0.5, four times -0.25, and 0
    assert shown(page) == (2, "2 of 7 rows") and page.inner_text("#score-text") == "−0.75 to −0.38"
    slide("high", 1)
    slide("low", 0.5)
    assert shown(page) == (5, "5 of 7 rows")
    page.select_option("#score-name", "gain")  # 1, 0.75, 0.5, 0.25 and three times 0.25
    assert shown(page)[0] == 2 and page.inner_text("#score-text") == "0.63 to 1.00"
    page.select_option("#score-name", "visual")  # 0, 1, 2, and four rows without
    assert shown(page) == (2, "2 of 7 rows")
    slide("low", 0)
    assert shown(page) == (7, "7 rows"), "the whole range asks for no score"


def test_what_was_set_aside_is_told_with_its_reason(visit, small):
    page = visit(small)
    page.click(".figures a")
    summary = page.locator(".reason summary")
    assert summary.inner_text().split("\n") == ["1", "is empty: get the file again"]
    assert not page.is_visible("text=a.jpg")
    summary.click()
    assert page.is_visible("text=a.jpg")


def test_hostile_texts_do_nothing(visit, tmp_path):
    rows = [
        row(index, draft=text, answer=f"{text} more {text}", question=text, image_id=f"{index:03d}{text}")
        for index, text in enumerate(PAYLOADS)
    ]
    for item, text in zip(rows, PAYLOADS, strict=True):
        item["trace"] = [{"sentence": text, "changed": True, "logprob": -0.5, "stop": text}]
    records = [{"kind": "image", "path": text, "reason": text} for text in PAYLOADS]
    records += [
        {"kind": "text", "path": "p", "image_id": text, "type": "detail", "reason": text, "text": text}
        for text in PAYLOADS
    ]
    make(tmp_path / "set", rows, records=records)
    page = visit(tmp_path / "set" / ledger.REPORT)
    page.evaluate("document.querySelectorAll('details').forEach((details) => { details.open = true; })")
    page.mouse.move(640, 500)
    page.evaluate("window.scrollTo(0, document.body.scrollHeight)")
    page.wait_for_timeout(300)
    assert page.locator("script").count() == page.locator("style").count() == 1
    assert page.locator("img").count() == len(PAYLOADS)
    allowed = "iframe, object, embed, link, base, form, video, audio, marquee, math, animate, [onerror], [onload]"
    assert page.locator(allowed).count() == 0
    questions = page.locator(".row h2").all_text_contents()
    # HTML knows no NUL.
    assert [" ".join(text.split()) for text in questions] == [
        " ".join(text.replace("\0", "").split()) for text in PAYLOADS
    ]


def test_a_hostile_job_s_page_does_nothing(visit, made):
    page = visit(made[0] / ledger.REPORT)
    page.evaluate("document.querySelectorAll('details').forEach((details) => { details.open = true; })")
    page.wait_for_timeout(300)
    assert page.locator("script").count() == page.locator("style").count() == 1
    assert page.locator(".row").count() > 100
    assert page.locator("a:not([href^='#'])").count() == 0


def test_three_thousand_rows_can_be_filtered(visit, tmp_path):
    kinds = ("detail", "complex")
    rows = [row(index, kind, **({} if index % 3 else KEPT)) for kind in kinds for index in range(1500)]
    make(tmp_path / "set", rows, max_rows=3000)
    page = visit(tmp_path / "set" / ledger.REPORT)
    assert page.inner_text("#count") == "3,000 rows"
    # From the click until the browser has painted what it led to.
    measure = """async (selector) => {
        const start = performance.now();
        document.querySelector(selector).click();
        await new Promise((done) => requestAnimationFrame(() => setTimeout(done, 0)));
        return performance.now() - start;
    }"""
    selectors = ["[data-value=detail]", "[data-value='1']", "[data-filter=type][data-value='']", "[data-value='1']"]
    times = [page.evaluate(measure, selector) for selector in selectors]
    assert page.inner_text("#count") == "3,000 rows"
    print(f"filters over 3,000 rows: {', '.join(f'{time:.0f} ms' for time in times)}")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_it_can_be_looked_at(scheme, width, visit, small, tmp_path):
    page = visit(small, color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 1600})
    folder = Path(os.environ.get("VIGC_SCREENSHOTS", tmp_path))
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"report-{scheme}-{width}.png"
    page.screenshot(path=path)
    print(f"screenshot: {path}")
    assert path.stat().st_size > 20_000
    assert page.evaluate("document.documentElement.scrollWidth") <= width, "nothing sticks out"
    colours = [page.evaluate(f"getComputedStyle(document.body).{name}") for name in ("backgroundColor", "color")]
    paper, ink = (sum(map(int, colour.removeprefix("rgb(")[:-1].split(", "))) for colour in colours)
    assert (paper > ink) == (scheme == "light")
