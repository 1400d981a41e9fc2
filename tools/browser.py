"""Open the notebooks in a real JupyterLab, in headless Chromium, and check what a reader sees: make browser

Each notebook is opened, all its cells are run, and the page is looked at in both themes and two widths. Slides and
handout are opened too, if they were made. Pictures of all that lie in build/browser/shots afterwards.

The course is copied first, because JupyterLab saves what it opens. JupyterLab offers its commands to the page as
`jupyterapp` if it is started with --LabApp.expose_app_in_browser.
"""

import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from helpers.runtime import CourseError, output_folder, project_root
from tools.notebooks import notebook_paths, run_for_names
from tools.web import chromium

COPIED = ("data", "docs", "helpers", "notebooks")
WIDTHS = (1280, 1024)
THEMES = ("JupyterLab Light", "JupyterLab Dark")
CELL_MINUTES = 15

OPEN = """async (path) => {
  const app = window.jupyterapp;
  await app.restored;
  const panel = await app.commands.execute('docmanager:open', {path, factory: 'Notebook'});
  await panel.context.ready;
  await panel.sessionContext.ready;
  for (let wait = 0; panel.sessionContext.session?.kernel?.status !== 'idle'; wait++) {
    if (wait > 1200) throw new Error('the kernel was not idle after two minutes');
    await new Promise(done => setTimeout(done, 100));
  }
  window.panel = panel;
  window.notebook = panel.content;
  // A kernel that dies or loses its connection ends a run without an error in any cell.
  window.troubles = [];
  const note = (_, status) => {
    if (['dead', 'autorestarting', 'disconnected'].includes(status)) window.troubles.push(status);
  };
  panel.sessionContext.statusChanged.connect(note);
  panel.sessionContext.connectionStatusChanged.connect(note);
}"""

# While a cell runs that has shown a picture, every frame of the screen must show one.
RUN = """() => {
  window.frames_ = {shown: 0, blank: 0};
  const seen = new Set();
  let last = -1;
  const look = () => {
    if (window.ended) return;
    notebook.widgets.forEach((cell, number) => {
      if (cell.model.type !== 'code' || !/\\*/.test(cell.inputArea?.promptNode?.textContent || '')) return;
      if (last < number && !window.scrolling) {  // follow the run, as a reader does
        window.scrolling = true;
        last = number;
        notebook.scrollToItem(number, 'start').finally(() => { window.scrolling = false; });
      }
      if (!cell.isAttached || window.scrolling) return;
      const loaded = [...cell.node.querySelectorAll('.jp-OutputArea-output img')]
        .some(image => image.complete && image.naturalWidth && image.getBoundingClientRect().height > 50);
      if (loaded) seen.add(number);
      if (seen.has(number)) window.frames_[loaded ? 'shown' : 'blank']++;
    });
    requestAnimationFrame(look);
  };
  requestAnimationFrame(look);
  window.ended = false;
  window.jupyterapp.commands.execute('notebook:run-all-cells')
    .catch(error => { window.troubles.push(String(error)); }).finally(() => { window.ended = true; });
}"""

STATE = """() => ({
  ended: window.ended,
  troubles: window.troubles,
  running: notebook.widgets.findIndex(cell => cell.model.executionState === 'running'),
})"""

SHUT_DOWN = "() => window.panel && window.panel.sessionContext.shutdown()"

CELLS = "() => notebook.widgets.map(cell => cell.model.toJSON())"

# JupyterLab builds only the cells near the visible ones, so walk down the notebook.
WALK = """async () => {
  const found = [];
  let pictures = 0;
  for (let number = 0; number < notebook.widgets.length; number++) {
    const cell = notebook.widgets[number];
    const tell = text => found.push(`cell ${number + 1} (${cell.model.id}): ${text}`);
    if (number === 1 && !cell.inputHidden) tell('the bootstrap cell is not folded');
    await notebook.scrollToItem(number, 'start');
    await new Promise(done => setTimeout(done, 60));
    const wide = notebook.node.getBoundingClientRect().right + 1;
    for (const image of cell.node.querySelectorAll('.jp-RenderedMarkdown img, .jp-OutputArea-output img')) {
      await image.decode().catch(() => {});
      if (!image.naturalWidth) tell('a picture is not shown');
      if (!image.alt) tell('a picture has no alternative text');
      if (image.getBoundingClientRect().right > wide) tell('a picture is wider than the window');
      pictures++;
    }
    for (const fold of cell.node.querySelectorAll('details')) if (fold.open) tell('a fold is open');
    if (cell.node.querySelector('mjx-merror, [data-mjx-error]')) tell('a formula is not set');
    if (/Error displaying widget/.test(cell.node.textContent)) tell('a widget is not shown');
  }
  return {found, pictures};
}"""

