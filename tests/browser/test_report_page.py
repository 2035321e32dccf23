"""A report in a real browser, opened as a file: no errors, no network, and everything on it works without a mouse."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Browser, Locator, Page, sync_playwright
from report_targets import HOSTILE_ID, HOSTILE_OBJECT, make_report, make_root, make_run

from combo_avs.pipeline.report.caches import CacheSection
from combo_avs.pipeline.report.gallery import FILES, Gallery, Item, Measure, write_sheet
from combo_avs.pipeline.report.report import render
from combo_avs.pipeline.report.targets import Targets

CLIPS = 42  # 14 of each split: two pages


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("page")
    root = make_root(folder / "root", CLIPS)
    runs = [make_run(root, folder / "with"), make_run(root, folder / "without", seed=1, consistency=0.0)]
    return make_report([root, *runs], folder / "out").as_uri()


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


@contextmanager
def opened(browser: Browser, address: str) -> Iterator[Page]:
    """The open page; afterwards: it logged no error, asked nothing but files, and ran no script of a clip's name."""
    page, errors, requests = browser.new_page(), [], []
    page.on("console", lambda message: errors.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("dialog", lambda dialog: (errors.append(dialog.message), dialog.dismiss()))
    page.on("request", lambda request: requests.append(request.url))
    page.on("requestfailed", lambda request: errors.append(f"{request.url}: {request.failure}"))
    page.goto(address)
    yield page
    page.close()
    assert not errors
    assert {url.split(":")[0] for url in requests} <= {"file", "data"}


@pytest.fixture
def page(browser: Browser, address: str) -> Iterator[Page]:
    with opened(browser, address) as page:
        yield page


def gallery(page: Page, which: int) -> Locator:
    """0: of the runs, the test split; 1: of the cache root, all splits."""
    return page.locator("section.gallery").nth(which)


def names(of: Locator) -> list[str]:
    return of.locator("article h4").all_inner_texts()


def numbers(of: Locator, key: str) -> list[float]:
    """Those of one measure beside the clips, in order."""
    texts = of.locator(f"table.numbers td[data-key='{key}']").all_inner_texts()
    return [float(text) for text in texts if text != "–"]


def test_filters_by_split_category_and_name(page: Page) -> None:
    clips = gallery(page, 1)
    assert clips.locator(".where").first.inner_text() == f"{CLIPS} clips, page 1 of 4"
    clips.locator("[name=split]").select_option("val")
    assert clips.locator(".where").first.inner_text() == "14 clips, page 1 of 2"
    clips.locator("[name=split]").select_option("")
    clips.locator("[name=category]").select_option(HOSTILE_OBJECT)
    assert names(clips) == [HOSTILE_ID]
    clips.locator("[name=category]").select_option("")
    clips.locator("[name=find]").fill("CLIP-41")
    assert names(clips) == ["clip-41"]
    clips.locator("[name=find]").fill("no such clip")
    assert "Nothing passes" in clips.locator(".items").inner_text()


def test_sorts_clips_both_ways_and_single_frames(page: Page) -> None:
    clips = gallery(page, 0)
    clips.locator("[name=sort]").select_option("J:without")
    clips.locator("[name=order]").select_option("up")
    rising = numbers(clips, "J:without")
    assert rising == sorted(rising)
    clips.locator("[name=order]").select_option("down")
    falling = numbers(clips, "J:without")
    assert falling == sorted(falling, reverse=True)
    assert falling[0] > rising[0]
    clips.locator("[name=view]").select_option("frames")
    by_frame = numbers(clips, "J:without")
    assert len(by_frame) == 12
    assert by_frame == sorted(by_frame, reverse=True)
    assert by_frame[0] >= falling[0] - 1e-3
    assert all(", frame " in name for name in names(clips))


def test_a_button_leads_to_the_clips_that_differ_most(page: Page) -> None:
    page.locator("button[data-sort]").press("Enter")
    clips = gallery(page, 0)
    assert clips.locator("[name=sort]").evaluate("sort => sort === document.activeElement")
    sizes = [abs(d) for d in numbers(clips, "J-difference-0")]
    assert len(sizes) == 12
    assert sizes == sorted(sizes, reverse=True)


def test_pages_show_every_clip_once(page: Page) -> None:
    clips = gallery(page, 1)
    seen = names(clips)
    while clips.locator("[data-go='1']").first.is_enabled():
        clips.locator("[data-go='1']").first.click()
        seen += names(clips)
    assert len(seen) == len(set(seen)) == CLIPS
    clips.locator("[data-go='-1']").first.click()
    assert clips.locator(".where").first.inner_text() == f"{CLIPS} clips, page 3 of 4"


def test_of_thousands_of_clips_one_page_is_in_the_document(browser: Browser, tmp_path: Path) -> None:
    (tmp_path / FILES).mkdir()
    sheet = write_sheet(tmp_path, "sheet", [np.zeros((5, 8, 8, 3), np.uint8)])
    items = [
        Item(f"clip-{i:04d}", ("train", "test")[i % 2], ("dog",), 5, 1.0, [sheet], {"m": i / 7}, {"m": [i / 7] * 5})
        for i in range(2000)
    ]
    measures = [Measure("m", "measure", "measure", "some")]
    section = CacheSection("root", "", {}, [], [], Gallery("Clips", [["frame"]], items, measures, "m"))
    (tmp_path / "index.html").write_text(render(Targets(), [section], []))
    with opened(browser, (tmp_path / "index.html").as_uri()) as page:
        clips = gallery(page, 0)
        assert clips.locator(".where").first.inner_text() == "2000 clips, page 1 of 167"
        clips.locator("[name=order]").select_option("down")
        clips.locator("[name=split]").select_option("train")
        assert names(clips) == [f"clip-{i:04d}" for i in range(1998, 1974, -2)]
        assert page.locator("img").count() == 12
        clips.locator("[name=view]").select_option("frames")
        assert clips.locator(".where").first.inner_text() == "5000 frames, page 1 of 417"
        assert page.locator("img").count() == 12


def test_pictures_are_lazy_and_load(page: Page) -> None:
    image = gallery(page, 1).locator("article img").last
    assert image.get_attribute("loading") == "lazy"
    image.scroll_into_view_if_needed()
    page.wait_for_function("image => image.complete && image.naturalWidth > 0", arg=image.element_handle())


def test_sound_plays_and_a_line_runs_along(page: Page) -> None:
    article = gallery(page, 0).locator("article").first
    frames = article.locator("table.perframe tr").first.locator("th").count() - 1
    audio = article.locator("audio")
    audio.evaluate("async audio => { audio.muted = true; await audio.play(); }")
    page.wait_for_function("audio => audio.currentTime > 0.3", arg=audio.element_handle())
    assert audio.evaluate("audio => audio.duration") == pytest.approx(frames, abs=0.01)
    head = article.locator(".head").first
    assert head.is_visible()
    assert 0 < float(head.evaluate("head => parseFloat(head.style.left)")) < 100


def test_works_by_keyboard(page: Page) -> None:
    clips = gallery(page, 1)
    clips.locator("[name=split]").focus()
    page.keyboard.type("val")
    assert clips.locator(".where").first.inner_text() == "14 clips, page 1 of 2"
    for _ in range(7):
        page.keyboard.press("Tab")  # category, name, view, sort, order; Previous is disabled
        if page.evaluate("document.activeElement.dataset.go") == "1":
            break
    page.keyboard.press("Enter")
    assert clips.locator(".where").first.inner_text() == "14 clips, page 2 of 2"
    clips.locator(".strip").first.focus()
    outline = clips.locator(".strip").first.evaluate("strip => getComputedStyle(strip).outlineStyle")
    assert outline != "none"


@pytest.mark.parametrize("view", ["clips", "frames"])
def test_a_phone_scrolls_downwards_only(page: Page, view: str) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    for which in (0, 1):
        gallery(page, which).locator("[name=view]").select_option(view)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    first = gallery(page, 0).locator("article img").first.bounding_box()
    assert first is not None
    assert first["x"] < 200  # the first frame can be seen beside its name
