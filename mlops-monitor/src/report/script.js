(() => {
  "use strict";
  document.documentElement.classList.add("js");
  const tip = document.querySelector(".tip");
  const write = ([kind, digits], v) => {
    if (v === null || v === undefined) return "–";
    if (kind === "percent") return (v * 100).toFixed(digits) + "%";
    if (kind === "fixed") return v.toFixed(digits);
    const size = Math.abs(v);
    if (size >= 1e9 || (size > 0 && size < 1e-4)) return v.toExponential(2);
    return String(+v.toFixed(size >= 1000 ? 0 : size >= 10 ? 1 : size >= 1 ? 2 : 4));
  };
  const when = (t) => {
    const text = new Date(t).toISOString().replace("T", " ");
    return text.slice(11, 16) === "00:00" ? text.slice(0, 10) : text.slice(0, 16) + " UTC";
  };
  const nearest = (sorted, t) => {
    let low = 0, high = sorted.length - 1;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (sorted[middle] < t) low = middle + 1; else high = middle;
    }
    return low > 0 && t - sorted[low - 1] < sorted[low] - t ? low - 1 : low;
  };
  const show = (title, rows, x, y) => {
    tip.replaceChildren();
    const head = document.createElement("b");
    head.textContent = title;
    tip.append(head);
    for (const [name, value, small] of rows) {
      const row = document.createElement("div"), left = document.createElement("span"), right = document.createElement("span");
      left.textContent = name;
      right.textContent = value;
      if (small) {
        const note = document.createElement("small");
        note.textContent = " " + small;
        right.append(note);
      }
      row.append(left, right);
      tip.append(row);
    }
    tip.hidden = false;
    const box = tip.getBoundingClientRect();
    const left = x + 14 + box.width > innerWidth ? x - 14 - box.width : x + 14;
    tip.style.transform = `translate(${Math.max(4, left)}px, ${Math.max(4, Math.min(y + 14, innerHeight - box.height - 4))}px)`;
  };
  for (const figure of document.querySelectorAll("figure[data-chart]")) {
    const plot = figure.querySelector(".plot"), source = figure.querySelector("script");
    if (!plot || !source) continue;
    const data = JSON.parse(source.textContent), off = new Set();
    const cross = document.createElement("div");
    cross.className = "cross";
    cross.hidden = true;
    let cursor = null;
    const hide = () => { tip.hidden = true; cross.hidden = true; };
    if (data.rows) {
      const cell = (column, row, x, y) => {
        const [name, values] = data.rows[row];
        show(when(data.t[column]), [[name, write(data.f, values[column])]], x, y);
      };
      plot.addEventListener("pointermove", (e) => {
        const box = plot.getBoundingClientRect();
        const column = Math.min(data.t.length - 1, Math.max(0, Math.floor((e.clientX - box.left) / box.width * data.t.length)));
        const row = Math.min(data.rows.length - 1, Math.max(0, Math.floor((e.clientY - box.top) / box.height * data.rows.length)));
        cell(column, row, e.clientX, e.clientY);
      });
      plot.addEventListener("keydown", (e) => {
        const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[e.key];
        if (e.key === "Escape") hide();
        if (!step) return;
        e.preventDefault();
        cursor = cursor || [0, 0];
        cursor = [Math.min(data.t.length - 1, Math.max(0, cursor[0] + step[0])), Math.min(data.rows.length - 1, Math.max(0, cursor[1] + step[1]))];
        const box = plot.getBoundingClientRect();
        cell(cursor[0], cursor[1], box.left + (cursor[0] + .5) / data.t.length * box.width, box.top + (cursor[1] + .5) / data.rows.length * box.height);
      });
    } else {
      plot.append(cross);
      const times = [...new Set(data.s.flatMap((s) => s.t))].sort((a, b) => a - b);
      const [from, until] = data.x;
      const at = (t, y) => {
        if (!times.length) return;
        const held = data.hold ? Math.max(0, times.findLastIndex((s) => s <= t)) : nearest(times, t);
        const shown = times[held], rows = [];
        data.s.forEach((s, i) => {
          if (off.has(i) || !s.t.length) return;
          const k = nearest(s.t, shown);
          if (Math.abs(s.t[k] - shown) > (until - from) / 100) return;
          const band = s.b && s.b[k] ? `${write(data.f, s.b[k][0])} to ${write(data.f, s.b[k][1])}` : "";
          rows.push([s.n, write(data.f, s.v[k]), band]);
        });
        for (const [mt, label, kind] of data.m || []) {
          if (Math.abs(mt - shown) <= (until - from) / 200) rows.push([kind, label]);
        }
        const box = plot.getBoundingClientRect(), share = (shown - from) / (until - from || 1);
        cross.style.left = share * 100 + "%";
        cross.hidden = false;
        cursor = shown;
        show(when(shown), rows, box.left + share * box.width, y ?? box.top + 20);
      };
      plot.addEventListener("pointermove", (e) => {
        const box = plot.getBoundingClientRect();
        at(from + (e.clientX - box.left) / box.width * (until - from), e.clientY);
      });
      plot.addEventListener("keydown", (e) => {
        if (e.key === "Escape") hide();
        if (e.key !== "ArrowLeft" && e.key !== "ArrowRight") return;
        e.preventDefault();
        const now = cursor === null ? -1 : times.indexOf(cursor);
        at(times[Math.min(times.length - 1, Math.max(0, now + (e.key === "ArrowRight" ? 1 : -1)))]);
      });
      figure.querySelectorAll(".legend button").forEach((button, i) => {
        button.disabled = false;
        button.addEventListener("click", () => {
          const on = !off.delete(i);
          if (on) off.add(i);
          button.setAttribute("aria-pressed", String(!on));
          figure.querySelector(`[data-series="${i}"]`).classList.toggle("off", on);
        });
      });
    }
    plot.addEventListener("pointerleave", hide);
    plot.addEventListener("blur", hide);
  }
})();
