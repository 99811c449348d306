#include "trace_tools/report/page.h"

#include "core/base/sha256.h"
#include "core/base/text.h"

namespace kvreplay::cli {
namespace {

std::string base64(std::string_view bytes) {
  static constexpr char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string out;
  out.reserve((bytes.size() + 2) / 3 * 4);
  for (std::size_t i = 0; i < bytes.size(); i += 3) {
    std::uint32_t group = 0;
    for (std::size_t k = 0; k < 3; ++k)
      group = group << 8U | (i + k < bytes.size() ? static_cast<unsigned char>(bytes[i + k]) : 0U);
    for (std::size_t k = 0; k < 4; ++k) out += i + k > bytes.size() ? '=' : digits[group >> (18 - 6 * k) & 63U];
  }
  return out;
}

}  // namespace

std::string html_text(std::string_view text) {
  std::string out;
  for (char c : printable(text)) {
    switch (c) {
      case '&': out += "&amp;"; break;
      case '<': out += "&lt;"; break;
      case '>': out += "&gt;"; break;
      case '"': out += "&quot;"; break;
      case '\'': out += "&#39;"; break;
      default: out += c;
    }
  }
  return out;
}

std::string data_uri(std::string_view media_type, std::string_view bytes) {
  return "data:" + std::string(media_type) + ";base64," + base64(bytes);
}

const char* const page_style = R"css(
:root { color-scheme: light dark;
  --page: #ffffff; --ink: #1b1f24; --muted: #57606a; --line: #d8dde3; --soft: #f5f7f9; --link: #0b5cad;
  --warn: #8a4b00; --warn-ground: #fff4e0; --warn-line: #e8b25a;
  --kept: #0b4f8f; --k2: #d7e9f9; --k3: #b9d8f4; --k4: #92c3ee; --gone: #8f979f; --some: #4d5660; --mark: #d55e00; }
@media (prefers-color-scheme: dark) { :root {
  --page: #16191d; --ink: #eceef0; --muted: #a3abb5; --line: #333941; --soft: #1e2227; --link: #7cb9f2;
  --warn: #ffd59a; --warn-ground: #33270f; --warn-line: #8a6420;
  --kept: #7cb9f2; --k2: #1e3b58; --k3: #225082; --k4: #2c69ab; --gone: #737b84; --some: #b3bac2; --mark: #f07f35; } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 56rem; background: var(--page); color: var(--ink);
  font: 16px/1.5 system-ui, "Segoe UI", "DejaVu Sans", Verdana, sans-serif; overflow-wrap: break-word; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: 0 0 .25rem; }
h2 { font-size: 1.2rem; margin: 2.75rem 0 .5rem; line-height: 1.3; }
p { margin: .5rem 0; } a { color: var(--link); }
.muted { color: var(--muted); } .small { font-size: .85rem; }
code, .mono { font-family: ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; font-size: .9em; }
.lead { font-size: 1.1rem; margin: 1rem 0; }
.notes { border: 1px solid var(--warn-line); background: var(--warn-ground); color: var(--warn); border-radius: 6px;
  padding: .5rem .9rem; margin: 1rem 0; }
.notes ul { margin: .25rem 0; padding-left: 1.2rem; }
nav ul { list-style: none; display: flex; flex-wrap: wrap; gap: .25rem 1rem; padding: 0; margin: .75rem 0 0; }
figure { margin: 1.25rem 0 2rem; } figure img { display: block; width: calc(100% + 16px); margin: 0 -8px; height: auto; }
.downloads { white-space: nowrap; }
figcaption { color: var(--muted); font-size: .9rem; margin-top: .25rem; }
.scroll { overflow-x: auto; margin: .75rem 0; border: 1px solid var(--line); border-radius: 6px; }
table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums; width: 100%; }
th, td { padding: .25rem .6rem; text-align: right; white-space: nowrap; }
th { font-weight: 600; } thead th { color: var(--muted); border-bottom: 1px solid var(--line); vertical-align: bottom; }
thead tr:first-child th { border-bottom: 0; padding-bottom: 0; }
td.first { white-space: normal; overflow-wrap: anywhere; min-width: 7.5rem; max-width: 40vw; }
th.first, td.first { text-align: left; position: sticky; left: 0; background: var(--page); }
th.group { text-align: left; } th.start, td.start { border-left: 1px solid var(--line); }
tbody th.section { text-align: left; background: var(--soft); border-top: 1px solid var(--line); position: sticky; left: 0; }
tr.best td { font-weight: 700; } tr.bound td { color: var(--muted); font-style: italic; }
tbody tr:not(.head):hover td { background: var(--soft); }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1rem; margin: .5rem 0; font-size: .9rem; }
dt { color: var(--muted); } dd { margin: 0; min-width: 0; overflow-wrap: anywhere; }
details { margin: .75rem 0; } summary { cursor: pointer; color: var(--link); }
pre { overflow-x: auto; background: var(--soft); padding: .75rem; border-radius: 6px; font-size: .8rem; }
.controls { display: flex; flex-wrap: wrap; gap: .5rem 1rem; margin: .75rem 0; align-items: end; }
.controls label { display: flex; flex-direction: column; font-size: .8rem; color: var(--muted); }
select { font: inherit; font-size: .95rem; padding: .3rem .4rem; background: var(--page); color: var(--ink);
  border: 1px solid var(--line); border-radius: 5px; max-width: 100%; }
.legend { display: flex; flex-wrap: wrap; gap: .35rem .9rem; font-size: .85rem; margin: .5rem 0; }
#readout { min-height: 1.5em; font-size: .9rem; }
#text { border: 1px solid var(--line); border-radius: 6px; padding: .75rem .9rem; max-height: 75vh; overflow: auto;
  white-space: pre-wrap; line-height: 1.75; font-size: .95rem; overflow-wrap: anywhere; }
