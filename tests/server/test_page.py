"""The page in a real browser: Debian's chromium. Without one these tests are skipped; .ci/run installs it."""

import json
import shlex
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import axe_playwright_python
import pytest
from PIL import Image
from playwright.sync_api import Browser, BrowserContext, Page, Route, expect, sync_playwright

from aladin.collection.indexing import IndexConfig, index_folder
from aladin.collection.store import default_file
from aladin.collection.writer import CollectionWriter, FileState, Photograph
from aladin.encoder.encoder import Encoder
from aladin.encoder.folder import ModelFolder
from tests.conftest import paint
from tests.serving import SEARCH, TOKENS, Running, config_of, painted_folder, server_of
from tests.tiny_model import COLOURS, DIM, GRID, TOKEN_DIM

pytestmark = pytest.mark.slow

CHROMIUM = shutil.which("chromium")
ARGUMENTS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
AXE = (Path(axe_playwright_python.__file__).parent / "axe.min.js").read_text(encoding="utf-8")
CALIBRATION = """
[calibration]
intercept = -4.0
slope = 6.0
length_intercept = 0.0
length_slope = 0.0
mean = 0.5
deviation = 0.2
data = "made up"
"""
expect.set_options(timeout=30_000)  # ms: a busy machine is no failure
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium; apt-get install chromium")
Opened = Callable[..., Page]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, model_path: Path) -> Path:
    return painted_folder(tmp_path_factory.mktemp("served") / "photos", model_path)


@pytest.fixture(scope="module")
def server(folder: Path, model_path: Path) -> Iterator[Running]:
    with server_of(config_of(folder, model_path, port=0)) as running:
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield found
        found.close()


@pytest.fixture
def complaints() -> list[str]:
    return []


@pytest.fixture
def opened(browser: Browser, server: Running, complaints: list[str]) -> Iterator[Opened]:
    """Opens the page; whatever it throws or its policy refuses fails the test."""
    contexts: list[BrowserContext] = []

    def open_page(address: str = "", at: str = "", width: int = 1280, height: int = 800, **settings: object) -> Page:
        context = browser.new_context(viewport={"width": width, "height": height}, **settings)  # type: ignore[arg-type]
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(30_000)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda message: complaints.append(message.text) if "Policy" in message.text else None)
        page.goto((address or server.address) + "/" + at)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []


def hits(page: Page) -> list[str]:
    """The labels of the tiles shown, in order."""
    return [tile.get_attribute("aria-label") or "" for tile in page.locator(".tile").all()]


def searched(page: Page, text: str) -> Page:
    page.locator("#query").fill(text)
    page.locator("#query").press("Enter")
    expect(page.locator("#told")).to_contain_text("searched in")
    return page


# Searching.


@pytest.mark.slow
def test_the_collection_is_shown_and_a_sentence_searches_it(opened: Opened) -> None:
    page = opened()
    expect(page.locator(".tile")).to_have_count(len(COLOURS) + 1)
    expect(page.locator("#told")).to_contain_text("7 photographs")
    searched(page, "red")
    assert "warm/red.png" in hits(page)[0]
    assert page.url.endswith("#q=red")
    expect(page).to_have_title("red \u2013 aladin")


@pytest.mark.slow
def test_typing_alone_searches_and_back_returns(opened: Opened) -> None:
    page = opened()
    searched(page, "blue")
    page.locator("#query").fill("green")
    expect(page.locator(".tile").first).to_have_attribute("aria-label", "Hit 1: green.png")
    searched(page, "yellow")
    page.go_back()
    expect(page.locator("#query")).to_have_value("blue")  # what was typed on the way is no search of its own


@pytest.mark.slow
def test_the_address_holds_everything_and_the_server_sees_none_of_it(opened: Opened, server: Running) -> None:
    asked: list[str] = []
    page = opened()
    page.on("request", lambda request: asked.append(request.url))
    page.goto(f"{server.address}/#q=red+and+white&more=white:2&without=blue&folder=warm")
    page.reload()
    expect(page.locator(".word.more")).to_have_text("white")
    expect(page.locator(".word.not")).to_contain_text("blue")
    expect(page.locator("#filters-count")).to_have_text("1")
    expect(page.locator(".tile")).to_have_count(1)
    assert not [url for url in asked if "red" in url.split("#")[0]]


