// Keeps the status page up to date. Without it the page can be read, and is as old as it was loaded.
"use strict";

const state = document.getElementById("live");
const gone = document.getElementById("gone");
const told = document.getElementById("told");
const RETRY_MS = 5000;

let source = null;
let retry = null;
let goneAt = null;
let level = document.querySelector("[data-level]").dataset.level;

function replace(name, html) {
  const element = document.querySelector(`[data-live="${name}"]`);
  if (!element) return;
  const selection = document.getSelection();
  if (!selection.isCollapsed && selection.intersectsNode?.(element)) return;
  const focused = element.contains(document.activeElement) ? document.activeElement : null;
  const address = focused?.getAttribute("href");
  element.innerHTML = html;
  if (!focused) return;
  const links = [...element.querySelectorAll("a")].filter((link) => link.getAttribute("href") === address);
  (links[0] ?? element.querySelector("[tabindex]"))?.focus({ preventScroll: true });
}

function tell() {
  const title = document.querySelector("[data-level]");
  if (title.dataset.level === level) return;
  level = title.dataset.level;
  told.textContent = title.textContent;
}

function answered() {
  goneAt = null;
  gone.hidden = true;
  state.textContent = "live";
  document.body.classList.remove("stale");
}

function lost() {
  if (goneAt === null) {
    goneAt = new Date();
    const time = goneAt.toISOString().slice(11, 19);
    gone.textContent = `The daemon has not answered since ${time}Z. What is shown is from before.`;
  }
  gone.hidden = false;
  state.textContent = "waiting for the daemon";
  document.body.classList.add("stale");
  // The browser tries again by itself only while the answers are no errors of HTTP.
  if (source?.readyState === EventSource.CLOSED) {
    close();
    retry = setTimeout(open, RETRY_MS);
  }
}

function open() {
  close();
  source = new EventSource("/events");
  source.onopen = answered;
  source.onerror = lost;
  source.onmessage = (message) => {
    answered();
    for (const [name, html] of Object.entries(JSON.parse(message.data))) replace(name, html);
    tell();
  };
}

function close() {
  clearTimeout(retry);
  source?.close();
  source = null;
}

function follow() {
  if (document.hidden) {
    close();
    state.textContent = "paused while hidden";
  } else {
    open();
  }
}

document.addEventListener("visibilitychange", follow);
window.addEventListener("pagehide", close);
window.addEventListener("pageshow", (event) => event.persisted && follow());
document.addEventListener("keydown", (event) => {
  if (event.key === "/" && !event.target.closest("input")) {
    event.preventDefault();
    document.getElementById("q").focus();
  }
});
follow();
