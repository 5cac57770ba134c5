"""Convert figures to SVG: elements of a page with light and dark colour schemes, or files in light colours."""

from __future__ import annotations

import io
import re
from collections.abc import Callable

from fedn_partial.client.charts.style import LIGHT, PAPER, VARIABLES


def page_element(figure, name: str, title: str) -> str:
    """Return the figure as an SVG element of a page, with selectable text and the page's CSS variables as colours.

    Parameters
    ----------
    name : prefix of the ids, which makes them unique in the page.
    title : text alternative of the chart.
    """
    text = _saved(figure, lambda tag: _page_tag(tag, name))
    text = text[text.index("<svg") :]
    text = re.sub(r"<style[^>]*>.*?</style>|<defs>\s*</defs>", "", text, flags=re.S)
    box = re.search(r'viewBox="[^"]*"', text)[0]
    head = f'<svg {box} role="img" aria-label="{_attribute(title)}" class="chart" xmlns="http://www.w3.org/2000/svg"'
    text = re.sub(r"^<svg[^>]*>", f'{head} xmlns:xlink="http://www.w3.org/1999/xlink">', text)
    return re.sub(r"\s*\n\s*", "\n", text)


def light_file(figure) -> str:
    """Return the figure as an SVG file in light colours, with a background."""
    figure.patch.set_facecolor(PAPER)
    text = _saved(figure, lambda tag: _coloured(tag, LIGHT.__getitem__))
    return text.replace("'DejaVu Sans'", "'DejaVu Sans', Verdana, sans-serif")


def _saved(figure, edit: Callable[[str], str]) -> str:
    """Return matplotlib's SVG without metadata and group ids, with `edit` applied to each tag.

    Text between tags is not edited, as labels may contain placeholder colours.
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
    """Return the tag with placeholder colours replaced by `value` of their CSS variables."""
    return re.sub("#000[0-9a-f]{3}", lambda match: value(VARIABLES[match[0]]), tag)


def _attribute(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")
