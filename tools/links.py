"""Ask for every web address in the texts and notebooks whether it is still there: python -m tools.links

`make lint` checks the links between files. This one needs the network, so the weekly workflow runs it. Only an answer
that says "gone" is a fault: many sites refuse programs, and any may be down for an hour.
"""

import re
import sys
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from helpers.runtime import project_root

ADDRESS = re.compile(r"https?://[^\s\"'`<>\\\]}|]+")
NOT_OURS = re.compile(r"https?://(?:localhost|127\.|[\w.-]*example)|/OWNER/|//github\.com/you/")
GONE = (404, 410)
SECONDS = 30


def addresses(root: Path) -> dict[str, list[str]]:
    """Return the web addresses in the texts, notebooks and helpers, each with the files that name it."""
    found: dict[str, list[str]] = {}
    folders = [root / name for name in ("data", "docs", "helpers", "notebooks")]
    files = [*root.glob("*.md"), *(path for folder in folders for path in folder.rglob("*"))]
    for path in sorted(path for path in files if path.suffix in (".md", ".ipynb", ".py")):
        text = re.sub(r"data:image/[^\"\\]+", "", path.read_text(encoding="utf-8"))
        for address in set(ADDRESS.findall(text)):
            # In Markdown a bracket ends the address, unless the address opened it.
            while address.count(")") > address.count("("):
                address = address[: address.rindex(")")]
            address = address.split("#")[0].rstrip(".,;:*")
            if not NOT_OURS.search(address):
                found.setdefault(address, []).append(str(path.relative_to(root)))
    return found


def state(address: str) -> str:
    """Return "there", "gone", or why it could not be told."""
    request = urllib.request.Request(address, headers={"User-Agent": "Mozilla/5.0 (link check of a course)"})
    try:
        with urllib.request.urlopen(request, timeout=SECONDS):
            return "there"
    except urllib.error.HTTPError as error:
        return "gone" if error.code in GONE else f"status {error.code}"
    except (OSError, ValueError) as error:
        return str(error) or type(error).__name__


def main(root: Path | None = None) -> int:
    """Print a line for each address that is gone or could not be reached; returns 1 if one is gone."""
    found = addresses(root or project_root())
    with ThreadPoolExecutor(8) as pool:
        states = dict(zip(found, pool.map(state, found), strict=True))
    for address, said in states.items():
        if said != "there":
            print(f"{'✘' if said == 'gone' else '○'} {address} ({', '.join(dict.fromkeys(found[address]))}): {said}")
    count = list(states.values()).count
    print(f"{len(states)} addresses: {count('there')} there, {count('gone')} gone, the others could not be told.")
    return 1 if count("gone") else 0


if __name__ == "__main__":
    sys.exit(main())
