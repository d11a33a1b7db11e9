"use strict";
(() => {
  const root = document.documentElement;
  const byId = (id) => document.getElementById(id);

  // Elements are made of text alone, never of markup: what a file names is shown and not interpreted.
  function make(tag, options = {}, ...children) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(options)) {
      if (name === "class") made.className = value;
      else if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
      else made.setAttribute(name, value);
    }
    made.append(...children.filter((child) => child !== null));
    return made;
  }

  const count = (number, unit) => `${number.toLocaleString("en")} ${unit}${number === 1 ? "" : "s"}`;

  function seconds(number) {
    if (number >= 10) return `${number.toFixed(0)} s`;
    if (number >= 1) return `${number.toFixed(1)} s`;
    return `${(number * 1000).toFixed(number < 0.01 ? 1 : 0)} ms`;
  }

  // A page from a disk may be refused its storage; the choice then lasts as long as the page.
  const stored = {
    get(name) { try { return localStorage.getItem(name); } catch { return null; } },
    set(name, value) { try { localStorage.setItem(name, value); } catch { /* not kept */ } },
  };

  function themes() {
    const names = { "": "system", light: "light", dark: "dark" };
    const button = byId("theme");
    function show(name) {
      if (name) root.dataset.theme = name; else delete root.dataset.theme;
      button.textContent = `Theme: ${names[name]}`;
    }
    show(Object.hasOwn(names, stored.get("compat-matrix-theme") ?? "-") ? stored.get("compat-matrix-theme") : "");
    button.hidden = false;
    button.addEventListener("click", () => {
      const order = Object.keys(names);
      const next = order[(order.indexOf(root.dataset.theme ?? "") + 1) % order.length];
      show(next);
      stored.set("compat-matrix-theme", next);
    });
  }

  root.classList.add("js");
  themes();
  if (!byId("data")) return;

  // A link to a cell opens its story; without a script it leads to the failure's own place in the page.
  for (const article of document.querySelectorAll(".story")) article.removeAttribute("id");

  const data = JSON.parse(byId("data").textContent);
  const verdicts = Object.keys(data.verdicts);
  const who = data.rows.map(([, writer, reader]) => `${writer} → ${reader}`);
  data.cells.forEach((cell, place) => {
    cell.place = place;
    cell.facets = {
      verdict: cell.v,
      check: cell.id.split(":", 1)[0],
      format: data.rows[cell.r][0] || "no format",
      version: data.versions[cell.t],
      who: who[cell.r],
      mode: data.columns[cell.m],
    };
    const wanted = data.wanted[cell.w];
    cell.text = `${cell.id} ${cell.v} ${data.seen[cell.o].text} ${wanted.text} ${wanted.known}`.toLowerCase();
  });
  const ids = new Map(data.cells.map((cell) => [cell.id, cell]));
  const FACETS = ["verdict", "check", "format", "version", "who", "mode"];
  const selects = Object.fromEntries(FACETS.map((name) => [name, byId(`by-${name}`)]));
  const search = byId("search");
  const order = byId("order");
  const list = byId("list");
  const STEP = 100;
  let found = [];
  let drawn = 0;

  const words = () => search.value.toLowerCase().split(/\s+/).filter(Boolean);

  function matches(cell, terms, chosen, except) {
    return FACETS.every((name) => name === except || !chosen[name] || chosen[name] === cell.facets[name]
        || (chosen[name] === "failed" && name === "verdict" && data.verdicts[cell.v].failed))
      && terms.every((term) => cell.text.includes(term));
  }

  const rank = (cell) => (data.verdicts[cell.v].failed ? 0 : 1);
  const ORDERS = {
    "": (a, b) => rank(a) - rank(b) || a.place - b.place,
    time: (a, b) => b.s - a.s || a.place - b.place,
    id: (a, b) => (a.id < b.id ? -1 : Number(a.id > b.id)),
  };

  // Each list shows what there is with all other filters as they are, so that no choice leads to nothing.
  function choices(name, terms, chosen) {
    const counts = new Map();
    for (const cell of data.cells) {
      if (matches(cell, terms, chosen, name)) counts.set(cell.facets[name], (counts.get(cell.facets[name]) ?? 0) + 1);
    }
    const all = name === "verdict" ? verdicts : [...new Set(data.cells.map((cell) => cell.facets[name]))].sort();
    const options = [new Option("all", "")];
    const failed = verdicts.filter((verdict) => data.verdicts[verdict].failed);
    if (name === "verdict") {
      const total = failed.reduce((sum, verdict) => sum + (counts.get(verdict) ?? 0), 0);
      if (total || chosen.verdict === "failed") options.push(new Option(`✗ all that fail (${total})`, "failed"));
    }
    for (const value of all) {
      const number = counts.get(value) ?? 0;
      if (!number && chosen[name] !== value) continue;
      const sign = name === "verdict" ? `${data.verdicts[value].sign} ` : "";
      options.push(new Option(`${sign}${value} (${number.toLocaleString("en")})`, value));
    }
    selects[name].replaceChildren(...options);
    selects[name].value = chosen[name] ?? "";
    selects[name].classList.toggle("set", Boolean(chosen[name]));
  }

  const chosenNow = () => Object.fromEntries(FACETS.map((name) => [name, selects[name].value]));

  function marked(text, terms) {
    if (!terms.length) return [text];
    const lower = text.toLowerCase();
    const parts = [];
    let at = 0;
    while (at < text.length) {
      const hits = terms.map((term) => [lower.indexOf(term, at), term.length]).filter(([start]) => start >= 0);
      if (!hits.length) break;
      const [start, length] = hits.sort((a, b) => a[0] - b[0] || b[1] - a[1])[0];
      parts.push(text.slice(at, start), make("mark", {}, text.slice(start, start + length)));
      at = start + length;
    }
    return [...parts, text.slice(at)];
  }

  const badge = (name) => make("span", { class: `verdict v-${name}` },
    make("span", { "aria-hidden": "true" }, data.verdicts[name].sign), ` ${name}`);

  function row(cell, terms) {
    const wanted = data.wanted[cell.w];
    const happened = data.seen[cell.o].text;
    const because = cell.v === "skipped" || data.verdicts[cell.v].failed ? happened : wanted.text;
    const noted = cell.v === "as-expected" ? null : make("span", { class: "what" }, ...marked(because, terms));
    return make("li", {}, make("a", { href: `#${encodeURIComponent(cell.id)}` }, badge(cell.v),
      make("span", { class: "id" }, ...marked(cell.id, terms)),
      make("span", { class: "cost" }, `${count(cell.n, "example")}, ${seconds(cell.s)}`), noted));
  }

  function draw(most) {
    const terms = words();
    const until = Math.min(found.length, drawn + most);
    const rows = [];
    for (; drawn < until; drawn += 1) rows.push(row(found[drawn], terms));
    list.append(...rows);
    const left = found.length - drawn;
    byId("more").textContent = left ? `${left.toLocaleString("en")} more follow as you scroll.` : "";
  }

  function update(chosen = chosenNow()) {
    const terms = words();
    for (const name of FACETS) choices(name, terms, chosen);
    found = data.cells.filter((cell) => matches(cell, terms, chosen)).sort(ORDERS[order.value]);
    list.replaceChildren();
    drawn = 0;
    draw(STEP);
    const all = data.cells.length;
    byId("count").textContent = found.length === all ? `All ${count(all, "cell")}`
      : found.length ? `${found.length.toLocaleString("en")} of ${count(all, "cell")}`
        : `No cell of ${all.toLocaleString("en")} matches; clear a filter or the search`;
    pressed(chosen);
  }

  function pressed(chosen) {
    for (const button of document.querySelectorAll(".total")) {
      button.setAttribute("aria-pressed", String(button.dataset.verdict === chosen.verdict));
    }
    for (const button of document.querySelectorAll(".square")) {
      const { format, who: pair, mode } = button.dataset;
      button.setAttribute("aria-pressed", String(chosen.mode === mode && chosen.who === pair && (chosen.format || "") === format));
    }
  }

  // What is chosen stands in the address, so that a view can be sent to someone.
  function remember() {
    const kept = new URLSearchParams();
    for (const [name, value] of Object.entries(chosenNow())) if (value) kept.set(name, value);
    if (search.value) kept.set("q", search.value);
    if (order.value) kept.set("order", order.value);
    const text = kept.toString();
    history.replaceState(null, "", text ? `#?${text}` : "#cells");
    return text;
  }

  function choose(chosen) {
    update(chosen);
    remember();
  }

  function recall(text) {
    const kept = new URLSearchParams(text);
    search.value = kept.get("q") ?? "";
    order.value = Object.hasOwn(ORDERS, kept.get("order") ?? "") ? kept.get("order") ?? "" : "";
    update(Object.fromEntries(FACETS.map((name) => [name, kept.get(name) ?? ""])));
  }

  function command(text) {
    const said = make("button", { type: "button", class: "quiet" }, "Copy");
    said.addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(text);
        said.textContent = "Copied";
      } catch {
        getSelection().selectAllChildren(said.previousSibling);
        said.textContent = "Selected";
      }
    });
    return make("div", { class: "command" }, make("code", {}, text), said);
  }

  const quoted = (text) => `'${text.replaceAll("'", `'"'"'`)}'`;

  function told(pairs) {
    const made = make("dl", { class: "told" });
    for (const [name, ...shown] of pairs) made.append(make("dt", {}, name), make("dd", {}, ...shown));
    return made;
  }

  function evidence(wanted) {
    const parts = [make("code", {}, wanted.known)];
    if (/^https?:\/\//.test(wanted.link)) parts.push(" ", make("a", { href: wanted.link, rel: "noreferrer" }, wanted.link));
    else if (wanted.link) parts.push(make("details", {}, make("summary", {}, "how to see it"), make("pre", {}, wanted.link)));
    return parts;
  }

  function settings(cell) {
    return told(cell.x.map((place) => {
      const [name, value] = data.settings[place];
      const axis = data.axes[name] ?? { says: "", values: {} };
      const says = [axis.says, axis.values[value]].filter(Boolean).join(": ");
      return [name, value, says ? make("small", {}, says) : null].filter((part) => part !== null);
    }));
  }

  function example(cell) {
    const failure = cell.f;
    if (!failure) return [];
    const title = failure.shrunk ? "Smallest failing example" : "A failing example";
    const parts = [make("h3", {}, title)];
    if (failure.reproducer) parts.push(make("p", { class: "says" }, "A script that shows it:"), command(`python ${failure.reproducer}`));
    if (failure.example) parts.push(make("pre", { tabindex: "0" }, JSON.stringify(failure.example, null, 2)));
    return parts;
  }

  function record(cell) {
    if (!cell.k) return [];
    return [make("h3", {}, "To record it as a known difference"),
      make("p", { class: "says" }, "Once someone knows why it happens:"), make("pre", { tabindex: "0" }, cell.k)];
  }

  function story(cell) {
    const wanted = data.wanted[cell.w];
    const happened = data.seen[cell.o];
    const pairs = [["Expected", wanted.text], ["Seen", happened.text]];
    if (happened.facets.length) pairs.push(["Differs in", happened.facets.join(", ")]);
    if (wanted.known) pairs.push(["Known difference", ...evidence(wanted)]);
    pairs.push(["Tried", `${count(cell.n, "example")} in ${seconds(cell.s)}`], ["torch", cell.facets.version]);
    return [
      make("h2", { id: "cell-title" }, cell.id),
      make("p", {}, badge(cell.v), `: ${data.verdicts[cell.v].says}`),
      told(pairs), ...example(cell), ...record(cell),
      make("h3", {}, "Run it again"), command(`matrix run --cells ${quoted(cell.id)}${data.rerun}`),
      make("h3", {}, "What this cell is"), make("p", { class: "says" }, data.checks[cell.facets.check] ?? ""), settings(cell),
    ];
  }

  const dialog = byId("cell");
  let opener = null;

  function open(cell) {
    const at = found.indexOf(cell);
    const step = (by, name, sign) => {
      const button = make("button", { type: "button", "aria-label": `${name} cell` }, sign);
      const target = at < 0 ? undefined : found[at + by];
      if (target) button.addEventListener("click", () => go(target)); else button.disabled = true;
      return button;
    };
    const bar = make("div", { class: "bar" },
      make("span", { class: "place" }, at < 0 ? "" : `${(at + 1).toLocaleString("en")} of ${found.length.toLocaleString("en")}`),
      step(-1, "previous", "‹"), step(1, "next", "›"),
      make("button", { type: "button", onclick: () => dialog.close() }, "Close"));
    const inner = dialog.firstElementChild;
    inner.replaceChildren(bar, ...story(cell));
    dialog.scrollTop = 0;
    if (!dialog.open) {
      opener = document.activeElement;
      dialog.showModal();
    }
    bar.lastElementChild.focus();
  }

  function go(cell) {
    history.replaceState(null, "", `#${encodeURIComponent(cell.id)}`);
    open(cell);
  }

  function follow() {
    let text = location.hash.slice(1);
    if (text.startsWith("?")) { recall(text.slice(1)); return; }
    try { text = decodeURIComponent(text); } catch { /* kept as it is */ }
    const cell = ids.get(text);
    if (cell) open(cell);
    else if (dialog.open) dialog.close();
  }

  function listen() {
    for (const name of FACETS) selects[name].addEventListener("change", () => choose(chosenNow()));
    order.addEventListener("change", () => choose(chosenNow()));
    search.addEventListener("input", () => choose(chosenNow()));
    search.form.addEventListener("submit", (event) => event.preventDefault());
    search.form.addEventListener("reset", () => setTimeout(() => choose({})));
    for (const button of document.querySelectorAll(".total")) {
      button.addEventListener("click", () => {
        choose({ verdict: button.getAttribute("aria-pressed") === "true" ? "" : button.dataset.verdict });
        byId("cells").scrollIntoView();
      });
    }
    for (const button of document.querySelectorAll(".square")) {
      button.addEventListener("click", () => {
        search.value = "";
        choose({ format: button.dataset.format, who: button.dataset.who, mode: button.dataset.mode });
        byId("cells").scrollIntoView();
      });
    }
    dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
    dialog.addEventListener("close", () => { remember(); opener?.focus(); });
    addEventListener("hashchange", follow);
    addEventListener("beforeprint", () => draw(400));
    addEventListener("keydown", (event) => {
      if (event.key !== "/" || dialog.open || /^(INPUT|SELECT|TEXTAREA)$/.test(document.activeElement.tagName)) return;
      event.preventDefault();
      search.focus();
    });
    new IntersectionObserver((seen) => { if (seen.some((one) => one.isIntersecting)) draw(STEP); }, { rootMargin: "800px" })
      .observe(byId("more"));
  }

  update();
  listen();
  follow();
})();
