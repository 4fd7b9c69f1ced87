"""Reads a page as a browser would, and minds what it would load."""

from __future__ import annotations

import html.parser
import re

# Attributes by which a page would load something.
_LOADING = {"src", "href", "srcset", "data", "action", "poster", "background"}
_EMPTY = {"meta", "link", "br", "img", "input", "hr"}


class Page(html.parser.HTMLParser):
    """What stands in a page, every tag of which has to be closed.

    Attributes:
      sections: Text of each section by its title.
      notes: Texts of notes.
      loads: What attributes name.
      ids: All ids.
      tags: All tags.
      policy: What it tells the browser to load.
    """

    def __init__(self, text: str):
        super().__init__()
        self.sections: dict[str, str] = {}
        self.notes: list[str] = []
        self.loads: list[str] = []
        self.ids: list[str] = []
        self.tags: list[str] = []
        self.policy = ""
        self._open: list[tuple[str, dict[str, str | None]]] = []
        self._title = ""
        self.style = "".join(re.findall(r"<style>(.*?)</style>", text, re.DOTALL))
        self.feed(text)
        self.close()
        assert not self._open

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        assert len(found) == len(attrs)
        self.tags.append(tag)
        self.loads += [found[name] for name in _LOADING & set(found)]
        self.loads += re.findall(r"url\(([^)]*)\)", found.get("style") or "")
        self.loads += re.findall(r"url\(([^)]*)\)", found.get("clip-path") or "")
        if "id" in found:
            self.ids.append(found["id"])
        if found.get("http-equiv") == "Content-Security-Policy":
            self.policy = found["content"]
        if tag not in _EMPTY:
            self._open.append((tag, found))
        if tag == "p" and found.get("class") == "note":
            self.notes.append("")

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in _EMPTY:
            self.handle_endtag(tag)

    def handle_endtag(self, tag):
        assert self._open.pop()[0] == tag

    def handle_data(self, data):
        if not self._open or self._open[-1][0] in ("style", "title"):
            return
        if self._open[-1][0] == "h2":
            self._title = data
            self.sections[data] = ""
        elif self._title:
            self.sections[self._title] += data + " "
        if self._open[-1][1].get("class") == "note":
            self.notes[-1] += data