.k0 { color: var(--gone); }
.k1, .k2, .k3, .k4 { color: var(--ink); text-underline-offset: 3px; text-decoration: underline var(--kept); border-radius: 2px; }
.k1 { color: var(--some); text-decoration-style: dotted; text-decoration-thickness: 1px; }
.k2 { background: var(--k2); text-decoration-thickness: 1px; }
.k3 { background: var(--k3); text-decoration-thickness: 2px; }
.k4 { background: var(--k4); text-decoration-thickness: 3px; }
.m { box-shadow: inset 0 2px 0 var(--mark); }
.name { color: var(--mark); font-size: .7em; font-weight: 700; vertical-align: super; padding: 0 .15em; user-select: none; }
#text span.here { outline: 2px solid var(--ink); }
@media (max-width: 640px) { body { padding: 1rem .75rem 3rem; font-size: 15px; } dl { grid-template-columns: 1fr; }
  dd { margin-bottom: .4rem; } h1 { font-size: 1.35rem; } }
@media print { #text { max-height: none; overflow: visible; } .controls, nav, #readout, .downloads { display: none; }
  .k1, .k2, .k3, .k4 { print-color-adjust: exact; -webkit-print-color-adjust: exact; } }
)css";

// Rebuilds the marked text for the chosen policy, budget and layer. Everything from files goes in as text nodes.
const char* const page_script = R"js(
"use strict";
(function () {
  var source = document.getElementById("tokens");
  if (!source) return;
  var data = JSON.parse(source.textContent), box = document.getElementById("text");
  var readout = document.getElementById("readout"), controls = document.getElementById("controls");
  var policy = document.getElementById("policy"), budget = document.getElementById("budget"), layer = document.getElementById("layer");
  // "0": no head; "l" (60 above it): every head; between: the share in sixtieths, never rounded to either end.
  function sixtieths(code) { return code.charCodeAt(0) - 48; }
  function level(n) { return n <= 0 ? 0 : n >= 60 ? 4 : n < 20 ? 1 : n <= 40 ? 2 : 3; }
  var nodes = [], shown = "";
  function names(t) { return data.marks[data.mark[t]] || ""; }
  function build() {
    box.textContent = "";
    for (var t = 0; t < data.tokens.length; t++) {
      if (data.mark[t] && (t === 0 || data.mark[t - 1] !== data.mark[t])) {
        var name = document.createElement("span");
        name.className = "name"; name.textContent = names(t); name.id = "mark-" + t;
        box.appendChild(name);
      }
      var span = document.createElement("span");
      span.textContent = data.tokens[t];
      span.dataset.t = t;
      nodes.push(span);
      box.appendChild(span);
    }
  }
  function find() {
    for (var i = 0; i < data.runs.length; i++)
      if (data.runs[i].policy === policy.value && data.runs[i].budget === budget.value) return data.runs[i];
    return null;
  }
  function show() {
    var run = find(), at = layer ? Number(layer.value) : 0;
    readout.textContent = run ? "" : "There is no run of this policy at this budget in the page.";
    shown = run ? run.levels[at] || run.levels[0] : "";
    for (var t = 0; t < nodes.length; t++) {
      var n = shown ? sixtieths(shown[t]) : 0;
      nodes[t].className = (shown ? "k" + level(n) : "") + (data.mark[t] ? " m" : "");
    }
  }
  var here = null;
  function point(event) {
    var t = event.target.dataset && event.target.dataset.t;
    if (t === undefined || !shown) return;
    if (here) here.classList.remove("here");
    here = event.target; here.classList.add("here");
    var n = sixtieths(shown[t]);
    var share = n <= 0 ? "no head keeps it" : n >= 60 ? "every head keeps it" : "about " + Math.round(n / 0.6) + " % of the heads keep it";
    var when = t < data.prompt ? "token " : "generated token ";
    readout.textContent = when + t + ", " + JSON.stringify(data.tokens[t]) + ": " + share + (names(t) ? "; part of: " + names(t) : "");
  }
  build();
  controls.hidden = false;
  [policy, budget, layer].forEach(function (one) { if (one) one.addEventListener("change", show); });
  box.addEventListener("mouseover", point);
  box.addEventListener("click", point);
  var jump = document.getElementById("jump");
  if (jump) jump.addEventListener("change", function () {
    var target = document.getElementById("mark-" + jump.value);
    if (jump.value === "") box.scrollTop = 0;
    else if (target) box.scrollTop += target.getBoundingClientRect().top - box.getBoundingClientRect().top - 40;
  });
  show();
})();
)js";

std::string script_hash() {
  const std::string hex = sha256_hex(page_script);
  std::string digest;
  for (std::size_t i = 0; i < hex.size(); i += 2) digest += static_cast<char>(std::stoi(hex.substr(i, 2), nullptr, 16));
  return "sha256-" + base64(digest);
}

}  // namespace kvreplay::cli
