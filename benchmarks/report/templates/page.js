// Filters the rows of all tables by words, which stand in the address, so that a view can be shared:
// index.html#tabular&filter=power+maf. Sorting is the library's. In figures, legend entries show and
// hide their contestant, and a mark that is pointed at or touched is named. Without this all is there
// to read, and browsers name marks by their titles.
"use strict";
(() => {
  const box = document.getElementById("filter"), told = document.getElementById("told");
  const read = () => {
    const [place, words = ""] = location.hash.slice(1).split("&filter=");
    return { place: place.replace(/^filter=/, ""), words: location.hash.startsWith("#filter=")
      ? decode(place.slice("filter=".length)) : decode(words) };
  };
  const decode = (text) => {
    try { return decodeURIComponent(text.replace(/\+/g, " ")); } catch { return ""; }
  };
  const apply = (text) => {
    const words = text.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0, all = 0;
    for (const table of document.querySelectorAll("table.sortable")) {
      let title = null;
      for (const body of table.tBodies) {
        if (body.classList.contains("title")) { title = body; continue; }
        let some = false;
        for (const row of body.rows) {
          const within = `${title ? title.textContent : ""} ${row.textContent}`.toLowerCase();
          row.hidden = !words.every((word) => within.includes(word));
          some = some || !row.hidden;
          all += 1;
          shown += !row.hidden;
        }
        if (title) title.hidden = !some;
      }
    }
    told.textContent = words.length ? `${shown} of ${all} rows` : "";
  };
  const address = (place, text) => {
    const words = encodeURIComponent(text.trim()).replace(/%20/g, "+");
    return `#${place}${words ? `${place ? "&" : ""}filter=${words}` : ""}`;
  };
  const follow = () => {
    const { place, words } = read();
    if (location.hash.includes("filter=")) {
      box.value = words;
      apply(words);
      const target = document.getElementById(place);
      if (target) target.scrollIntoView();
    } else if (box.value.trim()) {
      // A link to a section says nothing of the filter, which stays.
      history.replaceState(null, "", address(place, box.value));
    }
  };
  box.addEventListener("input", () => {
    const { place } = read();
    const known = document.getElementById(place) ? place : "";
    history.replaceState(null, "", address(known, box.value) || "#");
    apply(box.value);
  });
  addEventListener("hashchange", follow);
  // A number is sorted by itself, without its interval.
  for (const cell of document.querySelectorAll("td.n"))
    cell.dataset.sort = cell.textContent.replace(/,/g, "").replace("\u2212", "-").split(" ")[0];
  for (const head of document.querySelectorAll("table.sortable thead th")) {
    head.tabIndex = 0;
    head.title = "sort by this column";
    head.addEventListener("keydown", (event) => {
      if (event.key === "Enter" || event.key === " ") { event.preventDefault(); head.click(); }
    });
  }
  for (const svg of document.querySelectorAll("figure svg")) {
    const of = (kind, series) => svg.querySelectorAll(`.${kind}[data-series="${series}"]`);
    const names = new Set(Array.from(svg.querySelectorAll(".series"), (part) => part.dataset.series));
    for (const series of names) {
      const entry = of("entry", series);
      const text = Array.from(entry).find((part) => part.querySelector("text"));
      if (!text) continue;
      // What can be used is no picture to a screen reader.
      svg.setAttribute("role", "group");
      text.setAttribute("role", "button");
      text.setAttribute("tabindex", "0");
      text.setAttribute("aria-pressed", "true");
      const toggle = () => {
        const shown = text.getAttribute("aria-pressed") !== "true";
        text.setAttribute("aria-pressed", String(shown));
        for (const part of [...entry, ...of("series", series)]) part.classList.toggle("off", !shown);
      };
      for (const part of entry) part.addEventListener("click", toggle);
      text.addEventListener("keydown", (event) => {
        if (event.key === "Enter" || event.key === " ") { event.preventDefault(); toggle(); }
      });
    }
  }

  // At once and at a touch, where a browser's own would be late or not there; with values.
  const tip = document.getElementById("tip"), whose = new WeakMap();
  for (const title of document.querySelectorAll("figure svg title")) {
    whose.set(title.parentNode, title.textContent);
    title.remove();
  }
  const named = (mark) => {
    const group = mark.closest?.(".named");
    if (!group || mark === group) return "";
    const place = Array.from(group.querySelectorAll("use")).indexOf(mark);
    const values = group.dataset.at.split("|").slice(2 * place, 2 * place + 2);
    if (!values.some(Boolean)) return "";
    const panel = group.closest(".panel").dataset;
    const said = values.map((value, n) => [[panel.x, panel.y][n], value].filter(Boolean).join(" = "));
    return [whose.get(group), ...said].filter(Boolean).join("\n");
  };
  document.addEventListener("pointerover", (event) => {
    const text = named(event.target);
    tip.hidden = !text;
    if (!text) return;
    tip.textContent = text;
    const mark = event.target.getBoundingClientRect(), box = tip.getBoundingClientRect();
    const left = Math.min(mark.right + 8, document.documentElement.clientWidth - box.width - 4);
    const above = mark.top - box.height - 8;
    tip.style.left = `${Math.max(4, left)}px`;
    tip.style.top = `${above > 0 ? above : mark.bottom + 8}px`;
  });

  // A figure as a file: with its rules, which the page holds for all, and pictures as PNG.
  const looks = document.getElementById("looks").textContent.split("\n");
  const asFile = async (svg) => {
    const copy = svg.cloneNode(true), box = svg.viewBox.baseVal;
    copy.setAttribute("xmlns", "http://www.w3.org/2000/svg");
    copy.setAttribute("width", `${box.width}pt`);
    copy.setAttribute("height", `${box.height}pt`);
    const style = document.createElementNS("http://www.w3.org/2000/svg", "style");
    const used = new Set(Array.from(copy.querySelectorAll("[class]"), (part) => [...part.classList]).flat());
    style.textContent = looks.filter((rule) => used.has(rule.slice(1, rule.indexOf("{")))).join("")
      + ".off{visibility:hidden}";
    copy.prepend(style);
    for (const image of copy.querySelectorAll("image")) {
      const drawn = new Image(), canvas = document.createElement("canvas");
      drawn.src = image.getAttribute("href");
      await drawn.decode();
      [canvas.width, canvas.height] = [drawn.naturalWidth, drawn.naturalHeight];
      canvas.getContext("2d").drawImage(drawn, 0, 0);
      image.setAttribute("href", canvas.toDataURL("image/png"));
    }
    return new Blob([new XMLSerializer().serializeToString(copy)], { type: "image/svg+xml" });
  };
  for (const figure of document.querySelectorAll("figure[id]")) {
    const link = document.createElement("button");
    link.type = "button";
    link.textContent = "SVG";
    link.title = "save this figure";
    link.addEventListener("click", async () => {
      const file = document.createElement("a");
      file.href = URL.createObjectURL(await asFile(figure.querySelector("svg")));
      file.download = `${figure.id.replace("figure-", "")}.svg`;
      file.click();
      URL.revokeObjectURL(file.href);
    });
    figure.querySelector(".files").append(link);
  }

  document.getElementById("tools").hidden = false;
  follow();
})();
