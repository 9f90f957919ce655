// Contents, folding, search, sortable tables and legends. The page is whole without them.
(() => {
  "use strict";
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const groups = all("details.group");
  const links = all(".bar a");

  // A link into a folded group opens it.
  const follow = () => {
    const target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (!target) return;
    target.closest("details.group")?.setAttribute("open", "");
    links.forEach((link) => link.setAttribute("aria-current", String(link.hash === location.hash)));
    target.scrollIntoView();
  };
  addEventListener("hashchange", follow);
  links.forEach((link) => link.addEventListener("click", () => { if (link.hash === location.hash) follow(); }));

  const unfold = document.querySelector(".unfold");
  const everything = () => {
    const open = groups.some((group) => !group.open);
    groups.forEach((group) => { group.open = open; });
  };
  if (unfold) {
    unfold.hidden = !groups.length;
    unfold.addEventListener("click", everything);
    groups.forEach((group) => group.addEventListener("toggle", () => {
      unfold.textContent = groups.every((one) => one.open) ? "Fold all" : "Open all";
    }));
  }

  // Search: sections without the words are hidden, groups with them open, and the words are marked.
  const box = document.querySelector(".find input");
  const told = document.querySelector(".find output");
  const before = new Map();
  const mark = (words) => {
    if (!window.CSS?.highlights) return;
    CSS.highlights.delete("found");
    if (!words) return;
    const ranges = [];
    const walker = document.createTreeWalker(document.querySelector("main"), NodeFilter.SHOW_TEXT);
    while (walker.nextNode() && ranges.length < 2000) {
      const text = walker.currentNode.data.toLowerCase();
      if (walker.currentNode.parentNode.tagName === "SCRIPT") continue;
      for (let at = text.indexOf(words); at >= 0; at = text.indexOf(words, at + words.length)) {
        const range = new Range();
        range.setStart(walker.currentNode, at);
        range.setEnd(walker.currentNode, at + words.length);
        ranges.push(range);
      }
    }
    CSS.highlights.set("found", new Highlight(...ranges));
  };
  const text = (section) => [section, ...all("template", section).map((one) => one.content)]
    .map((part) => part.textContent).join(" ").toLowerCase();
  const search = () => {
    const words = box.value.trim().toLowerCase();
    if (words && !before.size) groups.forEach((group) => before.set(group, group.open));
    const sections = all("main section");
    const hits = sections.filter((section) => {
      const hit = !words || text(section).includes(words);
      section.hidden = !hit;
      return hit;
    });
    groups.forEach((group) => {
      const said = group.querySelector("summary").textContent.toLowerCase().includes(words);
      const inside = hits.some((section) => group.contains(section));
      group.hidden = Boolean(words) && !inside && !said;
      group.open = words ? inside : before.get(group) ?? group.open;
    });
    if (!words) before.clear();
    mark(words);
    told.textContent = words ? `${hits.length} of ${sections.length}` : "";
  };
  box?.addEventListener("input", search);

  // Sorting: missing cells stay at the end.
  const number = (text) => {
    const found = /^[−-]?\d[\d.,]*(e[+-]?\d+)?/i.exec(text.trim());
    return found ? parseFloat(found[0].replace("−", "-").replaceAll(",", "")) : NaN;
  };
  const sort = (button) => {
    const head = button.closest("th");
    const place = head.cellIndex;
    const body = head.closest("table").tBodies[0];
    const rising = head.getAttribute("aria-sort") !== "ascending";
    all("th", head.parentNode).forEach((other) => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", rising ? "ascending" : "descending");
    const key = (row) => row.cells[place].textContent.trim();
    const rows = [...body.rows].map((row) => [key(row), number(key(row)), row]);
    const numeric = head.classList.contains("number");
    rows.sort(([a, x], [b, y]) => {
      const lost = (numeric ? isNaN(x) : a === "–") - (numeric ? isNaN(y) : b === "–");
      if (lost) return lost;
      return (rising ? 1 : -1) * (numeric ? x - y : a.localeCompare(b, "en", { numeric: true }));
    });
    body.append(...rows.map(([, , row]) => row));
  };
  const sortable = (table) => {
    if (table.tBodies[0].rows.length < 2) return;
    [...table.tHead.rows[0].cells].forEach((head) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
    });
  };
  all("table.numbers").forEach(sortable);
  // Long tables are built when they are opened.
  const build = (details) => {
    const template = details.querySelector(":scope > template");
    if (!template) return;
    all("table.numbers", template.content).forEach(sortable);
    template.replaceWith(template.content);
  };
  all("details.more").forEach((details) => details.addEventListener("toggle", () => build(details)));

  // One legend serves all drawings of its section.
  const toggle = (button) => {
    const shown = button.getAttribute("aria-pressed") !== "true";
    button.setAttribute("aria-pressed", String(shown));
    const section = button.closest("section");
    all(`.drawing [data-line="${button.dataset.line}"]`, section).forEach((part) => { part.style.display = shown ? "" : "none"; });
    section.dispatchEvent(new Event("legend"));
  };

  document.addEventListener("click", (event) => {
    const button = event.target.closest?.("button");
    if (button?.closest(".numbers thead")) sort(button);
    if (button?.closest(".names")) toggle(button);
  });

  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "Escape" && box?.value) {
      box.value = "";
      search();
      box.blur();
    }
    if (/^(INPUT|TEXTAREA|SELECT)$/.test(event.target.tagName)) return;
    if (event.key === "/" && box) {
      event.preventDefault();
      box.focus();
    }
    if (event.key === "o") everything();
    const group = groups[Number(event.key) - 1];
    if (group) {
      group.open = !group.open;
      group.querySelector("summary").focus();
    }
  });

  follow();
  window.lowcurve = { all, sortable };
})();
