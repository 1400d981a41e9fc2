"""JavaScript libraries for slides and handout, and a headless Chromium to print and to test with."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from helpers.runtime import CourseError, output_folder

LIBRARIES = ("reveal.js@5.2.1", "mathjax@3.2.2")
CHROMIUMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


def libraries(root: Path) -> Path:
    """Return the folder with reveal.js and MathJax. Fetch them from npm into build/npm the first time.

    Raises CourseError if npm is missing or fails.
    """
    folder = output_folder(root) / "npm"
    stamp = folder / "-".join(LIBRARIES).replace("@", "-")
    if not stamp.exists():
        npm = shutil.which("npm")
        if not npm:
            raise CourseError("Slides and handout need npm, a part of Node.js: install it, then try again.")
        command = [npm, "install", "--prefix", str(folder), "--ignore-scripts", "--no-audit", "--no-fund", *LIBRARIES]
        folder.mkdir(parents=True, exist_ok=True)
        done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        if done.returncode:
            raise CourseError(
                "reveal.js and MathJax could not be fetched from npm. This needs a network once; then try again."
            )
        stamp.touch()
    return folder / "node_modules"


@contextmanager
def chromium() -> Iterator[Any]:
    """Yield a headless Chromium: the one named by CHROMIUM, else the system's, else playwright's own.

    Raises CourseError if there is none, or if playwright is missing.
    """
    try:
        from playwright.sync_api import Error, sync_playwright
    except ImportError:
        raise CourseError("This needs playwright. Use make handout or make browser, which install it.") from None
    found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, CHROMIUMS)), None)
    with sync_playwright() as playwright:
        try:
            # In a container, Chromium's own sandbox and /dev/shm are often not available. It opens only our own pages.
            options = ["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"]
            browser = playwright.chromium.launch(executable_path=found, args=options)
        except Error as error:
            raise CourseError(
                f"Chromium does not start. Install it, or name it: CHROMIUM=/path/to/chromium. It said: "
                f"{str(error).splitlines()[0]}"
            ) from None
        try:
            yield browser
        finally:
            browser.close()