LINKS = """() => notebook.widgets.flatMap((cell, number) => cell.model.type !== 'markdown' ? [] : [
  ...cell.model.sharedModel.getSource().matchAll(/\\]\\(glossary\\.md#?([^)]*)\\)/g)].map(link => [number, link[1]]))"""

# Click the link and wait until the glossary shows the term in its visible part.
FOLLOW = """async ([number, anchor]) => {
  await notebook.scrollToItem(number, 'start');
  await new Promise(done => setTimeout(done, 300));
  const link = [...notebook.widgets[number].node.querySelectorAll('a')].find(a =>
    anchor ? a.href.endsWith('#' + anchor) : new URL(a.href).pathname.endsWith('/glossary.md'));
  if (!link) return 'there is no such link on the page';
  link.click();
  for (let wait = 0; wait < 100; wait++) {
    await new Promise(done => setTimeout(done, 100));
    if (!anchor && document.querySelector('.jp-MarkdownViewer h1')) return '';
    const target = [...document.querySelectorAll('.jp-MarkdownViewer [id], .jp-MarkdownViewer [data-jupyter-id]')]
      .find(node => [node.id, node.dataset.jupyterId].includes(anchor));
    const top = target?.getBoundingClientRect().top;
    if (top !== undefined && top > 0 && top < window.innerHeight) return '';
  }
  return 'the glossary does not show the term';
}"""


