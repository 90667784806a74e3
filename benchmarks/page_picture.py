"""Pictures of the server's page for the docs, taken in a real browser (Debian: chromium, chromium-driver).

python benchmarks/page_picture.py --model smollm2-135m --out docs/page.png --phone docs/page-phone.png
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait
from serve_speed import served

from balcony_edge.control.budgets import parse_budget
from balcony_edge.control.loaded import Loaded
from balcony_edge.serve.service import Service
from balcony_edge.serve.slots import Slots

QUESTION = "What is a good name for a cat, and why?"
DESK, PHONE = (1100, 760), (390, 844)


def take(browser: webdriver.Chrome, port: int, size: tuple[int, int], slider: int, path: Path) -> None:
    """Ask both lanes, let the proof be made, hover over a token, and keep what is seen."""
    metrics = {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": size == PHONE}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    browser.get(f"http://127.0.0.1:{port}/")
    wait = WebDriverWait(browser, 300, 0.1)
    wait.until(lambda page: page.find_elements(By.CSS_SELECTOR, "#legend li"))
    browser.execute_script(
        "document.getElementById('prompt').value = arguments[0]; const s = document.getElementById('slider');"
        "s.value = arguments[1]; s.dispatchEvent(new Event('input'))",
        QUESTION,
        slider,
    )
    browser.find_element(By.ID, "go").click()
    wait.until(lambda page: page.find_element(By.ID, "go").is_enabled())
    browser.find_element(By.CSS_SELECTOR, "#lossless button").click()
    wait.until(lambda page: page.find_elements(By.CSS_SELECTOR, ".proof .yes, .proof .no"))
    if size == DESK:
        ActionChains(browser).move_to_element(browser.find_elements(By.CSS_SELECTOR, "#spent .text span")[5]).perform()
    path.write_bytes(browser.get_screenshot_as_png())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a bundle; default: the built-in demo")
    parser.add_argument("--slider", type=int, default=35)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--phone", type=Path)
    options = parser.parse_args()
    flags = webdriver.ChromeOptions()
    for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--hide-scrollbars"):
        flags.add_argument(flag)
    with Loaded(options.model) as loaded:
        service = Service(loaded, Slots(loaded, 2, parse_budget("full")), "model")
        with served(service) as port:
            browser = webdriver.Chrome(flags, webdriver.ChromeService(shutil.which("chromedriver")))
            take(browser, port, DESK, options.slider, options.out)
            if options.phone:
                take(browser, port, PHONE, options.slider, options.phone)
            browser.quit()
    print(json.dumps({"picture": str(options.out), "bytes": options.out.stat().st_size}))


if __name__ == "__main__":
    main()
