// Values over a plane as surfaces in space, drawn on a canvas from behind to the front when they come into view.
(() => {
  "use strict";
  const { all, data, grid, share, shown, STEPS } = window.lowcurve;
  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const rgb = (color) => [1, 3, 5].map((i) => parseInt(color.slice(i, i + 2), 16));
  const START = [-0.62, 0.5];

  // The color of a value, made darker where the surface is steep, so that its shape shows.
  const painter = (given) => {
    const colors = given.ramp.map(rgb);
    const [low, high] = given.span;
    return (value, light) => {
      const at = Math.min(1, Math.max(0, (value - low) / (high - low))) * (colors.length - 1);
      const first = Math.min(Math.floor(at), colors.length - 2);
      const mix = colors[first].map((c, k) => Math.round((c + (at - first) * (colors[first + 1][k] - c)) * light));
      return `rgb(${mix})`;
    };
  };
  const viewer = ([turn, tilt], size) => {
    const [s, c, st, ct] = [Math.sin(turn), Math.cos(turn), Math.sin(tilt), Math.cos(tilt)];
    return (x, y, z) => {
      const [a, b] = [x * c - y * s, x * s + y * c];
      return [size.w / 2 + a * size.k, size.h / 2 + (b * st - z * ct) * size.k * 0.94, b * ct + z * st];
    };
  };

  const draw = (canvas, given, panel, angles, isShown) => {
    const scale = Math.min(2, devicePixelRatio || 1);
    const [w, h] = [canvas.clientWidth, canvas.clientHeight];
    if (!w) return;
    if (canvas.width !== Math.round(w * scale)) [canvas.width, canvas.height] = [w * scale, h * scale].map(Math.round);
    const pen = canvas.getContext("2d");
    pen.setTransform(scale, 0, 0, scale, 0, 0);
    pen.clearRect(0, 0, w, h);
    const see = viewer(angles, { w, h, k: Math.min(w, h) * 0.4 });
    const [rows, columns] = panel.shape;
    const steps = grid(panel);
    const [low, high] = given.heights;
    const height = (step) => (step / STEPS) * 1.5 - 0.75;
    const color = painter(given);
    const base = [[-1, -1], [1, -1], [1, 1], [-1, 1]].map(([x, y]) => see(x, y, -0.75));
    pen.strokeStyle = css("--rule");
    pen.lineWidth = 1;
    pen.beginPath();
    base.forEach(([x, y], i) => (i ? pen.lineTo(x, y) : pen.moveTo(x, y)));
    pen.closePath();
    pen.stroke();
    const corner = (i, j) => {
      const step = steps[i * columns + j];
      return step > STEPS ? null : [(2 * j) / (columns - 1) - 1, (2 * i) / (rows - 1) - 1, height(step), step];
    };
    const pieces = [];
    for (let i = 0; i + 1 < rows; i += 1) {
      for (let j = 0; j + 1 < columns; j += 1) {
        const corners = [corner(i, j), corner(i, j + 1), corner(i + 1, j + 1), corner(i + 1, j)];
        if (corners.includes(null)) continue;
        const there = corners.map(([x, y, z]) => see(x, y, z));
        const middle = corners.reduce((sum, [, , , step]) => sum + step, 0) / 4;
        const along = (corners[1][2] - corners[0][2]) * (columns - 1) * 0.5;
        const up = (corners[3][2] - corners[0][2]) * (rows - 1) * 0.5;
        const light = 0.62 + 0.38 / Math.hypot(1, 0.6 * along, 0.6 * up);
        const fill = color(low + (middle / STEPS) * (high - low), light);
        pieces.push([there.reduce((sum, [, , near]) => sum + near, 0), () => {
          pen.fillStyle = fill;
          pen.strokeStyle = fill;
          pen.beginPath();
          there.forEach(([x, y], k) => (k ? pen.lineTo(x, y) : pen.moveTo(x, y)));
          pen.closePath();
          pen.fill();
          pen.stroke();
        }]);
      }
    }
    const place = ([x, y, z]) => see(2 * share(given.axes[0], x) - 1, 2 * share(given.axes[1], y) - 1,
      ((z - low) / (high - low)) * 1.5 - 0.73);
    pieces.sort(([a], [b]) => a - b).forEach(([, paint]) => paint());
    panel.lines.filter(([number]) => isShown(number)).forEach(([, stroke, corners]) => {
      for (const [style, wide] of [["rgba(255,255,255,.75)", 4], [stroke, 2]]) {
        pen.strokeStyle = style;
        pen.lineWidth = wide;
        pen.beginPath();
        let down = false;
        corners.forEach((at) => {
          if (!at) { down = false; return; }
          const [x, y] = place(at);
          if (down) pen.lineTo(x, y); else pen.moveTo(x, y);
          down = true;
        });
        pen.stroke();
      }
    });
    pen.lineWidth = 1.5;
    panel.marks.filter(([number]) => isShown(number)).forEach(([, [at]]) => {
      if (!at) return;
      const [x, y] = place(at);
      pen.fillStyle = "#fff";
      pen.strokeStyle = "#111";
      pen.beginPath();
      pen.arc(x, y, 4, 0, 7);
      pen.fill();
      pen.stroke();
    });
    pen.fillStyle = css("--muted");
    pen.font = "11px system-ui, sans-serif";
    pen.textAlign = "center";
    // At the two edges in front.
    const [across, along] = [Math.sin(angles[0]), Math.cos(angles[0])].map((side) => (side < 0 ? -1.25 : 1.25));
    const edges = [[[0, along], given.labels[0], given.axes[0]], [[across, 0], given.labels[1], given.axes[1]]];
    edges.forEach(([[x, y], label, [from, to]]) => {
      const [a, b] = see(x, y, -0.75);
      pen.fillText(label.split(/[,(]/)[0].trim().slice(0, 28), Math.min(w - 60, Math.max(60, a)), b);
      pen.fillText(`${Number(from.toPrecision(3))} to ${Number(to.toPrecision(3))}`, Math.min(w - 60, Math.max(60, a)), b + 13);
    });
  };

  const turned = new Map();
  const refresh = (section) => {
    const state = turned.get(section);
    if (!state) return;
    state.canvases.forEach((canvas, i) => {
      if (canvas.near) draw(canvas, data(section), data(section).panels[i], state.angles, (line) => shown(section, line));
    });
  };
  const near = new IntersectionObserver((entries) => entries.forEach(({ isIntersecting, target }) => {
    target.near = isIntersecting;
    if (isIntersecting) refresh(target.closest("section"));
  }), { rootMargin: "200px" });
  // Turning one panel turns all of them.
  const turn = (section, across, up) => {
    const state = turned.get(section);
    state.angles = [state.angles[0] + across, Math.min(1.5, Math.max(0.05, state.angles[1] + up))];
    if (state.waiting) return;
    state.waiting = true;
    requestAnimationFrame(() => { state.waiting = false; refresh(section); });
  };
  const canvasOf = (section, drawing) => {
    const canvas = document.createElement("canvas");
    canvas.className = "space";
    canvas.tabIndex = 0;
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", `${drawing.querySelector("svg").getAttribute("aria-label")}; drag or use the arrow keys to turn`);
    canvas.addEventListener("pointermove", (event) => {
      if (event.buttons) turn(section, event.movementX / 120, event.movementY / 160);
    });
    canvas.addEventListener("pointerdown", (event) => canvas.setPointerCapture(event.pointerId));
    canvas.addEventListener("keydown", (event) => {
      const by = { ArrowLeft: [-0.15, 0], ArrowRight: [0.15, 0], ArrowUp: [0, 0.1], ArrowDown: [0, -0.1] }[event.key];
      if (!by) return;
      event.preventDefault();
      turn(section, ...by);
    });
    drawing.append(canvas);
    near.observe(canvas);
    return canvas;
  };
  all("button.turn").forEach((button) => button.addEventListener("click", () => {
    const section = button.closest("section");
    const space = button.getAttribute("aria-pressed") !== "true";
    button.setAttribute("aria-pressed", String(space));
    button.textContent = space ? "Show as flat maps" : "Show as surfaces to turn";
    all(".drawing > svg", section).forEach((svg) => { svg.style.display = space ? "none" : ""; });
    turned.get(section)?.canvases.forEach((canvas) => { near.unobserve(canvas); canvas.remove(); });
    turned.delete(section);
    if (space) turned.set(section, { angles: START, canvases: all(".drawing", section).map((one) => canvasOf(section, one)) });
  }));
  const again = () => turned.forEach((_, section) => refresh(section));
  all("section").forEach((section) => section.addEventListener("legend", () => refresh(section)));
  addEventListener("resize", again);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", again);
})();