@pytest.mark.slow
def test_a_word_with_a_minus_is_excluded(opened: Opened) -> None:
    page = searched(opened(), "red -blue")
    expect(page.locator(".word.not")).to_contain_text("blue")
    expect(page.locator("#query")).to_have_value("red")
    page.get_by_role("button", name="Allow blue again").click()
    expect(page.locator(".word.not")).to_have_count(0)


@pytest.mark.slow
def test_words_are_weighed_and_excluded_by_their_buttons(opened: Opened) -> None:
    page = searched(opened(), "red blue")
    page.get_by_role("button", name="Let red weigh more").click()
    expect(page.locator(".word.more .label")).to_have_attribute("data-weight", "2")
    page.get_by_role("button", name="Let red weigh less").click()
    expect(page.locator(".word.more")).to_have_count(0)
    page.get_by_role("button", name="Exclude blue").click()
    expect(page.locator("#query")).to_have_value("red")
    expect(page.locator(".word.not")).to_contain_text("blue")


@pytest.mark.slow
def test_a_word_lights_its_region_in_every_photograph(opened: Opened) -> None:
    page = searched(opened(), "blue red")
    page.get_by_role("button", name="blue: show where").focus()
    expect(page.locator(".grid.lit")).to_have_count(1)
    flag = page.get_by_role("button", name="flag.png")
    spot = flag.locator(".spot").bounding_box()
    tile = flag.bounding_box()
    assert spot is not None
    assert tile is not None
    assert spot["x"] >= tile["x"] + tile["width"] / 2 - 2  # the flag is blue on the right
    page.locator("#query").focus()
    expect(page.locator(".grid.lit")).to_have_count(0)


# One photograph.


@pytest.mark.slow
def test_why_tells_each_word_and_lights_its_region(opened: Opened) -> None:
    page = searched(opened(), "red and blue")
    page.get_by_role("button", name="flag.png").click()
    expect(page.locator(".share")).to_have_count(3)
    page.locator(".share", has_text="blue").hover()
    frame, spot = page.locator("#frame").bounding_box(), page.locator("#boxes .spot").bounding_box()
    assert frame is not None
    assert spot is not None
    assert spot["x"] >= frame["x"] + frame["width"] / 2 - 3
    values = [float(value.replace("−", "-")) for value in page.locator(".share .value").all_inner_texts()]  # noqa: RUF001
    told = page.locator(".why .sum").inner_text()
    assert abs(sum(values) - float(told.rstrip(".").split()[-1])) < 0.003


@pytest.mark.slow
def test_a_box_drawn_on_a_photograph_searches_for_what_is_in_it(opened: Opened) -> None:
    page = opened()
    page.get_by_role("button", name="flag.png").click()
    frame = page.locator("#frame").bounding_box()
    assert frame is not None
    page.mouse.move(frame["x"] + frame["width"] * 0.72, frame["y"] + frame["height"] * 0.1)
    page.mouse.down()
    page.mouse.move(frame["x"] + frame["width"] * 0.95, frame["y"] + frame["height"] * 0.9, steps=4)
    page.mouse.up()
    page.get_by_role("button", name="Search this region").click()
    expect(page.locator(".tile").first).to_have_attribute("aria-label", "Hit 1: cold/deep/blue.png")
    expect(page.locator(".word.image")).to_contain_text("like this region")


@pytest.mark.slow
@pytest.mark.parametrize(("width", "height"), [(390, 844), (1280, 800)])
@pytest.mark.parametrize(("top", "bottom"), [(0.05, 0.5), (0.5, 0.97), (0.02, 0.98)])
def test_what_confirms_a_box_lies_beside_it_and_within_sight(
    opened: Opened, width: int, height: int, top: float, bottom: float
) -> None:
    page = opened(width=width, height=height)
    page.get_by_role("button", name="flag.png").click()
    frame = page.locator("#frame").bounding_box()
    assert frame is not None
    page.mouse.move(frame["x"] + frame["width"] * 0.6, frame["y"] + frame["height"] * top)
    page.mouse.down()
    page.mouse.move(frame["x"] + frame["width"] * 0.97, frame["y"] + frame["height"] * bottom, steps=4)
    page.mouse.up()
    box, confirm, stage = (page.locator(name).bounding_box() for name in ("#choice", "#confirm", "#stage"))
    assert box is not None
    assert confirm is not None
    assert stage is not None
    assert stage["x"] <= confirm["x"]
    assert confirm["x"] + confirm["width"] <= stage["x"] + stage["width"]
    assert stage["y"] <= confirm["y"]
    assert confirm["y"] + confirm["height"] <= stage["y"] + stage["height"]
    apart = confirm["y"] >= box["y"] + box["height"] or confirm["y"] + confirm["height"] <= box["y"]
    assert apart or bottom - top > 0.9


