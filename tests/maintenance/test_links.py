"""tools.links: which addresses are found, and that only those that are gone are a fault. The server is local."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tools import links


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a server that answers with the status in the path."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(int(self.path[1:4]))
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    monkeypatch.setattr(links, "NOT_OURS", links.re.compile("/OWNER/"))
    monkeypatch.setattr(links, "SECONDS", 5)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("path", "said"), [("200", "there"), ("404", "gone"), ("410", "gone"), ("403", "status 403"), ("503", "status 503")]
)
def test_only_an_answer_that_says_so_means_gone(path, said, site):
    assert links.state(f"{site}/{path}") == said


def test_the_exit_status_and_the_lines_name_what_is_gone(site, tmp_path: Path, capsys):
    (tmp_path / "README.md").write_text(f"[a]({site}/200) and {site}/403.")
    assert links.main(tmp_path) == 0
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/x.md").write_text(f"[b]({site}/404#part)")
    assert links.main(tmp_path) == 1
    said = capsys.readouterr().out
    assert f"✘ {site}/404 (docs/x.md): gone" in said and f"○ {site}/403 (README.md): status 403" in said
    assert "3 addresses: 1 there, 1 gone" in said


def test_addresses_are_read_as_people_write_them(tmp_path: Path):
    (tmp_path / "x.md").write_text(
        "See [a](https://a.org/x_(y)), <https://b.org/>, `https://c.org/z`, https://d.org/e.\n"
        "https://github.com/OWNER/NAME http://localhost:8888 https://github.com/you/name"
    )
    assert set(links.addresses(tmp_path)) == {
        "https://a.org/x_(y)",
        "https://b.org/",
        "https://c.org/z",
        "https://d.org/e",
    }


def test_the_course_has_addresses_and_none_is_cut(root):
    found = links.addresses(root)
    assert len(found) > 30 and not any(address.endswith((",", "(", "\\n")) for address in found)
