"""Pages and captions: the templates that lie beside this file, filled in."""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Any

import jinja2
import markupsafe

HERE = Path(__file__).parent


def render(name: str, content: dict[str, Any]) -> str:
    """A page; in HTML every value is escaped."""
    return _environment().get_template(name).render(content)


def caption(figure: str, **facts: Any) -> str:
    """The words under a figure in one line: its macro in captions.j2, Markdown."""
    words = _environment().get_template("captions.j2").module
    return " ".join(str(getattr(words, figure)(**facts)).split())


def latents(size: int) -> str:
    return f"{size} latent dimension{'s' * (size > 1)}"


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        autoescape=jinja2.select_autoescape(["html.j2"]),
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
    )
    filters = {"words": _caption_html, "contents": _contents, "latents": latents}
    environment.filters |= filters
    return environment


def _contents(page: str) -> str:
    """Links to the second headings of a Markdown page, as GitHub names them."""
    titles = re.findall("^## (.*)$", page, re.MULTILINE)
    anchors = (
        re.sub(r"[^\w-]", "", title.lower().replace(" ", "-")) for title in titles
    )
    return " · ".join(f"[{t}](#{a})" for t, a in zip(titles, anchors, strict=True))


def _caption_html(text: str) -> markupsafe.Markup:
    """A caption as HTML: escaped, and what stands between backticks as code."""
    escaped = str(markupsafe.escape(text))
    return markupsafe.Markup(re.sub("`(.*?)`", r"<code>\1</code>", escaped))