@pytest.mark.slow
def test_a_further_picture_of_a_file_is_named_by_its_number_and_shown(opened: Opened, tmp_path: Path, model_path: Path) -> None:
    film, last = Image.new("RGB", (60, 40), "red"), Image.new("RGB", (60, 40), "blue")
    film.save(tmp_path / "film.gif", save_all=True, append_images=[last])
    with CollectionWriter.create(default_file(tmp_path), tmp_path) as collection:
        index_folder(collection, Encoder.load(model_path, threads=1), IndexConfig(workers=1, frames=2))
    with server_of(config_of(tmp_path, model_path, port=0)) as running:
        page = searched(opened(running.address), "blue")
        assert hits(page) == ["Hit 1: film.gif[1]", "Hit 2: film.gif"]
        page.locator(".tile").first.click()
        expect(page.locator("#title")).to_have_text("film.gif[1]")
        large = page.locator("#large")
        expect(large).to_have_js_property("naturalWidth", 60)
        red, green, blue, _ = large.evaluate(
            "image => { const sheet = new OffscreenCanvas(60, 40).getContext('2d'); sheet.drawImage(image, 0, 0);"
            " return Array.from(sheet.getImageData(30, 20, 1, 1).data); }"
        )
        assert blue > 200 > 50 > max(red, green)


@pytest.mark.slow
def test_more_like_this(opened: Opened) -> None:
    page = opened()
    page.get_by_role("button", name="warm/red.png").click()
    page.get_by_role("button", name="More like this").click()
    expect(page.locator(".word.image")).to_contain_text("like this picture")
    expect(page.locator("#told")).to_contain_text("searched in")
    assert not [label for label in hits(page) if "warm/red.png" in label]


@pytest.mark.slow
def test_a_picture_is_chosen_dropped_and_pasted(opened: Opened, tmp_path: Path) -> None:
    page = opened()
    page.locator("#file").set_input_files(paint(tmp_path / "x.png", "green"))
    expect(page.locator(".tile").first).to_have_attribute("aria-label", "Hit 1: green.png")
    for kind in ("drop", "paste"):
        data = list(paint(tmp_path / "y.png", "blue" if kind == "drop" else "yellow").read_bytes())
        page.evaluate(
            """([kind, data]) => {
                const transfer = new DataTransfer();
                transfer.items.add(new File([new Uint8Array(data)], "x.png", { type: "image/png" }));
                const options = { bubbles: true, cancelable: true };
                document.body.dispatchEvent(kind === "drop" ? new DragEvent("drop", { ...options, dataTransfer: transfer })
                    : new ClipboardEvent("paste", { ...options, clipboardData: transfer }));
            }""",
            [kind, data],
        )
        name = "cold/deep/blue.png" if kind == "drop" else "yellow.png"
        expect(page.locator(".tile").first).to_have_attribute("aria-label", f"Hit 1: {name}")
    page.get_by_role("button", name="Open this picture").click()
    expect(page.locator("#title")).to_have_text("Your picture")


# By keyboard alone.


