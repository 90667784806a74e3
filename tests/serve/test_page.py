"""The page in a real browser: streams, colours, the slider in mid-sentence, the proof, a phone's width."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("selenium")
if shutil.which("chromedriver") is None:
    pytest.skip("there is no chromium here", allow_module_level=True)

from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait

from balcony_edge.control.loaded import Loaded
from balcony_edge.serve.service import Service
from balcony_edge.serve.slots import Slot
from balcony_edge.telemetry import FakeSensors
from helpers.command import here

PHONE, DESK = (390, 844), (1280, 900)
# Steps of each reply before the gate, and seconds that the browser may take for anything.
STEPS, PATIENCE_S = 15, 60.0


@pytest.fixture(scope="module")
def browser() -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--hide-scrollbars"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    found = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
    yield found
    found.quit()


@pytest.fixture
def sensors(loaded: Loaded) -> Iterator[None]:
    """A device that tells its power and its battery."""
    fake = loaded.sensors
    assert isinstance(fake, FakeSensors)
    fake.set(power_w=7.5, battery_level=0.8)
    yield
    fake.set(power_w=None, battery_level=None)


def waited(browser: webdriver.Chrome, what: Any) -> Any:
    return WebDriverWait(browser, PATIENCE_S, 0.05).until(what)


def opened(browser: webdriver.Chrome, address: str, size: tuple[int, int]) -> None:
    browser.get("about:blank")
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": size == PHONE},
    )
    browser.get(address)
    waited(browser, lambda page: page.find_elements(By.CSS_SELECTOR, "#legend li"))


def is_quiet(browser: webdriver.Chrome) -> bool:
    """Whether the console had nothing to say."""
    said = browser.get_log("browser")
    assert not said
    return not said


def depths(browser: webdriver.Chrome, lane: str) -> list[int]:
    """Where a lane's tokens came from."""
    found: list[int] = browser.execute_script("return state.lanes[arguments[0]].tokens.map((t) => t.depth)", lane)
    return found


def text(browser: webdriver.Chrome, lane: str) -> str:
    found: str = browser.execute_script(f"return document.querySelector('#{lane} .text').textContent")
    return found


def asked(browser: webdriver.Chrome, slider: int, tokens: int) -> None:
    browser.execute_script("const m = document.getElementById('most'); m.value = arguments[0]", tokens)
    slide(browser, slider)
    browser.find_element(By.ID, "go").click()


def slide(browser: webdriver.Chrome, place: int) -> None:
    browser.execute_script(
        "const s = document.getElementById('slider'); s.value = arguments[0]; s.dispatchEvent(new Event('input'))",
        place,
    )


def done(browser: webdriver.Chrome) -> bool:
    return browser.find_element(By.ID, "go").is_enabled()


@pytest.mark.parametrize("size", [DESK, PHONE])
def test_both_lanes_stream_and_the_text_is_proven(
    browser: webdriver.Chrome, address: str, sensors: None, size: tuple[int, int]
) -> None:
    opened(browser, address, size)
    asked(browser, 0, 40)
    waited(browser, done)
    assert depths(browser, "lossless") == [12] * 40
    assert 3 in depths(browser, "spent")
    assert "lossless" in browser.find_element(By.CSS_SELECTOR, "#lossless .figures").text
    figures = browser.find_element(By.CSS_SELECTOR, "#spent .figures").text
    assert "exit 3" in figures
    assert "mJ a token" in figures
    # Colours differ by depth, and hovering tells what a token cost.
    colours = browser.execute_script(
        "return [...document.querySelectorAll('.text span')].map((s) => getComputedStyle(s).backgroundColor)"
    )
    assert len(set(colours)) > 1
    ActionChains(browser).move_to_element(browser.find_element(By.CSS_SELECTOR, "#spent .text span")).perform()
    tip = browser.find_element(By.ID, "tip")
    assert tip.is_displayed()
    assert all(word in tip.text for word in ("probability", "ms", "mJ"))
    # The lossless text is plain full depth's.
    browser.find_element(By.CSS_SELECTOR, "#lossless button").click()
    proof = waited(browser, lambda page: page.find_elements(By.CSS_SELECTOR, ".proof .yes, .proof .no"))[0]
    assert proof.get_attribute("class") == "yes"
    assert "of plain full depth" in proof.text
    strips = waited(browser, lambda page: page.find_elements(By.CSS_SELECTOR, "#strips figcaption"))
    assert {"power", "battery"} <= {strip.text.split("\n")[0] for strip in strips}
    # Nothing is wider than the window.
    assert browser.execute_script("return document.documentElement.scrollWidth") <= size[0]
    assert is_quiet(browser)


def test_the_slider_acts_in_mid_sentence(
    browser: webdriver.Chrome, address: str, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Replies stop between two tokens, where a budget is taken over; each after its own steps, whoever is quicker.
    allowed = {id(slot): threading.Semaphore(STEPS) for slot in service.slots.slots}
    arrived = threading.Event()
    follow, set_budget = Slot.follow, service.slots.set_budget

    def gated(slot: Slot) -> None:
        assert allowed[id(slot)].acquire(timeout=PATIENCE_S)
        follow(slot)

    def watched(*given: Any) -> None:
        set_budget(*given)
        arrived.set()

    monkeypatch.setattr(Slot, "follow", gated)
    monkeypatch.setattr(service.slots, "set_budget", watched)
    opened(browser, address, DESK)
    asked(browser, 0, 80)
    waited(browser, lambda page: len(depths(page, "spent")) >= STEPS - 2)
    before = depths(browser, "spent")
    # The first token is the prompt's, at full depth.
    assert set(before[1:]) == {3}
    slide(browser, 100)
    assert arrived.wait(PATIENCE_S)
    for gate in allowed.values():
        gate.release(1000)
    waited(browser, done)
    after = depths(browser, "spent")
    assert len(after) == 80
    assert after[-20:].count(12) > 10
    assert is_quiet(browser)


def test_an_error_is_told(browser: webdriver.Chrome, address: str) -> None:
    opened(browser, address, DESK)
    browser.execute_script("document.getElementById('prompt').value = arguments[0]", "word " * 3000)
    browser.find_element(By.ID, "go").click()
    waited(browser, done)
    assert "context" in browser.find_element(By.CSS_SELECTOR, "#spent .figures").text
    browser.get_log("browser")  # it says that a request was refused


def test_a_recorded_run_is_shown(browser: webdriver.Chrome, tmp_path: Path) -> None:
    log, out = tmp_path / "run.jsonl", tmp_path / "run.html"
    here("run", "-p", "Once upon a time", "-n", "24", "--budget", "0.4ms", "--log", str(log), "--log-text")
    assert here("explain", str(log), "--html", str(out)).returncode == 0
    browser.get(out.as_uri())
    waited(browser, lambda page: "tok/s" in page.find_element(By.CSS_SELECTOR, "#spent .figures").text)
    waited(browser, lambda page: len(depths(page, "spent")) == 24)
    assert "recorded" in browser.find_element(By.CSS_SELECTOR, "#spent h2").text
    assert not browser.find_element(By.ID, "ask").is_displayed()
    assert is_quiet(browser)
