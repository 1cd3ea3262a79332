"""Finds text that is hard to read, and parts of a page that a screen reader cannot name.

The contrast is that of WCAG 2.2, section 1.4.3, computed from the styles that the browser applies.
"""

from __future__ import annotations

from playwright.sync_api import Page

FAINT = """
() => {
  const parse = (text) => (text.match(/[\\d.]+/g) ?? []).map(Number);
  const channel = (value) => (value /= 255) <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
  const luminance = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
  const background = (element) => {
    for (let one = element; one; one = one.parentElement) {
      const color = parse(getComputedStyle(one).backgroundColor);
      if (color.length === 3 || color[3] === 1) return color;
      if (color[3] > 0) throw new Error(`a translucent background: ${one.outerHTML.slice(0, 80)}`);
    }
    return [255, 255, 255];
  };
  const faint = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || !element.checkVisibility() || element.closest(".unseen, .skip"))
      continue;
    const style = getComputedStyle(element);
    const [one, two] = [luminance(parse(style.color)), luminance(background(element))].sort((a, b) => b - a);
    const ratio = (one + 0.05) / (two + 0.05);
    const size = parseFloat(style.fontSize);
    const isLarge = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
    if (ratio < (isLarge ? 3 : 4.5)) faint.push(`${ratio.toFixed(2)}: ${walker.currentNode.data.trim()}`);
  }
  return faint;
}
"""

NAMELESS = """
() => {
  const found = [];
  const complain = (what, element) => found.push(`${what}: ${element.outerHTML.slice(0, 120)}`);
  const text = (element) => element.getAttribute("aria-label")?.trim() || element.textContent.trim();
  if (!document.documentElement.lang) found.push("the language of the page is unknown");
  if (document.querySelectorAll("h1").length !== 1) found.push("there is not one h1");
  if (document.querySelectorAll("main").length !== 1) found.push("there is not one main");
  let before = 0;
  for (const heading of document.querySelectorAll("h1, h2, h3, h4")) {
    const level = Number(heading.tagName[1]);
    if (level > before + 1) complain("a level of headings is left out", heading);
    before = level;
  }
  for (const one of document.querySelectorAll("input")) if (!one.labels.length) complain("no label", one);
  for (const one of document.querySelectorAll("a, button")) if (!text(one)) complain("no name", one);
  for (const one of document.querySelectorAll("svg, progress, nav, [role=group]"))
    if (!one.getAttribute("aria-label")) complain("no aria-label", one);
  for (const one of document.querySelectorAll("th")) if (!one.scope) complain("no scope", one);
  for (const one of document.querySelectorAll("[tabindex]")) if (one.tabIndex > 0) complain("tab order", one);
  const ids = [...document.querySelectorAll("[id]")].map((one) => one.id);
  if (new Set(ids).size !== ids.length) found.push("an id stands twice");
  return found;
}
"""


def complaints(page: Page) -> list[str]:
    """What a reader with weak eyes or a screen reader would miss on a page, as sentences."""
    return [*page.evaluate(FAINT), *page.evaluate(NAMELESS)]