@pytest.mark.slow
def test_everything_is_reached_by_keyboard(opened: Opened) -> None:
    page = opened()
    expect(page.locator(".tile")).to_have_count(len(COLOURS) + 1)
    page.keyboard.press("/")
    page.keyboard.type("red and blue")
    page.keyboard.press("Enter")
    expect(page.locator("#told")).to_contain_text("searched in")
    page.keyboard.press("ArrowDown")
    expect(page.locator(".tile:focus")).to_have_attribute("aria-label", hits(page)[0])
    page.keyboard.press("ArrowRight")
    second = hits(page)[1]
    expect(page.locator(".tile:focus")).to_have_attribute("aria-label", second)
    page.keyboard.press("Enter")
    expect(page.locator("#viewer")).to_be_visible()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowLeft")
    expect(page.locator("#title")).to_have_text(second.split(": ")[1])
    page.keyboard.press("r")
    expect(page.locator("#choice")).to_be_focused()
    for key in ("ArrowRight", "ArrowUp", "Shift+ArrowLeft", "Enter"):
        page.keyboard.press(key)
    expect(page.locator("#viewer")).to_be_hidden()
    expect(page.locator(".word.image")).to_contain_text("like this region")


@pytest.mark.slow
def test_escape_closes_and_focus_returns(opened: Opened) -> None:
    page = opened()
    expect(page.locator(".tile")).to_have_count(len(COLOURS) + 1)
    page.locator(".tile").nth(2).focus()
    label = hits(page)[2]
    page.keyboard.press("Enter")
    page.keyboard.press("r")
    page.keyboard.press("Escape")  # the box
    expect(page.locator("#viewer")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator(".tile:focus")).to_have_attribute("aria-label", label)


# For everybody.


@pytest.mark.slow
def test_what_is_typed_while_a_photograph_closes_is_searched_for(opened: Opened) -> None:
    page = opened()
    page.locator(".tile").first.click()
    expect(page.locator("#viewer")).to_be_visible()
    # The dialog tells that it has closed only after this.
    page.evaluate("""() => {
        document.querySelector("#viewer").close();
        const field = document.querySelector("#query");
        field.focus();
        field.value = "red";
        field.dispatchEvent(new Event("input", {bubbles: true}));
    }""")
    page.keyboard.press("Enter")
    expect(page.locator("#told")).to_contain_text("searched in")
    expect(page.locator("#query")).to_have_value("red")


STATES = ("", "#q=red+and+blue&more=red:1&without=green", "#q=red&open", "#q=red&open&box", "#to=1999-01-01&filters", "#fails")


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_axe_finds_nothing_serious(opened: Opened, scheme: str, width: int) -> None:
    for state in STATES:
        page = opened(
            at=state if "=" in state else "",
            width=width,
            height=844,
            color_scheme=scheme,
            reduced_motion="reduce",
            bypass_csp=True,
        )
        expect(page.locator("#message h2" if "1999" in state else ".tile.loaded").first).to_be_visible()
        if "open" in state:
            page.locator(".tile").first.click()
            expect(page.locator(".share").first).to_be_visible()
        if "box" in state:
            page.keyboard.press("r")
        if "fails" in state:
            page.context.set_offline(True)
            page.locator("#query").fill("red")
            expect(page.locator("#alert")).to_be_visible()
        if "filters" in state:
            page.locator("#filters-toggle").click()
        page.evaluate(AXE)
        found = page.evaluate("() => axe.run({ resultTypes: ['violations'] })")
        bad = [
            (violation["id"], [node["html"][:120] for node in violation["nodes"]])
            for violation in found["violations"]
            if violation["impact"] in ("serious", "critical", "moderate")
        ]
        assert bad == [], json.dumps(bad, indent=1)


@pytest.mark.slow
@pytest.mark.parametrize(("width", "height"), [(390, 844), (640, 400), (320, 640)])
def test_nothing_is_cut_off_on_a_phone_or_at_200_per_cent(opened: Opened, width: int, height: int) -> None:
    page = searched(opened(width=width, height=height), "red and blue")
    assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")
    page.locator(".tile").first.click()
    expect(page.locator(".share").first).to_be_visible()
    for name in ("More like this", "Search a region", "Close"):
        box = page.get_by_role("button", name=name).bounding_box()
        assert box is not None
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= width


# States.


@pytest.mark.slow
def test_nothing_matches_is_said(browser: Browser, opened: Opened, tmp_path: Path, model_path: Path) -> None:
    model = Path(shutil.copytree(model_path, tmp_path / "model"))
    with (model / "model.toml").open("a") as file:
        file.write(CALIBRATION)
    folder = painted_folder(tmp_path / "photos", model)
    with server_of(config_of(folder, model, port=0)) as server:
        page = opened(server.address, "#q=picture")
        expect(page.locator("#message h2")).to_have_text("Nothing here seems to show “picture”")
        expect(page.locator(".grid.faint .tile")).to_have_count(len(COLOURS) + 1)
        searched(page, "red")
        expect(page.locator("#message")).to_be_hidden()


