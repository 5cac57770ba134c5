"""Save a figure as SVG: as an element of a page that may be light or dark, or as a light file."""

from __future__ import annotations

import io
import re
from collections.abc import Callable

from fedn_partial.client.charts.style import LIGHT, PAPER, VARIABLES


def page_element(figure, name: str, title: str) -> str:
    """Return the figure as an SVG element of a page: text stays text, colours are the page's CSS variables.

    Parameters
    ----------
    name : of the chart; its ids begin with it, so that no other chart of the page has them.
    title : what a screen reader says of it.
    """
    text = _saved(figure, lambda tag: _page_tag(tag, name))
    text = text[text.index("<svg") :]
    text = re.sub(r"<style[^>]*>.*?</style>|<defs>\s*</defs>", "", text, flags=re.S)
    box = re.search(r'viewBox="[^"]*"', text)[0]
    head = f'<svg {box} role="img" aria-label="{_attribute(title)}" class="chart" xmlns="http://www.w3.org/2000/svg"'
    text = re.sub(r"^<svg[^>]*>", f'{head} xmlns:xlink="http://www.w3.org/1999/xlink">', text)
    return re.sub(r"\s*\n\s*", "\n", text)


def light_file(figure) -> str:
    """Return the figure as an SVG file in the light page's colours, on its background."""
    figure.patch.set_facecolor(PAPER)
    text = _saved(figure, lambda tag: _coloured(tag, LIGHT.__getitem__))
    return text.replace("'DejaVu Sans'", "'DejaVu Sans', Verdana, sans-serif")


def _saved(figure, edit: Callable[[str], str]) -> str:
    """Return matplotlib's SVG without metadata and ids of groups, each tag edited by `edit`.

    Text between tags stays as it is: a label may look like one of the placeholders.
    """
    target = io.StringIO()
    figure.savefig(target, format="svg", metadata={"Date": None, "Creator": None})
    text = re.sub(r"<metadata>.*?</metadata>", "", target.getvalue(), flags=re.S)
    return re.sub(r"<[^>]*>", lambda match: edit(_plain(match[0])), text)


def _plain(tag: str) -> str:
    tag = re.sub(r'^<g id="[^"]*"', "<g", tag)
    return re.sub(r' transform="rotate\(-0 [^"]*"', "", tag)


def _page_tag(tag: str, name: str) -> str:
    tag = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", tag)
    tag = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font-size: \1", tag)
    tag = re.sub(r"font-family: [^;\"]*;? ?", "", tag)
    return _coloured(tag, "var({})".format)


def _coloured(tag: str, value: Callable[[str], str]) -> str:
    """Return the tag with each placeholder replaced by the value of its CSS variable."""
    return re.sub("#000[0-9a-f]{3}", lambda match: value(VARIABLES[match[0]]), tag)


def _attribute(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")