@contextmanager
def jupyterlab(course: Path, home: Path) -> Iterator[str]:
    """Start a JupyterLab of its own settings in the folder, and yield the address to open, without a path."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    token = secrets.token_hex(16)
    # An environment variable would keep pictures out of the notebooks, and one keeps results in the copy.
    environment = {name: value for name, value in os.environ.items() if name not in ("MPLBACKEND", "PYTHONPATH")}
    places = {name: str(home / name) for name in ("JUPYTER_CONFIG_DIR", "JUPYTERLAB_SETTINGS_DIR")}
    environment |= {**places, "JUPYTERLAB_WORKSPACES_DIR": str(home / "spaces"), "COURSE_OUTPUT": str(home / "output")}
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={port}"]
    command += [
        "--ServerApp.port_retries=0",
        f"--IdentityProvider.token={token}",
        "--LabApp.expose_app_in_browser=True",
    ]
    command += [f"--LabApp.app_settings_dir={project_root() / 'tools/jupyterlab'}", f"--ServerApp.root_dir={course}"]
    with (home / "jupyterlab.log").open("w") as log:
        server = subprocess.Popen(command, env=environment, cwd=course, stdout=log, stderr=log)
        try:
            for _ in range(600):
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/api/status?token={token}", timeout=5).close()
                    break
                except OSError:
                    if server.poll() is not None:
                        break
                    time.sleep(0.2)
            else:
                raise CourseError("JupyterLab did not answer within two minutes.")
            if server.poll() is not None:
                raise CourseError("JupyterLab ended at its start:\n" + (home / "jupyterlab.log").read_text()[-2000:])
            yield f"http://127.0.0.1:{port}/lab?token={token}&reset"
        finally:
            server.terminate()
            try:
                server.wait(20)
            except subprocess.TimeoutExpired:
                server.kill()


def faults_of_run(cells: Sequence[dict[str, Any]]) -> list[str]:
    """Return a line for each cell that did not run or that shows an error, after all cells were run."""
    found = []
    for number, cell in enumerate(cells, 1):
        where, tags = f"cell {number} ({cell.get('id')})", cell["metadata"].get("tags", [])
        if cell["cell_type"] != "code" or not "".join(cell["source"]).strip():
            continue
        errors = [out for out in cell["outputs"] if out["output_type"] == "error" and "raises-exception" not in tags]
        found += [f"{where}: {error['ename']}: {error['evalue'][:160]}" for error in errors]
        if cell["execution_count"] is None and "skip-execution" not in tags:
            found.append(f"{where}: it did not run")
    return found


def wait_for_run(page: Any) -> tuple[bool, list[str]]:
    """Wait until all cells were run. Returns whether that happened, and what kept it from happening.

    The limit is for one cell, so a slow machine may take longer for the notebook. What happened to the kernel is
    returned in both cases. It is a fault only if a cell did not run.
    """
    last, limit = -2, 0.0
    while True:
        state = page.evaluate(STATE)
        troubles = [f"the kernel: {trouble}"[:200] for trouble in state["troubles"]]
        if state["ended"]:
            return True, troubles
        for sign, text in ((".jp-Dialog", "a dialog opened"), (".jp-Stdin-input", "a cell waits for input")):
            if page.locator(sign).count():
                return False, [f"{text}: {page.locator(sign).first.inner_text()[:200]}", *troubles]
        if state["running"] != last:
            last, limit = state["running"], time.monotonic() + 60 * CELL_MINUTES
        elif time.monotonic() > limit:
            where = "the run had not begun" if last < 0 else f"cell {last + 1} still ran"
            return False, [f"{where} after {CELL_MINUTES} minutes", *troubles]
        page.wait_for_timeout(500)


def look_at_notebook(browser: Any, address: str, path: str, shots: Path) -> list[str]:
    """Open a notebook, follow its links to the glossary, run it and look at it. Returns a line for each fault."""
    page = browser.new_page(viewport={"width": WIDTHS[0], "height": 1000})
    try:
        return _faults_on(page, address, path, shots)
    finally:
        # A kernel that stays alive would take memory and time from the next notebook.
        with suppress(Exception):
            page.evaluate(SHUT_DOWN)
        page.close()


def _faults_on(page: Any, address: str, path: str, shots: Path) -> list[str]:
    page.set_default_timeout(120_000)
    found: list[str] = []
    page.on("pageerror", lambda error: found.append(f"error of the page: {str(error).splitlines()[0][:200]}"))
    page.goto(address, wait_until="domcontentloaded")
    page.wait_for_function("() => window.jupyterapp && window.jupyterapp.shell")
    page.evaluate(OPEN, path)
    found += [f"before the run, {fault}" for fault in page.evaluate(WALK)["found"]]
    page.evaluate(RUN)
    ended, troubles = wait_for_run(page)
    if not ended:
        return [*found, *troubles]
    cells, frames = page.evaluate(CELLS), page.evaluate("() => window.frames_")
    if failed := faults_of_run(cells):
        found += [*troubles, *failed]
    if frames["blank"]:
        found.append(f"a live picture flickers: {frames['blank']} of {sum(frames.values())} frames without it")
    expected = sum(pictures(output) for cell in cells for output in cell.get("outputs", []))
    for theme in THEMES:
        page.evaluate("theme => { jupyterapp.commands.execute('apputils:change-theme', {theme}); }", theme)
        for width in WIDTHS:
            page.set_viewport_size({"width": width, "height": 1000})
            page.wait_for_timeout(1000)
            seen = page.evaluate(WALK)
            where = f"{theme}, {width} pixels"
            found += [f"{where}, {fault}" for fault in seen["found"]]
            if seen["pictures"] < expected:
                found.append(f"{where}: {seen['pictures']} pictures are shown, and there are {expected}")
            page.evaluate("number => notebook.scrollToItem(number, 'start')", picture_cell(cells))
            page.wait_for_timeout(500)
            page.screenshot(path=shots / f"{Path(path).stem}_{theme.split()[1].lower()}_{width}.png")
    links = page.evaluate(LINKS)
    for number, anchor in links[:3]:
        if fault := page.evaluate(FOLLOW, [number, anchor]):
            found.append(f"cell {number + 1}, link to the glossary, #{anchor}: {fault}")
        # The command returns the whole panel, which cannot leave the page.
        page.evaluate("path => { jupyterapp.commands.execute('docmanager:open', {path}); }", path)
        page.wait_for_timeout(500)
    print(f"    {expected} pictures, {frames['shown']} frames of live ones, {len(links)} links to the glossary")
    return found


def pictures(output: dict[str, Any]) -> int:
    """Return how many pictures JupyterLab shows for an output. It prefers HTML to the picture of the same output."""
    data = output.get("data", {})
    return "".join(data["text/html"]).count("<img ") if "text/html" in data else int("image/png" in data)


def picture_cell(cells: Sequence[dict[str, Any]]) -> int:
    """Return the number of the last cell that shows a picture, for a screenshot, or 0."""
    shown = [number for number, cell in enumerate(cells) if any(map(pictures, cell.get("outputs", [])))]
    return shown[-1] if shown else 0


def look_at_slides(browser: Any, path: Path, shots: Path) -> list[str]:
    """Open a slide show and go through it. Returns a line for each slide that is too long, and for errors."""
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    found: list[str] = []
    page.on("pageerror", lambda error: found.append(f"error of the page: {str(error)[:200]}"))
    page.on("requestfailed", lambda request: found.append(f"not loaded: {request.url[:200]}"))
    page.goto(path.as_uri())
    page.evaluate("MathJax.startup.promise")
    for number in range(page.evaluate("Reveal.getTotalSlides()")):
        if number:
            page.evaluate("Reveal.next()")
        slide = "Reveal.getCurrentSlide()"
        height, title = page.evaluate(f"[{slide}.scrollHeight, {slide}.innerText.slice(0, 40)]")
        if height > 700:
            found.append(f"slide {number + 1} is too long ({height} of 700): {title!r}")
        if number in (1, 3):
            page.wait_for_timeout(1000)
            page.screenshot(path=shots / f"slides_{path.stem}_{number + 1}.png")
    page.close()
    return found


def run(root: Path, names: Sequence[str] = ()) -> int:
    """Look at the notebooks, and at slides if there are some. Returns the exit status: 1 if there is a fault."""
    paths = notebook_paths(root, names)
    if not paths:
        raise CourseError(f"There is no notebook in {root / 'notebooks'} to open.")
    shots = output_folder(root) / "browser/shots"
    shutil.rmtree(shots, ignore_errors=True)
    shots.mkdir(parents=True)
    failed = 0
    with chromium() as browser, tempfile.TemporaryDirectory() as temporary:
        home = Path(temporary)
        course = home / "course"
        for name in COPIED:
            shutil.copytree(root / name, course / name, ignore=shutil.ignore_patterns("__pycache__", ".*"))
        with jupyterlab(course, home) as address:
            for path in paths:
                start = time.perf_counter()
                print(f"    {path.name} is opened", flush=True)
                try:
                    found = look_at_notebook(browser, address, f"notebooks/{path.name}", shots)
                except Exception as error:  # of playwright; the other notebooks are looked at all the same
                    found = [f"{type(error).__name__}: {str(error).splitlines()[0]}"]
                failed += _tell(path.stem, found, time.perf_counter() - start)
        for path in sorted((output_folder(root) / "slides").glob("*.html")):
            start = time.perf_counter()
            found = look_at_slides(browser, path, shots)
            failed += _tell(f"slides {path.stem}", found, time.perf_counter() - start)
    print(f"Pictures of what was looked at: {shots}")
    return 1 if failed else 0


def _tell(name: str, found: Sequence[str], seconds: float) -> bool:
    print(f"{name:<40}{seconds:6.1f} s  {f'{len(found)} faults' if found else 'in order'}", flush=True)
    for fault in found:
        print(f"    {fault}", flush=True)
    return bool(found)


def main(arguments: Sequence[str] | None = None, root: Path | None = None) -> int:
    """Run the command line; returns the exit status."""
    return run_for_names("tools.browser", __doc__, run, arguments, root)


if __name__ == "__main__":
    sys.exit(main())