@pytest.mark.slow
def test_an_empty_folder_explains_itself_and_notices_photographs(opened: Opened, tmp_path: Path, model_path: Path) -> None:
    folder = tmp_path / "Ann's holiday"
    folder.mkdir()
    with server_of(config_of(folder, model_path, port=0)) as server:
        page = opened(server.address)
        expect(page.locator("#message h2")).to_have_text("No photographs yet")
        command = page.locator("#message code").inner_text()
        assert shlex.split(command) == ["aladin", "index", "./Ann's holiday"]
        painted_folder(folder, model_path)
        expect(page.locator(".tile")).to_have_count(len(COLOURS) + 1)
        expect(page.locator("#message")).to_be_hidden()


@pytest.mark.slow
def test_a_server_that_is_gone_is_told_and_tried_again(opened: Opened) -> None:
    page = opened()
    expect(page.locator(".tile")).to_have_count(len(COLOURS) + 1)
    page.context.set_offline(True)
    page.locator("#query").fill("red")
    page.locator("#query").press("Enter")
    expect(page.locator("#alert")).to_contain_text("The server does not answer")
    expect(page.locator(".grid.stale")).to_have_count(1)  # what is still shown does not answer "red"
    page.context.set_offline(False)
    page.get_by_role("button", name="Try again").click()
    expect(page.locator("#told")).to_contain_text("searched in")
    expect(page.locator("#alert")).to_be_hidden()
    expect(page.locator(".grid.stale")).to_have_count(0)


@pytest.mark.slow
def test_waiting_is_told_after_a_moment_and_ends(opened: Opened) -> None:
    page = opened()
    expect(page.locator(".tile")).to_have_count(len(COLOURS) + 1)
    held: list[Route] = []
    page.route("**/v1/search", lambda route: held.append(route))
    page.locator("#query").fill("red")
    page.locator("#query").press("Enter")
    expect(page.locator(".top.waiting")).to_have_count(1)
    expect(page.locator("#results")).to_have_attribute("aria-busy", "true")
    held.pop().continue_()
    expect(page.locator("#told")).to_contain_text("searched in")
    expect(page.locator(".top.waiting")).to_have_count(0)
    expect(page.locator("#results")).to_have_attribute("aria-busy", "false")


@pytest.mark.slow
def test_filters_that_nothing_passes_can_be_cleared(opened: Opened) -> None:
    page = opened(at="#to=1999-01-01")
    expect(page.locator("#message h2")).to_have_text("No photograph passes the filters")
    page.locator("#message").get_by_role("button", name="Clear filters").click()
    expect(page.locator(".tile")).to_have_count(len(COLOURS) + 1)


@pytest.mark.slow
def test_a_token_is_asked_for_kept_and_never_in_the_address(opened: Opened, folder: Path, model_path: Path) -> None:
    with server_of(config_of(folder, model_path, port=0, tokens=TOKENS)) as server:
        asked: list[str] = []
        page = opened(server.address, "#q=red")
        page.on("request", lambda request: asked.append(request.url))
        for token in ("wrong-0123456789abcdef", SEARCH):
            page.locator("#token-value").fill(token)
            page.locator("#token-value").press("Enter")
        expect(page.locator(".tile.loaded").first).to_be_visible()
        page.reload()
        expect(page.locator(".tile.loaded").first).to_be_visible()
        assert not [url for url in asked if SEARCH in url]


@pytest.mark.slow
def test_an_error_of_the_page_itself_is_shown(opened: Opened, complaints: list[str]) -> None:
    page = opened()
    expect(page.locator(".tile")).to_have_count(len(COLOURS) + 1)
    page.evaluate("() => setTimeout(() => { throw new Error('on purpose'); })")
    expect(page.locator("#alert")).to_contain_text("on purpose")
    complaints.clear()


# Names that would be code.


def payloads(count: int) -> list[str]:
    """File names and words that run where text is taken for markup."""
    forms = (
        "<img src=x onerror=P>",
        "<script>P</script>",
        '"><svg onload=P>',
        "' autofocus onfocus=P x='",
        "javascript:P",
        "<iframe srcdoc='<script>parent.P</script>'>",
        "{{constructor.constructor('P')()}}",
        "${P}",
        "`${P}`",
        "<a href='javascript:P'>x</a>",
        "</style><script>P</script>",
        "<base href=//evil>",
        "<math><mtext><img src=x onerror=P>",
        "<object data='data:text/html,<script>P</script>'>",
        "\u202e<img src=x onerror=P>",
    )
    return [forms[n % len(forms)].replace("P", f"window.hit{n}=1").replace("/", "∕") for n in range(count)]  # noqa: RUF001


@pytest.mark.slow
def test_no_name_or_query_is_ever_run(opened: Opened, tmp_path: Path, model_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    source = paint(tmp_path / "x.jpg", "red")
    comment = Image.Exif()
    comment[0x010E] = "<script>window.hit9=1</script>"
    with Image.open(source) as picture:
        for number, name in enumerate(payloads(300)):
            place = folder / f"{name[:80]} {number}.jpg"
            picture.save(place, exif=comment)
    encoder = Encoder.load(model_path, threads=1)
    from aladin.collection.indexing import index_folder

    with CollectionWriter.create(default_file(folder), folder) as collection:
        index_folder(collection, encoder)
    with server_of(config_of(folder, model_path, port=0)) as server:
        page = opened(server.address)
        expect(page.locator(".tile.loaded").first).to_be_visible()
        for turn in range(6):
            page.mouse.wheel(0, 2000)
            page.wait_for_timeout(60)
            page.locator(".tile").nth(turn).hover()
        page.locator(".tile").first.click()
        for _ in range(30):
            page.keyboard.press("ArrowRight")
        page.keyboard.press("Escape")
        for query in payloads(15):
            page.locator("#query").fill(query)
            page.locator("#query").press("Enter")
            expect(page.locator("#told")).to_contain_text("searched in")
        page.goto(f"{server.address}/#q=" + "&without=".join(payloads(8)).replace("#", ""))
        page.reload()
        expect(page.locator("#told")).to_contain_text("searched in")
        assert page.evaluate("() => Object.keys(window).filter((name) => /^hit\\d/.test(name))") == []
        assert page.locator("main script, main iframe, main object, main base, main a").count() == 0


# Thousands of photographs.


@pytest.mark.slow
def test_ten_thousand_photographs_stay_light(opened: Opened, tmp_path: Path, model_path: Path) -> None:
    import numpy as np

    random = np.random.default_rng(0)
    vectors = random.normal(size=(10_000, DIM)).astype(np.float32)
    tokens = random.normal(size=(10_000, GRID**2, TOKEN_DIM)).astype(np.float32)
    with CollectionWriter.create(default_file(tmp_path), tmp_path) as collection:
        collection.use_model(ModelFolder.open(model_path))
        with collection.transaction():
            files = [FileState(f"{row:05}.png", 1, 1) for row in range(10_000)]
            collection.add(
                [Photograph(file, file.path.encode(), 4 + row % 3, 3, None) for row, file in enumerate(files)], vectors, tokens
            )
    with server_of(config_of(tmp_path, model_path, port=0)) as server:
        page = opened(server.address)
        expect(page.locator(".tile").first).to_be_visible()
        for _ in range(60):
            count = int(page.locator(".grid li").first.get_attribute("aria-setsize") or 0)
            if count == 10_000:
                break
            page.evaluate("() => scrollTo(0, document.body.scrollHeight)")
            page.wait_for_timeout(50)
        assert count == 10_000
        assert page.locator(".grid li").count() < 200
        page.evaluate("() => scrollTo(0, 0)")
        expect(page.locator('.grid li[aria-posinset="1"]')).to_have_count(1)
        page.locator(".tile").first.focus()
        page.keyboard.press("End")
        expect(page.locator(".tile:focus")).to_have_attribute("aria-label", "09999.png")
        searched(page, "red")
        expect(page.locator(".tile").first).to_have_attribute(
            "aria-label", page.locator(".tile").first.get_attribute("aria-label") or ""
        )
        assert page.locator(".grid li").count() < 200
